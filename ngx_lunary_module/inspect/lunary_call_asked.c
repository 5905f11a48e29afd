/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What dialects tell of a request: model, stream, input, parameters.  See
 * lunary_call_internal.h.
 */

#include "lunary_call_internal.h"
#include "lunary_escape.h"
#include "lunary_secret.h"
#include "lunary_string.h"
#include "lunary_walk.h"


static int lunary_call_is_identity(lunary_str_t key);
static size_t lunary_call_escaped(lunary_str_t key, const lunary_str_t *names,
    size_t n);


/* top-level members that say who calls: no parameters of the model */

static const lunary_str_t  lunary_identity[] = {
    lunary_string("user"),
    lunary_string("tags"),
    lunary_string("userId"),
    lunary_string("user_id"),
    lunary_string("threadId"),
    lunary_string("metadata"),
    lunary_string("userProps"),
    lunary_string("thread_id"),
    lunary_string("user_props"),
    lunary_string("templateId"),
    lunary_string("parentRunId"),
    lunary_string("parent_run_id"),
    lunary_string("safety_identifier")
};

#define LUNARY_IDENTITY_N  (sizeof(lunary_identity) / sizeof(lunary_str_t))


void
lunary_call_model(lunary_call_t *call, lunary_str_t value)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (lunary_json_inside(value).len == 0) {
        return;
    }

    lunary_call_keep(call, &priv->model, value, LUNARY_CALL_MODEL);

    call->model = lunary_buf_str(&priv->model);
}


void
lunary_call_model_bytes(lunary_call_t *call, lunary_str_t bytes)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (bytes.len == 0 || bytes.len > LUNARY_CALL_MODEL
        || !lunary_utf8_valid(bytes))
    {
        return;
    }

    priv->model.len = 0;

    (void) lunary_buf_append(call->mem, &priv->model, bytes.data, bytes.len);

    call->model = lunary_buf_str(&priv->model);
}


void
lunary_call_stream(lunary_call_t *call, lunary_str_t value)
{
    /* watsonx, TGI and Vertex ask for it by the path */

    if (lunary_json_is_true(value) || lunary_value_is(value, "true")
        || lunary_call_path_ends(call, "_stream")
        || lunary_call_path_ends(call, ":streamRawPredict"))
    {
        call->stream = 1;

    } else if (lunary_json_is_false(value)
               || lunary_value_is(value, "false"))
    {
        call->stream = 0;
    }
}


void
lunary_call_input(lunary_call_t *call, lunary_str_t value, lunary_str_t key)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (value.len == 0) {
        return;
    }

    priv->input_size = value.len;

    if (priv->rq != NULL) {
        priv->input_size += lunary_request_removed_of(priv->rq, key);
    }

    if (lunary_call_wants_input(call)) {
        priv->input = value;
    }
}


void
lunary_call_input_built(lunary_call_t *call, lunary_str_t key)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    priv->input = lunary_buf_str(&priv->input_buf);
    priv->input_size = priv->input_built;

    if (priv->rq != NULL) {
        priv->input_size += lunary_request_removed_of(priv->rq, key);
    }
}


static int
lunary_call_is_identity(lunary_str_t key)
{
    size_t  i;

    /* their lengths; most names have another */

    if (key.len > 17 || !(0x22fd0u >> key.len & 1)) {
        return 0;
    }

    for (i = 0; i < LUNARY_IDENTITY_N; i++) {
        if (key.len == lunary_identity[i].len
            && memcmp(key.data, lunary_identity[i].data, key.len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


/* the name that an escaped key stands for; n: none of them */

static size_t
lunary_call_escaped(lunary_str_t key, const lunary_str_t *names, size_t n)
{
    size_t  i;

    for (i = 0; i < n; i++) {
        if (names[i].len != 0 && lunary_escape_eq(key, names[i])) {
            break;
        }
    }

    return i;
}


void
lunary_call_params(lunary_call_t *call, lunary_str_t obj,
    const lunary_str_t *but, lunary_str_t *vals, size_t n)
{
    size_t             i, k, m, len;
    lunary_str_t       key, value, array;
    lunary_buf_t      *b;
    lunary_mem_t      *mem;
    lunary_walk_t      w;
    lunary_priv_t     *priv;
    lunary_request_t  *rq;

    priv = lunary_priv(call);
    b = &priv->params;
    mem = call->mem;

    b->len = 0;
    priv->members_read = 1;

    for (i = 0; vals != NULL && i < n; i++) {
        vals[i] = lunary_str(NULL, 0);
    }

    lunary_walk_start(&w, obj);

    if (!lunary_walk_object(&w)) {
        return;
    }

    /* of the body itself its members are mostly known, or its messages */

    rq = priv->rq;
    array = lunary_str(NULL, 0);

    if (rq != NULL && obj.data == lunary_request_text(rq).data) {
        array = lunary_request_array(rq);

        if (lunary_request_member(rq, 0, &key, &value) == LUNARY_ERROR) {
            rq = NULL;
        }

    } else {
        rq = NULL;
    }

    for (k = 0; /* void */ ; k++) {

        if (rq != NULL) {

            if (lunary_request_member(rq, k, &key, &value) != LUNARY_OK) {
                break;
            }

        } else {

            if (!lunary_walk_key(&w, &key)) {
                break;
            }

            if (w.p == array.data) {
                value = array;
                w.p += array.len;

            } else {
                value = lunary_walk_value(&w);
            }

            if (value.len == 0) {
                break;
            }
        }

        /* one that is not there has no name; a member's may be empty */

        for (i = 0; i < n; i++) {
            if (key.len == but[i].len && key.len != 0
                && memcmp(key.data, but[i].data, key.len) == 0)
            {
                break;
            }
        }

        if (i == n && lunary_string_has(key, '\\')) {

            /* some write a name with escapes: it means the same upstream */

            i = lunary_call_escaped(key, but, n);

            if (i == n) {
                m = lunary_call_escaped(key, lunary_identity,
                                        LUNARY_IDENTITY_N);

                if (m != LUNARY_IDENTITY_N) {
                    key = lunary_identity[m];
                }
            }
        }

        if (i != n) {

            if (vals != NULL) {
                vals[i] = value;
            }

            continue;
        }

        if (lunary_call_is_identity(key)) {

            if (lunary_eq(key, "metadata")) {
                priv->metadata_value = value;
            }

            continue;
        }

        /* tools are most of a request, and never kept without its contents */

        if (!lunary_call_wants_input(call) && value.len > 1
            && value.data[0] == '[' && value.data[1] == '{')
        {
            continue;
        }

        len = b->len;

        if (lunary_buf_reserve(mem, b, key.len + value.len + 5) != LUNARY_OK)
        {
            break;
        }

        b->data[b->len++] = (len == 0) ? '{' : ',';
        b->data[b->len++] = '"';

        memcpy(b->data + b->len, key.data, key.len);
        b->len += key.len;

        b->data[b->len++] = '"';
        b->data[b->len++] = ':';

        if (lunary_secret_copy(mem, b, key, value) != LUNARY_OK) {
            b->len = len;
            break;
        }
    }

    if (b->len != 0 && lunary_buf_lit(mem, b, "}") != LUNARY_OK) {
        b->len = 0;
    }
}


void
lunary_call_metadata(lunary_call_t *call, lunary_str_t obj)
{
    size_t               len;
    lunary_str_t         key, value;
    lunary_buf_t        *b;
    lunary_mem_t        *mem;
    lunary_json_iter_t   it;

    b = &lunary_priv(call)->metadata;
    mem = call->mem;

    b->len = 0;

    if (!lunary_json_is_object(obj)) {
        return;
    }

    lunary_json_iter(&it, obj);

    while (lunary_json_member(&it, &key, &value)) {

        if (lunary_call_is_identity(key)) {
            continue;
        }

        len = b->len;

        if ((len == 0 ? lunary_buf_lit(mem, b, "{\"")
                      : lunary_buf_lit(mem, b, ",\"")) != LUNARY_OK
            || lunary_buf_append(mem, b, key.data, key.len) != LUNARY_OK
            || lunary_buf_lit(mem, b, "\":") != LUNARY_OK
            || lunary_buf_append(mem, b, value.data, value.len) != LUNARY_OK)
        {
            b->len = len;
            break;
        }
    }

    if (b->len != 0 && lunary_buf_lit(mem, b, "}") != LUNARY_OK) {
        b->len = 0;
    }
}


lunary_str_t
lunary_call_path(lunary_call_t *call, const char *name, const char *stops)
{
    size_t                len;
    lunary_str_t          path, found;
    const unsigned char  *p, *end;

    path = lunary_priv(call)->path;
    found = lunary_str(NULL, 0);
    len = strlen(name);

    if (path.len < len) {
        return found;
    }

    end = path.data + path.len;

    for (p = path.data; (size_t) (end - p) >= len; p++) {
        if (memcmp(p, name, len) == 0) {
            found = lunary_str(p + len, (size_t) (end - p) - len);
        }
    }

    for (p = found.data; p != NULL && p < end; p++) {
        if (strchr(stops, *p) != NULL && *p != '\0') {
            found.len = (size_t) (p - found.data);
            break;
        }
    }

    return found;
}


int
lunary_call_path_tail(lunary_call_t *call, const char *s, size_t len)
{
    lunary_str_t  path;

    path = lunary_priv(call)->path;

    return path.len >= len
           && memcmp(path.data + path.len - len, s, len) == 0;
}


lunary_str_t
lunary_call_path_verb(lunary_call_t *call)
{
    size_t        i;
    lunary_str_t  s;

    s = lunary_call_path(call, "/models/", "");

    for (i = s.len; i != 0; i--) {
        if (s.data[i - 1] == ':') {
            return lunary_str(s.data, i - 1);
        }
    }

    return lunary_str(NULL, 0);
}
