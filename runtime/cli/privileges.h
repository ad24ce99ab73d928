#ifndef TR_PRIVILEGES_H
#define TR_PRIVILEGES_H

/* Becomes `user` for good, keeping only the right to bind low ports (CAP_NET_BIND_SERVICE). As another user than root:
 * fine if it is that user already. Before any thread is started. TR_OK, or an error with *error (malloc'ed). */
int tr_drop_privileges(const char *user, char **error);

#endif
