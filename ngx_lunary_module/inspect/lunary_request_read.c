/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Reading a request body where it lies: one pass, RFC 8259 to the letter,
 * nothing copied.  Called by lunary_request.c whenever bytes have come.
 *
 * Invariants
 *   - what is not plain is not judged here: LUNARY_ERROR says that a document
 *     (lunary_doc.h) has to read it, and what it makes of it counts.  So this
 *     may only pass what a document would keep as it is: no media, no vector,
 *     no repair, no text above the bound, no error;
 *   - linear: a token that is not all there is read again with the next piece,
 *     but at most LUNARY_READ_AGAIN bytes of it; longer strings go on where
 *     they stopped;
 *   - behind the bytes stand LUNARY_STRING_PAD zeroes: no byte of a JSON text
 *     outside of strings is one, so most comparisons with the end are none.
 */

#include "lunary_media.h"
#include "lunary_request_internal.h"
#include "lunary_scan.h"
#include "lunary_string.h"
#include "lunary_utf8.h"


#define LUNARY_READ_DEPTH   64
#define LUNARY_READ_AGAIN   LUNARY_MEDIA_RUN
#define LUNARY_READ_KEY     LUNARY_SCAN_KEY_MAX
#define LUNARY_READ_SCALAR  64


#define lunary_read_space(p)                                                 \
    while (*(p) <= ' ' && (*(p) == ' ' || *(p) == '\n' || *(p) == '\r'       \
                           || *(p) == '\t'))                                 \
    {                                                                        \
        (p)++;                                                               \
    }

#define lunary_read_digit(c)  ((unsigned char) ((c) - '0') < 10)


static const unsigned char *lunary_read_scalar(const unsigned char *p);
static int lunary_read_media(const lunary_read_t *rd, unsigned depth,
    unsigned class, const unsigned char *p);


int
lunary_request_read(lunary_request_t *rq)
{
    int                   array;
    uint32_t              cp;
    uint64_t              bit;
    unsigned              depth, state, watch, class;
    lunary_str_t          name;
    lunary_read_t        *rd;
    lunary_place_t       *m;
    const unsigned char  *base, *p, *q, *end, *value_end;

    rd = &rq->read;

    base = rq->raw.data;
    end = base + rq->raw.len;
    p = base + rd->at;
    value_end = base + rd->end;
    depth = rd->depth;
    class = rd->class;
    state = rd->state;
    watch = rq->n.inside ? 2 : 1;

    /* the one behind the last is nobody's */

    m = &rq->members[rq->n.many ? LUNARY_REQUEST_MEMBERS
                     : rq->n.nmembers ? rq->n.nmembers - 1 : 0];

    /* what an offset of the body is, of a place */
#define lunary_read_offset(p)  (rq->base + (uint64_t) ((p) - base))

    switch (state) {

    case LUNARY_SCAN_S_ELEMENT:
        goto element;

    case LUNARY_SCAN_S_KEY:
        goto key;

    case LUNARY_SCAN_S_MEMBER:
        goto member;

    case LUNARY_SCAN_S_COLON:
        goto colon;

    case LUNARY_SCAN_S_NEXT:
        goto next;

    case LUNARY_SCAN_S_STRING:
        goto string;

    default: /* LUNARY_SCAN_S_VALUE */

        if (depth == 0) {

            /* only an object is read here */

            if (*p != '{') {
                return LUNARY_ERROR;
            }

            goto open;
        }

        goto value;
    }

element:

    state = LUNARY_SCAN_S_ELEMENT;

    lunary_read_space(p);

    if (*p == ']') {
        goto close;
    }

    goto any;

colon:

    lunary_read_space(p);

    if (*p != ':') {
        state = LUNARY_SCAN_S_COLON;
        goto more;
    }

    p++;

value:

    state = LUNARY_SCAN_S_VALUE;

    lunary_read_space(p);

any:

    if (*p == '"') {

        q = lunary_string_end(p + 1, end);

        if (*q != '"') {
            goto broken;
        }

        if ((size_t) (q - p) > LUNARY_MEDIA_RUN
            && lunary_read_media(rd, depth, class, p + 1))
        {
            return LUNARY_ERROR;
        }

        if (depth <= watch && rq->n.level[depth - 1].id) {
            lunary_note_value(rq, depth - 1, LUNARY_NOTE_STRING,
                              lunary_read_offset(p));
            lunary_note_end(rq, depth - 1, lunary_read_offset(q + 1));
        }

        if (depth == 1) {
            m->value = (uint32_t) (p - base);
        }

        p = q + 1;

        goto ended;
    }

    if (*p == '{' || *p == '[') {
        goto open;
    }

    q = lunary_read_scalar(p);

    if (q == NULL || (size_t) (q - p) > LUNARY_READ_SCALAR || q >= end
        || (*q > ' ' && *q != ',' && *q != '}' && *q != ']'))
    {
        if (end - p <= LUNARY_READ_SCALAR && (q == NULL || q >= end)) {
            goto stop;
        }

        return LUNARY_ERROR;
    }

    /* numbers that may be a vector's */

    if ((rd->vectors >> (depth - 1) & 1) && *p <= '9') {
        return LUNARY_ERROR;
    }

    if (depth <= watch && rq->n.level[depth - 1].id) {
        lunary_note_value(rq, depth - 1, LUNARY_NOTE_SCALAR,
                          lunary_read_offset(p));
        lunary_note_end(rq, depth - 1, lunary_read_offset(q));
    }

    if (depth == 1) {
        m->value = (uint32_t) (p - base);
    }

    p = q;

ended:

    value_end = p;

next:

    if (depth == 1) {
        m->end = (uint32_t) (value_end - base);
    }

    lunary_read_space(p);

    array = (int) (rd->arrays >> (depth - 1) & 1);

    if (*p != ',') {

        if (*p == (array ? ']' : '}')) {
            goto close;
        }

        state = LUNARY_SCAN_S_NEXT;
        goto more;
    }

    p++;

    if (array) {
        goto value;
    }

key:

    state = LUNARY_SCAN_S_KEY;

    lunary_read_space(p);

    if (*p != '"') {
        goto more;
    }

    goto name;

member:

    state = LUNARY_SCAN_S_MEMBER;

    lunary_read_space(p);

    if (*p != '"') {

        if (*p == '}') {
            goto close;
        }

        goto more;
    }

name:

    q = lunary_string_end(p + 1, end);

    if (*q != '"') {

        if (end - p <= LUNARY_READ_KEY) {
            goto stop;
        }

        return LUNARY_ERROR;
    }

    name = lunary_str(p + 1, (size_t) (q - p - 1));

    if (name.len > LUNARY_READ_KEY
        || (depth <= watch && lunary_string_has(name, '\\')))
    {
        return LUNARY_ERROR;
    }

    if (depth <= watch) {

        (void) lunary_note_key(rq, depth - 1, name, lunary_read_offset(p),
                               lunary_read_offset(value_end));

        if (depth == 1) {

            m = &rq->members[rq->n.nmembers];

            if (rq->n.nmembers < LUNARY_REQUEST_MEMBERS) {
                rq->n.nmembers++;

            } else {
                rq->n.many = 1;
            }

            m->key = (uint32_t) (name.data - base);
            m->key_len = (uint32_t) name.len;
        }
    }

    class = lunary_media_maybe(name) ? lunary_media_class(name) : 0;

    rd->key = (size_t) (p - base);
    p = q + 1;

    goto colon;

open:

    if (depth == LUNARY_READ_DEPTH) {
        return LUNARY_ERROR;
    }

    array = (*p == '[');
    bit = (uint64_t) 1 << depth;

    /* an array of an array is of its kind */

    rd->arrays &= ~bit;
    rd->strings &= ~bit;
    rd->vectors &= ~bit;

    if (array) {
        rd->arrays |= bit;

        if (rd->arrays >> (depth - 1) & 1) {
            rd->strings |= (rd->strings << 1) & bit;
            rd->vectors |= (rd->vectors << 1) & bit;

        } else {
            rd->strings |= (class & LUNARY_MEDIA_ELEMENT) ? bit : 0;
            rd->vectors |= (class & LUNARY_MEDIA_VECTOR) ? bit : 0;
        }
    }

    if (depth <= watch) {
        lunary_note_open(rq, depth, array, lunary_read_offset(p));
        watch = rq->n.inside ? 2 : 1;

        if (depth == 1) {
            m->value = (uint32_t) (p - base);
        }
    }

    depth++;
    p++;
    value_end = p;

    if (array) {
        goto element;
    }

    goto member;

close:

    depth--;
    p++;
    value_end = p;

    if (depth <= watch) {
        lunary_note_close(rq, depth, lunary_read_offset(p - 1));
        watch = rq->n.inside ? 2 : 1;
    }

    if (depth != 0) {
        goto next;
    }

    rd->at = (size_t) (p - base);
    rd->end = rd->at;
    rd->depth = 0;
    rd->state = LUNARY_SCAN_S_DONE;

    lunary_read_space(p);

    return (p == end) ? LUNARY_DONE : LUNARY_ERROR;

string:

    /* one that was begun before */

    q = lunary_string_end(p, end);

    if (*q != '"') {
        p = base + rd->string - 1;
        goto broken;
    }

    if (depth <= watch && rq->n.level[depth - 1].id) {
        lunary_note_end(rq, depth - 1, lunary_read_offset(q + 1));
    }

    p = q + 1;

    goto ended;

broken:

    /* p is at the quote, q at what stops the string: mostly the end, or an
     * escape or a character that is not all there */

    if (end - q > (*q == '\\' ? 5 : 0)
        && (*q < 0x80 || lunary_utf8_char(q, end, &cp) != 0))
    {
        return LUNARY_ERROR;
    }

    if (state != LUNARY_SCAN_S_STRING) {

        if ((size_t) (q - p) <= LUNARY_READ_AGAIN) {
            goto stop;
        }

        if (lunary_read_media(rd, depth, class, p + 1)) {
            return LUNARY_ERROR;
        }

        if (depth <= watch && rq->n.level[depth - 1].id) {
            lunary_note_value(rq, depth - 1, LUNARY_NOTE_STRING,
                              lunary_read_offset(p));
        }

        if (depth == 1) {
            m->value = (uint32_t) (p - base);
        }

        rd->string = (size_t) (p + 1 - base);
    }

    state = LUNARY_SCAN_S_STRING;
    p = q;

    goto stop;

more:

    if (p < end) {
        return LUNARY_ERROR;
    }

stop:

    rd->at = (size_t) (p - base);
    rd->end = (size_t) (value_end - base);
    rd->state = (uint8_t) state;
    rd->depth = (uint8_t) depth;
    rd->class = (uint8_t) class;

    return LUNARY_OK;
}

#undef lunary_read_offset


/* behind a number or literal; NULL where there is none, or not all of it */

static const unsigned char *
lunary_read_scalar(const unsigned char *p)
{
    switch (*p) {

    case 't':
        return memcmp(p, "true", 4) == 0 ? p + 4 : NULL;

    case 'f':
        return memcmp(p, "false", 5) == 0 ? p + 5 : NULL;

    case 'n':
        return memcmp(p, "null", 4) == 0 ? p + 4 : NULL;

    case '-':
        p++;
        break;

    default:
        break;
    }

    if (*p == '0') {
        p++;

    } else if (lunary_read_digit(*p)) {

        while (lunary_read_digit(*p)) {
            p++;
        }

    } else {
        return NULL;
    }

    if (*p == '.') {
        p++;

        if (!lunary_read_digit(*p)) {
            return NULL;
        }

        while (lunary_read_digit(*p)) {
            p++;
        }
    }

    if (*p == 'e' || *p == 'E') {
        p++;

        if (*p == '+' || *p == '-') {
            p++;
        }

        if (!lunary_read_digit(*p)) {
            return NULL;
        }

        while (lunary_read_digit(*p)) {
            p++;
        }
    }

    return p;
}


/* 1 where a long string may be what a document drops; p is its inside */

static int
lunary_read_media(const lunary_read_t *rd, unsigned depth, unsigned class,
    const unsigned char *p)
{
    if (rd->arrays >> (depth - 1) & 1) {

        if (rd->strings >> (depth - 1) & 1) {
            return 1;
        }

    } else if (class & LUNARY_MEDIA_STRING) {
        return 1;
    }

    return memcmp(p, "data:", 5) == 0;
}
