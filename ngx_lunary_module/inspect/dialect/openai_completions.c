/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * openai.completions: OpenAI's legacy Completions (API reference, "Create
 * completion") and what speaks it: vLLM, Together, llama.cpp, Mistral's FIM
 * (whose choices hold messages), Writer (whose streams are {"value":TEXT}).
 *
 * A stream's terminal event is `data: [DONE]`.
 */

#include "../lunary_dialects.h"


static int lunary_openai_completions_request(lunary_call_t *call,
    lunary_str_t text);
static int lunary_openai_completions_body(lunary_call_t *call,
    lunary_str_t text);
static int lunary_openai_completions_event(lunary_call_t *call,
    lunary_str_t name, lunary_str_t data);


const lunary_dialect_t  lunary_openai_completions = {
    lunary_string("openai.completions"),
    lunary_string("llm"),
    lunary_string("openai"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_OPENAI,
    lunary_openai_completions_request,
    lunary_openai_completions_body,
    lunary_openai_completions_event
};


static int
lunary_openai_completions_request(lunary_call_t *call, lunary_str_t text)
{
    static const lunary_str_t  key = lunary_string("prompt");

    lunary_prompt_input(call, lunary_openai_common(call, text, key), key);

    return LUNARY_OK;
}


/*
 * A prompt is a string, an array of strings (each a request of its own), or
 * tokens: one array of numbers, or an array of such.
 */

void
lunary_prompt_input(lunary_call_t *call, lunary_str_t prompt,
    lunary_str_t key)
{
    lunary_str_t        v;
    lunary_json_iter_t  it;

    if (lunary_json_is_array(prompt)
        && !lunary_json_is_string(lunary_json_at(prompt, 0))
        && !lunary_json_is_object(lunary_json_at(prompt, 0))
        && !lunary_json_is_array(lunary_json_at(prompt, 0)))
    {
        /* one array of tokens */

        if (prompt.len == 2
            || lunary_input_said(call, "user", prompt) != LUNARY_OK)
        {
            return;
        }

        lunary_input_done(call, key);
        return;
    }

    if (!lunary_json_is_array(prompt)) {

        if (lunary_json_type(prompt) == LUNARY_JSON_NONE
            || lunary_json_type(prompt) == LUNARY_JSON_NULL
            || lunary_input_said(call, "user", prompt) != LUNARY_OK)
        {
            return;
        }

        lunary_input_done(call, key);
        return;
    }

    lunary_json_iter(&it, prompt);

    while (lunary_json_element(&it, &v)) {
        if (lunary_input_said(call, "user", v) != LUNARY_OK) {
            return;
        }
    }

    lunary_input_done(call, key);
}


static int
lunary_openai_completions_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_openai_value(call, text, 0);

    return LUNARY_OK;
}


static int
lunary_openai_completions_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    lunary_str_t  value;

    if (lunary_eq(data, "[DONE]")) {
        call->terminal = 1;
        return LUNARY_OK;
    }

    if (lunary_eq(name, "error")) {
        (void) lunary_call_error_of(call, data, 1);
    }

    if (lunary_json_get(data, "choices").len == 0) {
        value = lunary_json_get(data, "value");

        if (lunary_json_is_string(value)) {
            lunary_call_text(call, lunary_call_choice(call, 0),
                             lunary_json_inside(value));
        }
    }

    lunary_openai_value(call, data, 1);

    return LUNARY_OK;
}
