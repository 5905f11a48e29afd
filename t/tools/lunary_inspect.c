/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * inspect/ on the command line, for tests: reads recorded calls from standard
 * input, feeds their bytes in the split that is asked for and prints the
 * run's fields, one JSON object a line.
 *
 * A record is a list of entries `NAME LENGTH\n`, LENGTH bytes and `\n`; the
 * line `run` ends it.  Names:
 *
 *     method path request-type request-encoding request
 *     status header (NAME: VALUE, may repeat) response
 *     split      whole (default), bytes, random, or a number of bytes
 *     seed       for random
 *     capture    full (default), input, output, none
 *     capture-max
 *     api        forces a dialect
 *     end        complete (default), broken (no end of the response), none
 *                (the request never ended)
 *     repeat     feeds the response that many times one after the other,
 *                `response-head` before and `response-tail` behind it
 *     fail       N: the Nth allocation fails; -N: all from the Nth on
 *     usage      1: prints what lunary_stream_usage makes of the request and
 *                passes on of the response instead
 *
 *     lunary_inspect           prints the fields
 *     lunary_inspect -b N      feeds each record N times, prints CPU ns a call
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "inspect/lunary_arena.h"
#include "inspect/lunary_call.h"
#include "inspect/lunary_json.h"
#include "inspect/lunary_usage_filter.h"


#define MAX_HEADERS  64


typedef struct {
    lunary_str_t   name;
    lunary_str_t   value;
} header_t;

typedef struct {
    lunary_str_t   method;
    lunary_str_t   path;
    lunary_str_t   request_type;
    lunary_str_t   request_encoding;
    lunary_str_t   request;
    lunary_str_t   status;
    lunary_str_t   response;
    lunary_str_t   response_head;
    lunary_str_t   response_tail;
    lunary_str_t   split;
    lunary_str_t   seed;
    lunary_str_t   capture;
    lunary_str_t   capture_max;
    lunary_str_t   api;
    lunary_str_t   end;
    lunary_str_t   repeat;
    lunary_str_t   usage;
    lunary_str_t   fail;

    header_t       headers[MAX_HEADERS];
    size_t         nheaders;

    char          *owned[64 + MAX_HEADERS];
    size_t         nowned;
} record_t;

typedef struct {
    const char    *name;
    size_t         offset;
} entry_t;


static const entry_t  entries[] = {
    { "method", offsetof(record_t, method) },
    { "path", offsetof(record_t, path) },
    { "request-type", offsetof(record_t, request_type) },
    { "request-encoding", offsetof(record_t, request_encoding) },
    { "request", offsetof(record_t, request) },
    { "status", offsetof(record_t, status) },
    { "response", offsetof(record_t, response) },
    { "response-head", offsetof(record_t, response_head) },
    { "response-tail", offsetof(record_t, response_tail) },
    { "split", offsetof(record_t, split) },
    { "seed", offsetof(record_t, seed) },
    { "capture", offsetof(record_t, capture) },
    { "capture-max", offsetof(record_t, capture_max) },
    { "api", offsetof(record_t, api) },
    { "end", offsetof(record_t, end) },
    { "repeat", offsetof(record_t, repeat) },
    { "usage", offsetof(record_t, usage) },
    { "fail", offsetof(record_t, fail) },
    { NULL, 0 }
};


typedef void (*feed_pt)(void *to, const unsigned char *p, size_t n);

typedef struct {
    lunary_usage_filter_t   filter;
    lunary_mem_t           *mem;
    lunary_buf_t            passed;
    size_t                  most;       /* bytes ever held back             */
} usage_t;


/* memory that ends, or fails once */

typedef struct {
    long           n;                /* allocations so far                   */
    long           at;               /* the one that fails; 0: none          */
    int            on;               /* and all behind it                    */
} limited_t;


static void *limited(void *ctx, void *p, size_t old, size_t size);
static int read_record(record_t *r);
static void free_record(record_t *r);
static void run_record(record_t *r, lunary_mem_t *mem, int print);
static void request_bytes(void *to, const unsigned char *p, size_t n);
static void response_bytes(void *to, const unsigned char *p, size_t n);
static void usage_bytes(void *to, const unsigned char *p, size_t n);
static void usage_pass(void *to, const unsigned char *p, size_t n);
static void print_usage(record_t *r, lunary_call_t *call, lunary_mem_t *mem,
    unsigned *seed);
static void feed(record_t *r, void *to, lunary_str_t body, feed_pt fn,
    unsigned *seed);
static lunary_str_t header(void *ctx, const char *name, size_t len);
static void print_run(lunary_call_t *call, lunary_run_t *run,
    lunary_mem_t *mem);
static void print_string(lunary_str_t s);
static long number(lunary_str_t s, long otherwise);


int
main(int argc, char **argv)
{
    long             i, n;
    double           ns;
    record_t         r;
    limited_t        few;
    int              off;
    lunary_mem_t     mem;
    struct timespec  a, b;

    n = 0;
    off = lunary_arena_off;

    if (argc == 3 && strcmp(argv[1], "-b") == 0) {
        n = atol(argv[2]);
    }

    while (read_record(&r)) {

        lunary_mem_init(&mem);
        lunary_arena_off = off || r.fail.len != 0;

        if (r.fail.len != 0) {
            few.n = 0;
            few.at = labs(number(r.fail, 0));
            few.on = (r.fail.data[0] == '-');
            mem.fn = limited;
            mem.ctx = &few;
        }

        if (n == 0) {
            run_record(&r, &mem, 1);

        } else {
            clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);

            for (i = 0; i < n; i++) {
                run_record(&r, &mem, 0);
            }

            clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);

            ns = (double) (b.tv_sec - a.tv_sec) * 1e9
                 + (double) (b.tv_nsec - a.tv_nsec);

            printf("%.0f\n", ns / (double) n);
        }

        free_record(&r);

        if (mem.used != 0) {
            fprintf(stderr, "leaked %zu bytes\n", mem.used);
            return 1;
        }

        fflush(stdout);
    }

    return 0;
}


static void *
limited(void *ctx, void *p, size_t old, size_t size)
{
    limited_t  *few;

    (void) old;

    few = ctx;

    if (size == 0) {
        free(p);
        return NULL;
    }

    if (++few->n == few->at || (few->on && few->n > few->at)) {
        return NULL;
    }

    return realloc(p, size);
}


static int
read_record(record_t *r)
{
    char           line[256], *p, *data;
    size_t         len, n;
    lunary_str_t   s;
    const entry_t  *e;

    memset(r, 0, sizeof(record_t));

    while (fgets(line, sizeof(line), stdin) != NULL) {

        if (strcmp(line, "run\n") == 0) {
            return 1;
        }

        p = strchr(line, ' ');

        if (p == NULL || r->nowned == 64 + MAX_HEADERS) {
            fprintf(stderr, "bad record: %s", line);
            exit(2);
        }

        *p++ = '\0';
        len = (size_t) strtoull(p, NULL, 10);

        data = malloc(len + 1);

        if (data == NULL || fread(data, 1, len + 1, stdin) != len + 1) {
            fprintf(stderr, "bad record: %s is short\n", line);
            exit(2);
        }

        r->owned[r->nowned++] = data;
        s = lunary_str(data, len);

        if (strcmp(line, "header") == 0) {

            p = memchr(data, ':', len);

            if (p != NULL && r->nheaders < MAX_HEADERS) {
                n = (size_t) (p - data);
                r->headers[r->nheaders].name = lunary_str(data, n);

                n += 1 + (n + 1 < len && data[n + 1] == ' ');
                r->headers[r->nheaders++].value = lunary_str(data + n,
                                                             len - n);
            }

            continue;
        }

        for (e = entries; e->name != NULL; e++) {
            if (strcmp(e->name, line) == 0) {
                memcpy((char *) r + e->offset, &s, sizeof(lunary_str_t));
                break;
            }
        }

        if (e->name == NULL) {
            fprintf(stderr, "bad record: no entry \"%s\"\n", line);
            exit(2);
        }
    }

    return 0;
}


static void
free_record(record_t *r)
{
    while (r->nowned != 0) {
        free(r->owned[--r->nowned]);
    }
}


static void
run_record(record_t *r, lunary_mem_t *mem, int print)
{
    long                 i, n;
    unsigned             seed;
    lunary_run_t         run;
    lunary_call_t       *call;
    lunary_call_conf_t   conf;

    memset(&conf, 0, sizeof(conf));

    conf.capture_max = (size_t) number(r->capture_max, 256 * 1024);
    conf.capture = LUNARY_CAPTURE_FULL;

    if (lunary_eq(r->capture, "none")) {
        conf.capture = 0;

    } else if (lunary_eq(r->capture, "input")) {
        conf.capture = LUNARY_CAPTURE_INPUT;

    } else if (lunary_eq(r->capture, "output")) {
        conf.capture = LUNARY_CAPTURE_OUTPUT;
    }

    if (r->api.len != 0) {
        conf.forced = lunary_dialect_by_name(r->api);
    }

    seed = (unsigned) number(r->seed, 1);

    call = lunary_call_create(mem, &conf);

    if (call == NULL) {
        printf("{\"failed\":1}\n");
        return;
    }

    lunary_call_start(call, r->method, r->path, r->request_type,
                      r->request_encoding);

    feed(r, call, r->request, request_bytes, &seed);

    if (!lunary_eq(r->end, "none")) {
        lunary_call_request_end(call);
    }

    if (r->usage.len != 0) {
        print_usage(r, call, mem, &seed);
        lunary_call_destroy(call);
        return;
    }

    if (r->status.len != 0) {
        lunary_call_answer(call, (unsigned) number(r->status, 0),
                           header(r, "content-type", 12),
                           header(r, "content-encoding", 16), header, r);

        feed(r, call, r->response_head, response_bytes, &seed);

        n = number(r->repeat, 1);

        for (i = 0; i < n; i++) {
            feed(r, call, r->response, response_bytes, &seed);
        }

        feed(r, call, r->response_tail, response_bytes, &seed);

        if (lunary_eq(r->end, "broken")) {
            lunary_call_response_end(call, 0);

        } else if (!lunary_eq(r->end, "none")) {
            lunary_call_response_end(call, 1);
        }
    }

    lunary_run_init(&run);
    lunary_call_finish(call, &run);

    if (print) {
        print_run(call, &run, mem);
    }

    lunary_call_destroy(call);
}


static void
request_bytes(void *to, const unsigned char *p, size_t n)
{
    lunary_call_request(to, p, n);
}


static void
response_bytes(void *to, const unsigned char *p, size_t n)
{
    lunary_call_response(to, p, n);
}


static void
usage_bytes(void *to, const unsigned char *p, size_t n)
{
    usage_t  *u;

    u = to;

    (void) lunary_usage_filter_feed(&u->filter, p, n);

    if (u->filter.held.len > u->most) {
        u->most = u->filter.held.len;
    }
}


static void
usage_pass(void *to, const unsigned char *p, size_t n)
{
    usage_t  *u;

    u = to;

    if (lunary_buf_append(u->mem, &u->passed, p, n) != LUNARY_OK) {
        exit(2);
    }
}


static void
print_usage(record_t *r, lunary_call_t *call, lunary_mem_t *mem,
    unsigned *seed)
{
    usage_t          u;
    lunary_edit_t    edit;
    lunary_usage_e   what;

    static const char  *const names[] = { "no", "asked", "added" };

    memset(&edit, 0, sizeof(edit));
    what = lunary_usage_edit(call, &edit);

    memset(&u, 0, sizeof(u));
    u.mem = mem;

    lunary_usage_filter_init(&u.filter, mem, usage_pass, &u);
    feed(r, &u, r->response, usage_bytes, seed);
    lunary_usage_filter_end(&u.filter);

    printf("{\"usage\":\"%s\",\"start\":%llu,\"end\":%llu,\"text\":",
           names[what], (unsigned long long) edit.start,
           (unsigned long long) edit.end);
    print_string(edit.text);
    printf(",\"passed\":");
    print_string(lunary_buf_str(&u.passed));
    printf(",\"dropped\":%llu,\"held\":%zu}\n",
           (unsigned long long) u.filter.dropped, u.most);

    lunary_usage_filter_free(&u.filter);
    lunary_buf_free(mem, &u.passed);
}


/* each piece is a copy of its own, so that reading past it shows */

static void
feed(record_t *r, void *to, lunary_str_t body, feed_pt fn, unsigned *seed)
{
    size_t          n, off, size;
    unsigned char  *piece;

    if (r->split.len == 0 || lunary_eq(r->split, "whole")) {
        fn(to, body.data, body.len);
        return;
    }

    size = (size_t) number(r->split, 0);

    for (off = 0; off < body.len; off += n) {

        if (lunary_eq(r->split, "bytes")) {
            n = 1;

        } else if (size != 0) {
            n = size;

        } else {
            *seed = *seed * 1103515245 + 12345;
            n = 1 + (*seed >> 16) % 97;
        }

        if (n > body.len - off) {
            n = body.len - off;
        }

        piece = malloc(n);

        if (piece == NULL) {
            exit(2);
        }

        memcpy(piece, body.data + off, n);
        fn(to, piece, n);
        free(piece);
    }
}


static lunary_str_t
header(void *ctx, const char *name, size_t len)
{
    size_t     i;
    record_t  *r;

    r = ctx;

    for (i = 0; i < r->nheaders; i++) {
        if (r->headers[i].name.len == len
            && strncasecmp((const char *) r->headers[i].name.data, name, len)
               == 0)
        {
            return r->headers[i].value;
        }
    }

    return lunary_str(NULL, 0);
}


static void
print_run(lunary_call_t *call, lunary_run_t *run, lunary_mem_t *mem)
{
    int                      first;
    lunary_field_e           f;
    const lunary_claims_t   *claims;

    static const char  *const states[] = {
        "none", "partial", "json", "form", "stream", "other", "invalid",
        "limit", "encoding", "nomem"
    };

    printf("{\"fields\":{");

    for (f = 0, first = 1; f < LUNARY_F_MAX; f++) {
        if (lunary_run_has(run, f)) {
            printf(first ? "" : ",");
            print_string(lunary_run_name(f));
            printf(":");
            print_string(run->value[f]);
            first = 0;
        }
    }

    printf("},\"claims\":{");

    claims = lunary_call_claims(call);

    printf("\"user\":");
    print_string(claims->user);
    printf(",\"props\":");
    print_string(claims->props);
    printf(",\"thread\":");
    print_string(claims->thread);
    printf(",\"parent\":");
    print_string(claims->parent);
    printf(",\"tags\":");
    print_string(claims->tags);

    printf("},\"request_state\":\"%s\",\"response_state\":\"%s\","
           "\"content\":%u,\"terminal\":%u,\"errored\":%u,\"recognised\":%u,"
           "\"duplicate\":%d,\"used\":%zu,\"peak\":%zu,"
           "\"allocations\":%ld}\n",
           states[call->request_state], states[call->response_state],
           (unsigned) call->content, (unsigned) call->terminal,
           (unsigned) call->errored, (unsigned) call->recognised,
           lunary_call_duplicate(call), mem->used, mem->peak,
           mem->ctx != NULL ? ((limited_t *) mem->ctx)->n : 0);
}


/* bytes that are no UTF-8 are printed as they are: a test shall see them */

static void
print_string(lunary_str_t s)
{
    size_t  i;

    putchar('"');

    for (i = 0; i < s.len; i++) {
        if (s.data[i] == '"' || s.data[i] == '\\') {
            putchar('\\');
            putchar(s.data[i]);

        } else if (s.data[i] < 0x20) {
            printf("\\u%04x", s.data[i]);

        } else {
            putchar(s.data[i]);
        }
    }

    putchar('"');
}


static long
number(lunary_str_t s, long otherwise)
{
    char  text[32];

    if (s.len == 0 || s.len >= sizeof(text)) {
        return otherwise;
    }

    memcpy(text, s.data, s.len);
    text[s.len] = '\0';

    return atol(text);
}
