/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The scanner, inside of tokens.  See lunary_scan.h.
 */

#include "lunary_escape.h"
#include "lunary_scan_internal.h"
#include "lunary_simd.h"
#include "lunary_string.h"
#include "lunary_utf8.h"


/*
 * Numbers and literals: a table from state and class of byte to state.  From
 * N_TRUE on a state is a value; N_END is what may stand behind one.
 */

enum {
    N_BAD = 0,
    N_START = LUNARY_SCAN_WORD, N_MINUS, N_POINT, N_EXP, N_SIGN,
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


static int lunary_scan_escape(lunary_scan_t *s, unsigned char c);
static lunary_scan_event_e lunary_scan_utf8(lunary_scan_t *s,
    const unsigned char **p, const unsigned char *end);
static const unsigned char *lunary_scan_plain(const unsigned char *p,
    const unsigned char *end, unsigned *sub);


lunary_scan_event_e
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

        p = lunary_string_span(p, end);

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


lunary_scan_event_e
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


lunary_scan_event_e
lunary_scan_word(lunary_scan_t *s, const unsigned char **pp,
    const unsigned char *end)
{
    unsigned              sub, next;
    const unsigned char  *p;

    p = *pp;
    sub = s->sub;
    next = sub;

    if (sub == LUNARY_SCAN_WORD) {
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


#if defined(__SSE2__)

#define LUNARY_SCAN_BLOCK  64


/* a bit for each byte of four vectors whose sign is set */

static inline uint64_t
lunary_scan_bits(const __m128i x[4])
{
    return (uint64_t) (unsigned) _mm_movemask_epi8(x[0])
           | (uint64_t) (unsigned) _mm_movemask_epi8(x[1]) << 16
           | (uint64_t) (unsigned) _mm_movemask_epi8(x[2]) << 32
           | (uint64_t) (unsigned) _mm_movemask_epi8(x[3]) << 48;
}


/* ... that is c */

static inline uint64_t
lunary_scan_is(const __m128i x[4], char c)
{
    unsigned  i;
    __m128i   m[4];

    for (i = 0; i < 4; i++) {
        m[i] = _mm_cmpeq_epi8(x[i], _mm_set1_epi8(c));
    }

    return lunary_scan_bits(m);
}


/*
 * The numbers that are whole in LUNARY_SCAN_BLOCK bytes, and begin there, all
 * at once: returns behind the comma of the last one, *n becomes how many they
 * are; or NULL where they are none, or one has an exponent, or something is
 * wrong or white space.
 */

static inline const unsigned char *
lunary_scan_block(const unsigned char *p, unsigned *n)
{
    __m128i   x[4], m[4];
    unsigned  i, last;
    uint64_t  digit, comma, point, minus, start, first, all, wrong;

    for (i = 0; i < 4; i++) {
        x[i] = _mm_loadu_si128((const __m128i *) (p + 16 * i));

        /* no digit */

        m[i] = _mm_cmplt_epi8(_mm_add_epi8(x[i],
                                           _mm_set1_epi8((char) (0x7f - '9'))),
                              _mm_set1_epi8(0x7f - 9));
    }

    digit = ~lunary_scan_bits(m);
    comma = lunary_scan_is(x, ',');
    point = lunary_scan_is(x, '.');
    minus = lunary_scan_is(x, '-');

    /* up to the last comma behind which one more begins */

    all = comma & (digit | minus) >> 1;

    if (all == 0) {
        return NULL;
    }

    last = 63 - (unsigned) __builtin_clzll(all);
    all = ((uint64_t) 2 << last) - 1;

    comma &= all;
    point &= all;
    minus &= all;

    start = (comma << 1 | 1) & all;
    first = (start & ~minus) | (start & minus) << 1;

    /* a minus begins a number, no digit follows a zero that does, and a digit
     * stands before each comma and point */

    wrong = all & ~(digit | comma | point | minus);
    wrong |= minus & ~start;
    wrong |= (first & lunary_scan_is(x, '0')) << 1 & digit;
    wrong |= (comma | point) & ~(digit << 1);

    /* what ends the digits behind a point: added to, they carry */

    wrong |= ((point << 1) + digit) & ~digit & all & ~comma;

    if (wrong) {
        return NULL;
    }

    for (*n = 0; comma; comma &= comma - 1) {
        (*n)++;
    }

    return p + last + 1;
}

#endif


/*
 * Digits, perhaps a fraction, a comma, and the start of the next one: what is
 * anything else goes the long way.
 */

const unsigned char *
lunary_scan_numbers(lunary_scan_t *s, const unsigned char *p,
    const unsigned char *end)
{
#if defined(__SSE2__)

    unsigned              m, n;
    __m128i               x;
    const unsigned char  *q;

    while (end - p >= LUNARY_SCAN_BLOCK && s->numbers < s->numbers_max) {
        q = lunary_scan_block(p, &n);

        if (q == NULL || n > s->numbers_max - s->numbers) {
            break;
        }

        s->numbers += n;
        p = q;
    }

    while (end - p > 24 && s->numbers < s->numbers_max) {
        q = p + (*p == '-');

        /* a bit for each byte that is no digit */

        x = _mm_loadu_si128((const __m128i *) q);
        x = _mm_add_epi8(x, _mm_set1_epi8((char) (0x7f - '9')));
        m = (unsigned) _mm_movemask_epi8(
                _mm_cmplt_epi8(x, _mm_set1_epi8(0x7f - 9)));

        if (m == 0) {
            break;
        }

        n = (unsigned) __builtin_ctz(m);

        if (n == 0 || (n > 1 && *q == '0')) {
            break;
        }

        if (q[n] == '.') {
            m &= m - 1;

            if (m == 0 || (unsigned) __builtin_ctz(m) == n + 1) {
                break;
            }

            n = (unsigned) __builtin_ctz(m);
        }

        if (q[n] != ',' || (q[n + 1] != '-' && (q[n + 1] < '0'
                                                || q[n + 1] > '9')))
        {
            break;
        }

        s->numbers++;
        p = q + n + 1;
    }

#else

    (void) s;
    (void) end;

#endif

    return p;
}


int
lunary_scan_word_done(const lunary_scan_t *s)
{
    return s->sub >= N_TRUE;
}


int
lunary_scan_ends_word(unsigned char c)
{
    return lunary_scan_class[c] == C_END;
}
