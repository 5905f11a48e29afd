/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What usage comes to at a model's prices.  See prices.h.
 *
 * A price is for a kind of unit (input tokens; of them cached ones; of them
 * cached audio ones), and what is priced as a part is not priced as the whole
 * again: each kind's own count is its usage less that of the priced kinds
 * inside it.  Parts that come to more than the whole make the cost unknown.
 */

#include <stdio.h>

#include "prices_internal.h"


__extension__ typedef __int128  lw_wide_t;


/*
 * Details that only the provider's own usage object has: a member of it, and
 * behind that a path of members, or of an array's element that has
 * `member`=`value`, then members.
 */

static const lunary_str_t  lw_detail_heads[] = {
    lunary_string("prompt_tokens_details"),
    lunary_string("completion_tokens_details"),
    lunary_string("input_tokens_details"),
    lunary_string("output_tokens_details"),
    lunary_string("cache_creation"),
    lunary_string("cacheDetails"),
    lunary_string("server_tool_use"),
    lunary_string("num_search_queries"),
    lunary_string("citation_tokens"),
    lunary_string("promptTokensDetails"),
    lunary_string("cacheTokensDetails"),
    lunary_string("candidatesTokensDetails")
};

#define LW_HEADS  (sizeof(lw_detail_heads) / sizeof(lw_detail_heads[0]))


static const struct {
    unsigned       head;         /* in the list above                         */
    const char    *path;
    const char    *unit;
} lw_details[] = {
    /* prompt_tokens_details */
    { 0, ".audio_tokens", "input_audio_tokens" },

    /* completion_tokens_details */
    { 1, ".audio_tokens", "output_audio_tokens" },

    /* input_tokens_details */
    { 2, ".image_tokens", "input_image_tokens" },

    /* output_tokens_details */
    { 3, ".image_tokens", "output_image_tokens" },

    /* cache_creation */
    { 4, ".ephemeral_5m_input_tokens", "cache_write_5m_tokens" },
    { 4, ".ephemeral_1h_input_tokens", "cache_write_1h_tokens" },

    /* cacheDetails */
    { 5, "[ttl=5m].inputTokens", "cache_write_5m_tokens" },
    { 5, "[ttl=1h].inputTokens", "cache_write_1h_tokens" },

    /* server_tool_use */
    { 6, ".web_search_requests", "web_searches" },

    /* num_search_queries */
    { 7, "", "web_searches" },

    /* citation_tokens */
    { 8, "", "output_citation_tokens" },

    /* promptTokensDetails */
    { 9, "[modality=AUDIO].tokenCount", "input_audio_tokens" },
    { 9, "[modality=IMAGE].tokenCount", "input_image_tokens" },
    { 9, "[modality=VIDEO].tokenCount", "input_video_tokens" },

    /* cacheTokensDetails */
    { 10, "[modality=AUDIO].tokenCount", "cache_audio_read_tokens" },
    { 10, "[modality=IMAGE].tokenCount", "cache_image_read_tokens" },
    { 10, "[modality=VIDEO].tokenCount", "cache_video_read_tokens" },

    /* candidatesTokensDetails */
    { 11, "[modality=AUDIO].tokenCount", "output_audio_tokens" },
    { 11, "[modality=IMAGE].tokenCount", "output_image_tokens" },
    { 11, "[modality=VIDEO].tokenCount", "output_video_tokens" }
};


static const lw_model_price_t *lw_cost_active(const lw_model_t *m, int64_t ms);
static void lw_cost_count(lw_prices_t *p, int64_t *counts, const char *unit,
    int64_t n);
static int64_t lw_cost_passes(const lw_usage_t *u, int64_t n,
    const char *member);
static int64_t lw_cost_detail(lunary_str_t v, const char *path);
static lw_cost_e lw_cost_sum(const lw_prices_t *p, const lw_model_price_t *mp,
    const int64_t *counts, int64_t *nano);
static int lw_cost_implied(const lw_prices_t *p, unsigned unit,
    const unsigned char *there, size_t n);


lw_cost_e
lw_prices_cost(lw_prices_t *p, const lw_usage_t *u, int64_t *nano)
{
    size_t                   i;
    int64_t                  counts[LW_UNITS_MAX], whole[LW_UNITS_MAX];
    lw_cost_e                rc;
    const lw_model_t        *m;
    lunary_str_t             heads[LW_HEADS];
    const lw_model_price_t  *mp;

    if (u->input < 0 && u->output < 0) {
        return LW_COST_NO_USAGE;
    }

    m = lw_prices_find(p, u->provider, u->model);

    if (m == NULL && u->response_model.len) {
        m = lw_prices_find(p, u->provider, u->response_model);
    }

    if (m == NULL) {
        return LW_COST_NO_MODEL;
    }

    mp = lw_cost_active(m, u->started_at);

    for (i = 0; i < p->nunits; i++) {
        counts[i] = -1;
    }

    lw_cost_count(p, counts, "input_tokens", u->input);
    lw_cost_count(p, counts, "output_tokens", u->output);
    lw_cost_count(p, counts, "cache_read_tokens",
                  lw_cost_passes(u, u->cached, "cache_read_input_tokens"));
    lw_cost_count(p, counts, "cache_write_tokens",
                  lw_cost_passes(u, u->cache_write,
                                 "cache_creation_input_tokens"));
    lw_cost_count(p, counts, "output_reasoning_tokens", u->reasoning);
    lw_cost_count(p, counts, "requests", 1);

    if (u->usage.len == 0
        || lunary_json_pick(u->usage, lw_detail_heads, heads, LW_HEADS) == 0)
    {
        return lw_cost_sum(p, mp, counts, nano);
    }

    memcpy(whole, counts, sizeof(counts));

    for (i = 0; i < sizeof(lw_details) / sizeof(lw_details[0]); i++) {
        if (heads[lw_details[i].head].len) {
            lw_cost_count(p, counts, lw_details[i].unit,
                          lw_cost_detail(heads[lw_details[i].head],
                                         lw_details[i].path));
        }
    }

    rc = lw_cost_sum(p, mp, counts, nano);

    if (rc == LW_COST_OK) {
        return rc;
    }

    /* details that do not add up: by the totals alone */

    return lw_cost_sum(p, mp, whole, nano);
}


/* the last price whose condition holds, else the first one */

static const lw_model_price_t *
lw_cost_active(const lw_model_t *m, int64_t ms)
{
    char                     date[11];
    size_t                   i;
    int64_t                  day;
    const lw_model_price_t  *mp;

    lw_date(date, ms);
    day = ms % 86400000;

    for (i = m->nprices; i-- > 0; ) {

        mp = &m->prices[i];

        if (mp->from[0] && memcmp(date, mp->from, 10) < 0) {
            continue;
        }

        if (mp->hours
            && (mp->end < mp->begin ? day < mp->begin && day >= mp->end
                                    : day < mp->begin || day >= mp->end))
        {
            continue;
        }

        return mp;
    }

    return &m->prices[0];
}


static void
lw_cost_count(lw_prices_t *p, int64_t *counts, const char *unit, int64_t n)
{
    size_t  i;

    if (n < 0) {
        return;
    }

    for (i = 0; i < p->nunits; i++) {
        if (lunary_str_eq(p->units[i].usage, unit, strlen(unit))) {
            counts[i] = n;
            return;
        }
    }
}


/*
 * n, and what Anthropic's summing up of the conversation had of the same: that
 * is in the run's input, at the price of what the cache had.
 */

static int64_t
lw_cost_passes(const lw_usage_t *u, int64_t n, const char *member)
{
    int64_t             more;
    lunary_str_t        v;
    lunary_json_iter_t  it;

    v = lunary_json_get(u->usage, "iterations");

    if (!lunary_json_is_array(v)) {
        return n;
    }

    lunary_json_iter(&it, v);

    while (lunary_json_element(&it, &v)) {

        if (!lunary_eq(lunary_json_inside(lunary_json_get(v, "type")),
                       "compaction"))
        {
            continue;
        }

        v = lunary_json_get_n(v, member, strlen(member));

        if (lunary_json_int(v, &more) && more > 0
            && more < (int64_t) 1 << 40 && n < (int64_t) 1 << 53)
        {
            n = (n < 0) ? more : n + more;
        }
    }

    return n;
}


static int64_t
lw_cost_detail(lunary_str_t v, const char *path)
{
    size_t               len, member;
    int64_t              n;
    lunary_str_t         one, name;
    const char          *equals, *close;
    lunary_json_iter_t   it;

    while (v.len && *path) {

        if (*path == '.') {
            path++;
            len = strcspn(path, ".[");
            v = lunary_json_get_n(v, path, len);
            path += len;
            continue;
        }

        /* [member=value] */

        equals = strchr(path, '=');
        close = strchr(path, ']');
        member = (size_t) (equals - path) - 1;

        lunary_json_iter(&it, v);
        v = lunary_str(NULL, 0);

        while (lunary_json_element(&it, &one)) {

            name = lunary_json_inside(lunary_json_get_n(one, path + 1,
                                                        member));

            if (lunary_str_eq(name, equals + 1,
                              (size_t) (close - equals) - 1))
            {
                v = one;
                break;
            }
        }

        path = close + 1;
    }

    return (lunary_json_int(v, &n) && n >= 0) ? n : -1;
}


static lw_cost_e
lw_cost_sum(const lw_prices_t *p, const lw_model_price_t *mp,
    const int64_t *counts, int64_t *nano)
{
    size_t             i, k, n, t;
    int64_t            leaf[LW_UNITS_MAX], price, input, per;
    unsigned           depth, done;
    lw_wide_t          sum;
    unsigned char      there[LW_UNITS_MAX];
    const lw_unit_t   *u, *part;
    const lw_price_t  *l;

    l = mp->list;

    for (i = 0, n = 0; i < p->nunits; i++) {
        if (counts[i] > 0) {
            there[n++] = (unsigned char) i;
        }
    }

    /* parts first: a unit with more dimensions is inside one with fewer */

    done = 0;
    depth = 0;

    for (i = 0; i < mp->n; i++) {
        if (p->units[l[i].unit].depth > depth) {
            depth = p->units[l[i].unit].depth;
        }
    }

    for (depth++; depth-- > 0; ) {
        for (i = 0; i < mp->n; i++) {

            u = &p->units[l[i].unit];

            if (u->depth != depth) {
                continue;
            }

            leaf[i] = counts[l[i].unit];

            if (leaf[i] < 0) {

                if (lw_cost_implied(p, l[i].unit, there, n)) {
                    return LW_COST_BAD_USAGE;
                }

                leaf[i] = 0;
            }

            for (k = 0; k < mp->n; k++) {

                part = &p->units[l[k].unit];

                if (part->depth > depth
                    && (part->bits & u->bits) == u->bits)
                {
                    leaf[i] -= leaf[k];
                }
            }

            if (leaf[i] < 0) {
                return LW_COST_BAD_USAGE;
            }

            done++;
        }
    }

    if (done != mp->n) {
        return LW_COST_BAD_USAGE;
    }

    input = counts[p->input] > 0 ? counts[p->input] : 0;

    sum = 0;

    for (i = 0; i < mp->n; i++) {

        price = l[i].base;

        for (t = 0; t < l[i].ntiers; t++) {
            if (input > l[i].tiers[t].start) {
                price = l[i].tiers[t].price;
            }
        }

        if (leaf[i] > 1000000000000LL) {
            return LW_COST_BAD_USAGE;
        }

        per = LW_COST_LCM / p->units[l[i].unit].per;
        sum += (lw_wide_t) price * leaf[i] * per;
    }

    /* from 10^-12 / LCM to billionths, half up */

    sum = (sum + (lw_wide_t) 500 * LW_COST_LCM)
          / ((lw_wide_t) 1000 * LW_COST_LCM);

    if (sum > INT64_MAX / 1024) {
        return LW_COST_BAD_USAGE;
    }

    *nano = (int64_t) sum;

    return LW_COST_OK;
}


/*
 * A priced unit that was not reported is 0, unless what was reported shows
 * that it is not: a part of it, or two kinds whose overlap it is.
 */

static int
lw_cost_implied(const lw_prices_t *p, unsigned unit,
    const unsigned char *there, size_t n)
{
    size_t            i, k;
    uint64_t          bits;
    const lw_unit_t  *a, *b;

    bits = p->units[unit].bits;

    for (i = 0; i < n; i++) {

        a = &p->units[there[i]];

        if (there[i] == unit) {
            continue;
        }

        if ((a->bits & bits) == bits) {
            return 1;
        }

        for (k = i + 1; k < n; k++) {

            b = &p->units[there[k]];

            if ((a->bits | b->bits) == bits
                && (a->bits & b->bits) != a->bits
                && (a->bits & b->bits) != b->bits)
            {
                return 1;
            }
        }
    }

    return 0;
}


int
lw_cost_decimal(lunary_str_t s, int64_t *out)
{
    int       digits, point;
    size_t    i;
    int64_t   v;

    v = 0;
    digits = 0;
    point = 0;

    for (i = 0; i < s.len; i++) {

        if (s.data[i] == '.' && !point) {
            point = 1;
            continue;
        }

        if (s.data[i] < '0' || s.data[i] > '9' || digits == 12
            || v > INT64_MAX / 10 - 9)
        {
            return LW_ERROR;
        }

        v = v * 10 + (s.data[i] - '0');
        digits += point;
    }

    for ( /* void */ ; digits < 12; digits++) {

        if (v > INT64_MAX / 10) {
            return LW_ERROR;
        }

        v *= 10;
    }

    *out = v;

    return s.len ? LW_OK : LW_ERROR;
}


void
lw_cost_text(char *out, int64_t nano)
{
    int  n;

    n = snprintf(out, 32, "%lld.%09lld", (long long) (nano / 1000000000),
                 (long long) (nano % 1000000000));

    while (n > 0 && out[n - 1] == '0'
           && strchr(out, '.') + 7 < out + n)
    {
        out[--n] = '\0';
    }
}
