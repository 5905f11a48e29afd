/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * openai.chat: OpenAI's Chat Completions (API reference, "Create chat
 * completion" and "The chat completion chunk object", 2025) and what speaks
 * it: Azure, Groq, DeepSeek, xAI, Mistral, OpenRouter, Together, Perplexity,
 * vLLM, llama.cpp, and others.
 *
 * A stream's terminal event is `data: [DONE]`.  usage comes in a last chunk
 * with empty choices, in the last chunk with a choice, in every chunk, in
 * x_groq.usage or in choices[].usage; the last one counts.  Reasoning is
 * reasoning_content (DeepSeek, vLLM), reasoning (Groq, OpenRouter), parts of
 * type "thinking" (Mistral) or reasoning_details (OpenRouter, Snowflake).
 */

#include "../lunary_dialects.h"


/* the wire's numbers of tools are not negative: the old function_call */

#define LUNARY_OPENAI_FUNCTION_CALL  (-2)


static int lunary_openai_chat_request(lunary_call_t *call, lunary_str_t text);
static int lunary_openai_chat_body(lunary_call_t *call, lunary_str_t text);
static int lunary_openai_chat_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);
static void lunary_openai_choice(lunary_call_t *call, lunary_walk_t *w,
    int64_t n, int stream);
static void lunary_openai_message(lunary_call_t *call, lunary_choice_t *ch,
    lunary_walk_t *w, int stream);
static void lunary_openai_pictures(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t images);
static void lunary_openai_function(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t function);
static void lunary_openai_details(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t details);
static void lunary_openai_tools(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t calls, int stream);
static lunary_tool_t *lunary_openai_tool(lunary_call_t *call,
    lunary_choice_t *ch, lunary_str_t index, lunary_str_t id,
    lunary_str_t name);


const lunary_dialect_t  lunary_openai_chat = {
    lunary_string("openai.chat"),
    lunary_string("llm"),
    lunary_string("openai"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_OPENAI,
    lunary_openai_chat_request,
    lunary_openai_chat_body,
    lunary_openai_chat_event
};


/* Snowflake Cortex: chat completions under a path of its own */

const lunary_dialect_t  lunary_snowflake_complete = {
    lunary_string("snowflake.complete"),
    lunary_string("llm"),
    lunary_string("snowflake"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_OPENAI,
    lunary_openai_chat_request,
    lunary_openai_chat_body,
    lunary_openai_chat_event
};


static int
lunary_openai_chat_request(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t  messages;

    static const lunary_str_t  key = lunary_string("messages");

    messages = lunary_openai_common(call, text, key);

    if (lunary_json_is_array(messages)) {
        lunary_call_input(call, messages, key);
    }

    return LUNARY_OK;
}


lunary_str_t
lunary_openai_common(lunary_call_t *call, lunary_str_t text,
    lunary_str_t input)
{
    lunary_str_t  but[5], v[5];

    but[0] = lunary_str("model", 5);
    but[1] = lunary_str("stream", 6);
    but[2] = input;
    but[3] = lunary_str("stream_options", 14);
    but[4] = lunary_str("model_id", 8);

    lunary_call_params(call, text, but, v, 5);

    /* model_id: watsonx */

    lunary_call_model(call, lunary_json_is_string(v[0]) ? v[0] : v[4]);
    lunary_call_stream(call, v[1]);

    if (call->model.len == 0) {
        lunary_openai_path_model(call);
    }

    return v[2];
}


void
lunary_openai_path_model(lunary_call_t *call)
{
    lunary_str_t  s;

    /* Azure: /openai/deployments/NAME/chat/completions */

    s = lunary_call_path(call, "/deployments/", "/");

    /* Databricks: /serving-endpoints/NAME/invocations */

    if (s.len == 0 && lunary_call_path_ends(call, "/invocations")) {
        s = lunary_call_path(call, "/serving-endpoints/", "/");
    }

    /* Vertex: /publishers/NAME/models/MODEL:rawPredict */

    if (s.len == 0) {
        s = lunary_call_path_verb(call);
    }

    /* legacy: /v1/engines/MODEL/completions */

    if (s.len == 0) {
        s = lunary_call_path(call, "/engines/", "/");
    }

    lunary_call_model_bytes(call, s);
}


static int
lunary_openai_chat_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_openai_value(call, text, 0);

    return LUNARY_OK;
}


static int
lunary_openai_chat_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    if (lunary_eq(data, "[DONE]")) {
        call->terminal = 1;
        return LUNARY_OK;
    }

    if (lunary_eq(name, "error")) {
        (void) lunary_call_error_of(call, data, 1);
    }

    lunary_priv(call)->repeats = (lunary_priv(call)->status < 400);
    lunary_openai_value(call, data, 1);

    return LUNARY_OK;
}


void
lunary_openai_value(lunary_call_t *call, lunary_str_t v, int stream)
{
    int            choices;
    int64_t        n;
    lunary_str_t   key, val, error, usage, model;
    lunary_walk_t  w, at, u;

    lunary_walk_tape(&w, v, lunary_priv(call)->tape);

    if (!lunary_walk_object(&w)) {
        return;
    }

    choices = 0;
    error = usage = model = lunary_str(NULL, 0);

    while (lunary_walk_key(&w, &key)) {

        if (lunary_eq(key, "choices") && lunary_walk_array(&w)) {

            choices = 1;

            for (n = 0; lunary_walk_element(&w); n++) {

                if (lunary_walk_object(&w)) {
                    lunary_openai_choice(call, &w, n, stream);

                } else {
                    (void) lunary_walk_value(&w);
                }
            }

            continue;
        }

        at = w;
        val = lunary_walk_value(&w);

        switch (key.len) {

        case 2:
            if (lunary_eq(key, "id")) {
                lunary_call_response_id(call, val);
            }

            break;

        case 5:
            if (lunary_eq(key, "model")) {
                model = val;

            } else if (lunary_eq(key, "usage")) {
                if (lunary_json_is_object(val)) {
                    usage = val;
                    lunary_walk_inside(&u, &at, usage);
                }

            } else if (lunary_eq(key, "error")) {
                error = val;
            }

            break;

        case 6:
            if (lunary_eq(key, "x_groq")) {

                if (lunary_json_inside(lunary_json_get(val, "error")).len
                    != 0)
                {
                    lunary_call_error(call, lunary_json_get(val, "error"),
                                      lunary_str(NULL, 0),
                                      lunary_str(NULL, 0));
                }

                val = lunary_json_get(val, "usage");

                if (usage.len == 0 && lunary_json_is_object(val)) {
                    usage = val;
                    lunary_walk_start(&u, usage);
                }
            }

            break;

        case 8:
            if (lunary_eq(key, "model_id") && model.len == 0) {
                model = val;
            }

            break;

        default:
            break;
        }
    }

    lunary_call_response_model(call, model, 0);

    if (lunary_json_is_object(error) || lunary_json_inside(error).len != 0) {
        (void) lunary_call_error_of(call, v, stream);

    } else if (stream && !choices) {

        /* older vLLM and others: {"object":"error","message":...} */

        (void) lunary_call_error_of(call, v, 0);
    }

    if (usage.len != 0) {
        lunary_call_usage_walk(call, usage, &u);
    }
}


/* w is in the choice's object */

static void
lunary_openai_choice(lunary_call_t *call, lunary_walk_t *w, int64_t n,
    int stream)
{
    int                numbered, read;
    int64_t            index;
    lunary_str_t       key, val, delta, message, text, finish, stop;
    lunary_walk_t      inner;
    lunary_choice_t   *ch;

    ch = NULL;
    index = n;
    numbered = read = 0;

    delta = lunary_str(NULL, 0);
    message = text = finish = stop = delta;

    while (lunary_walk_key(w, &key)) {

        /*
         * The number mostly stands first: then the message is read as it
         * passes.  Writer sends `message` and `delta` in one chunk.
         */

        if (numbered && !read
            && (stream ? lunary_eq(key, "delta") : lunary_eq(key, "message"))
            && lunary_walk_object(w))
        {
            read = 1;
            ch = lunary_call_choice(call, index);
            lunary_openai_message(call, ch, w, stream);
            continue;
        }

        val = lunary_walk_value(w);

        switch (key.len) {

        case 4:
            if (lunary_eq(key, "text")) {
                text = val;
            }

            break;

        case 5:
            if (lunary_eq(key, "index")) {
                numbered = 1;

                if (val.len == 1 && val.data[0] >= '0' && val.data[0] <= '9')
                {
                    index = val.data[0] - '0';

                } else if (!lunary_json_int(val, &index)) {
                    index = n;
                }

            } else if (lunary_eq(key, "delta")) {
                delta = val;

            } else if (lunary_eq(key, "usage")) {
                lunary_call_usage_openai(call, val);

            } else if (lunary_eq(key, "error") && lunary_json_is_object(val))
            {
                /* OpenRouter: the provider failed on the way */

                lunary_call_error(call, lunary_json_get(val, "message"),
                                  lunary_json_get(val, "type"),
                                  lunary_json_get(val, "code"));
            }

            break;

        case 7:
            if (lunary_eq(key, "message")) {
                message = val;
            }

            break;

        case 11:
            if (lunary_eq(key, "stop_reason")) {
                stop = val;
            }

            break;

        case 13:
            if (lunary_eq(key, "finish_reason")) {
                finish = val;
            }

            break;

        default:
            break;
        }
    }

    if (ch == NULL) {
        ch = lunary_call_choice(call, index);
    }

    if (!read) {

        /* Together repeats the delta in `text` */

        if (lunary_json_is_object(message)
            && !(stream && lunary_json_is_object(delta)))
        {
            delta = message;
        }

        lunary_walk_start(&inner, delta);

        if (lunary_walk_object(&inner)) {
            lunary_openai_message(call, ch, &inner, stream);

        } else {
            lunary_call_text(call, ch, lunary_json_inside(text));
        }
    }

    /* Mistral's models on Bedrock have stop_reason alone; vLLM has both */

    if (finish.len != 0) {
        lunary_call_finish_reason(call, ch, finish);

    } else if (stop.len != 0) {
        lunary_call_finish_reason(call, ch, stop);
    }
}


/* w is in the message's or delta's object */

static void
lunary_openai_message(lunary_call_t *call, lunary_choice_t *ch,
    lunary_walk_t *w, int stream)
{
    lunary_str_t  key, val, content, refusal, audio, images, tools, function;
    lunary_str_t  reasoning, other, details;

    content = lunary_str(NULL, 0);
    refusal = audio = images = tools = function = content;
    reasoning = other = details = content;

    /* of a name that comes twice the last one counts */

    while (lunary_walk_key(w, &key)) {

        val = lunary_walk_value(w);

        switch (key.len) {

        case 5:
            if (lunary_eq(key, "audio")) {
                audio = val;
            }

            break;

        case 6:
            if (lunary_eq(key, "images")) {
                images = val;
            }

            break;

        case 7:
            if (lunary_eq(key, "content")) {
                content = val;

            } else if (lunary_eq(key, "refusal")) {
                refusal = val;
            }

            break;

        case 9:
            if (lunary_eq(key, "reasoning")) {
                other = val;
            }

            break;

        case 10:
            if (lunary_eq(key, "tool_calls")) {
                tools = val;
            }

            break;

        case 13:
            if (lunary_eq(key, "function_call")) {
                function = val;
            }

            break;

        case 17:
            if (lunary_eq(key, "reasoning_content")) {
                reasoning = val;

            } else if (lunary_eq(key, "reasoning_details")) {
                details = val;
            }

            break;

        default:
            break;
        }
    }

    if (lunary_json_is_string(content)) {
        lunary_call_text(call, ch, lunary_json_inside(content));

    } else if (content.len != 0) {
        lunary_openai_content(call, ch, content);
    }

    if (refusal.len != 0) {
        lunary_call_refusal(call, ch, lunary_json_inside(refusal));
    }

    if (lunary_json_is_array(images)) {
        lunary_openai_pictures(call, ch, images);
    }

    if (lunary_json_is_object(audio)) {
        val = lunary_json_get(audio, "transcript");
        lunary_call_transcript(call, ch, lunary_json_inside(val));
    }

    if (lunary_json_is_object(function)) {
        lunary_openai_function(call, ch, function);
    }

    if (lunary_json_is_array(tools)) {
        lunary_openai_tools(call, ch, tools, stream);
    }

    /* gateways send the same words under more than one name */

    if (lunary_json_inside(reasoning).len != 0) {
        lunary_call_reasoning(call, ch, lunary_json_inside(reasoning));

    } else if (lunary_json_inside(other).len != 0) {
        lunary_call_reasoning(call, ch, lunary_json_inside(other));

    } else if (lunary_json_is_array(details)) {
        lunary_openai_details(call, ch, details);
    }
}


/* OpenRouter: generated images */

static void
lunary_openai_pictures(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t images)
{
    lunary_str_t        v;
    lunary_json_iter_t  it;

    lunary_json_iter(&it, images);

    while (lunary_json_element(&it, &v)) {
        v = lunary_json_get(v, "image_url");
        lunary_call_image_url(call, ch, lunary_json_get(v, "url"));
    }
}


/* the form before tools; Snowflake sends one with empty members */

static void
lunary_openai_function(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t function)
{
    lunary_str_t    name, args;
    lunary_tool_t  *t;

    name = lunary_json_get(function, "name");
    args = lunary_json_get(function, "arguments");

    if (lunary_json_inside(name).len != 0 || lunary_json_inside(args).len != 0
        || ((lunary_json_is_object(args) || lunary_json_is_array(args))
            && args.len > 2))
    {
        t = lunary_call_tool(call, ch, LUNARY_OPENAI_FUNCTION_CALL);

        lunary_call_tool_name(call, t, name);
        lunary_call_tool_args(call, t, args);
    }
}


static void
lunary_openai_details(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t details)
{
    lunary_str_t        v, text;
    lunary_json_iter_t  it;

    lunary_json_iter(&it, details);

    while (lunary_json_element(&it, &v)) {
        text = lunary_json_get(v, "text");

        if (text.len == 0) {
            text = lunary_json_get(v, "summary");
        }

        lunary_call_reasoning(call, ch, lunary_json_inside(text));
    }
}


void
lunary_openai_content(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t content)
{
    lunary_str_t        v, type, text, q;
    lunary_json_iter_t  it, parts;

    if (lunary_json_is_string(content)) {
        lunary_call_text(call, ch, lunary_json_inside(content));
        return;
    }

    if (lunary_json_is_object(content)) {
        text = lunary_json_get(content, "text");

        if (lunary_json_is_string(text)) {
            lunary_call_text(call, ch, lunary_json_inside(text));

        } else {

            /* Cloudflare: the answer to a schema, as an object */

            lunary_call_raw(call, ch, content);
        }

        return;
    }

    if (!lunary_json_is_array(content)) {
        return;
    }

    lunary_json_iter(&it, content);

    while (lunary_json_element(&it, &v)) {

        if (lunary_json_is_string(v)) {
            lunary_call_text(call, ch, lunary_json_inside(v));
            continue;
        }

        type = lunary_json_get(v, "type");
        text = lunary_json_get(v, "text");

        if (!lunary_json_is_string(type) || lunary_value_is(type, "text")
            || lunary_value_is(type, "output_text"))
        {
            lunary_call_text(call, ch, lunary_json_inside(text));

        } else if (lunary_value_is(type, "thinking")
                   || lunary_value_is(type, "reasoning"))
        {
            q = lunary_json_get(v, "thinking");

            if (q.len == 0) {
                q = lunary_json_get(v, "summary");
            }

            if (lunary_json_is_string(q)) {
                lunary_call_reasoning(call, ch, lunary_json_inside(q));
                continue;
            }

            lunary_json_iter(&parts, q);

            while (lunary_json_element(&parts, &q)) {
                q = lunary_json_get(q, "text");
                lunary_call_reasoning(call, ch, lunary_json_inside(q));
            }

        } else if (lunary_value_is(type, "refusal")) {
            q = lunary_json_get(v, "refusal");
            lunary_call_refusal(call, ch, lunary_json_inside(q));

        } else if (lunary_value_is(type, "image_url")) {
            q = lunary_json_get(v, "image_url");

            if (lunary_json_is_object(q)) {
                q = lunary_json_get(q, "url");
            }

            lunary_call_image_url(call, ch, q);
        }
    }
}


static void
lunary_openai_tools(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t calls, int stream)
{
    lunary_str_t         v, key, val, id, index, function, name, args;
    lunary_tool_t       *t;
    lunary_json_iter_t   it, members;

    lunary_json_iter(&it, calls);

    while (lunary_json_element(&it, &v)) {

        if (!lunary_json_is_object(v)) {
            continue;
        }

        id = lunary_str(NULL, 0);
        index = function = name = args = id;

        lunary_json_iter(&members, v);

        while (lunary_json_member(&members, &key, &val)) {

            if (lunary_eq(key, "id")) {
                id = val;

            } else if (lunary_eq(key, "index")) {
                index = val;

            } else if (lunary_eq(key, "function")
                       || lunary_eq(key, "custom"))
            {
                if (lunary_json_is_object(val)) {
                    function = val;
                }
            }
        }

        lunary_json_iter(&members, function);

        while (lunary_json_member(&members, &key, &val)) {

            if (lunary_eq(key, "name")) {
                name = val;

            } else if (lunary_eq(key, "arguments")
                       || lunary_eq(key, "input"))
            {
                args = val;
            }
        }

        if (stream) {
            t = lunary_openai_tool(call, ch, index, id, name);

        } else {
            t = lunary_call_tool_new(call, ch, -1);
        }

        lunary_call_tool_id(call, t, id);

        if (t != NULL && t->name.len == 0) {
            lunary_call_tool_name(call, t, name);
        }

        lunary_call_tool_args(call, t, args);
    }
}


/* the tool call that a delta adds to */

static lunary_tool_t *
lunary_openai_tool(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t index, lunary_str_t id, lunary_str_t name)
{
    int64_t         n;
    lunary_tool_t  *t;

    if (ch == NULL) {
        return NULL;
    }

    id = lunary_call_id(id);
    name = lunary_json_inside(name);

    if (index.len == 0 || !lunary_json_int(index, &n)) {

        /* no number on the wire: an id or a name starts a new call */

        t = lunary_output_tool_id(ch, id);

        if (t != NULL) {
            return t;
        }

        if (id.len != 0 || name.len != 0 || ch->last_tool == NULL) {
            return lunary_call_tool_new(call, ch, -1);
        }

        return ch->last_tool;
    }

    t = lunary_output_tool(ch, n);

    if (t == NULL) {
        return lunary_call_tool_new(call, ch, n);
    }

    /* some gateways use number 0 for every parallel call */

    if (id.len != 0 && name.len != 0 && t->id.len != 0
        && (t->id.len != id.len
            || memcmp(t->id.data, id.data, id.len) != 0))
    {
        return lunary_call_tool_new(call, ch, n);
    }

    return t;
}
