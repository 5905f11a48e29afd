/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Finding bytes.  See lunary_simd.h.
 */

#include "lunary_simd.h"


const unsigned char *
lunary_simd_text(const unsigned char *p, const unsigned char *end)
{
    while (p < end && *p != '"' && *p != '\\' && *p >= 0x20 && *p < 0x80) {
        p++;
    }

    return p;
}


const unsigned char *
lunary_simd_quote(const unsigned char *p, const unsigned char *end)
{
    while (p < end && *p != '"' && *p != '\\') {
        p++;
    }

    return p;
}


const unsigned char *
lunary_simd_close(const unsigned char *p, const unsigned char *end)
{
    for ( ;; ) {
        p = lunary_simd_quote(p, end);

        if (p == end || *p == '"') {
            return p;
        }

        if (end - p < 2) {
            return end;
        }

        p += 2;
    }
}


const unsigned char *
lunary_simd_backslash(const unsigned char *p, const unsigned char *end)
{
    const void  *q;

    if (p == end) {
        return end;
    }

    q = memchr(p, '\\', (size_t) (end - p));

    return q ? q : end;
}


const unsigned char *
lunary_simd_bracket(const unsigned char *p, const unsigned char *end)
{
    while (p < end && *p != '"' && *p != '[' && *p != ']' && *p != '{'
           && *p != '}')
    {
        p++;
    }

    return p;
}


const unsigned char *
lunary_simd_number(const unsigned char *p, const unsigned char *end)
{
    while (p < end
           && ((*p >= '0' && *p <= '9') || *p == '-' || *p == '.' || *p == ','
               || *p == 'e' || *p == 'E' || *p == '+' || *p == ' '
               || *p == '\n' || *p == '\r' || *p == '\t'))
    {
        p++;
    }

    return p;
}


const unsigned char *
lunary_simd_base64(const unsigned char *p, const unsigned char *end)
{
    while (p < end
           && ((*p >= '0' && *p <= '9') || (*p >= 'A' && *p <= 'Z')
               || (*p >= 'a' && *p <= 'z') || *p == '+' || *p == '/'
               || *p == '-' || *p == '_' || *p == '='))
    {
        p++;
    }

    return p;
}
