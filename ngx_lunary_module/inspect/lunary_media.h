/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What is no text in an LLM call: base64 in strings, vectors of numbers.  This
 * room knows under which names they stand and how a string of them begins;
 * what to do about it is lunary_doc.c's.  Private to inspect/.
 */

#ifndef LUNARY_MEDIA_H
#define LUNARY_MEDIA_H

#include "lunary_base.h"


#define LUNARY_MEDIA_RUN      256      /* so much base64 is media             */
#define LUNARY_MEDIA_NUMBERS  256      /* more numbers than that are a vector */


/* what the value of a member may be, by the member's name */

#define LUNARY_MEDIA_STRING   0x01     /* a string: base64                    */
#define LUNARY_MEDIA_ELEMENT  0x02     /* strings of an array: base64         */
#define LUNARY_MEDIA_VECTOR   0x04     /* an array, or arrays in it: numbers  */

unsigned lunary_media_class(lunary_str_t key);

/* by length, the letters that such names begin with: 0 for most keys */

#define LUNARY_MEDIA_KEY  17

extern const uint32_t  lunary_media_letters[LUNARY_MEDIA_KEY + 1];

static inline int
lunary_media_maybe(lunary_str_t key)
{
    return key.len <= LUNARY_MEDIA_KEY && key.len != 0
           && (lunary_media_letters[key.len] & lunary_letter(key.data[0]));
}


/* looks at the start of one string as it grows */

typedef struct {
    uint8_t   state;
    uint8_t   keyed;            /* LUNARY_MEDIA_STRING, else a data: URL only */
    uint8_t   escape;           /* behind a backslash                         */
    size_t    pos;              /* so much has been looked at                 */
    size_t    run;              /* where the base64 begins                    */
} lunary_probe_t;

void lunary_probe_init(lunary_probe_t *pr, int keyed);

/*
 * p is the string's inside, n bytes of it are there.  LUNARY_OK: cannot tell
 * yet; LUNARY_DONE: [run, n) is base64 and enough of it; LUNARY_ERROR: it is
 * no media.
 */
int lunary_probe(lunary_probe_t *pr, const unsigned char *p, size_t n);

/* at most so many bytes may come before the next look */
size_t lunary_probe_room(const lunary_probe_t *pr);

/* inside base64, JSON may hold \/ and line ends as \n and \r */
#define lunary_media_escape(c)  ((c) == '/' || (c) == 'n' || (c) == 'r')


#endif /* LUNARY_MEDIA_H */
