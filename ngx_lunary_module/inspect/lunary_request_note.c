/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The notes of a request body: which members say who calls, where they stand,
 * what they hold.  Whoever reads the body calls these; a value is copied from
 * the original bytes, in full or not at all, or stays in them where they are
 * kept: what a reduction does to the text never reaches it.
 */

#include "lunary_escape.h"
#include "lunary_request_internal.h"
#include "lunary_string.h"


/*
 * What is kept of a value, escaped: an id of 256 bytes is never longer, since
 * no byte takes more than the six of \u0061; props and tags; all together.
 */

#define LUNARY_REQUEST_ID      (256 * 6 + 2)
#define LUNARY_REQUEST_OBJECT  65536
#define LUNARY_REQUEST_HELD    (4 * LUNARY_REQUEST_OBJECT)
#define LUNARY_REQUEST_DEAD    LUNARY_REQUEST_OBJECT


/* members in `metadata`; those whose values may be objects or arrays */

#define LUNARY_M_MD_BITS                                                     \
    (lunary_member_bit(LUNARY_M_MD_TAGS + 1)                                 \
     - lunary_member_bit(LUNARY_M_MD_USER_ID))

#define LUNARY_M_OBJECT_BITS                                                 \
    (lunary_member_bit(LUNARY_M_USER_PROPS)                                  \
     |lunary_member_bit(LUNARY_M_USERPROPS)                                  \
     |lunary_member_bit(LUNARY_M_MD_USER_PROPS)                              \
     |lunary_member_bit(LUNARY_M_MD_USERPROPS)                               \
     |lunary_member_bit(LUNARY_M_TAGS)                                       \
     |lunary_member_bit(LUNARY_M_MD_TAGS))


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


static const lunary_name_t *lunary_note_name(lunary_str_t key, int *exact);
static void lunary_note_mark(lunary_request_t *rq, lunary_level_t *level,
    uint64_t token, uint64_t before, int folded);
static void lunary_note_next(lunary_request_t *rq, lunary_level_t *level,
    uint64_t next, int last);
static size_t lunary_note_bound(unsigned id);
static int lunary_note_room(lunary_request_t *rq, size_t n);


void
lunary_note_open(lunary_request_t *rq, unsigned depth, int array,
    uint64_t token)
{
    lunary_level_t  *level;

    if (depth == 0) {
        rq->n.object = !array;
        rq->n.root = token + 1;
        return;
    }

    level = &rq->n.level[depth >= 2];

    if (level->id == 0) {
        return;
    }

    lunary_note_value(rq, depth >= 2,
                      array ? LUNARY_NOTE_ARRAY : LUNARY_NOTE_OBJECT, token);

    if (depth == 1 && level->id == LUNARY_M_METADATA && !array) {
        rq->n.inside = 1;

        if (level->mark >= 0) {
            rq->marks[level->mark].object = 1;
        }

        rq->n.level[1].any = 0;
        rq->n.level[1].seen = 0;
        rq->n.level[1].mark = -1;
        rq->n.level[1].id = 0;
    }
}


void
lunary_note_close(lunary_request_t *rq, unsigned depth, uint64_t token)
{
    lunary_level_t  *level;

    if (depth == 0) {
        lunary_note_next(rq, &rq->n.level[0], token, 1);
        return;
    }

    if (depth == 1 && rq->n.inside) {
        rq->n.inside = 0;

        level = &rq->n.level[0];

        if (level->mark >= 0) {
            rq->marks[level->mark].any = rq->n.level[1].any;
        }

        lunary_note_next(rq, &rq->n.level[1], token, 1);
    }

    lunary_note_end(rq, depth >= 2, token + 1);
}


int
lunary_note_key(lunary_request_t *rq, unsigned inside, lunary_str_t key,
    uint64_t token, uint64_t before)
{
    int                   exact;
    uint8_t               id;
    lunary_level_t       *level;
    const lunary_name_t  *name;

    level = &rq->n.level[inside];

    lunary_note_next(rq, level, token, 0);

    level->id = 0;
    level->claim = 0;

    name = lunary_note_name(key, &exact);

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
        rq->n.duplicate |= (name->claim != LUNARY_CLAIM_NONE);
        rq->n.twice |= (id == LUNARY_M_METADATA);
    }

    level->seen |= lunary_member_bit(id);

    if (inside) {
        rq->n.identity |= (name->claim != LUNARY_CLAIM_NONE);
        exact = exact && rq->n.exact;

    } else if (id == LUNARY_M_METADATA) {

        /* looked into however it is written; the last one counts */

        rq->n.exact = (uint8_t) exact;

        if (exact) {
            rq->n.there &= ~LUNARY_M_MD_BITS;
        }
    }

    level->id = id;

    if (exact) {
        level->claim = name->claim;
        rq->n.there &= ~lunary_member_bit(id);
    }

    lunary_note_mark(rq, level, token, before, !exact);

    level->any = 1;

    return 1;
}


/*
 * The entry of a key by case folding, *exact where it is written so.  Beside
 * ASCII there is one more letter that folds to one of these names': U+017F,
 * the long s, which Go's encoding/json takes for an s.
 */

static const lunary_name_t *
lunary_note_name(lunary_str_t key, int *exact)
{
    int                   n, lone;
    size_t                i, len;
    unsigned char         c, *q, bytes[2 * LUNARY_NAME_MAX + 4];
    const unsigned char  *p, *end;
    const lunary_name_t  *name, *last;

    len = key.len;

    /* a letter is six bytes at most, and the shortest name has four */

    if (len > 6 * LUNARY_NAME_MAX) {
        return NULL;
    }

    if (len >= 3 + 6 && lunary_string_has(key, '\\')) {

        q = bytes;
        p = key.data;
        end = p + key.len;

        while (p < end) {

            if (q - bytes > 2 * LUNARY_NAME_MAX) {
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

    if (len > 4 && len <= 2 * LUNARY_NAME_MAX
        && lunary_string_has(key, 0xc5))
    {
        q = bytes;

        for (i = 0; i < len; i++) {

            if (key.data[i] == 0xc5 && i + 1 < len && key.data[i + 1] == 0xbf)
            {
                /* in capitals, so that it is not the name itself */

                *q++ = 'S';
                i++;
                continue;
            }

            *q++ = key.data[i];
        }

        len = (size_t) (q - bytes);
        key = lunary_str(bytes, len);
    }

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
lunary_note_mark(lunary_request_t *rq, lunary_level_t *level,
    uint64_t token, uint64_t before, int folded)
{
    unsigned        max;
    lunary_mark_t  *m;

    if (rq->n.nmarks == rq->marks_max) {

        if (rq->marks_max == LUNARY_REQUEST_MARKS) {
            rq->n.flooded = 1;
            return;
        }

        max = rq->marks_max ? LUNARY_REQUEST_MARKS : 6;

        m = lunary_realloc(rq->mem, rq->marks,
                           rq->marks_max * sizeof(lunary_mark_t),
                           max * sizeof(lunary_mark_t));
        if (m == NULL) {
            rq->nomem = 1;
            rq->n.flooded = 1;
            return;
        }

        rq->marks = m;
        rq->marks_max = max;
    }

    level->mark = (int8_t) rq->n.nmarks;

    m = &rq->marks[rq->n.nmarks++];

    m->id = level->id;
    m->first = !level->any;
    m->last = 0;
    m->folded = (uint8_t) folded;
    m->object = 0;
    m->any = 0;
    m->start = token;
    m->value = token;
    m->end = token;
    m->prev_end = before;
    m->next = token;
}


/* the member before has a successor, or the object ends */

static void
lunary_note_next(lunary_request_t *rq, lunary_level_t *level,
    uint64_t next, int last)
{
    if (level->mark >= 0) {
        rq->marks[level->mark].next = next;
        rq->marks[level->mark].last = (uint8_t) last;
        level->mark = -1;
    }
}


/* a value starts: of a scalar it is all there */

void
lunary_note_value(lunary_request_t *rq, unsigned inside, int kind,
    uint64_t token)
{
    uint32_t         bit;
    lunary_held_t   *v;
    lunary_level_t  *level;

    level = &rq->n.level[inside];

    if (level->id == 0) {
        return;
    }

    if (level->mark >= 0) {
        rq->marks[level->mark].value = token;
    }

    if (rq->n.copying || level->claim == LUNARY_CLAIM_NONE) {
        return;
    }

    switch (kind) {

    case LUNARY_NOTE_STRING:
        if (level->claim == LUNARY_CLAIM_PROPS) {
            return;
        }

        break;

    case LUNARY_NOTE_OBJECT:
        if (level->claim != LUNARY_CLAIM_PROPS) {
            return;
        }

        break;

    case LUNARY_NOTE_ARRAY:
        if (level->claim != LUNARY_CLAIM_TAGS) {
            return;
        }

        break;

    default:
        return;
    }

    bit = lunary_member_bit(level->id);

    rq->n.there |= bit;
    rq->n.lost &= ~bit;

    v = &rq->n.values[level->id];
    v->len = 0;
    v->at = (uint32_t) (rq->doc ? rq->held.len : token - rq->base);

    rq->n.copying = level->id;
    rq->n.copied = token;
}


void
lunary_note_end(lunary_request_t *rq, unsigned inside, uint64_t end)
{
    lunary_held_t   *v;
    lunary_level_t  *level;

    level = &rq->n.level[inside];

    if (level->id == 0) {
        return;
    }

    if (level->mark >= 0) {
        rq->marks[level->mark].end = end;
    }

    if (rq->n.copying == level->id) {

        if (rq->doc != NULL) {
            lunary_note_copy(rq, end);

        } else {
            v = &rq->n.values[level->id];
            v->len = (uint32_t) (end - rq->base) - v->at;

            if (v->len > lunary_note_bound(level->id)) {
                rq->n.lost |= lunary_member_bit(level->id);
                v->len = 0;
            }
        }

        rq->n.copying = 0;
    }

    level->id = 0;
}


/* how long a value may be, as it is written */

static size_t
lunary_note_bound(unsigned id)
{
    return (lunary_member_bit(id) & LUNARY_M_OBJECT_BITS)
           ? LUNARY_REQUEST_OBJECT : LUNARY_REQUEST_ID;
}


/* copies what this piece has of a value, up to `end`: all of it or nothing */

void
lunary_note_copy(lunary_request_t *rq, uint64_t end)
{
    size_t          n;
    uint32_t        bit;
    lunary_held_t  *v;

    v = &rq->n.values[rq->n.copying];
    bit = lunary_member_bit(rq->n.copying);

    n = (size_t) (end - rq->n.copied);

    if (!(rq->n.lost & bit)) {

        if (v->len + n > lunary_note_bound(rq->n.copying)
            || !lunary_note_room(rq, n))
        {
            rq->held.len -= v->len;
            v->len = 0;
            rq->n.lost |= bit;

        } else if (lunary_buf_append(rq->mem, &rq->held,
                                     rq->piece
                                     + (rq->n.copied - rq->offset), n)
                   != LUNARY_OK)
        {
            rq->n.lost |= bit;
            rq->nomem = 1;

        } else {
            v->len += (uint32_t) n;
        }
    }

    rq->n.copied = end;
}


/*
 * 1 where n bytes more may be held.  Of members that came again the older
 * values are in the way: they go once they are many.
 */

static int
lunary_note_room(lunary_request_t *rq, size_t n)
{
    size_t          live;
    uint32_t        left;
    unsigned        id, first;
    lunary_held_t  *v;

    if (rq->held.len + n <= LUNARY_REQUEST_HELD) {
        return 1;
    }

    live = 0;

    for (id = 0; id < LUNARY_M_MAX; id++) {
        if (rq->n.there & lunary_member_bit(id)) {
            live += rq->n.values[id].len;
        }
    }

    if (live + n > LUNARY_REQUEST_HELD) {
        return 0;
    }

    if (rq->held.len + n <= LUNARY_REQUEST_HELD + LUNARY_REQUEST_DEAD) {
        return 1;
    }

    /* in the order in which they lie */

    rq->held.len = 0;

    for (left = rq->n.there; left != 0; left &= ~lunary_member_bit(first)) {

        first = LUNARY_M_MAX;

        for (id = 0; id < LUNARY_M_MAX; id++) {
            if ((left & lunary_member_bit(id))
                && (first == LUNARY_M_MAX
                    || rq->n.values[id].at < rq->n.values[first].at
                    || (rq->n.values[id].at == rq->n.values[first].at
                        && rq->n.values[id].len == 0)))
            {
                first = id;
            }
        }

        v = &rq->n.values[first];

        memmove(rq->held.data + rq->held.len, rq->held.data + v->at, v->len);
        v->at = (uint32_t) rq->held.len;
        rq->held.len += v->len;
    }

    return 1;
}


/* the values lie in raw no longer; an open one is there up to end, and more
 * of it is to be appended: it comes last */

int
lunary_note_carry(lunary_request_t *rq, size_t end)
{
    size_t          n;
    unsigned        i, id;
    lunary_held_t  *v;

    for (i = 1; i <= LUNARY_M_MAX; i++) {

        id = (i < LUNARY_M_MAX) ? i : rq->n.copying;

        if (id == 0 || (id == rq->n.copying && i != LUNARY_M_MAX)
            || !(rq->n.there & lunary_member_bit(id)))
        {
            continue;
        }

        v = &rq->n.values[id];
        n = v->len;

        if (i == LUNARY_M_MAX) {
            n = end - v->at;
            rq->n.copied = rq->base + end;

            if (n > lunary_note_bound(id)) {
                rq->n.lost |= lunary_member_bit(id);
                n = 0;
            }
        }

        if (lunary_buf_append(rq->mem, &rq->held, rq->raw.data + v->at, n)
            != LUNARY_OK)
        {
            return LUNARY_NOMEM;
        }

        v->at = (uint32_t) (rq->held.len - n);
        v->len = (uint32_t) n;
    }

    return LUNARY_OK;
}
