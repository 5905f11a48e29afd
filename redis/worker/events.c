/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * From a run to Lunary's events.  See events.h.
 */

#include "events_internal.h"


#define LW_DEPTH      512


static void lw_events_open(lw_text_t *out, const lw_entry_t *e,
    const char *event, int64_t ms);
static void lw_events_start(lw_text_t *out, const lw_entry_t *e,
    const lw_context_t *c, int64_t ms);
static void lw_events_end(lw_text_t *out, const lw_entry_t *e, int64_t ms);
static void lw_events_error(lw_text_t *out, const lw_entry_t *e, int64_t ms);


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

    lw_text_lit(out, "{\"event\":\"");
    lw_text_str(out, lw_str(event));
    lw_text_lit(out, "\",\"type\":");
    lw_text_json(out, type);
    lw_text_lit(out, ",\"timestamp\":");
    lw_text_int(out, ms);
    lw_text_lit(out, ",\"runtime\":" LW_RUNTIME ",\"runId\":");
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
