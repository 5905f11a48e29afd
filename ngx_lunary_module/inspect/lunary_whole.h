/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A JSON text that lies whole in memory, as most answers do: is it one that a
 * document (lunary_doc.h) would keep byte for byte?  Then it is read where it
 * lies, and nothing is copied but what is kept of it.  Private to inspect/.
 *
 * Invariants
 *   - one pass, without memory of its own; every byte is looked at once;
 *   - it only ever says yes to what lunary_doc.c would leave as it is, so that
 *     whole and split reading agree: whatever is unusual (media, vectors,
 *     repairs, deep nesting, a text that goes on) is the document's;
 *   - what it found on its way, it can write down: so that who reads the text
 *     (lunary_walk.h) need not search it again.
 */

#ifndef LUNARY_WHOLE_H
#define LUNARY_WHOLE_H

#include "lunary_base.h"


#define LUNARY_WHOLE_NESTED  32      /* levels of brackets, at most           */
#define LUNARY_WHOLE_NODES   192     /* values and ends that are written down */
#define LUNARY_WHOLE_MAX     (1u << 30)


/*
 * A value, in the order of the text: what is in an object or array follows
 * it, and one that is its end.  Numbers are offsets in the text.
 */
typedef struct {
    uint32_t              start;
    uint32_t              end;
    uint32_t              key;       /* of its name's inside, if a member     */
    uint32_t              key_len;   /* LUNARY_NODE_END: a closing bracket    */
    uint32_t              next;      /* how many nodes further its sibling is */
} lunary_node_t;

#define LUNARY_NODE_END  UINT32_MAX

typedef struct {
    const unsigned char  *text;
    unsigned              n;         /* 0: there were too many                */
    lunary_node_t         nodes[LUNARY_WHOLE_NODES];
} lunary_tape_t;


/*
 * The length of the object or array that starts at p, where all of it lies in
 * the n bytes, is RFC 8259 in UTF-8, and would be kept as it is by a document
 * of at most max bytes; else 0.  tape may be NULL.
 */
size_t lunary_whole(const unsigned char *p, size_t n, size_t max,
    lunary_tape_t *tape);


#endif /* LUNARY_WHOLE_H */
