/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What relay.c (what becomes of each entry), relay_link.c (what is known of
 * it), relay_send.c (requests), relay_answer.c (what Lunary says of each),
 * relay_suspect.c (who may break the server) and relay_finish.c (how it ends)
 * share.
 *
 * In Redis: PREFIXrelay:run:<app>:<run id>, "p" or "s" (proxy, SDK), start
 * and user, for --remember; PREFIXrelay:chat:<app>:<run id>, while its chat
 * messages are on their way, and as long behind that.
 */

#ifndef LW_RELAY_INTERNAL_H
#define LW_RELAY_INTERNAL_H

#include "relay.h"


#define LW_RETRY_MIN      500          /* ms                                */
#define LW_RETRY_MAX      30000
#define LW_EVENT_TRIES    3
#define LW_ONCE_TRIES     5

/* why it is a dead letter, in it and in the log; without a colon (group.h) */
#define LW_UNASSIGNED     "no --project for its app"


/* ms: how long it is known what was relayed */
#define LW_RELAY_MEMORY(w)                                                   \
    ((w)->options->remember > 0 ? (w)->options->remember : 1)


/* asks Redis about the items' runs and parents: LW_OK or LW_REDIS */
int lw_relay_ask(lw_t *w, lw_relay_t *r);

/* decides who is sent, skipped, held; last: nobody waits any more */
int lw_relay_link(lw_t *w, lw_relay_t *r, int last);

/* relay_link.c: an SDK's event that ends a run; one before whose start */
int lw_relay_ends(const lw_item_t *item);
int lw_relay_orphan(const lw_relay_t *r, const lw_item_t *item, int suspect);

/*
 * Sends n items of one project, in as many requests as it takes, and sets
 * their states.  LW_OK, LW_REDIS, LW_STOPPED or LW_REMOTE.
 */
int lw_relay_lot(lw_t *w, lw_relay_t *r, const lw_project_t *project,
    lw_item_t **list, size_t n);

/*
 * relay_answer.c: the entries of a request by its results.  LW_OK: Lunary took
 * some, and the others are suspects now.  LW_ERROR: it took nothing, which
 * tells of none but those that are done.  Or LW_NOMEM.
 */
int lw_relay_results(lw_t *w, lw_relay_t *r, lunary_str_t results,
    lw_item_t **list, size_t n);

/*
 * relay_suspect.c: count() comes first in a round, send() after all others of
 * the project, with lw_relay_lot()'s results.  failed() says whether an item
 * that was answered with 500 (or refused, or got no result), now so many times,
 * is settled for this round.  note() makes one a suspect that failed at `when`.
 * end(), after all, says whether --once is at its end: LW_OK or LW_REMOTE.
 */
void lw_relay_suspect_count(lw_relay_t *r);

/* lw_clock(), but always later than the one before: what passed right behind a
 * failure passed after it */
int64_t lw_relay_tick(lw_relay_t *r);

int lw_relay_suspect_due(lw_t *w, lw_relay_t *r, const lw_item_t *item);
int lw_relay_suspect_send(lw_t *w, lw_relay_t *r,
    const lw_project_t *project);
int lw_relay_suspect_failed(lw_t *w, lw_relay_t *r, lw_item_t *item,
    unsigned times);
void lw_relay_suspect_note(lw_t *w, lw_relay_t *r, lw_item_t *item,
    int64_t when);

int lw_relay_suspect_end(lw_t *w, lw_relay_t *r);

/* remembers and acknowledges what was confirmed: LW_OK or LW_REDIS */
int lw_relay_finish(lw_t *w, lw_relay_t *r);

/* appends a key of the kind "run" or "chat" */
void lw_relay_key(lw_t *w, lw_text_t *key, const char *kind,
    lunary_str_t app, lunary_str_t id);


#endif /* LW_RELAY_INTERNAL_H */
