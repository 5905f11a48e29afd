/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Looking up headers: lists of nginx walked, names compared.
 *
 * A location knows at configuration which names it reads and which it takes
 * out.  Most requests carry none of them, and one look at each header, by the
 * length and the first letter of its name, says so.
 *
 * Invariants
 *   - a set of names says "perhaps" or "no", never a wrong "no";
 *   - case is folded everywhere; '_' is '-' in sets and in same_name(), as
 *     underscores_in_headers lets both through.
 */

#ifndef NGX_HTTP_LUNARY_HEADERS_H
#define NGX_HTTP_LUNARY_HEADERS_H

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


/* names of this length and longer ones are not told apart */
#define NGX_HTTP_LUNARY_NAMES_MAX  63


/* a set of names: by length, the first letters there are */

typedef struct {
    uint32_t           first[NGX_HTTP_LUNARY_NAMES_MAX + 1];
} ngx_http_lunary_names_t;


/* a walk over a list of headers, which must not change meanwhile */

typedef struct {
    ngx_list_part_t   *part;
    ngx_table_elt_t   *next;
    ngx_table_elt_t   *last;
} ngx_http_lunary_walk_t;


/* adds a name, or with a "*" at its end all that begin like it */
void ngx_http_lunary_names_add(ngx_http_lunary_names_t *names,
    ngx_str_t *name);

/* 1 where a header of the list may be in the set */
ngx_uint_t ngx_http_lunary_names_any(ngx_http_lunary_names_t *names,
    ngx_list_t *list);

/* the first header of that name, or NULL */
ngx_table_elt_t *ngx_http_lunary_header(ngx_list_t *list, const char *name,
    size_t len);

#define ngx_http_lunary_header_in(r, name)                                    \
    ngx_http_lunary_header(&(r)->headers_in.headers, name, sizeof(name) - 1)

/* 1 where both are the same name: case is folded, '_' is '-' */
ngx_uint_t ngx_http_lunary_same_name(ngx_str_t *a, ngx_str_t *b);


static ngx_inline void
ngx_http_lunary_walk(ngx_http_lunary_walk_t *w, ngx_list_t *list)
{
    w->part = &list->part;
    w->next = w->part->elts;
    w->last = w->next + w->part->nelts;
}


/* the next header, or NULL, once */

static ngx_inline ngx_table_elt_t *
ngx_http_lunary_walk_next(ngx_http_lunary_walk_t *w)
{
    while (w->next == w->last) {

        w->part = w->part->next;

        if (w->part == NULL) {
            return NULL;
        }

        w->next = w->part->elts;
        w->last = w->next + w->part->nelts;
    }

    return w->next++;
}


static ngx_inline ngx_uint_t
ngx_http_lunary_header_is(ngx_table_elt_t *h, const char *name, size_t len)
{
    return h->key.len == len
           && ((h->key.data[0] ^ (u_char) name[0]) & ~0x20) == 0
           && (ngx_memcmp(h->key.data, name, len) == 0
               || ngx_strncasecmp(h->key.data, (u_char *) name, len) == 0);
}


static ngx_inline ngx_uint_t
ngx_http_lunary_names_may(ngx_http_lunary_names_t *names, ngx_str_t *name)
{
    if (name->len == 0) {
        return 0;
    }

    return names->first[ngx_min(name->len, NGX_HTTP_LUNARY_NAMES_MAX)]
           >> (name->data[0] & 0x1f) & 1;
}


#endif /* NGX_HTTP_LUNARY_HEADERS_H */
