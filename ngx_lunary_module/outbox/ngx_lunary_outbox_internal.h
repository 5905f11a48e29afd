/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the files of outbox/ share.
 *
 *     ngx_lunary_outbox.c          a worker's outbox: start, append, end
 *     ngx_lunary_outbox_send.c     flights: which one starts, what is sent
 *     ngx_lunary_outbox_flight.c   what one carries: batches of records
 *     ngx_lunary_outbox_land.c     their end: what came of it, errors, pauses
 *     ngx_lunary_outbox_refuse.c   a record that Redis refuses, or all of them
 *     ngx_lunary_outbox_count.c    counters, and what is dropped
 *     ngx_lunary_outbox_source.c   a spool with its keys
 *     ngx_lunary_outbox_watermark.c  what Redis has: agreed, older, missing
 *     ngx_lunary_outbox_script.c   the script, its commands and replies
 *     ngx_lunary_outbox_multi.c    the same by MULTI, for busy workers
 *     ngx_lunary_outbox_glance.c   whether there is a spool to take over
 *     ngx_lunary_outbox_thread.c   the helper thread: sync, adoption
 *     ngx_lunary_outbox_known.c    files that are no use to it, and why
 *     ngx_lunary_outbox_conf.c     the directives
 *     lunary_spool*.c              the ring and its file, without nginx
 *
 * A source is a spool with its watermarks: the worker's own, or one it
 * adopted.  A flight is what is under way to Redis: at most one batch a shard
 * of one source, sent together; the next flight starts when every reply is
 * there.  Only the event loop touches sources and flights; the helper thread
 * is given jobs and gives results back.
 */

#ifndef NGX_LUNARY_OUTBOX_INTERNAL_H
#define NGX_LUNARY_OUTBOX_INTERNAL_H

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <pthread.h>

#include "ngx_lunary_outbox.h"
#include "lunary_spool.h"


#define NGX_LUNARY_OUTBOX_MAX_COUNT    64         /* records a flight        */
#define NGX_LUNARY_OUTBOX_TRY          16         /* with a suspect          */
#define NGX_LUNARY_OUTBOX_MAX_BYTES    (512 * 1024)
#define NGX_LUNARY_OUTBOX_MULTI_BYTES  (4 * 1024 * 1024)
#define NGX_LUNARY_OUTBOX_ENOUGH       (256 * 1024) /* not to wait for more  */
#define NGX_LUNARY_OUTBOX_MAX_SHARDS   256
#define NGX_LUNARY_OUTBOX_MAX_ADOPTED  64
#define NGX_LUNARY_OUTBOX_KNOWN        256        /* files that are no use   */
#define NGX_LUNARY_OUTBOX_KNOWN_FOR    60         /* s                       */
#define NGX_LUNARY_OUTBOX_MAX_FIELDS   1024
#define NGX_LUNARY_OUTBOX_WATERMARK    64         /* bytes of its text       */
#define NGX_LUNARY_OUTBOX_RETRY_MIN    100        /* ms                      */
#define NGX_LUNARY_OUTBOX_RETRY_MAX    2000
#define NGX_LUNARY_OUTBOX_FATAL_DELAY  10000
#define NGX_LUNARY_OUTBOX_FULL_DELAY   250
#define NGX_LUNARY_OUTBOX_SCAN_EVERY   300        /* for spools of the dead  */
#define NGX_LUNARY_OUTBOX_TMP_AGE      60         /* s, of one half made     */


typedef struct {
    ngx_str_t                     stream;
    ngx_str_t                     key;            /* of the watermark        */
    u_char                        watermark[NGX_LUNARY_OUTBOX_WATERMARK];
    size_t                        watermark_len;  /* as Redis holds it       */
    uint64_t                      applied;        /* Redis has up to here    */
    uint64_t                      moved;          /* what it says            */
    uint64_t                      skipped;        /* set aside up to here    */
    unsigned                      known:1;        /* since the last connect  */
    unsigned                      opened:1;       /* the key exists          */
    unsigned                      mend:1;         /* it is not `applied`     */

    ngx_uint_t                    stale;          /* asked, and not added    */

    uint64_t                      suspect;        /* refused, or 0           */
    uint64_t                      took;           /* of the stream, by then  */
    uint64_t                      error_seq;      /* the last error was      */
    ngx_uint_t                    error_hash;     /*   behind it, and this   */
    unsigned                      alike:1;        /* not for the first time  */
    unsigned                      trying:1;       /* with those behind it    */
    unsigned                      passing:1;      /* only those behind it    */

    ngx_uint_t                    limit;          /* entries, by memory      */
    ngx_msec_t                    sampled;
    size_t                        since;          /* bytes since then        */
    int64_t                       length;         /* of the stream, or -1    */
    unsigned                      roomy:1;        /* there was room, or what
                                                     could be trimmed        */
} ngx_lunary_outbox_shard_t;


typedef enum {
    NGX_LUNARY_OUTBOX_LIVE = 0,
    NGX_LUNARY_OUTBOX_RETIRING,                   /* the thread marks it     */
    NGX_LUNARY_OUTBOX_RETIRED,                    /* its watermarks may go   */
    NGX_LUNARY_OUTBOX_CLOSING                     /* the thread removes it   */
} ngx_lunary_outbox_life_e;


typedef struct ngx_lunary_outbox_source_s  ngx_lunary_outbox_source_t;

struct ngx_lunary_outbox_source_s {
    ngx_queue_t                   queue;
    ngx_lunary_outbox_source_t   *next;           /* in lists of the thread  */
    lunary_spool_t                spool;
    ngx_lunary_outbox_shard_t    *shards;
    uint16_t                     *batch_of;       /* shard's batch, + 1      */
    uint64_t                      durable;        /* may be sent up to here  */
    ngx_lunary_outbox_life_e      life;
    ino_t                         ino;            /* adopted: of its file    */
    int                           error;          /* of the thread's job     */
    unsigned                      own:1;
    unsigned                      verify:1;       /* ask for its watermarks  */
    unsigned                      unwaited:1;     /* applied, WAIT is short  */
    unsigned                      trying:1;       /* one of its shards is    */
};


typedef enum {
    NGX_LUNARY_OUTBOX_OK = 0,
    NGX_LUNARY_OUTBOX_LOST,                       /* no reply                */
    NGX_LUNARY_OUTBOX_STALE,                      /* another watermark       */
    NGX_LUNARY_OUTBOX_FULL,                       /* no room in the stream   */
    NGX_LUNARY_OUTBOX_NOSCRIPT,
    NGX_LUNARY_OUTBOX_ERROR
} ngx_lunary_outbox_result_e;


/* what an error reply is about */

typedef enum {
    NGX_LUNARY_OUTBOX_BLAME_NOBODY = 0,           /* Redis, not what is sent */
    NGX_LUNARY_OUTBOX_BLAME_BATCH,                /* one of the batch, maybe */
    NGX_LUNARY_OUTBOX_BLAME_RECORD                /* the one behind its
                                                     watermark               */
} ngx_lunary_outbox_blame_e;


typedef struct {
    ngx_uint_t                    shard;
    ngx_uint_t                    count;
    ngx_uint_t                    args;           /* of its records          */
    size_t                        bytes;
    uint64_t                      first_seq;
    uint64_t                      last_seq;
    ngx_uint_t                    trim;           /* MULTI: to so many       */
    unsigned                      kind;           /* of the first record     */
    ngx_chain_t                  *out;
    ngx_chain_t                 **last;
    ngx_chain_t                  *tail;

    ngx_lunary_outbox_result_e    result;
    ngx_uint_t                    created;        /* open: there was none    */
    ngx_uint_t                    replaced;       /*   but something else    */
    u_char                        watermark[NGX_LUNARY_OUTBOX_WATERMARK];
    size_t                        watermark_len;
    u_char                        text[128];      /* error, or the group     */
    size_t                        text_len;
    ngx_lunary_redis_error_e      error;
    ngx_lunary_outbox_blame_e     blame;
    int64_t                       length;         /* of the stream, or -1    */
    int64_t                       memory;
} ngx_lunary_outbox_batch_t;


typedef enum {
    NGX_LUNARY_OUTBOX_IDLE = 0,
    NGX_LUNARY_OUTBOX_OPEN,
    NGX_LUNARY_OUTBOX_ADD,
    NGX_LUNARY_OUTBOX_DELETE
} ngx_lunary_outbox_op_e;


typedef struct {
    ngx_lunary_outbox_op_e        op;
    ngx_uint_t                    eval;           /* with the script's text  */
    ngx_uint_t                    multi;          /* without the script      */
    ngx_lunary_outbox_source_t   *source;
    ngx_uint_t                    pending;        /* replies to come         */
    ngx_uint_t                    nbatches;
    ngx_uint_t                    count;
    size_t                        bytes;
    ngx_uint_t                    waited;         /* WAIT was satisfied      */
    ngx_uint_t                    failed;         /* DELETE                  */

    ngx_uint_t                    nlinks;
    lunary_spool_pos_t            end;            /* behind its records      */
    u_char                       *prefix;         /* where commands begin    */
    u_char                       *prefix_last;    /* MULTI: what is used     */
    size_t                        prefix_size;

    ngx_lunary_outbox_batch_t     batches[NGX_LUNARY_OUTBOX_MAX_SHARDS];

    /* two a shard for commands, then two a record */
    ngx_chain_t                   links[2 * NGX_LUNARY_OUTBOX_MAX_SHARDS
                                        + 2 * NGX_LUNARY_OUTBOX_MAX_COUNT];
    ngx_buf_t                     bufs[2 * NGX_LUNARY_OUTBOX_MAX_SHARDS
                                       + 2 * NGX_LUNARY_OUTBOX_MAX_COUNT];
} ngx_lunary_outbox_flight_t;


/* a file that was looked at in vain and need not be read every time */

typedef struct {
    ino_t                         ino;            /* 0: none                 */
    time_t                        until;
} ngx_lunary_outbox_known_t;


typedef struct {
    pthread_t                     id;
    pthread_mutex_t               mutex;
    pthread_cond_t                cond;
    int                           dirfd;
    int                           event_fd;
    ngx_uint_t                    started;
    uint64_t                      asked;          /* of the event loop       */
    ngx_log_t                    *log;
    ngx_lunary_outbox_conf_t     *conf;
    char                          target[LUNARY_SPOOL_TARGET_MAX + 1];
    char                          own_name[LUNARY_SPOOL_NAME_LEN + 1];
    lunary_spool_t               *own;

    /* guarded by mutex */
    ngx_lunary_outbox_known_t     known[NGX_LUNARY_OUTBOX_KNOWN];
    ngx_uint_t                    stop;
    ngx_uint_t                    hold;           /* adopt no more           */
    ngx_uint_t                    nadopted;
    uint64_t                      want;           /* sync up to              */
    uint64_t                      synced;
    ngx_uint_t                    failed;         /* a sync did              */
    ngx_lunary_outbox_source_t   *jobs;           /* RETIRING or CLOSING     */
    ngx_lunary_outbox_source_t   *done;
    ngx_lunary_outbox_source_t   *adopted;
} ngx_lunary_outbox_thread_t;


typedef struct {
    ngx_cycle_t                  *cycle;
    ngx_lunary_outbox_conf_t     *conf;
    ngx_log_t                    *log;
    ngx_lunary_redis_t           *redis;
    ngx_queue_t                   sources;        /* own first               */
    ngx_lunary_outbox_source_t   *own;
    ngx_lunary_outbox_flight_t   *flight;
    ngx_lunary_outbox_thread_t   *thread;         /* NULL: no spool folder;
                                                     own may be in memory    */
    ngx_connection_t             *notify;         /* of the thread           */
    uint64_t                      generation;

    ngx_event_t                   flush;          /* end of the loop, or a
                                                     timer                   */
    ngx_event_t                   pause;          /* an error, a full stream */
    ngx_event_t                   tick;           /* gauges, once a second   */
    ngx_event_t                   glance;         /* until there is a thread */
    ngx_connection_t              dummy;

    ngx_uint_t                    max_count;      /* halved by errors        */
    ngx_uint_t                    errors;         /* in a row                */
    ngx_uint_t                    kept;           /* refused records, files  */
    ngx_uint_t                    error_hash;     /* of what was logged      */
    u_char                        refusal[128];   /* the last one's text     */
    size_t                        refusal_len;
    uint64_t                      took[NGX_LUNARY_OUTBOX_MAX_SHARDS + 1];
                                                  /* batches, by stream      */
    u_char                        held[128];      /* the group that holds up */
    size_t                        held_len;
    ngx_msec_t                    logged;
    ngx_uint_t                    dropped;        /* since it was logged     */
    time_t                        drop_logged;
    time_t                        large_logged;
    time_t                        policy_asked;

    u_char                       *reserved;
    ngx_uint_t                    reserved_counter;
    ngx_uint_t                    reserved_kind;
    ngx_uint_t                    reserved_fields;
    uint32_t                      reserved_hash;

    u_char                        watched[NGX_LUNARY_OUTBOX_WATERMARK];
    size_t                        watched_len;    /* the watermark in Redis  */
    ngx_msec_t                    multi_after;    /* not before              */
    ngx_uint_t                    multi_row;      /* failures                */

    ngx_queue_t                   waiters;        /* for durability          */
    uint64_t                      others[LUNARY_SPOOL_KINDS];
    size_t                        others_bytes;   /* of adopted spools       */

    unsigned                      use_eval:1;     /* the script is not there */
    unsigned                      in_multi:1;     /* the connection is       */
    unsigned                      armed:1;        /* for the next batch      */
    unsigned                      multi_off:1;    /* Redis does not let us   */
    unsigned                      multi_never:1;  /* nor would it out of it  */
    unsigned                      in_error:1;     /* it was logged           */
    unsigned                      lonely:1;       /* a refused record waits
                                                     for another one         */
    unsigned                      policy_warned:1;
    unsigned                      memory_warned:1;/* on this connection      */
    unsigned                      unsafe_logged:1;/* a sync failed           */
    unsigned                      room_logged:1;  /* on a disk that was full */
    unsigned                      wait_logged:1;  /* too few replicas        */
} ngx_lunary_outbox_t;


/* ngx_lunary_outbox.c */

void ngx_lunary_outbox_schedule(ngx_lunary_outbox_t *ob);
ngx_uint_t ngx_lunary_outbox_pending(ngx_lunary_outbox_t *ob);
/* NGX_ERROR, logged: it was not taken, and is the caller's still */
ngx_int_t ngx_lunary_outbox_adopted(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src);
void ngx_lunary_outbox_synced(ngx_lunary_outbox_t *ob, uint64_t seq,
    ngx_uint_t failed);

/* ngx_lunary_outbox_send.c */

void ngx_lunary_outbox_state(void *data, ngx_uint_t up);
void ngx_lunary_outbox_kick(ngx_lunary_outbox_t *ob);
void ngx_lunary_outbox_pause_handler(ngx_event_t *ev);
void ngx_lunary_outbox_replied(ngx_lunary_outbox_t *ob);

/* ngx_lunary_outbox_flight.c */

/* takes the next records into batches, and returns how many (or batches
 * without any, to move a watermark); with src->verify set nothing flies before
 * its watermarks are asked for */
ngx_uint_t ngx_lunary_outbox_collect(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src);

/* a new batch of the flight, empty; it is never full */
ngx_lunary_outbox_batch_t *ngx_lunary_outbox_batch(
    ngx_lunary_outbox_flight_t *f, ngx_uint_t shard);

/* adds bytes to what it sends; they are borrowed until the flight lands */
void ngx_lunary_outbox_append(ngx_lunary_outbox_flight_t *f,
    ngx_lunary_outbox_batch_t *b, u_char *p, size_t len);

/* there is nothing in it */
void ngx_lunary_outbox_empty(ngx_lunary_outbox_flight_t *f);

/* NGX_OK: f->prefix has room for size bytes of commands; NGX_ERROR: no
 * memory for it.  What was there is lost */
ngx_int_t ngx_lunary_outbox_prefix(ngx_lunary_outbox_t *ob, size_t size);

/* the stream's entries at most, 0: no limit */
ngx_uint_t ngx_lunary_outbox_limit(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_shard_t *shard);

/* 1 where the stream's memory has to be looked at */
ngx_uint_t ngx_lunary_outbox_sample_due(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_shard_t *shard);

/* ngx_lunary_outbox_land.c */

void ngx_lunary_outbox_land(ngx_lunary_outbox_t *ob);
void ngx_lunary_outbox_settle(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src);

/* ngx_lunary_outbox_refuse.c */

/* an error that may be about a record; returns how long to pause */
ngx_msec_t ngx_lunary_outbox_refused(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_lunary_outbox_batch_t *b);

/* the reply to a script in `try` mode: sets aside those it names, which one
 * behind them has shown to be at fault */
void ngx_lunary_outbox_refused_reply(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_batch_t *b, redisReply *reply);

/* `applied` has moved: what became of the record that was suspected */
void ngx_lunary_outbox_cleared(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_uint_t n);

/* records of this worker have gone into the stream of shard n just now */
void ngx_lunary_outbox_took(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_uint_t n);

/* there is one more record, which may tell what is at fault */
void ngx_lunary_outbox_company(ngx_lunary_outbox_t *ob);

/* ngx_lunary_outbox_count.c */

void ngx_lunary_outbox_gauges(ngx_lunary_outbox_t *ob);
void ngx_lunary_outbox_acked(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, uint64_t seq);
void ngx_lunary_outbox_others(ngx_lunary_outbox_t *ob);
void ngx_lunary_outbox_recovered(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src);
void ngx_lunary_outbox_drop(ngx_lunary_outbox_t *ob, ngx_uint_t kind,
    ngx_uint_t counter, lunary_spool_status_e why, size_t size);
void ngx_lunary_outbox_log_drops(ngx_lunary_outbox_t *ob);

/* ngx_lunary_outbox_source.c */

ngx_lunary_outbox_source_t *ngx_lunary_outbox_source(ngx_log_t *log);
ngx_int_t ngx_lunary_outbox_source_keys(ngx_log_t *log,
    ngx_lunary_outbox_conf_t *conf, ngx_lunary_outbox_source_t *src);
void ngx_lunary_outbox_free_source(ngx_lunary_outbox_source_t *src);
void ngx_lunary_outbox_target(ngx_lunary_outbox_conf_t *conf, char *dst);

/* ngx_lunary_outbox_watermark.c */

void ngx_lunary_outbox_watermark(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_lunary_outbox_batch_t *b);
void ngx_lunary_outbox_progress(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, ngx_lunary_outbox_batch_t *b);
void ngx_lunary_outbox_policy(ngx_lunary_outbox_t *ob);

/* ngx_lunary_outbox_script.c */

void ngx_lunary_outbox_script_init(void);
size_t ngx_lunary_outbox_script_size(ngx_lunary_outbox_shard_t *shard);
u_char *ngx_lunary_outbox_script_open(u_char *p, ngx_uint_t eval,
    ngx_lunary_outbox_shard_t *shard);
u_char *ngx_lunary_outbox_script_add(u_char *p, ngx_uint_t eval,
    ngx_lunary_outbox_shard_t *shard, ngx_lunary_outbox_batch_t *b,
    ngx_uint_t limit, size_t maxbytes);
u_char *ngx_lunary_outbox_script_trim(u_char *p,
    ngx_lunary_outbox_shard_t *shard, ngx_uint_t limit);
void ngx_lunary_outbox_script_reply(ngx_lunary_outbox_batch_t *b,
    redisReply *reply);
u_char *ngx_lunary_outbox_bulk(u_char *p, const void *data, size_t len);
u_char *ngx_lunary_outbox_bulk_decimal(u_char *p, uint64_t n);
u_char *ngx_lunary_outbox_decimal(u_char *p, uint64_t n);
size_t ngx_lunary_outbox_copy(u_char *dst, size_t size, redisReply *reply);

/* ngx_lunary_outbox_multi.c */

ngx_uint_t ngx_lunary_outbox_multi_ready(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src);
size_t ngx_lunary_outbox_multi_bytes(ngx_lunary_outbox_t *ob);
size_t ngx_lunary_outbox_multi_size(ngx_lunary_outbox_shard_t *shard);
u_char *ngx_lunary_outbox_multi_xadd(u_char *p,
    ngx_lunary_outbox_shard_t *shard, ngx_uint_t fields);
u_char *ngx_lunary_outbox_multi_add(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, u_char *p);
ngx_uint_t ngx_lunary_outbox_arms(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src);
size_t ngx_lunary_outbox_arm_size(ngx_lunary_outbox_shard_t *shard);
void ngx_lunary_outbox_arm(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src, u_char *p);
void ngx_lunary_outbox_armed(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src);
void ngx_lunary_outbox_disarm(ngx_lunary_outbox_t *ob);
void ngx_lunary_outbox_multi_stuck(ngx_lunary_outbox_t *ob);

/* ngx_lunary_outbox_conf.c */

extern uint64_t  ngx_lunary_outbox_generation;

/* ngx_lunary_outbox_glance.c */

/* starts the helper thread if there is something to take over, else sets the
 * timer for the next look */
void ngx_lunary_outbox_glance_handler(ngx_event_t *ev);

/* ngx_lunary_outbox_known.c */

/* 1: the file was looked at in vain, less than a minute ago */
ngx_uint_t ngx_lunary_outbox_known(ngx_lunary_outbox_thread_t *t, ino_t ino);

/* it is not looked at for a minute; 1 where that is news, to be logged */
ngx_uint_t ngx_lunary_outbox_remember(ngx_lunary_outbox_thread_t *t,
    ino_t ino);

/* tells the operator why a file is left alone */
void ngx_lunary_outbox_unusable(ngx_lunary_outbox_thread_t *t,
    lunary_spool_t *sp, const char *name, lunary_spool_status_e why);

/* ngx_lunary_outbox_thread.c */

/* what the event loop and the thread share; NGX_ERROR was logged */
ngx_int_t ngx_lunary_outbox_thread_init(ngx_lunary_outbox_t *ob);

/* NGX_ERROR: there is none, which was logged */
ngx_int_t ngx_lunary_outbox_thread_start(ngx_lunary_outbox_t *ob);
void ngx_lunary_outbox_thread_stop(ngx_lunary_outbox_t *ob);
void ngx_lunary_outbox_thread_sync(ngx_lunary_outbox_t *ob);
void ngx_lunary_outbox_thread_job(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src);


#endif /* NGX_LUNARY_OUTBOX_INTERNAL_H */
