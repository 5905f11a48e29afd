/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The connection to Redis: hiredis' blocking API (0.14 and 1.x), commands one
 * at a time or in a pipeline, scripts by their SHA-1.
 *
 * Invariants
 *   - an I/O or protocol error closes the connection: everything returns
 *     LW_REDIS (or NULL) until lw_redis_connect() succeeds again;
 *   - a pipeline's replies are read in order, all of them, before anything
 *     else is asked.
 */

#ifndef LW_REDIS_H
#define LW_REDIS_H

#include "lw.h"
#include "options.h"
#include "reply.h"


/* the arguments of one command; borrowed bytes */

typedef struct {
    lw_redis_t     *redis;
    int             n;
    int             cap;
    int             failed;
    const char    **argv;
    size_t         *lens;
} lw_args_t;


lw_redis_t *lw_redis_create(const lw_options_t *o);
void lw_redis_free(lw_redis_t *r);

/* connects, logs in, selects; LW_OK, or LW_REDIS and `why` in the log */
int lw_redis_connect(lw_redis_t *r);
int lw_redis_connected(const lw_redis_t *r);
void lw_redis_close(lw_redis_t *r);

/* the socket's timeout: options' plus this (a blocking read's) */
void lw_redis_patience(lw_redis_t *r, int64_t ms);


/* the args object of the connection, emptied; valid until the next call */
lw_args_t *lw_args(lw_redis_t *r);
void lw_arg(lw_args_t *a, const void *data, size_t len);
void lw_arg_int(lw_args_t *a, int64_t n);
#define lw_arg_lit(a, lit)  lw_arg(a, lit, sizeof(lit) - 1)
#define lw_arg_z(a, s)      lw_arg(a, s, strlen(s))
#define lw_arg_str(a, s)    lw_arg(a, (s).data, (s).len)

/*
 * lw_args_call: sends and waits; NULL where the connection broke.  An error
 * that Redis answered is a reply of type REDIS_REPLY_ERROR, and logged unless
 * it is NOGROUP, BUSYGROUP or NOSCRIPT.
 * lw_args_queue: only queues; then as many lw_redis_reply() as were queued.
 */
redisReply *lw_args_call(lw_args_t *a);
int lw_args_queue(lw_args_t *a);
redisReply *lw_redis_reply(lw_redis_t *r);

/* lw_args_call() of words */
redisReply *lw_redis_call(lw_redis_t *r, int n, ...);

/* lw_args_call() where only success matters: LW_OK or LW_REDIS */
int lw_args_done(lw_args_t *a);

/* the same of n commands that were queued: all are read, none is an error */
int lw_redis_drain(lw_redis_t *r, size_t n);

/*
 * A command whose reply is fetched later, while others are asked: Redis works
 * at it meanwhile.  One at a time, sent at once, with nothing queued before
 * it.  lw_redis_ahead() is its reply, as lw_redis_reply().
 */
int lw_args_ahead(lw_args_t *a);
int lw_redis_is_ahead(const lw_redis_t *r);
redisReply *lw_redis_ahead(lw_redis_t *r);


/*
 * A script: EVALSHA, and where Redis does not know it, EVAL once.  Begin
 * gives the arguments "EVALSHA sha numkeys"; keys and values are added, then
 * lw_script_call().
 */
typedef struct {
    const char     *text;
    char            sha[41];
} lw_script_t;

lw_args_t *lw_script(lw_redis_t *r, lw_script_t *s, int keys);
redisReply *lw_script_call(lw_args_t *a, lw_script_t *s);


#endif /* LW_REDIS_H */
