/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What options.c (the command line), options_table.c (what there is, and
 * --help), options_value.c (values) and options_file.c (the configuration
 * file, secrets) share.
 */

#ifndef LW_OPTIONS_INTERNAL_H
#define LW_OPTIONS_INTERNAL_H

#include "options.h"


#define LW_OPTS_MAX     96
#define LW_BATCH_MAX    5000

#define S(member)       offsetof(lw_options_t, member)


typedef enum {
    LW_OPT_FLAG = 0,
    LW_OPT_TEXT,
    LW_OPT_COUNT,
    LW_OPT_SIZE,                   /* 4m                                     */
    LW_OPT_TIME,                   /* 500ms 10s 5m 2h 30d                    */
    LW_OPT_WORD,                   /* one of those in `words`                */
    LW_OPT_LIST,                   /* texts, may be repeated; count follows  */
    LW_OPT_PROJECT
} lw_opt_e;


typedef struct {
    const char     *name;
    lw_opt_e        type;
    size_t          offset;
    unsigned        commands;
    const char     *value;         /* what help calls the value              */
    const char     *preset;
    const char     *words;
    size_t          count;         /* of a list: where its length is         */
    size_t          max;           /* of a list                              */
    const char     *help;
} lw_opt_t;


typedef struct {
    const char     *name;
    lw_command_e    command;
    const char     *args;
    const char     *help;
} lw_command_t;


/* both end with a name that is NULL */
extern const lw_command_t  lw_commands[];
extern const lw_opt_t      lw_opts[];

/* NULL where there is none of that name */
const lw_opt_t *lw_opt_find(const char *name, size_t len);

/* of the command that was named, or of all */
void lw_options_help(const lw_options_t *o);

/* LW_OK, LW_ERROR (not a value of that kind) or LW_NOMEM; marks given[] */
int lw_opt_set(lw_options_t *o, const lw_opt_t *opt, const char *value,
    unsigned char *given);

/* the configuration file: what is given already stays */
int lw_config_read(lw_options_t *o, const unsigned char *given);

/* a file's first line; LW_ERROR is said on stderr */
int lw_options_secret(const char *option, const char *path, char **out);


#endif /* LW_OPTIONS_INTERNAL_H */
