/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What a request body says of the caller.  See lunary_request.h.
 *
 * The document (lunary_doc.h) scans; this file looks on (lunary_watch.h).
 * Values are copied from the original bytes as they pass, in full or not at
 * all: what a reduction does to the text never reaches them.
 */

#include "lunary_escape.h"
#include "lunary_request_internal.h"
#include "lunary_watch.h"


/*
 * What is kept of a value, escaped: an id of 256 bytes is never longer, since
 * no byte takes more than the six of \u0061; props and tags; all together.
 */

#define LUNARY_REQUEST_ID      (256 * 6 + 2)
#define LUNARY_REQUEST_OBJECT  65536
#define LUNARY_REQUEST_HELD    (4 * LUNARY_REQUEST_OBJECT)


typedef enum {
    LUNARY_CLAIM_NONE = 0,
    LUNARY_CLAIM_USER,
    LUNARY_CLAIM_PROPS,
    LUNARY_CLAIM_THREAD,
    LUNARY_CLAIM_PARENT,
    LUNARY_CLAIM_TAGS
} lunary_claim_e;


typedef struct {
    lunary_str_t    name;
    uint8_t         top;              /* lunary_member_e, or 0: not there     */
    uint8_t         metadata;         /* the same in `metadata`               */
    uint8_t         claim;            /* lunary_claim_e                       */
} lunary_name_t;


/* sorted by length: see lunary_name_first */

static const lunary_name_t  lunary_names[] = {
    { lunary_string("user"),
      LUNARY_M_USER, 0, LUNARY_CLAIM_USER },
    { lunary_string("tags"),
      LUNARY_M_TAGS, LUNARY_M_MD_TAGS, LUNARY_CLAIM_TAGS },
    { lunary_string("userId"),
      LUNARY_M_USERID, LUNARY_M_MD_USERID, LUNARY_CLAIM_USER },
    { lunary_string("stream"), LUNARY_M_STREAM, 0, 0 },
    { lunary_string("user_id"),
      LUNARY_M_USER_ID, LUNARY_M_MD_USER_ID, LUNARY_CLAIM_USER },
    { lunary_string("threadId"),
      LUNARY_M_THREADID, LUNARY_M_MD_THREADID, LUNARY_CLAIM_THREAD },
    { lunary_string("metadata"), LUNARY_M_METADATA, 0, 0 },
    { lunary_string("userProps"),
      LUNARY_M_USERPROPS, LUNARY_M_MD_USERPROPS, LUNARY_CLAIM_PROPS },
    { lunary_string("thread_id"),
      LUNARY_M_THREAD_ID, LUNARY_M_MD_THREAD_ID, LUNARY_CLAIM_THREAD },
    { lunary_string("user_props"),
      LUNARY_M_USER_PROPS, LUNARY_M_MD_USER_PROPS, LUNARY_CLAIM_PROPS },
    { lunary_string("templateId"), LUNARY_M_TEMPLATEID, 0, 0 },
    { lunary_string("parentRunId"),
      LUNARY_M_PARENTRUNID, LUNARY_M_MD_PARENTRUNID, LUNARY_CLAIM_PARENT },
    { lunary_string("parent_run_id"),
      LUNARY_M_PARENT_RUN_ID, LUNARY_M_MD_PARENT_RUN_ID,
      LUNARY_CLAIM_PARENT },
    { lunary_string("stream_options"), LUNARY_M_STREAM_OPTIONS, 0, 0 },
    { lunary_string("litellm_metadata"), LUNARY_M_LITELLM, 0, 0 },
    { lunary_string("safety_identifier"),
      LUNARY_M_SAFETY, 0, LUNARY_CLAIM_USER }
};

#define LUNARY_NAMES      (sizeof(lunary_names) / sizeof(lunary_names[0]))
#define LUNARY_NAME_MAX   17


/* by length: the letters that names begin with, and the first such name; most
 * keys end at the letters */

static const struct {
    uint32_t        letters;
    uint8_t         first;
} lunary_name_first[LUNARY_NAME_MAX + 1] = {
    [4]  = { lunary_letter('u')|lunary_letter('t'), 0 },
    [6]  = { lunary_letter('u')|lunary_letter('s'), 2 },
    [7]  = { lunary_letter('u'), 4 },
    [8]  = { lunary_letter('t')|lunary_letter('m'), 5 },
    [9]  = { lunary_letter('u')|lunary_letter('t'), 7 },
    [10] = { lunary_letter('u')|lunary_letter('t'), 9 },
    [11] = { lunary_letter('p'), 11 },
    [13] = { lunary_letter('p'), 12 },
    [14] = { lunary_letter('s'), 13 },
    [16] = { lunary_letter('l'), 14 },
    [17] = { lunary_letter('s'), 15 }
};


static int lunary_request_event(void *ctx, lunary_scan_event_e event,
    const lunary_scan_t *s);
static int lunary_request_key(lunary_request_t *rq, const lunary_scan_t *s);
static const lunary_name_t *lunary_request_name(lunary_str_t key, int *exact);
static void lunary_request_mark(lunary_request_t *rq, lunary_level_t *level,
    const lunary_scan_t *s, int folded);
static void lunary_request_next(lunary_request_t *rq, lunary_level_t *level,
    uint64_t next, int last);
static void lunary_request_begin(lunary_request_t *rq, lunary_level_t *level,
    const lunary_scan_t *s, int string);
static void lunary_request_end(lunary_request_t *rq, lunary_level_t *level,
    const lunary_scan_t *s);
static void lunary_request_copy(lunary_request_t *rq, uint64_t end);


lunary_request_t *
lunary_request_create(lunary_mem_t *mem, size_t max, size_t cut)
{
    lunary_request_t  *rq;

    rq = lunary_alloc(mem, sizeof(lunary_request_t));
    if (rq == NULL) {
        return NULL;
    }

    memset(rq, 0, offsetof(lunary_request_t, marks));

    rq->mem = mem;
    rq->level[0].mark = -1;
    rq->level[1].mark = -1;

    rq->doc = lunary_doc_create(mem, max, cut, LUNARY_DOC_STRICT);
    if (rq->doc == NULL) {
        lunary_free(mem, rq, sizeof(lunary_request_t));
        return NULL;
    }

    lunary_doc_watch(rq->doc, lunary_request_event, rq);

    return rq;
}


void
lunary_request_destroy(lunary_request_t *rq)
{
    if (rq == NULL) {
        return;
    }

    lunary_doc_destroy(rq->doc);
    lunary_buf_free(rq->mem, &rq->held);
    lunary_buf_free(rq->mem, &rq->decoded);
    lunary_free(rq->mem, rq, sizeof(lunary_request_t));
}


lunary_doc_t *
lunary_request_doc(lunary_request_t *rq)
{
    return rq->doc;
}


int
lunary_request_feed(lunary_request_t *rq, const unsigned char *p, size_t n)
{
    int  rc;

    rq->piece = p;

    rc = lunary_doc_feed(rq->doc, p, n);

    if (rq->copying && rc == LUNARY_OK) {
        lunary_request_copy(rq, rq->offset + n);
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

    rc = lunary_doc_finish(rq->doc);

    if (rc != LUNARY_OK || rq->complete) {
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


static int
lunary_request_event(void *ctx, lunary_scan_event_e event,
    const lunary_scan_t *s)
{
    lunary_level_t    *level;
    lunary_request_t  *rq = ctx;

    /* the object that the event is in; an OPEN counts one more already */

    level = &rq->level[s->depth - (event == LUNARY_SCAN_OPEN) >= 2];

    switch (event) {

    case LUNARY_SCAN_KEY:
        return lunary_request_key(rq, s);

    case LUNARY_SCAN_OPEN:

        if (s->depth == 1) {
            rq->object = !lunary_scan_array(s, 1);
            rq->root = s->token + 1;
            return 0;
        }

        lunary_request_begin(rq, level, s, 0);

        if (s->depth == 2 && level->id == LUNARY_M_METADATA
            && !lunary_scan_array(s, 2))
        {
            rq->inside = 1;

            if (level->mark >= 0) {
                rq->marks[level->mark].object = 1;
            }

            rq->level[1].any = 0;
            rq->level[1].seen = 0;
            rq->level[1].mark = -1;
            rq->level[1].id = 0;
            lunary_doc_watch_depth(rq->doc, 2);
        }

        return 0;

    case LUNARY_SCAN_CLOSE:

        if (s->depth == 0) {
            lunary_request_next(rq, &rq->level[0], s->token, 1);
            return 0;
        }

        if (s->depth == 1 && rq->inside) {
            rq->inside = 0;

            if (level->mark >= 0) {
                rq->marks[level->mark].any = rq->level[1].any;
            }

            lunary_request_next(rq, &rq->level[1], s->token, 1);
            lunary_doc_watch_depth(rq->doc, 1);
        }

        lunary_request_end(rq, level, s);

        return 0;

    case LUNARY_SCAN_STRING:
        lunary_request_begin(rq, level, s, 1);
        return 0;

    case LUNARY_SCAN_SCALAR:
        lunary_request_begin(rq, level, s, 0);

        /* fall through */

    default: /* LUNARY_SCAN_STRING_END */
        lunary_request_end(rq, level, s);
        return 0;
    }
}


static int
lunary_request_key(lunary_request_t *rq, const lunary_scan_t *s)
{
    int                   exact, inside;
    uint8_t               id;
    lunary_level_t       *level;
    const lunary_name_t  *name;

    inside = (s->depth == 2);
    level = &rq->level[inside];

    lunary_request_next(rq, level, s->token, 0);

    level->id = 0;
    level->claim = 0;

    name = lunary_request_name(s->key, &exact);

    if (name == NULL) {
        level->any = 1;
        return 0;
    }

    id = inside ? name->metadata : name->top;

    if (id == 0) {
        level->any = 1;
        return 0;
    }

    if (level->seen & lunary_member_bit(id)) {
        rq->duplicate |= (name->claim != LUNARY_CLAIM_NONE);
        rq->twice |= (id == LUNARY_M_METADATA);
    }

    level->seen |= lunary_member_bit(id);

    if (inside) {
        rq->identity |= (name->claim != LUNARY_CLAIM_NONE);
        exact = exact && rq->exact;

    } else if (id == LUNARY_M_METADATA) {

        /* looked into however it is written; the last one counts */

        rq->exact = (uint8_t) exact;

        if (exact) {
            memset(&rq->values[LUNARY_M_MD_USER_ID], 0,
                   (LUNARY_M_MD_TAGS - LUNARY_M_MD_USER_ID + 1)
                   * sizeof(lunary_held_t));
        }
    }

    level->id = id;

    if (exact) {
        level->claim = name->claim;

        rq->values[id].there = 0;
        rq->values[id].lost = 0;
    }

    lunary_request_mark(rq, level, s, !exact);

    level->any = 1;

    return 1;
}


/* the entry of a key by ASCII case folding, *exact where it is written so */

static const lunary_name_t *
lunary_request_name(lunary_str_t key, int *exact)
{
    int                   n, lone;
    size_t                i, len;
    unsigned char         c, *q, bytes[LUNARY_NAME_MAX + 4];
    const unsigned char  *p, *end;
    const lunary_name_t  *name, *last;

    if (memchr(key.data, '\\', key.len) != NULL) {

        q = bytes;
        p = key.data;
        end = p + key.len;

        while (p < end) {

            if (q - bytes > LUNARY_NAME_MAX) {
                return NULL;
            }

            if (*p != '\\') {
                *q++ = *p++;
                continue;
            }

            n = lunary_escape_read(&p, end, q, &lone);

            if (n < 0) {
                return NULL;
            }

            q += n;
        }

        key = lunary_str(bytes, (size_t) (q - bytes));
    }

    len = key.len;

    if (len > LUNARY_NAME_MAX || len == 0
        || !(lunary_name_first[len].letters & lunary_letter(key.data[0])))
    {
        return NULL;
    }

    name = &lunary_names[lunary_name_first[len].first];
    last = lunary_names + LUNARY_NAMES;

    for ( /* void */ ; name < last && name->name.len == len; name++) {

        if (memcmp(name->name.data, key.data, len) == 0) {
            *exact = 1;
            return name;
        }

        for (i = 0; i < len; i++) {
            c = name->name.data[i] ^ key.data[i];

            if (c != 0
                && (c != 0x20 || (key.data[i] | 0x20) < 'a'
                    || (key.data[i] | 0x20) > 'z'))
            {
                break;
            }
        }

        if (i == len) {
            *exact = 0;
            return name;
        }
    }

    return NULL;
}


static void
lunary_request_mark(lunary_request_t *rq, lunary_level_t *level,
    const lunary_scan_t *s, int folded)
{
    lunary_mark_t  *m;

    if (rq->nmarks == LUNARY_REQUEST_MARKS) {
        rq->flooded = 1;
        return;
    }

    level->mark = (int8_t) rq->nmarks;

    m = &rq->marks[rq->nmarks++];

    m->id = level->id;
    m->first = !level->any;
    m->last = 0;
    m->folded = (uint8_t) folded;
    m->object = 0;
    m->any = 0;
    m->start = s->token;
    m->value = s->token;
    m->end = s->token;
    m->prev_end = s->value_end;
    m->next = s->token;
}


/* the member before has a successor, or the object ends */

static void
lunary_request_next(lunary_request_t *rq, lunary_level_t *level,
    uint64_t next, int last)
{
    if (level->mark >= 0) {
        rq->marks[level->mark].next = next;
        rq->marks[level->mark].last = (uint8_t) last;
        level->mark = -1;
    }
}


/* a value starts: of a scalar it is all there */

static void
lunary_request_begin(lunary_request_t *rq, lunary_level_t *level,
    const lunary_scan_t *s, int string)
{
    int             wanted;
    lunary_held_t  *v;

    if (level->id == 0) {
        return;
    }

    if (level->mark >= 0) {
        rq->marks[level->mark].value = s->token;
    }

    if (rq->copying || level->claim == LUNARY_CLAIM_NONE || s->depth == 0) {
        return;
    }

    if (string) {
        wanted = (level->claim != LUNARY_CLAIM_PROPS);

    } else if (s->state == LUNARY_SCAN_S_MEMBER) {
        wanted = (level->claim == LUNARY_CLAIM_PROPS);

    } else {
        wanted = (level->claim == LUNARY_CLAIM_TAGS
                  && s->state == LUNARY_SCAN_S_ELEMENT);
    }

    if (!wanted) {
        return;
    }

    v = &rq->values[level->id];
    v->there = 1;
    v->lost = 0;
    v->len = 0;
    v->at = (uint32_t) rq->held.len;

    rq->copying = level->id;
    rq->copied = s->token;
}


static void
lunary_request_end(lunary_request_t *rq, lunary_level_t *level,
    const lunary_scan_t *s)
{
    if (level->id == 0) {
        return;
    }

    if (level->mark >= 0) {
        rq->marks[level->mark].end = s->value_end;
    }

    if (rq->copying == level->id) {
        lunary_request_copy(rq, s->value_end);
        rq->copying = 0;
    }

    level->id = 0;
}


/* copies what this piece has of a value, up to `end`: all of it or nothing */

static void
lunary_request_copy(lunary_request_t *rq, uint64_t end)
{
    size_t          n, max;
    lunary_held_t  *v;

    v = &rq->values[rq->copying];

    n = (size_t) (end - rq->copied);
    max = LUNARY_REQUEST_ID;

    if (rq->copying == LUNARY_M_USER_PROPS
        || rq->copying == LUNARY_M_USERPROPS
        || rq->copying == LUNARY_M_MD_USER_PROPS
        || rq->copying == LUNARY_M_MD_USERPROPS
        || rq->copying == LUNARY_M_TAGS
        || rq->copying == LUNARY_M_MD_TAGS)
    {
        max = LUNARY_REQUEST_OBJECT;
    }

    if (!v->lost) {

        if (v->len + n > max || rq->held.len + n > LUNARY_REQUEST_HELD) {
            rq->held.len -= v->len;
            v->len = 0;
            v->lost = 1;

        } else if (lunary_buf_append(rq->mem, &rq->held,
                                     rq->piece + (rq->copied - rq->offset), n)
                   != LUNARY_OK)
        {
            v->lost = 1;
            rq->nomem = 1;

        } else {
            v->len += (uint32_t) n;
        }
    }

    rq->copied = end;
}


const lunary_claims_t *
lunary_request_claims(lunary_request_t *rq)
{
    return &rq->claims;
}


int
lunary_request_duplicate(const lunary_request_t *rq)
{
    return rq->duplicate || (rq->twice && rq->identity);
}


int
lunary_request_flooded(const lunary_request_t *rq)
{
    return rq->flooded;
}


const lunary_mark_t *
lunary_request_marks(const lunary_request_t *rq, size_t *n)
{
    *n = rq->nmarks;

    return rq->marks;
}
