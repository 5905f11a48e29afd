/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What an answer of Lunary's says of each entry that was sent.  It has a
 * result for each event, in the order in which Lunary came to them.
 *
 * Invariants
 *   - an entry is done only if Lunary took its events, and refused none;
 *   - a refusal is the entry's fault only where Lunary took an event of
 *     another one later, in the same request.  Otherwise its database may be
 *     full, or read-only from that event on;
 *   - "taken" is what was written: neither what Lunary had before, nor an end
 *     or an error whose start it has not, which it drops and says success.
 */

#include <stdlib.h>

#include "relay_internal.h"


/* results that are told by ids of Lunary's own: hashes of what is no UUID */
typedef struct {
    size_t                taken;         /* how many                          */
    size_t                refused;
    size_t                last_taken;    /* the place of the last one         */
    size_t                first_refused;
    lunary_str_t          error;         /* of the first                      */
} lw_strange_t;


static lw_item_t **lw_answer_table(lw_item_t **list, size_t n, size_t *size);
static void lw_answer_read(lw_t *w, lw_item_t **table, size_t size,
    lunary_str_t results, lw_strange_t *strange);
static int lw_answer_taken(lunary_str_t one, lunary_str_t *error, int *fresh);
static void lw_answer_refused(lw_item_t *item, size_t at, lunary_str_t error);
static void lw_answer_strange(lw_item_t **list, size_t n,
    const lw_strange_t *strange);
static size_t lw_answer_last(lw_item_t **list, size_t n);
static void lw_answer_settle(lw_t *w, lw_relay_t *r, lw_item_t *item,
    size_t last);
static void lw_answer_chats(lw_item_t *item);
static lw_item_t *lw_answer_find(lw_item_t **table, size_t size,
    lunary_str_t id);
static void lw_answer_insert(lw_item_t **table, size_t size, lunary_str_t id,
    lw_item_t *item);
static int lw_answer_chat(const lw_item_t *item, lunary_str_t id);


int
lw_relay_results(lw_t *w, lw_relay_t *r, lunary_str_t results,
    lw_item_t **list, size_t n)
{
    size_t          i, size, last, left, refused;
    lw_item_t     **table;
    lw_strange_t    strange;

    table = lw_answer_table(list, n, &size);
    if (table == NULL) {
        return LW_NOMEM;
    }

    lw_answer_read(w, table, size, results, &strange);
    free(table);

    lw_answer_strange(list, n, &strange);

    last = lw_answer_last(list, n);

    if (last) {
        r->last_success = lw_relay_tick(r);
        r->suspects_pause = 0;
        r->suspects_at = 0;
    }

    for (i = 0, left = 0, refused = 0; i < n; i++) {

        lw_answer_settle(w, r, list[i], last);

        left += (list[i]->state != LW_ITEM_DONE);
        refused += list[i]->failed;
    }

    /* an end that it dropped, for it refused the start */

    for (i = 0; (left || r->suspects) && i < n; i++) {
        if (list[i]->state == LW_ITEM_DONE && lw_relay_orphan(r, list[i], 0)) {
            list[i]->state = LW_ITEM_HOLD;
        }
    }

    if (last == 0 && left) {

        if (refused) {
            lw_log(LW_LOG_WARN, "Lunary refused all of %zu entries", left);
        } else {
            lw_log(LW_LOG_WARN, "Lunary answered 200 without a result to %zu "
                   "entries", left);
        }

        return LW_ERROR;
    }

    if (left) {
        w->failures++;
        lw_log(LW_LOG_WARN, "Lunary did not take %zu of %zu entries", left, n);
    }

    return LW_OK;
}


/* the entries by their ids, and by those of their chat messages */

static lw_item_t **
lw_answer_table(lw_item_t **list, size_t n, size_t *size)
{
    size_t       i, k;
    lw_item_t   *item, **table;

    for (*size = 64; *size < n * 8; *size *= 2) {
        /* void */
    }

    table = calloc(*size, sizeof(*table));

    for (i = 0; table && i < n; i++) {

        item = list[i];

        item->confirmed = 0;
        item->failed = 0;
        item->unclear = 0;
        item->taken_at = 0;
        item->refused_at = 0;
        item->chats_refused = 0;

        lw_answer_insert(table, *size, item->run_id, item);

        for (k = 0; item->entry.run && k < item->chats; k++) {
            lw_answer_insert(table, *size, lw_str(item->ids[k]), item);
        }
    }

    return table;
}


static void
lw_answer_read(lw_t *w, lw_item_t **table, size_t size, lunary_str_t results,
    lw_strange_t *strange)
{
    int                  taken, fresh;
    size_t               at;
    lw_text_t            id;
    lw_item_t           *item;
    lunary_str_t         one, error;
    lunary_json_iter_t   it;

    memset(strange, 0, sizeof(*strange));

    lw_text_init(&id, &w->mem);
    lunary_json_iter(&it, results);

    for (at = 1; lunary_json_element(&it, &one); at++) {

        lw_text_clear(&id);
        lw_text_plain(&id, lunary_json_get(one, "id"));

        item = lw_answer_find(table, size, lw_text_get(&id));
        taken = lw_answer_taken(one, &error, &fresh);

        if (item == NULL) {

            if (taken) {
                strange->taken++;
                strange->last_taken = fresh ? at : strange->last_taken;

            } else if (strange->refused++ == 0) {
                strange->first_refused = at;
                strange->error = error;
            }

            continue;
        }

        if (taken) {
            item->confirmed = 1;
            item->taken_at = fresh ? at : item->taken_at;
            continue;
        }

        item->chats_refused += item->entry.event
                               || lw_answer_chat(item, lw_text_get(&id));

        lw_answer_refused(item, at, error);
    }

    lw_text_free(&id);
}


/* fresh: it was written now, and had not arrived before */

static int
lw_answer_taken(lunary_str_t one, lunary_str_t *error, int *fresh)
{
    *error = lunary_str(NULL, 0);
    *fresh = 1;

    if (lunary_json_is_true(lunary_json_get(one, "success"))) {
        return 1;
    }

    *fresh = 0;
    *error = lunary_json_get(one, "error");

    if (lunary_json_is_object(*error)) {
        *error = lunary_json_get(*error, "message");
    }

    *error = lunary_json_inside(*error);

    return error->len
           && memmem(error->data, error->len, "already exists", 14) != NULL;
}


static void
lw_answer_refused(lw_item_t *item, size_t at, lunary_str_t error)
{
    if (item->failed) {
        return;
    }

    item->failed = 1;
    item->refused_at = at;

    lw_text_clear(&item->words);
    lw_text_lit(&item->words, "refused by Lunary: ");
    lw_text_add(&item->words, error.data, error.len > 200 ? 200 : error.len);
    lw_text_add(&item->words, "", 1);
}


/*
 * Entries whose ids are no UUIDs are told by ids that are not known here, and
 * not which by which: all of them were taken, or one of them alone was not, or
 * each is asked for by itself.
 */

static void
lw_answer_strange(lw_item_t **list, size_t n, const lw_strange_t *strange)
{
    size_t      i, unmatched;
    lw_item_t  *item;

    for (i = 0, unmatched = 0; i < n; i++) {
        unmatched += (list[i]->run_id.len != 36 && !list[i]->confirmed
                      && !list[i]->failed);
    }

    if (unmatched == 0 || strange->taken + strange->refused == 0) {
        return;
    }

    for (i = 0; i < n; i++) {

        item = list[i];

        if (item->run_id.len == 36 || item->confirmed || item->failed) {
            continue;
        }

        if (strange->refused == 0 && strange->taken >= unmatched) {
            item->confirmed = 1;
            item->taken_at = strange->last_taken;

        } else if (unmatched == 1 || strange->taken == 0) {

            item->chats_refused = strange->taken && item->entry.run
                                  ? 0 : item->chats;

            lw_answer_refused(item, strange->first_refused, strange->error);

        } else {
            item->unclear = 1;
            item->refused_at = strange->first_refused;
        }
    }
}


/* the place of the last event that was taken, of an entry of which all were */

static size_t
lw_answer_last(lw_item_t **list, size_t n)
{
    size_t      i, last;
    lw_item_t  *item;

    for (i = 0, last = 0; i < n; i++) {

        item = list[i];

        if (item->failed || (lw_relay_ends(item) && !item->own_known)) {
            continue;
        }

        last = item->taken_at > last ? item->taken_at : last;
    }

    return last;
}


/* last: 0 where nothing was taken, which tells nothing of any entry */

static void
lw_answer_settle(lw_t *w, lw_relay_t *r, lw_item_t *item, size_t last)
{
    if (item->confirmed && !item->failed) {
        item->state = LW_ITEM_DONE;
        return;
    }

    if (item->entry.event && item->chats && !item->failed && last) {

        /* it may have arrived: neither sent again, nor taken for sent */

        item->state = LW_ITEM_DEAD;
        item->reason = item->unclear
                       ? "chat: refused by Lunary, or one beside it"
                       : "no result from Lunary";
        return;
    }

    lw_answer_chats(item);

    if (last == 0) {
        return;
    }

    /* something passed behind it, or before */

    lw_relay_suspect_note(w, r, item, last > item->refused_at
                                      ? r->last_success - 1
                                      : lw_relay_tick(r));
}


/*
 * Chats that went well, or may have, are not sent again with what did not;
 * where Lunary refused them all, they are.
 */

static void
lw_answer_chats(lw_item_t *item)
{
    if (item->chats && item->chats_refused < item->chats) {
        item->chats = 0;
        item->marked = 1;
    }
}


static void
lw_answer_insert(lw_item_t **table, size_t size, lunary_str_t id,
    lw_item_t *item)
{
    size_t  i;

    i = lw_hash(id, 0) & (size - 1);

    /* the same id twice (start and end of an SDK): each is its own entry */

    while (table[i]) {
        i = (i + 1) & (size - 1);
    }

    table[i] = item;
}


/*
 * An item of this id, of several the first that has no result yet: an SDK's
 * start and end are two entries of one id, and have two results.
 */

static lw_item_t *
lw_answer_find(lw_item_t **table, size_t size, lunary_str_t id)
{
    size_t      i;
    lw_item_t  *found;

    found = NULL;

    for (i = lw_hash(id, 0) & (size - 1); table[i]; i = (i + 1) & (size - 1))
    {
        if (!lw_str_same(table[i]->run_id, id)
            && !lw_answer_chat(table[i], id))
        {
            continue;
        }

        if (table[i]->entry.run
            || (!table[i]->confirmed && !table[i]->failed))
        {
            return table[i];
        }

        found = table[i];
    }

    return found;
}


/* whether it is the id of a chat message of the run */

static int
lw_answer_chat(const lw_item_t *item, lunary_str_t id)
{
    return item->entry.run
           && ((item->chats > 0 && lw_str_same(lw_str(item->ids[0]), id))
               || (item->chats > 1 && lw_str_same(lw_str(item->ids[1]), id)));
}
