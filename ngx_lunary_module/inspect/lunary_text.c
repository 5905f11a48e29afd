/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Bounded texts.  See lunary_text.h.
 */

#include "lunary_cut.h"
#include "lunary_text.h"
#include "lunary_json.h"
#include "lunary_simd.h"
#include "lunary_string.h"


/* a piece that is looked at as one while texts are being cut */

#define LUNARY_TEXT_PIECE  4096

/* a text that is not copied, but borrowed, is longer than that */

#define LUNARY_TEXT_LONG   4096

/* room for what is written around a text once it is an answer's only one */

#define LUNARY_TEXT_SLACK  96

#define lunary_text_valid(b, inside)                                         \
    ((uintptr_t) (inside).data - (uintptr_t) (b)->valid.data                 \
     < (b)->valid.len)


static int lunary_text_add(lunary_mem_t *mem, lunary_budget_t *b,
    lunary_text_t *t, lunary_str_t inside);
static int lunary_text_copy(lunary_mem_t *mem, lunary_budget_t *b);
static int lunary_text_piece(lunary_mem_t *mem, lunary_budget_t *b,
    lunary_text_t *t, lunary_str_t inside);
static int lunary_text_over(lunary_mem_t *mem, lunary_budget_t *b);
static void lunary_text_cut(lunary_budget_t *b, lunary_text_t *t);
static void lunary_text_trim(lunary_budget_t *b, lunary_text_t *t);
static int lunary_inside_plain(lunary_mem_t *mem, lunary_buf_t *b,
    const unsigned char *p, const unsigned char *end);
static int lunary_inside_escape(const unsigned char *p,
    const unsigned char *end);
static size_t lunary_inside_unit(const unsigned char *p, size_t n);


int
lunary_text_append(lunary_mem_t *mem, lunary_budget_t *b, lunary_text_t *t,
    lunary_str_t inside)
{
    int           rc;
    size_t        n;
    lunary_str_t  piece;

    if (b->off) {
        t->size += inside.len;
        return LUNARY_OK;
    }

    if (t == b->borrower && lunary_text_copy(mem, b) != LUNARY_OK) {
        t->size += inside.len;
        return LUNARY_NOMEM;
    }

    if (!b->over) {

        if (b->held + inside.len <= b->max) {
            return lunary_text_add(mem, b, t, inside);
        }

        if (lunary_text_over(mem, b) != LUNARY_OK) {
            t->size += inside.len;
            return LUNARY_NOMEM;
        }
    }

    /* a long piece goes in small ones, so that little is held meanwhile */

    while (inside.len > LUNARY_TEXT_PIECE) {
        n = lunary_inside_ceil(inside, LUNARY_TEXT_PIECE);

        piece = lunary_str(inside.data, n);
        rc = lunary_text_piece(mem, b, t, piece);

        inside.data += n;
        inside.len -= n;

        if (rc != LUNARY_OK) {
            t->size += inside.len;
            return rc;
        }
    }

    return lunary_text_piece(mem, b, t, inside);
}


/* the same where texts are being cut */

static int
lunary_text_piece(lunary_mem_t *mem, lunary_budget_t *b, lunary_text_t *t,
    lunary_str_t inside)
{
    if (inside.len == 0) {
        return LUNARY_OK;
    }

    if (!t->cut && b->held + inside.len > b->max + b->cut) {

        /* many short texts: what they hold is all that is kept */

        t->size += inside.len;
        return LUNARY_OK;
    }

    if (lunary_text_add(mem, b, t, inside) != LUNARY_OK) {
        return LUNARY_NOMEM;
    }

    if (t->cut) {
        if (t->buf.len - t->head > b->cut) {
            lunary_text_trim(b, t);
        }

    } else if (t->buf.len > b->cut) {
        lunary_text_cut(b, t);
    }

    return LUNARY_OK;
}


/* a piece for which there is room */

static int
lunary_text_add(lunary_mem_t *mem, lunary_budget_t *b, lunary_text_t *t,
    lunary_str_t inside)
{
    int     rc, valid;
    size_t  len;

    if (inside.len == 0) {
        return LUNARY_OK;
    }

    if (!t->listed) {
        t->listed = 1;
        t->next = b->texts;
        b->texts = t;
    }

    len = t->buf.len;
    valid = lunary_text_valid(b, inside);

    if (t->buf.cap == 0) {

        if (valid && b->lent && b->borrower == NULL && !b->over
            && inside.len > LUNARY_TEXT_LONG)
        {
            b->borrower = t;
            b->held += inside.len;
            t->size += inside.len;
            t->buf.data = (unsigned char *) inside.data;
            t->buf.len = inside.len;

            return LUNARY_OK;
        }

        rc = lunary_buf_reserve(mem, &t->buf, inside.len + LUNARY_TEXT_SLACK);

        if (rc != LUNARY_OK) {
            t->size += inside.len;
            return LUNARY_NOMEM;
        }
    }

    rc = valid ? lunary_buf_append(mem, &t->buf, inside.data, inside.len)
               : lunary_inside_copy(mem, &t->buf, inside);

    if (rc != LUNARY_OK) {
        t->size += inside.len;
        return LUNARY_NOMEM;
    }

    len = t->buf.len - len;

    t->size += len;
    b->held += len;

    return LUNARY_OK;
}


/* what is borrowed becomes a copy */

static int
lunary_text_copy(lunary_mem_t *mem, lunary_budget_t *b)
{
    lunary_str_t    s;
    lunary_text_t  *t;

    t = b->borrower;
    s = lunary_buf_str(&t->buf);

    b->borrower = NULL;
    memset(&t->buf, 0, sizeof(lunary_buf_t));

    if (lunary_buf_reserve(mem, &t->buf, s.len + LUNARY_TEXT_SLACK)
        != LUNARY_OK)
    {
        b->held -= s.len;
        return LUNARY_NOMEM;
    }

    return lunary_buf_append(mem, &t->buf, s.data, s.len);
}


void
lunary_text_own(lunary_budget_t *b, lunary_buf_t *buf)
{
    lunary_text_t  *t;

    t = b->borrower;
    b->borrower = NULL;

    memmove(buf->data, t->buf.data, t->buf.len);

    t->buf.data = buf->data;
    t->buf.cap = buf->cap;

    memset(buf, 0, sizeof(lunary_buf_t));
}


/* the field does not fit: from now on its long texts are cut */

static int
lunary_text_over(lunary_mem_t *mem, lunary_budget_t *b)
{
    lunary_text_t  *t;

    if (b->borrower != NULL && lunary_text_copy(mem, b) != LUNARY_OK) {
        return LUNARY_NOMEM;
    }

    b->over = 1;

    for (t = b->texts; t != NULL; t = t->next) {
        if (t->buf.len > b->cut) {
            lunary_text_cut(b, t);
        }
    }

    return LUNARY_OK;
}


static void
lunary_text_cut(lunary_budget_t *b, lunary_text_t *t)
{
    t->cut = 1;
    t->head = lunary_inside_floor(lunary_buf_str(&t->buf), b->cut / 2);

    lunary_text_trim(b, t);
}


/* drops what stands before the last cut/2 bytes of the tail */

static void
lunary_text_trim(lunary_budget_t *b, lunary_text_t *t)
{
    size_t         tail, drop;
    lunary_str_t   s;

    tail = t->buf.len - t->head;

    if (tail <= b->cut / 2) {
        return;
    }

    s = lunary_str(t->buf.data + t->head, tail);
    drop = lunary_inside_ceil(s, tail - b->cut / 2);

    memmove(t->buf.data + t->head, t->buf.data + t->head + drop, tail - drop);

    t->buf.len -= drop;
    b->held -= drop;
}


void
lunary_text_settle(lunary_budget_t *b, lunary_text_t *t)
{
    if (t->cut) {
        lunary_text_trim(b, t);
    }
}


int
lunary_text_write(lunary_mem_t *mem, const lunary_text_t *t,
    lunary_buf_t *out)
{
    size_t         head;
    uint64_t       lost;
    unsigned char  mark[LUNARY_CUT_MARKER];

    lost = lunary_text_lost(t);
    head = t->cut ? t->head : t->buf.len;

    if (lunary_buf_append(mem, out, t->buf.data, head) != LUNARY_OK) {
        return LUNARY_NOMEM;
    }

    if (lost != 0) {

        if (lunary_buf_append(mem, out, mark,
                              lunary_cut_marker(mark, (size_t) lost))
            != LUNARY_OK)
        {
            return LUNARY_NOMEM;
        }
    }

    if (t->buf.len == head) {
        return LUNARY_OK;
    }

    return lunary_buf_append(mem, out, t->buf.data + head, t->buf.len - head);
}


void
lunary_text_free(lunary_mem_t *mem, lunary_budget_t *b, lunary_text_t *t)
{
    lunary_text_t  **p;

    if (t->listed) {
        for (p = &b->texts; *p != NULL; p = &(*p)->next) {
            if (*p == t) {
                *p = t->next;
                break;
            }
        }

        t->listed = 0;
        b->held -= t->buf.len;
    }

    if (t == b->borrower) {
        b->borrower = NULL;
        t->buf.data = NULL;
        t->buf.len = 0;
    }

    lunary_buf_free(mem, &t->buf);

    t->head = 0;
    t->cut = 0;
}


int
lunary_inside_copy(lunary_mem_t *mem, lunary_buf_t *b, lunary_str_t inside)
{
    int                   rc;
    size_t                len;
    const unsigned char  *p, *end, *start;

    if (inside.len == 0) {
        return LUNARY_OK;
    }

    p = inside.data;
    end = p + inside.len;

    /* mostly there is nothing to mend */

    if (lunary_simd_text(p, end) == end || lunary_string_span(p, end) == end) {
        return lunary_buf_append(mem, b, p, inside.len);
    }

    len = b->len;
    rc = LUNARY_OK;
    start = p;

    while (p < end && (p = memchr(p, '\\', (size_t) (end - p))) != NULL) {

        if (lunary_inside_escape(p, end)) {
            p += (p[1] == 'u') ? 6 : 2;
            continue;
        }

        /* a backslash that escapes nothing stands for itself */

        rc = lunary_inside_plain(mem, b, start, p);

        if (rc == LUNARY_OK) {
            rc = lunary_buf_lit(mem, b, "\\\\");
        }

        if (rc != LUNARY_OK) {
            break;
        }

        start = ++p;
    }

    if (rc == LUNARY_OK) {
        rc = lunary_inside_plain(mem, b, start, end);
    }

    if (rc != LUNARY_OK) {
        b->len = len;
    }

    return rc;
}


/*
 * A piece without bad escapes.  lunary_json_copy() takes what starts with a
 * bracket for a value; here it is text like any other.
 */

static int
lunary_inside_plain(lunary_mem_t *mem, lunary_buf_t *b,
    const unsigned char *p, const unsigned char *end)
{
    size_t  n;

    for (n = 0; p + n < end && (p[n] == '{' || p[n] == '['); n++) {
        /* void */
    }

    if (lunary_buf_append(mem, b, p, n) != LUNARY_OK) {
        return LUNARY_NOMEM;
    }

    return lunary_json_copy(mem, b, lunary_str(p + n, (size_t) (end - p) - n));
}


/* 1 where an escape starts at p */

static int
lunary_inside_escape(const unsigned char *p, const unsigned char *end)
{
    size_t  i;

    if (end - p < 2) {
        return 0;
    }

    switch (p[1]) {

    case '"': case '\\': case '/': case 'b': case 'f': case 'n': case 'r':
    case 't':
        return 1;

    case 'u':
        break;

    default:
        return 0;
    }

    if (end - p < 6) {
        return 0;
    }

    for (i = 2; i < 6; i++) {
        if (!((p[i] >= '0' && p[i] <= '9')
              || ((p[i] | 0x20) >= 'a' && (p[i] | 0x20) <= 'f')))
        {
            return 0;
        }
    }

    return 1;
}


size_t
lunary_inside_floor(lunary_str_t s, size_t want)
{
    size_t  i, n;

    if (want >= s.len) {
        return s.len;
    }

    for (i = 0; i < s.len; i += n) {
        n = lunary_inside_unit(s.data + i, s.len - i);

        if (i + n > want) {
            break;
        }
    }

    return i;
}


size_t
lunary_inside_ceil(lunary_str_t s, size_t want)
{
    size_t  i;

    if (want >= s.len) {
        return s.len;
    }

    for (i = 0; i < want; /* void */) {
        i += lunary_inside_unit(s.data + i, s.len - i);
    }

    return i;
}


/* length of the escape, surrogate pair, UTF-8 sequence or byte at p */

static size_t
lunary_inside_unit(const unsigned char *p, size_t n)
{
    size_t         len, i;
    unsigned char  c;

    c = p[0];

    if (c == '\\') {
        if (n < 2 || p[1] != 'u') {
            return n < 2 ? n : 2;
        }

        if (n < 6) {
            return n;
        }

        /* \ud800-\udbff with \udc00-\udfff behind it */

        if (n >= 12
            && (p[2] | 0x20) == 'd'
            && (p[3] == '8' || p[3] == '9'
                || (p[3] | 0x20) == 'a' || (p[3] | 0x20) == 'b')
            && p[6] == '\\' && p[7] == 'u' && (p[8] | 0x20) == 'd'
            && (p[9] | 0x20) >= 'c' && (p[9] | 0x20) <= 'f')
        {
            return 12;
        }

        return 6;
    }

    if (c < 0xc0) {
        return 1;
    }

    len = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;

    for (i = 1; i < len && i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            break;
        }
    }

    return i;
}
