/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * `lunary-worker users`: the ledger's users as a table, as JSON, or as one
 * self-contained page (users.html, with the rows as JSON in it).
 */

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "commands.h"
#include "display.h"


#define LW_USERS_MAX   1000000
#define LW_PAGE_MARK   "@USERS@"


__asm__(
    ".section .rodata\n"
    ".global lw_users_page\n"
    "lw_users_page:\n"
    ".incbin \"" LW_PAGE_FILE "\"\n"
    ".byte 0\n"
    ".previous\n"
);

extern const char  lw_users_page[];


typedef struct {
    lunary_str_t    app;
    lunary_str_t    id;
    redisReply     *hash;           /* owned                                  */
    const char     *rest;           /* "none", "claimed": counted together    */
    int64_t         runs;
    int64_t         errors;
    int64_t         input;
    int64_t         output;
    int64_t         cost;           /* nano; -1: unknown                      */
    int64_t         first;
    int64_t         last;
    lunary_str_t    props;
    int             verified;
} lw_row_t;

typedef struct {
    lw_row_t       *rows;
    size_t          n;
    size_t          cap;
    redisReply     *apps[LW_PROJECTS_MAX];   /* owned: names and ids          */
    size_t          napps;
} lw_table_t;


static int lw_users_load(lw_t *w, lw_table_t *t);
static int lw_users_scan(lw_t *w, lw_table_t *t);
static int lw_users_app(lw_t *w, lw_table_t *t, lunary_str_t app);
static int lw_users_hash(lw_t *w, lw_table_t *t, lunary_str_t app,
    lunary_str_t id, const char *rest);
static lunary_str_t lw_users_field(const redisReply *hash, const char *name);
static int64_t lw_users_int(const redisReply *hash, const char *name,
    int64_t absent);
static int lw_users_compare(const void *a, const void *b);
static void lw_users_table(lw_t *w, const lw_table_t *t, lw_text_t *out);
static void lw_users_time(lw_text_t *out, int64_t ms);
static void lw_users_json(const lw_table_t *t, lw_text_t *out);
static int lw_users_html(lw_t *w, const lw_table_t *t);
static lunary_str_t lw_users_prop(const lw_row_t *r, const char *name,
    lw_text_t *text);
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

        /* rows beyond the limit still own what they read */

        while (table.n > (size_t) w->options->limit) {
            freeReplyObject(table.rows[--table.n].hash);
        }
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

        rc = lw_display_flush(&out);
    }

    lw_users_free(&table);
    lw_text_free(&out);

    return rc == LW_OK ? LW_EXIT_OK : LW_EXIT_LEFT;
}


static int
lw_users_load(lw_t *w, lw_table_t *t)
{
    if (w->options->app) {
        return lw_users_app(w, t, lw_str(w->options->app));
    }

    return lw_users_scan(w, t);
}


/* the apps are those that have a list of users, or only nobodies */

static int
lw_users_scan(lw_t *w, lw_table_t *t)
{
    char           cursor[32], match[512];
    int            rc, kind;
    size_t         i, k, seen;
    lw_args_t     *a;
    redisReply    *reply, *list;
    lunary_str_t   key, app;

    static const char *const  kinds[] = { "users:", "user-rest:" };

    rc = LW_OK;

    for (kind = 0; kind < 2; kind++) {

        memcpy(cursor, "0", 2);

        do {
            (void) snprintf(match, sizeof(match), "%s%s*",
                            w->options->prefix, kinds[kind]);

            a = lw_args(w->redis);
            lw_arg_lit(a, "SCAN");
            lw_arg_z(a, cursor);
            lw_arg_lit(a, "MATCH");
            lw_arg_z(a, match);
            lw_arg_lit(a, "COUNT");
            lw_arg_lit(a, "1000");

            reply = lw_args_call(a);

            if (!lw_reply_is_array(reply) || reply->elements != 2) {
                if (reply) {
                    freeReplyObject(reply);
                }
                return LW_REDIS;
            }

            (void) snprintf(cursor, sizeof(cursor), "%.30s",
                            reply->element[0]->str);

            list = reply->element[1];

            for (i = 0; rc == LW_OK && i < list->elements
                 && t->napps < LW_PROJECTS_MAX; i++)
            {
                key = lw_reply_str(list->element[i]);
                k = strlen(match) - 1;
                app = lunary_str(key.data + k, key.len - k);

                if (kind == 1) {

                    /* PREFIXuser-rest:<app>:none, or :claimed */

                    while (app.len && app.data[app.len - 1] != ':') {
                        app.len--;
                    }

                    if (app.len) {
                        app.len--;
                    }
                }

                for (k = 0, seen = 0; k < t->n; k++) {
                    seen |= lw_str_same(t->rows[k].app, app);
                }

                if (seen) {
                    continue;
                }

                /* the key's bytes are kept as long as the table */

                t->apps[t->napps++] = list->element[i];
                list->element[i] = NULL;

                rc = lw_users_app(w, t, app);
            }

            freeReplyObject(reply);

        } while (rc == LW_OK && strcmp(cursor, "0") != 0);
    }

    return rc;
}


static int
lw_users_app(lw_t *w, lw_table_t *t, lunary_str_t app)
{
    int           rc;
    size_t        i;
    lw_text_t     key;
    lw_args_t    *a;
    redisReply   *ids;

    lw_text_init(&key, &w->mem);
    lw_text_fmt(&key, "%susers:", w->options->prefix);
    lw_text_str(&key, app);

    a = lw_args(w->redis);
    lw_arg_lit(a, "ZREVRANGE");
    lw_arg_str(a, lw_text_get(&key));
    lw_arg_lit(a, "0");
    lw_arg_int(a, LW_USERS_MAX);

    ids = lw_args_call(a);
    lw_text_free(&key);

    if (!lw_reply_is_array(ids) || t->napps == LW_PROJECTS_MAX) {
        if (ids) {
            freeReplyObject(ids);
        }
        return LW_REDIS;
    }

    t->apps[t->napps++] = ids;
    rc = LW_OK;

    for (i = 0; rc == LW_OK && i < ids->elements; i++) {
        rc = lw_users_hash(w, t, app, lw_reply_str(ids->element[i]), NULL);
    }

    if (rc == LW_OK) {
        rc = lw_users_hash(w, t, app, lunary_str(NULL, 0), "none");
    }

    if (rc == LW_OK) {
        rc = lw_users_hash(w, t, app, lunary_str(NULL, 0), "claimed");
    }

    return rc;
}


static int
lw_users_hash(lw_t *w, lw_table_t *t, lunary_str_t app, lunary_str_t id,
    const char *rest)
{
    void        *p;
    lw_row_t    *r;
    lw_text_t    key;
    lw_args_t   *a;
    redisReply  *hash;

    lw_text_init(&key, &w->mem);
    lw_text_fmt(&key, "%s%s", w->options->prefix,
                rest ? "user-rest:" : "user:");
    lw_text_str(&key, app);
    lw_text_lit(&key, ":");
    lw_text_str(&key, rest ? lw_str(rest) : id);

    a = lw_args(w->redis);
    lw_arg_lit(a, "HGETALL");
    lw_arg_str(a, lw_text_get(&key));

    hash = lw_args_call(a);
    lw_text_free(&key);

    if (!lw_reply_is_array(hash)) {
        if (hash) {
            freeReplyObject(hash);
        }
        return LW_REDIS;
    }

    /* a claimed user's keys may have ended before its place in the list */

    if (hash->elements == 0) {
        freeReplyObject(hash);
        return LW_OK;
    }

    if (t->n == t->cap) {

        t->cap = t->cap ? t->cap * 2 : 64;
        p = realloc(t->rows, t->cap * sizeof(*t->rows));

        if (p == NULL) {
            freeReplyObject(hash);
            return LW_REDIS;
        }

        t->rows = p;
    }

    r = &t->rows[t->n++];
    memset(r, 0, sizeof(*r));

    r->app = app;
    r->id = id;
    r->hash = hash;
    r->rest = rest;
    r->runs = lw_users_int(hash, "runs", 0);
    r->errors = lw_users_int(hash, "errors", 0);
    r->input = lw_users_int(hash, "input_tokens", 0);
    r->output = lw_users_int(hash, "output_tokens", 0);
    r->cost = lw_users_int(hash, "cost_nano", -1);
    r->first = lw_users_int(hash, "first_seen", -1);
    r->last = lw_users_int(hash, "last_seen", -1);
    r->verified = lunary_eq(lw_users_field(hash, "verified"), "1");
    r->props = lw_users_field(hash, "props");

    if (!lunary_json_valid(r->props, 32)) {
        r->props = lunary_str(NULL, 0);
    }

    return LW_OK;
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
        d = y->input + y->output - x->input - x->output;
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
lw_users_table(lw_t *w, const lw_table_t *t, lw_text_t *out)
{
    int              color;
    char             cost[32];
    size_t           i;
    lw_text_t        name, group;
    const lw_row_t  *r;

    color = lw_display_color(w->options, stdout);

    lw_text_init(&name, &w->mem);
    lw_text_init(&group, &w->mem);

    if (color) {
        lw_text_lit(out, "\033[1m");
    }

    lw_text_lit(out, "USER              NAME               GROUP      APP     "
                     "      RUNS ERRORS         IN        OUT        COST  "
                     "FIRST SEEN        LAST SEEN");

    if (color) {
        lw_text_lit(out, "\033[0m");
    }

    lw_text_lit(out, "\n");

    for (i = 0; i < t->n; i++) {

        r = &t->rows[i];

        if (r->cost >= 0) {
            lw_cost_text(cost, r->cost);
        } else {
            memcpy(cost, "-", 2);
        }

        lw_display_cell(out, r->rest
                             ? lw_str(r->rest[0] == 'n' ? "(no user)"
                                                        : "(unverified)")
                             : r->id, 15, 0);
        lw_text_add(out, r->verified || r->rest ? "   " : " ? ", 3);
        lw_display_cell(out, lw_users_prop(r, "name", &name), 18, 0);
        lw_text_lit(out, " ");
        lw_display_cell(out, lw_users_prop(r, "group", &group), 10, 0);
        lw_text_lit(out, " ");
        lw_display_cell(out, r->app, 10, 0);
        lw_display_count(out, r->runs, 8);
        lw_display_count(out, r->errors, 7);
        lw_display_count(out, r->input, 11);
        lw_display_count(out, r->output, 11);
        lw_display_cell(out, lw_str(cost), 12, 1);
        lw_text_lit(out, "  ");
        lw_users_time(out, r->first);
        lw_text_lit(out, "  ");
        lw_users_time(out, r->last);
        lw_text_lit(out, "\n");
    }

    lw_text_free(&name);
    lw_text_free(&group);
}


static void
lw_users_time(lw_text_t *out, int64_t ms)
{
    char       text[32];
    time_t     at;
    struct tm  tm;

    at = (time_t) (ms / 1000);

    if (ms < 0 || localtime_r(&at, &tm) == NULL
        || strftime(text, sizeof(text), "%Y-%m-%d %H:%M", &tm) == 0)
    {
        memcpy(text, "-", 2);
    }

    lw_display_cell(out, lw_str(text), 16, 0);
}


static void
lw_users_json(const lw_table_t *t, lw_text_t *out)
{
    char             cost[32];
    size_t           i;
    lunary_str_t     models;
    const lw_row_t  *r;

    lw_text_lit(out, "[");

    for (i = 0; i < t->n; i++) {

        r = &t->rows[i];

        lw_text_add(out, ",\n", i ? 2 : 0);
        lw_text_lit(out, "{\"app\":");
        lw_text_json(out, r->app);

        if (r->rest) {
            lw_text_fmt(out, ",\"rest\":\"%s\"", r->rest);

        } else {
            lw_text_lit(out, ",\"user_id\":");
            lw_text_json(out, r->id);
            lw_text_fmt(out, ",\"verified\":%s",
                        r->verified ? "true" : "false");
        }

        if (r->props.len) {
            lw_text_lit(out, ",\"props\":");
            lw_text_str(out, r->props);
        }

        lw_text_fmt(out, ",\"runs\":%lld,\"errors\":%lld,"
                    "\"input_tokens\":%lld,\"output_tokens\":%lld",
                    (long long) r->runs, (long long) r->errors,
                    (long long) r->input, (long long) r->output);

        if (r->cost >= 0) {
            lw_cost_text(cost, r->cost);
            lw_text_fmt(out, ",\"cost_usd\":%s", cost);
        }

        lw_text_fmt(out, ",\"unpriced_runs\":%lld,\"threads\":%lld",
                    (long long) lw_users_int(r->hash, "unpriced_runs", 0),
                    (long long) lw_users_int(r->hash, "threads", 0));

        models = lw_users_field(r->hash, "models");

        if (models.len && lunary_json_valid(models, 4)) {
            lw_text_lit(out, ",\"models\":");
            lw_text_str(out, models);
        }

        if (r->first >= 0) {
            lw_text_fmt(out, ",\"first_seen\":%lld", (long long) r->first);
        }

        if (r->last >= 0) {
            lw_text_fmt(out, ",\"last_seen\":%lld", (long long) r->last);
        }

        lw_text_lit(out, "}");
    }

    lw_text_lit(out, "]");
}


/*
 * The rows are JSON inside a script element that is no script: the one thing
 * that could end it, "<", is written as an escape.
 */

static int
lw_users_html(lw_t *w, const lw_table_t *t)
{
    int           rc;
    FILE         *f;
    size_t        i, from;
    lw_text_t     json, page;
    const char   *mark;

    lw_text_init(&json, &w->mem);
    lw_text_init(&page, &w->mem);

    lw_users_json(t, &json);

    mark = strstr(lw_users_page, LW_PAGE_MARK);

    lw_text_add(&page, lw_users_page, (size_t) (mark - lw_users_page));

    for (i = 0, from = 0; i < json.buf.len; i++) {

        if (json.buf.data[i] == '<') {
            lw_text_add(&page, json.buf.data + from, i - from);
            lw_text_lit(&page, "\\u003c");
            from = i + 1;
        }
    }

    lw_text_add(&page, json.buf.data + from, json.buf.len - from);

    mark += sizeof(LW_PAGE_MARK) - 1;
    lw_text_add(&page, mark, strlen(mark));

    rc = LW_ERROR;

    if (!json.failed && !page.failed) {

        f = strcmp(w->options->html, "-") == 0 ? stdout
                                               : fopen(w->options->html, "we");

        if (f && fwrite(page.buf.data, 1, page.buf.len, f) == page.buf.len
            && fflush(f) == 0)
        {
            rc = LW_OK;
        }

        if (rc != LW_OK) {
            lw_log(LW_LOG_ERROR, "%s: %s", w->options->html,
                   strerror(errno));
        }

        if (f && f != stdout) {
            (void) fclose(f);
        }
    }

    lw_text_free(&json);
    lw_text_free(&page);

    return rc;
}


static lunary_str_t
lw_users_prop(const lw_row_t *r, const char *name, lw_text_t *text)
{
    lunary_str_t  v;

    v = lunary_json_get_n(r->props, name, strlen(name));

    lw_text_clear(text);

    if (lunary_json_is_string(v)) {
        lw_text_plain(text, v);

    } else if (lunary_json_type(v) == LUNARY_JSON_NUMBER) {
        lw_text_str(text, v);
    }

    return lw_text_get(text);
}


static void
lw_users_free(lw_table_t *t)
{
    size_t  i;

    for (i = 0; i < t->n; i++) {
        freeReplyObject(t->rows[i].hash);
    }

    for (i = 0; i < t->napps; i++) {
        freeReplyObject(t->apps[i]);
    }

    free(t->rows);
    memset(t, 0, sizeof(*t));
}
