/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Runs as spans.  See export_internal.h.
 *
 * A span has the caller's trace where the call had a `traceparent`, else one
 * of its own made of the run id; its id is made of the run id always, so that
 * what is sent again is the same span.
 */

#include <ctype.h>

#include "export_internal.h"


typedef enum {
    LW_ATTR_TEXT = 0,
    LW_ATTR_INT,
    LW_ATTR_BOOL,
    LW_ATTR_LIST                   /* of one text                            */
} lw_attr_e;


static void lw_export_span(lw_t *w, lw_text_t *out, const lw_entry_t *e);
static void lw_export_attr(lw_text_t *out, const char *name, lw_attr_e type,
    lunary_str_t v);
static void lw_export_params(lw_text_t *out, const lw_entry_t *e);
static int lw_export_hex(lunary_str_t id, size_t len);
static void lw_export_id(lw_text_t *out, lunary_str_t run, size_t skip);


/* of a run's fields: attributes by OpenTelemetry's names where it has one */

static const struct {
    unsigned       field;
    const char    *name;
    lw_attr_e      type;
} lw_export_attrs[] = {
    { LUNARY_F_PROVIDER,         "gen_ai.provider.name",       LW_ATTR_TEXT },
    { LUNARY_F_PROVIDER,         "gen_ai.system",              LW_ATTR_TEXT },
    { LUNARY_F_MODEL,            "gen_ai.request.model",       LW_ATTR_TEXT },
    { LUNARY_F_RESPONSE_MODEL,   "gen_ai.response.model",      LW_ATTR_TEXT },
    { LUNARY_F_RESPONSE_ID,      "gen_ai.response.id",         LW_ATTR_TEXT },
    { LUNARY_F_FINISH_REASON,    "gen_ai.response.finish_reasons",
      LW_ATTR_LIST },
    { LUNARY_F_INPUT_TOKENS,     "gen_ai.usage.input_tokens",  LW_ATTR_INT },
    { LUNARY_F_OUTPUT_TOKENS,    "gen_ai.usage.output_tokens", LW_ATTR_INT },
    { LUNARY_F_CACHED_TOKENS,    "gen_ai.usage.cache_read.input_tokens",
      LW_ATTR_INT },
    { LUNARY_F_CACHE_WRITE_TOKENS,
      "gen_ai.usage.cache_creation.input_tokens",              LW_ATTR_INT },
    { LUNARY_F_REASONING_TOKENS, "gen_ai.usage.reasoning.output_tokens",
      LW_ATTR_INT },
    { LUNARY_F_THREAD_ID,        "gen_ai.conversation.id",     LW_ATTR_TEXT },
    { LUNARY_F_USER_ID,          "user.id",                    LW_ATTR_TEXT },
    { LUNARY_F_METHOD,           "http.request.method",        LW_ATTR_TEXT },
    { LUNARY_F_URI,              "url.path",                   LW_ATTR_TEXT },
    { LUNARY_F_STATUS,           "http.response.status_code",  LW_ATTR_INT },
    { LUNARY_F_RUN_ID,           "lunary.run_id",              LW_ATTR_TEXT },
    { LUNARY_F_PARENT_RUN_ID,    "lunary.parent_run_id",       LW_ATTR_TEXT },
    { LUNARY_F_APP,              "lunary.app",                 LW_ATTR_TEXT },
    { LUNARY_F_API,              "lunary.api",                 LW_ATTR_TEXT },
    { LUNARY_F_OUTCOME,          "lunary.outcome",             LW_ATTR_TEXT },
    { LUNARY_F_USER_VERIFIED,    "lunary.user_verified",       LW_ATTR_BOOL },
    { LUNARY_F_USER_SOURCE,      "lunary.user_source",         LW_ATTR_TEXT },
    { LUNARY_F_TTFT_MS,          "lunary.ttft_ms",             LW_ATTR_INT }
};


/* parameters that have a name there */

static const struct {
    const char    *param;
    const char    *name;
    int            whole;          /* an integer, else a double              */
} lw_export_options[] = {
    { "temperature",           "gen_ai.request.temperature",       0 },
    { "top_p",                 "gen_ai.request.top_p",             0 },
    { "top_k",                 "gen_ai.request.top_k",             0 },
    { "frequency_penalty",     "gen_ai.request.frequency_penalty", 0 },
    { "presence_penalty",      "gen_ai.request.presence_penalty",  0 },
    { "max_tokens",            "gen_ai.request.max_tokens",        1 },
    { "max_completion_tokens", "gen_ai.request.max_tokens",        1 },
    { "max_output_tokens",     "gen_ai.request.max_tokens",        1 },
    { "seed",                  "gen_ai.request.seed",              1 },
    { "n",                     "gen_ai.request.choice.count",      1 }
};


void
lw_export_body(lw_t *w, lw_text_t *out, const lw_entry_t *list, size_t n)
{
    int     spans;
    size_t  i;

    spans = 0;

    lw_text_clear(out);

    for (i = 0; i < n; i++) {

        if (!list[i].run || lw_field(&list[i], RUN_ID).len == 0
            || lw_entry_int(&list[i], LUNARY_F_STARTED_AT) < 0)
        {
            w->skipped++;
            continue;
        }

        if (spans++ == 0) {
            lw_text_lit(out, "{\"resourceSpans\":[{\"resource\":{"
                        "\"attributes\":[{\"key\":\"service.name\",\"value\":"
                        "{\"stringValue\":\"nginx-lunary\"}}]},"
                        "\"scopeSpans\":[{\"scope\":{\"name\":"
                        "\"ngx_lunary_module\",\"version\":\"" LW_VERSION
                        "\"},\"spans\":[");
        } else {
            lw_text_lit(out, ",");
        }

        lw_export_span(w, out, &list[i]);
    }

    if (spans) {
        lw_text_lit(out, "]}]}]}");
    }
}


static void
lw_export_span(lw_t *w, lw_text_t *out, const lw_entry_t *e)
{
    int           traced;
    char          cost[32];
    size_t        i;
    int64_t       start, end, nano;
    lw_usage_t    u;
    lunary_str_t  model, message, type;
    const char   *operation;

    start = lw_entry_int(e, LUNARY_F_STARTED_AT);
    end = lw_entry_int(e, LUNARY_F_ENDED_AT);
    end = end < start ? start : end;

    traced = lw_export_hex(lw_field(e, TRACE_ID), 32);

    lw_text_lit(out, "{\"traceId\":\"");
    lw_export_id(out, traced ? lw_field(e, TRACE_ID) : lw_field(e, RUN_ID),
                 0);

    lw_text_lit(out, "\",\"spanId\":\"");
    lw_export_id(out, lw_field(e, RUN_ID), 16);
    lw_text_lit(out, "\"");

    if (traced && lw_export_hex(lw_field(e, PARENT_SPAN_ID), 16)) {
        lw_text_lit(out, ",\"parentSpanId\":\"");
        lw_text_str(out, lw_field(e, PARENT_SPAN_ID));
        lw_text_lit(out, "\"");
    }

    operation = lunary_eq(lw_field(e, TYPE), "embed") ? "embeddings"
                : lunary_eq(lw_field(e, API), "openai.completions")
                  ? "text_completion" : "chat";

    model = lw_field(e, MODEL);

    lw_text_lit(out, ",\"name\":\"");
    lw_text_add(out, operation, strlen(operation));

    if (model.len) {
        lw_text_lit(out, " ");

        if (!out->failed
            && lunary_json_escape(out->mem, &out->buf, model) != LUNARY_OK)
        {
            out->failed = 1;
        }
    }

    lw_text_fmt(out, "\",\"kind\":3,\"startTimeUnixNano\":\"%lld000000\","
                "\"endTimeUnixNano\":\"%lld000000\",\"attributes\":["
                "{\"key\":\"gen_ai.operation.name\",\"value\":"
                "{\"stringValue\":\"%s\"}}", (long long) start,
                (long long) end, operation);

    for (i = 0; i < sizeof(lw_export_attrs) / sizeof(lw_export_attrs[0]); i++)
    {
        lw_export_attr(out, lw_export_attrs[i].name, lw_export_attrs[i].type,
                       e->value[lw_export_attrs[i].field]);
    }

    lw_export_params(out, e);

    lw_entry_usage(e, &u);

    if (lw_prices_cost(w->prices, &u, &nano) == LW_COST_OK) {
        lw_cost_text(cost, nano);
        lw_text_fmt(out, ",{\"key\":\"lunary.cost_usd\",\"value\":"
                    "{\"doubleValue\":%s}}", cost);
    }

    if (w->options->contents) {
        lw_export_attr(out, "gen_ai.input.messages", LW_ATTR_TEXT,
                       lw_field(e, INPUT));
        lw_export_attr(out, "gen_ai.output.messages", LW_ATTR_TEXT,
                       lw_field(e, OUTPUT));
    }

    if (lunary_eq(lw_field(e, OUTCOME), "ok")) {
        lw_text_lit(out, "],\"status\":{}}");
        return;
    }

    type = lw_field(e, ERROR);
    message = lunary_str(NULL, 0);

    if (lunary_json_valid(type, 64)) {
        message = lunary_json_get(type, "message");
        type = lunary_json_inside(lunary_json_get(type, "type"));
    } else {
        type = lunary_str(NULL, 0);
    }

    lw_export_attr(out, "error.type", LW_ATTR_TEXT,
                   type.len ? type : lw_field(e, OUTCOME));

    lw_text_lit(out, "],\"status\":{\"code\":2");

    if (lunary_json_is_string(message)) {
        lw_text_lit(out, ",\"message\":");
        lw_text_str(out, message);
    }

    lw_text_lit(out, "}}");
}


static void
lw_export_attr(lw_text_t *out, const char *name, lw_attr_e type,
    lunary_str_t v)
{
    int64_t  n;

    if (v.len == 0 || (type == LW_ATTR_INT && !lw_int(v, &n))) {
        return;
    }

    lw_text_fmt(out, ",{\"key\":\"%s\",\"value\":{", name);

    switch (type) {

    case LW_ATTR_INT:
        lw_text_fmt(out, "\"intValue\":\"%lld\"", (long long) n);
        break;

    case LW_ATTR_BOOL:
        lw_text_fmt(out, "\"boolValue\":%s",
                    v.data[0] == '1' ? "true" : "false");
        break;

    case LW_ATTR_LIST:
        lw_text_lit(out, "\"arrayValue\":{\"values\":[{\"stringValue\":");
        lw_text_json(out, v);
        lw_text_lit(out, "}]}");
        break;

    default:
        lw_text_lit(out, "\"stringValue\":");
        lw_text_json(out, v);
    }

    lw_text_lit(out, "}}");
}


static void
lw_export_params(lw_text_t *out, const lw_entry_t *e)
{
    size_t         i;
    int64_t        n;
    lunary_str_t   params, v;

    params = lw_field(e, PARAMS);

    if (!lunary_json_valid(params, 512)) {
        return;
    }

    for (i = 0; i < sizeof(lw_export_options)
                    / sizeof(lw_export_options[0]); i++)
    {
        v = lunary_json_get_n(params, lw_export_options[i].param,
                              strlen(lw_export_options[i].param));

        if (lunary_json_type(v) != LUNARY_JSON_NUMBER || v.len > 32) {
            continue;
        }

        if (!lw_export_options[i].whole) {
            lw_text_fmt(out, ",{\"key\":\"%s\",\"value\":{\"doubleValue\":"
                        "%.*s}}", lw_export_options[i].name, (int) v.len,
                        (const char *) v.data);

        } else if (lunary_json_int(v, &n)) {
            lw_text_fmt(out, ",{\"key\":\"%s\",\"value\":{\"intValue\":"
                        "\"%lld\"}}", lw_export_options[i].name,
                        (long long) n);
        }
    }
}


static int
lw_export_hex(lunary_str_t id, size_t len)
{
    size_t  i;

    for (i = 0; i < id.len; i++) {
        if (!isxdigit(id.data[i])) {
            return 0;
        }
    }

    return id.len == len;
}


/* the hexadecimal digits of a UUID behind the first `skip` of them */

static void
lw_export_id(lw_text_t *out, lunary_str_t run, size_t skip)
{
    char      digits[33];
    size_t    i, n;
    uint64_t  h;

    for (i = 0, n = 0; i < run.len && n < 32; i++) {

        if ((run.data[i] >= '0' && run.data[i] <= '9')
            || (run.data[i] >= 'a' && run.data[i] <= 'f'))
        {
            digits[n++] = (char) run.data[i];

        } else if (run.data[i] != '-') {
            break;
        }
    }

    if (n != 32) {

        /* no UUID: its hash */

        h = lw_hash(run, 5);
        (void) snprintf(digits, sizeof(digits), "%016llx%016llx",
                        (unsigned long long) lw_hash(run, 6) | 1,
                        (unsigned long long) h | 1);
    }

    lw_text_add(out, digits + skip, 32 - skip);
}
