/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A worker's outbox: its start and end, appending, and when to send.
 *
 * A record is copied into the worker's own spool.  What sends is
 * ngx_lunary_outbox_send.c; this file decides when: `flush=` after the first
 * record that waits, or, where a batch's worth waits, at the end of this round
 * of the event loop.  So batches follow the load: one costs the worker some
 * 30 us, whatever it holds.
 *
 * Invariants
 *   - a record is in exactly one of: sent, spooled, dropped; the counters
 *     follow at the places marked so;
 *   - where no spool file can be made the ring lies in memory, and the log
 *     says so: requests are served in any case.  Those of finished workers
 *     are taken over all the same: they may be what fills the disk.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <sys/random.h>

#include "ngx_lunary_outbox_internal.h"
#include "lunary_crc32c.h"
#include "stats/ngx_lunary_stats.h"


static ngx_int_t ngx_lunary_outbox_own_spool(ngx_lunary_outbox_t *ob,
    int *dirfd);
static void ngx_lunary_outbox_flush_handler(ngx_event_t *ev);
static void ngx_lunary_outbox_tick_handler(ngx_event_t *ev);
static ngx_int_t ngx_lunary_outbox_leave(ngx_lunary_outbox_t *ob);


static ngx_lunary_outbox_t  *ngx_lunary_outbox;


ngx_int_t
ngx_lunary_outbox_init(ngx_cycle_t *cycle, ngx_lunary_outbox_conf_t *conf)
{
    int                   dirfd;
    ngx_lunary_outbox_t  *ob;

    (void) lunary_crc32c_init(LUNARY_CRC32C_BEST);
    ngx_lunary_outbox_script_init();

    ob = ngx_pcalloc(cycle->pool, sizeof(ngx_lunary_outbox_t));
    if (ob == NULL) {
        return NGX_ERROR;
    }

    ob->flight = ngx_pcalloc(cycle->pool, sizeof(ngx_lunary_outbox_flight_t));
    if (ob->flight == NULL) {
        return NGX_ERROR;
    }

    ob->cycle = cycle;
    ob->conf = conf;
    ob->log = cycle->log;
    ob->generation = ngx_lunary_outbox_generation;
    ob->max_count = NGX_LUNARY_OUTBOX_MAX_COUNT;
    ob->multi_after = ngx_current_msec;

    ngx_queue_init(&ob->sources);
    ngx_queue_init(&ob->waiters);

    ob->dummy.fd = (ngx_socket_t) -1;
    ob->dummy.data = ob;

    ob->flush.handler = ngx_lunary_outbox_flush_handler;
    ob->flush.data = &ob->dummy;
    ob->flush.log = cycle->log;

    ob->pause.handler = ngx_lunary_outbox_pause_handler;
    ob->pause.data = &ob->dummy;
    ob->pause.log = cycle->log;
    ob->pause.cancelable = 1;

    ob->tick.handler = ngx_lunary_outbox_tick_handler;
    ob->tick.data = &ob->dummy;
    ob->tick.log = cycle->log;
    ob->tick.cancelable = 1;

    ob->glance.handler = ngx_lunary_outbox_glance_handler;
    ob->glance.data = &ob->dummy;
    ob->glance.log = cycle->log;
    ob->glance.cancelable = 1;

    if (ngx_lunary_outbox_own_spool(ob, &dirfd) != NGX_OK) {
        return NGX_ERROR;
    }

    ob->redis = ngx_lunary_redis_create(cycle, conf->redis, "outbox",
                                        conf->redis->send_timeout,
                                        ngx_lunary_outbox_state, ob);
    if (ob->redis == NULL) {
        return NGX_ERROR;
    }

    ngx_lunary_redis_keep(ob->redis);

    ngx_lunary_outbox = ob;

    if (dirfd != -1) {
        ob->thread = ngx_pcalloc(cycle->pool,
                                 sizeof(ngx_lunary_outbox_thread_t));
        if (ob->thread == NULL) {
            return NGX_ERROR;
        }

        ob->thread->dirfd = dirfd;

        if (ngx_lunary_outbox_thread_init(ob) != NGX_OK) {
            ngx_log_error(NGX_LOG_CRIT, ob->log, 0,
                          "lunary: no helper thread: spools are not synced, "
                          "and those of finished workers are not taken over");

            ob->own->durable = (uint64_t) -1;

        } else if (conf->sync == NGX_LUNARY_SYNC_OFF
                   || ob->own->spool.fd == -1)
        {
            ngx_lunary_outbox_glance_handler(&ob->glance);

        } else if (ngx_lunary_outbox_thread_start(ob) != NGX_OK) {
            ob->own->durable = (uint64_t) -1;
        }
    }

    ngx_lunary_redis_connect(ob->redis);

    ngx_add_timer(&ob->tick, 1000);

    return NGX_OK;
}


static ngx_int_t
ngx_lunary_outbox_own_spool(ngx_lunary_outbox_t *ob, int *dirfd)
{
    u_char                      random[24];
    char                        target[LUNARY_SPOOL_TARGET_MAX + 1];
    lunary_spool_conf_t         sc;
    lunary_spool_status_e       rc;
    ngx_lunary_outbox_conf_t   *conf;

    conf = ob->conf;

    ob->own = ngx_lunary_outbox_source(ob->log);
    if (ob->own == NULL) {
        return NGX_ERROR;
    }

    ob->own->own = 1;

    if (getentropy(random, sizeof(random)) == -1) {
        ngx_log_error(NGX_LOG_EMERG, ob->log, ngx_errno,
                      "getentropy() failed");
        return NGX_ERROR;
    }

    ngx_lunary_outbox_target(conf, target);

    ngx_memzero(&sc, sizeof(lunary_spool_conf_t));

    sc.dirfd = -1;
    sc.size = conf->size;
    sc.target = target;
    sc.shards = conf->shards;
    sc.generation = ob->generation;
    sc.random = random;

    *dirfd = -1;
    rc = LUNARY_SPOOL_OK;

    if (conf->path.len) {

        sc.dirfd = open((char *) conf->path.data,
                        O_RDONLY|O_DIRECTORY|O_CLOEXEC);

        if (sc.dirfd == -1) {
            ngx_log_error(NGX_LOG_CRIT, ob->log, ngx_errno,
                          "lunary: the spool directory \"%V\" cannot be "
                          "opened: make it a directory of the user that "
                          "nginx workers run as, with mode 0700 "
                          "(lunary_spool); until then runs wait in memory",
                          &conf->path);

        } else {
            rc = lunary_spool_create(&ob->own->spool, &sc);

            /* what fills the disk may be spools to take over */

            *dirfd = sc.dirfd;

            if (rc != LUNARY_SPOOL_OK) {
                ngx_log_error(NGX_LOG_CRIT, ob->log, ob->own->spool.err,
                              "lunary: no spool could be made in \"%V\", %s "
                              "failed: it needs %uz free bytes a worker, and "
                              "to be writable; until the next reload runs "
                              "wait in memory", &conf->path,
                              ob->own->spool.call, conf->size);
            }
        }
    }

    if (*dirfd == -1 || rc != LUNARY_SPOOL_OK) {
        sc.dirfd = -1;
        rc = lunary_spool_create(&ob->own->spool, &sc);
    }

    if (rc != LUNARY_SPOOL_OK) {
        ngx_log_error(NGX_LOG_EMERG, ob->log, ob->own->spool.err,
                      "lunary: no memory for %uz bytes of spool", conf->size);
        return NGX_ERROR;
    }

    if (ob->own->spool.fd == -1) {
        ngx_lunary_stats_forgetful();
    }

    if (ob->own->spool.fd == -1 || conf->sync != NGX_LUNARY_SYNC_ALWAYS) {
        ob->own->durable = (uint64_t) -1;
    }

    if (ngx_lunary_outbox_source_keys(ob->log, conf, ob->own) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_queue_insert_head(&ob->sources, &ob->own->queue);

    return NGX_OK;
}


u_char *
ngx_lunary_outbox_reserve(ngx_uint_t kind, ngx_uint_t counter,
    ngx_uint_t fields, size_t size, uint32_t hash)
{
    u_char                 *p;
    ngx_lunary_outbox_t    *ob;
    lunary_spool_status_e   status;

    ob = ngx_lunary_outbox;

    if (ob == NULL) {
        return NULL;
    }

    if (fields > NGX_LUNARY_OUTBOX_MAX_FIELDS) {
        ngx_lunary_outbox_drop(ob, kind, counter, LUNARY_SPOOL_TOO_LARGE,
                               size);
        return NULL;
    }

    /* who floods with events leaves half of the room to runs */

    if (kind == NGX_LUNARY_RECORD_EVENT
        && ob->own->spool.bytes + size > ob->own->spool.size / 2)
    {
        ngx_lunary_outbox_drop(ob, kind, counter, LUNARY_SPOOL_FULL, size);
        return NULL;
    }

    p = lunary_spool_reserve(&ob->own->spool, size, &status);

    if (p == NULL) {
        ngx_lunary_outbox_drop(ob, kind, counter, status, size);
        return NULL;
    }

    ob->reserved = p;
    ob->reserved_counter = counter;
    ob->reserved_kind = kind;
    ob->reserved_fields = fields;
    ob->reserved_hash = hash;

    return p;
}


void
ngx_lunary_outbox_commit(u_char *last)
{
    lunary_spool_t       *sp;
    ngx_lunary_outbox_t  *ob;

    ob = ngx_lunary_outbox;
    sp = &ob->own->spool;

    ngx_lunary_stats_plan(ob->reserved_counter, 1);
    ngx_lunary_stats_begin(sp->fd == -1 ? NGX_LUNARY_STATS_ANYWAY
                                        : NGX_LUNARY_STATS_APPENDED,
                           sp->epoch, sp->next_seq);

    (void) lunary_spool_commit(sp, last - ob->reserved, ob->reserved_kind,
                               ob->reserved_fields, ob->reserved_hash,
                               (uint32_t) ngx_time());

    ngx_lunary_stats_end();

    ngx_lunary_outbox_gauges(ob);
    ngx_lunary_outbox_company(ob);
    ngx_lunary_outbox_schedule(ob);
}


ngx_uint_t
ngx_lunary_outbox_sharded(void)
{
    return ngx_lunary_outbox && ngx_lunary_outbox->own->spool.shards > 1;
}


size_t
ngx_lunary_outbox_largest(void)
{
    return ngx_lunary_outbox ? ngx_lunary_outbox->own->spool.max_record : 0;
}


/*
 * Arranges the next flight, if one can start: now, or where little waits after
 * `flush=`.  Each costs nginx and Redis as much as several records do, so
 * where the last one had several a longer wait makes fewer; but not where what
 * waits is synced to the disk by then.
 */

void
ngx_lunary_outbox_schedule(ngx_lunary_outbox_t *ob)
{
    uint64_t         waiting;
    lunary_spool_t  *sp;

    if (ob->flight->op != NGX_LUNARY_OUTBOX_IDLE
        || ob->flush.posted
        || ob->pause.timer_set)
    {
        return;
    }

    if (!ngx_lunary_redis_up(ob->redis)) {

        if (ngx_exiting && ngx_lunary_outbox_pending(ob)) {
            ngx_lunary_redis_idle(ob->redis, 0);
            ngx_lunary_redis_connect(ob->redis);
        }

        return;
    }

    sp = &ob->own->spool;
    waiting = sp->next_seq - sp->send.seq;

    if (waiting < NGX_LUNARY_OUTBOX_MAX_COUNT
        && sp->bytes < ngx_min(NGX_LUNARY_OUTBOX_ENOUGH, sp->size / 2)
        && !ob->own->verify
        && ngx_queue_last(&ob->sources) == ngx_queue_head(&ob->sources)
        && ob->conf->flush
        && !ngx_exiting)
    {
        if (!ob->flush.timer_set && waiting) {
            ngx_add_timer(&ob->flush,
                          (ob->flight->count > 1
                           && ob->own->durable == (uint64_t) -1)
                          ? ob->conf->flush_busy : ob->conf->flush);
        }

        return;
    }

    ngx_post_event(&ob->flush, &ngx_posted_events);
}


static void
ngx_lunary_outbox_flush_handler(ngx_event_t *ev)
{
    ngx_connection_t     *c;
    ngx_lunary_outbox_t  *ob;

    c = ev->data;
    ob = c->data;

    if (ev->timer_set) {
        ngx_del_timer(ev);
    }

    ngx_lunary_outbox_thread_sync(ob);
    ngx_lunary_outbox_kick(ob);
}


/* 1 where something still has to go to Redis */

ngx_uint_t
ngx_lunary_outbox_pending(ngx_lunary_outbox_t *ob)
{
    ngx_queue_t                 *q;
    ngx_lunary_outbox_source_t  *src;

    for (q = ngx_queue_head(&ob->sources);
         q != ngx_queue_sentinel(&ob->sources);
         q = ngx_queue_next(q))
    {
        src = ngx_queue_data(q, ngx_lunary_outbox_source_t, queue);

        if (src->verify || !lunary_spool_empty(&src->spool)
            || src->life == NGX_LUNARY_OUTBOX_RETIRED)
        {
            return 1;
        }
    }

    return 0;
}


/* a spool that the helper thread found, locked and read */

ngx_int_t
ngx_lunary_outbox_adopted(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src)
{
    lunary_spool_t  *sp;

    sp = &src->spool;

    if (ngx_lunary_outbox_source_keys(ob->log, ob->conf, src) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_queue_insert_tail(&ob->sources, &src->queue);

    src->durable = (uint64_t) -1;
    src->verify = (sp->nindex > 0 && !sp->retired);

    if (!src->verify) {
        src->life = sp->retired ? NGX_LUNARY_OUTBOX_RETIRED
                                : NGX_LUNARY_OUTBOX_RETIRING;
    }

    ngx_lunary_outbox_recovered(ob, src);

    ngx_log_error(NGX_LOG_NOTICE, ob->log, 0,
                  "lunary: took over the spool \"%V/%s\" of a finished "
                  "worker, %uL records to send", &ob->conf->path, sp->name,
                  sp->unacked[NGX_LUNARY_RECORD_RUN]
                  + sp->unacked[NGX_LUNARY_RECORD_EVENT]);

    if (sp->missing || sp->truncated) {
        ngx_log_error(NGX_LOG_ERR, ob->log, 0,
                      "lunary: the spool \"%V/%s\" is damaged%s: %uL records "
                      "of it cannot be read and are lost", &ob->conf->path,
                      sp->name, sp->truncated ? ", its end is missing" : "",
                      sp->missing);
    }

    if (src->life == NGX_LUNARY_OUTBOX_RETIRING) {
        ngx_lunary_outbox_thread_job(ob, src);
    }

    ngx_lunary_outbox_others(ob);
    ngx_lunary_outbox_gauges(ob);
    ngx_lunary_outbox_schedule(ob);

    return NGX_OK;
}


/* the helper thread has synced the worker's own spool up to seq */

void
ngx_lunary_outbox_synced(ngx_lunary_outbox_t *ob, uint64_t seq,
    ngx_uint_t failed)
{
    ngx_queue_t                 *q;
    ngx_lunary_outbox_waiter_t  *w;

    if (failed && !ob->unsafe_logged) {
        ob->unsafe_logged = 1;

        ngx_log_error(NGX_LOG_CRIT, ob->log, failed,
                      "lunary: syncing the spool \"%V/%s\" failed: its "
                      "records would not survive a power failure; check the "
                      "disk, then reload", &ob->conf->path,
                      ob->own->spool.name);
    }

    if (ob->own->durable == (uint64_t) -1) {
        return;
    }

    /* a disk that fails must not keep records from Redis as well */

    ob->own->durable = failed ? (uint64_t) -1 : seq;

    /* the head each time: a handler may make other waiters go; they stand in
     * the order of their sequences */

    while (!ngx_queue_empty(&ob->waiters)) {

        q = ngx_queue_head(&ob->waiters);
        w = ngx_queue_data(q, ngx_lunary_outbox_waiter_t, queue);

        if (w->seq > ob->own->durable) {
            break;
        }

        ngx_queue_remove(q);
        q->next = NULL;
        w->handler(w->data);
    }

    ngx_lunary_outbox_schedule(ob);
}


ngx_int_t
ngx_lunary_outbox_durable(ngx_lunary_outbox_waiter_t *w)
{
    ngx_lunary_outbox_t  *ob;

    ob = ngx_lunary_outbox;

    w->queue.next = NULL;

    if (ob == NULL) {
        return NGX_OK;
    }

    w->seq = lunary_spool_last(&ob->own->spool);

    if (w->seq <= ob->own->durable) {
        return NGX_OK;
    }

    ngx_queue_insert_tail(&ob->waiters, &w->queue);

    if (!ob->flush.posted) {
        ngx_post_event(&ob->flush, &ngx_posted_events);
    }

    return NGX_AGAIN;
}


void
ngx_lunary_outbox_forget(ngx_lunary_outbox_waiter_t *w)
{
    if (w->queue.next) {
        ngx_queue_remove(&w->queue);
        w->queue.next = NULL;
    }
}


static void
ngx_lunary_outbox_tick_handler(ngx_event_t *ev)
{
    time_t                       oldest;
    ngx_queue_t                 *q;
    ngx_connection_t            *c;
    ngx_lunary_outbox_t         *ob;
    lunary_spool_record_t        rec;
    ngx_lunary_outbox_source_t  *src;

    c = ev->data;
    ob = c->data;

    oldest = ngx_time();

    for (q = ngx_queue_head(&ob->sources);
         q != ngx_queue_sentinel(&ob->sources);
         q = ngx_queue_next(q))
    {
        src = ngx_queue_data(q, ngx_lunary_outbox_source_t, queue);

        if (lunary_spool_read(&src->spool, &src->spool.head, &rec)
            && (time_t) rec.time < oldest)
        {
            oldest = rec.time;
        }
    }

    ngx_lunary_stats_set(NGX_LUNARY_G_SPOOL_OLDEST, ngx_time() - oldest);
    ngx_lunary_stats_set(NGX_LUNARY_G_SPOOL_USED,
                         ob->own->spool.bytes * 100 / ob->own->spool.size);

    ngx_lunary_outbox_log_drops(ob);
    ngx_lunary_outbox_thread_sync(ob);

    /* a worker that leaves waits for no company */

    if (ngx_exiting && ob->flush.timer_set) {
        ngx_post_event(&ob->flush, &ngx_posted_events);
    }

    ngx_add_timer(ev, 1000);
}


void
ngx_lunary_outbox_exit(ngx_cycle_t *cycle)
{
    uint64_t                     left;
    ngx_queue_t                 *q;
    lunary_spool_t              *sp;
    ngx_lunary_outbox_t         *ob;
    ngx_lunary_outbox_source_t  *src;

    ob = ngx_lunary_outbox;

    if (ob == NULL) {
        return;
    }

    ngx_lunary_outbox = NULL;

    if (ob->thread) {
        ngx_lunary_outbox_thread_stop(ob);
    }

    if (ob->flush.timer_set) {
        ngx_del_timer(&ob->flush);
    }

    if (ob->flush.posted) {
        ngx_delete_posted_event(&ob->flush);
    }

    if (ob->pause.timer_set) {
        ngx_del_timer(&ob->pause);
    }

    if (ob->tick.timer_set) {
        ngx_del_timer(&ob->tick);
    }

    if (ob->glance.timer_set) {
        ngx_del_timer(&ob->glance);
    }

    sp = &ob->own->spool;
    left = sp->next_seq - sp->head.seq;

    if (sp->fd == -1 && left) {
        ngx_lunary_stats_add(NGX_LUNARY_C_DROPPED_EXIT,
                             sp->unacked[NGX_LUNARY_RECORD_RUN]
                             - sp->again[NGX_LUNARY_RECORD_RUN]);
        ngx_lunary_stats_add(NGX_LUNARY_C_EVENTS_DROPPED,
                             sp->unacked[NGX_LUNARY_RECORD_EVENT]
                             - sp->again[NGX_LUNARY_RECORD_EVENT]);

        ngx_log_error(NGX_LOG_ERR, ob->log, 0,
                      "lunary: %uL records that waited in memory for redis "
                      "%V are dropped with their worker",
                      left, &ob->conf->redis->url);

    } else if (left) {
        ngx_log_error(NGX_LOG_NOTICE, ob->log, 0,
                      "lunary: %uL records stay in the spool \"%V/%s\"",
                      left, &ob->conf->path, sp->name);

        if (ob->conf->sync != NGX_LUNARY_SYNC_OFF) {
            (void) lunary_spool_sync(sp);
        }

    } else if (ngx_lunary_outbox_leave(ob) == NGX_OK && sp->fd != -1) {
        (void) lunary_spool_unlink(sp, ob->thread->dirfd);
    }

    ngx_lunary_redis_close(ob->redis);

    while (!ngx_queue_empty(&ob->sources)) {
        q = ngx_queue_head(&ob->sources);
        ngx_queue_remove(q);

        src = ngx_queue_data(q, ngx_lunary_outbox_source_t, queue);
        ngx_lunary_outbox_free_source(src);
    }

    if (ob->thread) {
        (void) close(ob->thread->dirfd);
    }

    if (ob->flight->prefix) {
        ngx_free(ob->flight->prefix);
    }

    ngx_lunary_stats_set(NGX_LUNARY_G_RUNS_SPOOLED, 0);
    ngx_lunary_stats_set(NGX_LUNARY_G_EVENTS_SPOOLED, 0);
    ngx_lunary_stats_set(NGX_LUNARY_G_SPOOL_BYTES, 0);
    ngx_lunary_stats_set(NGX_LUNARY_G_SPOOL_OLDEST, 0);
    ngx_lunary_stats_set(NGX_LUNARY_G_SPOOL_USED, 0);
}


/*
 * A spool with nothing left to send goes with its worker: marked first, then
 * its watermarks.  Where Redis cannot be told, the next worker finds it.
 */

static ngx_int_t
ngx_lunary_outbox_leave(ngx_lunary_outbox_t *ob)
{
    ngx_str_t                   argv[2];
    ngx_uint_t                  i;
    ngx_lunary_outbox_shard_t  *shard;

    for (i = 0; i < ob->own->spool.shards; i++) {
        if (ob->own->shards[i].opened) {
            break;
        }
    }

    if (i == ob->own->spool.shards) {
        return NGX_OK;
    }

    if (ob->flight->op != NGX_LUNARY_OUTBOX_IDLE
        || !ngx_lunary_redis_up(ob->redis)
        || (ob->own->spool.fd != -1
            && lunary_spool_retire(&ob->own->spool) == -1))
    {
        return NGX_ERROR;
    }

    if (ob->in_multi) {
        ngx_str_set(&argv[0], "EXEC");

        if (ngx_lunary_redis_farewell(ob->redis, 1, argv) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    for (i = 0; i < ob->own->spool.shards; i++) {
        shard = &ob->own->shards[i];

        if (shard->opened) {
            ngx_str_set(&argv[0], "DEL");
            argv[1] = shard->key;

            if (ngx_lunary_redis_farewell(ob->redis, 2, argv) != NGX_OK) {
                return NGX_ERROR;
            }
        }
    }

    return NGX_OK;
}
