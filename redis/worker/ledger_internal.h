/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What ledger.c (entries, and the call) and ledger_rows.c (the call's rows)
 * share.
 */

#ifndef LW_LEDGER_INTERNAL_H
#define LW_LEDGER_INTERNAL_H

#include "ledger.h"


#define LW_SUMS          8


enum {
    LW_SUM_RUNS = 0,
    LW_SUM_ERRORS,
    LW_SUM_ABORTED,
    LW_SUM_REJECTED,
    LW_SUM_INPUT,
    LW_SUM_OUTPUT,
    LW_SUM_UNPRICED,
    LW_SUM_CLAIMED
};


/* what one entry adds, and to whom */

typedef struct {
    const lw_entry_t   *entry;
    lunary_str_t        app;
    lunary_str_t        user;
    lunary_str_t        model;
    lunary_str_t        thread;
    lunary_str_t        run;          /* what must not count twice; or empty  */
    lunary_str_t        open;         /* an SDK's start: its run id           */
    lw_text_t           text;         /* what an event's ids decode to        */
    int64_t             first;
    int64_t             last;
    int64_t             sums[LW_SUMS];
    int64_t             cost;         /* nano, or -1                          */
    unsigned            verified:1;
    unsigned            counts:1;
    unsigned            lost:1;       /* not ours to count                    */
    unsigned            looks_up:1;   /* its user is that of its start        */
    uint64_t            who;          /* hash of app and user                 */
} lw_share_t;


typedef struct {
    lw_share_t         *shares;
    size_t              n;
    size_t              cap;
    size_t             *order;        /* shares by user                       */
    lw_share_t        **pick;         /* of them, those of one call           */
    lw_people_t         people;
    lw_text_t           args;         /* numbers and keys of one call         */
    size_t             *spots;        /* of each argument in args: end        */
    size_t              nspots;
    size_t              cspots;
} lw_ledger_t;


/* appends the rows of the users of a stream's entries, with their count */
void lw_ledger_users(lw_ledger_t *l, unsigned stream);

/*
 * Arguments of the call, one behind the other.  A count that is not known
 * yet: later() keeps its place, now() fills it.
 */
void lw_put(lw_ledger_t *l, lunary_str_t s);
void lw_put_int(lw_ledger_t *l, int64_t n);
size_t lw_put_later(lw_ledger_t *l);
void lw_put_now(lw_ledger_t *l, size_t spot, int64_t n);


#endif /* LW_LEDGER_INTERNAL_H */
