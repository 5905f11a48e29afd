/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * lunary_json.h over any bytes: nothing is read outside, every slice lies in
 * the text, what is valid is walked to its end, and decoding an encoded
 * string gives it back.
 */

#include "fuzz.h"

#include "lunary_json.h"


static size_t
walk(lunary_str_t v, unsigned depth)
{
    size_t              n;
    lunary_str_t        key, val;
    lunary_json_iter_t  it;

    n = 1;

    if (depth == 0) {
        return n;
    }

    lunary_json_iter(&it, v);

    while (lunary_json_member(&it, &key, &val)) {
        must(key.data > v.data && key.data + key.len < v.data + v.len);
        must(val.data > key.data && val.data + val.len <= v.data + v.len);
        n += walk(val, depth - 1);
    }

    lunary_json_iter(&it, v);

    while (lunary_json_element(&it, &val)) {
        must(val.data > v.data && val.data + val.len <= v.data + v.len);
        n += walk(val, depth - 1);
    }

    return n;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int                   valid;
    int64_t               number;
    lunary_str_t          v, text;
    lunary_mem_t          mem;
    lunary_buf_t          a, b;
    unsigned char        *copy;
    const unsigned char  *p;

    lunary_mem_init(&mem);
    memset(&a, 0, sizeof(a));
    memset(&b, 0, sizeof(b));

    copy = fuzz_copy(data, size);
    text = lunary_str(copy, size);

    valid = lunary_json_valid(text, 512);

    p = copy;
    v = lunary_json_value(&p, copy + size);

    must(p >= copy && p <= copy + size);
    must(!valid || v.len != 0);

    (void) walk(v, 8);
    (void) lunary_json_get(v, "content");
    (void) lunary_json_at(v, 3);

    if (lunary_json_int(v, &number) && valid) {
        must(lunary_json_type(v) == LUNARY_JSON_NUMBER);
    }

    /* a repaired valid text is what it was but for nothing */

    must(lunary_json_copy(&mem, &a, v) == LUNARY_OK);
    must(lunary_utf8_valid(lunary_buf_str(&a)));

    if (valid) {
        must(a.len == v.len && memcmp(a.data, v.data, v.len) == 0);
    }

    /* escape, then unescape: the same bytes where they are UTF-8 */

    a.len = 0;
    must(lunary_json_escape(&mem, &a, text) == LUNARY_OK);
    must(lunary_buf_append(&mem, &b, "\"", 1) == LUNARY_OK);
    must(lunary_buf_append(&mem, &b, a.data, a.len) == LUNARY_OK);
    must(lunary_buf_append(&mem, &b, "\"", 1) == LUNARY_OK);
    must(lunary_json_valid(lunary_buf_str(&b), 1));

    b.len = 0;
    must(lunary_json_unescape(&mem, &b, lunary_buf_str(&a)) == LUNARY_OK);

    if (lunary_utf8_valid(text)) {
        must(b.len == size && (size == 0 || memcmp(b.data, copy, size) == 0));
    }

    /* any inside */

    b.len = 0;
    (void) lunary_json_unescape(&mem, &b, text);
    must(lunary_utf8_valid(lunary_buf_str(&b)));

    lunary_buf_free(&mem, &a);
    lunary_buf_free(&mem, &b);
    must(mem.used == 0);

    free(copy);

    return 0;
}
