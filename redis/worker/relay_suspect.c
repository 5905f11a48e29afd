/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Suspects: entries that Lunary answered with 500, or refused, or gave no
 * result, when they were alone, three times; or with others, of which it took
 * some.
 * The server may be in trouble, or the entry breaks it: what tells them apart
 * is whether others pass.
 *
 * Invariants
 *   - no entry waits for a suspect, but for a moment: suspects come after all
 *     others, and never sleep while nothing passes;
 *   - a suspect is dead only if it fails three times more after another entry
 *     passed; while nothing passes none is given up;
 *   - each has its turn: the one that waited longest is the next;
 *   - their number and their bytes are bounded.  What is beyond stays pending
 *     and is claimed again later, like the entries of a refused key.
 */

#include "relay_internal.h"


#define LW_SUSPECTS_MAX   1000
#define LW_SUSPECTS_TRY   10           /* in vain, at a time                 */
#define LW_SUSPECTS_MS    1000         /* then the others come first again   */


static int lw_relay_suspect_round(lw_t *w, lw_relay_t *r,
    const lw_project_t *project);
static size_t lw_relay_suspect_stuck(lw_relay_t *r,
    const lw_project_t *project, int again);
static lw_item_t *lw_relay_suspect_next(lw_relay_t *r,
    const lw_project_t *project);
static void lw_relay_suspect_hold(lw_relay_t *r,
    const lw_project_t *project);
static void lw_relay_suspect_pause(lw_relay_t *r);
static const char *lw_relay_suspect_reason(const lw_relay_t *r,
    const lw_item_t *item);


int64_t
lw_relay_tick(lw_relay_t *r)
{
    int64_t  now;

    now = lw_clock();

    r->tick = now > r->tick ? now : r->tick + 1;

    return r->tick;
}


/*
 * Whether it is tried in this round: others passed, or it is time again; with
 * --once, when nothing else is left to read
 */

int
lw_relay_suspect_due(lw_t *w, lw_relay_t *r, const lw_item_t *item)
{
    return !lw_stop
           && (r->last_success > item->failed_at
               || (w->options->once ? r->last
                                    : lw_clock() >= r->suspects_at));
}


/* the suspects among the items that were held */

void
lw_relay_suspect_count(lw_relay_t *r)
{
    size_t  i;

    r->suspects = 0;
    r->suspects_size = 0;

    for (i = 0; i < r->held; i++) {
        if (r->items[i].failed_at) {
            r->suspects++;
            r->suspects_size += lw_entry_size(&r->items[i].entry);
        }
    }
}


/* each by itself; those whose turn does not come are held */

int
lw_relay_suspect_send(lw_t *w, lw_relay_t *r, const lw_project_t *project)
{
    int       rc;
    int64_t   wait;
    unsigned  round;

    wait = LW_RETRY_MIN;

    for (round = 1; /* void */ ; round++) {

        rc = lw_relay_suspect_round(w, r, project);

        if (rc != LW_OK || !w->options->once || !r->last
            || round == LW_ONCE_TRIES
            || lw_relay_suspect_stuck(r, project, 0) == 0)
        {
            return rc;
        }

        lw_sleep(wait);
        wait *= 2;

        if (lw_stop || lw_reload) {
            return LW_STOPPED;
        }

        (void) lw_relay_suspect_stuck(r, project, 1);
    }
}


static int
lw_relay_suspect_round(lw_t *w, lw_relay_t *r, const lw_project_t *project)
{
    int         rc;
    int64_t     end;
    unsigned    vain;
    lw_item_t  *item;

    end = lw_clock() + LW_SUSPECTS_MS;
    vain = 0;

    while ((item = lw_relay_suspect_next(r, project)) != NULL) {

        item->tried_at = lw_clock();

        rc = lw_relay_lot(w, r, project, &item, 1);

        if (rc != LW_OK) {
            return rc;
        }

        if (item->state == LW_ITEM_HOLD && vain++ == 0) {
            lw_relay_suspect_pause(r);
        }

        if (!w->options->once
            && (vain == LW_SUSPECTS_TRY || lw_clock() >= end))
        {
            lw_relay_suspect_hold(r, project);
        }
    }

    return LW_OK;
}


/*
 * How many are held (of a project, or of all where that is NULL) and nothing
 * passed since they failed; again: they are to be sent once more.
 */

static size_t
lw_relay_suspect_stuck(lw_relay_t *r, const lw_project_t *project, int again)
{
    size_t      i, n;
    lw_item_t  *item;

    for (i = 0, n = 0; i < r->n; i++) {

        item = &r->items[i];

        if (item->state != LW_ITEM_HOLD || item->failed_at == 0
            || (project && item->project != project)
            || r->last_success > item->failed_at)
        {
            continue;
        }

        n++;

        /* what waits for another has no events in this round */

        if (again && item->end) {
            item->state = LW_ITEM_SEND;
        }
    }

    return n;
}


/* --once: ends where nothing passes, or more than is kept would be read */

int
lw_relay_suspect_end(lw_t *w, lw_relay_t *r)
{
    size_t  n;

    if (!w->options->once) {
        return LW_OK;
    }

    n = lw_relay_suspect_stuck(r, NULL, 0);

    if (n == 0 || (!r->last && n < LW_SUSPECTS_MAX
                   && r->suspects_size < (size_t) w->options->batch_bytes))
    {
        return LW_OK;
    }

    lw_log(LW_LOG_ERROR, "given up: nothing passes, and %zu entries stay "
           "pending", n);

    return LW_REMOTE;
}


static lw_item_t *
lw_relay_suspect_next(lw_relay_t *r, const lw_project_t *project)
{
    size_t      i;
    lw_item_t  *item, *next;

    next = NULL;

    for (i = 0; i < r->n; i++) {

        item = &r->items[i];

        if (item->state == LW_ITEM_SEND && item->project == project
            && (next == NULL || item->tried_at < next->tried_at))
        {
            next = item;
        }
    }

    return next;
}


static void
lw_relay_suspect_hold(lw_relay_t *r, const lw_project_t *project)
{
    size_t  i;

    for (i = 0; i < r->n; i++) {

        if (r->items[i].state == LW_ITEM_SEND
            && r->items[i].project == project)
        {
            r->items[i].state = LW_ITEM_HOLD;
        }
    }
}


static void
lw_relay_suspect_pause(lw_relay_t *r)
{
    r->suspects_pause = r->suspects_pause ? r->suspects_pause * 2
                                          : LW_RETRY_MIN;

    if (r->suspects_pause > LW_RETRY_MAX) {
        r->suspects_pause = LW_RETRY_MAX;
    }

    r->suspects_at = lw_clock() + r->suspects_pause;
}


/* an entry alone was answered with 500 so many times: whether it is settled */

int
lw_relay_suspect_failed(lw_t *w, lw_relay_t *r, lw_item_t *item,
    unsigned times)
{
    if (item->failed_at && r->last_success <= item->failed_at) {

        /* to be tried again when something passed, or later */

        item->state = LW_ITEM_HOLD;

        return 1;
    }

    if (times < LW_EVENT_TRIES) {
        return 0;
    }

    if (item->failed_at) {
        item->state = LW_ITEM_DEAD;
        item->reason = lw_relay_suspect_reason(r, item);
        return 1;
    }

    item->state = LW_ITEM_HOLD;
    lw_relay_suspect_note(w, r, item, lw_relay_tick(r));

    return 1;
}


static const char *
lw_relay_suspect_reason(const lw_relay_t *r, const lw_item_t *item)
{
    if (r->http.status != 200) {
        return "500: Lunary fails at it";
    }

    if (!item->failed) {
        return "no result from Lunary";
    }

    return item->words.failed ? "refused by Lunary"
                              : (char *) item->words.buf.data;
}


/* a suspect from now on, as it failed then; or left, if there are too many */

void
lw_relay_suspect_note(lw_t *w, lw_relay_t *r, lw_item_t *item, int64_t when)
{
    if (item->failed_at) {
        return;
    }

    if (!w->options->once
        && (r->suspects >= LW_SUSPECTS_MAX
            || r->suspects_size >= (size_t) w->options->batch_bytes))
    {
        item->state = LW_ITEM_LEFT;
        return;
    }

    item->failed_at = when;

    r->suspects++;
    r->suspects_size += lw_entry_size(&item->entry);
}
