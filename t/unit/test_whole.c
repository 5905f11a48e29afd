/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What is read in place: just what a document would keep byte for byte, and
 * by its tape as by its bytes.
 */

#include "unit.h"
#include "upper.h"

#include "lunary_doc.h"
#include "lunary_simd.h"
#include "lunary_walk.h"


static lunary_mem_t   mem;
static lunary_tape_t  tape;


/* in memory that ends where the text does; with every vector code */

static size_t
whole(const char *text, size_t n)
{
    size_t                      len, first;
    unsigned char               *p;
    const lunary_simd_t *const  *one;

    first = SIZE_MAX;

    for (one = lunary_simd_all(); *one != NULL; one++) {
        lunary_simd = *one;

        p = unit_copy(text, n);
        len = lunary_whole(p, n, 65536, &tape);
        assert_false(upper_halves_in_use());

        assert_int_equal(lunary_whole(p, n, 65536, NULL), len);
        assert_true(first == SIZE_MAX || first == len);
        free(p);

        first = len;
    }

    lunary_simd = lunary_simd_all()[0];

    return first;
}


static lunary_str_t
kept(lunary_doc_t *d, const char *text, size_t n)
{
    lunary_doc_reset(d);

    (void) lunary_doc_feed(d, (const unsigned char *) text, n);

    return (lunary_doc_finish(d) == LUNARY_OK) ? lunary_doc_text(d)
                                               : lunary_str(NULL, 0);
}


static const char  *texts[] = {
    "{}", "[]", "[[]]", "{\"a\":{}}", "{\"a\":[],\"b\":\"\"}",
    "{\"a\":1,\"b\":-0.5e+10,\"c\":[true,false,null,\"x\"],\"d\":{\"e\":[{}]}}",
    " {}", "{} ", "{}}", "{ \"a\" : [ 1 , 2 ] , \"b\" : { } }\r\n",
    "{\"\\u00e4\\n\\\"\":\"\\ud83d\\ude00 \xc3\xa4 \xe2\x82\xac\"}",
    "{\"a\":\"a longer text than any vector register has bytes, it is\"}",
    "{\"a\":\"\\\\\\\\\",\"b\":\"\\\\\\\"\"}"
};

static const char  *others[] = {
    "", "{", "}", "x", "1", "\"a\"", "null", "{]", "[}", "{\"a\"}",
    "{\"a\":}", "{\"a\":1,}", "[1,]", "[,1]", "{a:1}", "{\"a\":01}",
    "{\"a\":1.}", "{\"a\":.5}", "{\"a\":1e}", "{\"a\":+1}", "{\"a\":-}",
    "{\"a\":tru}", "{\"a\":nul}", "{\"a\":truex}", "{\"a\":NaN}",
    "{\"a\":\"\\x\"}", "{\"a\":\"\\u12g4\"}", "{\"a\":\"\\u123\"}",
    "{\"a\":\"\n\"}", "{\"a\":\"\xff\"}", "{\"a\":\"\xc3\"}", "{\"a\":\"b}",
    "{\"a\":\"b\\\"}", "{\"a\" 1}", "{\"a\":1 \"b\":2}", "[1 2]",
    "{\"\xff\":1}", "{\"a\":\"\xed\xa0\x80\"}"
};


static void
what_is_taken_is_what_a_document_keeps(void **state)
{
    size_t         i, n, len;
    lunary_str_t   t;
    lunary_doc_t  *d;

    (void) state;

    d = lunary_doc_create(&mem, 65536, 0, 0);
    assert_non_null(d);

    for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        n = strlen(texts[i]);
        len = whole(texts[i], n);

        /* nothing else is passed over but what is behind the value */

        if (texts[i][0] == ' ') {
            assert_int_equal(len, 0);
            continue;
        }

        t = kept(d, texts[i], n);

        assert_int_not_equal(len, 0);
        assert_int_equal(len, t.len);
        assert_memory_equal(texts[i], t.data, len);
    }

    lunary_doc_destroy(d);
    assert_int_equal(mem.used, 0);
}


static void
what_is_malformed_or_mended_is_not(void **state)
{
    size_t  i;

    (void) state;

    for (i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        assert_int_equal(whole(others[i], strlen(others[i])), 0);
    }
}


static void
what_breaks_off_is_not(void **state)
{
    size_t  i, n;

    (void) state;

    for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        for (n = 0; n + 3 < strlen(texts[i]); n++) {
            assert_int_equal(whole(texts[i], n), 0);
        }
    }
}


/* one byte of a text is another one: never taken but as it is kept */

static void
a_changed_byte_changes_nothing_unseen(void **state)
{
    char           text[128];
    size_t         i, k, n, len, taken;
    lunary_str_t   t;
    lunary_doc_t  *d;

    static const char  bytes[] = "\"\\{}[]:, 0e.-tnf\x01\x7f\x80\xc3\xff";

    (void) state;

    d = lunary_doc_create(&mem, 65536, 0, 0);
    assert_non_null(d);

    taken = 0;

    for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        n = strlen(texts[i]);

        for (k = 0; k < n * (sizeof(bytes) - 1); k++) {
            memcpy(text, texts[i], n);
            text[k / (sizeof(bytes) - 1)] = bytes[k % (sizeof(bytes) - 1)];

            len = whole(text, n);

            if (len != 0) {
                t = kept(d, text, n);

                assert_int_equal(len, t.len);
                assert_memory_equal(text, t.data, len);
                taken++;
            }
        }
    }

    assert_true(taken > 100);
    lunary_doc_destroy(d);
}


static void
media_vectors_and_what_is_too_large_are_the_documents(void **state)
{
    char    text[4096];
    int     n;
    size_t  i;

    static const struct {
        const char  *head;
        const char  *unit;
        int          units;
        const char  *tail;
        int          taken;
    } cases[] = {
        { "{\"content\":\"", "abcd", 100, "\"}", 1 },
        { "{\"data\":\"", "abcd", 63, "\"}", 1 },
        { "{\"data\":\"", "abcd", 64, "\"}", 0 },
        { "{\"b64_json\" : \"", "abcd", 64, "\"}", 0 },
        { "{\"content\":\"data:image/png;base64,", "abcd", 64, "\"}", 0 },
        { "{\"images\":[\"", "abcd", 64, "\"]}", 0 },
        { "{\"embedding\":[0", ",1", 255, "]}", 1 },
        { "{\"embedding\":[0", ",1", 256, "]}", 0 },
        { "{\"a\":", "[", 31, "", 0 },
        { "", "[", 32, "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", 1 },
        { "", "[", 33, "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", 0 },
        { "{\"", "k", 126, "\":1}", 1 },
        { "{\"", "k", 127, "\":1}", 0 },
        { "[1", "0", 1023, "]", 1 },
        { "[1", "0", 1024, "]", 0 }
    };

    (void) state;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int  k;

        n = sprintf(text, "%s", cases[i].head);

        for (k = 0; k < cases[i].units; k++) {
            n += sprintf(text + n, "%s", cases[i].unit);
        }

        n += sprintf(text + n, "%s", cases[i].tail);

        assert_int_equal(whole(text, (size_t) n),
                         cases[i].taken ? (size_t) n : 0);
    }

    /* the bound is the value's, to the byte */

    assert_int_equal(lunary_whole((const unsigned char *) "{\"a\":1}", 7, 7,
                                  NULL), 7);
    assert_int_equal(lunary_whole((const unsigned char *) "{\"a\":1}", 7, 6,
                                  NULL), 0);
}


static void
the_tape_leads_where_the_text_does(void **state)
{
    lunary_str_t   key, v;
    lunary_walk_t  w, at;

    static const char  text[] =
        "{\"a\":1,\"b\":{\"c\":[{\"d\":\"x\"},2,[]],\"e\":{}},\"f\":null}";

    (void) state;

    assert_int_equal(lunary_whole((const unsigned char *) text,
                                  sizeof(text) - 1, 65536, &tape),
                     sizeof(text) - 1);

    lunary_walk_tape(&w, text_of(text), &tape);
    assert_non_null(w.node);

    assert_true(lunary_walk_object(&w));

    assert_true(lunary_walk_key(&w, &key));
    assert_text(key, "a");
    assert_false(lunary_walk_object(&w));
    assert_text(lunary_walk_value(&w), "1");

    /* taken as a whole, and walked through */

    assert_true(lunary_walk_key(&w, &key));
    assert_text(key, "b");

    at = w;
    v = lunary_walk_value(&w);
    assert_text(v, "{\"c\":[{\"d\":\"x\"},2,[]],\"e\":{}}");

    assert_true(lunary_walk_object(&at));
    assert_true(lunary_walk_key(&at, &key));
    assert_text(key, "c");
    assert_true(lunary_walk_array(&at));
    assert_true(lunary_walk_element(&at));
    assert_true(lunary_walk_object(&at));
    assert_true(lunary_walk_key(&at, &key));
    assert_text(lunary_walk_value(&at), "\"x\"");
    assert_false(lunary_walk_key(&at, &key));
    assert_true(lunary_walk_element(&at));
    assert_text(lunary_walk_value(&at), "2");
    assert_true(lunary_walk_element(&at));
    assert_true(lunary_walk_array(&at));
    assert_false(lunary_walk_element(&at));
    assert_false(lunary_walk_element(&at));
    assert_true(lunary_walk_key(&at, &key));
    assert_text(key, "e");
    assert_true(lunary_walk_object(&at));
    assert_false(lunary_walk_key(&at, &key));
    assert_false(lunary_walk_key(&at, &key));

    assert_true(lunary_walk_key(&w, &key));
    assert_text(key, "f");
    assert_text(lunary_walk_value(&w), "null");
    assert_false(lunary_walk_key(&w, &key));
}


static void
too_many_values_are_read_without_a_tape(void **state)
{
    char    text[2048];
    int     n, i, k;
    size_t  len;

    (void) state;

    for (k = LUNARY_WHOLE_NODES - 4; k < LUNARY_WHOLE_NODES + 4; k++) {

        n = sprintf(text, "{\"a\":[0");

        for (i = 1; i < k; i++) {
            n += sprintf(text + n, ",0");
        }

        n += sprintf(text + n, "]}");

        len = whole(text, (size_t) n);

        /* the two values around them have ends, too */

        assert_int_equal(len, n);
        assert_int_equal(tape.n,
                         k + 4 <= LUNARY_WHOLE_NODES ? (unsigned) k + 4 : 0);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(what_is_taken_is_what_a_document_keeps),
        cmocka_unit_test(what_is_malformed_or_mended_is_not),
        cmocka_unit_test(what_breaks_off_is_not),
        cmocka_unit_test(a_changed_byte_changes_nothing_unseen),
        cmocka_unit_test(media_vectors_and_what_is_too_large_are_the_documents),
        cmocka_unit_test(the_tape_leads_where_the_text_does),
        cmocka_unit_test(too_many_values_are_read_without_a_tape)
    };

    lunary_mem_init(&mem);

    return cmocka_run_group_tests(tests, NULL, NULL);
}
