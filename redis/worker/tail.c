/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * `lunary-worker tail`: runs as they come, in columns or as JSON lines.  It
 * reads the stream without a group: it leaves nothing behind.
 */

#include <stdlib.h>
#include <time.h>

#include "commands.h"
#include "display.h"


typedef struct {
    char            last[LW_STREAMS_MAX][64];
    lw_text_t       out;
    int             color;
} lw_tail_t;


static int lw_tail_begin(lw_t *w, lw_tail_t *t, unsigned stream);
static int lw_tail_follow(lw_t *w, lw_tail_t *t);
static int lw_tail_list(lw_t *w, lw_tail_t *t, redisReply *list,
    unsigned stream, int backwards);
static void lw_tail_entry(lw_t *w, lw_tail_t *t, const lw_entry_t *e);
static void lw_tail_head(lw_tail_t *t);
static void lw_tail_row(lw_tail_t *t, const lw_entry_t *e, const char *cost);
static void lw_tail_paint(lw_tail_t *t, const char *code, lunary_str_t s,
    size_t width);


int
lw_tail(lw_t *w, int argc, char **argv)
{
    int         rc;
    unsigned    i;
    lw_tail_t  *t;

    (void) argc;
    (void) argv;

    t = calloc(1, sizeof(*t));
    if (t == NULL) {
        return LW_EXIT_LEFT;
    }

    lw_text_init(&t->out, &w->mem);
    t->color = lw_display_color(w->options, stdout);

    rc = lw_redis_connect(w->redis);

    if (rc == LW_OK && !w->options->json) {
        lw_tail_head(t);
    }

    for (i = 0; rc == LW_OK && i < w->options->nstreams; i++) {
        rc = lw_tail_begin(w, t, i);
    }

    lw_redis_patience(w->redis, 1000);

    while (rc == LW_OK && !lw_stop && !w->options->follow_off) {

        rc = lw_tail_follow(w, t);

        while (rc == LW_REDIS && !lw_stop) {

            /* what came meanwhile is not missed: it is read by its id */

            lw_sleep(1000);
            rc = lw_redis_connect(w->redis);
            lw_redis_patience(w->redis, 1000);
        }
    }

    lw_text_free(&t->out);
    free(t);

    return rc == LW_REDIS && !lw_stop ? LW_EXIT_REDIS : LW_EXIT_OK;
}


static int
lw_tail_begin(lw_t *w, lw_tail_t *t, unsigned stream)
{
    int          rc;
    lw_args_t   *a;
    redisReply  *reply;

    memcpy(t->last[stream], "0-0", 4);

    a = lw_args(w->redis);
    lw_arg_lit(a, "XREVRANGE");
    lw_arg_z(a, w->options->streams[stream]);
    lw_arg_lit(a, "+");
    lw_arg_lit(a, "-");
    lw_arg_lit(a, "COUNT");
    lw_arg_int(a, w->options->last ? w->options->last : 1);

    reply = lw_args_call(a);

    if (!lw_reply_is_array(reply)) {
        lw_reply_free(reply);
        return LW_REDIS;
    }

    rc = lw_tail_list(w, t, reply, stream, 1);

    lw_reply_free(reply);

    return rc;
}


static int
lw_tail_follow(lw_t *w, lw_tail_t *t)
{
    int          rc;
    size_t       i;
    unsigned     k;
    lw_args_t   *a;
    redisReply  *reply, *row;

    a = lw_args(w->redis);
    lw_arg_lit(a, "XREAD");
    lw_arg_lit(a, "COUNT");
    lw_arg_lit(a, "100");
    lw_arg_lit(a, "BLOCK");
    lw_arg_lit(a, "1000");
    lw_arg_lit(a, "STREAMS");

    for (i = 0; i < w->options->nstreams; i++) {
        lw_arg_z(a, w->options->streams[i]);
    }

    for (i = 0; i < w->options->nstreams; i++) {
        lw_arg_z(a, t->last[i]);
    }

    reply = lw_args_call(a);

    if (reply == NULL || lw_reply_is_error(reply)) {
        lw_reply_free(reply);
        return LW_REDIS;
    }

    rc = LW_OK;

    for (i = 0; lw_reply_is_array(reply) && i < reply->elements; i++) {

        row = reply->element[i];

        for (k = 0; rc == LW_OK && lw_reply_is_array(row)
             && row->elements == 2 && k < w->options->nstreams; k++)
        {
            if (lw_str_same(lw_reply_str(row->element[0]),
                            lw_str(w->options->streams[k])))
            {
                rc = lw_tail_list(w, t, row->element[1], k, 0);
            }
        }
    }

    lw_reply_free(reply);

    return rc;
}


static int
lw_tail_list(lw_t *w, lw_tail_t *t, redisReply *list, unsigned stream,
    int backwards)
{
    size_t       i, n;
    lw_entry_t   e;

    n = list->elements;

    for (i = 0; i < n; i++) {

        if (lw_entry_take(&e, list->element[backwards ? n - 1 - i : i])
            != LW_OK)
        {
            continue;
        }

        (void) snprintf(t->last[stream], sizeof(t->last[0]), "%.*s",
                        (int) e.id.len, (const char *) e.id.data);

        if (!backwards || w->options->last) {
            lw_tail_entry(w, t, &e);
        }

        lw_entry_free(&e);
    }

    return (w->options->json ? lw_display_flush_json(&t->out)
                             : lw_display_flush(&t->out)) == LW_OK
           ? LW_OK : LW_STOPPED;
}


static void
lw_tail_entry(lw_t *w, lw_tail_t *t, const lw_entry_t *e)
{
    char          cost[32];
    int64_t       nano;
    lw_usage_t    u;

    if ((w->options->app
         && !lw_str_same(lw_field(e, APP), lw_str(w->options->app)))
        || (w->options->user
            && !lw_str_same(lw_field(e, USER_ID), lw_str(w->options->user))))
    {
        return;
    }

    cost[0] = '\0';

    if (e->run) {

        lw_entry_usage(e, &u);

        if (lw_prices_cost(w->prices, &u, &nano) == LW_COST_OK) {
            lw_cost_text(cost, nano);
        }
    }

    if (w->options->json) {
        lw_display_entry(&t->out, e, cost[0] ? cost : NULL);
        lw_text_lit(&t->out, "\n");
        return;
    }

    if (e->run) {
        lw_tail_row(t, e, cost);
    }
}


static void
lw_tail_head(lw_tail_t *t)
{
    lw_tail_paint(t, "1", lw_str("TIME     USER             APP        MODEL  "
                                 "                OUTCOME       IN     OUT  "
                                 "     COST      MS    TTFT"), 0);
    lw_text_lit(&t->out, "\n");
    (void) lw_display_flush(&t->out);
}


static void
lw_tail_row(lw_tail_t *t, const lw_entry_t *e, const char *cost)
{
    char         clock[16];
    time_t       at;
    struct tm    tm;
    const char  *code;

    at = (time_t) (lw_entry_int(e, LUNARY_F_ENDED_AT) / 1000);

    if (localtime_r(&at, &tm) == NULL
        || strftime(clock, sizeof(clock), "%H:%M:%S", &tm) == 0)
    {
        clock[0] = '\0';
    }

    lw_tail_paint(t, "2", lw_str(clock), 8);
    lw_text_lit(&t->out, " ");

    /* a claim is marked: nobody has proven it */

    lw_display_cell(&t->out, lw_field(e, USER_ID).len ? lw_field(e, USER_ID)
                                                      : lw_str("-"), 15, 0);
    lw_text_add(&t->out, lunary_eq(lw_field(e, USER_VERIFIED), "0") ? "? "
                                                                    : "  ", 2);
    lw_display_cell(&t->out, lw_field(e, APP), 10, 0);
    lw_text_lit(&t->out, " ");
    lw_display_cell(&t->out, lw_field(e, MODEL), 22, 0);
    lw_text_lit(&t->out, " ");

    code = lunary_eq(lw_field(e, OUTCOME), "ok") ? "32"
           : lunary_eq(lw_field(e, OUTCOME), "error")
             || lunary_eq(lw_field(e, OUTCOME), "timeout") ? "31" : "33";

    lw_tail_paint(t, code, lw_field(e, OUTCOME), 9);

    lw_display_count(&t->out, lw_entry_int(e, LUNARY_F_INPUT_TOKENS), 7);
    lw_text_lit(&t->out, " ");
    lw_display_count(&t->out, lw_entry_int(e, LUNARY_F_OUTPUT_TOKENS), 7);
    lw_text_lit(&t->out, " ");
    lw_display_cell(&t->out, cost[0] ? lunary_str(cost, strlen(cost) < 10
                                                        ? strlen(cost) : 10)
                                     : lw_str("-"), 10, 1);
    lw_text_lit(&t->out, " ");
    lw_display_count(&t->out, lw_entry_int(e, LUNARY_F_DURATION_MS), 7);
    lw_text_lit(&t->out, " ");
    lw_display_count(&t->out, lw_entry_int(e, LUNARY_F_TTFT_MS), 7);
    lw_text_lit(&t->out, "\n");
}


static void
lw_tail_paint(lw_tail_t *t, const char *code, lunary_str_t s, size_t width)
{
    if (t->color) {
        lw_text_fmt(&t->out, "\033[%sm", code);
    }

    lw_display_cell(&t->out, s, width, 0);

    if (t->color) {
        lw_text_lit(&t->out, "\033[0m");
    }
}
