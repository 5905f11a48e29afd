/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The run: its encoding is read back by a reader of RESP written here, and
 * redaction is shown by what is left.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE              /* memmem() */
#endif

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../ngx_lunary_module/inspect/lunary_json.h"
#include "../../ngx_lunary_module/run/lunary_run.h"


#define set_text(run, f, text)                                               \
    lunary_run_set(run, f, lunary_str(text, strlen(text)))


/* one bulk string of exact RESP: "$", digits without leading zeros, CRLF */

static lunary_str_t
bulk(const unsigned char **p, const unsigned char *end)
{
    size_t        n;
    lunary_str_t  s;

    assert_true(end - *p > 4);
    assert_int_equal(*(*p)++, '$');
    assert_in_range(**p, '1', '9');

    for (n = 0; **p != '\r'; (*p)++) {
        assert_in_range(**p, '0', '9');
        n = n * 10 + (size_t) (**p - '0');
    }

    assert_memory_equal(*p, "\r\n", 2);
    *p += 2;

    assert_true((size_t) (end - *p) >= n + 2);
    s = lunary_str(*p, n);
    *p += n;

    assert_memory_equal(*p, "\r\n", 2);
    *p += 2;

    return s;
}


/* encodes into lunary_run_room() bytes and no more (ASan watches their end)
 * and compares what is read back with the run */

static void
check_encoding(const lunary_run_t *run)
{
    size_t                size;
    unsigned              f, n;
    lunary_str_t          name, value;
    unsigned char        *buf, *last;
    const unsigned char  *p;

    size = lunary_run_room(run);
    buf = malloc(size + 1);
    assert_non_null(buf);
    buf[size] = 0xa5;

    last = lunary_run_encode(run, buf);
    assert_true(last <= buf + size);
    assert_int_equal(buf[size], 0xa5);

    p = buf;
    n = 0;

    for (f = 0; f < LUNARY_F_MAX; f++) {

        if (!lunary_run_has(run, f)) {
            continue;
        }

        name = bulk(&p, last);
        value = bulk(&p, last);

        assert_int_equal(name.len, lunary_run_name(f).len);
        assert_memory_equal(name.data, lunary_run_name(f).data, name.len);
        assert_int_equal(value.len, run->value[f].len);
        assert_memory_equal(value.data, run->value[f].data, value.len);
        n++;
    }

    assert_ptr_equal(p, last);
    assert_int_equal(n, lunary_run_count(run));

    free(buf);
}


static void
test_a_run_without_fields_is_empty(void **state)
{
    lunary_run_t   run;
    unsigned char  buf[64];

    (void) state;

    lunary_run_init(&run);

    assert_int_equal(lunary_run_count(&run), 0);
    assert_ptr_equal(lunary_run_encode(&run, buf), buf);
}


static void
test_fields_are_written_as_bulk_strings_in_the_order_of_the_table(void **state)
{
    lunary_run_t          run;
    unsigned char         buf[256];
    unsigned char        *last;

    static const char     expected[] =
        "$4\r\nkind\r\n$3\r\nrun\r\n"
        "$1\r\nv\r\n$1\r\n1\r\n"
        "$6\r\nrun_id\r\n$4\r\nabcd\r\n"
        "$12\r\ninput_tokens\r\n$2\r\n17\r\n";

    (void) state;

    lunary_run_init(&run);
    lunary_run_set_int(&run, LUNARY_F_INPUT_TOKENS, 17);
    lunary_run_set_lit(&run, LUNARY_F_RUN_ID, "abcd");
    lunary_run_set_lit(&run, LUNARY_F_V, "1");
    lunary_run_set_lit(&run, LUNARY_F_KIND, "run");

    last = lunary_run_encode(&run, buf);

    assert_int_equal(last - buf, sizeof(expected) - 1);
    assert_memory_equal(buf, expected, sizeof(expected) - 1);
}


static void
test_every_field_is_encoded_whatever_its_length(void **state)
{
    size_t         len;
    unsigned       f;
    lunary_run_t   run;
    unsigned char  text[1200];

    (void) state;

    memset(text, 'x', sizeof(text));

    for (len = 1; len < sizeof(text); len += (len < 70) ? 1 : 93) {
        lunary_run_init(&run);

        for (f = 0; f < LUNARY_F_MAX; f++) {
            lunary_run_set(&run, f, lunary_str(text, len));
        }

        check_encoding(&run);
    }
}


static void
test_any_set_of_fields_is_encoded(void **state)
{
    size_t         i;
    unsigned       f;
    lunary_run_t   run;
    unsigned char  text[300];

    (void) state;

    for (i = 0; i < sizeof(text); i++) {
        text[i] = (unsigned char) i;
    }

    srand(7);

    for (i = 0; i < 2000; i++) {
        lunary_run_init(&run);

        for (f = 0; f < LUNARY_F_MAX; f++) {
            if (rand() % 3 == 0) {
                lunary_run_set(&run, f, lunary_str(text, rand() % 300));
            }
        }

        check_encoding(&run);
    }
}


static void
test_an_empty_value_unsets_a_field(void **state)
{
    lunary_run_t  run;

    (void) state;

    lunary_run_init(&run);
    lunary_run_set_lit(&run, LUNARY_F_MODEL, "gpt");
    assert_true(lunary_run_has(&run, LUNARY_F_MODEL));

    lunary_run_set(&run, LUNARY_F_MODEL, lunary_str(NULL, 0));
    assert_false(lunary_run_has(&run, LUNARY_F_MODEL));
    assert_int_equal(lunary_run_count(&run), 0);
}


static void
check_int(int64_t n)
{
    char          text[32];
    lunary_run_t  run;

    snprintf(text, sizeof(text), "%lld", (long long) n);

    lunary_run_init(&run);
    lunary_run_set_int(&run, LUNARY_F_TOTAL_TOKENS, n);

    assert_int_equal(run.value[LUNARY_F_TOTAL_TOKENS].len, strlen(text));
    assert_memory_equal(run.value[LUNARY_F_TOTAL_TOKENS].data, text,
                        strlen(text));
}


static void
test_numbers_are_decimal_texts(void **state)
{
    int64_t   n;
    unsigned  i;

    (void) state;

    check_int(0);
    check_int(INT64_MAX);
    check_int(INT64_MIN);

    for (n = 1, i = 0; i < 19; i++) {
        check_int(n - 1);
        check_int(n);
        check_int(n + 1);
        check_int(-n);

        if (i < 18) {
            n *= 10;
        }
    }
}


static void
test_a_number_set_again_keeps_its_place(void **state)
{
    int           i;
    lunary_run_t  run;

    (void) state;

    lunary_run_init(&run);
    lunary_run_set_int(&run, LUNARY_F_STATUS, 200);

    for (i = 0; i < 1000; i++) {
        lunary_run_set_int(&run, LUNARY_F_TTFT_MS, INT64_MAX - i);
    }

    assert_true(lunary_eq(run.value[LUNARY_F_STATUS], "200"));
    assert_true(lunary_eq(run.value[LUNARY_F_TTFT_MS],
                          "9223372036854774808"));
}


static void
test_all_numbers_of_a_run_have_room(void **state)
{
    unsigned      i;
    lunary_run_t  run;

    static const lunary_field_e  numbers[] = {
        LUNARY_F_INPUT_BYTES, LUNARY_F_OUTPUT_BYTES, LUNARY_F_PROMPT_TOKENS,
        LUNARY_F_COMPLETION_TOKENS, LUNARY_F_TOTAL_TOKENS,
        LUNARY_F_CACHED_TOKENS, LUNARY_F_CACHE_WRITE_TOKENS,
        LUNARY_F_REASONING_TOKENS, LUNARY_F_INPUT_TOKENS,
        LUNARY_F_OUTPUT_TOKENS, LUNARY_F_REQUEST_BYTES,
        LUNARY_F_RESPONSE_BYTES, LUNARY_F_STATUS, LUNARY_F_UPSTREAM_STATUS,
        LUNARY_F_ATTEMPTS, LUNARY_F_STARTED_AT, LUNARY_F_ENDED_AT,
        LUNARY_F_DURATION_MS, LUNARY_F_TTFT_MS, LUNARY_F_USER_VERIFIED,
        LUNARY_F_STREAM, LUNARY_F_V
    };

    (void) state;

    lunary_run_init(&run);

    for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        lunary_run_set_int(&run, numbers[i], INT64_MIN);
    }

    assert_int_equal(lunary_run_count(&run),
                     sizeof(numbers) / sizeof(numbers[0]));
    check_encoding(&run);
}


static void
test_uuid7_holds_time_version_and_variant(void **state)
{
    unsigned char  id[36];

    static const unsigned char  random[10] = {
        0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99, 0x88, 0x77, 0x66
    };

    (void) state;

    /* the example of RFC 9562, A.6, has this time */

    lunary_uuid7(id, 0x017f22e279b0, random);
    assert_memory_equal(id, "017f22e2-79b0-7fee-9dcc-bbaa99887766", 36);
}


static void
test_bytes_are_hex_digits(void **state)
{
    char               want[32];
    unsigned           i, k;
    unsigned char      src[16], got[32];
    static const char  digits[] = "0123456789abcdef";

    (void) state;

    for (i = 0; i < 256; i += 16) {

        for (k = 0; k < 16; k++) {
            src[k] = (unsigned char) (i + k);
            want[2 * k] = digits[i / 16];
            want[2 * k + 1] = digits[k];
        }

        lunary_run_hex(got, src);
        assert_memory_equal(got, want, 32);
    }
}


static void
test_uuid7_sorts_by_time(void **state)
{
    unsigned char  a[36], b[36];

    static const unsigned char  high[10] = {
        255, 255, 255, 255, 255, 255, 255, 255, 255, 255
    };
    static const unsigned char  low[10];

    (void) state;

    lunary_uuid7(a, 1763772000999, high);
    lunary_uuid7(b, 1763772001000, low);
    assert_true(memcmp(a, b, 36) < 0);
}


/* redaction */

static void
fill(lunary_run_t *run)
{
    lunary_run_init(run);

    set_text(run, LUNARY_F_MODEL, "gpt-4o");
    set_text(run, LUNARY_F_INPUT, "[{\"role\":\"user\",\"content\":\"IN\"}]");
    set_text(run, LUNARY_F_OUTPUT,
             "{\"role\":\"assistant\",\"content\":\"OUT\"}");
    set_text(run, LUNARY_F_INPUT_BYTES, "33");
    set_text(run, LUNARY_F_TRUNCATED, "input,output");
    set_text(run, LUNARY_F_PARAMS,
             "{\"temperature\":0.5,\"tools\":[{\"name\":\"SECRET\"}],"
             "\"tool_choice\":\"auto\",\"stop\":\"SECRET\"}");
    set_text(run, LUNARY_F_ERROR,
             "{\"message\":\"no: SECRET\",\"type\":\"invalid_request_error\","
             "\"code\":\"bad\"}");
}


static lunary_str_t
redact_one(lunary_field_e f, const char *text, lunary_mem_t *mem,
    lunary_buf_t *scratch)
{
    lunary_run_t  run;

    lunary_run_init(&run);
    set_text(&run, f, text);

    assert_int_equal(lunary_run_redact(&run, 0, mem, scratch), LUNARY_OK);

    return run.value[f];
}


static void
check_params(const char *from, const char *to)
{
    lunary_str_t  v;
    lunary_mem_t  mem;
    lunary_buf_t  scratch = { NULL, 0, 0 };

    lunary_mem_init(&mem);

    v = redact_one(LUNARY_F_PARAMS, from, &mem, &scratch);
    assert_int_equal(v.len, strlen(to));

    if (v.len != 0) {
        assert_memory_equal(v.data, to, v.len);
        assert_true(lunary_json_valid(v, 16));
    }

    lunary_buf_free(&mem, &scratch);
    assert_int_equal(mem.used, 0);
}


static void
check_error(const char *from, const char *to)
{
    lunary_str_t  v;
    lunary_mem_t  mem;
    lunary_buf_t  scratch = { NULL, 0, 0 };

    lunary_mem_init(&mem);

    v = redact_one(LUNARY_F_ERROR, from, &mem, &scratch);
    assert_int_equal(v.len, strlen(to));

    if (v.len != 0) {
        assert_memory_equal(v.data, to, v.len);
    }

    lunary_buf_free(&mem, &scratch);
}


static void
test_full_capture_leaves_the_run_as_it_is(void **state)
{
    lunary_run_t  run, before;
    lunary_mem_t  mem;
    lunary_buf_t  scratch = { NULL, 0, 0 };

    (void) state;

    lunary_mem_init(&mem);
    fill(&run);
    before = run;

    assert_int_equal(lunary_run_redact(&run, LUNARY_CAPTURE_FULL, &mem,
                                       &scratch), LUNARY_OK);
    assert_memory_equal(&run, &before, sizeof(run));
    assert_int_equal(mem.peak, 0);
}


static void
test_without_capture_contents_leave_and_sizes_stay(void **state)
{
    lunary_run_t  run;
    lunary_mem_t  mem;
    lunary_buf_t  scratch = { NULL, 0, 0 };

    (void) state;

    lunary_mem_init(&mem);
    fill(&run);

    assert_int_equal(lunary_run_redact(&run, 0, &mem, &scratch), LUNARY_OK);

    assert_false(lunary_run_has(&run, LUNARY_F_INPUT));
    assert_false(lunary_run_has(&run, LUNARY_F_OUTPUT));
    assert_false(lunary_run_has(&run, LUNARY_F_TRUNCATED));
    assert_true(lunary_eq(run.value[LUNARY_F_MODEL], "gpt-4o"));
    assert_true(lunary_eq(run.value[LUNARY_F_INPUT_BYTES], "33"));
    assert_true(lunary_eq(run.value[LUNARY_F_PARAMS],
                "{\"temperature\":0.5,\"tool_choice\":\"auto\"}"));
    assert_true(lunary_eq(run.value[LUNARY_F_ERROR],
                "{\"type\":\"invalid_request_error\",\"code\":\"bad\"}"));

    lunary_buf_free(&mem, &scratch);
}


static void
test_capture_input_keeps_the_input_only(void **state)
{
    lunary_run_t  run;
    lunary_mem_t  mem;
    lunary_buf_t  scratch = { NULL, 0, 0 };

    (void) state;

    lunary_mem_init(&mem);
    fill(&run);

    assert_int_equal(lunary_run_redact(&run, LUNARY_CAPTURE_INPUT, &mem,
                                       &scratch), LUNARY_OK);

    assert_true(lunary_run_has(&run, LUNARY_F_INPUT));
    assert_false(lunary_run_has(&run, LUNARY_F_OUTPUT));
    assert_true(lunary_eq(run.value[LUNARY_F_TRUNCATED], "input"));
    assert_non_null(memmem(run.value[LUNARY_F_PARAMS].data,
                           run.value[LUNARY_F_PARAMS].len, "SECRET", 6));
    assert_true(lunary_eq(run.value[LUNARY_F_ERROR],
                "{\"type\":\"invalid_request_error\",\"code\":\"bad\"}"));

    lunary_buf_free(&mem, &scratch);
}


static void
test_capture_output_keeps_the_output_only(void **state)
{
    lunary_run_t  run;
    lunary_mem_t  mem;
    lunary_buf_t  scratch = { NULL, 0, 0 };

    (void) state;

    lunary_mem_init(&mem);
    fill(&run);

    assert_int_equal(lunary_run_redact(&run, LUNARY_CAPTURE_OUTPUT, &mem,
                                       &scratch), LUNARY_OK);

    assert_false(lunary_run_has(&run, LUNARY_F_INPUT));
    assert_true(lunary_run_has(&run, LUNARY_F_OUTPUT));
    assert_true(lunary_eq(run.value[LUNARY_F_TRUNCATED], "output"));
    assert_null(memmem(run.value[LUNARY_F_PARAMS].data,
                       run.value[LUNARY_F_PARAMS].len, "SECRET", 6));

    lunary_buf_free(&mem, &scratch);
}


static void
test_parameters_keep_numbers_booleans_and_known_words(void **state)
{
    (void) state;

    check_params("{}", "");
    check_params("{\"n\":2,\"logprobs\":true,\"seed\":null,\"top_p\":1e-3}",
                 "{\"n\":2,\"logprobs\":true,\"seed\":null,\"top_p\":1e-3}");
    check_params("{\"reasoning_effort\":\"high\",\"prompt\":\"a\"}",
                 "{\"reasoning_effort\":\"high\"}");
    check_params("{\"modalities\":[\"text\",\"audio\"]}",
                 "{\"modalities\":[\"text\",\"audio\"]}");
    check_params("{\"stop\":[\"text\",\"my secret\"]}", "");
    check_params("{\"stop\":[[\"text\"]],\"a\":[]}", "");
}


static void
test_parameters_keep_what_is_harmless_in_known_objects(void **state)
{
    (void) state;

    check_params("{\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":9}}",
                 "{\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":9}}");
    check_params("{\"response_format\":{\"type\":\"json_schema\","
                 "\"json_schema\":{\"name\":\"secret\",\"strict\":true}}}",
                 "{\"response_format\":{\"type\":\"json_schema\"}}");
    check_params("{\"tool_choice\":{\"type\":\"function\",\"function\":"
                 "{\"name\":\"secret\"}}}",
                 "{\"tool_choice\":{\"type\":\"function\"}}");
    check_params("{\"logit_bias\":{\"5025\":-100}}", "");
    check_params("{\"a\":1,\"text\":{\"b\":\"secret\"},\"c\":2}",
                 "{\"a\":1,\"c\":2}");
}


static void
test_parameters_lose_names_that_are_no_words(void **state)
{
    (void) state;

    check_params("{\"my secret\":1,\"\":2,\"\\u0061\":3,\"ok\":4}",
                 "{\"ok\":4}");
    check_params("{\"0123456789012345678901234567890123456789"
                 "012345678901234567890123456789\":1}", "");
    check_params("[1,2,3]", "");
    check_params("\"secret\"", "");
    check_params("secret", "");
}


static void
test_deeply_nested_parameters_are_left_out(void **state)
{
    (void) state;

    check_params("{\"text\":{\"text\":{\"text\":{\"text\":{\"text\":"
                 "{\"a\":1},\"b\":2}}}}}",
                 "{\"text\":{\"text\":{\"text\":{\"text\":{\"b\":2}}}}}");
}


static void
test_errors_keep_type_and_code_if_they_are_words(void **state)
{
    (void) state;

    check_error("{\"message\":\"secret\"}", "");
    check_error("{\"code\":429,\"message\":\"secret\"}", "{\"code\":429}");
    check_error("{\"type\":\"my secret\",\"code\":-1}", "{\"code\":-1}");
    check_error("{\"type\":{\"a\":\"secret\"},\"code\":\"a\\u0020b\"}", "");
    check_error("\"secret\"", "");
    check_error("{\"code\":-secret}", "");
}


/* an allocator that fails from the nth call on */

static void *
failing(void *ctx, void *p, size_t old, size_t size)
{
    int  *left;

    (void) old;

    left = ctx;

    if (size == 0) {
        free(p);
        return NULL;
    }

    if (*left == 0) {
        return NULL;
    }

    (*left)--;

    return realloc(p, size);
}


static void
test_without_memory_redaction_removes_more_never_less(void **state)
{
    int           n, left, rc;
    lunary_run_t  run;
    lunary_mem_t  mem;
    lunary_buf_t  scratch;

    (void) state;

    for (n = 0; n < 10; n++) {
        left = n;

        lunary_mem_init(&mem);
        mem.fn = failing;
        mem.ctx = &left;

        memset(&scratch, 0, sizeof(scratch));
        fill(&run);

        rc = lunary_run_redact(&run, 0, &mem, &scratch);

        assert_false(lunary_run_has(&run, LUNARY_F_INPUT));
        assert_false(lunary_run_has(&run, LUNARY_F_OUTPUT));

        if (rc != LUNARY_OK) {
            assert_int_equal(rc, LUNARY_NOMEM);
            assert_false(lunary_run_has(&run, LUNARY_F_PARAMS));
            assert_false(lunary_run_has(&run, LUNARY_F_ERROR));
        }

        lunary_buf_free(&mem, &scratch);
        assert_int_equal(mem.used, 0);

        if (rc == LUNARY_OK) {
            assert_true(n > 0);
            return;
        }
    }

    fail();
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_a_run_without_fields_is_empty),
        cmocka_unit_test(
            test_fields_are_written_as_bulk_strings_in_the_order_of_the_table),
        cmocka_unit_test(test_every_field_is_encoded_whatever_its_length),
        cmocka_unit_test(test_any_set_of_fields_is_encoded),
        cmocka_unit_test(test_an_empty_value_unsets_a_field),
        cmocka_unit_test(test_numbers_are_decimal_texts),
        cmocka_unit_test(test_a_number_set_again_keeps_its_place),
        cmocka_unit_test(test_all_numbers_of_a_run_have_room),
        cmocka_unit_test(test_uuid7_holds_time_version_and_variant),
        cmocka_unit_test(test_bytes_are_hex_digits),
        cmocka_unit_test(test_uuid7_sorts_by_time),
        cmocka_unit_test(test_full_capture_leaves_the_run_as_it_is),
        cmocka_unit_test(test_without_capture_contents_leave_and_sizes_stay),
        cmocka_unit_test(test_capture_input_keeps_the_input_only),
        cmocka_unit_test(test_capture_output_keeps_the_output_only),
        cmocka_unit_test(test_parameters_keep_numbers_booleans_and_known_words),
        cmocka_unit_test(
            test_parameters_keep_what_is_harmless_in_known_objects),
        cmocka_unit_test(test_parameters_lose_names_that_are_no_words),
        cmocka_unit_test(test_deeply_nested_parameters_are_left_out),
        cmocka_unit_test(test_errors_keep_type_and_code_if_they_are_words),
        cmocka_unit_test(test_without_memory_redaction_removes_more_never_less)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
