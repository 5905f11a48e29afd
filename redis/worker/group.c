/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A member of a consumer group.  See group.h.
 */

#include <stdlib.h>

#include "group_internal.h"


#define LW_BACKOFF_MIN   250
#define LW_BACKOFF_MAX   15000
#define LW_BLOCK_MS      1000
#define LW_SOON_MS       200
#define LW_SHARD_COUNT   16
#define LW_MEAN          16384         /* bytes of an entry, to begin with   */


static int lw_group_connect(lw_t *w);
static int lw_group_join(lw_t *w);
static int lw_group_cycle(lw_t *w, int *idle);
static int lw_group_take(lw_t *w, int last);
static int lw_group_again(lw_t *w);
static int lw_group_claim(lw_t *w);
static int lw_group_judge(lw_t *w, unsigned stream, size_t from);
static int lw_group_collect(lw_t *w);
static int lw_group_read(lw_t *w, int64_t block);
static void lw_group_command(lw_t *w, lw_args_t *a, int64_t block);
static int64_t lw_group_count(lw_t *w);
static int lw_group_reply(lw_t *w, redisReply *reply);
static int lw_group_own(lw_batch_t *b, redisReply *reply);
static int lw_group_add(lw_t *w, const redisReply *list, unsigned stream,
    int again);
static int lw_group_reread(lw_t *w, int argc, char **argv);
static void lw_group_leave(lw_t *w);


int
lw_group_run(lw_t *w, const lw_handler_t *h, int argc, char **argv)
{
    int          rc, idle, quiet;
    int64_t      backoff;
    lw_group_t   group;

    memset(&group, 0, sizeof(group));

    group.handler = h;
    group.started = lw_clock();
    group.mean = LW_MEAN;
    group.next_report = group.started + LW_PROGRESS_MS;

    w->group = &group;

    backoff = LW_BACKOFF_MIN;
    quiet = 0;
    rc = LW_OK;

    while (!lw_stop) {

        if (lw_reload) {
            lw_reload = 0;
            rc = lw_group_reread(w, argc, argv);

            if (rc != LW_OK) {
                break;
            }
        }

        if (!lw_redis_connected(w->redis)) {

            rc = lw_group_connect(w);

            if (rc == LW_REDIS && !w->options->once) {
                w->failures++;
                lw_sleep(backoff);
                backoff = backoff * 2 > LW_BACKOFF_MAX ? LW_BACKOFF_MAX
                                                       : backoff * 2;
                lw_group_metrics(w);
                continue;
            }

            if (rc != LW_OK) {
                break;
            }
        }

        rc = lw_group_cycle(w, &idle);

        if (rc == LW_REDIS) {

            if (w->options->once) {
                break;
            }

            w->failures++;
            lw_redis_close(w->redis);
            h->reset(w);

            /* a Redis that takes connections and refuses commands */

            lw_sleep(backoff);
            backoff = backoff * 2 > LW_BACKOFF_MAX ? LW_BACKOFF_MAX
                                                   : backoff * 2;
            continue;
        }

        if (rc != LW_OK) {
            break;
        }

        backoff = LW_BACKOFF_MIN;
        lw_group_report(w);

        quiet = idle ? quiet + 1 : 0;

        if (w->options->once && quiet > 0) {
            break;
        }
    }

    /* what the command still keeps stays pending in Redis, and is read again */

    if (rc == LW_OK && lw_redis_connected(w->redis) && h->wants(w)) {
        rc = lw_group_take(w, 1);
    }

    lw_group_metrics(w);
    lw_progress("%s", "");
    lw_group_leave(w);
    lw_batch_free(&group.batch);
    free(group.batch.entries);
    free(group.batch.replies);
    w->group = NULL;

    lw_log(LW_LOG_INFO, "%s ends: %llu entries, %llu dead letters",
           w->options->name, (unsigned long long) w->entries,
           (unsigned long long) w->dead);

    switch (rc) {

    case LW_OK:
    case LW_STOPPED:
        return LW_EXIT_OK;

    case LW_REDIS:
        return LW_EXIT_REDIS;

    case LW_REMOTE:
        return LW_EXIT_REMOTE;

    default:
        return LW_EXIT_LEFT;
    }
}


static int
lw_group_connect(lw_t *w)
{
    int  rc;

    rc = lw_redis_connect(w->redis);

    if (rc == LW_OK) {
        rc = lw_group_join(w);
    }

    if (rc == LW_OK) {
        lw_redis_patience(w->redis, LW_BLOCK_MS);
        lw_log(LW_LOG_INFO, "%s: connected to Redis", w->options->name);
        w->group->again = 1;
        w->group->full = 0;
        w->group->next_claim = 0;
    }

    return rc;
}


/* the group begins at the stream's first entry */

static int
lw_group_join(lw_t *w)
{
    size_t       i;
    redisReply  *reply;

    for (i = 0; i < w->options->nstreams; i++) {

        reply = lw_redis_call(w->redis, 6, "XGROUP", "CREATE",
                              w->options->streams[i], w->options->group, "0",
                              "MKSTREAM");

        if (reply == NULL) {
            return LW_REDIS;
        }

        if (lw_reply_is_error(reply)
            && strncmp(reply->str, "BUSYGROUP", 9) != 0)
        {
            lw_reply_free(reply);
            return LW_REDIS;
        }

        lw_reply_free(reply);
    }

    return LW_OK;
}


/* one round: what is ours from before, what others left, what is new */

static int
lw_group_cycle(lw_t *w, int *idle)
{
    int          rc;
    uint64_t     before;
    lw_group_t  *g;

    g = w->group;
    *idle = 0;
    before = w->entries + w->dead;

    if (g->again) {
        g->again = 0;
        rc = lw_group_again(w);

        if (rc != LW_OK) {
            return rc;
        }
    }

    if (lw_clock() >= g->next_claim) {

        rc = lw_group_claim(w);

        if (rc != LW_OK) {
            return rc;
        }

        g->next_claim = lw_clock() + w->options->claim_after / 2 + 1;
    }

    if (lw_stop) {
        return LW_OK;
    }

    rc = lw_group_collect(w);

    if (rc != LW_OK) {
        return rc;
    }

    if (g->batch.n || g->handler->wants(w)) {

        *idle = (g->batch.n == 0);
        rc = lw_group_take(w, w->options->once && g->batch.n == 0);

        if (w->entries + w->dead != before) {
            *idle = 0;
        }

        return rc;
    }

    *idle = 1;

    return LW_OK;
}


static int
lw_group_take(lw_t *w, int last)
{
    int  rc;

    rc = w->group->handler->take(w, &w->group->batch, last);

    lw_batch_free(&w->group->batch);

    return rc;
}


void
lw_batch_free(lw_batch_t *b)
{
    size_t  i;

    for (i = 0; i < b->nreplies; i++) {
        lw_reply_free(b->replies[i]);
    }

    b->nreplies = 0;
    b->n = 0;
    b->bytes = 0;
}


/* entries that this consumer was given and never acknowledged */

static int
lw_group_again(lw_t *w)
{
    int           rc;
    char          last[64];
    size_t        i, n;
    lw_args_t    *a;
    lw_group_t   *g;
    redisReply   *reply;

    g = w->group;

    for (i = 0; i < w->options->nstreams; i++) {

        memcpy(last, "0", 2);

        for ( ;; ) {

            a = lw_args(w->redis);

            lw_arg_lit(a, "XREADGROUP");
            lw_arg_lit(a, "GROUP");
            lw_arg_z(a, w->options->group);
            lw_arg_z(a, w->options->consumer);
            lw_arg_lit(a, "COUNT");
            lw_arg_int(a, lw_group_count(w));
            lw_arg_lit(a, "STREAMS");
            lw_arg_z(a, w->options->streams[i]);
            lw_arg_z(a, last);

            reply = lw_args_call(a);

            if (reply == NULL || lw_reply_is_error(reply)) {
                lw_reply_free(reply);
                return LW_REDIS;
            }

            rc = lw_group_own(&g->batch, reply);

            if (rc == LW_OK && lw_reply_is_array(reply)
                && reply->elements == 1
                && lw_reply_is_array(reply->element[0])
                && reply->element[0]->elements == 2)
            {
                rc = lw_group_add(w, reply->element[0]->element[1],
                                  (unsigned) i, 1);
            }

            n = g->batch.n;

            if (rc != LW_OK || n == 0) {
                break;
            }

            (void) snprintf(last, sizeof(last), "%.*s",
                            (int) g->batch.entries[n - 1].id.len,
                            (const char *) g->batch.entries[n - 1].id.data);

            rc = lw_group_take(w, 0);

            if (rc != LW_OK || lw_stop) {
                break;
            }
        }

        if (rc != LW_OK) {
            return rc;
        }
    }

    return LW_OK;
}


/* what other consumers were given and left: they are dead, or stuck */

static int
lw_group_claim(lw_t *w)
{
    int           rc;
    char          next[64];
    size_t        i, got;
    lw_args_t    *a;
    lw_group_t   *g;
    redisReply   *reply;
    lunary_str_t  cursor;

    g = w->group;

    for (i = 0; i < w->options->nstreams; i++) {

        memcpy(next, "0-0", 4);

        do {

            a = lw_args(w->redis);

            lw_arg_lit(a, "XAUTOCLAIM");
            lw_arg_z(a, w->options->streams[i]);
            lw_arg_z(a, w->options->group);
            lw_arg_z(a, w->options->consumer);
            lw_arg_int(a, w->options->claim_after);
            lw_arg_z(a, next);
            lw_arg_lit(a, "COUNT");
            lw_arg_int(a, lw_group_count(w));

            reply = lw_args_call(a);

            if (!lw_reply_is_array(reply) || reply->elements < 2) {
                lw_reply_free(reply);
                return LW_REDIS;
            }

            cursor = lw_reply_str(reply->element[0]);
            (void) snprintf(next, sizeof(next), "%.*s", (int) cursor.len,
                            cursor.len ? (const char *) cursor.data : "0-0");

            rc = lw_group_own(&g->batch, reply);

            if (rc == LW_OK) {
                rc = lw_group_add(w, reply->element[1], (unsigned) i, 1);
            }

            if (rc != LW_OK) {
                return rc;
            }

            got = g->batch.n;

            if (got) {
                rc = lw_group_judge(w, (unsigned) i, 0);

                if (rc == LW_OK) {
                    rc = lw_group_take(w, 0);
                }

                if (rc != LW_OK) {
                    return rc;
                }
            }

        } while (strcmp(next, "0-0") != 0 && !lw_stop);
    }

    return LW_OK;
}


/*
 * An entry that was delivered time and again kills, or stalls, who reads it.
 * What is buried here has reply NULL and is left out of the batch.
 */

static int
lw_group_judge(lw_t *w, unsigned stream, size_t from)
{
    int          rc;
    size_t       i, k, n;
    lw_args_t   *a;
    lw_batch_t  *b;
    redisReply  *reply, *row;

    b = &w->group->batch;

    if (w->options->max_deliveries == 0) {
        return LW_OK;
    }

    a = lw_args(w->redis);

    lw_arg_lit(a, "XPENDING");
    lw_arg_z(a, w->options->streams[stream]);
    lw_arg_z(a, w->options->group);
    lw_arg_str(a, b->entries[from].id);
    lw_arg_str(a, b->entries[b->n - 1].id);
    lw_arg_int(a, (int64_t) (b->n - from) * 4 + 100);
    lw_arg_z(a, w->options->consumer);

    reply = lw_args_call(a);

    if (!lw_reply_is_array(reply)) {
        lw_reply_free(reply);
        return LW_REDIS;
    }

    rc = LW_OK;

    for (i = 0; i < reply->elements && rc == LW_OK; i++) {

        row = reply->element[i];

        if (!lw_reply_is_array(row) || row->elements < 4
            || row->element[3]->integer <= w->options->max_deliveries)
        {
            continue;
        }

        for (k = from; k < b->n; k++) {
            if (lw_str_same(b->entries[k].id, lw_reply_str(row->element[0]))) {
                rc = lw_group_bury(w, &b->entries[k],
                                   "delivered too often");
                lw_entry_free(&b->entries[k]);
                break;
            }
        }
    }

    lw_reply_free(reply);

    for (i = from, n = from; i < b->n; i++) {
        if (b->entries[i].reply) {
            if (i != n) {
                b->entries[n] = b->entries[i];
                b->entries[i].reply = NULL;
            }
            n++;
        }
    }

    b->n = n;

    return rc;
}


/* reads until the batch is full, or it lingered long enough */

static int
lw_group_collect(lw_t *w)
{
    int          rc;
    size_t       before;
    int64_t      end, block;
    lw_batch_t  *b;

    b = &w->group->batch;

    if (lw_redis_is_ahead(w->redis)) {
        rc = lw_group_reply(w, lw_redis_ahead(w->redis));

        if (rc != LW_OK || b->n) {
            return rc;
        }
    }

    if (w->options->once) {
        return lw_group_read(w, -1);
    }

    rc = lw_group_read(w, w->group->handler->wants(w) ? LW_SOON_MS
                                                      : LW_BLOCK_MS);

    end = lw_clock() + w->options->linger;

    while (rc == LW_OK && b->n > 0 && !lw_stop && !w->group->full
           && b->bytes < (size_t) w->options->batch_bytes
           && (block = end - lw_clock()) > 0)
    {
        before = b->n;
        rc = lw_group_read(w, block > LW_BLOCK_MS ? LW_BLOCK_MS : block);

        if (b->n == before && block <= LW_BLOCK_MS) {
            break;
        }
    }

    return rc;
}


/* block: ms, or less than 0 for not at all */

static int
lw_group_read(lw_t *w, int64_t block)
{
    lw_args_t  *a;

    a = lw_args(w->redis);
    lw_group_command(w, a, block);

    return lw_group_reply(w, lw_args_call(a));
}


/*
 * Where the last read was full the next one is, too: Redis gathers it while
 * this batch is worked at.
 */

int
lw_group_ahead(lw_t *w)
{
    lw_args_t  *a;

    if (!w->group->full || lw_stop || lw_reload
        || lw_redis_is_ahead(w->redis))
    {
        return LW_OK;
    }

    a = lw_args(w->redis);
    lw_group_command(w, a, -1);

    return lw_args_ahead(a);
}


static void
lw_group_command(lw_t *w, lw_args_t *a, int64_t block)
{
    size_t               i, n;
    lw_group_t          *g;
    const lw_options_t  *o;

    g = w->group;
    o = w->options;
    n = o->nstreams;

    g->asked = lw_group_count(w) - (block < 0 ? 0 : (int64_t) g->batch.n);

    lw_arg_lit(a, "XREADGROUP");
    lw_arg_lit(a, "GROUP");
    lw_arg_z(a, o->group);
    lw_arg_z(a, o->consumer);
    lw_arg_lit(a, "COUNT");
    lw_arg_int(a, g->asked > 0 ? g->asked : 1);

    if (block >= 0) {
        lw_arg_lit(a, "BLOCK");
        lw_arg_int(a, block > 0 ? block : 1);
    }

    lw_arg_lit(a, "STREAMS");

    /* each round begins with another shard, so that none starves */

    g->first++;

    for (i = 0; i < n; i++) {
        lw_arg_z(a, o->streams[(g->first + i) % n]);
    }

    for (i = 0; i < n; i++) {
        lw_arg_lit(a, ">");
    }
}


/* as many entries as come to --batch-bytes, by what the last ones had */

static int64_t
lw_group_count(lw_t *w)
{
    int64_t  n, most;

    n = w->options->batch_bytes / (w->group->mean + 1);

    n = n < w->options->batch ? n : w->options->batch;

    /* COUNT is for each stream, and seldom all of them are full */

    most = n / (int64_t) w->options->nstreams;
    most = most > LW_SHARD_COUNT ? most : LW_SHARD_COUNT;

    n = n < most ? n : most;

    return n > 0 ? n : 1;
}


static int
lw_group_reply(lw_t *w, redisReply *reply)
{
    int                  rc;
    size_t               i, k, n, before, bytes;
    int64_t              mean;
    lw_group_t          *g;
    redisReply          *row;
    lunary_str_t         name;
    const lw_options_t  *o;

    g = w->group;
    o = w->options;

    if (reply == NULL) {
        return LW_REDIS;
    }

    if (lw_reply_is_error(reply)) {

        /* the stream was deleted, or Redis lost it: the group begins anew */

        rc = strncmp(reply->str, "NOGROUP", 7) == 0 ? lw_group_join(w)
                                                    : LW_REDIS;
        lw_reply_free(reply);
        return rc;
    }

    if (!lw_reply_is_array(reply)) {
        g->full = 0;
        lw_reply_free(reply);
        return LW_OK;
    }

    rc = lw_group_own(&g->batch, reply);

    n = o->nstreams;
    before = g->batch.n;
    bytes = g->batch.bytes;

    for (i = 0; i < reply->elements && rc == LW_OK; i++) {

        row = reply->element[i];

        if (!lw_reply_is_array(row) || row->elements != 2) {
            continue;
        }

        name = lw_reply_str(row->element[0]);

        for (k = 0; k < n && rc == LW_OK; k++) {
            if (lw_str_same(name, lw_str(o->streams[k]))) {
                rc = lw_group_add(w, row->element[1], (unsigned) k, 0);
            }
        }
    }

    if (g->batch.n > before) {

        /* up at once, down by halves */

        mean = (int64_t) ((g->batch.bytes - bytes) / (g->batch.n - before));
        g->mean = mean > g->mean ? mean : (g->mean + mean) / 2;
    }

    g->full = (int64_t) (g->batch.n - before) >= g->asked;

    return rc;
}


/* the batch frees the reply, whatever becomes of it */

static int
lw_group_own(lw_batch_t *b, redisReply *reply)
{
    void    *p;
    size_t   cap;

    if (b->nreplies == b->creplies) {

        cap = b->creplies ? b->creplies * 2 : 16;
        p = realloc(b->replies, cap * sizeof(*b->replies));

        if (p == NULL) {
            lw_log(LW_LOG_ERROR, "no memory for a batch");
            lw_reply_free(reply);
            return LW_REDIS;
        }

        b->replies = p;
        b->creplies = cap;
    }

    b->replies[b->nreplies++] = reply;

    return LW_OK;
}


static int
lw_group_add(lw_t *w, const redisReply *list, unsigned stream, int again)
{
    void        *p;
    size_t       i, cap;
    lw_batch_t  *b;
    lw_entry_t  *e;

    b = &w->group->batch;

    if (!lw_reply_is_array(list)) {
        return LW_OK;
    }

    if (b->n + list->elements > b->cap) {

        cap = b->n + list->elements;
        p = realloc(b->entries, cap * sizeof(*b->entries));

        if (p == NULL) {
            lw_log(LW_LOG_ERROR, "no memory for a batch");
            return LW_REDIS;
        }

        b->entries = p;
        b->cap = cap;
    }

    for (i = 0; i < list->elements; i++) {

        e = &b->entries[b->n];

        if (lw_entry_take(e, list->element[i]) != LW_OK) {
            continue;
        }

        e->stream = stream;
        e->again = (again != 0);

        b->bytes += lw_entry_size(e);
        b->n++;
    }

    return LW_OK;
}


int
lw_group_ack(lw_t *w, const lw_entry_t *entries, size_t n)
{
    size_t       i, k, queued;
    lw_args_t   *a;
    redisReply  *reply;

    queued = 0;

    for (k = 0; k < w->options->nstreams; k++) {

        a = lw_args(w->redis);

        lw_arg_lit(a, "XACK");
        lw_arg_z(a, w->options->streams[k]);
        lw_arg_z(a, w->options->group);

        for (i = 0; i < n; i++) {
            if (entries[i].reply && entries[i].stream == k) {
                lw_arg_str(a, entries[i].id);
                w->entries++;
            }
        }

        if (a->n == 3) {
            continue;
        }

        if (lw_args_queue(a) != LW_OK) {
            return LW_REDIS;
        }

        queued++;
    }

    while (queued--) {

        reply = lw_redis_reply(w->redis);

        if (reply == NULL) {
            return LW_REDIS;
        }

        i = lw_reply_is_error(reply);

        lw_reply_free(reply);

        if (i) {
            return LW_REDIS;
        }
    }

    return LW_OK;
}


int
lw_group_bury(lw_t *w, const lw_entry_t *e, const char *reason)
{
    char                 dead[512];
    size_t               i;
    lw_args_t           *a;
    redisReply          *reply, *fields;
    const char          *stream;
    const lw_options_t  *o;

    static lw_script_t  script = {
        "redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*',"
        " unpack(ARGV, 4)) "
        "return redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])", ""
    };

    o = w->options;
    stream = o->streams[e->stream];

    (void) snprintf(dead, sizeof(dead), "%s:dead", stream);

    /* behind a colon there may be words of others */

    lw_log(LW_LOG_ERROR, "%s: %.*s of %s is a dead letter: %.*s", o->name,
           (int) e->id.len, (const char *) e->id.data, stream,
           (int) strcspn(reason, ":"), reason);

    a = lw_script(w->redis, &script, 2);

    lw_arg_z(a, stream);
    lw_arg_z(a, dead);
    lw_arg_z(a, o->group);
    lw_arg_str(a, e->id);
    lw_arg_int(a, o->dead_maxlen);

    lw_arg_lit(a, "dead_reason");
    lw_arg(a, reason, strlen(reason));
    lw_arg_lit(a, "dead_group");
    lw_arg_z(a, o->group);
    lw_arg_lit(a, "dead_id");
    lw_arg_str(a, e->id);
    lw_arg_lit(a, "dead_at");
    lw_arg_int(a, lw_now());

    fields = e->gone ? NULL : e->reply->element[1];

    for (i = 0; fields && i + 1 < fields->elements; i += 2) {
        lw_arg_str(a, lw_reply_str(fields->element[i]));
        lw_arg_str(a, lw_reply_str(fields->element[i + 1]));
    }

    reply = lw_script_call(a, &script);

    if (reply == NULL || lw_reply_is_error(reply)) {
        lw_reply_free(reply);
        return LW_REDIS;
    }

    lw_reply_free(reply);

    w->dead++;

    return LW_OK;
}


/* SIGHUP: the same command line and the file as it is now */

static int
lw_group_reread(lw_t *w, int argc, char **argv)
{
    int            rc;
    lw_redis_t    *redis;
    lw_prices_t   *prices;
    lw_options_t  *fresh;

    fresh = malloc(sizeof(*fresh));
    if (fresh == NULL) {
        return LW_OK;
    }

    redis = NULL;
    prices = NULL;

    rc = lw_options_parse(fresh, argc, argv);

    if (rc == LW_OK) {
        redis = lw_redis_create(fresh);
        prices = lw_prices_load(&w->mem, fresh->prices);
    }

    if (redis == NULL || prices == NULL) {
        lw_log(LW_LOG_ERROR, "the configuration is bad: the old one stays");
        lw_redis_free(redis);
        lw_prices_free(prices);
        lw_options_free(fresh);
        free(fresh);
        return LW_OK;
    }

    w->group->handler->reset(w);

    lw_redis_free(w->redis);
    lw_prices_free(w->prices);
    lw_options_free(w->options);
    free(w->options);

    w->options = fresh;
    w->redis = redis;
    w->prices = prices;

    lw_log(LW_LOG_NOTICE, "the configuration was read again");

    return w->group->handler->reload(w);
}


/*
 * A made-up name does not come back: what it leaves pending may be claimed at
 * once, and if that is nothing it is not left in the group.
 */

static void
lw_group_leave(lw_t *w)
{
    size_t       i;
    lw_args_t   *a;
    redisReply  *reply;

    static lw_script_t  script = {
        "local p = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 10000,"
        " ARGV[2]) "
        "for _, e in ipairs(p) do "
        "redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, e[1],"
        " 'IDLE', 1000000000, 'JUSTID') end "
        "if #p == 0 then "
        "return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1],"
        " ARGV[2]) end "
        "return -1", ""
    };

    if (!w->options->own_consumer || !lw_redis_connected(w->redis)) {
        return;
    }

    for (i = 0; i < w->options->nstreams; i++) {

        a = lw_script(w->redis, &script, 1);

        lw_arg_z(a, w->options->streams[i]);
        lw_arg_z(a, w->options->group);
        lw_arg_z(a, w->options->consumer);

        reply = lw_script_call(a, &script);

        lw_reply_free(reply);
    }
}
