/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The run's fields and their encoding.  See lunary_run.h.  Every call passes
 * here once, so the names are kept in wire form, only fields that are set are
 * visited, and short values are copied without a call.
 */

#include "lunary_run.h"


/* the longest decimal text of an int64_t */
#define LUNARY_RUN_DIGITS  20


/*
 * A name as it is written: "$5\r\nmodel\r\n$", the last "$" beginning the
 * value's length.  head is right-aligned, so that it joins name whether the
 * length has one digit or two (Redis refuses leading zeros).
 */

typedef struct {
    unsigned char  head[5];
    char           name[27];
} lunary_run_name_t;

#define LUNARY_RUN_NAME(sym, text, class)                                    \
    { { (sizeof(text) - 1 < 10) ? 0 : '$',                                   \
        (sizeof(text) - 1 < 10) ? '$' : '0' + (sizeof(text) - 1) / 10,       \
        '0' + (sizeof(text) - 1) % 10, '\r', '\n' },                         \
      text "\r\n$" },

static const lunary_run_name_t  lunary_run_names[] = {
    LUNARY_RUN_FIELDS(LUNARY_RUN_NAME)
};


#define LUNARY_RUN_LEN(sym, text, class)  sizeof(text) - 1,

static const unsigned char  lunary_run_lens[] = {
    LUNARY_RUN_FIELDS(LUNARY_RUN_LEN)
};


#define LUNARY_RUN_FITS(sym, text, class)                                    \
    _Static_assert(sizeof(text) - 1 >= 1                                     \
                   && sizeof(text) - 1 + 3 < sizeof(((lunary_run_name_t *)   \
                                                     0)->name),              \
                   "a field's name is too long: " text);

LUNARY_RUN_FIELDS(LUNARY_RUN_FITS)


/* "00" "01" ... "99" */

static const char  lunary_run_pairs[] =
    "0001020304050607080910111213141516171819"
    "2021222324252627282930313233343536373839"
    "4041424344454647484950515253545556575859"
    "6061626364656667686970717273747576777879"
    "8081828384858687888990919293949596979899";


static inline size_t lunary_run_uint_len(uint64_t n);
static inline unsigned char *lunary_run_uint(unsigned char *last, uint64_t n);
static inline unsigned char *lunary_run_copy(unsigned char *dst,
    const void *src, size_t n);


void
lunary_run_init(lunary_run_t *run)
{
    memset(run->value, 0, sizeof(run->value));

    run->set = 0;
    run->used = 0;
}


void
lunary_run_set(lunary_run_t *run, lunary_field_e f, lunary_str_t value)
{
    run->value[f] = value;

    if (value.len == 0) {
        run->set &= ~((uint64_t) 1 << f);
        return;
    }

    run->set |= (uint64_t) 1 << f;
}


void
lunary_run_set_int(lunary_run_t *run, lunary_field_e f, int64_t n)
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
    return lunary_str(lunary_run_names[f].name, lunary_run_lens[f]);
}


unsigned
lunary_run_count(const lunary_run_t *run)
{
    return (unsigned) __builtin_popcountll(run->set);
}


size_t
lunary_run_size(const lunary_run_t *run)
{
    size_t    size, len, name;
    uint64_t  set;
    unsigned  f;

    size = 0;

    for (set = run->set; set != 0; set &= set - 1) {

        f = (unsigned) __builtin_ctzll(set);

        name = lunary_run_lens[f];
        len = run->value[f].len;

        /* $N\r\n name \r\n $N\r\n value \r\n */

        size += 10 + (name < 10 ? 1 : 2) + name
                + lunary_run_uint_len(len) + len;
    }

    return size;
}


unsigned char *
lunary_run_encode(const lunary_run_t *run, unsigned char *dst)
{
    size_t                    len, skip;
    uint64_t                  set;
    unsigned                  f;
    unsigned char            *p;
    const lunary_str_t       *value;
    const lunary_run_name_t  *name;

    p = dst;

    for (set = run->set; set != 0; set &= set - 1) {

        f = (unsigned) __builtin_ctzll(set);

        name = &lunary_run_names[f];
        value = &run->value[f];

        /* head and name lie side by side; "$", one digit: a byte less */

        len = lunary_run_lens[f];
        skip = (len < 10);

        p = lunary_run_copy(p, (const unsigned char *) name + skip,
                            sizeof(name->head) - skip + len + 3);

        len = value->len;
        p += lunary_run_uint_len(len);

        (void) lunary_run_uint(p, len);

        *p++ = '\r';
        *p++ = '\n';

        p = lunary_run_copy(p, value->data, len);

        *p++ = '\r';
        *p++ = '\n';
    }

    return p;
}


/* the length of n's decimal text */

static inline size_t
lunary_run_uint_len(uint64_t n)
{
    size_t    len;
    uint64_t  limit;

    if (n < 10) {
        return 1;
    }

    if (n < 100) {
        return 2;
    }

    len = 2;

    for (limit = 100; n >= limit; limit *= 10) {
        len++;

        if (len == LUNARY_RUN_DIGITS) {
            break;
        }
    }

    return len;
}


/* writes the text of n so that it ends at last; returns its start */

static inline unsigned char *
lunary_run_uint(unsigned char *last, uint64_t n)
{
    while (n >= 100) {
        last -= 2;
        memcpy(last, lunary_run_pairs + (n % 100) * 2, 2);
        n /= 100;
    }

    if (n >= 10) {
        last -= 2;
        memcpy(last, lunary_run_pairs + n * 2, 2);
        return last;
    }

    *--last = (unsigned char) ('0' + n);

    return last;
}


/*
 * memcpy() that returns the end; most values are a few bytes long, and two
 * overlapping moves of a known size are cheaper than a call.
 */

static inline unsigned char *
lunary_run_copy(unsigned char *dst, const void *src, size_t n)
{
    const unsigned char  *s;

    s = src;

    if (n > 32) {
        memcpy(dst, s, n);

    } else if (n >= 16) {
        memcpy(dst, s, 16);
        memcpy(dst + n - 16, s + n - 16, 16);

    } else if (n >= 8) {
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

    return dst + n;
}


void
lunary_uuid7(unsigned char out[36], uint64_t ms,
    const unsigned char random[10])
{
    unsigned              i, n;
    unsigned char         id[16];

    static const char     hex[] = "0123456789abcdef";

    for (i = 0; i < 6; i++) {
        id[i] = (unsigned char) (ms >> (40 - 8 * i));
    }

    memcpy(id + 6, random, 10);

    id[6] = (unsigned char) ((id[6] & 0x0f) | 0x70);
    id[8] = (unsigned char) ((id[8] & 0x3f) | 0x80);

    n = 0;

    for (i = 0; i < 16; i++) {

        if (i == 4 || i == 6 || i == 8 || i == 10) {
            out[n++] = '-';
        }

        out[n++] = (unsigned char) hex[id[i] >> 4];
        out[n++] = (unsigned char) hex[id[i] & 0x0f];
    }
}
