/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The table of LLM APIs: which dialect a path or a body's shape means.
 *
 * A pattern is compared with the end of the path, segment by segment, so that
 * prefixes of gateways (/openai, /api/v1, /proxy/x) do not matter:
 *
 *     word      the segment itself
 *     *         any one segment
 *     **        one or more segments (a model's ARN has slashes)
 *     :verb     a segment that ends in it (Google's custom methods)
 *
 * The first that fits is taken, so the longer stand before the shorter.
 * lunary_dialect_unknown says that the body's shape would mislead: it is
 * another API's, and nothing is generated.
 */

#include "lunary_dialects.h"


typedef struct {
    const char               *pattern;
    const lunary_dialect_t   *dialect;
    int                       get;         /* for GET too                    */
} lunary_path_t;


static int lunary_path_fits(lunary_str_t path, const char *pattern);
static int lunary_body_responses(lunary_str_t *v);


const lunary_dialect_t  lunary_dialect_unknown = {
    lunary_string("unknown"),
    lunary_null_str,
    lunary_null_str,
    LUNARY_STYLE_OPENAI,
    0,
    NULL,
    NULL,
    NULL
};


static const lunary_dialect_t  *const lunary_dialects[] = {
#define LUNARY_DIALECT_ENTRY(d)  &d,
    LUNARY_DIALECTS(LUNARY_DIALECT_ENTRY)
#undef LUNARY_DIALECT_ENTRY
    &lunary_dialect_unknown
};

#define LUNARY_DIALECTS_N                                                    \
    (sizeof(lunary_dialects) / sizeof(lunary_dialects[0]))


static const lunary_path_t  lunary_paths[] = {

    /* OpenAI, Azure, and what speaks like them */

    { "chat/completions",                 &lunary_openai_chat, 0 },
    { "agents/completions",               &lunary_openai_chat, 0 },
    { "text/chat",                        &lunary_openai_chat, 0 },
    { "text/chat_stream",                 &lunary_openai_chat, 0 },
    { "cortex/inference:complete",        &lunary_snowflake_complete, 0 },
    { "responses/input_tokens",           &lunary_openai_input_tokens, 0 },
    { "responses/compact",                &lunary_openai_responses, 0 },
    { "responses/*",                      &lunary_openai_responses, 1 },
    { "responses/*/cancel",               &lunary_openai_responses, 0 },
    { "responses",                        &lunary_openai_responses, 0 },
    { "completions",                      &lunary_openai_completions, 0 },
    { "api/embeddings",                   &lunary_ollama_embed, 0 },
    { "embeddings",                       &lunary_openai_embeddings, 0 },
    { "moderations",                      &lunary_openai_moderations, 0 },
    { "images/generations",               &lunary_openai_images, 0 },
    { "api/v1/images",                    &lunary_openai_images, 0 },
    { "images/edits",                     &lunary_openai_images, 0 },
    { "images/variations",                &lunary_openai_images, 0 },
    { "audio/transcriptions",             &lunary_openai_transcriptions, 0 },
    { "audio/translations",               &lunary_openai_translations, 0 },
    { "audio/speech",                     &lunary_openai_speech, 0 },
    { "threads/runs",                     &lunary_openai_assistants, 0 },
    { "threads/*/runs",                   &lunary_openai_assistants, 1 },
    { "threads/*/runs/*",                 &lunary_openai_assistants, 1 },
    { "threads/*/runs/*/submit_tool_outputs", &lunary_openai_assistants, 0 },
    { "threads/*/runs/*/cancel",          &lunary_openai_assistants, 0 },
    { "threads/*/runs/*/steps",           &lunary_openai_assistants, 1 },
    { "threads/*/runs/*/steps/*",         &lunary_openai_assistants, 1 },
    { "threads/*/messages",               &lunary_openai_assistants, 1 },
    { "threads/*/messages/*",             &lunary_openai_assistants, 1 },
    { "v1/threads",                       &lunary_openai_assistants, 0 },
    { "v1/threads/*",                     &lunary_openai_assistants, 1 },
    { "openai/threads",                   &lunary_openai_assistants, 0 },
    { "openai/threads/*",                 &lunary_openai_assistants, 1 },
    { "v1/assistants",                    &lunary_openai_assistants, 1 },
    { "v1/assistants/*",                  &lunary_openai_assistants, 1 },
    { "openai/assistants",                &lunary_openai_assistants, 1 },
    { "openai/assistants/*",              &lunary_openai_assistants, 1 },
    { "assistants",                       &lunary_openai_assistants, 0 },

    /* Anthropic */

    { "messages/count_tokens",            &lunary_anthropic_count_tokens, 0 },
    { "v1/messages",                      &lunary_anthropic_messages, 0 },
    { "anthropic/messages",               &lunary_anthropic_messages, 0 },
    { "v1/complete",                      &lunary_anthropic_complete, 0 },

    /* Google */

    { ":generateContent",                 &lunary_gemini_generate, 0 },
    { ":streamGenerateContent",           &lunary_gemini_generate, 0 },
    { ":countTokens",                     &lunary_gemini_count_tokens, 0 },
    { ":embedContent",                    &lunary_gemini_embed, 0 },
    { ":batchEmbedContents",              &lunary_gemini_batch_embed, 0 },
    { "interactions",                     &lunary_gemini_interactions, 0 },
    { ":predict",                         &lunary_vertex_predict, 0 },
    { "anthropic/models/count-tokens:rawPredict",
                                          &lunary_anthropic_count_tokens, 0 },
    { "anthropic/models/:rawPredict",     &lunary_anthropic_messages, 0 },
    { "anthropic/models/:streamRawPredict", &lunary_anthropic_messages, 0 },

    /* Bedrock */

    { "model/**/converse",                &lunary_bedrock_converse, 0 },
    { "model/**/converse-stream",         &lunary_bedrock_converse, 0 },
    { "model/**/invoke",                  &lunary_bedrock_invoke, 0 },
    { "model/**/invoke-with-response-stream", &lunary_bedrock_invoke, 0 },
    { "agents/*/agentAliases/*/sessions/*/text", &lunary_bedrock_agent, 0 },
    { "retrieveAndGenerate",              &lunary_bedrock_rag, 0 },
    { "retrieveAndGenerateStream",        &lunary_bedrock_rag, 0 },

    /* Ollama, Cohere, Mistral, others */

    { "api/chat",                         &lunary_ollama_chat, 0 },
    { "api/generate",                     &lunary_ollama_generate, 0 },
    { "api/embed",                        &lunary_ollama_embed, 0 },
    { "v1/chat",                          &lunary_cohere_chat_v1, 0 },
    { "v2/chat",                          &lunary_cohere_chat_v2, 0 },
    { "v1/generate",                      &lunary_cohere_generate, 0 },
    { "v1/embed",                         &lunary_cohere_embed, 0 },
    { "v2/embed",                         &lunary_cohere_embed, 0 },
    { "rerank",                           &lunary_cohere_rerank, 0 },
    { "v1/conversations",                 &lunary_mistral_conversations, 0 },
    { "v1/conversations/*",               &lunary_mistral_conversations, 0 },
    { "v1/conversations/*/restart",       &lunary_mistral_conversations, 0 },
    { "v1/ocr",                           &lunary_mistral_ocr, 0 },
    { "text/generation",                  &lunary_watsonx_generation, 0 },
    { "text/generation_stream",           &lunary_watsonx_generation, 0 },
    { "generation/text",                  &lunary_watsonx_generation, 0 },
    { "generation/text_stream",           &lunary_watsonx_generation, 0 },
    { "v1/predictions",                   &lunary_replicate_predictions, 0 },
    { "v1/predictions/*",                 &lunary_replicate_predictions, 1 },
    { "models/*/*/predictions",           &lunary_replicate_predictions, 0 },
    { "deployments/*/*/predictions",      &lunary_replicate_predictions, 0 },
    { "generate_stream",                  &lunary_huggingface_inference, 0 },
    { "endpoints/*/invocations",          &lunary_sagemaker_invocations, 0 },
    { "endpoints/*/invocations-response-stream",
                                          &lunary_sagemaker_invocations, 0 },

    /* bodies like a completion's, for something else */

    { "cachedContents",                   &lunary_dialect_unknown, 0 },
    { ":computeTokens",                   &lunary_dialect_unknown, 0 },
    { "videos",                           &lunary_dialect_unknown, 0 },
    { "videos/*",                         &lunary_dialect_unknown, 0 },
    { "tokenize",                         &lunary_dialect_unknown, 0 },
    { "apply-template",                   &lunary_dialect_unknown, 0 }
};

#define LUNARY_PATHS_N  (sizeof(lunary_paths) / sizeof(lunary_paths[0]))


const lunary_dialect_t *
lunary_dialect_by_path(lunary_str_t method, lunary_str_t path)
{
    int                   get;
    size_t                i;
    const lunary_path_t  *p;

    get = lunary_eq(method, "GET");

    if (!get && !lunary_eq(method, "POST")) {
        return NULL;
    }

    while (path.len > 1 && path.data[path.len - 1] == '/') {
        path.len--;
    }

    for (i = 0; i < LUNARY_PATHS_N; i++) {
        p = &lunary_paths[i];

        if ((!get || p->get) && lunary_path_fits(path, p->pattern)) {
            return p->dialect;
        }
    }

    return NULL;
}


/* compares from the end; see the file's head */

static int
lunary_path_fits(lunary_str_t path, const char *pattern)
{
    int                   many;
    size_t                n, m;
    const char           *s, *e;
    const unsigned char  *p, *q;

    e = pattern + strlen(pattern);
    q = path.data + path.len;
    many = 0;

    while (e > pattern) {

        /* the last segment of what is left of either */

        for (s = e; s > pattern && s[-1] != '/'; s--) { /* void */ }

        n = (size_t) (e - s);

        do {
            if (q <= path.data) {
                return 0;
            }

            for (p = q; p > path.data && p[-1] != '/'; p--) { /* void */ }

            m = (size_t) (q - p);
            q = p > path.data ? p - 1 : p;

            if (n == 2 && s[0] == '*' && s[1] == '*') {
                break;
            }

            if (n == 1 && s[0] == '*') {
                break;
            }

            if (s[0] == ':') {
                if (m <= n || memcmp(p + m - n, s, n) != 0) {
                    return 0;
                }

                break;
            }

            if (m == n && memcmp(p, s, n) == 0) {
                break;
            }

            /* behind a "**" this segment may be one more of it */

            if (!many) {
                return 0;
            }

        } while (1);

        many = (n == 2 && s[0] == '*' && s[1] == '*');
        e = s > pattern ? s - 1 : s;
    }

    return 1;
}


const lunary_dialect_t *
lunary_dialect_by_body(lunary_str_t path, lunary_str_t text)
{
    lunary_str_t  first, content, v[20];

    enum {
        MESSAGES = 0, CONTENTS, PROMPT, INPUT, INPUTS, MESSAGE, MODEL,
        SYSTEM, ANTHROPIC, INFERENCE, SAMPLE, MAXIMUM, ENCODING, DIMENSIONS,
        INSTRUCTIONS, PREVIOUS, MAX_OUTPUT, REASONING, TOOLS, STORE, N
    };

    static const lunary_str_t  keys[] = {
        lunary_string("messages"),
        lunary_string("contents"),
        lunary_string("prompt"),
        lunary_string("input"),
        lunary_string("inputs"),
        lunary_string("message"),
        lunary_string("model"),
        lunary_string("system"),
        lunary_string("anthropic_version"),
        lunary_string("inferenceConfig"),
        lunary_string("max_tokens_to_sample"),
        lunary_string("maximum_tokens"),
        lunary_string("encoding_format"),
        lunary_string("dimensions"),
        lunary_string("instructions"),
        lunary_string("previous_response_id"),
        lunary_string("max_output_tokens"),
        lunary_string("reasoning"),
        lunary_string("tools"),
        lunary_string("store")
    };

    if (!lunary_json_is_object(text)) {
        return NULL;
    }

    /* InvokeInlineAgent: only a session stands in the path.  None does where
       an agent is made. */

    if (lunary_path_fits(path, "agents/*")
        && path.data[path.len - 1] != '/'
        && lunary_json_is_string(lunary_json_get(text, "foundationModel")))
    {
        return &lunary_bedrock_agent;
    }

    (void) lunary_json_pick(text, keys, v, N);

    if (lunary_json_is_array(v[MESSAGES])) {

        first = lunary_json_at(v[MESSAGES], 0);

        if (first.len != 0 && !lunary_json_is_object(first)) {
            return NULL;
        }

        if (v[ANTHROPIC].len != 0) {
            return &lunary_anthropic_messages;
        }

        /* Converse: content blocks without a type */

        content = lunary_json_at(lunary_json_get(first, "content"), 0);

        if (lunary_json_is_object(content)
            && (v[INFERENCE].len != 0 || v[MODEL].len == 0)
            && lunary_json_get(content, "type").len == 0)
        {
            return &lunary_bedrock_converse;
        }

        if (v[SYSTEM].len != 0
            || (lunary_path_fits(path, "messages")
                && lunary_json_get(text, "max_tokens").len != 0))
        {
            return &lunary_anthropic_messages;
        }

        return &lunary_openai_chat;
    }

    /* what is to be sorted looks like what is to be completed */

    if (lunary_path_fits(path, "classify")
        || lunary_path_fits(path, "classifications"))
    {
        return NULL;
    }

    if (lunary_json_is_array(v[CONTENTS])) {
        return lunary_json_is_object(lunary_json_at(v[CONTENTS], 0))
               ? &lunary_gemini_generate : NULL;
    }

    if (v[SAMPLE].len != 0 && lunary_json_is_string(v[PROMPT])) {
        return &lunary_anthropic_complete;
    }

    if (v[MAXIMUM].len != 0 && v[PROMPT].len != 0) {
        return &lunary_alephalpha_complete;
    }

    if (lunary_json_is_string(v[MODEL])) {

        if (lunary_json_is_string(v[MESSAGE])) {
            return &lunary_cohere_chat_v1;
        }

        if (v[PROMPT].len != 0) {
            return &lunary_openai_completions;
        }

        if (v[INPUT].len != 0) {

            if (lunary_body_responses(v + INPUT)
                || v[INSTRUCTIONS].len || v[PREVIOUS].len
                || v[MAX_OUTPUT].len || v[REASONING].len || v[TOOLS].len
                || v[STORE].len)
            {
                return &lunary_openai_responses;
            }

            if (v[ENCODING].len || v[DIMENSIONS].len
                || lunary_json_is_array(v[INPUT]))
            {
                return &lunary_openai_embeddings;
            }
        }

        return NULL;
    }

    /* Databricks: the model stands in the path */

    if (lunary_path_fits(path, "serving-endpoints/*/invocations")) {

        if (lunary_json_is_string(v[INPUT]) || lunary_json_is_array(v[INPUT])) {
            return lunary_body_responses(v + INPUT)
                   ? &lunary_openai_responses : &lunary_openai_embeddings;
        }

        if (lunary_json_is_string(v[PROMPT])
            || lunary_json_is_array(v[PROMPT]))
        {
            return &lunary_openai_completions;
        }
    }

    if (lunary_json_is_string(v[MESSAGE])
        && lunary_json_get(text, "chat_history").len != 0)
    {
        return &lunary_cohere_chat_v1;
    }

    if (lunary_json_is_string(v[INPUTS])
        || lunary_json_is_string(lunary_json_at(v[INPUTS], 0)))
    {
        return &lunary_huggingface_inference;
    }

    return NULL;
}


/* 1 where input is an array of items (Responses), not of texts or tokens */

static int
lunary_body_responses(lunary_str_t *input)
{
    lunary_str_t  first;

    first = lunary_json_at(*input, 0);

    return lunary_json_is_object(first)
           && (lunary_json_get(first, "role").len != 0
               || lunary_json_get(first, "type").len != 0);
}


const lunary_dialect_t *
lunary_dialect_by_name(lunary_str_t name)
{
    size_t  i;

    for (i = 0; i < LUNARY_DIALECTS_N; i++) {
        if (lunary_dialects[i]->name.len == name.len
            && memcmp(lunary_dialects[i]->name.data, name.data, name.len)
               == 0)
        {
            return lunary_dialects[i];
        }
    }

    return NULL;
}
