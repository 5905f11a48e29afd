/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The scanner.  See lunary_scan.h.
 */

#include "lunary_escape.h"
#include "lunary_media.h"
#include "lunary_scan.h"
#include "lunary_simd.h"
#include "lunary_utf8.h"


/* where in a string we are: plain, behind a backslash, so many hexadecimal
 * digits short, or in the middle of a UTF-8 character */

enum {
    LUNARY_SUB_PLAIN = 0,
    LUNARY_SUB_HEX1,
    LUNARY_SUB_HEX2,
    LUNARY_SUB_HEX3,
    LUNARY_SUB_HEX4,
    LUNARY_SUB_ESCAPE,
    LUNARY_SUB_UTF8
};


/*
 * Numbers and literals: a table from state and class of byte to state.  From
 * N_TRUE on a state is a value; N_END is what may stand behind one.
 */

enum {
    N_BAD = 0,
    N_START, N_MINUS, N_POINT, N_EXP, N_SIGN,
    N_T, N_TR, N_TRU, N_F, N_FA, N_FAL, N_FALS, N_N, N_NU, N_NUL,
    N_TRUE, N_FALSE, N_NULL,
    N_ZERO, N_INT, N_FRAC, N_EXPD,
    N_END,
    N_STATES = N_END
};

enum {
    C_OTHER = 0, C_END, C_ZERO, C_DIGIT, C_MINUS, C_PLUS, C_POINT, C_E, C_BIGE,
    C_A, C_F, C_L, C_N, C_R, C_S, C_T, C_U,
    C_CLASSES
};


static const uint8_t  lunary_scan_class[256] = {
    ['0'] = C_ZERO,
    ['1'] = C_DIGIT, ['2'] = C_DIGIT, ['3'] = C_DIGIT, ['4'] = C_DIGIT,
    ['5'] = C_DIGIT, ['6'] = C_DIGIT, ['7'] = C_DIGIT, ['8'] = C_DIGIT,
    ['9'] = C_DIGIT,
    ['-'] = C_MINUS, ['+'] = C_PLUS, ['.'] = C_POINT, ['E'] = C_BIGE,
    ['a'] = C_A, ['e'] = C_E, ['f'] = C_F, ['l'] = C_L, ['n'] = C_N,
    ['r'] = C_R, ['s'] = C_S, ['t'] = C_T, ['u'] = C_U,
    [' '] = C_END, ['\t'] = C_END, ['\n'] = C_END, ['\r'] = C_END,
    [','] = C_END, [':'] = C_END, ['"'] = C_END,
    ['['] = C_END, [']'] = C_END, ['{'] = C_END, ['}'] = C_END
};


#define LUNARY_END  [C_END] = N_END

static const uint8_t  lunary_scan_scalar[N_STATES][C_CLASSES] = {
    [N_BAD]   = { LUNARY_END },
    [N_START] = { LUNARY_END, [C_MINUS] = N_MINUS, [C_ZERO] = N_ZERO,
                  [C_DIGIT] = N_INT, [C_T] = N_T, [C_F] = N_F, [C_N] = N_N },
    [N_MINUS] = { LUNARY_END, [C_ZERO] = N_ZERO, [C_DIGIT] = N_INT },
    [N_POINT] = { LUNARY_END, [C_ZERO] = N_FRAC, [C_DIGIT] = N_FRAC },
    [N_EXP]   = { LUNARY_END, [C_ZERO] = N_EXPD, [C_DIGIT] = N_EXPD,
                  [C_PLUS] = N_SIGN, [C_MINUS] = N_SIGN },
    [N_SIGN]  = { LUNARY_END, [C_ZERO] = N_EXPD, [C_DIGIT] = N_EXPD },
    [N_T]     = { LUNARY_END, [C_R] = N_TR },
    [N_TR]    = { LUNARY_END, [C_U] = N_TRU },
    [N_TRU]   = { LUNARY_END, [C_E] = N_TRUE },
    [N_F]     = { LUNARY_END, [C_A] = N_FA },
    [N_FA]    = { LUNARY_END, [C_L] = N_FAL },
    [N_FAL]   = { LUNARY_END, [C_S] = N_FALS },
    [N_FALS]  = { LUNARY_END, [C_E] = N_FALSE },
    [N_N]     = { LUNARY_END, [C_U] = N_NU },
    [N_NU]    = { LUNARY_END, [C_L] = N_NUL },
    [N_NUL]   = { LUNARY_END, [C_L] = N_NULL },
    [N_TRUE]  = { LUNARY_END },
    [N_FALSE] = { LUNARY_END },
    [N_NULL]  = { LUNARY_END },
    [N_ZERO]  = { LUNARY_END, [C_POINT] = N_POINT, [C_E] = N_EXP,
                  [C_BIGE] = N_EXP },
    [N_INT]   = { LUNARY_END, [C_ZERO] = N_INT, [C_DIGIT] = N_INT,
                  [C_POINT] = N_POINT, [C_E] = N_EXP, [C_BIGE] = N_EXP },
    [N_FRAC]  = { LUNARY_END, [C_ZERO] = N_FRAC, [C_DIGIT] = N_FRAC,
                  [C_E] = N_EXP, [C_BIGE] = N_EXP },
    [N_EXPD]  = { LUNARY_END, [C_ZERO] = N_EXPD, [C_DIGIT] = N_EXPD }
};

#undef LUNARY_END


/* what may stand behind a backslash and is the whole escape then */

static const uint8_t  lunary_scan_simple[256] = {
    ['"'] = 1, ['\\'] = 1, ['/'] = 1, ['b'] = 1, ['f'] = 1, ['n'] = 1,
    ['r'] = 1, ['t'] = 1
};


#define lunary_scan_is_space(c)                                              \
    ((c) == ' ' || (c) == '\n' || (c) == '\r' || (c) == '\t')


static lunary_scan_event_e lunary_scan_string(lunary_scan_t *s,
    const unsigned char **p, const unsigned char *end);
static lunary_scan_event_e lunary_scan_name(lunary_scan_t *s,
    const unsigned char **p, const unsigned char *end);
static lunary_scan_event_e lunary_scan_word(lunary_scan_t *s,
    const unsigned char **p, const unsigned char *end);
static const unsigned char *lunary_scan_plain(const unsigned char *p,
    const unsigned char *end, unsigned *sub);
static int lunary_scan_escape(lunary_scan_t *s, unsigned char c);
static lunary_scan_event_e lunary_scan_utf8(lunary_scan_t *s,
    const unsigned char **p, const unsigned char *end);
static int lunary_scan_space(lunary_scan_t *s, const unsigned char **p,
    const unsigned char *end, lunary_scan_event_e *ev);
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

    if (lunary_scan_class[c] == C_END
        || (s->strict
            && lunary_scan_scalar[N_START][lunary_scan_class[c]] == N_BAD))
    {
        s->state = LUNARY_SCAN_S_VALUE;
        goto bad;
    }

    s->token = lunary_scan_offset(s, p);
    s->start = p;
    s->state = LUNARY_SCAN_S_SCALAR;
    s->sub = N_START;
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
    const unsigned char  *p;

    p = *pp;

    while (p < end && lunary_scan_is_space(*p)) {
        p++;
    }

    if (p != *pp && (s->want & LUNARY_SCAN_WANT_SPACE)) {
        s->start = *pp;
        *pp = p;
        *ev = LUNARY_SCAN_SPACE;

        return 0;
    }

    *pp = p;
    *ev = LUNARY_SCAN_MORE;

    return p != end;
}


int
lunary_scan_finish(lunary_scan_t *s)
{
    if (s->depth == 0 && s->state == LUNARY_SCAN_S_SCALAR
        && s->sub >= N_TRUE)
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


/* the inside of a string or key: STRING_END, MORE, REPAIR or ERROR */

static lunary_scan_event_e
lunary_scan_string(lunary_scan_t *s, const unsigned char **pp,
    const unsigned char *end)
{
    int                   n;
    unsigned char         c;
    const unsigned char  *p;
    lunary_scan_event_e   ev;

    p = *pp;

    while (p < end) {

        if (s->sub != LUNARY_SUB_PLAIN) {

            if (s->sub == LUNARY_SUB_UTF8) {
                *pp = p;
                ev = lunary_scan_utf8(s, pp, end);
                p = *pp;

                if (ev != LUNARY_SCAN_MORE) {
                    return ev;
                }

                continue;
            }

            if (lunary_scan_escape(s, *p) != LUNARY_OK) {
                *pp = p;
                return LUNARY_SCAN_ERROR;
            }

            p++;
            continue;
        }

        p = lunary_simd_text(p, end);

        if (p == end) {
            break;
        }

        c = *p;

        if (c == '"') {
            *pp = p + 1;
            return LUNARY_SCAN_STRING_END;
        }

        if (c == '\\') {

            if (end - p > 1 && lunary_scan_simple[p[1]]) {
                p += 2;

            } else {
                s->sub = LUNARY_SUB_ESCAPE;
                p++;
            }

            continue;
        }

        if (c < 0x20) {

            if (s->strict) {
                *pp = p;
                return LUNARY_SCAN_ERROR;
            }

            s->repair = 1;
            s->control = c;
            s->utf8_back = 0;
            *pp = p + 1;

            return LUNARY_SCAN_REPAIR;
        }

        p = lunary_utf8_run(p, end, &n);

        if (n > 0) {
            continue;
        }

        if (n == 0) {
            s->utf8_n = (uint8_t) (end - p);
            s->utf8_back = s->utf8_n;
            memcpy(s->utf8, p, s->utf8_n);
            s->sub = LUNARY_SUB_UTF8;
            p = end;
            break;
        }

        s->repair = (uint8_t) -n;
        s->control = 0x80;
        s->utf8_back = 0;
        *pp = p - n;

        return LUNARY_SCAN_REPAIR;
    }

    *pp = end;

    return LUNARY_SCAN_MORE;
}


static int
lunary_scan_escape(lunary_scan_t *s, unsigned char c)
{
    if (s->sub == LUNARY_SUB_ESCAPE) {

        if (lunary_scan_simple[c]) {
            s->sub = LUNARY_SUB_PLAIN;
            return LUNARY_OK;
        }

        if (c == 'u') {
            s->sub = LUNARY_SUB_HEX4;
            return LUNARY_OK;
        }

        return LUNARY_ERROR;
    }

    if (lunary_hex(c) < 0) {
        return LUNARY_ERROR;
    }

    s->sub--;

    return LUNARY_OK;
}


/* a character that the piece before began: MORE (it is a good one, or goes
 * on), or REPAIR */

static lunary_scan_event_e
lunary_scan_utf8(lunary_scan_t *s, const unsigned char **pp,
    const unsigned char *end)
{
    int                   n;
    uint32_t              cp;
    const unsigned char  *p;

    for (p = *pp; p < end; p++) {

        s->utf8[s->utf8_n] = *p;

        n = lunary_utf8_char(s->utf8, s->utf8 + s->utf8_n + 1, &cp);

        if (n < 0) {

            /* this byte is none of it and stands for itself */

            s->repair = (uint8_t) (s->utf8_n - s->utf8_back);
            s->control = 0x80;
            s->utf8_n = 0;
            s->sub = LUNARY_SUB_PLAIN;
            *pp = p;

            return LUNARY_SCAN_REPAIR;
        }

        if (n > 0) {
            s->utf8_n = 0;
            s->sub = LUNARY_SUB_PLAIN;
            *pp = p + 1;

            return LUNARY_SCAN_MORE;
        }

        s->utf8_n++;
    }

    s->utf8_back = s->utf8_n;
    *pp = end;

    return LUNARY_SCAN_MORE;
}


/* the inside of a key that is long, escaped, or in pieces */

static lunary_scan_event_e
lunary_scan_name(lunary_scan_t *s, const unsigned char **pp,
    const unsigned char *end)
{
    size_t                n, room;
    lunary_scan_event_e   ev;
    const unsigned char  *p, *last;

    p = *pp;
    last = end;

    if (p == end) {
        return LUNARY_SCAN_MORE;
    }

    if (!s->notify) {

        if (s->len >= s->key_limit) {
            s->notify = 1;
            return LUNARY_SCAN_KEY_LONG;
        }

        if ((size_t) (end - p) > s->key_limit - s->len) {
            last = p + (s->key_limit - s->len);
        }
    }

    ev = lunary_scan_string(s, pp, last);

    n = (size_t) (*pp - p) - (ev == LUNARY_SCAN_STRING_END);

    if (s->len < LUNARY_SCAN_KEY_MAX) {
        room = LUNARY_SCAN_KEY_MAX - s->len;
        memcpy(s->name + s->len, p, n < room ? n : room);
    }

    s->len += n;

    if (ev == LUNARY_SCAN_STRING_END) {
        s->start = NULL;
        s->state = LUNARY_SCAN_S_COLON;
        s->key.data = s->name;
        s->key.len = (s->len <= LUNARY_SCAN_KEY_MAX) ? s->len : 0;

        return LUNARY_SCAN_KEY;
    }

    if (ev == LUNARY_SCAN_MORE && last != end) {
        s->notify = 1;
        return LUNARY_SCAN_KEY_LONG;
    }

    return ev;
}


/*
 * A number or a literal: SCALAR, MORE, ERROR or LIMIT; MORE before the end
 * where it has ended and nobody wants to know.
 */

static lunary_scan_event_e
lunary_scan_word(lunary_scan_t *s, const unsigned char **pp,
    const unsigned char *end)
{
    unsigned              sub, next;
    const unsigned char  *p;

    p = *pp;
    sub = s->sub;
    next = sub;

    if (sub == N_START) {
        p = lunary_scan_plain(p, end, &sub);
    }

    for ( /* void */ ; p < end; p++) {
        next = lunary_scan_scalar[sub][lunary_scan_class[*p]];

        if (next == N_END || (next == N_BAD && s->strict)) {
            break;
        }

        sub = next;
    }

    s->len += (size_t) (p - *pp);
    s->sub = (uint8_t) sub;
    *pp = p;

    if (s->len > LUNARY_SCAN_SCALAR_MAX) {
        *pp -= s->len - LUNARY_SCAN_SCALAR_MAX;
        return LUNARY_SCAN_LIMIT;
    }

    if (p == end) {
        return LUNARY_SCAN_MORE;
    }

    s->bad = (sub < N_TRUE);

    if (s->strict && (s->bad || next == N_BAD)) {
        return LUNARY_SCAN_ERROR;
    }

    s->number = (sub >= N_ZERO);
    s->value_end = lunary_scan_offset(s, p);
    s->state = s->depth ? LUNARY_SCAN_S_NEXT : LUNARY_SCAN_S_DONE;

    if (s->bad || s->depth == 0 || (s->want & LUNARY_SCAN_WANT_SCALAR)) {
        return LUNARY_SCAN_SCALAR;
    }

    if ((s->want & LUNARY_SCAN_WANT_COUNT)
        && (!s->number || s->numbers++ == s->numbers_max))
    {
        return LUNARY_SCAN_SCALAR;
    }

    s->start = NULL;

    return LUNARY_SCAN_MORE;
}


/* the part before the exponent of a number that is all there: a short cut
 * through the table, which is slow on long rows of digits */

static const unsigned char *
lunary_scan_plain(const unsigned char *p, const unsigned char *end,
    unsigned *sub)
{
    const unsigned char  *start, *q;

    start = p;
    p += (*p == '-');
    q = p;

    if (p < end && *p == '0') {
        p++;
        *sub = N_ZERO;

    } else {

        while (p < end && *p >= '0' && *p <= '9') {
            p++;
        }

        if (p == q) {
            *sub = N_START;
            return start;
        }

        *sub = N_INT;
    }

    if (end - p > 1 && *p == '.' && p[1] >= '0' && p[1] <= '9') {

        for (p += 2; p < end && *p >= '0' && *p <= '9'; p++) {
            /* void */
        }

        *sub = N_FRAC;
    }

    return p;
}
