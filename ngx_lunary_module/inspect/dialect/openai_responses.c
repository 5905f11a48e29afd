/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * openai.responses: OpenAI's Responses API (API reference, "Create a model
 * response" and "Streaming events", 2025) and what speaks it: Azure, xAI,
 * OpenRouter, vLLM, llama.cpp, ChatGPT's Codex backend.
 *
 * The terminal events are response.completed, response.incomplete,
 * response.failed and response.cancelled; they repeat the whole response, of
 * which only what deltas do not tell is read (id, model, status, usage,
 * error).  The finish reason is the response's status.
 */

#include "../lunary_dialects.h"


/* the place of an item whose event does not tell it */

#define LUNARY_RESPONSES_NOWHERE  (-2)


static int lunary_responses_request(lunary_call_t *call, lunary_str_t text);
static int lunary_responses_input(lunary_call_t *call, lunary_str_t input,
    lunary_str_t instructions);
static int lunary_responses_item(lunary_call_t *call, lunary_str_t item);
static int lunary_responses_body(lunary_call_t *call, lunary_str_t text);
static int lunary_responses_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);
static lunary_tool_t *lunary_responses_tool(lunary_call_t *call,
    lunary_choice_t *ch, lunary_str_t place, lunary_str_t id, int item);
static void lunary_responses_top(lunary_call_t *call, lunary_str_t v);
static void lunary_responses_items(lunary_call_t *call, lunary_str_t items);
static int lunary_responses_to_run(lunary_str_t item, lunary_str_t type);
static void lunary_responses_texts(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t parts);


const lunary_dialect_t  lunary_openai_responses = {
    lunary_string("openai.responses"),
    lunary_string("llm"),
    lunary_string("openai"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_OPENAI,
    lunary_responses_request,
    lunary_responses_body,
    lunary_responses_event
};


static int
lunary_responses_request(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t  v[5];

    static const lunary_str_t  keys[] = {
        lunary_string("model"),
        lunary_string("stream"),
        lunary_string("input"),
        lunary_string("instructions"),
        lunary_string("stream_options")
    };

    lunary_call_params(call, text, keys, v, 5);

    lunary_call_model(call, v[0]);
    lunary_call_stream(call, v[1]);

    if (call->model.len == 0) {
        lunary_openai_path_model(call);
    }

    if (lunary_responses_input(call, v[2], v[3]) == LUNARY_OK) {
        lunary_input_done(call, keys[2]);
    }

    return LUNARY_OK;
}


/* instructions first, as a system message; then the items */

static int
lunary_responses_input(lunary_call_t *call, lunary_str_t input,
    lunary_str_t instructions)
{
    int                 rc;
    lunary_str_t        v;
    lunary_json_iter_t  it;

    static const lunary_str_t  key = lunary_string("instructions");

    rc = LUNARY_OK;

    if (lunary_json_inside(instructions).len != 0) {
        rc = lunary_input_said(call, "system", instructions);

        lunary_input_also(call, key);
    }

    if (rc == LUNARY_OK && lunary_json_is_string(input)) {
        return lunary_input_said(call, "user", input);
    }

    lunary_json_iter(&it, lunary_json_is_array(input)
                          ? input : lunary_str(NULL, 0));

    while (rc == LUNARY_OK && lunary_json_element(&it, &v)) {

        if (lunary_json_is_object(v)) {
            rc = lunary_responses_item(call, v);
        }
    }

    return rc;
}


/*
 * One item: a message stays what it is (its parts too), a function call and
 * its output become tool_calls and a message of role "tool", others (calls of
 * hosted tools, references) are kept as they came under a role of their own.
 */

static int
lunary_responses_item(lunary_call_t *call, lunary_str_t item)
{
    int            rc;
    lunary_str_t   v[10], id, args, content;

    static const lunary_str_t  keys[] = {
        lunary_string("type"),           /* 0 */
        lunary_string("role"),           /* 1 */
        lunary_string("content"),        /* 2 */
        lunary_string("name"),           /* 3 */
        lunary_string("arguments"),      /* 4 */
        lunary_string("call_id"),        /* 5 */
        lunary_string("output"),         /* 6 */
        lunary_string("input"),          /* 7 */
        lunary_string("summary"),        /* 8 */
        lunary_string("id")              /* 9 */
    };

    (void) lunary_json_pick(item, keys, v, 10);

    if (v[0].len == 0 || lunary_value_is(v[0], "message")) {

        /* {"role":...,"content":...}: an item of type message */

        if (lunary_json_inside(v[1]).len == 0
            || lunary_json_inside(v[1]).len > 32)
        {
            v[1] = lunary_str("\"user\"", 6);
        }

        rc = lunary_input_open(call);

        if (rc == LUNARY_OK) {
            rc = lunary_input_lit(call, "{\"role\":");
        }

        if (rc == LUNARY_OK) {
            rc = lunary_input_raw(call, v[1]);
        }

        content = v[2];

        if (content.len == 0) {
            content = lunary_str("null", 4);
        }

    } else if (lunary_value_is(v[0], "function_call")
               || lunary_value_is(v[0], "custom_tool_call"))
    {
        id = v[5].len != 0 ? v[5] : v[9];
        args = v[4].len != 0 ? v[4] : v[7];

        return lunary_input_tool_call(call, id, v[3], args);

    } else if (lunary_value_is(v[0], "function_call_output")
               || lunary_value_is(v[0], "custom_tool_call_output"))
    {
        return lunary_input_tool_result(call, v[5], v[6]);

    } else if (lunary_value_is(v[0], "reasoning")) {
        rc = lunary_input_message(call, "assistant");

        if (rc == LUNARY_OK) {
            rc = lunary_input_lit(call, ",\"content\":null,"
                                  "\"reasoning_content\":");
        }

        if (rc == LUNARY_OK) {
            rc = lunary_input_raw(call, v[8].len != 0
                                        ? v[8] : lunary_str("null", 4));
        }

        return rc == LUNARY_OK ? lunary_input_lit(call, "}") : rc;

    } else {
        rc = lunary_input_message(call, "assistant");
        content = item;

        if (rc == LUNARY_OK) {
            rc = lunary_input_lit(call, ",\"content\":[");
        }

        if (rc == LUNARY_OK) {
            rc = lunary_input_raw(call, content);
        }

        return rc == LUNARY_OK ? lunary_input_lit(call, "]}") : rc;
    }

    if (rc == LUNARY_OK) {
        rc = lunary_input_lit(call, ",\"content\":");
    }

    if (rc == LUNARY_OK) {
        rc = lunary_input_raw(call, content);
    }

    return rc == LUNARY_OK ? lunary_input_lit(call, "}") : rc;
}


static int
lunary_responses_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t  output, object;

    output = lunary_json_get(text, "output");
    object = lunary_json_get(text, "object");

    if (!lunary_json_is_array(output)
        && !lunary_value_is(object, "response")
        && !lunary_value_is(object, "response.compaction"))
    {
        return LUNARY_OK;
    }

    lunary_responses_top(call, text);
    lunary_responses_items(call, output);

    return LUNARY_OK;
}


static int
lunary_responses_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    lunary_str_t      v[7], type, kind, id;
    lunary_tool_t    *t;
    lunary_choice_t  *ch;

    static const lunary_str_t  keys[] = {
        lunary_string("type"),            /* 0 */
        lunary_string("delta"),           /* 1 */
        lunary_string("response"),        /* 2 */
        lunary_string("item"),            /* 3 */
        lunary_string("output_index"),    /* 4 */
        lunary_string("error"),           /* 5 */
        lunary_string("item_id")          /* 6 */
    };

    if (lunary_eq(data, "[DONE]")) {
        call->terminal = 1;
        return LUNARY_OK;
    }

    (void) lunary_json_pick(data, keys, v, 7);

    type = lunary_json_is_string(v[0]) ? lunary_json_inside(v[0]) : name;

    if (lunary_json_is_object(v[2])) {
        lunary_responses_top(call, v[2]);
    }

    if (lunary_eq(type, "error") || lunary_eq(name, "error")) {
        (void) lunary_call_error_of(call, data, 1);
        return LUNARY_OK;
    }

    if (type.len < 10 || memcmp(type.data, "response.", 9) != 0) {

        if (lunary_json_is_object(v[5]) || lunary_json_inside(v[5]).len != 0)
        {
            (void) lunary_call_error_of(call, data, 1);
        }

        return LUNARY_OK;
    }

    type.data += 9;
    type.len -= 9;

    ch = NULL;

    if (lunary_eq(type, "output_text.delta")) {
        ch = lunary_call_choice(call, 0);
        lunary_call_text(call, ch, lunary_json_inside(v[1]));

    } else if (lunary_eq(type, "refusal.delta")) {
        ch = lunary_call_choice(call, 0);
        lunary_call_refusal(call, ch, lunary_json_inside(v[1]));

    } else if (lunary_eq(type, "reasoning_summary_text.delta")
               || lunary_eq(type, "reasoning_text.delta"))
    {
        ch = lunary_call_choice(call, 0);
        lunary_call_reasoning(call, ch, lunary_json_inside(v[1]));

    } else if (lunary_eq(type, "function_call_arguments.delta")
               || lunary_eq(type, "custom_tool_call_input.delta"))
    {
        ch = lunary_call_choice(call, 0);

        t = lunary_responses_tool(call, ch, v[4], v[6], 0);
        lunary_call_tool_args(call, t, v[1]);

    } else if (lunary_eq(type, "output_item.added")
               || lunary_eq(type, "output_item.done"))
    {
        kind = lunary_json_get(v[3], "type");

        if (lunary_value_is(kind, "function_call")
            || lunary_value_is(kind, "custom_tool_call"))
        {
            ch = lunary_call_choice(call, 0);
            id = lunary_json_get(v[3], "call_id");
            t = lunary_responses_tool(call, ch, v[4], id, 1);

            lunary_call_tool_id(call, t, id);

            if (t != NULL && t->name.len == 0) {
                lunary_call_tool_name(call, t, lunary_json_get(v[3], "name"));
            }

            /* the whole arguments, where no delta told them */

            if (lunary_eq(type, "output_item.done") && t != NULL
                && t->args.size == 0)
            {
                lunary_call_tool_args(call, t,
                                      lunary_value_is(kind, "function_call")
                                      ? lunary_json_get(v[3], "arguments")
                                      : lunary_json_get(v[3], "input"));
            }

        } else if (lunary_value_is(kind, "image_generation_call")
                   && lunary_eq(type, "output_item.done"))
        {
            ch = lunary_call_choice(call, 0);
            kind = lunary_json_get(v[3], "result");

            if (lunary_json_inside(kind).len != 0) {
                lunary_call_media(call, ch, lunary_str("image/png", 9),
                                  lunary_json_inside(kind));
            }

        } else if (lunary_eq(type, "output_item.done")
                   && lunary_responses_to_run(v[3], kind))
        {
            lunary_call_part(call, lunary_call_choice(call, 0), v[3]);
        }

    } else if (lunary_eq(type, "completed")
               || lunary_eq(type, "incomplete")
               || lunary_eq(type, "failed")
               || lunary_eq(type, "cancelled")
               || lunary_eq(type, "done"))
    {
        call->terminal = 1;

        /* a gateway that sends no deltas: the answer is here alone */

        ch = lunary_call_choice(call, 0);

        if (ch != NULL && ch->text.size == 0 && ch->tools == NULL
            && ch->reasoning.size == 0 && ch->refusal.size == 0
            && ch->parts.len == 0)
        {
            lunary_responses_items(call, lunary_json_get(v[2], "output"));
        }
    }

    return LUNARY_OK;
}


/*
 * The call that an event is of, by the item's place and its id.  llama.cpp
 * sends no place, and its item_id is what its call_id was; others give all
 * calls the same one.  item: the event tells of the call itself, else it adds
 * to its arguments.
 */

static lunary_tool_t *
lunary_responses_tool(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t place, lunary_str_t id, int item)
{
    int64_t         index;
    lunary_tool_t  *t;

    if (ch == NULL) {
        return NULL;
    }

    id = lunary_json_inside(id);
    t = lunary_output_tool_id(ch, id);

    if (t != NULL) {
        return t;
    }

    if (place.len != 0 && lunary_json_int(place, &index)) {
        t = lunary_output_tool(ch, index);

    } else {
        index = LUNARY_RESPONSES_NOWHERE;
        t = ch->last_tool;
    }

    if (t == NULL || (item && id.len != 0 && t->id.len != 0)) {
        t = lunary_call_tool_new(call, ch, index);
    }

    return t;
}


static void
lunary_responses_top(lunary_call_t *call, lunary_str_t v)
{
    lunary_str_t  m[5];

    static const lunary_str_t  keys[] = {
        lunary_string("id"),
        lunary_string("model"),
        lunary_string("status"),
        lunary_string("usage"),
        lunary_string("error")
    };

    (void) lunary_json_pick(v, keys, m, 5);

    (void) lunary_call_choice(call, 0);

    lunary_call_response_id(call, m[0]);
    lunary_call_response_model(call, m[1], 1);
    lunary_call_status(call, m[2]);
    lunary_call_usage_responses(call, m[3]);

    if (lunary_json_is_object(m[4])) {
        lunary_call_error(call, lunary_json_get(m[4], "message"),
                          lunary_json_get(m[4], "type"),
                          lunary_json_get(m[4], "code"));

    } else if (lunary_json_inside(m[4]).len != 0) {
        lunary_call_error(call, m[4], lunary_str(NULL, 0),
                          lunary_str(NULL, 0));
    }
}


static void
lunary_responses_items(lunary_call_t *call, lunary_str_t items)
{
    lunary_str_t         v, p, type, id, args;
    lunary_tool_t       *t;
    lunary_choice_t     *ch;
    lunary_json_iter_t   it, parts;

    if (!lunary_json_is_array(items)) {
        return;
    }

    ch = lunary_call_choice(call, 0);

    lunary_json_iter(&it, items);

    while (lunary_json_element(&it, &v)) {

        type = lunary_json_get(v, "type");

        if (lunary_value_is(type, "message")) {

            lunary_json_iter(&parts, lunary_json_get(v, "content"));

            while (lunary_json_element(&parts, &p)) {
                type = lunary_json_get(p, "type");

                if (!lunary_json_is_string(type)
                    || lunary_value_is(type, "output_text")
                    || lunary_value_is(type, "text"))
                {
                    lunary_call_text(call, ch, lunary_json_inside(
                                         lunary_json_get(p, "text")));
                }

                lunary_call_refusal(call, ch, lunary_json_inside(
                                        lunary_json_get(p, "refusal")));
            }

        } else if (lunary_value_is(type, "function_call")
                   || lunary_value_is(type, "custom_tool_call"))
        {
            args = lunary_value_is(type, "function_call")
                   ? lunary_json_get(v, "arguments")
                   : lunary_json_get(v, "input");

            id = lunary_json_get(v, "call_id");

            if (id.len == 0) {
                id = lunary_json_get(v, "id");
            }

            t = lunary_call_tool_new(call, ch, -1);

            lunary_call_tool_id(call, t, id);
            lunary_call_tool_name(call, t, lunary_json_get(v, "name"));
            lunary_call_tool_args(call, t, args);

        } else if (lunary_value_is(type, "reasoning")) {
            lunary_responses_texts(call, ch, lunary_json_get(v, "summary"));
            lunary_responses_texts(call, ch, lunary_json_get(v, "content"));

        } else if (lunary_value_is(type, "image_generation_call")) {
            p = lunary_json_get(v, "result");

            if (lunary_json_inside(p).len != 0) {
                lunary_call_media(call, ch, lunary_str("image/png", 9),
                                  lunary_json_inside(p));
            }

        } else if (lunary_responses_to_run(v, type)) {
            lunary_call_part(call, ch, v);
        }
    }
}


/*
 * 1 where the client is to run the item itself, or to allow it: it stays what
 * it is, a part of the message.  What the provider runs is not kept.
 */

static int
lunary_responses_to_run(lunary_str_t item, lunary_str_t type)
{
    size_t        i;
    lunary_str_t  v;

    static const lunary_str_t  types[] = {
        lunary_string("\"local_shell_call\""),
        lunary_string("\"apply_patch_call\""),
        lunary_string("\"computer_call\""),
        lunary_string("\"mcp_approval_request\"")
    };

    for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (type.len == types[i].len
            && memcmp(type.data, types[i].data, type.len) == 0)
        {
            return 1;
        }
    }

    if (lunary_value_is(type, "shell_call")) {
        v = lunary_json_get(lunary_json_get(item, "environment"), "type");

        return v.len == 0 || lunary_value_is(v, "local");
    }

    return lunary_value_is(type, "tool_search_call")
           && lunary_value_is(lunary_json_get(item, "execution"), "client");
}


/* reasoning: parts with a text each */

static void
lunary_responses_texts(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t parts)
{
    lunary_str_t        v;
    lunary_json_iter_t  it;

    if (!lunary_json_is_array(parts)) {
        return;
    }

    lunary_json_iter(&it, parts);

    while (lunary_json_element(&it, &v)) {
        v = lunary_json_get(v, "text");
        lunary_call_reasoning(call, ch, lunary_json_inside(v));
    }
}
