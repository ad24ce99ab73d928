#!/bin/sh
# A real Kafka broker for specs and for trying things, of Apache's own jars from Maven Central.
#   sh spec/kafka_broker.sh fetch [JARS]            fetches them (46 MB) unless they are there
#   sh spec/kafka_broker.sh run DIR PORT CONTROL    one broker on 127.0.0.1:PORT, with its data and log in DIR, in the
#                                                   foreground; CONTROL is a second port that it needs. More of its
#                                                   configuration: DIR/more.properties
# JARS is build/kafka unless KAFKA_JARS says otherwise. Needs Java 11 or newer, and Maven for fetch: on Debian
# `apt-get install default-jre-headless maven`. Exit status 75: it cannot be had here, and why.
set -eu
VERSION=3.9.1
cd "$(dirname "$0")/.."
jars=${KAFKA_JARS:-build/kafka}

unavailable() { echo "no Kafka broker: $*" >&2; exit 75; }

fetch() {
	[ ! -e "$jars/complete-$VERSION" ] || return 0
	command -v java >/dev/null || unavailable 'java is not installed'
	command -v mvn >/dev/null || unavailable 'mvn is not installed'
	mkdir -p "$(dirname "$jars")"
	exec 9>"$jars.lock" # two specs at once
	flock 9
	[ ! -e "$jars/complete-$VERSION" ] || return 0
	rm -rf "$jars.part"
	mkdir -p "$jars.part"
	cat >"$jars.part/pom.xml" <<-POM
	<project xmlns="http://maven.apache.org/POM/4.0.0">
	  <modelVersion>4.0.0</modelVersion>
	  <groupId>spec</groupId><artifactId>kafka-broker</artifactId><version>1</version><packaging>pom</packaging>
	  <dependencies>
	    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$VERSION</version></dependency>
	    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
	  </dependencies>
	</project>
	POM
	part=$(cd "$jars.part" && pwd)
	mvn -q -B -Dstyle.color=never -f "$part/pom.xml" dependency:copy-dependencies -DoutputDirectory="$part" \
		>"$part/log" 2>&1 || unavailable "Maven could not fetch it: $(grep -m 1 ERROR "$part/log")"
	touch "$part/complete-$VERSION"
	rm -rf "$jars"
	mv "$part" "$jars"
}

run() {
	dir=$1 port=$2 control=$3
	fetch
	mkdir -p "$dir"
	cat >"$dir/server.properties" <<-CONF
	process.roles=broker,controller
	node.id=1
	controller.quorum.voters=1@127.0.0.1:$control
	listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$control
	advertised.listeners=PLAINTEXT://127.0.0.1:$port
	controller.listener.names=CONTROLLER
	log.dirs=$dir/data
	num.partitions=3
	offsets.topic.replication.factor=1
	transaction.state.log.replication.factor=1
	transaction.state.log.min.isr=1
	num.network.threads=1
	num.io.threads=2
	log.cleaner.enable=false
	initial.broker.registration.timeout.ms=20000
	broker.session.timeout.ms=1000
	broker.heartbeat.interval.ms=200
	CONF
	[ ! -e "$dir/more.properties" ] || cat "$dir/more.properties" >>"$dir/server.properties"
	# What its StorageTool writes, without another start of a JVM.
	for data in $(sed -n 's/^log\.dirs=//p' "$dir/server.properties" | tail -n 1 | tr , ' '); do
		mkdir -p "$data"
		[ -e "$data/meta.properties" ] ||
			printf 'version=1\ncluster.id=MkU3OEVBNTcwNTJENDM2Qg\nnode.id=1\n' >"$data/meta.properties"
	done
	exec java -Xms64m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto \
		-Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$jars/*" kafka.Kafka "$dir/server.properties"
}

case ${1:-} in
fetch) jars=${2:-$jars}; fetch ;;
run) shift; run "$@" ;;
*) sed -n '2,9s/^# *//p' "$0" >&2; exit 64 ;;
esac
