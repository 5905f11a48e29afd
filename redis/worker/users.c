/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * `lunary-worker users`: the ledger's users, read and sorted.  How they are
 * shown: users_table.c, users_json.c.
 */

#include <stdlib.h>

#include "commands.h"
#include "display.h"
#include "scan.h"
#include "users.h"


#define LW_USERS_MAX    1000000
#define LW_USERS_ROUND  500


static int lw_users_load(lw_t *w, lw_table_t *t);
static int lw_users_scan(lw_t *w, lw_table_t *t, const char *kind);
static int lw_users_note(lw_table_t *t, lunary_str_t app);
static int lw_users_app(lw_t *w, lw_table_t *t, lunary_str_t app);
static int lw_users_ask(lw_t *w, const char *kind, lunary_str_t app,
    lunary_str_t id);
static int lw_users_answer(lw_t *w, lw_table_t *t, lunary_str_t app,
    lunary_str_t id, const char *rest);
static lunary_str_t lw_users_copy(lw_table_t *t, lunary_str_t s);
static lunary_str_t lw_users_field(const redisReply *hash, const char *name);
static int64_t lw_users_int(const redisReply *hash, const char *name,
    int64_t absent);
static int64_t lw_users_tokens(const lw_row_t *r);
static int lw_users_compare(const void *a, const void *b);
static void lw_users_free(lw_table_t *t);


static const char  *lw_users_order;


int
lw_users(lw_t *w, int argc, char **argv)
{
    int         rc;
    lw_text_t   out;
    lw_table_t  table;

    (void) argc;
    (void) argv;

    memset(&table, 0, sizeof(table));
    lw_text_init(&out, &w->mem);

    if (lw_redis_connect(w->redis) != LW_OK
        || lw_users_load(w, &table) != LW_OK)
    {
        lw_users_free(&table);
        return LW_EXIT_REDIS;
    }

    lw_users_order = w->options->sort;

    if (table.n) {
        qsort(table.rows, table.n, sizeof(*table.rows), lw_users_compare);
    }

    if (w->options->limit && table.n > (size_t) w->options->limit) {
        table.n = (size_t) w->options->limit;
    }

    if (w->options->html) {
        rc = lw_users_html(w, &table);

    } else {

        if (w->options->json) {
            lw_users_json(&table, &out);
            lw_text_lit(&out, "\n");
        } else {
            lw_users_table(w, &table, &out);
        }

        rc = w->options->json ? lw_display_flush_json(&out)
                              : lw_display_flush(&out);
    }

    lw_users_free(&table);
    lw_text_free(&out);

    return rc == LW_OK ? LW_EXIT_OK : LW_EXIT_LEFT;
}


/* the apps are those that have a list of users, or only nobodies */

static int
lw_users_load(lw_t *w, lw_table_t *t)
{
    int     rc;
    size_t  i;

    if (w->options->app) {
        return lw_users_app(w, t, lw_str(w->options->app));
    }

    rc = lw_users_scan(w, t, "users:");

    if (rc == LW_OK) {
        rc = lw_users_scan(w, t, "user-rest:");
    }

    for (i = 0; rc == LW_OK && i < t->napps; i++) {
        rc = lw_users_app(w, t, t->apps[i]);
    }

    return rc;
}


static int
lw_users_scan(lw_t *w, lw_table_t *t, const char *kind)
{
    int            rc, more;
    size_t         i;
    lw_scan_t      scan;
    lunary_str_t   app;
    redisReply    *list;

    lw_scan_begin(&scan, w, kind);

    do {
        rc = lw_scan_next(&scan, &list, &more);

        for (i = 0; rc == LW_OK && i < list->elements; i++) {

            if (!lw_scan_rest(&scan, list->element[i], &app)) {
                continue;
            }

            /* PREFIXuser-rest:<app>:none, or :claimed */

            if (kind[4] == '-') {

                while (app.len && app.data[app.len - 1] != ':') {
                    app.len--;
                }

                app.len -= (app.len != 0);
            }

            rc = lw_users_note(t, app);
        }

    } while (rc == LW_OK && more);

    lw_scan_end(&scan);

    return rc;
}


static int
lw_users_note(lw_table_t *t, lunary_str_t app)
{
    void    *p;
    size_t   i, cap;

    for (i = 0; i < t->napps; i++) {
        if (lw_str_same(t->apps[i], app)) {
            return LW_OK;
        }
    }

    if (t->napps == t->capps) {

        cap = t->capps ? t->capps * 2 : 64;
        p = realloc(t->apps, cap * sizeof(*t->apps));

        if (p == NULL) {
            return LW_NOMEM;
        }

        t->apps = p;
        t->capps = cap;
    }

    t->apps[t->napps] = lw_users_copy(t, app);

    if (app.len && t->apps[t->napps].data == NULL) {
        return LW_NOMEM;
    }

    t->napps++;

    return LW_OK;
}


/* some hundred users in a round trip */

static int
lw_users_app(lw_t *w, lw_table_t *t, lunary_str_t app)
{
    int           rc;
    size_t        i, k, n;
    lw_text_t     key;
    lw_args_t    *a;
    redisReply   *ids;

    static const char *const  rests[] = { "none", "claimed" };

    lw_text_init(&key, &w->mem);
    lw_text_fmt(&key, "%susers:", w->options->prefix);
    lw_text_str(&key, app);

    a = lw_args(w->redis);
    lw_arg_lit(a, "ZREVRANGE");
    lw_arg_str(a, lw_text_get(&key));
    lw_arg_lit(a, "0");
    lw_arg_int(a, LW_USERS_MAX - 1);

    ids = key.failed ? NULL : lw_args_call(a);
    lw_text_free(&key);

    if (!lw_reply_is_array(ids)) {
        lw_reply_free(ids);
        return LW_REDIS;
    }

    rc = LW_OK;

    for (i = 0; rc == LW_OK && i < ids->elements; i += n) {

        n = ids->elements - i;
        n = n < LW_USERS_ROUND ? n : LW_USERS_ROUND;

        for (k = i; rc == LW_OK && k < i + n; k++) {
            rc = lw_users_ask(w, "user:", app, lw_reply_str(ids->element[k]));
        }

        for (k = i; rc == LW_OK && k < i + n; k++) {
            rc = lw_users_answer(w, t, app, lw_reply_str(ids->element[k]),
                                 NULL);
        }
    }

    lw_reply_free(ids);

    for (i = 0; rc == LW_OK && i < 2; i++) {

        rc = lw_users_ask(w, "user-rest:", app, lw_str(rests[i]));

        if (rc == LW_OK) {
            rc = lw_users_answer(w, t, app, lunary_str(NULL, 0), rests[i]);
        }
    }

    return rc;
}


static int
lw_users_ask(lw_t *w, const char *kind, lunary_str_t app, lunary_str_t id)
{
    int         rc;
    lw_text_t   key;
    lw_args_t  *a;

    lw_text_init(&key, &w->mem);
    lw_text_fmt(&key, "%s%s", w->options->prefix, kind);
    lw_text_str(&key, app);
    lw_text_lit(&key, ":");
    lw_text_str(&key, id);

    a = lw_args(w->redis);
    lw_arg_lit(a, "HGETALL");
    lw_arg_str(a, lw_text_get(&key));

    rc = key.failed ? LW_NOMEM : lw_args_queue(a);

    lw_text_free(&key);

    return rc;
}


static int
lw_users_answer(lw_t *w, lw_table_t *t, lunary_str_t app, lunary_str_t id,
    const char *rest)
{
    void        *p;
    size_t       cap;
    int64_t      timed;
    lw_row_t    *r;
    redisReply  *hash;

    hash = lw_redis_reply(w->redis);

    /* a claimed user's keys may have ended before its place in the list */

    if (!lw_reply_is_array(hash) || hash->elements == 0) {

        cap = lw_reply_is_array(hash);
        lw_reply_free(hash);

        return cap ? LW_OK : LW_REDIS;
    }

    if (t->n == t->cap) {

        cap = t->cap ? t->cap * 2 : 64;
        p = realloc(t->rows, cap * sizeof(*t->rows));

        if (p == NULL) {
            lw_reply_free(hash);
            return LW_NOMEM;
        }

        t->rows = p;
        t->cap = cap;
    }

    r = &t->rows[t->n++];
    memset(r, 0, sizeof(*r));

    r->app = app;
    r->id = lw_users_copy(t, id);
    r->rest = rest;
    r->runs = lw_users_int(hash, "runs", 0);
    r->errors = lw_users_int(hash, "errors", 0);
    r->input = lw_users_int(hash, "input_tokens", -1);
    r->output = lw_users_int(hash, "output_tokens", -1);
    r->cost = lw_users_int(hash, "cost_nano", -1);
    r->unpriced = lw_users_int(hash, "unpriced_runs", 0);
    r->threads = lw_users_int(hash, "threads", 0);
    r->latency = lw_users_int(hash, "duration_ms", 0);

    timed = lw_users_int(hash, "timed_runs", 0);
    r->latency = timed > 0 ? r->latency / timed : -1;

    r->first = lw_users_int(hash, "first_seen", -1);
    r->last = lw_users_int(hash, "last_seen", -1);
    r->verified = lunary_eq(lw_users_field(hash, "verified"), "1");
    r->props = lw_users_field(hash, "props");
    r->models = lw_users_field(hash, "models");

    /* somebody may have written anything there */

    r->props = lunary_json_valid(r->props, 32)
               ? lw_users_copy(t, r->props) : lunary_str(NULL, 0);
    r->models = lunary_json_valid(r->models, 4)
                ? lw_users_copy(t, r->models) : lunary_str(NULL, 0);

    lw_reply_free(hash);

    return (id.len && r->id.data == NULL) ? LW_NOMEM : LW_OK;
}


static lunary_str_t
lw_users_copy(lw_table_t *t, lunary_str_t s)
{
    unsigned char  *p;

    if (s.len == 0) {
        return lunary_str(NULL, 0);
    }

    p = lw_pool_alloc(&t->pool, s.len);

    if (p == NULL) {
        return lunary_str(NULL, 0);
    }

    memcpy(p, s.data, s.len);

    return lunary_str(p, s.len);
}


static lunary_str_t
lw_users_field(const redisReply *hash, const char *name)
{
    size_t  i;

    for (i = 0; i + 1 < hash->elements; i += 2) {
        if (lw_str_same(lw_reply_str(hash->element[i]), lw_str(name))) {
            return lw_reply_str(hash->element[i + 1]);
        }
    }

    return lunary_str(NULL, 0);
}


static int64_t
lw_users_int(const redisReply *hash, const char *name, int64_t absent)
{
    int64_t  n;

    return lw_int(lw_users_field(hash, name), &n) ? n : absent;
}


static int64_t
lw_users_tokens(const lw_row_t *r)
{
    return (r->input > 0 ? r->input : 0) + (r->output > 0 ? r->output : 0);
}


static int
lw_users_compare(const void *a, const void *b)
{
    int              rc;
    size_t           n;
    int64_t          d;
    const lw_row_t  *x, *y;

    x = a;
    y = b;

    switch (lw_users_order[0]) {

    case 'r':
        d = y->runs - x->runs;
        break;

    case 't':
        d = lw_users_tokens(y) - lw_users_tokens(x);
        break;

    case 'l':
        d = y->last - x->last;
        break;

    case 'f':
        d = x->first - y->first;
        break;

    case 'u':
        d = 0;
        break;

    default: /* cost, then runs, as Lunary's page */
        d = y->cost - x->cost;
        d = d ? d : y->runs - x->runs;
    }

    if (d) {
        return d < 0 ? -1 : 1;
    }

    n = x->id.len < y->id.len ? x->id.len : y->id.len;
    rc = n ? memcmp(x->id.data, y->id.data, n) : 0;

    return rc ? rc : (x->id.len > y->id.len) - (x->id.len < y->id.len);
}


static void
lw_users_free(lw_table_t *t)
{
    free(t->rows);
    free(t->apps);
    lw_pool_free(&t->pool);
    memset(t, 0, sizeof(*t));
}
