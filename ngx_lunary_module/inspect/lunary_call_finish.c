/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A call's end: what was told of it becomes the fields of a run.
 */

#include <stdio.h>

#include "lunary_call_internal.h"
#include "lunary_whole.h"


static void lunary_call_set_input(lunary_call_t *call, lunary_run_t *run);
static void lunary_call_set_output(lunary_call_t *call, lunary_run_t *run);
static void lunary_call_set_usage(lunary_call_t *call, lunary_run_t *run);
static void lunary_call_fold(lunary_call_t *call);
static void lunary_call_set_tokens(lunary_run_t *run, lunary_field_e f,
    int64_t n);
static void lunary_call_capped(lunary_call_t *call, lunary_run_t *run,
    lunary_field_e f, lunary_buf_t *b);
static void lunary_call_write_error(lunary_call_t *call);
static void lunary_call_body_error(lunary_call_t *call, lunary_run_t *run);


void
lunary_call_finish(lunary_call_t *call, lunary_run_t *run)
{
    int             rc;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    lunary_call_response_end(call, 0);

    /* a request that never ended: what was there of it */

    if (!priv->request_read) {
        lunary_call_read_request(call);
    }

    if (priv->header_input != LUNARY_UNKNOWN
        && call->tokens.prompt == LUNARY_UNKNOWN)
    {
        call->tokens.prompt = priv->header_input;
    }

    if (priv->header_output != LUNARY_UNKNOWN
        && call->tokens.completion == LUNARY_UNKNOWN)
    {
        call->tokens.completion = priv->header_output;
    }

    lunary_call_fold(call);

    lunary_run_set(run, LUNARY_F_TYPE, call->dialect->type);
    lunary_run_set(run, LUNARY_F_API, call->dialect->name);
    lunary_run_set(run, LUNARY_F_MODEL, call->model);
    lunary_run_set(run, LUNARY_F_RESPONSE_MODEL,
                   lunary_buf_str(&priv->response_model));
    lunary_run_set(run, LUNARY_F_RESPONSE_ID,
                   lunary_buf_str(&priv->response_id));
    lunary_run_set(run, LUNARY_F_CLIENT_REQUEST_ID,
                   lunary_buf_str(&priv->client_request_id));

    if (call->stream >= 0) {
        lunary_run_set_int(run, LUNARY_F_STREAM, call->stream);

    } else if (call->response_state == LUNARY_BODY_STREAM) {
        lunary_run_set_int(run, LUNARY_F_STREAM, 1);

    } else if (call->dialect != &lunary_dialect_unknown) {
        lunary_run_set_int(run, LUNARY_F_STREAM, 0);
    }

    lunary_call_capped(call, run, LUNARY_F_PARAMS, &priv->params);
    lunary_call_capped(call, run, LUNARY_F_METADATA, &priv->metadata);

    lunary_call_set_input(call, run);
    lunary_call_set_output(call, run);
    lunary_call_set_usage(call, run);

    rc = (priv->input.len != 0 && priv->input_size != priv->input.len)
         | (priv->output.len != 0 && priv->output_size != priv->output.len)
           << 1;

    switch (rc) {

    case 1:
        lunary_run_set_lit(run, LUNARY_F_TRUNCATED, "input");
        break;

    case 2:
        lunary_run_set_lit(run, LUNARY_F_TRUNCATED, "output");
        break;

    case 3:
        lunary_run_set_lit(run, LUNARY_F_TRUNCATED, "input,output");
        break;

    default:
        break;
    }

    lunary_call_write_error(call);
    lunary_run_set(run, LUNARY_F_ERROR, lunary_buf_str(&priv->error));

    lunary_call_body_error(call, run);
}


static void
lunary_call_set_input(lunary_call_t *call, lunary_run_t *run)
{
    size_t          removed;
    lunary_buf_t    small;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (priv->input_size == 0) {
        return;
    }

    if (priv->input.data == priv->input_buf.data) {
        lunary_doc_shrink(&priv->input_buf, call->conf.capture_max, &removed);
        priv->input = lunary_buf_str(&priv->input_buf);

    } else if (priv->input.len > call->conf.capture_max) {
        memset(&small, 0, sizeof(lunary_buf_t));

        if (lunary_doc_cap(call->mem, &small, priv->input,
                           call->conf.capture_max, &removed) == LUNARY_OK)
        {
            lunary_buf_free(call->mem, &priv->input_buf);
            priv->input_buf = small;
            priv->input = lunary_buf_str(&priv->input_buf);

        } else {
            lunary_buf_free(call->mem, &small);
            priv->input = lunary_str(NULL, 0);
        }
    }

    lunary_run_set(run, LUNARY_F_INPUT, priv->input);
    lunary_run_set_int(run, LUNARY_F_INPUT_BYTES, (int64_t) priv->input_size);
}


static void
lunary_call_set_output(lunary_call_t *call, lunary_run_t *run)
{
    int               rc;
    lunary_priv_t    *priv;
    lunary_choice_t  *ch;

    priv = lunary_priv(call);

    lunary_run_set(run, LUNARY_F_FINISH_REASON,
                   lunary_buf_str(&priv->status_text));

    for (ch = priv->out.choices; ch != NULL; ch = ch->next) {
        if (ch->finish_reason.len != 0
            && (ch->index == 0 || priv->out.nchoices == 1))
        {
            lunary_run_set(run, LUNARY_F_FINISH_REASON,
                           lunary_buf_str(&ch->finish_reason));
            break;
        }
    }

    if (priv->output.len == 0 && priv->out.choices != NULL) {
        rc = lunary_output_write(&priv->out, &priv->output,
                                 &priv->output_size);

        if (rc != LUNARY_OK || priv->out.budget.off) {
            lunary_buf_free(call->mem, &priv->output);
        }
    }

    if (priv->output_size != 0) {
        lunary_run_set(run, LUNARY_F_OUTPUT, lunary_buf_str(&priv->output));
        lunary_run_set_int(run, LUNARY_F_OUTPUT_BYTES,
                           (int64_t) priv->output_size);
    }
}


static void
lunary_call_set_usage(lunary_call_t *call, lunary_run_t *run)
{
    lunary_str_t    usage;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    usage = lunary_buf_str(&priv->usage);

    if (usage.len != 0
        && (priv->usage_valid
            || lunary_whole(usage.data, usage.len, usage.len, NULL)
               == usage.len
            || lunary_json_valid(usage, LUNARY_WHOLE_NESTED)))
    {
        lunary_run_set(run, LUNARY_F_USAGE, usage);
    }

    lunary_call_set_tokens(run, LUNARY_F_PROMPT_TOKENS, call->tokens.prompt);
    lunary_call_set_tokens(run, LUNARY_F_COMPLETION_TOKENS,
                           call->tokens.completion);
    lunary_call_set_tokens(run, LUNARY_F_TOTAL_TOKENS, call->tokens.total);
    lunary_call_set_tokens(run, LUNARY_F_CACHED_TOKENS, call->tokens.cached);
    lunary_call_set_tokens(run, LUNARY_F_CACHE_WRITE_TOKENS,
                           call->tokens.cache_write);
    lunary_call_set_tokens(run, LUNARY_F_REASONING_TOKENS,
                           call->tokens.reasoning);
    lunary_call_set_tokens(run, LUNARY_F_INPUT_TOKENS, call->input_tokens);
    lunary_call_set_tokens(run, LUNARY_F_OUTPUT_TOKENS, call->output_tokens);
}


/* makes token counts comparable */

static void
lunary_call_fold(lunary_call_t *call)
{
    int64_t           more, sound;
    lunary_tokens_t  *t;

    t = &call->tokens;

    call->input_tokens = (t->prompt != LUNARY_UNKNOWN)
                         ? t->prompt : lunary_priv(call)->all_input;
    call->output_tokens = t->completion;

    switch (lunary_priv(call)->fold) {

    case LUNARY_TOKENS_CACHE_APART:

        if (t->prompt == LUNARY_UNKNOWN) {
            break;
        }

        if (t->cached != LUNARY_UNKNOWN) {
            call->input_tokens += t->cached;
        }

        if (t->cache_write != LUNARY_UNKNOWN) {
            call->input_tokens += t->cache_write;
        }

        call->input_tokens += lunary_priv(call)->more_input;

        if (t->completion != LUNARY_UNKNOWN) {
            call->output_tokens += lunary_priv(call)->more_output;
        }

        break;

    case LUNARY_TOKENS_THOUGHTS_APART:

        if (t->prompt != LUNARY_UNKNOWN) {
            call->input_tokens += lunary_priv(call)->more_input;
        }

        if (t->reasoning == LUNARY_UNKNOWN) {
            break;
        }

        call->output_tokens = t->reasoning;

        if (t->completion != LUNARY_UNKNOWN) {
            call->output_tokens += t->completion;
        }

        break;

    default:  /* LUNARY_TOKENS_INCLUSIVE */

        /* xAI and some others leave reasoning out of completion_tokens,
           Mistral sound out of prompt_tokens: the total shows it */

        if (t->prompt == LUNARY_UNKNOWN || t->completion == LUNARY_UNKNOWN
            || t->total == LUNARY_UNKNOWN)
        {
            break;
        }

        more = t->total - t->prompt - t->completion;
        sound = lunary_priv(call)->more_input;

        if (more <= 0) {
            break;
        }

        /* where both would do, it is the reasoning */

        if (sound > 0 && more != t->reasoning
            && (more == sound || more == sound + t->reasoning))
        {
            call->input_tokens += sound;
            more -= sound;
        }

        if (t->reasoning > 0 && more == t->reasoning) {
            call->output_tokens += t->reasoning;
        }

        break;
    }
}


static void
lunary_call_set_tokens(lunary_run_t *run, lunary_field_e f, int64_t n)
{
    if (n != LUNARY_UNKNOWN) {
        lunary_run_set_int(run, f, n);
    }
}


/* a JSON field that is cut where it is over capture_max */

static void
lunary_call_capped(lunary_call_t *call, lunary_run_t *run, lunary_field_e f,
    lunary_buf_t *b)
{
    size_t  removed;

    lunary_doc_shrink(b, call->conf.capture_max, &removed);

    lunary_run_set(run, f, lunary_buf_str(b));
}


static void
lunary_call_write_error(lunary_call_t *call)
{
    int             rc;
    lunary_buf_t   *b;
    lunary_mem_t   *mem;
    lunary_str_t    type;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);
    mem = call->mem;
    b = &priv->error;

    if (b->len != 0) {
        return;
    }

    if (priv->error_message.len == 0 && priv->error_type.len == 0
        && priv->error_code.len == 0)
    {
        /* its plain text, where no event and no document was in it */

        priv->has_error = 0;

        if (call->response_state == LUNARY_BODY_OTHER
            || call->response_state == LUNARY_BODY_INVALID
            || (call->response_state == LUNARY_BODY_STREAM
                && !priv->rs_object)
            || (call->response_state == LUNARY_BODY_PARTIAL
                && priv->rs_framed && !priv->rs_object))
        {
            lunary_call_error_text(call, lunary_buf_str(&priv->error_raw));
        }

        /* AWS names an exception where no body does */

        if (priv->status >= 400 && priv->error_type_header.len != 0) {
            type = lunary_json_inside(lunary_buf_str(
                                                  &priv->error_type_header));

            if (lunary_inside_copy(mem, &priv->error_type, type)
                == LUNARY_OK)
            {
                priv->has_error = 1;
            }
        }

        if (!priv->has_error) {
            return;
        }
    }

    rc = lunary_buf_lit(mem, b, "{");

    if (rc == LUNARY_OK && priv->error_message.len != 0) {
        rc = lunary_buf_lit(mem, b, "\"message\":\"");

        if (rc == LUNARY_OK) {
            rc = lunary_buf_append(mem, b, priv->error_message.data,
                                   priv->error_message.len);
        }

        if (rc == LUNARY_OK) {
            rc = lunary_buf_lit(mem, b, "\"");
        }
    }

    if (rc == LUNARY_OK && priv->error_type.len != 0) {
        rc = b->len > 1 ? lunary_buf_lit(mem, b, ",\"type\":\"")
                        : lunary_buf_lit(mem, b, "\"type\":\"");

        if (rc == LUNARY_OK) {
            rc = lunary_buf_append(mem, b, priv->error_type.data,
                                   priv->error_type.len);
        }

        if (rc == LUNARY_OK) {
            rc = lunary_buf_lit(mem, b, "\"");
        }
    }

    if (rc == LUNARY_OK && priv->error_code.len != 0) {
        rc = b->len > 1 ? lunary_buf_lit(mem, b, ",\"code\":")
                        : lunary_buf_lit(mem, b, "\"code\":");

        if (rc == LUNARY_OK) {
            rc = lunary_buf_append(mem, b, priv->error_code.data,
                                   priv->error_code.len);
        }
    }

    if (rc == LUNARY_OK && b->len > 1) {
        rc = lunary_buf_lit(mem, b, "}");

    } else {
        b->len = 0;
    }

    if (rc != LUNARY_OK) {
        b->len = 0;
    }
}


/* why a body could not be read, where one could not */

static void
lunary_call_body_error(lunary_call_t *call, lunary_run_t *run)
{
    char         text[64];
    int          n;
    const char  *rq, *rs;

    static const char  *const names[] = {
        NULL, NULL, NULL, NULL, NULL, NULL,
        "invalid", "limit", "encoding", "memory"
    };

    rq = names[call->request_state];
    rs = names[call->response_state];

    if (rq == NULL && rs == NULL) {
        return;
    }

    n = snprintf(text, sizeof(text), "%s%s%s%s%s",
                 rq ? "request_" : "", rq ? rq : "",
                 rq && rs ? "," : "",
                 rs ? "response_" : "", rs ? rs : "");

    lunary_priv(call)->body_error.len = 0;

    if (lunary_buf_append(call->mem, &lunary_priv(call)->body_error, text,
                          (size_t) n) == LUNARY_OK)
    {
        lunary_run_set(run, LUNARY_F_BODY_ERROR,
                       lunary_buf_str(&lunary_priv(call)->body_error));
    }
}
