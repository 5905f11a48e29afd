/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * One call's memory: a chunk, and what is behind it.
 */

#include "unit.h"

#include "lunary_arena.h"


static lunary_mem_t    parent;
static lunary_arena_t  arena;
static _Alignas(16) unsigned char  chunk[256];


static int
setup(void **state)
{
    (void) state;

    lunary_arena_off = 0;
    lunary_mem_init(&parent);
    lunary_arena_init(&arena, &parent, chunk, sizeof(chunk));

    return 0;
}


static void
small_blocks_lie_one_behind_the_other(void **state)
{
    unsigned char  *a, *b;

    (void) state;

    a = lunary_alloc(&arena.mem, 1);
    b = lunary_alloc(&arena.mem, 20);

    assert_ptr_equal(a, chunk);
    assert_ptr_equal(b, chunk + 16);
    assert_int_equal(parent.used, 0);
    assert_int_equal(arena.outside, 0);

    lunary_free(&arena.mem, b, 20);
    assert_ptr_equal(lunary_alloc(&arena.mem, 5), b);
}


static void
the_last_block_grows_where_it_is_another_moves(void **state)
{
    unsigned char  *a, *b;

    (void) state;

    a = lunary_alloc(&arena.mem, 10);
    memcpy(a, "0123456789", 10);
    assert_ptr_equal(lunary_realloc(&arena.mem, a, 10, 100), a);

    b = lunary_alloc(&arena.mem, 16);
    assert_ptr_equal(b, chunk + 112);

    b = lunary_realloc(&arena.mem, a, 100, 120);
    assert_ptr_equal(b, chunk + 128);
    assert_memory_equal(b, "0123456789", 10);

    assert_ptr_equal(lunary_realloc(&arena.mem, b, 120, 8), b);
    assert_int_equal(arena.outside, 0);
}


static void
what_does_not_fit_is_the_parents(void **state)
{
    unsigned char  *a, *b;

    (void) state;

    a = lunary_alloc(&arena.mem, 200);
    memset(a, 'x', 200);

    b = lunary_alloc(&arena.mem, 100);
    assert_int_equal(arena.outside, 1);
    assert_int_equal(parent.used, 100);

    b = lunary_realloc(&arena.mem, b, 100, 50);
    assert_int_equal(parent.used, 50);

    a = lunary_realloc(&arena.mem, a, 200, 300);
    assert_int_equal(arena.outside, 2);
    assert_int_equal(a[199], 'x');

    lunary_free(&arena.mem, a, 300);
    lunary_free(&arena.mem, b, 50);
    assert_int_equal(arena.outside, 0);
    assert_int_equal(parent.used, 0);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test_setup(small_blocks_lie_one_behind_the_other, setup),
        cmocka_unit_test_setup(the_last_block_grows_where_it_is_another_moves,
                               setup),
        cmocka_unit_test_setup(what_does_not_fit_is_the_parents, setup)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
