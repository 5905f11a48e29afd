/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What a document leaves out of a text that is too long, rule by rule of
 * lunary_doc.h, and what it tells of it.  Elements that go while more of them
 * come: test_elements.c.
 */

#include "doc.h"


static void
base64_leaves_its_size(void **state)
{
    lunary_doc_t  *d;

    (void) state;

    start("{\"image_url\":{\"url\":\"data:image/png;base64,");
    fill('A', 1000);
    more("\"},\"source\":{\"data\":\"");
    fill('B', 256);
    more("\"},\"images\":[\"");
    fill('C', 300);
    more("\",\"short\"],\"text\":\"");
    fill('D', 300);
    more("\",\"b64_json\":\"");
    fill('E', 255);
    more("\"}");

    d = reduced(MADE, 65536, 0, LUNARY_DOC_STRICT);

    start("{\"image_url\":{\"url\":\"data:image/png;base64,[1000 bytes]\"},"
          "\"source\":{\"data\":\"[256 bytes]\"},"
          "\"images\":[\"[300 bytes]\",\"short\"],\"text\":\"");
    fill('D', 300);
    more("\",\"b64_json\":\"");
    fill('E', 255);
    more("\"}");
    fill('\0', 1);

    assert_text(lunary_doc_text(d), (const char *) made.data);
    assert_int_equal(lunary_doc_removed(d), 0);
    lunary_doc_destroy(d);
}


static void
base64_may_hold_escaped_slashes_and_line_ends(void **state)
{
    int            i;
    lunary_doc_t  *d;

    (void) state;

    start("[{\"data\":\"");

    for (i = 0; i < 40; i++) {
        fill('A', 76);
        more("\\n\\/");
    }

    more("\"},{\"data\":\"");
    fill('A', 300);
    more("\\tnot base64\"}]");

    d = reduced(MADE, 65536, 0, LUNARY_DOC_STRICT);

    assert_text(lunary_doc_text(d), "[{\"data\":\"[3200 bytes]\"},"
                "{\"data\":\"[300 bytes]\\tnot base64\"}]");
    lunary_doc_destroy(d);
}


static void
text_under_a_media_name_stays(void **state)
{
    size_t         len;
    char           copy[1000];
    lunary_doc_t  *d;

    (void) state;

    start("{\"data\":\"");
    fill('a', 200);
    more(" words ");
    fill('b', 400);
    more("\",\"url\":\"data:text/plain,");
    fill('c', 300);
    more("\"}");

    len = made.len;
    memcpy(copy, made.data, len);
    copy[len] = '\0';

    d = reduced(MADE, 65536, 0, LUNARY_DOC_STRICT);
    assert_text(lunary_doc_text(d), copy);
    lunary_doc_destroy(d);
}


static void
vectors_leave_their_size(void **state)
{
    int            i, strict;
    lunary_doc_t  *d;

    (void) state;

    for (strict = 0; strict < 2; strict++) {
        start("{\"data\":[{\"embedding\":[0.5");

        for (i = 0; i < 1000; i++) {
            more(", -1.25e-3");
        }

        more("]},{\"embedding\":[1,2,3]}],\"other\":[1");

        for (i = 0; i < 300; i++) {
            more(",1");
        }

        more("],\"input\":[[1,2],[1");

        for (i = 0; i < 300; i++) {
            more(",7");
        }

        more("]],\"values\":[1");

        for (i = 0; i < 300; i++) {
            more(",7");
        }

        more(",\"end\"]}");

        d = reduced(MADE, 65536, 0, strict ? LUNARY_DOC_STRICT : 0);

        start("{\"data\":[{\"embedding\":[\"[10003 bytes]\"]},"
              "{\"embedding\":[1,2,3]}],\"other\":[1");

        for (i = 0; i < 300; i++) {
            more(",1");
        }

        more("],\"input\":[[1,2],[\"[601 bytes]\"]],"
             "\"values\":[\"[602 bytes]\",\"end\"]}");
        fill('\0', 1);

        assert_text(lunary_doc_text(d), (const char *) made.data);
        lunary_doc_destroy(d);
    }
}


/* what is no number among the numbers of a vector: the same in any pieces */

static void
a_bad_number_in_a_vector_is_the_same_in_any_pieces(void **state)
{
    int            rc;
    size_t         i, k, n, piece;
    lunary_doc_t  *whole, *split;

    static const char  *bad[] = {
        "0.0800?8125", "?", "0.0.1", "01", "NaN", "-", "1e", "1 2", "0x1"
    };

    (void) state;

    whole = lunary_doc_create(&mem, 2048, 0, 0);
    split = lunary_doc_create(&mem, 2048, 0, 0);

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        for (n = 0; n < 300; n += (n < 250 || n > 262) ? 25 : 1) {

            start("{\"embedding\":[");

            for (k = 0; k < 320; k++) {
                more(k == n ? bad[i] : "0.0800");
                more(",");
            }

            more("0]}");

            lunary_doc_reset(whole);
            rc = finish(whole, (char *) made.data, made.len, 0);

            if (rc != LUNARY_OK) {
                assert_int_equal(lunary_doc_close(whole), LUNARY_OK);
            }

            for (piece = 1; piece < 14; piece += 3) {
                lunary_doc_reset(split);
                assert_int_equal(finish(split, (char *) made.data, made.len,
                                        piece), rc);

                if (rc != LUNARY_OK) {
                    assert_int_equal(lunary_doc_close(split), LUNARY_OK);
                }

                assert_int_equal(lunary_doc_text(split).len,
                                 lunary_doc_text(whole).len);
                assert_memory_equal(lunary_doc_text(split).data,
                                    lunary_doc_text(whole).data,
                                    lunary_doc_text(whole).len);
            }
        }
    }

    lunary_doc_destroy(whole);
    lunary_doc_destroy(split);
}


static void
white_space_between_tokens_is_no_content(void **state)
{
    lunary_doc_t  *d;

    (void) state;

    start("{");
    fill(' ', 100000);
    more("\"a\"");
    fill('\n', 100000);
    more(":");
    fill('\t', 100000);
    more("\"b  c\"");
    fill('\r', 100000);
    more("}");

    d = reduced(MADE, 4096, 0, LUNARY_DOC_STRICT);

    assert_text(lunary_doc_text(d), "{\"a\":\"b  c\"}");
    assert_int_equal(lunary_doc_removed(d), 0);

    lunary_doc_destroy(d);
}


static void
long_strings_keep_both_ends(void **state)
{
    lunary_doc_t  *d;
    lunary_str_t   v;
    char           want[400];

    (void) state;

    /* max 4096, so longer ones than 256 keep 128 bytes at each end */

    start("{\"a\":\"");
    fill('s', 3000);
    fill('e', 3000);
    more("\",\"b\":\"short\"}");

    d = reduced(MADE, 4096, 0, LUNARY_DOC_STRICT);

    v = lunary_json_get(lunary_doc_text(d), "a");

    memset(want, 0, sizeof(want));
    want[0] = '"';
    memset(want + 1, 's', 128);
    strcpy(want + 129, DOTS "[5744 bytes]" DOTS);
    memset(want + strlen(want), 'e', 128);
    strcat(want, "\"");

    assert_text(v, want);
    assert_text(lunary_json_get(lunary_doc_text(d), "b"), "\"short\"");

    /* bytes removed: what is gone less what stands for it */

    assert_int_equal(lunary_doc_removed(d), made.len
                                            - lunary_doc_text(d).len);
    assert_int_equal(lunary_doc_removed_of(d, text_of("a")),
                     lunary_doc_removed(d));
    assert_int_equal(lunary_doc_removed_of(d, text_of("b")), 0);

    lunary_doc_destroy(d);
}


static void
nothing_is_cut_inside_of_a_character(void **state)
{
    int            shift, i, kind;
    lunary_doc_t  *d;
    lunary_str_t   v;

    static const char  *units[] = {
        "\\ud83d\\ude00", "\xF0\x9F\x98\x80", "\xE6\x95\x8F", "\\\\",
        "\\u0041", "\\\"", "\\\\\\u005c"
    };

    (void) state;

    for (kind = 0; kind < 7; kind++) {
        for (shift = 0; shift < 13; shift++) {
            start("{\"a\":\"");
            fill('x', (size_t) shift);

            for (i = 0; i < 4000; i++) {
                more(units[kind]);
            }

            more("\"}");

            d = reduced(MADE, 4096, 0, LUNARY_DOC_STRICT);

            v = lunary_json_inside(lunary_json_get(lunary_doc_text(d), "a"));

            assert_true(v.len > 200 && v.len < 320);

            if (kind == 0) {
                assert_non_null(memmem(v.data, v.len, "ude00" DOTS, 8));
                assert_non_null(memmem(v.data, v.len, DOTS "\\ud83d", 9));
            }

            lunary_doc_destroy(d);
        }
    }
}


static void
a_very_long_key_loses_its_end(void **state)
{
    lunary_doc_t  *d;

    (void) state;

    start("{\"a\":1,\"");
    fill('k', 100000);
    more("\":2,\"b\":3}");

    d = reduced(MADE, 4096, 0, LUNARY_DOC_STRICT);

    assert_text(lunary_json_get(lunary_doc_text(d), "a"), "1");
    assert_text(lunary_json_get(lunary_doc_text(d), "b"), "3");
    assert_true(lunary_doc_text(d).len < 500);

    lunary_doc_destroy(d);
}


/* a key's end goes, and a marker stands there where it is shorter: either way
 * what is missing is told to the byte */

static void
a_long_key_is_missed_to_the_byte(void **state)
{
    size_t         i, n;
    lunary_doc_t  *d;

    static const char  *units[] = {
        "k", "\\n", "\\u00e9", "\\ud83d\\ude00", "\\ud83d", "\xC3\xA9",
        "\xF0\x9F\x98\x80"
    };

    (void) state;

    for (i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        for (n = 100; n < 200; n++) {

            start("{\"a\":{\"");
            fill('b', n % 13);

            while (made.len < n) {
                more(units[i]);
            }

            more("\":1}}");

            d = reduced((const char *) made.data, made.len, 2048, 128,
                        LUNARY_DOC_STRICT);
            assert_int_equal(lunary_doc_removed(d),
                             made.len - lunary_doc_text(d).len);
            lunary_doc_destroy(d);
        }
    }
}


static void
the_oldest_messages_go_first(void **state)
{
    int            i;
    char           message[200];
    lunary_doc_t  *d;
    lunary_str_t   first, last, list;

    (void) state;

    start("{\"model\":\"m\",\"messages\":[");

    for (i = 0; i < 200; i++) {
        snprintf(message, sizeof(message),
                 "%s{\"role\":\"user\",\"content\":\"message %03d of a long "
                 "talk, with some words in it\"}", i ? "," : "", i);
        more(message);
    }

    more("],\"user\":\"u\"}");

    d = reduced(MADE, 4096, 0, LUNARY_DOC_STRICT);

    list = lunary_json_get(lunary_doc_text(d), "messages");
    first = lunary_json_at(list, 0);

    assert_text(lunary_json_get(first, "role"), "\"omitted\"");
    assert_non_null(memmem(first.data, first.len, " bytes]", 7));

    for (i = 1; lunary_json_at(list, (size_t) i).len; i++) {
        last = lunary_json_at(list, (size_t) i);
    }

    assert_non_null(memmem(last.data, last.len, "message 199", 11));

    /* as many as can be are kept */

    assert_true(lunary_doc_text(d).len > 4096 - 200);
    assert_true(lunary_doc_text(d).len <= 4096);

    assert_text(lunary_json_get(lunary_doc_text(d), "user"), "\"u\"");
    assert_int_equal(lunary_doc_removed_of(d, text_of("messages")),
                     made.len - lunary_doc_text(d).len);

    lunary_doc_destroy(d);
}


static void
the_marker_tells_of_all_that_went(void **state)
{
    int                   i;
    char                  n[16];
    size_t                bytes;
    lunary_str_t          first;
    lunary_doc_t         *d;

    (void) state;

    /* many reductions on the way; strings among strings */

    start("[");

    for (i = 0; i < 20000; i++) {
        snprintf(n, sizeof(n), "%s\"%06d\"", i ? "," : "", i);
        more(n);
    }

    more("]");

    d = reduced(MADE, 4096, 0, LUNARY_DOC_STRICT);

    first = lunary_json_at(lunary_doc_text(d), 0);

    assert_int_equal(sscanf((const char *) first.data, "\"" DOTS "[%zu bytes]",
                            &bytes), 1);

    /* the marker and its comma stand for the bytes and theirs */

    assert_int_equal(made.len, lunary_doc_text(d).len - first.len + bytes);
    assert_int_equal(made.len, lunary_doc_text(d).len
                               + lunary_doc_removed(d));

    lunary_doc_destroy(d);
}


static void
a_single_message_of_many_parts_loses_old_parts(void **state)
{
    int            i;
    lunary_doc_t  *d;
    lunary_str_t   m;

    (void) state;

    start("{\"messages\":[{\"role\":\"user\",\"content\":[");

    for (i = 0; i < 500; i++) {
        more(i ? "," : "");
        more("{\"type\":\"text\",\"text\":\"a part of it\"}");
    }

    more("],\"name\":\"n\"}],\"model\":\"m\"}");

    d = reduced(MADE, 4096, 0, LUNARY_DOC_STRICT);

    m = lunary_json_at(lunary_json_get(lunary_doc_text(d), "messages"), 0);

    assert_text(lunary_json_get(m, "role"), "\"user\"");
    assert_text(lunary_json_get(m, "name"), "\"n\"");
    assert_true(lunary_json_get(m, "content").len > 3000);
    assert_text(lunary_json_get(lunary_doc_text(d), "model"), "\"m\"");

    lunary_doc_destroy(d);
}


static void
what_has_no_old_elements_becomes_null(void **state)
{
    int            i;
    char           member[64];
    lunary_doc_t  *d;
    lunary_str_t   choice;

    (void) state;

    start("{\"choices\":[{\"text\":\"kept\",\"map\":{");

    for (i = 0; i < 2000; i++) {
        snprintf(member, sizeof(member), "%s\"key %d\":%d", i ? "," : "", i,
                 i);
        more(member);
    }

    more("},\"end\":1}],\"model\":\"m\"}");

    d = reduced(MADE, 4096, 0, LUNARY_DOC_STRICT);

    choice = lunary_json_at(lunary_json_get(lunary_doc_text(d), "choices"),
                            0);

    assert_text(lunary_json_get(choice, "text"), "\"kept\"");
    assert_text(lunary_json_get(choice, "map"), "null");
    assert_text(lunary_json_get(choice, "end"), "1");
    assert_text(lunary_json_get(lunary_doc_text(d), "model"), "\"m\"");

    assert_int_equal(lunary_doc_removed(d), made.len
                                            - lunary_doc_text(d).len);

    lunary_doc_destroy(d);
}


static void
a_million_tiny_members_keep_the_first(void **state)
{
    int            i;
    char           member[32];
    lunary_doc_t  *d;

    (void) state;

    start("{");

    for (i = 0; i < BIG / 64; i++) {
        snprintf(member, sizeof(member), "%s\"%d\":1", i ? "," : "", i);
        more(member);
    }

    more("}");

    d = reduced(MADE, 4096, 0, LUNARY_DOC_STRICT);

    assert_text(lunary_json_get(lunary_doc_text(d), "0"), "1");
    assert_true(lunary_doc_text(d).len <= 4096);
    assert_int_equal(lunary_doc_removed(d), made.len - lunary_doc_text(d).len);

    lunary_doc_destroy(d);
}


static void
capping_bounds_any_value(void **state)
{
    int           i;
    size_t        max, removed;
    lunary_buf_t  out;

    (void) state;

    memset(&out, 0, sizeof(out));

    start("[");

    for (i = 0; i < 100; i++) {
        more(i ? "," : "");
        more("{\"role\":\"user\",\"content\":\"");
        fill('x', (size_t) i * 10);
        more("\"}");
    }

    more("]");

    for (max = 0; max < made.len + 10; max += 37) {
        out.len = 0;
        lunary_buf_lit(&mem, &out, "before");

        assert_int_equal(lunary_doc_cap(&mem, &out, lunary_buf_str(&made),
                                        max, &removed), LUNARY_OK);
        assert_true(out.len - 6 <= max || out.len - 6 == 4);
        assert_true(lunary_json_valid(lunary_str(out.data + 6, out.len - 6),
                                      512));
        assert_int_equal(removed == 0, max >= made.len);
        assert_memory_equal(out.data, "before", 6);
    }

    lunary_buf_free(&mem, &out);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(base64_leaves_its_size),
        cmocka_unit_test(base64_may_hold_escaped_slashes_and_line_ends),
        cmocka_unit_test(text_under_a_media_name_stays),
        cmocka_unit_test(vectors_leave_their_size),
        cmocka_unit_test(a_bad_number_in_a_vector_is_the_same_in_any_pieces),
        cmocka_unit_test(white_space_between_tokens_is_no_content),
        cmocka_unit_test(long_strings_keep_both_ends),
        cmocka_unit_test(nothing_is_cut_inside_of_a_character),
        cmocka_unit_test(a_very_long_key_loses_its_end),
        cmocka_unit_test(a_long_key_is_missed_to_the_byte),
        cmocka_unit_test(the_oldest_messages_go_first),
        cmocka_unit_test(the_marker_tells_of_all_that_went),
        cmocka_unit_test(a_single_message_of_many_parts_loses_old_parts),
        cmocka_unit_test(what_has_no_old_elements_becomes_null),
        cmocka_unit_test(a_million_tiny_members_keep_the_first),
        cmocka_unit_test(capping_bounds_any_value)
    };

    return cmocka_run_group_tests(tests, setup, nothing_is_left);
}
