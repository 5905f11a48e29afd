/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Smaller APIs: mistral.conversations (Mistral's Conversations, beta, 2025),
 * mistral.ocr (Mistral's Document AI, 2025),
 * watsonx.generation (IBM watsonx.ai text generation, 2023-05-29),
 * huggingface.inference (Text Generation Inference: generate and
 * generate_stream), replicate.predictions (Replicate HTTP API, 2025),
 * alephalpha.complete (Aleph Alpha's completion API).
 */

#include "../lunary_dialects.h"


static int lunary_conversations_request(lunary_call_t *call,
    lunary_str_t text);
static int lunary_conversations_body(lunary_call_t *call, lunary_str_t text);
static int lunary_conversations_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);
static int lunary_ocr_request(lunary_call_t *call, lunary_str_t text);
static int lunary_ocr_body(lunary_call_t *call, lunary_str_t text);
static int lunary_watsonx_request(lunary_call_t *call, lunary_str_t text);
static int lunary_watsonx_body(lunary_call_t *call, lunary_str_t text);
static int lunary_watsonx_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);
static int lunary_huggingface_request(lunary_call_t *call,
    lunary_str_t text);
static int lunary_huggingface_body(lunary_call_t *call, lunary_str_t text);
static int lunary_huggingface_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);
static int lunary_replicate_request(lunary_call_t *call, lunary_str_t text);
static int lunary_replicate_body(lunary_call_t *call, lunary_str_t text);
static int lunary_alephalpha_request(lunary_call_t *call, lunary_str_t text);
static int lunary_alephalpha_body(lunary_call_t *call, lunary_str_t text);


const lunary_dialect_t  lunary_mistral_conversations = {
    lunary_string("mistral.conversations"),
    lunary_string("llm"),
    lunary_string("mistral_ai"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_OPENAI,
    lunary_conversations_request,
    lunary_conversations_body,
    lunary_conversations_event
};

const lunary_dialect_t  lunary_mistral_ocr = {
    lunary_string("mistral.ocr"),
    lunary_null_str,
    lunary_string("mistral_ai"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_OPENAI,
    lunary_ocr_request,
    lunary_ocr_body,
    NULL
};

const lunary_dialect_t  lunary_watsonx_generation = {
    lunary_string("watsonx.generation"),
    lunary_string("llm"),
    lunary_string("ibm.watsonx.ai"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_ALL,
    lunary_watsonx_request,
    lunary_watsonx_body,
    lunary_watsonx_event
};

const lunary_dialect_t  lunary_huggingface_inference = {
    lunary_string("huggingface.inference"),
    lunary_string("llm"),
    lunary_string("huggingface"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_ALL,
    lunary_huggingface_request,
    lunary_huggingface_body,
    lunary_huggingface_event
};

/* SageMaker endpoints mostly serve TGI or what speaks like it */

const lunary_dialect_t  lunary_sagemaker_invocations = {
    lunary_string("sagemaker.invocations"),
    lunary_string("llm"),
    lunary_string("aws.sagemaker"),
    LUNARY_STYLE_BEDROCK,
    LUNARY_STRIP_ALL,
    lunary_huggingface_request,
    lunary_huggingface_body,
    lunary_huggingface_event
};

const lunary_dialect_t  lunary_replicate_predictions = {
    lunary_string("replicate.predictions"),
    lunary_string("llm"),
    lunary_string("replicate"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_ALL,
    lunary_replicate_request,
    lunary_replicate_body,
    NULL
};

const lunary_dialect_t  lunary_alephalpha_complete = {
    lunary_string("alephalpha.complete"),
    lunary_string("llm"),
    lunary_string("alephalpha"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_ALL,
    lunary_alephalpha_request,
    lunary_alephalpha_body,
    NULL
};


/*
 * inputs: a string, or entries that are messages.  OpenAI keeps conversations
 * at the same path, of items and metadata, and generates nothing there.
 */

static int
lunary_conversations_request(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t  inputs;

    static const lunary_str_t  key = lunary_string("inputs");

    if (lunary_json_get(text, "inputs").len == 0
        && lunary_json_get(text, "stream").len == 0
        && lunary_call_elsewhere(call, text))
    {
        return LUNARY_OK;
    }

    inputs = lunary_openai_common(call, text, key);

    if (lunary_json_is_array(inputs)) {
        lunary_call_input(call, inputs, key);

    } else {
        lunary_prompt_input(call, inputs, key);
    }

    return LUNARY_OK;
}


/* {"outputs":[{"type":"message.output","content":...},...],"usage":...} */

static int
lunary_conversations_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t         v, type;
    lunary_tool_t       *t;
    lunary_choice_t     *ch;
    lunary_json_iter_t   it;

    lunary_call_response_id(call, lunary_json_get(text, "conversation_id"));
    lunary_call_usage_openai(call, lunary_json_get(text, "usage"));

    v = lunary_json_get(text, "outputs");

    if (!lunary_json_is_array(v)) {
        lunary_openai_value(call, text, 0);
        return LUNARY_OK;
    }

    ch = lunary_call_choice(call, 0);
    lunary_json_iter(&it, v);

    while (lunary_json_element(&it, &v)) {
        type = lunary_json_get(v, "type");

        if (lunary_value_is(type, "message.output")) {
            lunary_call_response_model(call, lunary_json_get(v, "model"), 0);
            lunary_openai_content(call, ch, lunary_json_get(v, "content"));

        } else if (lunary_value_is(type, "function.call")) {
            t = lunary_call_tool_new(call, ch, -1);

            lunary_call_tool_id(call, t, lunary_json_get(v, "tool_call_id"));
            lunary_call_tool_name(call, t, lunary_json_get(v, "name"));
            lunary_call_tool_args(call, t, lunary_json_get(v, "arguments"));
        }
    }

    return LUNARY_OK;
}


static int
lunary_conversations_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    lunary_str_t      type, v;
    lunary_tool_t    *t;
    lunary_choice_t  *ch;

    if (lunary_eq(data, "[DONE]")) {
        call->terminal = 1;
        return LUNARY_OK;
    }

    v = lunary_json_get(data, "type");
    type = lunary_json_is_string(v) ? lunary_json_inside(v) : name;

    ch = lunary_call_choice(call, 0);

    if (lunary_eq(type, "message.output.delta")) {
        lunary_call_response_model(call, lunary_json_get(data, "model"), 0);
        lunary_openai_content(call, ch, lunary_json_get(data, "content"));

    } else if (lunary_eq(type, "function.call.delta")) {
        v = lunary_json_get(data, "tool_call_id");
        t = ch == NULL ? NULL
            : lunary_output_tool_id(ch, lunary_json_inside(v));

        if (t == NULL) {
            t = lunary_call_tool_new(call, ch, -1);
            lunary_call_tool_id(call, t, v);
        }

        lunary_call_tool_name(call, t, lunary_json_get(data, "name"));
        lunary_call_tool_args(call, t, lunary_json_get(data, "arguments"));

    } else if (lunary_eq(type, "conversation.response.started")) {
        lunary_call_response_id(call,
                                lunary_json_get(data, "conversation_id"));

    } else if (lunary_eq(type, "conversation.response.done")) {
        lunary_call_usage_openai(call, lunary_json_get(data, "usage"));
        call->terminal = 1;

    } else if (lunary_eq(type, "conversation.response.error")) {
        (void) lunary_call_error_of(call, data, 1);

    } else if (lunary_json_get(data, "choices").len != 0) {
        lunary_openai_value(call, data, 1);
    }

    return LUNARY_OK;
}


/* the document is media: a reference among the parameters */

static int
lunary_ocr_request(lunary_call_t *call, lunary_str_t text)
{
    (void) lunary_openai_common(call, text, lunary_str(NULL, 0));

    return LUNARY_OK;
}


/* {"pages":[...],"model":...,"usage_info":{"pages_processed":1,...}} */

static int
lunary_ocr_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_call_response_model(call, lunary_json_get(text, "model"), 0);
    lunary_call_usage(call, lunary_json_get(text, "usage_info"));

    return LUNARY_OK;
}


static int
lunary_watsonx_request(lunary_call_t *call, lunary_str_t text)
{
    static const lunary_str_t  key = lunary_string("input");

    lunary_prompt_input(call, lunary_openai_common(call, text, key), key);

    call->stream = lunary_call_path_ends(call, "_stream");

    return LUNARY_OK;
}


static int
lunary_watsonx_body(lunary_call_t *call, lunary_str_t text)
{
    return lunary_watsonx_event(call, lunary_str(NULL, 0), text);
}


/* a stream's terminal event has a stop_reason other than not_finished */

static int
lunary_watsonx_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    int64_t              i, n;
    lunary_str_t         v, m[4];
    lunary_choice_t     *ch;
    lunary_json_iter_t   it;

    static const lunary_str_t  keys[] = {
        lunary_string("generated_text"),
        lunary_string("generated_token_count"),
        lunary_string("input_token_count"),
        lunary_string("stop_reason")
    };

    if (lunary_eq(name, "error")) {
        (void) lunary_call_error_of(call, data, 1);
        return LUNARY_OK;
    }

    lunary_call_response_model(call, lunary_json_get(data, "model_id"), 1);

    v = lunary_json_get(data, "results");

    if (!lunary_json_is_array(v)) {
        (void) lunary_call_error_of(call, data, 0);
        return LUNARY_OK;
    }

    lunary_json_iter(&it, v);

    for (i = 0; lunary_json_element(&it, &v); i++) {

        (void) lunary_json_pick(v, keys, m, 4);

        ch = lunary_call_choice(call, i);

        lunary_call_text(call, ch, lunary_json_inside(m[0]));
        lunary_call_finish_reason(call, ch, m[3]);

        if (lunary_json_is_string(m[3])
            && !lunary_value_is(m[3], "not_finished"))
        {
            call->terminal = 1;
        }

        if (i != 0) {
            continue;
        }

        lunary_call_count(&call->tokens.completion, m[1]);

        /* only the first event of a stream says how long the input is */

        n = LUNARY_UNKNOWN;
        lunary_call_count(&n, m[2]);

        if (n > 0 || call->tokens.prompt == LUNARY_UNKNOWN) {
            call->tokens.prompt = n;
        }
    }

    return LUNARY_OK;
}


static int
lunary_huggingface_request(lunary_call_t *call, lunary_str_t text)
{
    static const lunary_str_t  key = lunary_string("inputs");

    lunary_prompt_input(call, lunary_openai_common(call, text, key), key);

    return LUNARY_OK;
}


static int
lunary_huggingface_body(lunary_call_t *call, lunary_str_t text)
{
    int64_t              i;
    lunary_str_t         v, d;
    lunary_choice_t     *ch;
    lunary_json_iter_t   it;

    if (lunary_json_is_object(text)) {
        it.p = text.data;
        v = text;
        i = -1;

    } else {
        lunary_json_iter(&it, text);
        i = 0;

        if (!lunary_json_element(&it, &v)) {
            return LUNARY_OK;
        }
    }

    do {
        d = lunary_json_get(v, "generated_text");

        if (!lunary_json_is_string(d)) {
            return LUNARY_OK;
        }

        ch = lunary_call_choice(call, i < 0 ? 0 : i);
        lunary_call_text(call, ch, lunary_json_inside(d));

        d = lunary_json_get(v, "details");
        lunary_call_finish_reason(call, ch,
                                  lunary_json_get(d, "finish_reason"));

        if (i <= 0) {
            lunary_call_count(&call->tokens.completion,
                              lunary_json_get(d, "generated_tokens"));
        }

    } while (i >= 0 && ++i && lunary_json_element(&it, &v));

    return LUNARY_OK;
}


/* {"token":{"text":...,"special":false},"generated_text":null,"details":null};
 * the last one has generated_text and details */

static int
lunary_huggingface_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    lunary_str_t      d, v[4];
    lunary_choice_t  *ch;

    static const lunary_str_t  keys[] = {
        lunary_string("token"),
        lunary_string("details"),
        lunary_string("generated_text"),
        lunary_string("error")
    };

    (void) lunary_json_pick(data, keys, v, 4);

    if (lunary_eq(name, "error") || lunary_json_is_object(v[3])
        || lunary_json_inside(v[3]).len != 0)
    {
        (void) lunary_call_error_of(call, data, 1);
        return LUNARY_OK;
    }

    if (!lunary_json_is_object(v[0]) && !lunary_json_is_object(v[1])
        && !lunary_json_is_string(v[2]))
    {
        /* Triton and others at the same path */

        return LUNARY_OK;
    }

    ch = lunary_call_choice(call, 0);

    if (lunary_json_is_object(v[0])
        && !lunary_json_is_true(lunary_json_get(v[0], "special")))
    {
        d = lunary_json_get(v[0], "text");
        lunary_call_text(call, ch, lunary_json_inside(d));
    }

    d = v[1];

    if (lunary_json_is_object(d)) {
        lunary_call_finish_reason(call, ch,
                                  lunary_json_get(d, "finish_reason"));
        lunary_call_count(&call->tokens.completion,
                          lunary_json_get(d, "generated_tokens"));
        lunary_call_count(&call->tokens.prompt,
                          lunary_json_get(d, "input_length"));
    }

    if (lunary_json_is_string(v[2])) {
        call->terminal = 1;
    }

    return LUNARY_OK;
}


/* {"version":...,"input":{"prompt":...}}; the model may stand in the path */

static int
lunary_replicate_request(lunary_call_t *call, lunary_str_t text)
{
    size_t        i, slashes;
    lunary_str_t  s, input;

    static const lunary_str_t  key = lunary_string("input");

    s = lunary_call_path(call, "/models/", "");

    for (i = 0, slashes = 0; i < s.len; i++) {
        if (s.data[i] == '/' && ++slashes == 2) {
            break;
        }
    }

    s.len = i;

    lunary_call_model(call, lunary_json_get(text, "model"));

    if (call->model.len == 0) {
        lunary_call_model_bytes(call, s);
    }

    input = lunary_openai_common(call, text, key);

    if (lunary_json_is_object(input)) {
        lunary_prompt_input(call, lunary_json_get(input, "prompt"), key);
    }

    return LUNARY_OK;
}


/* output: a string, or pieces of one */

static int
lunary_replicate_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t         v, output, error;
    lunary_choice_t     *ch;
    lunary_json_iter_t   it;

    output = lunary_json_get(text, "output");
    error = lunary_json_get(text, "error");
    v = lunary_json_get(text, "status");

    if (v.len == 0) {
        return LUNARY_OK;
    }

    lunary_call_response_id(call, lunary_json_get(text, "id"));
    lunary_call_response_model(call, lunary_json_get(text, "model"), 0);
    lunary_call_status(call, v);

    v = lunary_json_get(text, "metrics");

    if (lunary_json_is_object(v)) {
        lunary_call_count(&call->tokens.prompt,
                          lunary_json_get(v, "input_token_count"));
        lunary_call_count(&call->tokens.completion,
                          lunary_json_get(v, "output_token_count"));
    }

    if (lunary_json_inside(error).len != 0) {
        lunary_call_error(call, error, lunary_str(NULL, 0),
                          lunary_str(NULL, 0));
    }

    if (lunary_json_is_string(output)) {
        ch = lunary_call_choice(call, 0);
        lunary_call_text(call, ch, lunary_json_inside(output));

    } else if (lunary_json_is_array(output)) {
        ch = lunary_call_choice(call, 0);
        lunary_json_iter(&it, output);

        while (lunary_json_element(&it, &v)) {
            lunary_call_text(call, ch, lunary_json_inside(v));
        }
    }

    return LUNARY_OK;
}


static int
lunary_alephalpha_request(lunary_call_t *call, lunary_str_t text)
{
    static const lunary_str_t  key = lunary_string("prompt");

    lunary_prompt_input(call, lunary_openai_common(call, text, key), key);

    return LUNARY_OK;
}


static int
lunary_alephalpha_body(lunary_call_t *call, lunary_str_t text)
{
    int64_t              i;
    lunary_str_t         v;
    lunary_choice_t     *ch;
    lunary_json_iter_t   it;

    lunary_call_response_model(call, lunary_json_get(text, "model_version"),
                               0);
    lunary_call_count(&call->tokens.prompt,
                      lunary_json_get(text, "num_tokens_prompt_total"));
    lunary_call_count(&call->tokens.completion,
                      lunary_json_get(text, "num_tokens_generated"));

    v = lunary_json_get(text, "completions");

    if (!lunary_json_is_array(v)) {
        return LUNARY_OK;
    }

    lunary_json_iter(&it, v);

    for (i = 0; lunary_json_element(&it, &v); i++) {
        ch = lunary_call_choice(call, i);

        lunary_call_text(call, ch, lunary_json_inside(
                             lunary_json_get(v, "completion")));
        lunary_call_finish_reason(call, ch,
                                  lunary_json_get(v, "finish_reason"));
    }

    return LUNARY_OK;
}
