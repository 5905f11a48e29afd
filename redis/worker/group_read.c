/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * How entries come: those that this consumer was given before, those that
 * others left, new ones, and of these the next batch ahead of time.
 *
 * Invariants
 *   - the batch owns the replies that its entries lie in;
 *   - COUNT follows the size of entries: what is read at a time is about
 *     --batch-bytes, and --batch entries at most.
 */

#include <stdlib.h>

#include "group_internal.h"


#define LW_SOON_MS       200
#define LW_SHARD_COUNT   16


static int lw_group_judge(lw_t *w, unsigned stream, size_t from);
static int lw_group_read(lw_t *w, int64_t block);
static void lw_group_command(lw_t *w, lw_args_t *a, int64_t block);
static int64_t lw_group_count(lw_t *w);
static int lw_group_reply(lw_t *w, redisReply *reply);
static int lw_group_own(lw_batch_t *b, redisReply *reply);
static int lw_group_add(lw_t *w, const redisReply *list, unsigned stream,
    int again);


/* entries that this consumer was given and never acknowledged */

int
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

int
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

        rc = lw_group_tidy(w, (unsigned) i);

        if (rc != LW_OK) {
            return rc;
        }
    }

    return LW_OK;
}


/*
 * Members with a made-up name (host-pid) that ended with entries pending, and
 * have none left now.  One that lives asks each second, or has some in hand;
 * would it be taken all the same, Redis makes it anew when it asks.
 */

int
lw_group_tidy(lw_t *w, unsigned stream)
{
    lw_args_t   *a;
    redisReply  *reply;

    static lw_script_t  script = {
        "for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1],"
        " ARGV[1])) do "
        "local c = {} "
        "for i = 1, #row, 2 do c[row[i]] = row[i + 1] end "
        "if c.pending == 0 and c.idle >= tonumber(ARGV[3])"
        " and c.name ~= ARGV[2] and string.find(c.name, '.%-%d+$') then "
        "redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], c.name) "
        "end end "
        "return 0", ""
    };

    a = lw_script(w->redis, &script, 1);

    lw_arg_z(a, w->options->streams[stream]);
    lw_arg_z(a, w->options->group);
    lw_arg_z(a, w->options->consumer);
    lw_arg_int(a, w->options->claim_after);

    reply = lw_script_call(a, &script);

    if (reply == NULL) {
        return LW_REDIS;
    }

    /* where it is not allowed nothing depends on it */

    lw_reply_free(reply);

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

int
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
