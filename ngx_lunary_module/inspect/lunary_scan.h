/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A JSON text that arrives in pieces, read as events: the grammar of RFC 8259
 * as a state machine without recursion and without memory of its own but for
 * one short key.  Private to inspect/: lunary_doc.c drives it.
 *
 * Invariants
 *   - every byte is looked at once; a piece may end anywhere, and the events
 *     do not depend on where it does;
 *   - what has not been asked for (`want`) is passed over without an event;
 *   - after LUNARY_SCAN_ERROR or LUNARY_SCAN_LIMIT the position is that of the
 *     offending byte and the state is the one before it;
 *   - strict: nothing but RFC 8259 passes, except that bytes of strings that
 *     are not UTF-8 are told as LUNARY_SCAN_REPAIR;  otherwise raw controls in
 *     strings are told likewise, and words that are no JSON value (NaN) are
 *     told as bad scalars.
 */

#ifndef LUNARY_SCAN_H
#define LUNARY_SCAN_H

#include "lunary_base.h"


#define LUNARY_SCAN_DEPTH      512
#define LUNARY_SCAN_SCALAR_MAX 1024     /* a longer number is refused         */
#define LUNARY_SCAN_KEY_MAX    128      /* kept of a key that came in pieces  */
#define LUNARY_SCAN_SPACE_MAX  256      /* kept of white space, if not strict */


typedef enum {
    LUNARY_SCAN_MORE = 0,     /* the piece is used up                         */
    LUNARY_SCAN_SPACE,        /* white space [start, p) between tokens; *,
                                 or of a very long run all but its start      */
    LUNARY_SCAN_KEY,          /* behind a key's closing quote; see key_depth  */
    LUNARY_SCAN_KEY_LONG,     /* key_limit bytes of a key; it goes on         */
    LUNARY_SCAN_OPEN,         /* behind an opening bracket                    */
    LUNARY_SCAN_CLOSE,        /* behind a closing one                         */
    LUNARY_SCAN_STRING,       /* behind a string value's opening quote; **    */
    LUNARY_SCAN_STRING_END,   /* behind its closing one, if STRING was told   */
    LUNARY_SCAN_SCALAR,       /* behind a number or literal; ***              */
    LUNARY_SCAN_REPAIR,       /* behind bytes that must not stand in a string */
    LUNARY_SCAN_ERROR,
    LUNARY_SCAN_LIMIT         /* nested too deep, a number too long           */
} lunary_scan_event_e;

/*
 * What is told only where wanted: *, ** (or where the string starts with a
 * `d`, or its start is not in the piece yet), *** (or where it is a bad one).
 * The end of a string or a scalar that is the whole text is always told.
 */

#define LUNARY_SCAN_WANT_SPACE   0x01
#define LUNARY_SCAN_WANT_STRING  0x02
#define LUNARY_SCAN_WANT_SCALAR  0x04
#define LUNARY_SCAN_WANT_COUNT   0x08   /* SCALAR: literals, and the number
                                           behind the first numbers_max       */


/* the order matters: before LUNARY_SCAN_S_STRING white space may stand */

typedef enum {
    LUNARY_SCAN_S_VALUE = 0,          /* a value                              */
    LUNARY_SCAN_S_ELEMENT,            /* a value or ]                         */
    LUNARY_SCAN_S_KEY,                /* a key                                */
    LUNARY_SCAN_S_MEMBER,             /* a key or }                           */
    LUNARY_SCAN_S_COLON,
    LUNARY_SCAN_S_NEXT,               /* a comma or a closing bracket         */
    LUNARY_SCAN_S_DONE,
    LUNARY_SCAN_S_STRING,             /* inside of one                        */
    LUNARY_SCAN_S_NAME,               /* inside of a key                      */
    LUNARY_SCAN_S_SCALAR
} lunary_scan_state_e;


typedef struct {
    uint8_t               state;      /* lunary_scan_state_e                  */
    uint8_t               sub;        /* place in an escape or a scalar       */
    uint8_t               strict;
    uint8_t               want;
    uint8_t               notify;     /* the open string's end is to be told;
                                         of a key: KEY_LONG has been told     */
    uint8_t               bad;        /* of SCALAR: it is none                */
    uint8_t               number;     /* of SCALAR: it is a number            */

    uint8_t               utf8_n;     /* bytes of an unfinished character ... */
    uint8_t               utf8_back;  /* ... of which so many in pieces before*/
    uint8_t               repair;     /* of REPAIR: bytes, in this piece      */
    uint8_t               control;    /* of REPAIR: the byte, 0x80 for UTF-8  */
    unsigned char         utf8[4];

    unsigned              depth;      /* open brackets                        */
    unsigned              key_depth;  /* deeper keys are told only where they
                                         may be of a kind (lunary_media.h)    */

    /* the open token's first byte, NULL where it is in a piece before; the
     * caller may set it to NULL once it has taken note of it */
    const unsigned char  *start;
    const unsigned char  *name_start; /* the same of the last key             */

    const unsigned char  *piece;      /* this piece ...                       */
    uint64_t              offset;     /* ... and where it starts in the text  */

    uint64_t              token;      /* offset of the last token's start     */
    uint64_t              value_end;  /* behind the last value or opening
                                         bracket                              */

    size_t                spaces;     /* of a run of white space that the ... */
    uint64_t              spaces_end; /* ... piece before ended with, here    */
    size_t                len;        /* of a scalar or key, pieces before    */
    size_t                key_limit;
    size_t                numbers;    /* counted so far                       */
    size_t                numbers_max;
    lunary_str_t          key;        /* as written, valid until the next call;
                                         empty where it is very long          */

    unsigned char         name[LUNARY_SCAN_KEY_MAX];
    unsigned char         stack[LUNARY_SCAN_DEPTH / 8];   /* 1: an array      */
} lunary_scan_t;


void lunary_scan_init(lunary_scan_t *s, int strict);

/* tells where a new piece lies */
static inline void
lunary_scan_piece(lunary_scan_t *s, const unsigned char *p, uint64_t offset)
{
    s->piece = p;
    s->offset = offset;
}

/* reads on from *p and moves it; pieces may be cut further by `end` */
lunary_scan_event_e lunary_scan_next(lunary_scan_t *s,
    const unsigned char **p, const unsigned char *end);

/* the text ends here: 1 where it was a whole one */
int lunary_scan_finish(lunary_scan_t *s);

/* a backslash of the open string was taken elsewhere: its escape follows */
void lunary_scan_backslash(lunary_scan_t *s);

/* the open string was read elsewhere, up to and with its closing quote: p is
 * behind that */
void lunary_scan_string_read(lunary_scan_t *s, const unsigned char *p);

/* 1 where the bracket opened at this level (1: the outermost) is [ */
static inline int
lunary_scan_array(const lunary_scan_t *s, unsigned level)
{
    return (s->stack[(level - 1) / 8] >> (level - 1) % 8) & 1;
}

static inline uint64_t
lunary_scan_offset(const lunary_scan_t *s, const unsigned char *p)
{
    return s->offset + (uint64_t) (p - s->piece);
}


#endif /* LUNARY_SCAN_H */
