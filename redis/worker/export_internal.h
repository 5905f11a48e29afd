/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What export.c (requests) and export_span.c (spans) share.
 */

#ifndef LW_EXPORT_INTERNAL_H
#define LW_EXPORT_INTERNAL_H

#include "commands.h"


/*
 * The request for n entries, in place of the text; empty where none of them
 * is a run.  out->failed where there was no memory.
 */
void lw_export_body(lw_t *w, lw_text_t *out, const lw_entry_t *list,
    size_t n);


#endif /* LW_EXPORT_INTERNAL_H */
