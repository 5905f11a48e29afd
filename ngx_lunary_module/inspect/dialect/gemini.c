/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * gemini.generateContent, gemini.countTokens, gemini.embedContent,
 * gemini.batchEmbedContents: Google's Gemini API, also on Vertex AI (REST
 * references v1beta, 2025: models.generateContent,
 * models.streamGenerateContent, GenerateContentResponse).
 *
 * The model stands in the path.  A stream comes as SSE (alt=sse) or as one
 * JSON array; its terminal event is the one whose candidate has a
 * finishReason.  usageMetadata is repeated and cumulative; thoughts are not
 * in candidatesTokenCount, cached content is in promptTokenCount.
 */

#include "../lunary_dialects.h"


static int lunary_gemini_request(lunary_call_t *call, lunary_str_t text);
static int lunary_gemini_content(lunary_call_t *call, lunary_str_t content,
    const char *otherwise);
static int lunary_gemini_is_thought(lunary_str_t part);
static int lunary_gemini_part(lunary_call_t *call, lunary_str_t part);
static lunary_str_t lunary_gemini_get(lunary_str_t obj, const char *camel,
    const char *snake);
static int lunary_gemini_body(lunary_call_t *call, lunary_str_t text);
static int lunary_gemini_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);
static void lunary_gemini_candidate(lunary_call_t *call, lunary_str_t v,
    int64_t n);
static void lunary_gemini_answer_part(lunary_call_t *call,
    lunary_choice_t *ch, lunary_str_t part);
static void lunary_gemini_call(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t fc);
static void lunary_gemini_usage(lunary_call_t *call, lunary_str_t usage);
static int lunary_gemini_count_body(lunary_call_t *call, lunary_str_t text);
static int lunary_gemini_embed_request(lunary_call_t *call,
    lunary_str_t text);
static int lunary_gemini_embed_body(lunary_call_t *call, lunary_str_t text);


const lunary_dialect_t  lunary_gemini_generate = {
    lunary_string("gemini.generateContent"),
    lunary_string("llm"),
    lunary_string("gcp.gemini"),
    LUNARY_STYLE_GEMINI,
    LUNARY_STRIP_ALL,
    lunary_gemini_request,
    lunary_gemini_body,
    lunary_gemini_event
};

const lunary_dialect_t  lunary_gemini_count_tokens = {
    lunary_string("gemini.countTokens"),
    lunary_null_str,
    lunary_string("gcp.gemini"),
    LUNARY_STYLE_GEMINI,
    LUNARY_STRIP_ALL,
    lunary_gemini_request,
    lunary_gemini_count_body,
    NULL
};

const lunary_dialect_t  lunary_gemini_embed = {
    lunary_string("gemini.embedContent"),
    lunary_string("embed"),
    lunary_string("gcp.gemini"),
    LUNARY_STYLE_GEMINI,
    LUNARY_STRIP_ALL,
    lunary_gemini_embed_request,
    lunary_gemini_embed_body,
    NULL
};

const lunary_dialect_t  lunary_gemini_batch_embed = {
    lunary_string("gemini.batchEmbedContents"),
    lunary_string("embed"),
    lunary_string("gcp.gemini"),
    LUNARY_STYLE_GEMINI,
    LUNARY_STRIP_ALL,
    lunary_gemini_embed_request,
    lunary_gemini_embed_body,
    NULL
};


/* /v1beta/models/MODEL:VERB, and whether the verb asks for a stream */

void
lunary_gemini_path(lunary_call_t *call, lunary_str_t text)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    lunary_call_model(call, lunary_json_get(text, "model"));

    if (call->model.len == 0) {
        lunary_call_model_bytes(call, lunary_call_path_verb(call));
    }

    call->stream = lunary_call_path_ends(call, ":streamGenerateContent");

    priv->array = 1;
    priv->fold = LUNARY_TOKENS_THOUGHTS_APART;
}


static int
lunary_gemini_request(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t        v, inner, system, contents, wrapped;
    lunary_json_iter_t  it;

    static const lunary_str_t  but[] = {
        lunary_string("contents"),
        lunary_string("systemInstruction"),
        lunary_string("system_instruction"),
        lunary_string("generateContentRequest"),
        lunary_string("model")
    };

    lunary_gemini_path(call, text);

    lunary_call_params(call, text, but, NULL, 5);

    /* countTokens may hold a whole request, Code Assist does */

    wrapped = but[3];
    inner = lunary_json_get(text, "generateContentRequest");

    if (lunary_json_is_object(inner)) {
        text = inner;

    } else if (lunary_json_get(text, "contents").len == 0) {

        inner = lunary_json_get(text, "request");

        if (lunary_json_is_object(inner)) {
            text = inner;
            wrapped = lunary_str("request", 7);
            lunary_call_params(call, text, but, NULL, 5);
        }
    }

    system = lunary_gemini_get(text, "systemInstruction",
                               "system_instruction");
    contents = lunary_json_get(text, "contents");

    if (system.len != 0
        && lunary_gemini_content(call, system, "system") != LUNARY_OK)
    {
        return LUNARY_NOMEM;
    }

    if (lunary_json_is_array(contents)) {

        lunary_json_iter(&it, contents);

        while (lunary_json_element(&it, &v)) {
            if (lunary_gemini_content(call, v, "user") != LUNARY_OK) {
                return LUNARY_NOMEM;
            }
        }

    } else if (contents.len != 0
               && lunary_gemini_content(call, contents, "user") != LUNARY_OK)
    {
        return LUNARY_NOMEM;
    }

    lunary_input_also(call, but[1]);
    lunary_input_also(call, but[2]);
    lunary_input_also(call, wrapped);
    lunary_input_done(call, but[0]);

    return LUNARY_OK;
}


/*
 * {"role":"model","parts":[...]} as a message.  Parts that are function calls
 * become tool_calls, responses to them messages of role "tool".
 */

static int
lunary_gemini_content(lunary_call_t *call, lunary_str_t content,
    const char *role)
{
    int                 rc, n, calls, texts, thoughts;
    lunary_str_t        v, p, parts, only;
    lunary_json_iter_t  it;

    rc = LUNARY_OK;
    n = calls = texts = thoughts = 0;
    only = lunary_str(NULL, 0);

    if (lunary_json_is_string(content)) {
        only = content;
        parts = lunary_str(NULL, 0);
        texts = 1;

    } else {
        v = lunary_json_get(content, "role");

        if (lunary_value_is(v, "model")) {
            role = "assistant";
        }

        parts = lunary_json_get(content, "parts");

        if (lunary_json_is_object(parts)) {
            only = lunary_json_get(parts, "text");
            texts = (only.len != 0);
            parts = lunary_str(NULL, 0);
        }
    }

    lunary_json_iter(&it, lunary_json_is_array(parts)
                          ? parts : lunary_str(NULL, 0));

    while (rc == LUNARY_OK && lunary_json_element(&it, &p)) {

        v = lunary_gemini_get(p, "functionResponse", "function_response");

        if (lunary_json_is_object(v)) {
            p = lunary_json_get(v, "id");

            rc = lunary_input_tool_result(call, p.len != 0 ? p
                                          : lunary_json_get(v, "name"),
                                          lunary_json_get(v, "response"));
            continue;
        }

        v = lunary_gemini_get(p, "functionCall", "function_call");

        if (lunary_json_is_object(v)) {
            calls++;
            continue;
        }

        if (lunary_gemini_is_thought(p)) {
            thoughts++;
            continue;
        }

        n++;

        v = lunary_json_get(p, "text");

        if (lunary_json_is_string(v)) {
            texts++;
            only = v;
        }
    }

    if (rc != LUNARY_OK || n + calls + texts + thoughts == 0) {
        return rc;
    }

    rc = lunary_input_message(call, role);

    if (rc == LUNARY_OK) {
        rc = lunary_input_lit(call, ",\"content\":");
    }

    if (rc == LUNARY_OK && texts == 1 && n <= 1) {
        rc = lunary_input_raw(call, only);

    } else if (rc == LUNARY_OK && n == 0) {
        rc = lunary_input_lit(call, "null");

    } else if (rc == LUNARY_OK) {
        rc = lunary_input_lit(call, "[");
        n = 0;

        lunary_json_iter(&it, parts);

        while (rc == LUNARY_OK && lunary_json_element(&it, &p)) {

            if (lunary_gemini_get(p, "functionResponse",
                                  "function_response").len != 0
                || lunary_gemini_get(p, "functionCall",
                                     "function_call").len != 0
                || lunary_gemini_is_thought(p))
            {
                continue;
            }

            if (n++) {
                rc = lunary_input_lit(call, ",");
            }

            if (rc == LUNARY_OK) {
                rc = lunary_gemini_part(call, p);
            }
        }

        if (rc == LUNARY_OK) {
            rc = lunary_input_lit(call, "]");
        }
    }

    if (rc == LUNARY_OK && thoughts) {
        rc = lunary_input_lit(call, ",\"reasoning_content\":\"");

        lunary_json_iter(&it, parts);

        while (rc == LUNARY_OK && lunary_json_element(&it, &p)) {
            if (lunary_gemini_is_thought(p)) {
                v = lunary_json_get(p, "text");
                rc = lunary_input_raw(call, lunary_json_inside(v));
            }
        }

        if (rc == LUNARY_OK) {
            rc = lunary_input_lit(call, "\"");
        }
    }

    if (rc == LUNARY_OK && calls) {
        rc = lunary_input_lit(call, ",\"tool_calls\":[");
        calls = 0;

        lunary_json_iter(&it, parts);

        while (rc == LUNARY_OK && lunary_json_element(&it, &p)) {
            v = lunary_gemini_get(p, "functionCall", "function_call");

            if (lunary_json_is_object(v)) {
                p = lunary_json_get(v, "args");

                rc = lunary_input_tool(call, lunary_json_get(v, "id"),
                                       lunary_json_get(v, "name"),
                                       p.len != 0 ? p : lunary_str("{}", 2),
                                       calls++ == 0);
            }
        }

        if (rc == LUNARY_OK) {
            rc = lunary_input_lit(call, "]");
        }
    }

    return rc == LUNARY_OK ? lunary_input_lit(call, "}") : rc;
}


/* a summary of the model's own thoughts, sent back to it */

static int
lunary_gemini_is_thought(lunary_str_t part)
{
    return lunary_json_is_true(lunary_json_get(part, "thought"))
           && lunary_json_is_string(lunary_json_get(part, "text"));
}


static int
lunary_gemini_part(lunary_call_t *call, lunary_str_t part)
{
    int           rc;
    lunary_str_t  v;

    v = lunary_json_get(part, "text");

    if (lunary_json_is_string(v)) {
        rc = lunary_input_lit(call, "{\"type\":\"text\",\"text\":");

        if (rc == LUNARY_OK) {
            rc = lunary_input_raw(call, v);
        }

        return rc == LUNARY_OK ? lunary_input_lit(call, "}") : rc;
    }

    v = lunary_gemini_get(part, "inlineData", "inline_data");

    if (lunary_json_is_object(v)) {
        return lunary_input_image(call, lunary_gemini_get(v, "mimeType",
                                                          "mime_type"),
                                  lunary_json_get(v, "data"));
    }

    v = lunary_gemini_get(part, "fileData", "file_data");
    v = lunary_gemini_get(v, "fileUri", "file_uri");

    if (lunary_json_is_string(v)) {
        return lunary_input_image_url(call, v);
    }

    return lunary_input_raw(call, part);
}


/* JSON of protobuf: either spelling is accepted */

static lunary_str_t
lunary_gemini_get(lunary_str_t obj, const char *camel, const char *snake)
{
    lunary_str_t  v;

    v = lunary_json_get_n(obj, camel, strlen(camel));

    return v.len != 0 ? v : lunary_json_get_n(obj, snake, strlen(snake));
}


static int
lunary_gemini_body(lunary_call_t *call, lunary_str_t text)
{
    return lunary_gemini_event(call, lunary_str(NULL, 0), text);
}


static int
lunary_gemini_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    int64_t              n;
    lunary_str_t         val, v[7];
    lunary_priv_t       *priv;
    lunary_json_iter_t   it;

    static const lunary_str_t  keys[] = {
        lunary_string("candidates"),
        lunary_string("usageMetadata"),
        lunary_string("modelVersion"),
        lunary_string("responseId"),
        lunary_string("promptFeedback"),
        lunary_string("error"),
        lunary_string("response")
    };

    (void) name;

    priv = lunary_priv(call);

    (void) lunary_json_pick(data, keys, v, 7);

    if (v[0].len == 0 && lunary_json_is_object(v[6])) {

        /* Code Assist wraps the answer */

        (void) lunary_json_pick(v[6], keys, v, 6);
    }

    if (lunary_json_is_object(v[5]) || lunary_json_inside(v[5]).len != 0) {
        (void) lunary_call_error_of(call, data, 1);
    }

    lunary_call_response_model(call, v[2], 1);
    lunary_call_response_id(call, v[3]);

    if (lunary_json_is_array(v[0])) {
        lunary_json_iter(&it, v[0]);

        for (n = 0; lunary_json_element(&it, &val); n++) {
            if (lunary_json_is_object(val)) {
                lunary_gemini_candidate(call, val, n);
            }
        }
    }

    lunary_gemini_usage(call, v[1]);

    val = lunary_json_get(v[4], "blockReason");

    if (lunary_json_inside(val).len != 0 && priv->status_text.len == 0
        && lunary_buf_lit(call->mem, &priv->status_text, "blocked:")
           == LUNARY_OK)
    {
        (void) lunary_json_unescape(call->mem, &priv->status_text,
                                    lunary_json_inside(val));
        call->terminal = 1;
    }

    return LUNARY_OK;
}


static void
lunary_gemini_candidate(lunary_call_t *call, lunary_str_t v, int64_t n)
{
    lunary_str_t         val, m[3];
    lunary_choice_t     *ch;
    lunary_json_iter_t   it;

    static const lunary_str_t  keys[] = {
        lunary_string("index"),
        lunary_string("content"),
        lunary_string("finishReason")
    };

    (void) lunary_json_pick(v, keys, m, 3);

    if (m[0].len != 0) {
        (void) lunary_json_int(m[0], &n);
    }

    ch = lunary_call_choice(call, n);

    val = lunary_json_get(m[1], "parts");

    if (lunary_json_is_array(val)) {
        lunary_json_iter(&it, val);

        while (lunary_json_element(&it, &val)) {
            if (lunary_json_is_object(val)) {
                lunary_gemini_answer_part(call, ch, val);
            }
        }
    }

    /* a number where the client asked for $alt=json;enum-encoding=int */

    if (lunary_json_inside(m[2]).len != 0
        || lunary_json_type(m[2]) == LUNARY_JSON_NUMBER)
    {
        lunary_call_finish_reason(call, ch, m[2]);
        call->terminal = 1;
    }
}


static void
lunary_gemini_answer_part(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t part)
{
    lunary_str_t  v[4];

    static const lunary_str_t  keys[] = {
        lunary_string("text"),
        lunary_string("thought"),
        lunary_string("functionCall"),
        lunary_string("inlineData")
    };

    (void) lunary_json_pick(part, keys, v, 4);

    if (lunary_json_is_string(v[0])) {

        if (lunary_json_is_true(v[1])) {
            lunary_call_reasoning(call, ch, lunary_json_inside(v[0]));

        } else {
            lunary_call_text(call, ch, lunary_json_inside(v[0]));
        }
    }

    if (lunary_json_is_object(v[2])) {
        lunary_gemini_call(call, ch, v[2]);
    }

    if (lunary_json_is_object(v[3])) {
        lunary_call_media(call, ch,
                          lunary_json_inside(lunary_json_get(v[3],
                                                             "mimeType")),
                          lunary_json_inside(lunary_json_get(v[3], "data")));
    }
}


/*
 * A call comes whole, or (streamFunctionCallArguments) opened by a part with
 * its name and continued by parts with partialArgs:
 * {"jsonPath":"$.city","stringValue":"Ne","willContinue":true}.
 */

static void
lunary_gemini_call(lunary_call_t *call, lunary_choice_t *ch, lunary_str_t fc)
{
    lunary_str_t         v[4], p, path, value;
    lunary_tool_t       *t;
    lunary_json_iter_t   it;

    static const lunary_str_t  keys[] = {
        lunary_string("name"),
        lunary_string("args"),
        lunary_string("partialArgs"),
        lunary_string("id")
    };

    (void) lunary_json_pick(fc, keys, v, 4);

    if (ch == NULL) {
        call->content = 1;
        return;
    }

    t = ch->last_tool;

    if (lunary_json_inside(v[0]).len != 0 || t == NULL) {
        t = lunary_call_tool_new(call, ch, -1);

        lunary_call_tool_name(call, t, v[0]);
        lunary_call_tool_id(call, t, v[3]);

        lunary_call_tool_value(call, t, lunary_json_is_object(v[1])
                                        ? v[1] : lunary_str("{}", 2));
    }

    if (t == NULL || !lunary_json_is_array(v[2])) {
        return;
    }

    lunary_json_iter(&it, v[2]);

    while (lunary_json_element(&it, &p)) {

        path = lunary_json_inside(lunary_json_get(p, "jsonPath"));

        if (path.len > 2 && path.data[0] == '$' && path.data[1] == '.') {
            path.data += 2;
            path.len -= 2;
        }

        value = lunary_json_get(p, "stringValue");

        if (value.len == 0) {
            value = lunary_json_get(p, "numberValue");
        }

        if (value.len == 0) {
            value = lunary_json_get(p, "boolValue");
        }

        if (value.len == 0 && lunary_json_get(p, "nullValue").len != 0) {
            value = lunary_str("null", 4);
        }

        if (value.len != 0) {
            lunary_output_tool_member(&lunary_priv(call)->out, t, path,
                                      value);
        }
    }
}


static void
lunary_gemini_usage(lunary_call_t *call, lunary_str_t usage)
{
    lunary_str_t      v[6];
    lunary_tokens_t  *t;

    static const lunary_str_t  keys[] = {
        lunary_string("promptTokenCount"),
        lunary_string("candidatesTokenCount"),
        lunary_string("totalTokenCount"),
        lunary_string("cachedContentTokenCount"),
        lunary_string("thoughtsTokenCount"),
        lunary_string("toolUsePromptTokenCount")
    };

    if (!lunary_json_is_object(usage)) {
        return;
    }

    lunary_call_usage(call, usage);

    lunary_priv(call)->fold = LUNARY_TOKENS_THOUGHTS_APART;

    t = &call->tokens;

    (void) lunary_json_pick(usage, keys, v, 6);

    lunary_call_count(&t->prompt, v[0]);
    lunary_call_count(&t->completion, v[1]);
    lunary_call_count(&t->total, v[2]);
    lunary_call_count(&t->cached, v[3]);
    lunary_call_count(&t->reasoning, v[4]);
    lunary_call_count(&lunary_priv(call)->more_input, v[5]);
}


static int
lunary_gemini_count_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_call_count(&call->tokens.prompt,
                      lunary_json_get(text, "totalTokens"));
    lunary_call_count(&call->tokens.cached,
                      lunary_json_get(text, "cachedContentTokenCount"));

    return LUNARY_OK;
}


/* {"content":{...}}, or {"requests":[{"content":{...}},...]} */

static int
lunary_gemini_embed_request(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t        v, requests;
    lunary_json_iter_t  it;

    static const lunary_str_t  but[] = {
        lunary_string("content"),
        lunary_string("requests"),
        lunary_string("model")
    };

    lunary_gemini_path(call, text);
    lunary_call_params(call, text, but, NULL, 3);

    v = lunary_json_get(text, "content");

    if (v.len != 0 && lunary_gemini_content(call, v, "user") != LUNARY_OK) {
        return LUNARY_NOMEM;
    }

    requests = lunary_json_get(text, "requests");

    if (lunary_json_is_array(requests)) {
        lunary_json_iter(&it, requests);

        while (lunary_json_element(&it, &v)) {
            v = lunary_json_get(v, "content");

            if (v.len != 0
                && lunary_gemini_content(call, v, "user") != LUNARY_OK)
            {
                return LUNARY_NOMEM;
            }
        }
    }

    lunary_input_done(call, but[0]);

    return LUNARY_OK;
}


static int
lunary_gemini_embed_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_gemini_usage(call, lunary_json_get(text, "usageMetadata"));

    return LUNARY_OK;
}
