/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The ledger.  See ledger.h; the step in Redis is ledger.lua.
 */

#include <stdlib.h>

#include "ledger_internal.h"


static int lw_ledger_take(lw_t *w, lw_batch_t *b, int last);
static size_t lw_ledger_wants(lw_t *w);
static int lw_ledger_reload(lw_t *w);
static void lw_ledger_reset(lw_t *w);
static int lw_ledger_read(lw_t *w, lw_ledger_t *l, lw_batch_t *b);
static int lw_ledger_twins(lw_t *w, lw_ledger_t *l);
static void lw_ledger_run(lw_t *w, lw_share_t *s);
static void lw_ledger_event(lw_t *w, lw_share_t *s);
static lunary_str_t lw_ledger_text(lw_share_t *s, lunary_str_t v);
static void lw_ledger_price(lw_t *w, lw_share_t *s, const lw_usage_t *u);
static int lw_ledger_starts(lw_t *w, lw_ledger_t *l);
static int lw_ledger_started(lw_t *w, lw_share_t *s);
static int lw_ledger_props(lw_t *w, lw_ledger_t *l);
static void lw_ledger_sort(lw_ledger_t *l);
static int lw_ledger_compare(const void *a, const void *b);


static lw_ledger_t   lw_ledger_state;
static lw_share_t   *lw_ledger_shares;

static const lw_handler_t  lw_ledger_handler = {
    lw_ledger_take,
    lw_ledger_wants,
    lw_ledger_reload,
    lw_ledger_reset
};


int
lw_ledger(lw_t *w, int argc, char **argv)
{
    int           rc;
    lw_ledger_t  *l;

    l = &lw_ledger_state;

    lw_text_init(&l->pack, &w->mem);

    rc = lw_group_run(w, &lw_ledger_handler, argc, argv);

    lw_text_free(&l->pack);
    free(l->shares);
    free(l->order);
    free(l->pick);

    return rc;
}


static size_t
lw_ledger_wants(lw_t *w)
{
    (void) w;

    return 0;
}


static int
lw_ledger_reload(lw_t *w)
{
    (void) w;

    return LW_OK;
}


static void
lw_ledger_reset(lw_t *w)
{
    (void) w;
}


static int
lw_ledger_take(lw_t *w, lw_batch_t *b, int last)
{
    int           rc;
    size_t        i;
    unsigned      stream;
    lw_ledger_t  *l;

    (void) last;

    l = &lw_ledger_state;

    rc = lw_ledger_read(w, l, b);

    if (rc == LW_OK) {
        rc = lw_ledger_starts(w, l);
    }

    if (rc == LW_OK) {
        rc = lw_ledger_props(w, l);
    }

    if (rc == LW_OK) {
        rc = lw_group_ahead(w);
    }

    if (rc == LW_OK) {
        lw_ledger_sort(l);
    }

    for (stream = 0; rc == LW_OK && stream < w->options->nstreams; stream++) {
        rc = lw_ledger_stream(w, l, stream);
    }

    for (i = 0; i < l->n; i++) {
        lw_text_free(&l->shares[i].text);
    }

    l->n = 0;

    return rc == LW_NOMEM ? LW_REDIS : rc;
}


static int
lw_ledger_read(lw_t *w, lw_ledger_t *l, lw_batch_t *b)
{
    void        *shares, *order, *pick;
    size_t       i;
    lw_share_t  *s;

    if (b->n > l->cap) {

        shares = realloc(l->shares, b->n * sizeof(*l->shares));

        if (shares) {
            l->shares = shares;
        }

        order = realloc(l->order, b->n * sizeof(*l->order));

        if (order) {
            l->order = order;
        }

        pick = realloc(l->pick, b->n * sizeof(*l->pick));

        if (pick) {
            l->pick = pick;
        }

        if (shares == NULL || order == NULL || pick == NULL) {
            lw_log(LW_LOG_ERROR, "no memory for a batch");
            return LW_NOMEM;
        }

        l->cap = b->n;
    }

    for (i = 0; i < b->n; i++) {

        s = &l->shares[i];
        memset(s, 0, sizeof(*s));

        s->entry = &b->entries[i];
        s->cost = -1;
        lw_text_init(&s->text, &w->mem);

        s->app = lw_field(s->entry, APP);

        if (s->app.len == 0) {
            s->app = lw_str("default");
        }

        if (s->entry->run) {
            lw_ledger_run(w, s);

        } else if (s->entry->event) {
            lw_ledger_event(w, s);

        } else {
            w->skipped++;
        }
    }

    l->n = b->n;

    return lw_ledger_twins(w, l);
}


/* a run, or event, that is in the batch twice counts once */

static int
lw_ledger_twins(lw_t *w, lw_ledger_t *l)
{
    size_t       i, k, size;
    lw_share_t  *s, **table;

    for (size = 64; size < l->n * 2; size *= 2) {
        /* void */
    }

    table = calloc(size, sizeof(*table));
    if (table == NULL) {
        return LW_NOMEM;
    }

    for (i = 0; w->options->dedup && i < l->n; i++) {

        s = &l->shares[i];

        if (s->member.len == 0) {
            continue;
        }

        for (k = lw_hash(s->member, 3) & (size - 1); table[k];
             k = (k + 1) & (size - 1))
        {
            if (lw_str_same(table[k]->member, s->member)) {
                s->counts = 0;
                w->skipped++;
                break;
            }
        }

        if (table[k] == NULL) {
            table[k] = s;
        }
    }

    free(table);

    return LW_OK;
}


static void
lw_ledger_run(lw_t *w, lw_share_t *s)
{
    int64_t            ms;
    lw_usage_t         u;
    lunary_str_t       outcome;
    const lw_entry_t  *e;

    e = s->entry;

    s->counts = 1;
    s->user = lw_field(e, USER_ID);
    s->model = lw_field(e, MODEL).len ? lw_field(e, MODEL)
                                      : lw_field(e, RESPONSE_MODEL);
    s->thread = lw_field(e, THREAD_ID);
    s->verified = lunary_eq(lw_field(e, USER_VERIFIED), "1");

    s->first = lw_entry_int(e, LUNARY_F_STARTED_AT);
    s->last = lw_entry_int(e, LUNARY_F_ENDED_AT);

    if (s->first < 0) {
        s->first = lw_now();
    }

    if (s->last < s->first) {
        s->last = s->first;
    }

    lw_ledger_member(s, lw_field(e, RUN_ID));

    outcome = lw_field(e, OUTCOME);

    s->sums[LW_SUM_RUNS] = 1;
    s->sums[LW_SUM_ERRORS] = lunary_eq(outcome, "error")
                             || lunary_eq(outcome, "timeout")
                             || lunary_eq(outcome, "truncated");
    s->sums[LW_SUM_ABORTED] = lunary_eq(outcome, "aborted");
    s->sums[LW_SUM_REJECTED] = lunary_eq(outcome, "rejected");
    s->sums[LW_SUM_CLAIMED] = (s->user.len && !s->verified);

    /* a refusal takes no time, and says nothing of an answer's */

    ms = lw_entry_int(e, LUNARY_F_DURATION_MS);

    if (ms >= 0 && !s->sums[LW_SUM_REJECTED]) {
        s->sums[LW_SUM_TIMED] = 1;
        s->sums[LW_SUM_DURATION] = ms;
    }

    lw_entry_usage(e, &u);
    lw_ledger_price(w, s, &u);
}


static void
lw_ledger_price(lw_t *w, lw_share_t *s, const lw_usage_t *u)
{
    if (u->input > 0) {
        s->sums[LW_SUM_INPUT] = u->input;
    }

    if (u->output > 0) {
        s->sums[LW_SUM_OUTPUT] = u->output;
    }

    switch (lw_prices_cost(w->prices, u, &s->cost)) {

    case LW_COST_OK:
    case LW_COST_NO_USAGE:
        break;

    default:
        s->cost = -1;
        s->sums[LW_SUM_UNPRICED] = 1;
        w->unpriced++;
    }
}


/*
 * What an SDK says of a call that did not pass nginx: its start is a run, its
 * end has the tokens.  Users in events are claims.
 */

static void
lw_ledger_event(lw_t *w, lw_share_t *s)
{
    int64_t        ms;
    lw_usage_t     u;
    lunary_str_t   event, type, what, usage, run;

    event = lw_field(s->entry, EVENT);

    if (!lunary_json_valid(event, 512)
        || lunary_buf_reserve(s->text.mem, &s->text.buf, event.len)
           != LUNARY_OK)
    {
        w->skipped++;
        return;
    }

    s->user = lw_ledger_text(s, lunary_json_get(event, "userId"));

    if (s->user.len > 256) {
        s->user = lunary_str(NULL, 0);
    }

    type = lunary_json_inside(lunary_json_get(event, "type"));
    what = lunary_json_inside(lunary_json_get(event, "event"));

    if (!lunary_eq(type, "llm") || strcmp(w->options->llm, "drop") == 0) {
        return;
    }

    s->first = lw_now();

    /* a client's word: no user is seen in the future */

    if (lunary_json_int(lunary_json_get(event, "timestamp"), &ms) && ms > 0
        && ms < s->first)
    {
        s->first = ms;
    }

    s->last = s->first;
    s->counts = 1;
    s->model = lw_ledger_text(s, lunary_json_get(event, "name"));

    /* sent again, by a spool or an SDK, it is the same event */

    run = lw_ledger_text(s, lunary_json_get(event, "runId"));

    if (lunary_eq(what, "start")) {
        lw_ledger_event_member(s, run, 's');
        s->open = run;
        s->sums[LW_SUM_RUNS] = 1;
        s->sums[LW_SUM_CLAIMED] = (s->user.len != 0);
        return;
    }

    if (lunary_eq(what, "error")) {
        lw_ledger_event_member(s, run, 'x');
        s->looks_up = 1;
        s->sums[LW_SUM_ERRORS] = 1;
        return;
    }

    if (!lunary_eq(what, "end")) {
        s->counts = 0;
        return;
    }

    lw_ledger_event_member(s, run, 'e');
    s->looks_up = 1;

    memset(&u, 0, sizeof(u));

    usage = lunary_json_get(event, "tokensUsage");

    u.model = s->model;
    u.started_at = s->first;
    u.cache_write = -1;
    u.reasoning = -1;

    if (!lunary_json_int(lunary_json_get(usage, "prompt"), &u.input)) {
        u.input = -1;
    }

    if (!lunary_json_int(lunary_json_get(usage, "completion"), &u.output)) {
        u.output = -1;
    }

    if (!lunary_json_int(lunary_json_get(usage, "promptCached"), &u.cached)) {
        u.cached = -1;
    }

    lw_ledger_price(w, s, &u);
}


static lunary_str_t
lw_ledger_text(lw_share_t *s, lunary_str_t v)
{
    size_t  from;

    if (!lunary_json_is_string(v)) {
        return lunary_str(NULL, 0);
    }

    from = s->text.buf.len;
    lw_text_plain(&s->text, v);

    if (s->text.failed) {
        return lunary_str(NULL, 0);
    }

    return lunary_str(s->text.buf.data + from, s->text.buf.len - from);
}


/* an end belongs to the user of its start: of this batch, or of before */

static int
lw_ledger_starts(lw_t *w, lw_ledger_t *l)
{
    int            rc;
    size_t         i, k;
    lw_text_t      key;
    lw_args_t     *a;
    lw_share_t    *s;
    lunary_str_t   run;

    lw_text_init(&key, &w->mem);
    rc = LW_OK;

    for (i = 0; rc == LW_OK && i < l->n; i++) {

        s = &l->shares[i];

        if (!s->looks_up) {
            continue;
        }

        run = lunary_json_inside(lunary_json_get(lw_field(s->entry, EVENT),
                                                 "runId"));
        s->model = lunary_str(NULL, 0);

        for (k = 0; k < i; k++) {
            if (l->shares[k].open.len
                && lw_str_same(l->shares[k].open, run)
                && lw_str_same(l->shares[k].app, s->app))
            {
                s->user = l->shares[k].user;
                s->looks_up = 0;
                break;
            }
        }

        if (k < i) {
            continue;
        }

        lw_ledger_open_key(w, &key, s->app, run);

        a = lw_args(w->redis);
        lw_arg_lit(a, "GET");
        lw_arg_str(a, lw_text_get(&key));

        rc = key.failed ? LW_NOMEM : lw_args_queue(a);
    }

    lw_text_free(&key);

    for (i = 0; rc == LW_OK && i < l->n; i++) {
        if (l->shares[i].looks_up) {
            rc = lw_ledger_started(w, &l->shares[i]);
        }
    }

    return rc;
}


static int
lw_ledger_started(lw_t *w, lw_share_t *s)
{
    size_t        from;
    redisReply   *reply;
    lunary_str_t  user;

    reply = lw_redis_reply(w->redis);

    if (reply == NULL) {
        return LW_REDIS;
    }

    user = lw_reply_str(reply);

    if (reply->type == REDIS_REPLY_STRING) {

        /* the text may move: no other slice of it is used from here on */

        from = s->text.buf.len;
        lw_text_str(&s->text, user);

        s->user = s->text.failed ? lunary_str(NULL, 0)
                                 : lunary_str(s->text.buf.data + from,
                                              user.len);
    }

    lw_reply_free(reply);

    return LW_OK;
}


void
lw_ledger_open_key(lw_t *w, lw_text_t *key, lunary_str_t app,
    lunary_str_t run)
{
    lw_text_clear(key);
    lw_text_fmt(key, "%sledger:open:", w->options->prefix);
    lw_text_str(key, app);
    lw_text_lit(key, ":");
    lw_text_str(key, run);
}


static int
lw_ledger_props(lw_t *w, lw_ledger_t *l)
{
    int            rc;
    size_t         i;
    lw_share_t    *s;
    lw_person_t   *who;
    lunary_str_t   props;

    if (lw_people_begin(w, &l->people, l->n) != LW_OK) {
        return LW_NOMEM;
    }

    rc = LW_OK;

    for (i = 0; i < l->n; i++) {

        s = &l->shares[i];

        props = s->entry->run ? lw_field(s->entry, USER_PROPS)
                              : s->text.buf.data
                ? lunary_json_get(lw_field(s->entry, EVENT), "userProps")
                : lunary_str(NULL, 0);

        if (props.len) {
            (void) lw_people_add(w, &l->people, s->app, s->user, s->verified);
        }
    }

    if (l->people.n) {
        rc = lw_people_load(w, &l->people);
    }

    for (i = 0; rc == LW_OK && l->people.n && i < l->n; i++) {

        s = &l->shares[i];

        props = s->entry->run ? lw_field(s->entry, USER_PROPS)
                              : s->text.buf.data
                ? lunary_json_get(lw_field(s->entry, EVENT), "userProps")
                : lunary_str(NULL, 0);

        if (props.len == 0 || !lunary_json_valid(props, 32)) {
            continue;
        }

        who = lw_people_add(w, &l->people, s->app, s->user, 0);

        if (who) {
            rc = lw_people_merge(w, who, props, s->verified);
        }
    }

    if (rc == LW_OK) {
        rc = lw_people_save(w, &l->people);
    }

    lw_people_free(&l->people);

    return rc;
}


static void
lw_ledger_sort(lw_ledger_t *l)
{
    size_t  i;

    for (i = 0; i < l->n; i++) {
        l->order[i] = i;
        l->shares[i].who = lw_hash(l->shares[i].user,
                                   lw_hash(l->shares[i].app, 2));
    }

    lw_ledger_shares = l->shares;
    qsort(l->order, l->n, sizeof(*l->order), lw_ledger_compare);
}


static int
lw_ledger_compare(const void *a, const void *b)
{
    size_t             x, y;
    const lw_share_t  *p, *q;

    x = *(const size_t *) a;
    y = *(const size_t *) b;
    p = &lw_ledger_shares[x];
    q = &lw_ledger_shares[y];

    if (p->who != q->who) {
        return p->who < q->who ? -1 : 1;
    }

    return x < y ? -1 : x > y;
}
