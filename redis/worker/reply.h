/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What Redis answered: hiredis' reader and its redisReply, each reply with
 * all that is in it in one pool.  A batch of entries is tens of thousands of
 * strings: one by one, malloc() and free() would be most of a worker's work.
 *
 * Invariants
 *   - a reply and everything below it live until lw_reply_free(), which is
 *     for whole replies only, never for a part;
 *   - pools of freed replies are used again; a few are kept.
 */

#ifndef LW_REPLY_H
#define LW_REPLY_H

#include <hiredis/hiredis.h>

#include "lw.h"
#include "pool.h"


typedef struct lw_root_s  lw_root_t;

/* of a connection: the reply that is being read */
typedef struct {
    lw_root_t      *root;
} lw_maker_t;


/* from now on the reader makes replies of this kind */
void lw_reply_setup(redisReader *reader, lw_maker_t *m);

/* the reader's reply was handed out: the maker begins another */
void lw_reply_made(lw_maker_t *m);

/* the reader is gone, and what it had begun */
void lw_reply_drop(lw_maker_t *m);

/* NULL is allowed */
void lw_reply_free(redisReply *reply);

/* a reply, or a part of one, as a reply of its own; NULL: no memory */
redisReply *lw_reply_copy(const redisReply *reply);


/* a string's bytes; empty for anything else */
static inline lunary_str_t
lw_reply_str(const redisReply *reply)
{
    if (reply == NULL
        || (reply->type != REDIS_REPLY_STRING
            && reply->type != REDIS_REPLY_STATUS))
    {
        return lunary_str(NULL, 0);
    }

    return lunary_str(reply->str, (size_t) reply->len);
}

#define lw_reply_is_error(r)   ((r)->type == REDIS_REPLY_ERROR)
#define lw_reply_is_array(r)   ((r) && (r)->type == REDIS_REPLY_ARRAY)


#endif /* LW_REPLY_H */
