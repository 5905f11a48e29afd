/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What dialects see of a call: where they read (path, JSON texts) and what
 * they tell (model, input, text, tools, usage, errors).  Private to inspect/.
 *
 * Values are JSON values as lunary_json.h slices them (strings with their
 * quotes); an empty value, null or one of another type says nothing.  Insides
 * are a string's inside, still escaped.  Nothing is kept by reference but
 * what lunary_call_input() is told to.
 */

#ifndef LUNARY_CALL_INTERNAL_H
#define LUNARY_CALL_INTERNAL_H

#include "lunary_arena.h"
#include "lunary_base.h"
#include "lunary_call.h"
#include "lunary_doc.h"
#include "lunary_form.h"
#include "lunary_frame.h"
#include "lunary_inflate.h"
#include "lunary_json.h"
#include "lunary_output.h"
#include "lunary_walk.h"


#define LUNARY_CALL_MODEL   512         /* bytes of a model's name, an id    */
#define LUNARY_CALL_USAGE   16384       /* of a usage object                 */
#define LUNARY_CALL_ERROR   4096        /* of an error's message             */
#define LUNARY_CALL_DOC     32768       /* least room of a body              */
#define LUNARY_CALL_FIRST   5           /* bytes that tell what a request is */
#define LUNARY_CALL_NAME    32          /* of an event that may repeat       */
#define LUNARY_CALL_CHUNK   8192        /* a call and its small blocks       */


/* how input_tokens and output_tokens follow from what was reported */

typedef enum {
    LUNARY_TOKENS_INCLUSIVE = 0,    /* prompt has cached in it, completion
                                       has reasoning (OpenAI)                */
    LUNARY_TOKENS_CACHE_APART,      /* cache reads and writes come on top of
                                       prompt (Anthropic, Bedrock)           */
    LUNARY_TOKENS_THOUGHTS_APART    /* reasoning comes on top of completion
                                       (Gemini)                              */
} lunary_tokens_e;


typedef struct {
    lunary_call_t            pub;         /* first: a call is cast to this   */
    lunary_arena_t           arena;       /* call->mem is in it              */

    lunary_str_t             path;        /* owned                           */
    size_t                   doc_max;     /* of bodies                       */

    /* the request */
    int                      rq_kind;
    unsigned char            rq_first[LUNARY_CALL_FIRST];
    unsigned                 rq_first_len;    /* while that is not enough    */
    lunary_inflate_t        *rq_inflate;
    lunary_form_t           *form;
    lunary_request_t        *rq;
    unsigned                 rq_deflated:1;   /* it was compressed           */
    unsigned                 request_read:1;  /* by the dialect              */
    uint64_t                 rq_size;     /* bytes of it, inflated           */
    unsigned char           *rq_lent;     /* where it lies                   */
    size_t                   rq_lent_size;
    lunary_claims_t          form_claims;
    lunary_buf_t             form_user;
    lunary_buf_t             model;
    lunary_str_t             input;       /* of the request's text, or of
                                             input_buf                       */
    lunary_buf_t             input_buf;
    lunary_doc_t            *input_doc;   /* goes on where that is full      */
    uint64_t                 input_built; /* bytes written                   */
    uint64_t                 input_size;
    lunary_buf_t             params;
    lunary_buf_t             metadata;
    lunary_str_t             metadata_value;  /* as it stands in the text    */
    unsigned                 members_read:1;  /* by lunary_call_params()     */
    unsigned                 by_path:1;       /* not to be told by its shape */
    lunary_str_t             text;        /* the request's, as read          */

    /* hints for the response, set by the dialect's request() */
    unsigned                 lines:1;     /* its streams are NDJSON          */
    unsigned                 array:1;     /* a JSON array is a stream        */
    unsigned                 ends:1;      /* set by event(): with no last
                                             event, but with the connection  */

    /* the response */
    unsigned                 status;
    int                      rs_kind;
    unsigned                 rs_sse:1;    /* what Content-Type said          */
    unsigned                 rs_lines:1;
    unsigned                 rs_aws:1;
    unsigned                 rs_media:1;
    unsigned                 rs_framed:1; /* it was read as events ...       */
    unsigned                 rs_object:1; /* ... and one was a JSON object   */
    unsigned                 rs_raw:1;    /* its start is kept in error_raw  */
    unsigned                 ended:1;
    unsigned char            sniff[LUNARY_FRAME_PRELUDE];
    size_t                   sniff_len;
    lunary_inflate_t        *rs_inflate;
    lunary_frame_t           frame;
    unsigned                 framed:1;
    unsigned                 usage_valid:1;
    unsigned                 repeats:1;   /* an event's dialect says: what it
                                             did with it, but for adding to
                                             texts, may be done again        */
    unsigned                 changes;     /* what an event may not repeat ...*/
    lunary_text_t           *added_to;    /* ... the last: a text, and what  */
    lunary_str_t             added;       /* was added to it                 */
    lunary_buf_t             repeat;      /* the event before, if it was one */
    size_t                   repeat_head; /* (lunary_call_repeat.c)          */
    size_t                   repeat_tail;
    size_t                   repeat_noise;
    size_t                   repeat_rest;
    unsigned                 repeat_misses;
    unsigned                 repeat_name_len;
    unsigned char            repeat_name[LUNARY_CALL_NAME];
    const lunary_tape_t     *tape;        /* of a body that is read in place */
    lunary_doc_t            *doc;
    const unsigned char     *torn;        /* the end of a string that broke
                                             off, while its body is read     */
    lunary_output_t          out;
    lunary_buf_t             scratch;     /* of a dialect, within one event  */

    lunary_buf_t             status_text; /* decoded                         */
    lunary_buf_t             output;      /* written by finish()             */
    uint64_t                 output_size;
    lunary_buf_t             response_model;
    lunary_buf_t             response_id;
    lunary_buf_t             client_request_id;
    lunary_buf_t             error_type_header;
    int64_t                  header_input;
    int64_t                  header_output;
    lunary_buf_t             usage;
    lunary_tokens_e          fold;
    int64_t                  more_input;  /* input tokens beside prompt      */
    int64_t                  more_output; /* and beside completion           */
    int64_t                  all_input;   /* all input, where no prompt tells
                                             it: of what has no output       */
    lunary_buf_t             error_raw;        /* the start of its body      */
    lunary_buf_t             error_message;    /* insides                    */
    lunary_buf_t             error_type;
    lunary_buf_t             error_code;       /* a JSON value               */
    lunary_buf_t             error;            /* written by finish()        */
    lunary_buf_t             body_error;
    unsigned                 has_error:1;

    uint32_t                 memo;        /* the dialect's own, 0 at first   */
    lunary_buf_t             notes;       /* likewise                        */
} lunary_priv_t;

#define lunary_priv(call)  ((lunary_priv_t *) (call))


/* what is done with a body's bytes: rq_kind, rs_kind */

enum {
    LUNARY_KIND_NONE = 0,             /* not known yet                       */
    LUNARY_KIND_JSON,
    LUNARY_KIND_FORM,
    LUNARY_KIND_FRAME,
    LUNARY_KIND_TEXT,                 /* an error's plain text               */
    LUNARY_KIND_SKIP
};


/* --- between the files of lunary_call --- */

/* the request as far as it is there: dialect, model, input, params */
void lunary_call_read_request(lunary_call_t *call);

/*
 * For a dialect's request() where others use its path too and text is none
 * of its own: hands the call to the dialect that the body's shape tells, or
 * to none.  1 where it did; 0 where lunary_api said which it is.
 */
int lunary_call_elsewhere(lunary_call_t *call, lunary_str_t text);

/* gives back what only reading the response needs */
void lunary_call_close(lunary_call_t *call);

/* lunary_call_body.c: an event of a stream (a lunary_frame_pt, ctx is the
 * call); a piece of a JSON body; its document, which ended as rc says */
void lunary_call_event(void *ctx, lunary_str_t name, lunary_str_t data,
    unsigned flags);
void lunary_call_json(lunary_call_t *call, const unsigned char *p, size_t n);
void lunary_call_doc(lunary_call_t *call, int rc);

/* 1 where an event is one like that before, and was done with */
int lunary_call_repeat(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);

/* an event was read in full: the next one may be like it */
void lunary_call_repeat_note(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);

/* adds to a text once more, as lunary_call_text() and the like did */
void lunary_call_again(lunary_call_t *call, lunary_text_t *t,
    lunary_str_t inside);

/* decodes a JSON string into b, at most max escaped bytes of it */
void lunary_call_keep(lunary_call_t *call, lunary_buf_t *b,
    lunary_str_t value, size_t max);

/* behind the last string of a text that brackets close */
const unsigned char *lunary_call_last(lunary_str_t text);

/* 1 where s holds the word (a literal, lower case), ASCII case folded */
#define lunary_call_has(s, word)                                             \
    lunary_call_holds(s, word, sizeof(word) - 1)

int lunary_call_holds(lunary_str_t s, const char *word, size_t len);


/* --- the request --- */

/* the model asked for: a JSON string; or (from a path) plain bytes */
void lunary_call_model(lunary_call_t *call, lunary_str_t value);
void lunary_call_model_bytes(lunary_call_t *call, lunary_str_t bytes);

/* `stream` of the body: true, false, "true" (forms) */
void lunary_call_stream(lunary_call_t *call, lunary_str_t value);

/*
 * The input: a JSON array that lies in the request's text (kept by
 * reference), under the member `key` of it; or what was built in
 * lunary_priv(call)->input_buf.
 */
void lunary_call_input(lunary_call_t *call, lunary_str_t value,
    lunary_str_t key);
void lunary_call_input_built(lunary_call_t *call, lunary_str_t key);

/* 1 where the input is wanted; else its size is enough */
#define lunary_call_wants_input(call)                                        \
    ((call)->conf.capture & LUNARY_CAPTURE_INPUT)

/*
 * One pass over the request: vals[i] becomes the value of the member but[i]
 * (vals may be NULL); all others but the identity members become params.
 */
void lunary_call_params(lunary_call_t *call, lunary_str_t obj,
    const lunary_str_t *but, lunary_str_t *vals, size_t n);

/* `metadata` without identity members */
void lunary_call_metadata(lunary_call_t *call, lunary_str_t obj);

/*
 * The path behind the last "/name/" in it, up to the next one of `stops`
 * (bytes) or the end; empty where it has none.
 */
lunary_str_t lunary_call_path(lunary_call_t *call, const char *name,
    const char *stops);

/* Google's custom methods: MODEL of /models/MODEL:VERB */
lunary_str_t lunary_call_path_verb(lunary_call_t *call);

/* 1 where the path ends in s, a literal */
#define lunary_call_path_ends(call, s)                                       \
    lunary_call_path_tail(call, s, sizeof(s) - 1)

int lunary_call_path_tail(lunary_call_t *call, const char *s, size_t len);


/* --- the response --- */

/* choice of that number; NULL where there are too many */
lunary_choice_t *lunary_call_choice(lunary_call_t *call, int64_t index);

/* ch may be NULL: then only `content` is noted */
void lunary_call_text(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t inside);
void lunary_call_reasoning(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t inside);
void lunary_call_refusal(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t inside);
void lunary_call_part(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t part);

/* a content value that is neither text nor parts */
void lunary_call_raw(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t value);

/* a reference to media instead of them: type may be empty, base64 is an
 * inside; appends {"type":"image_url","image_url":{"url":"data:...
 * or, for another kind, {"type":KIND,KIND:{...}} */
void lunary_call_media(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t type, lunary_str_t base64);
void lunary_call_image_url(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t url);

/* tools: find or add by the wire's number; add */
lunary_tool_t *lunary_call_tool(lunary_call_t *call, lunary_choice_t *ch,
    int64_t index);
lunary_tool_t *lunary_call_tool_new(lunary_call_t *call,
    lunary_choice_t *ch, int64_t index);

/* the text of an id: some servers count theirs, and send numbers */
lunary_str_t lunary_call_id(lunary_str_t value);

/* the id, unless it has one; the name: added to, unless it is the same */
void lunary_call_tool_id(lunary_call_t *call, lunary_tool_t *t,
    lunary_str_t value);
void lunary_call_tool_name(lunary_call_t *call, lunary_tool_t *t,
    lunary_str_t value);

/* a delta (string) or a whole value (object, array) of its arguments */
void lunary_call_tool_args(lunary_call_t *call, lunary_tool_t *t,
    lunary_str_t value);

/* any value as the arguments' JSON */
void lunary_call_tool_value(lunary_call_t *call, lunary_tool_t *t,
    lunary_str_t value);

void lunary_call_finish_reason(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t value);

/* the status of an answer as a whole: the finish reason of choice 0, also
 * where there is no message */
void lunary_call_status(lunary_call_t *call, lunary_str_t value);

/* over: a later one replaces an earlier one */
void lunary_call_response_model(lunary_call_t *call, lunary_str_t value,
    int over);
void lunary_call_response_id(lunary_call_t *call, lunary_str_t value);

/* usage of what has no output, once it was read: a total is all input */
void lunary_call_all_input(lunary_call_t *call);

/* the usage object, verbatim; the last one counts */
void lunary_call_usage(lunary_call_t *call, lunary_str_t value);

/* *slot becomes the number, where value is a whole one; or is added to: a
 * sum stays a number, whatever an upstream says */
void lunary_call_count(int64_t *slot, lunary_str_t value);
void lunary_call_count_more(int64_t *slot, lunary_str_t value);

/* OpenAI's usage object (chat, completions, embeddings); what both families
 * name otherwise (input_tokens) is read where the first is missing */
void lunary_call_usage_openai(lunary_call_t *call, lunary_str_t usage);
/* the same; w stands at it */
void lunary_call_usage_walk(lunary_call_t *call, lunary_str_t usage,
    lunary_walk_t *w);
/* the Responses API's */
void lunary_call_usage_responses(lunary_call_t *call, lunary_str_t usage);

/* an error: the first one counts.  Values, message may be any JSON */
void lunary_call_error(lunary_call_t *call, lunary_str_t message,
    lunary_str_t type, lunary_str_t code);

/* an error of which there is a text only: any bytes */
void lunary_call_error_text(lunary_call_t *call, lunary_str_t bytes);

/* an AWS exception's name, and the object that tells its message */
void lunary_call_exception(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data);

/*
 * Looks for an error in a JSON value, in all the shapes that providers have.
 * failed: the status or the event says there is one.  1 where it was found.
 */
int lunary_call_error_of(lunary_call_t *call, lunary_str_t v, int failed);


/* 1 where the slice is the literal */
#define lunary_is(s, lit)  lunary_eq(s, lit)

/* 1 where a JSON string's inside is the literal */
static inline int
lunary_json_is(lunary_str_t v, const char *s, size_t len)
{
    return v.len == len + 2 && v.data[0] == '"'
           && memcmp(v.data + 1, s, len) == 0;
}

#define lunary_value_is(v, lit)  lunary_json_is(v, lit, sizeof(lit) - 1)


#endif /* LUNARY_CALL_INTERNAL_H */
