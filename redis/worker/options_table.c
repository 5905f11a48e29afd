/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Commands, flags, and what --help says of them: one table.
 */

#include <stddef.h>

#include "options_internal.h"


const lw_command_t  lw_commands[] = {
    { "relay", LW_RELAY, "--project APP=KEY_FILE",
      "sends runs and SDK events to Lunary" },
    { "ledger", LW_LEDGER, "",
      "counts runs, tokens and cost of each user, in Redis" },
    { "export", LW_EXPORT, "--endpoint URL",
      "sends runs as OpenTelemetry spans (OTLP/HTTP JSON)" },
    { "tail", LW_TAIL, "", "shows runs as they come" },
    { "users", LW_USERS, "", "shows the ledger's users" },
    { "show", LW_SHOW, "APP USER",
      "everything that is kept about a user" },
    { "forget", LW_FORGET, "APP USER --yes",
      "deletes everything that is kept about a user" },
    { "price", LW_PRICE, "",
      "adds cost_usd to runs, JSON lines on standard input" },

    { NULL, LW_ANY, NULL, NULL }
};


const lw_opt_t  lw_opts[] = {

    { "config", LW_OPT_TEXT, S(config), LW_ANY, "FILE", NULL, NULL, 0, 0,
      "lines `name value`; [relay] and the like begin a command's own" },

    { "redis", LW_OPT_TEXT, S(redis), LW_READS, "URL",
      "redis://127.0.0.1:6379/0", NULL, 0, 0,
      "redis://[user:pass@]host:port/db, rediss://..., unix:/path[?db=0]" },
    { "password-file", LW_OPT_TEXT, S(password_file), LW_READS, "FILE", NULL,
      NULL, 0, 0, "Redis' password" },
    { "ca", LW_OPT_TEXT, S(ca), LW_READS, "FILE", NULL, NULL, 0, 0,
      "certificates that rediss:// trusts" },
    { "timeout", LW_OPT_TIME, S(timeout), LW_READS, "TIME", "5s", NULL, 0, 0,
      "of a command to Redis" },
    { "stream", LW_OPT_TEXT, S(stream), LW_READS, "NAME", "lunary:runs", NULL,
      0, 0, "as in lunary_stream" },
    { "shards", LW_OPT_COUNT, S(shards), LW_READS, "N", "1", NULL, 0, 0,
      "as in lunary_stream: NAME:{0} to NAME:{N-1}" },

    { "group", LW_OPT_TEXT, S(group), LW_GROUPS, "NAME", NULL, NULL, 0, 0,
      "consumer group (the command's name)" },
    { "consumer", LW_OPT_TEXT, S(consumer), LW_GROUPS, "NAME", NULL, NULL,
      0, 0, "name within the group (host-pid)" },
    { "once", LW_OPT_FLAG, S(once), LW_GROUPS, NULL, NULL, NULL, 0, 0,
      "ends when there is nothing left to read" },
    { "batch", LW_OPT_COUNT, S(batch), LW_GROUPS, "N", "500", NULL, 0, 0,
      "entries at a time" },
    { "batch-bytes", LW_OPT_SIZE, S(batch_bytes), LW_GROUPS, "SIZE", "4m",
      NULL, 0, 0, "and bytes of a request before compression" },
    { "linger", LW_OPT_TIME, S(linger), LW_GROUPS, "TIME", "500ms", NULL,
      0, 0, "how long a batch is waited for" },
    { "claim-after", LW_OPT_TIME, S(claim_after), LW_GROUPS, "TIME", "60s",
      NULL, 0, 0, "take over what another consumer left this long" },
    { "max-deliveries", LW_OPT_COUNT, S(max_deliveries), LW_GROUPS, "N",
      "100", NULL, 0, 0, "then an entry is a dead letter; 0: never" },
    { "dead-maxlen", LW_OPT_COUNT, S(dead_maxlen), LW_GROUPS, "N", "100000",
      NULL, 0, 0, "about so many dead letters are kept" },
    { "drain", LW_OPT_TIME, S(drain), LW_GROUPS, "TIME", "20s", NULL, 0, 0,
      "after SIGTERM, for the batch at hand" },
    { "metrics", LW_OPT_TEXT, S(metrics), LW_GROUPS, "FILE", NULL, NULL, 0, 0,
      "counters, for the node exporter's textfile collector" },
    { "quiet", LW_OPT_FLAG, S(quiet), LW_GROUPS, NULL, NULL, NULL, 0, 0,
      "no progress line on a terminal" },
    { "log-level", LW_OPT_WORD, S(log_level), LW_ANY, "LEVEL", "notice",
      "error warn notice info debug", 0, 0,
      "error, warn, notice, info or debug" },

    { "api", LW_OPT_TEXT, S(api), LW_RELAY | LW_FORGET, "URL",
      "https://api.lunary.ai", NULL, 0, 0, "Lunary's" },
    { "project", LW_OPT_PROJECT, S(projects), LW_RELAY, "APP=KEY_FILE", NULL,
      NULL, 0, 0, "an app's public key; `*=FILE` for all others" },
    { "ignore", LW_OPT_LIST, S(ignore), LW_RELAY, "APP", NULL, NULL,
      S(nignore), LW_PROJECTS_MAX, "an app that is not to be sent" },
    { "no-gzip", LW_OPT_FLAG, S(no_gzip), LW_RELAY | LW_EXPORT, NULL, NULL,
      NULL, 0, 0, "requests are not compressed" },
    { "no-threads", LW_OPT_FLAG, S(no_threads), LW_RELAY, NULL, NULL, NULL,
      0, 0, "no chat messages of runs with a thread" },
    { "http-timeout", LW_OPT_TIME, S(http_timeout),
      LW_RELAY | LW_EXPORT | LW_FORGET, "TIME", "30s", NULL, 0, 0,
      "of one request" },
    { "remember", LW_OPT_TIME, S(remember), LW_RELAY, "TIME", "1h", NULL,
      0, 0, "how long a relayed run can become a parent" },
    { "hold", LW_OPT_TIME, S(hold), LW_RELAY, "TIME", "2s", NULL, 0, 0,
      "an SDK's end waits so long for its start" },
    { "metadata", LW_OPT_LIST, S(metadata), LW_RELAY, "FIELD", NULL, NULL,
      S(nmetadata), LW_FIELDS_MAX,
      "a run's field that goes into Lunary's metadata" },

    { "llm", LW_OPT_WORD, S(llm), LW_LEDGER, "keep|drop", "keep",
      "keep drop", 0, 0, "drop: SDK's own llm events are not counted" },
    { "max-claimed", LW_OPT_COUNT, S(max_claimed), LW_LEDGER | LW_RELAY, "N",
      "10000", NULL, 0, 0,
      "unverified users an app; more are counted together" },
    { "claimed-ttl", LW_OPT_TIME, S(claimed_ttl), LW_LEDGER | LW_RELAY,
      "TIME", "30d", NULL, 0, 0, "of an unverified user's keys" },
    { "daily-ttl", LW_OPT_TIME, S(daily_ttl), LW_LEDGER, "TIME", "90d", NULL,
      0, 0, "of counters by the day" },
    { "dedup", LW_OPT_TIME, S(dedup), LW_LEDGER, "TIME", "1h", NULL, 0, 0,
      "two entries of one run within this count once; 0: not looked for" },
    { "prices", LW_OPT_TEXT, S(prices),
      LW_LEDGER | LW_TAIL | LW_EXPORT | LW_PRICE, "FILE", NULL, NULL, 0, 0,
      "another price table than the built-in one" },

    { "endpoint", LW_OPT_TEXT, S(endpoint), LW_EXPORT, "URL",
      "http://127.0.0.1:4318", NULL, 0, 0, "of the collector" },
    { "header", LW_OPT_LIST, S(headers), LW_EXPORT, "'NAME: VALUE'", NULL,
      NULL, S(nheaders), LW_FIELDS_MAX, "sent to the collector" },
    { "contents", LW_OPT_FLAG, S(contents), LW_EXPORT, NULL, NULL, NULL,
      0, 0, "messages become attributes, too" },

    { "app", LW_OPT_TEXT, S(app), LW_TAIL | LW_USERS, "APP", NULL, NULL,
      0, 0, "only of this app" },
    { "user", LW_OPT_TEXT, S(user), LW_TAIL, "USER", NULL, NULL, 0, 0,
      "only of this user" },
    { "last", LW_OPT_COUNT, S(last), LW_TAIL, "N", "10", NULL, 0, 0,
      "so many of what is there already" },
    { "no-follow", LW_OPT_FLAG, S(follow_off), LW_TAIL, NULL, NULL, NULL,
      0, 0, "does not wait for more" },
    { "color", LW_OPT_WORD, S(color), LW_TAIL | LW_USERS, "WHEN", "auto",
      "auto always never", 0, 0, "auto, always or never" },
    { "sort", LW_OPT_WORD, S(sort), LW_USERS, "BY", "cost",
      "cost runs tokens last first user", 0, 0,
      "cost, runs, tokens, last, first or user" },
    { "limit", LW_OPT_COUNT, S(limit), LW_USERS, "N", "0", NULL, 0, 0,
      "so many rows; 0: all" },
    { "html", LW_OPT_TEXT, S(html), LW_USERS, "FILE", NULL, NULL, 0, 0,
      "as one page; - for standard output" },
    { "json", LW_OPT_FLAG, S(json), LW_TAIL | LW_USERS | LW_SHOW | LW_FORGET,
      NULL, NULL, NULL, 0, 0, "JSON (tail: lines)" },

    { "lunary-key-file", LW_OPT_TEXT, S(lunary_key_file), LW_FORGET, "FILE",
      NULL, NULL, 0, 0, "private key: deletes the user in Lunary, too" },
    { "policy", LW_OPT_FLAG, S(policy), LW_FORGET, NULL, NULL, NULL, 0, 0,
      "deletes the operator's policy of the user, too" },
    { "yes", LW_OPT_FLAG, S(yes), LW_FORGET, NULL, NULL, NULL, 0, 0,
      "does it; without, only says what there is" },

    { NULL, LW_OPT_FLAG, 0, 0, NULL, NULL, NULL, 0, 0, NULL }
};


_Static_assert(sizeof(lw_opts) / sizeof(lw_opts[0]) <= LW_OPTS_MAX,
               "LW_OPTS_MAX is too small");


const lw_opt_t *
lw_opt_find(const char *name, size_t len)
{
    const lw_opt_t  *opt;

    for (opt = lw_opts; opt->name; opt++) {
        if (strlen(opt->name) == len && memcmp(opt->name, name, len) == 0) {
            return opt;
        }
    }

    return NULL;
}


void
lw_options_help(const lw_options_t *o)
{
    char             left[64];
    size_t           i;
    const lw_opt_t  *opt;

    if (o->name == NULL) {
        printf("usage: lunary-worker COMMAND [OPTION]...\n\n"
               "Reads the stream of runs that ngx_lunary_module writes.\n\n");

        for (i = 0; lw_commands[i].name; i++) {
            printf("  %-8s %s\n", lw_commands[i].name, lw_commands[i].help);
        }

        printf("\nlunary-worker COMMAND --help lists a command's options.\n");
        return;
    }

    for (i = 0; lw_commands[i].name; i++) {
        if (lw_commands[i].command == o->command) {
            printf("usage: lunary-worker %s %s [OPTION]...\n\n%s.\n\n",
                   o->name, lw_commands[i].args, lw_commands[i].help);
        }
    }

    for (opt = lw_opts; opt->name; opt++) {

        if (!(opt->commands & o->command)) {
            continue;
        }

        (void) snprintf(left, sizeof(left), "--%s %s", opt->name,
                        opt->value ? opt->value : "");

        printf("  %-26s %s%s%s%s\n", left, opt->help,
               opt->preset ? " (" : "", opt->preset ? opt->preset : "",
               opt->preset ? ")" : "");
    }

    printf("\nSIGTERM ends after the batch at hand, SIGHUP reads the "
           "configuration again.\nExit codes: 0 done, 1 something is left, "
           "2 usage, 3 Redis, 4 Lunary or collector,\n5 nothing is known of "
           "the user.\n");
}
