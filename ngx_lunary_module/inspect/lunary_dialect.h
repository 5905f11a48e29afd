/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The table of LLM APIs.  One dialect is one entry here and its functions in
 * one file of dialect/; nothing else names a provider.  A new one is a new
 * file and a line in lunary_dialect.c.
 */

#ifndef LUNARY_DIALECT_H
#define LUNARY_DIALECT_H

#include "lunary_base.h"


typedef struct lunary_call_s     lunary_call_t;
typedef struct lunary_dialect_s  lunary_dialect_t;


/* the shape of an error body of ours, so that official SDKs read it */

typedef enum {
    LUNARY_STYLE_OPENAI = 0,
    LUNARY_STYLE_ANTHROPIC,
    LUNARY_STYLE_GEMINI,
    LUNARY_STYLE_OLLAMA,
    LUNARY_STYLE_BEDROCK
} lunary_style_e;


struct lunary_dialect_s {
    lunary_str_t      name;         /* "openai.chat"; the run's api          */
    lunary_str_t      type;         /* "llm", "embed" or empty               */
    lunary_str_t      provider;     /* its own provider: "openai"            */
    lunary_style_e    style;
    uint32_t          strip;        /* members taken out of the request
                                       (lunary_request.h bits); 0: none      */

    /*
     * The request's complete (reduced) JSON text: fills the call's model,
     * stream, input and params.  NULL: nothing is read but the common
     * members.  text may be empty (no JSON body: the path may tell).
     */
    int             (*request)(lunary_call_t *call, lunary_str_t text);

    /* a JSON response's complete (reduced) text */
    int             (*body)(lunary_call_t *call, lunary_str_t text);

    /* one event of a stream: SSE data with its event name (empty: none), an
     * NDJSON line, an element of a JSON array, an event stream's payload */
    int             (*event)(lunary_call_t *call, lunary_str_t name,
                             lunary_str_t data);
};


/*
 * The dialect of a request, by method and path (decoded, without query):
 * never by host.  lunary_dialect_unknown where the path is that of no call we
 * read; NULL where it does not tell: then, once the body is known,
 * lunary_dialect_by_body() may.
 */
const lunary_dialect_t *lunary_dialect_by_path(lunary_str_t method,
    lunary_str_t path);
const lunary_dialect_t *lunary_dialect_by_body(lunary_str_t path,
    lunary_str_t text);

/* by its name ("openai.chat"); NULL where there is none of that name */
const lunary_dialect_t *lunary_dialect_by_name(lunary_str_t name);

extern const lunary_dialect_t  lunary_dialect_unknown;


#endif /* LUNARY_DIALECT_H */
