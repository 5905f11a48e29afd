/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The configuration of http/: what directives say, merged for each location.
 *
 *     ngx_http_lunary_conf.c           the directives that need parsing
 *     ngx_http_lunary_conf_session.c   those of sessions
 *     ngx_http_lunary_conf_verified.c  what `verified:` may not stand before
 *     ngx_http_lunary_conf_merge.c     defaults and inheritance
 *     ngx_http_lunary_conf_check.c     what does not go together
 *
 * Invariant: after configuration nothing of it changes.
 */

#ifndef NGX_HTTP_LUNARY_CONF_H
#define NGX_HTTP_LUNARY_CONF_H

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "inspect/lunary_call.h"
#include "run/lunary_run.h"
#include "client/ngx_lunary_redis.h"
#include "outbox/ngx_lunary_outbox.h"
#include "stats/ngx_lunary_stats.h"
#include "ngx_http_lunary_headers.h"


/* a directive that takes one of some words, or a variable that gives one */

typedef struct {
    ngx_uint_t                 value;
    ngx_http_complex_value_t  *cv;             /* NULL: value is it          */
} ngx_http_lunary_choice_t;


#define NGX_HTTP_LUNARY_REQUIRE_OFF       0
#define NGX_HTTP_LUNARY_REQUIRE_ON        1
#define NGX_HTTP_LUNARY_REQUIRE_VERIFIED  2

#define NGX_HTTP_LUNARY_PREACCESS         0
#define NGX_HTTP_LUNARY_PRECONTENT        1

#define NGX_HTTP_LUNARY_FORMAT_AUTO       0
#define NGX_HTTP_LUNARY_FORMAT_HASH       1
#define NGX_HTTP_LUNARY_FORMAT_JSON       2
#define NGX_HTTP_LUNARY_FORMAT_STRING     3

#define NGX_HTTP_LUNARY_ID_COOKIE         1
#define NGX_HTTP_LUNARY_ID_HEADER         2
#define NGX_HTTP_LUNARY_ID_BEARER         3


/* where a user may come from, an entry of lunary_user */

typedef enum {
    NGX_HTTP_LUNARY_SRC_SESSION = 0,
    NGX_HTTP_LUNARY_SRC_BODY,
    NGX_HTTP_LUNARY_SRC_HEADER,
    NGX_HTTP_LUNARY_SRC_PARENT,
    NGX_HTTP_LUNARY_SRC_VALUE
} ngx_http_lunary_source_e;

typedef struct {
    ngx_http_lunary_source_e   kind;
    ngx_uint_t                 verified;       /* verified:$var              */
    ngx_str_t                  name;           /* as written, without prefix */
    ngx_http_complex_value_t   value;          /* SRC_VALUE                  */
} ngx_http_lunary_source_t;


/* header names of lunary_header, by what they carry */

typedef enum {
    NGX_HTTP_LUNARY_H_USER = 0,
    NGX_HTTP_LUNARY_H_PROPS,
    NGX_HTTP_LUNARY_H_THREAD,
    NGX_HTTP_LUNARY_H_PARENT,
    NGX_HTTP_LUNARY_H_TAGS,
    NGX_HTTP_LUNARY_H_MAX
} ngx_http_lunary_header_e;


/* systems of lunary_accept */

#define NGX_HTTP_LUNARY_ACCEPT_LITELLM    0x01
#define NGX_HTTP_LUNARY_ACCEPT_HELICONE   0x02
#define NGX_HTTP_LUNARY_ACCEPT_PORTKEY    0x04


typedef struct {
    ngx_http_complex_value_t  *key;            /* NULL: no session           */
    size_t                     literal;        /* bytes of it that are text  */
    size_t                     head;           /* ... before its variables   */
    ngx_str_t                  target;         /* redis=NAME                 */
    ngx_lunary_redis_conf_t   *redis;          /* found when merging         */
    ngx_uint_t                 format;
    ngx_str_t                  user;           /* field or path, or empty    */
    ngx_str_t                  props;
} ngx_http_lunary_session_conf_t;


typedef struct {
    ngx_uint_t                 from;           /* NGX_HTTP_LUNARY_ID_*, 0 no */
    ngx_str_t                  name;           /* of the cookie or header    */
    ngx_array_t               *secrets;        /* of ngx_str_t; NULL: none   */
} ngx_http_lunary_session_id_conf_t;


typedef struct {
    ngx_shm_zone_t            *zone;           /* NULL: off                  */
    ngx_msec_t                 valid;
    ngx_msec_t                 negative;
} ngx_http_lunary_cache_conf_t;


typedef struct {
    ngx_uint_t                 members;        /* NGX_HTTP_LUNARY_INJECT_*   */
    ngx_array_t               *headers;        /* of ngx_str_t, or NULL      */
    ngx_str_t                  key;            /* of HMAC; empty: plain      */
} ngx_http_lunary_inject_conf_t;

#define NGX_HTTP_LUNARY_INJECT_USER      0x01
#define NGX_HTTP_LUNARY_INJECT_SAFETY    0x02
#define NGX_HTTP_LUNARY_INJECT_METADATA  0x04


typedef struct ngx_http_lunary_ingest_conf_s  ngx_http_lunary_ingest_conf_t;


typedef struct {
    ngx_str_t                  method;         /* empty: any                 */
    ngx_str_t                  path;
    ngx_uint_t                 prefix;         /* it ended in `*`            */
} ngx_http_lunary_public_t;


typedef struct {
    ngx_array_t                redis;          /* ngx_lunary_redis_conf_t *  */
    ngx_lunary_outbox_conf_t   outbox;
    ngx_flag_t                 stream_set;
    ngx_flag_t                 spool_set;
    ngx_flag_t                 used;           /* some location has lunary   */
    ngx_flag_t                 status;         /* some has lunary_status     */
    ngx_flag_t                 notice;         /* capture notice was given   */
    ngx_int_t                  request_id;     /* index of $request_id       */
    ngx_int_t                  content_length; /* index of $content_length   */
    ngx_array_t                header_vars;    /* $http_* that are used      */
    ngx_int_t                  proxy_host;     /* index of $proxy_host, or
                                                  NGX_ERROR: no proxy module */
    ngx_flag_t                 cascade;        /* some lunary_user lists
                                                  parent                     */
    ngx_array_t                lookups;        /* targets of sessions,
                                                  ngx_lunary_redis_conf_t *  */
} ngx_http_lunary_main_conf_t;


typedef struct {
    ngx_http_lunary_choice_t            enable;
    ngx_flag_t                          blanket;   /* ... set at http level  */
    ngx_http_complex_value_t           *app;
    ngx_array_t                        *sources;   /* ..._source_t           */
    ngx_array_t                        *headers[NGX_HTTP_LUNARY_H_MAX];
    ngx_uint_t                          accept;    /* ..._ACCEPT_*           */
    ngx_array_t                        *names[NGX_HTTP_LUNARY_H_MAX];
                                                   /* headers and accept     */
    ngx_uint_t                          own_names; /* users' before accept's */
    ngx_http_lunary_names_t            *identity;  /* names, as a set        */
    ngx_http_lunary_names_t            *changed;   /* headers that may go,
                                                      or change              */
    ngx_array_t                        *trusted;   /* ngx_cidr_t             */
    ngx_flag_t                          trusted_unix;
    ngx_http_lunary_session_conf_t      session;
    ngx_flag_t                          session_set;
    ngx_http_lunary_session_id_conf_t   session_id;
    ngx_flag_t                          session_id_set;
    ngx_http_lunary_cache_conf_t        cache;
    ngx_flag_t                          cache_set;
    ngx_flag_t                          policy;
    ngx_http_handler_pt                 content;   /* its content handler    */
    unsigned                            grpc:1;    /* that is grpc_pass      */
    ngx_http_lunary_inject_conf_t       inject;
    ngx_flag_t                          inject_set;
    ngx_http_lunary_choice_t            require;
    ngx_array_t                        *public;    /* ..._public_t           */
    ngx_flag_t                          dry_run;
    ngx_uint_t                          conflict;  /* 1: reject              */
    ngx_flag_t                          strip;
    ngx_flag_t                          stream_usage;
    ngx_http_lunary_choice_t            capture;
    size_t                              capture_max;
    ngx_array_t                        *props;     /* names; NULL: all       */
    ngx_flag_t                          props_set;
    const lunary_dialect_t             *api;       /* NULL: auto             */
    ngx_flag_t                          api_set;
    ngx_http_complex_value_t           *provider;
    ngx_flag_t                          run_header;
    ngx_uint_t                          phase;
    ngx_uint_t                          status;    /* of lunary_status       */
    ngx_http_lunary_ingest_conf_t      *ingest;    /* of lunary_ingest       */
} ngx_http_lunary_loc_conf_t;


/* ngx_http_lunary_conf.c: directive handlers; cmd->post may be set */

char *ngx_http_lunary_conf_redis(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_stream(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_spool(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_choice(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_user(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_header(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_trusted(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_session(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_session_id(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_public(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_props(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_lunary_conf_api(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* value compiled as a complex value; NGX_OK, or NGX_ERROR after logging */
ngx_int_t ngx_http_lunary_conf_complex(ngx_conf_t *cf, ngx_str_t *value,
    ngx_http_complex_value_t *cv);

/* bytes of it that are no variable */
size_t ngx_http_lunary_conf_literal(ngx_str_t *value);

/* 1, logged, where *set was 1 already */
ngx_uint_t ngx_http_lunary_conf_duplicate(ngx_conf_t *cf, ngx_flag_t *set);


/* ngx_http_lunary_conf_session.c */

/* a file's lines that are not empty, at least one, as ngx_str_t; NULL after
 * logging; what: the parameter that names the file */
ngx_array_t *ngx_http_lunary_read_lines(ngx_conf_t *cf, ngx_str_t *file,
    const char *what);


/* ngx_http_lunary_conf_verified.c */

/* NGX_CONF_ERROR, logged, where VALUE of verified:VALUE is client text */
char *ngx_http_lunary_conf_verified(ngx_conf_t *cf, ngx_str_t *value);


/* ngx_http_lunary_conf_merge.c: for nginx */

void *ngx_http_lunary_create_main_conf(ngx_conf_t *cf);
char *ngx_http_lunary_init_main_conf(ngx_conf_t *cf, void *conf);
void *ngx_http_lunary_create_loc_conf(ngx_conf_t *cf);
char *ngx_http_lunary_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);


/* ngx_http_lunary_conf_check.c */

/* checks of a merged location: NGX_CONF_OK or NGX_CONF_ERROR, logged */
char *ngx_http_lunary_conf_check(ngx_conf_t *cf,
    ngx_http_lunary_main_conf_t *mcf, ngx_http_lunary_loc_conf_t *lcf);

/* the target of that name ("" the unnamed one), or NULL */
ngx_lunary_redis_conf_t *ngx_http_lunary_conf_target(
    ngx_http_lunary_main_conf_t *mcf, ngx_str_t *name);


#endif /* NGX_HTTP_LUNARY_CONF_H */
