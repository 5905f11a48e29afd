/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * bedrock.invoke: Amazon Bedrock Runtime's InvokeModel and
 * InvokeModelWithResponseStream (API reference, 2023-09-30; user guide,
 * "Inference request parameters and response fields for foundation models").
 *
 * The model stands in the path, the body is the model family's own:
 * Anthropic's messages, Nova's (Converse's members), chat completions,
 * Titan's, Llama's, Mistral's, Cohere's, AI21's.  A stream's events are
 * {"bytes":BASE64} of it; the last has amazon-bedrock-invocationMetrics.
 */

#include "../lunary_dialects.h"


static int lunary_invoke_request(lunary_call_t *call, lunary_str_t text);
static int lunary_invoke_body(lunary_call_t *call, lunary_str_t text);
static int lunary_invoke_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);
static void lunary_invoke_value(lunary_call_t *call, lunary_str_t v,
    int stream);
static int lunary_invoke_nova(lunary_call_t *call, lunary_str_t v, int stream);
static void lunary_invoke_list(lunary_call_t *call, lunary_str_t list,
    const char *text, const char *reason);
static void lunary_invoke_ai21(lunary_call_t *call, lunary_str_t v,
    lunary_str_t list);
static void lunary_invoke_cohere(lunary_call_t *call, lunary_str_t v);
static void lunary_invoke_text(lunary_call_t *call, lunary_str_t text,
    lunary_str_t reason);


const lunary_dialect_t  lunary_bedrock_invoke = {
    lunary_string("bedrock.invoke"),
    lunary_string("llm"),
    lunary_string("aws.bedrock"),
    LUNARY_STYLE_BEDROCK,
    LUNARY_STRIP_ANTHROPIC,
    lunary_invoke_request,
    lunary_invoke_body,
    lunary_invoke_event
};

/* the same where the model's name says that it embeds: Titan's, Cohere's */

static const lunary_dialect_t  lunary_bedrock_embed = {
    lunary_string("bedrock.invoke"),
    lunary_string("embed"),
    lunary_string("aws.bedrock"),
    LUNARY_STYLE_BEDROCK,
    LUNARY_STRIP_ANTHROPIC,
    lunary_invoke_request,
    lunary_invoke_body,
    lunary_invoke_event
};

/* and where it says that it sorts texts: Cohere's, Amazon's */

static const lunary_dialect_t  lunary_invoke_rerank = {
    lunary_string("bedrock.invoke"),
    lunary_null_str,
    lunary_string("aws.bedrock"),
    LUNARY_STYLE_BEDROCK,
    LUNARY_STRIP_ANTHROPIC,
    lunary_invoke_request,
    lunary_invoke_body,
    lunary_invoke_event
};


static int
lunary_invoke_request(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t  messages, first, content, v;

    static const lunary_str_t  key = lunary_string("messages");
    static const lunary_str_t  but[] = {
        lunary_string("messages"),
        lunary_string("system"),
        lunary_string("prompt"),
        lunary_string("inputText"),
        lunary_string("message"),
        lunary_string("anthropic_version"),
        lunary_string("texts"),
        lunary_string("query")
    };

    lunary_bedrock_path(call);
    lunary_call_params(call, text, but, NULL, 7);

    /* the path says whose model it is, but for an inference profile's ARN */

    if (call->model.len < 4 || memcmp(call->model.data, "arn:", 4) == 0) {
        lunary_call_model(call, lunary_json_get(text, "model"));
    }

    if (lunary_model_embeds(call->model)) {
        call->dialect = &lunary_bedrock_embed;

    } else if (lunary_model_reranks(call->model)) {
        call->dialect = &lunary_invoke_rerank;

        lunary_call_params(call, text, but + 7, &v, 1);
        lunary_prompt_input(call, v, but[7]);

        return LUNARY_OK;
    }

    messages = lunary_json_get(text, "messages");

    if (lunary_json_is_array(messages)) {

        first = lunary_json_at(messages, 0);
        content = lunary_json_at(lunary_json_get(first, "content"), 0);

        if (lunary_json_get(text, "anthropic_version").len != 0) {
            lunary_anthropic_request_members(call, text);
            lunary_call_params(call, text, but, NULL, 7);

        } else if (lunary_json_is_object(content)
                   && lunary_json_get(content, "type").len == 0)
        {
            lunary_converse_messages(call, text);

        } else {
            lunary_call_input(call, messages, key);
        }

        call->stream = lunary_call_path_ends(call, "-stream");

        return LUNARY_OK;
    }

    v = lunary_json_get(text, "prompt");

    if (v.len != 0) {
        lunary_prompt_input(call, v, but[2]);
        return LUNARY_OK;
    }

    v = lunary_json_get(text, "inputText");

    if (v.len != 0) {
        lunary_prompt_input(call, v, but[3]);
        return LUNARY_OK;
    }

    v = lunary_json_get(text, "texts");

    if (v.len != 0) {
        lunary_prompt_input(call, v, but[6]);
        return LUNARY_OK;
    }

    if (lunary_json_is_string(lunary_json_get(text, "message"))) {
        (void) lunary_cohere_v1_members(call, text);
        call->stream = lunary_call_path_ends(call, "-stream");
    }

    return LUNARY_OK;
}


static int
lunary_invoke_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_invoke_value(call, text, 0);

    return LUNARY_OK;
}


/* {"bytes":BASE64} of the model's own JSON (and "p", padding) */

static int
lunary_invoke_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    int            rc;
    lunary_buf_t   json;
    lunary_str_t   bytes;

    if (name.len > 9
        && memcmp(name.data + name.len - 9, "Exception", 9) == 0)
    {
        lunary_call_exception(call, name, data);
        return LUNARY_OK;
    }

    bytes = lunary_json_inside(lunary_json_get(data, "bytes"));

    if (bytes.len == 0) {
        lunary_invoke_value(call, data, 1);
        return LUNARY_OK;
    }

    if (lunary_bedrock_left_out(call, bytes)) {
        (void) lunary_call_choice(call, 0);
        return LUNARY_OK;
    }

    memset(&json, 0, sizeof(lunary_buf_t));

    rc = lunary_bedrock_base64(call->mem, &json, bytes);

    if (rc == LUNARY_OK) {
        lunary_invoke_value(call, lunary_buf_str(&json), 1);
    }

    lunary_buf_free(call->mem, &json);

    return rc;
}


static void
lunary_invoke_value(lunary_call_t *call, lunary_str_t v, int stream)
{
    lunary_str_t      m[18], r;
    lunary_tokens_t  *t;

    enum {
        TYPE = 0, METRICS, CONTENT, CHOICES, COMPLETION, STOP, RESULTS,
        OUTPUT_TEXT, REASON, GENERATION, GENERATIONS, OUTPUTS, COMPLETIONS,
        EVENT_TYPE, FINISHED, TEXT, FINISH, TITAN_IN, N
    };

    static const lunary_str_t  keys[] = {
        lunary_string("type"),
        lunary_string("amazon-bedrock-invocationMetrics"),
        lunary_string("content"),
        lunary_string("choices"),
        lunary_string("completion"),
        lunary_string("stop_reason"),
        lunary_string("results"),
        lunary_string("outputText"),
        lunary_string("completionReason"),
        lunary_string("generation"),
        lunary_string("generations"),
        lunary_string("outputs"),
        lunary_string("completions"),
        lunary_string("event_type"),
        lunary_string("is_finished"),
        lunary_string("text"),
        lunary_string("finish_reason"),
        lunary_string("inputTextTokenCount")
    };

    t = &call->tokens;

    (void) lunary_json_pick(v, keys, m, N);

    /* the results of a rerank have no text */

    r = lunary_json_at(m[RESULTS], 0);

    if (lunary_json_is_string(m[TYPE])) {

        if (lunary_value_is(m[TYPE], "message")
            && lunary_json_is_array(m[CONTENT]))
        {
            lunary_anthropic_value(call, v);

        } else {
            lunary_anthropic_stream(call, lunary_str(NULL, 0), v);
        }

    } else if (lunary_invoke_nova(call, v, stream)) {
        /* void */

    } else if (lunary_json_is_array(m[CHOICES])) {
        lunary_openai_value(call, v, stream);
        lunary_priv(call)->fold = LUNARY_TOKENS_INCLUSIVE;

    } else if (lunary_json_is_string(m[COMPLETION])) {
        lunary_invoke_text(call, m[COMPLETION], m[STOP]);

    } else if (lunary_json_get(r, "outputText").len != 0
               || lunary_json_get(r, "completionReason").len != 0)
    {

        /* Titan */

        lunary_invoke_list(call, m[RESULTS], "outputText",
                           "completionReason");
        lunary_call_count(&t->prompt, m[TITAN_IN]);
        lunary_call_count(&t->completion, lunary_json_get(r, "tokenCount"));

    } else if (m[OUTPUT_TEXT].len != 0) {
        lunary_invoke_text(call, m[OUTPUT_TEXT], m[REASON]);
        lunary_call_count(&t->prompt, m[TITAN_IN]);
        lunary_call_count(&t->completion, lunary_json_get(v,
                                              "totalOutputTextTokenCount"));

    } else if (m[GENERATION].len != 0) {

        /* Llama */

        lunary_invoke_text(call, m[GENERATION], m[STOP]);
        lunary_call_count(&t->prompt, lunary_json_get(v,
                                                      "prompt_token_count"));
        lunary_call_count(&t->completion, lunary_json_get(v,
                                              "generation_token_count"));

    } else if (lunary_json_is_array(m[GENERATIONS])) {
        lunary_invoke_list(call, m[GENERATIONS], "text", "finish_reason");

    } else if (lunary_json_is_array(m[OUTPUTS])) {
        lunary_invoke_list(call, m[OUTPUTS], "text", "stop_reason");

    } else if (lunary_json_is_array(m[COMPLETIONS])) {
        lunary_invoke_ai21(call, v, m[COMPLETIONS]);

    } else if (lunary_json_is_string(m[EVENT_TYPE])) {
        (void) lunary_cohere_v1_event(call, lunary_str(NULL, 0), v);

    } else if (m[FINISHED].len != 0) {
        lunary_invoke_cohere(call, v);

    } else if (lunary_json_is_string(m[TEXT])) {
        lunary_invoke_text(call, m[TEXT], m[FINISH]);
        lunary_cohere_usage(call, lunary_json_get(v, "meta"));

    } else if (m[TITAN_IN].len != 0) {
        lunary_call_count(&t->prompt, m[TITAN_IN]);

    } else if (stream) {
        (void) lunary_call_error_of(call, v, 0);
    }

    if (lunary_json_is_object(m[METRICS])) {

        /* in place of usage, where the model does not tell */

        if (lunary_priv(call)->usage.len == 0) {
            lunary_call_usage(call, m[METRICS]);
        }

        if (t->prompt == LUNARY_UNKNOWN) {
            lunary_call_count(&t->prompt,
                              lunary_json_get(m[METRICS],
                                              "inputTokenCount"));
        }

        if (t->completion == LUNARY_UNKNOWN) {
            lunary_call_count(&t->completion,
                              lunary_json_get(m[METRICS],
                                              "outputTokenCount"));
        }

        call->terminal = 1;
    }
}


/* Nova: Converse's members; 1 where it is one of them */

static int
lunary_invoke_nova(lunary_call_t *call, lunary_str_t v, int stream)
{
    size_t        i;
    lunary_str_t  m[7];

    static const lunary_str_t  keys[] = {
        lunary_string("messageStart"),
        lunary_string("contentBlockStart"),
        lunary_string("contentBlockDelta"),
        lunary_string("contentBlockStop"),
        lunary_string("messageStop"),
        lunary_string("metadata"),
        lunary_string("output")
    };

    if (lunary_json_pick(v, keys, m, 7) == 0) {
        return 0;
    }

    if (lunary_json_is_object(lunary_json_get(m[6], "message"))) {
        lunary_converse_value(call, v);
        return 1;
    }

    for (i = 0; i < 5 && m[i].len == 0; i++) { /* void */ }

    if (i == 5 && !(stream && lunary_json_is_object(m[5]))) {
        return 0;
    }

    for (i = 0; i < 6; i++) {
        if (lunary_json_is_object(m[i])) {
            lunary_converse_event(call, keys[i], m[i]);
        }
    }

    return 1;
}


/* an array of answers, each with its text and reason */

static void
lunary_invoke_list(lunary_call_t *call, lunary_str_t list, const char *text,
    const char *reason)
{
    int64_t              i;
    lunary_str_t         v, s;
    lunary_choice_t     *ch;
    lunary_json_iter_t   it;

    lunary_json_iter(&it, list);

    for (i = 0; lunary_json_element(&it, &v); i++) {
        ch = lunary_call_choice(call, i);

        s = lunary_json_get_n(v, text, strlen(text));
        lunary_call_text(call, ch, lunary_json_inside(s));

        s = lunary_json_get_n(v, reason, strlen(reason));

        if (lunary_json_is_string(s)) {
            lunary_call_finish_reason(call, ch, s);
        }
    }
}


/* Jurassic: texts under data, tokens in lists */

static void
lunary_invoke_ai21(lunary_call_t *call, lunary_str_t v, lunary_str_t list)
{
    int64_t              i, n;
    lunary_str_t         c, tokens;
    lunary_choice_t     *ch;
    lunary_json_iter_t   it, count;

    lunary_json_iter(&it, list);

    for (i = 0; lunary_json_element(&it, &c); i++) {
        ch = lunary_call_choice(call, i);

        tokens = lunary_json_get(lunary_json_get(c, "data"), "text");
        lunary_call_text(call, ch, lunary_json_inside(tokens));

        tokens = lunary_json_get(lunary_json_get(c, "finishReason"),
                                 "reason");
        lunary_call_finish_reason(call, ch, tokens);

        tokens = lunary_json_get(lunary_json_get(c, "data"), "tokens");

        if (i == 0 && lunary_json_is_array(tokens)) {
            lunary_json_iter(&count, tokens);

            for (n = 0; lunary_json_element(&count, &c); n++) { /* void */ }

            call->tokens.completion = n;
        }
    }

    tokens = lunary_json_get(lunary_json_get(v, "prompt"), "tokens");

    if (lunary_json_is_array(tokens)) {
        lunary_json_iter(&count, tokens);

        for (n = 0; lunary_json_element(&count, &c); n++) { /* void */ }

        call->tokens.prompt = n;
    }
}


/* Command's stream: {"text":...,"is_finished":false,"index":0} */

static void
lunary_invoke_cohere(lunary_call_t *call, lunary_str_t v)
{
    int64_t           index;
    lunary_str_t      m[4];
    lunary_choice_t  *ch;

    static const lunary_str_t  keys[] = {
        lunary_string("index"),
        lunary_string("text"),
        lunary_string("is_finished"),
        lunary_string("finish_reason")
    };

    (void) lunary_json_pick(v, keys, m, 4);

    if (m[0].len == 0 || !lunary_json_int(m[0], &index)) {
        index = 0;
    }

    if (!lunary_json_is_string(m[1])
        && lunary_priv(call)->out.choices != NULL
        && lunary_json_is_true(m[2]) && index != 0)
    {
        return;
    }

    ch = lunary_call_choice(call, index);

    if (lunary_json_is_true(m[2])) {
        lunary_call_finish_reason(call, ch, m[3]);

    } else {
        lunary_call_text(call, ch, lunary_json_inside(m[1]));
    }
}


static void
lunary_invoke_text(lunary_call_t *call, lunary_str_t text,
    lunary_str_t reason)
{
    lunary_choice_t  *ch;

    ch = lunary_call_choice(call, 0);

    lunary_call_text(call, ch, lunary_json_inside(text));

    if (lunary_json_is_string(reason)) {
        lunary_call_finish_reason(call, ch, reason);
    }
}


/* "[N bytes]": what a document keeps of base64 that it has no room for */

int
lunary_bedrock_left_out(lunary_call_t *call, lunary_str_t in)
{
    size_t  i, n;

    if (in.len < 2 || in.data[0] != '[') {
        return 0;
    }

    n = 0;

    for (i = 1; i < in.len && i < 10; i++) {

        if (in.data[i] < '0' || in.data[i] > '9') {
            break;
        }

        n = n * 10 + (in.data[i] - '0');
    }

    lunary_priv(call)->out.lost += n / 4 * 3;

    return 1;
}


int
lunary_bedrock_base64(lunary_mem_t *mem, lunary_buf_t *out, lunary_str_t in)
{
    size_t         i;
    uint32_t       bits;
    unsigned       n;
    unsigned char  c, v, *p;

    if (lunary_buf_reserve(mem, out, in.len / 4 * 3 + 3) != LUNARY_OK) {
        return LUNARY_NOMEM;
    }

    p = out->data;
    bits = 0;
    n = 0;

    for (i = 0; i < in.len; i++) {
        c = in.data[i];

        if (c >= 'A' && c <= 'Z') {
            v = c - 'A';

        } else if (c >= 'a' && c <= 'z') {
            v = c - 'a' + 26;

        } else if (c >= '0' && c <= '9') {
            v = c - '0' + 52;

        } else if (c == '+' || c == '-') {
            v = 62;

        } else if (c == '/' || c == '_') {
            v = 63;

        } else if (c == '\\') {

            /* "\/": an escaped slash */

            continue;

        } else {
            break;
        }

        bits = bits << 6 | v;
        n += 6;

        if (n >= 8) {
            n -= 8;
            *p++ = (unsigned char) (bits >> n);
        }
    }

    out->len = (size_t) (p - out->data);

    return LUNARY_OK;
}
