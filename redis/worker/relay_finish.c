/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What Lunary confirmed is remembered and acknowledged, in this order; what it
 * never will take becomes a dead letter.
 *
 * Invariant: an entry is pending until all that concerns it is written.
 */

#include <stdlib.h>

#include "relay_internal.h"


static int lw_relay_unmark(lw_t *w, lw_relay_t *r);
static int lw_relay_settle(lw_t *w, lw_relay_t *r);


/* what was confirmed is remembered and acknowledged, in this order */

int
lw_relay_finish(lw_t *w, lw_relay_t *r)
{
    size_t        i, n, queued;
    uint64_t      dead;
    lw_args_t    *a;
    lw_item_t    *item;

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
        lw_text_add(&r->key, item->entry.run ? "p " : "s ", 2);
        lw_text_int(&r->key, item->started_at);
        lw_text_lit(&r->key, " ");
        lw_text_str(&r->key, item->user);

        a = lw_args(w->redis);
        lw_arg_lit(a, "SET");
        lw_arg(a, r->key.buf.data, n);
        lw_arg(a, r->key.buf.data + n, r->key.buf.len - n);
        lw_arg_lit(a, "PX");
        lw_arg_int(a, LW_RELAY_MEMORY(w));

        if (r->key.failed || lw_args_queue(a) != LW_OK) {
            return LW_REDIS;
        }

        queued++;
    }

    if (lw_redis_drain(w->redis, queued) != LW_OK) {
        return LW_REDIS;
    }

    for (i = 0; i < r->n; i++) {

        item = &r->items[i];

        if (item->state != LW_ITEM_DEAD) {
            continue;
        }

        dead = w->dead;

        if (lw_group_bury(w, &item->entry, item->reason ? item->reason
                                                        : "refused") != LW_OK)
        {
            return LW_REDIS;
        }

        if (item->reason && strcmp(item->reason, LW_UNASSIGNED) == 0) {
            r->unassigned += w->dead - dead;
        }
    }

    if (lw_relay_settle(w, r) != LW_OK) {
        return LW_REDIS;
    }

    return lw_relay_unmark(w, r);
}


/*
 * Marks come last.  That of chats which were sent stays a while, for another
 * worker may be at the same entry; where nothing can have arrived (chats is
 * not 0 then, and the entry not done) it goes.
 */

static int
lw_relay_unmark(lw_t *w, lw_relay_t *r)
{
    size_t       i, queued;
    lw_args_t   *a;
    lw_item_t   *item;

    queued = 0;

    for (i = 0; i < r->n; i++) {

        item = &r->items[i];

        if (item->chats == 0
            && !(item->state == LW_ITEM_DONE && item->marked))
        {
            continue;
        }

        lw_text_clear(&r->key);
        lw_relay_key(w, &r->key, "chat", lw_field(&item->entry, APP),
                     item->run_id);

        a = lw_args(w->redis);

        if (item->state == LW_ITEM_DONE) {
            lw_arg_lit(a, "PEXPIRE");
            lw_arg_str(a, lw_text_get(&r->key));
            lw_arg_int(a, LW_RELAY_MEMORY(w));

        } else {
            lw_arg_lit(a, "UNLINK");
            lw_arg_str(a, lw_text_get(&r->key));
        }

        if (r->key.failed || lw_args_queue(a) != LW_OK) {
            return LW_REDIS;
        }

        queued++;
    }

    return lw_redis_drain(w->redis, queued);
}


static int
lw_relay_settle(lw_t *w, lw_relay_t *r)
{
    int          rc, held;
    size_t       i, n, left;
    lw_entry_t  *list;

    /*
     * Nobody is to claim what is held, nor to count it as delivered again;
     * where this worker ends, or drops it to read it again, Lunary has not
     * judged it either
     */

    held = lw_stop || lw_reload || w->options->once
           || lw_clock() - r->excused_at >= w->options->claim_after / 4;

    if (held) {
        r->excused_at = lw_clock();
    }

    list = calloc(r->n + 1, sizeof(*list));
    if (list == NULL) {
        return LW_REDIS;
    }

    /* from the front what is acknowledged, from the back what is left */

    for (i = 0, n = 0, left = r->n; i < r->n; i++) {

        switch (r->items[i].state) {

        case LW_ITEM_SKIP:
            w->skipped++;

            /* fall through */

        case LW_ITEM_DONE:
            list[n++] = r->items[i].entry;
            break;

        case LW_ITEM_SEND:

            /* cut short before Lunary answered: no outage counts against it */

            /* fall through */

        case LW_ITEM_LEFT:
            list[--left] = r->items[i].entry;
            break;

        case LW_ITEM_HOLD:
            if (held) {
                list[--left] = r->items[i].entry;
            }

            break;

        default:
            break;
        }
    }

    rc = lw_group_ack(w, list, n);

    if (rc == LW_OK) {
        rc = lw_group_excuse(w, list + left, r->n - left);
    }

    free(list);

    return rc;
}


void
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
