/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Whole calls in every dialect: any request, any response.  What comes out
 * must be the same in any split, and where the request is read in place, which
 * nobody may write to; be JSON where it says so, hold to the bounds, and leave
 * no memory.
 *
 * An input: dialect, flags, content type, split, length of the request
 * (little endian, 2 bytes), the request, the response.
 */

#include <stdio.h>
#include <stdlib.h>

#include "inspect/lunary_call.h"
#include "inspect/lunary_dialects.h"
#include "inspect/lunary_json.h"


#define HEAD  6


typedef struct {
    const char  *path;
    const char  *name;           /* of the dialect; NULL: by path and body   */
} target_t;


static const target_t  targets[] = {
    { "/v1/chat/completions", NULL },
    { "/v1/completions", NULL },
    { "/v1/responses", NULL },
    { "/v1/embeddings", NULL },
    { "/v1/moderations", NULL },
    { "/v1/images/generations", NULL },
    { "/v1/audio/transcriptions", NULL },
    { "/v1/audio/speech", NULL },
    { "/v1/threads/t/runs", NULL },
    { "/v1/responses/input_tokens", NULL },
    { "/v1/messages", NULL },
    { "/v1/messages/count_tokens", NULL },
    { "/v1/complete", NULL },
    { "/v1beta/models/gemini-2.5-flash:generateContent", NULL },
    { "/v1beta/models/gemini-2.5-flash:streamGenerateContent", NULL },
    { "/v1beta/models/m:countTokens", NULL },
    { "/v1beta/models/m:batchEmbedContents", NULL },
    { "/v1beta/interactions", NULL },
    { "/v1/projects/p/publishers/google/models/m:predict", NULL },
    { "/model/anthropic.claude-v2:1/converse", NULL },
    { "/model/anthropic.claude-v2:1/converse-stream", NULL },
    { "/model/meta.llama/x/invoke", NULL },
    { "/model/meta.llama/x/invoke-with-response-stream", NULL },
    { "/api/chat", NULL },
    { "/api/generate", NULL },
    { "/api/embed", NULL },
    { "/v1/chat", "cohere.chat.v1" },
    { "/v2/chat", NULL },
    { "/v1/generate", NULL },
    { "/v1/embed", NULL },
    { "/v1/rerank", NULL },
    { "/v1/conversations", NULL },
    { "/ml/v1/text/generation_stream", NULL },
    { "/", "huggingface.inference" },
    { "/v1/predictions", NULL },
    { "/complete", "alephalpha.complete" },
    { "/anything", NULL },
    { "/v1/audio/translations", NULL },
    { "/api/v2/cortex/inference:complete", NULL },
    { "/v1beta/models/m:embedContent", NULL },
    { "/v1/ocr", NULL },
    { "/endpoints/e/invocations", NULL },
    { "/endpoints/e/invocations-response-stream", NULL },
    { "/v1/images/edits", NULL },
    { "/v1/responses/compact", NULL },
    { "/v1/projects/p/locations/l/publishers/anthropic/models/m:rawPredict",
      NULL },
    { "/api/embeddings", NULL },
    { "/v2/embed", NULL },
    { "/generation/text_stream", NULL },
    { "/generate_stream", NULL },
    { "/agents/a/agentAliases/b/sessions/c/text", NULL },
    { "/retrieveAndGenerateStream", NULL },
    { "/model/cohere.rerank/invoke", NULL },
    { "/v1/projects/p/publishers/google/models/embedding:predict", NULL },
    { "/rerank", "bedrock.rerank" }
};

#define TARGETS_N  (sizeof(targets) / sizeof(targets[0]))

static const char  *const types[] = {
    "application/json", "text/event-stream", "application/x-ndjson",
    "application/vnd.amazon.eventstream", "", "text/plain",
    "multipart/form-data; boundary=b", "application/x-www-form-urlencoded"
};

static const char  *const encodings[] = { "", "", "", "gzip", "deflate",
                                           "br", "zstd", "" };


static const lunary_dialect_t  *const dialects[] = {
#define DIALECT(d)  &d,
    LUNARY_DIALECTS(DIALECT)
#undef DIALECT
    &lunary_dialect_unknown
};


int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
static uint64_t replay(const uint8_t *data, size_t size, unsigned split,
    unsigned lend);
static uint8_t *feed_lent(lunary_call_t *call, const uint8_t *p, size_t n,
    unsigned split, unsigned lend);
static size_t piece(unsigned split, size_t off, size_t n);
static void feed(lunary_call_t *call, const uint8_t *p, size_t n,
    unsigned split, void (*fn)(lunary_call_t *call, const unsigned char *p,
    size_t n));
static lunary_str_t str(const char *s);
static uint64_t add(uint64_t hash, const void *p, size_t n);


/* every dialect is some target's */

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    size_t                   i, k;
    const target_t          *t;
    const lunary_dialect_t  *d;

    (void) argc;
    (void) argv;

    for (i = 0; i < sizeof(dialects) / sizeof(dialects[0]); i++) {

        for (k = 0; k < TARGETS_N; k++) {
            t = &targets[k];
            d = t->name ? lunary_dialect_by_name(str(t->name))
                        : lunary_dialect_by_path(str("POST"), str(t->path));

            if (d == dialects[i]
                || (d == NULL && dialects[i] == &lunary_dialect_unknown))
            {
                break;
            }
        }

        if (k == TARGETS_N) {
            fprintf(stderr, "no target for %s\n",
                    (const char *) dialects[i]->name.data);
            abort();
        }
    }

    return 0;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int       same;
    uint64_t  whole;

    if (size < HEAD) {
        return 0;
    }

    whole = replay(data, size, 0, 0);

    /* how much of broken compressed data comes out is the libraries' to say */

    same = (encodings[(data[1] >> 5) & 7][0] == '\0');

    if ((replay(data, size, 1, 0) != whole && same)
        || (replay(data, size, 2u + data[3], 0) != whole && same)
        || (replay(data, size, 0, 1) != whole && same)
        || (replay(data, size, 2u + data[3], 1) != whole && same)
        || (replay(data, size, 2u + data[3], 2u + data[3] % 5) != whole
            && same))
    {
        abort();
    }

    return 0;
}


static uint64_t
replay(const uint8_t *data, size_t size, unsigned split, unsigned lend)
{
    size_t               n, len, limit;
    uint8_t             *place;
    uint64_t             hash;
    lunary_mem_t         mem;
    lunary_run_t         run;
    lunary_call_t       *call;
    const target_t      *t;
    lunary_field_e       f;
    lunary_call_conf_t   conf;

    static const lunary_field_e  json[] = {
        LUNARY_F_INPUT, LUNARY_F_OUTPUT, LUNARY_F_PARAMS, LUNARY_F_METADATA,
        LUNARY_F_USAGE, LUNARY_F_ERROR
    };

    t = &targets[data[0] % TARGETS_N];

    memset(&conf, 0, sizeof(conf));

    conf.capture = data[1] & 3;
    conf.capture_max = (data[1] & 4) ? 1024 : (data[1] & 8) ? 4096 : 65536;

    if (t->name != NULL) {
        conf.forced = lunary_dialect_by_name(str(t->name));
    }

    n = (size_t) data[4] | (size_t) data[5] << 8;

    if (n > size - HEAD) {
        n = size - HEAD;
    }

    lunary_mem_init(&mem);

    call = lunary_call_create(&mem, &conf);

    if (call == NULL) {
        abort();
    }

    lunary_call_start(call, str("POST"), str(t->path),
                      str(types[(data[2] >> 3) & 7]),
                      str(encodings[(data[1] >> 5) & 7]));

    len = n;
    place = NULL;

    if (lend) {
        place = feed_lent(call, data + HEAD, n, split, lend);

    } else {
        feed(call, data + HEAD, n, split, lunary_call_request);
    }

    if (!(data[2] & 0x40)) {
        lunary_call_request_end(call);
        (void) lunary_call_claims(call);
        (void) lunary_call_body(call);
    }

    lunary_call_answer(call, (data[1] & 16) ? 400 : 200,
                       str(types[data[2] & 7]),
                       str(encodings[(data[1] >> 5) & 7]), NULL, NULL);
    feed(call, data + HEAD + n, size - HEAD - n, split, lunary_call_response);

    if (!(data[2] & 0x80)) {
        lunary_call_response_end(call, 1);
    }

    lunary_run_init(&run);
    lunary_call_finish(call, &run);

    hash = 14695981039346656037u;

    for (f = 0; f < LUNARY_F_MAX; f++) {
        if (lunary_run_has(&run, f)) {
            hash = add(hash, &f, sizeof(f));
            hash = add(hash, run.value[f].data, run.value[f].len);
        }
    }

    for (n = 0; n < sizeof(json) / sizeof(json[0]); n++) {

        if (!lunary_run_has(&run, json[n])) {
            continue;
        }

        if (!lunary_json_valid(run.value[json[n]], 2048)) {
            abort();
        }

        limit = json[n] == LUNARY_F_USAGE || json[n] == LUNARY_F_ERROR
                ? 65536 : conf.capture_max + 256;

        if (run.value[json[n]].len > limit) {
            abort();
        }
    }

    lunary_call_destroy(call);

    if (mem.used != 0) {
        abort();
    }

    if (lend) {

        if (len && memcmp(place, data + HEAD, len) != 0) {
            abort();
        }

        for (n = 0; n < LUNARY_CALL_BEHIND; n++) {
            if (place[len + n] != '"') {
                abort();
            }
        }

        free(place);
    }

    return hash;
}


/* from where it lies, all of it or all but each lend-th piece; what comes
 * behind it looks like a part of it */

static uint8_t *
feed_lent(lunary_call_t *call, const uint8_t *p, size_t n, unsigned split,
    unsigned lend)
{
    size_t    off, k, i;
    uint8_t  *place;

    place = malloc(n + LUNARY_CALL_BEHIND);

    if (place == NULL) {
        abort();
    }

    if (n) {
        memcpy(place, p, n);
    }

    memset(place + n, '"', LUNARY_CALL_BEHIND);

    lunary_call_lend(call, place, n + LUNARY_CALL_BEHIND);

    for (off = 0, i = 1; off < n; off += k, i++) {
        k = piece(split, off, n);

        if (lend > 1 && i % lend == 0) {
            feed(call, p + off, k, 0, lunary_call_request);

        } else {
            lunary_call_request(call, place + off, k);
        }
    }

    return place;
}


/* how long the piece at off is */

static size_t
piece(unsigned split, size_t off, size_t n)
{
    size_t  k;

    k = split == 0 ? n : split == 1 ? 1 : 1 + (split * 7 + off) % split;

    return k > n - off ? n - off : k;
}


static void
feed(lunary_call_t *call, const uint8_t *p, size_t n, unsigned split,
    void (*fn)(lunary_call_t *call, const unsigned char *p, size_t n))
{
    size_t    off, k;
    uint8_t  *copy;

    for (off = 0; off < n; off += k) {
        k = piece(split, off, n);
        copy = malloc(k);

        if (copy == NULL) {
            abort();
        }

        memcpy(copy, p + off, k);
        fn(call, copy, k);
        free(copy);
    }
}


static lunary_str_t
str(const char *s)
{
    return lunary_str(s, strlen(s));
}


static uint64_t
add(uint64_t hash, const void *p, size_t n)
{
    size_t          i;
    const uint8_t  *s;

    s = p;

    for (i = 0; i < n; i++) {
        hash = (hash ^ s[i]) * 1099511628211u;
    }

    return hash;
}
