/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Stream entries.  See entry.h.
 */

#include "entry.h"


int
lw_entry_take(lw_entry_t *e, redisReply **slot)
{
    size_t        i;
    unsigned      f, next;
    redisReply   *reply, *fields;
    lunary_str_t  name;

    reply = *slot;

    memset(e, 0, sizeof(*e));

    if (!lw_reply_is_array(reply) || reply->elements != 2
        || reply->element[0]->type != REDIS_REPLY_STRING)
    {
        return LW_ERROR;
    }

    *slot = NULL;

    e->reply = reply;
    e->id = lw_reply_str(reply->element[0]);
    e->since = lw_clock();

    fields = reply->element[1];

    if (!lw_reply_is_array(fields)) {
        e->gone = 1;
        return LW_OK;
    }

    /* the module writes fields in their own order: the next one is near */

    next = 0;

    for (i = 0; i + 1 < fields->elements; i += 2) {

        name = lw_reply_str(fields->element[i]);

        for (f = next; f < LW_F_MAX; f++) {
            if (lw_str_same(lunary_run_name((lunary_field_e) f), name)) {
                break;
            }
        }

        if (f == LW_F_MAX) {
            f = lw_field_number(name);
        }

        if (f < LW_F_MAX) {
            e->value[f] = lw_reply_str(fields->element[i + 1]);
            next = f + 1;
        }
    }

    e->event = lunary_eq(lw_field(e, KIND), "event");
    e->run = lunary_eq(lw_field(e, KIND), "run");

    return LW_OK;
}


void
lw_entry_free(lw_entry_t *e)
{
    if (e->reply) {
        freeReplyObject(e->reply);
    }

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


unsigned
lw_field_number(lunary_str_t name)
{
    unsigned  f;

    for (f = 0; f < LW_F_MAX; f++) {
        if (lw_str_same(lunary_run_name((lunary_field_e) f), name)) {
            break;
        }
    }

    return f;
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
