/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * lunary-worker: signals, and which command it is.  See lw.h for what they
 * share, docs/worker.md for what each does.
 */

#include <locale.h>
#include <stdlib.h>

#include "commands.h"


static const struct {
    lw_command_e    command;
    int           (*run)(lw_t *w, int argc, char **argv);
} lw_runners[] = {
    { LW_RELAY,  lw_relay },
    { LW_LEDGER, lw_ledger },
    { LW_EXPORT, lw_export },
    { LW_TAIL,   lw_tail },
    { LW_USERS,  lw_users },
    { LW_SHOW,   lw_show },
    { LW_FORGET, lw_forget },
    { LW_PRICE,  lw_price }
};


static void lw_signal(int signo);
static char **lw_arguments(int argc, char **argv);
static void lw_arguments_free(char **args);
static int lw_signals(void);


int
main(int argc, char **argv)
{
    int     rc;
    size_t  i;
    lw_t    w;
    char  **args;

    (void) setlocale(LC_CTYPE, "C.UTF-8");

    memset(&w, 0, sizeof(w));
    lunary_mem_init(&w.mem);

    w.options = calloc(1, sizeof(*w.options));

    if (w.options == NULL || lw_signals() != LW_OK) {
        return LW_EXIT_USAGE;
    }

    args = lw_arguments(argc, argv);

    if (args == NULL) {
        free(w.options);
        return LW_EXIT_USAGE;
    }

    rc = lw_options_parse(w.options, argc, args);

    if (rc != LW_OK) {
        lw_options_free(w.options);
        free(w.options);
        lw_arguments_free(args);
        return rc == LW_STOPPED ? LW_EXIT_OK : LW_EXIT_USAGE;
    }

    w.prices = lw_prices_load(&w.mem, w.options->prices);

    if (w.options->command != LW_PRICE) {
        w.redis = lw_redis_create(w.options);
    }

    if (w.prices == NULL
        || (w.redis == NULL && w.options->command != LW_PRICE))
    {
        rc = LW_EXIT_USAGE;

    } else {

        rc = LW_EXIT_USAGE;
        (void) curl_global_init(CURL_GLOBAL_DEFAULT);

        for (i = 0; i < sizeof(lw_runners) / sizeof(lw_runners[0]); i++) {
            if (lw_runners[i].command == w.options->command) {
                rc = lw_runners[i].run(&w, argc, args);
            }
        }

        curl_global_cleanup();
    }

    lw_redis_free(w.redis);
    lw_prices_free(w.prices);
    lw_options_free(w.options);
    free(w.options);
    lw_arguments_free(args);

    return rc;
}


/*
 * A copy, for the command line is parsed again on SIGHUP; from the original,
 * which ps shows, passwords in URLs are taken out.
 */

static char **
lw_arguments(int argc, char **argv)
{
    int     i;
    char   *from, *at, **args;

    args = calloc((size_t) argc + 1, sizeof(*args));

    for (i = 0; args && i < argc; i++) {

        args[i] = strdup(argv[i]);

        if (args[i] == NULL) {
            lw_arguments_free(args);
            return NULL;
        }

        from = strstr(argv[i], "://");
        at = from ? strrchr(from, '@') : NULL;

        if (at) {
            memset(from + 3, '*', (size_t) (at - from) - 3);
        }
    }

    return args;
}


static void
lw_arguments_free(char **args)
{
    int  i;

    for (i = 0; args[i]; i++) {
        free(args[i]);
    }

    free(args);
}


static int
lw_signals(void)
{
    struct sigaction  sa;

    memset(&sa, 0, sizeof(sa));
    sa.sa_handler = lw_signal;

    /* no SA_RESTART: what waits wakes up */

    if (sigaction(SIGTERM, &sa, NULL) != 0
        || sigaction(SIGINT, &sa, NULL) != 0
        || sigaction(SIGHUP, &sa, NULL) != 0)
    {
        return LW_ERROR;
    }

    sa.sa_handler = SIG_IGN;

    return sigaction(SIGPIPE, &sa, NULL) == 0 ? LW_OK : LW_ERROR;
}


static void
lw_signal(int signo)
{
    if (signo == SIGHUP) {
        lw_reload = 1;
        return;
    }

    if (lw_stop < 2) {
        lw_stop++;
    }
}
