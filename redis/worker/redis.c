/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The connection to Redis.  See redis.h.
 */

#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/time.h>

#include "redis.h"

#if (LW_REDIS_TLS)
#include <hiredis/hiredis_ssl.h>
#endif


#define LW_ARG_DIGITS   64


struct lw_redis_s {
    redisContext         *c;
    const lw_options_t   *options;
    lw_args_t             args;
    char                  digits[LW_ARG_DIGITS][24];
    int                   ndigits;

    /* of the URL */
    char                 *url;
    int                   tls;
    char                 *user;
    char                 *pass;
    char                 *host;
    char                 *path;
    int                   port;
    int                   db;

#if (LW_REDIS_TLS)
    redisSSLContext      *ssl;
#endif
};


static int lw_redis_url(lw_redis_t *r, const char *url);
static int lw_redis_number(const char *s, int max, int *n);
static void lw_redis_unescape(char *s);
static int lw_redis_login(lw_redis_t *r);
static int lw_redis_ok(redisReply *reply);
static void lw_redis_complain(const redisReply *reply);
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

    if (lw_redis_url(r, o->redis) != LW_OK) {
        fprintf(stderr, "lunary-worker: --redis: not a URL of Redis\n");
        lw_redis_free(r);
        return NULL;
    }

#if !(LW_REDIS_TLS)
    if (r->tls) {
        fprintf(stderr, "lunary-worker: rediss:// wants a build with hiredis "
                "1.0 or newer and its TLS part\n");
        lw_redis_free(r);
        return NULL;
    }
#endif

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
        redisFreeSSLContext(r->ssl);
    }
#endif

    free(r->args.argv);
    free(r->args.lens);
    free(r->url);
    free(r);
}


/* the parts point into a copy of the URL */

static int
lw_redis_url(lw_redis_t *r, const char *url)
{
    char  *p, *at, *slash, *colon, *end;

    r->url = strdup(url);
    if (r->url == NULL) {
        return LW_NOMEM;
    }

    p = r->url;

    if (strncmp(p, "unix:", 5) == 0) {

        p += 5;

        if (p[0] == '/' && p[1] == '/') {
            p += 2;
        }

        r->path = p;
        end = strchr(p, '?');

        if (end) {
            *end = '\0';

            if (strncmp(end + 1, "db=", 3) != 0
                || lw_redis_number(end + 4, 1 << 20, &r->db) != LW_OK)
            {
                return LW_ERROR;
            }
        }

        return *r->path == '/' ? LW_OK : LW_ERROR;
    }

    if (strncmp(p, "rediss://", 9) == 0) {
        r->tls = 1;
        p += 9;

    } else if (strncmp(p, "redis://", 8) == 0) {
        p += 8;

    } else {
        return LW_ERROR;
    }

    slash = strchr(p, '/');

    if (slash) {
        *slash++ = '\0';

        if (*slash && lw_redis_number(slash, 1 << 20, &r->db) != LW_OK) {
            return LW_ERROR;
        }
    }

    at = strrchr(p, '@');

    if (at) {
        *at = '\0';
        colon = strchr(p, ':');

        if (colon) {
            *colon++ = '\0';
            r->pass = colon;
            lw_redis_unescape(r->pass);
        }

        if (*p) {
            r->user = p;
            lw_redis_unescape(r->user);
        }

        p = at + 1;
    }

    r->port = 6379;

    if (*p == '[') {
        end = strchr(++p, ']');

        if (end == NULL) {
            return LW_ERROR;
        }

        *end++ = '\0';
        colon = (*end == ':') ? end : NULL;

    } else {
        colon = strrchr(p, ':');
    }

    if (colon) {
        *colon++ = '\0';

        if (lw_redis_number(colon, 65535, &r->port) != LW_OK) {
            return LW_ERROR;
        }
    }

    r->host = *p ? p : NULL;

    return r->host ? LW_OK : LW_ERROR;
}


static int
lw_redis_number(const char *s, int max, int *n)
{
    int64_t  v;

    if (!lw_int(lw_str(s), &v) || v < 0 || v > max) {
        return LW_ERROR;
    }

    *n = (int) v;

    return LW_OK;
}


static void
lw_redis_unescape(char *s)
{
    char      *out;
    unsigned   c;

    for (out = s; *s; s++) {

        if (*s == '%' && isxdigit((unsigned char) s[1])
            && isxdigit((unsigned char) s[2])
            && sscanf(s + 1, "%2x", &c) == 1 && c != 0)
        {
            *out++ = (char) c;
            s += 2;
            continue;
        }

        *out++ = *s;
    }

    *out = '\0';
}


int
lw_redis_connect(lw_redis_t *r)
{
    struct timeval  tv;

    lw_redis_close(r);

    tv.tv_sec = r->options->timeout / 1000;
    tv.tv_usec = r->options->timeout % 1000 * 1000;

    r->c = r->path ? redisConnectUnixWithTimeout(r->path, tv)
                   : redisConnectWithTimeout(r->host, r->port, tv);

    if (r->c == NULL || r->c->err) {
        lw_log(LW_LOG_WARN, "Redis: %s", r->c ? r->c->errstr : "no memory");
        lw_redis_close(r);
        return LW_REDIS;
    }

    if (r->host) {
        (void) redisEnableKeepAlive(r->c);
    }

#if (LW_REDIS_TLS)
    if (r->tls) {

        if (r->ssl == NULL) {
            (void) redisInitOpenSSL();
            r->ssl = redisCreateSSLContext(r->options->ca, NULL, NULL, NULL,
                                           r->host, NULL);
        }

        if (r->ssl == NULL
            || redisInitiateSSLWithContext(r->c, r->ssl) != REDIS_OK)
        {
            lw_log(LW_LOG_WARN, "Redis: no TLS: %s", r->c->errstr);
            lw_redis_close(r);
            return LW_REDIS;
        }
    }
#endif

    lw_redis_patience(r, 0);

    if (lw_redis_login(r) != LW_OK) {
        lw_redis_close(r);
        return LW_REDIS;
    }

    return LW_OK;
}


static int
lw_redis_login(lw_redis_t *r)
{
    lw_args_t   *a;
    const char  *pass;

    pass = r->options->password ? r->options->password : r->pass;

    if (pass) {
        a = lw_args(r);
        lw_arg_lit(a, "AUTH");

        if (r->user) {
            lw_arg_z(a, r->user);
        }

        lw_arg_z(a, pass);

        if (lw_redis_ok(lw_args_call(a)) != LW_OK) {
            return LW_REDIS;
        }
    }

    if (r->db) {
        a = lw_args(r);
        lw_arg_lit(a, "SELECT");
        lw_arg_int(a, r->db);

        if (lw_redis_ok(lw_args_call(a)) != LW_OK) {
            return LW_REDIS;
        }
    }

    /* a Redis that is loading, or wants a password, is not there yet */

    return lw_redis_ok(lw_redis_call(r, 1, "PING"));
}


static int
lw_redis_ok(redisReply *reply)
{
    int  rc;

    if (reply == NULL) {
        return LW_REDIS;
    }

    rc = lw_reply_is_error(reply) ? LW_ERROR : LW_OK;

    freeReplyObject(reply);

    return rc;
}


int
lw_redis_connected(const lw_redis_t *r)
{
    return r->c != NULL;
}


void
lw_redis_close(lw_redis_t *r)
{
    if (r->c) {
        redisFree(r->c);
        r->c = NULL;
    }
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


redisReply *
lw_redis_reply(lw_redis_t *r)
{
    void        *reply;
    redisReply  *got;

    if (r->c == NULL || redisGetReply(r->c, &reply) != REDIS_OK) {
        return lw_redis_broken(r);
    }

    got = reply;

    if (lw_reply_is_error(got)) {
        lw_redis_complain(got);
    }

    return got;
}


static void
lw_redis_complain(const redisReply *reply)
{
    size_t  i;

    static const char  *expected[] = { "NOGROUP", "BUSYGROUP", "NOSCRIPT" };

    for (i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        if (strncmp(reply->str, expected[i], strlen(expected[i])) == 0) {
            return;
        }
    }

    /* the code and some words: an error may quote an argument */

    lw_log(LW_LOG_ERROR, "Redis refused: %.80s", reply->str);
}


static redisReply *
lw_redis_broken(lw_redis_t *r)
{
    if (r->c) {
        lw_log(LW_LOG_WARN, "Redis: %s",
               r->c->errstr[0] ? r->c->errstr : "connection lost");
    }

    lw_redis_close(r);

    return NULL;
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

        if (reply) {
            freeReplyObject(reply);
        }
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

    freeReplyObject(reply);

    /* a Redis that was started anew: the text instead of its hash */

    a->argv[0] = "EVAL";
    a->lens[0] = 4;
    a->argv[1] = s->text;
    a->lens[1] = strlen(s->text);

    return lw_args_call(a);
}
