/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Is a text JSON?  RFC 8259 to the letter, without recursion: one bit a level
 * tells arrays from objects.  See lunary_json_valid() in lunary_json.h.
 *
 * It shares no code with lunary_scan.c, so that tests can hold one against
 * the other.
 */

#include "lunary_escape.h"
#include "lunary_json.h"
#include "lunary_simd.h"
#include "lunary_utf8.h"


#define LUNARY_VALID_DEPTH  4096


static const unsigned char *lunary_valid_space(const unsigned char *p,
    const unsigned char *end);
static const unsigned char *lunary_valid_string(const unsigned char *p,
    const unsigned char *end);
static const unsigned char *lunary_valid_scalar(const unsigned char *p,
    const unsigned char *end);
static const unsigned char *lunary_valid_digits(const unsigned char *p,
    const unsigned char *end);


int
lunary_json_valid(lunary_str_t text, unsigned depth)
{
    int                   array;
    unsigned              level;
    unsigned char         stack[LUNARY_VALID_DEPTH / 8];
    const unsigned char  *p, *end;

    if (depth > LUNARY_VALID_DEPTH) {
        depth = LUNARY_VALID_DEPTH;
    }

    if (text.len == 0) {
        return 0;
    }

    p = text.data;
    end = p + text.len;
    level = 0;

value:

    p = lunary_valid_space(p, end);

    if (p == end) {
        return 0;
    }

    if (*p == '{' || *p == '[') {

        if (level == depth) {
            return 0;
        }

        array = (*p == '[');

        if (level % 8 == 0) {
            stack[level / 8] = 0;
        }

        /* the bits above this level's may be left from deeper ones */

        stack[level / 8] &= (unsigned char) ((1 << level % 8) - 1);
        stack[level / 8] |= (unsigned char) (array << level % 8);
        level++;

        p = lunary_valid_space(p + 1, end);

        if (p == end) {
            return 0;
        }

        if (*p == (array ? ']' : '}')) {
            goto close;
        }

        if (array) {
            goto value;
        }

        goto key;
    }

    p = (*p == '"') ? lunary_valid_string(p, end)
                    : lunary_valid_scalar(p, end);

    if (p == NULL) {
        return 0;
    }

next:

    p = lunary_valid_space(p, end);

    if (level == 0) {
        return p == end;
    }

    if (p == end) {
        return 0;
    }

    array = (stack[(level - 1) / 8] >> (level - 1) % 8) & 1;

    if (*p == ',') {
        p++;

        if (array) {
            goto value;
        }

        goto key;
    }

    if (*p != (array ? ']' : '}')) {
        return 0;
    }

close:

    p++;
    level--;

    goto next;

key:

    p = lunary_valid_space(p, end);

    if (p == end || *p != '"') {
        return 0;
    }

    p = lunary_valid_string(p, end);

    if (p == NULL) {
        return 0;
    }

    p = lunary_valid_space(p, end);

    if (p == end || *p != ':') {
        return 0;
    }

    p++;

    goto value;
}


static const unsigned char *
lunary_valid_space(const unsigned char *p, const unsigned char *end)
{
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')) {
        p++;
    }

    return p;
}


/* p is at the opening quote; what is behind the closing one, or NULL */

static const unsigned char *
lunary_valid_string(const unsigned char *p, const unsigned char *end)
{
    int       i, n;
    uint32_t  cp;

    p++;

    for ( ;; ) {
        p = lunary_simd_text(p, end);

        if (p == end || *p < 0x20) {
            return NULL;
        }

        if (*p == '"') {
            return p + 1;
        }

        if (*p >= 0x80) {
            n = lunary_utf8_char(p, end, &cp);

            if (n <= 0) {
                return NULL;
            }

            p += n;
            continue;
        }

        /* a backslash */

        if (end - p < 2) {
            return NULL;
        }

        if (p[1] == 'u') {

            if (end - p < 6) {
                return NULL;
            }

            for (i = 2; i < 6; i++) {
                if (lunary_hex(p[i]) < 0) {
                    return NULL;
                }
            }

            p += 6;
            continue;
        }

        if (p[1] == '\0' || strchr("\"\\/bfnrt", p[1]) == NULL) {
            return NULL;
        }

        p += 2;
    }
}


/* a literal or a number at p, p < end; what is behind it, or NULL */

static const unsigned char *
lunary_valid_scalar(const unsigned char *p, const unsigned char *end)
{
    size_t  i;

    static const lunary_str_t  literals[] = {
        lunary_string("true"),
        lunary_string("false"),
        lunary_string("null")
    };

    for (i = 0; i < sizeof(literals) / sizeof(literals[0]); i++) {

        if (*p == literals[i].data[0]) {

            if ((size_t) (end - p) < literals[i].len
                || memcmp(p, literals[i].data, literals[i].len) != 0)
            {
                return NULL;
            }

            return p + literals[i].len;
        }
    }

    if (*p == '-') {
        p++;
    }

    if (p < end && *p == '0') {
        p++;

    } else {
        p = lunary_valid_digits(p, end);

        if (p == NULL) {
            return NULL;
        }
    }

    if (p < end && *p == '.') {
        p = lunary_valid_digits(p + 1, end);

        if (p == NULL) {
            return NULL;
        }
    }

    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;

        if (p < end && (*p == '+' || *p == '-')) {
            p++;
        }

        p = lunary_valid_digits(p, end);
    }

    return p;
}


/* one digit or more; what is behind them, or NULL */

static const unsigned char *
lunary_valid_digits(const unsigned char *p, const unsigned char *end)
{
    const unsigned char  *start;

    start = p;

    while (p < end && *p >= '0' && *p <= '9') {
        p++;
    }

    return p == start ? NULL : p;
}
