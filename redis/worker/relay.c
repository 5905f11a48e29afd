/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The relay: what becomes of each entry of a batch.  See relay.h; requests
 * are relay_send.c's, events events.c's.
 */

#include <stdlib.h>

#include "relay_internal.h"


#define LW_CHAT_MARK_MS   (30LL * 86400 * 1000)


static int lw_relay_setup(lw_t *w);
static int lw_relay_take(lw_t *w, lw_batch_t *b, int last);
static size_t lw_relay_wants(lw_t *w);
static int lw_relay_reload(lw_t *w);
static void lw_relay_reset(lw_t *w);
static int lw_relay_adopt(lw_relay_t *r, lw_batch_t *b, lunary_mem_t *mem);
static int lw_relay_holds(lw_relay_t *r, const lw_entry_t *e);
static void lw_relay_drop(lw_relay_t *r, size_t from);
static void lw_relay_free(lw_item_t *item);
static void lw_relay_judge(lw_t *w, lw_relay_t *r, lw_item_t *item);
static void lw_relay_unassigned(lw_t *w, lw_relay_t *r, lunary_str_t app);
static void lw_relay_event(lw_item_t *item);
static lunary_str_t lw_relay_text(lw_item_t *item, lunary_str_t v);
static int lw_relay_props(lw_t *w, lw_relay_t *r);
static void lw_relay_compose(lw_t *w, lw_relay_t *r);
static int lw_relay_mark(lw_t *w, lw_relay_t *r);


static lw_relay_t  lw_relay_state;

static const lw_handler_t  lw_relay_handler = {
    lw_relay_take,
    lw_relay_wants,
    lw_relay_reload,
    lw_relay_reset
};


int
lw_relay(lw_t *w, int argc, char **argv)
{
    int          rc;
    lw_relay_t  *r;

    r = &lw_relay_state;

    lw_text_init(&r->events, &w->mem);
    lw_text_init(&r->body, &w->mem);
    lw_text_init(&r->key, &w->mem);

    if (lw_relay_setup(w) != LW_OK) {
        return LW_EXIT_USAGE;
    }

    rc = lw_group_run(w, &lw_relay_handler, argc, argv);

    if (rc == LW_EXIT_OK && w->options->once && r->unassigned
        && w->entries == w->skipped)
    {
        lw_log(LW_LOG_ERROR, "nothing was sent: %llu of %llu dead letters "
               "have no --project for their app",
               (unsigned long long) r->unassigned,
               (unsigned long long) w->dead);

        rc = LW_EXIT_USAGE;
    }

    lw_relay_drop(r, 0);
    free(r->items);
    lw_text_free(&r->events);
    lw_text_free(&r->body);
    lw_text_free(&r->key);
    lw_http_free(&r->http);

    return rc;
}


static int
lw_relay_setup(lw_t *w)
{
    int          n;
    size_t       len;
    lw_relay_t  *r;

    r = &lw_relay_state;

    lw_http_free(&r->http);
    memset(r->blocked, 0, sizeof(r->blocked));
    r->ntold = 0;

    len = strlen(w->options->api);

    while (len && w->options->api[len - 1] == '/') {
        len--;
    }

    n = snprintf(r->url, sizeof(r->url), "%.*s/v1/runs/ingest", (int) len,
                 w->options->api);

    if (n < 0 || (size_t) n >= sizeof(r->url)) {
        return LW_ERROR;
    }

    return lw_http_init(&r->http, w->options, &w->mem);
}


static size_t
lw_relay_wants(lw_t *w)
{
    (void) w;

    return lw_relay_state.held;
}


static int
lw_relay_reload(lw_t *w)
{
    return lw_relay_setup(w);
}


static void
lw_relay_reset(lw_t *w)
{
    (void) w;

    lw_relay_drop(&lw_relay_state, 0);
}


static int
lw_relay_take(lw_t *w, lw_batch_t *b, int last)
{
    int          rc;
    size_t       i, k;
    lw_relay_t  *r;

    r = &lw_relay_state;
    r->last = last;

    if (lw_relay_adopt(r, b, &w->mem) != LW_OK) {
        return LW_REDIS;
    }

    lw_relay_suspect_count(r);

    for (i = 0; i < r->n; i++) {
        lw_relay_judge(w, r, &r->items[i]);
    }

    rc = lw_relay_ask(w, r);

    if (rc == LW_OK) {
        rc = lw_relay_link(w, r, last);
    }

    if (rc == LW_OK) {
        rc = lw_relay_props(w, r);
    }

    if (rc == LW_OK) {
        rc = lw_group_ahead(w);
    }

    if (rc == LW_OK) {
        lw_relay_compose(w, r);
        rc = lw_relay_mark(w, r);
    }

    for (i = 0; rc == LW_OK && i < r->n; i++) {

        if (r->items[i].state == LW_ITEM_SEND) {
            rc = lw_relay_send(w, r, r->items[i].project);
        }
    }

    if (rc == LW_OK) {
        rc = lw_relay_suspect_end(w, r);
    }

    lw_people_free(&r->people);

    if (rc == LW_OK || rc == LW_STOPPED || rc == LW_REMOTE) {

        /* what is through is acknowledged, whatever became of the rest */

        if (lw_relay_finish(w, r) != LW_OK) {
            rc = LW_REDIS;
        }
    }

    if (rc == LW_REDIS) {
        lw_relay_drop(r, 0);
        return rc;
    }

    /* those that are held come first the next time */

    for (i = 0, k = 0; i < r->n; i++) {

        if (r->items[i].state == LW_ITEM_HOLD && rc == LW_OK
            && lw_entry_keep(&r->items[i].entry) == LW_OK)
        {

            if (i != k) {
                r->items[k] = r->items[i];
                memset(&r->items[i].entry, 0, sizeof(r->items[i].entry));
                memset(&r->items[i].text, 0, sizeof(r->items[i].text));
                memset(&r->items[i].words, 0, sizeof(r->items[i].words));
            }

            k++;

        } else {
            lw_relay_free(&r->items[i]);
        }
    }

    r->n = k;
    r->held = k;

    /* a signal ends the loop, with what is left pending */

    return rc == LW_STOPPED ? LW_OK : rc;
}


static int
lw_relay_adopt(lw_relay_t *r, lw_batch_t *b, lunary_mem_t *mem)
{
    void        *p;
    size_t       i, cap;
    lw_item_t   *item;

    cap = r->held + b->n;

    if (cap > r->cap) {

        p = realloc(r->items, cap * sizeof(*r->items));

        if (p == NULL) {
            lw_log(LW_LOG_ERROR, "no memory for a batch");
            return LW_NOMEM;
        }

        r->items = p;
        r->cap = cap;
    }

    r->n = r->held;

    for (i = 0; i < b->n; i++) {

        if (b->entries[i].again && lw_relay_holds(r, &b->entries[i])) {
            continue;
        }

        item = &r->items[r->n++];

        memset(item, 0, sizeof(*item));
        item->entry = b->entries[i];
        lw_text_init(&item->text, mem);
        lw_text_init(&item->words, mem);
    }

    return LW_OK;
}


/* what is held for long may be claimed from ourselves */

static int
lw_relay_holds(lw_relay_t *r, const lw_entry_t *e)
{
    size_t  i;

    for (i = 0; i < r->held; i++) {

        if (r->items[i].entry.stream == e->stream
            && lw_str_same(r->items[i].entry.id, e->id))
        {
            return 1;
        }
    }

    return 0;
}


static void
lw_relay_drop(lw_relay_t *r, size_t from)
{
    size_t  i;

    for (i = from; i < r->n; i++) {
        lw_relay_free(&r->items[i]);
    }

    r->n = from;
    r->held = from;
}


static void
lw_relay_free(lw_item_t *item)
{
    lw_entry_free(&item->entry);

    if (item->text.mem) {
        lw_text_free(&item->text);
        lw_text_free(&item->words);
    }
}


static void
lw_relay_judge(lw_t *w, lw_relay_t *r, lw_item_t *item)
{
    lw_entry_t  *e;

    e = &item->entry;

    item->state = LW_ITEM_SEND;
    item->parent_known = 0;
    item->own_known = 0;
    item->own_proxied = 0;
    item->end = 0;

    if (item->failed_at && !lw_relay_suspect_due(w, r, item)) {
        item->state = LW_ITEM_HOLD;
        return;
    }

    if (e->gone) {
        item->state = LW_ITEM_SKIP;
        return;
    }

    item->reason = lw_events_check(e);

    if (item->reason) {
        item->state = LW_ITEM_DEAD;
        return;
    }

    if (lw_options_ignored(w->options, lw_field(e, APP))) {
        item->state = LW_ITEM_SKIP;
        return;
    }

    item->project = lw_options_project(w->options, lw_field(e, APP));

    if (item->project == NULL) {
        lw_relay_unassigned(w, r, lw_field(e, APP));
        item->reason = LW_UNASSIGNED;
        item->state = LW_ITEM_DEAD;
        return;
    }

    if (r->blocked[item->project - w->options->projects] > lw_clock()) {
        item->state = LW_ITEM_LEFT;
        return;
    }

    if (lw_events_idle(e)) {
        item->state = LW_ITEM_SKIP;
        return;
    }

    if (e->event) {
        lw_relay_event(item);
        return;
    }

    item->run_id = lw_field(e, RUN_ID);
    item->parent_id = lw_field(e, PARENT_RUN_ID);
    item->user = lw_field(e, USER_ID);
    item->started_at = lw_entry_int(e, LUNARY_F_STARTED_AT);
}


/* said once an app, until the configuration is read again */

static void
lw_relay_unassigned(lw_t *w, lw_relay_t *r, lunary_str_t app)
{
    int        len;
    size_t     i;
    uint64_t   hash;
    char       name[64];

    hash = lw_hash(app, 0);

    for (i = 0; i < r->ntold; i++) {
        if (r->told[i] == hash) {
            return;
        }
    }

    if (r->ntold == LW_RELAY_TOLD) {
        return;
    }

    r->told[r->ntold++] = hash;

    /* it may be a client's word: no byte of it drives a terminal */

    len = (int) (app.len < sizeof(name) ? app.len : sizeof(name));

    for (i = 0; i < (size_t) len; i++) {
        name[i] = (char) (app.data[i] >= 0x20 && app.data[i] < 0x7f
                          ? app.data[i] : '?');
    }

    lw_log(LW_LOG_WARN, "app \"%.*s\" has no --project, nor is there one for "
           "all others (*=KEY_FILE): its entries become dead letters in "
           "%s:dead.  Give --project '%.*s=KEY_FILE', or --ignore it; "
           "docs/worker.md says how they are put back%s", len, name,
           w->options->stream, len, name,
           r->ntold == LW_RELAY_TOLD ? ".  More apps are not told" : "");
}


/* the event's own members count, not what was lifted out of it */

static void
lw_relay_event(lw_item_t *item)
{
    int64_t       ms;
    lunary_str_t  event;

    event = lw_field(&item->entry, EVENT);

    lw_text_clear(&item->text);

    /* reserved once: the slices must not move */

    if (lunary_buf_reserve(item->text.mem, &item->text.buf, event.len)
        != LUNARY_OK)
    {
        item->state = LW_ITEM_LEFT;
        return;
    }

    item->event_name = lw_relay_text(item, lunary_json_get(event, "event"));
    item->run_id = lw_relay_text(item, lunary_json_get(event, "runId"));
    item->parent_id = lw_relay_text(item,
                                    lunary_json_get(event, "parentRunId"));
    item->user = lw_relay_text(item, lunary_json_get(event, "userId"));

    if (item->run_id.len == 0 || item->run_id.len > 256) {
        item->reason = "event: no runId";
        item->state = LW_ITEM_DEAD;
        return;
    }

    item->started_at = 0;

    if (lunary_json_int(lunary_json_get(event, "timestamp"), &ms)) {
        item->started_at = ms;
    }
}


static lunary_str_t
lw_relay_text(lw_item_t *item, lunary_str_t v)
{
    size_t  from;

    if (!lunary_json_is_string(v)) {
        return lunary_str(NULL, 0);
    }

    from = item->text.buf.len;

    lw_text_plain(&item->text, v);

    if (item->text.failed) {
        return lunary_str(NULL, 0);
    }

    return lunary_str(item->text.buf.data + from, item->text.buf.len - from);
}


static int
lw_relay_props(lw_t *w, lw_relay_t *r)
{
    size_t         i;
    lw_item_t     *item;
    lunary_str_t   app, props;
    lw_person_t   *who;

    if (lw_people_begin(w, &r->people, r->n) != LW_OK) {
        return LW_REDIS;
    }

    for (i = 0; i < r->n; i++) {

        item = &r->items[i];

        if (item->state == LW_ITEM_SEND) {
            (void) lw_people_add(w, &r->people, lw_field(&item->entry, APP),
                                 item->user,
                                 lunary_eq(lw_field(&item->entry,
                                                    USER_VERIFIED), "1"));
        }
    }

    if (lw_people_load(w, &r->people) != LW_OK) {
        return LW_REDIS;
    }

    for (i = 0; i < r->n; i++) {

        item = &r->items[i];

        if (item->state != LW_ITEM_SEND) {
            continue;
        }

        app = lw_field(&item->entry, APP);
        who = lw_people_add(w, &r->people, app, item->user, 0);

        props = item->entry.run
                ? lw_field(&item->entry, USER_PROPS)
                : lunary_json_get(lw_field(&item->entry, EVENT), "userProps");

        if (who && lw_people_merge(w, who, props,
                                   lunary_eq(lw_field(&item->entry,
                                                      USER_VERIFIED), "1"))
                   != LW_OK)
        {
            return LW_REDIS;
        }
    }

    return lw_people_save(w, &r->people);
}


/* the texts of all that is sent, one behind the other */

static void
lw_relay_compose(lw_t *w, lw_relay_t *r)
{
    size_t         i;
    lw_item_t     *item;
    lw_person_t   *who;
    lw_context_t   c;

    lw_text_clear(&r->events);

    for (i = 0; i < r->n; i++) {

        item = &r->items[i];

        if (item->state != LW_ITEM_SEND) {
            continue;
        }

        who = lw_people_add(w, &r->people, lw_field(&item->entry, APP),
                            item->user, 0);

        c.options = w->options;
        c.props = who ? lw_text_get(&who->props) : lunary_str(NULL, 0);
        c.parent = item->parent_known ? item->parent_id
                                      : lunary_str(NULL, 0);

        item->start = r->events.buf.len;
        item->chats = 0;

        if (item->entry.event) {

            /* props are ignored where an SDK's run ends */

            if (lunary_eq(item->event_name, "end")
                || lunary_eq(item->event_name, "error"))
            {
                c.props = lunary_str(NULL, 0);
            }

            lw_events_forward(&r->events, lw_field(&item->entry, EVENT), &c);
            item->chat_start = r->events.buf.len;

            if (lunary_eq(item->event_name, "chat")) {
                item->chat_start = item->start;
                item->chats = 1;
            }

        } else {

            lw_events_run(&r->events, &item->entry, &c);
            item->chat_start = r->events.buf.len;

            if (!w->options->no_threads && !item->marked) {

                lw_text_lit(&r->events, ",");
                item->chats = lw_events_chat(&r->events, &item->entry, &c,
                                             item->ids);

                if (item->chats == 0) {
                    r->events.buf.len--;
                }
            }
        }

        item->end = r->events.buf.len;
    }
}


/*
 * Said before they are sent: these chats may have arrived.  Another worker
 * may be at the same entry, if this one was slow: who says it first sends.
 */

static int
lw_relay_mark(lw_t *w, lw_relay_t *r)
{
    int          rc;
    size_t       i, queued;
    lw_args_t   *a;
    redisReply  *reply;

    if (r->events.failed) {
        lw_log(LW_LOG_ERROR, "no memory for a batch");
        return LW_REDIS;
    }

    queued = 0;

    for (i = 0; i < r->n; i++) {

        if (r->items[i].state != LW_ITEM_SEND || r->items[i].chats == 0) {
            continue;
        }

        lw_text_clear(&r->key);
        lw_relay_key(w, &r->key, "chat", lw_field(&r->items[i].entry, APP),
                     r->items[i].run_id);

        a = lw_args(w->redis);
        lw_arg_lit(a, "SET");
        lw_arg_str(a, lw_text_get(&r->key));
        lw_arg_lit(a, "1");
        lw_arg_lit(a, "NX");
        lw_arg_lit(a, "PX");
        lw_arg_int(a, LW_CHAT_MARK_MS);

        if (r->key.failed || lw_args_queue(a) != LW_OK) {
            return LW_REDIS;
        }

        queued++;
    }

    for (i = 0, rc = LW_OK; queued; i++) {

        if (r->items[i].state != LW_ITEM_SEND || r->items[i].chats == 0) {
            continue;
        }

        queued--;
        reply = lw_redis_reply(w->redis);

        if (reply == NULL) {
            return LW_REDIS;
        }

        if (reply->type == REDIS_REPLY_NIL) {
            r->items[i].chats = 0;
            r->items[i].marked = 1;

        } else if (lw_reply_is_error(reply)) {

            /* a Redis that takes no marks: better late than twice */

            rc = LW_REDIS;
        }

        lw_reply_free(reply);
    }

    return rc;
}
