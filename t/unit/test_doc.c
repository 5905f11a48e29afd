/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Documents that arrive in pieces: what is accepted, what is kept, and that
 * neither depends on the pieces.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE              /* memmem() */
#endif

#include "unit.h"

#include <time.h>

#include "lunary_doc.h"
#include "lunary_json.h"


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


/* feeds text in pieces of n bytes (0: whole), each where it ends its memory */

static int
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


static int
finish(lunary_doc_t *d, const char *text, size_t len, size_t n)
{
    (void) feed(d, text, len, n);

    return lunary_doc_finish(d);
}


/* the text that comes of it, the same for all pieces; the caller destroys */

static lunary_doc_t *
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


/* a growing text of a test */

static lunary_buf_t  made;


static void
start(const char *s)
{
    made.len = 0;
    lunary_buf_append(&mem, &made, s, strlen(s));
}


static void
more(const char *s)
{
    lunary_buf_append(&mem, &made, s, strlen(s));
}


static void
fill(char c, size_t n)
{
    assert_int_equal(lunary_buf_reserve(&mem, &made, n), LUNARY_OK);
    memset(made.data + made.len, c, n);
    made.len += n;
}

#define MADE  (const char *) made.data, made.len


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


static int
setup(void **state)
{
    (void) state;

    lunary_mem_init(&mem);

    return 0;
}


static int
nothing_is_left(void **state)
{
    (void) state;

    lunary_buf_free(&mem, &made);

    return mem.used == 0 ? 0 : -1;
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


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(a_flood_of_white_space_is_not_kept),
        cmocka_unit_test(a_bad_number_in_a_vector_is_the_same_in_any_pieces),
        cmocka_unit_test(a_document_that_fits_is_kept_byte_for_byte),
        cmocka_unit_test(white_space_around_the_value_is_left_out),
        cmocka_unit_test(strict_refuses_what_rfc_8259_does),
        cmocka_unit_test(the_value_is_done_where_it_ends),
        cmocka_unit_test(bytes_that_are_not_utf8_are_replaced_in_the_text),
        cmocka_unit_test(lenient_makes_valid_json_of_what_servers_send),
        cmocka_unit_test(lenient_still_refuses_broken_structure),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(base64_leaves_its_size),
        cmocka_unit_test(base64_may_hold_escaped_slashes_and_line_ends),
        cmocka_unit_test(text_under_a_media_name_stays),
        cmocka_unit_test(vectors_leave_their_size),
        cmocka_unit_test(long_strings_keep_both_ends),
        cmocka_unit_test(nothing_is_cut_inside_of_a_character),
        cmocka_unit_test(the_oldest_messages_go_first),
        cmocka_unit_test(the_marker_tells_of_all_that_went),
        cmocka_unit_test(a_single_message_of_many_parts_loses_old_parts),
        cmocka_unit_test(what_has_no_old_elements_becomes_null),
        cmocka_unit_test(a_million_tiny_members_keep_the_first),
        cmocka_unit_test(a_very_long_key_loses_its_end),
        cmocka_unit_test(white_space_between_tokens_is_no_content),
        cmocka_unit_test(what_broke_off_is_made_whole),
        cmocka_unit_test(nothing_is_made_of_nothing),
        cmocka_unit_test(every_prefix_of_a_document_can_be_closed),
        cmocka_unit_test(one_endless_string_is_linear),
        cmocka_unit_test(endless_small_elements_are_linear),
        cmocka_unit_test(endless_base64_is_linear),
        cmocka_unit_test(endless_small_strings_are_linear),
        cmocka_unit_test(a_long_key_is_missed_to_the_byte),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(a_document_can_be_used_again),
        cmocka_unit_test(capping_bounds_any_value)
    };

    return cmocka_run_group_tests(tests, setup, nothing_is_left);
}
