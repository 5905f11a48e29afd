/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The configuration file, and files that hold a secret.
 */

#include <stddef.h>
#include <stdlib.h>

#include "options_internal.h"


#define LW_CONFIG_MAX   (1024 * 1024)
#define LW_KEY_MAX      4096


static int lw_config_line(lw_options_t *o, const unsigned char *given,
    char *line, int *skip, unsigned n);
static int lw_config_section(const lw_options_t *o, const char *line,
    size_t len, int *skip, unsigned n);


int
lw_config_read(lw_options_t *o, const unsigned char *given)
{
    int            skip, rc;
    char          *line, *next;
    unsigned       n;
    lw_text_t      text;
    lunary_mem_t   mem;

    lunary_mem_init(&mem);
    lw_text_init(&text, &mem);

    rc = lw_file_read("config", o->config, &text, LW_CONFIG_MAX);
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
        return lw_config_section(o, line, (size_t) (end - line), skip, n);
    }

    len = strcspn(line, " \t=");
    opt = lw_opt_find(line, len);
    value = line + len + strspn(line + len, " \t");

    if (*value == '=') {
        value++;
        value += strspn(value, " \t");
    }

    if (opt == NULL || opt->offset == S(config)) {
        fprintf(stderr, "lunary-worker: %s:%u: unknown setting \"%.*s\"\n",
                o->config, n, (int) len, line);
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
        fprintf(stderr, "lunary-worker: %s:%u: \"%s\" is no %s\n", o->config,
                n, value, opt->value ? opt->value : "flag (on, off)");
        return LW_ERROR;
    }

    return LW_OK;
}


/* [relay]: what follows is for that command alone */

static int
lw_config_section(const lw_options_t *o, const char *line, size_t len,
    int *skip, unsigned n)
{
    size_t       i;
    const char  *name;

    for (i = 0; (name = lw_commands[i].name) != NULL; i++) {

        if (len == strlen(name) + 2 && line[len - 1] == ']'
            && memcmp(line + 1, name, len - 2) == 0)
        {
            *skip = (lw_commands[i].command != o->command);
            return LW_OK;
        }
    }

    fprintf(stderr, "lunary-worker: %s:%u: unknown section \"%s\"\n",
            o->config, n, line);

    return LW_ERROR;
}


/* a file's first line */

int
lw_options_secret(const char *option, const char *path, char **out)
{
    size_t         len;
    lw_text_t      text;
    lunary_mem_t   mem;

    lunary_mem_init(&mem);
    lw_text_init(&text, &mem);

    if (lw_file_read(option, path, &text, LW_KEY_MAX) != LW_OK) {
        lw_text_free(&text);
        return LW_ERROR;
    }

    lw_text_add(&text, "", 1);

    len = text.failed ? 0 : strcspn((char *) text.buf.data, "\r\n");

    free(*out);
    *out = len ? strndup((char *) text.buf.data, len) : NULL;

    lw_text_free(&text);

    if (*out == NULL) {
        fprintf(stderr, "lunary-worker: --%s: %s: nothing in its first line\n",
                option, path);
        return LW_ERROR;
    }

    return LW_OK;
}
