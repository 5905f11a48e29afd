/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The ledger's users as they were read, and the three ways to show them.
 *
 * Invariants
 *   - what is not known is -1, or empty, and shown as "-";
 *   - props and models are valid JSON, or empty.
 */

#ifndef LW_USERS_H
#define LW_USERS_H

#include "pool.h"
#include "prices.h"


typedef struct {
    lunary_str_t    app;
    lunary_str_t    id;
    const char     *rest;           /* "none", "claimed": counted together    */
    int64_t         runs;
    int64_t         errors;
    int64_t         input;
    int64_t         output;
    int64_t         cost;           /* nano; -1: unknown                      */
    int64_t         unpriced;
    int64_t         threads;
    int64_t         latency;        /* ms, mean                               */
    int64_t         first;
    int64_t         last;
    lunary_str_t    props;
    lunary_str_t    models;
    int             verified;
} lw_row_t;

typedef struct {
    lw_row_t       *rows;
    size_t          n;
    size_t          cap;
    lunary_str_t   *apps;
    size_t          napps;
    size_t          capps;
    lw_pool_t       pool;           /* all texts                              */
} lw_table_t;


/* columns, for people: as many as a terminal has room for */
void lw_users_table(lw_t *w, const lw_table_t *t, lw_text_t *out);

/* an array of objects */
void lw_users_json(const lw_table_t *t, lw_text_t *out);

/* the page into options' file; LW_OK, or LW_ERROR, which is logged */
int lw_users_html(lw_t *w, const lw_table_t *t);


#endif /* LW_USERS_H */
