/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * bedrock.agent: Amazon Bedrock Agents' InvokeAgent and InvokeInlineAgent;
 * bedrock.rag: its RetrieveAndGenerate and RetrieveAndGenerateStream;
 * bedrock.rerank: its Rerank (Agents for Amazon Bedrock Runtime, API reference,
 * 2023-07-26).
 *
 * An agent's id stands where its model would, an inline one names its model.
 * Answers are event streams: `chunk` has text in base64, `output` in plain,
 * `returnControl` names functions that the caller is to run.  With
 * enableTrace, `trace` tells of each call of a model which it was and what it
 * used: the tokens are the sum of them.  Streams end without a last event.
 */

#include "../lunary_dialects.h"


static int lunary_agent_request(lunary_call_t *call, lunary_str_t text);
static int lunary_agent_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);
static void lunary_agent_chunk(lunary_call_t *call, lunary_str_t data);
static void lunary_agent_trace(lunary_call_t *call, lunary_str_t trace);
static void lunary_agent_control(lunary_call_t *call, lunary_str_t data);
static int lunary_rag_request(lunary_call_t *call, lunary_str_t text);
static int lunary_rag_body(lunary_call_t *call, lunary_str_t text);
static int lunary_rag_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);
static int lunary_rerank_request(lunary_call_t *call, lunary_str_t text);


const lunary_dialect_t  lunary_bedrock_agent = {
    lunary_string("bedrock.agent"),
    lunary_string("llm"),
    lunary_string("aws.bedrock"),
    LUNARY_STYLE_BEDROCK,
    LUNARY_STRIP_ALL,
    lunary_agent_request,
    NULL,
    lunary_agent_event
};

const lunary_dialect_t  lunary_bedrock_rag = {
    lunary_string("bedrock.rag"),
    lunary_string("llm"),
    lunary_string("aws.bedrock"),
    LUNARY_STYLE_BEDROCK,
    LUNARY_STRIP_ALL,
    lunary_rag_request,
    lunary_rag_body,
    lunary_rag_event
};

/* found by its body, see lunary_bedrock_reranks(), or forced */

const lunary_dialect_t  lunary_bedrock_rerank = {
    lunary_string("bedrock.rerank"),
    lunary_null_str,
    lunary_string("aws.bedrock"),
    LUNARY_STYLE_BEDROCK,
    LUNARY_STRIP_ALL,
    lunary_rerank_request,
    NULL,
    NULL
};


/* /agents/ID/agentAliases/ALIAS/sessions/SESSION/text, /agents/SESSION */

static int
lunary_agent_request(lunary_call_t *call, lunary_str_t text)
{
    int           rc;
    lunary_str_t  s, v[3];

    static const lunary_str_t  but[] = {
        lunary_string("inputText"),
        lunary_string("instruction"),
        lunary_string("foundationModel")
    };

    lunary_call_params(call, text, but, v, 3);

    if (lunary_json_inside(v[2]).len != 0) {
        lunary_call_model(call, v[2]);

    } else {
        lunary_call_model_bytes(call, lunary_call_path(call, "/agents/",
                                                       "/"));
    }

    s = lunary_json_get(text, "streamingConfigurations");
    s = lunary_json_get(s, "streamFinalResponse");

    call->stream = lunary_json_is_true(s);

    rc = LUNARY_OK;

    if (lunary_json_inside(v[1]).len != 0) {
        rc = lunary_input_said(call, "system", v[1]);

        lunary_input_also(call, but[1]);
    }

    if (rc == LUNARY_OK) {
        lunary_prompt_input(call, v[0], but[0]);
    }

    return rc;
}


static int
lunary_agent_event(lunary_call_t *call, lunary_str_t name, lunary_str_t data)
{
    if (lunary_eq(name, "chunk")) {
        lunary_agent_chunk(call, data);

    } else if (lunary_eq(name, "trace")) {
        lunary_agent_trace(call, lunary_json_get(data, "trace"));

    } else if (lunary_eq(name, "returnControl")) {
        lunary_agent_control(call, data);

    } else if (!lunary_eq(name, "files")) {
        (void) lunary_call_error_of(call, data, 0);
    }

    return LUNARY_OK;
}


/* {"bytes":BASE64 of text, "attribution":{...}} */

static void
lunary_agent_chunk(lunary_call_t *call, lunary_str_t data)
{
    lunary_buf_t      text, *inside;
    lunary_str_t      bytes;
    lunary_choice_t  *ch;

    ch = lunary_call_choice(call, 0);

    lunary_priv(call)->ends = 1;

    bytes = lunary_json_inside(lunary_json_get(data, "bytes"));

    if (bytes.len == 0 || lunary_bedrock_left_out(call, bytes)) {
        return;
    }

    memset(&text, 0, sizeof(lunary_buf_t));

    inside = &lunary_priv(call)->scratch;
    inside->len = 0;

    if (lunary_bedrock_base64(call->mem, &text, bytes) == LUNARY_OK
        && lunary_json_escape(call->mem, inside, lunary_buf_str(&text))
           == LUNARY_OK)
    {
        lunary_call_text(call, ch, lunary_buf_str(inside));
    }

    lunary_buf_free(call->mem, &text);
}


/* the trace of one step: what a model was asked, or what it used */

static void
lunary_agent_trace(lunary_call_t *call, lunary_str_t trace)
{
    size_t        i;
    lunary_str_t  v[4], u;

    static const lunary_str_t  keys[] = {
        lunary_string("preProcessingTrace"),
        lunary_string("orchestrationTrace"),
        lunary_string("postProcessingTrace"),
        lunary_string("routingClassifierTrace")
    };

    (void) lunary_json_pick(trace, keys, v, 4);

    for (i = 0; i < 4; i++) {

        if (!lunary_json_is_object(v[i])) {
            continue;
        }

        u = lunary_json_get(v[i], "modelInvocationInput");
        lunary_call_response_model(call, lunary_json_get(u,
                                                   "foundationModel"), 1);

        u = lunary_json_get(v[i], "modelInvocationOutput");
        u = lunary_json_get(lunary_json_get(u, "metadata"), "usage");

        lunary_call_count_more(&call->tokens.prompt,
                               lunary_json_get(u, "inputTokens"));
        lunary_call_count_more(&call->tokens.completion,
                               lunary_json_get(u, "outputTokens"));
    }
}


/* functions (or operations of an API) that the caller is to run */

static void
lunary_agent_control(lunary_call_t *call, lunary_str_t data)
{
    lunary_str_t         id, v, f, name;
    lunary_tool_t       *t;
    lunary_choice_t     *ch;
    lunary_json_iter_t   it;

    ch = lunary_call_choice(call, 0);

    lunary_priv(call)->ends = 1;

    id = lunary_json_get(data, "invocationId");
    v = lunary_json_get(data, "invocationInputs");

    if (!lunary_json_is_array(v)) {
        return;
    }

    lunary_json_iter(&it, v);

    while (lunary_json_element(&it, &v)) {

        f = lunary_json_get(v, "functionInvocationInput");
        name = lunary_json_get(f, "function");

        if (f.len == 0) {
            f = lunary_json_get(v, "apiInvocationInput");
            name = lunary_json_get(f, "apiPath");
        }

        t = lunary_call_tool_new(call, ch, -1);

        lunary_call_tool_id(call, t, id);
        lunary_call_tool_name(call, t, name);
        lunary_call_tool_value(call, t, lunary_json_get(f, "parameters"));
    }
}


/* {"input":{"text":...},"retrieveAndGenerateConfiguration":{...}} */

static int
lunary_rag_request(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t  input, v, m;

    static const lunary_str_t  key = lunary_string("input");

    lunary_call_params(call, text, &key, &input, 1);

    v = lunary_json_get(text, "retrieveAndGenerateConfiguration");
    m = lunary_json_get(v, "knowledgeBaseConfiguration");

    if (!lunary_json_is_object(m)) {
        m = lunary_json_get(v, "externalSourcesConfiguration");
    }

    lunary_call_model(call, lunary_json_get(m, "modelArn"));

    call->stream = lunary_call_path_ends(call, "Stream");

    lunary_prompt_input(call, lunary_json_get(input, "text"), key);

    return LUNARY_OK;
}


static int
lunary_rag_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t  v;

    v = lunary_json_get(lunary_json_get(text, "output"), "text");

    if (lunary_json_is_string(v)) {
        lunary_call_text(call, lunary_call_choice(call, 0),
                         lunary_json_inside(v));
    }

    return LUNARY_OK;
}


static int
lunary_rag_event(lunary_call_t *call, lunary_str_t name, lunary_str_t data)
{
    lunary_str_t  v;

    v = lunary_json_get(data, "text");

    if (lunary_eq(name, "output")) {
        lunary_priv(call)->ends = 1;
        lunary_call_text(call, lunary_call_choice(call, 0),
                         lunary_json_inside(v));

    } else if (!lunary_eq(name, "citation")) {
        (void) lunary_call_error_of(call, data, 0);
    }

    return LUNARY_OK;
}


static int
lunary_rerank_request(lunary_call_t *call, lunary_str_t text)
{
    (void) lunary_bedrock_reranks(call, text);

    return LUNARY_OK;
}


/* one query; what it is compared with is in params */

int
lunary_bedrock_reranks(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t        v, q;
    lunary_json_iter_t  it;

    static const lunary_str_t  key = lunary_string("queries");

    v = lunary_json_get(text, "rerankingConfiguration");

    if (!lunary_json_is_object(v)) {
        return 0;
    }

    call->dialect = &lunary_bedrock_rerank;

    lunary_call_params(call, text, &key, &q, 1);

    v = lunary_json_get(v, "bedrockRerankingConfiguration");
    v = lunary_json_get(v, "modelConfiguration");

    lunary_call_model(call, lunary_json_get(v, "modelArn"));

    lunary_json_iter(&it, q);

    if (lunary_json_is_array(q) && lunary_json_element(&it, &v)) {
        v = lunary_json_get(v, "textQuery");
        v = lunary_json_get(v, "text");

        if (lunary_json_is_string(v)) {
            lunary_prompt_input(call, v, key);
        }
    }

    return 1;
}
