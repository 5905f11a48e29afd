/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * `lunary_user verified:VALUE` is refused on text that the client wrote: by
 * the name of the variable, and, since a variable of yours may carry such
 * text, by what the configuration says of it: `set`, `auth_request_set`,
 * `map`, and the named captures of regular expressions (in locations, server
 * names, `if`, `rewrite`) are looked up in the configuration's own text.
 *
 * A map from a secret that the client sends to a name of yours is no such
 * case: what it gives is your text.  What other modules put into variables
 * (js_set, perl_set, Lua) cannot be seen here.
 */

#include "ngx_http_lunary_module.h"


#define NGX_HTTP_LUNARY_VERIFIED_DEPTH  16
#define NGX_HTTP_LUNARY_VERIFIED_FILES  4096
#define NGX_HTTP_LUNARY_VERIFIED_SIZE   (4 * 1024 * 1024)
#define NGX_HTTP_LUNARY_VERIFIED_WORDS  4


typedef struct {
    u_char       *p;
    u_char       *last;
} ngx_http_lunary_text_t;


typedef struct {
    ngx_conf_t   *cf;
    ngx_str_t     name;                        /* of the variable            */
    ngx_uint_t    depth;
    ngx_uint_t   *files;                       /* read so far                */
} ngx_http_lunary_trace_t;


static ngx_uint_t ngx_http_lunary_client_text(ngx_http_lunary_trace_t *trace,
    ngx_str_t *value, ngx_str_t *key);
static ngx_uint_t ngx_http_lunary_client_name(ngx_str_t *name);
static ngx_uint_t ngx_http_lunary_next_name(ngx_str_t *value,
    ngx_str_t *name);
static ngx_uint_t ngx_http_lunary_laundered(ngx_http_lunary_trace_t *from,
    ngx_str_t *name);
static ngx_uint_t ngx_http_lunary_trace_file(ngx_http_lunary_trace_t *trace,
    ngx_str_t *file, ngx_uint_t inside);
static ngx_uint_t ngx_http_lunary_trace_include(
    ngx_http_lunary_trace_t *trace, ngx_str_t *pattern, ngx_uint_t inside);
static ngx_uint_t ngx_http_lunary_trace_text(ngx_http_lunary_trace_t *trace,
    ngx_http_lunary_text_t *text, ngx_uint_t inside);
static u_char ngx_http_lunary_trace_word(ngx_http_lunary_text_t *text,
    ngx_str_t *word);
static ngx_uint_t ngx_http_lunary_captured(ngx_str_t *word, ngx_str_t *name);
static ngx_uint_t ngx_http_lunary_is_word(ngx_str_t *word, const char *text);


/* a name, or with an underscore at its end how names begin */

static ngx_str_t  ngx_http_lunary_client_names[] = {
    ngx_string("http_"),
    ngx_string("arg_"),
    ngx_string("cookie_"),
    ngx_string("lunary_"),
    ngx_string("args"),
    ngx_string("query_string"),
    ngx_string("request_body"),
    ngx_string("request_uri"),
    ngx_string("request_filename"),
    ngx_string("request_method"),
    ngx_string("uri"),
    ngx_string("document_uri"),
    ngx_string("request"),
    ngx_string("host"),
    ngx_string("content_type"),
    ngx_string("content_length"),
    ngx_string("proxy_add_x_forwarded_for"),
    ngx_string("ssl_server_name"),
    ngx_string("ssl_ciphers"),
    ngx_string("ssl_curves"),
    ngx_string("uid_"),
    ngx_string("fastcgi_"),
    ngx_string("slice_range"),
    ngx_string("secure_link_expires"),
    ngx_string("request_port"),
    ngx_string("request_length"),
    ngx_null_string
};


char *
ngx_http_lunary_conf_verified(ngx_conf_t *cf, ngx_str_t *value)
{
    ngx_uint_t               files;
    ngx_http_lunary_trace_t  trace;

    ngx_memzero(&trace, sizeof(ngx_http_lunary_trace_t));

    files = 0;

    trace.cf = cf;
    trace.files = &files;

    if (ngx_http_lunary_client_text(&trace, value, NULL)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"verified:%V\" would trust text that the "
                           "client wrote: leave \"verified:\" out, or "
                           "use lunary_trusted_from for headers of "
                           "a trusted proxy", value);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


/* 1 where a value's variables hold what the client wrote; key: a map's */

static ngx_uint_t
ngx_http_lunary_client_text(ngx_http_lunary_trace_t *trace, ngx_str_t *value,
    ngx_str_t *key)
{
    size_t     i;
    ngx_str_t  rest, name;

    rest = *value;

    while (ngx_http_lunary_next_name(&rest, &name)) {

        if (ngx_http_lunary_client_name(&name)) {
            return 1;
        }

        /* what a regular expression found: in a URI, a header, a map's source;
         * key is empty where nothing of the client's is searched */

        if (name.data[0] >= '0' && name.data[0] <= '9') {
            if (key == NULL || key->len) {
                return 1;
            }

            continue;
        }

        for (i = 0; key && i + name.len + 2 <= key->len; i++) {
            if (key->data[i] == '<' && key->data[i + 1 + name.len] == '>'
                && ngx_memcmp(key->data + i + 1, name.data, name.len) == 0)
            {
                return 1;
            }
        }

        if (name.len == trace->name.len
            && ngx_strncasecmp(name.data, trace->name.data, name.len) == 0)
        {
            continue;
        }

        if (ngx_http_lunary_laundered(trace, &name)) {
            return 1;
        }
    }

    return 0;
}


static ngx_uint_t
ngx_http_lunary_client_name(ngx_str_t *name)
{
    ngx_str_t  *n;

    for (n = ngx_http_lunary_client_names; n->len; n++) {

        if (n->data[n->len - 1] == '_' ? name->len >= n->len
                                       : name->len == n->len)
        {
            if (ngx_strncasecmp(name->data, n->data, n->len) == 0) {
                return 1;
            }
        }
    }

    return 0;
}


/* the next variable of a value, which is moved behind it */

static ngx_uint_t
ngx_http_lunary_next_name(ngx_str_t *value, ngx_str_t *name)
{
    u_char  *p, *last;

    p = value->data;
    last = p + value->len;

    while (p < last) {

        if (*p++ != '$') {
            continue;
        }

        if (p < last && *p == '{') {
            p++;
        }

        name->data = p;

        while (p < last
               && ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z')
                   || (*p >= '0' && *p <= '9') || *p == '_'))
        {
            p++;
        }

        name->len = p - name->data;

        if (name->len) {
            value->data = p;
            value->len = last - p;
            return 1;
        }
    }

    return 0;
}


static ngx_uint_t
ngx_http_lunary_laundered(ngx_http_lunary_trace_t *from, ngx_str_t *name)
{
    ngx_str_t                file;
    ngx_http_lunary_trace_t  trace;

    /* what leads further than anybody could follow is not believed */

    if (from->depth == NGX_HTTP_LUNARY_VERIFIED_DEPTH) {
        return 1;
    }

    trace = *from;

    trace.name = *name;
    trace.depth++;

    file = trace.cf->cycle->conf_file;

    return ngx_http_lunary_trace_file(&trace, &file, 0);
}


/* inside: it is included in a map's block, of which only entries matter */

static ngx_uint_t
ngx_http_lunary_trace_file(ngx_http_lunary_trace_t *trace, ngx_str_t *file,
    ngx_uint_t inside)
{
    u_char                  *buf;
    size_t                   size;
    ssize_t                  n;
    ngx_fd_t                 fd;
    ngx_uint_t               rc;
    ngx_file_info_t          fi;
    ngx_http_lunary_text_t   text;

    if ((*trace->files)++ >= NGX_HTTP_LUNARY_VERIFIED_FILES) {
        return 1;
    }

    fd = ngx_open_file(file->data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        return 0;
    }

    rc = 0;
    buf = NULL;

    if (ngx_fd_info(fd, &fi) == NGX_FILE_ERROR) {
        goto done;
    }

    size = (size_t) ngx_min(ngx_file_size(&fi), NGX_HTTP_LUNARY_VERIFIED_SIZE);

    buf = ngx_alloc(size + 1, trace->cf->log);

    if (buf == NULL) {
        goto done;
    }

    n = ngx_read_fd(fd, buf, size);

    if (n > 0) {
        text.p = buf;
        text.last = buf + n;

        rc = ngx_http_lunary_trace_text(trace, &text, inside);
    }

done:

    if (buf) {
        ngx_free(buf);
    }

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_ALERT, trace->cf, ngx_errno,
                           ngx_close_file_n " \"%V\" failed", file);
    }

    return rc;
}


static ngx_uint_t
ngx_http_lunary_trace_include(ngx_http_lunary_trace_t *trace,
    ngx_str_t *pattern, ngx_uint_t inside)
{
    ngx_int_t    n;
    ngx_str_t    file, name;
    ngx_glob_t   gl;
    ngx_uint_t   rc;

    file.len = pattern->len;
    file.data = ngx_pnalloc(trace->cf->temp_pool, file.len + 1);

    if (file.data == NULL) {
        return 0;
    }

    ngx_memcpy(file.data, pattern->data, file.len);
    file.data[file.len] = '\0';

    if (ngx_conf_full_name(trace->cf->cycle, &file, 1) != NGX_OK) {
        return 0;
    }

    ngx_memzero(&gl, sizeof(ngx_glob_t));

    gl.pattern = file.data;
    gl.log = trace->cf->log;
    gl.test = 1;

    if (ngx_open_glob(&gl) != NGX_OK) {
        return 0;
    }

    rc = 0;

    do {
        n = ngx_read_glob(&gl, &name);

        if (n != NGX_OK) {
            break;
        }

        rc = ngx_http_lunary_trace_file(trace, &name, inside);

    } while (rc == 0);

    ngx_close_glob(&gl);

    return rc;
}


/* statement by statement: set and maps of the variable, includes */

static ngx_uint_t
ngx_http_lunary_trace_text(ngx_http_lunary_trace_t *trace,
    ngx_http_lunary_text_t *text, ngx_uint_t inside)
{
    u_char      end;
    ngx_str_t   word, none, target, map, w[NGX_HTTP_LUNARY_VERIFIED_WORDS];
    ngx_uint_t  n, client;

    n = 0;
    client = inside;

    ngx_str_null(&none);
    ngx_str_null(&map);

    for ( ;; ) {

        end = ngx_http_lunary_trace_word(text, &word);

        if (end == 'w') {

            /* a capture: of a map's source, else of what the client sent */

            if (ngx_http_lunary_captured(&word, &trace->name)
                && (map.len ? ngx_http_lunary_client_text(trace, &map, NULL)
                            : inside != 1))
            {
                return 1;
            }

            if (n < NGX_HTTP_LUNARY_VERIFIED_WORDS) {
                w[n] = word;
            }

            n++;
            continue;
        }

        if (end == '\0') {
            return 0;
        }

        target = (n == 3) ? w[ngx_http_lunary_is_word(&w[0], "map") ? 2 : 1]
                          : none;

        if (target.len != trace->name.len + 1 || target.data[0] != '$'
            || ngx_strncasecmp(target.data + 1, trace->name.data,
                               trace->name.len)
               != 0)
        {
            target.len = 0;
        }

        if (end == '{') {

            /* 1: a map of it; 2: of what the client wrote */

            inside = 0;

            if (n == 3 && ngx_http_lunary_is_word(&w[0], "map")) {
                map = w[1];
            }

            if (target.len && ngx_http_lunary_is_word(&w[0], "map")) {
                inside = 1;
                client = inside + ngx_http_lunary_client_text(trace, &w[1],
                                                              NULL);
            }

        } else if (end == '}') {
            inside = 0;
            ngx_str_null(&map);

        } else if (n == 2 && ngx_http_lunary_is_word(&w[0], "include")) {

            if (ngx_http_lunary_trace_include(trace, &w[1],
                                              inside ? client : 0))
            {
                return 1;
            }

        } else if (inside) {

            if (n == 2
                && ngx_http_lunary_client_text(trace, &w[1],
                                               client == 2 ? &w[0] : &none))
            {
                return 1;
            }

        } else if (target.len
                   && (ngx_http_lunary_is_word(&w[0], "set")
                       || ngx_http_lunary_is_word(&w[0], "auth_request_set")
                       || ngx_strncmp(w[0].data, "set_", 4) == 0)
                   && ngx_http_lunary_client_text(trace, &w[2], NULL))
        {
            return 1;
        }

        n = 0;
    }
}


/* 'w' and the word, or '{', '}', ';', or '\0' at the end */

static u_char
ngx_http_lunary_trace_word(ngx_http_lunary_text_t *text, ngx_str_t *word)
{
    u_char  *p, *last, quote;

    p = text->p;
    last = text->last;

    for ( /* void */ ; p < last; p++) {

        if (*p == '#') {
            while (p < last && *p != LF) {
                p++;
            }

            if (p == last) {
                break;
            }
        }

        if (*p != ' ' && *p != '\t' && *p != CR && *p != LF) {
            break;
        }
    }

    if (p >= last) {
        text->p = last;
        return '\0';
    }

    if (*p == '{' || *p == '}' || *p == ';') {
        text->p = p + 1;
        return *p;
    }

    quote = (*p == '"' || *p == '\'') ? *p++ : '\0';

    word->data = p;

    while (p < last) {

        if (*p == '\\' && p + 1 < last) {
            p += 2;
            continue;
        }

        if (quote) {
            if (*p == quote) {
                break;
            }

        } else if (*p == '$' && p + 1 < last && p[1] == '{') {

            while (p < last && *p != '}') {
                p++;
            }

            continue;

        } else if (*p == ' ' || *p == '\t' || *p == CR || *p == LF
                   || *p == ';' || *p == '{')
        {
            break;
        }

        p++;
    }

    p = ngx_min(p, last);

    word->len = p - word->data;

    text->p = (quote && p < last) ? p + 1 : p;

    return 'w';
}


/* 1 where a regular expression puts what it finds into the variable:
 * (?<name>...), (?P<name>...), (?'name'...) */

static ngx_uint_t
ngx_http_lunary_captured(ngx_str_t *word, ngx_str_t *name)
{
    u_char  *p, *last;

    if (name->len == 0) {
        return 0;
    }

    last = word->data + word->len;

    for (p = word->data; last - p > (ssize_t) name->len + 2; p++) {

        if (p[0] == '?'
            && (p[1] == '<' || p[1] == '\'' || p[1] == 'P'))
        {
            p += (p[1] == 'P') ? 3 : 2;

            if (last - p > (ssize_t) name->len
                && (p[name->len] == '>' || p[name->len] == '\'')
                && ngx_strncasecmp(p, name->data, name->len) == 0)
            {
                return 1;
            }
        }
    }

    return 0;
}


static ngx_uint_t
ngx_http_lunary_is_word(ngx_str_t *word, const char *text)
{
    return word->len == ngx_strlen(text)
           && ngx_strncmp(word->data, text, word->len) == 0;
}
