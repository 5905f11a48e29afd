/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The connection to Redis.  See redis.h.
 */

#include <stdarg.h>
#include <stdlib.h>
#include <sys/time.h>

#include "redis.h"
#include "url.h"

#if (LW_REDIS_TLS)
#include <arpa/inet.h>
#include <hiredis/hiredis_ssl.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#endif


#define LW_ARG_DIGITS   64


struct lw_redis_s {
    redisContext         *c;
    const lw_options_t   *options;
    lw_args_t             args;
    char                  digits[LW_ARG_DIGITS][24];
    int                   ndigits;

    lw_url_t              url;
    char                  where[300];     /* host:port or path, for the log   */
    lw_maker_t            maker;
    redisReply           *ahead;      /* was asked for ahead, and came        */
    int                   waiting;    /* asked for ahead, and not yet read    */

#if (LW_REDIS_TLS)
    SSL_CTX              *ssl;
#endif
};


#if (LW_REDIS_TLS)
static int lw_redis_secure(lw_redis_t *r);
#endif
static int lw_redis_login(lw_redis_t *r);
static void lw_redis_complain(const lw_redis_t *r, const redisReply *reply);
static redisReply *lw_redis_read(lw_redis_t *r);
static redisReply *lw_redis_broken(lw_redis_t *r);


lw_redis_t *
lw_redis_create(const lw_options_t *o)
{
    lw_redis_t  *r;

    r = calloc(1, sizeof(*r));
    if (r == NULL) {
        return NULL;
    }

    r->options = o;
    r->args.redis = r;

    if (lw_url_parse(&r->url, o->redis) != LW_OK) {
        fprintf(stderr, "lunary-worker: --redis: not a URL of Redis\n");
        lw_redis_free(r);
        return NULL;
    }

#if !(LW_REDIS_TLS)
    if (r->url.tls) {
        fprintf(stderr, "lunary-worker: rediss:// wants a build with hiredis "
                "1.0 or newer and its TLS part\n");
        lw_redis_free(r);
        return NULL;
    }
#endif

    lw_url_where(&r->url, r->where, sizeof(r->where));

    return r;
}


void
lw_redis_free(lw_redis_t *r)
{
    if (r == NULL) {
        return;
    }

    lw_redis_close(r);

#if (LW_REDIS_TLS)
    if (r->ssl) {
        SSL_CTX_free(r->ssl);
    }
#endif

    free(r->args.argv);
    free(r->args.lens);
    lw_url_free(&r->url);
    free(r);
}


int
lw_redis_connect(lw_redis_t *r)
{
    struct timeval  tv;

    lw_redis_close(r);

    tv.tv_sec = r->options->timeout / 1000;
    tv.tv_usec = r->options->timeout % 1000 * 1000;

    r->c = r->url.path ? redisConnectUnixWithTimeout(r->url.path, tv)
                   : redisConnectWithTimeout(r->url.host, r->url.port, tv);

    if (r->c == NULL || r->c->err) {
        lw_log(LW_LOG_WARN, "Redis at %s: %s", r->where,
               r->c ? r->c->errstr : "no memory");
        lw_redis_close(r);
        return LW_REDIS;
    }

    if (r->url.host) {
        (void) redisEnableKeepAlive(r->c);
    }

#if (LW_REDIS_TLS)
    if (r->url.tls) {

        if (lw_redis_secure(r) != LW_OK) {
            lw_redis_close(r);
            return LW_REDIS;
        }
    }
#endif

    lw_reply_setup(r->c->reader, &r->maker);
    lw_redis_patience(r, 0);

    if (lw_redis_login(r) != LW_OK) {
        lw_redis_close(r);
        return LW_REDIS;
    }

    return LW_OK;
}


#if (LW_REDIS_TLS)

/*
 * hiredis' own context compares no name with the certificate's, and trusts
 * nobody without a file: so the SSL object is ours.
 */

static int
lw_redis_secure(lw_redis_t *r)
{
    SSL                *ssl;
    const char         *host;
    X509_VERIFY_PARAM  *param;
    unsigned char       address[16];

    host = r->url.host;

    if (r->ssl == NULL) {

        r->ssl = SSL_CTX_new(TLS_client_method());

        if (r->ssl == NULL
            || !SSL_CTX_set_min_proto_version(r->ssl, TLS1_2_VERSION)
            || !(r->options->ca
                 ? SSL_CTX_load_verify_locations(r->ssl, r->options->ca, NULL)
                 : SSL_CTX_set_default_verify_paths(r->ssl)))
        {
            lw_log(LW_LOG_ERROR, "Redis: no certificates to trust in %s",
                   r->options->ca ? r->options->ca : "the system");
            SSL_CTX_free(r->ssl);
            r->ssl = NULL;
            return LW_REDIS;
        }

        SSL_CTX_set_verify(r->ssl, SSL_VERIFY_PEER, NULL);
    }

    ssl = SSL_new(r->ssl);

    if (ssl == NULL) {
        return LW_REDIS;
    }

    if (inet_pton(AF_INET, host, address) == 1
        || inet_pton(AF_INET6, host, address) == 1)
    {
        param = SSL_get0_param(ssl);

        if (!X509_VERIFY_PARAM_set1_ip_asc(param, host)) {
            SSL_free(ssl);
            return LW_REDIS;
        }

    } else if (!SSL_set1_host(ssl, host)
               || !SSL_set_tlsext_host_name(ssl, host))
    {
        SSL_free(ssl);
        return LW_REDIS;
    }

    /* the connection owns the object, but where this fails */

    if (redisInitiateSSL(r->c, ssl) != REDIS_OK) {
        lw_log(LW_LOG_WARN, "Redis at %s: no TLS: %s (certificate: %s)",
               r->where, r->c->errstr,
               X509_verify_cert_error_string(SSL_get_verify_result(ssl)));
        SSL_free(ssl);
        return LW_REDIS;
    }

    return LW_OK;
}

#endif


static int
lw_redis_login(lw_redis_t *r)
{
    lw_args_t   *a;
    const char  *pass;

    pass = r->options->password ? r->options->password : r->url.pass;

    if (pass) {
        a = lw_args(r);
        lw_arg_lit(a, "AUTH");

        if (r->url.user) {
            lw_arg_z(a, r->url.user);
        }

        lw_arg_z(a, pass);

        if (lw_args_done(a) != LW_OK) {
            return LW_REDIS;
        }
    }

    if (r->url.db) {
        a = lw_args(r);
        lw_arg_lit(a, "SELECT");
        lw_arg_int(a, r->url.db);

        if (lw_args_done(a) != LW_OK) {
            return LW_REDIS;
        }
    }

    /* a Redis that is loading, or wants a password, is not there yet */

    a = lw_args(r);
    lw_arg_lit(a, "PING");

    return lw_args_done(a);
}


int
lw_redis_connected(const lw_redis_t *r)
{
    return r->c != NULL;
}


void
lw_redis_close(lw_redis_t *r)
{
    lw_reply_free(r->ahead);
    r->ahead = NULL;
    r->waiting = 0;

    if (r->c) {
        redisFree(r->c);
        r->c = NULL;
    }

    lw_reply_drop(&r->maker);
}


void
lw_redis_patience(lw_redis_t *r, int64_t ms)
{
    struct timeval  tv;

    ms += r->options->timeout;

    tv.tv_sec = ms / 1000;
    tv.tv_usec = ms % 1000 * 1000;

    if (r->c) {
        (void) redisSetTimeout(r->c, tv);
    }
}


lw_args_t *
lw_args(lw_redis_t *r)
{
    r->args.n = 0;
    r->args.failed = 0;
    r->ndigits = 0;

    return &r->args;
}


void
lw_arg(lw_args_t *a, const void *data, size_t len)
{
    int     cap;
    void   *argv, *lens;

    if (a->n == a->cap) {

        cap = a->cap ? a->cap * 2 : 64;

        argv = realloc(a->argv, (size_t) cap * sizeof(*a->argv));

        if (argv) {
            a->argv = argv;
        }

        lens = realloc(a->lens, (size_t) cap * sizeof(*a->lens));

        if (lens) {
            a->lens = lens;
        }

        if (argv == NULL || lens == NULL) {
            a->failed = 1;
            return;
        }

        a->cap = cap;
    }

    a->argv[a->n] = data ? data : "";
    a->lens[a->n++] = len;
}


/* for few numbers: what is counted by the thousand brings its own text */

void
lw_arg_int(lw_args_t *a, int64_t n)
{
    int    len;
    char  *digits;

    if (a->redis->ndigits == LW_ARG_DIGITS) {
        a->failed = 1;
        return;
    }

    digits = a->redis->digits[a->redis->ndigits++];
    len = snprintf(digits, sizeof(a->redis->digits[0]), "%lld",
                   (long long) n);

    lw_arg(a, digits, (size_t) len);
}


redisReply *
lw_args_call(lw_args_t *a)
{
    if (lw_args_queue(a) != LW_OK) {
        return NULL;
    }

    return lw_redis_reply(a->redis);
}


int
lw_args_queue(lw_args_t *a)
{
    lw_redis_t  *r;

    r = a->redis;

    if (r->c == NULL) {
        return LW_REDIS;
    }

    if (a->failed
        || redisAppendCommandArgv(r->c, a->n, a->argv, a->lens) != REDIS_OK)
    {
        (void) lw_redis_broken(r);
        return LW_REDIS;
    }

    return LW_OK;
}


int
lw_args_ahead(lw_args_t *a)
{
    int          done;
    lw_redis_t  *r;

    r = a->redis;

    if (lw_args_queue(a) != LW_OK) {
        return LW_REDIS;
    }

    do {
        if (redisBufferWrite(r->c, &done) != REDIS_OK) {
            (void) lw_redis_broken(r);
            return LW_REDIS;
        }
    } while (!done);

    r->waiting = 1;

    return LW_OK;
}


int
lw_redis_is_ahead(const lw_redis_t *r)
{
    return r->waiting || r->ahead != NULL;
}


redisReply *
lw_redis_ahead(lw_redis_t *r)
{
    redisReply  *reply;

    if (r->waiting) {
        r->waiting = 0;
        return lw_redis_read(r);
    }

    reply = r->ahead;
    r->ahead = NULL;

    return reply;
}


redisReply *
lw_redis_reply(lw_redis_t *r)
{
    /* replies come in the order of their commands: that one is before ours */

    if (r->waiting) {

        r->waiting = 0;
        r->ahead = lw_redis_read(r);

        if (r->ahead == NULL) {
            return NULL;
        }
    }

    return lw_redis_read(r);
}


static redisReply *
lw_redis_read(lw_redis_t *r)
{
    void        *reply;
    redisReply  *got;

    if (r->c == NULL || redisGetReply(r->c, &reply) != REDIS_OK) {
        return lw_redis_broken(r);
    }

    lw_reply_made(&r->maker);

    got = reply;

    if (lw_reply_is_error(got)) {
        lw_redis_complain(r, got);
    }

    return got;
}


static void
lw_redis_complain(const lw_redis_t *r, const redisReply *reply)
{
    size_t       i, n;
    const char  *args;

    static const char  *expected[] = { "NOGROUP", "BUSYGROUP", "NOSCRIPT" };

    for (i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        if (strncmp(reply->str, expected[i], strlen(expected[i])) == 0) {
            return;
        }
    }

    /*
     * The code and some words, without arguments, which may be a password or
     * a user: "unknown command 'AUTH', with args beginning with: 'secret'"
     */

    args = strcasestr(reply->str, ", with args");
    n = args ? (size_t) (args - reply->str) : strlen(reply->str);

    lw_log(LW_LOG_ERROR, "Redis at %s refused: %.*s", r->where,
           (int) (n > 80 ? 80 : n), reply->str);
}


static redisReply *
lw_redis_broken(lw_redis_t *r)
{
    if (r->c) {
        lw_log(LW_LOG_WARN, "Redis at %s: %s", r->where,
               r->c->errstr[0] ? r->c->errstr : "connection lost");
    }

    lw_redis_close(r);

    return NULL;
}


int
lw_args_done(lw_args_t *a)
{
    int          rc;
    redisReply  *reply;

    reply = lw_args_call(a);
    rc = (reply && !lw_reply_is_error(reply)) ? LW_OK : LW_REDIS;

    lw_reply_free(reply);

    return rc;
}


int
lw_redis_drain(lw_redis_t *r, size_t n)
{
    int          rc;
    redisReply  *reply;

    for (rc = LW_OK; n > 0; n--) {

        reply = lw_redis_reply(r);

        if (reply == NULL) {
            return LW_REDIS;
        }

        if (lw_reply_is_error(reply)) {
            rc = LW_REDIS;
        }

        lw_reply_free(reply);
    }

    return rc;
}


redisReply *
lw_redis_call(lw_redis_t *r, int n, ...)
{
    va_list      words;
    lw_args_t   *a;
    const char  *word;

    a = lw_args(r);

    va_start(words, n);

    while (n-- > 0) {
        word = va_arg(words, const char *);
        lw_arg(a, word, strlen(word));
    }

    va_end(words);

    return lw_args_call(a);
}


lw_args_t *
lw_script(lw_redis_t *r, lw_script_t *s, int keys)
{
    lw_args_t   *a;
    redisReply  *reply;

    /* Redis knows how to hash: no need to carry SHA-1 */

    if (s->sha[0] == '\0' && r->c) {

        reply = lw_redis_call(r, 3, "SCRIPT", "LOAD", s->text);

        if (reply && reply->type == REDIS_REPLY_STRING && reply->len == 40) {
            memcpy(s->sha, reply->str, 41);
        }

        lw_reply_free(reply);
    }

    a = lw_args(r);

    lw_arg_lit(a, "EVALSHA");
    lw_arg_z(a, s->sha);
    lw_arg_int(a, keys);

    return a;
}


redisReply *
lw_script_call(lw_args_t *a, lw_script_t *s)
{
    redisReply  *reply;

    reply = lw_args_call(a);

    if (reply == NULL || !lw_reply_is_error(reply)
        || strncmp(reply->str, "NOSCRIPT", 8) != 0)
    {
        return reply;
    }

    lw_reply_free(reply);

    /* a Redis that was started anew: the text instead of its hash */

    a->argv[0] = "EVAL";
    a->lens[0] = 4;
    a->argv[1] = s->text;
    a->lens[1] = strlen(s->text);

    return lw_args_call(a);
}
