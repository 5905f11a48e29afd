/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What a session holds: the user and the props, out of a hash, JSON or a
 * plain string, as session libraries write them.
 *
 * Invariants
 *   - a value that cannot be read is no session, and says so in the log
 *     without quoting it;
 *   - plain values beside the id become props only where their names do not
 *     say that they are secrets;
 *   - what is found is copied: the reply it came in is freed.
 */

#include "ngx_http_lunary_module.h"
#include "ngx_http_lunary_json.h"
#include "inspect/lunary_json.h"


#define NGX_HTTP_LUNARY_SESSION_MAX  (1024 * 1024)


static void ngx_http_lunary_session_string(ngx_http_lunary_found_t *found,
    ngx_str_t *value);
static void ngx_http_lunary_session_json(ngx_http_lunary_found_t *found,
    ngx_str_t *json);
static void ngx_http_lunary_session_hash(ngx_http_lunary_found_t *found,
    redisReply *reply);
static lunary_str_t ngx_http_lunary_json_path(lunary_str_t json,
    ngx_str_t *path, lunary_str_t *holder);
static ngx_int_t ngx_http_lunary_beside_props(ngx_http_lunary_found_t *found,
    lunary_str_t object, ngx_uint_t nested);
static ngx_uint_t ngx_http_lunary_secret_name(lunary_str_t key);


static ngx_str_t  ngx_http_lunary_user_paths[] = {
    ngx_string("user_id"),
    ngx_string("userId"),
    ngx_string("user.id"),
    ngx_string("passport.user.id"),
    ngx_string("passport.user"),
    ngx_string("user"),
    ngx_string("sub"),
    ngx_null_string
};


static ngx_str_t  ngx_http_lunary_props_paths[] = {
    ngx_string("user_props"),
    ngx_string("userProps"),
    ngx_null_string
};


/* when a line that may repeat was last written */

static time_t  ngx_http_lunary_session_value_said;


void
ngx_http_lunary_session_value(ngx_http_lunary_found_t *found,
    redisReply *reply)
{
    ngx_str_t  value;

    switch (reply->type) {

    case REDIS_REPLY_ERROR:

        /* of the two commands of format=auto one has the wrong type */

        if (reply->len < 9 || ngx_strncmp(reply->str, "WRONGTYPE", 9) != 0) {

            found->failed = 1;

            ngx_http_lunary_redis_refused(found->log,
                                          &ngx_http_lunary_session_value_said,
                                          reply, "the session look-up");

        } else if (found->conf->format != NGX_HTTP_LUNARY_FORMAT_AUTO) {

            if (ngx_http_lunary_seldom(&ngx_http_lunary_session_value_said)) {
                ngx_log_error(NGX_LOG_WARN, found->log, 0,
                              "lunary: the session key holds another type than "
                              "lunary_session's format= says, "
                              "it is taken as no session");
            }
        }

        break;

    case REDIS_REPLY_STRING:

        found->exists = 1;

        value.data = (u_char *) reply->str;
        value.len = reply->len;

        ngx_http_lunary_session_string(found, &value);
        break;

    case REDIS_REPLY_ARRAY:
#ifdef REDIS_REPLY_MAP
    case REDIS_REPLY_MAP:
#endif

        if (reply->elements) {
            found->exists = 1;
            ngx_http_lunary_session_hash(found, reply);
        }

        break;

    default:
        break;
    }
}


static void
ngx_http_lunary_session_string(ngx_http_lunary_found_t *found,
    ngx_str_t *value)
{
    ngx_str_t   json;
    ngx_uint_t  format;

    format = found->conf->format;

    if (value->len > NGX_HTTP_LUNARY_SESSION_MAX) {
        if (ngx_http_lunary_seldom(&ngx_http_lunary_session_value_said)) {
            ngx_log_error(NGX_LOG_WARN, found->log, 0,
                          "lunary: a session of %uz bytes is not read",
                          value->len);
        }
        return;
    }

    json = *value;

    if (format != NGX_HTTP_LUNARY_FORMAT_STRING) {

        if (ngx_http_lunary_json_object(&json) == NGX_OK) {
            ngx_http_lunary_session_json(found, &json);
            return;
        }

        if (format == NGX_HTTP_LUNARY_FORMAT_JSON
            || (value->len && value->data[0] == '{'))
        {
            if (ngx_http_lunary_seldom(&ngx_http_lunary_session_value_said)) {
                ngx_log_error(NGX_LOG_WARN, found->log, 0,
                              "lunary: a session is not a JSON object, "
                              "it is taken as no session");
            }
            return;
        }
    }

    if (!lunary_user_id_valid(lunary_ngx_str(*value))) {
        return;
    }

    found->user.data = ngx_pstrdup(found->pool, value);

    if (found->user.data == NULL) {
        found->failed = 1;
        return;
    }

    found->user.len = value->len;
}


static void
ngx_http_lunary_session_json(ngx_http_lunary_found_t *found, ngx_str_t *json)
{
    ngx_int_t                        rc;
    ngx_str_t                       *path, one[2];
    lunary_str_t                     text, value, holder, props;
    ngx_http_lunary_session_conf_t  *sc;

    sc = found->conf;

    /* the reply is freed when we return: what is kept is copied */

    text.data = ngx_pstrdup(found->pool, json);
    if (text.data == NULL) {
        found->failed = 1;
        return;
    }

    text.len = json->len;

    path = ngx_http_lunary_user_paths;

    if (sc->user.len) {
        one[0] = sc->user;
        ngx_str_null(&one[1]);
        path = one;
    }

    holder = text;

    for ( /* void */ ; path->len; path++) {

        value = ngx_http_lunary_json_path(text, path, &holder);

        if (value.len == 0) {
            continue;
        }

        rc = ngx_http_lunary_json_user(found->pool, &found->mem, value, 1,
                                       &found->user);

        if (rc == NGX_OK) {
            break;
        }

        if (rc == NGX_ERROR) {
            found->failed = 1;
            return;
        }
    }

    if (found->user.len == 0) {
        return;
    }

    if (sc->props.len) {
        one[0] = sc->props;
        ngx_str_null(&one[1]);
        path = one;

    } else {
        path = ngx_http_lunary_props_paths;
    }

    for ( /* void */ ; path->len; path++) {

        props = ngx_http_lunary_json_path(text, path, NULL);

        if (lunary_json_is_object(props)) {
            found->props = ngx_http_lunary_str(props);
            return;
        }
    }

    if (sc->props.len) {
        return;
    }

    (void) ngx_http_lunary_beside_props(found, holder,
                                      holder.data != text.data);
}


/* a member named like the whole path, else step by step; array indexes too */

static lunary_str_t
ngx_http_lunary_json_path(lunary_str_t json, ngx_str_t *path,
    lunary_str_t *holder)
{
    u_char        *p, *last, *start;
    ngx_int_t      n;
    lunary_str_t   value;

    if (holder) {
        *holder = json;
    }

    value = lunary_json_get_n(json, (const char *) path->data, path->len);

    if (value.len) {
        return value;
    }

    value = json;
    p = path->data;
    last = p + path->len;

    for ( ;; ) {

        start = p;

        while (p < last && *p != '.') {
            p++;
        }

        if (holder) {
            *holder = value;
        }

        if (lunary_json_is_array(value)) {
            n = ngx_atoi(start, p - start);

            if (n == NGX_ERROR) {
                return lunary_str(NULL, 0);
            }

            value = lunary_json_at(value, (size_t) n);

        } else {
            value = lunary_json_get_n(value, (const char *) start, p - start);
        }

        if (value.len == 0 || p == last) {
            return value;
        }

        p++;
    }
}


/*
 * What stands beside the id is its user's props, but for what its name says
 * is a secret.  At the top of a session stand other things than the user too:
 * there only plain values count.
 */

static ngx_int_t
ngx_http_lunary_beside_props(ngx_http_lunary_found_t *found,
    lunary_str_t object, ngx_uint_t nested)
{
    int                  rc;
    ngx_int_t            result;
    lunary_buf_t         out;
    lunary_str_t         key, value;
    lunary_json_iter_t   it;
    lunary_json_type_t   type;

    ngx_memzero(&out, sizeof(lunary_buf_t));
    rc = 0;

    lunary_json_iter(&it, object);

    while (rc == 0 && lunary_json_member(&it, &key, &value)) {

        type = lunary_json_type(value);

        if (ngx_http_lunary_secret_name(key)) {
            continue;
        }

        if (!nested
            && (type == LUNARY_JSON_OBJECT || type == LUNARY_JSON_ARRAY
                || type == LUNARY_JSON_NULL || value.len > 1024))
        {
            continue;
        }

        rc = lunary_buf_append(&found->mem, &out, out.len ? ",\"" : "{\"", 2)
          || lunary_buf_append(&found->mem, &out, key.data, key.len)
          || lunary_buf_lit(&found->mem, &out, "\":")
          || lunary_buf_append(&found->mem, &out, value.data, value.len);
    }

    result = NGX_DECLINED;

    if (rc == 0 && out.len
        && lunary_buf_lit(&found->mem, &out, "}") == LUNARY_OK)
    {
        found->props.data = ngx_pnalloc(found->pool, out.len);

        if (found->props.data) {
            ngx_memcpy(found->props.data, out.data, out.len);
            found->props.len = out.len;
            result = NGX_OK;
        }
    }

    lunary_buf_free(&found->mem, &out);

    return result;
}


static ngx_uint_t
ngx_http_lunary_secret_name(lunary_str_t key)
{
    ngx_uint_t      i;
    static u_char  *words[] = {
        (u_char *) "pass", (u_char *) "secret", (u_char *) "token",
        (u_char *) "csrf", (u_char *) "cookie", (u_char *) "hash",
        (u_char *) "key", (u_char *) "auth", (u_char *) "_permanent",
        (u_char *) "_fresh", NULL
    };

    for (i = 0; words[i]; i++) {
        if (key.len >= ngx_strlen(words[i])
            && ngx_strlcasestrn((u_char *) key.data,
                                (u_char *) key.data + key.len, words[i],
                                ngx_strlen(words[i]) - 1))
        {
            return 1;
        }
    }

    return 0;
}


/*
 * A hash becomes a JSON object: what is JSON in a field is taken as that, so
 * that paths lead into it, all else is a string.
 */

static void
ngx_http_lunary_session_hash(ngx_http_lunary_found_t *found,
    redisReply *reply)
{
    int            rc;
    size_t         i;
    ngx_str_t      json;
    redisReply    *field, *value;
    lunary_buf_t   out;

    ngx_memzero(&out, sizeof(lunary_buf_t));

    rc = lunary_buf_lit(&found->mem, &out, "{");

    for (i = 0; rc == 0 && i + 1 < reply->elements; i += 2) {

        field = reply->element[i];
        value = reply->element[i + 1];

        if (field->type != REDIS_REPLY_STRING
            || value->type != REDIS_REPLY_STRING
            || out.len + field->len + value->len > NGX_HTTP_LUNARY_SESSION_MAX)
        {
            continue;
        }

        rc = lunary_buf_append(&found->mem, &out, out.len > 1 ? ",\"" : "\"",
                               out.len > 1 ? 2 : 1)
          || lunary_json_escape(&found->mem, &out,
                                lunary_str(field->str, field->len))
          || lunary_buf_lit(&found->mem, &out, "\":");

        if (rc) {
            break;
        }

        json.data = (u_char *) value->str;
        json.len = value->len;

        /* objects, arrays and strings; a bare word or number is text */

        if (json.len > 1
            && (json.data[0] == '{' || json.data[0] == '['
                || json.data[0] == '"')
            && lunary_json_valid(lunary_ngx_str(json),
                                 NGX_HTTP_LUNARY_JSON_DEPTH))
        {
            rc = lunary_buf_append(&found->mem, &out, json.data, json.len);
            continue;
        }

        rc = lunary_buf_lit(&found->mem, &out, "\"")
          || lunary_json_escape(&found->mem, &out,
                                lunary_str(value->str, value->len))
          || lunary_buf_lit(&found->mem, &out, "\"");
    }

    if (rc == 0 && lunary_buf_lit(&found->mem, &out, "}") == LUNARY_OK) {

        json.data = out.data;
        json.len = out.len;

        ngx_http_lunary_session_json(found, &json);

    } else {
        found->failed = 1;
    }

    lunary_buf_free(&found->mem, &out);
}
