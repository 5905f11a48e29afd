/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Members of a run's events: parameters, tags, metadata, output, tokens, in
 * the forms in which Lunary's own SDKs send them.
 */

#include "events_internal.h"


static int lw_events_flat(lunary_str_t v);


void
lw_events_user(lw_text_t *out, lunary_str_t id, const lw_context_t *c)
{
    if (id.len == 0) {
        return;
    }

    lw_text_lit(out, ",\"userId\":");
    lw_text_json(out, id);

    if (c->props.len) {
        lw_text_lit(out, ",\"userProps\":");
        lw_text_str(out, c->props);
    }
}


/* as the SDKs do: what steers the answer, not how it is carried */

void
lw_events_params(lw_text_t *out, const lw_entry_t *e)
{
    int                  n;
    lunary_str_t         key, val, first;
    lunary_json_iter_t   it;

    if (lunary_eq(lw_field(e, TYPE), "embed")
        && lw_field(e, PARAMS).len == 0)
    {
        return;
    }

    n = 0;
    lw_text_lit(out, ",\"params\":{");
    lunary_json_iter(&it, lw_field(e, PARAMS));

    while (lunary_json_member(&it, &key, &val)) {

        if (lunary_eq(key, "stream") || lunary_eq(key, "stream_options")) {
            continue;
        }

        if (n++) {
            lw_text_lit(out, ",");
        }

        lw_text_lit(out, "\"");
        lw_text_str(out, key);
        lw_text_lit(out, "\":");
        lw_text_str(out, val);
    }

    /* Anthropic's system prompt is a parameter there, a message here */

    if (lunary_eq(lw_field(e, API), "anthropic.messages")
        && lunary_json_get(lw_field(e, PARAMS), "system").len == 0)
    {
        first = lunary_json_at(lw_field(e, INPUT), 0);
        val = lunary_json_get(first, "content");

        if (lunary_eq(lunary_json_inside(lunary_json_get(first, "role")),
                      "system") && val.len)
        {
            lw_text_add(out, ",", n ? 1 : 0);
            lw_text_lit(out, "\"system\":");
            lw_text_str(out, val);
        }
    }

    lw_text_lit(out, "}");
}


void
lw_events_tags(lw_text_t *out, const lw_entry_t *e)
{
    int                  n, rejected;
    lunary_str_t         tag;
    lunary_json_iter_t   it;

    rejected = lunary_eq(lw_field(e, OUTCOME), "rejected");

    if (!rejected && lw_field(e, TAGS).len == 0) {
        return;
    }

    n = 0;
    lw_text_lit(out, ",\"tags\":[");
    lunary_json_iter(&it, lw_field(e, TAGS));

    while (lunary_json_element(&it, &tag)) {
        if (lunary_json_is_string(tag)) {
            lw_text_add(out, ",", n++ ? 1 : 0);
            lw_text_str(out, tag);
        }
    }

    if (rejected) {
        lw_text_add(out, ",", n ? 1 : 0);
        lw_text_lit(out, "\"rejected\"");
    }

    lw_text_lit(out, "]");
}


/*
 * Lunary keeps flat values only.  What an SDK has no member for is added
 * where it is not the ordinary: a parent that Lunary would not find, a
 * thread, what was cut, and the fields that --metadata names.
 */

void
lw_events_metadata(lw_text_t *out, const lw_entry_t *e, const lw_context_t *c)
{
    size_t               i;
    unsigned             f;
    lw_text_t            m;
    lunary_str_t         key, val;
    lunary_json_iter_t   it;

    static const struct {
        unsigned     field;
        const char  *name;
    } extra[] = {
        { LUNARY_F_THREAD_ID,       "threadId" },
        { LUNARY_F_CLAIMED_USER_ID, "claimedUserId" },
        { LUNARY_F_TRUNCATED,       "truncated" },
        { LUNARY_F_WOULD_REJECT,    "wouldReject" }
    };

    lw_text_init(&m, out->mem);
    lunary_json_iter(&it, lw_field(e, METADATA));

    while (lunary_json_member(&it, &key, &val)) {
        if (lw_events_flat(val)) {
            lw_text_lit(&m, ",\"");
            lw_text_str(&m, key);
            lw_text_lit(&m, "\":");
            lw_text_str(&m, val);
        }
    }

    if (lw_field(e, PARENT_RUN_ID).len && c->parent.len == 0) {
        lw_text_lit(&m, ",\"parentRunId\":");
        lw_text_json(&m, lw_field(e, PARENT_RUN_ID));
    }

    for (i = 0; i < sizeof(extra) / sizeof(extra[0]); i++) {
        if (e->value[extra[i].field].len) {
            lw_text_fmt(&m, ",\"%s\":", extra[i].name);
            lw_text_json(&m, e->value[extra[i].field]);
        }
    }

    for (i = 0; i < c->options->nmetadata; i++) {

        key = lw_str(c->options->metadata[i]);
        f = lw_field_number(key);

        if (f < LW_F_MAX && e->value[f].len) {
            lw_text_lit(&m, ",");
            lw_text_json(&m, key);
            lw_text_lit(&m, ":");
            lw_text_json(&m, e->value[f]);
        }
    }

    if (m.failed) {
        out->failed = 1;

    } else if (m.buf.len) {
        lw_text_lit(out, ",\"metadata\":{");
        lw_text_add(out, m.buf.data + 1, m.buf.len - 1);
        lw_text_lit(out, "}");
    }

    lw_text_free(&m);
}


static int
lw_events_flat(lunary_str_t v)
{
    lunary_str_t         one;
    lunary_json_type_t   type;
    lunary_json_iter_t   it;

    type = lunary_json_type(v);

    if (type == LUNARY_JSON_ARRAY) {

        lunary_json_iter(&it, v);

        while (lunary_json_element(&it, &one)) {
            if (!lw_events_flat(one) || lunary_json_is_array(one)) {
                return 0;
            }
        }

        return 1;
    }

    return type != LUNARY_JSON_OBJECT && type != LUNARY_JSON_NULL;
}


void
lw_events_output(lw_text_t *out, const lw_entry_t *e)
{
    size_t               i;
    lunary_str_t         v, key, val;
    lunary_json_iter_t   it;

    static const struct {
        unsigned     field;
        const char  *name;
    } extra[] = {
        { LUNARY_F_RESPONSE_ID,    "id" },
        { LUNARY_F_RESPONSE_MODEL, "model" },
        { LUNARY_F_FINISH_REASON,  "stop_reason" }
    };

    v = lw_field(e, OUTPUT);

    if (v.len == 0) {
        return;
    }

    lw_text_lit(out, ",\"output\":");

    if (!lunary_eq(lw_field(e, API), "anthropic.messages")
        || !lunary_json_is_object(v))
    {
        lw_text_str(out, v);
        return;
    }

    /* as the SDK has it: parts, and what the answer said of itself */

    lw_text_lit(out, "{");
    lunary_json_iter(&it, v);

    for (i = 0; lunary_json_member(&it, &key, &val); i++) {

        lw_text_add(out, ",", i ? 1 : 0);
        lw_text_lit(out, "\"");
        lw_text_str(out, key);
        lw_text_lit(out, "\":");

        if (lunary_eq(key, "content") && lunary_json_is_string(val)) {
            lw_text_lit(out, "[{\"type\":\"text\",\"text\":");
            lw_text_str(out, val);
            lw_text_lit(out, "}]");

        } else {
            lw_text_str(out, val);
        }
    }

    for (i = 0; i < sizeof(extra) / sizeof(extra[0]); i++) {
        if (e->value[extra[i].field].len) {
            lw_text_fmt(out, ",\"%s\":", extra[i].name);
            lw_text_json(out, e->value[extra[i].field]);
        }
    }

    lw_text_lit(out, "}");
}


void
lw_events_tokens(lw_text_t *out, const lw_entry_t *e)
{
    int      n;
    size_t   i;
    int64_t  count;

    static const struct {
        unsigned     field;
        const char  *name;
    } counts[] = {
        { LUNARY_F_OUTPUT_TOKENS, "completion" },
        { LUNARY_F_INPUT_TOKENS,  "prompt" },
        { LUNARY_F_CACHED_TOKENS, "promptCached" }
    };

    for (i = 0, n = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {

        count = lw_entry_int(e, counts[i].field);

        if (count < 0
            || (counts[i].field == LUNARY_F_CACHED_TOKENS && count == 0))
        {
            continue;
        }

        lw_text_str(out, lw_str(n++ ? ",\"" : ",\"tokensUsage\":{\""));
        lw_text_str(out, lw_str(counts[i].name));
        lw_text_lit(out, "\":");
        lw_text_int(out, count);
    }

    if (n) {
        lw_text_lit(out, "}");
    }
}


/* the SDK's metadata of an answer of Anthropic's */

void
lw_events_closing(lw_text_t *out, const lw_entry_t *e)
{
    int      n;
    size_t   i;
    int64_t  count;

    static const struct {
        unsigned     field;
        int          number;
        const char  *name;
    } extra[] = {
        { LUNARY_F_RESPONSE_ID,        0, "messageId" },
        { LUNARY_F_RESPONSE_MODEL,     0, "model" },
        { LUNARY_F_FINISH_REASON,      0, "stopReason" },
        { LUNARY_F_CACHE_WRITE_TOKENS, 1, "cacheCreationInputTokens" },
        { LUNARY_F_CACHED_TOKENS,      1, "cacheReadInputTokens" }
    };

    if (!lunary_eq(lw_field(e, API), "anthropic.messages")) {
        return;
    }

    for (i = 0, n = 0; i < sizeof(extra) / sizeof(extra[0]); i++) {

        count = lw_entry_int(e, extra[i].field);

        if (e->value[extra[i].field].len == 0
            || (extra[i].number && count < 0))
        {
            continue;
        }

        lw_text_fmt(out, "%s\"%s\":", n++ ? "," : ",\"metadata\":{",
                    extra[i].name);

        if (extra[i].number) {
            lw_text_int(out, count);
        } else {
            lw_text_json(out, e->value[extra[i].field]);
        }
    }

    if (n) {
        lw_text_lit(out, "}");
    }
}
