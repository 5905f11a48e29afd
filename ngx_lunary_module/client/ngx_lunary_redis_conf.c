/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The directive `lunary_redis [NAME] URL [param=...]`.
 *
 *     redis://[user:password@]host[:port][/db]     plain
 *     rediss://...                                 TLS
 *     unix:/path[?db=N]
 *
 * Invariant: a message never holds a password; conf->url, which messages
 * use, is put together from the parts that may be shown.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "ngx_lunary_redis_internal.h"


#define NGX_LUNARY_REDIS_PORT          6379
#define NGX_LUNARY_REDIS_PASSWORD_MAX  4096


/* what parameters say until the whole line is read */

typedef struct {
    ngx_str_t                 password_file;
    ngx_str_t                 ca;
    ngx_str_t                 cert;
    ngx_str_t                 key;
    ngx_str_t                 verify;
} ngx_lunary_redis_params_t;


static char *ngx_lunary_redis_parse_url(ngx_conf_t *cf,
    ngx_lunary_redis_conf_t *conf, ngx_str_t *url, ngx_uint_t *tls);
static char *ngx_lunary_redis_parse_unix(ngx_conf_t *cf,
    ngx_lunary_redis_conf_t *conf, ngx_str_t *url);
static char *ngx_lunary_redis_parse_userinfo(ngx_conf_t *cf,
    ngx_lunary_redis_conf_t *conf, u_char *p, u_char *last);
static ngx_int_t ngx_lunary_redis_unescape(ngx_conf_t *cf, ngx_str_t *dst,
    u_char *p, u_char *last);
static char *ngx_lunary_redis_parse_param(ngx_conf_t *cf,
    ngx_lunary_redis_conf_t *conf, ngx_lunary_redis_params_t *params,
    ngx_str_t *value);
static char *ngx_lunary_redis_password_file(ngx_conf_t *cf,
    ngx_lunary_redis_conf_t *conf, ngx_str_t *name);
static char *ngx_lunary_redis_ssl(ngx_conf_t *cf,
    ngx_lunary_redis_conf_t *conf, ngx_lunary_redis_params_t *params);


char *
ngx_lunary_redis_parse(ngx_conf_t *cf, ngx_lunary_redis_conf_t *conf)
{
    ngx_str_t                  *value;
    ngx_uint_t                  i, tls;
    ngx_lunary_redis_params_t   params;

    value = cf->args->elts;

    ngx_memzero(&params, sizeof(ngx_lunary_redis_params_t));

    conf->connect_timeout = 1000;
    conf->timeout = 250;
    conf->send_timeout = 5000;
    conf->verify = 1;

    i = 1;

    if (ngx_strnstr(value[1].data, "://", value[1].len) == NULL
        && ngx_strncmp(value[1].data, "unix:", 5) != 0)
    {
        conf->name = value[1];
        i = 2;
    }

    if (i >= cf->args->nelts) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "no URL in \"lunary_redis\": write "
                           "redis://host:port/db, rediss://host:port/db "
                           "or unix:/path?db=0");
        return NGX_CONF_ERROR;
    }

    if (ngx_lunary_redis_parse_url(cf, conf, &value[i++], &tls)
        != NGX_CONF_OK)
    {
        return NGX_CONF_ERROR;
    }

    for ( /* void */ ; i < cf->args->nelts; i++) {
        if (ngx_lunary_redis_parse_param(cf, conf, &params, &value[i])
            != NGX_CONF_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    if (params.password_file.len
        && ngx_lunary_redis_password_file(cf, conf, &params.password_file)
           != NGX_CONF_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (conf->user.len && conf->password.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"lunary_redis\" names the user \"%V\" but no "
                           "password: add it to the URL or "
                           "password_file=PATH", &conf->user);
        return NGX_CONF_ERROR;
    }

    if (tls) {
        return ngx_lunary_redis_ssl(cf, conf, &params);
    }

    if (params.ca.len || params.cert.len || params.key.len
        || params.verify.len)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"ca=\", \"cert=\", \"key=\" and \"verify=\" of "
                           "\"lunary_redis\" need a rediss:// URL");
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_lunary_redis_parse_url(ngx_conf_t *cf, ngx_lunary_redis_conf_t *conf,
    ngx_str_t *url, ngx_uint_t *tls)
{
    u_char     *p, *last, *at, *slash;
    size_t      len;
    ngx_url_t   u;

    p = url->data;
    last = p + url->len;

    *tls = 0;

    if (ngx_strncmp(p, "unix:", 5) == 0) {
        return ngx_lunary_redis_parse_unix(cf, conf, url);
    }

    if (ngx_strncasecmp(p, (u_char *) "redis://", 8) == 0) {
        p += 8;

    } else if (ngx_strncasecmp(p, (u_char *) "rediss://", 9) == 0) {
        p += 9;
        *tls = 1;

    } else {
        at = (u_char *) ngx_strnstr(p, "://", url->len);
        len = at ? (size_t) (at - p) : 0;

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"lunary_redis\" cannot use a \"%*s\" URL: write "
                           "redis://host:port/db, rediss://host:port/db "
                           "or unix:/path?db=0", len, p);
        return NGX_CONF_ERROR;
    }

    /* the last "@": one in a password may have been left unescaped */

    for (at = last; at > p && at[-1] != '@'; at--) { /* void */ }

    if (at > p) {
        if (ngx_lunary_redis_parse_userinfo(cf, conf, p, at - 1)
            != NGX_CONF_OK)
        {
            return NGX_CONF_ERROR;
        }

        p = at;
    }

    slash = ngx_strlchr(p, last, '/');

    if (slash && slash + 1 < last) {
        conf->db = ngx_atoi(slash + 1, last - slash - 1);

        if (conf->db == NGX_ERROR) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid database number \"%*s\" in "
                               "\"lunary_redis\"", last - slash - 1,
                               slash + 1);
            return NGX_CONF_ERROR;
        }
    }

    if (slash) {
        last = slash;
    }

    ngx_memzero(&u, sizeof(ngx_url_t));

    u.url.len = last - p;
    u.url.data = p;
    u.default_port = NGX_LUNARY_REDIS_PORT;

    if (u.url.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "no host in the URL of \"lunary_redis\"");
        return NGX_CONF_ERROR;
    }

    if (ngx_parse_url(cf->pool, &u) != NGX_OK || u.naddrs == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "%s in the URL of \"lunary_redis\" at \"%V\"",
                           u.err ? u.err : "invalid host", &u.url);
        return NGX_CONF_ERROR;
    }

    conf->host = u.host;
    conf->port = u.port;
    conf->addrs = u.addrs;
    conf->naddrs = u.naddrs;

    if (conf->host.len > 2 && conf->host.data[0] == '[') {
        conf->host.data++;
        conf->host.len -= 2;

    } else if (ngx_inet_addr(conf->host.data, conf->host.len)
               == INADDR_NONE)
    {
        conf->named = 1;
    }

    len = sizeof("rediss://[]:65535/") + NGX_INT_T_LEN + u.host.len;

    conf->url.data = ngx_pnalloc(cf->pool, len);
    if (conf->url.data == NULL) {
        return NGX_CONF_ERROR;
    }

    conf->url.len = ngx_snprintf(conf->url.data, len, "%s://%V:%d/%i",
                                 *tls ? "rediss" : "redis", &u.host,
                                 (int) u.port, conf->db)
                    - conf->url.data;

    return NGX_CONF_OK;
}


static char *
ngx_lunary_redis_parse_unix(ngx_conf_t *cf, ngx_lunary_redis_conf_t *conf,
    ngx_str_t *url)
{
    u_char     *query, *last;
    ngx_url_t   u;

    last = url->data + url->len;
    query = ngx_strlchr(url->data, last, '?');

    ngx_memzero(&u, sizeof(ngx_url_t));

    u.url.data = url->data;
    u.url.len = (query ? query : last) - url->data;

    if (query) {
        if (last - query < 4
            || ngx_strncmp(query, "?db=", 4) != 0
            || (conf->db = ngx_atoi(query + 4, last - query - 4))
               == NGX_ERROR)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid \"%*s\" in the URL of "
                               "\"lunary_redis\", only ?db=NUMBER is known",
                               last - query, query);
            return NGX_CONF_ERROR;
        }

        /* the address must end where the path does */

        u.url.data = ngx_pnalloc(cf->pool, u.url.len + 1);
        if (u.url.data == NULL) {
            return NGX_CONF_ERROR;
        }

        (void) ngx_cpystrn(u.url.data, url->data, u.url.len + 1);
    }

    if (ngx_parse_url(cf->pool, &u) != NGX_OK || u.naddrs == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "%s in the URL of \"lunary_redis\" at \"%V\"",
                           u.err ? u.err : "invalid path", &u.url);
        return NGX_CONF_ERROR;
    }

    conf->path = u.url;
    conf->url = *url;
    conf->addrs = u.addrs;
    conf->naddrs = u.naddrs;

    return NGX_CONF_OK;
}


static char *
ngx_lunary_redis_parse_userinfo(ngx_conf_t *cf, ngx_lunary_redis_conf_t *conf,
    u_char *p, u_char *last)
{
    u_char  *colon;

    colon = ngx_strlchr(p, last, ':');

    if (colon == NULL) {
        colon = last;
    }

    if (ngx_lunary_redis_unescape(cf, &conf->user, p, colon) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (colon < last
        && ngx_lunary_redis_unescape(cf, &conf->password, colon + 1, last)
           != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_lunary_redis_unescape(ngx_conf_t *cf, ngx_str_t *dst, u_char *p,
    u_char *last)
{
    u_char  *d;

    d = ngx_pnalloc(cf->pool, last - p + 1);
    if (d == NULL) {
        return NGX_ERROR;
    }

    dst->data = d;

    ngx_unescape_uri(&d, &p, last - p, 0);

    dst->len = d - dst->data;

    return NGX_OK;
}


static char *
ngx_lunary_redis_parse_param(ngx_conf_t *cf, ngx_lunary_redis_conf_t *conf,
    ngx_lunary_redis_params_t *params, ngx_str_t *value)
{
    size_t       n;
    u_char      *eq;
    ngx_int_t    number;
    ngx_str_t    arg;
    ngx_uint_t   i;

    static const struct {
        const char   *name;
        size_t        offset;
    } times[] = {
        { "connect_timeout",
          offsetof(ngx_lunary_redis_conf_t, connect_timeout) },
        { "timeout", offsetof(ngx_lunary_redis_conf_t, timeout) },
        { "send_timeout", offsetof(ngx_lunary_redis_conf_t, send_timeout) }
    }, strings[] = {
        { "password_file",
          offsetof(ngx_lunary_redis_params_t, password_file) },
        { "ca", offsetof(ngx_lunary_redis_params_t, ca) },
        { "cert", offsetof(ngx_lunary_redis_params_t, cert) },
        { "key", offsetof(ngx_lunary_redis_params_t, key) },
        { "verify", offsetof(ngx_lunary_redis_params_t, verify) }
    };

    eq = ngx_strlchr(value->data, value->data + value->len, '=');

    if (eq == NULL || eq + 1 == value->data + value->len) {
        goto invalid;
    }

    n = eq - value->data;
    arg.data = eq + 1;
    arg.len = value->len - n - 1;

    for (i = 0; i < sizeof(times) / sizeof(times[0]); i++) {

        if (n == ngx_strlen(times[i].name)
            && ngx_strncmp(value->data, times[i].name, n) == 0)
        {
            number = ngx_parse_time(&arg, 0);

            if (number == NGX_ERROR || number == 0) {
                goto invalid;
            }

            *(ngx_msec_t *) ((char *) conf + times[i].offset) = number;

            return NGX_CONF_OK;
        }
    }

    for (i = 0; i < sizeof(strings) / sizeof(strings[0]); i++) {

        if (n == ngx_strlen(strings[i].name)
            && ngx_strncmp(value->data, strings[i].name, n) == 0)
        {
            *(ngx_str_t *) ((char *) params + strings[i].offset) = arg;
            return NGX_CONF_OK;
        }
    }

    if (n == 4 && ngx_strncmp(value->data, "wait", 4) == 0) {
        number = ngx_atoi(arg.data, arg.len);

        if (number == NGX_ERROR || number > 1000) {
            goto invalid;
        }

        conf->wait = number;

        return NGX_CONF_OK;
    }

invalid:

    /* what is wrong may be a password on the wrong side of a blank */

    n = strcspn((char *) value->data, "=");

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid parameter \"%*s\" of \"lunary_redis\"",
                       ngx_min(n, 20), value->data);

    return NGX_CONF_ERROR;
}


static char *
ngx_lunary_redis_password_file(ngx_conf_t *cf, ngx_lunary_redis_conf_t *conf,
    ngx_str_t *name)
{
    u_char           *p;
    size_t            len;
    ssize_t           n;
    ngx_fd_t          fd;
    ngx_file_info_t   fi;

    if (conf->password.len) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"lunary_redis\" has a password in its URL and a "
                           "password_file");
        return NGX_CONF_ERROR;
    }

    if (ngx_conf_full_name(cf->cycle, name, 1) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    p = ngx_pnalloc(cf->pool, NGX_LUNARY_REDIS_PASSWORD_MAX);
    if (p == NULL) {
        return NGX_CONF_ERROR;
    }

    fd = ngx_open_file(name->data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_open_file_n " \"%V\" failed", name);
        return NGX_CONF_ERROR;
    }

    if (ngx_fd_info(fd, &fi) == 0 && (fi.st_mode & S_IROTH)) {
        ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                           "password file \"%V\" is readable by everybody: "
                           "chmod o= it", name);
    }

    n = ngx_read_fd(fd, p, NGX_LUNARY_REDIS_PASSWORD_MAX);

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_ALERT, cf, ngx_errno,
                           ngx_close_file_n " \"%V\" failed", name);
    }

    if (n == -1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_read_fd_n " \"%V\" failed", name);
        return NGX_CONF_ERROR;
    }

    for (len = 0; len < (size_t) n && p[len] != LF && p[len] != CR; len++) {
        /* the first line */
    }

    if (len == 0 || len == NGX_LUNARY_REDIS_PASSWORD_MAX) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "no password in the first line of \"%V\"", name);
        return NGX_CONF_ERROR;
    }

    conf->password.data = p;
    conf->password.len = len;

    return NGX_CONF_OK;
}


#if (NGX_SSL)

static char *
ngx_lunary_redis_ssl(ngx_conf_t *cf, ngx_lunary_redis_conf_t *conf,
    ngx_lunary_redis_params_t *params)
{
    ngx_ssl_t           *ssl;
    ngx_pool_cleanup_t  *cln;

    if (params->verify.len) {

        if (params->verify.len == 3
            && ngx_strncmp(params->verify.data, "off", 3) == 0)
        {
            conf->verify = 0;

        } else if (params->verify.len != 2
                   || ngx_strncmp(params->verify.data, "on", 2) != 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"verify=\" of \"lunary_redis\" is "
                               "\"on\" or \"off\", not \"%V\"",
                               &params->verify);
            return NGX_CONF_ERROR;
        }
    }

    if (!params->cert.len != !params->key.len) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"lunary_redis\" needs both or none of \"cert=\" "
                           "and \"key=\"");
        return NGX_CONF_ERROR;
    }

    ssl = ngx_pcalloc(cf->pool, sizeof(ngx_ssl_t));
    if (ssl == NULL) {
        return NGX_CONF_ERROR;
    }

    ssl->log = cf->log;

    if (ngx_ssl_create(ssl, NGX_SSL_TLSv1_2|NGX_SSL_TLSv1_3, NULL)
        != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        ngx_ssl_cleanup_ctx(ssl);
        return NGX_CONF_ERROR;
    }

    cln->handler = ngx_ssl_cleanup_ctx;
    cln->data = ssl;

    if (params->cert.len
        && ngx_ssl_certificate(cf, ssl, &params->cert, &params->key, NULL)
           != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (conf->verify) {

        /* the verdict is read after the handshake, for a message that says
         * what is wrong */

        if (ngx_ssl_trusted_certificate(cf, ssl, &params->ca, 9) != NGX_OK) {
            return NGX_CONF_ERROR;
        }

        if (params->ca.len == 0
            && SSL_CTX_set_default_verify_paths(ssl->ctx) == 0)
        {
            ngx_ssl_error(NGX_LOG_EMERG, cf->log, 0,
                          "SSL_CTX_set_default_verify_paths() failed");
            return NGX_CONF_ERROR;
        }
    }

    conf->ssl = ssl;

    return NGX_CONF_OK;
}

#else

static char *
ngx_lunary_redis_ssl(ngx_conf_t *cf, ngx_lunary_redis_conf_t *conf,
    ngx_lunary_redis_params_t *params)
{
    (void) conf;
    (void) params;

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "rediss:// needs an nginx that is built with "
                       "--with-http_ssl_module");
    return NGX_CONF_ERROR;
}

#endif
