/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Reading complete texts: values, members, numbers, strings, validity.
 */

#include "unit.h"

#include "lunary_json.h"


static lunary_mem_t  mem;


static void
a_value_ends_behind_its_last_byte(void **state)
{
    size_t                i;
    lunary_str_t          v;
    const unsigned char  *p, *end;

    static const char  *cases[][3] = {
        /* text, value, rest */
        { " {\"a\":\"}\"} x", "{\"a\":\"}\"}", " x" },
        { "[1,[2,\"\\\"]\"]],", "[1,[2,\"\\\"]\"]]", "," },
        { "\t\"a\\\\\":1", "\"a\\\\\"", ":1" },
        { "-1.5e3]", "-1.5e3", "]" },
        { "true}", "true", "}" },
        { "null", "null", "" }
    };

    (void) state;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        p = (const unsigned char *) cases[i][0];
        end = p + strlen(cases[i][0]);

        v = lunary_json_value(&p, end);

        assert_text(v, cases[i][1]);
        assert_text(lunary_str(p, (size_t) (end - p)), cases[i][2]);
    }
}


static void
a_value_that_does_not_end_is_none(void **state)
{
    size_t                i;
    unsigned char        *copy;
    const unsigned char  *p;

    static const char  *cases[] = {
        "", "  ", "{", "[1,", "\"abc", "\"abc\\", "\"abc\\\"", "{\"a\":[}",
        ",", "]", ":", "x"
    };

    (void) state;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        copy = unit_copy(cases[i], strlen(cases[i]));
        p = copy;

        assert_int_equal(lunary_json_value(&p, copy + strlen(cases[i])).len,
                         0);
        free(copy);
    }
}


static void
members_come_in_order_with_escaped_keys(void **state)
{
    lunary_str_t        key, val;
    lunary_json_iter_t  it;

    (void) state;

    lunary_json_iter(&it, text_of("{ \"a\" : 1 ,\"b\\\"\":[2] , \"\":{}}"));

    assert_true(lunary_json_member(&it, &key, &val));
    assert_text(key, "a");
    assert_text(val, "1");

    assert_true(lunary_json_member(&it, &key, &val));
    assert_text(key, "b\\\"");
    assert_text(val, "[2]");

    assert_true(lunary_json_member(&it, &key, &val));
    assert_text(key, "");
    assert_text(val, "{}");

    assert_false(lunary_json_member(&it, &key, &val));
    assert_false(lunary_json_member(&it, &key, &val));
}


static void
iteration_ends_at_malformed_text(void **state)
{
    int                 n;
    size_t              i;
    lunary_str_t        key, val;
    lunary_json_iter_t  it;

    static const char  *objects[] = {
        "{\"a\":1 \"b\":2}", "{\"a\":1,}", "{\"a\":1,2}", "{\"a\":1,\"b\"}",
        "{\"a\":1,\"b\":}"
    };

    (void) state;

    for (i = 0; i < sizeof(objects) / sizeof(objects[0]); i++) {
        lunary_json_iter(&it, text_of(objects[i]));

        for (n = 0; lunary_json_member(&it, &key, &val); n++) { /* void */ }

        assert_int_equal(n, 1);
    }

    lunary_json_iter(&it, text_of("[1 2]"));
    assert_true(lunary_json_element(&it, &val));
    assert_false(lunary_json_element(&it, &val));
}


static void
an_array_has_no_members_and_an_object_no_elements(void **state)
{
    lunary_str_t        key, val;
    lunary_json_iter_t  it;

    (void) state;

    lunary_json_iter(&it, text_of("[\"a\",1]"));
    assert_false(lunary_json_member(&it, &key, &val));

    lunary_json_iter(&it, text_of("{\"a\":1}"));
    assert_false(lunary_json_element(&it, &val));

    lunary_json_iter(&it, text_of("\"a\""));
    assert_false(lunary_json_element(&it, &val));
}


static void
picking_unescapes_keys_and_the_last_of_equal_names_wins(void **state)
{
    lunary_str_t  vals[3];

    static const lunary_str_t  keys[] = {
        lunary_string("user"), lunary_string("n\xC3\xA4me"),
        lunary_string("none")
    };

    (void) state;

    assert_int_equal(lunary_json_pick(
        text_of("{\"user\":1,\"n\\u00e4me\":2,\"u\\u0073er\":3,\"use\":4}"),
        keys, vals, 3), 2);

    assert_text(vals[0], "3");
    assert_text(vals[1], "2");
    assert_int_equal(vals[2].len, 0);

    assert_int_equal(lunary_json_pick(text_of("[1]"), keys, vals, 3), 0);
}


static void
numbers_are_whole_ones_within_int64_or_none(void **state)
{
    size_t   i;
    int64_t  n;

    static const struct {
        const char  *text;
        int          ok;
        int64_t      n;
    } cases[] = {
        { "0", 1, 0 }, { "-0", 1, 0 }, { "12", 1, 12 }, { "12.0", 1, 12 },
        { "1.2e1", 1, 12 }, { "120e-1", 1, 12 }, { "1E+2", 1, 100 },
        { "0.0e99999999999999999999", 1, 0 },
        { "9223372036854775807", 1, INT64_MAX },
        { "-9223372036854775808", 1, INT64_MIN },
        { "1000000.000e-6", 1, 1 }, { "0.000001e6", 1, 1 },
        { "100000000000000000000000e-20", 1, 1000 },
        { "9223372036854775808", 0, 0 }, { "-9223372036854775809", 0, 0 },
        { "1e19", 0, 0 }, { "1e999999999999999999999", 0, 0 },
        { "1e-1", 0, 0 }, { "1.5", 0, 0 }, { "01", 0, 0 }, { "1.", 0, 0 },
        { "+1", 0, 0 }, { "1e", 0, 0 }, { "-", 0, 0 }, { "", 0, 0 },
        { "\"1\"", 0, 0 }, { "1 ", 0, 0 }, { "0x1", 0, 0 }, { ".5", 0, 0 }
    };

    (void) state;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        n = 77;
        assert_int_equal(lunary_json_int(text_of(cases[i].text), &n),
                         cases[i].ok);
        assert_true(n == (cases[i].ok ? cases[i].n : 77));
    }
}


static void
a_long_number_takes_linear_time(void **state)
{
    size_t         i, len;
    int64_t        n;
    unsigned char *text;

    (void) state;

    len = 8 << 20;
    text = malloc(len);
    assert_non_null(text);

    memset(text, '0', len);
    text[0] = '1';

    assert_false(lunary_json_int(lunary_str(text, len), &n));

    /* 1000...e-(as many zeros): is 1 */

    i = len - 9;
    memcpy(text + i, "e-8388598", 9);

    assert_true(lunary_json_int(lunary_str(text, len), &n));
    assert_int_equal(n, 1);

    free(text);
}


static void
unescaping_gives_utf8_and_replaces_lone_surrogates(void **state)
{
    size_t        i;
    lunary_buf_t  out;

    static const char  *cases[][2] = {
        { "a\\n\\t\\\"\\\\\\/\\b\\f\\r", "a\n\t\"\\/\b\f\r" },
        { "\\u0041\\u00e9\\u20AC\\ud83d\\ude00",
          "A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80" },
        { "\\ud83d", "\xEF\xBF\xBD" },
        { "\\ude00x", "\xEF\xBF\xBDx" },
        { "\\ud83d\\u0041", "\xEF\xBF\xBD" "A" },
        { "\\ud83d\\ud83d\\ude00", "\xEF\xBF\xBD\xF0\x9F\x98\x80" },
        { "\xC3\xA9", "\xC3\xA9" },
        { "\xFF", "\xEF\xBF\xBD" },
        { "\xE2\x82z", "\xEF\xBF\xBDz" },
        { "\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD" },
        { "\xF0\x9F", "\xEF\xBF\xBD" }
    };

    (void) state;

    memset(&out, 0, sizeof(out));

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        out.len = 0;
        assert_int_equal(lunary_json_unescape(&mem, &out,
                                              text_of(cases[i][0])),
                         LUNARY_OK);
        assert_text(lunary_buf_str(&out), cases[i][1]);
    }

    lunary_buf_free(&mem, &out);
}


static void
a_bad_escape_is_an_error(void **state)
{
    size_t        i;
    lunary_buf_t  out;

    static const char  *cases[] = {
        "ok\\", "ok\\x", "ok\\u12", "ok\\u12g4", "ok\\'"
    };

    (void) state;

    memset(&out, 0, sizeof(out));

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        out.len = 0;
        assert_int_equal(lunary_json_unescape(&mem, &out, text_of(cases[i])),
                         LUNARY_ERROR);
        assert_text(lunary_buf_str(&out), "ok");
    }

    lunary_buf_free(&mem, &out);
}


static void
escaping_gives_the_inside_of_a_valid_string(void **state)
{
    int           c;
    char          byte;
    lunary_buf_t  out, text;

    (void) state;

    memset(&out, 0, sizeof(out));
    memset(&text, 0, sizeof(text));

    for (c = 0; c < 256; c++) {
        byte = (char) c;
        out.len = 0;
        text.len = 0;

        assert_int_equal(lunary_json_escape(&mem, &out,
                                            lunary_str(&byte, 1)), LUNARY_OK);
        lunary_buf_lit(&mem, &text, "\"");
        lunary_buf_append(&mem, &text, out.data, out.len);
        lunary_buf_lit(&mem, &text, "\"");

        assert_true(lunary_json_valid(lunary_buf_str(&text), 1));

        /* and back again */

        text.len = 0;
        lunary_json_unescape(&mem, &text, lunary_buf_str(&out));

        if (c < 0x80) {
            assert_int_equal(text.len, 1);
            assert_int_equal(text.data[0], c);

        } else {
            assert_text(lunary_buf_str(&text), "\xEF\xBF\xBD");
        }
    }

    out.len = 0;
    assert_int_equal(lunary_json_escape(&mem, &out,
                                        text_of("a\"\\\n\x01\xC3\xA9")),
                     LUNARY_OK);
    assert_text(lunary_buf_str(&out), "a\\\"\\\\\\n\\u0001\xC3\xA9");

    lunary_buf_free(&mem, &out);
    lunary_buf_free(&mem, &text);
}


static void
copying_repairs_a_text_and_leaves_a_good_one_alone(void **state)
{
    size_t        i;
    lunary_buf_t  out;

    static const char  *cases[][2] = {
        { "{\"a\":\n\t\"b\\\"c\"}", "{\"a\":\n\t\"b\\\"c\"}" },
        { "{\"a\":\"x\ny\"}", "{\"a\":\"x\\ny\"}" },
        { "[\"\x01\",\"\xFF\"]", "[\"\\u0001\",\"\xEF\xBF\xBD\"]" },
        { "\"\\\\\n\"", "\"\\\\\\n\"" },
        { "inside\n", "inside\\n" },
        { "12", "12" }
    };

    (void) state;

    memset(&out, 0, sizeof(out));

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        out.len = 0;
        assert_int_equal(lunary_json_copy(&mem, &out, text_of(cases[i][0])),
                         LUNARY_OK);
        assert_text(lunary_buf_str(&out), cases[i][1]);
    }

    lunary_buf_free(&mem, &out);
}


static void
utf8_is_that_of_rfc_3629(void **state)
{
    size_t  i;

    static const char  *good[] = {
        "", "plain", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF",
        "\xEE\x80\x80", "\xEF\xBF\xBF", "\xF0\x90\x80\x80",
        "\xF4\x8F\xBF\xBF", "\xE6\x95\x8F\xE6\x8D\xB7z\xC3\xA9"
    };

    static const char  *bad[] = {
        "\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF",
        "\xED\xA0\x80", "\xED\xBF\xBF", "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFE", "\xFF", "a\xC3",
        "\xE2\x82", "\xF0\x9F\x98", "\xC3\xC3\xA9", "\xE6\x95\x8F\xE6\x8D",
        "\xC3\xA9\xE0\x80\x80\xC3\xA9\xC3\xA9"
    };

    (void) state;

    for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_true(lunary_utf8_valid(text_of(good[i])));
    }

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_false(lunary_utf8_valid(text_of(bad[i])));
    }
}


static void
validity_is_that_of_rfc_8259(void **state)
{
    size_t         i;
    unsigned char *copy;

    static const char  *good[] = {
        "{}", "[]", " [ ] ", "null", "-0", "1.5e+10", "\"\"",
        "{\"a\":{\"b\":[1,2,{\"c\":null}]},\"a\":1}", "\"\\ud800\"",
        "\"\\u0000\"", "[[[[]]]]", "\t1\r\n"
    };

    static const char  *bad[] = {
        "", " ", "{", "}", "[", "]", "[1,]", "[,1]", "{\"a\"}", "{\"a\":}",
        "{a:1}", "{\"a\":1,}", "{'a':1}", "01", "1.", ".1", "+1", "1e", "-",
        "--1", "0x1", "NaN", "Infinity", "-Infinity", "tru", "truee", "nul",
        "\"", "\"\\", "\"\\x\"", "\"\\u12g4\"", "\"\n\"", "\"\t\"",
        "\"\xFF\"", "1 2", "{}{}", "[}", "{]", "[1:2]", "{\"a\":1]",
        "\xEF\xBB\xBF{}", "[1]x", "\"a\" \"b\"", "// c\n1", "[1,,2]"
    };

    (void) state;

    for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_true(lunary_json_valid(text_of(good[i]), 512));
    }

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        copy = unit_copy(bad[i], strlen(bad[i]));
        assert_false(lunary_json_valid(lunary_str(copy, strlen(bad[i])),
                                       512));
        free(copy);
    }
}


static void
validity_bounds_the_depth(void **state)
{
    char  text[4096];

    (void) state;

    memset(text, '[', 100);
    memset(text + 100, ']', 100);

    assert_true(lunary_json_valid(lunary_str(text, 200), 100));
    assert_false(lunary_json_valid(lunary_str(text, 200), 99));
    assert_false(lunary_json_valid(lunary_str(text, 200), 0));
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

    return mem.used == 0 ? 0 : -1;
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(a_value_ends_behind_its_last_byte),
        cmocka_unit_test(a_value_that_does_not_end_is_none),
        cmocka_unit_test(members_come_in_order_with_escaped_keys),
        cmocka_unit_test(iteration_ends_at_malformed_text),
        cmocka_unit_test(an_array_has_no_members_and_an_object_no_elements),
        cmocka_unit_test(
            picking_unescapes_keys_and_the_last_of_equal_names_wins),
        cmocka_unit_test(numbers_are_whole_ones_within_int64_or_none),
        cmocka_unit_test(a_long_number_takes_linear_time),
        cmocka_unit_test(unescaping_gives_utf8_and_replaces_lone_surrogates),
        cmocka_unit_test(a_bad_escape_is_an_error),
        cmocka_unit_test(escaping_gives_the_inside_of_a_valid_string),
        cmocka_unit_test(copying_repairs_a_text_and_leaves_a_good_one_alone),
        cmocka_unit_test(utf8_is_that_of_rfc_3629),
        cmocka_unit_test(validity_is_that_of_rfc_8259),
        cmocka_unit_test(validity_bounds_the_depth)
    };

    return cmocka_run_group_tests(tests, setup, nothing_is_left);
}
