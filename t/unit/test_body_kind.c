/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What kind of body a request is, told by its first bytes in any pieces.
 */

#include "unit.h"

#include "lunary_call.h"


#define bytes(s)  { s, sizeof(s) - 1 }


static lunary_mem_t  mem;


static int
kind(const char *type, const char *text, size_t len, size_t piece)
{
    int                 state;
    size_t              i, k;
    unsigned char      *p;
    lunary_call_t      *call;
    lunary_call_conf_t  conf;

    memset(&conf, 0, sizeof(conf));
    conf.capture_max = 4096;

    call = lunary_call_create(&mem, &conf);
    assert_non_null(call);

    lunary_call_start(call, text_of("POST"), text_of("/v1/chat/completions"),
                      text_of(type), text_of(""));

    for (i = 0; i < len; i += k) {
        k = (piece > len - i) ? len - i : piece;
        p = unit_copy(text + i, k);
        lunary_call_request(call, p, k);
        free(p);
    }

    lunary_call_request_end(call);
    state = call->request_state;

    lunary_call_destroy(call);
    assert_int_equal(mem.used, 0);

    return state;
}


static void
json_in_another_encoding_is_no_other_body(void **state)
{
    size_t  i, piece;

    static const struct {
        const char  *text;
        size_t       len;
    } cases[] = {
        bytes("\xef\xbb\xbf{}"),
        bytes(" \xef\xbb\xbf{}"),
        bytes("\xff\xfe{\0}\0"),
        bytes("\xfe\xff\0{\0}"),
        bytes("\0{\0}"),
        bytes("{\0}\0"),
        bytes("\0 \0{\0}"),
        bytes(" \0{\0}\0"),
        bytes("\r\0\n\0{\0}\0"),
        bytes("\0\0\xfe\xff\0\0\0{\0\0\0}"),
        bytes("\0\0\0{\0\0\0}"),
        bytes("{\0\0\0}\0\0\0"),
        bytes("\0\0\0 \0\0\0{\0\0\0}"),
        bytes(" \0\0\0\n\0\0\0{\0\0\0}\0\0\0")
    };

    (void) state;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (piece = 1; piece <= cases[i].len; piece++) {
            assert_int_equal(kind("text/plain", cases[i].text, cases[i].len,
                                  piece), LUNARY_BODY_INVALID);
            assert_int_equal(kind("application/x-www-form-urlencoded",
                                  cases[i].text, cases[i].len, piece),
                             LUNARY_BODY_INVALID);
        }
    }
}


static void
what_only_starts_so_is_another_body(void **state)
{
    size_t  i, piece;

    static const struct {
        const char  *text;
        size_t       len;
    } cases[] = {
        bytes("\xef"),
        bytes("\xff"),
        bytes("\0"),
        bytes("\0\0\0"),
        bytes("\xff\xd8\xff\xe0"),
        bytes("\xef\xbc\xa1"),
        bytes("\0\0\0 ftypisom"),
        bytes("\0 x")
    };

    (void) state;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (piece = 1; piece <= cases[i].len; piece++) {
            assert_int_equal(kind("text/plain", cases[i].text, cases[i].len,
                                  piece), LUNARY_BODY_OTHER);
            assert_int_equal(kind("application/x-www-form-urlencoded",
                                  cases[i].text, cases[i].len, piece),
                             LUNARY_BODY_FORM);
        }
    }
}


static lunary_str_t
form_user(lunary_call_t *call, const char *text, size_t piece)
{
    size_t  i, k, len;

    lunary_call_start(call, text_of("POST"), text_of("/v1/images/edits"),
                      text_of("application/x-www-form-urlencoded"),
                      text_of(""));

    len = strlen(text);

    for (i = 0; i < len; i += k) {
        k = (piece > len - i) ? len - i : piece;
        lunary_call_request(call, (const unsigned char *) text + i, k);
    }

    lunary_call_request_end(call);

    return lunary_call_claims(call)->user;
}


static void
a_forms_first_name_is_the_same_in_any_pieces(void **state)
{
    size_t              i, piece;
    lunary_call_t      *call;
    lunary_call_conf_t  conf;

    static const char  *cases[][2] = {
        { "user=x", "x" },
        { " user=x", "" },
        { "=x&user=y", "y" },
        { "\xefuser=x&user=y", "y" }
    };

    (void) state;

    memset(&conf, 0, sizeof(conf));
    conf.capture_max = 4096;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (piece = 1; piece < 8; piece++) {
            call = lunary_call_create(&mem, &conf);
            assert_non_null(call);

            assert_text(form_user(call, cases[i][0], piece), cases[i][1]);

            lunary_call_destroy(call);
            assert_int_equal(mem.used, 0);
        }
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(json_in_another_encoding_is_no_other_body),
        cmocka_unit_test(what_only_starts_so_is_another_body),
        cmocka_unit_test(a_forms_first_name_is_the_same_in_any_pieces)
    };

    lunary_mem_init(&mem);

    return cmocka_run_group_tests(tests, NULL, NULL);
}
