/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The ledger: what each user used and what it cost, counted in Redis.
 *
 * Invariants
 *   - counting and acknowledging is one step (ledger.lua): an entry counts
 *     once, however often it is delivered, and by whomever;
 *   - a batch is summed up here by user, so that Redis does work by user and
 *     not by run;
 *   - unverified users are bounded by --max-claimed; what is beyond them is
 *     counted together.
 */

#ifndef LW_LEDGER_H
#define LW_LEDGER_H

#include "group.h"
#include "people.h"


int lw_ledger(lw_t *w, int argc, char **argv);


#endif /* LW_LEDGER_H */
