/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Requests over libcurl.  See http.h.
 */

#include <stdlib.h>
#include <zlib.h>

#include "http.h"
#include "url.h"


#define LW_ANSWER_MAX   (8 * 1024 * 1024)


static size_t lw_http_write(char *data, size_t size, size_t n, void *ctx);
static size_t lw_http_head(char *data, size_t size, size_t n, void *ctx);
static int lw_http_tick(void *ctx, curl_off_t dltotal, curl_off_t dlnow,
    curl_off_t ultotal, curl_off_t ulnow);
static int lw_http_pack(lw_http_t *h, const lw_text_t *body);
static const char *lw_http_path(const char *url);


int
lw_http_init(lw_http_t *h, const lw_options_t *o, lunary_mem_t *mem)
{
    CURLcode  rc;

    memset(h, 0, sizeof(*h));

    h->options = o;
    lw_text_init(&h->packed, mem);
    lw_text_init(&h->answer, mem);

    h->curl = curl_easy_init();

    if (h->curl == NULL) {
        lw_log(LW_LOG_ERROR, "libcurl cannot be used");
        return LW_ERROR;
    }

    rc = curl_easy_setopt(h->curl, CURLOPT_WRITEFUNCTION, lw_http_write);
    rc |= curl_easy_setopt(h->curl, CURLOPT_WRITEDATA, h);
    rc |= curl_easy_setopt(h->curl, CURLOPT_HEADERFUNCTION, lw_http_head);
    rc |= curl_easy_setopt(h->curl, CURLOPT_HEADERDATA, h);
    rc |= curl_easy_setopt(h->curl, CURLOPT_XFERINFOFUNCTION, lw_http_tick);
    rc |= curl_easy_setopt(h->curl, CURLOPT_XFERINFODATA, h);
    rc |= curl_easy_setopt(h->curl, CURLOPT_NOPROGRESS, 0L);
    rc |= curl_easy_setopt(h->curl, CURLOPT_NOSIGNAL, 1L);
    rc |= curl_easy_setopt(h->curl, CURLOPT_TCP_NODELAY, 1L);
    rc |= curl_easy_setopt(h->curl, CURLOPT_TCP_KEEPALIVE, 1L);
    rc |= curl_easy_setopt(h->curl, CURLOPT_CONNECTTIMEOUT_MS, 5000L);
    rc |= curl_easy_setopt(h->curl, CURLOPT_TIMEOUT_MS,
                           (long) o->http_timeout);
    rc |= curl_easy_setopt(h->curl, CURLOPT_USERAGENT,
                           "lunary-worker/" LW_VERSION);
    rc |= curl_easy_setopt(h->curl, CURLOPT_FOLLOWLOCATION, 0L);

#if LIBCURL_VERSION_NUM >= 0x075500
    rc |= curl_easy_setopt(h->curl, CURLOPT_PROTOCOLS_STR, "http,https");
#endif

    return rc == CURLE_OK ? LW_OK : LW_ERROR;
}


void
lw_http_free(lw_http_t *h)
{
    if (h->deflate) {
        (void) deflateEnd(h->deflate);
        free(h->deflate);
    }

    if (h->curl) {
        curl_easy_cleanup(h->curl);
    }

    if (h->packed.mem) {
        curl_slist_free_all(h->headers);
        lw_text_free(&h->packed);
        lw_text_free(&h->answer);
    }

    memset(h, 0, sizeof(*h));
}


int
lw_http_header(lw_http_t *h, const char *name, const char *value)
{
    int                 rc;
    lw_text_t           line;
    struct curl_slist  *list;

    lw_text_init(&line, h->packed.mem);

    lw_text_add(&line, name, strlen(name));

    if (value) {
        lw_text_lit(&line, ": ");
        lw_text_add(&line, value, strlen(value));
    }

    lw_text_add(&line, "", 1);

    rc = LW_NOMEM;

    if (!line.failed) {

        list = curl_slist_append(h->headers, (char *) line.buf.data);

        if (list) {
            h->headers = list;
            rc = LW_OK;
        }
    }

    lw_text_free(&line);

    return rc;
}


void
lw_http_clear(lw_http_t *h)
{
    curl_slist_free_all(h->headers);
    h->headers = NULL;
}


int
lw_http_send(lw_http_t *h, const char *method, const char *url,
    const lw_text_t *body, int gzip)
{
    char                 where[260];
    CURLcode             rc;
    lw_text_t            none;
    const lw_text_t     *sent;
    struct curl_slist   *list, *more, *next;

    h->status = 0;
    h->unsent = 0;
    h->retry_after = -1;
    h->stopped = lw_stop ? lw_clock() : 0;
    lw_text_clear(&h->answer);

    lw_text_init(&none, h->packed.mem);
    sent = body ? body : &none;

    if (gzip && body) {

        if (lw_http_pack(h, body) != LW_OK) {
            h->unsent = 1;
            return LW_NOMEM;
        }

        sent = &h->packed;
    }

    /* the request's own headers stand before those of all */

    list = NULL;

    if (body) {
        list = curl_slist_append(NULL, "Content-Type: application/json");

        more = curl_slist_append(list, "Expect:");
        list = more ? more : list;

        if (gzip) {
            more = curl_slist_append(list, "Content-Encoding: gzip");

            if (more == NULL) {
                curl_slist_free_all(list);
                return LW_NOMEM;
            }

            list = more;
        }
    }

    for (more = h->headers; more; more = more->next) {

        next = curl_slist_append(list, more->data);

        if (next == NULL) {
            curl_slist_free_all(list);
            h->unsent = 1;
            return LW_NOMEM;
        }

        list = next;
    }

    rc = curl_easy_setopt(h->curl, CURLOPT_URL, url);
    rc |= curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, list);

    if (body) {
        rc |= curl_easy_setopt(h->curl, CURLOPT_POST, 1L);
        rc |= curl_easy_setopt(h->curl, CURLOPT_POSTFIELDS,
                               sent->buf.data ? (char *) sent->buf.data : "");
        rc |= curl_easy_setopt(h->curl, CURLOPT_POSTFIELDSIZE_LARGE,
                               (curl_off_t) sent->buf.len);

    } else {
        rc |= curl_easy_setopt(h->curl, CURLOPT_HTTPGET, 1L);
    }

    rc |= curl_easy_setopt(h->curl, CURLOPT_CUSTOMREQUEST, method);

    if (rc == CURLE_OK) {
        rc = curl_easy_perform(h->curl);
    }

    (void) curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(list);

    if (rc != CURLE_OK) {

        h->unsent = (rc == CURLE_COULDNT_CONNECT
                     || rc == CURLE_COULDNT_RESOLVE_HOST
                     || rc == CURLE_COULDNT_RESOLVE_PROXY
                     || rc == CURLE_SSL_CONNECT_ERROR
                     || rc == CURLE_PEER_FAILED_VERIFICATION);

        /* neither whose it is (a search names the user) nor a password */

        lw_url_host(url, where, sizeof(where));
        lw_log(LW_LOG_WARN, "%s %s at %s: %s", method, lw_http_path(url),
               where, curl_easy_strerror(rc));

        return LW_ERROR;
    }

    (void) curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &h->status);

    return LW_OK;
}


/* what is asked, by its first words: "/v1/runs..." */

static const char *
lw_http_path(const char *url)
{
    size_t       i, n;
    const char  *p;

    static char  path[16];

    p = strstr(url, "://");
    p = p ? strchr(p + 3, '/') : NULL;

    if (p == NULL) {
        return "/";
    }

    for (i = 0, n = 0; p[n] && i < 3 && n < sizeof(path) - 1; n++) {
        i += (p[n] == '/');

        if (p[n] == '?' || i == 3) {
            break;
        }

        path[n] = p[n];
    }

    path[n] = '\0';

    return path;
}


static size_t
lw_http_write(char *data, size_t size, size_t n, void *ctx)
{
    lw_http_t *h = ctx;

    (void) size;

    if (h->answer.buf.len + n > LW_ANSWER_MAX) {
        return 0;
    }

    lw_text_add(&h->answer, data, n);

    return h->answer.failed ? 0 : n;
}


static size_t
lw_http_head(char *data, size_t size, size_t n, void *ctx)
{
    lw_http_t *h = ctx;

    size_t   digits, skip;
    int64_t  s;

    (void) size;

    if (n > 12 && strncasecmp(data, "retry-after:", 12) == 0) {

        for (skip = 12; skip < n && data[skip] == ' '; skip++) {
            /* void */
        }

        for (digits = 0; skip + digits < n && digits < 9
             && data[skip + digits] >= '0' && data[skip + digits] <= '9';
             digits++)
        {
            /* void */
        }

        if (lw_int(lunary_str(data + skip, digits), &s)) {
            h->retry_after = s * 1000;
        }
    }

    return n;
}


/* a request may still end in the time that draining is given */

static int
lw_http_tick(void *ctx, curl_off_t dltotal, curl_off_t dlnow,
    curl_off_t ultotal, curl_off_t ulnow)
{
    lw_http_t *h = ctx;

    (void) dltotal;
    (void) dlnow;
    (void) ultotal;
    (void) ulnow;

    if (!lw_stop) {
        return 0;
    }

    if (h->stopped == 0) {
        h->stopped = lw_clock();
    }

    return lw_stop > 1 || lw_clock() - h->stopped > h->options->drain;
}


static int
lw_http_pack(lw_http_t *h, const lw_text_t *body)
{
    int        rc;
    z_stream  *z;

    z = h->deflate;

    if (z == NULL) {

        z = calloc(1, sizeof(*z));

        /* level 1: three times the speed of 6, and JSON packs well anyway */

        if (z == NULL
            || deflateInit2(z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY)
               != Z_OK)
        {
            free(z);
            return LW_NOMEM;
        }

        h->deflate = z;
    }

    lw_text_clear(&h->packed);

    if (deflateReset(z) != Z_OK
        || lunary_buf_reserve(h->packed.mem, &h->packed.buf,
                              deflateBound(z, (uLong) body->buf.len))
           != LUNARY_OK)
    {
        return LW_NOMEM;
    }

    z->next_in = body->buf.data;
    z->avail_in = (uInt) body->buf.len;
    z->next_out = h->packed.buf.data;
    z->avail_out = (uInt) h->packed.buf.cap;

    rc = deflate(z, Z_FINISH);

    if (rc != Z_STREAM_END) {
        return LW_NOMEM;
    }

    h->packed.buf.len = z->total_out;

    return LW_OK;
}
