/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A member of a consumer group.  See group.h.
 */

#include <stdlib.h>

#include "group_internal.h"


#define LW_BACKOFF_MIN   250
#define LW_BACKOFF_MAX   15000
#define LW_MEAN          131072        /* bytes of an entry, to begin with   */


static int lw_group_connect(lw_t *w);
static int lw_group_cycle(lw_t *w, int *idle);
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
                lw_group_metrics(w, 1);
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

    if (rc == LW_OK && w->options->once && group.unburied) {
        rc = LW_ERROR;
    }

    lw_group_metrics(w, w->options->once);
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

int
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


int
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


/* SIGHUP: the same command line and the file as it is now */

static int
lw_group_reread(lw_t *w, int argc, char **argv)
{
    int            rc;
    lw_redis_t    *redis;
    lw_prices_t   *prices;
    lw_options_t  *fresh;

    /* a batch that the signal cut short is dropped, and still ours */

    w->group->again = 1;

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

        /*
         * Nor are those whose entries this one took: where it failed, nothing
         * else removes them, and cron makes a new name each time
         */

        if (lw_group_tidy(w, (unsigned) i) != LW_OK) {
            return;
        }
    }
}
