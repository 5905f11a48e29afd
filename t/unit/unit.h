/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What unit tests share: cmocka, memory that can be made to fail, slices of
 * literals.
 */

#ifndef LUNARY_UNIT_H
#define LUNARY_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lunary_base.h"


#define text_of(s)  lunary_str(s, strlen(s))

#define assert_text(s, expected)                                             \
    unit_text(s, expected, strlen(expected), __FILE__, __LINE__)


static inline void
unit_text(lunary_str_t s, const char *expected, size_t len, const char *file,
    int line)
{
    if (s.len != len || (len && memcmp(s.data, expected, len) != 0)) {
        print_error("have %zu bytes: %.*s\nwant %zu bytes: %s\n", s.len,
                    (int) (s.len > 500 ? 500 : s.len),
                    s.len ? (const char *) s.data : "", len, expected);
        _fail(file, line);
    }
}


/* memory of the C library whose n-th allocation fails, n counted from 1 */

typedef struct {
    lunary_mem_t   mem;
    long           fail;               /* 0: none does                        */
    long           count;
} unit_mem_t;


static inline void *
unit_realloc(void *ctx, void *p, size_t old, size_t size)
{
    void        *q;
    unit_mem_t  *m = ctx;

    if (size == 0) {
        free(p);
        return NULL;
    }

    if (m->fail && ++m->count >= m->fail) {
        return NULL;
    }

    /* always elsewhere: a pointer kept over a call shows */

    q = malloc(size);

    if (q != NULL && p != NULL) {
        memcpy(q, p, old < size ? old : size);
        free(p);
    }

    return q;
}


static inline lunary_mem_t *
unit_mem(unit_mem_t *m, long fail)
{
    lunary_mem_init(&m->mem);

    m->mem.fn = unit_realloc;
    m->mem.ctx = m;
    m->fail = fail;
    m->count = 0;

    return &m->mem;
}


/* a copy that ends where its memory does, so that reading on is seen */

static inline unsigned char *
unit_copy(const void *p, size_t n)
{
    unsigned char  *q;

    q = malloc(n ? n : 1);
    assert_non_null(q);

    if (n) {
        memcpy(q, p, n);
    }

    return q;
}


#endif /* LUNARY_UNIT_H */
