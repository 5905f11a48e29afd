/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Values of options: what is written, as what it means.
 */

#include <stdlib.h>

#include "options_internal.h"


static int lw_opt_time(const char *value, int64_t *ms);
static int lw_opt_size(const char *value, int64_t *n);
static int lw_opt_word(const char *words, const char *value);
static int lw_opt_project(lw_options_t *o, const char *value);
static int lw_opt_append(lw_options_t *o, const lw_opt_t *opt,
    const char *value);


int
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
