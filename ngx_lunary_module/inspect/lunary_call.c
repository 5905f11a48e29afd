/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * One LLM call: its life, and the way of its bytes.  See lunary_call.h.
 *
 *   request   (inflate) -> sniff -> lunary_request (JSON) or lunary_form
 *             -> the dialect's request()              lunary_call_request.c
 *   response  (inflate) -> sniff                    lunary_call_response.c
 *             -> lunary_frame -> the dialect's event()
 *             -> lunary_doc   -> the dialect's body()   lunary_call_body.c
 *   run       what dialects told (lunary_call_fields.c), as the fields of a
 *             run                                       lunary_call_finish.c
 */

#include "lunary_call_internal.h"


/* what the call itself takes of its chunk */

#define LUNARY_CALL_HEAD  ((sizeof(lunary_priv_t) + 15) & ~(size_t) 15)

#define lunary_lower(c)                                                      \
    ((unsigned char) ((c) >= 'A' && (c) <= 'Z' ? (c) | 0x20 : (c)))


lunary_call_t *
lunary_call_create(lunary_mem_t *mem, const lunary_call_conf_t *conf)
{
    lunary_call_t  *call;
    lunary_priv_t  *priv;

    priv = lunary_alloc(mem, LUNARY_CALL_CHUNK);
    if (priv == NULL) {
        return NULL;
    }

    memset(priv, 0, sizeof(lunary_priv_t));

    lunary_arena_init(&priv->arena, mem,
                      (unsigned char *) priv + LUNARY_CALL_HEAD,
                      LUNARY_CALL_CHUNK - LUNARY_CALL_HEAD);

    call = &priv->pub;

    call->mem = &priv->arena.mem;
    call->conf = *conf;
    call->dialect = &lunary_dialect_unknown;
    call->stream = -1;

    call->tokens.prompt = LUNARY_UNKNOWN;
    call->tokens.completion = LUNARY_UNKNOWN;
    call->tokens.total = LUNARY_UNKNOWN;
    call->tokens.cached = LUNARY_UNKNOWN;
    call->tokens.cache_write = LUNARY_UNKNOWN;
    call->tokens.reasoning = LUNARY_UNKNOWN;
    call->input_tokens = LUNARY_UNKNOWN;
    call->output_tokens = LUNARY_UNKNOWN;
    priv->header_input = LUNARY_UNKNOWN;
    priv->header_output = LUNARY_UNKNOWN;
    priv->all_input = LUNARY_UNKNOWN;

    /* a body holds more than one field, and what is not captured is small */

    priv->doc_max = conf->capture_max;

    if (priv->doc_max < LUNARY_CALL_DOC) {
        priv->doc_max = LUNARY_CALL_DOC;
    }

    lunary_output_init(&priv->out, call->mem, conf->capture_max,
                       (conf->capture & LUNARY_CAPTURE_OUTPUT) != 0);

    return call;
}


void
lunary_call_destroy(lunary_call_t *call)
{
    lunary_mem_t   *mem;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);
    mem = call->mem;

    if (priv->arena.outside == 0) {

        /* all there is lies in the chunk */

        lunary_free(priv->arena.parent, priv, LUNARY_CALL_CHUNK);
        return;
    }

    lunary_call_close(call);

    if (priv->rq_inflate != NULL) {
        lunary_inflate_destroy(priv->rq_inflate);
    }

    if (priv->form != NULL) {
        lunary_form_destroy(priv->form);
    }

    if (priv->rq != NULL) {
        lunary_request_destroy(priv->rq);
    }

    lunary_output_free(&priv->out);

    lunary_buf_free(mem, &priv->form_user);
    lunary_buf_free(mem, &priv->model);
    lunary_buf_free(mem, &priv->input_buf);

    if (priv->input_doc != NULL) {
        lunary_doc_destroy(priv->input_doc);
    }

    lunary_buf_free(mem, &priv->params);
    lunary_buf_free(mem, &priv->metadata);
    lunary_buf_free(mem, &priv->status_text);
    lunary_buf_free(mem, &priv->output);
    lunary_buf_free(mem, &priv->response_model);
    lunary_buf_free(mem, &priv->response_id);
    lunary_buf_free(mem, &priv->client_request_id);
    lunary_buf_free(mem, &priv->error_type_header);
    lunary_buf_free(mem, &priv->usage);
    lunary_buf_free(mem, &priv->error_raw);
    lunary_buf_free(mem, &priv->error_message);
    lunary_buf_free(mem, &priv->error_type);
    lunary_buf_free(mem, &priv->error_code);
    lunary_buf_free(mem, &priv->error);
    lunary_buf_free(mem, &priv->body_error);
    lunary_buf_free(mem, &priv->notes);

    lunary_free(mem, (void *) priv->path.data, priv->path.len);
    lunary_free(priv->arena.parent, priv, LUNARY_CALL_CHUNK);
}


/* 1 where s holds the word (lower case), ASCII case folded */

int
lunary_call_holds(lunary_str_t s, const char *word, size_t len)
{
    size_t  i, k;

    if (s.len == len && memcmp(s.data, word, len) == 0) {
        return 1;
    }

    for (i = 0; i + len <= s.len; i++) {

        /* the first byte mostly says no */

        if ((s.data[i] | 0x20) != (unsigned char) word[0]) {
            continue;
        }

        for (k = 1; k < len && lunary_lower(s.data[i + k])
                               == (unsigned char) word[k]; k++)
        {
            /* void */
        }

        if (k == len) {
            return 1;
        }
    }

    return 0;
}
