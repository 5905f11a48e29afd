/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Everything that is kept about one user of one app: the entries of the
 * streams and of the dead letters, and the keys beside them.  What show
 * prints and forget deletes is found here, by the same code.
 */

#ifndef LW_SUBJECT_H
#define LW_SUBJECT_H

#include "commands.h"
#include "http.h"


typedef struct {
    void           *ctx;

    /* an entry of a stream; dead: of its dead letters.  LW_OK goes on */
    int           (*entry)(lw_t *w, void *ctx, const char *stream, int dead,
                           const lw_entry_t *e);

    /* a key; policy: the operator's.  LW_OK goes on */
    int           (*key)(lw_t *w, void *ctx, lunary_str_t key, int policy);

    /* a run's id, a UUID and seldom one twice; may be NULL.  LW_OK goes on */
    int           (*run)(lw_t *w, void *ctx, lunary_str_t id);
} lw_subject_t;


/* LW_OK, LW_REDIS, LW_NOMEM, LW_STOPPED, or what a callback returned */
int lw_subject_find(lw_t *w, lw_subject_t *s);

/*
 * subject_lunary.c: deletes the runs (ids, each ended by a newline) and then
 * the user in Lunary; *deleted grows by those that were there.  LW_OK, or
 * LW_REMOTE, which was logged: to be done again, all of it.
 */
int lw_subject_lunary(lw_t *w, const lw_text_t *runs, int64_t *deleted);


#endif /* LW_SUBJECT_H */
