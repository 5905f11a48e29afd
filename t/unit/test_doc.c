/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Documents that arrive in pieces: what is accepted, what is kept, and that
 * neither depends on the pieces.
 */

#include "doc.h"

#include <time.h>


static void
a_document_that_fits_is_kept_byte_for_byte(void **state)
{
    size_t         i;
    lunary_doc_t  *d;

    static const char  *texts[] = {
        "{\"a\" :\t[1, 2.5e-3 , {\"\\ud800\":\"\\u0000\\/\"}]\r\n}",
        "[]", "{}", "\"a string\"", "-0.5", "null", "[[[[[[]]]]]]",
        "{\"a\":1,\"a\":2}", "\"\xE6\x95\x8F \xF0\x9F\x98\x80\"",
        "[\"deep\",\"data:\",\"data:x\",\"d\"]"
    };

    (void) state;

    for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        d = reduced(texts[i], strlen(texts[i]), 4096, 0, LUNARY_DOC_STRICT);
        assert_text(lunary_doc_text(d), texts[i]);
        assert_int_equal(lunary_doc_removed(d), 0);
        lunary_doc_destroy(d);
    }
}


static void
white_space_around_the_value_is_left_out(void **state)
{
    lunary_doc_t  *d;

    (void) state;

    d = reduced(" \r\n\t{ } \n", 9, 4096, 0, LUNARY_DOC_STRICT);
    assert_text(lunary_doc_text(d), "{ }");
    lunary_doc_destroy(d);
}


static void
strict_refuses_what_rfc_8259_does(void **state)
{
    size_t         i, n;
    lunary_doc_t  *d;

    static const char  *bad[] = {
        "", "  ", "{", "}", "[", "]", "[1,]", "[,1]", "{\"a\"}", "{\"a\":}",
        "{a:1}", "{\"a\":1,}", "{'a':1}", "01", "1.", ".1", "+1", "1e", "-",
        "--1", "0x1", "NaN", "[Infinity]", "[-Infinity]", "tru", "truee",
        "[nul]", "\"", "\"\\", "\"\\x\"", "\"\\u12g4\"", "\"\n\"",
        "\"\t\"", "1 2", "{}{}", "[}", "{]", "[1:2]", "{\"a\":1]",
        "\xEF\xBB\xBF{}", "[1]x", "\"a\" \"b\"", "[1,,2]", "{\"a\":1 \"b\"}",
        "{} garbage", "[1 2]", "[\"a\"\"b\"]", "[truefalse]", "\xFF{}",
        "[1.2.3]", "[1-2]", "{\"a\":tru}", "[-]", "[1e+]"
    };

    (void) state;

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        for (n = 0; n < 4; n++) {
            d = lunary_doc_create(&mem, 4096, 0, LUNARY_DOC_STRICT);
            assert_int_equal(finish(d, bad[i], strlen(bad[i]), n),
                             LUNARY_ERROR);

            /* and stays so */

            assert_int_equal(feed(d, "{}", 2, 0), LUNARY_ERROR);
            assert_int_equal(lunary_doc_finish(d), LUNARY_ERROR);
            lunary_doc_destroy(d);
        }
    }
}


static void
the_value_is_done_where_it_ends(void **state)
{
    lunary_doc_t  *d;

    (void) state;

    d = lunary_doc_create(&mem, 4096, 0, LUNARY_DOC_STRICT);

    assert_int_equal(feed(d, "{\"a\":1", 6, 1), LUNARY_OK);
    assert_int_equal(feed(d, "}", 1, 0), LUNARY_DONE);
    assert_int_equal(feed(d, " \n", 2, 1), LUNARY_DONE);
    assert_int_equal(lunary_doc_finish(d), LUNARY_OK);
    assert_int_equal(feed(d, "x", 1, 0), LUNARY_ERROR);

    lunary_doc_destroy(d);
}


static void
bytes_that_are_not_utf8_are_replaced_in_the_text(void **state)
{
    size_t         i;
    lunary_doc_t  *d;

    static const char  *cases[][2] = {
        { "\"\xFF\"", "\"\xEF\xBF\xBD\"" },
        { "\"a\xE2\x82z\"", "\"a\xEF\xBF\xBDz\"" },
        { "\"\xE2\x82\"", "\"\xEF\xBF\xBD\"" },
        { "\"\xF0\x9F\x98\xE2\x82\xAC\"",
          "\"\xEF\xBF\xBD\xE2\x82\xAC\"" },
        { "\"\xED\xA0\x80\"",
          "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"" },
        { "{\"k\xC3\":1}", "{\"k\xEF\xBF\xBD\":1}" }
    };

    (void) state;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        d = reduced(cases[i][0], strlen(cases[i][0]), 4096, 0,
                    LUNARY_DOC_STRICT);
        assert_text(lunary_doc_text(d), cases[i][1]);
        lunary_doc_destroy(d);
    }
}


static void
lenient_makes_valid_json_of_what_servers_send(void **state)
{
    size_t         i;
    lunary_doc_t  *d;

    static const char  *cases[][2] = {
        { "\xEF\xBB\xBF {\"a\":1}", "{\"a\":1}" },
        { "[NaN,-Infinity,Infinity,1]", "[null,null,null,1]" },
        { "{\"a\":nan}", "{\"a\":null}" },
        { "[\"a\nb\tc\x01\"]", "[\"a\\u000ab\\u0009c\\u0001\"]" },
        { "{} trailing", "{}" },
        { "[1.2.3,01,+1]", "[null,null,null]" }
    };

    (void) state;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        d = reduced(cases[i][0], strlen(cases[i][0]), 4096, 0, 0);
        assert_text(lunary_doc_text(d), cases[i][1]);
        lunary_doc_destroy(d);
    }
}


static void
lenient_still_refuses_broken_structure(void **state)
{
    size_t         i;
    lunary_doc_t  *d;

    static const char  *bad[] = {
        "[1,]", "{\"a\"}", "[}", "{\"a\":1]", "[\"a\" \"b\"]", "{1:2}",
        "\"\\x\"", "\xEF\xBB{}", "<html>", ""
    };

    (void) state;

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        d = lunary_doc_create(&mem, 4096, 0, 0);
        assert_int_equal(finish(d, bad[i], strlen(bad[i]), i % 2),
                         LUNARY_ERROR);
        lunary_doc_destroy(d);
    }
}


static void
depth_is_bounded(void **state)
{
    lunary_doc_t  *d;

    (void) state;

    start("");
    fill('[', 512);
    fill(']', 512);

    d = reduced(MADE, 8192, 0, LUNARY_DOC_STRICT);
    assert_int_equal(lunary_doc_text(d).len, 1024);
    lunary_doc_destroy(d);

    start("");
    fill('[', 100000);
    fill(']', 100000);

    d = lunary_doc_create(&mem, 8192, 0, 0);
    assert_int_equal(finish(d, MADE, 0), LUNARY_LIMIT);
    assert_int_equal(lunary_doc_close(d), LUNARY_OK);
    assert_true(lunary_json_valid(lunary_doc_text(d), 512));
    lunary_doc_destroy(d);
}


static void
what_broke_off_is_made_whole(void **state)
{
    size_t         i, n;
    lunary_doc_t  *d;

    static const char  *cases[][2] = {
        { "{\"a\":\"b", "{\"a\":\"b\"}" },
        { "{\"a\":\"b\\", "{\"a\":\"b\"}" },
        { "{\"a\":\"b\\u12", "{\"a\":\"b\"}" },
        { "{\"a\":\"b\\ud83d", "{\"a\":\"b\"}" },
        { "{\"a\":\"b\\\\ud83d", "{\"a\":\"b\\\\ud83d\"}" },
        { "{\"a\":\"b\xE2\x82", "{\"a\":\"b\"}" },
        { "{\"a\":\"b\",\"c", "{\"a\":\"b\"}" },
        { "{\"a\":\"b\",\"c\"", "{\"a\":\"b\"}" },
        { "{\"a\":\"b\" , \"c\" : ", "{\"a\":\"b\"}" },
        { "{\"a\":\"b\",\"c\":12", "{\"a\":\"b\"}" },
        { "{\"a\":\"b\",\"c\":tru", "{\"a\":\"b\"}" },
        { "{\"a\":\"b\",", "{\"a\":\"b\"}" },
        { "{\"a\":[1,2", "{\"a\":[1]}" },
        { "{\"a\":[1,", "{\"a\":[1]}" },
        { "{\"a\":[1", "{\"a\":[]}" },
        { "{\"a\":[", "{\"a\":[]}" },
        { "{\"a\":[{\"b\":[[\"c", "{\"a\":[{\"b\":[[\"c\"]]}]}" },
        { "{\"a\"", "{}" },
        { "{\"a", "{}" },
        { "{", "{}" },
        { "[\"data:image/png;base64,AAAA", "[\"data:image/png;base64,AAAA\"]" },
        { "{\"a\":1}", "{\"a\":1}" },
        { "{\"a\":1 x", "{\"a\":1 }" },
        { "[1,2}", "[1,2]" }
    };

    (void) state;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (n = 0; n < 3; n++) {
            d = lunary_doc_create(&mem, 4096, 0, 0);
            (void) finish(d, cases[i][0], strlen(cases[i][0]), n);

            assert_int_equal(lunary_doc_close(d), LUNARY_OK);
            assert_true(lunary_json_valid(lunary_doc_text(d), 512));
            assert_text(lunary_doc_text(d), cases[i][1]);

            lunary_doc_destroy(d);
        }
    }
}


static void
nothing_is_made_of_nothing(void **state)
{
    size_t         i;
    lunary_doc_t  *d;

    static const char  *cases[] = { "", " ", "tru", "12x", "<html>" };

    (void) state;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        d = lunary_doc_create(&mem, 4096, 0, LUNARY_DOC_STRICT);
        (void) finish(d, cases[i], strlen(cases[i]), 0);
        assert_int_equal(lunary_doc_close(d), LUNARY_ERROR);
        lunary_doc_destroy(d);
    }
}


static void
every_prefix_of_a_document_can_be_closed(void **state)
{
    int            i;
    size_t         n, piece;
    lunary_str_t   whole;
    lunary_doc_t  *d, *one;

    (void) state;

    start("{\"m\":[{\"a\\\"\":\"\\ud83d\\ude00\xE6\x95\x8F\"},true , -1.5e3],"
          "\"images\":[\"");
    fill('A', 400);
    more("\"],\"embedding\":[");

    for (i = 0; i < 300; i++) {
        more(i ? ",1" : "1");
    }

    more("],\"long\":\"");
    fill('x', 3000);
    more("\",\"list\":[");

    for (i = 0; i < 100; i++) {
        more(i ? ",{\"a\":\"bcdefgh\"}" : "{\"a\":\"bcdefgh\"}");
    }

    more("],\"z\":null}");

    for (n = 1; n <= made.len; n++) {
        d = lunary_doc_create(&mem, 2048, 0, 0);
        one = lunary_doc_create(&mem, 2048, 0, 0);
        piece = 1 + n % 5;

        (void) finish(d, (const char *) made.data, n, 0);
        (void) finish(one, (const char *) made.data, n, piece);

        assert_int_equal(lunary_doc_close(d), LUNARY_OK);
        assert_int_equal(lunary_doc_close(one), LUNARY_OK);

        whole = lunary_doc_text(d);
        assert_true(lunary_json_valid(whole, 512));
        assert_true(whole.len <= 2048);
        assert_int_equal(whole.len, lunary_doc_text(one).len);
        assert_memory_equal(whole.data, lunary_doc_text(one).data, whole.len);

        lunary_doc_destroy(d);
        lunary_doc_destroy(one);
    }
}


/* 64 MB a byte at a time: seconds where it is linear, hours where not */

static void
linear_and_bounded(const char *head, const char *unit, const char *tail)
{
    size_t         n, k, len;
    clock_t        began;
    lunary_doc_t  *d;
    lunary_mem_t   own;

    lunary_mem_init(&own);

    d = lunary_doc_create(&own, 65536, 0, LUNARY_DOC_STRICT);
    assert_non_null(d);

    len = strlen(unit);
    began = clock();

    for (k = 0; k < strlen(head); k++) {
        assert_true(lunary_doc_feed(d, (const unsigned char *) head + k, 1)
                    >= 0);
    }

    for (n = 0; n < BIG; n++) {
        if (lunary_doc_feed(d, (const unsigned char *) unit + n % len, 1)
            < 0)
        {
            fail();
        }
    }

    while (n++ % len != 0) {
        (void) lunary_doc_feed(d, (const unsigned char *) unit + (n - 1) % len,
                               1);
    }

    for (k = 0; k < strlen(tail); k++) {
        (void) lunary_doc_feed(d, (const unsigned char *) tail + k, 1);
    }

    assert_int_equal(lunary_doc_finish(d), LUNARY_OK);
    assert_true(lunary_json_valid(lunary_doc_text(d), 512));
    assert_true(lunary_doc_text(d).len <= 65536);
    assert_true(own.peak <= 65536 + 4096 + 8192);
    assert_true((double) (clock() - began) / CLOCKS_PER_SEC < 60);

    lunary_doc_destroy(d);
    assert_int_equal(own.used, 0);
}


static void
one_endless_string_is_linear(void **state)
{
    (void) state;

    linear_and_bounded("{\"messages\":[{\"content\":\"", "a\\\\b\xC3\xA9",
                       "\"}]}");
}


static void
endless_small_elements_are_linear(void **state)
{
    (void) state;

    linear_and_bounded("{\"a\":[[0", ",1", "]]}");
}


static void
endless_base64_is_linear(void **state)
{
    (void) state;

    linear_and_bounded("{\"data\":\"", "QUJD", "\"}");
}


static void
endless_small_strings_are_linear(void **state)
{
    (void) state;

    linear_and_bounded("{\"a\":{\"b\":[\"\"", ",\"\\\"\"", "]}}");
}


/* pieces of so many bytes; the number of the allocation with which all went
 * well */

static long
without_memory(size_t piece)
{
    int            rc;
    long           n;
    size_t         at;
    unit_mem_t     m;
    lunary_mem_t  *fm;
    lunary_doc_t  *d;

    for (n = 1; /* void */ ; n++) {
        fm = unit_mem(&m, n);

        d = lunary_doc_create(fm, 4096, 0, LUNARY_DOC_STRICT);

        if (d == NULL) {
            assert_int_equal(n, 1);
            continue;
        }

        rc = LUNARY_OK;

        for (at = 0; at < made.len && rc >= 0; at += piece) {
            rc = lunary_doc_feed(d, made.data + at,
                                 made.len - at < piece ? made.len - at
                                                       : piece);
        }

        if (rc == LUNARY_NOMEM) {
            assert_int_equal(lunary_doc_finish(d), LUNARY_NOMEM);
            rc = lunary_doc_close(d);
            assert_true(rc != LUNARY_OK
                        || lunary_json_valid(lunary_doc_text(d), 512));
            rc = LUNARY_NOMEM;

        } else {
            assert_int_equal(lunary_doc_finish(d), LUNARY_OK);
        }

        lunary_doc_destroy(d);
        assert_int_equal(fm->used, 0);

        if (rc != LUNARY_NOMEM) {
            return n;
        }
    }
}


static void
every_allocation_may_fail(void **state)
{
    size_t  i;

    (void) state;

    start("{\"messages\":[\"");
    fill('a', 9000);
    more("\",\"b\"]}");

    assert_true(without_memory(100) > 2);

    /* strings that are cut, and some that are not, whole and in pieces, as the
     * text comes near to its bound */

    start("{\"messages\":[\"\"");

    for (i = 200; i < 600; i += 7) {
        more(",\"");
        fill('a', i);
        more("\"");
    }

    more("]}");

    assert_true(without_memory(100) > 2);
    assert_true(without_memory(700) > 2);
    assert_true(without_memory(made.len) > 2);
}


static void
a_document_can_be_used_again(void **state)
{
    lunary_doc_t  *d;

    (void) state;

    d = lunary_doc_create(&mem, 4096, 0, LUNARY_DOC_STRICT);

    start("[\"");
    fill('a', 100000);
    more("\"]");

    assert_int_equal(finish(d, MADE, 777), LUNARY_OK);
    assert_true(lunary_doc_removed(d) > 0);

    lunary_doc_reset(d);

    assert_int_equal(lunary_doc_finish(d), LUNARY_ERROR);

    lunary_doc_reset(d);

    assert_int_equal(finish(d, "{\"b\":[ 1]}", 10, 1), LUNARY_OK);
    assert_text(lunary_doc_text(d), "{\"b\":[ 1]}");
    assert_int_equal(lunary_doc_removed(d), 0);

    lunary_doc_destroy(d);
}


/* of an answer that is; a request stays as it came */

static void
a_flood_of_white_space_is_not_kept(void **state)
{
    size_t         n;
    lunary_doc_t  *d;

    (void) state;

    for (n = 255; n < 259; n++) {

        start("{\"a\":");
        fill(' ', n);
        more("[1,");
        fill('\n', n);
        more("2],\"b\":1");
        fill('\t', 100);
        more("}");

        d = reduced((char *) made.data, made.len, 65536, 0, 0);
        assert_int_equal(lunary_doc_text(d).len,
                         made.len - 2 * (n > 256 ? n - 256 : 0));
        assert_int_equal(lunary_doc_removed(d), 0);
        lunary_doc_destroy(d);

        d = reduced((char *) made.data, made.len, 65536, 0,
                    LUNARY_DOC_STRICT);
        assert_int_equal(lunary_doc_text(d).len, made.len);
        lunary_doc_destroy(d);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(a_flood_of_white_space_is_not_kept),
        cmocka_unit_test(a_document_that_fits_is_kept_byte_for_byte),
        cmocka_unit_test(white_space_around_the_value_is_left_out),
        cmocka_unit_test(strict_refuses_what_rfc_8259_does),
        cmocka_unit_test(the_value_is_done_where_it_ends),
        cmocka_unit_test(bytes_that_are_not_utf8_are_replaced_in_the_text),
        cmocka_unit_test(lenient_makes_valid_json_of_what_servers_send),
        cmocka_unit_test(lenient_still_refuses_broken_structure),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(what_broke_off_is_made_whole),
        cmocka_unit_test(nothing_is_made_of_nothing),
        cmocka_unit_test(every_prefix_of_a_document_can_be_closed),
        cmocka_unit_test(one_endless_string_is_linear),
        cmocka_unit_test(endless_small_elements_are_linear),
        cmocka_unit_test(endless_base64_is_linear),
        cmocka_unit_test(endless_small_strings_are_linear),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(a_document_can_be_used_again)
    };

    return cmocka_run_group_tests(tests, setup, nothing_is_left);
}
