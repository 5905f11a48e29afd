/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Looking up headers.  See ngx_http_lunary_headers.h.
 */

#include "ngx_http_lunary_headers.h"


void
ngx_http_lunary_names_add(ngx_http_lunary_names_t *names, ngx_str_t *name)
{
    size_t    len;
    uint32_t  first;

    if (name->len == 0) {
        return;
    }

    if (name->data[0] == '*') {
        ngx_memset(names, 0xff, sizeof(ngx_http_lunary_names_t));
        return;
    }

    first = (uint32_t) 1 << (name->data[0] & 0x1f);

    if (name->data[0] == '-' || name->data[0] == '_') {
        first = (uint32_t) 1 << ('-' & 0x1f) | (uint32_t) 1 << ('_' & 0x1f);
    }

    if (name->data[name->len - 1] != '*') {
        names->first[ngx_min(name->len, NGX_HTTP_LUNARY_NAMES_MAX)] |= first;
        return;
    }

    for (len = ngx_min(name->len, NGX_HTTP_LUNARY_NAMES_MAX);
         len <= NGX_HTTP_LUNARY_NAMES_MAX;
         len++)
    {
        names->first[len] |= first;
    }
}


ngx_uint_t
ngx_http_lunary_names_any(ngx_http_lunary_names_t *names, ngx_list_t *list)
{
    ngx_table_elt_t         *h;
    ngx_http_lunary_walk_t   w;

    ngx_http_lunary_walk(&w, list);

    while ((h = ngx_http_lunary_walk_next(&w)) != NULL) {
        if (ngx_http_lunary_names_may(names, &h->key)) {
            return 1;
        }
    }

    return 0;
}


ngx_table_elt_t *
ngx_http_lunary_header(ngx_list_t *list, const char *name, size_t len)
{
    ngx_table_elt_t         *h;
    ngx_http_lunary_walk_t   w;

    ngx_http_lunary_walk(&w, list);

    while ((h = ngx_http_lunary_walk_next(&w)) != NULL) {
        if (ngx_http_lunary_header_is(h, name, len)) {
            return h;
        }
    }

    return NULL;
}


ngx_uint_t
ngx_http_lunary_same_name(ngx_str_t *a, ngx_str_t *b)
{
    u_char  c, d;
    size_t  i;

    if (a->len != b->len) {
        return 0;
    }

    for (i = 0; i < a->len; i++) {
        c = ngx_tolower(a->data[i]);
        d = ngx_tolower(b->data[i]);

        if ((c == '_' ? '-' : c) != (d == '_' ? '-' : d)) {
            return 0;
        }
    }

    return 1;
}
