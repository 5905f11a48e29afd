/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Documents made at random of what a reduction has to do with: chats, nested
 * arrays, vectors, media, long strings, all mixed, whole, broken off and with
 * a wrong byte.  Pieces make no difference, and what comes out is valid and
 * not longer than allowed.
 *
 *     test_random             the first documents
 *     test_random FROM TO     these: for hours, or to see one again
 */

#include "unit.h"

#include "lunary_doc.h"
#include "lunary_json.h"


static lunary_mem_t   mem;
static lunary_buf_t   made;
static uint64_t       seed;
static unsigned       style;
static unsigned long  from = 0;
static unsigned long  to = 800;

/* what a document's strings are like */

#define STYLE_SPACES  1
#define STYLE_LONG    2
#define STYLE_MEDIUM  4
#define STYLE_MEDIA   8


static void value(unsigned depth, int top);


static unsigned
any(unsigned n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;

    return n ? (unsigned) (seed >> 11) % n : 0;
}


static void
bytes(const char *s, size_t n)
{
    if (lunary_buf_append(&mem, &made, s, n) != LUNARY_OK) {
        abort();
    }
}


static void
more(const char *s)
{
    bytes(s, strlen(s));
}


static void
space(void)
{
    while ((style & STYLE_SPACES) && any(6) == 0) {
        more(any(2) ? " " : "\n");
    }
}


static void
string(void)
{
    char      c;
    unsigned  n;

    static const char *const  special[] = {
        "\\\"", "\\n", "\\u00e9", "\xC3\xA4", "\xE2\x82\xAC", "\\ud83d\\ude00",
        "\xF0\x9F\x98\x80", "\\ud83d", "{", "]", ",", "\\\\"
    };

    switch (any(8)) {

    case 0:
        n = 0;
        break;

    case 1:
    case 2:
        n = any(400);
        break;

    case 3:
        n = any(style & STYLE_LONG ? 6000 : 200);
        break;

    case 4:
        n = any(style & STYLE_MEDIUM ? 1500 : 60);
        break;

    default:
        n = any(60);
    }

    more(any(40) == 0 ? "\"data:image/png;base64," : "\"");

    if ((style & STYLE_MEDIA) && any(10) == 0) {

        while (n-- != 0) {
            bytes(&"ABCDabcd0189+/"[any(14)], 1);
        }

        more("\"");
        return;
    }

    while (n-- != 0) {

        if (any(6) == 0) {
            more(special[any(sizeof(special) / sizeof(special[0]))]);

        } else {
            c = (char) ('a' + any(26));
            bytes(&c, 1);
        }
    }

    more("\"");
}


static void
scalar(void)
{
    char  text[40];

    static const char *const  words[] = { "true", "false", "null" };

    switch (any(4)) {

    case 0:
        snprintf(text, sizeof(text), "%u", any(10));
        break;

    case 1:
        snprintf(text, sizeof(text), "-%u.%ue%u", any(100), any(1000), any(9));
        break;

    case 2:
        snprintf(text, sizeof(text), "%u", any(1000000000));
        break;

    default:
        snprintf(text, sizeof(text), "%s", words[any(3)]);
    }

    more(text);
}


/* an array that begins with numbers, many or not, and what may end them */

static void
vector(void)
{
    char      text[20];
    unsigned  i, n;

    n = any(700);
    more("[");

    for (i = 0; i < n; i++) {
        more(i ? "," : "");
        snprintf(text, sizeof(text), any(3) ? "%u" : "-0.%u", any(1000));
        more(any(400) ? text : "null");
    }

    if (n == 0 || any(2)) {
        more("]");
        return;
    }

    more(",");

    switch (any(4)) {

    case 0:
        string();
        break;

    case 1:
        more("\"");

        for (n = any(5000); n != 0; n--) {
            more("s");
        }

        more("\"");
        break;

    case 2:
        more("{\"text\":1}");
        break;

    default:
        more("[1,2]");
    }

    if (any(2)) {
        more(",");
        string();
    }

    more("]");
}


static void
array(unsigned depth, unsigned n)
{
    unsigned  i, kind;

    kind = any(6);
    more("[");
    space();

    for (i = 0; i < n; i++) {

        more(i ? "," : "");
        space();

        switch (kind == 3 && any(10) == 0 ? 1 : kind) {

        case 0:
            value(depth + 1, 0);
            break;

        case 1:
            scalar();
            break;

        case 2:
            string();
            break;

        default:
            more(any(2) ? "{\"role\":\"user\",\"content\":"
                        : "{\"role\":\"assistant\",\"content\":");

            if (any(6) == 0 && depth < 6) {
                value(depth + 2, 0);

            } else {
                string();
            }

            more("}");
        }

        space();
    }

    more("]");
}


static void
object(unsigned depth, unsigned n, int top)
{
    unsigned  i, k;

    static const char *const  names[] = {
        "input", "data", "embedding", "images", "messages", "role", "content",
        "text", "tools", "k\\u0061y", "metadata", "arguments", "output",
        "user", "a"
    };

    more("{");
    space();

    for (i = 0; i < n; i++) {

        more(i ? "," : "");
        space();
        k = any(sizeof(names) / sizeof(names[0]));
        more("\"");
        more(names[k]);
        more("\"");
        space();
        more(":");
        space();

        if (k < 3 && depth < 5 && any(2)) {
            vector();

        } else {
            value(depth + 1, top);
        }
    }

    space();
    more("}");
}


static void
value(unsigned depth, int top)
{
    unsigned  kind;

    kind = depth > 7 ? 8 + any(2) : any(10);

    if (top && any(3) == 0) {
        array(depth, any(400));

    } else if (kind < 2) {
        object(depth, any(5), 0);

    } else if (kind < 4) {
        array(depth, any(12));

    } else if (kind < 8) {
        string();

    } else {
        scalar();
    }
}


static void
document(void)
{
    made.len = 0;

    if (any(8)) {
        object(0, 1 + any(8), 1);

    } else {
        array(0, any(500));
    }

    if (any(12) == 0) {
        made.data[any((unsigned) made.len)] = (unsigned char) any(256);
    }

    if (any(4) == 0) {
        made.len = any((unsigned) made.len + 1);
    }
}


/* how: 0 whole, else pieces of at most so many bytes; the text, or none */

static lunary_doc_t *
fed(size_t max, size_t cut, unsigned flags, unsigned how, int *rc)
{
    size_t                i, k;
    lunary_str_t          array;
    lunary_doc_t         *d;
    unsigned char        *piece;
    const unsigned char  *p;

    d = lunary_doc_create(&mem, max, cut, flags);
    assert_non_null(d);

    *rc = LUNARY_OK;

    for (i = 0; i < made.len && *rc >= 0; i += k) {
        k = how ? 1 + any(how) : made.len;
        k = (k < made.len - i) ? k : made.len - i;

        piece = unit_copy(made.data + i, k);
        *rc = lunary_doc_feed(d, piece, k);
        free(piece);
    }

    *rc = lunary_doc_finish(d);

    if (*rc != LUNARY_OK && lunary_doc_close(d) != LUNARY_OK) {
        lunary_doc_destroy(d);
        return NULL;
    }

    assert_true(lunary_doc_text(d).len <= (max < 2048 ? 2048 : max));
    assert_true(lunary_json_valid(lunary_doc_text(d), LUNARY_DOC_DEPTH));

    array = lunary_doc_array(d);

    if (array.len != 0) {
        p = array.data;
        assert_int_equal(*p, '[');
        assert_int_equal(lunary_json_value(&p, p + array.len).len, array.len);
    }

    return d;
}


/* numbers of all lengths, one byte of which is perhaps another one's */

static void
numbers(void)
{
    char      c;
    unsigned  i, k, n, longest;

    n = 1 + any(400);
    longest = 1 + any(any(8) ? 12 : 40);
    made.len = 0;

    more("{\"embedding\":[");

    for (i = 0; i < n; i++) {

        more(i ? "," : "");
        more(any(3) ? "" : "-");

        if (any(4)) {
            more("0.");

        } else {
            c = (char) ('1' + any(9));
            bytes(&c, 1);
        }

        for (k = any(longest) + 1; k; k--) {
            c = (char) ('0' + any(10));
            bytes(&c, 1);
        }

        if (any(1000) == 0) {
            more(any(2) ? "e-05" : ".5");
        }
    }

    more("]}");

    if (any(2)) {
        made.data[14 + any((unsigned) made.len - 14)] =
                          (unsigned char) "0123456789.-,eE+ ]x\""[any(20)];
    }
}


/* many at a time where a piece holds so many, else one by one */

static void
numbers_at_a_time_are_those_one_by_one(void **state)
{
    int            rc, other_rc;
    unsigned       flags;
    lunary_doc_t  *d, *other;
    unsigned long  n;

    (void) state;

    for (n = from; n < 4 * to; n++) {

        seed = n * 0x9E3779B97F4A7C15ULL + 3;
        (void) any(2);
        (void) any(2);

        numbers();

        flags = any(2) ? LUNARY_DOC_STRICT : 0;

        d = fed(65536, 0, flags, 0, &rc);
        other = fed(65536, 0, flags, 20, &other_rc);

        if (rc != other_rc || !d != !other
            || (d != NULL
                && !lunary_str_eq(lunary_doc_text(d),
                                  (char *) lunary_doc_text(other).data,
                                  lunary_doc_text(other).len)))
        {
            fail_msg("numbers %lu: %d, %d in pieces", n, rc, other_rc);
        }

        lunary_doc_destroy(d);
        lunary_doc_destroy(other);
    }
}


static void
pieces_make_no_difference(void **state)
{
    int            rc, other_rc;
    size_t         max, cut;
    unsigned       i, flags;
    lunary_doc_t  *d, *other;
    unsigned long  n;

    static const unsigned  pieces[] = { 7, 300, 5000 };

    (void) state;

    for (n = from; n < to; n++) {

        seed = n * 0x9E3779B97F4A7C15ULL + 1;
        (void) any(2);
        (void) any(2);
        style = any(16);

        document();

        flags = any(2) ? LUNARY_DOC_STRICT : 0;
        cut = any(3) ? 0 : any(3000);

        switch (any(4)) {

        case 0:
            max = 2048 + any(3000);
            break;

        case 1:
            max = 8192 + any(20000);
            break;

        default:
            max = made.len / 2 + any(5000);
        }

        d = fed(max, cut, flags, 0, &rc);

        for (i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {

            other = fed(max, cut, flags, pieces[i], &other_rc);

            if (rc != other_rc || (d == NULL) != (other == NULL)
                || (d && (lunary_doc_text(d).len != lunary_doc_text(other).len
                          || memcmp(lunary_doc_text(d).data,
                                    lunary_doc_text(other).data,
                                    lunary_doc_text(d).len) != 0
                          || lunary_doc_removed(d)
                             != lunary_doc_removed(other))))
            {
                fail_msg("document %lu differs in pieces of %u", n, pieces[i]);
            }

            lunary_doc_destroy(other);
        }

        lunary_doc_destroy(d);
    }

    lunary_buf_free(&mem, &made);
    assert_int_equal(mem.used, 0);
}


int
main(int argc, char **argv)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(numbers_at_a_time_are_those_one_by_one),
        cmocka_unit_test(pieces_make_no_difference)
    };

    if (argc == 3) {
        from = strtoul(argv[1], NULL, 10);
        to = strtoul(argv[2], NULL, 10);
    }

    lunary_mem_init(&mem);

    return cmocka_run_group_tests(tests, NULL, NULL);
}
