/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The command line, and what follows from it.  See options.h.
 */

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include "options_internal.h"
#include "url.h"


static int lw_options_finish(lw_options_t *o);
static int lw_options_streams(lw_options_t *o);
static int lw_options_url(const char *option, const char *url);


int
lw_options_parse(lw_options_t *o, int argc, char **argv)
{
    int              i, plain, positional;
    size_t           k, len;
    const char      *arg, *value;
    const lw_opt_t  *opt;
    unsigned char    given[LW_OPTS_MAX];

    memset(o, 0, sizeof(*o));
    memset(given, 0, sizeof(given));

    if (argc < 2 || strcmp(argv[1], "--help") == 0
        || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)
    {
        lw_options_help(o);
        return argc < 2 ? LW_ERROR : LW_STOPPED;
    }

    if (strcmp(argv[1], "--version") == 0) {
        printf("lunary-worker %s\n", LW_VERSION);
        return LW_STOPPED;
    }

    for (k = 0; lw_commands[k].name; k++) {
        if (strcmp(argv[1], lw_commands[k].name) == 0) {
            o->command = lw_commands[k].command;
            o->name = lw_commands[k].name;
        }
    }

    if (o->name == NULL) {
        fprintf(stderr, "lunary-worker: no command \"%s\"; see --help\n",
                argv[1]);
        return LW_ERROR;
    }

    for (opt = lw_opts; opt->name; opt++) {
        if (opt->preset && lw_opt_set(o, opt, opt->preset, NULL) != LW_OK) {
            return LW_ERROR;
        }
    }

    plain = 0;
    positional = 0;

    for (i = 2; i < argc; i++) {

        arg = argv[i];

        if (!plain && (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0)) {
            lw_options_help(o);
            return LW_STOPPED;
        }

        /* what follows -- is no flag: a user may be called --help */

        if (!plain && strcmp(arg, "--") == 0) {
            plain = 1;
            continue;
        }

        if (plain || strncmp(arg, "--", 2) != 0) {

            if (!(o->command & (LW_SHOW | LW_FORGET)) || positional > 1) {
                fprintf(stderr, "lunary-worker: \"%s\" is not expected\n",
                        arg);
                return LW_ERROR;
            }

            if (positional++ == 0) {
                free(o->app);
                o->app = strdup(arg);
            } else {
                free(o->user);
                o->user = strdup(arg);
            }

            continue;
        }

        arg += 2;
        len = strcspn(arg, "=");
        opt = lw_opt_find(arg, len);

        if (opt == NULL || !(opt->commands & o->command)) {
            fprintf(stderr, "lunary-worker: %s knows no --%.*s; "
                    "see lunary-worker %s --help\n", o->name, (int) len, arg,
                    o->name);
            return LW_ERROR;
        }

        value = (arg[len] == '=') ? arg + len + 1 : NULL;

        if (opt->type == LW_OPT_FLAG) {
            value = value ? value : "on";

        } else if (value == NULL) {

            if (++i == argc) {
                fprintf(stderr, "lunary-worker: --%s wants %s\n", opt->name,
                        opt->value);
                return LW_ERROR;
            }

            value = argv[i];
        }

        if (lw_opt_set(o, opt, value, given) != LW_OK) {
            fprintf(stderr, "lunary-worker: --%s: \"%s\" is no %s\n",
                    opt->name, value, opt->value ? opt->value : "flag");
            return LW_ERROR;
        }
    }

    if (o->config && lw_config_read(o, given) != LW_OK) {
        return LW_ERROR;
    }

    return lw_options_finish(o);
}


static int
lw_options_finish(lw_options_t *o)
{
    char        host[128], name[256];
    size_t      i;
    const char  *colon;

    static const char  *levels[] = { "error", "warn", "notice", "info",
                                     "debug" };

    for (i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
        if (strcmp(o->log_level, levels[i]) == 0) {
            lw_log_level = (lw_log_e) i;
        }
    }

    if ((o->command & (LW_SHOW | LW_FORGET)) && o->user == NULL) {
        fprintf(stderr, "lunary-worker: %s wants APP and USER\n", o->name);
        return LW_ERROR;
    }

    if (o->command == LW_PRICE) {
        return LW_OK;
    }

    if (lw_options_streams(o) != LW_OK) {
        return LW_ERROR;
    }

    colon = strrchr(o->stream, ':');
    o->prefix = strndup(o->stream, colon ? (size_t) (colon + 1 - o->stream)
                                         : 0);

    if (o->group == NULL) {
        o->group = strdup(o->name);
    }

    if (o->consumer == NULL) {

        if (gethostname(host, sizeof(host)) != 0) {
            memcpy(host, "localhost", 10);
        }

        host[sizeof(host) - 1] = '\0';
        (void) snprintf(name, sizeof(name), "%s-%ld", host, (long) getpid());

        o->consumer = strdup(name);
        o->own_consumer = 1;
    }

    if (o->prefix == NULL || o->group == NULL || o->consumer == NULL) {
        return LW_NOMEM;
    }

    if ((o->command & LW_GROUPS)
        && (o->batch < 1 || o->batch > LW_BATCH_MAX || o->batch_bytes < 1))
    {
        fprintf(stderr, "lunary-worker: --batch is 1 to %d, --batch-bytes not "
                "0\n", LW_BATCH_MAX);
        return LW_ERROR;
    }

    /* Lunary takes 20 MB of JSON, and one entry may come on top */

    if (o->batch_bytes > 16 * 1024 * 1024) {
        o->batch_bytes = 16 * 1024 * 1024;
    }

    if (o->password_file
        && lw_options_secret("password-file", o->password_file, &o->password)
           != LW_OK)
    {
        return LW_ERROR;
    }

    for (i = 0; i < o->nprojects; i++) {
        if (lw_options_secret("project", o->projects[i].key_file,
                              &o->projects[i].key)
            != LW_OK)
        {
            return LW_ERROR;
        }
    }

    /* before anything is deleted, and without --yes, too */

    if (o->lunary_key_file
        && lw_options_secret("lunary-key-file", o->lunary_key_file,
                             &o->lunary_key)
           != LW_OK)
    {
        return LW_ERROR;
    }

    if (lw_options_url("api", o->api) != LW_OK
        || lw_options_url("endpoint", o->endpoint) != LW_OK)
    {
        return LW_ERROR;
    }

    if (o->command == LW_RELAY && o->nprojects == 0) {
        fprintf(stderr, "lunary-worker: relay wants --project APP=KEY_FILE\n");
        return LW_ERROR;
    }

    return LW_OK;
}


static int
lw_options_streams(lw_options_t *o)
{
    int64_t  i;
    char     name[512];

    if (o->shards < 1 || o->shards > LW_STREAMS_MAX
        || strlen(o->stream) > 400 || *o->stream == '\0')
    {
        fprintf(stderr, "lunary-worker: --stream or --shards is out of "
                "bounds\n");
        return LW_ERROR;
    }

    for (i = 0; i < o->shards; i++) {

        if (o->shards == 1) {
            (void) snprintf(name, sizeof(name), "%s", o->stream);

        } else {
            (void) snprintf(name, sizeof(name), "%s:{%d}", o->stream,
                            (int) i);
        }

        o->streams[o->nstreams] = strdup(name);

        if (o->streams[o->nstreams++] == NULL) {
            return LW_NOMEM;
        }
    }

    return LW_OK;
}


/* a command that has not the option has its preset all the same */

static int
lw_options_url(const char *option, const char *url)
{
    const char  *why;

    why = lw_url_check(url);

    if (why == NULL) {
        return LW_OK;
    }

    /* not the URL itself, in which there may be a password */

    fprintf(stderr, "lunary-worker: --%s: the URL %s\n", option, why);

    return LW_ERROR;
}


void
lw_options_free(lw_options_t *o)
{
    char           **list;
    size_t           i, n;
    const lw_opt_t  *opt;

    for (opt = lw_opts; opt->name; opt++) {

        list = (char **) (void *) ((char *) o + opt->offset);

        if (opt->type == LW_OPT_TEXT || opt->type == LW_OPT_WORD) {
            free(*list);

        } else if (opt->type == LW_OPT_LIST) {

            n = *(size_t *) (void *) ((char *) o + opt->count);

            for (i = 0; i < n; i++) {
                free(list[i]);
            }
        }
    }

    for (i = 0; i < o->nprojects; i++) {
        free(o->projects[i].app);
        free(o->projects[i].key_file);
        free(o->projects[i].key);
    }

    for (i = 0; i < o->nstreams; i++) {
        free(o->streams[i]);
    }

    free(o->password);
    free(o->lunary_key);
    free(o->prefix);

    memset(o, 0, sizeof(*o));
}


const lw_project_t *
lw_options_project(const lw_options_t *o, lunary_str_t app)
{
    size_t               i;
    const lw_project_t  *any;

    any = NULL;

    for (i = 0; i < o->nprojects; i++) {

        if (lw_str_same(lw_str(o->projects[i].app), app)) {
            return &o->projects[i];
        }

        if (strcmp(o->projects[i].app, "*") == 0) {
            any = &o->projects[i];
        }
    }

    return any;
}


int
lw_options_ignored(const lw_options_t *o, lunary_str_t app)
{
    size_t  i;

    for (i = 0; i < o->nignore; i++) {
        if (lw_str_same(lw_str(o->ignore[i]), app)) {
            return 1;
        }
    }

    return 0;
}
