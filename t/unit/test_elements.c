/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Old elements that go while a document arrives.  What is left is told from
 * the document itself: the newest elements as they came, and one in the place
 * of all before them.
 */

#include "doc.h"

#include "lunary_doc_internal.h"


/* a marker's length is not known before its number, and the longest is assumed:
 * so much may be free at the end */
#define UNUSED  104


static uint32_t  seed;


static uint32_t
any(uint32_t n)
{
    seed = seed * 1664525 + 1013904223;

    return (seed >> 8) % n;
}


static void
word(size_t n)
{
    more("\"");

    while (n-- != 0) {
        more(n % 97 == 13 ? "\\\"" : n % 89 == 3 ? "}" : "w");
    }

    more("\"");
}


enum { MESSAGES = 1, STRINGS, MIXED };

/* so many elements, of up to `size` bytes inside; no white space */

static void
elements(int kind, unsigned n, unsigned size)
{
    unsigned  i;

    for (i = 0; i < n; i++) {

        more(i ? "," : "");

        switch (kind == MIXED ? (int) any(5) : kind) {

        case MESSAGES:
            more("{\"role\":\"user\",\"content\":");
            word(any(size));
            more("}");
            break;

        case STRINGS:
            word(any(size));
            break;

        case 3:
            more("[{\"a\":[]},1,");
            word(any(size));
            more("]");
            break;

        case 4:
            more(any(2) ? "7" : "null");
            break;

        default:
            more("{}");
        }
    }
}


static lunary_doc_t *
fed(size_t max, size_t cut, size_t len, size_t piece)
{
    size_t          i, k;
    lunary_doc_t   *d;
    unsigned char  *p;

    d = lunary_doc_create(&mem, max, cut, LUNARY_DOC_STRICT);
    assert_non_null(d);

    for (i = 0; i < len; i += k) {
        k = (piece == 0 || piece > len - i) ? len - i : piece;
        p = unit_copy(made.data + i, k);
        assert_true(lunary_doc_feed(d, p, k) >= 0);
        free(p);
    }

    return d;
}


static void
same_in_pieces(size_t max, lunary_str_t text)
{
    size_t         i;
    lunary_doc_t  *d;

    static const size_t  pieces[] = { 7, 64, 1000, 5000 };

    for (i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        d = fed(max, 0, made.len, pieces[i]);

        assert_int_equal(lunary_doc_finish(d), LUNARY_OK);
        assert_int_equal(lunary_doc_text(d).len, text.len);
        assert_memory_equal(lunary_doc_text(d).data, text.data, text.len);

        lunary_doc_destroy(d);
    }
}


/*
 * text is `made` but for old elements of the array that begins at `start` in
 * both: a marker tells of them.  Returns where in `made` the kept ones begin.
 */

static size_t
kept(lunary_str_t text, size_t start, size_t max)
{
    size_t         at, first, bytes;
    const char    *dots;
    lunary_str_t   marker, next;

    assert_true(lunary_json_valid(text, LUNARY_DOC_DEPTH));
    assert_true(text.len <= max);
    assert_memory_equal(text.data, made.data, start);

    marker = lunary_json_at(lunary_str(text.data + start - 1,
                                       text.len - start + 1), 0);

    dots = memmem(marker.data, marker.len, DOTS, 3);
    assert_non_null(dots);
    assert_int_equal(sscanf(dots, DOTS "[%zu bytes]" DOTS, &bytes), 1);

    /* behind the marker: what is behind as many bytes in what came */

    first = start + bytes + 1;
    at = start + marker.len + 1;

    assert_int_equal(text.len - at, made.len - first);
    assert_memory_equal(text.data + at, made.data + first, text.len - at);

    /* as few as will do: the last of those that went has no place */

    for (at = first - 1; made.data[at - 1] != ','; at--) { /* void */ }

    next = lunary_json_at(lunary_str(made.data + start - 1,
                                     made.len - start + 1), 0);
    assert_true(next.len != 0);
    assert_true(text.len + (first - at) + UNUSED > max);

    return first;
}


static void
the_newest_elements_stay_as_they_came(void **state)
{
    int            kind;
    size_t         i, k, start, first;
    lunary_str_t   array;
    lunary_doc_t  *d;

    static const size_t  bounds[] = { 2048, 3000, 8192, 40000 };
    static const size_t  pieces[] = { 0, 1, 7, 64, 1000, 5000 };

    (void) state;

    for (kind = MESSAGES; kind <= MIXED; kind++) {

        for (i = 0; i < sizeof(bounds) / sizeof(bounds[0]); i++) {

            seed = (uint32_t) (i * 10 + (size_t) kind);

            made.len = 0;
            more("{\"model\":\"m\",\"input\":[");
            start = made.len;
            elements(kind, 40 + (unsigned) bounds[i] / 20, 100);
            more("],\"user\":\"u\"}");

            first = 0;

            for (k = 0; k < sizeof(pieces) / sizeof(pieces[0]); k++) {

                d = fed(bounds[i], 0, made.len, pieces[k]);
                assert_int_equal(lunary_doc_finish(d), LUNARY_OK);

                if (k == 0) {
                    first = kept(lunary_doc_text(d), start, bounds[i]);
                }

                assert_int_equal(kept(lunary_doc_text(d), start, bounds[i]),
                                 first);
                assert_int_equal(lunary_doc_removed(d),
                                 made.len - lunary_doc_text(d).len);
                assert_int_equal(lunary_doc_removed_of(d, text_of("input")),
                                 made.len - lunary_doc_text(d).len);

                array = lunary_json_get(lunary_doc_text(d), "input");
                assert_ptr_equal(lunary_doc_array(d).data, array.data);
                assert_int_equal(lunary_doc_array(d).len, array.len);

                lunary_doc_destroy(d);
            }
        }
    }
}


/* wherever it breaks off, the newest elements are there, up to that place */

static void
what_breaks_off_keeps_the_newest(void **state)
{
    size_t         n, start, at;
    lunary_str_t   text, marker;
    lunary_doc_t  *d;

    (void) state;

    seed = 5;
    made.len = 0;
    more("{\"model\":\"m\",\"messages\":[");
    start = made.len;
    elements(MESSAGES, 300, 120);
    more("]}");

    for (n = 2600; n < made.len; n += 1 + any(60)) {

        d = fed(2048, 0, n, 1 + any(700));
        assert_int_equal(lunary_doc_finish(d), LUNARY_ERROR);
        assert_int_equal(lunary_doc_close(d), LUNARY_OK);

        text = lunary_doc_text(d);
        assert_true(lunary_json_valid(text, LUNARY_DOC_DEPTH));
        assert_true(text.len <= 2048);

        marker = lunary_json_at(lunary_json_get(text, "messages"), 0);
        assert_text(lunary_json_get(marker, "role"), "\"omitted\"");

        /* a long stretch from the middle on, as it came last */

        at = start + marker.len + 1;
        assert_non_null(memmem(made.data, n, text.data + at,
                               (text.len - at) * 3 / 4));
        assert_null(memmem(made.data, n / 2, text.data + at,
                           (text.len - at) * 3 / 4));

        lunary_doc_destroy(d);
    }
}


/* the array ends, others follow: each loses its own */

static void
an_array_that_has_ended_is_whole_again(void **state)
{
    lunary_doc_t  *d;
    lunary_str_t   text, messages, tools;

    (void) state;

    seed = 6;
    made.len = 0;
    more("{\"messages\":[");
    elements(MESSAGES, 200, 120);
    more("],\"model\":\"m\",\"tools\":[");
    elements(MESSAGES, 40, 60);
    more("],\"input\":[");
    elements(MIXED, 20, 60);
    more("]}");

    d = fed(8192, 0, made.len, 0);
    assert_int_equal(lunary_doc_finish(d), LUNARY_OK);

    text = lunary_doc_text(d);
    assert_true(lunary_json_valid(text, LUNARY_DOC_DEPTH));
    assert_true(text.len <= 8192);

    messages = lunary_json_get(text, "messages");
    tools = lunary_json_get(text, "tools");

    assert_text(lunary_json_get(lunary_json_at(messages, 0), "role"),
                "\"omitted\"");
    assert_text(lunary_json_get(lunary_json_at(tools, 0), "role"), "\"user\"");
    assert_non_null(memmem(made.data, made.len, tools.data, tools.len));

    same_in_pieces(8192, text);

    lunary_doc_destroy(d);
}


/* of an array: what came, but for old elements that one stands for, or all */

static void
newest(lunary_str_t array)
{
    lunary_str_t  first;

    assert_true(array.len > 2);

    first = lunary_json_at(array, 0);

    if (memmem(first.data, first.len, DOTS, 3) != NULL) {
        array.len -= (size_t) (first.data + first.len - array.data);
        array.data = (unsigned char *) first.data + first.len;
    }

    assert_non_null(memmem(made.data, made.len, array.data, array.len));
}


/* white space goes as the text reaches its limit, at any place in an element,
 * and with that it breaks off: what is said to be the array is one, or nothing
 * is said */

static void
what_breaks_off_at_the_limit(void **state)
{
    size_t                i, spaces;
    lunary_doc_t         *d;
    lunary_str_t          array;
    const unsigned char  *p;

    (void) state;

    for (spaces = 130; spaces < 250; spaces++) {

        made.len = 0;
        more("{\"messages\":[");
        fill(' ', spaces);
        more("{}");

        for (i = 0; made.len < 3000; i++) {
            more(i % 7 ? ",{\"a\":1}" : ",7");
        }

        d = fed(2048, 0, 2048 + 256, 0);
        assert_int_equal(lunary_doc_finish(d), LUNARY_ERROR);
        assert_int_equal(lunary_doc_close(d), LUNARY_OK);
        assert_true(lunary_json_valid(lunary_doc_text(d), LUNARY_DOC_DEPTH));

        array = lunary_doc_array(d);

        if (array.len != 0) {
            p = array.data;
            assert_int_equal(*p, '[');
            assert_int_equal(lunary_json_value(&p, p + array.len).len,
                             array.len);
        }

        lunary_doc_destroy(d);
    }
}


/* an element is open while old ones go, twice: what was told of its start is of
 * the text before they went (found by review) */

static void
an_element_stays_open_while_others_go(void **state)
{
    unsigned       before, size, key, numbers;
    lunary_doc_t  *d;

    (void) state;

    for (before = 2300; before < 2700; before += 13) {
        for (size = 0; size < 60; size += 5) {
            for (key = 0; key < 30; key++) {

                numbers = 400 + 170 * (key % 6);

                made.len = 0;
                more("{\"a\":\"");
                fill('x', 700);
                more("\",\"b\":\"");
                fill('y', key);
                more("\",\"messages\":[{}");

                while (made.len < before) {
                    more(",{\"role\":\"");
                    fill('a', size);
                    more("\"}");
                }

                more(",{\"r\":[1");

                while (made.len < before + numbers) {
                    more(",1");
                }

                more("]}");

                while (made.len < before + numbers + 2500) {
                    more(",{\"role\":\"tttttttttttttttttt\"}");
                }

                more("]}");

                d = fed(2048, 64, made.len, 0);
                assert_int_equal(lunary_doc_finish(d), LUNARY_OK);
                assert_true(lunary_json_valid(lunary_doc_text(d),
                                              LUNARY_DOC_DEPTH));
                assert_int_equal(lunary_doc_removed(d),
                                 made.len - lunary_doc_text(d).len);
                newest(lunary_json_get(lunary_doc_text(d), "messages"));

                lunary_doc_destroy(d);
            }
        }
    }
}


/* it ends, and loses more as others come: its elements, and not theirs */

static void
what_follows_an_array_is_not_taken_for_its_elements(void **state)
{
    int            tools;
    size_t         i, bytes;
    char           key[16];
    lunary_doc_t  *d;
    lunary_str_t   text;

    (void) state;

    for (bytes = 200; bytes < 12000; bytes += 150) {
        for (tools = 0; tools < 2; tools++) {

            seed = (uint32_t) bytes;
            made.len = 0;
            more("{\"messages\":[");
            elements(MESSAGES, 200, 120);
            more(tools ? "],\"tools\":[" : "]");

            for (i = made.len; made.len < i + bytes; /* void */ ) {

                if (tools) {
                    elements(MESSAGES, 1, 60);
                    more(",");

                } else {
                    (void) snprintf(key, sizeof(key), ",\"k%u\":", any(99999));
                    more(key);
                    word(any(60));
                }
            }

            more(tools ? "{}]}" : "}");

            d = fed(8192, 0, made.len, 0);
            assert_int_equal(lunary_doc_finish(d), LUNARY_OK);

            text = lunary_doc_text(d);
            assert_true(lunary_json_valid(text, LUNARY_DOC_DEPTH));
            assert_true(text.len <= 8192);
            assert_int_equal(lunary_doc_removed(d), made.len - text.len);

            if (tools) {
                newest(lunary_json_get(text, "messages"));
                newest(lunary_json_get(text, "tools"));

            } else if (bytes < 7000) {
                newest(lunary_json_get(text, "messages"));
                assert_non_null(memmem(text.data, text.len, made.data + i,
                                       made.len - i));
            }

            lunary_doc_destroy(d);
        }
    }
}


/* strings are cut for the first time, and with that the longest array is found:
 * whether that is open then or has ended, and whatever is open then */

static void
the_array_is_found_when_strings_are_cut(void **state)
{
    size_t         start, last;
    unsigned       n;
    lunary_doc_t  *d;
    lunary_str_t   text, list;

    (void) state;

    for (n = 60; n < 260; n++) {

        seed = n;
        made.len = 0;
        more("{\"model\":\"m\",\"messages\":[");
        start = made.len;
        elements(MESSAGES, n, 60);
        last = made.len;
        more("],\"tools\":[");
        elements(MESSAGES, 300 - n, 20);
        more("],\"stop\":[\"a\"]}");

        d = fed(8192, 0, made.len, 0);
        assert_int_equal(lunary_doc_finish(d), LUNARY_OK);

        text = lunary_doc_text(d);
        assert_true(lunary_json_valid(text, LUNARY_DOC_DEPTH));
        assert_true(text.len <= 8192);
        assert_int_equal(lunary_doc_removed(d), made.len - text.len);

        list = lunary_json_get(text, "messages");
        newest(list);
        assert_int_equal(lunary_doc_removed_of(d, text_of("messages")),
                         last - start + 2 - list.len);

        newest(lunary_json_get(text, "tools"));

        lunary_doc_destroy(d);
    }
}


/* white space goes, and with it the keys move; one that is too long to be
 * remembered is not taken for another */

static void
what_is_taken_out_is_told_by_its_key(void **state)
{
    size_t         i, k, n, space;
    lunary_doc_t  *d;
    lunary_str_t   text;

    static const size_t  pieces[] = { 0, 1, 1000 };
    static const char   *keys[] = {
        "", "a", "messages", "conversation_turns_in_the_order_they_were_said",
        "conversation_turns_in_the_order_in_which_they_were_said_by_whom"
    };

    (void) state;

    for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        for (k = 0; k < sizeof(pieces) / sizeof(pieces[0]); k++) {

            seed = 5;
            made.len = 0;
            more("{ \"model\" :   \"m\",\n\n\"list\":[  1, 2 ] ,\r\n\t\"");
            more(keys[i]);
            more("\" :  [");
            elements(MESSAGES, 300, 120);
            more("] }");

            for (n = 0, space = 0; n < made.len; n++) {
                space += (made.data[n] <= ' ');
            }

            d = fed(8192, 0, made.len, pieces[k]);
            assert_int_equal(lunary_doc_finish(d), LUNARY_OK);

            text = lunary_doc_text(d);
            assert_true(lunary_json_valid(text, LUNARY_DOC_DEPTH));
            assert_true(text.len <= 8192);
            assert_int_equal(lunary_doc_removed(d),
                             made.len - space - text.len);
            assert_int_equal(lunary_doc_removed_of(d, text_of(keys[i])),
                             strlen(keys[i]) > 47
                             ? 0 : lunary_doc_removed(d));
            assert_int_equal(lunary_doc_removed_of(d, text_of("")),
                             keys[i][0] ? 0 : lunary_doc_removed(d));

            lunary_doc_destroy(d);
        }
    }
}


/* arrays side by side, and in each other, some of them long */

static void
arrays(unsigned longest)
{
    int       root;
    unsigned  i, n;
    char      key[16];

    root = any(8) != 0;
    n = 1 + any(4);

    made.len = 0;
    more(root ? "{\"model\":\"m\"" : "[0");

    for (i = 0; i < n; i++) {

        (void) snprintf(key, sizeof(key), root ? ",\"k%u\":" : ",", i);
        more(key);
        more(any(4) ? "" : " ");

        switch (any(5)) {

        case 0:
            more("{\"a\":[");
            elements(1 + (int) any(3), any(longest), 1 + any(100));
            more("],\"b\":7}");
            break;

        case 1:
            word(any(500));
            break;

        default:
            more("[");
            elements(1 + (int) any(3), any(longest), 1 + any(300));
            more("]");
        }
    }

    more(root ? "}" : "]");
}


/* with nothing known of what came before, all of the text is looked at */

static void
what_is_known_makes_no_difference(void **state)
{
    size_t         k, max, cut;
    unsigned       i;
    lunary_doc_t  *d, *blind;
    lunary_str_t   text;

    static const size_t  bounds[] = { 2048, 3000, 8192 };
    static const size_t  pieces[] = { 0, 1, 700 };

    (void) state;

    for (i = 0; i < 600; i++) {

        seed = i;
        max = bounds[i % 3];
        cut = any(2) ? 0 : 64;
        arrays(300);

        blind = lunary_doc_create(&mem, max, cut, LUNARY_DOC_STRICT);
        assert_non_null(blind);

        for (k = 0; k < made.len; k++) {
            assert_true(lunary_doc_feed(blind, made.data + k, 1) >= 0);
            blind->r.hot.valid = 0;
        }

        assert_int_equal(lunary_doc_finish(blind), LUNARY_OK);
        text = lunary_doc_text(blind);

        for (k = 0; k < sizeof(pieces) / sizeof(pieces[0]); k++) {
            d = fed(max, cut, made.len, pieces[k]);

            assert_int_equal(lunary_doc_finish(d), LUNARY_OK);
            assert_int_equal(lunary_doc_text(d).len, text.len);
            assert_memory_equal(lunary_doc_text(d).data, text.data, text.len);
            assert_int_equal(lunary_doc_removed(d), lunary_doc_removed(blind));

            lunary_doc_destroy(d);
        }

        lunary_doc_destroy(blind);
    }
}


/* one in another ends, and goes with what is around it: that is more */

static void
an_array_in_an_array_goes_with_it(void **state)
{
    lunary_doc_t  *d;
    lunary_str_t   text;

    (void) state;

    seed = 8;
    made.len = 0;
    more("[[");
    elements(MESSAGES, 200, 120);
    more("],");
    elements(STRINGS, 60, 60);
    more("]");

    d = fed(8192, 0, made.len, 0);
    assert_int_equal(lunary_doc_finish(d), LUNARY_OK);

    text = lunary_doc_text(d);
    assert_true(lunary_json_valid(text, LUNARY_DOC_DEPTH));
    assert_memory_equal(text.data, "[\"" DOTS, 5);

    lunary_doc_destroy(d);
}


/* strings that are cut lie among elements that go */

static void
long_strings_are_cut_on_the_way(void **state)
{
    size_t         k;
    lunary_doc_t  *d;
    lunary_str_t   text, v, list;

    (void) state;

    seed = 7;
    made.len = 0;
    more("{\"messages\":[");
    elements(MESSAGES, 150, 3000);
    more("]}");

    d = fed(32768, 0, made.len, 0);
    assert_int_equal(lunary_doc_finish(d), LUNARY_OK);

    text = lunary_doc_text(d);
    assert_true(lunary_json_valid(text, LUNARY_DOC_DEPTH));
    assert_true(text.len <= 32768 && text.len > 32768 - 2048 - 200 - UNUSED);

    list = lunary_json_get(text, "messages");

    for (k = 1; (v = lunary_json_at(list, k)).len != 0; k++) {
        v = lunary_json_get(v, "content");
        assert_true(v.len <= 2048 + 64 + 2);

        if (memmem(v.data, v.len, DOTS, 3) == NULL) {
            assert_non_null(memmem(made.data, made.len, v.data, v.len));
        }
    }

    assert_true(k > 16);
    assert_int_equal(lunary_doc_removed(d), made.len - text.len);

    same_in_pieces(32768, text);

    lunary_doc_destroy(d);
}


/* numbers are dropped without room for what follows: a string does */

static void
a_string_behind_dropped_numbers_has_room(void **state)
{
    size_t         i, k, n, start;
    lunary_str_t   text;
    lunary_doc_t  *d;

    static const size_t  bounds[] = { 2048, 16384, 40000 };

    (void) state;

    for (k = 0; k < sizeof(bounds) / sizeof(bounds[0]); k++) {

        seed = 8;
        made.len = 0;
        more("{\"messages\":[");
        elements(MESSAGES, (unsigned) bounds[k] / 30, 60);
        start = made.len;

        for (n = 0; n < bounds[k] / 8 + 100; n += 15) {

            /* wherever the text ends when it comes */

            made.len = start;
            more(n % 2 ? ",{\"pad\":[" : "],\"pad\":[");

            for (i = 0; i < n; i += 50) {
                word(n - i < 50 ? n - i : 47);
                more(",");
            }

            more("0],\"embedding\":[");

            for (i = 0; i < 260; i++) {
                more("0,");
            }

            word(bounds[k] / 16);
            more(n % 2 ? ",\"t\"]}]}" : ",\"t\"]}");

            d = fed(bounds[k], 0, made.len, 0);
            assert_int_equal(lunary_doc_finish(d), LUNARY_OK);

            text = lunary_doc_text(d);
            assert_true(lunary_json_valid(text, LUNARY_DOC_DEPTH));
            assert_true(text.len <= bounds[k]);

            same_in_pieces(bounds[k], text);

            lunary_doc_destroy(d);
        }
    }
}


/* a long string that comes in bytes moves nothing that is set aside */

static void
a_string_in_bytes_grows_the_memory_once(void **state)
{
    size_t         i, n, old;
    unsigned       grown;
    lunary_doc_t  *d;

    const size_t  max = 65536;

    (void) state;

    seed = 9;
    made.len = 0;
    more("{\"messages\":[");
    elements(MESSAGES, (unsigned) max / 40, 100);
    n = made.len;
    more(",{\"content\":");
    word(max / 2);
    more("}]}");

    d = fed(max, 0, n, 0);

    grown = 0;

    for (i = n; i < made.len; i++) {
        old = mem.used;
        assert_true(lunary_doc_feed(d, made.data + i, 1) >= 0);
        grown += (mem.used != old);
    }

    assert_true(grown <= 2);
    assert_true(mem.used <= made.cap + max + max / 16 * 2 + 8192);

    assert_int_equal(lunary_doc_finish(d), LUNARY_OK);
    lunary_doc_destroy(d);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(the_newest_elements_stay_as_they_came),
        cmocka_unit_test(what_breaks_off_keeps_the_newest),
        cmocka_unit_test(what_breaks_off_at_the_limit),
        cmocka_unit_test(an_element_stays_open_while_others_go),
        cmocka_unit_test(an_array_that_has_ended_is_whole_again),
        cmocka_unit_test(what_follows_an_array_is_not_taken_for_its_elements),
        cmocka_unit_test(the_array_is_found_when_strings_are_cut),
        cmocka_unit_test(what_is_taken_out_is_told_by_its_key),
        cmocka_unit_test(what_is_known_makes_no_difference),
        cmocka_unit_test(an_array_in_an_array_goes_with_it),
        cmocka_unit_test(long_strings_are_cut_on_the_way),
        cmocka_unit_test(a_string_behind_dropped_numbers_has_room),
        cmocka_unit_test(a_string_in_bytes_grows_the_memory_once)
    };

    return cmocka_run_group_tests(tests, setup, nothing_is_left);
}
