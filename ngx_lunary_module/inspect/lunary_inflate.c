/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Inflating.  See lunary_inflate.h.
 *
 * One entry of lunary_codings[] is one coding: how it starts, takes bytes and
 * ends.  Each library allocates through the call's counted memory; its
 * allocators do not tell sizes when freeing, so a block carries its own.
 */

#include <strings.h>
#include <zlib.h>

#if (LUNARY_HAVE_BROTLI)
#include <brotli/decode.h>
#endif

#if (LUNARY_HAVE_ZSTD)
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>
#endif

#include "lunary_inflate.h"


#define LUNARY_INFLATE_PIECE  8192


typedef struct {
    const char  *name;
    int        (*start)(lunary_inflate_t *inf);
    int        (*feed)(lunary_inflate_t *inf, const unsigned char *p,
                       size_t n);
    void       (*end)(lunary_inflate_t *inf);
} lunary_coding_t;


struct lunary_inflate_s {
    lunary_mem_t             *mem;
    const lunary_coding_t    *coding;
    lunary_inflate_pt         sink;
    void                     *ctx;

    size_t                    small;       /* bytes out at any ratio         */
    uint64_t                  in;
    uint64_t                  out;
    int                       rc;          /* sticky                         */

    z_stream                  z;
    unsigned                  raw:1;       /* deflate: settled               */
#if (LUNARY_HAVE_BROTLI)
    BrotliDecoderState       *br;
#endif
#if (LUNARY_HAVE_ZSTD)
    ZSTD_DStream             *zstd;
#endif
    unsigned char             piece[LUNARY_INFLATE_PIECE];
};


static int lunary_gzip_start(lunary_inflate_t *inf);
static int lunary_deflate_start(lunary_inflate_t *inf);
static int lunary_zlib_feed(lunary_inflate_t *inf, const unsigned char *p,
    size_t n);
static void lunary_zlib_end(lunary_inflate_t *inf);
static voidpf lunary_zlib_alloc(voidpf opaque, uInt items, uInt size);
static void lunary_zlib_free(voidpf opaque, voidpf p);

#if (LUNARY_HAVE_BROTLI)
static int lunary_br_start(lunary_inflate_t *inf);
static int lunary_br_feed(lunary_inflate_t *inf, const unsigned char *p,
    size_t n);
static void lunary_br_end(lunary_inflate_t *inf);
#endif

#if (LUNARY_HAVE_ZSTD)
static int lunary_zstd_start(lunary_inflate_t *inf);
static int lunary_zstd_feed(lunary_inflate_t *inf, const unsigned char *p,
    size_t n);
static void lunary_zstd_end(lunary_inflate_t *inf);
#endif

static int lunary_inflate_out(lunary_inflate_t *inf, size_t n);
static void *lunary_inflate_alloc(void *opaque, size_t size);
static void lunary_inflate_free(void *opaque, void *p);


static const lunary_coding_t  lunary_codings[] = {
    { "gzip", lunary_gzip_start, lunary_zlib_feed, lunary_zlib_end },
    { "x-gzip", lunary_gzip_start, lunary_zlib_feed, lunary_zlib_end },
    { "deflate", lunary_deflate_start, lunary_zlib_feed, lunary_zlib_end },
#if (LUNARY_HAVE_BROTLI)
    { "br", lunary_br_start, lunary_br_feed, lunary_br_end },
#endif
#if (LUNARY_HAVE_ZSTD)
    { "zstd", lunary_zstd_start, lunary_zstd_feed, lunary_zstd_end },
#endif
    { NULL, NULL, NULL, NULL }
};


int
lunary_inflate_create(lunary_mem_t *mem, lunary_str_t encoding,
    size_t small, lunary_inflate_t **out)
{
    int                     rc;
    size_t                  n;
    lunary_inflate_t       *inf;
    const unsigned char    *p, *end;
    const lunary_coding_t  *c, *found;

    *out = NULL;
    found = NULL;

    if (encoding.len == 0) {
        return LUNARY_OK;
    }

    p = encoding.data;
    end = p + encoding.len;

    while (p < end) {

        if (*p == ' ' || *p == '\t' || *p == ',') {
            p++;
            continue;
        }

        for (n = 0; p + n < end && p[n] != ',' && p[n] != ' ' && p[n] != '\t';
             n++)
        {
            /* void */
        }

        if (n != 8 || strncasecmp((const char *) p, "identity", 8) != 0) {

            if (found != NULL) {
                return LUNARY_ERROR;
            }

            for (c = lunary_codings; c->name != NULL; c++) {
                if (strlen(c->name) == n
                    && strncasecmp((const char *) p, c->name, n) == 0)
                {
                    break;
                }
            }

            if (c->name == NULL) {
                return LUNARY_ERROR;
            }

            found = c;
        }

        p += n;
    }

    if (found == NULL) {
        return LUNARY_OK;
    }

    inf = lunary_alloc(mem, sizeof(lunary_inflate_t));
    if (inf == NULL) {
        return LUNARY_NOMEM;
    }

    memset(inf, 0, offsetof(lunary_inflate_t, piece));

    inf->mem = mem;
    inf->small = small;
    inf->coding = found;

    rc = found->start(inf);

    if (rc != LUNARY_OK) {
        lunary_free(mem, inf, sizeof(lunary_inflate_t));
        return rc;
    }

    *out = inf;

    return LUNARY_OK;
}


void
lunary_inflate_destroy(lunary_inflate_t *inf)
{
    inf->coding->end(inf);

    lunary_free(inf->mem, inf, sizeof(lunary_inflate_t));
}


int
lunary_inflate_feed(lunary_inflate_t *inf, const unsigned char *p, size_t n,
    lunary_inflate_pt sink, void *ctx)
{
    if (inf->rc < 0 || n == 0) {
        return inf->rc;
    }

    inf->sink = sink;
    inf->ctx = ctx;
    inf->in += n;

    inf->rc = inf->coding->feed(inf, p, n);

    return inf->rc;
}


/* n bytes of the piece are inflated */

static int
lunary_inflate_out(lunary_inflate_t *inf, size_t n)
{
    if (n == 0) {
        return LUNARY_OK;
    }

    inf->out += n;

    if (inf->out > LUNARY_INFLATE_MAX
        || (inf->out > inf->small
            && inf->out / LUNARY_INFLATE_RATIO > inf->in))
    {
        return LUNARY_LIMIT;
    }

    inf->sink(inf->ctx, inf->piece, n);

    return LUNARY_OK;
}


static int
lunary_gzip_start(lunary_inflate_t *inf)
{
    inf->z.zalloc = lunary_zlib_alloc;
    inf->z.zfree = lunary_zlib_free;
    inf->z.opaque = inf;

    inf->raw = 1;

    /* 15 bits of window, 16: gzip's wrapper and nothing else */

    return inflateInit2(&inf->z, 15 + 16) == Z_OK ? LUNARY_OK : LUNARY_NOMEM;
}


static int
lunary_deflate_start(lunary_inflate_t *inf)
{
    inf->z.zalloc = lunary_zlib_alloc;
    inf->z.zfree = lunary_zlib_free;
    inf->z.opaque = inf;

    return inflateInit2(&inf->z, 15) == Z_OK ? LUNARY_OK : LUNARY_NOMEM;
}


static int
lunary_zlib_feed(lunary_inflate_t *inf, const unsigned char *p, size_t n)
{
    int  rc;

    if (!inf->raw) {

        /* RFC 9110 says zlib's format, some servers send raw deflate: a zlib
           header has method 8 in its first byte */

        inf->raw = 1;

        if ((p[0] & 0x0f) != 8 || (p[0] >> 4) > 7) {
            if (inflateReset2(&inf->z, -15) != Z_OK) {
                return LUNARY_ERROR;
            }
        }
    }

    if (inf->rc == LUNARY_DONE) {

        /* another member, or what some servers append: passed over */

        if (inf->coding->start != lunary_gzip_start || p[0] != 0x1f
            || inflateReset(&inf->z) != Z_OK)
        {
            return LUNARY_DONE;
        }

        inf->rc = LUNARY_OK;
    }

    inf->z.next_in = (Bytef *) p;
    inf->z.avail_in = (uInt) n;

    do {
        inf->z.next_out = inf->piece;
        inf->z.avail_out = LUNARY_INFLATE_PIECE;

        rc = inflate(&inf->z, Z_SYNC_FLUSH);

        if (lunary_inflate_out(inf, LUNARY_INFLATE_PIECE - inf->z.avail_out)
            != LUNARY_OK)
        {
            return LUNARY_LIMIT;
        }

        if (rc == Z_STREAM_END) {

            if (inf->z.avail_in == 0
                || inf->coding->start != lunary_gzip_start
                || inf->z.next_in[0] != 0x1f)
            {
                return LUNARY_DONE;
            }

            if (inflateReset(&inf->z) != Z_OK) {
                return LUNARY_ERROR;
            }

            continue;
        }

        if (rc == Z_MEM_ERROR) {
            return LUNARY_NOMEM;
        }

        if (rc != Z_OK && rc != Z_BUF_ERROR) {
            return LUNARY_ERROR;
        }

    } while (inf->z.avail_in != 0 || inf->z.avail_out == 0);

    return LUNARY_OK;
}


static void
lunary_zlib_end(lunary_inflate_t *inf)
{
    (void) inflateEnd(&inf->z);
}


static voidpf
lunary_zlib_alloc(voidpf opaque, uInt items, uInt size)
{
    return lunary_inflate_alloc(opaque, (size_t) items * size);
}


static void
lunary_zlib_free(voidpf opaque, voidpf p)
{
    lunary_inflate_free(opaque, p);
}


#if (LUNARY_HAVE_BROTLI)

static int
lunary_br_start(lunary_inflate_t *inf)
{
    inf->br = BrotliDecoderCreateInstance(lunary_inflate_alloc,
                                          lunary_inflate_free, inf);

    return inf->br != NULL ? LUNARY_OK : LUNARY_NOMEM;
}


static int
lunary_br_feed(lunary_inflate_t *inf, const unsigned char *p, size_t n)
{
    size_t               room;
    unsigned char       *out;
    BrotliDecoderResult  rc;

    if (inf->rc == LUNARY_DONE) {
        return LUNARY_DONE;
    }

    /* the first byte's low bits hold WBITS (RFC 7932, 9.1): 0x11 would be a
       large window, which the decoder refuses by itself; the largest other
       is 16 MiB, taken only as the output needs it */

    do {
        out = inf->piece;
        room = LUNARY_INFLATE_PIECE;

        rc = BrotliDecoderDecompressStream(inf->br, &n, &p, &room, &out,
                                           NULL);

        if (lunary_inflate_out(inf, LUNARY_INFLATE_PIECE - room)
            != LUNARY_OK)
        {
            return LUNARY_LIMIT;
        }

        if (rc == BROTLI_DECODER_RESULT_SUCCESS) {
            return LUNARY_DONE;
        }

        if (rc == BROTLI_DECODER_RESULT_ERROR) {
            return LUNARY_ERROR;
        }

    } while (rc == BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT);

    return LUNARY_OK;
}


static void
lunary_br_end(lunary_inflate_t *inf)
{
    BrotliDecoderDestroyInstance(inf->br);
}

#endif


#if (LUNARY_HAVE_ZSTD)

static int
lunary_zstd_start(lunary_inflate_t *inf)
{
    ZSTD_customMem  mem;

    mem.customAlloc = lunary_inflate_alloc;
    mem.customFree = lunary_inflate_free;
    mem.opaque = inf;

    inf->zstd = ZSTD_createDStream_advanced(mem);

    if (inf->zstd == NULL) {
        return LUNARY_NOMEM;
    }

    if (ZSTD_isError(ZSTD_DCtx_setParameter(inf->zstd, ZSTD_d_windowLogMax,
                                            LUNARY_INFLATE_WINDOW)))
    {
        (void) ZSTD_freeDStream(inf->zstd);
        return LUNARY_ERROR;
    }

    return LUNARY_OK;
}


static int
lunary_zstd_feed(lunary_inflate_t *inf, const unsigned char *p, size_t n)
{
    size_t          rc;
    ZSTD_inBuffer   in;
    ZSTD_outBuffer  out;

    in.src = p;
    in.size = n;
    in.pos = 0;

    do {
        out.dst = inf->piece;
        out.size = LUNARY_INFLATE_PIECE;
        out.pos = 0;

        rc = ZSTD_decompressStream(inf->zstd, &out, &in);

        if (ZSTD_isError(rc)) {
            return LUNARY_ERROR;
        }

        if (lunary_inflate_out(inf, out.pos) != LUNARY_OK) {
            return LUNARY_LIMIT;
        }

    } while (in.pos < in.size || out.pos == out.size);

    return rc == 0 ? LUNARY_DONE : LUNARY_OK;
}


static void
lunary_zstd_end(lunary_inflate_t *inf)
{
    (void) ZSTD_freeDStream(inf->zstd);
}

#endif


/* a block with its size before it, aligned for anything */

static void *
lunary_inflate_alloc(void *opaque, size_t size)
{
    size_t            *p;
    lunary_inflate_t  *inf;

    inf = opaque;

    if (size > SIZE_MAX - 16) {
        return NULL;
    }

    p = lunary_alloc(inf->mem, size + 16);
    if (p == NULL) {
        return NULL;
    }

    *p = size + 16;

    return (unsigned char *) p + 16;
}


static void
lunary_inflate_free(void *opaque, void *p)
{
    size_t            *q;
    lunary_inflate_t  *inf;

    if (p == NULL) {
        return;
    }

    inf = opaque;
    q = (size_t *) (void *) ((unsigned char *) p - 16);

    lunary_free(inf->mem, q, *q);
}
