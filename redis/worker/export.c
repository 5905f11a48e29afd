/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * `lunary-worker export`: runs as spans of OpenTelemetry's conventions for
 * generative AI, in OTLP's JSON form over HTTP.  Requests; spans are
 * export_span.c's.
 */

#include <stdlib.h>

#include "export_internal.h"
#include "http.h"


#define LW_EXPORT_MIN     500
#define LW_EXPORT_MAX     30000
#define LW_EXPORT_TRIES   5
#define LW_EXPORT_TELL    60000        /* ms                                 */


static int lw_export_take(lw_t *w, lw_batch_t *b, int last);
static size_t lw_export_wants(lw_t *w);
static int lw_export_setup(lw_t *w);
static void lw_export_reset(lw_t *w);
static int lw_export_send(lw_t *w, lw_entry_t *list, size_t n);
static int lw_export_post(lw_t *w, size_t n);
static void lw_export_partial(lw_t *w, size_t n);


static lw_http_t  lw_export_http;
static lw_text_t  lw_export_text;
static char       lw_export_url[1024];

static const lw_handler_t  lw_export_handler = {
    lw_export_take,
    lw_export_wants,
    lw_export_setup,
    lw_export_reset
};


int
lw_export(lw_t *w, int argc, char **argv)
{
    int  rc;

    lw_text_init(&lw_export_text, &w->mem);

    if (lw_export_setup(w) != LW_OK) {
        return LW_EXIT_USAGE;
    }

    rc = lw_group_run(w, &lw_export_handler, argc, argv);

    lw_http_free(&lw_export_http);
    lw_text_free(&lw_export_text);

    return rc;
}


static int
lw_export_setup(lw_t *w)
{
    char    name[256];
    size_t  i, len, colon;

    lw_http_free(&lw_export_http);

    if (lw_http_init(&lw_export_http, w->options, &w->mem) != LW_OK) {
        return LW_ERROR;
    }

    len = strlen(w->options->endpoint);

    while (len && w->options->endpoint[len - 1] == '/') {
        len--;
    }

    if ((size_t) snprintf(lw_export_url, sizeof(lw_export_url),
                          "%.*s/v1/traces", (int) len, w->options->endpoint)
        >= sizeof(lw_export_url))
    {
        return LW_ERROR;
    }

    for (i = 0; i < w->options->nheaders; i++) {

        colon = strcspn(w->options->headers[i], ":");

        if (w->options->headers[i][colon] != ':' || colon >= sizeof(name)) {
            fprintf(stderr, "lunary-worker: --header: 'NAME: VALUE'\n");
            return LW_ERROR;
        }

        memcpy(name, w->options->headers[i], colon);
        name[colon] = '\0';
        colon++;
        colon += strspn(w->options->headers[i] + colon, " ");

        if (lw_http_header(&lw_export_http, name,
                           w->options->headers[i] + colon) != LW_OK)
        {
            return LW_ERROR;
        }
    }

    return LW_OK;
}


static size_t
lw_export_wants(lw_t *w)
{
    (void) w;

    return 0;
}


static void
lw_export_reset(lw_t *w)
{
    (void) w;
}


/* a request at a time; what it cannot take is split until it is one entry */

static int
lw_export_take(lw_t *w, lw_batch_t *b, int last)
{
    int     rc;
    size_t  i, n, bytes;

    (void) last;

    rc = lw_group_ahead(w);

    for (i = 0; rc == LW_OK && i < b->n; i += n) {

        for (n = 0, bytes = 0; i + n < b->n; n++) {

            if (w->options->contents) {
                bytes += lw_entry_size(&b->entries[i + n]);
            }

            if (n && bytes > (size_t) w->options->batch_bytes) {
                break;
            }
        }

        rc = lw_export_send(w, b->entries + i, n);
    }

    /*
     * What the collector did not judge is not counted as delivered; to what
     * was acknowledged before this does nothing
     */

    if ((rc == LW_STOPPED || rc == LW_REMOTE)
        && lw_group_excuse(w, b->entries, b->n) != LW_OK)
    {
        return LW_REDIS;
    }

    return rc == LW_STOPPED ? LW_OK : rc;
}


static int
lw_export_send(lw_t *w, lw_entry_t *list, size_t n)
{
    int  rc;

    lw_export_body(w, &lw_export_text, list, n);

    if (lw_export_text.failed) {
        lw_log(LW_LOG_ERROR, "no memory for a batch");
        return LW_REDIS;
    }

    rc = lw_export_text.buf.len ? lw_export_post(w, n) : LW_OK;

    if (rc == LW_OK) {
        return lw_group_ack(w, list, n);
    }

    if (rc != LW_ERROR) {
        return rc;
    }

    if (n == 1) {
        return lw_group_bury(w, list, "refused by the collector");
    }

    rc = lw_export_send(w, list, n / 2);

    return rc == LW_OK ? lw_export_send(w, list + n / 2, n - n / 2) : rc;
}


/* LW_ERROR: never in this form; else as long as it takes */

static int
lw_export_post(lw_t *w, size_t n)
{
    int        rc;
    int64_t    wait;
    unsigned   tries;
    lw_http_t *h;

    h = &lw_export_http;
    wait = LW_EXPORT_MIN;

    for (tries = 1; /* void */ ; tries++) {

        rc = lw_http_send(h, "POST", lw_export_url, &lw_export_text,
                          !w->options->no_gzip);

        if (rc == LW_NOMEM) {
            return LW_REDIS;
        }

        if (rc == LW_OK && h->status >= 200 && h->status < 300) {
            lw_export_partial(w, n);
            return LW_OK;
        }

        w->failures++;

        if (rc == LW_OK) {

            lw_log(LW_LOG_WARN, "the collector answered %ld to %zu runs",
                   h->status, n);

            if (h->status == 400 || h->status == 413 || h->status == 422) {
                return LW_ERROR;
            }
        }

        if (lw_stop) {
            return LW_STOPPED;
        }

        if (w->options->once && tries >= LW_EXPORT_TRIES) {
            lw_log(LW_LOG_ERROR, "given up after %u tries", tries);
            return LW_REMOTE;
        }

        lw_sleep(h->retry_after < 0 ? wait
                 : h->retry_after > 10 * LW_EXPORT_MAX ? 10 * LW_EXPORT_MAX
                 : h->retry_after + 50);
        wait = wait * 2 > LW_EXPORT_MAX ? LW_EXPORT_MAX : wait * 2;

        if (lw_stop || lw_reload) {
            return LW_STOPPED;
        }
    }
}


/*
 * A success may be a partial one.  OTLP forbids to send the rest again, and
 * the collector's words, which may quote contents, are not for this log.
 */

static void
lw_export_partial(lw_t *w, size_t n)
{
    int64_t               rejected;
    lunary_str_t          answer, v;
    const unsigned char  *p;

    static int64_t  next;

    answer = lw_text_get(&lw_export_http.answer);

    if (answer.len == 0 || !lunary_json_valid(answer, 64)) {
        return;
    }

    p = answer.data;
    answer = lunary_json_value(&p, p + answer.len);

    v = lunary_json_get(lunary_json_get(answer, "partialSuccess"),
                        "rejectedSpans");

    /* an int64 is a string in this JSON; not all collectors know */

    if (lunary_json_is_string(v)) {
        v = lunary_json_inside(v);
    }

    if (!lw_int(v, &rejected) || rejected <= 0) {
        return;
    }

    w->failures++;

    if (lw_clock() < next) {
        return;
    }

    next = lw_clock() + LW_EXPORT_TELL;

    lw_log(LW_LOG_WARN, "the collector rejected %lld of %zu spans, which are "
           "not sent again (nor told here, for a minute): see its log",
           (long long) rejected, n);
}
