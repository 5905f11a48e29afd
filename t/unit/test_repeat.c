/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A stream whose events are alike says the same as one whose events are not:
 * each case is read as it is, and once more with other white space in every
 * event, so that none is like the one before.
 */

#include "unit.h"

#include "lunary_call.h"
#include "lunary_call_internal.h"


static lunary_mem_t  mem;
static unsigned      repeated;


/* an event may begin with its name, and a space */

static lunary_call_t *
chat(const lunary_call_conf_t *conf, const char *const *events, size_t n,
    int disguise)
{
    int             len, name;
    char            text[4096];
    size_t          i;
    const char     *event, *path;
    lunary_call_t  *call;

    call = lunary_call_create(&mem, conf);
    assert_non_null(call);

    path = (events[0][0] == '{') ? "/v1/chat/completions" : "/v1/messages";

    lunary_call_start(call, text_of("POST"), text_of(path),
                      text_of("application/json"), text_of(""));
    lunary_call_request_end(call);
    lunary_call_answer(call, 200, text_of("text/event-stream"), text_of(""),
                       NULL, NULL);

    repeated = 0;

    for (i = 0; i < n; i++) {
        event = events[i];
        name = 0;

        if (*event != '{' && *event != '[') {
            name = (int) strcspn(event, " ");
            event += name + 1;
        }

        len = snprintf(text, sizeof(text), "%s%.*s%sdata: %.1s%.*s%s\n\n",
                       name ? "event: " : "", name, events[i],
                       name ? "\n" : "", event,
                       disguise ? (int) (1 + i % 7) : 0, "       ",
                       event + 1);

        lunary_call_response(call, (unsigned char *) text, (size_t) len);

        if (lunary_priv(call)->repeat.len != 0
            && lunary_priv(call)->repeat_misses == 0)
        {
            repeated++;
        }
    }

    lunary_call_response_end(call, 1);

    return call;
}


static void
same(lunary_call_t *a, lunary_call_t *b)
{
    lunary_run_t    x, y;
    lunary_field_e  f;

    lunary_run_init(&x);
    lunary_call_finish(a, &x);

    lunary_run_init(&y);
    lunary_call_finish(b, &y);

    for (f = 0; f < LUNARY_F_MAX; f++) {
        assert_int_equal(lunary_run_has(&x, f), lunary_run_has(&y, f));

        if (lunary_run_has(&x, f)) {
            assert_int_equal(x.value[f].len, y.value[f].len);
            assert_memory_equal(x.value[f].data, y.value[f].data,
                                x.value[f].len);
        }
    }

    assert_int_equal(a->content, b->content);
    assert_int_equal(a->terminal, b->terminal);
    assert_int_equal(a->errored, b->errored);

    lunary_call_destroy(a);
    lunary_call_destroy(b);
    assert_int_equal(mem.used, 0);
}


#define HEAD   "{\"id\":\"c1\",\"model\":\"m\",\"choices\":[{\"index\":0,"   \
               "\"delta\":{\"content\":\""
#define TAIL   "\"},\"finish_reason\":null}]}"
#define ONE(text)  HEAD text TAIL

#define TOOL(args)                                                           \
    "{\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,"    \
    "\"id\":\"t\",\"function\":{\"name\":\"f\","                               \
    "\"arguments\":\"" args "\"}}]}}]}"

#define NOISE(text, noise)                                                   \
    "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" text "\"}}],"     \
    "\"obfuscation\":\"" noise "\"}"

#define REASON(text)                                                         \
    "{\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"" text    \
    "\",\"reasoning\":\"other\"}}]}"

#define USED(text, n)                                                        \
    "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" text "\"}}],"     \
    "\"usage\":{\"completion_tokens\":" n "}}"

#define CHOICE(i, text)                                                      \
    "{\"choices\":[{\"index\":" i ",\"delta\":{\"content\":\"" text "\"}}]}"

#define DELTA(kind, of, text)                                                \
    "content_block_delta {\"type\":\"content_block_delta\",\"index\":1,"    \
    "\"delta\":{\"type\":\"" kind "\",\"" of "\":\"" text "\"}}"
#define WORD(text)   DELTA("text_delta", "text", text)
#define THINK(text)  DELTA("thinking_delta", "thinking", text)
#define ARGS(text)   DELTA("input_json_delta", "partial_json", text)

#define CASE(name, min, ...)                                                 \
    static const char  *const name[] = { __VA_ARGS__ };                      \
    static const unsigned     name ## _min = min;

CASE(plain, 3, ONE(""), ONE("a"), ONE("b"), ONE("cd"), ONE("ef"))
CASE(empty, 1, ONE("a"), ONE(""), ONE("b"), ONE("c"), ONE(""))
CASE(escapes, 5, ONE("a"), ONE("\\\""), ONE("\\\\"), ONE("\\n\"x"),
     ONE("\\ud83d"), ONE("\\ude00"), ONE("\xc3\xa4"), ONE("\xff"),
     ONE("\x01"), ONE("\\x"))
CASE(other_ends, 1, ONE("a"), ONE("b"), HEAD "c", HEAD "d\"", ONE("e") "}",
     ONE("f"), ONE("g"))
CASE(noise, 3, NOISE("a", "xyz"), NOISE("b", "q"), NOISE("c", ""),
     NOISE("d", "e\\\"f"), NOISE("e", "x\"y"))
CASE(tools, 2, TOOL(""), TOOL("{"), TOOL("\\\"a\\\":"), TOOL("1"), TOOL("}"))
CASE(reasons, 1, REASON("a"), REASON("b"), REASON(""), REASON("c"))
CASE(usage, 0, USED("a", "1"), USED("b", "2"), USED("c", "3"),
     ONE("d"), USED("e", "3"))
CASE(same_usage, 2, USED("a", "1"), USED("b", "1"), USED("c", "1"),
     "{\"usage\":{\"completion_tokens\":9}}", USED("d", "1"))
CASE(choices, 1, CHOICE("0", "a"), CHOICE("0", "b"), CHOICE("1", "c"),
     CHOICE("0", "d"), CHOICE("1", "e"))
CASE(last, 1, ONE("a"), ONE("b"), "{\"choices\":[{\"index\":0,\"delta\":{},"
     "\"finish_reason\":\"stop\"}]}", "[DONE]")

CASE(anthropic, 7,
     "message_start {\"type\":\"message_start\",\"message\":{\"id\":\"m1\","
     "\"model\":\"claude\",\"usage\":{\"input_tokens\":3}}}",
     WORD("a"), WORD("b"), WORD("\\n"), WORD(""), WORD("c"),
     "ping {\"type\":\"ping\"}", WORD("d"), WORD("\xc3\xa4"), WORD("\xff"),
     THINK("x"), THINK("y"), THINK("z"), WORD("e"), WORD("f"),
     "message_delta {\"type\":\"message_delta\",\"delta\":{"
     "\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":9}}",
     "message_stop {\"type\":\"message_stop\"}")
CASE(anthropic_tools, 3,
     "content_block_start {\"type\":\"content_block_start\",\"index\":1,"
     "\"content_block\":{\"type\":\"tool_use\",\"id\":\"t1\","
     "\"name\":\"f\",\"input\":{}}}",
     ARGS(""), ARGS("{\\\"a"), ARGS("\\\":"), ARGS("1"), ARGS("}"))

/* an event's name decides where the data have no type */

#define UNTYPED(name, text)                                                  \
    name " {\"delta\":{\"type\":\"text_delta\",\"text\":\"" text "\"}}"

CASE(names, 1, UNTYPED("content_block_delta", "a"),
     UNTYPED("content_block_delta", "b"), UNTYPED("ping", "c"),
     UNTYPED("content_block_delta", "d"), UNTYPED("other", "e"))


static void
events_that_are_alike_say_the_same(void **state)
{
    size_t               i, k;
    lunary_call_t       *a, *b;
    lunary_call_conf_t   conf;

    const struct {
        const char *const  *events;
        size_t              n;
        unsigned            min;
    } cases[] = {
#define C(name)  { name, sizeof(name) / sizeof(name[0]), name ## _min }
        C(plain), C(empty), C(escapes), C(other_ends), C(noise), C(tools),
        C(reasons), C(usage), C(same_usage), C(choices), C(last),
        C(anthropic), C(anthropic_tools), C(names)
#undef C
    };

    (void) state;

    for (k = 0; k < 4; k++) {
        memset(&conf, 0, sizeof(conf));
        conf.capture_max = (k & 2) ? 1024 : 65536;
        conf.capture = (k & 1) ? LUNARY_CAPTURE_FULL : 0;

        for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            b = chat(&conf, cases[i].events, cases[i].n, 1);
            assert_int_equal(repeated, 0);

            a = chat(&conf, cases[i].events, cases[i].n, 0);
            assert_true(repeated >= cases[i].min);

            same(a, b);
        }
    }
}


/* a stream that never repeats is not compared for ever */

static void
what_never_repeats_is_given_up(void **state)
{
    char                 event[512];
    size_t               i;
    const char          *events[200];
    lunary_call_t       *call;
    lunary_call_conf_t   conf;

    (void) state;

    memset(&conf, 0, sizeof(conf));
    conf.capture_max = 65536;
    conf.capture = LUNARY_CAPTURE_FULL;

    for (i = 0; i < 200; i++) {
        sprintf(event, "{\"id\":\"%zu\",\"choices\":[{\"index\":0,"
                "\"delta\":{\"content\":\"x\"}}]}", i);
        events[i] = strdup(event);
    }

    call = chat(&conf, events, 200, 0);
    assert_true(lunary_priv(call)->repeat_misses < 100);
    assert_int_equal(repeated, 0);
    lunary_call_destroy(call);

    for (i = 0; i < 200; i++) {
        free((void *) events[i]);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(events_that_are_alike_say_the_same),
        cmocka_unit_test(what_never_repeats_is_given_up)
    };

    lunary_mem_init(&mem);

    return cmocka_run_group_tests(tests, NULL, NULL);
}
