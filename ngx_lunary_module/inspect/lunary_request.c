/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A request body: who reads it, and what is told of it.  See lunary_request.h.
 *
 * A body that fits is kept as it comes and read where it lies
 * (lunary_request_read.c).  The first piece in which that finds what only a
 * document (lunary_doc.h) can judge is read again by one, which takes over
 * the text and the state of the moment before that piece; so does what does
 * not fit.  Either way the same notes are made (lunary_request_note.c).
 */

#include "lunary_request_internal.h"
#include "lunary_string.h"
#include "lunary_watch.h"


/* what is read in place is not longer: its places have 32 bits */

#define LUNARY_REQUEST_RAW     ((size_t) 1 << 30)

#define lunary_request_space(c)                                              \
    ((c) == ' ' || (c) == '\n' || (c) == '\r' || (c) == '\t')


/* bytes that are copied and read at once: fewer than the C library copies by
 * `rep movsb`, which is slow to begin */

#define LUNARY_REQUEST_STEP    4032

/* of an unfinished token what lunary_request_read.c reads again, at most */

#define LUNARY_REQUEST_TAIL    512


static int lunary_request_raw(lunary_request_t *rq, const unsigned char *p,
    size_t n);
static int lunary_request_place(lunary_request_t *rq, const unsigned char *p,
    size_t n);
static int lunary_request_own(lunary_request_t *rq);
static int lunary_request_read_lent(lunary_request_t *rq, size_t n);
static int lunary_request_read_copy(lunary_request_t *rq,
    const unsigned char **pp, const unsigned char *end);
static int lunary_request_blank(const unsigned char *p,
    const unsigned char *end);
static int lunary_request_reserve(lunary_request_t *rq, size_t n);
static int lunary_request_document(lunary_request_t *rq);
static int lunary_request_event(void *ctx, lunary_scan_event_e event,
    const lunary_scan_t *s);


lunary_request_t *
lunary_request_create(lunary_mem_t *mem, size_t max, size_t cut)
{
    lunary_request_t  *rq;

    rq = lunary_alloc(mem, sizeof(lunary_request_t));
    if (rq == NULL) {
        return NULL;
    }

    memset(rq, 0, offsetof(lunary_request_t, n.values));

    rq->mem = mem;
    rq->max = max;
    rq->cut = cut;
    rq->n.level[0].mark = -1;
    rq->n.level[1].mark = -1;

    return rq;
}


void
lunary_request_destroy(lunary_request_t *rq)
{
    if (rq == NULL) {
        return;
    }

    lunary_doc_destroy(rq->doc);

    if (!rq->lies) {
        lunary_buf_free(rq->mem, &rq->raw);
    }

    lunary_buf_free(rq->mem, &rq->held);
    lunary_buf_free(rq->mem, &rq->decoded);
    lunary_free(rq->mem, rq->marks, rq->marks_max * sizeof(lunary_mark_t));
    lunary_free(rq->mem, rq, sizeof(lunary_request_t));
}


void
lunary_request_lend(lunary_request_t *rq, unsigned char *place, size_t size)
{
    rq->lent = place;
    rq->lent_end = place + size;
}


int
lunary_request_feed(lunary_request_t *rq, const unsigned char *p, size_t n)
{
    int  rc;

    if (rq->doc == NULL) {

        if (rq->rc < 0) {
            return rq->rc;
        }

        rc = lunary_request_raw(rq, p, n);

        if (rc != LUNARY_ERROR) {
            rq->rc = rq->nomem ? LUNARY_NOMEM : rc;
            return rq->rc;
        }

        rc = lunary_request_document(rq);

        if (rc < 0) {
            return rc;
        }
    }

    rq->piece = p;

    rc = lunary_doc_feed(rq->doc, p, n);

    if (rq->n.copying && rc == LUNARY_OK) {
        lunary_note_copy(rq, rq->offset + n);
    }

    rq->offset += n;

    return rq->nomem ? LUNARY_NOMEM : rc;
}


/* a piece of a body that is read where it lies; LUNARY_ERROR: it was not */

static int
lunary_request_raw(lunary_request_t *rq, const unsigned char *p, size_t n)
{
    int                   rc;
    size_t                len, lead;
    lunary_read_t         read;
    lunary_notes_t        notes;
    const unsigned char  *end;

    len = rq->raw.len;
    lead = 0;

    if (len == 0) {

        while (lead < n && lunary_request_space(p[lead])) {
            lead++;
        }

        if (lead == n) {
            rq->base += n;
            rq->offset += n;
            return LUNARY_OK;
        }

        p += lead;
        n -= lead;
    }

    end = p + n;

    if (rq->rc == LUNARY_DONE) {

        if (!lunary_request_blank(p, end)) {
            return LUNARY_ERROR;
        }

        rq->offset += n;

        return LUNARY_DONE;
    }

    if (n > rq->max - len || len + n > LUNARY_REQUEST_RAW) {
        return LUNARY_ERROR;
    }

    rq->base += lead;

    rc = lunary_request_place(rq, p, n);

    if (rc != LUNARY_OK) {
        return rc;
    }

    if (len != 0) {
        read = rq->read;
        notes = rq->n;

    } else {
        memset(&read, 0, sizeof(lunary_read_t));
        memset(&notes, 0, sizeof(lunary_notes_t));
        notes.level[0].mark = -1;
        notes.level[1].mark = -1;
    }

    if (rq->lies) {
        rc = lunary_request_read_lent(rq, n);
        p = end;

    } else {
        rc = lunary_request_read_copy(rq, &p, end);
    }

    if (rc == LUNARY_DONE) {
        rq->raw.len = rq->read.at;

        if (!lunary_request_blank(p, end)) {
            rc = LUNARY_ERROR;
        }
    }

    if (rc >= 0) {
        rq->offset += lead + n;
        return rc;
    }

    /* a document takes over from where this piece began */

    rq->base -= lead;
    rq->raw.len = len;

    rq->read = read;
    rq->n = notes;

    return LUNARY_ERROR;
}


/* a piece that lies behind the one before stays there, others are copied:
 * sees to the room for that */

static int
lunary_request_place(lunary_request_t *rq, const unsigned char *p, size_t n)
{
    int             rc;
    unsigned char  *here;

    if (rq->lent != NULL && p >= rq->lent && p < rq->lent_end
        && n + LUNARY_STRING_PAD <= (size_t) (rq->lent_end - p))
    {
        here = rq->lent + (p - rq->lent);

        if (rq->raw.len == 0 && rq->raw.data == NULL) {
            rq->raw.data = here;
            rq->lies = 1;
        }

        if (rq->lies && here == rq->raw.data + rq->raw.len) {
            return LUNARY_OK;
        }
    }

    if (rq->lies) {
        rc = lunary_request_own(rq);

        if (rc != LUNARY_OK) {
            return rc;
        }
    }

    return lunary_request_reserve(rq, n + LUNARY_STRING_PAD);
}


/* what was left where it lies becomes a copy */

static int
lunary_request_own(lunary_request_t *rq)
{
    lunary_buf_t  lent;

    lent = rq->raw;

    memset(&rq->raw, 0, sizeof(lunary_buf_t));
    rq->lies = 0;

    if (lunary_request_reserve(rq, lent.len + LUNARY_STRING_PAD)
        != LUNARY_OK)
    {
        return LUNARY_NOMEM;
    }

    memcpy(rq->raw.data, lent.data, lent.len);
    rq->raw.len = lent.len;

    return LUNARY_OK;
}


/* what is behind the piece is not ours: it is zero while that is read */

static int
lunary_request_read_lent(lunary_request_t *rq, size_t n)
{
    int             rc;
    unsigned char  *behind;
    unsigned char   saved[LUNARY_STRING_PAD];

    rq->raw.len += n;

    behind = rq->raw.data + rq->raw.len;

    memcpy(saved, behind, LUNARY_STRING_PAD);
    memset(behind, 0, LUNARY_STRING_PAD);

    rc = lunary_request_read(rq);

    memcpy(behind, saved, LUNARY_STRING_PAD);

    return rc;
}


/* what has been copied is read while it is in the first cache */

static int
lunary_request_read_copy(lunary_request_t *rq, const unsigned char **pp,
    const unsigned char *end)
{
    int                   rc;
    size_t                k;
    const unsigned char  *p;

    p = *pp;

    do {
        k = (size_t) (end - p);

        if (k > LUNARY_REQUEST_STEP) {
            k = LUNARY_REQUEST_STEP;
        }

        memcpy(rq->raw.data + rq->raw.len, p, k);
        p += k;

        rq->raw.len += k;
        memset(rq->raw.data + rq->raw.len, 0, LUNARY_STRING_PAD);

        rc = lunary_request_read(rq);

    } while (rc == LUNARY_OK && p != end);

    *pp = p;

    return rc;
}


static int
lunary_request_blank(const unsigned char *p, const unsigned char *end)
{
    while (p < end && lunary_request_space(*p)) {
        p++;
    }

    return p == end;
}


/* more room than asked for, where more pieces are to be expected */

static int
lunary_request_reserve(lunary_request_t *rq, size_t n)
{
    void          *p;
    size_t         cap;
    lunary_buf_t  *b;

    b = &rq->raw;

    if (n <= b->cap - b->len) {
        return LUNARY_OK;
    }

    cap = b->len + n;

    if (b->cap != 0) {
        cap += cap / 2;

        if (cap > rq->max + LUNARY_STRING_PAD) {
            cap = rq->max + LUNARY_STRING_PAD;
        }
    }

    if (cap < b->len + n) {
        cap = b->len + n;
    }

    cap = (cap + 63) & ~(size_t) 63;

    p = lunary_realloc(rq->mem, b->data, b->cap, cap);
    if (p == NULL) {
        return LUNARY_NOMEM;
    }

    b->data = p;
    b->cap = cap;

    return LUNARY_OK;
}


/* from here on a document reads: LUNARY_OK or an error, as it says */

static int
lunary_request_document(lunary_request_t *rq)
{
    int               rc;
    size_t            n;
    lunary_doc_t     *d;
    lunary_read_t    *rd;
    lunary_place_t   *m;
    lunary_adopt_t    a;
    unsigned char     tail[LUNARY_REQUEST_TAIL];

    d = lunary_doc_create(rq->mem, rq->max, rq->cut, LUNARY_DOC_STRICT);

    if (d == NULL) {
        rq->rc = LUNARY_NOMEM;
        return LUNARY_NOMEM;
    }

    rd = &rq->read;

    if (lunary_note_carry(rq, rd->at) != LUNARY_OK
        || (rq->lies && lunary_request_own(rq) != LUNARY_OK))
    {
        lunary_doc_destroy(d);
        rq->rc = LUNARY_NOMEM;
        return LUNARY_NOMEM;
    }

    memset(&a, 0, sizeof(lunary_adopt_t));

    a.data = rq->raw.data;
    a.cap = rq->raw.cap;
    a.len = rd->at;
    a.offset = rq->base + rd->at;
    a.state = rd->state;
    a.depth = rd->depth;
    a.arrays = rd->arrays;
    a.strings = rd->strings;
    a.vectors = rd->vectors;
    a.class = rd->class;
    a.key = rd->key;
    a.string = rd->string;
    a.bracket = rd->end;
    a.end = rq->base + rd->end;

    if (rd->depth != 0 && rd->depth <= 2
        && rq->n.level[rd->depth - 1].id != 0)
    {
        a.watched = (rd->depth == 1 || rq->n.inside);
    }

    if (rq->n.nmembers != 0) {
        m = &rq->members[rq->n.many ? LUNARY_REQUEST_MEMBERS
                                    : rq->n.nmembers - 1];
        a.name = lunary_str(rq->raw.data + m->key, m->key_len);
    }

    /* what has come of a token is read again; the document writes there */

    n = rq->raw.len - rd->at;

    if (n != 0) {
        memcpy(tail, rq->raw.data + rd->at, n);
    }

    lunary_doc_watch(d, lunary_request_event, rq);
    lunary_doc_watch_depth(d, rq->n.inside ? 2 : 1);
    lunary_doc_adopt(d, &a);

    rq->doc = d;
    rq->offset = a.offset;
    rq->n.many = 1;
    memset(&rq->raw, 0, sizeof(lunary_buf_t));

    if (n == 0) {
        return LUNARY_OK;
    }

    rq->piece = tail;
    rc = lunary_doc_feed(d, tail, n);

    if (rq->n.copying && rc == LUNARY_OK) {
        lunary_note_copy(rq, rq->offset + n);
    }

    rq->offset += n;

    return rq->nomem ? LUNARY_NOMEM : rc;
}


int
lunary_request_finish(lunary_request_t *rq)
{
    int  rc;

    if (rq->nomem) {
        return LUNARY_NOMEM;
    }

    if (rq->complete) {
        return LUNARY_OK;
    }

    if (rq->doc == NULL && rq->rc == LUNARY_OK) {

        /* what it lacks is a document's to say */

        rc = lunary_request_document(rq);

        if (rc < 0) {
            return rc;
        }
    }

    rc = (rq->doc != NULL) ? lunary_doc_finish(rq->doc)
         : (rq->rc == LUNARY_DONE) ? LUNARY_OK : rq->rc;

    if (rc != LUNARY_OK) {
        return rc;
    }

    rc = lunary_claims_read(rq);

    if (rc != LUNARY_OK) {
        memset(&rq->claims, 0, sizeof(lunary_claims_t));
        return rc;
    }

    rq->complete = 1;

    return LUNARY_OK;
}


int
lunary_request_judge(lunary_request_t *rq)
{
    if (rq->doc != NULL || rq->rc != LUNARY_OK) {
        return rq->rc < 0 ? rq->rc : LUNARY_OK;
    }

    /* what is held back as the start of a token is a document's to judge */

    return lunary_request_document(rq);
}


int
lunary_request_torn(const lunary_request_t *rq)
{
    return rq->doc != NULL && lunary_doc_torn(rq->doc);
}


int
lunary_request_close(lunary_request_t *rq)
{
    if (rq->doc == NULL) {

        if (rq->rc == LUNARY_DONE) {
            return LUNARY_OK;
        }

        (void) lunary_request_judge(rq);

        if (rq->doc == NULL) {
            return LUNARY_ERROR;
        }
    }

    return lunary_doc_close(rq->doc);
}


lunary_str_t
lunary_request_text(const lunary_request_t *rq)
{
    return (rq->doc != NULL) ? lunary_doc_text(rq->doc)
                             : lunary_buf_str(&rq->raw);
}


lunary_str_t
lunary_request_array(const lunary_request_t *rq)
{
    return (rq->doc != NULL) ? lunary_doc_array(rq->doc) : lunary_str(NULL, 0);
}


size_t
lunary_request_removed_of(const lunary_request_t *rq, lunary_str_t key)
{
    return (rq->doc != NULL) ? lunary_doc_removed_of(rq->doc, key) : 0;
}


int
lunary_request_member(const lunary_request_t *rq, size_t i, lunary_str_t *key,
    lunary_str_t *value)
{
    const lunary_place_t  *m;

    if (rq->n.many || rq->rc != LUNARY_DONE) {
        return LUNARY_ERROR;
    }

    if (i >= rq->n.nmembers) {
        return LUNARY_DONE;
    }

    m = &rq->members[i];

    *key = lunary_str(rq->raw.data + m->key, m->key_len);
    *value = lunary_str(rq->raw.data + m->value, m->end - m->value);

    return LUNARY_OK;
}


/* what a document's scanner tells */

static int
lunary_request_event(void *ctx, lunary_scan_event_e event,
    const lunary_scan_t *s)
{
    unsigned           inside;
    lunary_request_t  *rq = ctx;

    inside = (s->depth >= 2);

    switch (event) {

    case LUNARY_SCAN_KEY:
        return lunary_note_key(rq, inside, s->key, s->token, s->value_end);

    case LUNARY_SCAN_OPEN:
        lunary_note_open(rq, s->depth - 1, lunary_scan_array(s, s->depth),
                         s->token);
        break;

    case LUNARY_SCAN_CLOSE:
        lunary_note_close(rq, s->depth, s->token);
        break;

    case LUNARY_SCAN_STRING:

        if (s->depth != 0) {
            lunary_note_value(rq, inside, LUNARY_NOTE_STRING, s->token);
        }

        return 0;

    case LUNARY_SCAN_SCALAR:

        if (s->depth != 0) {
            lunary_note_value(rq, inside, LUNARY_NOTE_SCALAR, s->token);
        }

        /* fall through */

    default: /* LUNARY_SCAN_STRING_END */
        lunary_note_end(rq, inside, s->value_end);
        return 0;
    }

    lunary_doc_watch_depth(rq->doc, rq->n.inside ? 2 : 1);

    return 0;
}


const lunary_claims_t *
lunary_request_claims(lunary_request_t *rq)
{
    return &rq->claims;
}


int
lunary_request_duplicate(const lunary_request_t *rq)
{
    return rq->n.duplicate || (rq->n.twice && rq->n.identity);
}


int
lunary_request_flooded(const lunary_request_t *rq)
{
    return rq->n.flooded;
}


const lunary_mark_t *
lunary_request_marks(const lunary_request_t *rq, size_t *n)
{
    *n = rq->n.nmarks;

    return rq->marks;
}
