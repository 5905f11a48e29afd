/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Flags, the configuration file, and what --help says: one table.
 */

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include "options.h"


#define LW_CONFIG_MAX   (1024 * 1024)
#define LW_KEY_MAX      4096
#define LW_BATCH_MAX    5000

#define S(member)   offsetof(lw_options_t, member)


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


static const struct {
    const char     *name;
    lw_command_e    command;
    const char     *args;
    const char     *help;
} lw_commands[] = {
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
      "adds cost_usd to runs, JSON lines on standard input" }
};


static const lw_opt_t  lw_opts[] = {

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


static const lw_opt_t *lw_opt_find(const char *name, size_t len);
static int lw_opt_set(lw_options_t *o, const lw_opt_t *opt,
    const char *value, unsigned char *given);
static int lw_opt_time(const char *value, int64_t *ms);
static int lw_opt_size(const char *value, int64_t *n);
static int lw_opt_word(const char *words, const char *value);
static int lw_opt_project(lw_options_t *o, const char *value);
static int lw_opt_append(lw_options_t *o, const lw_opt_t *opt,
    const char *value);
static int lw_config_read(lw_options_t *o, const unsigned char *given);
static int lw_config_line(lw_options_t *o, const unsigned char *given,
    char *line, int *skip, unsigned n);
static int lw_options_finish(lw_options_t *o);
static int lw_options_streams(lw_options_t *o);
static int lw_options_secret(const char *path, char **out);
static void lw_options_help(const lw_options_t *o);


int
lw_options_parse(lw_options_t *o, int argc, char **argv)
{
    int              i, plain, positional;
    size_t           k, len;
    const char      *arg, *value;
    const lw_opt_t  *opt;
    unsigned char    given[sizeof(lw_opts) / sizeof(lw_opts[0])];

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

    for (k = 0; k < sizeof(lw_commands) / sizeof(lw_commands[0]); k++) {
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


static const lw_opt_t *
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


static int
lw_opt_set(lw_options_t *o, const lw_opt_t *opt, const char *value,
    unsigned char *given)
{
    char     **text;
    int64_t    n;
    char      *base;

    base = (char *) o + opt->offset;

    if (given) {
        given[opt - lw_opts] = 1;
    }

    switch (opt->type) {

    case LW_OPT_FLAG:

        if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0) {
            return LW_ERROR;
        }

        *(int *) (void *) base = (value[1] == 'n');
        return LW_OK;

    case LW_OPT_COUNT:

        if (!lw_int(lw_str(value), &n) || n < 0 || n > INT32_MAX) {
            return LW_ERROR;
        }

        *(int64_t *) (void *) base = n;
        return LW_OK;

    case LW_OPT_SIZE:
        return lw_opt_size(value, (int64_t *) (void *) base);

    case LW_OPT_TIME:
        return lw_opt_time(value, (int64_t *) (void *) base);

    case LW_OPT_LIST:
        return lw_opt_append(o, opt, value);

    case LW_OPT_PROJECT:
        return lw_opt_project(o, value);

    case LW_OPT_WORD:

        if (lw_opt_word(opt->words, value) != LW_OK) {
            return LW_ERROR;
        }

        /* fall through */

    default: /* LW_OPT_TEXT */

        text = (char **) (void *) base;

        free(*text);
        *text = strdup(value);

        return *text ? LW_OK : LW_NOMEM;
    }
}


static int
lw_opt_time(const char *value, int64_t *ms)
{
    size_t   digits, i;
    int64_t  n;

    static const struct {
        const char  *unit;
        int64_t      ms;
    } units[] = { { "ms", 1 }, { "s", 1000 }, { "", 1000 }, { "m", 60000 },
                  { "h", 3600000 }, { "d", 86400000 } };

    digits = strspn(value, "0123456789");

    if (!lw_int(lunary_str(value, digits), &n) || n > 1000000000) {
        return LW_ERROR;
    }

    for (i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(value + digits, units[i].unit) == 0) {
            *ms = n * units[i].ms;
            return LW_OK;
        }
    }

    return LW_ERROR;
}


static int
lw_opt_size(const char *value, int64_t *n)
{
    size_t  digits;

    digits = strspn(value, "0123456789");

    if (!lw_int(lunary_str(value, digits), n) || *n > 1000000000) {
        return LW_ERROR;
    }

    if (strcmp(value + digits, "k") == 0) {
        *n *= 1024;

    } else if (strcmp(value + digits, "m") == 0) {
        *n *= 1024 * 1024;

    } else if (value[digits] != '\0') {
        return LW_ERROR;
    }

    return LW_OK;
}


static int
lw_opt_word(const char *words, const char *value)
{
    size_t  len, n;

    n = strlen(value);

    while (*words) {

        len = strcspn(words, " ");

        if (len == n && memcmp(words, value, n) == 0) {
            return LW_OK;
        }

        words += len + (words[len] == ' ');
    }

    return LW_ERROR;
}


static int
lw_opt_project(lw_options_t *o, const char *value)
{
    const char    *equals;
    lw_project_t  *p;

    equals = strrchr(value, '=');

    if (equals == NULL || equals == value || equals[1] == '\0'
        || o->nprojects == LW_PROJECTS_MAX)
    {
        return LW_ERROR;
    }

    p = &o->projects[o->nprojects++];
    p->app = strndup(value, (size_t) (equals - value));
    p->key_file = strdup(equals + 1);

    return (p->app && p->key_file) ? LW_OK : LW_NOMEM;
}


static int
lw_opt_append(lw_options_t *o, const lw_opt_t *opt, const char *value)
{
    char    **list;
    size_t   *n;

    list = (char **) (void *) ((char *) o + opt->offset);
    n = (size_t *) (void *) ((char *) o + opt->count);

    if (*n == opt->max || *value == '\0') {
        return LW_ERROR;
    }

    list[*n] = strdup(value);

    return list[(*n)++] ? LW_OK : LW_NOMEM;
}


static int
lw_config_read(lw_options_t *o, const unsigned char *given)
{
    int            skip, rc;
    char          *line, *next;
    unsigned       n;
    lw_text_t      text;
    lunary_mem_t   mem;

    lunary_mem_init(&mem);
    lw_text_init(&text, &mem);

    rc = lw_file_read(o->config, &text, LW_CONFIG_MAX);
    lw_text_add(&text, "", 1);

    skip = 0;
    n = 0;
    line = (char *) text.buf.data;

    while (rc == LW_OK && !text.failed && line) {

        next = strchr(line, '\n');

        if (next) {
            *next++ = '\0';
        }

        rc = lw_config_line(o, given, line, &skip, ++n);
        line = next;
    }

    lw_text_free(&text);

    return rc;
}


static int
lw_config_line(lw_options_t *o, const unsigned char *given, char *line,
    int *skip, unsigned n)
{
    char            *end, *value;
    size_t           len;
    const lw_opt_t  *opt;

    line += strspn(line, " \t");
    end = line + strlen(line);

    while (end > line && strchr(" \t\r", end[-1])) {
        *--end = '\0';
    }

    if (*line == '\0' || *line == '#') {
        return LW_OK;
    }

    if (*line == '[') {
        *skip = !(end[-1] == ']'
                  && strlen(o->name) == (size_t) (end - line) - 2
                  && memcmp(line + 1, o->name, strlen(o->name)) == 0);
        return LW_OK;
    }

    len = strcspn(line, " \t=");
    opt = lw_opt_find(line, len);
    value = line + len + strspn(line + len, " \t");

    if (*value == '=') {
        value++;
        value += strspn(value, " \t");
    }

    if (opt == NULL || opt->offset == S(config)) {
        fprintf(stderr, "%s:%u: unknown setting \"%.*s\"\n", o->config, n,
                (int) len, line);
        return LW_ERROR;
    }

    /* flags win, and what other commands know is passed over */

    if (*skip || !(opt->commands & o->command) || given[opt - lw_opts]) {
        return LW_OK;
    }

    if (opt->type == LW_OPT_FLAG && *value == '\0') {
        value = (char *) (uintptr_t) "on";
    }

    if (lw_opt_set(o, opt, value, NULL) != LW_OK) {
        fprintf(stderr, "%s:%u: \"%s\" is no %s\n", o->config, n, value,
                opt->value ? opt->value : "flag (on, off)");
        return LW_ERROR;
    }

    return LW_OK;
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
        && lw_options_secret(o->password_file, &o->password) != LW_OK)
    {
        return LW_ERROR;
    }

    for (i = 0; i < o->nprojects; i++) {
        if (lw_options_secret(o->projects[i].key_file, &o->projects[i].key)
            != LW_OK)
        {
            return LW_ERROR;
        }
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


/* a file's first line */

static int
lw_options_secret(const char *path, char **out)
{
    size_t         len;
    lw_text_t      text;
    lunary_mem_t   mem;

    lunary_mem_init(&mem);
    lw_text_init(&text, &mem);

    if (lw_file_read(path, &text, LW_KEY_MAX) != LW_OK) {
        lw_text_free(&text);
        return LW_ERROR;
    }

    lw_text_add(&text, "", 1);

    len = text.failed ? 0 : strcspn((char *) text.buf.data, "\r\n");

    free(*out);
    *out = len ? strndup((char *) text.buf.data, len) : NULL;

    lw_text_free(&text);

    if (*out == NULL) {
        fprintf(stderr, "lunary-worker: %s: no key in it\n", path);
        return LW_ERROR;
    }

    return LW_OK;
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


static void
lw_options_help(const lw_options_t *o)
{
    char             left[64];
    size_t           i;
    const lw_opt_t  *opt;

    if (o->name == NULL) {
        printf("usage: lunary-worker COMMAND [OPTION]...\n\n"
               "Reads the stream of runs that ngx_lunary_module writes.\n\n");

        for (i = 0; i < sizeof(lw_commands) / sizeof(lw_commands[0]); i++) {
            printf("  %-8s %s\n", lw_commands[i].name, lw_commands[i].help);
        }

        printf("\nlunary-worker COMMAND --help lists a command's options.\n");
        return;
    }

    for (i = 0; i < sizeof(lw_commands) / sizeof(lw_commands[0]); i++) {
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
