/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Reading the price table, and finding a model's prices in it.  What they
 * come to is cost.c's.  See prices.h.
 */

#include <ctype.h>
#include <stdlib.h>
#include <time.h>

#include "prices_internal.h"


#define LW_PRICES_MAX    (16 * 1024 * 1024)


/* the table that `make prices` wrote, in the program itself */

__asm__(
    ".section .rodata\n"
    ".global lw_prices_builtin\n"
    ".global lw_prices_builtin_end\n"
    "lw_prices_builtin:\n"
    ".incbin \"" LW_PRICES_FILE "\"\n"
    "lw_prices_builtin_end:\n"
    ".byte 0\n"
    ".previous\n"
);

extern const unsigned char  lw_prices_builtin[];
extern const unsigned char  lw_prices_builtin_end[];


/* runs name providers as OpenTelemetry does, the table as its authors do */

static const struct {
    const char    *run;
    const char    *table;
} lw_provider_names[] = {
    { "gcp.gemini",      "google" },
    { "gcp.vertex_ai",   "google" },
    { "gcp.gen_ai",      "google" },
    { "aws.bedrock",     "aws" },
    { "azure.ai.openai", "azure" },
    { "azure.ai.inference", "azure" },
    { "mistral_ai",      "mistral" },
    { "x_ai",            "x-ai" },
    { "github_copilot",  "github-copilot" },
    { "together_ai",     "together" }
};


static int lw_prices_read(lw_prices_t *p, lunary_str_t json);
static int lw_prices_units(lw_prices_t *p, lunary_str_t json);
static int lw_prices_provider(lw_prices_t *p, lw_provider_t *v,
    lunary_str_t json);
static int lw_prices_model(lw_prices_t *p, lw_model_t *m, lunary_str_t json);
static int lw_prices_list(lw_prices_t *p, lw_model_price_t *mp,
    lunary_str_t json);
static int lw_prices_tiers(lw_price_t *price, lunary_str_t json);
static size_t lw_prices_count(lunary_str_t json);
static lw_provider_t *lw_prices_find_provider(lw_prices_t *p,
    const char *name, size_t len);
static lw_model_t *lw_prices_match(lw_prices_t *p, lw_provider_t *v,
    const char *model, size_t len);
static int lw_prices_dashed(const char *in, size_t len, char *out);
static void lw_prices_model_free(lw_model_t *m);


lw_prices_t *
lw_prices_load(lunary_mem_t *mem, const char *path)
{
    lunary_str_t   json;
    lw_prices_t   *p;

    p = calloc(1, sizeof(*p));
    if (p == NULL) {
        lw_log(LW_LOG_ERROR, "no memory for prices");
        return NULL;
    }

    lw_text_init(&p->text, mem);

    if (path) {

        if (lw_file_read("prices", path, &p->text, LW_PRICES_MAX) != LW_OK) {
            lw_prices_free(p);
            return NULL;
        }

        json = lw_text_get(&p->text);

    } else {
        path = "the built-in prices";
        json = lunary_str(lw_prices_builtin, (size_t) (lw_prices_builtin_end
                                                       - lw_prices_builtin));
    }

    if (!lunary_json_valid(json, 16) || lw_prices_read(p, json) != LW_OK) {
        lw_log(LW_LOG_ERROR, "%s: not a price table", path);
        lw_prices_free(p);
        return NULL;
    }

    return p;
}


static int
lw_prices_read(lw_prices_t *p, lunary_str_t json)
{
    lunary_str_t         list, one;
    lunary_json_iter_t   it;

    const unsigned char  *pos;

    pos = json.data;
    json = lunary_json_value(&pos, json.data + json.len);

    p->source = lunary_json_inside(lunary_json_get(json, "source"));
    p->date = lunary_json_inside(lunary_json_get(json, "date"));

    if (lw_prices_units(p, lunary_json_get(json, "units")) != LW_OK) {
        return LW_ERROR;
    }

    list = lunary_json_get(json, "providers");

    p->providers = calloc(lw_prices_count(list) + 1, sizeof(*p->providers));
    if (p->providers == NULL) {
        return LW_NOMEM;
    }

    lunary_json_iter(&it, list);

    while (lunary_json_element(&it, &one)) {
        if (lw_prices_provider(p, &p->providers[p->nproviders++], one)
            != LW_OK)
        {
            return LW_ERROR;
        }
    }

    return p->nproviders ? LW_OK : LW_ERROR;
}


static size_t
lw_prices_count(lunary_str_t json)
{
    size_t               n;
    lunary_str_t         one;
    lunary_json_iter_t   it;

    n = 0;
    lunary_json_iter(&it, json);

    while (lunary_json_element(&it, &one)) {
        n++;
    }

    return n;
}


/*
 * A unit's dimensions become bits, one for each pair of name and value: one
 * unit is a part of another where its bits hold all of the other's.
 */

static int
lw_prices_units(lw_prices_t *p, lunary_str_t json)
{
    size_t               i;
    lw_unit_t           *u;
    lunary_str_t         one, key, val;
    lunary_json_iter_t   it, dims;

    lunary_json_iter(&it, json);

    while (lunary_json_element(&it, &one)) {

        if (p->nunits == LW_UNITS_MAX) {
            return LW_ERROR;
        }

        u = &p->units[p->nunits++];
        u->usage = lunary_json_inside(lunary_json_get(one, "usage"));
        u->price = lunary_json_inside(lunary_json_get(one, "price"));

        if (u->usage.len == 0 || u->price.len == 0
            || !lunary_json_int(lunary_json_get(one, "per"), &u->per)
            || u->per <= 0 || LW_COST_LCM % u->per != 0)
        {
            return LW_ERROR;
        }

        lunary_json_iter(&dims, lunary_json_get(one, "dimensions"));

        while (lunary_json_member(&dims, &key, &val)) {

            for (i = 0; i < p->ndims; i++) {
                if (lw_str_same(p->dims[i].name, key)
                    && lw_str_same(p->dims[i].value, val))
                {
                    break;
                }
            }

            if (i == p->ndims) {

                if (i == LW_DIMS_MAX) {
                    return LW_ERROR;
                }

                p->dims[i].name = key;
                p->dims[i].value = val;
                p->ndims++;
            }

            u->bits |= (uint64_t) 1 << i;
            u->depth++;
        }
    }

    for (p->input = 0; p->input < p->nunits; p->input++) {
        if (lunary_eq(p->units[p->input].usage, "input_tokens")) {
            return LW_OK;
        }
    }

    return LW_ERROR;
}


static int
lw_prices_provider(lw_prices_t *p, lw_provider_t *v, lunary_str_t json)
{
    lunary_str_t         one, list;
    lunary_json_iter_t   it;

    v->id = lunary_json_inside(lunary_json_get(json, "id"));
    v->fallback = lunary_json_get(json, "fallback");

    one = lunary_json_get(json, "provider_match");

    if (one.len && (v->provider_match = lw_match_compile(one)) == NULL) {
        return LW_ERROR;
    }

    one = lunary_json_get(json, "model_match");

    if (one.len && (v->model_match = lw_match_compile(one)) == NULL) {
        return LW_ERROR;
    }

    list = lunary_json_get(json, "models");

    v->models = calloc(lw_prices_count(list) + 1, sizeof(*v->models));
    if (v->models == NULL) {
        return LW_NOMEM;
    }

    lunary_json_iter(&it, list);

    while (lunary_json_element(&it, &one)) {
        if (lw_prices_model(p, &v->models[v->nmodels++], one) != LW_OK) {
            return LW_ERROR;
        }
    }

    return v->id.len ? LW_OK : LW_ERROR;
}


static int
lw_prices_model(lw_prices_t *p, lw_model_t *m, lunary_str_t json)
{
    int64_t              hour;
    lunary_str_t         one, list, from;
    lw_model_price_t    *mp;
    lunary_json_iter_t   it;

    m->match = lw_match_compile(lunary_json_get(json, "match"));
    if (m->match == NULL) {
        return LW_ERROR;
    }

    list = lunary_json_get(json, "prices");

    m->prices = calloc(lw_prices_count(list) + 1, sizeof(*m->prices));
    if (m->prices == NULL) {
        return LW_NOMEM;
    }

    lunary_json_iter(&it, list);

    while (lunary_json_element(&it, &one)) {

        mp = &m->prices[m->nprices++];

        from = lunary_json_inside(lunary_json_get(one, "from"));

        if (from.len == 10) {
            memcpy(mp->from, from.data, 10);
        }

        list = lunary_json_get(one, "hours");

        if (list.len) {
            mp->hours = 1;

            if (!lunary_json_int(lunary_json_at(list, 0), &hour)) {
                return LW_ERROR;
            }

            mp->begin = hour * 1000;

            if (!lunary_json_int(lunary_json_at(list, 1), &hour)) {
                return LW_ERROR;
            }

            mp->end = hour * 1000;
        }

        if (lw_prices_list(p, mp, lunary_json_get(one, "usd")) != LW_OK) {
            return LW_ERROR;
        }
    }

    return m->nprices ? LW_OK : LW_ERROR;
}


static int
lw_prices_list(lw_prices_t *p, lw_model_price_t *mp, lunary_str_t json)
{
    size_t               i, n;
    lunary_str_t         key, val;
    lw_price_t          *price;
    lunary_json_iter_t   it;

    n = 0;
    lunary_json_iter(&it, json);

    while (lunary_json_member(&it, &key, &val)) {
        n++;
    }

    mp->list = calloc(n + 1, sizeof(*mp->list));
    if (mp->list == NULL) {
        return LW_NOMEM;
    }

    lunary_json_iter(&it, json);

    while (lunary_json_member(&it, &key, &val)) {

        for (i = 0; i < p->nunits; i++) {
            if (lw_str_same(p->units[i].price, key)) {
                break;
            }
        }

        if (i == p->nunits) {
            return LW_ERROR;
        }

        price = &mp->list[mp->n++];
        price->unit = (unsigned) i;

        if (lw_prices_tiers(price, val) != LW_OK) {
            return LW_ERROR;
        }
    }

    return LW_OK;
}


static int
lw_prices_tiers(lw_price_t *price, lunary_str_t json)
{
    lunary_str_t         one;
    lunary_json_iter_t   it;

    if (lunary_json_is_string(json)) {
        return lw_cost_decimal(lunary_json_inside(json), &price->base);
    }

    lunary_json_iter(&it, json);

    if (!lunary_json_element(&it, &one)
        || lw_cost_decimal(lunary_json_inside(one), &price->base) != LW_OK)
    {
        return LW_ERROR;
    }

    while (lunary_json_element(&it, &one)) {

        if (price->ntiers == LW_TIERS_MAX
            || !lunary_json_int(lunary_json_at(one, 0),
                                &price->tiers[price->ntiers].start)
            || lw_cost_decimal(lunary_json_inside(lunary_json_at(one, 1)),
                               &price->tiers[price->ntiers].price)
               != LW_OK)
        {
            return LW_ERROR;
        }

        price->ntiers++;
    }

    return LW_OK;
}


void
lw_prices_free(lw_prices_t *p)
{
    size_t  i, k;

    if (p == NULL) {
        return;
    }

    for (i = 0; i < p->nproviders; i++) {

        for (k = 0; k < p->providers[i].nmodels; k++) {
            lw_prices_model_free(&p->providers[i].models[k]);
        }

        free(p->providers[i].models);
        lw_match_free(p->providers[i].provider_match);
        lw_match_free(p->providers[i].model_match);
    }

    free(p->providers);
    lw_text_free(&p->text);
    free(p);
}


static void
lw_prices_model_free(lw_model_t *m)
{
    size_t  i;

    for (i = 0; i < m->nprices; i++) {
        free(m->prices[i].list);
    }

    free(m->prices);
    lw_match_free(m->match);
}


lunary_str_t
lw_prices_source(const lw_prices_t *p)
{
    return p->source;
}


lunary_str_t
lw_prices_date(const lw_prices_t *p)
{
    return p->date;
}


const lw_model_t *
lw_prices_find(lw_prices_t *p, lunary_str_t provider, lunary_str_t model)
{
    char             name[LW_NAME_MAX + 1], who[LW_NAME_MAX + 1];
    char             dashed[2 * LW_NAME_MAX + 1];
    size_t           i;
    lw_found_t      *slot;
    lw_provider_t   *v;

    if (model.len == 0 || model.len > LW_NAME_MAX
        || provider.len > LW_NAME_MAX)
    {
        return NULL;
    }

    /* names are compared as C strings here */

    if (memchr(model.data, '\0', model.len)
        || (provider.len && memchr(provider.data, '\0', provider.len)))
    {
        return NULL;
    }

    for (i = 0; i < model.len; i++) {
        name[i] = (char) tolower(model.data[i]);
    }

    name[i] = '\0';

    for (i = 0; i < provider.len; i++) {
        who[i] = (char) tolower(provider.data[i]);
    }

    who[i] = '\0';

    slot = &p->found[lw_hash(lw_str(name), lw_hash(lw_str(who), 0))
                     % LW_FOUND_MAX];

    if (slot->used && strcmp(slot->model, name) == 0
        && strcmp(slot->provider, who) == 0)
    {
        return slot->found;
    }

    slot->used = 1;
    slot->found = NULL;
    memcpy(slot->model, name, model.len + 1);
    memcpy(slot->provider, who, provider.len + 1);

    v = NULL;

    if (provider.len) {
        v = lw_prices_find_provider(p, who, provider.len);

    } else {

        for (i = 0; i < p->nproviders && v == NULL; i++) {
            if (p->providers[i].model_match
                && lw_match(p->providers[i].model_match, name, model.len))
            {
                v = &p->providers[i];
            }
        }
    }

    if (v == NULL) {
        return NULL;
    }

    slot->found = lw_prices_match(p, v, name, model.len);

    if (slot->found == NULL && lw_prices_dashed(name, model.len, dashed)) {
        slot->found = lw_prices_match(p, v, dashed, strlen(dashed));
    }

    return slot->found;
}


static lw_provider_t *
lw_prices_find_provider(lw_prices_t *p, const char *name, size_t len)
{
    size_t  i;

    for (i = 0; i < sizeof(lw_provider_names) / sizeof(lw_provider_names[0]);
         i++)
    {
        if (strcmp(lw_provider_names[i].run, name) == 0) {
            name = lw_provider_names[i].table;
            len = strlen(name);
            break;
        }
    }

    for (i = 0; i < p->nproviders; i++) {
        if (lunary_str_eq(p->providers[i].id, name, len)) {
            return &p->providers[i];
        }
    }

    for (i = 0; i < p->nproviders; i++) {
        if (p->providers[i].provider_match
            && lw_match(p->providers[i].provider_match, name, len))
        {
            return &p->providers[i];
        }
    }

    return NULL;
}


static lw_model_t *
lw_prices_match(lw_prices_t *p, lw_provider_t *v, const char *model,
    size_t len)
{
    size_t               i, k;
    lunary_str_t         id;
    lunary_json_iter_t   it;

    for (i = 0; i < v->nmodels; i++) {
        if (lw_match(v->models[i].match, model, len)) {
            return &v->models[i];
        }
    }

    /* who sells others' models: Azure OpenAI's, Google Anthropic's */

    lunary_json_iter(&it, v->fallback);

    while (lunary_json_element(&it, &id)) {

        id = lunary_json_inside(id);

        for (k = 0; k < p->nproviders; k++) {

            if (!lw_str_same(p->providers[k].id, id)) {
                continue;
            }

            for (i = 0; i < p->providers[k].nmodels; i++) {
                if (lw_match(p->providers[k].models[i].match, model, len)) {
                    return &p->providers[k].models[i];
                }
            }
        }
    }

    return NULL;
}


/* "-20251211" at the end or before a colon becomes "-2025-12-11" */

static int
lw_prices_dashed(const char *in, size_t len, char *out)
{
    int          month, day, changed;
    size_t       i, k;
    const char  *d;

    changed = 0;

    for (i = 0, k = 0; i < len; i++) {

        out[k++] = in[i];
        d = in + i + 1;

        if (in[i] != '-' || i + 8 >= len || d[0] != '2' || d[1] != '0'
            || strspn(d, "0123456789") != 8
            || (d[8] != '\0' && d[8] != '-' && d[8] != ':'))
        {
            continue;
        }

        month = (d[4] - '0') * 10 + d[5] - '0';
        day = (d[6] - '0') * 10 + d[7] - '0';

        if (month < 1 || month > 12 || day < 1 || day > 31) {
            continue;
        }

        memcpy(out + k, d, 4);
        out[k + 4] = '-';
        memcpy(out + k + 5, d + 4, 2);
        out[k + 7] = '-';
        memcpy(out + k + 8, d + 6, 2);

        k += 10;
        i += 8;
        changed = 1;
    }

    out[k] = '\0';

    return changed;
}
