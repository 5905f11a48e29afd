/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Values, members and numbers of a complete JSON text.  See lunary_json.h;
 * strings are decoded and encoded in lunary_escape.c, a text is judged in
 * lunary_valid.c.
 */

#include "lunary_escape.h"
#include "lunary_json.h"
#include "lunary_simd.h"
#include "lunary_walk.h"


#define lunary_json_is_space(c)                                              \
    ((c) == ' ' || (c) == '\n' || (c) == '\r' || (c) == '\t')


static const unsigned char *lunary_json_space(const unsigned char *p,
    const unsigned char *end);
static const unsigned char *lunary_json_string(const unsigned char *p,
    const unsigned char *end);
static int lunary_json_step(lunary_json_iter_t *it, unsigned char open);


lunary_json_type_t
lunary_json_type(lunary_str_t v)
{
    if (v.len == 0) {
        return LUNARY_JSON_NONE;
    }

    switch (v.data[0]) {

    case '{':
        return LUNARY_JSON_OBJECT;

    case '[':
        return LUNARY_JSON_ARRAY;

    case '"':
        return LUNARY_JSON_STRING;

    case 't':
        return LUNARY_JSON_TRUE;

    case 'f':
        return LUNARY_JSON_FALSE;

    case 'n':
        return LUNARY_JSON_NULL;

    case '-':
        return LUNARY_JSON_NUMBER;

    default:
        break;
    }

    if (v.data[0] >= '0' && v.data[0] <= '9') {
        return LUNARY_JSON_NUMBER;
    }

    return LUNARY_JSON_NONE;
}


lunary_str_t
lunary_json_value(const unsigned char **pp, const unsigned char *end)
{
    lunary_str_t          v;
    const unsigned char  *p, *start;

    v = lunary_str(NULL, 0);

    p = lunary_json_space(*pp, end);

    *pp = p;

    if (p == end) {
        return v;
    }

    start = p;

    switch (*p) {

    case '"':
        p = lunary_json_string(p, end);
        break;

    case '{':
    case '[':
        p = lunary_simd_nested(p + 1, end);
        break;

    default:

        /* a number or a literal runs up to what may stand behind it */

        while (p < end && *p != ',' && *p != ']' && *p != '}'
               && !lunary_json_is_space(*p) && *p != '"' && *p != ':'
               && *p != '[' && *p != '{')
        {
            p++;
        }

        if (lunary_json_type(lunary_str(start, (size_t) (p - start)))
            == LUNARY_JSON_NONE)
        {
            return v;
        }
    }

    if (p == NULL) {
        return v;
    }

    *pp = p;

    return lunary_str(start, (size_t) (p - start));
}


static const unsigned char *
lunary_json_space(const unsigned char *p, const unsigned char *end)
{
    while (p < end && lunary_json_is_space(*p)) {
        p++;
    }

    return p;
}


/* p is at a quote; returns what is behind the closing one, NULL without */

static const unsigned char *
lunary_json_string(const unsigned char *p, const unsigned char *end)
{
    p = lunary_simd_close(p + 1, end);

    return (p == end) ? NULL : p + 1;
}


void
lunary_json_iter(lunary_json_iter_t *it, lunary_str_t v)
{
    it->p = v.data;
    it->end = v.data;

    if (lunary_json_is_object(v) || lunary_json_is_array(v)) {

        /* without the closing bracket */

        it->end += v.len - 1;
    }
}


/*
 * Moves to the next entry: over the opening bracket, where that is where we
 * are, or over a comma.  0 where there is no next one.
 */

static int
lunary_json_step(lunary_json_iter_t *it, unsigned char open)
{
    it->p = lunary_json_space(it->p, it->end);

    if (it->p == it->end || (*it->p != open && *it->p != ',')) {
        it->p = it->end;
        return 0;
    }

    it->p = lunary_json_space(it->p + 1, it->end);

    return it->p != it->end;
}


int
lunary_json_member(lunary_json_iter_t *it, lunary_str_t *key,
    lunary_str_t *val)
{
    const unsigned char  *p;

    if (!lunary_json_step(it, '{')) {
        return 0;
    }

    if (*it->p == '"') {
        p = lunary_json_string(it->p, it->end);

        if (p != NULL) {
            *key = lunary_str(it->p + 1, (size_t) (p - it->p - 2));

            p = lunary_json_space(p, it->end);

            if (p < it->end && *p == ':') {
                it->p = p + 1;
                *val = lunary_json_value(&it->p, it->end);

                if (val->len != 0) {
                    return 1;
                }
            }
        }
    }

    it->p = it->end;

    return 0;
}


int
lunary_json_element(lunary_json_iter_t *it, lunary_str_t *val)
{
    if (lunary_json_step(it, '[')) {
        *val = lunary_json_value(&it->p, it->end);

        if (val->len != 0) {
            return 1;
        }
    }

    it->p = it->end;

    return 0;
}


size_t
lunary_json_pick(lunary_str_t obj, const lunary_str_t *keys,
    lunary_str_t *vals, size_t n)
{
    int            escaped;
    size_t         i, found;
    lunary_str_t   key, val;
    lunary_walk_t  w;

    for (i = 0; i < n; i++) {
        vals[i] = lunary_str(NULL, 0);
    }

    lunary_walk_start(&w, obj);

    if (!lunary_walk_object(&w)) {
        return 0;
    }

    found = 0;

    while (lunary_walk_key(&w, &key)) {

        val = lunary_walk_value(&w);

        if (val.len == 0) {
            break;
        }

        /* -1: not known yet */

        escaped = -1;

        for (i = 0; i < n; i++) {

            if (key.len < keys[i].len) {
                continue;
            }

            /* an escaped name is longer than what it stands for */

            if (key.len != keys[i].len && escaped < 0) {
                escaped = (memchr(key.data, '\\', key.len) != NULL);
            }

            if (key.len == keys[i].len
                ? memcmp(key.data, keys[i].data, key.len) == 0
                : escaped && lunary_escape_eq(key, keys[i]))
            {
                found += (vals[i].len == 0);
                vals[i] = val;
                break;
            }
        }
    }

    return found;
}


lunary_str_t
lunary_json_get_n(lunary_str_t obj, const char *key, size_t len)
{
    lunary_str_t  name, val;

    name = lunary_str(key, len);

    (void) lunary_json_pick(obj, &name, &val, 1);

    return val;
}


lunary_str_t
lunary_json_at(lunary_str_t arr, size_t i)
{
    lunary_str_t        val;
    lunary_json_iter_t  it;

    if (lunary_json_is_array(arr)) {
        lunary_json_iter(&it, arr);

        while (lunary_json_element(&it, &val)) {
            if (i-- == 0) {
                return val;
            }
        }
    }

    return lunary_str(NULL, 0);
}


lunary_str_t
lunary_json_inside(lunary_str_t v)
{
    if (!lunary_json_is_string(v)) {
        return lunary_str(NULL, 0);
    }

    return lunary_str(v.data + 1, v.len - 2);
}


/*
 * The digits are kept as a number without its trailing zeros and the power of
 * ten that these and the exponent make: so neither a long row of zeros nor a
 * large exponent costs more than reading it.
 */

int
lunary_json_int(lunary_str_t v, int64_t *n)
{
    int                   neg, eneg, frac, digits;
    int64_t               scale, zeros, exp;
    uint64_t              m, limit;
    const unsigned char  *p, *end;

    if (v.len == 0) {
        return 0;
    }

    p = v.data;
    end = p + v.len;

    neg = (p < end && *p == '-');
    p += neg;

    if (p == end || *p < '0' || *p > '9') {
        return 0;
    }

    if (*p == '0' && end - p > 1 && p[1] >= '0' && p[1] <= '9') {
        return 0;
    }

    m = 0;
    zeros = 0;
    scale = 0;
    digits = 0;
    frac = 0;

    for ( /* void */ ; p < end; p++) {

        if (*p == '.' && !frac) {
            frac = 1;

            if (end - p < 2 || p[1] < '0' || p[1] > '9') {
                return 0;
            }

            continue;
        }

        if (*p < '0' || *p > '9') {
            break;
        }

        scale -= frac;

        if (*p == '0') {
            zeros++;
            continue;
        }

        /* at most 19 digits fit; zeros before the first one are none */

        if (m != 0) {

            if (zeros + digits > 18) {
                return 0;
            }

            for ( /* void */ ; zeros > 0; zeros--) {
                m *= 10;
                digits++;
            }

        } else {
            zeros = 0;
        }

        if (digits > 18) {
            return 0;
        }

        m = m * 10 + (*p - '0');
        digits++;
    }

    exp = 0;

    if (p < end) {

        if (*p != 'e' && *p != 'E') {
            return 0;
        }

        p++;

        eneg = (p < end && *p == '-');

        if (p < end && (*p == '-' || *p == '+')) {
            p++;
        }

        if (p == end) {
            return 0;
        }

        for ( /* void */ ; p < end; p++) {

            if (*p < '0' || *p > '9') {
                return 0;
            }

            if (exp < INT64_MAX / 16) {
                exp = exp * 10 + (*p - '0');
            }
        }

        exp = eneg ? -exp : exp;
    }

    if (m == 0) {
        *n = 0;
        return 1;
    }

    scale += zeros + exp;

    if (scale < 0 || scale > 18) {
        return 0;
    }

    limit = (uint64_t) INT64_MAX + (uint64_t) neg;

    for ( /* void */ ; scale > 0; scale--) {

        if (m > limit / 10) {
            return 0;
        }

        m *= 10;
    }

    if (m > limit) {
        return 0;
    }

    *n = neg ? (int64_t) (0 - m) : (int64_t) m;

    return 1;
}
