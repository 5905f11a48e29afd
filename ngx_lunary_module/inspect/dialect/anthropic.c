/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * anthropic.messages, anthropic.complete, anthropic.count_tokens: Anthropic's
 * API (API reference, version 2023-06-01: "Messages", "Streaming messages",
 * "Token counting", legacy "Text completions"), also on Vertex and, through
 * bedrock_invoke.c, on Bedrock.
 *
 * A stream's terminal event is message_stop.  usage comes in message_start
 * and, cumulative, in message_delta; the last number of each counts.
 * input_tokens does not have cache reads and writes in it.
 */

#include "../lunary_dialects.h"


static int lunary_messages_request(lunary_call_t *call, lunary_str_t text);
static int lunary_messages_system(lunary_call_t *call, lunary_str_t system);
static int lunary_messages_message(lunary_call_t *call, lunary_str_t m);
static int lunary_messages_result(lunary_call_t *call, lunary_str_t block);
static int lunary_messages_block(lunary_call_t *call, lunary_str_t block);
static int lunary_messages_body(lunary_call_t *call, lunary_str_t text);
static int lunary_messages_empty(lunary_str_t v);
static void lunary_messages_content(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t block, int64_t index, int stream);
static void lunary_messages_delta(lunary_call_t *call, lunary_str_t delta,
    lunary_str_t index);
static void lunary_messages_usage(lunary_call_t *call, lunary_str_t usage);
static void lunary_messages_passes(lunary_call_t *call, lunary_str_t list);
static int lunary_messages_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);
static int lunary_complete_request(lunary_call_t *call, lunary_str_t text);
static int lunary_count_body(lunary_call_t *call, lunary_str_t text);


const lunary_dialect_t  lunary_anthropic_messages = {
    lunary_string("anthropic.messages"),
    lunary_string("llm"),
    lunary_string("anthropic"),
    LUNARY_STYLE_ANTHROPIC,
    LUNARY_STRIP_ANTHROPIC,
    lunary_messages_request,
    lunary_messages_body,
    lunary_messages_event
};

const lunary_dialect_t  lunary_anthropic_complete = {
    lunary_string("anthropic.complete"),
    lunary_string("llm"),
    lunary_string("anthropic"),
    LUNARY_STYLE_ANTHROPIC,
    LUNARY_STRIP_ANTHROPIC,
    lunary_complete_request,
    lunary_messages_body,
    lunary_messages_event
};

const lunary_dialect_t  lunary_anthropic_count_tokens = {
    lunary_string("anthropic.count_tokens"),
    lunary_null_str,
    lunary_string("anthropic"),
    LUNARY_STYLE_ANTHROPIC,
    LUNARY_STRIP_ANTHROPIC,
    lunary_messages_request,
    lunary_count_body,
    NULL
};


static int
lunary_messages_request(lunary_call_t *call, lunary_str_t text)
{
    lunary_anthropic_request_members(call, text);

    if (call->model.len == 0) {
        lunary_openai_path_model(call);
    }

    return LUNARY_OK;
}


void
lunary_anthropic_request_members(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t        m, v[4];
    lunary_json_iter_t  it;

    static const lunary_str_t  keys[] = {
        lunary_string("model"),
        lunary_string("stream"),
        lunary_string("messages"),
        lunary_string("system")
    };

    lunary_call_params(call, text, keys, v, 4);

    lunary_call_model(call, v[0]);
    lunary_call_stream(call, v[1]);

    if (lunary_messages_system(call, v[3]) != LUNARY_OK) {
        return;
    }

    lunary_input_also(call, keys[3]);

    if (lunary_json_is_array(v[2])) {

        lunary_json_iter(&it, v[2]);

        while (lunary_json_element(&it, &m)) {
            if (lunary_json_is_object(m)
                && lunary_messages_message(call, m) != LUNARY_OK)
            {
                return;
            }
        }
    }

    lunary_input_done(call, keys[2]);
}


/* a string, or an array of text blocks */

static int
lunary_messages_system(lunary_call_t *call, lunary_str_t system)
{
    if (lunary_json_inside(system).len == 0
        && !(lunary_json_is_array(system) && system.len > 2))
    {
        return LUNARY_OK;
    }

    return lunary_input_said(call, "system", system);
}


/*
 * Tool results become messages of role "tool"; what is left is one message:
 * blocks as parts, tool_use as tool_calls, thinking as reasoning_content.
 */

static int
lunary_messages_message(lunary_call_t *call, lunary_str_t m)
{
    int                 rc, parts, tools, thinking;
    lunary_str_t        v, type, role, content;
    lunary_json_iter_t  it;

    role = lunary_json_get(m, "role");
    content = lunary_json_get(m, "content");

    if (!lunary_json_is_array(content)) {
        rc = lunary_input_open(call);

        return rc == LUNARY_OK ? lunary_input_raw(call, m) : rc;
    }

    parts = tools = thinking = 0;
    rc = LUNARY_OK;

    lunary_json_iter(&it, content);

    while (rc == LUNARY_OK && lunary_json_element(&it, &v)) {
        type = lunary_json_get(v, "type");

        if (lunary_value_is(type, "tool_result")) {
            rc = lunary_messages_result(call, v);

        } else if (lunary_value_is(type, "tool_use")) {
            tools++;

        } else if (lunary_value_is(type, "thinking")) {
            thinking++;

        } else {
            parts++;
        }
    }

    if (rc != LUNARY_OK || parts + tools + thinking == 0) {
        return rc;
    }

    rc = lunary_input_message(call, lunary_value_is(role, "assistant")
                                    ? "assistant"
                                    : lunary_value_is(role, "system")
                                      ? "system" : "user");

    if (rc == LUNARY_OK) {
        rc = parts ? lunary_input_lit(call, ",\"content\":[")
                   : lunary_input_lit(call, ",\"content\":null");
    }

    if (parts) {
        parts = 0;
        lunary_json_iter(&it, content);

        while (rc == LUNARY_OK && lunary_json_element(&it, &v)) {
            type = lunary_json_get(v, "type");

            if (lunary_value_is(type, "tool_result")
                || lunary_value_is(type, "tool_use")
                || lunary_value_is(type, "thinking"))
            {
                continue;
            }

            if (parts++) {
                rc = lunary_input_lit(call, ",");
            }

            if (rc == LUNARY_OK) {
                rc = lunary_messages_block(call, v);
            }
        }

        if (rc == LUNARY_OK) {
            rc = lunary_input_lit(call, "]");
        }
    }

    if (rc == LUNARY_OK && thinking) {
        rc = lunary_input_lit(call, ",\"reasoning_content\":\"");

        lunary_json_iter(&it, content);

        while (rc == LUNARY_OK && lunary_json_element(&it, &v)) {
            if (lunary_value_is(lunary_json_get(v, "type"), "thinking")) {
                v = lunary_json_get(v, "thinking");
                rc = lunary_input_raw(call, lunary_json_inside(v));
            }
        }

        if (rc == LUNARY_OK) {
            rc = lunary_input_lit(call, "\"");
        }
    }

    if (rc == LUNARY_OK && tools) {
        rc = lunary_input_lit(call, ",\"tool_calls\":[");
        tools = 0;

        lunary_json_iter(&it, content);

        while (rc == LUNARY_OK && lunary_json_element(&it, &v)) {
            if (lunary_value_is(lunary_json_get(v, "type"), "tool_use")) {
                rc = lunary_input_tool(call, lunary_json_get(v, "id"),
                                       lunary_json_get(v, "name"),
                                       lunary_json_get(v, "input"),
                                       tools++ == 0);
            }
        }

        if (rc == LUNARY_OK) {
            rc = lunary_input_lit(call, "]");
        }
    }

    return rc == LUNARY_OK ? lunary_input_lit(call, "}") : rc;
}


static int
lunary_messages_result(lunary_call_t *call, lunary_str_t block)
{
    lunary_str_t  id, content;

    id = lunary_json_get(block, "tool_use_id");
    content = lunary_json_get(block, "content");

    return lunary_json_is_true(lunary_json_get(block, "is_error"))
           ? lunary_input_tool_failed(call, id, content)
           : lunary_input_tool_result(call, id, content);
}


/* an image becomes a reference, where it is none; other blocks stay */

static int
lunary_messages_block(lunary_call_t *call, lunary_str_t block)
{
    lunary_str_t  source;

    if (!lunary_value_is(lunary_json_get(block, "type"), "image")) {
        return lunary_input_raw(call, block);
    }

    source = lunary_json_get(block, "source");

    if (lunary_json_is_string(lunary_json_get(source, "url"))) {
        return lunary_input_image_url(call, lunary_json_get(source, "url"));
    }

    if (!lunary_json_is_string(lunary_json_get(source, "data"))) {

        /* a file_id */

        return lunary_input_raw(call, block);
    }

    return lunary_input_image(call, lunary_json_get(source, "media_type"),
                              lunary_json_get(source, "data"));
}


static int
lunary_messages_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_anthropic_value(call, text);

    return LUNARY_OK;
}


void
lunary_anthropic_value(lunary_call_t *call, lunary_str_t v)
{
    int64_t              i;
    lunary_str_t         block, m[6];
    lunary_choice_t     *ch;
    lunary_json_iter_t   it;

    static const lunary_str_t  keys[] = {
        lunary_string("id"),
        lunary_string("model"),
        lunary_string("content"),
        lunary_string("completion"),
        lunary_string("stop_reason"),
        lunary_string("usage")
    };

    lunary_priv(call)->fold = LUNARY_TOKENS_CACHE_APART;

    (void) lunary_json_pick(v, keys, m, 6);

    if (lunary_json_is_array(m[2])) {

        ch = lunary_call_choice(call, 0);
        lunary_json_iter(&it, m[2]);

        for (i = 0; lunary_json_element(&it, &block); i++) {
            lunary_messages_content(call, ch, block, i, 0);
        }

    } else if (lunary_json_is_string(m[3])) {
        ch = lunary_call_choice(call, 0);
        lunary_call_text(call, ch, lunary_json_inside(m[3]));

    } else if (lunary_value_is(lunary_json_get(v, "type"), "message")
               || lunary_json_is_object(m[5]))
    {
        /* a message without content still has cost something */

        ch = lunary_call_choice(call, 0);
        lunary_call_text(call, ch, lunary_json_inside(m[2]));

    } else {
        return;
    }

    lunary_call_response_id(call, m[0]);
    lunary_call_response_model(call, m[1], 0);
    lunary_call_finish_reason(call, ch, m[4]);
    lunary_messages_usage(call, m[5]);
}


/* 1 for an object without members, or none at all */

static int
lunary_messages_empty(lunary_str_t v)
{
    lunary_str_t        key, val;
    lunary_json_iter_t  it;

    lunary_json_iter(&it, v);

    return !lunary_json_member(&it, &key, &val);
}


/* a block, whole or as it starts in a stream */

static void
lunary_messages_content(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t block, int64_t index, int stream)
{
    lunary_str_t    v[6];
    lunary_tool_t  *t;

    static const lunary_str_t  keys[] = {
        lunary_string("type"),
        lunary_string("text"),
        lunary_string("thinking"),
        lunary_string("id"),
        lunary_string("name"),
        lunary_string("input")
    };

    (void) lunary_json_pick(block, keys, v, 6);

    if (lunary_value_is(v[0], "text")) {
        lunary_call_text(call, ch, lunary_json_inside(v[1]));

    } else if (lunary_value_is(v[0], "thinking")) {
        lunary_call_reasoning(call, ch, lunary_json_inside(v[2]));

    } else if (lunary_value_is(v[0], "tool_use")) {
        t = lunary_call_tool_new(call, ch, index);

        lunary_call_tool_id(call, t, v[3]);
        lunary_call_tool_name(call, t, v[4]);

        /* in a stream the input is {} here and comes by deltas */

        if (!stream || !lunary_messages_empty(v[5])) {
            lunary_call_tool_value(call, t, v[5]);
        }
    }
}


void
lunary_anthropic_stream(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    int64_t           index;
    lunary_str_t      type, m, v[8];
    lunary_choice_t  *ch;

    static const lunary_str_t  keys[] = {
        lunary_string("type"),
        lunary_string("index"),
        lunary_string("delta"),
        lunary_string("message"),
        lunary_string("content_block"),
        lunary_string("usage"),
        lunary_string("completion"),
        lunary_string("error")
    };

    lunary_priv(call)->fold = LUNARY_TOKENS_CACHE_APART;

    (void) lunary_json_pick(data, keys, v, 8);

    type = lunary_json_is_string(v[0]) ? lunary_json_inside(v[0]) : name;

    if (lunary_eq(type, "content_block_delta")) {
        lunary_messages_delta(call, v[2], v[1]);

    } else if (lunary_eq(type, "message_start")) {
        m = v[3];
        ch = lunary_call_choice(call, 0);

        lunary_call_response_id(call, lunary_json_get(m, "id"));
        lunary_call_response_model(call, lunary_json_get(m, "model"), 1);
        lunary_call_finish_reason(call, ch,
                                  lunary_json_get(m, "stop_reason"));
        lunary_messages_usage(call, lunary_json_get(m, "usage"));

    } else if (lunary_eq(type, "content_block_start")) {

        if (!lunary_json_int(v[1], &index)) {
            index = -1;
        }

        lunary_messages_content(call, lunary_call_choice(call, 0), v[4],
                                index, 1);

    } else if (lunary_eq(type, "message_delta")) {
        lunary_call_finish_reason(call, lunary_call_choice(call, 0),
                                  lunary_json_get(v[2], "stop_reason"));
        lunary_messages_usage(call, v[5]);

    } else if (lunary_eq(type, "message_stop")) {
        call->terminal = 1;

    } else if (lunary_eq(type, "error") || lunary_json_is_object(v[7])) {
        (void) lunary_call_error_of(call, data, 1);

    } else if (lunary_eq(type, "completion") || lunary_json_is_string(v[6])) {

        /* the legacy API: {"completion":TEXT,"stop_reason":null,"model":...} */

        ch = lunary_call_choice(call, 0);
        lunary_call_text(call, ch, lunary_json_inside(v[6]));
        lunary_call_response_model(call, lunary_json_get(data, "model"), 1);

        m = lunary_json_get(data, "stop_reason");

        if (lunary_json_is_string(m)) {
            lunary_call_finish_reason(call, ch, m);
            call->terminal = 1;
        }
    }
}


static void
lunary_messages_delta(lunary_call_t *call, lunary_str_t delta,
    lunary_str_t index)
{
    int64_t           n;
    lunary_str_t      v[4];
    lunary_tool_t    *t;
    lunary_choice_t  *ch;

    static const lunary_str_t  keys[] = {
        lunary_string("type"),
        lunary_string("text"),
        lunary_string("thinking"),
        lunary_string("partial_json")
    };

    (void) lunary_json_pick(delta, keys, v, 4);

    ch = lunary_call_choice(call, 0);

    if (lunary_value_is(v[0], "text_delta")) {
        lunary_call_text(call, ch, lunary_json_inside(v[1]));

    } else if (lunary_value_is(v[0], "thinking_delta")) {
        lunary_call_reasoning(call, ch, lunary_json_inside(v[2]));

    } else if (lunary_value_is(v[0], "input_json_delta") && ch != NULL
               && lunary_json_int(index, &n))
    {
        /* only of blocks that are the caller's tools, not the server's */

        t = lunary_output_tool(ch, n);

        if (t == NULL || lunary_json_inside(v[3]).len == 0) {
            return;
        }

        if (t->object) {
            lunary_output_tool_reset(&lunary_priv(call)->out, t);
        }

        lunary_call_tool_args(call, t, v[3]);
    }
}


static void
lunary_messages_usage(lunary_call_t *call, lunary_str_t usage)
{
    lunary_str_t      v[6];
    lunary_tokens_t  *t;

    static const lunary_str_t  keys[] = {
        lunary_string("input_tokens"),
        lunary_string("output_tokens"),
        lunary_string("cache_read_input_tokens"),
        lunary_string("cache_creation_input_tokens"),
        lunary_string("output_tokens_details"),
        lunary_string("iterations")
    };

    if (!lunary_json_is_object(usage)) {
        return;
    }

    lunary_call_usage(call, usage);

    t = &call->tokens;

    (void) lunary_json_pick(usage, keys, v, 6);

    lunary_call_count(&t->prompt, v[0]);
    lunary_call_count(&t->completion, v[1]);
    lunary_call_count(&t->cached, v[2]);
    lunary_call_count(&t->cache_write, v[3]);
    lunary_call_count(&t->reasoning,
                      lunary_json_get(v[4], "thinking_tokens"));

    if (lunary_json_is_array(v[5])) {
        lunary_messages_passes(call, v[5]);
    }
}


/*
 * The passes of the model that one call took.  The usage's own counts are of
 * all but those that summed up the conversation; an advisor's are another
 * model's, at another price.
 */

static void
lunary_messages_passes(lunary_call_t *call, lunary_str_t list)
{
    lunary_str_t         p, v[5];
    lunary_priv_t       *priv;
    lunary_json_iter_t   it;

    static const lunary_str_t  keys[] = {
        lunary_string("type"),
        lunary_string("input_tokens"),
        lunary_string("output_tokens"),
        lunary_string("cache_read_input_tokens"),
        lunary_string("cache_creation_input_tokens")
    };

    priv = lunary_priv(call);

    priv->more_input = 0;
    priv->more_output = 0;

    lunary_json_iter(&it, list);

    while (lunary_json_element(&it, &p)) {

        (void) lunary_json_pick(p, keys, v, 5);

        if (lunary_value_is(v[0], "compaction")) {
            lunary_call_count_more(&priv->more_input, v[1]);
            lunary_call_count_more(&priv->more_output, v[2]);
            lunary_call_count_more(&priv->more_input, v[3]);
            lunary_call_count_more(&priv->more_input, v[4]);
        }
    }
}


static int
lunary_messages_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    lunary_priv(call)->repeats = (lunary_priv(call)->status < 400);
    lunary_anthropic_stream(call, name, data);

    return LUNARY_OK;
}


static int
lunary_complete_request(lunary_call_t *call, lunary_str_t text)
{
    static const lunary_str_t  key = lunary_string("prompt");

    lunary_prompt_input(call, lunary_openai_common(call, text, key), key);

    return LUNARY_OK;
}


static int
lunary_count_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_call_count(&call->tokens.prompt,
                      lunary_json_get(text, "input_tokens"));

    return LUNARY_OK;
}
