/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Who a request body says is calling.  See lunary_request.h.
 */

#include "lunary_escape.h"
#include "lunary_json.h"
#include "lunary_request_internal.h"
#include "lunary_string.h"


/* where each claim is looked for, first to last */

static const uint8_t  lunary_user_order[] = {
    LUNARY_M_USER_ID, LUNARY_M_USERID, LUNARY_M_USER, LUNARY_M_SAFETY,
    LUNARY_M_MD_USER_ID, LUNARY_M_MD_USERID, 0
};

#define LUNARY_USER_BITS                                                     \
    (lunary_member_bit(LUNARY_M_USER_ID)                                     \
     |lunary_member_bit(LUNARY_M_USERID)                                     \
     |lunary_member_bit(LUNARY_M_USER)                                       \
     |lunary_member_bit(LUNARY_M_MD_USER_ID)                                 \
     |lunary_member_bit(LUNARY_M_MD_USERID))

static const uint8_t  lunary_props_order[] = {
    LUNARY_M_USER_PROPS, LUNARY_M_USERPROPS,
    LUNARY_M_MD_USER_PROPS, LUNARY_M_MD_USERPROPS, 0
};

static const uint8_t  lunary_thread_order[] = {
    LUNARY_M_THREAD_ID, LUNARY_M_THREADID,
    LUNARY_M_MD_THREAD_ID, LUNARY_M_MD_THREADID, 0
};

static const uint8_t  lunary_parent_order[] = {
    LUNARY_M_PARENT_RUN_ID, LUNARY_M_PARENTRUNID,
    LUNARY_M_MD_PARENT_RUN_ID, LUNARY_M_MD_PARENTRUNID, 0
};

static const uint8_t  lunary_tags_order[] = {
    LUNARY_M_TAGS, LUNARY_M_MD_TAGS, 0
};


/* a claim: bytes that stay where they are, or a place in `decoded` */

typedef struct {
    lunary_str_t   as_is;
    size_t         at;
    size_t         len;
} lunary_claim_t;


static lunary_str_t lunary_claims_value(const lunary_request_t *rq,
    unsigned id);
static int lunary_claims_id(lunary_request_t *rq, const uint8_t *order,
    int user, lunary_claim_t *claim);
static int lunary_claims_props(lunary_request_t *rq, lunary_claim_t *claim);
static int lunary_claims_tags(lunary_request_t *rq, lunary_claim_t *claim);


/*
 * Reads the claims out of what is held.  The decoded bytes move while they
 * grow: so places are kept first, and made slices at the end.
 */

int
lunary_claims_read(lunary_request_t *rq)
{
    unsigned         i;
    lunary_str_t    *to[5];
    lunary_claim_t   claim[5];

    if (rq->n.there == 0) {
        return LUNARY_OK;
    }

    memset(claim, 0, sizeof(claim));

    if (lunary_claims_id(rq, lunary_user_order, 1, &claim[0]) != LUNARY_OK
        || lunary_claims_id(rq, lunary_thread_order, 0, &claim[1])
           != LUNARY_OK
        || lunary_claims_id(rq, lunary_parent_order, 0, &claim[2])
           != LUNARY_OK
        || lunary_claims_props(rq, &claim[3]) != LUNARY_OK
        || lunary_claims_tags(rq, &claim[4]) != LUNARY_OK)
    {
        return LUNARY_NOMEM;
    }

    to[0] = &rq->claims.user;
    to[1] = &rq->claims.thread;
    to[2] = &rq->claims.parent;
    to[3] = &rq->claims.props;
    to[4] = &rq->claims.tags;

    for (i = 0; i < 5; i++) {

        if (claim[i].as_is.len != 0) {
            *to[i] = claim[i].as_is;

        } else if (claim[i].len != 0) {
            *to[i] = lunary_str(rq->decoded.data + claim[i].at, claim[i].len);
        }
    }

    return LUNARY_OK;
}


/* the value of a member as it was written; empty where there is none */

static lunary_str_t
lunary_claims_value(const lunary_request_t *rq, unsigned id)
{
    const lunary_held_t  *v;

    v = &rq->n.values[id];

    if (!(rq->n.there & lunary_member_bit(id)) || v->len == 0) {
        return lunary_str(NULL, 0);
    }

    return lunary_str((rq->doc ? rq->held.data : rq->raw.data) + v->at,
                      v->len);
}


/* the first string that is not empty decides, also where it is no good */

static int
lunary_claims_id(lunary_request_t *rq, const uint8_t *order, int user,
    lunary_claim_t *claim)
{
    int            rc;
    size_t         at;
    uint32_t       bit;
    lunary_str_t   inside, id;
    lunary_buf_t  *out;

    out = &rq->decoded;
    at = out->len;

    for ( /* void */ ; *order != 0; order++) {

        bit = lunary_member_bit(*order);

        if (!(rq->n.there & bit)) {
            continue;
        }

        if (rq->n.lost & bit) {
            return LUNARY_OK;
        }

        inside = lunary_json_inside(lunary_claims_value(rq, *order));

        if (inside.len == 0) {
            continue;
        }

        /* what was read in place is UTF-8 */

        if (rq->doc == NULL && !lunary_string_has(inside, '\\')) {
            if (!user || lunary_user_id_valid(inside)) {
                claim->as_is = inside;
            }

            return LUNARY_OK;
        }

        if (user && (!lunary_utf8_valid(inside) || lunary_escape_lone(inside)))
        {
            return LUNARY_OK;
        }

        rc = lunary_json_unescape(rq->mem, out, inside);

        if (rc == LUNARY_NOMEM) {
            return LUNARY_NOMEM;
        }

        id = lunary_str(out->data + at, out->len - at);

        if (rc != LUNARY_OK || (user && !lunary_user_id_valid(id))) {
            out->len = at;
            return LUNARY_OK;
        }

        claim->at = at;
        claim->len = id.len;

        return LUNARY_OK;
    }

    return LUNARY_OK;
}


static int
lunary_claims_props(lunary_request_t *rq, lunary_claim_t *claim)
{
    size_t          at;
    lunary_str_t    v;
    const uint8_t  *order;

    for (order = lunary_props_order; *order != 0; order++) {

        v = lunary_claims_value(rq, *order);

        if (!lunary_json_is_object(v)) {
            continue;
        }

        if (rq->doc == NULL) {
            claim->as_is = v;
            break;
        }

        at = rq->decoded.len;

        if (lunary_json_copy(rq->mem, &rq->decoded, v) != LUNARY_OK) {
            return LUNARY_NOMEM;
        }

        claim->at = at;
        claim->len = rq->decoded.len - at;

        break;
    }

    return LUNARY_OK;
}


/* an array of strings: one string becomes one, what is no string stays out */

static int
lunary_claims_tags(lunary_request_t *rq, lunary_claim_t *claim)
{
    int                  rc;
    size_t               at;
    lunary_str_t         v, tag;
    lunary_buf_t        *out;
    const uint8_t       *order;
    lunary_json_iter_t   it;

    out = &rq->decoded;

    for (order = lunary_tags_order; *order != 0; order++) {

        v = lunary_claims_value(rq, *order);
        at = out->len;

        if (lunary_json_is_string(v) && v.len > 2) {
            rc = lunary_buf_lit(rq->mem, out, "[");

            if (rc == LUNARY_OK) {
                rc = lunary_json_copy(rq->mem, out, v);
            }

        } else if (lunary_json_is_array(v)) {
            rc = LUNARY_OK;

            lunary_json_iter(&it, v);

            while (rc == LUNARY_OK && lunary_json_element(&it, &tag)) {

                if (!lunary_json_is_string(tag)) {
                    continue;
                }

                rc = lunary_buf_append(rq->mem, out,
                                       (out->len == at) ? "[" : ",", 1);
                if (rc == LUNARY_OK) {
                    rc = lunary_json_copy(rq->mem, out, tag);
                }
            }

        } else {
            continue;
        }

        if (rc == LUNARY_OK && out->len != at) {
            rc = lunary_buf_lit(rq->mem, out, "]");
        }

        if (rc != LUNARY_OK) {
            return LUNARY_NOMEM;
        }

        if (out->len != at) {
            claim->at = at;
            claim->len = out->len - at;
            break;
        }
    }

    return LUNARY_OK;
}


int
lunary_request_other_user(lunary_request_t *rq, lunary_str_t user,
    lunary_mem_t *mem, lunary_buf_t *out)
{
    size_t                i, n;
    lunary_str_t          inside;
    const uint8_t        *order;
    const lunary_mark_t  *mark;

    if (!rq->complete) {
        return 0;
    }

    /* in another case it is no claim, but a member to some: it is not read */

    mark = lunary_request_marks(rq, &n);

    for (i = 0; i < n; i++) {
        if (mark[i].folded
            && (lunary_member_bit(mark[i].id) & LUNARY_USER_BITS))
        {
            out->len = 0;
            return 1;
        }
    }

    for (order = lunary_user_order; *order != 0; order++) {

        if (*order == LUNARY_M_SAFETY) {
            continue;
        }

        if (rq->n.there & rq->n.lost & lunary_member_bit(*order)) {

            /* longer than an id, or behind more than is kept */

            out->len = 0;
            return 1;
        }

        inside = lunary_json_inside(lunary_claims_value(rq, *order));
        out->len = 0;

        if (inside.len == 0
            || !lunary_utf8_valid(inside) || lunary_escape_lone(inside)
            || lunary_json_unescape(mem, out, inside) != LUNARY_OK
            || !lunary_user_id_valid(lunary_buf_str(out)))
        {
            continue;
        }

        if (out->len != user.len
            || memcmp(out->data, user.data, user.len) != 0)
        {
            return 1;
        }
    }

    out->len = 0;

    return 0;
}
