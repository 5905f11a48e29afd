/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What people see: columns of text that strangers wrote, and entries as JSON.
 *
 * Invariants
 *   - no control, bidi or invalid byte of a stream reaches the terminal;
 *   - what is written as JSON is valid JSON, whatever was stored.
 */

#ifndef LW_DISPLAY_H
#define LW_DISPLAY_H

#include "entry.h"


/* whether to use colour on this stream */
int lw_display_color(const lw_options_t *o, FILE *f);

/*
 * Appends s in exactly width columns (cut with an ellipsis, or filled; width
 * 0: as it is), flush right where right is not 0.
 */
void lw_display_cell(lw_text_t *out, lunary_str_t s, size_t width, int right);

/* how many columns s takes as it is */
size_t lw_display_width(lunary_str_t s);

/* a number with thousands apart: "1 234 567"; "-" where it is less than 0 */
void lw_display_count(lw_text_t *out, int64_t n, size_t width);

/* an entry as one JSON object: its fields, "id", and cost_usd if known */
void lw_display_entry(lw_text_t *out, const lw_entry_t *e, const char *cost);

/* a hash (HGETALL's reply) as a JSON object */
void lw_display_hash(lw_text_t *out, const redisReply *reply);

/* writes and empties the text; LW_OK, or LW_ERROR where nobody reads */
int lw_display_flush(lw_text_t *out);

/* the same of JSON: what could drive a terminal is written as an escape */
int lw_display_flush_json(lw_text_t *out);


#endif /* LW_DISPLAY_H */
