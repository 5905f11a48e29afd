/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * lunary_request.h: pieces make no difference; claims are what they must be;
 * a body with members taken out is valid JSON in which none of them is left,
 * and every other member is there as it was; a body that lies where was lent is
 * read as a copy of it is.
 *
 * Input: how to cut (1 byte), what to take out (3 bytes), the body.
 */

#include "fuzz.h"

#include "lunary_json.h"
#include "lunary_request.h"


static const struct {
    lunary_str_t  name;
    int           top;
    int           metadata;
} names[] = {
    { lunary_string("user_id"), LUNARY_M_USER_ID, LUNARY_M_MD_USER_ID },
    { lunary_string("userId"), LUNARY_M_USERID, LUNARY_M_MD_USERID },
    { lunary_string("user"), LUNARY_M_USER, 0 },
    { lunary_string("safety_identifier"), LUNARY_M_SAFETY, 0 },
    { lunary_string("user_props"), LUNARY_M_USER_PROPS,
      LUNARY_M_MD_USER_PROPS },
    { lunary_string("userProps"), LUNARY_M_USERPROPS, LUNARY_M_MD_USERPROPS },
    { lunary_string("thread_id"), LUNARY_M_THREAD_ID, LUNARY_M_MD_THREAD_ID },
    { lunary_string("threadId"), LUNARY_M_THREADID, LUNARY_M_MD_THREADID },
    { lunary_string("parent_run_id"), LUNARY_M_PARENT_RUN_ID,
      LUNARY_M_MD_PARENT_RUN_ID },
    { lunary_string("parentRunId"), LUNARY_M_PARENTRUNID,
      LUNARY_M_MD_PARENTRUNID },
    { lunary_string("tags"), LUNARY_M_TAGS, LUNARY_M_MD_TAGS },
    { lunary_string("templateId"), LUNARY_M_TEMPLATEID, 0 },
    { lunary_string("metadata"), LUNARY_M_METADATA, 0 },
    { lunary_string("stream"), LUNARY_M_STREAM, 0 },
    { lunary_string("stream_options"), LUNARY_M_STREAM_OPTIONS, 0 }
};


/* bytes behind a place that may be written to */
#define BEHIND  64


static lunary_mem_t    mem;
static unsigned char  *place;         /* the body, and BEHIND                 */


/* 1 where a key (escaped, perhaps not UTF-8) is one that goes */

static int
goes(lunary_str_t key, uint32_t strip, int inside)
{
    int           id;
    size_t        i;
    lunary_buf_t  name;

    memset(&name, 0, sizeof(name));
    must(lunary_json_unescape(&mem, &name, key) == LUNARY_OK);

    id = 0;

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (name.len == names[i].name.len
            && memcmp(name.data, names[i].name.data, name.len) == 0)
        {
            id = inside ? names[i].metadata : names[i].top;
        }
    }

    lunary_buf_free(&mem, &name);

    return id != 0 && (strip & lunary_member_bit(id));
}


static int
is_metadata(lunary_str_t key)
{
    int           is;
    lunary_buf_t  name;

    memset(&name, 0, sizeof(name));
    must(lunary_json_unescape(&mem, &name, key) == LUNARY_OK);

    is = name.len == 8 && memcmp(name.data, "metadata", 8) == 0;

    lunary_buf_free(&mem, &name);

    return is;
}


/* `after` is `before` without what goes; returns how many members are left */

static size_t
compare(lunary_str_t before, lunary_str_t after, uint32_t strip, int inside)
{
    size_t              n, left, all;
    lunary_str_t        k1, v1, k2, v2, k, v;
    lunary_json_iter_t  a, b, m;

    lunary_json_iter(&a, before);
    lunary_json_iter(&b, after);

    n = 0;

    while (lunary_json_member(&a, &k1, &v1)) {

        if (goes(k1, strip, inside)) {
            continue;
        }

        if (!inside && is_metadata(k1) && lunary_json_is_object(v1)) {

            left = 0;
            all = 0;
            lunary_json_iter(&m, v1);

            while (lunary_json_member(&m, &k, &v)) {
                left += !goes(k, strip, 1);
                all++;
            }

            if (all != 0 && left == 0) {
                continue;
            }

            must(lunary_json_member(&b, &k2, &v2));
            must(compare(v1, v2, strip, 1) == left);
            n++;
            continue;
        }

        must(lunary_json_member(&b, &k2, &v2));
        must(k1.len == k2.len && memcmp(k1.data, k2.data, k1.len) == 0);
        must(v1.len == v2.len && memcmp(v1.data, v2.data, v1.len) == 0);
        n++;
    }

    must(!lunary_json_member(&b, &k2, &v2));

    return n;
}


/* how: -1, whole; else cut by its low byte, of copies, or where was lent: all,
 * or most of it */

#define LENT   0x100
#define MIXED  0x100

static int
run(lunary_request_t *rq, const unsigned char *p, size_t n, int how)
{
    size_t          at, k, i;
    unsigned char  *piece;

    if (how >= LENT) {
        lunary_request_lend(rq, place, n + BEHIND);
    }

    for (at = 0, i = 0; at < n; at += k, i++) {
        k = (how < 0) ? n : fuzz_piece((unsigned) how, at, n - at);

        if (how >= LENT + MIXED ? i % 5 != 4 : how >= LENT) {
            (void) lunary_request_feed(rq, place + at, k);
            must(memcmp(place + at, p + at,
                        n - at < k + BEHIND ? n - at : k + BEHIND) == 0);
            continue;
        }

        piece = fuzz_copy(p + at, k);
        (void) lunary_request_feed(rq, piece, k);
        free(piece);
    }

    return lunary_request_finish(rq);
}


/*
 * A request's text is a document's, whoever read it: whole, in pieces, broken
 * off or not.
 */

static int
same(lunary_str_t a, lunary_str_t b);

static void
text(const unsigned char *p, size_t n, int how, size_t max)
{
    int                rc, closed;
    size_t             i, at;
    lunary_doc_t      *d;
    lunary_str_t       key, value, k, v;
    lunary_request_t  *rq;
    lunary_json_iter_t it;

    rq = lunary_request_create(&mem, max, 0);
    d = lunary_doc_create(&mem, max, 0, LUNARY_DOC_STRICT);
    must(rq != NULL && d != NULL);

    rc = run(rq, p, n, how);

    (void) lunary_doc_feed(d, p, n);
    must(rc == lunary_doc_finish(d));

    closed = lunary_request_close(rq);
    must(closed == lunary_doc_close(d));

    if (closed == LUNARY_OK) {
        must(same(lunary_request_text(rq), lunary_doc_text(d)));

        lunary_json_iter(&it, lunary_doc_text(d));

        for (i = 0; lunary_request_member(rq, i, &key, &value) == LUNARY_OK;
             i++)
        {
            must(lunary_json_member(&it, &k, &v));
            must(same(key, k) && same(value, v));
            must(lunary_request_removed_of(rq, key) == 0);
        }

        must(i == 0 || !lunary_json_member(&it, &k, &v));
    }

    for (at = 0; at < 3; at++) {
        static const char  *names[] = { "messages", "a", "user" };

        key = lunary_str(names[at], strlen(names[at]));
        must(closed != LUNARY_OK
             || lunary_request_removed_of(rq, key)
                == lunary_doc_removed_of(d, key));
    }

    lunary_request_destroy(rq);
    lunary_doc_destroy(d);
}


static int
same(lunary_str_t a, lunary_str_t b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len)
                                            == 0);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int                     rc;
    size_t                  i, n, at, edits;
    uint32_t                strip;
    lunary_edit_t           e[LUNARY_REQUEST_MARKS], f[LUNARY_REQUEST_MARKS];
    unsigned char          *out;
    const lunary_mark_t    *m;
    lunary_request_t       *rq, *other;
    const lunary_claims_t  *c, *o;

    if (size < 4) {
        return 0;
    }

    strip = (uint32_t) data[1] << 16 | (uint32_t) data[2] << 8 | data[3];
    strip &= lunary_member_bit(LUNARY_M_STREAM_OPTIONS + 1) - 2;

    lunary_mem_init(&mem);

    place = malloc(size - 4 + BEHIND);
    must(place != NULL);
    memcpy(place, data + 4, size - 4);
    memset(place + size - 4, 'b', BEHIND);

    rq = lunary_request_create(&mem, 2048, 0);
    other = lunary_request_create(&mem, 1 << 20, 0);
    must(rq != NULL && other != NULL);

    rc = run(rq, data + 4, size - 4, -1);
    must(run(other, data + 4, size - 4, data[0] | (data[1] & 1 ? LENT : 0))
         == rc);

    /* what is claimed depends neither on pieces nor on reductions */

    c = lunary_request_claims(rq);
    o = lunary_request_claims(other);

    must(same(c->user, o->user) && same(c->props, o->props)
         && same(c->thread, o->thread) && same(c->parent, o->parent)
         && same(c->tags, o->tags));
    must(lunary_request_duplicate(rq) == lunary_request_duplicate(other));
    must(lunary_request_flooded(rq) == lunary_request_flooded(other));

    must(c->user.len == 0 || lunary_user_id_valid(c->user));
    must(c->props.len == 0 || lunary_json_valid(c->props, 512));
    must(c->tags.len == 0 || lunary_json_valid(c->tags, 1));
    must(lunary_utf8_valid(c->thread) && lunary_utf8_valid(c->parent));

    m = lunary_request_marks(rq, &n);
    must(n <= LUNARY_REQUEST_MARKS);

    if (rc == LUNARY_OK) {
        for (i = 0; i < n; i++) {
            must(m[i].prev_end <= m[i].start && m[i].start < m[i].value
                 && m[i].value < m[i].end && m[i].end <= m[i].next
                 && m[i].next <= size - 4);
        }
    }

    edits = lunary_request_strip(rq, strip, e, LUNARY_REQUEST_MARKS);

    must(edits == lunary_request_strip(other, strip, f,
                                       LUNARY_REQUEST_MARKS));

    must(rc == LUNARY_OK || edits == 0);

    if (rc == LUNARY_OK && !lunary_request_flooded(rq)) {
        out = malloc(size);
        must(out != NULL);

        n = 0;
        at = 0;

        for (i = 0; i < edits; i++) {
            must(e[i].start == f[i].start && e[i].end == f[i].end);
            must(e[i].start >= at && e[i].end > e[i].start
                 && e[i].end <= size - 4);
            memcpy(out + n, data + 4 + at, e[i].start - at);
            n += e[i].start - at;
            at = e[i].end;
        }

        memcpy(out + n, data + 4 + at, size - 4 - at);
        n += size - 4 - at;

        for (i = 0; i < n && strchr(" \t\r\n", out[i]); i++) { /* void */ }
        for (at = 0; strchr(" \t\r\n", data[4 + at]); at++) { /* void */ }

        if (data[4 + at] == '{') {
            const unsigned char  *p = data + 4, *q = out;
            lunary_str_t          before, after;

            before = lunary_json_value(&p, data + size);
            after = lunary_json_value(&q, out + n);

            must(lunary_json_is_object(after));
            must(!lunary_json_valid(before, 512)
                 || lunary_json_valid(after, 512));

            (void) compare(before, after, strip, 0);

        } else {
            must(edits == 0);
        }

        free(out);
    }

    lunary_request_destroy(rq);
    lunary_request_destroy(other);

    text(data + 4, size - 4, -1, 1 << 20);
    text(data + 4, size - 4, data[0], 1 << 20);
    text(data + 4, size - 4, data[0], 2048);
    text(data + 4, size - 4, data[0] | LENT, 1 << 20);
    text(data + 4, size - 4, data[0] | LENT, 2048);
    text(data + 4, size - 4, (data[0] | LENT) + MIXED, 1 << 20);
    text(data + 4, size - 4, (data[0] | LENT) + MIXED, 2048);

    for (i = 0; i < BEHIND; i++) {
        must(place[size - 4 + i] == 'b');
    }

    free(place);

    must(mem.used == 0);

    return 0;
}
