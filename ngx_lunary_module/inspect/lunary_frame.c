/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Framing: what the framings share, and the two of JSON, lines and arrays.  See
 * lunary_frame.h.
 */

#include "lunary_frame_internal.h"
#include "lunary_json.h"


static int lunary_frame_lines(lunary_frame_t *f, const unsigned char *p,
    const unsigned char *end);
static int lunary_frame_array(lunary_frame_t *f, const unsigned char *p,
    const unsigned char *end);
static void lunary_frame_out(lunary_frame_t *f, lunary_str_t data);


void
lunary_frame_init(lunary_frame_t *f, lunary_mem_t *mem,
    lunary_frame_kind_e kind, size_t max, lunary_frame_pt handler, void *ctx)
{
    memset(f, 0, sizeof(lunary_frame_t));

    f->mem = mem;
    f->kind = kind;
    f->max = max;
    f->raw_max = LUNARY_FRAME_MAX;
    f->handler = handler;
    f->ctx = ctx;

    switch (kind) {

    case LUNARY_FRAME_ARRAY:
        f->state = LUNARY_ARRAY_BETWEEN;
        break;

    case LUNARY_FRAME_AWS:
        f->state = LUNARY_AWS_PRELUDE;

        if (max > LUNARY_FRAME_MAX) {
            f->raw_max = max;
        }

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


int
lunary_frame_end(lunary_frame_t *f)
{
    if (f->error == LUNARY_ERROR) {
        return 0;
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

        f->torn = (f->state != LUNARY_AWS_PRELUDE || f->head_len != 0);
        break;
    }

    return f->torn;
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


void
lunary_frame_set_name(lunary_frame_t *f, const unsigned char *p, size_t n)
{
    f->name_len = n < LUNARY_FRAME_NAME ? n : LUNARY_FRAME_NAME;
    memcpy(f->name, p, f->name_len);
}


/* more bytes of an event that is being gathered */

void
lunary_frame_add(lunary_frame_t *f, const unsigned char *p, size_t n)
{
    if (f->long_event) {
        if (f->doc != NULL) {
            f->long_whole = (lunary_doc_feed(f->doc, p, n) == LUNARY_DONE);
        }

        return;
    }

    if (f->buf.len + n <= f->raw_max) {
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

    if (f->buf.len != 0) {
        (void) lunary_doc_feed(f->doc, f->buf.data, f->buf.len);
        f->buf.len = 0;
    }

    f->long_whole = (lunary_doc_feed(f->doc, p, n) == LUNARY_DONE);
}


/* an event that lies whole in the fed bytes */

void
lunary_frame_whole(lunary_frame_t *f, const unsigned char *p, size_t n)
{
    if (n > f->raw_max) {
        lunary_frame_add(f, p, n);
        lunary_frame_dispatch(f, 1);
        return;
    }

    lunary_frame_out(f, lunary_str(p, n));
}


/*
 * 0 where data, which is what was gathered, starts as a JSON object and does
 * not end as one.  Each byte is looked at once.
 */

int
lunary_frame_object(lunary_frame_t *f, lunary_str_t data)
{
    unsigned char  c;

    if (data.len == 0 || data.data[0] != '{') {
        return 1;
    }

    if (f->known == 0) {
        f->depth = 0;
        f->in_string = 0;
        f->escaped = 0;
    }

    for ( /* void */ ; f->known < data.len; f->known++) {

        c = data.data[f->known];

        if (f->escaped) {
            f->escaped = 0;

        } else if (f->in_string) {
            f->escaped = (c == '\\');
            f->in_string = (c != '"');

        } else if (c == '"') {
            f->in_string = 1;

        } else if (c == '{' || c == '[') {
            f->depth++;

        } else if ((c == '}' || c == ']') && f->depth != 0) {
            f->depth--;
        }
    }

    return f->depth == 0 && !f->in_string;
}


/* an event that was gathered is complete, or (0) the stream is over */

void
lunary_frame_dispatch(lunary_frame_t *f, int complete)
{
    int           rc;
    lunary_str_t  data;

    if (!f->long_event) {
        data = lunary_buf_str(&f->buf);

        while (!complete && data.len != 0
               && (data.data[0] == ' ' || data.data[0] == '\t'))
        {
            data.data++;
            data.len--;
        }

        if (!complete && !lunary_frame_object(f, data)) {
            f->flags |= LUNARY_FRAME_TORN;
            f->torn = 1;

            /* half a number is none */

            while (data.len != 0 && data.data[data.len - 1] >= '0'
                   && data.data[data.len - 1] <= '9')
            {
                data.len--;
            }
        }

        lunary_frame_out(f, data);

    } else if (f->doc != NULL) {
        rc = lunary_doc_finish(f->doc);

        if (rc != LUNARY_OK && !complete) {
            f->flags |= lunary_doc_torn(f->doc)
                        ? LUNARY_FRAME_TORN | LUNARY_FRAME_OPEN
                        : LUNARY_FRAME_TORN;
            f->torn = 1;
            rc = lunary_doc_close(f->doc);
        }

        if (rc == LUNARY_OK) {
            lunary_frame_out(f, lunary_doc_text(f->doc));
        }
    }

    f->flags &= ~(unsigned) (LUNARY_FRAME_TORN | LUNARY_FRAME_OPEN);

    if (f->buf.cap > 4 * LUNARY_FRAME_MAX) {

        /* AWS: the next one is hardly as long */

        lunary_buf_free(f->mem, &f->buf);
    }

    f->buf.len = 0;
    f->have = 0;
    f->late = 0;
    f->long_event = 0;
    f->known = 0;
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
