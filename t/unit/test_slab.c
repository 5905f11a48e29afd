/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The slab: that blocks keep their bytes, never overlap, and come back.  With
 * a sanitizer the C library's allocator is what is tested: its tests of reuse
 * are left out.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../ngx_lunary_module/inspect/lunary_slab.h"


#define BLOCKS  500


static int
reuses(void)
{
    void           *p;
    lunary_slab_t   slab;

    memset(&slab, 0, sizeof(slab));

    p = lunary_slab_realloc(&slab, NULL, 0, 64);
    assert_non_null(p);
    (void) lunary_slab_realloc(&slab, p, 64, 0);

    if (slab.kept == 0) {
        return 0;
    }

    lunary_slab_clear(&slab);

    return 1;
}


static void
test_a_block_given_back_is_handed_out_again(void **state)
{
    void           *p, *q;
    lunary_slab_t   slab;

    (void) state;

    if (!reuses()) {
        skip();
    }

    memset(&slab, 0, sizeof(slab));

    p = lunary_slab_realloc(&slab, NULL, 0, 200);
    (void) lunary_slab_realloc(&slab, p, 200, 0);
    assert_int_equal(slab.kept, 256);

    q = lunary_slab_realloc(&slab, NULL, 0, 193);
    assert_ptr_equal(p, q);
    assert_int_equal(slab.kept, 0);

    (void) lunary_slab_realloc(&slab, q, 193, 0);
    lunary_slab_clear(&slab);
    assert_int_equal(slab.kept, 0);
}


static void
test_a_block_grows_in_place_within_its_class(void **state)
{
    char           *p;
    lunary_slab_t   slab;

    (void) state;

    if (!reuses()) {
        skip();
    }

    memset(&slab, 0, sizeof(slab));

    p = lunary_slab_realloc(&slab, NULL, 0, 65);
    assert_ptr_equal(lunary_slab_realloc(&slab, p, 65, 128), p);
    assert_ptr_equal(lunary_slab_realloc(&slab, p, 128, 70), p);

    (void) lunary_slab_realloc(&slab, p, 70, 0);
    lunary_slab_clear(&slab);
}


static void
test_no_more_is_kept_than_is_said(void **state)
{
    size_t          i;
    void           *p[BLOCKS];
    lunary_slab_t   slab;

    (void) state;

    memset(&slab, 0, sizeof(slab));

    for (i = 0; i < BLOCKS; i++) {
        p[i] = lunary_slab_realloc(&slab, NULL, 0, 4096);
        assert_non_null(p[i]);
    }

    for (i = 0; i < BLOCKS; i++) {
        (void) lunary_slab_realloc(&slab, p[i], 4096, 0);
        assert_true(slab.kept <= LUNARY_SLAB_KEEP);
    }

    lunary_slab_clear(&slab);
}


static void
test_large_blocks_are_kept_too(void **state)
{
    void           *p;
    lunary_slab_t   slab;

    (void) state;

    if (!reuses()) {
        skip();
    }

    memset(&slab, 0, sizeof(slab));

    p = lunary_slab_realloc(&slab, NULL, 0, 200000);
    assert_ptr_equal(lunary_slab_realloc(&slab, p, 200000, 220000), p);
    (void) lunary_slab_realloc(&slab, p, 220000, 0);
    assert_int_equal(slab.kept, 0);
    assert_int_equal(slab.kept_large, 7 * 32768);

    assert_ptr_equal(lunary_slab_realloc(&slab, NULL, 0, 196609), p);
    assert_int_equal(slab.kept_large, 0);

    (void) lunary_slab_realloc(&slab, p, 196609, 0);
    lunary_slab_clear(&slab);
    assert_int_equal(slab.kept_large, 0);
}


static void
test_sizes_that_went_out_of_use_make_room(void **state)
{
    size_t          i;
    void           *p[100];
    lunary_slab_t   slab;

    (void) state;

    if (!reuses()) {
        skip();
    }

    memset(&slab, 0, sizeof(slab));

    for (i = 0; i < 100; i++) {
        p[i] = lunary_slab_realloc(&slab, NULL, 0, i % 2 ? 100000 : 5000);
        assert_non_null(p[i]);
    }

    for (i = 0; i < 100; i++) {
        (void) lunary_slab_realloc(&slab, p[i], i % 2 ? 100000 : 5000, 0);
        assert_true(slab.kept_large <= LUNARY_SLAB_KEEP_LARGE);
    }

    p[0] = lunary_slab_realloc(&slab, NULL, 0, 2 * 1024 * 1024);
    (void) lunary_slab_realloc(&slab, p[0], 2 * 1024 * 1024, 0);
    assert_true(slab.kept_large <= LUNARY_SLAB_KEEP_LARGE);

    assert_ptr_equal(lunary_slab_realloc(&slab, NULL, 0, 2000000), p[0]);

    (void) lunary_slab_realloc(&slab, p[0], 2000000, 0);
    lunary_slab_clear(&slab);
    assert_int_equal(slab.kept_large, 0);
}


/* every block is filled with a byte of its own and looked at again later */

static void
test_blocks_keep_their_bytes(void **state)
{
    size_t          i, n, size, step;
    size_t          len[BLOCKS];
    unsigned char  *p[BLOCKS];
    lunary_slab_t   slab;

    (void) state;

    memset(&slab, 0, sizeof(slab));
    memset(p, 0, sizeof(p));
    memset(len, 0, sizeof(len));
    srand(11);

    for (step = 0; step < 20000; step++) {
        i = (size_t) rand() % BLOCKS;

        for (n = 0; n < len[i]; n++) {
            assert_int_equal(p[i][n], i & 0xff);
        }

        size = (size_t) rand() % (rand() % 8 ? 400
                                  : rand() % 50 ? 9000 : 3000000);
        p[i] = lunary_slab_realloc(&slab, p[i], len[i], size);

        if (size == 0) {
            assert_null(p[i]);
            len[i] = 0;
            continue;
        }

        assert_non_null(p[i]);
        assert_int_equal((uintptr_t) p[i] % 16, 0);

        for (n = 0; n < len[i] && n < size; n++) {
            assert_int_equal(p[i][n], i & 0xff);
        }

        memset(p[i], (int) (i & 0xff), size);
        len[i] = size;
    }

    for (i = 0; i < BLOCKS; i++) {
        (void) lunary_slab_realloc(&slab, p[i], len[i], 0);
    }

    lunary_slab_clear(&slab);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_a_block_given_back_is_handed_out_again),
        cmocka_unit_test(test_a_block_grows_in_place_within_its_class),
        cmocka_unit_test(test_no_more_is_kept_than_is_said),
        cmocka_unit_test(test_large_blocks_are_kept_too),
        cmocka_unit_test(test_sizes_that_went_out_of_use_make_room),
        cmocka_unit_test(test_blocks_keep_their_bytes)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
