/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What Lunary is told about an entry: the events of its ingestion API.  It
 * knows entries and JSON, and neither Redis nor HTTP.
 *
 * A run becomes, by its outcome,
 *   ok                                    start, end
 *   rejected                              start, error; tagged "rejected"
 *   others with output or usage           start, end, error
 *   others without                        start, error
 * for Lunary computes tokens and cost from `end` alone.
 */

#ifndef LW_EVENTS_H
#define LW_EVENTS_H

#include "entry.h"


typedef struct {
    lunary_str_t          props;        /* full, or empty                     */
    lunary_str_t          parent;       /* a parentRunId that Lunary knows    */
    const lw_options_t   *options;
} lw_context_t;


/* NULL, or why the entry can never be sent (a constant) */
const char *lw_events_check(const lw_entry_t *e);

/* an entry that is of no interest: no LLM call, and nothing went wrong */
int lw_events_idle(const lw_entry_t *e);

/* appends the run's events, separated by commas */
void lw_events_run(lw_text_t *out, const lw_entry_t *e, const lw_context_t *c);

/*
 * The chat messages of a run with a thread: its last user turn where that is
 * new, and the answer.  Returns how many were appended, and their ids.
 */
unsigned lw_events_chat(lw_text_t *out, const lw_entry_t *e,
    const lw_context_t *c, char ids[2][40]);

/* an SDK's event as sent, with full props */
void lw_events_forward(lw_text_t *out, lunary_str_t event,
    const lw_context_t *c);

/* a model's name without its date: what Lunary's prices are listed under */
lunary_str_t lw_events_undated(lunary_str_t model);


#endif /* LW_EVENTS_H */
