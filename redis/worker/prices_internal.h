/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What prices.c (the table) and cost.c (the arithmetic) share.
 */

#ifndef LW_PRICES_INTERNAL_H
#define LW_PRICES_INTERNAL_H

#include "match.h"
#include "prices.h"


#define LW_NAME_MAX     256
#define LW_UNITS_MAX    96
#define LW_DIMS_MAX     64
#define LW_TIERS_MAX    4
#define LW_FOUND_MAX    512

/* a multiple of every unit's `per`: 10^9 and 3600 */
#define LW_COST_LCM     9000000000LL


typedef struct {
    lunary_str_t        usage;       /* input_tokens                          */
    lunary_str_t        price;       /* input_mtok                            */
    int64_t             per;
    uint64_t            bits;
    unsigned            depth;       /* bits set                              */
} lw_unit_t;

typedef struct {
    unsigned            unit;
    unsigned            ntiers;
    int64_t             base;        /* 10^-12 dollars for `per` units        */
    struct {
        int64_t         start;       /* input tokens above which it holds     */
        int64_t         price;
    } tiers[LW_TIERS_MAX];
} lw_price_t;

typedef struct {
    char                from[10];    /* a date, or zeroes                     */
    int                 hours;
    int64_t             begin;       /* ms of the day, UTC                    */
    int64_t             end;
    size_t              n;
    lw_price_t         *list;
} lw_model_price_t;

typedef struct {
    lw_match_t         *match;
    size_t              nprices;
    lw_model_price_t   *prices;
} lw_model_t;

typedef struct {
    lunary_str_t        id;
    lunary_str_t        fallback;    /* JSON array of ids                     */
    lw_match_t         *provider_match;
    lw_match_t         *model_match;
    size_t              nmodels;
    lw_model_t         *models;
} lw_provider_t;

/* names that were looked up, found or not */
typedef struct {
    char                model[LW_NAME_MAX + 1];
    char                provider[LW_NAME_MAX + 1];
    int                 used;
    const lw_model_t   *found;
} lw_found_t;

struct lw_prices_s {
    lw_text_t           text;
    lunary_str_t        source;
    lunary_str_t        date;
    size_t              nunits;
    unsigned            input;       /* the unit of input tokens: tiers       */
    lw_unit_t           units[LW_UNITS_MAX];
    size_t              ndims;
    struct {
        lunary_str_t    name;
        lunary_str_t    value;
    } dims[LW_DIMS_MAX];
    size_t              nproviders;
    lw_provider_t      *providers;
    lw_found_t          found[LW_FOUND_MAX];
};


/* an empty provider: found by the model's name.  NULL where it is unknown */
const lw_model_t *lw_prices_find(lw_prices_t *p, lunary_str_t provider,
    lunary_str_t model);

/* "0.075" in 10^-12; LW_ERROR where it is no such number */
int lw_cost_decimal(lunary_str_t s, int64_t *out);


#endif /* LW_PRICES_INTERNAL_H */
