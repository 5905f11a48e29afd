/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The filter that leaves usage chunks out: what it passes on must not depend
 * on the split, must be the stream without whole events, and the stream
 * itself where nothing was left out.
 */

#include <stdlib.h>

#include "inspect/lunary_usage_filter.h"


typedef struct {
    lunary_mem_t   *mem;
    lunary_buf_t    out;
    uint64_t        dropped;
} passed_t;


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
static void replay(lunary_mem_t *mem, const uint8_t *data, size_t size,
    unsigned split, passed_t *to);
static void on_bytes(void *ctx, const unsigned char *p, size_t n);


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t        i, k;
    unsigned      n;
    passed_t      whole, other;
    lunary_mem_t  mem;

    static const unsigned  splits[] = { 1, 2, 3, 7, 64 };

    lunary_mem_init(&mem);
    replay(&mem, data, size, 0, &whole);

    for (n = 0; n < sizeof(splits) / sizeof(splits[0]); n++) {
        replay(&mem, data, size, splits[n], &other);

        if (other.dropped != whole.dropped || other.out.len != whole.out.len
            || (whole.out.len != 0
                && memcmp(other.out.data, whole.out.data, whole.out.len)
                   != 0))
        {
            abort();
        }

        lunary_buf_free(&mem, &other.out);
    }

    if (whole.dropped == 0 && whole.out.len != size) {
        abort();
    }

    /* in order, nothing added */

    for (i = 0, k = 0; i < size && k < whole.out.len; i++) {
        k += (data[i] == whole.out.data[k]);
    }

    if (k != whole.out.len) {
        abort();
    }

    lunary_buf_free(&mem, &whole.out);

    if (mem.used != 0) {
        abort();
    }

    return 0;
}


static void
replay(lunary_mem_t *mem, const uint8_t *data, size_t size, unsigned split,
    passed_t *to)
{
    size_t                  off, n;
    uint8_t                *piece;
    lunary_usage_filter_t   f;

    memset(to, 0, sizeof(passed_t));
    to->mem = mem;

    lunary_usage_filter_init(&f, mem, on_bytes, to);

    for (off = 0; off < size; off += n) {
        n = split == 0 || split > size - off ? size - off : split;

        piece = malloc(n);

        if (piece == NULL) {
            abort();
        }

        memcpy(piece, data + off, n);
        (void) lunary_usage_filter_feed(&f, piece, n);
        free(piece);
    }

    lunary_usage_filter_end(&f);

    to->dropped = f.dropped;

    lunary_usage_filter_free(&f);
}


static void
on_bytes(void *ctx, const unsigned char *p, size_t n)
{
    passed_t  *to;

    to = ctx;

    if (lunary_buf_append(to->mem, &to->out, p, n) != LUNARY_OK) {
        abort();
    }
}
