/* Names of librdkafka's errors. */
#include <ctype.h>
#include <librdkafka/rdkafka.h>
#include <string.h>

#include "transport/kafka.h"

/* Words that the contract's names spell out, and whole names that it calls otherwise. */
static const char *const words[][2] = {
	{"MSG", "Message"},
	{"PART", "Partition"},
	{"AUTH", "Authorization"},
	{"TXN", "Transactional"},
	{"ISR", "ISR"},
	{"SASL", "SASL"},
};
static const char *const names[][2] = {
	{"_TRANSPORT", "BrokerTransportFailure"},
	{"_MSG_TIMED_OUT", "MessageTimedOut"},
	{"_TIMED_OUT", "OperationTimedOut"},
	{"_RESOLVE", "Resolve"},
	{"_SSL", "SSL"},
	{"_AUTHENTICATION", "Authentication"},
	{"NOT_ENOUGH_REPLICAS", "NotEnoughReplicas"},
	{"CLUSTER_AUTHORIZATION_FAILED", "ClusterAuthorizationFailed"},
	{"TOPIC_EXCEPTION", "InvalidTopic"},
	{"RECORD_LIST_TOO_LARGE", "MessageBatchTooLarge"},
};

void
tr_kafka_error_name(int err, char out[64])
{
	const char *name = rd_kafka_err2name((rd_kafka_resp_err_t)err);
	size_t len = 0;

	for (size_t i = 0; i < TR_COUNT(names); i++) {
		if (strcmp(name, names[i][0]) == 0) {
			snprintf(out, 64, "%s", names[i][1]);
			return;
		}
	}
	while (*name != '\0' && len < 63) {
		char word[32];
		size_t n = 0;
		const char *spelt = NULL;

		while (*name == '_')
			name++;
		for (; *name != '\0' && *name != '_'; name++) {
			if (n < sizeof word - 1)
				word[n++] = *name;
		}
		word[n] = '\0';
		for (size_t i = 0; i < TR_COUNT(words) && spelt == NULL; i++) {
			if (strcmp(word, words[i][0]) == 0)
				spelt = words[i][1];
		}
		if (spelt == NULL) {
			for (size_t i = 1; i < n; i++)
				word[i] = (char)tolower((unsigned char)word[i]);
			spelt = word;
		}
		len += (size_t)snprintf(out + len, 64 - len, "%s", spelt);
	}
	out[len < 63 ? len : 63] = '\0';
}

const char *
tr_kafka_error_text(int err)
{
	return rd_kafka_err2str((rd_kafka_resp_err_t)err);
}

bool
tr_kafka_error_is_permanent(int err)
{
	switch ((rd_kafka_resp_err_t)err) {
	case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
	case RD_KAFKA_RESP_ERR_INVALID_MSG:
	case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
	case RD_KAFKA_RESP_ERR_INVALID_RECORD:
	case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
	case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
	case RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT:
	case RD_KAFKA_RESP_ERR__BAD_MSG:
	case RD_KAFKA_RESP_ERR__INVALID_ARG:
		return true;
	default:
		return false;
	}
}
