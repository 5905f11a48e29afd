/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A module for tests only: client/ and outbox/ without the rest.
 *
 *     lunary_redis, lunary_stream, lunary_spool     as in the real module
 *     outbox_test;    location: appends records, ?n=COUNT&size=BYTES&id=TEXT;
 *                     answers how many were taken
 *     redis_test;     location: asks Redis, ?get=KEY; 200 with the value, 404,
 *                     503
 *     stats_test;     location: the counters, as JSON
 *     die_test;       location: ?when=N&point=P&nth=K: the worker kills itself
 *                     where it counts something of that kind
 *                     (ngx_lunary_stats_when_e) for the Kth time from now on:
 *                     0 before the plan is made, 1 before the store that
 *                     decides, 2 behind it
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "client/ngx_lunary_redis.h"
#include "outbox/ngx_lunary_outbox.h"
#include "stats/ngx_lunary_stats.h"


typedef struct {
    ngx_lunary_redis_conf_t     redis;
    ngx_lunary_outbox_conf_t    outbox;
    ngx_uint_t                  used;
} ngx_http_outbox_test_conf_t;


static void *ngx_http_outbox_test_create_conf(ngx_conf_t *cf);
static ngx_int_t ngx_http_outbox_test_postconf(ngx_conf_t *cf);
static char *ngx_http_outbox_test_redis(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_outbox_test_stream(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_outbox_test_spool(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_outbox_test_location(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_outbox_test_init(ngx_cycle_t *cycle);
static void ngx_http_outbox_test_exit(ngx_cycle_t *cycle);
static ngx_int_t ngx_http_outbox_test_die(ngx_http_request_t *r);
static void ngx_http_outbox_test_kill(ngx_uint_t point);

/* the linker puts these two around the real ones */
void __wrap_ngx_lunary_stats_begin(ngx_lunary_stats_when_e when,
    uint64_t epoch, uint64_t seq);
void __wrap_ngx_lunary_stats_end(void);
void __real_ngx_lunary_stats_begin(ngx_lunary_stats_when_e when,
    uint64_t epoch, uint64_t seq);
void __real_ngx_lunary_stats_end(void);


static ngx_uint_t           ngx_http_outbox_test_when;
static ngx_uint_t           ngx_http_outbox_test_point;
static ngx_uint_t           ngx_http_outbox_test_nth;
static ngx_uint_t           ngx_http_outbox_test_now;

static ngx_lunary_redis_t  *ngx_http_outbox_test_lookup;


static ngx_command_t  ngx_http_outbox_test_commands[] = {

    { ngx_string("lunary_redis"), NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_http_outbox_test_redis, NGX_HTTP_MAIN_CONF_OFFSET, 0, NULL },

    { ngx_string("lunary_stream"), NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_http_outbox_test_stream, NGX_HTTP_MAIN_CONF_OFFSET, 0, NULL },

    { ngx_string("lunary_spool"), NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_http_outbox_test_spool, NGX_HTTP_MAIN_CONF_OFFSET, 0, NULL },

    { ngx_string("outbox_test"), NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_http_outbox_test_location, NGX_HTTP_LOC_CONF_OFFSET, 0, NULL },

    { ngx_string("redis_test"), NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_http_outbox_test_location, NGX_HTTP_LOC_CONF_OFFSET, 0, NULL },

    { ngx_string("stats_test"), NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_http_outbox_test_location, NGX_HTTP_LOC_CONF_OFFSET, 0, NULL },

    { ngx_string("die_test"), NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_http_outbox_test_location, NGX_HTTP_LOC_CONF_OFFSET, 0, NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_outbox_test_ctx = {
    NULL,
    ngx_http_outbox_test_postconf,
    ngx_http_outbox_test_create_conf,
    NULL,
    NULL,
    NULL,
    NULL,
    NULL
};


ngx_module_t  ngx_http_outbox_test_module = {
    NGX_MODULE_V1,
    &ngx_http_outbox_test_ctx,
    ngx_http_outbox_test_commands,
    NGX_HTTP_MODULE,
    NULL,
    NULL,
    ngx_http_outbox_test_init,
    NULL,
    NULL,
    ngx_http_outbox_test_exit,
    NULL,
    NGX_MODULE_V1_PADDING
};


static void *
ngx_http_outbox_test_create_conf(ngx_conf_t *cf)
{
    ngx_http_outbox_test_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_outbox_test_conf_t));

    if (conf) {
        ngx_lunary_outbox_conf_init(&conf->outbox);
        conf->outbox.redis = &conf->redis;
    }

    return conf;
}


static ngx_int_t
ngx_http_outbox_test_postconf(ngx_conf_t *cf)
{
    ngx_http_core_loc_conf_t     *clcf;
    ngx_http_outbox_test_conf_t  *conf;

    conf = ngx_http_conf_get_module_main_conf(cf, ngx_http_outbox_test_module);
    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    conf->redis.resolver = clcf->resolver;
    conf->redis.resolver_timeout = 5000;

    if (ngx_lunary_stats_zone(cf, &ngx_http_outbox_test_module) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_lunary_outbox_conf_done(cf, &conf->outbox) == NGX_CONF_OK
           ? NGX_OK : NGX_ERROR;
}


static char *
ngx_http_outbox_test_redis(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_outbox_test_conf_t *tcf = conf;

    tcf->used = 1;

    return ngx_lunary_redis_parse(cf, &tcf->redis);
}


static char *
ngx_http_outbox_test_stream(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_outbox_test_conf_t *tcf = conf;

    return ngx_lunary_outbox_parse_stream(cf, &tcf->outbox);
}


static char *
ngx_http_outbox_test_spool(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_outbox_test_conf_t *tcf = conf;

    return ngx_lunary_outbox_parse_spool(cf, &tcf->outbox);
}


static ngx_int_t
ngx_http_outbox_test_init(ngx_cycle_t *cycle)
{
    ngx_http_outbox_test_conf_t  *conf;

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    conf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_http_outbox_test_module);
    if (!conf->used) {
        return NGX_OK;
    }

    ngx_lunary_stats_init(cycle);

    ngx_http_outbox_test_lookup = ngx_lunary_redis_create(cycle, &conf->redis,
                                        "lookup", conf->redis.timeout, NULL,
                                        NULL);

    return ngx_lunary_outbox_init(cycle, &conf->outbox);
}


static void
ngx_http_outbox_test_exit(ngx_cycle_t *cycle)
{
    if (ngx_http_outbox_test_lookup) {
        ngx_lunary_redis_close(ngx_http_outbox_test_lookup);
        ngx_lunary_outbox_exit(cycle);
        ngx_lunary_stats_exit(cycle);
    }
}


static ngx_int_t
ngx_http_outbox_test_send(ngx_http_request_t *r, ngx_uint_t status,
    u_char *data, size_t len)
{
    ngx_buf_t    *b;
    ngx_chain_t   out;

    r->headers_out.status = status;
    r->headers_out.content_length_n = len;

    if (ngx_http_send_header(r) == NGX_ERROR) {
        return NGX_ERROR;
    }

    b = ngx_create_temp_buf(r->pool, len + 1);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->last = ngx_cpymem(b->last, data, len);
    b->last_buf = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


static u_char *
ngx_http_outbox_test_bulk(u_char *p, const void *data, size_t len)
{
    p = ngx_sprintf(p, "$%uz\r\n", len);
    p = ngx_cpymem(p, data, len);
    return ngx_cpymem(p, "\r\n", 2);
}


static ngx_int_t
ngx_http_outbox_test_append(ngx_http_request_t *r)
{
    u_char      *p, *body, text[128], reply[64];
    size_t       size, len, need;
    ngx_str_t    n, s, id;
    ngx_uint_t   i, count, taken;

    count = 1;
    size = 100;
    ngx_str_set(&id, "r");

    if (ngx_http_arg(r, (u_char *) "n", 1, &n) == NGX_OK) {
        count = ngx_atoi(n.data, n.len);
    }

    if (ngx_http_arg(r, (u_char *) "size", 4, &s) == NGX_OK) {
        size = ngx_atoi(s.data, s.len);
    }

    (void) ngx_http_arg(r, (u_char *) "id", 2, &id);

    body = ngx_pnalloc(r->pool, size);
    if (body == NULL) {
        return NGX_ERROR;
    }

    ngx_memset(body, 'x', size);

    for (i = 0, taken = 0; i < count; i++) {
        len = ngx_snprintf(text, sizeof(text), "%V-%ui", &id, i) - text;

        need = sizeof("$6\r\nrun_id\r\n$4\r\nbody\r\n") - 1
               + (ngx_sprintf(reply, "$%uz\r\n\r\n", len) - reply) + len
               + (ngx_sprintf(reply, "$%uz\r\n\r\n", size) - reply) + size;

        if (ngx_http_arg(r, (u_char *) "fields", 6, &s) == NGX_OK) {

            /* ?fields=0: what Redis refuses */

            p = ngx_lunary_outbox_reserve(NGX_LUNARY_RECORD_RUN,
                                          NGX_LUNARY_C_RUNS_OK, 0, 0, 0);

            if (p) {
                ngx_lunary_outbox_commit(p);
            }

            continue;
        }

        p = ngx_lunary_outbox_reserve(NGX_LUNARY_RECORD_RUN,
                                      NGX_LUNARY_C_RUNS_OK, 2, need,
                                      ngx_crc32_short(text, len));

        if (p) {
            p = ngx_http_outbox_test_bulk(p, "run_id", 6);
            p = ngx_http_outbox_test_bulk(p, text, len);
            p = ngx_http_outbox_test_bulk(p, "body", 4);
            p = ngx_http_outbox_test_bulk(p, body, size);

            ngx_lunary_outbox_commit(p);
            taken++;
        }
    }

    len = ngx_sprintf(reply, "%ui\n", taken) - reply;

    return ngx_http_outbox_test_send(r, NGX_HTTP_OK, reply, len);
}


static void
ngx_http_outbox_test_reply(void *data, redisReply *reply)
{
    ngx_http_request_t *r = data;

    ngx_int_t          rc;
    ngx_connection_t  *c;

    c = r->connection;

    if (reply == NULL || reply->type == REDIS_REPLY_ERROR) {
        rc = NGX_HTTP_SERVICE_UNAVAILABLE;

    } else if (reply->type == REDIS_REPLY_STRING) {
        rc = ngx_http_outbox_test_send(r, NGX_HTTP_OK, (u_char *) reply->str,
                                       reply->len);

    } else {
        rc = NGX_HTTP_NOT_FOUND;
    }

    ngx_http_finalize_request(r, rc);
    ngx_http_run_posted_requests(c);
}


static void
ngx_http_outbox_test_cleanup(void *data)
{
    ngx_lunary_redis_forget(ngx_http_outbox_test_lookup, data);
}


static ngx_int_t
ngx_http_outbox_test_get(ngx_http_request_t *r)
{
    ngx_str_t            argv[2];
    ngx_http_cleanup_t  *cln;

    ngx_str_set(&argv[0], "GET");
    ngx_str_set(&argv[1], "");

    (void) ngx_http_arg(r, (u_char *) "get", 3, &argv[1]);

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    if (ngx_lunary_redis_argv(ngx_http_outbox_test_lookup, 2, argv,
                              ngx_http_outbox_test_reply, r)
        != NGX_OK)
    {
        return NGX_HTTP_SERVICE_UNAVAILABLE;
    }

    cln->handler = ngx_http_outbox_test_cleanup;
    cln->data = r;

    r->read_event_handler = ngx_http_test_reading;
    r->main->count++;

    return NGX_DONE;
}


static ngx_int_t
ngx_http_outbox_test_stats(ngx_http_request_t *r)
{
    ngx_buf_t  *b;

    b = ngx_lunary_stats_json(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    return ngx_http_outbox_test_send(r, NGX_HTTP_OK, b->pos,
                                     b->last - b->pos);
}


static ngx_int_t
ngx_http_outbox_test_die(ngx_http_request_t *r)
{
    ngx_str_t  when, point, nth;

    if (ngx_http_arg(r, (u_char *) "when", 4, &when) != NGX_OK
        || ngx_http_arg(r, (u_char *) "point", 5, &point) != NGX_OK
        || ngx_http_arg(r, (u_char *) "nth", 3, &nth) != NGX_OK)
    {
        return NGX_HTTP_BAD_REQUEST;
    }

    ngx_http_outbox_test_when = ngx_atoi(when.data, when.len);
    ngx_http_outbox_test_point = ngx_atoi(point.data, point.len);
    ngx_http_outbox_test_nth = ngx_atoi(nth.data, nth.len);

    return ngx_http_outbox_test_send(r, NGX_HTTP_OK, (u_char *) "\n", 1);
}


static void
ngx_http_outbox_test_kill(ngx_uint_t point)
{
    if (ngx_http_outbox_test_now
        && ngx_http_outbox_test_now == ngx_http_outbox_test_when
        && point == ngx_http_outbox_test_point
        && --ngx_http_outbox_test_nth == 0)
    {
        (void) kill(ngx_pid, SIGKILL);
    }
}


void
__wrap_ngx_lunary_stats_begin(ngx_lunary_stats_when_e when, uint64_t epoch,
    uint64_t seq)
{
    ngx_http_outbox_test_now = when;

    ngx_http_outbox_test_kill(0);

    __real_ngx_lunary_stats_begin(when, epoch, seq);

    ngx_http_outbox_test_kill(1);
}


void
__wrap_ngx_lunary_stats_end(void)
{
    ngx_http_outbox_test_kill(2);

    __real_ngx_lunary_stats_end();
}


static char *
ngx_http_outbox_test_location(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    clcf->handler = (cmd->name.data[0] == 'o') ? ngx_http_outbox_test_append
                    : (cmd->name.data[0] == 'r') ? ngx_http_outbox_test_get
                    : (cmd->name.data[0] == 'd') ? ngx_http_outbox_test_die
                    : ngx_http_outbox_test_stats;

    return NGX_CONF_OK;
}


/* what nginx looks for in a .so */

ngx_module_t  *ngx_modules[] = { &ngx_http_outbox_test_module, NULL };
char          *ngx_module_names[] = { "ngx_http_outbox_test_module", NULL };
char          *ngx_module_order[] = { NULL };
