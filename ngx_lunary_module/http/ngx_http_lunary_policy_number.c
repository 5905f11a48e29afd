/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * How much a call may take: read out of its body before it is let in.
 */

#include "ngx_http_lunary_module.h"
#include "inspect/lunary_json.h"


#define NGX_HTTP_LUNARY_OUTPUT       1024
#define NGX_HTTP_LUNARY_RESERVE_MAX  100000000


static int64_t ngx_http_lunary_policy_number(lunary_str_t text,
    const lunary_str_t *paths);
static int64_t ngx_http_lunary_policy_value(lunary_str_t value);
static lunary_str_t ngx_http_lunary_policy_holder(lunary_str_t path,
    lunary_str_t *name);
static ngx_uint_t ngx_http_lunary_policy_name(lunary_str_t key,
    lunary_str_t name);


/* where requests say how much may be answered, and how often */

static const lunary_str_t  ngx_http_lunary_output_paths[] = {
    lunary_string("max_tokens"),
    lunary_string("max_completion_tokens"),
    lunary_string("max_output_tokens"),
    lunary_string("max_new_tokens"),
    lunary_string("max_tokens_to_sample"),
    lunary_string("max_gen_len"),
    lunary_string("maxTokens"),
    lunary_string("generationConfig.maxOutputTokens"),
    lunary_string("generation_config.max_output_tokens"),
    lunary_string("inferenceConfig.maxTokens"),
    lunary_string("textGenerationConfig.maxTokenCount"),
    lunary_string("parameters.max_new_tokens"),
    lunary_string("options.num_predict"),
    lunary_null_str
};

static const lunary_str_t  ngx_http_lunary_choices_paths[] = {
    lunary_string("n"),
    lunary_string("best_of"),
    lunary_string("num_generations"),
    lunary_string("generationConfig.candidateCount"),
    lunary_null_str
};


/* tokens that the call may take: four bytes of its body each, and what it
 * asks for; 0 where it can take none */

int64_t
ngx_http_lunary_policy_want(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx)
{
    int64_t        want, out, n;
    lunary_str_t   text;

    if (r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD|NGX_HTTP_OPTIONS)
        && ctx->request_bytes == 0 && r->headers_in.upgrade == NULL)
    {
        return 0;
    }

    want = 0;
    out = LUNARY_UNKNOWN;
    n = 1;

    if (ctx->call->request_state == LUNARY_BODY_JSON) {

        want = (int64_t) (ngx_max((uint64_t) ctx->request_bytes,
                                  lunary_call_body_size(ctx->call)) + 3) / 4;

        text = lunary_call_body_text(ctx->call);

        out = ngx_http_lunary_policy_number(text,
                                            ngx_http_lunary_output_paths);
        n = ngx_http_lunary_policy_number(text,
                                          ngx_http_lunary_choices_paths);
        n = ngx_max(n, 1);
    }

    if (out < 0) {
        out = lunary_eq(ctx->call->dialect->type, "embed")
              ? 0 : NGX_HTTP_LUNARY_OUTPUT;
    }

    out = ngx_min(out, NGX_HTTP_LUNARY_RESERVE_MAX);
    n = ngx_min(n, NGX_HTTP_LUNARY_RESERVE_MAX);
    want = ngx_min(want + out * n, NGX_HTTP_LUNARY_RESERVE_MAX);

    return ngx_max(want, 1);
}


/*
 * The largest of the numbers under the paths.  Upstreams differ in which of
 * two members they take, in whether case matters (not to Go), and in what is
 * a number (a string of digits, to some): each of them counts.
 */

static int64_t
ngx_http_lunary_policy_number(lunary_str_t text, const lunary_str_t *paths)
{
    int64_t               n, most;
    lunary_str_t          key, value, inner, holder, name;
    const lunary_str_t   *path;
    lunary_json_iter_t    it, in;

    most = LUNARY_UNKNOWN;

    lunary_json_iter(&it, text);

    while (lunary_json_member(&it, &key, &value)) {

        for (path = paths; path->len; path++) {

            holder = ngx_http_lunary_policy_holder(*path, &name);

            if (holder.len == 0) {

                if (ngx_http_lunary_policy_name(key, name)) {
                    n = ngx_http_lunary_policy_value(value);
                    most = ngx_max(most, n);
                }

                continue;
            }

            if (!ngx_http_lunary_policy_name(key, holder)) {
                continue;
            }

            lunary_json_iter(&in, value);

            while (lunary_json_member(&in, &key, &inner)) {

                if (ngx_http_lunary_policy_name(key, name)) {
                    n = ngx_http_lunary_policy_value(inner);
                    most = ngx_max(most, n);
                }
            }

            break;
        }
    }

    return most;
}


/* "a.b": the member a in which b stands; "b": none */

static lunary_str_t
ngx_http_lunary_policy_holder(lunary_str_t path, lunary_str_t *name)
{
    const unsigned char  *dot;

    dot = memchr(path.data, '.', path.len);

    if (dot == NULL) {
        *name = path;
        return lunary_str(NULL, 0);
    }

    *name = lunary_str(dot + 1, path.data + path.len - dot - 1);

    return lunary_str(path.data, dot - path.data);
}


/* a name with an escape in it is compared by what it stands for */

static ngx_uint_t
ngx_http_lunary_policy_name(lunary_str_t key, lunary_str_t name)
{
    u_char   c, text[64];
    size_t   i, n;

    if (key.len == name.len) {
        return ngx_strncasecmp((u_char *) key.data, (u_char *) name.data,
                               name.len)
               == 0;
    }

    if (key.len < name.len || key.len > 6 * name.len
        || name.len > sizeof(text))
    {
        return 0;
    }

    for (i = 0, n = 0; i < key.len && n < name.len; n++) {

        c = key.data[i++];

        if (c == '\\') {

            if (key.len - i < 5 || key.data[i] != 'u'
                || key.data[i + 1] != '0' || key.data[i + 2] != '0')
            {
                return 0;
            }

            c = (u_char) ngx_hextoi((u_char *) key.data + i + 3, 2);
            i += 5;
        }

        text[n] = c;
    }

    return i == key.len && n == name.len
           && ngx_strncasecmp(text, (u_char *) name.data, n) == 0;
}


static int64_t
ngx_http_lunary_policy_value(lunary_str_t value)
{
    char      text[64];
    double    d;
    int64_t   n;

    if (lunary_json_is_string(value)) {
        value = lunary_json_inside(value);

        while (value.len && *value.data == ' ') {
            value.data++;
            value.len--;
        }

        while (value.len && value.data[value.len - 1] == ' ') {
            value.len--;
        }

        return lunary_json_int(value, &n) ? n : LUNARY_UNKNOWN;
    }

    if (lunary_json_type(value) != LUNARY_JSON_NUMBER) {
        return LUNARY_UNKNOWN;
    }

    if (lunary_json_int(value, &n)) {
        return n;
    }

    /* with a fraction, or too large */

    if (value.len >= sizeof(text)) {
        return NGX_HTTP_LUNARY_RESERVE_MAX;
    }

    ngx_memcpy(text, value.data, value.len);
    text[value.len] = '\0';

    d = strtod(text, NULL);

    return d >= NGX_HTTP_LUNARY_RESERVE_MAX ? NGX_HTTP_LUNARY_RESERVE_MAX
           : d > 0 ? (int64_t) d + 1 : LUNARY_UNKNOWN;
}
