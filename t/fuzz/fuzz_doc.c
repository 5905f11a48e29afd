/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * lunary_doc.h: pieces make no difference; what comes out is valid JSON and
 * not longer than allowed; strict accepts just what lunary_json_valid() does,
 * which shares no code with it; memory is bounded.  What lunary_whole.h says
 * can be read in place is what a document keeps byte for byte, and its tape
 * leads to what a walk down the text leads to.
 *
 * Input: how to cut (1 byte), bound and mode (1 byte), the text.  A byte 0xF0
 * followed by n repeats the eight bytes behind it 2^(n mod 12) times, so that
 * short inputs make long texts.
 */

#include "fuzz.h"

#include "lunary_doc.h"
#include "lunary_json.h"
#include "lunary_walk.h"


#define TEXT_MAX  (1 << 18)


static size_t
expand(const uint8_t *p, size_t n, unsigned char *out)
{
    size_t  i, k, len, times;

    len = 0;

    for (i = 0; i < n && len < TEXT_MAX; i++) {

        if (p[i] != 0xf0 || n - i < 10) {
            out[len++] = p[i];
            continue;
        }

        times = (size_t) 1 << (p[i + 1] % 12);

        for (k = 0; k < times && len + 8 <= TEXT_MAX; k++) {
            memcpy(out + len, p + i + 2, 8);
            len += 8;
        }

        i += 9;
    }

    return len;
}


static int
run(lunary_doc_t *d, const unsigned char *p, size_t n, int how)
{
    int             rc;
    size_t          at, k;
    unsigned char  *piece;

    rc = LUNARY_OK;

    for (at = 0; at < n && rc >= 0; at += k) {
        k = (how < 0) ? n : fuzz_piece((unsigned) how, at, n - at);
        piece = fuzz_copy(p + at, k);
        rc = lunary_doc_feed(d, piece, k);
        free(piece);
    }

    return lunary_doc_finish(d);
}


/* what is said to be an array is one */

static void
array(const lunary_doc_t *d)
{
    lunary_str_t          a, text;
    const unsigned char  *p;

    a = lunary_doc_array(d);
    text = lunary_doc_text(d);

    if (a.len != 0) {
        p = a.data;
        must(p >= text.data && p + a.len <= text.data + text.len && *p == '[');
        must(lunary_json_value(&p, text.data + text.len).len == a.len);
    }
}


/* both stand before a value: the same values, and the same end */

static void
same(lunary_walk_t *tape, lunary_walk_t *text, unsigned depth)
{
    lunary_str_t   a, b;
    lunary_walk_t  u, v;

    must(lunary_walk_object(&(lunary_walk_t) { tape->p, tape->end,
                                               tape->node })
         == lunary_walk_object(&(lunary_walk_t) { text->p, text->end, NULL }));

    u = *tape;
    v = *text;

    if (depth < 3 && lunary_walk_object(&u)) {
        (void) lunary_walk_object(&v);

        while (lunary_walk_key(&u, &a)) {
            must(lunary_walk_key(&v, &b));
            must(a.len == b.len && a.data == b.data);
            same(&u, &v, depth + 1);
        }

        must(!lunary_walk_key(&v, &b));

    } else if (depth < 3 && lunary_walk_array(&u)) {
        must(lunary_walk_array(&v));

        while (lunary_walk_element(&u)) {
            must(lunary_walk_element(&v));
            same(&u, &v, depth + 1);
        }

        must(!lunary_walk_element(&v));
    }

    a = lunary_walk_value(tape);
    b = lunary_walk_value(text);

    must(a.len == b.len && a.data == b.data);
    must(u.node == tape->node || depth >= 3 || (a.data[0] != '{'
                                                && a.data[0] != '['));
}


static void
in_place(const unsigned char *p, size_t n, size_t max, unsigned flags,
    lunary_str_t text, int rc)
{
    size_t         len;
    unsigned char  *copy;
    lunary_walk_t   w, v;
    lunary_tape_t   tape;

    copy = fuzz_copy(p, n);
    len = lunary_whole(copy, n, max, &tape);

    must(len == lunary_whole(copy, n, max, NULL));

    if (len != 0) {
        must(len == n || !(flags & LUNARY_DOC_STRICT)
             || rc == LUNARY_ERROR || len == text.len);

        if (rc == LUNARY_OK) {
            must(len == text.len && memcmp(copy, text.data, len) == 0);
        }

        must(rc == LUNARY_OK || (flags & LUNARY_DOC_STRICT));

        if (tape.n != 0) {
            lunary_walk_tape(&w, lunary_str(copy, len), &tape);
            lunary_walk_start(&v, lunary_str(copy, len));
            same(&w, &v, 0);
        }
    }

    free(copy);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int                    rc, whole, closed;
    size_t                 max, n, removed;
    unsigned               flags;
    lunary_str_t           a, b;
    lunary_mem_t           mem;
    lunary_buf_t           out;
    lunary_doc_t          *d, *pieces;

    static unsigned char   text[TEXT_MAX + 16];

    if (size < 2) {
        return 0;
    }

    max = (size_t) 2048 << (data[1] >> 1 & 3);
    flags = (data[1] & 1) ? LUNARY_DOC_STRICT : 0;

    n = expand(data + 2, size - 2, text);

    lunary_mem_init(&mem);

    d = lunary_doc_create(&mem, max, (data[1] & 8) ? 64 : 0, flags);
    must(d != NULL);

    whole = run(d, text, n, -1);

    must(mem.peak <= max + max / 8 + 8192);

    pieces = lunary_doc_create(&mem, max, (data[1] & 8) ? 64 : 0, flags);
    must(pieces != NULL);

    rc = run(pieces, text, n, data[0]);

    must(rc == whole);

    if (flags && lunary_utf8_valid(lunary_str(text, n))
        && whole != LUNARY_LIMIT)
    {
        must((whole == LUNARY_OK)
             == lunary_json_valid(lunary_str(text, n), 512));
    }

    if (n != 0 && (text[0] == '{' || text[0] == '[')) {
        in_place(text, n, max, flags,
                 whole == LUNARY_OK ? lunary_doc_text(d) : lunary_str(NULL, 0),
                 whole);
    }

    closed = whole;

    if (whole != LUNARY_OK) {
        closed = lunary_doc_close(d);
        must(lunary_doc_close(pieces) == closed);
    }

    if (closed == LUNARY_OK) {
        a = lunary_doc_text(d);
        b = lunary_doc_text(pieces);

        must(a.len <= max);
        must(lunary_json_valid(a, 512));
        must(a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
        must(lunary_doc_removed(d) == lunary_doc_removed(pieces));

        array(d);
        array(pieces);

        /* and smaller still */

        memset(&out, 0, sizeof(out));

        must(lunary_doc_cap(&mem, &out, a, a.len / 2, &removed) == LUNARY_OK);
        must(out.len <= a.len / 2 || out.len == 4);
        must(lunary_json_valid(lunary_buf_str(&out), 512));

        lunary_buf_free(&mem, &out);
    }

    lunary_doc_destroy(d);
    lunary_doc_destroy(pieces);
    must(mem.used == 0);

    return 0;
}
