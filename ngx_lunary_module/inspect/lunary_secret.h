/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Keys and tokens that clients put into a request's parameters: for the tools
 * and data sources that the provider is to ask (Responses' and Anthropic's MCP
 * servers, Azure's data_sources), or for a gateway (LiteLLM).  They are for the
 * upstream and for nobody else.  Private to inspect/.
 *
 * Invariants
 *   - what is written is valid JSON if the value was, whatever it held;
 *   - linear, and nothing is copied twice.
 */

#ifndef LUNARY_SECRET_H
#define LUNARY_SECRET_H

#include "lunary_base.h"


/*
 * Appends the value of a request's member: a JSON value, whole, key without
 * its quotes, as written.  A string under the name of a secret, at any
 * depth, and credentials and headers of tools and data sources become
 * "[redacted]".  What describes tools and formats is copied as it is: it may
 * be large, and has names where others have values.
 *
 * Returns LUNARY_OK; or LUNARY_NOMEM, or LUNARY_ERROR where the value was not
 * valid: then b is as it was.
 */
int lunary_secret_copy(lunary_mem_t *mem, lunary_buf_t *b, lunary_str_t key,
    lunary_str_t value);


#endif /* LUNARY_SECRET_H */
