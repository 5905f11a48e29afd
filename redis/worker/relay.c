/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The relay: what becomes of each entry of a batch.  See relay.h; requests
 * are relay_send.c's, events events.c's.
 *
 * In Redis: PREFIXrelay:run:<app>:<run id>, "p" or "s" (proxy, SDK), start
 * and user, for --remember; PREFIXrelay:chat:<app>:<run id>, while its chat
 * messages are on their way.
 */

#include <stdlib.h>

#include "relay.h"


#define LW_HELD_MAX       1000
#define LW_CHAT_MARK_MS   (30LL * 86400 * 1000)


static int lw_relay_setup(lw_t *w);
static int lw_relay_take(lw_t *w, lw_batch_t *b, int last);
static size_t lw_relay_wants(lw_t *w);
static int lw_relay_reload(lw_t *w);
static void lw_relay_reset(lw_t *w);
static int lw_relay_adopt(lw_relay_t *r, lw_batch_t *b, lunary_mem_t *mem);
static void lw_relay_drop(lw_relay_t *r, size_t from);
static void lw_relay_judge(lw_t *w, lw_relay_t *r, lw_item_t *item);
static void lw_relay_event(lw_item_t *item);
static lunary_str_t lw_relay_text(lw_item_t *item, lunary_str_t v);
static int lw_relay_ask(lw_t *w, lw_relay_t *r);
static int lw_relay_answers(lw_t *w, lw_relay_t *r, redisReply *reply);
static int lw_relay_chats(const lw_item_t *item);
static void lw_relay_known(redisReply *v, lw_item_t *item, int parent);
static void lw_relay_key(lw_t *w, lw_text_t *key, const char *kind,
    lunary_str_t app, lunary_str_t id);
static int lw_relay_link(lw_t *w, lw_relay_t *r, int last);
static int lw_relay_waits(lw_relay_t *r, lw_item_t *item);
static lw_item_t **lw_relay_slot(lw_relay_t *r, const lw_item_t *item,
    lunary_str_t id);
static int lw_relay_props(lw_t *w, lw_relay_t *r);
static void lw_relay_compose(lw_t *w, lw_relay_t *r);
static int lw_relay_mark(lw_t *w, lw_relay_t *r);
static int lw_relay_finish(lw_t *w, lw_relay_t *r);
static int lw_relay_settle(lw_t *w, lw_relay_t *r);


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

    if (lw_relay_adopt(r, b, &w->mem) != LW_OK) {
        return LW_REDIS;
    }

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
            }

            k++;

        } else {
            lw_entry_free(&r->items[i].entry);

            if (r->items[i].text.mem) {
                lw_text_free(&r->items[i].text);
            }
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

        item = &r->items[r->n++];

        memset(item, 0, sizeof(*item));
        item->entry = b->entries[i];
        lw_text_init(&item->text, mem);
    }

    return LW_OK;
}


static void
lw_relay_drop(lw_relay_t *r, size_t from)
{
    size_t  i;

    for (i = from; i < r->n; i++) {

        lw_entry_free(&r->items[i].entry);

        if (r->items[i].text.mem) {
            lw_text_free(&r->items[i].text);
        }
    }

    r->n = from;
    r->held = from;
}


static void
lw_relay_judge(lw_t *w, lw_relay_t *r, lw_item_t *item)
{
    lw_entry_t  *e;

    e = &item->entry;

    item->state = LW_ITEM_SEND;
    item->parent_known = 0;
    item->own_known = 0;

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
        item->reason = "app: no project";
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


/* one MGET: the run itself, its parent, and its mark, where it has them */

static int
lw_relay_ask(lw_t *w, lw_relay_t *r)
{
    int          rc;
    size_t       i, asked, *ends;
    lw_args_t   *a;
    lw_item_t   *item;
    redisReply  *reply;
    lunary_str_t app;

    lw_text_clear(&r->key);

    ends = calloc(r->n * 3 + 1, sizeof(*ends));
    if (ends == NULL) {
        return LW_REDIS;
    }

    asked = 0;

    for (i = 0; i < r->n; i++) {

        item = &r->items[i];

        if (item->state != LW_ITEM_SEND) {
            continue;
        }

        app = lw_field(&item->entry, APP);

        lw_relay_key(w, &r->key, "run", app, item->run_id);
        ends[asked++] = r->key.buf.len;

        if (item->parent_id.len) {
            lw_relay_key(w, &r->key, "run", app, item->parent_id);
            ends[asked++] = r->key.buf.len;
        }

        if (lw_relay_chats(item)) {
            lw_relay_key(w, &r->key, "chat", app, item->run_id);
            ends[asked++] = r->key.buf.len;
        }
    }

    if (asked == 0 || r->key.failed) {
        free(ends);
        return r->key.failed ? LW_REDIS : LW_OK;
    }

    a = lw_args(w->redis);
    lw_arg_lit(a, "MGET");

    for (i = 0; i < asked; i++) {
        lw_arg(a, r->key.buf.data + (i ? ends[i - 1] : 0),
               ends[i] - (i ? ends[i - 1] : 0));
    }

    free(ends);

    reply = lw_args_call(a);

    if (!lw_reply_is_array(reply) || reply->elements != asked) {
        lw_reply_free(reply);
        return LW_REDIS;
    }

    rc = lw_relay_answers(w, r, reply);

    lw_reply_free(reply);

    return rc;
}


static int
lw_relay_answers(lw_t *w, lw_relay_t *r, redisReply *reply)
{
    size_t      i, k;
    lw_item_t  *item;

    (void) w;

    for (i = 0, k = 0; i < r->n; i++) {

        item = &r->items[i];

        if (item->state != LW_ITEM_SEND) {
            continue;
        }

        lw_relay_known(reply->element[k++], item, 0);

        if (item->parent_id.len) {
            lw_relay_known(reply->element[k++], item, 1);
        }

        item->marked = lw_relay_chats(item)
                       && reply->element[k++]->type == REDIS_REPLY_STRING;
    }

    return LW_OK;
}


/* whether chat messages may come of it */

static int
lw_relay_chats(const lw_item_t *item)
{
    return item->entry.run ? lw_field(&item->entry, THREAD_ID).len != 0
                           : lunary_eq(item->event_name, "chat");
}


static void
lw_relay_known(redisReply *v, lw_item_t *item, int parent)
{
    int64_t       ms;
    lunary_str_t  s, user;

    const unsigned char  *p;

    s = lw_reply_str(v);

    if (s.len < 2) {
        return;
    }

    if (!parent) {
        item->own_known = 1;
        item->own_proxied = (s.data[0] == 'p');
        return;
    }

    /* "p 1763772000123 ann" */

    p = memchr(s.data + 2, ' ', s.len - 2);

    if (p == NULL || !lw_int(lunary_str(s.data + 2,
                                        (size_t) (p - s.data) - 2), &ms))
    {
        return;
    }

    user = lunary_str(p + 1, (size_t) (s.data + s.len - p) - 1);

    item->parent_known = (lw_str_same(user, item->user)
                          && ms <= item->started_at) ? 1 : 0;
}


static void
lw_relay_key(lw_t *w, lw_text_t *key, const char *kind, lunary_str_t app,
    lunary_str_t id)
{
    lw_text_str(key, lw_str(w->options->prefix));
    lw_text_lit(key, "relay:");
    lw_text_str(key, lw_str(kind));
    lw_text_lit(key, ":");
    lw_text_str(key, app);
    lw_text_lit(key, ":");
    lw_text_str(key, id);
}


/* what is sent, what is not, and what waits for another worker's part */

static int
lw_relay_link(lw_t *w, lw_relay_t *r, int last)
{
    int          waits;
    size_t       i, held;
    lw_item_t   *item, **slot;

    for (r->slots = 64; r->slots < r->n * 2; r->slots *= 2) {
        /* void */
    }

    r->begun = calloc(r->slots, sizeof(*r->begun));
    if (r->begun == NULL) {
        return LW_REDIS;
    }

    held = 0;

    for (i = 0; i < r->n; i++) {

        item = &r->items[i];

        if (item->state != LW_ITEM_SEND) {
            continue;
        }

        waits = lw_relay_waits(r, item);

        if (waits && !last && held < LW_HELD_MAX
            && lw_clock() - item->entry.since < w->options->hold)
        {
            item->state = LW_ITEM_HOLD;
            held++;
        }

        if (item->state == LW_ITEM_SEND
            && (item->entry.run || lunary_eq(item->event_name, "start")))
        {
            slot = lw_relay_slot(r, item, item->run_id);
            *slot = item;
        }
    }

    free(r->begun);
    r->begun = NULL;

    return LW_OK;
}


/* what is known of an item's run and parent; whether it waits for its start */

static int
lw_relay_waits(lw_relay_t *r, lw_item_t *item)
{
    const lw_item_t  *own, *parent;

    own = *lw_relay_slot(r, item, item->run_id);

    if (item->entry.run) {

        /* the run is in the stream twice, or was sent before */

        if (item->own_known || (own && own->entry.run)) {
            item->state = LW_ITEM_SKIP;
            return 0;
        }

        if (item->parent_id.len && !item->parent_known) {

            parent = *lw_relay_slot(r, item, item->parent_id);

            item->parent_known = parent
                                 && lw_str_same(parent->user, item->user)
                                 && parent->started_at <= item->started_at;
        }

        return 0;
    }

    if (own && own->entry.run) {
        item->own_known = 1;
        item->own_proxied = 1;
    }

    if ((item->own_proxied && !lunary_eq(item->event_name, "feedback"))
        || (item->marked && lunary_eq(item->event_name, "chat")))
    {
        item->state = LW_ITEM_SKIP;
        return 0;
    }

    /* Lunary drops an end that it knows no start of */

    return (lunary_eq(item->event_name, "end")
            || lunary_eq(item->event_name, "error"))
           && !item->own_known && own == NULL;
}


/*
 * Where the last item is that begins this run, in the item's project: a slot
 * of a table, NULL in it where there is none so far.
 */

static lw_item_t **
lw_relay_slot(lw_relay_t *r, const lw_item_t *item, lunary_str_t id)
{
    size_t      i;
    lw_item_t  *o;

    for (i = lw_hash(id, 7) & (r->slots - 1); r->begun[i];
         i = (i + 1) & (r->slots - 1))
    {
        o = r->begun[i];

        if (o->project == item->project && lw_str_same(o->run_id, id)) {
            break;
        }
    }

    return &r->begun[i];
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


/* said before they are sent: these chats may have arrived */

static int
lw_relay_mark(lw_t *w, lw_relay_t *r)
{
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
        lw_arg_lit(a, "PX");
        lw_arg_int(a, LW_CHAT_MARK_MS);

        if (r->key.failed || lw_args_queue(a) != LW_OK) {
            return LW_REDIS;
        }

        queued++;
    }

    while (queued--) {

        reply = lw_redis_reply(w->redis);

        if (reply == NULL) {
            return LW_REDIS;
        }

        lw_reply_free(reply);
    }

    return LW_OK;
}


/* what was confirmed is remembered and acknowledged, in this order */

static int
lw_relay_finish(lw_t *w, lw_relay_t *r)
{
    int           rc;
    size_t        i, k, n, queued;
    lw_args_t    *a;
    lw_item_t    *item;
    redisReply   *reply;

    queued = 0;

    for (i = 0; i < r->n; i++) {

        item = &r->items[i];

        if (item->state != LW_ITEM_DONE
            || !(item->entry.run || lunary_eq(item->event_name, "start")))
        {
            continue;
        }

        lw_text_clear(&r->key);
        lw_relay_key(w, &r->key, "run", lw_field(&item->entry, APP),
                     item->run_id);

        n = r->key.buf.len;
        lw_text_fmt(&r->key, "%c %lld ", item->entry.run ? 'p' : 's',
                    (long long) item->started_at);
        lw_text_str(&r->key, item->user);

        a = lw_args(w->redis);
        lw_arg_lit(a, "SET");
        lw_arg(a, r->key.buf.data, n);
        lw_arg(a, r->key.buf.data + n, r->key.buf.len - n);
        lw_arg_lit(a, "PX");
        lw_arg_int(a, w->options->remember > 0 ? w->options->remember : 1);

        if (r->key.failed || lw_args_queue(a) != LW_OK) {
            return LW_REDIS;
        }

        queued++;
    }

    while (queued--) {

        reply = lw_redis_reply(w->redis);

        if (reply == NULL) {
            return LW_REDIS;
        }

        rc = lw_reply_is_error(reply);
        lw_reply_free(reply);

        if (rc) {
            return LW_REDIS;
        }
    }

    for (i = 0; i < r->n; i++) {
        if (r->items[i].state == LW_ITEM_DEAD
            && lw_group_bury(w, &r->items[i].entry,
                             r->items[i].reason ? r->items[i].reason
                                                : "refused") != LW_OK)
        {
            return LW_REDIS;
        }
    }

    if (lw_relay_settle(w, r) != LW_OK) {
        return LW_REDIS;
    }

    /* marks go last: an entry that is still pending keeps its own */

    a = lw_args(w->redis);
    lw_arg_lit(a, "UNLINK");
    lw_text_clear(&r->key);

    for (i = 0, k = 0; i < r->n; i++) {
        if (r->items[i].state == LW_ITEM_DONE
            && (r->items[i].chats || r->items[i].marked))
        {
            lw_relay_key(w, &r->key, "chat",
                         lw_field(&r->items[i].entry, APP),
                         r->items[i].run_id);
            lw_text_lit(&r->key, "\n");
            k++;
        }
    }

    for (i = 0, n = 0; !r->key.failed && n < r->key.buf.len; n += i + 1) {

        const unsigned char  *p, *q;

        p = r->key.buf.data + n;
        q = memchr(p, '\n', r->key.buf.len - n);

        i = (size_t) (q - p);
        lw_arg(a, p, i);
    }

    if (k == 0 || r->key.failed) {
        return LW_OK;
    }

    reply = lw_args_call(a);

    if (reply == NULL) {
        return LW_REDIS;
    }

    lw_reply_free(reply);

    return LW_OK;
}


static int
lw_relay_settle(lw_t *w, lw_relay_t *r)
{
    int          rc;
    size_t       i, n;
    lw_entry_t  *list;

    list = calloc(r->n + 1, sizeof(*list));
    if (list == NULL) {
        return LW_REDIS;
    }

    for (i = 0, n = 0; i < r->n; i++) {

        if (r->items[i].state == LW_ITEM_DONE
            || r->items[i].state == LW_ITEM_SKIP)
        {
            list[n++] = r->items[i].entry;
            w->skipped += (r->items[i].state == LW_ITEM_SKIP);
        }
    }

    rc = n ? lw_group_ack(w, list, n) : LW_OK;

    free(list);

    return rc;
}
