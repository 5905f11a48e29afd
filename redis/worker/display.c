/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Columns and JSON.  See display.h.
 */

#include <stdlib.h>
#include <unistd.h>
#include <wchar.h>
#include <wctype.h>

#include "display.h"


#define LW_ELLIPSIS   "\xe2\x80\xa6"


static size_t lw_display_char(lunary_str_t s, size_t i, size_t *columns);
static void lw_display_value(lw_text_t *out, lunary_str_t name,
    lunary_str_t v);
static size_t lw_display_unsafe(lunary_str_t s, unsigned *c);
static int lw_display_is(lunary_str_t name, const char *const *names);


/* fields that hold JSON, and fields that are numbers */

static const char *const  lw_display_json[] = {
    "input", "output", "params", "usage", "metadata", "tags", "user_props",
    "error", "event", "props", "models", NULL
};

static const char *const  lw_display_numbers[] = {
    "status", "upstream_status", "attempts", "runs", "errors", "aborted",
    "rejected", "unpriced_runs", "claimed_runs", "first_seen", "last_seen",
    "threads", "cost_nano", "timed_runs", NULL
};


int
lw_display_color(const lw_options_t *o, FILE *f)
{
    if (strcmp(o->color, "auto") != 0) {
        return strcmp(o->color, "always") == 0;
    }

    return isatty(fileno(f)) && getenv("NO_COLOR") == NULL;
}


void
lw_display_cell(lw_text_t *out, lunary_str_t s, size_t width, int right)
{
    size_t     i, n, columns, used;
    lw_text_t  cell;

    lw_text_init(&cell, out->mem);
    used = 0;

    for (i = 0; i < s.len; i += n) {

        n = lw_display_char(s, i, &columns);

        if (width && used + columns > width) {

            /* room for the ellipsis: the last character goes */

            while (used >= width && cell.buf.len) {

                do {
                    cell.buf.len--;
                } while (cell.buf.len
                         && (cell.buf.data[cell.buf.len] & 0xc0) == 0x80);

                used--;
            }

            lw_text_lit(&cell, LW_ELLIPSIS);
            used++;
            break;
        }

        if (columns) {
            lw_text_add(&cell, s.data + i, n);
            used += columns;

        } else {
            lw_text_lit(&cell, "?");
            used++;
        }
    }

    while (right && used < width) {
        lw_text_lit(out, " ");
        used++;
    }

    lw_text_str(out, lw_text_get(&cell));

    while (!right && used < width) {
        lw_text_lit(out, " ");
        used++;
    }

    out->failed |= cell.failed;
    lw_text_free(&cell);
}


size_t
lw_display_width(lunary_str_t s)
{
    size_t  i, columns, sum;

    sum = 0;

    for (i = 0; i < s.len; /* void */) {
        i += lw_display_char(s, i, &columns);
        sum += columns ? columns : 1;
    }

    return sum;
}


/* bytes of the character at i; *columns is 0 for what is not to be shown */

static size_t
lw_display_char(lunary_str_t s, size_t i, size_t *columns)
{
    int        w;
    size_t     n;
    wchar_t    c;
    mbstate_t  state;

    memset(&state, 0, sizeof(state));

    n = mbrtowc(&c, (const char *) s.data + i, s.len - i, &state);

    *columns = 0;

    if (n == 0 || n > 4) {
        return 1;
    }

    w = wcwidth(c);

    if (w <= 0 || iswcntrl((wint_t) c) || (c >= 0x2028 && c <= 0x202e)
        || (c >= 0x2066 && c <= 0x2069))
    {
        return n;
    }

    *columns = (size_t) w;

    return n;
}


void
lw_display_count(lw_text_t *out, int64_t n, size_t width)
{
    char    digits[32], spaced[48];
    size_t  i, k, len;

    if (n < 0) {
        lw_display_cell(out, lw_str("-"), width, 1);
        return;
    }

    len = (size_t) snprintf(digits, sizeof(digits), "%lld", (long long) n);

    for (i = 0, k = 0; i < len; i++) {

        if (i && (len - i) % 3 == 0) {
            spaced[k++] = ' ';
        }

        spaced[k++] = digits[i];
    }

    lw_display_cell(out, lunary_str(spaced, k), width, 1);
}


void
lw_display_entry(lw_text_t *out, const lw_entry_t *e, const char *cost)
{
    size_t             i;
    const redisReply  *fields;

    lw_text_lit(out, "{\"id\":");
    lw_text_json(out, e->id);

    fields = e->gone ? NULL : e->reply->element[1];

    for (i = 0; fields && i + 1 < fields->elements; i += 2) {
        lw_text_lit(out, ",");
        lw_text_json(out, lw_reply_str(fields->element[i]));
        lw_text_lit(out, ":");
        lw_display_value(out, lw_reply_str(fields->element[i]),
                         lw_reply_str(fields->element[i + 1]));
    }

    if (cost) {
        lw_text_fmt(out, ",\"cost_usd\":%s", cost);
    }

    lw_text_lit(out, "}");
}


void
lw_display_hash(lw_text_t *out, const redisReply *reply)
{
    size_t  i;

    lw_text_lit(out, "{");

    for (i = 0; lw_reply_is_array(reply) && i + 1 < reply->elements; i += 2) {

        if (i) {
            lw_text_lit(out, ",");
        }

        lw_text_json(out, lw_reply_str(reply->element[i]));
        lw_text_lit(out, ":");
        lw_display_value(out, lw_reply_str(reply->element[i]),
                         lw_reply_str(reply->element[i + 1]));
    }

    lw_text_lit(out, "}");
}


static void
lw_display_value(lw_text_t *out, lunary_str_t name, lunary_str_t v)
{
    int64_t  n;

    if (lw_display_is(name, lw_display_json) && lunary_json_valid(v, 512)) {
        lw_text_str(out, v);
        return;
    }

    if ((lw_display_is(name, lw_display_numbers)
         || (name.len > 7 && memcmp(name.data + name.len - 7, "_tokens", 7)
             == 0)
         || (name.len > 6 && memcmp(name.data + name.len - 6, "_bytes", 6)
             == 0)
         || (name.len > 3 && (memcmp(name.data + name.len - 3, "_ms", 3) == 0
                              || memcmp(name.data + name.len - 3, "_at", 3)
                                 == 0)))
        && lw_int(v, &n))
    {
        lw_text_int(out, n);
        return;
    }

    lw_text_json(out, v);
}


static int
lw_display_is(lunary_str_t name, const char *const *names)
{
    for ( /* void */ ; *names; names++) {
        if (lunary_str_eq(name, *names, strlen(*names))) {
            return 1;
        }
    }

    return 0;
}


int
lw_display_flush_json(lw_text_t *out)
{
    int            rc;
    size_t         i, n, from;
    unsigned       c;
    lw_text_t      safe;
    lunary_str_t   s;

    lw_text_init(&safe, out->mem);
    s = lw_text_get(out);

    for (i = 0, from = 0; i < s.len; i += n) {

        n = lw_display_unsafe(lunary_str(s.data + i, s.len - i), &c);

        if (n == 0) {
            n = 1;
            continue;
        }

        lw_text_add(&safe, s.data + from, i - from);
        lw_text_fmt(&safe, "\\u%04x", c);
        from = i + n;
    }

    lw_text_add(&safe, s.data + from, s.len - from);
    safe.failed |= out->failed;

    rc = lw_display_flush(&safe);

    lw_text_free(&safe);
    lw_text_clear(out);

    return rc;
}


/*
 * How many bytes there are of a character that is not for a terminal: DEL, C1
 * controls, zero width and bidi; 0 where it is another.  In valid JSON such a
 * character stands in a string only.
 */

static size_t
lw_display_unsafe(lunary_str_t s, unsigned *c)
{
    const unsigned char  *p;

    p = s.data;

    if (p[0] == 0x7f) {
        *c = 0x7f;
        return 1;
    }

    if (p[0] == 0xc2 && s.len > 1 && p[1] >= 0x80 && p[1] <= 0x9f) {
        *c = p[1];
        return 2;
    }

    if ((p[0] != 0xe2 && p[0] != 0xef) || s.len < 3) {
        return 0;
    }

    *c = (p[0] & 0xfu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);

    return ((*c >= 0x200b && *c <= 0x200f) || (*c >= 0x2028 && *c <= 0x202e)
            || (*c >= 0x2060 && *c <= 0x206f) || *c == 0xfeff) ? 3 : 0;
}


int
lw_display_flush(lw_text_t *out)
{
    int  rc;

    rc = LW_OK;

    if (out->failed
        || fwrite(out->buf.data, 1, out->buf.len, stdout) != out->buf.len
        || fflush(stdout) != 0)
    {
        rc = LW_ERROR;
    }

    lw_text_clear(out);

    return rc;
}
