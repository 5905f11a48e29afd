/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The users of a batch and their props.  Lunary replaces a user's props at
 * every event and the module knows only what one request said, so workers
 * merge what they hear, in the hash PREFIXuser:<app>:<id>, field `props`.
 *
 * Invariants
 *   - props of a verified source are never changed by claims; they replace
 *     whatever claims had left;
 *   - two workers that merge at a time do not lose each other's: what was
 *     read is compared before it is replaced;
 *   - an object of more than LW_PROPS_MAX bytes is not kept.
 */

#ifndef LW_PEOPLE_H
#define LW_PEOPLE_H

#include "redis.h"


#define LW_PROPS_MAX   16384


typedef struct {
    lunary_str_t    app;           /* borrowed: of an entry of the batch      */
    lunary_str_t    id;
    lw_text_t       key;           /* PREFIXuser:<app>:<id>                   */
    lw_text_t       stored;        /* as it was read from Redis               */
    lw_text_t       props;         /* merged; empty: none are known           */
    unsigned        stored_verified:1;
    unsigned        verified:1;    /* props are of a verified source          */
    unsigned        seen_verified:1;
    unsigned        changed:1;
} lw_person_t;

typedef struct {
    lw_person_t    *list;
    size_t          n;
    size_t          cap;
    uint32_t       *table;         /* index + 1, by hash                      */
    size_t          size;
} lw_people_t;


/* room for n different users; LW_OK or LW_NOMEM */
int lw_people_begin(lw_t *w, lw_people_t *p, size_t n);
void lw_people_free(lw_people_t *p);

/* the person, new or known; NULL where memory is out, or there is no id */
lw_person_t *lw_people_add(lw_t *w, lw_people_t *p, lunary_str_t app,
    lunary_str_t id, int verified);

/* reads what is stored of all; LW_OK or LW_REDIS */
int lw_people_load(lw_t *w, lw_people_t *p);

/* merges an object (valid JSON) that an entry brought */
int lw_people_merge(lw_t *w, lw_person_t *who, lunary_str_t props,
    int verified);

/* writes back what changed */
int lw_people_save(lw_t *w, lw_people_t *p);


#endif /* LW_PEOPLE_H */
