/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Framing of streams.  See lunary_frame.h.
 */

#include <zlib.h>

#include "lunary_frame.h"
#include "lunary_json.h"


/* AWS: bounds of what a message may be (its limits are 16 MB and 128 KB) */

#define LUNARY_FRAME_AWS_MAX      (24 * 1024 * 1024)
#define LUNARY_FRAME_AWS_HEADERS  4096


/* states of lunary_frame_t */

enum {
    LUNARY_SSE_LINE = 0,              /* at the start of a line              */
    LUNARY_SSE_FIELD,                 /* in its field's name                 */
    LUNARY_SSE_SPACE,                 /* behind the colon                    */
    LUNARY_SSE_DATA,
    LUNARY_SSE_EVENT,
    LUNARY_SSE_SKIP,

    LUNARY_ARRAY_BETWEEN,             /* before a value                      */
    LUNARY_ARRAY_NESTED,              /* in an object or array               */
    LUNARY_ARRAY_STRING,
    LUNARY_ARRAY_SCALAR,
    LUNARY_ARRAY_DONE,

    LUNARY_AWS_PRELUDE,
    LUNARY_AWS_HEADERS,
    LUNARY_AWS_PAYLOAD,
    LUNARY_AWS_CRC
};


static int lunary_frame_sse(lunary_frame_t *f, const unsigned char *p,
    const unsigned char *end);
static void lunary_frame_sse_field(lunary_frame_t *f);
static int lunary_frame_lines(lunary_frame_t *f, const unsigned char *p,
    const unsigned char *end);
static int lunary_frame_array(lunary_frame_t *f, const unsigned char *p,
    const unsigned char *end);
static int lunary_frame_aws(lunary_frame_t *f, const unsigned char *p,
    const unsigned char *end);
static void lunary_frame_aws_headers(lunary_frame_t *f);
static void lunary_frame_add(lunary_frame_t *f, const unsigned char *p,
    size_t n);
static void lunary_frame_whole(lunary_frame_t *f, const unsigned char *p,
    size_t n);
static void lunary_frame_dispatch(lunary_frame_t *f, int complete);
static void lunary_frame_out(lunary_frame_t *f, lunary_str_t data);
static void lunary_frame_set_name(lunary_frame_t *f, const unsigned char *p,
    size_t n);
static uint32_t lunary_frame_be32(const unsigned char *p);


void
lunary_frame_init(lunary_frame_t *f, lunary_mem_t *mem,
    lunary_frame_kind_e kind, size_t max, lunary_frame_pt handler, void *ctx)
{
    memset(f, 0, sizeof(lunary_frame_t));

    f->mem = mem;
    f->kind = kind;
    f->max = max;
    f->handler = handler;
    f->ctx = ctx;

    switch (kind) {

    case LUNARY_FRAME_ARRAY:
        f->state = LUNARY_ARRAY_BETWEEN;
        break;

    case LUNARY_FRAME_AWS:
        f->state = LUNARY_AWS_PRELUDE;
        break;

    default:
        f->state = LUNARY_SSE_LINE;
        break;
    }
}


int
lunary_frame_feed(lunary_frame_t *f, const unsigned char *p, size_t n)
{
    if (n == 0 || f->error == LUNARY_ERROR) {
        return f->error;
    }

    switch (f->kind) {

    case LUNARY_FRAME_SSE:
        return lunary_frame_sse(f, p, p + n);

    case LUNARY_FRAME_LINES:
        return lunary_frame_lines(f, p, p + n);

    case LUNARY_FRAME_ARRAY:
        return lunary_frame_array(f, p, p + n);

    default:
        return lunary_frame_aws(f, p, p + n);
    }
}


void
lunary_frame_end(lunary_frame_t *f)
{
    if (f->error == LUNARY_ERROR) {
        return;
    }

    switch (f->kind) {

    case LUNARY_FRAME_SSE:
    case LUNARY_FRAME_LINES:

        if (f->have) {
            lunary_frame_dispatch(f, 0);
        }

        break;

    case LUNARY_FRAME_ARRAY:

        if (f->state != LUNARY_ARRAY_BETWEEN
            && f->state != LUNARY_ARRAY_DONE)
        {
            lunary_frame_dispatch(f, 0);
        }

        break;

    default:

        /* a message that broke off cannot be checked and is not an event */

        break;
    }
}


void
lunary_frame_free(lunary_frame_t *f)
{
    lunary_buf_free(f->mem, &f->buf);
    lunary_buf_free(f->mem, &f->headers);

    if (f->doc != NULL) {
        lunary_doc_destroy(f->doc);
        f->doc = NULL;
    }
}


/*
 * Where the line that starts at p ends, or NULL.  lf and cr remember the next
 * one of each over the lines of one feed, so that each byte is searched once.
 */

static inline const unsigned char *
lunary_frame_eol(const unsigned char *p, const unsigned char *end,
    const unsigned char **lf, const unsigned char **cr)
{
    if (*lf == NULL || *lf < p) {
        *lf = memchr(p, '\n', (size_t) (end - p));

        if (*lf == NULL) {
            *lf = end;
        }
    }

    if (*cr == NULL || *cr < p) {

        /* only as far as the next LF: streams use one of the two */

        *cr = memchr(p, '\r', (size_t) (*lf - p));

        if (*cr == NULL) {
            *cr = *lf;
        }
    }

    p = (*cr < *lf) ? *cr : *lf;

    return p == end ? NULL : p;
}


static int
lunary_frame_sse(lunary_frame_t *f, const unsigned char *p,
    const unsigned char *end)
{
    size_t                n;
    const unsigned char  *eol, *next, *lf, *cr, *stop;

    lf = NULL;
    cr = NULL;

    while (p < end) {

        if (f->cr) {
            f->cr = 0;

            if (*p == '\n') {
                p++;
                continue;
            }
        }

        if (f->state == LUNARY_SSE_LINE) {

            if (*p == '\n' || *p == '\r') {
                f->cr = (*p == '\r');
                p++;

                if (f->have) {
                    lunary_frame_dispatch(f, 1);
                }

                f->name_len = 0;
                f->flags = 0;
                continue;
            }

            if (*p != 'd' || f->have || end - p < 6
                || memcmp(p, "data:", 5) != 0)
            {
                f->state = LUNARY_SSE_FIELD;
                f->head_len = 0;
                continue;
            }

            /* the usual event: one line of data, a blank line, all here */

            eol = lunary_frame_eol(p, end, &lf, &cr);

            if (eol != NULL && eol + 1 < end) {

                next = eol + 1;

                if (*eol == '\r' && *next == '\n') {
                    next++;
                }

                if (next < end && (*next == '\n' || *next == '\r')) {
                    p += 5;
                    p += (*p == ' ');

                    lunary_frame_whole(f, p, (size_t) (eol - p));

                    f->name_len = 0;
                    f->cr = (*next == '\r');
                    p = next + 1;
                    continue;
                }
            }

            f->state = LUNARY_SSE_FIELD;
            f->head_len = 0;
            continue;
        }

        if (f->state == LUNARY_SSE_FIELD) {

            /* names of interest have at most 5 bytes; the head keeps 8 */

            while (p < end && *p != ':' && *p != '\n' && *p != '\r') {
                if (f->head_len < 8) {
                    f->head[f->head_len++] = *p;
                }

                p++;
            }

            if (p == end) {
                break;
            }

            lunary_frame_sse_field(f);

            if (*p == ':') {
                p++;

                if (f->state != LUNARY_SSE_SKIP) {
                    f->after = f->state;
                    f->state = LUNARY_SSE_SPACE;
                }

                continue;
            }

            /* a line without a colon: the value is empty; its end is next */
        }

        if (f->state == LUNARY_SSE_SPACE) {
            p += (*p == ' ');
            f->state = f->after;

            if (p == end) {
                break;
            }
        }

        eol = lunary_frame_eol(p, end, &lf, &cr);
        stop = (eol != NULL) ? eol : end;
        n = (size_t) (stop - p);

        if (f->state == LUNARY_SSE_DATA) {
            lunary_frame_add(f, p, n);

        } else if (f->state == LUNARY_SSE_EVENT) {

            if (n > LUNARY_FRAME_NAME - f->name_len) {
                n = LUNARY_FRAME_NAME - f->name_len;
            }

            memcpy(f->name + f->name_len, p, n);
            f->name_len += n;
        }

        p = stop;

        if (eol != NULL) {
            f->cr = (*eol == '\r');
            f->state = LUNARY_SSE_LINE;
            p++;
        }
    }

    return f->error;
}


/* a field's name is complete: what its value is for */

static void
lunary_frame_sse_field(lunary_frame_t *f)
{
    lunary_str_t  name;

    name = lunary_str(f->head, f->head_len);

    if (lunary_eq(name, "data") || lunary_eq(name, "error")) {

        if (f->have) {
            lunary_frame_add(f, (const unsigned char *) "\n", 1);
        }

        if (name.len == 5) {
            f->flags = LUNARY_FRAME_FIELD;
        }

        f->have = 1;
        f->state = LUNARY_SSE_DATA;
        return;
    }

    if (lunary_eq(name, "event")) {
        f->name_len = 0;
        f->state = LUNARY_SSE_EVENT;
        return;
    }

    f->state = LUNARY_SSE_SKIP;
}


static int
lunary_frame_lines(lunary_frame_t *f, const unsigned char *p,
    const unsigned char *end)
{
    const unsigned char  *lf;

    while (p < end) {
        lf = memchr(p, '\n', (size_t) (end - p));

        if (lf == NULL) {
            f->have = 1;
            lunary_frame_add(f, p, (size_t) (end - p));
            break;
        }

        if (f->have) {
            lunary_frame_add(f, p, (size_t) (lf - p));
            lunary_frame_dispatch(f, 1);

        } else {
            lunary_frame_whole(f, p, (size_t) (lf - p));
        }

        p = lf + 1;
    }

    return f->error;
}


static int
lunary_frame_array(lunary_frame_t *f, const unsigned char *p,
    const unsigned char *end)
{
    const unsigned char  *start;

    /* start: of the value's bytes in this feed that are not kept yet */

    start = (f->state == LUNARY_ARRAY_BETWEEN) ? NULL : p;

    for ( /* void */ ; p < end; p++) {

        switch (f->state) {

        case LUNARY_ARRAY_BETWEEN:

            switch (*p) {

            case ' ': case '\t': case '\n': case '\r': case ',':
                continue;

            case '[':
                if (!f->started) {
                    f->started = 1;
                    continue;
                }

                /* fall through */

            case '{':
                f->state = LUNARY_ARRAY_NESTED;
                f->depth = 1;
                f->in_string = 0;
                f->escaped = 0;
                break;

            case ']':
                f->state = LUNARY_ARRAY_DONE;
                return f->error;

            case '"':
                f->state = LUNARY_ARRAY_STRING;
                f->escaped = 0;
                break;

            default:
                f->state = LUNARY_ARRAY_SCALAR;
                break;
            }

            start = p;
            f->have = 0;
            continue;

        case LUNARY_ARRAY_NESTED:

            if (f->escaped) {
                f->escaped = 0;
                continue;
            }

            if (f->in_string) {
                f->escaped = (*p == '\\');
                f->in_string = (*p != '"');
                continue;
            }

            if (*p == '"') {
                f->in_string = 1;

            } else if (*p == '{' || *p == '[') {
                f->depth++;

            } else if ((*p == '}' || *p == ']') && --f->depth == 0) {
                break;
            }

            continue;

        case LUNARY_ARRAY_STRING:

            if (f->escaped) {
                f->escaped = 0;
                continue;
            }

            f->escaped = (*p == '\\');

            if (*p == '"') {
                break;
            }

            continue;

        case LUNARY_ARRAY_SCALAR:

            if (*p == ',' || *p == ']' || *p == ' ' || *p == '\n'
                || *p == '\r' || *p == '\t')
            {
                p--;
                break;
            }

            continue;

        default:  /* LUNARY_ARRAY_DONE */
            return f->error;
        }

        /* a value ends with *p */

        if (f->have) {
            lunary_frame_add(f, start, (size_t) (p + 1 - start));
            lunary_frame_dispatch(f, 1);

        } else {
            lunary_frame_whole(f, start, (size_t) (p + 1 - start));
        }

        start = NULL;
        f->state = LUNARY_ARRAY_BETWEEN;
    }

    if (start != NULL && start < end) {
        f->have = 1;
        lunary_frame_add(f, start, (size_t) (end - start));
    }

    return f->error;
}


static int
lunary_frame_aws(lunary_frame_t *f, const unsigned char *p,
    const unsigned char *end)
{
    size_t    n, want;
    uint32_t  total, headers;

    while (p < end) {

        n = (size_t) (end - p);

        switch (f->state) {

        case LUNARY_AWS_PRELUDE:
        case LUNARY_AWS_CRC:

            want = (f->state == LUNARY_AWS_PRELUDE ? 12 : 4) - f->head_len;

            if (n > want) {
                n = want;
            }

            memcpy(f->head + f->head_len, p, n);
            f->head_len += n;
            p += n;

            if (n < want) {
                return f->error;
            }

            f->head_len = 0;

            if (f->state == LUNARY_AWS_CRC) {

                if (lunary_frame_be32(f->head) != f->crc) {
                    f->error = LUNARY_ERROR;
                    return f->error;
                }

                if (f->have) {
                    lunary_frame_dispatch(f, 1);
                }

                f->state = LUNARY_AWS_PRELUDE;
                continue;
            }

            total = lunary_frame_be32(f->head);
            headers = lunary_frame_be32(f->head + 4);
            f->crc = (uint32_t) crc32(crc32(0L, Z_NULL, 0), f->head, 8);

            if (f->crc != lunary_frame_be32(f->head + 8)
                || total < 16 || total > LUNARY_FRAME_AWS_MAX
                || headers > total - 16)
            {
                f->error = LUNARY_ERROR;
                return f->error;
            }

            f->crc = (uint32_t) crc32(f->crc, f->head + 8, 4);
            f->left = headers;
            f->payload = total - 16 - headers;
            f->name_len = 0;
            f->flags = 0;
            f->have = 0;
            f->headers.len = 0;
            f->state = LUNARY_AWS_HEADERS;

            if (f->left != 0) {
                continue;
            }

            break;

        case LUNARY_AWS_HEADERS:

            if (n > f->left) {
                n = f->left;
            }

            f->crc = (uint32_t) crc32(f->crc, p, (uInt) n);

            if (f->headers.len + n <= LUNARY_FRAME_AWS_HEADERS
                && lunary_buf_append(f->mem, &f->headers, p, n) != LUNARY_OK)
            {
                f->error = LUNARY_NOMEM;
            }

            p += n;
            f->left -= n;

            if (f->left != 0) {
                return f->error;
            }

            break;

        default:  /* LUNARY_AWS_PAYLOAD */

            if (n > f->left) {
                n = f->left;
            }

            f->crc = (uint32_t) crc32(f->crc, p, (uInt) n);
            f->have = 1;
            lunary_frame_add(f, p, n);

            p += n;
            f->left -= n;

            if (f->left != 0) {
                return f->error;
            }

            f->state = LUNARY_AWS_CRC;
            continue;
        }

        /* the headers are there */

        lunary_frame_aws_headers(f);

        f->left = f->payload;
        f->have = 1;
        f->state = (f->left != 0) ? LUNARY_AWS_PAYLOAD : LUNARY_AWS_CRC;
    }

    return f->error;
}


/*
 * Headers: name length (1), name, type (1), value.  Of interest are strings
 * (type 7: length (2), bytes): `:event-type` and `:exception-type` name the
 * message, `:message-type` says what it is.
 */

static void
lunary_frame_aws_headers(lunary_frame_t *f)
{
    size_t                len;
    lunary_str_t          name, value;
    const unsigned char  *p, *end;

    static const unsigned char  sizes[] = { 0, 0, 1, 2, 4, 8, 0, 0, 8, 16 };

    p = f->headers.data;
    end = p + f->headers.len;

    while (end - p >= 2) {
        len = *p++;

        if ((size_t) (end - p) < len + 1) {
            return;
        }

        name = lunary_str(p, len);
        p += len;

        switch (*p) {

        case 6:
        case 7:
            if (end - p < 3) {
                return;
            }

            len = (size_t) p[1] << 8 | p[2];
            p += 3;
            break;

        case 0: case 1: case 2: case 3: case 4: case 5: case 8: case 9:
            len = sizes[*p];
            p++;
            break;

        default:
            return;
        }

        if ((size_t) (end - p) < len) {
            return;
        }

        value = lunary_str(p, len);
        p += len;

        if (lunary_eq(name, ":event-type")
            || lunary_eq(name, ":exception-type")
            || lunary_eq(name, ":error-code"))
        {
            lunary_frame_set_name(f, value.data, value.len);

        } else if (lunary_eq(name, ":message-type")
                   && !lunary_eq(value, "event"))
        {
            f->flags |= LUNARY_FRAME_EXCEPTION;
        }
    }
}


static void
lunary_frame_set_name(lunary_frame_t *f, const unsigned char *p, size_t n)
{
    f->name_len = n < LUNARY_FRAME_NAME ? n : LUNARY_FRAME_NAME;
    memcpy(f->name, p, f->name_len);
}


/* more bytes of an event that is being gathered */

static void
lunary_frame_add(lunary_frame_t *f, const unsigned char *p, size_t n)
{
    if (f->long_event) {
        if (f->doc != NULL) {
            (void) lunary_doc_feed(f->doc, p, n);
        }

        return;
    }

    if (f->buf.len + n <= LUNARY_FRAME_MAX) {
        if (lunary_buf_append(f->mem, &f->buf, p, n) == LUNARY_OK) {
            return;
        }

        f->error = LUNARY_NOMEM;
    }

    /* without memory the event is passed over: it is long without a doc */

    f->long_event = 1;

    if (f->doc == NULL) {
        f->doc = lunary_doc_create(f->mem, f->max, 0, 0);

        if (f->doc == NULL) {
            f->error = LUNARY_NOMEM;
            return;
        }

    } else {
        lunary_doc_reset(f->doc);
    }

    (void) lunary_doc_feed(f->doc, f->buf.data, f->buf.len);
    f->buf.len = 0;

    (void) lunary_doc_feed(f->doc, p, n);
}


/* an event that lies whole in the fed bytes */

static void
lunary_frame_whole(lunary_frame_t *f, const unsigned char *p, size_t n)
{
    if (n > LUNARY_FRAME_MAX) {
        lunary_frame_add(f, p, n);
        lunary_frame_dispatch(f, 1);
        return;
    }

    lunary_frame_out(f, lunary_str(p, n));
}


/* an event that was gathered is complete, or (0) the stream is over */

static void
lunary_frame_dispatch(lunary_frame_t *f, int complete)
{
    int  rc;

    if (!f->long_event) {
        lunary_frame_out(f, lunary_buf_str(&f->buf));

    } else if (f->doc != NULL) {
        rc = lunary_doc_finish(f->doc);

        if (rc != LUNARY_OK && !complete) {
            rc = lunary_doc_close(f->doc);
        }

        if (rc == LUNARY_OK) {
            lunary_frame_out(f, lunary_doc_text(f->doc));
        }
    }

    f->buf.len = 0;
    f->have = 0;
    f->long_event = 0;
}


static void
lunary_frame_out(lunary_frame_t *f, lunary_str_t data)
{
    while (data.len != 0
           && (data.data[0] == ' ' || data.data[0] == '\t'
               || data.data[0] == '\r' || data.data[0] == '\n'))
    {
        data.data++;
        data.len--;
    }

    while (data.len != 0
           && (data.data[data.len - 1] == ' '
               || data.data[data.len - 1] == '\t'
               || data.data[data.len - 1] == '\r'
               || data.data[data.len - 1] == '\n'))
    {
        data.len--;
    }

    /* an AWS message may have no payload and still say something */

    if (data.len == 0 && f->kind != LUNARY_FRAME_AWS) {
        return;
    }

    f->events++;

    f->handler(f->ctx, lunary_str(f->name, f->name_len), data, f->flags);
}


static uint32_t
lunary_frame_be32(const unsigned char *p)
{
    return (uint32_t) p[0] << 24 | (uint32_t) p[1] << 16
           | (uint32_t) p[2] << 8 | (uint32_t) p[3];
}
