/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * OpenAI's APIs that answer with no conversation (API reference, 2025):
 * openai.embeddings, openai.moderations, openai.images,
 * openai.audio.transcriptions, .translations and .speech,
 * openai.responses.input_tokens; and openai.assistants (runs of threads).
 *
 * Media are never kept: forms arrive as references (lunary_form.h), base64
 * in answers becomes its size.  Streams of transcripts end with
 * transcript.text.done, of speech with speech.audio.done, of images with
 * image_generation.completed or image_edit.completed, of runs with
 * `event: done`.
 */

#include "../lunary_dialects.h"


static int lunary_embeddings_request(lunary_call_t *call, lunary_str_t text);
static int lunary_embeddings_body(lunary_call_t *call, lunary_str_t text);
static int lunary_prompt_request(lunary_call_t *call, lunary_str_t text);
static int lunary_images_body(lunary_call_t *call, lunary_str_t text);
static int lunary_other_error(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);
static int lunary_images_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);
static int lunary_audio_body(lunary_call_t *call, lunary_str_t text);
static int lunary_audio_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);
static int lunary_input_tokens_request(lunary_call_t *call,
    lunary_str_t text);
static int lunary_input_tokens_body(lunary_call_t *call, lunary_str_t text);
static int lunary_assistants_request(lunary_call_t *call, lunary_str_t text);
static void lunary_assistants_message(lunary_call_t *call, lunary_str_t role,
    lunary_str_t content);
static int lunary_assistants_body(lunary_call_t *call, lunary_str_t text);
static int lunary_assistants_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);


const lunary_dialect_t  lunary_openai_embeddings = {
    lunary_string("openai.embeddings"),
    lunary_string("embed"),
    lunary_string("openai"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_OPENAI,
    lunary_embeddings_request,
    lunary_embeddings_body,
    NULL
};

const lunary_dialect_t  lunary_openai_moderations = {
    lunary_string("openai.moderations"),
    lunary_null_str,
    lunary_string("openai"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_OPENAI,
    lunary_embeddings_request,
    lunary_embeddings_body,
    NULL
};

const lunary_dialect_t  lunary_openai_images = {
    lunary_string("openai.images"),
    lunary_null_str,
    lunary_string("openai"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_OPENAI,
    lunary_prompt_request,
    lunary_images_body,
    lunary_images_event
};

const lunary_dialect_t  lunary_openai_transcriptions = {
    lunary_string("openai.audio.transcriptions"),
    lunary_null_str,
    lunary_string("openai"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_OPENAI,
    lunary_prompt_request,
    lunary_audio_body,
    lunary_audio_event
};

const lunary_dialect_t  lunary_openai_translations = {
    lunary_string("openai.audio.translations"),
    lunary_null_str,
    lunary_string("openai"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_OPENAI,
    lunary_prompt_request,
    lunary_audio_body,
    lunary_audio_event
};

const lunary_dialect_t  lunary_openai_speech = {
    lunary_string("openai.audio.speech"),
    lunary_null_str,
    lunary_string("openai"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_OPENAI,
    lunary_embeddings_request,
    NULL,
    lunary_audio_event
};

const lunary_dialect_t  lunary_openai_input_tokens = {
    lunary_string("openai.responses.input_tokens"),
    lunary_null_str,
    lunary_string("openai"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_OPENAI,
    lunary_input_tokens_request,
    lunary_input_tokens_body,
    NULL
};

const lunary_dialect_t  lunary_openai_assistants = {
    lunary_string("openai.assistants"),
    lunary_string("llm"),
    lunary_string("openai"),
    LUNARY_STYLE_OPENAI,
    LUNARY_STRIP_OPENAI,
    lunary_assistants_request,
    lunary_assistants_body,
    lunary_assistants_event
};


/* `input`: a string, an array of them, tokens, or parts */

static int
lunary_embeddings_request(lunary_call_t *call, lunary_str_t text)
{
    static const lunary_str_t  key = lunary_string("input");

    lunary_prompt_input(call, lunary_openai_common(call, text, key), key);

    return LUNARY_OK;
}


static int
lunary_embeddings_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_call_response_id(call, lunary_json_get(text, "id"));
    lunary_call_response_model(call, lunary_json_get(text, "model"), 0);
    lunary_call_usage_openai(call, lunary_json_get(text, "usage"));
    lunary_call_all_input(call);              /* Voyage, Jina: a total only  */

    return LUNARY_OK;
}


/* `prompt`, of JSON or a form; a form's files are parameters by reference */

static int
lunary_prompt_request(lunary_call_t *call, lunary_str_t text)
{
    static const lunary_str_t  key = lunary_string("prompt");

    lunary_prompt_input(call, lunary_openai_common(call, text, key), key);

    return LUNARY_OK;
}


static int
lunary_images_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t         v, data, format;
    lunary_choice_t     *ch;
    lunary_json_iter_t   it;
    unsigned char        type[32];
    size_t               n;

    lunary_call_response_model(call, lunary_json_get(text, "model"), 0);

    data = lunary_json_get(text, "usage");

    lunary_call_usage_responses(call, data);
    lunary_call_usage_openai(call, data);      /* OpenRouter */

    data = lunary_json_get(text, "data");

    if (!lunary_json_is_array(data)) {
        return LUNARY_OK;
    }

    format = lunary_json_inside(lunary_json_get(text, "output_format"));

    if (format.len == 0 || format.len > 16) {
        format = lunary_str("png", 3);
    }

    memcpy(type, "image/", 6);
    memcpy(type + 6, format.data, format.len);
    n = 6 + format.len;

    lunary_json_iter(&it, data);

    while (lunary_json_element(&it, &v)) {

        ch = lunary_call_choice(call, 0);
        data = lunary_json_get(v, "b64_json");

        if (lunary_json_is_string(data)) {
            lunary_call_media(call, ch, lunary_str(type, n),
                              lunary_json_inside(data));

        } else {
            lunary_call_image_url(call, ch, lunary_json_get(v, "url"));
        }
    }

    return LUNARY_OK;
}


/* 1 where an event tells of an error, and of nothing else then */

static int
lunary_other_error(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    lunary_str_t  error;

    error = lunary_json_get(data, "error");

    if (!lunary_eq(name, "error") && !lunary_json_is_object(error)
        && lunary_json_inside(error).len == 0)
    {
        return 0;
    }

    (void) lunary_call_error_of(call, data, 1);

    return 1;
}


static int
lunary_images_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    lunary_str_t      type;
    lunary_choice_t  *ch;

    if (lunary_other_error(call, name, data)) {
        return LUNARY_OK;
    }

    type = lunary_json_get(data, "type");

    if (lunary_value_is(type, "image_generation.completed")
        || lunary_value_is(type, "image_edit.completed"))
    {
        ch = lunary_call_choice(call, 0);

        lunary_call_media(call, ch, lunary_str("image/png", 9),
                          lunary_json_inside(lunary_json_get(data,
                                                             "b64_json")));
        lunary_call_usage_responses(call, lunary_json_get(data, "usage"));
        call->terminal = 1;
    }

    return LUNARY_OK;
}


static int
lunary_audio_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t      usage;
    lunary_choice_t  *ch;

    usage = lunary_json_get(text, "text");

    if (lunary_json_is_string(usage)) {
        ch = lunary_call_choice(call, 0);
        lunary_call_text(call, ch, lunary_json_inside(usage));
    }

    lunary_call_response_model(call, lunary_json_get(text, "model"), 0);

    usage = lunary_json_get(text, "usage");

    lunary_call_usage_responses(call, usage);
    lunary_call_usage_openai(call, usage);

    return LUNARY_OK;
}


static int
lunary_audio_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    lunary_str_t      type, text;
    lunary_choice_t  *ch;

    if (lunary_other_error(call, name, data)) {
        return LUNARY_OK;
    }

    type = lunary_json_get(data, "type");
    ch = NULL;

    if (lunary_value_is(type, "transcript.text.delta")) {
        ch = lunary_call_choice(call, 0);
        text = lunary_json_get(data, "delta");
        lunary_call_text(call, ch, lunary_json_inside(text));

    } else if (lunary_value_is(type, "transcription.text.delta")) {

        /* Mistral's names; transcription.language, .segment tell no text */

        ch = lunary_call_choice(call, 0);
        text = lunary_json_get(data, "text");
        lunary_call_text(call, ch, lunary_json_inside(text));

    } else if (lunary_value_is(type, "transcription.done")) {
        ch = lunary_call_choice(call, 0);

        if (ch != NULL && ch->text.size == 0) {
            text = lunary_json_get(data, "text");
            lunary_call_text(call, ch, lunary_json_inside(text));
        }

        lunary_call_response_model(call, lunary_json_get(data, "model"), 1);
        lunary_call_usage_openai(call, lunary_json_get(data, "usage"));
        call->terminal = 1;

    } else if (lunary_value_is(type, "transcript.text.done")) {
        ch = lunary_call_choice(call, 0);

        if (ch != NULL && ch->text.size == 0) {
            text = lunary_json_get(data, "text");
            lunary_call_text(call, ch, lunary_json_inside(text));
        }

        lunary_call_usage_responses(call, lunary_json_get(data, "usage"));
        call->terminal = 1;

    } else if (lunary_value_is(type, "speech.audio.delta")) {
        call->content = 1;

    } else if (lunary_value_is(type, "speech.audio.done")) {
        lunary_call_usage_responses(call, lunary_json_get(data, "usage"));
        call->terminal = 1;
    }

    return LUNARY_OK;
}


static int
lunary_input_tokens_request(lunary_call_t *call, lunary_str_t text)
{
    return lunary_openai_responses.request(call, text);
}


static int
lunary_input_tokens_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_call_count(&call->tokens.prompt,
                      lunary_json_get(text, "input_tokens"));

    return LUNARY_OK;
}


/*
 * A message that is added to a thread, outputs of tools, the messages that a
 * thread starts with, or those that a run adds.  The assistant's id stands
 * where its model would.
 */

static int
lunary_assistants_request(lunary_call_t *call, lunary_str_t text)
{
    int                 rc;
    lunary_str_t        v;
    lunary_json_iter_t  it;

    static const lunary_str_t  content = lunary_string("content");
    static const lunary_str_t  outputs = lunary_string("tool_outputs");
    static const lunary_str_t  thread = lunary_string("thread");
    static const lunary_str_t  messages = lunary_string("messages");
    static const lunary_str_t  added = lunary_string("additional_messages");

    if (lunary_call_path_ends(call, "/messages")) {

        v = lunary_openai_common(call, text, content);

        if (lunary_json_is_string(v) || lunary_json_is_array(v)) {
            lunary_assistants_message(call, lunary_json_get(text, "role"), v);
            lunary_input_done(call, content);
        }

    } else if (lunary_call_path_ends(call, "/submit_tool_outputs")) {

        v = lunary_openai_common(call, text, outputs);
        rc = lunary_json_is_array(v) ? LUNARY_OK : LUNARY_ERROR;

        lunary_json_iter(&it, v);

        while (rc == LUNARY_OK && lunary_json_element(&it, &v)) {
            rc = lunary_input_tool_result(call,
                                          lunary_json_get(v, "tool_call_id"),
                                          lunary_json_get(v, "output"));
        }

        if (rc == LUNARY_OK) {
            lunary_input_done(call, outputs);
        }

    } else if (lunary_call_path_ends(call, "/threads/runs")) {

        v = lunary_openai_common(call, text, thread);
        v = lunary_json_get(v, "messages");

        if (lunary_json_is_array(v)) {
            lunary_call_input(call, v, thread);
        }

    } else if (lunary_call_path_ends(call, "/threads")) {

        v = lunary_openai_common(call, text, messages);

        if (lunary_json_is_array(v)) {
            lunary_call_input(call, v, messages);
        }

    } else {

        v = lunary_openai_common(call, text, added);

        if (lunary_json_is_array(v)) {
            lunary_call_input(call, v, added);
        }
    }

    return LUNARY_OK;
}


static void
lunary_assistants_message(lunary_call_t *call, lunary_str_t role,
    lunary_str_t content)
{
    (void) lunary_input_said(call, lunary_value_is(role, "assistant")
                                   ? "assistant" : "user", content);
}


static int
lunary_assistants_body(lunary_call_t *call, lunary_str_t text)
{
    lunary_str_t      status;

    lunary_call_response_id(call, lunary_json_get(text, "id"));
    lunary_call_response_model(call, lunary_json_get(text, "model"), 0);
    lunary_call_usage_openai(call, lunary_json_get(text, "usage"));

    status = lunary_json_get(text, "status");

    if (lunary_json_is_string(status)) {
        lunary_call_status(call, status);
    }

    return LUNARY_OK;
}


static int
lunary_assistants_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    lunary_str_t         object, v, delta;
    lunary_choice_t     *ch;
    lunary_json_iter_t   it;

    if (lunary_eq(data, "[DONE]")) {
        call->terminal = 1;
        return LUNARY_OK;
    }

    if (lunary_other_error(call, name, data)) {
        return LUNARY_OK;
    }

    lunary_call_response_model(call, lunary_json_get(data, "model"), 1);

    object = lunary_json_get(data, "object");

    if (lunary_value_is(object, "thread.message.delta")) {
        delta = lunary_json_get(data, "delta");

        lunary_json_iter(&it, lunary_json_get(delta, "content"));

        while (lunary_json_element(&it, &v)) {
            v = lunary_json_get(lunary_json_get(v, "text"), "value");

            if (lunary_json_is_string(v)) {
                ch = lunary_call_choice(call, 0);
                lunary_call_text(call, ch, lunary_json_inside(v));
            }
        }

    } else if (lunary_value_is(object, "thread.run")) {
        lunary_call_response_id(call, lunary_json_get(data, "id"));
        lunary_call_status(call, lunary_json_get(data, "status"));
        lunary_call_usage_openai(call, lunary_json_get(data, "usage"));
    }

    return LUNARY_OK;
}
