/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The outbox: takes records as bytes, keeps them until Redis has them, sends
 * them exactly once.  It never knows what is in a record.
 *
 * Invariants
 *   - appending never blocks, never fails a request and makes no system call
 *     (the spool is a memory-mapped ring);
 *   - a record that reserve() refused is counted in dropped{reason} and
 *     mentioned in the log at most once a second;
 *   - delivery happens after the current event handlers, in batches.
 */

#ifndef NGX_LUNARY_OUTBOX_H
#define NGX_LUNARY_OUTBOX_H

#include <ngx_config.h>
#include <ngx_core.h>

#include "client/ngx_lunary_redis.h"


/* lunary_stream and lunary_spool, as configured */

typedef struct {
    ngx_lunary_redis_conf_t   *redis;
    ngx_str_t                  stream;         /* "lunary:runs"              */
    ngx_uint_t                 maxlen;         /* entries; 0: no limit       */
    size_t                     maxbytes;       /* 0: no limit                */
    ngx_uint_t                 shards;         /* 1..                        */
    ngx_msec_t                 flush;          /* how long a run waits ...  */
    ngx_msec_t                 flush_busy;     /* ... where others come, too */
    ngx_str_t                  path;           /* spool directory, "" : off  */
    ngx_flag_t                 path_set;       /* it was configured          */
    size_t                     size;           /* of one worker's spool      */
    ngx_uint_t                 sync;           /* NGX_LUNARY_SYNC_*          */
} ngx_lunary_outbox_conf_t;

/* `path` empty: a ring of `size` bytes of memory, lost with its worker */

#define NGX_LUNARY_SYNC_OFF     0
#define NGX_LUNARY_SYNC_1S      1
#define NGX_LUNARY_SYNC_ALWAYS  2


/* `lunary_stream ...`, `lunary_spool ...` (cf->args): NGX_CONF_OK or
 * NGX_CONF_ERROR after logging */
char *ngx_lunary_outbox_parse_stream(ngx_conf_t *cf,
    ngx_lunary_outbox_conf_t *conf);
char *ngx_lunary_outbox_parse_spool(ngx_conf_t *cf,
    ngx_lunary_outbox_conf_t *conf);

/* defaults, and at the end of configuration: the spool's directory */
void ngx_lunary_outbox_conf_init(ngx_lunary_outbox_conf_t *conf);
char *ngx_lunary_outbox_conf_done(ngx_conf_t *cf,
    ngx_lunary_outbox_conf_t *conf);

/* a worker's start and end; init only in processes that serve requests */
ngx_int_t ngx_lunary_outbox_init(ngx_cycle_t *cycle,
    ngx_lunary_outbox_conf_t *conf);
void ngx_lunary_outbox_exit(ngx_cycle_t *cycle);


/* what a record is, for counting: runs and SDK events count apart */
#define NGX_LUNARY_RECORD_RUN    0
#define NGX_LUNARY_RECORD_EVENT  1

/*
 * Room for one record: `fields` field-value pairs in at most `size` bytes of
 * RESP bulk strings; hash is the CRC-32 that chooses the shard, anything where
 * the outbox is not sharded; counter (a ngx_lunary_counter_e: a run's outcome,
 * or EVENTS) grows by one with the record.  Returns where to write them, or
 * NULL: no room (counted, logged).  commit() must follow before anything else
 * runs; it makes what was written, up to `last`, part of the outbox.
 */
u_char *ngx_lunary_outbox_reserve(ngx_uint_t kind, ngx_uint_t counter,
    ngx_uint_t fields, size_t size, uint32_t hash);
void ngx_lunary_outbox_commit(u_char *last);

/* a record that could not be made, for want of memory: counted, dropped */
void ngx_lunary_outbox_lost(ngx_uint_t kind, ngx_uint_t counter);

/* 1 where the hash matters */
ngx_uint_t ngx_lunary_outbox_sharded(void);

/* the largest `size` that reserve() ever takes; 0 where there is no outbox */
size_t ngx_lunary_outbox_largest(void);


/*
 * For who must answer only when a record cannot be lost any more (ingest):
 * NGX_OK where everything committed so far is as safe as `sync=` promises,
 * NGX_AGAIN where it will be: handler(data) is called then, from the event
 * loop, once; w must live until that or until it is forgotten.
 */
typedef struct {
    ngx_queue_t                queue;
    uint64_t                   seq;
    void                     (*handler)(void *data);
    void                      *data;
} ngx_lunary_outbox_waiter_t;

ngx_int_t ngx_lunary_outbox_durable(ngx_lunary_outbox_waiter_t *w);
void ngx_lunary_outbox_forget(ngx_lunary_outbox_waiter_t *w);


#endif /* NGX_LUNARY_OUTBOX_H */
