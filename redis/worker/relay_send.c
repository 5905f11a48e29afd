/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Requests of the relay, their answers, and what to do about each kind of
 * failure:
 *
 *   no answer, 502 503 504   the same again, later and later; chat messages
 *                            only where the request cannot have arrived
 *   200 without results      that is not Lunary: the same
 *   429                      the same again when the server says
 *   500, or 200 and nothing  the same; the third time in halves, and a single
 *   was taken                entry becomes a suspect (relay_suspect.c)
 *   400 413 422              in halves; a single entry is dead
 *   401 402 403 404          the project waits; its entries stay pending
 *   200, some were taken     the others are suspects (relay_answer.c)
 */

#include <stdlib.h>

#include "relay_internal.h"


#define LW_PROJECT_WAIT   30000


static int lw_relay_halves(lw_t *w, lw_relay_t *r,
    const lw_project_t *project, lw_item_t **list, size_t n,
    const char *reason);
static int lw_relay_body(lw_relay_t *r, lw_item_t **list, size_t n);
static int lw_relay_answer(lw_relay_t *r, lunary_str_t *results);
static size_t lw_relay_open(lw_item_t **list, size_t n);
static void lw_relay_lost(lw_item_t **list, size_t n);


int
lw_relay_send(lw_t *w, lw_relay_t *r, const lw_project_t *project)
{
    int          rc;
    char         bearer[4200];
    size_t       i, n, bytes;
    lw_item_t  **list;

    list = calloc(r->n + 1, sizeof(*list));
    if (list == NULL) {
        return LW_REDIS;
    }

    lw_http_clear(&r->http);

    (void) snprintf(bearer, sizeof(bearer), "Bearer %s", project->key);

    rc = lw_http_header(&r->http, "Authorization", bearer);
    i = 0;

    /* entries may have grown by what is added: by the bytes once more */

    while (rc == LW_OK && i < r->n) {

        for (n = 0, bytes = 0; i < r->n; i++) {

            if (r->items[i].state != LW_ITEM_SEND
                || r->items[i].project != project
                || r->items[i].failed_at)
            {
                continue;
            }

            if (n && bytes + r->items[i].end - r->items[i].start
                     > (size_t) w->options->batch_bytes)
            {
                break;
            }

            bytes += r->items[i].end - r->items[i].start;
            list[n++] = &r->items[i];
        }

        if (n) {
            rc = lw_relay_lot(w, r, project, list, n);
        }
    }

    if (rc == LW_OK) {
        rc = lw_relay_suspect_send(w, r, project);
    }

    free(list);

    return rc;
}


int
lw_relay_lot(lw_t *w, lw_relay_t *r, const lw_project_t *project,
    lw_item_t **list, size_t n)
{
    int           rc, told;
    long          status;
    size_t        i;
    int64_t       wait;
    unsigned      tries, broken;
    lunary_str_t  results;

    wait = LW_RETRY_MIN;
    broken = 0;

    for (tries = 1; /* void */ ; tries++) {

        rc = lw_relay_body(r, list, n);

        if (rc != LW_OK) {
            return LW_REDIS;
        }

        if (r->body.buf.len == 0) {

            /* nothing but chats, which may not be sent again */

            for (i = 0; i < n; i++) {
                list[i]->state = LW_ITEM_DONE;
            }

            return LW_OK;
        }

        rc = lw_http_send(&r->http, "POST", r->url, &r->body,
                          !w->options->no_gzip);

        if (rc == LW_NOMEM) {
            return LW_REDIS;
        }

        status = (rc == LW_OK) ? r->http.status : 0;
        told = 0;

        if (status == 200) {

            if (!lw_relay_answer(r, &results)) {

                /* a page of a proxy, or of something else at that address */

                status = 503;
                lw_log(LW_LOG_WARN, "200, but no answer of Lunary's: is --api "
                       "its address?");

            } else {

                rc = lw_relay_results(w, r, results, list, n);

                if (rc != LW_ERROR) {
                    return rc == LW_OK ? LW_OK : LW_REDIS;
                }

                n = lw_relay_open(list, n);

                if (n == 0) {
                    return LW_OK;
                }

                told = 1;
                status = 500;
            }

        } else if (status) {
            lw_log(LW_LOG_WARN, "Lunary answered %ld to %zu entries", status,
                   n);
        }

        w->failures++;

        if (!r->http.unsent && !told && (status == 0 || status >= 500)) {
            lw_relay_lost(list, n);
        }

        switch (status) {

        case 400:
        case 413:
        case 422:
            return lw_relay_halves(w, r, project, list, n,
                                   r->http.status == 413
                                   ? "413: too large for Lunary"
                                   : "400: malformed for Lunary");

        case 401:
        case 402:
        case 403:
        case 404:

            lw_log(LW_LOG_ERROR, "Lunary refuses the key of project \"%s\" "
                   "(status %ld): its entries wait", project->app,
                   r->http.status);

            r->blocked[project - w->options->projects] = lw_clock()
                                                         + LW_PROJECT_WAIT;

            for (i = 0; i < n; i++) {
                list[i]->state = LW_ITEM_LEFT;
            }

            return w->options->once ? LW_REMOTE : LW_OK;

        case 500:

            broken++;

            if (n > 1 && broken == LW_EVENT_TRIES) {
                return lw_relay_halves(w, r, project, list, n, NULL);
            }

            if (n == 1 && lw_relay_suspect_failed(w, r, list[0], broken)) {
                return LW_OK;
            }

            break;

        default:
            break;
        }

        if (lw_stop) {
            return LW_STOPPED;
        }

        if (w->options->once && tries >= LW_ONCE_TRIES) {
            lw_log(LW_LOG_ERROR, "given up after %u tries", tries);
            return LW_REMOTE;
        }

        if (r->http.retry_after >= 0) {
            lw_sleep(r->http.retry_after > 10 * LW_RETRY_MAX
                     ? 10 * LW_RETRY_MAX : r->http.retry_after + 50);
        } else {
            lw_sleep(wait);
            wait = wait * 2 > LW_RETRY_MAX ? LW_RETRY_MAX : wait * 2;
        }

        /* a new configuration may be what it takes: begin again with it */

        if (lw_stop || lw_reload) {
            return LW_STOPPED;
        }
    }
}


static int
lw_relay_halves(lw_t *w, lw_relay_t *r, const lw_project_t *project,
    lw_item_t **list, size_t n, const char *reason)
{
    int  rc;

    if (n == 1) {
        list[0]->state = LW_ITEM_DEAD;
        list[0]->reason = reason;
        return LW_OK;
    }

    rc = lw_relay_lot(w, r, project, list, n / 2);

    if (rc == LW_OK) {
        rc = lw_relay_lot(w, r, project, list + n / 2, n - n / 2);
    }

    return rc;
}


/* those that are to be sent still come to the front: how many they are */

static size_t
lw_relay_open(lw_item_t **list, size_t n)
{
    size_t  i, k;

    for (i = 0, k = 0; i < n; i++) {
        if (list[i]->state == LW_ITEM_SEND) {
            list[k++] = list[i];
        }
    }

    return k;
}


/* {"events":[...]}; empty where there is nothing to say */

static int
lw_relay_body(lw_relay_t *r, lw_item_t **list, size_t n)
{
    size_t      i, end;
    lw_item_t  *item;

    lw_text_clear(&r->body);

    for (i = 0; i < n; i++) {

        item = list[i];
        end = item->chats ? item->end : item->chat_start;

        if (end == item->start) {
            continue;
        }

        lw_text_add(&r->body, r->body.buf.len ? "," : "{\"events\":[",
                    r->body.buf.len ? 1 : 11);
        lw_text_add(&r->body, r->events.buf.data + item->start,
                    end - item->start);
    }

    if (r->body.buf.len) {
        lw_text_lit(&r->body, "]}");
    }

    return r->body.failed ? LW_NOMEM : LW_OK;
}


/* it may have arrived: no chat message of these is sent again */

static void
lw_relay_lost(lw_item_t **list, size_t n)
{
    size_t  i;

    for (i = 0; i < n; i++) {
        if (list[i]->chats) {
            list[i]->chats = 0;
            list[i]->marked = 1;
        }
    }
}


/* whether it has an array of results */

static int
lw_relay_answer(lw_relay_t *r, lunary_str_t *results)
{
    lunary_str_t          answer;
    const unsigned char  *p;

    if (!lunary_json_valid(lw_text_get(&r->http.answer), 64)) {
        return 0;
    }

    p = r->http.answer.buf.data;
    answer = lunary_json_value(&p, p + r->http.answer.buf.len);

    if (!lunary_json_is_object(answer)) {
        return 0;
    }

    *results = lunary_json_get(answer, "results");

    return lunary_json_is_array(*results);
}
