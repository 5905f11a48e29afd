/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * lunary_ingest: Lunary's own POST /v1/runs/ingest (and /api/report), so that
 * its SDKs, pointed here by apiUrl, write to the same stream as the proxy.
 * One stream entry an event, the event's JSON as it was sent.
 *
 * Invariants
 *   - success is said of an event only once it is in the outbox, and of none
 *     before the outbox calls it safe (lunary_spool sync=);
 *   - a bad event fails alone;
 *   - keys are compared in constant time and never logged; `appId`, where the
 *     SDKs put their key, is taken out of what is stored;
 *   - users in events are claims.
 */

#include "ngx_http_lunary_ingest.h"
#include "inspect/lunary_json.h"

#include <openssl/crypto.h>


#define NGX_HTTP_LUNARY_INGEST_MAX     (20 * 1024 * 1024)
#define NGX_HTTP_LUNARY_INGEST_EVENTS  10000
#define NGX_HTTP_LUNARY_INGEST_RESULT  128     /* of one event, but its id   */
#define NGX_HTTP_LUNARY_INGEST_DEPTH   256


/* an answer that waits for the disk */

typedef struct {
    ngx_lunary_outbox_waiter_t   waiter;
    ngx_http_request_t          *request;
    ngx_buf_t                    answer;
} ngx_http_lunary_ingest_wait_t;


static void ngx_http_lunary_ingest_body(ngx_http_request_t *r);
static ngx_int_t ngx_http_lunary_ingest_read(ngx_http_request_t *r,
    lunary_str_t *text);
static ngx_int_t ngx_http_lunary_ingest_events(ngx_http_request_t *r,
    ngx_str_t *app, ngx_uint_t drop, lunary_str_t text);
static ngx_http_lunary_ingest_wait_t *ngx_http_lunary_ingest_wait(
    ngx_http_request_t *r, size_t size);
static ngx_int_t ngx_http_lunary_ingest_answer(ngx_http_request_t *r,
    ngx_http_lunary_ingest_wait_t *wait);
static void ngx_http_lunary_ingest_safe(void *data);
static void ngx_http_lunary_ingest_forget(void *data);
static ngx_http_lunary_key_t *ngx_http_lunary_ingest_key(
    ngx_http_request_t *r, ngx_http_lunary_ingest_conf_t *ic);
static ngx_int_t ngx_http_lunary_ingest_cors(ngx_http_request_t *r,
    ngx_http_lunary_ingest_conf_t *ic, ngx_uint_t preflight);
static ngx_int_t ngx_http_lunary_ingest_error(ngx_http_request_t *r,
    ngx_uint_t status, const char *message);


ngx_int_t
ngx_http_lunary_ingest_handler(ngx_http_request_t *r)
{
    ngx_int_t                       rc;
    ngx_http_lunary_loc_conf_t     *lcf;
    ngx_http_lunary_ingest_conf_t  *ic;

    lcf = ngx_http_get_module_loc_conf(r, ngx_http_lunary_module);
    ic = lcf->ingest;

    if (ngx_http_lunary_ingest_cors(r, ic, r->method == NGX_HTTP_OPTIONS)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (r->method == NGX_HTTP_OPTIONS) {

        rc = ngx_http_discard_request_body(r);

        if (rc != NGX_OK) {
            return rc;
        }

        r->headers_out.status = NGX_HTTP_NO_CONTENT;
        r->header_only = 1;

        return ngx_http_send_header(r);
    }

    if (r->method != NGX_HTTP_POST) {
        return NGX_HTTP_NOT_ALLOWED;
    }

    if (ngx_http_lunary_ingest_key(r, ic) == NULL) {

        rc = ngx_http_discard_request_body(r);

        if (rc != NGX_OK) {
            return rc;
        }

        return ngx_http_lunary_ingest_error(r, NGX_HTTP_UNAUTHORIZED,
                                            "Invalid or missing API key");
    }

    if (r->headers_in.content_length_n > NGX_HTTP_LUNARY_INGEST_MAX) {

        rc = ngx_http_discard_request_body(r);

        if (rc != NGX_OK) {
            return rc;
        }

        return ngx_http_lunary_ingest_error(r,
                                            NGX_HTTP_REQUEST_ENTITY_TOO_LARGE,
                                            "The batch is too large");
    }

    rc = ngx_http_read_client_request_body(r, ngx_http_lunary_ingest_body);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    return NGX_DONE;
}


static void
ngx_http_lunary_ingest_body(ngx_http_request_t *r)
{
    ngx_int_t                       rc;
    lunary_str_t                    text;
    ngx_http_lunary_key_t          *key;
    ngx_http_lunary_loc_conf_t     *lcf;
    ngx_http_lunary_ingest_conf_t  *ic;

    lcf = ngx_http_get_module_loc_conf(r, ngx_http_lunary_module);
    ic = lcf->ingest;

    rc = ngx_http_lunary_ingest_read(r, &text);

    if (rc == NGX_OK) {

        if (!lunary_json_valid(text, NGX_HTTP_LUNARY_INGEST_DEPTH)) {
            rc = ngx_http_lunary_ingest_error(r, NGX_HTTP_BAD_REQUEST,
                                              "The body is not valid JSON");

        } else {
            key = ngx_http_lunary_ingest_key(r, ic);

            rc = ngx_http_lunary_ingest_events(r, &key->app, ic->drop_llm,
                                               text);
        }

    } else if (rc == NGX_DECLINED) {
        rc = ngx_http_lunary_ingest_error(r,
                                          NGX_HTTP_REQUEST_ENTITY_TOO_LARGE,
                                          "The batch is too large");
    }

    ngx_http_finalize_request(r, rc);
}


/* the whole body in one piece; NGX_DECLINED: too large */

static ngx_int_t
ngx_http_lunary_ingest_read(ngx_http_request_t *r, lunary_str_t *text)
{
    off_t         len;
    u_char       *p, *data;
    ssize_t       n;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    *text = lunary_str(NULL, 0);

    if (r->request_body == NULL || r->request_body->bufs == NULL) {
        return NGX_OK;
    }

    cl = r->request_body->bufs;

    if (cl->next == NULL && ngx_buf_in_memory(cl->buf)) {
        *text = lunary_str(cl->buf->pos, cl->buf->last - cl->buf->pos);
        return NGX_OK;
    }

    len = 0;

    for ( /* void */ ; cl; cl = cl->next) {
        len += ngx_buf_size(cl->buf);
    }

    if (len > NGX_HTTP_LUNARY_INGEST_MAX) {
        return NGX_DECLINED;
    }

    data = ngx_pnalloc(r->pool, (size_t) len + 1);
    if (data == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    p = data;

    for (cl = r->request_body->bufs; cl; cl = cl->next) {
        b = cl->buf;

        if (ngx_buf_in_memory(b)) {
            p = ngx_cpymem(p, b->pos, b->last - b->pos);
            continue;
        }

        if (!b->in_file) {
            continue;
        }

        n = ngx_read_file(b->file, p, (size_t) (b->file_last - b->file_pos),
                          b->file_pos);

        if (n != b->file_last - b->file_pos) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        p += n;
    }

    *text = lunary_str(data, p - data);

    return NGX_OK;
}


static ngx_int_t
ngx_http_lunary_ingest_events(ngx_http_request_t *r, ngx_str_t *app,
    ngx_uint_t drop, lunary_str_t text)
{
    size_t                          size;
    ngx_int_t                       result;
    ngx_uint_t                      n, full;
    const char                     *error;
    u_char                         *p;
    lunary_mem_t                    mem;
    lunary_str_t                    events, event, id;
    lunary_json_iter_t              it;
    const unsigned char            *pos;
    ngx_http_lunary_ingest_wait_t  *wait;

    /* white space around the text is allowed */

    pos = text.data;
    text = lunary_json_value(&pos, text.data + text.len);

    events = lunary_json_is_object(text) ? lunary_json_get(text, "events")
                                         : lunary_str(NULL, 0);

    if (!lunary_json_is_array(events) && !lunary_json_is_object(events)) {
        return ngx_http_lunary_ingest_error(r, NGX_HTTP_BAD_REQUEST,
                                 "\\\"events\\\" must be an event or an array "
                                 "of events");
    }

    /* known before the first is taken: a batch is refused as a whole */

    n = 0;
    lunary_json_iter(&it, events);

    while (lunary_json_is_array(events) && lunary_json_element(&it, &event)) {

        if (++n > NGX_HTTP_LUNARY_INGEST_EVENTS) {
            return ngx_http_lunary_ingest_error(r,
                                            NGX_HTTP_REQUEST_ENTITY_TOO_LARGE,
                                            "The batch has too many events");
        }
    }

    /*
     * all that the answer takes comes first: what was stored is never told to
     * have failed.  Ids are the text's own, so they fit in its length.
     */

    size = sizeof("{\"results\":[]}")
           + ngx_max(n, 1) * NGX_HTTP_LUNARY_INGEST_RESULT + text.len;

    wait = ngx_http_lunary_ingest_wait(r, size);
    if (wait == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    lunary_mem_init(&mem);

    p = ngx_cpymem(wait->answer.pos, "{\"results\":[",
                   sizeof("{\"results\":[") - 1);

    n = 0;
    full = 0;

    lunary_json_iter(&it, events);

    for ( ;; ) {

        if (lunary_json_is_object(events)) {

            if (n) {
                break;
            }

            event = events;

        } else if (!lunary_json_element(&it, &event)) {
            break;
        }

        n++;

        result = ngx_http_lunary_ingest_event(r, &mem, app, drop, event, &id,
                                              &error);
        if (result == NGX_BUSY) {
            full++;
        }

        if (n > 1) {
            *p++ = ',';
        }

        p = ngx_cpymem(p, "{\"id\":", sizeof("{\"id\":") - 1);

        if (id.len) {
            p = ngx_cpymem(p, id.data, id.len);

        } else {
            p = ngx_cpymem(p, "null", sizeof("null") - 1);
        }

        if (result == NGX_OK) {
            p = ngx_cpymem(p, ",\"success\":true}",
                           sizeof(",\"success\":true}") - 1);

        } else {
            p = ngx_slprintf(p, wait->answer.end,
                             ",\"success\":false,\"error\":\"%s\"}", error);
        }
    }

    if (n && full == n) {

        /* nothing was taken: an SDK that can try again should */

        return ngx_http_lunary_ingest_error(r, NGX_HTTP_SERVICE_UNAVAILABLE,
                                   "The spool is full, try again later");
    }

    wait->answer.last = ngx_cpymem(p, "]}", sizeof("]}") - 1);

    return ngx_http_lunary_ingest_answer(r, wait);
}


/* an answer with room for size bytes, and what it may have to wait with */

static ngx_http_lunary_ingest_wait_t *
ngx_http_lunary_ingest_wait(ngx_http_request_t *r, size_t size)
{
    ngx_http_cleanup_t             *cln;
    ngx_http_lunary_ingest_wait_t  *wait;

    wait = ngx_pcalloc(r->pool, sizeof(ngx_http_lunary_ingest_wait_t));
    if (wait == NULL) {
        return NULL;
    }

    wait->answer.start = ngx_pnalloc(r->pool, size);
    if (wait->answer.start == NULL) {
        return NULL;
    }

    wait->answer.pos = wait->answer.start;
    wait->answer.last = wait->answer.start;
    wait->answer.end = wait->answer.start + size;
    wait->answer.memory = 1;

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        return NULL;
    }

    cln->handler = ngx_http_lunary_ingest_forget;
    cln->data = &wait->waiter;

    wait->request = r;
    wait->waiter.handler = ngx_http_lunary_ingest_safe;
    wait->waiter.data = wait;

    return wait;
}


/* success is said when the outbox calls what it took safe */

static ngx_int_t
ngx_http_lunary_ingest_answer(ngx_http_request_t *r,
    ngx_http_lunary_ingest_wait_t *wait)
{
    if (ngx_lunary_outbox_durable(&wait->waiter) == NGX_OK) {
        return ngx_http_lunary_send(r, NGX_HTTP_OK, &ngx_http_lunary_json_type,
                                    &wait->answer);
    }

    r->read_event_handler = ngx_http_test_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    r->main->count++;

    return NGX_DONE;
}


static void
ngx_http_lunary_ingest_safe(void *data)
{
    ngx_http_lunary_ingest_wait_t *wait = data;

    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    r = wait->request;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    ngx_http_finalize_request(r, ngx_http_lunary_send(r, NGX_HTTP_OK,
                                                  &ngx_http_lunary_json_type,
                                                  &wait->answer));

    ngx_http_run_posted_requests(c);
}


static void
ngx_http_lunary_ingest_forget(void *data)
{
    ngx_lunary_outbox_forget(data);
}


/* by Authorization: Bearer or x-api-key, in constant time for each key */

static ngx_http_lunary_key_t *
ngx_http_lunary_ingest_key(ngx_http_request_t *r,
    ngx_http_lunary_ingest_conf_t *ic)
{
    ngx_str_t               sent;
    ngx_uint_t              i;
    ngx_table_elt_t        *h;
    ngx_http_lunary_key_t  *key, *found;

    ngx_str_null(&sent);

    h = r->headers_in.authorization;

    if (h && h->value.len > 7
        && ngx_strncasecmp(h->value.data, (u_char *) "bearer ", 7) == 0)
    {
        sent.data = h->value.data + 7;
        sent.len = h->value.len - 7;

    } else {
        h = ngx_http_lunary_header_in(r, "x-api-key");

        if (h) {
            sent = h->value;
        }
    }

    if (sent.len == 0) {
        return NULL;
    }

    found = NULL;
    key = ic->keys.elts;

    for (i = 0; i < ic->keys.nelts; i++) {
        if (key[i].key.len == sent.len
            && CRYPTO_memcmp(key[i].key.data, sent.data, sent.len) == 0)
        {
            found = &key[i];
        }
    }

    return found;
}


static ngx_int_t
ngx_http_lunary_ingest_cors(ngx_http_request_t *r,
    ngx_http_lunary_ingest_conf_t *ic, ngx_uint_t preflight)
{
    ngx_str_t         *origin;
    ngx_uint_t         i;
    ngx_table_elt_t   *h;
    static ngx_str_t   vary = ngx_string("Origin");
    static ngx_str_t   methods = ngx_string("POST, OPTIONS");
    static ngx_str_t   headers =
                       ngx_string("Authorization, Content-Type, X-Api-Key");
    static ngx_str_t   age = ngx_string("86400");

    if (ic->origins.nelts == 0) {
        return NGX_OK;
    }

    if (ngx_http_lunary_add_header(r, "Vary", &vary) == NULL) {
        return NGX_ERROR;
    }

    h = ngx_http_lunary_header_in(r, "Origin");

    if (h == NULL) {
        return NGX_OK;
    }

    origin = ic->origins.elts;

    for (i = 0; i < ic->origins.nelts; i++) {

        if ((origin[i].len == 1 && origin[i].data[0] == '*')
            || (origin[i].len == h->value.len
                && ngx_strncasecmp(origin[i].data, h->value.data,
                                   h->value.len)
                   == 0))
        {
            break;
        }
    }

    if (i == ic->origins.nelts) {
        return NGX_OK;
    }

    if (ngx_http_lunary_add_header(r, "Access-Control-Allow-Origin", &h->value)
        == NULL)
    {
        return NGX_ERROR;
    }

    if (!preflight) {
        return NGX_OK;
    }

    if (ngx_http_lunary_add_header(r, "Access-Control-Allow-Methods", &methods)
        == NULL
        || ngx_http_lunary_add_header(r, "Access-Control-Allow-Headers",
                                      &headers)
           == NULL
        || ngx_http_lunary_add_header(r, "Access-Control-Max-Age", &age)
           == NULL)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* message is JSON-escaped already */

static ngx_int_t
ngx_http_lunary_ingest_error(ngx_http_request_t *r, ngx_uint_t status,
    const char *message)
{
    size_t             size;
    ngx_buf_t         *b;
    const char        *name;
    static ngx_str_t   soon = ngx_string("1");

    switch (status) {

    case NGX_HTTP_UNAUTHORIZED:
        name = "Unauthorized";
        break;

    case NGX_HTTP_BAD_REQUEST:
        name = "Bad Request";
        break;

    case NGX_HTTP_REQUEST_ENTITY_TOO_LARGE:
        name = "Payload Too Large";
        break;

    default:
        name = "Service Unavailable";

        if (ngx_http_lunary_add_header(r, "Retry-After", &soon) == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    size = sizeof("{\"error\":\"\",\"message\":\"\"}") + ngx_strlen(message)
           + ngx_strlen(name);

    b = ngx_create_temp_buf(r->pool, size);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    b->last = ngx_sprintf(b->last, "{\"error\":\"%s\",\"message\":\"%s\"}",
                          name, message);

    return ngx_http_lunary_send(r, status, &ngx_http_lunary_json_type, b);
}
