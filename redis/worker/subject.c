/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Finding what is kept about a user.  See subject.h.
 */

#include <ctype.h>
#include <stdlib.h>

#include "scan.h"
#include "subject.h"


typedef struct {
    uint64_t       *slots;         /* hashes of run ids; 0 is free            */
    size_t          n;
    size_t          size;
} lw_runs_t;


static int lw_subject_stream(lw_t *w, lw_subject_t *s, const char *stream,
    int dead, lw_runs_t *runs);
static int lw_subject_mine(lw_t *w, const lw_entry_t *e, lw_runs_t *runs);
static int lw_subject_uuid(lunary_str_t id);
static int lw_subject_note(lw_runs_t *runs, lunary_str_t id, int *added);
static int lw_subject_noted(const lw_runs_t *runs, lunary_str_t id);
static int lw_subject_keys(lw_t *w, lw_subject_t *s, const lw_runs_t *runs);
static int lw_subject_mark(lw_t *w, lw_subject_t *s, const lw_runs_t *runs,
    lunary_str_t key);
static int lw_subject_key(lw_t *w, lunary_str_t key, const lw_runs_t *runs,
    int *policy);
static int lw_subject_owner(lw_t *w, lunary_str_t key);
static int lw_subject_value(lw_t *w, lunary_str_t key, lunary_str_t rest,
    int skip);
static int lw_subject_rest(lw_t *w, lunary_str_t key, const char *kind,
    lunary_str_t *rest);


int
lw_subject_find(lw_t *w, lw_subject_t *s)
{
    int         rc;
    char        dead[512];
    size_t      i;
    lw_runs_t   runs;

    memset(&runs, 0, sizeof(runs));

    rc = LW_OK;

    for (i = 0; rc == LW_OK && i < w->options->nstreams; i++) {
        rc = lw_subject_stream(w, s, w->options->streams[i], 0, &runs);
    }

    for (i = 0; rc == LW_OK && i < w->options->nstreams; i++) {

        (void) snprintf(dead, sizeof(dead), "%s:dead",
                        w->options->streams[i]);

        rc = lw_subject_stream(w, s, dead, 1, &runs);
    }

    if (rc == LW_OK) {
        rc = lw_subject_keys(w, s, &runs);
    }

    free(runs.slots);

    return rc;
}


static int
lw_subject_stream(lw_t *w, lw_subject_t *s, const char *stream, int dead,
    lw_runs_t *runs)
{
    int            rc, added;
    char           from[80];
    size_t         i, n;
    lw_args_t     *a;
    lw_entry_t     e;
    redisReply    *reply;

    memcpy(from, "-", 2);
    rc = LW_OK;

    do {

        if (lw_stop) {
            return LW_STOPPED;
        }

        a = lw_args(w->redis);
        lw_arg_lit(a, "XRANGE");
        lw_arg_z(a, stream);
        lw_arg_z(a, from);
        lw_arg_lit(a, "+");
        lw_arg_lit(a, "COUNT");
        lw_arg_lit(a, "500");

        reply = lw_args_call(a);

        if (!lw_reply_is_array(reply)) {
            lw_reply_free(reply);
            return LW_REDIS;
        }

        n = reply->elements;

        for (i = 0; rc == LW_OK && i < n; i++) {

            if (lw_entry_take(&e, reply->element[i]) != LW_OK) {
                continue;
            }

            (void) snprintf(from, sizeof(from), "(%.*s", (int) e.id.len,
                            (const char *) e.id.data);

            if (lw_subject_mine(w, &e, runs)) {

                added = 0;

                if (lw_field(&e, RUN_ID).len) {
                    rc = lw_subject_note(runs, lw_field(&e, RUN_ID), &added);
                }

                /* Lunary has an id of its own for what is no UUID */

                if (added && s->run
                    && lw_subject_uuid(lw_field(&e, RUN_ID)))
                {
                    rc = s->run(w, s->ctx, lw_field(&e, RUN_ID));
                }

                if (rc == LW_OK) {
                    rc = s->entry(w, s->ctx, stream, dead, &e);
                }
            }

            lw_entry_free(&e);
        }

        lw_reply_free(reply);

    } while (rc == LW_OK && n == 500);

    return rc;
}


/* named in it, or an SDK's event of a run that is the user's */

static int
lw_subject_mine(lw_t *w, const lw_entry_t *e, lw_runs_t *runs)
{
    lunary_str_t  app;

    app = lw_field(e, APP).len ? lw_field(e, APP) : lw_str("default");

    if (!lw_str_same(app, lw_str(w->options->app))) {
        return 0;
    }

    if (lw_field(e, USER_ID).len) {
        return lw_str_same(lw_field(e, USER_ID), lw_str(w->options->user));
    }

    if (lw_str_same(lw_field(e, CLAIMED_USER_ID), lw_str(w->options->user))) {
        return 1;
    }

    return lw_field(e, RUN_ID).len
           && lw_subject_noted(runs, lw_field(e, RUN_ID));
}


static int
lw_subject_uuid(lunary_str_t id)
{
    size_t  i;

    for (i = 0; i < id.len; i++) {
        if (!isxdigit(id.data[i]) && id.data[i] != '-') {
            return 0;
        }
    }

    return id.len == 36;
}


static int
lw_subject_note(lw_runs_t *runs, lunary_str_t id, int *added)
{
    size_t     i, k, size;
    uint64_t   h, *slots;

    if (lw_subject_noted(runs, id)) {
        return LW_OK;
    }

    if (runs->n * 2 >= runs->size) {

        size = runs->size ? runs->size * 2 : 1024;
        slots = calloc(size, sizeof(*slots));

        if (slots == NULL) {
            return LW_NOMEM;
        }

        for (i = 0; i < runs->size; i++) {

            if (runs->slots[i] == 0) {
                continue;
            }

            for (k = runs->slots[i] & (size - 1); slots[k];
                 k = (k + 1) & (size - 1))
            {
                /* void */
            }

            slots[k] = runs->slots[i];
        }

        free(runs->slots);
        runs->slots = slots;
        runs->size = size;
    }

    h = lw_hash(id, 4) | 1;

    for (i = h & (runs->size - 1); runs->slots[i];
         i = (i + 1) & (runs->size - 1))
    {
        /* void */
    }

    runs->slots[i] = h;
    runs->n++;
    *added = 1;

    return LW_OK;
}


static int
lw_subject_noted(const lw_runs_t *runs, lunary_str_t id)
{
    size_t    i;
    uint64_t  h;

    if (runs->size == 0) {
        return 0;
    }

    h = lw_hash(id, 4) | 1;

    for (i = h & (runs->size - 1); runs->slots[i];
         i = (i + 1) & (runs->size - 1))
    {
        if (runs->slots[i] == h) {
            return 1;
        }
    }

    return 0;
}


/* all keys of the prefix are looked at: names hold what cannot be globbed */

static int
lw_subject_keys(lw_t *w, lw_subject_t *s, const lw_runs_t *runs)
{
    int            rc, more, policy;
    size_t         i;
    lw_scan_t      scan;
    redisReply    *list;
    lunary_str_t   key;

    lw_scan_begin(&scan, w, "");

    do {
        rc = lw_scan_next(&scan, &list, &more);

        for (i = 0; rc == LW_OK && i < list->elements; i++) {

            key = lw_reply_str(list->element[i]);
            policy = 0;

            switch (lw_subject_key(w, key, runs, &policy)) {

            case 1:
                rc = s->key(w, s->ctx, key, policy);

                if (rc == LW_OK) {
                    rc = lw_subject_mark(w, s, runs, key);
                }

                break;

            case LW_REDIS:
                rc = LW_REDIS;
                break;

            default:
                break;
            }
        }

        if (rc == LW_OK && lw_stop) {
            rc = LW_STOPPED;
        }

    } while (rc == LW_OK && more);

    lw_scan_end(&scan);

    return rc;
}


/*
 * A run that was relayed, and is not in the stream any more: only this key
 * tells whose the mark of its chat messages is.
 */

static int
lw_subject_mark(lw_t *w, lw_subject_t *s, const lw_runs_t *runs,
    lunary_str_t key)
{
    int           rc, there;
    lw_args_t    *a;
    lw_text_t     mark;
    redisReply   *reply;
    lunary_str_t  rest, id;

    if (!lw_subject_rest(w, key, "relay:run:", &rest)) {
        return LW_OK;
    }

    id = lunary_str(rest.data + strlen(w->options->app) + 1,
                    rest.len - strlen(w->options->app) - 1);

    if (lw_subject_noted(runs, id)) {
        return LW_OK;
    }

    lw_text_init(&mark, &w->mem);
    lw_text_str(&mark, lw_str(w->options->prefix));
    lw_text_lit(&mark, "relay:chat:");
    lw_text_str(&mark, rest);

    a = lw_args(w->redis);
    lw_arg_lit(a, "GET");
    lw_arg_str(a, lw_text_get(&mark));

    reply = mark.failed ? NULL : lw_args_call(a);
    rc = reply == NULL || lw_reply_is_error(reply) ? LW_REDIS : LW_OK;
    there = (rc == LW_OK && reply->type == REDIS_REPLY_STRING);

    lw_reply_free(reply);

    if (there) {
        rc = s->key(w, s->ctx, lw_text_get(&mark), 0);
    }

    lw_text_free(&mark);

    return rc;
}


/* 1: the user's; 0: not; LW_REDIS */

static int
lw_subject_key(lw_t *w, lunary_str_t key, const lw_runs_t *runs, int *policy)
{
    size_t        i;
    lunary_str_t  rest, app;

    /* kinds whose name is <app>:<id>, with how many bytes may follow */

    static const struct {
        const char  *kind;
        int          more;        /* 0 none, 10 a date, -1 anything but ':'   */
    } named[] = {
        { "user:",         0 },
        { "user-threads:", 0 },
        { "user-day:",     10 },
        { "budget:",       -1 },
        { "policy:",       0 }
    };

    for (i = 0; i < sizeof(named) / sizeof(named[0]); i++) {

        if (!lw_subject_rest(w, key, named[i].kind, &rest)) {
            continue;
        }

        app = lw_str(w->options->app);

        if (rest.len <= app.len || rest.data[app.len] != ':'
            || memcmp(rest.data, app.data, app.len) != 0)
        {
            return 0;
        }

        rest.data += app.len + 1;
        rest.len -= app.len + 1;

        app = lw_str(w->options->user);

        if (rest.len < app.len || memcmp(rest.data, app.data, app.len) != 0) {
            return 0;
        }

        rest.data += app.len;
        rest.len -= app.len;

        *policy = (named[i].kind[0] == 'p');

        if (named[i].more == 0) {
            return rest.len == 0;
        }

        if (rest.len == 0 || rest.data[0] != ':') {
            return 0;
        }

        if (named[i].more > 0) {
            return rest.len == (size_t) named[i].more + 1;
        }

        /* budgets: <period>, and what the module puts behind it */

        return 1;
    }

    if (lw_subject_rest(w, key, "run:", &rest)
        || lw_subject_rest(w, key, "thread:", &rest))
    {
        return lw_subject_owner(w, key);
    }

    if (lw_subject_rest(w, key, "relay:run:", &rest)) {
        return lw_subject_value(w, key, rest, 2);
    }

    if (lw_subject_rest(w, key, "relay:chat:", &rest)) {

        app = lw_str(w->options->app);

        return rest.len > app.len && rest.data[app.len] == ':'
               && memcmp(rest.data, app.data, app.len) == 0
               && lw_subject_noted(runs,
                                   lunary_str(rest.data + app.len + 1,
                                              rest.len - app.len - 1));
    }

    if (lw_subject_rest(w, key, "ledger:open:", &rest)) {
        return lw_subject_value(w, key, rest, 0);
    }

    return 0;
}


static int
lw_subject_rest(lw_t *w, lunary_str_t key, const char *kind,
    lunary_str_t *rest)
{
    size_t  n, k;

    n = strlen(w->options->prefix);
    k = strlen(kind);

    if (key.len <= n + k || memcmp(key.data + n, kind, k) != 0) {
        return 0;
    }

    *rest = lunary_str(key.data + n + k, key.len - n - k);

    return 1;
}


/* a run or thread that others inherit the user of */

static int
lw_subject_owner(lw_t *w, lunary_str_t key)
{
    int          rc;
    lw_args_t   *a;
    redisReply  *reply;

    a = lw_args(w->redis);
    lw_arg_lit(a, "HMGET");
    lw_arg_str(a, key);
    lw_arg_lit(a, "app");
    lw_arg_lit(a, "user");

    reply = lw_args_call(a);

    if (reply == NULL) {
        return LW_REDIS;
    }

    rc = lw_reply_is_array(reply) && reply->elements == 2
         && lw_str_same(lw_reply_str(reply->element[0]),
                        lw_str(w->options->app))
         && lw_str_same(lw_reply_str(reply->element[1]),
                        lw_str(w->options->user));

    lw_reply_free(reply);

    return rc;
}


/* a key <app>:<run id> whose value ends, behind `skip` blanks, in the user */

static int
lw_subject_value(lw_t *w, lunary_str_t key, lunary_str_t rest, int skip)
{
    int          rc;
    lw_args_t   *a;
    redisReply  *reply;
    lunary_str_t v, app;

    const unsigned char  *p;

    app = lw_str(w->options->app);

    if (rest.len <= app.len || rest.data[app.len] != ':'
        || memcmp(rest.data, app.data, app.len) != 0)
    {
        return 0;
    }

    a = lw_args(w->redis);
    lw_arg_lit(a, "GET");
    lw_arg_str(a, key);

    reply = lw_args_call(a);

    if (reply == NULL) {
        return LW_REDIS;
    }

    v = lw_reply_str(reply);

    while (skip-- > 0 && v.len) {

        p = memchr(v.data, ' ', v.len);

        if (p == NULL) {
            v.len = 0;
            break;
        }

        v = lunary_str(p + 1, (size_t) (v.data + v.len - p) - 1);
    }

    rc = v.len && lw_str_same(v, lw_str(w->options->user));

    lw_reply_free(reply);

    return rc;
}
