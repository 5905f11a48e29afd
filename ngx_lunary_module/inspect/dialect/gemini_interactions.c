/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * gemini.interactions: Google's Interactions API (REST reference v1beta,
 * "Interactions", 2025-12, beta).
 *
 * An answer is a list of steps (first called outputs): thought, model_output,
 * function_call and calls of Google's own tools.  A stream tells them by
 * step.start, step.delta and step.stop (content.* in the first version); its
 * terminal event is interaction.completed.  total_thought_tokens come on top
 * of total_output_tokens.
 */

#include "../lunary_dialects.h"


static int lunary_interactions_request(lunary_call_t *call,
    lunary_str_t text);
static int lunary_interactions_input(lunary_call_t *call, lunary_str_t v);
static int lunary_interactions_body(lunary_call_t *call, lunary_str_t text);
static void lunary_interactions_steps(lunary_call_t *call,
    lunary_choice_t *ch, lunary_str_t steps, unsigned depth);
static void lunary_interactions_thought(lunary_call_t *call,
    lunary_choice_t *ch, lunary_str_t v);
static int lunary_interactions_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);
static void lunary_interactions_delta(lunary_call_t *call,
    lunary_str_t delta, lunary_str_t index);
static void lunary_interactions_top(lunary_call_t *call, lunary_str_t v);


const lunary_dialect_t  lunary_gemini_interactions = {
    lunary_string("gemini.interactions"),
    lunary_string("llm"),
    lunary_string("gcp.gemini"),
    LUNARY_STYLE_GEMINI,
    LUNARY_STRIP_ALL,
    lunary_interactions_request,
    lunary_interactions_body,
    lunary_interactions_event
};


static int
lunary_interactions_request(lunary_call_t *call, lunary_str_t text)
{
    int                 rc;
    lunary_str_t        v[4], step;
    lunary_json_iter_t  it;

    static const lunary_str_t  keys[] = {
        lunary_string("model"),
        lunary_string("stream"),
        lunary_string("input"),
        lunary_string("system_instruction")
    };

    lunary_call_params(call, text, keys, v, 4);

    lunary_call_model(call, v[0]);
    lunary_call_stream(call, v[1]);

    rc = LUNARY_OK;

    if (lunary_json_inside(v[3]).len != 0) {
        rc = lunary_input_said(call, "system", v[3]);

        lunary_input_also(call, keys[3]);
    }

    if (!lunary_json_is_array(v[2])) {

        if (rc == LUNARY_OK && v[2].len != 0) {
            rc = lunary_interactions_input(call, v[2]);
        }

    } else {
        lunary_json_iter(&it, v[2]);

        while (rc == LUNARY_OK && lunary_json_element(&it, &step)) {
            rc = lunary_interactions_input(call, step);
        }
    }

    if (rc == LUNARY_OK) {
        lunary_input_done(call, keys[2]);
    }

    return rc;
}


/* a string, a step or turn (its content becomes the message's), a content */

static int
lunary_interactions_input(lunary_call_t *call, lunary_str_t v)
{
    int           rc;
    lunary_str_t  type, role, content, args;

    type = lunary_json_get(v, "type");
    role = lunary_json_get(v, "role");
    content = lunary_json_get(v, "content");

    if (lunary_value_is(type, "function_call")) {
        args = lunary_json_get(v, "arguments");

        return lunary_input_tool_call(call, lunary_json_get(v, "id"),
                                      lunary_json_get(v, "name"),
                                      args.len ? args : lunary_str("{}", 2));
    }

    if (lunary_value_is(type, "function_result")) {
        return lunary_input_tool_result(call, lunary_json_get(v, "call_id"),
                                        lunary_json_get(v, "result"));
    }

    rc = lunary_input_message(call, lunary_value_is(role, "model")
                                    || lunary_value_is(type, "model_output")
                                    || lunary_value_is(type, "thought")
                                    ? "assistant" : "user");

    if (rc == LUNARY_OK) {
        rc = lunary_input_lit(call, ",\"content\":");
    }

    if (rc == LUNARY_OK && content.len != 0) {
        rc = lunary_input_raw(call, content);

    } else if (rc == LUNARY_OK && lunary_json_is_string(v)) {
        rc = lunary_input_raw(call, v);

    } else if (rc == LUNARY_OK) {
        rc = lunary_input_lit(call, "[");

        if (rc == LUNARY_OK) {
            rc = lunary_input_raw(call, v);
        }

        if (rc == LUNARY_OK) {
            rc = lunary_input_lit(call, "]");
        }
    }

    return rc == LUNARY_OK ? lunary_input_lit(call, "}") : rc;
}


static int
lunary_interactions_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t  steps;

    steps = lunary_json_get(text, "outputs");

    if (!lunary_json_is_array(steps)) {
        steps = lunary_json_get(text, "steps");
    }

    lunary_interactions_top(call, text);

    if (lunary_json_is_array(steps)) {
        lunary_interactions_steps(call, lunary_call_choice(call, 0), steps,
                                  0);
    }

    return LUNARY_OK;
}


static void
lunary_interactions_steps(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t steps, unsigned depth)
{
    lunary_str_t         v, m[6], args;
    lunary_tool_t       *t;
    lunary_json_iter_t   it;

    static const lunary_str_t  keys[] = {
        lunary_string("type"),
        lunary_string("text"),
        lunary_string("content"),
        lunary_string("id"),
        lunary_string("name"),
        lunary_string("arguments")
    };

    lunary_json_iter(&it, steps);

    while (lunary_json_element(&it, &v)) {

        (void) lunary_json_pick(v, keys, m, 6);

        if (lunary_value_is(m[0], "text")) {
            lunary_call_text(call, ch, lunary_json_inside(m[1]));

        } else if (lunary_value_is(m[0], "model_output") && depth == 0
                   && lunary_json_is_array(m[2]))
        {
            lunary_interactions_steps(call, ch, m[2], 1);

        } else if (lunary_value_is(m[0], "thought")) {
            lunary_interactions_thought(call, ch, v);

        } else if (lunary_value_is(m[0], "function_call")) {
            args = m[5].len != 0 ? m[5] : lunary_str("{}", 2);
            t = lunary_call_tool_new(call, ch, -1);

            lunary_call_tool_id(call, t, m[3]);
            lunary_call_tool_name(call, t, m[4]);
            lunary_call_tool_value(call, t, args);

        } else if (lunary_value_is(m[0], "image")) {
            lunary_call_media(call, ch, lunary_json_inside(
                                  lunary_json_get(v, "mime_type")),
                              lunary_json_inside(lunary_json_get(v, "data")));
        }
    }
}


/* {"summary":[{"text":...}]} or {"content":{"text":...}} */

static void
lunary_interactions_thought(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t v)
{
    lunary_str_t        s;
    lunary_json_iter_t  it;

    s = lunary_json_get(v, "summary");

    if (lunary_json_is_array(s)) {
        lunary_json_iter(&it, s);

        while (lunary_json_element(&it, &s)) {
            s = lunary_json_get(s, "text");
            lunary_call_reasoning(call, ch, lunary_json_inside(s));
        }

        return;
    }

    s = lunary_json_get(lunary_json_get(v, "content"), "text");
    lunary_call_reasoning(call, ch, lunary_json_inside(s));
}


static int
lunary_interactions_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    int64_t           index;
    lunary_str_t      type, v[7];
    lunary_tool_t    *t;
    lunary_choice_t  *ch;

    static const lunary_str_t  keys[] = {
        lunary_string("event_type"),
        lunary_string("type"),
        lunary_string("interaction"),
        lunary_string("delta"),
        lunary_string("index"),
        lunary_string("step"),
        lunary_string("error")
    };

    if (lunary_eq(data, "[DONE]")) {
        call->terminal = 1;
        return LUNARY_OK;
    }

    (void) lunary_json_pick(data, keys, v, 7);

    type = lunary_json_is_string(v[0]) ? lunary_json_inside(v[0])
           : lunary_json_is_string(v[1]) ? lunary_json_inside(v[1]) : name;

    ch = lunary_call_choice(call, 0);

    if (lunary_json_is_object(v[2])) {
        lunary_interactions_top(call, v[2]);
    }

    if (lunary_eq(type, "step.delta") || lunary_eq(type, "content.delta")) {
        lunary_interactions_delta(call, v[3], v[4]);

    } else if (lunary_eq(type, "step.start")) {

        if (lunary_value_is(lunary_json_get(v[5], "type"), "function_call")
            && lunary_json_int(v[4], &index))
        {
            t = lunary_call_tool_new(call, ch, index);
            type = lunary_json_get(v[5], "arguments");

            lunary_call_tool_id(call, t, lunary_json_get(v[5], "id"));
            lunary_call_tool_name(call, t, lunary_json_get(v[5], "name"));
            lunary_call_tool_value(call, t, type.len != 0
                                            ? type : lunary_str("{}", 2));
        }

    } else if (lunary_eq(type, "interaction.complete")
               || lunary_eq(type, "interaction.completed"))
    {
        call->terminal = 1;

    } else if (lunary_eq(type, "error") || lunary_json_is_object(v[6])) {
        (void) lunary_call_error_of(call, data, 1);
    }

    return LUNARY_OK;
}


static void
lunary_interactions_delta(lunary_call_t *call, lunary_str_t delta,
    lunary_str_t index)
{
    int64_t           n;
    lunary_str_t      type, args;
    lunary_tool_t    *t;
    lunary_choice_t  *ch;

    ch = lunary_call_choice(call, 0);
    type = lunary_json_get(delta, "type");

    if (lunary_value_is(type, "text")) {
        lunary_call_text(call, ch,
                         lunary_json_inside(lunary_json_get(delta, "text")));

    } else if (lunary_value_is(type, "thought_summary")
               || lunary_value_is(type, "thought"))
    {
        lunary_interactions_thought(call, ch, delta);

    } else if ((lunary_value_is(type, "arguments_delta")
                || lunary_value_is(type, "function_call"))
               && lunary_json_int(index, &n))
    {
        t = lunary_call_tool(call, ch, n);
        args = lunary_json_get(delta, "arguments");

        lunary_call_tool_id(call, t, lunary_json_get(delta, "id"));
        lunary_call_tool_name(call, t, lunary_json_get(delta, "name"));

        /* the step starts with {} where deltas follow */

        if (t != NULL && t->object && lunary_json_is_string(args)) {
            lunary_output_tool_reset(&lunary_priv(call)->out, t);
        }

        lunary_call_tool_args(call, t, args);
    }
}


static void
lunary_interactions_top(lunary_call_t *call, lunary_str_t v)
{
    lunary_str_t      m[4], u[6];
    lunary_tokens_t  *t;

    static const lunary_str_t  keys[] = {
        lunary_string("id"),
        lunary_string("model"),
        lunary_string("status"),
        lunary_string("usage")
    };

    static const lunary_str_t  counts[] = {
        lunary_string("total_input_tokens"),
        lunary_string("total_output_tokens"),
        lunary_string("total_tokens"),
        lunary_string("total_cached_tokens"),
        lunary_string("total_thought_tokens"),
        lunary_string("total_tool_use_tokens")
    };

    (void) lunary_json_pick(v, keys, m, 4);

    (void) lunary_call_choice(call, 0);

    lunary_call_response_id(call, m[0]);
    lunary_call_response_model(call, m[1], 1);
    lunary_call_status(call, m[2]);

    if (!lunary_json_is_object(m[3])) {
        return;
    }

    lunary_call_usage(call, m[3]);

    lunary_priv(call)->fold = LUNARY_TOKENS_THOUGHTS_APART;

    t = &call->tokens;

    (void) lunary_json_pick(m[3], counts, u, 6);

    if (u[4].len == 0) {
        u[4] = lunary_json_get(m[3], "total_reasoning_tokens");
    }

    lunary_call_count(&t->prompt, u[0]);
    lunary_call_count(&t->completion, u[1]);
    lunary_call_count(&t->total, u[2]);
    lunary_call_count(&t->cached, u[3]);
    lunary_call_count(&t->reasoning, u[4]);
    lunary_call_count(&lunary_priv(call)->more_input, u[5]);
}
