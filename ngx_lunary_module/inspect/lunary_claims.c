/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Who a request body says is calling.  See lunary_request.h.
 */

#include "lunary_escape.h"
#include "lunary_json.h"
#include "lunary_request_internal.h"


/* where each claim is looked for, first to last */

static const uint8_t  lunary_user_order[] = {
    LUNARY_M_USER_ID, LUNARY_M_USERID, LUNARY_M_USER, LUNARY_M_SAFETY,
    LUNARY_M_MD_USER_ID, LUNARY_M_MD_USERID, 0
};

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


static lunary_str_t lunary_claims_value(const lunary_request_t *rq,
    unsigned id);
static int lunary_claims_id(lunary_request_t *rq, const uint8_t *order,
    int user, lunary_held_t *place);
static int lunary_claims_props(lunary_request_t *rq, lunary_held_t *place);
static int lunary_claims_tags(lunary_request_t *rq, lunary_held_t *place);


/*
 * Reads the claims out of what is held.  The decoded bytes move while they
 * grow: so places are kept first, and made slices at the end.
 */

int
lunary_claims_read(lunary_request_t *rq)
{
    unsigned       i;
    lunary_str_t  *claim[5];
    lunary_held_t  place[5];

    if (rq->held.len == 0) {
        return LUNARY_OK;
    }

    memset(place, 0, sizeof(place));

    if (lunary_claims_id(rq, lunary_user_order, 1, &place[0]) != LUNARY_OK
        || lunary_claims_id(rq, lunary_thread_order, 0, &place[1])
           != LUNARY_OK
        || lunary_claims_id(rq, lunary_parent_order, 0, &place[2])
           != LUNARY_OK
        || lunary_claims_props(rq, &place[3]) != LUNARY_OK
        || lunary_claims_tags(rq, &place[4]) != LUNARY_OK)
    {
        return LUNARY_NOMEM;
    }

    claim[0] = &rq->claims.user;
    claim[1] = &rq->claims.thread;
    claim[2] = &rq->claims.parent;
    claim[3] = &rq->claims.props;
    claim[4] = &rq->claims.tags;

    for (i = 0; i < 5; i++) {
        if (place[i].len != 0) {
            *claim[i] = lunary_str(rq->decoded.data + place[i].at,
                                   place[i].len);
        }
    }

    return LUNARY_OK;
}


/* the value of a member as it was written; empty where there is none */

static lunary_str_t
lunary_claims_value(const lunary_request_t *rq, unsigned id)
{
    const lunary_held_t  *v;

    v = &rq->values[id];

    if (!v->there || v->len == 0) {
        return lunary_str(NULL, 0);
    }

    return lunary_str(rq->held.data + v->at, v->len);
}


/* the first string that is not empty decides, also where it is no good */

static int
lunary_claims_id(lunary_request_t *rq, const uint8_t *order, int user,
    lunary_held_t *place)
{
    int            rc;
    size_t         at;
    lunary_str_t   inside, id;
    lunary_buf_t  *out;

    out = &rq->decoded;
    at = out->len;

    for ( /* void */ ; *order != 0; order++) {

        if (rq->values[*order].there && rq->values[*order].lost) {
            return LUNARY_OK;
        }

        inside = lunary_json_inside(lunary_claims_value(rq, *order));

        if (inside.len == 0) {
            continue;
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

        place->at = (uint32_t) at;
        place->len = (uint32_t) id.len;

        return LUNARY_OK;
    }

    return LUNARY_OK;
}


static int
lunary_claims_props(lunary_request_t *rq, lunary_held_t *place)
{
    size_t          at;
    lunary_str_t    v;
    const uint8_t  *order;

    for (order = lunary_props_order; *order != 0; order++) {

        v = lunary_claims_value(rq, *order);

        if (!lunary_json_is_object(v)) {
            continue;
        }

        at = rq->decoded.len;

        if (lunary_json_copy(rq->mem, &rq->decoded, v) != LUNARY_OK) {
            return LUNARY_NOMEM;
        }

        place->at = (uint32_t) at;
        place->len = (uint32_t) (rq->decoded.len - at);

        break;
    }

    return LUNARY_OK;
}


/* an array of strings: one string becomes one, what is no string stays out */

static int
lunary_claims_tags(lunary_request_t *rq, lunary_held_t *place)
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
            place->at = (uint32_t) at;
            place->len = (uint32_t) (out->len - at);
            break;
        }
    }

    return LUNARY_OK;
}


int
lunary_request_other_user(lunary_request_t *rq, lunary_str_t user,
    lunary_buf_t *out)
{
    lunary_str_t    inside;
    const uint8_t  *order;

    if (!rq->complete) {
        return 0;
    }

    for (order = lunary_user_order; *order != 0; order++) {

        if (*order == LUNARY_M_SAFETY) {
            continue;
        }

        if (rq->values[*order].there && rq->values[*order].lost) {

            /* longer than an id, or behind more than is kept */

            out->len = 0;
            return 1;
        }

        inside = lunary_json_inside(lunary_claims_value(rq, *order));
        out->len = 0;

        if (inside.len == 0
            || !lunary_utf8_valid(inside) || lunary_escape_lone(inside)
            || lunary_json_unescape(rq->mem, out, inside) != LUNARY_OK
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
