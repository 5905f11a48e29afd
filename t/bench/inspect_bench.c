/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * How fast inspect/ reads documents: create, feed, finish, destroy, in a
 * loop, on texts made here.  Prints one line a case: ns of CPU a document, and
 * GB/s, the best of several rounds, since what is slower was disturbed.
 *
 *     make -C t/unit bench
 *     inspect_bench CASE LOOPS     one case, so often (for callgrind)
 */

#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "lunary_doc.h"
#include "lunary_json.h"
#include "lunary_request.h"


#define ROUNDS  7


typedef struct {
    const char    *name;
    int            request;            /* through lunary_request, else doc    */
    size_t         max;
    size_t         piece;
    lunary_buf_t   text;
} bench_t;


static lunary_mem_t  mem;


static void
add(lunary_buf_t *b, const char *s)
{
    if (lunary_buf_append(&mem, b, s, strlen(s)) != LUNARY_OK) {
        abort();
    }
}


/* prose with what prompts have in it: line ends, quotes, some code */

static void
prose(lunary_buf_t *b, size_t n, const char *odd)
{
    size_t  len, i;

    static const char  *parts[] = {
        "The quick brown fox jumps over the lazy dog, and nobody minds. ",
        "In the second quarter revenue grew by 12% year over year, driven ",
        "mostly by existing customers who moved to the larger plan.\\n",
        "She said \\\"not today\\\" and closed the door behind her. ",
        "for (i = 0; i < n; i++) { total += values[i]; }\\n",
        "Please summarise the following document for a technical reader. "
    };

    len = b->len + n;

    for (i = 0; b->len < len; i++) {
        add(b, (odd != NULL && i % 2) ? odd : parts[i % 6]);
    }
}


static void
chat(lunary_buf_t *b, int messages, size_t each, const char *odd)
{
    int  i;

    add(b, "{\"model\":\"gpt-4o-mini\",\"temperature\":0.2,\"stream\":true,"
           "\"user\":\"user-42\",\"messages\":[{\"role\":\"system\","
           "\"content\":\"You are a helpful assistant.\"}");

    for (i = 0; i < messages; i++) {
        add(b, i % 2 ? ",{\"role\":\"assistant\",\"content\":\""
                     : ",{\"role\":\"user\",\"content\":\"");
        prose(b, each, odd);
        add(b, "\"}");
    }

    add(b, "],\"max_tokens\":256,\"metadata\":{\"tier\":\"gold\"}}");
}


static void
embeddings(lunary_buf_t *b)
{
    int   i, k;
    char  n[32];

    add(b, "{\"object\":\"list\",\"data\":[");

    for (i = 0; i < 30; i++) {
        snprintf(n, sizeof(n), "%s{\"index\":%d,", i ? "," : "", i);
        add(b, n);
        add(b, "\"object\":\"embedding\",\"embedding\":[");

        for (k = 0; k < 1536; k++) {
            snprintf(n, sizeof(n), "%s%.10f", k ? "," : "-0.1,",
                     (double) ((i * 7919 + k * 104729) % 100003) / 1e6);
            add(b, n);
        }

        add(b, "]}");
    }

    add(b, "],\"usage\":{\"prompt_tokens\":8,\"total_tokens\":8}}");
}


static void
once(const bench_t *c)
{
    int                rc;
    size_t             at, n;
    lunary_doc_t      *d;
    lunary_request_t  *rq;

    d = NULL;
    rq = NULL;

    if (c->request) {
        rq = lunary_request_create(&mem, c->max, 0);

    } else {
        d = lunary_doc_create(&mem, c->max, 0, 0);
    }

    for (at = 0; at < c->text.len; at += n) {
        n = c->text.len - at < c->piece ? c->text.len - at : c->piece;

        rc = rq ? lunary_request_feed(rq, c->text.data + at, n)
                : lunary_doc_feed(d, c->text.data + at, n);

        if (rc < 0) {
            abort();
        }
    }

    rc = rq ? lunary_request_finish(rq) : lunary_doc_finish(d);

    if (rc != LUNARY_OK) {
        abort();
    }

    lunary_request_destroy(rq);
    lunary_doc_destroy(d);
}


static double
now(void)
{
    struct timespec  t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);

    return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}


static void
run(const bench_t *c, long loops)
{
    int     r;
    long    i;
    double  start, t, best;

    if (loops == 0) {
        loops = (long) (100 * 1000 * 1000 / (c->text.len + 2000)) + 1;
    }

    best = 1e9;

    for (r = 0; r < ROUNDS; r++) {
        start = now();

        for (i = 0; i < loops; i++) {
            once(c);
        }

        t = (now() - start) / (double) loops;
        best = t < best ? t : best;
    }

    printf("%-34s %8zu bytes  %10.0f ns  %6.2f GB/s\n", c->name, c->text.len,
           best * 1e9, (double) c->text.len / best / 1e9);
}


int
main(int argc, char **argv)
{
    size_t   i;
    bench_t  cases[] = {
        { "request, 0.6 KB chat", 1, 1 << 19, 1 << 20, { 0, 0, 0 } },
        { "request, 9 KB chat", 1, 1 << 19, 1 << 20, { 0, 0, 0 } },
        { "request, 213 KB chat", 1, 1 << 19, 16384, { 0, 0, 0 } },
        { "request, 213 KB chat, 32 KB kept", 1, 1 << 15, 16384,
          { 0, 0, 0 } },
        { "request, 213 KB Chinese", 1, 1 << 19, 16384, { 0, 0, 0 } },
        { "request, 100 KB of 30-byte messages", 1, 1 << 19, 16384,
          { 0, 0, 0 } },
        { "response, 1 MB embeddings", 0, 1 << 18, 16384, { 0, 0, 0 } },
        { "response, 9 KB chat", 0, 1 << 18, 16384, { 0, 0, 0 } }
    };

    lunary_mem_init(&mem);

    chat(&cases[0].text, 3, 130, NULL);
    chat(&cases[1].text, 8, 1080, NULL);
    chat(&cases[2].text, 20, 10600, NULL);
    chat(&cases[3].text, 20, 10600, NULL);
    chat(&cases[4].text, 20, 10600,
         "\xE6\x95\x8F\xE6\x8D\xB7\xE7\x9A\x84\xE6\xA3\x95\xE8\x89\xB2\xE7"
         "\x8B\x90\xE7\x8B\xB8\xE8\xB7\xB3\xE8\xBF\x87\xE4\xBA\x86\xE6\x87"
         "\x92\xE6\x83\xB0\xE7\x9A\x84\xE7\x8B\x97\xE3\x80\x82");
    chat(&cases[5].text, 1000, 60, NULL);
    embeddings(&cases[6].text);
    chat(&cases[7].text, 8, 1080, NULL);

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (argc < 2 || strtoul(argv[1], NULL, 10) == i) {
            run(&cases[i], argc > 2 ? strtol(argv[2], NULL, 10) : 0);
        }
        lunary_buf_free(&mem, &cases[i].text);
    }

    return 0;
}
