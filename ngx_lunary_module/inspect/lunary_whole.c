/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A JSON text that lies whole in memory.  See lunary_whole.h.
 *
 * The last byte is known to be a bracket, and a bracket ends every token but a
 * string: so the end is looked for inside of strings and behind closing
 * brackets only.
 */

#include "lunary_media.h"
#include "lunary_scan.h"
#include "lunary_simd.h"
#include "lunary_string.h"
#include "lunary_whole.h"

#if defined(__SSE2__) && defined(__x86_64__)
#define LUNARY_WHOLE_AVX2  __attribute__((target("avx2,bmi")))
#include <immintrin.h>
#endif


#define LUNARY_WHOLE_KEY     128      /* a document may cut a longer one      */
#define LUNARY_WHOLE_MANY    SIZE_MAX

#define LUNARY_WHOLE_INLINE                                                  \
    static inline __attribute__((always_inline))

#define lunary_whole_digit(c)  ((unsigned char) ((c) - '0') <= 9)

typedef size_t (*lunary_whole_pt)(const unsigned char *p, size_t n,
    lunary_tape_t *tape);


static const unsigned char *lunary_whole_rest(const unsigned char *p,
    const unsigned char *end);
static const unsigned char *lunary_whole_fraction(const unsigned char *p);
static const unsigned char *lunary_whole_space(const unsigned char *p,
    const unsigned char *end);
static int lunary_whole_media(const unsigned char *p,
    const unsigned char *start);


/* where a string ends that begins before p: its closing quote, or NULL where
 * it has none, or something that is to be mended before it */

#if defined(LUNARY_WHOLE_AVX2)

LUNARY_WHOLE_AVX2 static inline const unsigned char *
lunary_whole_avx2_string(const unsigned char *p, const unsigned char *end)
{
    __m256i   x, m;
    unsigned  bits;

    while (end - p >= 32) {

        /* as signed numbers, bytes above 0x7f are below 0x20 too */

        x = _mm256_loadu_si256((const __m256i *) p);
        m = _mm256_or_si256(_mm256_cmpeq_epi8(x, _mm256_set1_epi8('"')),
                            _mm256_cmpeq_epi8(x, _mm256_set1_epi8('\\')));
        m = _mm256_or_si256(m, _mm256_cmpgt_epi8(_mm256_set1_epi8(0x20), x));

        bits = (unsigned) _mm256_movemask_epi8(m);

        if (bits) {
            p += __builtin_ctz(bits);

            if (*p == '"') {
                return p;
            }

            break;
        }

        p += 32;
    }

    return lunary_whole_rest(p, end);
}

#endif


static inline const unsigned char *
lunary_whole_any_string(const unsigned char *p, const unsigned char *end)
{
#if defined(__SSE2__)

    unsigned  m;

    if (end - p >= 16) {
        m = lunary_sse2_text(p);

        if (m) {
            p += __builtin_ctz(m);

            if (*p == '"') {
                return p;
            }

        } else {
            p += 16;
        }
    }

#endif

    return lunary_whole_rest(p, end);
}


/*
 * The text itself.  `string` is one of the functions above, taped says whether
 * there is a tape: what is constant here is compiled for each.  Returns
 * LUNARY_WHOLE_MANY where there are too many nodes.
 *
 * `node` is the next one to be written; its key is, already.  `up` is the one
 * whose bracket is open, and its `next` the distance to the one around it.
 */

LUNARY_WHOLE_INLINE size_t
lunary_whole_read(const unsigned char *p, size_t n, lunary_tape_t *tape,
    int taped, const unsigned char *(*string)(const unsigned char *p,
    const unsigned char *end))
{
    uint64_t              arrays;
    uint32_t              above;
    unsigned              depth, numbers;
    lunary_node_t        *node, *up, *limit;
    const unsigned char  *q, *start, *end;

    start = p;
    end = p + n;

    depth = 0;
    numbers = 0;
    arrays = 0;                           /* bit 0: the innermost one is      */

    node = up = limit = NULL;

    if (taped) {
        node = tape->nodes;
        limit = node + LUNARY_WHOLE_NODES;
        up = node;
        node->key_len = 0;
    }

value:

    if (taped) {

        if (node == limit) {
            return LUNARY_WHOLE_MANY;
        }

        node->start = (uint32_t) (p - start);
    }

    switch (*p) {

    case '"':
        q = string(p + 1, end);

        if (q == NULL) {
            return 0;
        }

        if (q - p > LUNARY_MEDIA_RUN
            && (arrays & 1 || memcmp(p + 1, "data:", 5) == 0
                || lunary_whole_media(p, start)))
        {
            return 0;
        }

        p = q + 1;
        break;

    case '{':
        arrays <<= 1;
        goto open;

    case '[':
        arrays = arrays << 1 | 1;
        numbers = 0;
        goto open;

    case 't':
    case 'n':

        if (end - p < 5
            || (memcmp(p, "null", 4) != 0 && memcmp(p, "true", 4) != 0))
        {
            return 0;
        }

        p += 4;
        break;

    case 'f':

        if (end - p < 6 || memcmp(p + 1, "alse", 4) != 0) {
            return 0;
        }

        p += 5;
        break;

    case ' ': case '\t': case '\r': case '\n':
        p = lunary_whole_space(p, end);

        if (p == NULL) {
            return 0;
        }

        goto value;

    default:
        q = p;
        p += (*p == '-');

        if (*p == '0') {
            p++;

        } else {

            if (!lunary_whole_digit(*p)) {
                return 0;
            }

            do {
                p++;
            } while (lunary_whole_digit(*p));
        }

        if (*p == '.' || *p == 'e' || *p == 'E') {
            p = lunary_whole_fraction(p);

            if (p == NULL) {
                return 0;
            }
        }

        if (p - q > LUNARY_SCAN_SCALAR_MAX
            || (arrays & 1 && ++numbers > LUNARY_MEDIA_NUMBERS))
        {
            return 0;
        }
    }

    if (taped) {
        node->end = (uint32_t) (p - start);
        node->next = 1;
        node++;
    }

next:

    /* a value has ended, and not with the last byte */

    if (*p <= ' ') {
        p = lunary_whole_space(p, end);

        if (p == NULL) {
            return 0;
        }
    }

    if (*p == ',') {
        p++;

        if (arrays & 1) {

            if (taped && node < limit) {
                node->key_len = 0;
            }

            goto value;
        }

        if (*p <= ' ') {
            p = lunary_whole_space(p, end);

            if (p == NULL) {
                return 0;
            }
        }

        goto name;
    }

    if (*p != ((arrays & 1) ? ']' : '}')) {
        return 0;
    }

close:

    p++;
    depth--;
    arrays >>= 1;

    if (taped) {

        if (node == limit) {
            return LUNARY_WHOLE_MANY;
        }

        node->key_len = LUNARY_NODE_END;
        node++;

        up->end = (uint32_t) (p - start);

        above = up->next;
        up->next = (uint32_t) (node - up);
        up -= above;
    }

    if (depth == 0) {

        if (taped) {
            tape->text = start;
            tape->n = (unsigned) (node - tape->nodes);
        }

        return (size_t) (p - start);
    }

    if (p == end) {
        return 0;
    }

    goto next;

open:

    if (depth++ == LUNARY_WHOLE_NESTED) {
        return 0;
    }

    p++;

    if (taped) {
        node->next = (uint32_t) (node - up);
        up = node++;
    }

    if (*p <= ' ') {
        p = lunary_whole_space(p, end);

        if (p == NULL) {
            return 0;
        }
    }

    if (arrays & 1) {

        if (*p == ']') {
            goto close;
        }

        if (taped && node < limit) {
            node->key_len = 0;
        }

        goto value;
    }

    if (*p == '}') {
        goto close;
    }

name:

    if (*p != '"') {
        return 0;
    }

    p++;
    q = string(p, end);

    if (q == NULL || q - p > LUNARY_WHOLE_KEY - 2) {
        return 0;
    }

    if (taped && node < limit) {
        node->key = (uint32_t) (p - start);
        node->key_len = (uint32_t) (q - p);
    }

    p = q + 1;

    if (*p != ':') {
        p = lunary_whole_space(p, end);

        if (p == NULL || *p != ':') {
            return 0;
        }
    }

    p++;

    goto value;
}


static size_t
lunary_whole_any(const unsigned char *p, size_t n, lunary_tape_t *tape)
{
    if (tape != NULL) {
        return lunary_whole_read(p, n, tape, 1, lunary_whole_any_string);
    }

    return lunary_whole_read(p, n, NULL, 0, lunary_whole_any_string);
}


#if defined(LUNARY_WHOLE_AVX2)

LUNARY_WHOLE_AVX2 static size_t
lunary_whole_avx2(const unsigned char *p, size_t n, lunary_tape_t *tape)
{
    size_t  len;

    len = (tape != NULL)
          ? lunary_whole_read(p, n, tape, 1, lunary_whole_avx2_string)
          : lunary_whole_read(p, n, NULL, 0, lunary_whole_avx2_string);

    _mm256_zeroupper();                                /* see lunary_simd.c */

    return len;
}

#endif


size_t
lunary_whole(const unsigned char *p, size_t n, size_t max,
    lunary_tape_t *tape)
{
    size_t           len;
    lunary_whole_pt  read;

    /* white space behind the value, mostly none */

    while (n > 0 && p[n - 1] <= ' ') {
        n--;
    }

    if (n < 2 || n > max || n > LUNARY_WHOLE_MAX
        || (*p != '{' && *p != '[')
        || (p[n - 1] != '}' && p[n - 1] != ']'))
    {
        return 0;
    }

    read = lunary_whole_any;

#if defined(LUNARY_WHOLE_AVX2)

    if (lunary_simd_wide()) {
        read = lunary_whole_avx2;
    }

#endif

    len = read(p, n, tape);

    if (len == LUNARY_WHOLE_MANY) {
        tape->n = 0;
        len = read(p, n, NULL);
    }

    return len;
}


/* a long string's quote is at p, behind its name: may it be base64? */

static int
lunary_whole_media(const unsigned char *p, const unsigned char *start)
{
    const unsigned char  *end;

    /* a colon, and white space around it */

    while (p[-1] != '"') {
        p--;
    }

    end = --p;

    /* an escaped quote makes a name shorter that is none of those */

    while (p > start && p[-1] != '"') {
        p--;
    }

    return lunary_media_class(lunary_str(p, (size_t) (end - p))) != 0;
}


static const unsigned char *
lunary_whole_rest(const unsigned char *p, const unsigned char *end)
{
    p = lunary_string_span(p, end);

    return (p < end && *p == '"') ? p : NULL;
}


/* what is behind white space, NULL where that is the end, or a document would
 * not keep all of it */

static const unsigned char *
lunary_whole_space(const unsigned char *p, const unsigned char *end)
{
    const unsigned char  *q;

    q = lunary_simd_space(p, end);

    return (q == end || q - p > LUNARY_SCAN_SPACE_MAX) ? NULL : q;
}


/* what is behind a number's fraction and exponent, NULL where they are none */

static const unsigned char *
lunary_whole_fraction(const unsigned char *p)
{
    if (*p == '.') {
        p++;

        if (!lunary_whole_digit(*p)) {
            return NULL;
        }

        do {
            p++;
        } while (lunary_whole_digit(*p));
    }

    if (*p == 'e' || *p == 'E') {
        p++;
        p += (*p == '+' || *p == '-');

        if (!lunary_whole_digit(*p)) {
            return NULL;
        }

        do {
            p++;
        } while (lunary_whole_digit(*p));
    }

    return p;
}
