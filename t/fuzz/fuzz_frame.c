/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Framing: any bytes as any kind of stream.  The events must be the same
 * whether the bytes come whole, one by one or in odd pieces, and no memory
 * may be left.
 */

#include <stdlib.h>

#include "inspect/lunary_frame.h"


typedef struct {
    uint64_t   hash;
    uint64_t   events;
} seen_t;


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
static void replay(lunary_frame_kind_e kind, const uint8_t *data, size_t size,
    unsigned split, seen_t *seen);
static void on_event(void *ctx, lunary_str_t name, lunary_str_t data,
    unsigned flags);
static uint64_t add(uint64_t hash, const void *p, size_t n);


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    seen_t               whole, other;
    lunary_frame_kind_e  kind;

    if (size < 2) {
        return 0;
    }

    kind = (lunary_frame_kind_e) (data[0] & 3);

    replay(kind, data + 2, size - 2, 0, &whole);
    replay(kind, data + 2, size - 2, 1, &other);

    if (other.hash != whole.hash || other.events != whole.events) {
        abort();
    }

    replay(kind, data + 2, size - 2, 2u + data[1], &other);

    if (other.hash != whole.hash || other.events != whole.events) {
        abort();
    }

    return 0;
}


static void
replay(lunary_frame_kind_e kind, const uint8_t *data, size_t size,
    unsigned split, seen_t *seen)
{
    size_t           off, n;
    uint8_t         *piece;
    lunary_mem_t     mem;
    lunary_frame_t   frame;

    seen->hash = 14695981039346656037u;
    seen->events = 0;

    lunary_mem_init(&mem);
    lunary_frame_init(&frame, &mem, kind, 32768, on_event, seen);

    for (off = 0; off < size; off += n) {
        n = split == 0 ? size : split == 1 ? 1 : 1 + (split * 7 + off) % split;

        if (n > size - off) {
            n = size - off;
        }

        /* a copy of its own: reading past a piece shows */

        piece = malloc(n);

        if (piece == NULL) {
            abort();
        }

        memcpy(piece, data + off, n);
        (void) lunary_frame_feed(&frame, piece, n);
        free(piece);
    }

    lunary_frame_end(&frame);
    lunary_frame_free(&frame);

    if (mem.used != 0) {
        abort();
    }
}


static void
on_event(void *ctx, lunary_str_t name, lunary_str_t data, unsigned flags)
{
    seen_t  *seen;

    seen = ctx;

    seen->events++;
    seen->hash = add(seen->hash, &flags, sizeof(flags));
    seen->hash = add(seen->hash, name.data, name.len);
    seen->hash = add(seen->hash, "|", 1);
    seen->hash = add(seen->hash, data.data, data.len);
    seen->hash = add(seen->hash, "|", 1);
}


static uint64_t
add(uint64_t hash, const void *p, size_t n)
{
    size_t          i;
    const uint8_t  *s;

    s = p;

    for (i = 0; i < n; i++) {
        hash = (hash ^ s[i]) * 1099511628211u;
    }

    return hash;
}
