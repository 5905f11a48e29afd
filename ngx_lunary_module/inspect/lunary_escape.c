/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Strings of JSON: decoding, encoding and repairing.  See lunary_json.h.
 */

#include "lunary_escape.h"
#include "lunary_json.h"
#include "lunary_simd.h"
#include "lunary_utf8.h"


static int lunary_escape_hex4(const unsigned char *p,
    const unsigned char *end);
static int lunary_escape_control(lunary_mem_t *mem, lunary_buf_t *out,
    unsigned char c);
static int lunary_escape_utf8(lunary_mem_t *mem, lunary_buf_t *out,
    const unsigned char **p, const unsigned char *end);


int
lunary_hex(unsigned char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }

    c |= 0x20;

    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }

    return -1;
}


/* the value of the four digits at p, or -1 */

static int
lunary_escape_hex4(const unsigned char *p, const unsigned char *end)
{
    int  i, h, n;

    if (end - p < 4) {
        return -1;
    }

    n = 0;

    for (i = 0; i < 4; i++) {
        h = lunary_hex(p[i]);

        if (h < 0) {
            return -1;
        }

        n = n * 16 + h;
    }

    return n;
}


int
lunary_escape_read(const unsigned char **pp, const unsigned char *end,
    unsigned char out[4], int *lone)
{
    int                   n, low;
    const unsigned char  *p;

    p = *pp;

    if (end - p < 2) {
        return -1;
    }

    *pp = p + 2;

    switch (p[1]) {

    case '"':
    case '\\':
    case '/':
        out[0] = p[1];
        return 1;

    case 'b':
        out[0] = '\b';
        return 1;

    case 'f':
        out[0] = '\f';
        return 1;

    case 'n':
        out[0] = '\n';
        return 1;

    case 'r':
        out[0] = '\r';
        return 1;

    case 't':
        out[0] = '\t';
        return 1;

    case 'u':
        break;

    default:
        *pp = p;
        return -1;
    }

    n = lunary_escape_hex4(p + 2, end);

    if (n < 0) {
        *pp = p;
        return -1;
    }

    *pp = p + 6;

    if (n >= 0xd800 && n <= 0xdbff && end - p >= 12 && p[6] == '\\'
        && p[7] == 'u')
    {
        low = lunary_escape_hex4(p + 8, end);

        if (low >= 0xdc00 && low <= 0xdfff) {
            *pp = p + 12;
            n = 0x10000 + ((n - 0xd800) << 10) + (low - 0xdc00);
        }
    }

    if (n >= 0xd800 && n <= 0xdfff) {
        *lone = 1;
        n = 0xfffd;
    }

    return lunary_utf8_put(out, (uint32_t) n);
}


int
lunary_escape_lone(lunary_str_t inside)
{
    int                   lone;
    unsigned char         out[4];
    const unsigned char  *p, *end;

    lone = 0;
    end = inside.data + inside.len;

    for (p = lunary_simd_backslash(inside.data, end);
         p < end && !lone;
         p = lunary_simd_backslash(p, end))
    {
        if (lunary_escape_read(&p, end, out, &lone) < 0) {
            p++;
        }
    }

    return lone;
}


int
lunary_escape_eq(lunary_str_t inside, lunary_str_t bytes)
{
    int                   n, lone;
    unsigned char         out[4];
    const unsigned char  *p, *end, *b, *bend;

    /* bytes that need no escape are never longer than what stands for them */

    if (inside.len < bytes.len) {
        return 0;
    }

    if (inside.len == bytes.len) {
        return (bytes.len == 0
                || memcmp(inside.data, bytes.data, bytes.len) == 0)
               && lunary_simd_backslash(inside.data, inside.data + inside.len)
                  == inside.data + inside.len;
    }

    p = inside.data;
    end = p + inside.len;
    b = bytes.data;
    bend = b + bytes.len;

    while (p < end) {

        if (*p != '\\') {

            if (b == bend || *p++ != *b++) {
                return 0;
            }

            continue;
        }

        lone = 0;
        n = lunary_escape_read(&p, end, out, &lone);

        if (n < 0 || lone || bend - b < n || memcmp(out, b, (size_t) n) != 0) {
            return 0;
        }

        b += n;
    }

    return b == bend;
}


int
lunary_json_unescape(lunary_mem_t *mem, lunary_buf_t *out,
    lunary_str_t inside)
{
    int                   n, lone;
    unsigned char         c[4];
    const unsigned char  *p, *q, *end;

    if (inside.len == 0) {
        return LUNARY_OK;
    }

    p = inside.data;
    end = p + inside.len;

    /* never longer than it was but for bad bytes: one allocation mostly */

    if (lunary_buf_reserve(mem, out, inside.len) != LUNARY_OK) {
        return LUNARY_NOMEM;
    }

    while (p < end) {

        q = lunary_simd_text(p, end);

        if (lunary_buf_append(mem, out, p, (size_t) (q - p)) != LUNARY_OK) {
            return LUNARY_NOMEM;
        }

        p = q;

        if (p == end) {
            break;
        }

        if (*p >= 0x80) {
            if (lunary_escape_utf8(mem, out, &p, end) != LUNARY_OK) {
                return LUNARY_NOMEM;
            }

            continue;
        }

        if (*p != '\\') {
            c[0] = *p++;
            n = 1;

        } else {
            n = lunary_escape_read(&p, end, c, &lone);

            if (n < 0) {
                return LUNARY_ERROR;
            }
        }

        if (lunary_buf_append(mem, out, c, (size_t) n) != LUNARY_OK) {
            return LUNARY_NOMEM;
        }
    }

    return LUNARY_OK;
}


int
lunary_json_escape(lunary_mem_t *mem, lunary_buf_t *out, lunary_str_t bytes)
{
    int                   rc;
    const unsigned char  *p, *q, *end;

    if (bytes.len == 0) {
        return LUNARY_OK;
    }

    p = bytes.data;
    end = p + bytes.len;

    if (lunary_buf_reserve(mem, out, bytes.len) != LUNARY_OK) {
        return LUNARY_NOMEM;
    }

    while (p < end) {

        q = lunary_simd_text(p, end);

        if (lunary_buf_append(mem, out, p, (size_t) (q - p)) != LUNARY_OK) {
            return LUNARY_NOMEM;
        }

        p = q;

        if (p == end) {
            break;
        }

        if (*p >= 0x80) {
            rc = lunary_escape_utf8(mem, out, &p, end);

        } else {
            rc = lunary_escape_control(mem, out, *p++);
        }

        if (rc != LUNARY_OK) {
            return rc;
        }
    }

    return LUNARY_OK;
}


int
lunary_json_copy(lunary_mem_t *mem, lunary_buf_t *out, lunary_str_t text)
{
    int                   rc, inside, whole;
    const unsigned char  *p, *q, *end;

    if (text.len == 0) {
        return LUNARY_OK;
    }

    p = text.data;
    end = p + text.len;

    if (lunary_buf_reserve(mem, out, text.len) != LUNARY_OK) {
        return LUNARY_NOMEM;
    }

    /* what starts like a value with strings in it is one; all else (numbers
     * and literals too) has no place for a raw control character */

    whole = text.len != 0 && (*p == '{' || *p == '[' || *p == '"');
    inside = !whole;

    while (p < end) {

        q = lunary_simd_text(p, end);

        if (lunary_buf_append(mem, out, p, (size_t) (q - p)) != LUNARY_OK) {
            return LUNARY_NOMEM;
        }

        p = q;

        if (p == end) {
            break;
        }

        if (*p >= 0x80) {
            if (lunary_escape_utf8(mem, out, &p, end) != LUNARY_OK) {
                return LUNARY_NOMEM;
            }

            continue;
        }

        if (*p < 0x20 && (inside || (*p != '\n' && *p != '\r' && *p != '\t'))) {
            rc = lunary_escape_control(mem, out, *p++);

        } else {

            /* an escape is taken whole: its second byte may be a quote */

            if (*p == '"' && whole) {
                inside = !inside;
            }

            q = p + 1 + (*p == '\\' && end - p > 1 && p[1] >= 0x20
                         && p[1] < 0x80);
            rc = lunary_buf_append(mem, out, p, (size_t) (q - p));
            p = q;
        }

        if (rc != LUNARY_OK) {
            return rc;
        }
    }

    return LUNARY_OK;
}


/* appends a quote, backslash or control as it is written inside a string */

static int
lunary_escape_control(lunary_mem_t *mem, lunary_buf_t *out, unsigned char c)
{
    size_t                n;
    unsigned char         e[6];
    static const char     hex[] = "0123456789abcdef";
    static const char     names[] = "btn.fr";      /* 0x08 ... 0x0d */

    e[0] = '\\';
    n = 2;

    if (c == '"' || c == '\\') {
        e[1] = c;

    } else if (c >= 0x08 && c <= 0x0d && c != 0x0b) {
        e[1] = (unsigned char) names[c - 0x08];

    } else {
        e[1] = 'u';
        e[2] = '0';
        e[3] = '0';
        e[4] = (unsigned char) hex[c >> 4];
        e[5] = (unsigned char) hex[c & 0x0f];
        n = 6;
    }

    return lunary_buf_append(mem, out, e, n);
}


/* appends the bytes from *p on that are above 0x7f, up to the first that is
 * not; moves *p there */

static int
lunary_escape_utf8(lunary_mem_t *mem, lunary_buf_t *out,
    const unsigned char **pp, const unsigned char *end)
{
    int                   n;
    uint32_t              cp;
    const unsigned char  *p, *start;

    p = *pp;

    while (p < end && *p >= 0x80) {

        start = p;

        do {
            n = lunary_utf8_char(p, end, &cp);
            p += (n > 0) ? n : 0;
        } while (n > 0 && p < end && *p >= 0x80);

        if (lunary_buf_append(mem, out, start, (size_t) (p - start))
            != LUNARY_OK)
        {
            return LUNARY_NOMEM;
        }

        if (n > 0) {
            break;
        }

        /* cut short by the end: one U+FFFD for what there is */

        p = (n == 0) ? end : p - n;

        if (lunary_buf_append(mem, out, LUNARY_UTF8_BAD, LUNARY_UTF8_BAD_LEN)
            != LUNARY_OK)
        {
            return LUNARY_NOMEM;
        }
    }

    *pp = p;

    return LUNARY_OK;
}
