/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Asking for usage and leaving it out.  See lunary_usage_filter.h.
 */

#include "lunary_usage_filter.h"
#include "lunary_dialects.h"


static const lunary_mark_t *lunary_usage_mark(lunary_request_t *rq,
    lunary_member_e id);
static void lunary_usage_rest(lunary_usage_filter_t *f,
    const unsigned char *p, size_t n);
static int lunary_usage_is_extra(lunary_usage_filter_t *f,
    lunary_str_t event);
static int lunary_usage_is_chunk(lunary_str_t data);


lunary_usage_e
lunary_usage_edit(lunary_call_t *call, lunary_edit_t *edit)
{
    lunary_str_t          text, options, asked;
    lunary_request_t     *rq;
    const lunary_mark_t  *stream, *mark;

    static const lunary_str_t  member =
        lunary_string(",\"stream_options\":{\"include_usage\":true}");
    static const lunary_str_t  object =
        lunary_string("{\"include_usage\":true}");
    static const lunary_str_t  first = lunary_string("\"include_usage\":true");
    static const lunary_str_t  more = lunary_string("\"include_usage\":true,");
    static const lunary_str_t  yes = lunary_string("true");

    if (call->stream != 1
        || (call->dialect != &lunary_openai_chat
            && call->dialect != &lunary_openai_completions))
    {
        return LUNARY_USAGE_NO;
    }

    rq = lunary_call_body(call);

    if (rq == NULL || lunary_request_flooded(rq)) {
        return LUNARY_USAGE_NO;
    }

    /* NULL where a member came twice, too: which of them counts is the
       upstream's to say */

    stream = lunary_usage_mark(rq, LUNARY_M_STREAM);

    if (stream == NULL) {
        return LUNARY_USAGE_NO;
    }

    text = lunary_priv(call)->text;
    options = lunary_json_get(text, "stream_options");

    if (options.len == 0) {
        edit->start = stream->end;
        edit->end = stream->end;
        edit->text = member;

        return LUNARY_USAGE_ADDED;
    }

    mark = lunary_usage_mark(rq, LUNARY_M_STREAM_OPTIONS);

    if (mark == NULL || mark->end - mark->value != options.len) {
        return LUNARY_USAGE_NO;
    }

    if (lunary_json_type(options) == LUNARY_JSON_NULL) {
        edit->start = mark->value;
        edit->end = mark->end;
        edit->text = object;

        return LUNARY_USAGE_ADDED;
    }

    if (!lunary_json_is_object(options)) {
        return LUNARY_USAGE_NO;
    }

    asked = lunary_json_get(options, "include_usage");

    if (lunary_json_is_true(asked)) {
        return LUNARY_USAGE_ASKED;
    }

    if (asked.len != 0) {
        edit->start = mark->value + (uint64_t) (asked.data - options.data);
        edit->end = edit->start + asked.len;
        edit->text = yes;

        return LUNARY_USAGE_ADDED;
    }

    asked = options;
    asked.data++;
    asked.len -= 2;

    while (asked.len != 0
           && (*asked.data == ' ' || *asked.data == '\t'
               || *asked.data == '\r' || *asked.data == '\n'))
    {
        asked.data++;
        asked.len--;
    }

    edit->start = mark->value + 1;
    edit->end = edit->start;
    edit->text = asked.len != 0 ? more : first;

    return LUNARY_USAGE_ADDED;
}


/* the member's only mark */

static const lunary_mark_t *
lunary_usage_mark(lunary_request_t *rq, lunary_member_e id)
{
    size_t                i, n;
    const lunary_mark_t  *marks, *found;

    marks = lunary_request_marks(rq, &n);
    found = NULL;

    for (i = 0; i < n; i++) {

        if (marks[i].id != id) {
            continue;
        }

        if (found != NULL) {
            return NULL;
        }

        found = &marks[i];
    }

    return found;
}


void
lunary_usage_filter_init(lunary_usage_filter_t *f, lunary_mem_t *mem,
    lunary_usage_pt pass, void *ctx)
{
    memset(f, 0, sizeof(lunary_usage_filter_t));

    f->mem = mem;
    f->pass = pass;
    f->ctx = ctx;
}


int
lunary_usage_filter_feed(lunary_usage_filter_t *f, const unsigned char *p,
    size_t n)
{
    int                   extra;
    lunary_str_t          event;
    const unsigned char  *start, *from, *end;

    /*
     * [from, start): whole events to pass on, given away in one piece;
     * [start, p): the event under way
     */

    end = p + n;
    from = p;
    start = p;

    for ( /* void */ ; p < end; p++) {

        if (f->cr) {
            f->cr = 0;

            if (*p == '\n') {

                if (f->lf_too) {

                    /* of the event before: shares its fate */

                    if (f->lf_too == 2) {
                        from = p + 1;
                    }

                    f->lf_too = 0;
                    start = p + 1;
                }

                continue;
            }

            f->lf_too = 0;
        }

        if (*p != '\n' && *p != '\r') {

            /* on to the line's end */

            f->line = 1;

            while (p + 1 < end && p[1] != '\n' && p[1] != '\r') {
                p++;
            }

            continue;
        }

        f->cr = (*p == '\r');

        if (f->line) {
            f->line = 0;
            continue;
        }

        /* a blank line: the event ends here */

        if (f->through) {
            f->through = 0;
            extra = 0;

        } else if (f->held.len != 0) {

            /* held means nothing stands before it in this feed */

            if (lunary_buf_append(f->mem, &f->held, start,
                                  (size_t) (p + 1 - start)) != LUNARY_OK)
            {
                f->pass(f->ctx, f->held.data, f->held.len);
                f->held.len = 0;
                extra = 0;

            } else {
                extra = lunary_usage_is_extra(f, lunary_buf_str(&f->held));

                if (!extra) {
                    f->pass(f->ctx, f->held.data, f->held.len);
                }

                from = p + 1;
            }

            f->held.len = 0;

        } else {
            event = lunary_str(start, (size_t) (p + 1 - start));
            extra = lunary_usage_is_extra(f, event);

            if (extra) {

                if (start > from) {
                    f->pass(f->ctx, from, (size_t) (start - from));
                }

                from = p + 1;
            }
        }

        start = p + 1;
        f->dropped += (extra != 0);
        f->lf_too = f->cr ? (extra ? 2 : 1) : 0;
    }

    if (f->through) {
        start = end;
    }

    if (start > from) {
        f->pass(f->ctx, from, (size_t) (start - from));
    }

    if (start < end) {
        lunary_usage_rest(f, start, (size_t) (end - start));
    }

    return LUNARY_OK;
}


/* the start, or more, of an event that is not finished */

static void
lunary_usage_rest(lunary_usage_filter_t *f, const unsigned char *p, size_t n)
{
    if (f->held.len + n <= LUNARY_USAGE_HELD
        && lunary_buf_append(f->mem, &f->held, p, n) == LUNARY_OK)
    {
        return;
    }

    if (f->held.len != 0) {
        f->pass(f->ctx, f->held.data, f->held.len);
        f->held.len = 0;
    }

    f->pass(f->ctx, p, n);
    f->through = 1;
}


void
lunary_usage_filter_end(lunary_usage_filter_t *f)
{
    if (f->held.len == 0) {
        return;
    }

    /* the last event may come without its blank line */

    if (lunary_usage_is_extra(f, lunary_buf_str(&f->held))) {
        f->dropped++;

    } else {
        f->pass(f->ctx, f->held.data, f->held.len);
    }

    f->held.len = 0;
}


void
lunary_usage_filter_free(lunary_usage_filter_t *f)
{
    lunary_buf_free(f->mem, &f->held);
}


/* 1 where the event (its lines and the blank one) is the extra chunk */

static int
lunary_usage_is_extra(lunary_usage_filter_t *f, lunary_str_t event)
{
    int                   rc;
    unsigned              lines;
    lunary_buf_t          joined;
    lunary_str_t          data;
    const unsigned char  *p, *end, *eol;

    if (event.len > LUNARY_USAGE_HELD) {
        return 0;
    }

    p = event.data;
    end = p + event.len;

    memset(&joined, 0, sizeof(lunary_buf_t));
    data = lunary_str(NULL, 0);
    lines = 0;

    while (p < end) {

        for (eol = p; eol < end && *eol != '\n' && *eol != '\r'; eol++) {
            /* void */
        }

        if (eol - p > 5 && memcmp(p, "data:", 5) == 0) {
            p += 5;
            p += (*p == ' ');

            if (lines == 1
                && lunary_buf_append(f->mem, &joined, data.data, data.len)
                   != LUNARY_OK)
            {
                goto no;
            }

            if (lines > 0
                && (lunary_buf_lit(f->mem, &joined, "\n") != LUNARY_OK
                    || lunary_buf_append(f->mem, &joined, p,
                                         (size_t) (eol - p)) != LUNARY_OK))
            {
                goto no;
            }

            data = lines++ ? lunary_buf_str(&joined)
                           : lunary_str(p, (size_t) (eol - p));
        }

        p = eol + 1;
    }

    rc = lunary_usage_is_chunk(data);

    lunary_buf_free(f->mem, &joined);

    return rc;

no:

    lunary_buf_free(f->mem, &joined);

    return 0;
}


static int
lunary_usage_is_chunk(lunary_str_t data)
{
    lunary_str_t         v[2], first;
    lunary_json_iter_t   it;

    static const lunary_str_t  keys[] = {
        lunary_string("choices"),
        lunary_string("usage")
    };

    while (data.len != 0 && (*data.data == ' ' || *data.data == '\t')) {
        data.data++;
        data.len--;
    }

    while (data.len != 0 && (data.data[data.len - 1] == ' '
                             || data.data[data.len - 1] == '\t'))
    {
        data.len--;
    }

    if (!lunary_json_is_object(data)) {
        return 0;
    }

    (void) lunary_json_pick(data, keys, v, 2);

    if (!lunary_json_is_object(v[1]) || !lunary_json_is_array(v[0])) {
        return 0;
    }

    lunary_json_iter(&it, v[0]);

    return !lunary_json_element(&it, &first);
}
