/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The framings, and what they share.  Private to lunary_frame*.c.
 */

#ifndef LUNARY_FRAME_INTERNAL_H
#define LUNARY_FRAME_INTERNAL_H

#include "lunary_frame.h"


/* states of lunary_frame_t */

enum {
    LUNARY_SSE_LINE = 0,              /* at the start of a line              */
    LUNARY_SSE_FIELD,                 /* in its field's name                 */
    LUNARY_SSE_SPACE,                 /* behind the colon                    */
    LUNARY_SSE_DATA,
    LUNARY_SSE_EVENT,
    LUNARY_SSE_SKIP,

    LUNARY_ARRAY_BETWEEN,             /* before a value                      */
    LUNARY_ARRAY_NESTED,              /* in an object or array               */
    LUNARY_ARRAY_STRING,
    LUNARY_ARRAY_SCALAR,
    LUNARY_ARRAY_DONE,

    LUNARY_AWS_PRELUDE,
    LUNARY_AWS_HEADERS,
    LUNARY_AWS_PAYLOAD,
    LUNARY_AWS_CRC
};


/* lunary_frame_sse.c, lunary_frame_aws.c: the bytes of one feed */
int lunary_frame_sse(lunary_frame_t *f, const unsigned char *p,
    const unsigned char *end);
int lunary_frame_aws(lunary_frame_t *f, const unsigned char *p,
    const unsigned char *end);

/* more bytes of an event that is being gathered */
void lunary_frame_add(lunary_frame_t *f, const unsigned char *p, size_t n);

/* an event that lies whole in the fed bytes */
void lunary_frame_whole(lunary_frame_t *f, const unsigned char *p, size_t n);

/* 0 where data, which is what was gathered, is half a JSON object */
int lunary_frame_object(lunary_frame_t *f, lunary_str_t data);

/* an event that was gathered is complete, or (0) the stream is over */
void lunary_frame_dispatch(lunary_frame_t *f, int complete);

/* the event's name, up to LUNARY_FRAME_NAME bytes of it */
void lunary_frame_set_name(lunary_frame_t *f, const unsigned char *p,
    size_t n);


#endif /* LUNARY_FRAME_INTERNAL_H */
