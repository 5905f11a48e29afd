/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * `lunary-worker price`: JSON lines with a run's fields in, the same lines
 * with cost_usd out (null where it is unknown).  Numbers may be JSON numbers
 * or text, usage an object or text.
 */

#include <stdlib.h>

#include "commands.h"
#include "prices.h"


static void lw_price_line(lw_t *w, lunary_str_t line, lw_text_t *out);
static int64_t lw_price_int(lunary_str_t v);


int
lw_price(lw_t *w, int argc, char **argv)
{
    char      *line;
    size_t     cap;
    ssize_t    n;
    lw_text_t  out;

    (void) argc;
    (void) argv;

    line = NULL;
    cap = 0;
    lw_text_init(&out, &w->mem);

    while ((n = getline(&line, &cap, stdin)) > 0) {

        lw_text_clear(&out);
        lw_price_line(w, lunary_str(line, (size_t) n), &out);

        if (out.failed
            || fwrite(out.buf.data, 1, out.buf.len, stdout) != out.buf.len)
        {
            break;
        }
    }

    free(line);
    lw_text_free(&out);

    return (n <= 0 && fflush(stdout) == 0) ? LW_EXIT_OK : LW_EXIT_LEFT;
}


static void
lw_price_line(lw_t *w, lunary_str_t line, lw_text_t *out)
{
    char                  cost[32];
    size_t                i;
    int64_t               nano;
    lw_text_t             text[5];
    lw_usage_t            u;
    lunary_str_t          v, key, val;
    lunary_json_iter_t    it;
    const unsigned char  *p;

    static const char  *names[] = { "provider", "model", "response_model",
                                    "usage", "started_at" };

    if (!lunary_json_valid(line, 64)) {
        lw_text_lit(out, "{\"cost_usd\":null,\"error\":\"not JSON\"}\n");
        return;
    }

    p = line.data;
    v = lunary_json_value(&p, line.data + line.len);

    for (i = 0; i < 5; i++) {
        lw_text_init(&text[i], &w->mem);
        lw_text_plain(&text[i], lunary_json_get_n(v, names[i],
                                                  strlen(names[i])));
    }

    memset(&u, 0, sizeof(u));

    u.provider = lw_text_get(&text[0]);
    u.model = lw_text_get(&text[1]);
    u.response_model = lw_text_get(&text[2]);
    u.usage = lw_text_get(&text[3]);

    if (!lunary_json_valid(u.usage, 32)) {
        u.usage = lunary_str(NULL, 0);
    }

    if (!lw_int(lw_text_get(&text[4]), &u.started_at)) {
        u.started_at = lw_now();
    }

    u.input = lw_price_int(lunary_json_get(v, "input_tokens"));
    u.output = lw_price_int(lunary_json_get(v, "output_tokens"));
    u.cached = lw_price_int(lunary_json_get(v, "cached_tokens"));
    u.cache_write = lw_price_int(lunary_json_get(v, "cache_write_tokens"));
    u.reasoning = lw_price_int(lunary_json_get(v, "reasoning_tokens"));

    memcpy(cost, "null", 5);

    if (lw_prices_cost(w->prices, &u, &nano) == LW_COST_OK) {
        lw_cost_text(cost, nano);
    }

    lw_text_fmt(out, "{\"cost_usd\":%s", cost);
    lunary_json_iter(&it, v);

    while (lunary_json_member(&it, &key, &val)) {

        if (lunary_eq(key, "cost_usd")) {
            continue;
        }

        lw_text_lit(out, ",\"");
        lw_text_str(out, key);
        lw_text_lit(out, "\":");
        lw_text_str(out, val);
    }

    lw_text_lit(out, "}\n");

    for (i = 0; i < 5; i++) {
        lw_text_free(&text[i]);
    }
}


static int64_t
lw_price_int(lunary_str_t v)
{
    int64_t  n;

    if (lunary_json_is_string(v)) {
        v = lunary_json_inside(v);
    }

    return (lunary_json_int(v, &n) && n >= 0) ? n : -1;
}
