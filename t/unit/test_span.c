/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * How far a string's inside is valid: every implementation that this processor
 * can run gives the answer of a loop over characters.
 */

#include "unit.h"

#include "lunary_string.h"


#define SIZE  520                /* four blocks of 128 bytes, and some     */


/* by RFC 8259 and RFC 3629, one character after the other */

static size_t
unit(const unsigned char *p, size_t n)
{
    size_t         i, len;
    unsigned char  low, high;

    if (p[0] < 0x20 || p[0] == '"') {
        return 0;
    }

    if (p[0] == '\\') {

        if (n < 2 || p[1] == '\0') {
            return 0;
        }

        if (strchr("\"\\/bfnrt", p[1]) != NULL) {
            return 2;
        }

        if (p[1] != 'u' || n < 6) {
            return 0;
        }

        for (i = 2; i < 6; i++) {
            if (p[i] == '\0'
                || strchr("0123456789abcdefABCDEF", p[i]) == NULL)
            {
                return 0;
            }
        }

        return 6;
    }

    if (p[0] < 0x80) {
        return 1;
    }

    if (p[0] < 0xc2 || p[0] > 0xf4) {
        return 0;
    }

    len = (p[0] < 0xe0) ? 2 : (p[0] < 0xf0) ? 3 : 4;
    low = (p[0] == 0xe0) ? 0xa0 : (p[0] == 0xf0) ? 0x90 : 0x80;
    high = (p[0] == 0xed) ? 0x9f : (p[0] == 0xf4) ? 0x8f : 0xbf;

    if (n < len || p[1] < low || p[1] > high) {
        return 0;
    }

    for (i = 2; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
    }

    return len;
}


static size_t
valid(const unsigned char *p, size_t n)
{
    size_t  i, len;

    for (i = 0; i < n; i += len) {
        len = unit(p + i, n - i);

        if (len == 0) {
            break;
        }
    }

    return i;
}


/* in memory of just that size, and with zeroes behind it */

static void
compare(const unsigned char *text, size_t n)
{
    size_t                       want;
    unsigned char               *p;
    const lunary_simd_t *const  *one;

    want = valid(text, n);

    for (one = lunary_simd_all(); *one != NULL; one++) {

        lunary_simd = *one;

        p = malloc(n ? n : 1);
        assert_non_null(p);
        memcpy(p, text, n);

        if (lunary_string_span(p, p + n) != p + want) {
            fail_msg("%s: %zu of %zu, not %zu: %.*s", (*one)->name,
                     (size_t) (lunary_string_span(p, p + n) - p), n, want,
                     (int) n, (const char *) p);
        }

        free(p);

        p = calloc(1, n + LUNARY_STRING_PAD);
        assert_non_null(p);
        memcpy(p, text, n);

        assert_ptr_equal(lunary_string_end(p, p + n), p + want);
        free(p);
    }

    lunary_simd = lunary_simd_all()[0];
}


static void
every_character_is_judged_at_every_place(void **state)
{
    size_t         i, at, len;
    unsigned char  text[SIZE];

    static const char  *const some[] = {
        "a", "\"", "\\", "\\\"", "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r",
        "\\t", "\\u", "\\u12", "\\u12aF", "\\u12ag", "\\uD83D\\uDE00",
        "\\ud83d", "\\\\u", "\\x", "\\U0000", "\\'", "\\0", "\x1f", "\x7f",
        "\xc3\xa9", "\xc3", "\xc0\x80", "\xc1\xbf", "\xc2\x80", "\xdf\xbf",
        "\xe0\x9f\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xed\xa0\x80",
        "\xef\xbf\xbf", "\xe4\xb8\xad", "\xe4\xb8", "\xe4",
        "\xf0\x8f\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xf0\x9f\x98\x80",
        "\xf0\x9f\x98", "\xf0\x9f", "\xf0", "\x80", "\xbf\xbf", "\xff",
        "\xe4\xb8\"", "\xf0\x9f\x98\"", "\\u123\"", "\\\xc3\xa9", "\\u00\\n"
    };

    (void) state;

    for (i = 0; i < sizeof(some) / sizeof(some[0]); i++) {
        len = strlen(some[i]);

        for (at = 0; at < 330; at++) {

            /* plain before it, behind it, and nothing behind it */

            memset(text, 'x', sizeof(text));
            memcpy(text + at, some[i], len);

            compare(text, at + len);
            compare(text, at + len + 1);
            compare(text, at + len + 70);
            compare(text, at + len + 140);
        }
    }
}


static void
every_byte_behind_a_backslash(void **state)
{
    int            c;
    size_t         at;
    unsigned char  text[340];

    (void) state;

    for (c = 0; c < 256; c++) {
        for (at = 0; at < 200; at++) {
            memset(text, 'x', sizeof(text));
            text[at] = '\\';
            text[at + 1] = (unsigned char) c;
            compare(text, sizeof(text));

            /* as a digit of \u */

            text[at + 1] = 'u';
            memset(text + at + 2, '0', 4);
            text[at + 2 + at % 4] = (unsigned char) c;
            compare(text, sizeof(text));
        }
    }
}


/* two bytes above 0x7f, and what may follow them */

static void
every_two_bytes_of_a_character(void **state)
{
    int            a, b;
    size_t         i, at;
    unsigned char  text[330];

    static const size_t  places[] = { 61, 63, 64, 126, 127, 190, 191 };

    (void) state;

    for (a = 0x80; a < 0x100; a++) {
        for (b = 0; b < 0x100; b++) {
            for (i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
                at = places[i];
                memset(text, 'x', sizeof(text));
                text[at] = (unsigned char) a;
                text[at + 1] = (unsigned char) b;
                compare(text, sizeof(text));

                text[at + 2] = 0x80;
                compare(text, sizeof(text));

                text[at + 3] = 0xbf;
                compare(text, sizeof(text));
            }
        }
    }
}


static void
noise(void **state)
{
    size_t         i, n, at, len, rare;
    const char    *s;
    unsigned char  text[SIZE];

    static const char  *const some[] = {
        "\\n", "\\\"", "\\\\", "\\u00e9", "\\uFFFF", "\xc3\xa9",
        "\xe4\xb8\xad", "\xf0\x9f\x98\x80", "\\", "\"", "\x01", "\xe4",
        "\x80", "\\u0"
    };

    (void) state;

    srand(3);

    for (i = 0; i < 60000; i++) {
        n = (size_t) rand() % SIZE;
        rare = 1 + (size_t) rand() % 40;

        /* the first ones are valid */

        len = (i % 3 == 0) ? 14 : 8;

        for (at = 0; at < n; /* void */) {

            s = (rand() % (int) rare == 0)
                ? some[(size_t) rand() % len] : "x";

            if (strlen(s) > n - at) {
                s = "y";
            }

            memcpy(text + at, s, strlen(s));
            at += strlen(s);
        }

        compare(text, n);
    }
}


/* rows of escapes, behind which something is wrong: blocks end in a row */

static void
what_is_wrong_behind_an_escape(void **state)
{
    size_t         i, k, n, at, len;
    unsigned char  text[SIZE];

    static const char  *const rows[] = {
        "\\\\", "\\n", "\\u00e9", "\xc3\xa9", "\xe4\xb8\xad",
        "\xf0\x9f\x98\x80"
    };

    static const char  *const wrong[] = {
        "\x80", "\xbf\xbf", "\x80\x80\x80\x80", "\xc3", "\xe4\xb8",
        "\xf0\x9f\x98", "\xff", "\x1f", "\"", "\\x", "\\u12x4"
    };

    (void) state;

    for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        len = strlen(rows[i]);

        for (k = 0; k < sizeof(wrong) / sizeof(wrong[0]); k++) {

            for (n = 0; n < 330; n++) {

                memset(text, 'a', sizeof(text));

                for (at = n % len; at + len <= n; at += len) {
                    memcpy(text + at, rows[i], len);
                }

                memcpy(text + at, wrong[k], strlen(wrong[k]));
                at += strlen(wrong[k]);

                compare(text, at);
                compare(text, at + 70);
                compare(text, at + 140);
            }
        }
    }
}


static lunary_simd_pt  found;
static size_t          asked;


static const unsigned char *
ask(const unsigned char *p, const unsigned char *end)
{
    asked++;

    return found(p, end);
}


/* the loop over characters, which asks where the next special one is, is for
 * what is wrong: an implementation that judges by blocks does without */

static void
what_is_valid_is_judged_by_blocks(void **state)
{
    size_t                       i, at, len;
    unsigned char                text[SIZE];
    lunary_simd_t                spied;
    const lunary_simd_t *const  *one;

    static const char  *const some[] = {
        "x", "\\\"", "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t",
        "\\u00e9", "\xc3\xa9", "\xe4\xb8\xad", "\xf0\x9f\x98\x80"
    };

    (void) state;

    for (one = lunary_simd_all(); *one != NULL; one++) {

        spied = **one;
        found = spied.text;
        spied.text = ask;

        if (spied.span == lunary_simd_portable.span) {
            continue;
        }

        for (i = 0; i < sizeof(some) / sizeof(some[0]); i++) {

            len = strlen(some[i]);
            memset(text, '"', sizeof(text));

            /* the loop looks at the next 16 bytes itself: they are plain */

            for (at = 0; at < 400; at += len + 20) {
                memcpy(text + at, some[i], len);
                memset(text + at + len, 'x', 20);
            }

            lunary_simd = &spied;
            asked = 0;

            assert_ptr_equal(lunary_simd->span(text, text + SIZE), text + at);
            assert_ptr_equal(lunary_simd->padded(text, text + SIZE),
                             text + at);

            lunary_simd = lunary_simd_all()[0];

            if (asked) {
                fail_msg("%s: %s", (*one)->name, some[i]);
            }
        }
    }
}


/* names of all lengths, and that byte at each place, or its neighbours only */

static void
a_byte_is_found_wherever_it_is(void **state)
{
    size_t          len, at;
    unsigned        c;
    unsigned char  *p;

    (void) state;

    for (len = 0; len < 40; len++) {
        for (c = 0; c < 256; c++) {

            p = malloc(len ? len : 1);
            assert_non_null(p);

            for (at = 0; at < len; at++) {
                p[at] = (unsigned char) (at % 2 ? c + 1 : c - 1);
            }

            assert_false(lunary_string_has(lunary_str(p, len),
                                           (unsigned char) c));

            for (at = 0; at < len; at++) {
                p[at] = (unsigned char) c;
                assert_true(lunary_string_has(lunary_str(p, len),
                                              (unsigned char) c));
                p[at] = (unsigned char) (c + 1);
            }

            free(p);
        }
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(every_character_is_judged_at_every_place),
        cmocka_unit_test(every_byte_behind_a_backslash),
        cmocka_unit_test(every_two_bytes_of_a_character),
        cmocka_unit_test(what_is_wrong_behind_an_escape),
        cmocka_unit_test(noise),
        cmocka_unit_test(what_is_valid_is_judged_by_blocks),
        cmocka_unit_test(a_byte_is_found_wherever_it_is)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
