/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Deleting a user in Lunary, by its own API: the user is found by its external
 * id, its runs are deleted one by one, and then the user.
 *
 * Invariants
 *   - what was deleted before is no error, so that all of it can be done
 *     again; the user goes last;
 *   - a signal ends it between two requests; a second one that at hand, too.
 */

#include "subject.h"


#define LW_LUNARY_PAGE    500
#define LW_LUNARY_FEW     100          /* a page of less is the last one    */
#define LW_LUNARY_PAGES   1000
#define LW_LUNARY_TRIES   4
#define LW_LUNARY_MIN     500          /* ms                                */
#define LW_LUNARY_MAX     15000


static int lw_lunary_user(lw_t *w, lw_http_t *http, int64_t *id);
static char *lw_lunary_pattern(lw_t *w, lw_http_t *http);
static int lw_lunary_page(lw_t *w, lw_http_t *http, int64_t *id, size_t *n,
    uint64_t *first);
static int lw_lunary_runs(lw_t *w, lw_http_t *http, const lw_text_t *runs,
    int64_t *deleted);
static int lw_lunary_delete(lw_http_t *http, const char *url,
    int64_t *deleted);
static int lw_lunary_ask(lw_http_t *http, const char *method,
    const char *url);


int
lw_subject_lunary(lw_t *w, const lw_text_t *runs, int64_t *deleted)
{
    int         rc;
    char        url[2048], bearer[4200];
    int64_t     id;
    lw_http_t   http;

    if (lw_http_init(&http, w->options, &w->mem) != LW_OK) {
        return LW_REMOTE;
    }

    (void) snprintf(bearer, sizeof(bearer), "Bearer %s",
                    w->options->lunary_key);

    /* the request at hand has its time, whatever signal comes */

    w->options->drain = w->options->http_timeout;

    id = -1;
    rc = lw_http_header(&http, "Authorization", bearer);

    if (rc == LW_OK) {
        rc = lw_lunary_user(w, &http, &id);
    }

    if (rc == LW_OK) {

        rc = lw_lunary_runs(w, &http, runs, deleted);

        if (rc == LW_OK && id >= 0) {

            (void) snprintf(url, sizeof(url), "%s/v1/external-users/%lld",
                            w->options->api, (long long) id);

            rc = lw_lunary_delete(&http, url, deleted);
        }

        if (rc != LW_OK && !lw_stop) {
            lw_log(LW_LOG_ERROR, "Lunary did not delete everything (status "
                   "%ld)", http.status);
        }
    }

    if (rc != LW_OK && lw_stop) {
        lw_log(LW_LOG_ERROR, "stopped before Lunary had deleted everything");
    }

    lw_http_free(&http);

    return rc == LW_OK ? LW_OK : LW_REMOTE;
}


/*
 * Lunary searches for a part of an id, name or email, and answers a page at a
 * time: all are looked at until it is there.  *id stays where it is not.  Pages
 * are large, for Lunary orders users by cost alone: of those of the same cost
 * it may tell one twice and another not at all.
 */

static int
lw_lunary_user(lw_t *w, lw_http_t *http, int64_t *id)
{
    int          rc;
    char        *escaped, url[2048];
    size_t       n;
    unsigned     page;
    uint64_t     first, before;

    escaped = lw_lunary_pattern(w, http);

    if (escaped == NULL) {
        return LW_NOMEM;
    }

    rc = LW_OK;
    before = 0;

    for (page = 0; rc == LW_OK; page++) {

        if ((size_t) snprintf(url, sizeof(url), "%s/v1/external-users?search="
                              "%s&limit=%d&page=%u", w->options->api, escaped,
                              LW_LUNARY_PAGE, page) >= sizeof(url)
            || lw_lunary_ask(http, "GET", url) != LW_OK
            || http->status != 200
            || lw_lunary_page(w, http, id, &n, &first) != LW_OK)
        {
            if (!lw_stop) {
                lw_log(LW_LOG_ERROR, "Lunary does not tell its users (status "
                       "%ld)", http->status);
            }

            rc = LW_REMOTE;
            break;
        }

        if (*id >= 0) {
            break;
        }

        if (n < LW_LUNARY_FEW) {

            page += (n != 0);

            if (page > 1) {
                lw_log(LW_LOG_WARN, "the user is on none of %u pages of "
                       "Lunary's users like this one, and may have been left "
                       "out between them: look in Lunary", page);
            }

            break;
        }

        /* the same page again: it does not know pages */

        if ((page > 0 && first == before) || page == LW_LUNARY_PAGES) {
            lw_log(LW_LOG_ERROR, "too many of Lunary's users are like this "
                   "one, and it is not among those it tells: delete it in "
                   "Lunary by hand, then run forget without "
                   "--lunary-key-file");
            rc = LW_REMOTE;
        }

        before = first;
    }

    curl_free(escaped);

    return rc;
}


/*
 * The user's id for the search, which is SQL's LIKE, where a backslash takes
 * the meaning of what follows it: escaped for that, and then for the URL.
 */

static char *
lw_lunary_pattern(lw_t *w, lw_http_t *http)
{
    char        *escaped;
    lw_text_t    text;
    const char  *p;

    lw_text_init(&text, &w->mem);

    for (p = w->options->user; *p; p++) {

        if (*p == '\\' || *p == '%' || *p == '_') {
            lw_text_lit(&text, "\\");
        }

        lw_text_add(&text, p, 1);
    }

    lw_text_add(&text, "", 1);

    escaped = text.failed ? NULL
                          : curl_easy_escape(http->curl,
                                             (char *) text.buf.data, 0);
    lw_text_free(&text);

    return escaped;
}


/* the user among n of an answer, of which the first is told by its hash */

static int
lw_lunary_page(lw_t *w, lw_http_t *http, int64_t *id, size_t *n,
    uint64_t *first)
{
    lw_text_t             name;
    lunary_str_t          list, one;
    lunary_json_iter_t    it;
    const unsigned char  *p;

    *n = 0;
    *first = 0;

    if (!lunary_json_valid(lw_text_get(&http->answer), 64)) {
        return LW_ERROR;
    }

    p = http->answer.buf.data;
    list = lunary_json_value(&p, p + http->answer.buf.len);

    if (lunary_json_is_object(list)) {
        list = lunary_json_get(list, "data");
    }

    if (!lunary_json_is_array(list)) {
        return LW_ERROR;
    }

    lw_text_init(&name, &w->mem);
    lunary_json_iter(&it, list);

    while (lunary_json_element(&it, &one)) {

        if ((*n)++ == 0) {
            *first = lw_hash(one, 0);
        }

        lw_text_clear(&name);
        lw_text_plain(&name, lunary_json_get(one, "externalId"));

        if (lw_str_same(lw_text_get(&name), lw_str(w->options->user))) {
            (void) lunary_json_int(lunary_json_get(one, "id"), id);
        }
    }

    lw_text_free(&name);

    return LW_OK;
}


static int
lw_lunary_runs(lw_t *w, lw_http_t *http, const lw_text_t *runs,
    int64_t *deleted)
{
    int                   rc;
    char                  url[2048];
    size_t                i, n;
    const unsigned char  *p;

    rc = LW_OK;

    for (i = 0; rc == LW_OK && i < runs->buf.len; i += n + 1) {

        /* digits and hyphens: nothing to escape */

        p = memchr(runs->buf.data + i, '\n', runs->buf.len - i);
        n = (size_t) (p - (runs->buf.data + i));

        if ((size_t) snprintf(url, sizeof(url), "%s/v1/runs/%.*s",
                              w->options->api, (int) n,
                              (char *) runs->buf.data + i) >= sizeof(url))
        {
            return LW_REMOTE;
        }

        rc = lw_lunary_delete(http, url, deleted);
    }

    return rc;
}


static int
lw_lunary_delete(lw_http_t *http, const char *url, int64_t *deleted)
{
    if (lw_lunary_ask(http, "DELETE", url) != LW_OK
        || (http->status >= 300 && http->status != 404))
    {
        return LW_REMOTE;
    }

    *deleted += (http->status < 300);

    return LW_OK;
}


/*
 * An answer of any status; what may pass by itself is asked again.  LW_STOPPED
 * where it was not asked, for a signal came before.
 */

static int
lw_lunary_ask(lw_http_t *http, const char *method, const char *url)
{
    int       rc;
    int64_t   wait, pause;
    unsigned  tries;

    wait = LW_LUNARY_MIN;

    for (tries = 1; !lw_stop; tries++) {

        rc = lw_http_send(http, method, url, NULL, 0);

        if (rc == LW_NOMEM || tries == LW_LUNARY_TRIES
            || (rc == LW_OK && http->status != 429 && http->status < 500))
        {
            return rc;
        }

        pause = http->retry_after >= 0 ? http->retry_after : wait;
        wait *= 2;

        if (!lw_stop) {
            lw_sleep(pause > LW_LUNARY_MAX ? LW_LUNARY_MAX : pause);
        }
    }

    return LW_STOPPED;
}
