/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the tests of documents share: a text that a test puts together, and
 * documents that get it in pieces.
 */

#ifndef LUNARY_UNIT_DOC_H
#define LUNARY_UNIT_DOC_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE              /* memmem() */
#endif

#include "unit.h"

#include "lunary_doc.h"
#include "lunary_json.h"


/* bytes of what is to be linear: seconds where it is, hours where not */

#if defined(BIG)
/* under an emulator, which the build says */
#elif defined(__SANITIZE_ADDRESS__)
#define BIG  (4 << 20)
#else
#define BIG  (64 << 20)
#endif

/* U+2026, as C takes it beside hexadecimal digits */
#define DOTS  "\xE2\x80\xA6"


static lunary_mem_t  mem;


/* a growing text of a test */

static lunary_buf_t  made;

#define MADE  (const char *) made.data, made.len


static inline void
start(const char *s)
{
    made.len = 0;
    lunary_buf_append(&mem, &made, s, strlen(s));
}


static inline void
more(const char *s)
{
    lunary_buf_append(&mem, &made, s, strlen(s));
}


static inline void
fill(char c, size_t n)
{
    assert_int_equal(lunary_buf_reserve(&mem, &made, n), LUNARY_OK);
    memset(made.data + made.len, c, n);
    made.len += n;
}


/* feeds text in pieces of n bytes (0: whole), each where it ends its memory */

static inline int
feed(lunary_doc_t *d, const char *text, size_t len, size_t n)
{
    int             rc;
    size_t          i, k;
    unsigned char  *piece;

    rc = LUNARY_OK;

    for (i = 0; i < len && rc >= 0; i += k) {
        k = (n == 0 || n > len - i) ? len - i : n;
        piece = unit_copy(text + i, k);
        rc = lunary_doc_feed(d, piece, k);
        free(piece);
    }

    return rc;
}


static inline int
finish(lunary_doc_t *d, const char *text, size_t len, size_t n)
{
    (void) feed(d, text, len, n);

    return lunary_doc_finish(d);
}


/* the text that comes of it, the same for all pieces; the caller destroys */

static inline lunary_doc_t *
reduced(const char *text, size_t len, size_t max, size_t cut, unsigned flags)
{
    size_t         i;
    lunary_doc_t  *d, *other;

    static const size_t  pieces[] = { 1, 2, 3, 7, 63, 1000 };

    d = lunary_doc_create(&mem, max, cut, flags);
    assert_non_null(d);

    assert_int_equal(finish(d, text, len, 0), LUNARY_OK);
    assert_true(lunary_json_valid(lunary_doc_text(d), LUNARY_DOC_DEPTH));

    for (i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {

        if (len / pieces[i] > 4000000) {
            continue;
        }

        other = lunary_doc_create(&mem, max, cut, flags);
        assert_int_equal(finish(other, text, len, pieces[i]), LUNARY_OK);

        assert_int_equal(lunary_doc_text(d).len, lunary_doc_text(other).len);
        assert_memory_equal(lunary_doc_text(d).data,
                            lunary_doc_text(other).data,
                            lunary_doc_text(d).len);
        assert_int_equal(lunary_doc_removed(d), lunary_doc_removed(other));

        lunary_doc_destroy(other);
    }

    return d;
}


static inline int
setup(void **state)
{
    (void) state;

    lunary_mem_init(&mem);

    return 0;
}


static inline int
nothing_is_left(void **state)
{
    (void) state;

    lunary_buf_free(&mem, &made);

    return mem.used == 0 ? 0 : -1;
}


#endif /* LUNARY_UNIT_DOC_H */
