/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A request body that may stay where it lies: when no copy is made, and when
 * one is.  That it is read alike is asked of every case of test_request.c.
 */

#include "request.h"


/* what lies there needs no memory, until something must be written */

static void
a_body_in_place_is_not_copied(void **state)
{
    char              *body;
    size_t             n;
    lunary_mem_t       own;
    lunary_request_t  *rq;

    (void) state;

    body = malloc(100000);
    assert_non_null(body);

    n = (size_t) sprintf(body, "{\"user\":\"bob\",\"a\":\"");
    memset(body + n, 'a', 90000);
    n += 90000;
    n += (size_t) sprintf(body + n, "\"}");

    for (piece = 0; piece <= 30000; piece += 10000) {
        for (lend = 0; lend < 3; lend++) {

            lunary_mem_init(&own);
            rq = lunary_request_create(&own, 100000, 0);
            assert_non_null(rq);

            assert_int_equal(feed(rq, body, n), LUNARY_OK);
            assert_text(lunary_request_claims(rq)->user, "bob");
            assert_int_equal(lunary_request_text(rq).len, n);
            assert_memory_equal(lunary_request_text(rq).data, body, n);

            if (lend == 1 || (lend == 2 && piece == 0)) {
                assert_ptr_equal(lunary_request_text(rq).data, place);
                assert_true(own.peak < 10000);

            } else {
                assert_true(own.peak > 90000);
            }

            lunary_request_destroy(rq);
            assert_int_equal(own.used, 0);
        }
    }

    free(body);
}


/* with less room behind it, it is copied as ever; what has begun in place goes
 * on as a copy */

static void
a_place_without_room_behind_is_no_place(void **state)
{
    size_t             n, room, k;
    unsigned char     *p;
    lunary_request_t  *rq;

    static const char  text[] = "{\"user\":\"bob\",\"a\":[1,2,3]}";

    (void) state;

    n = sizeof(text) - 1;

    for (room = 0; room <= 64; room++) {
        for (k = 1; k <= n; k += n - 1) {

            p = malloc(n + room);
            assert_non_null(p);

            memcpy(p, text, n);

            rq = lunary_request_create(&mem, 4096, 0);
            assert_non_null(rq);
            lunary_request_lend(rq, p, n + room);

            (void) lunary_request_feed(rq, p, k);
            (void) lunary_request_feed(rq, p + k, n - k);

            assert_int_equal(lunary_request_finish(rq), LUNARY_OK);
            assert_text(lunary_request_claims(rq)->user, "bob");
            assert_int_equal(lunary_request_text(rq).data == p, room == 64);

            lunary_request_destroy(rq);
            free(p);
        }
    }
}


/* nor are pieces that do not follow one another */

static void
what_lies_apart_is_copied(void **state)
{
    size_t             i, k, n, gap;
    unsigned char     *p;
    lunary_request_t  *rq;

    static const char  text[] = "{\"user\":\"bob\",\"a\":[1,2,3]}";

    (void) state;

    n = sizeof(text) - 1;

    for (k = 1; k < n; k++) {
        for (gap = 1; gap < 4; gap++) {

            p = malloc(n + n * gap + 64);
            assert_non_null(p);
            memset(p, ' ', n + n * gap + 64);

            for (i = 0; i < n; i++) {
                p[i + i / k * gap] = (unsigned char) text[i];
            }

            rq = lunary_request_create(&mem, 4096, 0);
            assert_non_null(rq);
            lunary_request_lend(rq, p, n + n * gap + 64);

            for (i = 0; i < n; i += k) {
                (void) lunary_request_feed(rq, p + i + i / k * gap,
                                           k < n - i ? k : n - i);
            }

            assert_int_equal(lunary_request_finish(rq), LUNARY_OK);
            assert_text(lunary_request_claims(rq)->user, "bob");
            assert_text(lunary_request_text(rq), text);

            lunary_request_destroy(rq);
            free(p);
        }
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(a_body_in_place_is_not_copied),
        cmocka_unit_test(a_place_without_room_behind_is_no_place),
        cmocka_unit_test(what_lies_apart_is_copied)
    };

    return cmocka_run_group_tests(tests, setup, nothing_is_left);
}
