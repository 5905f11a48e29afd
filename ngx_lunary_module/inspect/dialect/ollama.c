/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * ollama.chat, ollama.generate, ollama.embed: Ollama's API (docs/api.md,
 * 0.6 to 0.12, 2025).
 *
 * Answers are streams of NDJSON unless the request says "stream":false; the
 * terminal line has "done":true, done_reason and the counts.
 */

#include "../lunary_dialects.h"


static int lunary_ollama_chat_request(lunary_call_t *call,
    lunary_str_t text);
static int lunary_ollama_generate_request(lunary_call_t *call,
    lunary_str_t text);
static int lunary_ollama_embed_request(lunary_call_t *call,
    lunary_str_t text);
static int lunary_ollama_embed_body(lunary_call_t *call, lunary_str_t text);
static int lunary_ollama_body(lunary_call_t *call, lunary_str_t text);
static int lunary_ollama_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);


const lunary_dialect_t  lunary_ollama_chat = {
    lunary_string("ollama.chat"),
    lunary_string("llm"),
    lunary_string("ollama"),
    LUNARY_STYLE_OLLAMA,
    LUNARY_STRIP_ALL,
    lunary_ollama_chat_request,
    lunary_ollama_body,
    lunary_ollama_event
};

const lunary_dialect_t  lunary_ollama_generate = {
    lunary_string("ollama.generate"),
    lunary_string("llm"),
    lunary_string("ollama"),
    LUNARY_STYLE_OLLAMA,
    LUNARY_STRIP_ALL,
    lunary_ollama_generate_request,
    lunary_ollama_body,
    lunary_ollama_event
};

const lunary_dialect_t  lunary_ollama_embed = {
    lunary_string("ollama.embed"),
    lunary_string("embed"),
    lunary_string("ollama"),
    LUNARY_STYLE_OLLAMA,
    LUNARY_STRIP_ALL,
    lunary_ollama_embed_request,
    lunary_ollama_embed_body,
    NULL
};


/* streams by default */

static void
lunary_ollama_common(lunary_call_t *call, lunary_str_t text,
    lunary_str_t input)
{
    (void) lunary_openai_common(call, text, input);

    if (call->stream == -1) {
        call->stream = 1;
    }

    lunary_priv(call)->lines = 1;
}


static int
lunary_ollama_chat_request(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t  messages;

    static const lunary_str_t  key = lunary_string("messages");

    lunary_ollama_common(call, text, key);

    messages = lunary_json_get(text, "messages");

    if (lunary_json_is_array(messages)) {
        lunary_call_input(call, messages, key);
    }

    return LUNARY_OK;
}


/* prompt, with an optional system */

static int
lunary_ollama_generate_request(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t  system;

    static const lunary_str_t  key = lunary_string("prompt");
    static const lunary_str_t  before = lunary_string("system");

    lunary_ollama_common(call, text, key);

    system = lunary_json_get(text, "system");

    if (lunary_json_inside(system).len != 0
        && lunary_input_said(call, "system", system) != LUNARY_OK)
    {
        return LUNARY_NOMEM;
    }

    lunary_input_also(call, before);
    lunary_prompt_input(call, lunary_json_get(text, "prompt"), key);

    return LUNARY_OK;
}


/* /api/embed has input, /api/embeddings prompt */

static int
lunary_ollama_embed_request(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t  v, key;

    key = lunary_str("input", 5);
    v = lunary_json_get(text, "input");

    if (v.len == 0) {
        key = lunary_str("prompt", 6);
        v = lunary_json_get(text, "prompt");
    }

    (void) lunary_openai_common(call, text, key);
    lunary_prompt_input(call, v, key);

    return LUNARY_OK;
}


static int
lunary_ollama_embed_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_call_response_model(call, lunary_json_get(text, "model"), 1);
    lunary_call_count(&call->tokens.prompt,
                      lunary_json_get(text, "prompt_eval_count"));

    return LUNARY_OK;
}


static int
lunary_ollama_body(lunary_call_t *call, lunary_str_t text)
{
    return lunary_ollama_event(call, lunary_str(NULL, 0), text);
}


static int
lunary_ollama_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    lunary_str_t         v[9], c, f;
    lunary_tool_t       *t;
    lunary_choice_t     *ch;
    lunary_json_iter_t   it;

    static const lunary_str_t  keys[] = {
        lunary_string("model"),
        lunary_string("message"),
        lunary_string("response"),
        lunary_string("thinking"),
        lunary_string("done"),
        lunary_string("done_reason"),
        lunary_string("prompt_eval_count"),
        lunary_string("eval_count"),
        lunary_string("error")
    };

    (void) name;

    (void) lunary_json_pick(data, keys, v, 9);

    lunary_call_response_model(call, v[0], 1);

    ch = NULL;

    if (lunary_json_is_object(v[1])) {
        ch = lunary_call_choice(call, 0);

        c = lunary_json_get(v[1], "content");
        lunary_call_text(call, ch, lunary_json_inside(c));

        c = lunary_json_get(v[1], "thinking");
        lunary_call_reasoning(call, ch, lunary_json_inside(c));

        c = lunary_json_get(v[1], "tool_calls");

        if (lunary_json_is_array(c)) {
            lunary_json_iter(&it, c);

            while (lunary_json_element(&it, &c)) {
                f = lunary_json_get(c, "function");
                t = lunary_call_tool_new(call, ch, -1);

                lunary_call_tool_id(call, t, lunary_json_get(c, "id"));
                lunary_call_tool_name(call, t, lunary_json_get(f, "name"));
                lunary_call_tool_value(call, t,
                                       lunary_json_get(f, "arguments"));
            }
        }

    } else if (lunary_json_is_string(v[2])) {
        ch = lunary_call_choice(call, 0);

        lunary_call_text(call, ch, lunary_json_inside(v[2]));
        lunary_call_reasoning(call, ch, lunary_json_inside(v[3]));
    }

    if (lunary_json_is_string(v[5])) {
        lunary_call_status(call, v[5]);
    }

    if (lunary_json_is_true(v[4])) {
        call->terminal = 1;
    }

    lunary_call_count(&call->tokens.prompt, v[6]);
    lunary_call_count(&call->tokens.completion, v[7]);

    if (lunary_json_inside(v[8]).len != 0 || lunary_json_is_object(v[8])) {
        (void) lunary_call_error_of(call, data, 1);
    }

    return LUNARY_OK;
}
