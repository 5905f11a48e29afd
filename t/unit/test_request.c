/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Who a request body says is calling, and what is taken out of it.
 */

#include "request.h"

#include "lunary_json.h"


#define bit(m)  lunary_member_bit(LUNARY_M_ ## m)

#define ALL_TOP                                                              \
    (bit(USER_ID)|bit(USERID)|bit(USER_PROPS)|bit(USERPROPS)|bit(THREAD_ID)  \
     |bit(THREADID)|bit(PARENT_RUN_ID)|bit(PARENTRUNID)|bit(TAGS)            \
     |bit(TEMPLATEID)|bit(MD_USERID)|bit(MD_USERPROPS)|bit(MD_USER_PROPS)    \
     |bit(MD_THREADID)|bit(MD_PARENTRUNID))


static lunary_request_t *
request(const char *text)
{
    lunary_request_t  *rq;

    rq = lunary_request_create(&mem, 4096, 0);
    assert_non_null(rq);
    assert_int_equal(feed(rq, text, strlen(text)), LUNARY_OK);

    return rq;
}


/* runs the body of a block whole, byte by byte, and in threes, of copies, in
 * place, and now here, now there */

#define in_all_pieces                                                        \
    for (lend = 0; lend < 6; lend = lend ? lend + 4 : 1)                     \
        for (piece = 0; piece < 4; piece = piece ? piece + 2 : 1)


static void
the_first_name_that_holds_a_string_wins(void **state)
{
    size_t             i;
    lunary_request_t  *rq;

    static const char  *cases[][2] = {
        { "{\"user_id\":\"a\",\"userId\":\"b\",\"user\":\"c\"}", "a" },
        { "{\"user\":\"c\",\"userId\":\"b\"}", "b" },
        { "{\"user_id\":null,\"userId\":5,\"user\":\"c\"}", "c" },
        { "{\"user_id\":\"\",\"user\":\"c\"}", "c" },
        { "{\"user_id\":{\"user\":\"x\"},\"user\":\"c\"}", "c" },
        { "{\"user_id\":[\"x\"],\"safety_identifier\":\"s\"}", "s" },
        { "{\"metadata\":{\"user_id\":\"m\"}}", "m" },
        { "{\"metadata\":{\"userId\":\"n\",\"user_id\":\"m\"}}", "m" },
        { "{\"metadata\":{\"user_id\":\"m\"},\"user\":\"u\"}", "u" },
        { "{\"us\\u0065r\":\"e\"}", "e" },
        { "{\"user\":\"\\u0062ob\"}", "bob" },
        { "{\"user\":\"\\ud83d\\ude00\"}", "\xF0\x9F\x98\x80" },
        { "{\"user\":\"a\",\"user\":\"b\"}", "b" },
        { "{\"user\":\"a\",\"user\":null}", "" },
        { "{\"metadata\":{\"user_id\":\"m\"},\"metadata\":{}}", "" },
        { "{\"metadata\":{\"user_id\":\"m\"},\"metadata\":null}", "" },
        { "{\"metadata\":\"user_id\"}", "" },
        { "{\"metadata\":[{\"user_id\":\"m\"}]}", "" },
        { "{\"metadata\":{\"deep\":{\"user_id\":\"m\"}}}", "" },
        { "{\"messages\":[{\"user\":\"x\"}],\"x\":{\"user\":\"y\"}}", "" },
        { "[{\"user\":\"x\"}]", "" },
        { "\"user\"", "" },
        { "{\"USER\":\"x\"}", "" },
        { "{\"Metadata\":{\"user_id\":\"x\"}}", "" },
        { "{\"metadata\":{\"user\":\"x\"}}", "" },
        { "{}", "" }
    };

    (void) state;

    in_all_pieces {
        for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            rq = request(cases[i][0]);
            assert_text(lunary_request_claims(rq)->user, cases[i][1]);
            lunary_request_destroy(rq);
        }
    }
}


static void
a_bad_id_is_no_user_and_hides_no_other(void **state)
{
    size_t             i;
    lunary_request_t  *rq;

    static const char  *cases[] = {
        "{\"user_id\":\"  \",\"user\":\"c\"}",
        "{\"user_id\":\"a\\u0000b\",\"user\":\"c\"}",
        "{\"user_id\":\"a\\n\",\"user\":\"c\"}",
        "{\"user_id\":\"a\\u200b\",\"user\":\"c\"}",
        "{\"user_id\":\"\\u202ea\",\"user\":\"c\"}",
        "{\"user_id\":\"\\ud83d\",\"user\":\"c\"}",
        "{\"user_id\":\"a\\udc00\",\"user\":\"c\"}",
        "{\"user_id\":\"\xFF\",\"user\":\"c\"}",
        "{\"user_id\":\"\\ufeff\"}"
    };

    (void) state;

    in_all_pieces {
        for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            rq = request(cases[i]);
            assert_int_equal(lunary_request_claims(rq)->user.len, 0);
            lunary_request_destroy(rq);
        }
    }
}


static void
an_id_has_at_most_256_bytes_whatever_is_reduced(void **state)
{
    size_t             n;
    char               text[100000];
    lunary_request_t  *rq;

    (void) state;

    static const size_t  lengths[] = { 255, 256, 257, 300, 1536, 1537, 5000,
                                       90000 };

    in_all_pieces {
        for (n = 0; n < sizeof(lengths) / sizeof(lengths[0]); n++) {
            memset(text, 0, sizeof(text));
            strcpy(text, "{\"user\":\"");
            memset(text + 9, 'u', lengths[n]);
            strcat(text, "\"}");

            rq = request(text);
            assert_int_equal(lunary_request_claims(rq)->user.len,
                             lengths[n] <= 256 ? lengths[n] : 0);
            lunary_request_destroy(rq);
        }
    }

    /* one that is too long is not passed over for the next name's */

    in_all_pieces {
        memset(text, 0, sizeof(text));
        strcpy(text, "{\"user_id\":\"");
        memset(text + 12, 'u', 5000);
        strcat(text, "\",\"user\":\"other\"}");

        rq = request(text);
        assert_int_equal(lunary_request_claims(rq)->user.len, 0);
        lunary_request_destroy(rq);
    }

    /* the longest way to write one */

    strcpy(text, "{\"user\":\"");

    for (n = 0; n < 256; n++) {
        strcat(text, "\\u0061");
    }

    strcat(text, "\"}");

    rq = request(text);
    assert_int_equal(lunary_request_claims(rq)->user.len, 256);
    lunary_request_destroy(rq);
}


static void
an_identity_survives_whatever_stands_before_it(void **state)
{
    size_t             i, n;
    unsigned char     *big;
    lunary_request_t  *rq;

    static const char  *fillers[][2] = {
        { "{\"messages\":[\"", "\"],\"user\":\"bob\"}" },
        { "{\"a\":{\"b\":\"", "\"},\"metadata\":{\"user_id\":\"bob\"}}" },
        { "{\"data\":\"", "\",\"x\":1,\"user_id\":\"bob\"}" }
    };

    (void) state;

    piece = 4096;
    n = 2 << 20;
    big = malloc(n);
    assert_non_null(big);
    memset(big, 'A', n);

    for (i = 0; i < 3; i++) {
        rq = lunary_request_create(&mem, 4096, 0);

        lunary_request_feed(rq, (const unsigned char *) fillers[i][0],
                            strlen(fillers[i][0]));
        lunary_request_feed(rq, big, n);

        assert_int_equal(feed(rq, fillers[i][1], strlen(fillers[i][1])),
                         LUNARY_OK);
        assert_text(lunary_request_claims(rq)->user, "bob");

        lunary_request_destroy(rq);
    }

    free(big);
}


/* the body is over its bound for long: each place in a member is the one once
 * where the text is at its limit */

static void
an_identity_is_found_wherever_the_text_is_full(void **state)
{
    char              *text;
    size_t             i, n, pad;
    lunary_request_t  *rq;

    (void) state;

    text = malloc(32768);
    assert_non_null(text);

    for (pad = 1; pad < 1200; pad++) {

        n = (size_t) sprintf(text, "{\"messages\":[");

        for (i = 0; i < 60; i++) {
            n += (size_t) sprintf(text + n, "\"%0120d\",", 7);
        }

        n += (size_t) sprintf(text + n, "\"%0*d\"],\"user\":\"user-4711\","
                              "\"metadata\":{\"user_id\":\"m\",\"a\":\"b\"},"
                              "\"thread_id\":\"t-1\"}", (int) pad, 7);

        for (piece = 0; piece < 200; piece += 97) {
            rq = request(text);
            assert_text(lunary_request_claims(rq)->user, "user-4711");
            assert_text(lunary_request_claims(rq)->thread, "t-1");
            lunary_request_destroy(rq);
        }
    }

    free(text);
}


static void
props_thread_parent_and_tags_are_claims_too(void **state)
{
    size_t                  i;
    lunary_request_t       *rq;
    const lunary_claims_t  *c;

    static const char  *cases[][5] = {
        { "{\"user_props\":{\"name\": \"B\"},\"thread_id\":\"t\","
          "\"parent_run_id\":\"p\",\"tags\":[\"a\",\"b\"]}",
          "{\"name\": \"B\"}", "t", "p", "[\"a\",\"b\"]" },
        { "{\"metadata\":{\"userProps\":{\"n\":[1]},\"threadId\":\"t\","
          "\"parentRunId\":\"p\",\"tags\":\"one\"}}",
          "{\"n\":[1]}", "t", "p", "[\"one\"]" },
        { "{\"user_props\":\"text\",\"userProps\":{\"a\":1},\"tags\":[1,"
          "\"b\",null,[\"c\"]],\"thread_id\":7,\"threadId\":\"t\"}",
          "{\"a\":1}", "t", "", "[\"b\"]" },
        { "{\"tags\":[],\"metadata\":{\"tags\":[\"m\"]}}",
          "", "", "", "[\"m\"]" },
        { "{\"tags\":{\"a\":1},\"user_props\":[1],\"thread_id\":\"\"}",
          "", "", "", "" },
        { "{\"user_props\":{\"n\":\"\xFF\"}}",
          "{\"n\":\"\xEF\xBF\xBD\"}", "", "", "" }
    };

    (void) state;

    in_all_pieces {
        for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            rq = request(cases[i][0]);
            c = lunary_request_claims(rq);

            assert_text(c->props, cases[i][1]);
            assert_text(c->thread, cases[i][2]);
            assert_text(c->parent, cases[i][3]);
            assert_text(c->tags, cases[i][4]);

            lunary_request_destroy(rq);
        }
    }
}


static void
an_identity_given_twice_is_noticed(void **state)
{
    size_t             i;
    lunary_request_t  *rq;

    static const struct {
        const char  *text;
        int          twice;
    } cases[] = {
        { "{\"user\":\"a\",\"user\":\"b\"}", 1 },
        { "{\"user\":\"a\",\"us\\u0065r\":\"b\"}", 1 },
        { "{\"user\":\"a\",\"USER\":\"b\"}", 1 },
        { "{\"UserId\":1,\"uSERiD\":2}", 1 },
        { "{\"tags\":[],\"tags\":[]}", 1 },
        { "{\"metadata\":{\"user_id\":1,\"USER_ID\":2}}", 1 },
        { "{\"metadata\":{\"user_id\":1},\"metadata\":{}}", 1 },
        { "{\"metadata\":{},\"Metadata\":{\"userId\":1}}", 1 },
        { "{\"metadata\":{},\"metadata\":{}}", 0 },
        { "{\"metadata\":{\"x\":1,\"x\":2}}", 0 },
        { "{\"user\":\"a\",\"user_id\":\"b\",\"userId\":\"c\"}", 0 },
        { "{\"user_id\":\"a\",\"metadata\":{\"user_id\":\"b\"}}", 0 },
        { "{\"model\":1,\"model\":2,\"stream\":1,\"stream\":0}", 0 },
        { "{\"messages\":[{\"user\":1,\"user\":2}]}", 0 },
        { "[{\"user\":1,\"user\":2}]", 0 },
        /* Go's encoding/json folds U+017F to an s */
        { "{\"user\":1,\"u\xC5\xBF" "er\":2}", 1 },
        { "{\"user@id\":1,\"user`id\":2}", 0 }
    };

    (void) state;

    in_all_pieces {
        for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            rq = request(cases[i].text);
            assert_int_equal(lunary_request_duplicate(rq), cases[i].twice);
            lunary_request_destroy(rq);
        }
    }
}


/* the body with the edits made; the caller frees */

static char *
spliced(const char *text, uint32_t strip, size_t *edits)
{
    char              *out, *q;
    size_t             i, n, at;
    lunary_edit_t      e[LUNARY_REQUEST_MARKS];
    lunary_request_t  *rq;

    rq = request(text);
    n = lunary_request_strip(rq, strip, e, LUNARY_REQUEST_MARKS);

    out = malloc(strlen(text) + 1);
    assert_non_null(out);

    q = out;
    at = 0;

    for (i = 0; i < n; i++) {
        assert_true(e[i].start >= at && e[i].end > e[i].start);
        assert_int_equal(e[i].text.len, 0);

        memcpy(q, text + at, e[i].start - at);
        q += e[i].start - at;
        at = e[i].end;
    }

    strcpy(q, text + at);
    *edits = n;

    lunary_request_destroy(rq);

    return out;
}


static void
stripping_takes_the_commas_along(void **state)
{
    char    *out;
    size_t   i, n;

    static const char  *cases[][2] = {
        { "{\"user_id\":\"a\",\"model\":\"m\"}", "{\"model\":\"m\"}" },
        { "{\"model\":\"m\",\"user_id\":\"a\"}", "{\"model\":\"m\"}" },
        { "{\"a\":1,\"user_id\":\"a\",\"b\":2}", "{\"a\":1,\"b\":2}" },
        { "{\"user_id\":1,\"tags\":2,\"a\":1,\"threadId\":[3]}",
          "{\"a\":1}" },
        { "{\"user_id\":1,\"tags\":{\"x\":[\"}\"]}}", "{}" },
        { "{ \"a\" : 1 , \"user_id\" : 2 , \"b\" : 3 }",
          "{ \"a\" : 1 , \"b\" : 3 }" },
        { "{ \"a\" : 1 , \"user_id\" : 2 }", "{ \"a\" : 1 }" },
        { "{ \"user_id\" : 2 }", "{  }" },
        { "{\"metadata\":{\"userId\":1}}", "{}" },
        { "{\"a\":1,\"metadata\":{\"userId\":1,\"userProps\":2}}",
          "{\"a\":1}" },
        { "{\"metadata\":{\"userId\":1,\"x\":2},\"tags\":3}",
          "{\"metadata\":{\"x\":2}}" },
        { "{\"metadata\":{\"x\":2,\"userId\":1},\"tags\":3,\"b\":4}",
          "{\"metadata\":{\"x\":2},\"b\":4}" },
        { "{\"tags\":0,\"metadata\":{\"userId\":1},\"userId\":2,\"b\":3}",
          "{\"b\":3}" },
        { "{\"user_id\":1,\"user_id\":2,\"us\\u0065rId\":3}", "{}" }
    };

    (void) state;

    in_all_pieces {
        for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            out = spliced(cases[i][0], ALL_TOP, &n);
            assert_string_equal(out, cases[i][1]);
            assert_true(n > 0);
            free(out);
        }
    }
}


static void
what_is_not_ours_is_not_touched(void **state)
{
    char    *out;
    size_t   i, n;

    static const char  *cases[] = {
        "{\"user\":\"a\",\"model\":\"m\"}",
        "{\"metadata\":{}}",
        "{\"metadata\":{\"user_id\":\"anthropic\"}}",
        "{\"metadata\":[{\"userId\":1}],\"messages\":[{\"userId\":1}]}",
        "[{\"user_id\":1}]",
        "{\"x\":{\"user_id\":1}}",
        "{}"
    };

    (void) state;

    piece = 0;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        out = spliced(cases[i], ALL_TOP, &n);
        assert_string_equal(out, cases[i]);
        assert_int_equal(n, 0);
        free(out);

        out = spliced(cases[i], 0, &n);
        assert_int_equal(n, 0);
        free(out);
    }
}


static void
a_flood_of_members_is_not_rewritten(void **state)
{
    int                i;
    char               text[8000];
    size_t             n;
    lunary_edit_t      e[LUNARY_REQUEST_MARKS];
    lunary_request_t  *rq;

    (void) state;

    piece = 0;
    strcpy(text, "{");

    for (i = 0; i < 65; i++) {
        strcat(text, "\"user_id\":\"a\",");
    }

    strcat(text, "\"user\":\"b\"}");

    rq = request(text);

    assert_true(lunary_request_flooded(rq));
    assert_true(lunary_request_duplicate(rq));
    assert_int_equal(lunary_request_strip(rq, ALL_TOP, e,
                                          LUNARY_REQUEST_MARKS), 0);
    assert_int_equal(lunary_request_marks(rq, &n)->id, LUNARY_M_USER_ID);
    assert_int_equal(n, LUNARY_REQUEST_MARKS);
    assert_text(lunary_request_claims(rq)->user, "a");

    lunary_request_destroy(rq);
}


static void
of_many_repeated_values_the_last_wins_in_bounded_memory(void **state)
{
    int                i;
    size_t             n;
    char               text[4096];
    lunary_mem_t       own;
    lunary_request_t  *rq;

    (void) state;

    lunary_mem_init(&own);
    rq = lunary_request_create(&own, 4096, 0);

    lunary_request_feed(rq, (const unsigned char *) "{\"tags\":[\"t\"],", 14);

    for (i = 0; i < 100000; i++) {
        n = (size_t) snprintf(text, sizeof(text), "\"user\":\"u%d\","
                              "\"thread_id\":\"%0300d\",", i, i);
        lunary_request_feed(rq, (const unsigned char *) text, n);
    }

    lunary_request_feed(rq, (const unsigned char *) "\"a\":1}", 6);

    assert_int_equal(lunary_request_finish(rq), LUNARY_OK);
    assert_true(own.peak < 600 * 1024);
    assert_true(lunary_request_duplicate(rq));
    assert_text(lunary_request_claims(rq)->user, "u99999");
    assert_text(lunary_request_claims(rq)->tags, "[\"t\"]");
    assert_int_equal(lunary_request_claims(rq)->thread.len, 300);

    lunary_request_destroy(rq);
    assert_int_equal(own.used, 0);
}


static void
a_broken_body_claims_nothing(void **state)
{
    size_t             i;
    lunary_edit_t      e[LUNARY_REQUEST_MARKS];
    lunary_request_t  *rq;

    static const char  *cases[] = {
        "{\"user\":\"a\"", "{\"user\":\"a\"} x", "{\"user\":\"a", "", "x",
        "\xEF\xBB\xBF{\"user\":\"a\"}", "{\"user\":\"a\",}"
    };

    (void) state;

    in_all_pieces {
        for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            rq = lunary_request_create(&mem, 4096, 0);

            assert_int_equal(feed(rq, cases[i], strlen(cases[i])),
                             LUNARY_ERROR);
            assert_int_equal(lunary_request_claims(rq)->user.len, 0);
            assert_int_equal(lunary_request_strip(rq, bit(USER), e,
                                                  LUNARY_REQUEST_MARKS), 0);
            lunary_request_destroy(rq);
        }
    }
}


/* long bodies are taken in steps: what stands at the border of two, and what
 * comes behind the end */

static void
a_long_body_is_read_in_steps_all_the_same(void **state)
{
    int                at;
    size_t             i, n, step;
    char              *body, *tail;
    lunary_request_t  *rq;

    static const struct {
        size_t       spaces;
        const char  *behind;
        int          rc;
    }  tails[] = {
        { 0, "", LUNARY_OK }, { 3, "", LUNARY_OK }, { 40000, "", LUNARY_OK },
        { 0, "x", LUNARY_ERROR }, { 40000, "x", LUNARY_ERROR },
        { 4032, "{}", LUNARY_ERROR }
    };

    (void) state;

    body = malloc(200000);
    assert_non_null(body);

    for (step = 4032; step <= 16128; step += 4032) {
        for (at = -60; at <= 10; at++) {
            for (i = 0; i < sizeof(tails) / sizeof(tails[0]); i++) {

                n = (size_t) sprintf(body, "{\"a\":\"");
                memset(body + n, 'a', step + 16);
                n = (size_t) ((int) step + at);
                n += (size_t) sprintf(body + n, "\\\"\xC3\xA9\",\"user\":"
                                      "\"b\\u0062\\\\\",\"b\":[-1.5e3]}");

                tail = body + n;
                memset(tail, ' ', tails[i].spaces);
                strcpy(tail + tails[i].spaces, tails[i].behind);

                for (lend = 0; lend < 6; lend++) {
                    piece = (lend & 1) ? 0 : 3000;

                    rq = lunary_request_create(&mem, 100000, 0);
                    assert_non_null(rq);

                    assert_int_equal(feed(rq, body, strlen(body)),
                                     tails[i].rc);

                    if (tails[i].rc == LUNARY_OK) {
                        assert_text(lunary_request_claims(rq)->user, "bb\\");
                        assert_int_equal(lunary_request_text(rq).len, n);
                        assert_memory_equal(lunary_request_text(rq).data,
                                            body, n);
                    }

                    lunary_request_destroy(rq);
                }
            }
        }
    }

    free(body);
}


static void
user_ids_are_visible_text(void **state)
{
    char    long_id[300];
    size_t  i;

    static const char  *good[] = {
        "a", "user-42", "a b", "\xC3\xA9lise", "\xE6\x95\x8F", "auth0|5f7c",
        "\xF0\x9F\x98\x80", " padded ", "\xEF\xBF\xBD"
    };

    static const char  *bad[] = {
        "", " ", "\t", "a\tb", "a\x7f", "\xC2\x80", "\xC2\x9F", "\xC2\xA0",
        "\xE3\x80\x80 ", "\xC2\xAD", "a\xE2\x80\x8B", "a\xE2\x80\x8D" "b",
        "\xE2\x80\x8E" "a", "\xE2\x80\xAE" "a", "a\xE2\x80\xA8",
        "a\xE2\x81\xA0", "\xE2\x81\xA6" "a", "\xEF\xBB\xBF" "a",
        "\xE1\x85\x9F", "\xE3\x85\xA4", "\xEF\xBE\xA0", "\xD8\x9C" "a",
        "\xCD\x8F" "a", "\xE1\xA0\x8E" "a", "\xF3\xA0\x80\x81" "a", "\xFF",
        "\xED\xA0\x80", "\xC3", "\xEF\xB8\x8F" "a", "\xE2\xA0\x80"
    };

    (void) state;

    for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_true(lunary_user_id_valid(text_of(good[i])));
    }

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_false(lunary_user_id_valid(text_of(bad[i])));
    }

    memset(long_id, 'x', sizeof(long_id));
    assert_true(lunary_user_id_valid(lunary_str(long_id, 256)));
    assert_false(lunary_user_id_valid(lunary_str(long_id, 257)));
    assert_false(lunary_user_id_valid(lunary_str("a\0b", 3)));
}


static void
every_allocation_may_fail(void **state)
{
    int                rc;
    long               n;
    size_t             i, len;
    unit_mem_t         m;
    lunary_mem_t      *fm;
    unsigned char      there[4096];
    lunary_request_t  *rq;

    static const char  text[] =
        "{\"messages\":[\"a long enough text to make the document grow, at "
        "least a little\"],\"user\":\"bob\",\"user_props\":{\"a\":\"b\"},"
        "\"tags\":[\"x\",\"y\"],\"thread_id\":\"t\",\"parent_run_id\":\"p\","
        "\"embedding\":[";

    (void) state;

    /* a vector at the end is for a document to judge */

    len = (size_t) sprintf((char *) there, "%s", text);

    for (i = 0; i < 300; i++) {
        len += (size_t) sprintf((char *) there + len, "0.5,");
    }

    len += (size_t) sprintf((char *) there + len, "1]}");

    for (n = 3; /* void */ ; n++) {
        fm = unit_mem(&m, n / 3);

        rq = lunary_request_create(fm, 4096, 0);

        if (rq == NULL) {
            assert_int_equal(fm->used, 0);
            continue;
        }

        /* none of it in place, a third, or all */

        if (n % 3) {
            lunary_request_lend(rq, there, (n % 3 == 1 ? len / 3 : len) + 64);
        }

        for (i = 0; i < len; i++) {
            (void) lunary_request_feed(rq, there + i, 1);
        }

        rc = lunary_request_finish(rq);

        if (rc == LUNARY_OK) {
            assert_text(lunary_request_claims(rq)->user, "bob");
            assert_text(lunary_request_claims(rq)->tags, "[\"x\",\"y\"]");

        } else {
            assert_int_equal(rc, LUNARY_NOMEM);
            assert_int_equal(lunary_request_claims(rq)->user.len, 0);
        }

        lunary_request_destroy(rq);
        assert_int_equal(fm->used, 0);

        if (rc == LUNARY_OK && n % 3 == 2) {
            break;
        }
    }

    assert_true(n > 12);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(the_first_name_that_holds_a_string_wins),
        cmocka_unit_test(a_bad_id_is_no_user_and_hides_no_other),
        cmocka_unit_test(an_id_has_at_most_256_bytes_whatever_is_reduced),
        cmocka_unit_test(an_identity_survives_whatever_stands_before_it),
        cmocka_unit_test(an_identity_is_found_wherever_the_text_is_full),
        cmocka_unit_test(props_thread_parent_and_tags_are_claims_too),
        cmocka_unit_test(an_identity_given_twice_is_noticed),
        cmocka_unit_test(stripping_takes_the_commas_along),
        cmocka_unit_test(what_is_not_ours_is_not_touched),
        cmocka_unit_test(a_flood_of_members_is_not_rewritten),
        cmocka_unit_test(
            of_many_repeated_values_the_last_wins_in_bounded_memory),
        cmocka_unit_test(a_broken_body_claims_nothing),
        cmocka_unit_test(a_long_body_is_read_in_steps_all_the_same),
        cmocka_unit_test(user_ids_are_visible_text),
        cmocka_unit_test(every_allocation_may_fail)
    };

    return cmocka_run_group_tests(tests, setup, nothing_is_left);
}
