/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Every implementation of the vector code that this processor can run gives
 * the answers of a loop over bytes, at every length and place.
 */

#include "unit.h"
#include "upper.h"

#include "lunary_simd.h"


#define SIZE  200


typedef int (*stops_pt)(unsigned char c);


static int
stops_text(unsigned char c)
{
    return c == '"' || c == '\\' || c < 0x20 || c >= 0x80;
}


static int
stops_quote(unsigned char c)
{
    return c == '"' || c == '\\';
}


static int
stops_bracket(unsigned char c)
{
    return c != '\0' && strchr("\"[]{}", c) != NULL;
}


static int
stops_number(unsigned char c)
{
    return c == '\0' || strchr("0123456789+-.eE, \t\r\n", c) == NULL;
}


static int
stops_base64(unsigned char c)
{
    return !((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z')
             || (c >= '0' && c <= '9')
             || (c != '\0' && strchr("+/-_=", c) != NULL));
}


static int
stops_space(unsigned char c)
{
    return c == '\0' || strchr(" \t\r\n", c) == NULL;
}


static void
compare(lunary_simd_pt find, stops_pt stops, unsigned char pass)
{
    int             c;
    size_t          from, to, at, i;
    unsigned char  *p;

    /* every byte value is seen for what it is, wherever it stands */

    for (c = 0; c < 256; c++) {
        for (at = 0; at < SIZE; at += (at < 70) ? 1 : 13) {
            p = unit_copy("", 0);
            p = realloc(p, SIZE);
            memset(p, pass, SIZE);
            p[at] = (unsigned char) c;

            assert_ptr_equal(find(p, p + SIZE),
                             p + (stops((unsigned char) c) ? at : SIZE));
            free(p);
        }
    }

    /* no byte outside of the slice is looked at: ASan sees it, and those
     * around it would stop the search */

    for (from = 0; from < 70; from++) {
        for (to = from; to <= from + 130; to++) {
            p = malloc(to + 1);
            assert_non_null(p);
            memset(p, '"', to + 1);
            memset(p + from, pass, to - from);

            assert_ptr_equal(find(p + from, p + to), p + to);
            free(p);
        }
    }

    /* noise */

    srand(1);

    for (i = 0; i < 20000; i++) {
        p = malloc(SIZE);
        assert_non_null(p);

        for (at = 0; at < SIZE; at++) {
            p[at] = (rand() % 50 == 0) ? (unsigned char) rand() : pass;
        }

        from = (size_t) rand() % SIZE;

        for (at = from; at < SIZE && !stops(p[at]); at++) { /* void */ }

        assert_ptr_equal(find(p + from, p + SIZE), p + at);
        free(p);
    }
}


static void
every_implementation_finds_what_a_loop_finds(void **state)
{
    const lunary_simd_t *const *one;

    (void) state;

    for (one = lunary_simd_all(); *one != NULL; one++) {
        print_message("%s\n", (*one)->name);

        compare((*one)->text, stops_text, 'a');
        compare((*one)->quote, stops_quote, '[');
        compare((*one)->bracket, stops_bracket, '\\');
        compare((*one)->number, stops_number, '7');
        compare((*one)->base64, stops_base64, 'Q');
        compare((*one)->space, stops_space, ' ');
    }
}


/* whatever is there: found at once, later, not at all; in blocks or behind */

static void
no_implementation_leaves_registers_dirty(void **state)
{
    size_t                       i, k, n, at;
    unsigned char                buf[SIZE + 64];
    lunary_simd_pt               find;
    const lunary_simd_t *const  *one;

    static const size_t  finders[] = {
        offsetof(lunary_simd_t, text), offsetof(lunary_simd_t, quote),
        offsetof(lunary_simd_t, bracket), offsetof(lunary_simd_t, number),
        offsetof(lunary_simd_t, base64), offsetof(lunary_simd_t, space),
        offsetof(lunary_simd_t, nested), offsetof(lunary_simd_t, close),
        offsetof(lunary_simd_t, span), offsetof(lunary_simd_t, padded)
    };

    static const char *const  texts[] = {
        "a", "7", " ", "\\\"", "\\u00e9", "\xc3\xa9", "a\"", "{\"a\":[1]}",
        "\\x",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\\\"\xc3"
    };

    (void) state;

    for (one = lunary_simd_all(); *one != NULL; one++) {
        for (i = 0; i < sizeof(finders) / sizeof(finders[0]); i++) {

            find = *(const lunary_simd_pt *) ((const char *) *one
                                              + finders[i]);

            for (k = 0; k < sizeof(texts) / sizeof(texts[0]); k++) {
                for (n = 0; n < SIZE; n++) {

                    memset(buf, 0, sizeof(buf));

                    for (at = 0; at < n; at++) {
                        buf[at] = (unsigned char)
                                  texts[k][at % strlen(texts[k])];
                    }

                    (void) find(buf, buf + n);

                    if (upper_halves_in_use()) {
                        fail_msg("%s, finder %zu, text %zu of %zu bytes",
                                 (*one)->name, i, k, n);
                    }
                }
            }
        }
    }
}


static void
the_portable_one_is_always_there(void **state)
{
    const lunary_simd_t *const *one;

    (void) state;

    for (one = lunary_simd_all(); one[1] != NULL; one++) { /* void */ }

    assert_string_equal((*one)->name, "portable");
}


static const unsigned char *
text(const unsigned char *p, const unsigned char *end)
{
    return lunary_simd_text(p, end);
}


static const unsigned char *
bracket(const unsigned char *p, const unsigned char *end)
{
    return lunary_simd_bracket(p, end);
}


static void
what_callers_use_is_the_same(void **state)
{
    const lunary_simd_t *const *one;

    (void) state;

    for (one = lunary_simd_all(); *one != NULL; one++) {
        lunary_simd = *one;

        compare(text, stops_text, 'a');
        compare(bracket, stops_bracket, 'a');
    }

    lunary_simd = lunary_simd_all()[0];
}


static void
a_string_ends_at_the_quote_that_is_not_escaped(void **state)
{
    size_t         i, k;
    unsigned char *p;

    static const struct {
        const char  *text;
        size_t       at;
    } cases[] = {
        { "abc\"x", 3 }, { "\"", 0 }, { "\\\"\"", 2 }, { "\\\\\"", 2 },
        { "a\\\\\\\"b\"", 6 }, { "\\u0022\"", 6 }, { "none", 4 },
        { "\\", 1 }, { "a\\\"", 3 }, { "", 0 }
    };

    (void) state;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        k = strlen(cases[i].text);
        p = unit_copy(cases[i].text, k);

        assert_ptr_equal(lunary_simd_close(p, p + k), p + cases[i].at);
        free(p);
    }
}


/* what lunary_simd.h says of nested(), a byte at a time */

static const unsigned char *
closing(const unsigned char *p, const unsigned char *end)
{
    int     string;
    size_t  depth;

    string = 0;
    depth = 1;

    for ( /* void */ ; p < end; p++) {

        if (string) {
            if (*p == '\\') {
                p++;

            } else if (*p == '"') {
                string = 0;
            }

        } else if (*p == '"') {
            string = 1;

        } else if (*p == '{' || *p == '[') {
            depth++;

        } else if ((*p == '}' || *p == ']') && --depth == 0) {
            return p + 1;
        }
    }

    return NULL;
}


static void
a_bracket_is_closed_by_its_own(void **state)
{
    size_t                      i, n, at, rare;
    unsigned char               *p;
    const lunary_simd_t *const  *one;

    static const char  some[] = "\"\"\\[]{}[{]}";

    (void) state;

    srand(2);

    for (one = lunary_simd_all(); *one != NULL; one++) {

        lunary_simd = *one;

        for (i = 0; i < 60000; i++) {
            n = (size_t) rand() % 300;
            rare = 1 + (size_t) rand() % 30;

            p = malloc(n + 1);
            assert_non_null(p);

            for (at = 0; at < n; at++) {
                p[at] = (rand() % (int) rare == 0)
                        ? (unsigned char) some[(size_t) rand()
                                               % (sizeof(some) - 1)]
                        : 'x';
            }

            p = realloc(p, n ? n : 1);
            assert_ptr_equal(lunary_simd_nested(p, p + n),
                             closing(p, p + n));
            free(p);
        }
    }

    lunary_simd = lunary_simd_all()[0];
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(every_implementation_finds_what_a_loop_finds),
        cmocka_unit_test(no_implementation_leaves_registers_dirty),
        cmocka_unit_test(the_portable_one_is_always_there),
        cmocka_unit_test(what_callers_use_is_the_same),
        cmocka_unit_test(a_string_ends_at_the_quote_that_is_not_escaped),
        cmocka_unit_test(a_bracket_is_closed_by_its_own)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
