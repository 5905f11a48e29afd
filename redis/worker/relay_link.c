/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What is known of an entry's run and parent, by Redis and by the batch: who
 * is sent, who was before, whose parent Lunary knows, who waits.
 */

#include <stdlib.h>

#include "relay_internal.h"


#define LW_HELD_MAX   1000


static int lw_relay_answers(lw_t *w, lw_relay_t *r, redisReply *reply);
static void lw_relay_args(lw_args_t *a, const lw_text_t *keys,
    const size_t *ends, size_t n);
static int lw_relay_chats(const lw_item_t *item);
static void lw_relay_known(redisReply *v, lw_item_t *item, int parent);
static int lw_relay_waits(lw_relay_t *r, lw_item_t *item);
static lw_item_t **lw_relay_slot(lw_relay_t *r, const lw_item_t *item,
    lunary_str_t id);


/* one MGET: the run itself, its parent, and its mark, where it has them */

int
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

    lw_relay_args(a, &r->key, ends, asked);

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


/* what is sent, what is not, and what waits for another worker's part */

int
lw_relay_link(lw_t *w, lw_relay_t *r, int last)
{
    int          waits;
    size_t       i, held, bytes;
    lw_item_t   *item, **slot;

    for (r->slots = 64; r->slots < r->n * 2; r->slots *= 2) {
        /* void */
    }

    r->begun = calloc(r->slots, sizeof(*r->begun));
    if (r->begun == NULL) {
        return LW_REDIS;
    }

    held = 0;
    bytes = 0;

    for (i = 0; i < r->n; i++) {

        item = &r->items[i];

        if (item->state != LW_ITEM_SEND) {
            continue;
        }

        waits = lw_relay_waits(r, item);

        if (waits && !last && held < LW_HELD_MAX
            && bytes < (size_t) w->options->batch_bytes
            && lw_clock() - item->entry.since < w->options->hold)
        {
            item->state = LW_ITEM_HOLD;
            held++;
            bytes += lw_entry_size(&item->entry);

        } else if (item->state == LW_ITEM_SEND && r->suspects
                   && lw_relay_orphan(r, item, 1))
        {
            /* for its start is tried after all others */

            if (held < LW_HELD_MAX && bytes < (size_t) w->options->batch_bytes)
            {
                item->state = LW_ITEM_HOLD;
                held++;
                bytes += lw_entry_size(&item->entry);

            } else {
                item->state = LW_ITEM_LEFT;
            }
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

    return lw_relay_ends(item) && !item->own_known && own == NULL;
}


/*
 * Whether an SDK's end has a start here that Lunary has not taken (suspect:
 * that is one), so that it would drop the end, and say that it took it
 */

int
lw_relay_orphan(const lw_relay_t *r, const lw_item_t *item, int suspect)
{
    size_t            i;
    const lw_item_t  *o;

    if (!lw_relay_ends(item) || item->own_known) {
        return 0;
    }

    for (i = 0; i < r->n; i++) {

        o = &r->items[i];

        if (o->entry.event && o->project == item->project
            && (o->state == LW_ITEM_SEND || o->state == LW_ITEM_HOLD
                || o->state == LW_ITEM_LEFT)
            && (o->failed_at || !suspect)
            && lw_str_same(o->run_id, item->run_id)
            && lunary_eq(o->event_name, "start"))
        {
            return 1;
        }
    }

    return 0;
}


int
lw_relay_ends(const lw_item_t *item)
{
    return item->entry.event && (lunary_eq(item->event_name, "end")
                                 || lunary_eq(item->event_name, "error"));
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


/* keys lie behind each other, and may hold any byte: told by where they end */

static void
lw_relay_args(lw_args_t *a, const lw_text_t *keys, const size_t *ends,
    size_t n)
{
    size_t  i, from;

    for (i = 0, from = 0; i < n; from = ends[i++]) {
        lw_arg(a, keys->buf.data + from, ends[i] - from);
    }
}
