/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The commands.  Each returns an exit code; argc and argv are for those that
 * read their configuration again.
 */

#ifndef LW_COMMANDS_H
#define LW_COMMANDS_H

#include "ledger.h"
#include "relay.h"


int lw_export(lw_t *w, int argc, char **argv);
int lw_tail(lw_t *w, int argc, char **argv);
int lw_users(lw_t *w, int argc, char **argv);
int lw_show(lw_t *w, int argc, char **argv);
int lw_forget(lw_t *w, int argc, char **argv);
int lw_price(lw_t *w, int argc, char **argv);


#endif /* LW_COMMANDS_H */
