/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A thread's messages: the user's last turn and the answer, each once.
 */

#include "events_internal.h"


static void lw_events_message(lw_text_t *out, const lw_entry_t *e,
    const lw_context_t *c, lunary_str_t message, int64_t ms, unsigned n,
    char id[40]);
static int lw_events_says(lunary_str_t content);
static void lw_events_words(lw_text_t *out, lunary_str_t content);


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
