/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Framing: a stream's bytes, in any split, become events.
 *
 *   SSE     WHATWG HTML, section 9.2: lines end in LF, CR or CRLF; `data`
 *           lines are joined by LF; a blank line ends the event; comments,
 *           `id`, `retry` and unknown fields are passed over.  Unlike a
 *           browser, an event that the end of the stream leaves without its
 *           blank line is handed out too, as every LLM client does, and where
 *           a line of data is one whole JSON object the next is another
 *           event's: some servers leave out the blank lines.
 *   LINES   newline delimited JSON: a line is an event
 *   ARRAY   one JSON array whose elements are events (Gemini without alt=sse)
 *   AWS     application/vnd.amazon.eventstream: prelude (total length, header
 *           length, CRC-32 of both), headers, payload, CRC-32 of all
 *
 * Invariants
 *   - an event that lies whole in the fed bytes is handed out in place;
 *     others are assembled in one buffer that is reused;
 *   - an event above LUNARY_FRAME_MAX goes through a lunary_doc and comes out
 *     reduced (or not at all, where it is no JSON): memory stays bounded; of
 *     AWS one above what that document may hold: a model's own event is base64
 *     in it, and would be reduced to its size;
 *   - linear in the bytes fed, whatever the split and the line ends.
 */

#ifndef LUNARY_FRAME_H
#define LUNARY_FRAME_H

#include "lunary_base.h"
#include "lunary_doc.h"


#define LUNARY_FRAME_MAX   16384       /* an event kept as it came           */
#define LUNARY_FRAME_NAME  64          /* of an event's name                 */

#define LUNARY_FRAME_PRELUDE  12       /* AWS: lengths and their CRC         */


typedef enum {
    LUNARY_FRAME_SSE = 0,
    LUNARY_FRAME_LINES,
    LUNARY_FRAME_ARRAY,
    LUNARY_FRAME_AWS
} lunary_frame_kind_e;


/* what is said of an event beside its name and data */

#define LUNARY_FRAME_EXCEPTION  0x01   /* AWS: an exception or error message */
#define LUNARY_FRAME_FIELD      0x02   /* SSE: the value of an `error:` line,
                                          as llama.cpp's server sends it     */
#define LUNARY_FRAME_TORN       0x04   /* the stream broke off in it: half a
                                          JSON object                        */
#define LUNARY_FRAME_OPEN       0x08   /* ... in its last string, which was
                                          ended                              */

/* name and data are valid during the call only */
typedef void (*lunary_frame_pt)(void *ctx, lunary_str_t name,
    lunary_str_t data, unsigned flags);


typedef struct {
    lunary_mem_t           *mem;
    lunary_frame_kind_e     kind;
    lunary_frame_pt         handler;
    void                   *ctx;
    size_t                  max;       /* bound of a reduced event           */
    size_t                  raw_max;   /* of one that is kept as it came     */

    uint64_t                events;    /* handed out                         */

    int                     error;     /* sticky: LUNARY_ERROR, _NOMEM       */
    int                     state;
    int                     after;     /* SSE: the state behind the space    */
    unsigned                cr:1;      /* SSE: a CR was the last byte        */
    unsigned                have:1;    /* data of an event is being gathered */
    unsigned                late:1;    /* SSE: its name came behind its data */
    unsigned                flags:4;
    unsigned                long_event:1;   /* it goes through doc           */
    unsigned                long_whole:1;   /* ... which has a whole value   */
    unsigned                in_string:1;    /* ARRAY, SSE: at the last byte  */
    unsigned                escaped:1;      /* ... whose depth is known      */
    unsigned                started:1; /* ARRAY: its bracket came            */
    unsigned                torn:1;    /* it broke off within an event       */

    unsigned char           name[LUNARY_FRAME_NAME];
    size_t                  name_len;
    unsigned char           head[LUNARY_FRAME_PRELUDE];
                                       /* SSE: field name, AWS: prelude, CRC */
    size_t                  head_len;

    size_t                  depth;     /* ARRAY, SSE: of brackets            */
    size_t                  known;     /* SSE: bytes of buf it is known for  */
    size_t                  left;      /* AWS: bytes left of this part       */
    size_t                  payload;   /* AWS: bytes of the payload          */
    uint32_t                crc;       /* AWS: of the message so far         */

    lunary_buf_t            buf;
    lunary_buf_t            headers;   /* AWS                                */
    lunary_doc_t           *doc;
} lunary_frame_t;


/* whether these LUNARY_FRAME_PRELUDE bytes start an AWS event stream */
int lunary_frame_aws_starts(const unsigned char *p);

/* max bounds an over-long event's reduced text */
void lunary_frame_init(lunary_frame_t *f, lunary_mem_t *mem,
    lunary_frame_kind_e kind, size_t max, lunary_frame_pt handler, void *ctx);

/* LUNARY_OK, or what is wrong with the stream, for good */
int lunary_frame_feed(lunary_frame_t *f, const unsigned char *p, size_t n);

/* no more bytes: hands out what is pending, complete or not.  1 where the
 * stream broke off within an event */
int lunary_frame_end(lunary_frame_t *f);

void lunary_frame_free(lunary_frame_t *f);


#endif /* LUNARY_FRAME_H */
