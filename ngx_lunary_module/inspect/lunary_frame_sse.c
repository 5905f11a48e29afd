/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Server-sent events (WHATWG HTML, 9.2).  See lunary_frame.h.
 */

#include "lunary_frame_internal.h"


static void lunary_frame_sse_field(lunary_frame_t *f);
static void lunary_frame_sse_next(lunary_frame_t *f);
static int lunary_frame_sse_whole(lunary_frame_t *f);


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


/* the start of the next line; eol is before end */

static inline const unsigned char *
lunary_frame_line(const unsigned char *eol, const unsigned char *end)
{
    return eol + 1 + (eol + 1 < end && *eol == '\r' && eol[1] == '\n');
}


/* an event that starts at p and is all there: what is behind it, else NULL */

static inline const unsigned char *
lunary_frame_event(lunary_frame_t *f, const unsigned char *p,
    const unsigned char *end, const unsigned char **lf,
    const unsigned char **cr)
{
    const unsigned char  *eol, *data, *name, *name_end, *lf_then, *cr_then;

    data = p;
    name = NULL;
    name_end = NULL;
    lf_then = NULL;
    cr_then = NULL;

    if (*p == 'e' && end - p > 6 && memcmp(p, "event:", 6) == 0) {

        name_end = lunary_frame_eol(p, end, lf, cr);

        if (name_end == NULL) {
            return NULL;
        }

        name = p + 6;
        name += (*name == ' ');
        data = lunary_frame_line(name_end, end);

        lf_then = *lf;
        cr_then = *cr;
    }

    if (end - data < 6 || memcmp(data, "data:", 5) != 0) {
        return NULL;
    }

    eol = lunary_frame_eol(data, end, lf, cr);

    if (eol != NULL && eol + 1 < end) {

        p = lunary_frame_line(eol, end);

        if (p < end && (*p == '\n' || *p == '\r')) {

            if (name != NULL) {
                lunary_frame_set_name(f, name, (size_t) (name_end - name));
            }

            data += 5;
            data += (*data == ' ');

            lunary_frame_whole(f, data, (size_t) (eol - data));

            f->cr = (*p == '\r');

            return p + 1;
        }
    }

    if (name != NULL) {

        /*
         * The first of the two lines is read again: as if the second had not
         * been searched.  To forget both would cost a search up to the end
         * for each event of a stream that has no LF.
         */

        *lf = lf_then;
        *cr = cr_then;
    }

    return NULL;
}


int
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

            /* the usual event: a line of data, or its name and one, and a
             * blank line, all here */

            next = f->have ? NULL : lunary_frame_event(f, p, end, &lf, &cr);

            if (next != NULL) {
                f->name_len = 0;
                p = next;
                continue;
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

        if (f->have && lunary_frame_sse_whole(f)) {
            lunary_frame_sse_next(f);
        }

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

        if (f->have && lunary_frame_sse_whole(f)) {

            /* of an event that has a name it is not; else that is told by
             * whether data or a blank line comes */

            if (f->name_len != 0 && !f->late) {
                lunary_frame_sse_next(f);

            } else {
                f->late = 1;
            }
        }

        f->name_len = 0;
        f->state = LUNARY_SSE_EVENT;
        return;
    }

    f->state = LUNARY_SSE_SKIP;
}


/* no blank line came, and the next event begins: what was gathered is one */

static void
lunary_frame_sse_next(lunary_frame_t *f)
{
    size_t  len;

    len = f->name_len;

    if (f->late) {

        /* the name is the next event's */

        f->name_len = 0;
    }

    lunary_frame_dispatch(f, 1);

    f->name_len = len;
    f->flags = 0;
}


/* 1 where what was gathered is one JSON object: more data is none of it */

static int
lunary_frame_sse_whole(lunary_frame_t *f)
{
    if (f->long_event) {
        return f->long_whole;
    }

    return f->buf.len != 0 && f->buf.data[0] == '{'
           && lunary_frame_object(f, lunary_buf_str(&f->buf));
}
