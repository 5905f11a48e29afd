/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What dialects tell of usage: the object verbatim and its numbers.  Unknown
 * is absent: a count that is no whole number of tokens is not one.
 */

#include "lunary_call_internal.h"


static void lunary_call_details(lunary_call_t *call, lunary_walk_t *w,
    int prompt);


void
lunary_call_usage(lunary_call_t *call, lunary_str_t value)
{
    size_t         len;
    lunary_buf_t  *b;

    if (!lunary_json_is_object(value) || value.len > LUNARY_CALL_USAGE) {
        return;
    }

    b = &lunary_priv(call)->usage;
    len = b->len;
    b->len = 0;

    if (lunary_buf_append(call->mem, b, value.data, value.len) != LUNARY_OK) {
        b->len = len;
        return;
    }

    lunary_priv(call)->usage_valid = (lunary_priv(call)->tape != NULL);
}


void
lunary_call_count(int64_t *slot, lunary_str_t value)
{
    size_t   i;
    int64_t  n;

    if (value.len != 0 && value.len < 16) {

        /* nearly always plain digits */

        for (i = 0, n = 0; i < value.len; i++) {
            if (value.data[i] < '0' || value.data[i] > '9') {
                break;
            }

            n = n * 10 + (value.data[i] - '0');
        }

        if (i == value.len && (i == 1 || value.data[0] != '0')) {
            *slot = n;
            return;
        }
    }

    /* no count is larger: so sums of them stay numbers */

    if (value.len != 0 && lunary_json_int(value, &n) && n >= 0
        && n < (int64_t) 1 << 53)
    {
        *slot = n;
    }
}


void
lunary_call_count_more(int64_t *slot, lunary_str_t value)
{
    int64_t  n;

    n = LUNARY_UNKNOWN;

    lunary_call_count(&n, value);

    if (n == LUNARY_UNKNOWN) {
        return;
    }

    if (*slot == LUNARY_UNKNOWN) {
        *slot = n;

    } else if (*slot < (int64_t) 1 << 53) {
        *slot += n;
    }
}


void
lunary_call_all_input(lunary_call_t *call)
{
    if (call->tokens.completion == LUNARY_UNKNOWN) {
        lunary_priv(call)->all_input = call->tokens.total;
    }
}


void
lunary_call_usage_openai(lunary_call_t *call, lunary_str_t usage)
{
    lunary_walk_t  w;

    lunary_walk_start(&w, usage);
    lunary_call_usage_walk(call, usage, &w);
}


void
lunary_call_usage_walk(lunary_call_t *call, lunary_str_t usage,
    lunary_walk_t *w)
{
    lunary_str_t      key, v, input, output, hit, cached, reasoning;
    lunary_tokens_t  *t;

    if (!lunary_walk_object(w)) {
        return;
    }

    lunary_call_usage(call, usage);

    t = &call->tokens;

    input = lunary_str(NULL, 0);
    output = hit = cached = reasoning = input;

    while (lunary_walk_key(w, &key)) {

        if ((key.len == 21 && lunary_eq(key, "prompt_tokens_details"))
            || (key.len == 25 && lunary_eq(key, "completion_tokens_details")))
        {
            if (lunary_walk_object(w)) {
                lunary_call_details(call, w, key.len == 21);
                continue;
            }
        }

        v = lunary_walk_value(w);

        switch (key.len) {

        case 12:
            if (lunary_eq(key, "total_tokens")) {
                lunary_call_count(&t->total, v);

            } else if (lunary_eq(key, "input_tokens")) {
                input = v;
            }

            break;

        case 13:
            if (lunary_eq(key, "prompt_tokens")) {
                lunary_call_count(&t->prompt, v);

            } else if (lunary_eq(key, "cached_tokens")) {
                cached = v;

            } else if (lunary_eq(key, "output_tokens")) {
                output = v;
            }

            break;

        case 16:
            if (lunary_eq(key, "reasoning_tokens")) {
                reasoning = v;
            }

            break;

        case 17:
            if (lunary_eq(key, "completion_tokens")) {
                lunary_call_count(&t->completion, v);
            }

            break;

        case 23:
            if (lunary_eq(key, "prompt_cache_hit_tokens")) {
                hit = v;
            }

            break;

        default:
            break;
        }
    }

    /* other names for the same, where the first are missing */

    if (t->prompt == LUNARY_UNKNOWN) {
        lunary_call_count(&t->prompt, input);
    }

    if (t->completion == LUNARY_UNKNOWN) {
        lunary_call_count(&t->completion, output);
    }

    if (t->cached == LUNARY_UNKNOWN) {
        lunary_call_count(&t->cached, hit);
    }

    if (t->cached == LUNARY_UNKNOWN) {
        lunary_call_count(&t->cached, cached);
    }

    if (t->reasoning == LUNARY_UNKNOWN) {
        lunary_call_count(&t->reasoning, reasoning);
    }
}


/* w is in prompt_tokens_details, or else in completion_tokens_details */

static void
lunary_call_details(lunary_call_t *call, lunary_walk_t *w, int prompt)
{
    lunary_str_t      key, v;
    lunary_tokens_t  *t;

    t = &call->tokens;

    while (lunary_walk_key(w, &key)) {

        v = lunary_walk_value(w);

        if (lunary_eq(key, "cached_tokens")) {
            lunary_call_count(&t->cached, v);

        } else if (lunary_eq(key, "reasoning_tokens")) {
            lunary_call_count(&t->reasoning, v);

        } else if (lunary_eq(key, "cache_write_tokens")) {
            lunary_call_count(&t->cache_write, v);

        } else if (prompt && lunary_eq(key, "audio_tokens")) {
            lunary_call_count(&lunary_priv(call)->more_input, v);
        }
    }
}


void
lunary_call_usage_responses(lunary_call_t *call, lunary_str_t usage)
{
    lunary_str_t      v[5];
    lunary_tokens_t  *t;

    static const lunary_str_t  keys[] = {
        lunary_string("input_tokens"),
        lunary_string("output_tokens"),
        lunary_string("total_tokens"),
        lunary_string("input_tokens_details"),
        lunary_string("output_tokens_details")
    };

    if (!lunary_json_is_object(usage)) {
        return;
    }

    lunary_call_usage(call, usage);

    t = &call->tokens;

    (void) lunary_json_pick(usage, keys, v, 5);

    lunary_call_count(&t->prompt, v[0]);
    lunary_call_count(&t->completion, v[1]);
    lunary_call_count(&t->total, v[2]);
    lunary_call_count(&t->cached, lunary_json_get(v[3], "cached_tokens"));
    lunary_call_count(&t->cache_write,
                      lunary_json_get(v[3], "cache_write_tokens"));
    lunary_call_count(&t->reasoning,
                      lunary_json_get(v[4], "reasoning_tokens"));
}
