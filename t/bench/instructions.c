/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What a call costs in this project's own code, without nginx and without
 * Redis: read request and answer, make the run, redact and encode it.  Run
 * under callgrind by instructions.py, which counts.
 *
 *     instructions N CAPTURE_MAX CAPTURE REQUEST ANSWER
 *
 * N calls; CAPTURE_MAX bytes; CAPTURE 0 (none) or 3 (full); files of the
 * bodies.  An ANSWER that begins with a field of an event is fed event by
 * event.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inspect/lunary_call.h"


static unsigned char *
slurp(const char *name, size_t *n)
{
    FILE           *f;
    long            size;
    unsigned char  *p;

    f = fopen(name, "rb");

    if (f == NULL || fseek(f, 0, SEEK_END) != 0 || (size = ftell(f)) < 0) {
        perror(name);
        exit(1);
    }

    rewind(f);
    p = malloc((size_t) size + LUNARY_CALL_BEHIND);

    if (p == NULL || fread(p, 1, (size_t) size, f) != (size_t) size) {
        exit(1);
    }

    fclose(f);
    p[size] = '\0';
    *n = (size_t) size;

    return p;
}


static lunary_str_t
header(void *ctx, const char *name, size_t len)
{
    (void) ctx;
    (void) name;
    (void) len;

    return lunary_str(NULL, 0);
}


/* the length of the event at p; found once, so that it is not measured */

static size_t
event(const unsigned char *p, const unsigned char *end)
{
    const unsigned char         *q;

    static size_t                lens[1024], n, at;
    static const unsigned char  *start;

    if (start == NULL) {
        start = p;

        for (q = p; q < end && n < 1024; q += lens[n++]) {
            const unsigned char  *lf;

            lf = memmem(q, (size_t) (end - q), "\n\n", 2);
            lens[n] = lf ? (size_t) (lf + 2 - q) : (size_t) (end - q);
        }
    }

    at = (p == start) ? 0 : at + 1;

    if (at >= n) {
        exit(1);
    }

    return lens[at];
}


static size_t
call(lunary_call_conf_t *conf, const char *path, unsigned char *rq,
    size_t nrq, unsigned char *rs, size_t nrs, unsigned char *ring)
{
    int                     sse;
    size_t                  size;
    lunary_run_t            run;
    lunary_mem_t            mem;
    lunary_buf_t            scratch;
    lunary_call_t          *c;
    const unsigned char    *p;
    const lunary_claims_t  *claims;

    static const lunary_str_t  post = lunary_string("POST");
    static const lunary_str_t  json = lunary_string("application/json");
    static const lunary_str_t  events = lunary_string("text/event-stream");

    sse = nrs > 6 && (memcmp(rs, "data:", 5) == 0
                      || memcmp(rs, "event:", 6) == 0);

    lunary_mem_init(&mem);

    c = lunary_call_create(&mem, conf);
    if (c == NULL) {
        exit(1);
    }

    lunary_call_start(c, post, lunary_str(path, strlen(path)), json,
                      lunary_str(NULL, 0));

    if (nrq <= conf->capture_max) {

        /* as in nginx */

        lunary_call_lend(c, rq, nrq + LUNARY_CALL_BEHIND);
    }

    lunary_call_request(c, rq, nrq);
    lunary_call_request_end(c);

    claims = lunary_call_claims(c);

    lunary_call_answer(c, 200, sse ? events : json, lunary_str(NULL, 0),
                       header, NULL);

    for (p = rs; p < rs + nrs; p += size) {
        size = sse ? event(p, rs + nrs) : nrs;
        lunary_call_response(c, p, size);
    }

    lunary_call_response_end(c, 1);

    lunary_run_init(&run);
    lunary_call_finish(c, &run);

    lunary_run_set_lit(&run, LUNARY_F_KIND, "run");
    lunary_run_set_lit(&run, LUNARY_F_V, "1");
    lunary_run_set_lit(&run, LUNARY_F_ORIGIN, "proxy");
    lunary_run_set_lit(&run, LUNARY_F_RUN_ID,
                       "019aa8f3-1d60-7c41-9d0e-5f0f9e3cbb0a");
    lunary_run_set_lit(&run, LUNARY_F_APP, "default");
    lunary_run_set(&run, LUNARY_F_USER_ID, claims->user);
    lunary_run_set_lit(&run, LUNARY_F_USER_SOURCE, "body");
    lunary_run_set_lit(&run, LUNARY_F_USER_VERIFIED, "0");
    lunary_run_set_lit(&run, LUNARY_F_OUTCOME, "ok");
    lunary_run_set_int(&run, LUNARY_F_STARTED_AT, 1763772000000);
    lunary_run_set_int(&run, LUNARY_F_ENDED_AT, 1763772000712);
    lunary_run_set_int(&run, LUNARY_F_DURATION_MS, 712);
    lunary_run_set_int(&run, LUNARY_F_STATUS, 200);

    memset(&scratch, 0, sizeof(scratch));
    (void) lunary_run_redact(&run, conf->capture, &mem, &scratch);

    size = lunary_run_room(&run);

    if (ring == NULL) {

        /* the first call says how it went */

        printf("%zu bytes, %u fields, user %.*s, %lld + %lld tokens, "
               "peak %zu\n", size, lunary_run_count(&run),
               (int) claims->user.len, (const char *) claims->user.data,
               (long long) c->input_tokens, (long long) c->output_tokens,
               mem.peak);

    } else {
        (void) lunary_run_encode(&run, ring);
    }

    lunary_buf_free(&mem, &scratch);
    lunary_call_destroy(c);

    if (mem.used != 0) {
        fprintf(stderr, "%zu bytes leaked\n", mem.used);
        exit(1);
    }

    return size;
}


int
main(int argc, char **argv)
{
    int                  i, n;
    size_t               nrq, nrs, size;
    const char          *path;
    unsigned char       *rq, *rs, *ring;
    lunary_call_conf_t   conf;

    if (argc != 6) {
        fprintf(stderr, "usage: instructions N CAPTURE_MAX CAPTURE REQUEST "
                "ANSWER\n");
        return 2;
    }

    n = atoi(argv[1]);

    memset(&conf, 0, sizeof(conf));
    conf.capture_max = strtoul(argv[2], NULL, 10);
    conf.capture = (unsigned) atoi(argv[3]);

    rq = slurp(argv[4], &nrq);
    rs = slurp(argv[5], &nrs);

    path = strstr((char *) rq, "\"claude-") ? "/v1/messages"
           : strstr((char *) rq, "\"messages\"") ? "/v1/chat/completions"
           : "/v1/embeddings";

    size = call(&conf, path, rq, nrq, rs, nrs, NULL);

    ring = malloc(size);
    if (ring == NULL) {
        return 1;
    }

    for (i = 0; i < n; i++) {
        (void) call(&conf, path, rq, nrq, rs, nrs, ring);
    }

    free(ring);
    free(rq);
    free(rs);

    return 0;
}
