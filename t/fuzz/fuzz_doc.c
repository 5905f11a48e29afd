/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * lunary_doc.h: pieces make no difference; what comes out is valid JSON and
 * not longer than allowed; strict accepts just what lunary_json_valid() does,
 * which shares no code with it; memory is bounded.
 *
 * Input: how to cut (1 byte), bound and mode (1 byte), the text.  A byte 0xF0
 * followed by n repeats the eight bytes behind it 2^(n mod 12) times, so that
 * short inputs make long texts.
 */

#include "fuzz.h"

#include "lunary_doc.h"
#include "lunary_json.h"


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
