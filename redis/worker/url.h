/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Where Redis is: redis://[user:pass@]host:port/db, rediss://... (TLS),
 * unix:/path[?db=0], as in the module's directives; and where Lunary and
 * collectors are: http://[user:pass@]host:port/path, https://...
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

/* "host:port" or the socket's path, for messages */
void lw_url_where(const lw_url_t *u, char *out, size_t size);


/* what is behind it has room in the buffers of those who ask */
#define LW_URL_MAX   900

/* of a URL of Lunary or a collector: NULL, or what is wrong with it */
const char *lw_url_check(const char *text);

/* its host and port, without user and password, for messages */
void lw_url_host(const char *text, char *out, size_t size);


#endif /* LW_URL_H */
