/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Stream entries.  See entry.h.
 */

#include "entry.h"


#define LW_NAMES   512           /* slots; more than twice LW_F_MAX          */


_Static_assert(LW_F_MAX < 255 && LW_F_MAX * 2 < LW_NAMES,
               "the table of names is too small");


static void lw_entry_point(lw_entry_t *e, const redisReply *reply);
static unsigned lw_field_hash(lunary_str_t name);


int
lw_entry_take(lw_entry_t *e, const redisReply *reply)
{
    memset(e, 0, sizeof(*e));

    if (!lw_reply_is_array(reply) || reply->elements != 2
        || reply->element[0]->type != REDIS_REPLY_STRING)
    {
        return LW_ERROR;
    }

    e->since = lw_clock();

    lw_entry_point(e, reply);

    return LW_OK;
}


static void
lw_entry_point(lw_entry_t *e, const redisReply *reply)
{
    size_t             i;
    unsigned           f;
    const redisReply  *fields;

    e->reply = reply;
    e->id = lw_reply_str(reply->element[0]);

    fields = reply->element[1];

    if (!lw_reply_is_array(fields)) {
        e->gone = 1;
        return;
    }

    for (i = 0; i + 1 < fields->elements; i += 2) {

        f = lw_field_number(lw_reply_str(fields->element[i]));

        if (f < LW_F_MAX) {
            e->value[f] = lw_reply_str(fields->element[i + 1]);
        }
    }

    e->event = lunary_eq(lw_field(e, KIND), "event");
    e->run = lunary_eq(lw_field(e, KIND), "run");
}


int
lw_entry_keep(lw_entry_t *e)
{
    if (e->own) {
        return LW_OK;
    }

    e->own = lw_reply_copy(e->reply);
    if (e->own == NULL) {
        return LW_NOMEM;
    }

    lw_entry_point(e, e->own);

    return LW_OK;
}


void
lw_entry_free(lw_entry_t *e)
{
    lw_reply_free(e->own);
    memset(e, 0, sizeof(*e));
}


size_t
lw_entry_size(const lw_entry_t *e)
{
    size_t    n;
    unsigned  f;

    n = 0;

    for (f = 0; f < LW_F_MAX; f++) {
        n += e->value[f].len;
    }

    return n;
}


int64_t
lw_entry_int(const lw_entry_t *e, unsigned field)
{
    int64_t  n;

    return (lw_int(e->value[field], &n) && n >= 0) ? n : -1;
}


/*
 * Fields by name: a table that is filled at the first use.  A slot holds a
 * field's number + 1; names of one hash lie behind each other.
 */

unsigned
lw_field_number(lunary_str_t name)
{
    unsigned       f, i;
    lunary_str_t   known;

    static int            filled;
    static unsigned char  table[LW_NAMES];

    if (!filled) {

        for (f = 0; f < LW_F_MAX; f++) {

            i = lw_field_hash(lunary_run_name((lunary_field_e) f));

            while (table[i]) {
                i = (i + 1) % LW_NAMES;
            }

            table[i] = (unsigned char) (f + 1);
        }

        filled = 1;
    }

    for (i = lw_field_hash(name); table[i]; i = (i + 1) % LW_NAMES) {

        known = lunary_run_name((lunary_field_e) (table[i] - 1));

        if (lw_str_same(known, name)) {
            return table[i] - 1u;
        }
    }

    return LW_F_MAX;
}


static unsigned
lw_field_hash(lunary_str_t name)
{
    if (name.len == 0) {
        return 0;
    }

    return (unsigned) (name.len * 37 + name.data[0] * 5
                       + name.data[name.len / 2] * 3
                       + name.data[name.len - 1] * 17) % LW_NAMES;
}


void
lw_entry_usage(const lw_entry_t *e, lw_usage_t *u)
{
    u->provider = lw_field(e, PROVIDER);
    u->model = lw_field(e, MODEL);
    u->response_model = lw_field(e, RESPONSE_MODEL);
    u->usage = lw_field(e, USAGE);
    u->started_at = lw_entry_int(e, LUNARY_F_STARTED_AT);
    u->input = lw_entry_int(e, LUNARY_F_INPUT_TOKENS);
    u->output = lw_entry_int(e, LUNARY_F_OUTPUT_TOKENS);
    u->cached = lw_entry_int(e, LUNARY_F_CACHED_TOKENS);
    u->cache_write = lw_entry_int(e, LUNARY_F_CACHE_WRITE_TOKENS);
    u->reasoning = lw_entry_int(e, LUNARY_F_REASONING_TOKENS);

    if (u->model.len == 0) {
        u->model = u->response_model;
    }

    if (u->started_at < 0) {
        u->started_at = lw_now();
    }

    if (!lunary_json_valid(u->usage, 32)) {
        u->usage = lunary_str(NULL, 0);
    }
}
