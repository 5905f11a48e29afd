/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Requests to Lunary and to collectors: libcurl, one connection that is kept
 * alive, bodies compressed, answers bounded.
 */

#ifndef LW_HTTP_H
#define LW_HTTP_H

#include <curl/curl.h>

#include "lw.h"
#include "options.h"


typedef struct {
    CURL                 *curl;
    const lw_options_t   *options;
    struct curl_slist    *headers;
    lw_text_t             packed;
    lw_text_t             answer;        /* at most LW_ANSWER_MAX             */
    void                 *deflate;
    int                   unsent;        /* the server cannot have seen it    */
    long                  status;        /* 0: there was no answer            */
    int64_t               retry_after;   /* ms, or -1                         */
    int64_t               stopped;       /* lw_clock() when a signal was seen */
} lw_http_t;


int lw_http_init(lw_http_t *h, const lw_options_t *o, lunary_mem_t *mem);
void lw_http_free(lw_http_t *h);

/* headers of every request from now on; "Name: value" */
int lw_http_header(lw_http_t *h, const char *name, const char *value);
void lw_http_clear(lw_http_t *h);

/*
 * method: GET, POST or DELETE; body NULL where there is none.  LW_OK where
 * there was an answer of any status; LW_ERROR where not (unsent says whether
 * it may have been received all the same); LW_NOMEM.
 */
int lw_http_send(lw_http_t *h, const char *method, const char *url,
    const lw_text_t *body, int gzip);


#endif /* LW_HTTP_H */
