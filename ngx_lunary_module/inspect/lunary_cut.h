/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Taking the middle out of a JSON string, whole or while it still grows:
 * never in an escape, a surrogate pair or a UTF-8 character.  Private to
 * inspect/.
 */

#ifndef LUNARY_CUT_H
#define LUNARY_CUT_H

#include "lunary_base.h"


#define LUNARY_CUT_MARKER  40      /* a marker is never longer ...            */
#define LUNARY_CUT_GRACE   64      /* ... and a string that is not longer than
                                      this over the limit is left as it is    */


/* writes the marker for n bytes ("...[n bytes]..." with U+2026); its length */
size_t lunary_cut_marker(unsigned char *p, size_t n);

/* the same without the dots: "[n bytes]" */
size_t lunary_cut_count(unsigned char *p, size_t n);

/*
 * Where in an escape we are: 0 outside, else the number of its bytes so far.
 * Starts with the state before p and returns the one at end.
 */
unsigned lunary_cut_state(unsigned state, const unsigned char *p,
    const unsigned char *end);

/* the length of the longest start of the string s that may be kept and is not
 * above `max`, which is not above the string's length */
size_t lunary_cut_head(const unsigned char *s, size_t max);

/* the length of p that may be kept where its n bytes have no sequel; state is
 * the one at p */
size_t lunary_cut_end(const unsigned char *p, size_t n, unsigned state);

/* the first place at or behind p where what is kept may begin; state is the
 * one at p */
const unsigned char *lunary_cut_tail(const unsigned char *p,
    const unsigned char *end, unsigned state);


/*
 * Writes the string of n bytes at s without its middle, n being above cut +
 * LUNARY_CUT_GRACE: at most cut + LUNARY_CUT_MARKER bytes, at `to`, which may
 * be s.  Returns their number; *removed becomes n less that.
 */
size_t lunary_cut_string(unsigned char *to, const unsigned char *s, size_t n,
    size_t cut, size_t *removed);


/*
 * A string that still grows at the end of a text: its start, and once it is
 * too long also `head`, where the start ends and the last bytes follow.
 */
typedef struct {
    size_t     at;              /* of the first byte inside                   */
    size_t     head;            /* 0: nothing has been taken out              */
    size_t     taken;
    unsigned   state;           /* lunary_cut_state() at head                 */
} lunary_cut_t;

void lunary_cut_start(lunary_cut_t *c, size_t at);

/* how long a string may become before it is trimmed: longer than any that may
 * stay whole */
size_t lunary_cut_limit(size_t cut);

/* while nothing has been taken out: bytes that may be added before the next
 * trim; at least 1 */
size_t lunary_cut_room(const lunary_cut_t *c, size_t len, size_t cut);

/* takes out what can be, where that is worth it; returns the text's length */
size_t lunary_cut_trim(lunary_cut_t *c, unsigned char *text, size_t len,
    size_t cut);

/* where something has been taken out: a text is never longer than this while
 * the string grows */
size_t lunary_cut_reach(const lunary_cut_t *c, size_t cut);

/*
 * Adds n bytes where something has been taken out; there is memory as far as
 * lunary_cut_reach() says.  Returns the text's length.
 */
size_t lunary_cut_add(lunary_cut_t *c, unsigned char *text, size_t len,
    size_t cut, const unsigned char *p, size_t n);

/*
 * The string is complete: puts the marker in.  Returns the text's length;
 * *removed becomes the bytes by which the string is shorter now, 0 where it
 * stayed whole.
 */
size_t lunary_cut_finish(lunary_cut_t *c, unsigned char *text, size_t len,
    size_t cut, size_t *removed);


#endif /* LUNARY_CUT_H */
