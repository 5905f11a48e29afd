/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The run's fields and their encoding.  See lunary_run.h.  Every call passes
 * here once, so the names are kept in wire form, only fields that are set are
 * visited, and what is short is copied without a call.
 */

#include "lunary_run.h"


/* the longest decimal text of an int64_t */
#define LUNARY_RUN_DIGITS  20


/*
 * A name as it is written: "$5\r\nmodel\r\n$", the last "$" beginning the
 * value's length.  head is right-aligned, so that it joins name whether the
 * length has one digit or two (Redis refuses leading zeros); start says where
 * it begins, len how much there is.  LUNARY_RUN_MOVE bytes are copied always:
 * that is one move or two, and what is too much is written over by the value.
 */

#define LUNARY_RUN_MOVE    32
#define LUNARY_RUN_AROUND  (LUNARY_RUN_MOVE + LUNARY_RUN_DIGITS + 2 + 2)

typedef struct {
    unsigned char  start;
    unsigned char  len;
    unsigned char  name_len;
    unsigned char  head[5];
    char           name[LUNARY_RUN_MOVE];
} lunary_run_name_t;

#define LUNARY_RUN_NAME(sym, text, class)                                    \
    { offsetof(lunary_run_name_t, head) + (sizeof(text) - 1 < 10),           \
      (sizeof(text) - 1 < 10 ? 4 : 5) + sizeof(text) - 1 + 3,                \
      sizeof(text) - 1,                                                      \
      { (sizeof(text) - 1 < 10) ? 0 : '$',                                   \
        (sizeof(text) - 1 < 10) ? '$' : '0' + (sizeof(text) - 1) / 10,       \
        '0' + (sizeof(text) - 1) % 10, '\r', '\n' },                         \
      text "\r\n$" },

static const lunary_run_name_t  lunary_run_names[] = {
    LUNARY_RUN_FIELDS(LUNARY_RUN_NAME)
};


#define LUNARY_RUN_FITS(sym, text, class)                                    \
    _Static_assert(sizeof(text) - 1 >= 1                                     \
                   && 5 + sizeof(text) - 1 + 3 <= LUNARY_RUN_MOVE,           \
                   "a field's name is too long: " text);

LUNARY_RUN_FIELDS(LUNARY_RUN_FITS)


const char  lunary_run_pairs[] =
    "0001020304050607080910111213141516171819"
    "2021222324252627282930313233343536373839"
    "4041424344454647484950515253545556575859"
    "6061626364656667686970717273747576777879"
    "8081828384858687888990919293949596979899";


/* lengths of values as they are written, up to 99 */

#define LUNARY_RUN_TEN(t)                                                    \
    t "0\r\n", t "1\r\n", t "2\r\n", t "3\r\n", t "4\r\n",                   \
    t "5\r\n", t "6\r\n", t "7\r\n", t "8\r\n", t "9\r\n"

static const char  lunary_run_lengths[100][5] = {
    LUNARY_RUN_TEN(""), LUNARY_RUN_TEN("1"), LUNARY_RUN_TEN("2"),
    LUNARY_RUN_TEN("3"), LUNARY_RUN_TEN("4"), LUNARY_RUN_TEN("5"),
    LUNARY_RUN_TEN("6"), LUNARY_RUN_TEN("7"), LUNARY_RUN_TEN("8"),
    LUNARY_RUN_TEN("9")
};


static unsigned char *lunary_run_uint(unsigned char *last, uint64_t n);
static size_t lunary_run_width(uint64_t n);
static inline unsigned char *lunary_run_copy(unsigned char *dst,
    const void *src, size_t n);


void
lunary_run_init(lunary_run_t *run)
{
    memset(run->value, 0, sizeof(run->value));

    run->set = 0;
    run->bytes = 0;
    run->used = 0;
}


void
lunary_run_set_long(lunary_run_t *run, lunary_field_e f, int64_t n)
{
    size_t          i;
    uint64_t        abs;
    uintptr_t       old;
    unsigned char  *p, *last;

    /* a field that is set again keeps its place */

    old = (uintptr_t) run->value[f].data - (uintptr_t) run->digits;

    if (old < sizeof(run->digits)) {
        i = old / LUNARY_RUN_DIGITS * LUNARY_RUN_DIGITS;

    } else if (sizeof(run->digits) - run->used >= LUNARY_RUN_DIGITS) {
        i = run->used;
        run->used += LUNARY_RUN_DIGITS;

    } else {
        lunary_run_set(run, f, lunary_str(NULL, 0));
        return;
    }

    last = run->digits + i + LUNARY_RUN_DIGITS;
    abs = (n < 0) ? 0 - (uint64_t) n : (uint64_t) n;

    p = lunary_run_uint(last, abs);

    if (n < 0) {
        *--p = '-';
    }

    lunary_run_set(run, f, lunary_str(p, (size_t) (last - p)));
}


lunary_str_t
lunary_run_name(lunary_field_e f)
{
    return lunary_str(lunary_run_names[f].name, lunary_run_names[f].name_len);
}


unsigned
lunary_run_count(const lunary_run_t *run)
{
    return (unsigned) __builtin_popcountll(run->set);
}


size_t
lunary_run_room(const lunary_run_t *run)
{
    /* name, length and line ends of each; behind the last name a move may go
     * too far */

    return run->bytes + lunary_run_count(run) * LUNARY_RUN_AROUND
           + LUNARY_RUN_MOVE;
}


unsigned char *
lunary_run_encode(const lunary_run_t *run, unsigned char *dst)
{
    size_t                    f, n;
    uint64_t                  set;
    unsigned char            *p;
    const lunary_run_name_t  *name;

    p = dst;

    for (set = run->set; set != 0; set &= set - 1) {

        f = (size_t) __builtin_ctzll(set);

        name = &lunary_run_names[f];

        memcpy(p, (const unsigned char *) name + name->start, LUNARY_RUN_MOVE);
        p += name->len;

        n = run->value[f].len;

        if (n < 100) {
            memcpy(p, lunary_run_lengths[n], 4);
            p += 3 + (n >= 10);

        } else {
            p += lunary_run_width(n);
            (void) lunary_run_uint(p, n);
            memcpy(p, "\r\n", 2);
            p += 2;
        }

        p = lunary_run_copy(p, run->value[f].data, n);
        memcpy(p, "\r\n", 2);
        p += 2;
    }

    return p;
}


/* writes the text of n so that it ends at last; returns its start */

static unsigned char *
lunary_run_uint(unsigned char *last, uint64_t n)
{
    unsigned  i;
    uint32_t  m;

    while (n >= 100000000) {
        m = (uint32_t) (n % 100000000);
        n /= 100000000;

        for (i = 0; i < 4; i++) {
            last -= 2;
            memcpy(last, lunary_run_pairs + (m % 100) * 2, 2);
            m /= 100;
        }
    }

    m = (uint32_t) n;

    while (m >= 100) {
        last -= 2;
        memcpy(last, lunary_run_pairs + (m % 100) * 2, 2);
        m /= 100;
    }

    if (m >= 10) {
        last -= 2;
        memcpy(last, lunary_run_pairs + m * 2, 2);
        return last;
    }

    *--last = (unsigned char) ('0' + m);

    return last;
}


/* how many digits n has, which is 100 or more */

static size_t
lunary_run_width(uint64_t n)
{
    size_t  width;

    for (width = 3; n >= 1000; width++) {
        n /= 10;
    }

    return width;
}


/*
 * memcpy() that returns the end; most values are a few bytes long, and two
 * overlapping moves of a known size are cheaper than a call.
 */

__attribute__((always_inline))
static inline unsigned char *
lunary_run_copy(unsigned char *dst, const void *src, size_t n)
{
    const unsigned char  *s;

    s = src;

    if (n <= 16) {

        if (n >= 8) {
            memcpy(dst, s, 8);
            memcpy(dst + n - 8, s + n - 8, 8);

        } else if (n >= 4) {
            memcpy(dst, s, 4);
            memcpy(dst + n - 4, s + n - 4, 4);

        } else if (n != 0) {
            dst[0] = s[0];
            dst[n / 2] = s[n / 2];
            dst[n - 1] = s[n - 1];
        }

    } else if (n <= 32) {
        memcpy(dst, s, 16);
        memcpy(dst + n - 16, s + n - 16, 16);

    } else if (n <= 64) {
        memcpy(dst, s, 32);
        memcpy(dst + n - 32, s + n - 32, 32);

    } else {
        memcpy(dst, s, n);
    }

    return dst + n;
}


/* four bytes at a time, their halves spread over the eight of a word */

void
lunary_run_hex(unsigned char dst[32], const unsigned char src[16])
{
    unsigned  i;
    uint32_t  x;
    uint64_t  w;

    for (i = 0; i < 16; i += 4) {

        memcpy(&x, src + i, 4);

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        x = __builtin_bswap32(x);
#endif

        w = x;
        w = (w | w << 16) & 0x0000ffff0000ffffull;
        w = (w | w << 8) & 0x00ff00ff00ff00ffull;
        w = (w >> 4 & 0x000f000f000f000full) | (w & 0x000f000f000f000full) << 8;

        /* from 10 on they are letters, which begin 39 further on */

        w += 0x3030303030303030ull
             + ((w + 0x0606060606060606ull) >> 4 & 0x0101010101010101ull) * 39;

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        w = __builtin_bswap64(w);
#endif

        memcpy(dst + 2 * i, &w, 8);
    }
}


void
lunary_uuid7(unsigned char out[36], uint64_t ms,
    const unsigned char random[10])
{
    unsigned       i;
    unsigned char  id[16], hex[32];

    for (i = 0; i < 6; i++) {
        id[i] = (unsigned char) (ms >> (40 - 8 * i));
    }

    memcpy(id + 6, random, 10);

    id[6] = (unsigned char) ((id[6] & 0x0f) | 0x70);
    id[8] = (unsigned char) ((id[8] & 0x3f) | 0x80);

    lunary_run_hex(hex, id);

    memcpy(out, hex, 8);
    out[8] = '-';
    memcpy(out + 9, hex + 8, 4);
    out[13] = '-';
    memcpy(out + 14, hex + 12, 4);
    out[18] = '-';
    memcpy(out + 19, hex + 16, 4);
    out[23] = '-';
    memcpy(out + 24, hex + 20, 12);
}
