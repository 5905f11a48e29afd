/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * cohere.chat.v1, cohere.chat.v2, cohere.generate, cohere.embed,
 * cohere.rerank: Cohere's API (API references v1 and v2, 2025).
 *
 * v1 streams NDJSON, ends with event_type "stream-end" that repeats the
 * answer; v2 streams SSE, ends with message-end, which has the usage.
 * meta.tokens counts what went through the model, meta.billed_units what is
 * paid; the first is read where there are both.
 */

#include "../lunary_dialects.h"


static int lunary_cohere_v1_request(lunary_call_t *call, lunary_str_t text);
static int lunary_cohere_v1_body(lunary_call_t *call, lunary_str_t text);
static int lunary_cohere_v2_request(lunary_call_t *call, lunary_str_t text);
static int lunary_cohere_v2_body(lunary_call_t *call, lunary_str_t text);
static int lunary_cohere_v2_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);
static int lunary_cohere_generate_request(lunary_call_t *call,
    lunary_str_t text);
static int lunary_cohere_generate_body(lunary_call_t *call,
    lunary_str_t text);
static int lunary_cohere_generate_event(lunary_call_t *call,
    lunary_str_t name, lunary_str_t data);
static int lunary_cohere_embed_request(lunary_call_t *call,
    lunary_str_t text);
static int lunary_cohere_rerank_request(lunary_call_t *call,
    lunary_str_t text);
static int lunary_cohere_meta_body(lunary_call_t *call, lunary_str_t text);
static int lunary_cohere_rerank_body(lunary_call_t *call, lunary_str_t text);
static void lunary_cohere_final(lunary_call_t *call, lunary_str_t v,
    int text);
static void lunary_cohere_failed(lunary_call_t *call, lunary_str_t data);


const lunary_dialect_t  lunary_cohere_chat_v1 = {
    lunary_string("cohere.chat.v1"),
    lunary_string("llm"),
    lunary_string("cohere"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_ALL,
    lunary_cohere_v1_request,
    lunary_cohere_v1_body,
    lunary_cohere_v1_event
};

const lunary_dialect_t  lunary_cohere_chat_v2 = {
    lunary_string("cohere.chat.v2"),
    lunary_string("llm"),
    lunary_string("cohere"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_ALL,
    lunary_cohere_v2_request,
    lunary_cohere_v2_body,
    lunary_cohere_v2_event
};

const lunary_dialect_t  lunary_cohere_generate = {
    lunary_string("cohere.generate"),
    lunary_string("llm"),
    lunary_string("cohere"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_ALL,
    lunary_cohere_generate_request,
    lunary_cohere_generate_body,
    lunary_cohere_generate_event
};

const lunary_dialect_t  lunary_cohere_embed = {
    lunary_string("cohere.embed"),
    lunary_string("embed"),
    lunary_string("cohere"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_ALL,
    lunary_cohere_embed_request,
    lunary_cohere_meta_body,
    NULL
};

const lunary_dialect_t  lunary_cohere_rerank = {
    lunary_string("cohere.rerank"),
    lunary_null_str,
    lunary_string("cohere"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_ALL,
    lunary_cohere_rerank_request,
    lunary_cohere_rerank_body,
    NULL
};


static int
lunary_cohere_v1_request(lunary_call_t *call, lunary_str_t text)
{
    if (lunary_json_get(text, "message").len == 0
        && lunary_call_elsewhere(call, text))
    {
        return LUNARY_OK;
    }

    lunary_priv(call)->lines = 1;

    return lunary_cohere_v1_members(call, text);
}


/* chat_history ({"role":"USER","message":...}), then message; preamble first */

int
lunary_cohere_v1_members(lunary_call_t *call, lunary_str_t text)
{
    int                 rc;
    lunary_str_t        v[5], m, role;
    lunary_json_iter_t  it;

    static const lunary_str_t  keys[] = {
        lunary_string("model"),
        lunary_string("stream"),
        lunary_string("message"),
        lunary_string("chat_history"),
        lunary_string("preamble")
    };

    lunary_call_params(call, text, keys, v, 5);

    lunary_call_model(call, v[0]);
    lunary_call_stream(call, v[1]);

    rc = LUNARY_OK;

    if (lunary_json_inside(v[4]).len != 0) {
        rc = lunary_input_said(call, "system", v[4]);
    }

    if (lunary_json_is_array(v[3])) {

        lunary_json_iter(&it, v[3]);

        while (rc == LUNARY_OK && lunary_json_element(&it, &m)) {
            role = lunary_json_get(m, "role");
            m = lunary_json_get(m, "message");

            if (!lunary_json_is_string(m)) {
                continue;
            }

            rc = lunary_input_said(call, lunary_value_is(role, "CHATBOT")
                                         || lunary_value_is(role, "Chatbot")
                                         ? "assistant"
                                         : lunary_value_is(role, "SYSTEM")
                                         ? "system" : "user", m);
        }
    }

    if (rc == LUNARY_OK) {
        lunary_input_also(call, keys[3]);
        lunary_input_also(call, keys[4]);
        lunary_prompt_input(call, v[2], keys[2]);
    }

    return rc;
}


static int
lunary_cohere_v1_body(lunary_call_t *call, lunary_str_t text)
{
    if (lunary_json_get(text, "text").len != 0) {
        lunary_cohere_final(call, text, 1);

    } else if (lunary_json_get(text, "event_type").len != 0) {
        (void) lunary_cohere_v1_event(call, lunary_str(NULL, 0), text);
    }

    return LUNARY_OK;
}


/* the whole answer; its text where no delta told it */

static void
lunary_cohere_final(lunary_call_t *call, lunary_str_t v, int text)
{
    lunary_str_t         m[7], c;
    lunary_tool_t       *t;
    lunary_choice_t     *ch;
    lunary_json_iter_t   it;

    static const lunary_str_t  keys[] = {
        lunary_string("text"),
        lunary_string("finish_reason"),
        lunary_string("meta"),
        lunary_string("tool_calls"),
        lunary_string("response_id"),
        lunary_string("generation_id"),
        lunary_string("model")
    };

    (void) lunary_json_pick(v, keys, m, 7);

    ch = lunary_call_choice(call, 0);

    lunary_call_response_id(call, m[4].len != 0 ? m[4] : m[5]);
    lunary_call_response_model(call, m[6], 1);

    if (text) {
        lunary_call_text(call, ch, lunary_json_inside(m[0]));
    }

    lunary_call_finish_reason(call, ch, m[1]);
    lunary_cohere_usage(call, m[2]);

    if (!lunary_json_is_array(m[3]) || ch == NULL || ch->tools != NULL) {
        return;
    }

    lunary_json_iter(&it, m[3]);

    while (lunary_json_element(&it, &c)) {
        t = lunary_call_tool_new(call, ch, -1);

        lunary_call_tool_id(call, t, lunary_json_get(c, "id"));
        lunary_call_tool_name(call, t, lunary_json_get(c, "name"));
        lunary_call_tool_value(call, t, lunary_json_get(c, "parameters"));
    }
}


void
lunary_cohere_usage(lunary_call_t *call, lunary_str_t meta)
{
    lunary_str_t  v;

    if (!lunary_json_is_object(meta)) {
        return;
    }

    v = lunary_json_get(meta, "tokens");

    if (!lunary_json_is_object(v)) {
        v = lunary_json_get(meta, "billed_units");
    }

    if (lunary_json_is_object(v)) {
        lunary_call_usage(call, meta);
        lunary_call_count(&call->tokens.prompt,
                          lunary_json_get(v, "input_tokens"));
        lunary_call_count(&call->tokens.completion,
                          lunary_json_get(v, "output_tokens"));
        lunary_call_count(&call->tokens.reasoning,
                          lunary_json_get(v, "reasoning_tokens"));
    }

    lunary_call_count(&call->tokens.cached,
                      lunary_json_get(meta, "cached_tokens"));
}


int
lunary_cohere_v1_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    lunary_str_t      v[6];
    lunary_choice_t  *ch;

    static const lunary_str_t  keys[] = {
        lunary_string("event_type"),
        lunary_string("text"),
        lunary_string("is_finished"),
        lunary_string("finish_reason"),
        lunary_string("response"),
        lunary_string("generation_id")
    };

    (void) name;

    (void) lunary_json_pick(data, keys, v, 6);

    ch = lunary_call_choice(call, 0);

    lunary_call_response_id(call, v[5]);

    if (lunary_value_is(v[0], "text-generation")
        || (!lunary_json_is_string(v[0]) && lunary_json_is_false(v[2])))
    {
        lunary_call_text(call, ch, lunary_json_inside(v[1]));

    } else if (lunary_value_is(v[0], "stream-end")
               || (!lunary_json_is_string(v[0]) && lunary_json_is_true(v[2])))
    {
        call->terminal = 1;
        lunary_call_finish_reason(call, ch, v[3]);
        lunary_cohere_failed(call, data);

        if (lunary_json_is_object(v[4])) {
            lunary_cohere_final(call, v[4], 0);
        }
    }

    if (v[0].len == 0 && v[2].len == 0) {

        /* one answer in place of a stream, or an error */

        if (lunary_json_is_string(v[1])) {
            lunary_cohere_final(call, data, 1);

        } else {
            (void) lunary_call_error_of(call, data, 0);
        }
    }

    return LUNARY_OK;
}


/* a last event with {"finish_reason":"ERROR","err":TEXT}, or "error" */

static void
lunary_cohere_failed(lunary_call_t *call, lunary_str_t data)
{
    lunary_str_t  err;

    err = lunary_json_get(data, "err");

    if (lunary_json_inside(err).len != 0) {
        lunary_call_error(call, err, lunary_str(NULL, 0),
                          lunary_str(NULL, 0));
        return;
    }

    (void) lunary_call_error_of(call, data, 0);
}


static int
lunary_cohere_v2_request(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t  messages;

    static const lunary_str_t  key = lunary_string("messages");

    messages = lunary_openai_common(call, text, key);

    if (lunary_json_is_array(messages)) {
        lunary_call_input(call, messages, key);
    }

    return LUNARY_OK;
}


static int
lunary_cohere_v2_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t         m, c, f;
    lunary_tool_t       *t;
    lunary_choice_t     *ch;
    lunary_json_iter_t   it;

    m = lunary_json_get(text, "message");

    lunary_call_response_id(call, lunary_json_get(text, "id"));
    lunary_cohere_usage(call, lunary_json_get(text, "usage"));

    f = lunary_json_get(text, "finish_reason");

    if (!lunary_json_is_object(m) && !lunary_json_is_string(f)) {
        return LUNARY_OK;
    }

    ch = lunary_call_choice(call, 0);

    lunary_call_finish_reason(call, ch, f);
    lunary_openai_content(call, ch, lunary_json_get(m, "content"));

    c = lunary_json_get(m, "tool_plan");
    lunary_call_plan(call, ch, lunary_json_inside(c));

    c = lunary_json_get(m, "tool_calls");

    if (lunary_json_is_array(c)) {
        lunary_json_iter(&it, c);

        while (lunary_json_element(&it, &c)) {
            f = lunary_json_get(c, "function");
            t = lunary_call_tool_new(call, ch, -1);

            lunary_call_tool_id(call, t, lunary_json_get(c, "id"));
            lunary_call_tool_name(call, t, lunary_json_get(f, "name"));
            lunary_call_tool_args(call, t, lunary_json_get(f, "arguments"));
        }
    }

    return LUNARY_OK;
}


static int
lunary_cohere_v2_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    int64_t           index;
    lunary_str_t      v[4], type, m, c, f;
    lunary_tool_t    *t;
    lunary_choice_t  *ch;

    static const lunary_str_t  keys[] = {
        lunary_string("type"),
        lunary_string("delta"),
        lunary_string("index"),
        lunary_string("id")
    };

    if (lunary_eq(data, "[DONE]")) {
        return LUNARY_OK;
    }

    (void) lunary_json_pick(data, keys, v, 4);

    type = lunary_json_is_string(v[0]) ? lunary_json_inside(v[0]) : name;
    m = lunary_json_get(v[1], "message");

    ch = lunary_call_choice(call, 0);

    if (lunary_eq(type, "content-delta") || lunary_eq(type, "content-start"))
    {
        m = lunary_json_get(m, "content");

        c = lunary_json_get(m, "text");
        lunary_call_text(call, ch, lunary_json_inside(c));

        c = lunary_json_get(m, "thinking");
        lunary_call_reasoning(call, ch, lunary_json_inside(c));

    } else if (lunary_eq(type, "tool-plan-delta")) {
        c = lunary_json_get(m, "tool_plan");
        lunary_call_plan(call, ch, lunary_json_inside(c));

    } else if (lunary_eq(type, "tool-call-start")
               || lunary_eq(type, "tool-call-delta"))
    {
        c = lunary_json_get(m, "tool_calls");

        if (lunary_json_is_object(c)) {

            if (v[2].len == 0 || !lunary_json_int(v[2], &index)) {
                index = 0;
            }

            f = lunary_json_get(c, "function");
            t = lunary_call_tool(call, ch, index);

            lunary_call_tool_id(call, t, lunary_json_get(c, "id"));
            lunary_call_tool_name(call, t, lunary_json_get(f, "name"));
            lunary_call_tool_args(call, t, lunary_json_get(f, "arguments"));
        }

    } else if (lunary_eq(type, "message-start")) {
        lunary_call_response_id(call, v[3]);

    } else if (lunary_eq(type, "message-end")) {
        call->terminal = 1;

        lunary_call_finish_reason(call, ch,
                                  lunary_json_get(v[1], "finish_reason"));
        lunary_cohere_usage(call, lunary_json_get(v[1], "usage"));

        c = lunary_json_get(v[1], "error");

        if (lunary_json_inside(c).len != 0) {
            lunary_call_error(call, c, lunary_json_get(v[1], "error_type"),
                              lunary_str(NULL, 0));
        }

    } else if (lunary_eq(type, "error")
               || lunary_json_get(data, "error").len != 0)
    {
        (void) lunary_call_error_of(call, data, 1);
    }

    return LUNARY_OK;
}


static int
lunary_cohere_generate_request(lunary_call_t *call, lunary_str_t text)
{
    static const lunary_str_t  key = lunary_string("prompt");

    lunary_prompt_input(call, lunary_openai_common(call, text, key), key);

    lunary_priv(call)->lines = 1;

    return LUNARY_OK;
}


static int
lunary_cohere_generate_body(lunary_call_t *call, lunary_str_t text)
{
    int64_t              i;
    lunary_str_t         v;
    lunary_choice_t     *ch;
    lunary_json_iter_t   it;

    lunary_call_response_id(call, lunary_json_get(text, "id"));
    lunary_cohere_usage(call, lunary_json_get(text, "meta"));

    v = lunary_json_get(text, "generations");

    if (!lunary_json_is_array(v)) {
        return LUNARY_OK;
    }

    lunary_json_iter(&it, v);

    for (i = 0; lunary_json_element(&it, &v); i++) {
        ch = lunary_call_choice(call, i);

        lunary_call_text(call, ch,
                         lunary_json_inside(lunary_json_get(v, "text")));
        lunary_call_finish_reason(call, ch,
                                  lunary_json_get(v, "finish_reason"));
    }

    return LUNARY_OK;
}


static int
lunary_cohere_generate_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    lunary_str_t      v[4];
    lunary_choice_t  *ch;

    static const lunary_str_t  keys[] = {
        lunary_string("text"),
        lunary_string("is_finished"),
        lunary_string("finish_reason"),
        lunary_string("response")
    };

    (void) name;

    (void) lunary_json_pick(data, keys, v, 4);

    if (v[0].len == 0 && v[1].len == 0) {

        /* one answer in place of a stream, or an error */

        (void) lunary_cohere_generate_body(call, data);
        (void) lunary_call_error_of(call, data, 0);
        return LUNARY_OK;
    }

    ch = lunary_call_choice(call, 0);

    if (!lunary_json_is_true(v[1])) {
        lunary_call_text(call, ch, lunary_json_inside(v[0]));
        return LUNARY_OK;
    }

    call->terminal = 1;

    lunary_cohere_failed(call, data);
    lunary_call_finish_reason(call, ch, v[2]);
    lunary_call_response_id(call, lunary_json_get(v[3], "id"));
    lunary_cohere_usage(call, lunary_json_get(v[3], "meta"));

    return LUNARY_OK;
}


/* texts; or images; or (v2) inputs of mixed content */

static int
lunary_cohere_embed_request(lunary_call_t *call, lunary_str_t text)
{
    size_t        i;
    lunary_str_t  v;

    static const lunary_str_t  keys[] = {
        lunary_string("texts"),
        lunary_string("images"),
        lunary_string("inputs")
    };

    for (i = 0; i < 3; i++) {
        v = lunary_json_get_n(text, (const char *) keys[i].data, keys[i].len);

        if (v.len > 2 || i == 2) {
            (void) lunary_openai_common(call, text, keys[i]);
            lunary_prompt_input(call, v, keys[i]);
            break;
        }
    }

    return LUNARY_OK;
}


static int
lunary_cohere_rerank_request(lunary_call_t *call, lunary_str_t text)
{
    static const lunary_str_t  key = lunary_string("query");

    if (!lunary_bedrock_reranks(call, text)) {
        lunary_prompt_input(call, lunary_openai_common(call, text, key), key);
    }

    return LUNARY_OK;
}


static int
lunary_cohere_meta_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_call_response_id(call, lunary_json_get(text, "id"));
    lunary_cohere_usage(call, lunary_json_get(text, "meta"));

    return LUNARY_OK;
}


/* others that rerank (Voyage, Jina, Together, vLLM, gateways) tell of the
 * model, and in OpenAI's words of the tokens: often of the total only */

static int
lunary_cohere_rerank_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_call_response_model(call, lunary_json_get(text, "model"), 0);
    lunary_call_usage_openai(call, lunary_json_get(text, "usage"));
    lunary_call_all_input(call);

    return lunary_cohere_meta_body(call, text);
}
