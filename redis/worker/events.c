/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * From a run to Lunary's events.  See events.h.
 */

#include <stdlib.h>

#include "events.h"


#define LW_DEPTH      512
#define LW_RUNTIME    "\"ngx-lunary\""


static void lw_events_open(lw_text_t *out, const lw_entry_t *e,
    const char *event, int64_t ms);
static void lw_events_start(lw_text_t *out, const lw_entry_t *e,
    const lw_context_t *c, int64_t ms);
static void lw_events_end(lw_text_t *out, const lw_entry_t *e, int64_t ms);
static void lw_events_error(lw_text_t *out, const lw_entry_t *e, int64_t ms);
static void lw_events_user(lw_text_t *out, lunary_str_t id,
    const lw_context_t *c);
static void lw_events_params(lw_text_t *out, const lw_entry_t *e);
static void lw_events_tags(lw_text_t *out, const lw_entry_t *e);
static void lw_events_metadata(lw_text_t *out, const lw_entry_t *e,
    const lw_context_t *c);
static int lw_events_flat(lunary_str_t v);
static void lw_events_output(lw_text_t *out, const lw_entry_t *e);
static void lw_events_tokens(lw_text_t *out, const lw_entry_t *e);
static void lw_events_closing(lw_text_t *out, const lw_entry_t *e);
static void lw_events_message(lw_text_t *out, const lw_entry_t *e,
    const lw_context_t *c, lunary_str_t message, int64_t ms, unsigned n,
    char id[40]);
static int lw_events_says(lunary_str_t content);
static void lw_events_words(lw_text_t *out, lunary_str_t content);


/* what happened, where the run does not say it in words */

static const struct {
    const char    *outcome;
    const char    *message;
} lw_events_reasons[] = {
    { "aborted",   "the client left before the answer was complete" },
    { "truncated", "the upstream ended the answer early" },
    { "timeout",   "timed out" },
    { "rejected",  "refused" },
    { "error",     "failed" }
};


const char *
lw_events_check(const lw_entry_t *e)
{
    size_t  i;

    static const struct {
        unsigned     field;
        char         open;
        const char  *why;
    } fields[] = {
        { LUNARY_F_INPUT,      '[', "input: not a JSON array" },
        { LUNARY_F_OUTPUT,     0,   "output: not JSON" },
        { LUNARY_F_PARAMS,     '{', "params: not a JSON object" },
        { LUNARY_F_TAGS,       '[', "tags: not a JSON array" },
        { LUNARY_F_METADATA,   '{', "metadata: not a JSON object" },
        { LUNARY_F_USER_PROPS, '{', "user_props: not a JSON object" },
        { LUNARY_F_ERROR,      '{', "error: not a JSON object" },
        { LUNARY_F_EVENT,          '{', "event: not a JSON object" }
    };

    if (!e->run && !e->event) {
        return "kind: neither run nor event";
    }

    if (e->event && e->value[LUNARY_F_EVENT].len == 0) {
        return "event: absent";
    }

    if (e->run && (lw_field(e, RUN_ID).len == 0
                   || lw_field(e, RUN_ID).len > 256))
    {
        return "run_id: absent";
    }

    if (e->run && lw_entry_int(e, LUNARY_F_STARTED_AT) < 0) {
        return "started_at: absent";
    }

    for (i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {

        if (e->value[fields[i].field].len == 0) {
            continue;
        }

        if ((fields[i].open
             && e->value[fields[i].field].data[0] != fields[i].open)
            || !lunary_json_valid(e->value[fields[i].field], LW_DEPTH))
        {
            return fields[i].why;
        }
    }

    return NULL;
}


int
lw_events_idle(const lw_entry_t *e)
{
    return e->run && lw_field(e, TYPE).len == 0
           && lw_field(e, MODEL).len == 0 && lw_field(e, INPUT).len == 0
           && lw_field(e, OUTPUT).len == 0 && lw_field(e, USAGE).len == 0
           && !lunary_eq(lw_field(e, OUTCOME), "rejected");
}


void
lw_events_run(lw_text_t *out, const lw_entry_t *e, const lw_context_t *c)
{
    int      ended, failed;
    int64_t  start, end;

    start = lw_entry_int(e, LUNARY_F_STARTED_AT);
    end = lw_entry_int(e, LUNARY_F_ENDED_AT);

    if (end < start) {
        end = start;
    }

    failed = !lunary_eq(lw_field(e, OUTCOME), "ok");

    ended = !failed || lw_field(e, OUTPUT).len
            || lw_entry_int(e, LUNARY_F_INPUT_TOKENS) >= 0
            || lw_entry_int(e, LUNARY_F_OUTPUT_TOKENS) >= 0;

    if (lunary_eq(lw_field(e, OUTCOME), "rejected")) {
        ended = 0;
    }

    lw_events_start(out, e, c, start);

    if (ended) {
        lw_text_lit(out, ",");
        lw_events_end(out, e, end);
    }

    if (failed) {

        /* Lunary sorts by time: the error stays behind the end */

        lw_text_lit(out, ",");
        lw_events_error(out, e, ended ? end + 1 : end);
    }
}


static void
lw_events_open(lw_text_t *out, const lw_entry_t *e, const char *event,
    int64_t ms)
{
    lunary_str_t  type;

    type = lw_field(e, TYPE);

    if (type.len == 0) {
        type = lw_str("llm");
    }

    lw_text_fmt(out, "{\"event\":\"%s\",\"type\":", event);
    lw_text_json(out, type);
    lw_text_fmt(out, ",\"timestamp\":%lld,\"runtime\":" LW_RUNTIME
                ",\"runId\":", (long long) ms);
    lw_text_json(out, lw_field(e, RUN_ID));
}


static void
lw_events_start(lw_text_t *out, const lw_entry_t *e, const lw_context_t *c,
    int64_t ms)
{
    lunary_str_t  model;

    lw_events_open(out, e, "start", ms);
    lw_events_user(out, lw_field(e, USER_ID), c);

    if (c->parent.len) {
        lw_text_lit(out, ",\"parentRunId\":");
        lw_text_json(out, c->parent);
    }

    if (lw_field(e, INPUT).len) {
        lw_text_lit(out, ",\"input\":");
        lw_text_str(out, lw_field(e, INPUT));
    }

    model = lw_field(e, MODEL).len ? lw_field(e, MODEL)
                                   : lw_field(e, RESPONSE_MODEL);

    if (model.len) {
        lw_text_lit(out, ",\"name\":");
        lw_text_json(out, lw_events_undated(model));
    }

    lw_events_params(out, e);
    lw_events_tags(out, e);
    lw_events_metadata(out, e, c);

    lw_text_lit(out, "}");
}


static void
lw_events_end(lw_text_t *out, const lw_entry_t *e, int64_t ms)
{
    lunary_str_t  model;

    lw_events_open(out, e, "end", ms);

    model = lw_field(e, MODEL).len ? lw_field(e, MODEL)
                                   : lw_field(e, RESPONSE_MODEL);

    if (model.len) {
        lw_text_lit(out, ",\"name\":");
        lw_text_json(out, lw_events_undated(model));
    }

    lw_events_output(out, e);
    lw_events_tokens(out, e);
    lw_events_closing(out, e);

    lw_text_lit(out, "}");
}


static void
lw_events_error(lw_text_t *out, const lw_entry_t *e, int64_t ms)
{
    size_t        i;
    const char   *why;
    lunary_str_t  message, outcome;

    lw_events_open(out, e, "error", ms);

    message = lunary_json_get(lw_field(e, ERROR), "message");

    lw_text_lit(out, ",\"error\":{\"message\":");

    if (lunary_json_is_string(message) && message.len > 2) {
        lw_text_str(out, message);

    } else {

        outcome = lw_field(e, OUTCOME);
        why = "failed";

        for (i = 0; i < sizeof(lw_events_reasons)
                        / sizeof(lw_events_reasons[0]); i++)
        {
            if (lunary_str_eq(outcome, lw_events_reasons[i].outcome,
                              strlen(lw_events_reasons[i].outcome)))
            {
                why = lw_events_reasons[i].message;
            }
        }

        lw_text_fmt(out, "\"%s", why);

        if (lw_entry_int(e, LUNARY_F_STATUS) > 0) {
            lw_text_fmt(out, " (status %d)",
                        (int) lw_entry_int(e, LUNARY_F_STATUS));
        }

        lw_text_lit(out, "\"");
    }

    lw_text_lit(out, "}}");
}


static void
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

static void
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


static void
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

static void
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


static void
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


static void
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

        lw_text_fmt(out, "%s\"%s\":%lld",
                    n++ ? "," : ",\"tokensUsage\":{", counts[i].name,
                    (long long) count);
    }

    if (n) {
        lw_text_lit(out, "}");
    }
}


/* the SDK's metadata of an answer of Anthropic's */

static void
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


unsigned
lw_events_chat(lw_text_t *out, const lw_entry_t *e, const lw_context_t *c,
    char ids[2][40])
{
    int                  turn;
    unsigned             n;
    int64_t              start, end;
    lunary_str_t         m, role, user, answer;
    lunary_json_iter_t   it;

    n = 0;

    if (lw_field(e, THREAD_ID).len == 0
        || lunary_eq(lw_field(e, OUTCOME), "rejected")
        || lw_field(e, RUN_ID).len > 36
        || lunary_eq(lw_field(e, TYPE), "embed"))
    {
        return 0;
    }

    start = lw_entry_int(e, LUNARY_F_STARTED_AT);
    end = lw_entry_int(e, LUNARY_F_ENDED_AT);

    /*
     * The last message of the user, unless the assistant has spoken since:
     * a call that answers with a tool's result goes on with the same turn.
     */

    turn = 0;
    user = lunary_str(NULL, 0);
    lunary_json_iter(&it, lw_field(e, INPUT));

    while (lunary_json_element(&it, &m)) {

        role = lunary_json_inside(lunary_json_get(m, "role"));

        if (lunary_eq(role, "user")) {
            user = m;
            turn = 1;

        } else if (lunary_eq(role, "assistant")) {
            turn = 0;
        }
    }

    if (turn && lw_events_says(lunary_json_get(user, "content"))) {
        lw_events_message(out, e, c, user, start, n, ids[n]);
        n++;
    }

    answer = lw_field(e, OUTPUT);

    if (lunary_json_is_array(answer)) {
        answer = lunary_json_at(answer, 0);
    }

    if (lw_events_says(lunary_json_get(answer, "content"))) {

        if (n) {
            lw_text_lit(out, ",");
        }

        lw_events_message(out, e, c, answer, end > start ? end : start + 1, 1,
                          ids[n]);
        n++;
    }

    return n;
}


/* n: 0 the user's, 1 the answer; ids are made of the run's, version 8 */

static void
lw_events_message(lw_text_t *out, const lw_entry_t *e, const lw_context_t *c,
    lunary_str_t message, int64_t ms, unsigned n, char id[40])
{
    size_t        len;
    lunary_str_t  run;

    static const char  hex[] = "0123456789abcdef";

    run = lw_field(e, RUN_ID);
    len = run.len;

    memcpy(id, run.data, len);
    id[len] = '\0';

    if (len == 36) {
        id[14] = '8';

        if (n && strchr(hex, id[35])) {
            id[35] = hex[(strchr(hex, id[35]) - hex) ^ 1];
        }

    } else {
        id[len++] = n ? 'a' : 'u';
        id[len] = '\0';
    }

    lw_text_lit(out, "{\"event\":\"chat\",\"type\":\"thread\"");
    lw_events_user(out, lw_field(e, USER_ID), c);
    lw_text_lit(out, ",\"parentRunId\":");
    lw_text_json(out, lw_field(e, THREAD_ID));
    lw_text_fmt(out, ",\"timestamp\":%lld,\"runtime\":" LW_RUNTIME
                ",\"runId\":", (long long) ms);
    lw_text_json(out, lw_str(id));
    lw_text_fmt(out, ",\"message\":{\"role\":\"%s\",\"content\":",
                n ? "assistant" : "user");
    lw_events_words(out, lunary_json_get(message, "content"));
    lw_text_lit(out, "}}");
}


static int
lw_events_says(lunary_str_t content)
{
    return (lunary_json_is_string(content) && content.len > 2)
           || (lunary_json_is_array(content)
               && lunary_json_at(content, 0).len);
}


/* parts that are all text become one string; others stay as they are */

static void
lw_events_words(lw_text_t *out, lunary_str_t content)
{
    lunary_str_t         part, text;
    lunary_json_iter_t   it;

    if (!lunary_json_is_array(content)) {
        lw_text_str(out, content);
        return;
    }

    lunary_json_iter(&it, content);

    while (lunary_json_element(&it, &part)) {
        if (!lunary_json_is_string(lunary_json_get(part, "text"))) {
            lw_text_str(out, content);
            return;
        }
    }

    lw_text_lit(out, "\"");
    lunary_json_iter(&it, content);

    while (lunary_json_element(&it, &part)) {
        text = lunary_json_inside(lunary_json_get(part, "text"));
        lw_text_str(out, text);
    }

    lw_text_lit(out, "\"");
}


void
lw_events_forward(lw_text_t *out, lunary_str_t event, const lw_context_t *c)
{
    int                  n, timed, props;
    lunary_str_t         key, val;
    lunary_json_iter_t   it;

    /* a user without props would lose those that Lunary has */

    props = (c->props.len != 0);
    timed = 0;
    n = 0;

    lw_text_lit(out, "{");
    lunary_json_iter(&it, event);

    while (lunary_json_member(&it, &key, &val)) {

        if (lunary_eq(key, "appId")
            || (props && lunary_eq(key, "userProps")))
        {
            continue;
        }

        timed |= lunary_eq(key, "timestamp");

        lw_text_add(out, ",", n++ ? 1 : 0);
        lw_text_lit(out, "\"");
        lw_text_str(out, key);
        lw_text_lit(out, "\":");
        lw_text_str(out, val);
    }

    if (props) {
        lw_text_add(out, ",", n++ ? 1 : 0);
        lw_text_lit(out, "\"userProps\":");
        lw_text_str(out, c->props);
    }

    if (!timed) {
        lw_text_add(out, ",", n ? 1 : 0);
        lw_text_fmt(out, "\"timestamp\":%lld", (long long) lw_now());
    }

    lw_text_lit(out, "}");
}


lunary_str_t
lw_events_undated(lunary_str_t model)
{
    size_t                i, n;
    const unsigned char  *p;

    /* -2024-08-06, -20240806, @20240806 at the end */

    for (n = 11; n >= 9; n -= 2) {

        if (model.len <= n) {
            continue;
        }

        p = model.data + model.len - n;

        if ((p[0] != '-' && (n == 11 || p[0] != '@')) || p[1] != '2'
            || p[2] != '0')
        {
            continue;
        }

        for (i = 1; i < n; i++) {
            if (n == 11 && (i == 5 || i == 8)) {
                if (p[i] != '-') {
                    break;
                }
            } else if (p[i] < '0' || p[i] > '9') {
                break;
            }
        }

        if (i == n) {
            model.len -= n;
            return model;
        }
    }

    return model;
}
