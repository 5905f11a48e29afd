/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What a command is told: by flags, and by a configuration file whose lines
 * are the same flags without dashes.  Flags win over the file.
 */

#ifndef LW_OPTIONS_H
#define LW_OPTIONS_H

#include "lw.h"


#define LW_STREAMS_MAX    256
#define LW_PROJECTS_MAX   256
#define LW_FIELDS_MAX     32


typedef enum {
    LW_RELAY  = 0x001,
    LW_LEDGER = 0x002,
    LW_EXPORT = 0x004,
    LW_TAIL   = 0x008,
    LW_USERS  = 0x010,
    LW_SHOW   = 0x020,
    LW_FORGET = 0x040,
    LW_PRICE  = 0x080,

    LW_GROUPS = LW_RELAY | LW_LEDGER | LW_EXPORT,
    LW_READS  = LW_GROUPS | LW_TAIL | LW_USERS | LW_SHOW | LW_FORGET,
    LW_ANY    = 0xfff
} lw_command_e;


typedef struct {
    char           *app;              /* "*": every other                     */
    char           *key_file;
    char           *key;
} lw_project_t;


struct lw_options_s {
    lw_command_e    command;
    const char     *name;             /* of the command                       */
    char           *config;

    char           *redis;            /* URL                                  */
    char           *password_file;
    char           *password;
    char           *ca;
    int64_t         timeout;          /* ms, of Redis                         */

    char           *stream;           /* the name, without shards             */
    int64_t         shards;
    char           *streams[LW_STREAMS_MAX];
    size_t          nstreams;
    char           *prefix;           /* "lunary:"                            */

    char           *group;
    char           *consumer;
    int             own_consumer;     /* its name was made up                 */
    int64_t         batch;            /* entries                              */
    int64_t         batch_bytes;
    int64_t         linger;           /* ms                                   */
    int64_t         claim_after;      /* ms                                   */
    int64_t         max_deliveries;
    int64_t         dead_maxlen;
    int64_t         drain;            /* ms                                   */
    int             once;
    char           *metrics;
    int             quiet;
    char           *log_level;

    char           *api;              /* Lunary                               */
    lw_project_t    projects[LW_PROJECTS_MAX];
    size_t          nprojects;
    char           *ignore[LW_PROJECTS_MAX];
    size_t          nignore;
    int             no_gzip;
    int             no_threads;
    int64_t         http_timeout;     /* ms                                   */
    int64_t         remember;         /* ms: relayed runs                     */
    int64_t         hold;             /* ms: for a start or parent            */
    char           *metadata[LW_FIELDS_MAX];
    size_t          nmetadata;

    char           *llm;              /* keep, drop: SDK's own llm events     */
    int64_t         max_claimed;
    int64_t         claimed_ttl;      /* ms                                   */
    int64_t         daily_ttl;        /* ms                                   */
    int64_t         dedup;            /* ms                                   */
    char           *prices;

    char           *endpoint;         /* OTLP                                 */
    char           *headers[LW_FIELDS_MAX];
    size_t          nheaders;
    int             contents;

    char           *app;
    char           *user;
    int             json;
    char           *html;
    char           *sort;
    int64_t         limit;
    int64_t         last;
    int             follow_off;
    char           *color;
    char           *lunary_key_file;
    char           *lunary_key;
    int             policy;
    int             yes;
};


/*
 * LW_OK, LW_ERROR (said on stderr), or LW_STOPPED: help or version was asked
 * for and printed.  The result is to be freed in every case.
 */
int lw_options_parse(lw_options_t *o, int argc, char **argv);
void lw_options_free(lw_options_t *o);

/* the project of an app, or NULL */
const lw_project_t *lw_options_project(const lw_options_t *o,
    lunary_str_t app);
int lw_options_ignored(const lw_options_t *o, lunary_str_t app);


#endif /* LW_OPTIONS_H */
