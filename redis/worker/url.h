/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Where Redis is: redis://[user:pass@]host:port/db, rediss://... (TLS),
 * unix:/path[?db=0], as in the module's directives.
 */

#ifndef LW_URL_H
#define LW_URL_H

#include "lw.h"


typedef struct {
    char           *text;          /* a copy, that the others point into     */
    int             tls;
    char           *user;          /* NULL where there is none               */
    char           *pass;
    char           *host;          /* NULL: by its path                      */
    char           *path;
    int             port;
    int             db;
} lw_url_t;


/* LW_OK, LW_ERROR (no such URL), LW_NOMEM; to be freed in every case */
int lw_url_parse(lw_url_t *u, const char *text);
void lw_url_free(lw_url_t *u);


#endif /* LW_URL_H */
