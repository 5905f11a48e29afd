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

#include "ngx_http_lunary_module.h"
#include "inspect/lunary_json.h"

#include <openssl/crypto.h>
#include <zlib.h>


#define NGX_HTTP_LUNARY_INGEST_MAX     (20 * 1024 * 1024)
#define NGX_HTTP_LUNARY_INGEST_EVENTS  10000
#define NGX_HTTP_LUNARY_INGEST_RESULT  128     /* of one event, but its id   */
#define NGX_HTTP_LUNARY_INGEST_DEPTH   256
#define NGX_HTTP_LUNARY_KEY_FILE       (64 * 1024)


typedef struct {
    ngx_str_t    key;
    ngx_str_t    app;
} ngx_http_lunary_key_t;


struct ngx_http_lunary_ingest_conf_s {
    ngx_array_t   keys;                        /* ngx_http_lunary_key_t      */
    ngx_array_t   origins;                     /* ngx_str_t                  */
    ngx_uint_t    drop_llm;
};


/* an answer that waits for the disk */

typedef struct {
    ngx_lunary_outbox_waiter_t   waiter;
    ngx_http_request_t          *request;
    ngx_buf_t                    answer;
} ngx_http_lunary_ingest_wait_t;


/* what is lifted out of an event, by the names of Lunary's API */

enum {
    NGX_HTTP_LUNARY_E_TYPE = 0,
    NGX_HTTP_LUNARY_E_EVENT,
    NGX_HTTP_LUNARY_E_RUN,
    NGX_HTTP_LUNARY_E_PARENT,
    NGX_HTTP_LUNARY_E_USER,
    NGX_HTTP_LUNARY_E_MAX
};


static ngx_int_t ngx_http_lunary_ingest_handler(ngx_http_request_t *r);
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
static ngx_int_t ngx_http_lunary_ingest_event(ngx_http_request_t *r,
    lunary_mem_t *mem, ngx_str_t *app, ngx_uint_t drop, lunary_str_t event,
    lunary_str_t *id, const char **error);
static void ngx_http_lunary_ingest_known(ngx_http_request_t *r,
    ngx_str_t *app, lunary_str_t event, lunary_run_t *run);
static int ngx_http_lunary_ingest_strip(lunary_mem_t *mem, lunary_buf_t *out,
    lunary_str_t event);
static ngx_uint_t ngx_http_lunary_ingest_app_id(lunary_mem_t *mem,
    lunary_str_t key);
static ngx_http_lunary_key_t *ngx_http_lunary_ingest_key(
    ngx_http_request_t *r, ngx_http_lunary_ingest_conf_t *ic);
static ngx_int_t ngx_http_lunary_ingest_cors(ngx_http_request_t *r,
    ngx_http_lunary_ingest_conf_t *ic, ngx_uint_t preflight);
static ngx_int_t ngx_http_lunary_ingest_error(ngx_http_request_t *r,
    ngx_uint_t status, const char *message);
static ngx_int_t ngx_http_lunary_ingest_keys(ngx_conf_t *cf,
    ngx_http_lunary_ingest_conf_t *ic, ngx_str_t *file);


static const lunary_str_t  ngx_http_lunary_event_names[] = {
    lunary_string("type"),
    lunary_string("event"),
    lunary_string("runId"),
    lunary_string("parentRunId"),
    lunary_string("userId")
};


char *
ngx_http_lunary_conf_ingest(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_lunary_loc_conf_t *lcf = conf;

    ngx_str_t                      *value, *origin, file;
    ngx_uint_t                      i;
    ngx_http_core_loc_conf_t       *clcf;
    ngx_http_lunary_main_conf_t    *mcf;
    ngx_http_lunary_ingest_conf_t  *ic;

    if (lcf->ingest) {
        return "is duplicate";
    }

    ic = ngx_pcalloc(cf->pool, sizeof(ngx_http_lunary_ingest_conf_t));
    if (ic == NULL) {
        return NGX_CONF_ERROR;
    }

    if (ngx_array_init(&ic->keys, cf->pool, 4, sizeof(ngx_http_lunary_key_t))
        != NGX_OK
        || ngx_array_init(&ic->origins, cf->pool, 4, sizeof(ngx_str_t))
           != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    ngx_str_null(&file);

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "key_file=", 9) == 0
            && value[i].len > 9)
        {
            file.data = value[i].data + 9;
            file.len = value[i].len - 9;
            continue;
        }

        if (ngx_strncmp(value[i].data, "origin=", 7) == 0 && value[i].len > 7)
        {
            origin = ngx_array_push(&ic->origins);
            if (origin == NULL) {
                return NGX_CONF_ERROR;
            }

            origin->data = value[i].data + 7;
            origin->len = value[i].len - 7;
            continue;
        }

        if (ngx_strcmp(value[i].data, "llm=drop") == 0) {
            ic->drop_llm = 1;
            continue;
        }

        if (ngx_strcmp(value[i].data, "llm=keep") == 0) {
            continue;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\" in \"lunary_ingest\": "
                           "known are key_file=, origin=, llm=keep, llm=drop",
                           &value[i]);
        return NGX_CONF_ERROR;
    }

    if (file.len == 0) {
        return "needs key_file=PATH with lines \"KEY [APP]\"";
    }

    if (ngx_http_lunary_ingest_keys(cf, ic, &file) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    lcf->ingest = ic;

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_lunary_module);
    mcf->used = 1;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_lunary_ingest_handler;

    return NGX_CONF_OK;
}


/* lines `KEY [APP]`; empty ones and those behind a # are passed over */

static ngx_int_t
ngx_http_lunary_ingest_keys(ngx_conf_t *cf, ngx_http_lunary_ingest_conf_t *ic,
    ngx_str_t *file)
{
    u_char                 *p, *last, *start, *end, *buf;
    ssize_t                 n;
    ngx_fd_t                fd;
    ngx_http_lunary_key_t  *key;

    if (ngx_conf_full_name(cf->cycle, file, 1) != NGX_OK) {
        return NGX_ERROR;
    }

    fd = ngx_open_file(file->data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "cannot open key_file \"%V\"", file);
        return NGX_ERROR;
    }

    /* the keys stay where they are read to */

    buf = ngx_pnalloc(cf->pool, NGX_HTTP_LUNARY_KEY_FILE);
    n = buf ? ngx_read_fd(fd, buf, NGX_HTTP_LUNARY_KEY_FILE) : -1;

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_ALERT, cf, ngx_errno,
                           ngx_close_file_n " \"%V\" failed", file);
    }

    if (n < 0 || n == NGX_HTTP_LUNARY_KEY_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, n < 0 ? ngx_errno : 0,
                           "key_file \"%V\" is too large or cannot be read",
                           file);
        return NGX_ERROR;
    }

    p = buf;
    last = buf + n;

    while (p < last) {

        while (p < last && (*p == ' ' || *p == '\t')) {
            p++;
        }

        start = p;

        while (p < last && *p != ' ' && *p != '\t' && *p != CR && *p != LF) {
            p++;
        }

        end = p;

        if (end > start && *start != '#') {

            key = ngx_array_push(&ic->keys);
            if (key == NULL) {
                return NGX_ERROR;
            }

            key->key.data = start;
            key->key.len = end - start;

            while (p < last && (*p == ' ' || *p == '\t')) {
                p++;
            }

            start = p;

            while (p < last && *p != ' ' && *p != '\t' && *p != CR
                   && *p != LF)
            {
                p++;
            }

            key->app.data = start;
            key->app.len = p - start;

            if (key->app.len == 0) {
                ngx_str_set(&key->app, "default");
            }
        }

        while (p < last && *p != LF) {
            p++;
        }

        p++;
    }

    if (ic->keys.nelts == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "key_file \"%V\" holds no key: write lines "
                           "\"KEY [APP]\"", file);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
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


/*
 * NGX_OK: it is in the outbox, or left out by llm=drop; NGX_DECLINED: it is no
 * event; NGX_BUSY: there is no room.  *id is the event's runId as JSON text.
 */

static ngx_int_t
ngx_http_lunary_ingest_event(ngx_http_request_t *r, lunary_mem_t *mem,
    ngx_str_t *app, ngx_uint_t drop, lunary_str_t event, lunary_str_t *id,
    const char **error)
{
    u_char            *p;
    size_t             i;
    uint32_t           hash;
    ngx_int_t          rc;
    lunary_run_t       run;
    lunary_str_t       values[NGX_HTTP_LUNARY_E_MAX], s;
    lunary_buf_t       json, text[NGX_HTTP_LUNARY_E_MAX];
    lunary_field_e     f;
    static const lunary_field_e  fields[] = {
        LUNARY_F_TYPE,
        LUNARY_F_EVENT_NAME,
        LUNARY_F_RUN_ID,
        LUNARY_F_PARENT_RUN_ID,
        LUNARY_F_USER_ID
    };

    *id = lunary_str(NULL, 0);
    *error = "";

    if (!lunary_json_is_object(event)) {
        *error = "An event must be an object";
        return NGX_DECLINED;
    }

    lunary_json_pick(event, ngx_http_lunary_event_names, values,
                     NGX_HTTP_LUNARY_E_MAX);

    *id = values[NGX_HTTP_LUNARY_E_RUN];

    if (!lunary_json_is_string(values[NGX_HTTP_LUNARY_E_EVENT])) {
        *error = "An event must name its event";
        return NGX_DECLINED;
    }

    if (!lunary_json_is_string(*id) || id->len == 2) {
        *id = lunary_str(NULL, 0);
        *error = "An event must have a runId";
        return NGX_DECLINED;
    }

    /* what people say of a call is not in the call that passed */

    if (drop && lunary_eq(values[NGX_HTTP_LUNARY_E_TYPE], "\"llm\"")
        && !lunary_eq(values[NGX_HTTP_LUNARY_E_EVENT], "\"feedback\""))
    {
        return NGX_OK;
    }

    ngx_memzero(&json, sizeof(lunary_buf_t));
    ngx_memzero(text, sizeof(text));

    lunary_run_init(&run);

    lunary_run_set_lit(&run, LUNARY_F_KIND, "event");
    lunary_run_set_lit(&run, LUNARY_F_V, "1");
    lunary_run_set_lit(&run, LUNARY_F_ORIGIN, "sdk");
    lunary_run_set(&run, LUNARY_F_APP, lunary_ngx_str(*app));

    rc = NGX_DECLINED;
    *error = "The event could not be stored";

    if (ngx_http_lunary_ingest_strip(mem, &json, event) != LUNARY_OK) {
        goto done;
    }

    lunary_run_set(&run, LUNARY_F_EVENT, lunary_buf_str(&json));

    for (i = 0; i < NGX_HTTP_LUNARY_E_MAX; i++) {

        if (!lunary_json_is_string(values[i]) || values[i].len > 4096) {
            continue;
        }

        if (lunary_json_unescape(mem, &text[i], lunary_json_inside(values[i]))
            != LUNARY_OK)
        {
            continue;
        }

        s = lunary_buf_str(&text[i]);

        if (i == NGX_HTTP_LUNARY_E_USER && !lunary_user_id_valid(s)) {
            continue;
        }

        lunary_run_set(&run, fields[i], s);
    }

    f = lunary_run_has(&run, LUNARY_F_PARENT_RUN_ID) ? LUNARY_F_PARENT_RUN_ID
                                                     : LUNARY_F_RUN_ID;
    hash = (uint32_t) crc32(0, run.value[f].data, (uInt) run.value[f].len);

    p = ngx_lunary_outbox_reserve(NGX_LUNARY_RECORD_EVENT,
                                  NGX_LUNARY_C_EVENTS,
                                  lunary_run_count(&run),
                                  lunary_run_room(&run), hash);
    if (p == NULL) {
        *error = "The spool is full, try again later";
        rc = NGX_BUSY;
        goto done;
    }

    ngx_lunary_outbox_commit(lunary_run_encode(&run, p));

    ngx_http_lunary_ingest_known(r, app, event, &run);

    rc = NGX_OK;

done:

    for (i = 0; i < NGX_HTTP_LUNARY_E_MAX; i++) {
        lunary_buf_free(mem, &text[i]);
    }

    lunary_buf_free(mem, &json);

    return rc;
}


/* calls that name the event's run, or its thread, may inherit its user */

static void
ngx_http_lunary_ingest_known(ngx_http_request_t *r, ngx_str_t *app,
    lunary_str_t event, lunary_run_t *run)
{
    ngx_str_t     user, props, id, thread;
    lunary_str_t  value;

    if (!lunary_run_has(run, LUNARY_F_USER_ID)) {
        return;
    }

    user = ngx_http_lunary_str(run->value[LUNARY_F_USER_ID]);
    id = ngx_http_lunary_str(run->value[LUNARY_F_RUN_ID]);

    ngx_str_null(&props);
    ngx_str_null(&thread);

    value = lunary_json_get(event, "userProps");

    if (lunary_json_is_object(value)) {
        props = ngx_http_lunary_str(value);
    }

    /* a message's parent is its thread */

    if (lunary_eq(run->value[LUNARY_F_TYPE], "thread")) {
        thread = ngx_http_lunary_str(run->value[LUNARY_F_PARENT_RUN_ID]);
    }

    ngx_http_lunary_cascade_known(r, app, &user, &props, &id, &thread);
}


/* the event without its members named appId */

static int
ngx_http_lunary_ingest_strip(lunary_mem_t *mem, lunary_buf_t *out,
    lunary_str_t event)
{
    int                  rc, first;
    lunary_str_t         key, value;
    lunary_json_iter_t   it;

    if (lunary_json_get(event, "appId").len == 0) {
        return lunary_buf_append(mem, out, event.data, event.len);
    }

    rc = lunary_buf_reserve(mem, out, event.len)
      || lunary_buf_lit(mem, out, "{");

    first = 1;

    lunary_json_iter(&it, event);

    while (rc == 0 && lunary_json_member(&it, &key, &value)) {

        if (ngx_http_lunary_ingest_app_id(mem, key)) {
            continue;
        }

        rc = lunary_buf_append(mem, out, first ? "\"" : ",\"", first ? 1 : 2)
          || lunary_buf_append(mem, out, key.data, key.len)
          || lunary_buf_lit(mem, out, "\":")
          || lunary_buf_append(mem, out, value.data, value.len);

        first = 0;
    }

    if (rc == 0) {
        rc = lunary_buf_lit(mem, out, "}");
    }

    return rc ? LUNARY_NOMEM : LUNARY_OK;
}


/* the member that carries the SDK's key, however its name is escaped */

static ngx_uint_t
ngx_http_lunary_ingest_app_id(lunary_mem_t *mem, lunary_str_t key)
{
    ngx_uint_t    is;
    lunary_buf_t  name;

    if (key.len == 0 || memchr(key.data, '\\', key.len) == NULL) {
        return lunary_eq(key, "appId");
    }

    ngx_memzero(&name, sizeof(lunary_buf_t));

    /* what cannot be told is left out */

    is = lunary_json_unescape(mem, &name, key) != LUNARY_OK
         || lunary_eq(lunary_buf_str(&name), "appId");

    lunary_buf_free(mem, &name);

    return is;
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
