/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A stream entry: its id, and its fields by number.
 *
 * Invariants
 *   - an entry borrows the reply that it was read from, and its fields, too;
 *     one that is kept longer has a copy of its own;
 *   - a field that is absent, or empty, is an empty slice: unknown.
 */

#ifndef LW_ENTRY_H
#define LW_ENTRY_H

#include "../../ngx_lunary_module/run/lunary_run.h"
#include "prices.h"
#include "redis.h"


#define LW_F_MAX   LUNARY_F_MAX


typedef struct {
    const redisReply  *reply;       /* [id, [name, value, ...]]               */
    redisReply     *own;            /* that, where it is kept                 */
    lunary_str_t    id;
    lunary_str_t    value[LW_F_MAX];
    unsigned        stream;         /* which of options' streams              */
    unsigned        again:1;        /* delivered before                       */
    unsigned        gone:1;         /* deleted after it was delivered         */
    unsigned        event:1;        /* kind=event                             */
    unsigned        run:1;          /* kind=run                               */
    int64_t         since;          /* lw_clock() when it was first seen      */
} lw_entry_t;


/* an element of XRANGE's or XREADGROUP's reply; LW_ERROR: it is none */
int lw_entry_take(lw_entry_t *e, const redisReply *reply);

/* it stays when the reply is freed, until lw_entry_free(); LW_OK, LW_NOMEM */
int lw_entry_keep(lw_entry_t *e);
void lw_entry_free(lw_entry_t *e);

/* the sum of the fields' lengths */
size_t lw_entry_size(const lw_entry_t *e);

#define lw_field(e, sym)  ((e)->value[LUNARY_F_##sym])

/* a field that is a number; -1 where it is absent or something else */
int64_t lw_entry_int(const lw_entry_t *e, unsigned field);

/* a field by name, among those above; LW_F_MAX where there is none */
unsigned lw_field_number(lunary_str_t name);

/* what cost.c wants to know of a run */
void lw_entry_usage(const lw_entry_t *e, lw_usage_t *u);


#endif /* LW_ENTRY_H */
