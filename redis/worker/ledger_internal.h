/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What ledger.c (entries), ledger_call.c (the step in Redis) and
 * ledger_rows.c (what a batch comes to for each user) share.
 */

#ifndef LW_LEDGER_INTERNAL_H
#define LW_LEDGER_INTERNAL_H

#include "ledger.h"


#define LW_SUMS          10
#define LW_BUCKET_MS     600000
#define LW_RUN_ID_MAX    256


enum {
    LW_SUM_RUNS = 0,
    LW_SUM_ERRORS,
    LW_SUM_ABORTED,
    LW_SUM_REJECTED,
    LW_SUM_INPUT,
    LW_SUM_OUTPUT,
    LW_SUM_UNPRICED,
    LW_SUM_CLAIMED,
    LW_SUM_TIMED,                     /* runs of which the next is the sum    */
    LW_SUM_DURATION
};


/* what one entry adds, and to whom */

typedef struct {
    const lw_entry_t   *entry;
    lunary_str_t        app;
    lunary_str_t        user;
    lunary_str_t        model;
    lunary_str_t        thread;
    lunary_str_t        member;       /* what must not count twice; or empty  */
    unsigned char       key[17];      /* that, of a UUID; and of which event  */
    int64_t             bucket;       /* where it is remembered               */
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
    lw_text_t           pack;         /* a call's batch, as MessagePack       */
} lw_ledger_t;


/* counts the entries of a stream and acknowledges them: LW_OK, LW_REDIS */
int lw_ledger_stream(lw_t *w, lw_ledger_t *l, unsigned stream);

/* the share's member, key and bucket, of a run's id */
void lw_ledger_member(lw_share_t *s, lunary_str_t run);

/* the same of an SDK's event, told by a letter; none but of a UUID */
void lw_ledger_event_member(lw_share_t *s, lunary_str_t run, char event);

/* where a start that an SDK told of is kept: its user */
void lw_ledger_open_key(lw_t *w, lw_text_t *key, lunary_str_t app,
    lunary_str_t run);

/* appends the users of a stream's entries: an array of rows */
void lw_ledger_users(lw_ledger_t *l, unsigned stream);

/*
 * MessagePack: texts, numbers as text, and arrays, whose length is told
 * behind their elements: list() begins one, end() ends it.
 */
void lw_pack(lw_text_t *t, lunary_str_t s);
void lw_pack_int(lw_text_t *t, int64_t n);
size_t lw_pack_list(lw_text_t *t);
void lw_pack_end(lw_text_t *t, size_t list, size_t n);


#endif /* LW_LEDGER_INTERNAL_H */
