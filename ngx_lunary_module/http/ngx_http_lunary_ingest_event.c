/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * One event of an SDK becomes one record of the outbox.
 *
 * Invariants
 *   - the event is kept as it was sent, but for its appId: whose it is says the
 *     key that it came with;
 *   - its user is a claim.
 */

#include "ngx_http_lunary_ingest.h"
#include "inspect/lunary_json.h"

#include <zlib.h>


/* what is lifted out of an event, by the names of Lunary's API */

enum {
    NGX_HTTP_LUNARY_E_TYPE = 0,
    NGX_HTTP_LUNARY_E_EVENT,
    NGX_HTTP_LUNARY_E_RUN,
    NGX_HTTP_LUNARY_E_PARENT,
    NGX_HTTP_LUNARY_E_USER,
    NGX_HTTP_LUNARY_E_MAX
};


static void ngx_http_lunary_ingest_known(ngx_http_request_t *r,
    ngx_str_t *app, lunary_str_t event, lunary_run_t *run);
static int ngx_http_lunary_ingest_strip(lunary_mem_t *mem, lunary_buf_t *out,
    lunary_str_t event);
static ngx_uint_t ngx_http_lunary_ingest_app_id(lunary_mem_t *mem,
    lunary_str_t key);


static const lunary_str_t  ngx_http_lunary_event_names[] = {
    lunary_string("type"),
    lunary_string("event"),
    lunary_string("runId"),
    lunary_string("parentRunId"),
    lunary_string("userId")
};


/*
 * NGX_OK: it is in the outbox, or left out by llm=drop; NGX_DECLINED: it is no
 * event; NGX_BUSY: there is no room.  *id is the event's runId as JSON text.
 */

ngx_int_t
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
