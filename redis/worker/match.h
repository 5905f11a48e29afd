/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * How names of models and providers are recognised: a clause of the price
 * table, compiled once into a tree of nodes.
 */

#ifndef LW_MATCH_H
#define LW_MATCH_H

#include "lw.h"


typedef struct lw_match_s  lw_match_t;

/*
 * {"is":s} {"starts":s} {"ends":s} {"contains":s} {"regex":s} {"not":clause}
 * {"or":[clause...]} {"and":[clause...]}.  NULL where it is none of these.
 */
lw_match_t *lw_match_compile(lunary_str_t json);
void lw_match_free(lw_match_t *m);

/* text is in lower case and ends with a zero byte; 1 or 0 */
int lw_match(const lw_match_t *m, const char *text, size_t len);


#endif /* LW_MATCH_H */
