/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Users of a batch.  See people.h.
 */

#include <stdlib.h>

#include "people.h"


static int lw_people_ask(lw_t *w, lw_person_t *who);
static int lw_people_answer(lw_t *w, lw_person_t *who);
static int lw_people_read(lw_person_t *who, redisReply *props,
    redisReply *verified);
static int lw_people_join(lw_t *w, lw_person_t *who, lunary_str_t add);
static int lw_people_store(lw_t *w, lw_person_t *who);


/*
 * KEYS: the user, the claimed users.  ARGV: props as they were read, props,
 * verified, the most claimed users, their TTL in ms, the id, now.  Answers 1,
 * 0 where the user is not kept (too many claims), or the props that somebody
 * else has written meanwhile.
 */

static lw_script_t  lw_people_script = {
    "local u, c = KEYS[1], KEYS[2] "
    "local had = redis.call('HMGET', u, 'props', 'props_verified') "
    "if (had[1] or '') ~= ARGV[1] then return had end "
    "local new = redis.call('EXISTS', u) == 0 "
    "if new and ARGV[3] ~= '1' then "
    "  local from = ARGV[7] - ARGV[5] "
    "  redis.call('ZREMRANGEBYSCORE', c, '-inf', from) "
    "  if redis.call('ZCARD', c) >= tonumber(ARGV[4]) then return 0 end "
    "  redis.call('ZADD', c, ARGV[7], ARGV[6]) "
    "end "
    "redis.call('HSET', u, 'props', ARGV[2], 'props_verified', ARGV[3]) "
    "if new and ARGV[3] ~= '1' then redis.call('PEXPIRE', u, ARGV[5]) end "
    "if ARGV[3] == '1' then "
    "  redis.call('PERSIST', u) redis.call('ZREM', c, ARGV[6]) end "
    "return 1", ""
};


int
lw_people_begin(lw_t *w, lw_people_t *p, size_t n)
{
    (void) w;

    memset(p, 0, sizeof(*p));

    for (p->size = 64; p->size < n * 2; p->size *= 2) {
        /* void */
    }

    p->cap = n;
    p->list = calloc(n + 1, sizeof(*p->list));
    p->table = calloc(p->size, sizeof(*p->table));

    if (p->list == NULL || p->table == NULL) {
        lw_people_free(p);
        return LW_NOMEM;
    }

    return LW_OK;
}


void
lw_people_free(lw_people_t *p)
{
    size_t  i;

    for (i = 0; i < p->n; i++) {
        lw_text_free(&p->list[i].key);
        lw_text_free(&p->list[i].stored);
        lw_text_free(&p->list[i].props);
    }

    free(p->list);
    free(p->table);
    memset(p, 0, sizeof(*p));
}


lw_person_t *
lw_people_add(lw_t *w, lw_people_t *p, lunary_str_t app, lunary_str_t id,
    int verified)
{
    size_t        i;
    lw_person_t  *who;

    if (id.len == 0) {
        return NULL;
    }

    i = lw_hash(id, lw_hash(app, 1)) & (p->size - 1);

    for ( ;; ) {

        if (p->table[i] == 0) {
            break;
        }

        who = &p->list[p->table[i] - 1];

        if (lw_str_same(who->id, id) && lw_str_same(who->app, app)) {
            who->seen_verified |= (verified != 0);
            return who;
        }

        i = (i + 1) & (p->size - 1);
    }

    if (p->n == p->cap) {
        return NULL;
    }

    who = &p->list[p->n++];
    p->table[i] = (uint32_t) p->n;

    memset(who, 0, sizeof(*who));
    who->app = app;
    who->id = id;
    who->seen_verified = (verified != 0);

    lw_text_init(&who->key, &w->mem);
    lw_text_init(&who->stored, &w->mem);
    lw_text_init(&who->props, &w->mem);

    lw_text_fmt(&who->key, "%suser:", w->options->prefix);
    lw_text_str(&who->key, app);
    lw_text_lit(&who->key, ":");
    lw_text_str(&who->key, id);

    return who->key.failed ? NULL : who;
}


int
lw_people_load(lw_t *w, lw_people_t *p)
{
    size_t  i;

    for (i = 0; i < p->n; i++) {
        if (lw_people_ask(w, &p->list[i]) != LW_OK) {
            return LW_REDIS;
        }
    }

    for (i = 0; i < p->n; i++) {
        if (lw_people_answer(w, &p->list[i]) != LW_OK) {
            return LW_REDIS;
        }
    }

    return LW_OK;
}


static int
lw_people_ask(lw_t *w, lw_person_t *who)
{
    lw_args_t  *a;

    a = lw_args(w->redis);

    lw_arg_lit(a, "HMGET");
    lw_arg_str(a, lw_text_get(&who->key));
    lw_arg_lit(a, "props");
    lw_arg_lit(a, "props_verified");

    return lw_args_queue(a);
}


static int
lw_people_answer(lw_t *w, lw_person_t *who)
{
    int          rc;
    redisReply  *reply;

    reply = lw_redis_reply(w->redis);

    if (!lw_reply_is_array(reply) || reply->elements != 2) {
        lw_reply_free(reply);
        return LW_REDIS;
    }

    rc = lw_people_read(who, reply->element[0], reply->element[1]);

    lw_reply_free(reply);

    return rc;
}


static int
lw_people_read(lw_person_t *who, redisReply *props, redisReply *verified)
{
    lunary_str_t  s;

    s = lw_reply_str(props);

    lw_text_clear(&who->stored);
    lw_text_clear(&who->props);
    lw_text_str(&who->stored, s);

    /* somebody may have written anything there */

    who->stored_verified = 0;

    if (s.len <= LW_PROPS_MAX && lunary_json_is_object(s)
        && lunary_json_valid(s, 32))
    {
        lw_text_str(&who->props, s);
        who->stored_verified = lunary_eq(lw_reply_str(verified), "1");
    }

    who->verified = who->stored_verified;
    who->changed = 0;

    return (who->stored.failed || who->props.failed) ? LW_REDIS : LW_OK;
}


int
lw_people_merge(lw_t *w, lw_person_t *who, lunary_str_t props, int verified)
{
    if (!lunary_json_is_object(props) || props.len > LW_PROPS_MAX
        || lw_str_same(lw_text_get(&who->props), props))
    {
        if (verified && !who->verified && props.len
            && lw_str_same(lw_text_get(&who->props), props))
        {
            who->verified = 1;
            who->changed = 1;
        }

        return LW_OK;
    }

    if (who->verified && !verified) {
        return LW_OK;
    }

    if (verified && !who->verified) {
        lw_text_clear(&who->props);
        who->verified = 1;
    }

    who->changed = 1;

    return lw_people_join(w, who, props);
}


/* members that are not named anew, then the new ones, as they came */

static int
lw_people_join(lw_t *w, lw_person_t *who, lunary_str_t add)
{
    lw_text_t            out;
    lunary_str_t         key, val, other, ignored;
    lunary_json_iter_t   it, in;

    lw_text_init(&out, &w->mem);
    lw_text_lit(&out, "{");

    lunary_json_iter(&it, lw_text_get(&who->props));

    while (lunary_json_member(&it, &key, &val)) {

        lunary_json_iter(&in, add);
        other = lunary_str(NULL, 0);

        while (lunary_json_member(&in, &other, &ignored)) {
            if (lw_str_same(other, key)) {
                break;
            }
            other = lunary_str(NULL, 0);
        }

        if (other.data) {
            continue;
        }

        if (out.buf.len > 1) {
            lw_text_lit(&out, ",");
        }

        lw_text_lit(&out, "\"");
        lw_text_str(&out, key);
        lw_text_lit(&out, "\":");
        lw_text_str(&out, val);
    }

    /* a bound for who invents another prop each time: the new ones alone */

    if (out.buf.len + add.len > LW_PROPS_MAX) {
        out.buf.len = 1;
    }

    lunary_json_iter(&it, add);

    while (lunary_json_member(&it, &key, &val)) {

        if (out.buf.len > 1) {
            lw_text_lit(&out, ",");
        }

        lw_text_lit(&out, "\"");
        lw_text_str(&out, key);
        lw_text_lit(&out, "\":");
        lw_text_str(&out, val);
    }

    lw_text_lit(&out, "}");

    if (out.failed) {
        lw_text_free(&out);
        return LW_NOMEM;
    }

    lw_text_free(&who->props);
    who->props = out;

    return LW_OK;
}


int
lw_people_save(lw_t *w, lw_people_t *p)
{
    size_t  i;

    for (i = 0; i < p->n; i++) {

        if (p->list[i].changed
            && !(p->list[i].verified == p->list[i].stored_verified
                 && lw_str_same(lw_text_get(&p->list[i].props),
                                lw_text_get(&p->list[i].stored)))
            && lw_people_store(w, &p->list[i]) != LW_OK)
        {
            return LW_REDIS;
        }
    }

    return LW_OK;
}


static int
lw_people_store(lw_t *w, lw_person_t *who)
{
    int          rc, tries, verified;
    lw_text_t    claimed, mine;
    lw_args_t   *a;
    redisReply  *reply;

    lw_text_init(&claimed, &w->mem);
    lw_text_init(&mine, &w->mem);

    lw_text_fmt(&claimed, "%sclaimed:", w->options->prefix);
    lw_text_str(&claimed, who->app);

    rc = claimed.failed ? LW_NOMEM : LW_OK;

    for (tries = 0; rc == LW_OK && tries < 8; tries++) {

        a = lw_script(w->redis, &lw_people_script, 2);

        lw_arg_str(a, lw_text_get(&who->key));
        lw_arg_str(a, lw_text_get(&claimed));
        lw_arg_str(a, lw_text_get(&who->stored));
        lw_arg_str(a, lw_text_get(&who->props));
        lw_arg(a, who->verified ? "1" : "0", 1);
        lw_arg_int(a, w->options->max_claimed);
        lw_arg_int(a, w->options->claimed_ttl);
        lw_arg_str(a, who->id);
        lw_arg_int(a, lw_now());

        reply = lw_script_call(a, &lw_people_script);

        if (reply == NULL || lw_reply_is_error(reply)) {
            rc = LW_REDIS;

        } else if (!lw_reply_is_array(reply)) {

            lw_reply_free(reply);
            break;

        } else {

            /* another worker was faster: merge ours into its */

            verified = who->verified;
            lw_text_clear(&mine);
            lw_text_str(&mine, lw_text_get(&who->props));

            if (mine.failed || reply->elements != 2
                || lw_people_read(who, reply->element[0], reply->element[1])
                   != LW_OK
                || lw_people_merge(w, who, lw_text_get(&mine), verified)
                   != LW_OK)
            {
                rc = LW_NOMEM;

            } else if (!who->changed) {
                lw_reply_free(reply);
                break;
            }
        }

        lw_reply_free(reply);
    }

    lw_text_free(&claimed);
    lw_text_free(&mine);

    return rc == LW_OK ? LW_OK : LW_REDIS;
}
