/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What events.c (which events a run becomes), events_parts.c (their members)
 * and events_chat.c (messages of a thread) share.
 *
 * Invariant: an entry passed lw_events_check(): what holds JSON is valid.
 */

#ifndef LW_EVENTS_INTERNAL_H
#define LW_EVENTS_INTERNAL_H

#include "events.h"


#define LW_RUNTIME    "\"ngx-lunary\""


/* members, with a comma in front, of the run's events; none where unknown */

void lw_events_user(lw_text_t *out, lunary_str_t id, const lw_context_t *c);
void lw_events_params(lw_text_t *out, const lw_entry_t *e);
void lw_events_tags(lw_text_t *out, const lw_entry_t *e);
void lw_events_metadata(lw_text_t *out, const lw_entry_t *e,
    const lw_context_t *c);
void lw_events_output(lw_text_t *out, const lw_entry_t *e);
void lw_events_tokens(lw_text_t *out, const lw_entry_t *e);
void lw_events_closing(lw_text_t *out, const lw_entry_t *e);


#endif /* LW_EVENTS_INTERNAL_H */
