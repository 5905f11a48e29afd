/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Clauses of the price table.  See match.h.  Patterns are POSIX ones over
 * names of at most LW_NAME_MAX bytes, from a file of ours: no client chooses
 * them.
 */

#include <regex.h>
#include <stdlib.h>

#include "match.h"


#define LW_MATCH_DEPTH  8


typedef enum {
    LW_MATCH_IS = 0,
    LW_MATCH_STARTS,
    LW_MATCH_ENDS,
    LW_MATCH_CONTAINS,
    LW_MATCH_REGEX,
    LW_MATCH_NOT,
    LW_MATCH_OR,
    LW_MATCH_AND
} lw_match_e;


struct lw_match_s {
    lw_match_e     op;
    char          *text;
    size_t         len;
    regex_t        regex;
    int            compiled;
    lw_match_t    *first;         /* of the clauses inside                    */
    lw_match_t    *next;
};


static const struct {
    const char    *name;
    lw_match_e     op;
} lw_match_ops[] = {
    { "is",       LW_MATCH_IS },
    { "starts",   LW_MATCH_STARTS },
    { "ends",     LW_MATCH_ENDS },
    { "contains", LW_MATCH_CONTAINS },
    { "regex",    LW_MATCH_REGEX },
    { "not",      LW_MATCH_NOT },
    { "or",       LW_MATCH_OR },
    { "and",      LW_MATCH_AND }
};


static lw_match_t *lw_match_clause(lunary_str_t json, unsigned depth);
static int lw_match_inner(lw_match_t *m, lunary_str_t val, unsigned depth);


lw_match_t *
lw_match_compile(lunary_str_t json)
{
    return lw_match_clause(json, 0);
}


static lw_match_t *
lw_match_clause(lunary_str_t json, unsigned depth)
{
    size_t               i;
    lw_match_t          *m;
    lunary_str_t         key, val;
    lunary_json_iter_t   it;

    lunary_json_iter(&it, json);

    if (depth > LW_MATCH_DEPTH || !lunary_json_is_object(json)
        || !lunary_json_member(&it, &key, &val))
    {
        return NULL;
    }

    m = calloc(1, sizeof(*m));
    if (m == NULL) {
        return NULL;
    }

    for (i = 0; i < sizeof(lw_match_ops) / sizeof(lw_match_ops[0]); i++) {

        if (lunary_str_eq(key, lw_match_ops[i].name,
                          strlen(lw_match_ops[i].name)))
        {
            m->op = lw_match_ops[i].op;

            if (lw_match_inner(m, val, depth) == LW_OK) {
                return m;
            }

            break;
        }
    }

    lw_match_free(m);

    return NULL;
}


static int
lw_match_inner(lw_match_t *m, lunary_str_t val, unsigned depth)
{
    lw_text_t            text;
    lw_match_t         **last;
    lunary_mem_t         mem;
    lunary_str_t         one;
    lunary_json_iter_t   it;

    if (m->op == LW_MATCH_NOT) {
        m->first = lw_match_clause(val, depth + 1);
        return m->first ? LW_OK : LW_ERROR;
    }

    if (m->op == LW_MATCH_OR || m->op == LW_MATCH_AND) {

        last = &m->first;
        lunary_json_iter(&it, val);

        while (lunary_json_element(&it, &one)) {

            *last = lw_match_clause(one, depth + 1);

            if (*last == NULL) {
                return LW_ERROR;
            }

            last = &(*last)->next;
        }

        return m->first ? LW_OK : LW_ERROR;
    }

    if (!lunary_json_is_string(val)) {
        return LW_ERROR;
    }

    lunary_mem_init(&mem);
    lw_text_init(&text, &mem);
    lw_text_plain(&text, val);
    lw_text_add(&text, "", 1);

    if (text.failed) {
        lw_text_free(&text);
        return LW_NOMEM;
    }

    /* malloc()ed by lunary_mem_init()'s allocator: ours to free() */

    m->text = (char *) text.buf.data;
    m->len = text.buf.len - 1;

    if (m->op == LW_MATCH_REGEX) {

        if (regcomp(&m->regex, m->text, REG_EXTENDED | REG_NOSUB) != 0) {
            return LW_ERROR;
        }

        m->compiled = 1;
    }

    return LW_OK;
}


void
lw_match_free(lw_match_t *m)
{
    lw_match_t  *next;

    while (m) {

        next = m->next;

        lw_match_free(m->first);

        if (m->compiled) {
            regfree(&m->regex);
        }

        free(m->text);
        free(m);

        m = next;
    }
}


int
lw_match(const lw_match_t *m, const char *text, size_t len)
{
    const lw_match_t  *c;

    switch (m->op) {

    case LW_MATCH_IS:
        return len == m->len && memcmp(text, m->text, len) == 0;

    case LW_MATCH_STARTS:
        return len >= m->len && memcmp(text, m->text, m->len) == 0;

    case LW_MATCH_ENDS:
        return len >= m->len
               && memcmp(text + len - m->len, m->text, m->len) == 0;

    case LW_MATCH_CONTAINS:
        return strstr(text, m->text) != NULL;

    case LW_MATCH_REGEX:
        return regexec(&m->regex, text, 0, NULL, 0) == 0;

    case LW_MATCH_NOT:
        return !lw_match(m->first, text, len);

    case LW_MATCH_OR:

        for (c = m->first; c; c = c->next) {
            if (lw_match(c, text, len)) {
                return 1;
            }
        }

        return 0;

    default: /* LW_MATCH_AND */

        for (c = m->first; c; c = c->next) {
            if (!lw_match(c, text, len)) {
                return 0;
            }
        }

        return 1;
    }
}
