/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The ledger's users as JSON, and as one self-contained page (users.html,
 * with the same JSON in it).
 *
 * Invariant: nothing that a stranger wrote is markup or script in the page.
 */

#include <errno.h>

#include "options.h"
#include "users.h"


#define LW_PAGE_MARK   "@USERS@"


__asm__(
    ".section .rodata\n"
    ".global lw_users_page\n"
    "lw_users_page:\n"
    ".incbin \"" LW_PAGE_FILE "\"\n"
    ".byte 0\n"
    ".previous\n"
);

extern const char  lw_users_page[];


void
lw_users_json(const lw_table_t *t, lw_text_t *out)
{
    char             cost[32];
    size_t           i;
    const lw_row_t  *r;

    lw_text_lit(out, "[");

    for (i = 0; i < t->n; i++) {

        r = &t->rows[i];

        lw_text_add(out, ",\n", i ? 2 : 0);
        lw_text_lit(out, "{\"app\":");
        lw_text_json(out, r->app);

        if (r->rest) {
            lw_text_fmt(out, ",\"rest\":\"%s\"", r->rest);

        } else {
            lw_text_lit(out, ",\"user_id\":");
            lw_text_json(out, r->id);
            lw_text_fmt(out, ",\"verified\":%s",
                        r->verified ? "true" : "false");
        }

        if (r->props.len) {
            lw_text_lit(out, ",\"props\":");
            lw_text_str(out, r->props);
        }

        lw_text_fmt(out, ",\"runs\":%lld,\"errors\":%lld",
                    (long long) r->runs, (long long) r->errors);

        if (r->input >= 0) {
            lw_text_fmt(out, ",\"input_tokens\":%lld",
                        (long long) r->input);
        }

        if (r->output >= 0) {
            lw_text_fmt(out, ",\"output_tokens\":%lld",
                        (long long) r->output);
        }

        if (r->cost >= 0) {
            lw_cost_text(cost, r->cost);
            lw_text_fmt(out, ",\"cost_usd\":%s", cost);
        }

        lw_text_fmt(out, ",\"unpriced_runs\":%lld,\"threads\":%lld",
                    (long long) r->unpriced, (long long) r->threads);

        if (r->latency >= 0) {
            lw_text_fmt(out, ",\"mean_ms\":%lld", (long long) r->latency);
        }

        if (r->models.len) {
            lw_text_lit(out, ",\"models\":");
            lw_text_str(out, r->models);
        }

        if (r->first >= 0) {
            lw_text_fmt(out, ",\"first_seen\":%lld", (long long) r->first);
        }

        if (r->last >= 0) {
            lw_text_fmt(out, ",\"last_seen\":%lld", (long long) r->last);
        }

        lw_text_lit(out, "}");
    }

    lw_text_lit(out, "]");
}


/*
 * The rows are JSON inside a script element that is no script: the one thing
 * that could end it, "<", is written as an escape.
 */

int
lw_users_html(lw_t *w, const lw_table_t *t)
{
    int           rc;
    FILE         *f;
    size_t        i, from;
    lw_text_t     json, page;
    const char   *mark;

    lw_text_init(&json, &w->mem);
    lw_text_init(&page, &w->mem);

    lw_users_json(t, &json);

    mark = strstr(lw_users_page, LW_PAGE_MARK);

    lw_text_add(&page, lw_users_page, (size_t) (mark - lw_users_page));

    for (i = 0, from = 0; i < json.buf.len; i++) {

        if (json.buf.data[i] == '<') {
            lw_text_add(&page, json.buf.data + from, i - from);
            lw_text_lit(&page, "\\u003c");
            from = i + 1;
        }
    }

    lw_text_add(&page, json.buf.data + from, json.buf.len - from);

    mark += sizeof(LW_PAGE_MARK) - 1;
    lw_text_add(&page, mark, strlen(mark));

    rc = LW_ERROR;

    if (!json.failed && !page.failed) {

        f = strcmp(w->options->html, "-") == 0 ? stdout
                                               : fopen(w->options->html, "we");

        if (f && fwrite(page.buf.data, 1, page.buf.len, f) == page.buf.len
            && fflush(f) == 0)
        {
            rc = LW_OK;
        }

        if (rc != LW_OK) {
            lw_log(LW_LOG_ERROR, "%s: %s", w->options->html,
                   strerror(errno));
        }

        if (f && f != stdout) {
            (void) fclose(f);
        }
    }

    lw_text_free(&json);
    lw_text_free(&page);

    return rc;
}
