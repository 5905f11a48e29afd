/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What $http_NAME says of headers that the upstream does not get, or gets
 * changed: of a claim what the client sent, so that keys of caches and limits,
 * and logs, do not lose it; of a session's header, which is a secret, and of
 * those that are put in or narrowed, what the upstream gets.
 *
 * Invariant: so it is whether or not the variable was asked for before.  (nginx
 * keeps a variable's value for the request once it was.)  Variables that are
 * not named in the configuration, as those of scripts, always show the headers
 * as they are.
 */

#include "ngx_http_lunary_module.h"


/* a variable of the configuration */

typedef struct {
    ngx_str_t    name;                           /* without the http_        */
    ngx_uint_t   index;
} ngx_http_lunary_header_var_t;


static ngx_uint_t ngx_http_lunary_header_var_is(ngx_str_t *name,
    ngx_str_t *header);


ngx_int_t
ngx_http_lunary_header_vars(ngx_conf_t *cf, ngx_http_lunary_main_conf_t *mcf)
{
    ngx_uint_t                     i;
    ngx_http_variable_t           *v;
    ngx_http_core_main_conf_t     *cmcf;
    ngx_http_lunary_header_var_t  *hv;

    static ngx_str_t  http = ngx_string("http_");

    if (ngx_array_init(&mcf->header_vars, cf->pool, 4,
                       sizeof(ngx_http_lunary_header_var_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);
    v = cmcf->variables.elts;

    for (i = 0; i < cmcf->variables.nelts; i++) {

        if (v[i].name.len <= http.len
            || ngx_strncmp(v[i].name.data, http.data, http.len) != 0)
        {
            continue;
        }

        hv = ngx_array_push(&mcf->header_vars);
        if (hv == NULL) {
            return NGX_ERROR;
        }

        hv->name.data = v[i].name.data + http.len;
        hv->name.len = v[i].name.len - http.len;
        hv->index = i;
    }

    return NGX_OK;
}


void
ngx_http_lunary_header_var_keep(ngx_http_request_t *r, ngx_str_t *header)
{
    ngx_uint_t                     i;
    ngx_http_lunary_main_conf_t   *mcf;
    ngx_http_lunary_header_var_t  *hv;

    mcf = ngx_http_get_module_main_conf(r, ngx_http_lunary_module);
    hv = mcf->header_vars.elts;

    for (i = 0; i < mcf->header_vars.nelts; i++) {
        if (ngx_http_lunary_header_var_is(&hv[i].name, header)) {
            (void) ngx_http_get_indexed_variable(r, hv[i].index);
        }
    }
}


void
ngx_http_lunary_header_var_drop(ngx_http_request_t *r, ngx_str_t *header)
{
    ngx_uint_t                     i;
    ngx_http_variable_value_t     *v;
    ngx_http_lunary_main_conf_t   *mcf;
    ngx_http_lunary_header_var_t  *hv;

    mcf = ngx_http_get_module_main_conf(r, ngx_http_lunary_module);
    hv = mcf->header_vars.elts;

    for (i = 0; i < mcf->header_vars.nelts; i++) {
        if (ngx_http_lunary_header_var_is(&hv[i].name, header)) {
            v = &r->variables[hv[i].index];
            v->valid = 0;
            v->not_found = 0;
        }
    }
}


/* as nginx names them: in lower case, - as _ */

static ngx_uint_t
ngx_http_lunary_header_var_is(ngx_str_t *name, ngx_str_t *header)
{
    u_char  c;
    size_t  i;

    if (name->len != header->len) {
        return 0;
    }

    for (i = 0; i < name->len; i++) {
        c = ngx_tolower(header->data[i]);

        if (name->data[i] != (c == '-' ? '_' : c)) {
            return 0;
        }
    }

    return 1;
}
