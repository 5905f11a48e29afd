/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What relay.c (what becomes of each entry), relay_link.c (what is known of
 * it) and relay_finish.c (how it ends) share.
 *
 * In Redis: PREFIXrelay:run:<app>:<run id>, "p" or "s" (proxy, SDK), start
 * and user, for --remember; PREFIXrelay:chat:<app>:<run id>, while its chat
 * messages are on their way, and as long behind that.
 */

#ifndef LW_RELAY_INTERNAL_H
#define LW_RELAY_INTERNAL_H

#include "relay.h"


/* ms: how long it is known what was relayed */
#define LW_RELAY_MEMORY(w)                                                   \
    ((w)->options->remember > 0 ? (w)->options->remember : 1)


/* asks Redis about the items' runs and parents: LW_OK or LW_REDIS */
int lw_relay_ask(lw_t *w, lw_relay_t *r);

/* decides who is sent, skipped, held; last: nobody waits any more */
int lw_relay_link(lw_t *w, lw_relay_t *r, int last);

/* remembers and acknowledges what was confirmed: LW_OK or LW_REDIS */
int lw_relay_finish(lw_t *w, lw_relay_t *r);

/* appends a key of the kind "run" or "chat" */
void lw_relay_key(lw_t *w, lw_text_t *key, const char *kind,
    lunary_str_t app, lunary_str_t id);


#endif /* LW_RELAY_INTERNAL_H */
