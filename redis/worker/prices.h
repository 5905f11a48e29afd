/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What a call cost, by redis/prices/prices.json (made by `make prices` from
 * the genai-prices package) or another file of that form.
 *
 * Invariants
 *   - exact: prices are decimals, sums are integers of 128 bits, rounding
 *     happens once, to a billionth of a dollar, half up;
 *   - unknown is unknown: a provider or model that is not in the table, a
 *     run without usage, usage that contradicts itself have no cost, never 0;
 *   - the table is read once and never changes; a reload makes another.
 */

#ifndef LW_PRICES_H
#define LW_PRICES_H

#include "lw.h"


/* NULL: the table that was compiled in.  NULL is returned where it is bad. */
lw_prices_t *lw_prices_load(lunary_mem_t *mem, const char *path);
void lw_prices_free(lw_prices_t *p);

/* "genai-prices 0.2.3, ...", "2026-11-22" */
lunary_str_t lw_prices_source(const lw_prices_t *p);
lunary_str_t lw_prices_date(const lw_prices_t *p);


/* what is known of a call; empty slices and negative numbers are unknown */

typedef struct {
    lunary_str_t    provider;      /* of the run, or genai-prices' own id     */
    lunary_str_t    model;         /* asked for                               */
    lunary_str_t    response_model;  /* tried where the first is not known    */
    lunary_str_t    usage;         /* the provider's object: details of it    */
    int64_t         started_at;    /* ms: which price was in force            */
    int64_t         input;
    int64_t         output;
    int64_t         cached;
    int64_t         cache_write;
    int64_t         reasoning;
} lw_usage_t;

typedef enum {
    LW_COST_OK = 0,
    LW_COST_NO_USAGE,              /* nothing to price                        */
    LW_COST_NO_MODEL,              /* not in the table                        */
    LW_COST_BAD_USAGE              /* parts are more than the whole           */
} lw_cost_e;

/* *nano becomes billionths of a dollar where LW_COST_OK is returned */
lw_cost_e lw_prices_cost(lw_prices_t *p, const lw_usage_t *u, int64_t *nano);

/* "0.001234567" without needless zeros, at least six decimals; out 32 bytes */
void lw_cost_text(char *out, int64_t nano);


#endif /* LW_PRICES_H */
