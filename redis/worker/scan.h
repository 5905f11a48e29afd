/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Keys of the prefix, by Redis' SCAN: some at a time, none of those left out
 * that are there from beginning to end, and perhaps one twice.
 */

#ifndef LW_SCAN_H
#define LW_SCAN_H

#include "redis.h"


typedef struct {
    lw_t           *w;
    char            cursor[32];
    size_t          skip;          /* of each key: the prefix and the kind    */
    lw_text_t       match;
    redisReply     *reply;
} lw_scan_t;


/* keys that begin with the prefix and `kind` */
void lw_scan_begin(lw_scan_t *s, lw_t *w, const char *kind);
void lw_scan_end(lw_scan_t *s);

/* *list: the next keys, valid until the next call; LW_OK or LW_REDIS */
int lw_scan_next(lw_scan_t *s, redisReply **list, int *more);

/* what is behind the kind; 0 where the key is another */
int lw_scan_rest(const lw_scan_t *s, const redisReply *key,
    lunary_str_t *rest);


#endif /* LW_SCAN_H */
