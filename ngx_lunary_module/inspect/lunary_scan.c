/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The scanner.  See lunary_scan.h.
 */

#include "lunary_media.h"
#include "lunary_scan_internal.h"
#include "lunary_simd.h"


#define lunary_scan_is_space(c)                                              \
    ((c) == ' ' || (c) == '\n' || (c) == '\r' || (c) == '\t')


static int lunary_scan_space(lunary_scan_t *s, const unsigned char **p,
    const unsigned char *end, lunary_scan_event_e *ev);
static size_t lunary_scan_spaces(lunary_scan_t *s, const unsigned char *from,
    const unsigned char *to, const unsigned char *end);
static int lunary_scan_push(lunary_scan_t *s, int array);


void
lunary_scan_init(lunary_scan_t *s, int strict)
{
    memset(s, 0, offsetof(lunary_scan_t, name));

    s->strict = (strict != 0);
    s->key_limit = SIZE_MAX;
}


/*
 * White space may stand here: state `st` is where to go on if the piece ends
 * in it, or if it is to be told.
 */

#define lunary_scan_ahead(st)                                                \
    if (p == end || *p <= ' ') {                                             \
        s->state = st;                                                       \
                                                                             \
        if (!lunary_scan_space(s, &p, end, &ev)) {                           \
            *pp = p;                                                         \
            return ev;                                                       \
        }                                                                    \
    }


lunary_scan_event_e
lunary_scan_next(lunary_scan_t *s, const unsigned char **pp,
    const unsigned char *end)
{
    int                   array;
    unsigned char         c;
    const unsigned char  *p, *q;
    lunary_scan_event_e   ev;

    p = *pp;

    switch (s->state) {

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

    case LUNARY_SCAN_S_NAME:
        return lunary_scan_name(s, pp, end);

    case LUNARY_SCAN_S_SCALAR:
        goto scalar;

    case LUNARY_SCAN_S_VALUE:
        goto value;

    default:
        return (p == end) ? LUNARY_SCAN_MORE : LUNARY_SCAN_ERROR;
    }

colon:

    lunary_scan_ahead(LUNARY_SCAN_S_COLON);

    if (*p != ':') {
        s->state = LUNARY_SCAN_S_COLON;
        goto bad;
    }

    p++;

    goto value;

element:

    lunary_scan_ahead(LUNARY_SCAN_S_ELEMENT);

    if (*p == ']') {
        goto close;
    }

value:

    lunary_scan_ahead(LUNARY_SCAN_S_VALUE);

    c = *p;

    if (c == '"') {
        s->token = lunary_scan_offset(s, p);
        s->start = p++;
        s->state = LUNARY_SCAN_S_STRING;
        s->sub = LUNARY_SUB_PLAIN;
        s->notify = (s->want & LUNARY_SCAN_WANT_STRING) || p == end
                    || *p == 'd';

        if (s->notify) {
            *pp = p;
            return LUNARY_SCAN_STRING;
        }

        goto string;
    }

    if (c == '{' || c == '[') {
        array = (c == '[');

        if (lunary_scan_push(s, array) != LUNARY_OK) {
            s->state = LUNARY_SCAN_S_VALUE;
            *pp = p;
            return LUNARY_SCAN_LIMIT;
        }

        s->token = lunary_scan_offset(s, p);
        s->value_end = s->token + 1;
        s->state = array ? LUNARY_SCAN_S_ELEMENT : LUNARY_SCAN_S_MEMBER;
        *pp = p + 1;

        return LUNARY_SCAN_OPEN;
    }

    /* what may stand behind a value may not stand for one */

    if (lunary_scan_ends_word(c)) {
        s->state = LUNARY_SCAN_S_VALUE;
        goto bad;
    }

    if (s->want & LUNARY_SCAN_WANT_COUNT) {
        p = lunary_scan_numbers(s, p, end);
    }

    s->token = lunary_scan_offset(s, p);
    s->start = p;
    s->state = LUNARY_SCAN_S_SCALAR;
    s->sub = LUNARY_SCAN_WORD;
    s->len = 0;

scalar:

    *pp = p;
    ev = lunary_scan_word(s, pp, end);
    p = *pp;

    /* MORE before the end: a value that nobody asked for has ended */

    if (ev != LUNARY_SCAN_MORE || p == end) {
        return ev;
    }

    goto next;

string:

    *pp = p;
    ev = lunary_scan_string(s, pp, end);

    if (ev != LUNARY_SCAN_STRING_END) {
        return ev;
    }

    p = *pp;
    s->start = NULL;
    s->value_end = lunary_scan_offset(s, p);

    if (s->depth == 0) {
        s->state = LUNARY_SCAN_S_DONE;
        return ev;
    }

    if (s->notify) {
        s->state = LUNARY_SCAN_S_NEXT;
        return ev;
    }

next:

    lunary_scan_ahead(LUNARY_SCAN_S_NEXT);

    array = lunary_scan_array(s, s->depth);
    c = *p;

    if (c != ',') {

        if (c == (array ? ']' : '}')) {
            goto close;
        }

        s->state = LUNARY_SCAN_S_NEXT;
        goto bad;
    }

    p++;

    if (array) {
        goto value;
    }

key:

    lunary_scan_ahead(LUNARY_SCAN_S_KEY);

    if (*p != '"') {
        s->state = LUNARY_SCAN_S_KEY;
        goto bad;
    }

    goto name;

member:

    lunary_scan_ahead(LUNARY_SCAN_S_MEMBER);

    if (*p == '}') {
        goto close;
    }

    if (*p != '"') {
        goto bad;
    }

name:

    s->token = lunary_scan_offset(s, p);
    s->start = p;
    s->name_start = p;

    /* mostly a key is short, plain and all there, with its colon */

    q = lunary_simd_text(p + 1,
                         (end - p > LUNARY_SCAN_KEY_MAX)
                         ? p + LUNARY_SCAN_KEY_MAX : end);

    if (q < end && *q == '"' && (size_t) (q - p - 1) < s->key_limit) {
        s->key.data = p + 1;
        s->key.len = (size_t) (q - p - 1);
        s->start = NULL;
        p = q + 1;

        if (s->depth > s->key_depth && !lunary_media_maybe(s->key)) {
            goto colon;
        }

        s->state = LUNARY_SCAN_S_COLON;
        *pp = p;

        return LUNARY_SCAN_KEY;
    }

    s->state = LUNARY_SCAN_S_NAME;
    s->sub = LUNARY_SUB_PLAIN;
    s->notify = 0;
    s->len = 0;
    *pp = p + 1;

    return lunary_scan_name(s, pp, end);

close:

    s->token = lunary_scan_offset(s, p);
    s->value_end = s->token + 1;
    s->depth--;
    s->state = s->depth ? LUNARY_SCAN_S_NEXT : LUNARY_SCAN_S_DONE;
    *pp = p + 1;

    return LUNARY_SCAN_CLOSE;

bad:

    *pp = p;

    return LUNARY_SCAN_ERROR;
}

#undef lunary_scan_ahead


/* passes over white space; 1 where something follows, else *ev is what to
 * return */

static int
lunary_scan_space(lunary_scan_t *s, const unsigned char **pp,
    const unsigned char *end, lunary_scan_event_e *ev)
{
    size_t                n, kept;
    const unsigned char  *p;

    /* mostly it is one, or none */

    for (p = *pp; p < end && lunary_scan_is_space(*p); p++) {

        if (p - *pp == 4) {
            p = lunary_simd_space(p, end);
            break;
        }
    }

    n = (size_t) (p - *pp);

    if ((s->want & LUNARY_SCAN_WANT_SPACE)
        || (!s->strict
            && (n > LUNARY_SCAN_SPACE_MAX || p == end || s->spaces != 0)))
    {
        kept = lunary_scan_spaces(s, *pp, p, end);

        if (n > kept) {
            s->start = *pp + kept;
            *pp = p;
            *ev = LUNARY_SCAN_SPACE;

            return 0;
        }
    }

    *pp = p;
    *ev = LUNARY_SCAN_MORE;

    return p != end;
}


/* how much of the white space [from, to) is kept; a run may be in pieces */

static size_t
lunary_scan_spaces(lunary_scan_t *s, const unsigned char *from,
    const unsigned char *to, const unsigned char *end)
{
    size_t  spaces;

    if (s->want & LUNARY_SCAN_WANT_SPACE) {
        return 0;
    }

    spaces = (lunary_scan_offset(s, from) == s->spaces_end) ? s->spaces : 0;

    s->spaces = (to == end) ? spaces + (size_t) (to - from) : 0;
    s->spaces_end = lunary_scan_offset(s, to);

    return (spaces < LUNARY_SCAN_SPACE_MAX) ? LUNARY_SCAN_SPACE_MAX - spaces
                                            : 0;
}


int
lunary_scan_finish(lunary_scan_t *s)
{
    if (s->depth == 0 && s->state == LUNARY_SCAN_S_SCALAR
        && lunary_scan_word_done(s))
    {
        s->state = LUNARY_SCAN_S_DONE;
    }

    return s->state == LUNARY_SCAN_S_DONE;
}


void
lunary_scan_backslash(lunary_scan_t *s)
{
    s->sub = LUNARY_SUB_ESCAPE;
}


void
lunary_scan_string_read(lunary_scan_t *s, const unsigned char *p)
{
    s->start = NULL;
    s->value_end = lunary_scan_offset(s, p);
    s->state = s->depth ? LUNARY_SCAN_S_NEXT : LUNARY_SCAN_S_DONE;
}


static int
lunary_scan_push(lunary_scan_t *s, int array)
{
    unsigned        level, bit;
    unsigned char  *byte;

    level = s->depth;

    if (level == LUNARY_SCAN_DEPTH) {
        return LUNARY_LIMIT;
    }

    byte = &s->stack[level / 8];
    bit = level % 8;

    /* what is left of deeper levels goes; bit 0 starts a byte afresh */

    *byte = (unsigned char) ((bit ? *byte & ((1 << bit) - 1) : 0)
                             | (array << bit));
    s->depth++;

    return LUNARY_OK;
}
