/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Making a JSON text in memory smaller, in place.  The text may be the start
 * of one (brackets still open): what must not be touched begins at `fixed`.
 * Private to inspect/.
 *
 * Invariants
 *   - [0, fixed) holds whole tokens only; it is valid JSON but for brackets
 *     that are still open, and stays so;
 *   - every step makes the text shorter or leaves it as it is, in one or two
 *     passes over it and without memory;
 *   - text after + bytes counted as removed = text before, but for white
 *     space between tokens;
 *   - what comes out is the same whether or not something was set aside.
 */

#ifndef LUNARY_REDUCE_H
#define LUNARY_REDUCE_H

#include "lunary_base.h"


#define LUNARY_REDUCE_MARKS  16
#define LUNARY_REDUCE_NOTES  16
#define LUNARY_REDUCE_KEY    47
#define LUNARY_REDUCE_ENDS   64


/* an element that stands for others: where it is, what it stands for */

typedef struct {
    size_t          at;
    size_t          bytes;
} lunary_reduce_mark_t;


/* how much has been taken out of one top-level member */

typedef struct {
    size_t          removed;
    uint8_t         len;
    unsigned char   key[LUNARY_REDUCE_KEY];
} lunary_reduce_note_t;


/*
 * The array that lost elements last, while it is open: mostly it is the one
 * to lose the next, and only what came since has to be looked at.  So may be
 * one that was closed, if no other array is around it.  The first one is found
 * by the way, when strings are cut.  Where elements of it begin is written down
 * as they are found: each one, or, where they are many, each second, fourth ...
 * one.  `moved` is to be taken off.  `open` is of the text as it lies: what
 * moves that, forgets it.
 */

typedef struct {
    size_t          start;           /* its bracket                           */
    size_t          last;            /* its newest entry                      */
    size_t          end;             /* behind it, where it has ended         */
    size_t          key;             /* the top-level key it is under ...     */
    size_t          key_len;
    size_t          at;              /* so far the text has been looked at    */
    size_t          open;            /* its newest object or array, if told   */
    unsigned        level;           /* brackets open in it, there            */
    unsigned        depth;           /* brackets open around its elements     */
    unsigned        valid;
    unsigned        ended;
    unsigned        closed;          /* nothing is looked for any more        */
    unsigned        lost;            /* what came since `at` is to be read    */
    unsigned        first;           /* of what is written down               */
    unsigned        n;
    unsigned        each;            /* how many elements an entry is for ... */
    unsigned        count;           /* ... and so many came since the last   */
    unsigned        drops;           /* how often it has lost some            */
    size_t          moved;
    size_t          ends[LUNARY_REDUCE_ENDS];
} lunary_reduce_hot_t;


typedef struct {
    unsigned char  *data;
    size_t          len;             /* without what is set aside             */
    size_t          fixed;

    /* old elements of the hot array that lie elsewhere in the memory at data
     * than they are in the text: none where aside is 0 */

    size_t          aside;           /* bytes: whole elements, commas behind  */
    size_t          aside_at;        /* where they lie, not before len        */
    size_t          behind;          /* where in the text they belong         */

    size_t          cut;             /* longer strings lose their middle      */
    size_t          removed;

    unsigned        nmarks;
    unsigned        nnotes;

    lunary_reduce_mark_t  marks[LUNARY_REDUCE_MARKS];
    lunary_reduce_note_t  notes[LUNARY_REDUCE_NOTES];

    lunary_reduce_hot_t   hot;

    /* the newest top-level member's key; the caller's to set and use */
    lunary_reduce_note_t  last;
} lunary_reduce_t;


/* the text's length, with what is set aside */
#define lunary_reduce_size(r)  ((r)->len + (r)->aside)


void lunary_reduce_init(lunary_reduce_t *r, size_t cut);

/*
 * Puts what is set aside in its place: the text is whole, and what was at
 * `fixed` and behind it is at the new `fixed` and behind it.  What looks at all
 * of the text below does so itself.
 */
void lunary_reduce_gather(lunary_reduce_t *r);

/*
 * Told of the brackets as they come, a reduction need not look for them: where
 * in the text one opens, or behind which place it has closed, and how many are
 * open then.  Not told of all, or of none, it looks.
 */

static inline void
lunary_reduce_opened(lunary_reduce_t *r, unsigned depth, size_t at)
{
    if (r->hot.valid && depth == r->hot.depth + 1) {
        r->hot.open = at;
    }
}

/* ... of the end of one in the hot array: for the function below */
void lunary_reduce_element(lunary_reduce_t *r, size_t end);

static inline void
lunary_reduce_closed(lunary_reduce_t *r, unsigned depth, size_t end)
{
    lunary_reduce_hot_t  *hot;

    hot = &r->hot;

    if (!hot->valid || depth > hot->depth || hot->ended) {
        return;
    }

    if (depth == hot->depth) {

        if (!hot->lost) {
            lunary_reduce_element(r, end);
        }

        return;
    }

    hot->ended = 1;
    hot->end = end;
}

/* moves what is set aside to the end of the memory, of cap bytes: all that is
 * free is behind the text then */
void lunary_reduce_raise(lunary_reduce_t *r, size_t cap);

/* writes down that n bytes went from the member named key (as written) */
void lunary_reduce_note(lunary_reduce_t *r, lunary_str_t key, size_t n);

/* what was noted for it */
size_t lunary_reduce_noted(const lunary_reduce_t *r, lunary_str_t key);

/* drops white space between tokens and cuts strings; done once, first */
void lunary_reduce_strings(lunary_reduce_t *r);

/* drops the oldest elements of the largest array, then of the next one, until
 * the text is not longer than target or nothing more can be had; may leave some
 * set aside.  depth: brackets open at `fixed`, as told (above) */
void lunary_reduce_elements(lunary_reduce_t *r, size_t target,
    unsigned depth);

/*
 * Makes null of objects and arrays until the text is not longer than target:
 * of the smallest that suffices, or the largest there is.  Where that one is
 * still open the text ends with the null: returns the number of brackets that
 * are open around it, -1 otherwise.
 */
int lunary_reduce_values(lunary_reduce_t *r, size_t target);

/* drops whole members (or elements) of the outermost value from the end on,
 * until there is room for its closing bracket within target; what is open
 * goes.  Returns 0 where the outermost value is neither object nor array. */
int lunary_reduce_members(lunary_reduce_t *r, size_t target);


#endif /* LUNARY_REDUCE_H */
