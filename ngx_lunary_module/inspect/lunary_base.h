/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What every file of inspect/ and run/ stands on: slices, growing buffers and
 * counted memory.  Plain C11: nothing here or above it sees nginx or Redis.
 *
 * Invariants
 *   - a lunary_str_t borrows its bytes; who lends them is said at each use;
 *   - a lunary_buf_t owns its bytes, which come from one lunary_mem_t;
 *   - all memory of a call is taken through one lunary_mem_t, so that what a
 *     call holds can be read (and bounded by tests) as mem->used, mem->peak;
 *   - an allocation that fails is a return value, never an exit.
 */

#ifndef LUNARY_BASE_H
#define LUNARY_BASE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>


/* what functions of inspect/ return unless they say otherwise */

#define LUNARY_OK         0
#define LUNARY_DONE       1      /* nothing more to come                     */
#define LUNARY_ERROR    (-1)     /* the bytes are not what they should be    */
#define LUNARY_NOMEM    (-2)     /* an allocation failed; state is kept sane */
#define LUNARY_LIMIT    (-3)     /* a bound of ours was reached              */


/* a slice: bytes that somebody else owns; data may be NULL where len is 0 */

typedef struct {
    size_t                len;
    const unsigned char  *data;
} lunary_str_t;

#define lunary_string(s)  { sizeof(s) - 1, (const unsigned char *) (s) }
#define lunary_null_str   { 0, NULL }


static inline lunary_str_t
lunary_str(const void *data, size_t len)
{
    lunary_str_t  s;

    s.len = len;
    s.data = (const unsigned char *) data;

    return s;
}


static inline int
lunary_str_eq(lunary_str_t a, const char *b, size_t len)
{
    return a.len == len && (len == 0 || memcmp(a.data, b, len) == 0);
}

#define lunary_eq(s, lit)  lunary_str_eq(s, lit, sizeof(lit) - 1)


/* a bit for each ASCII letter of either case; others share them */

#define lunary_letter(c)  ((uint32_t) 1 << ((c) & 31))


/*
 * Where memory comes from.  fn() is realloc() that is told the old size:
 * (NULL, 0, n) allocates, (p, old, 0) frees and returns NULL, otherwise
 * resizes.  It returns NULL when there is none, and p is then still valid.
 * used and peak count the bytes handed out.
 */

typedef struct lunary_mem_s  lunary_mem_t;

struct lunary_mem_s {
    void                *(*fn)(void *ctx, void *p, size_t old, size_t size);
    void                  *ctx;
    size_t                 used;
    size_t                 peak;
};

/* fills *mem with the C library's allocator */
void lunary_mem_init(lunary_mem_t *mem);

void *lunary_realloc(lunary_mem_t *mem, void *p, size_t old, size_t size);
#define lunary_alloc(mem, size)     lunary_realloc(mem, NULL, 0, size)
#define lunary_free(mem, p, size)   ((void) lunary_realloc(mem, p, size, 0))


/* a growing buffer; all zeroes is an empty one */

typedef struct {
    unsigned char         *data;
    size_t                 len;
    size_t                 cap;
} lunary_buf_t;

/*
 * reserve: room for n more bytes (LUNARY_OK or LUNARY_NOMEM);
 * append: copies n bytes in; the bytes may not lie in the buffer itself.
 * After LUNARY_NOMEM the buffer is as it was.
 */
int lunary_buf_grow(lunary_mem_t *mem, lunary_buf_t *b, size_t n);

static inline int
lunary_buf_reserve(lunary_mem_t *mem, lunary_buf_t *b, size_t n)
{
    return (n <= b->cap - b->len) ? LUNARY_OK : lunary_buf_grow(mem, b, n);
}


static inline int
lunary_buf_append(lunary_mem_t *mem, lunary_buf_t *b, const void *p, size_t n)
{
    if (n == 0) {
        return LUNARY_OK;
    }

    if (lunary_buf_reserve(mem, b, n) != LUNARY_OK) {
        return LUNARY_NOMEM;
    }

    memcpy(b->data + b->len, p, n);
    b->len += n;

    return LUNARY_OK;
}


int lunary_buf_append_int(lunary_mem_t *mem, lunary_buf_t *b, int64_t n);

#define lunary_buf_lit(mem, b, lit)                                          \
    lunary_buf_append(mem, b, lit, sizeof(lit) - 1)

static inline void
lunary_buf_free(lunary_mem_t *mem, lunary_buf_t *b)
{
    if (b->data != NULL) {
        lunary_free(mem, b->data, b->cap);

        b->data = NULL;
        b->cap = 0;
    }

    b->len = 0;
}


static inline lunary_str_t
lunary_buf_str(const lunary_buf_t *b)
{
    return lunary_str(b->data, b->len);
}


#endif /* LUNARY_BASE_H */
