/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A member of a consumer group: reads batches, takes over what others left,
 * reconnects, drains and reloads.  What happens to a batch is its command's.
 *
 * Invariants
 *   - an entry is pending in Redis until somebody acknowledges it, whatever
 *     becomes of this process;
 *   - at most two batches of entries are in memory (that at hand, and one
 *     read ahead), each of about --batch-bytes, and what a command keeps;
 *   - after each connect the entries that this consumer was given before are
 *     read again: nothing is lost in a broken connection.
 */

#ifndef LW_GROUP_H
#define LW_GROUP_H

#include "entry.h"


typedef struct {
    lw_entry_t     *entries;
    size_t          n;
    size_t          cap;
    size_t          bytes;
    redisReply    **replies;         /* that they lie in                      */
    size_t          nreplies;
    size_t          creplies;
} lw_batch_t;


/*
 * What a command does with entries.  take() handles a batch, which is freed
 * behind it: an entry stays only by lw_entry_keep().  It is also called with
 * an empty batch where wants() is not 0.  last: nothing more will come.
 * LW_OK, LW_REDIS, LW_NOMEM or LW_ERROR (ends the worker).
 *
 * wants(): entries that are kept, to be looked at again soon.  reload(): the
 * options are new.  reset(): the connection broke: what was kept is to be
 * dropped, for it will be read again.
 */
typedef struct {
    int           (*take)(lw_t *w, lw_batch_t *b, int last);
    size_t        (*wants)(lw_t *w);
    int           (*reload)(lw_t *w);
    void          (*reset)(lw_t *w);
} lw_handler_t;


/* reads until told to stop (or, once, until all is read): an exit code */
int lw_group_run(lw_t *w, const lw_handler_t *h, int argc, char **argv);


void lw_batch_free(lw_batch_t *b);

/*
 * take() calls this when it has read what it needs to know and begins to
 * work: the next batch is asked for, if there seems to be one.  LW_OK or
 * LW_REDIS.
 */
int lw_group_ahead(lw_t *w);

/*
 * Acknowledges entries: LW_OK or LW_REDIS, as these all.  lw_group_bury()
 * moves one to the dead letters and acknowledges it in the same step; where
 * Redis refuses that the entry stays pending, which is logged, and LW_OK.
 */
int lw_group_ack(lw_t *w, const lw_entry_t *entries, size_t n);

/*
 * They stay pending for a reason that is not theirs: this delivery does not
 * count for --max-deliveries.
 */
int lw_group_excuse(lw_t *w, const lw_entry_t *entries, size_t n);

int lw_group_bury(lw_t *w, const lw_entry_t *e, const char *reason);


#endif /* LW_GROUP_H */
