/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Keys of the prefix.  See scan.h.
 */

#include "scan.h"


void
lw_scan_begin(lw_scan_t *s, lw_t *w, const char *kind)
{
    const char  *p;

    memset(s, 0, sizeof(*s));

    s->w = w;
    s->skip = strlen(w->options->prefix) + strlen(kind);
    memcpy(s->cursor, "0", 2);

    lw_text_init(&s->match, &w->mem);

    /* the prefix is an operator's word: no pattern */

    for (p = w->options->prefix; *p; p++) {

        if (strchr("*?[]\\", *p)) {
            lw_text_lit(&s->match, "\\");
        }

        lw_text_add(&s->match, p, 1);
    }

    lw_text_add(&s->match, kind, strlen(kind));
    lw_text_lit(&s->match, "*");
}


void
lw_scan_end(lw_scan_t *s)
{
    lw_reply_free(s->reply);
    lw_text_free(&s->match);
}


int
lw_scan_next(lw_scan_t *s, redisReply **list, int *more)
{
    lw_args_t     *a;
    redisReply    *reply;
    lunary_str_t   cursor;

    lw_reply_free(s->reply);
    s->reply = NULL;

    a = lw_args(s->w->redis);
    lw_arg_lit(a, "SCAN");
    lw_arg_z(a, s->cursor);
    lw_arg_lit(a, "MATCH");
    lw_arg_str(a, lw_text_get(&s->match));
    lw_arg_lit(a, "COUNT");
    lw_arg_lit(a, "1000");

    reply = s->match.failed ? NULL : lw_args_call(a);
    s->reply = reply;

    if (!lw_reply_is_array(reply) || reply->elements != 2
        || !lw_reply_is_array(reply->element[1]))
    {
        return LW_REDIS;
    }

    cursor = lw_reply_str(reply->element[0]);

    if (cursor.len == 0 || cursor.len >= sizeof(s->cursor)) {
        return LW_REDIS;
    }

    memcpy(s->cursor, cursor.data, cursor.len);
    s->cursor[cursor.len] = '\0';

    *list = reply->element[1];
    *more = strcmp(s->cursor, "0") != 0;

    return LW_OK;
}


int
lw_scan_rest(const lw_scan_t *s, const redisReply *key, lunary_str_t *rest)
{
    lunary_str_t  name;

    name = lw_reply_str(key);

    if (name.len <= s->skip) {
        return 0;
    }

    *rest = lunary_str(name.data + s->skip, name.len - s->skip);

    return 1;
}
