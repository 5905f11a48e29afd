/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The ledger's call: a batch of one stream is sent to ledger.lua, and what it
 * will not count is left out.
 *
 * Invariants
 *   - a call counts and acknowledges all of its entries, or none;
 *   - a run is known by 16 bytes of its id, in a set for each ten minutes.
 */

#include <ctype.h>
#include <stdlib.h>

#include "ledger_internal.h"


#define LW_OPEN_MS       86400000


/* the script, in the program itself */

__asm__(
    ".section .rodata\n"
    ".global lw_ledger_lua\n"
    "lw_ledger_lua:\n"
    ".incbin \"" LW_LEDGER_FILE "\"\n"
    ".byte 0\n"
    ".previous\n"
);

extern const char  lw_ledger_lua[];


static int lw_ledger_call(lw_t *w, lw_ledger_t *l, unsigned stream,
    size_t *dropped);
static size_t lw_ledger_ids(lw_ledger_t *l, unsigned stream);
static void lw_ledger_seen(lw_t *w, lw_ledger_t *l, unsigned stream);
static void lw_ledger_opens(lw_t *w, lw_ledger_t *l, unsigned stream);
static int lw_ledger_answer(lw_t *w, lw_ledger_t *l, unsigned stream,
    const redisReply *reply, size_t *dropped);


/* what turns out to be somebody else's, or counted before, is left out */

int
lw_ledger_stream(lw_t *w, lw_ledger_t *l, unsigned stream)
{
    int     rc;
    size_t  dropped;

    do {
        dropped = 0;
        rc = lw_ledger_call(w, l, stream, &dropped);

    } while (rc == LW_OK && dropped);

    return rc;
}


static int
lw_ledger_call(lw_t *w, lw_ledger_t *l, unsigned stream, size_t *dropped)
{
    int                  rc;
    size_t               list, entries;
    lw_args_t           *a;
    redisReply          *reply;
    const lw_options_t  *o;

    static lw_script_t  script = { lw_ledger_lua, "" };

    o = w->options;

    lw_text_clear(&l->pack);

    list = lw_pack_list(&l->pack);
    entries = lw_ledger_ids(l, stream);

    if (entries == 0) {
        return LW_OK;
    }

    lw_ledger_seen(w, l, stream);
    lw_ledger_opens(w, l, stream);
    lw_ledger_users(l, stream);
    lw_pack_end(&l->pack, list, 4);

    if (l->pack.failed) {
        lw_log(LW_LOG_ERROR, "no memory for a batch");
        return LW_NOMEM;
    }

    a = lw_script(w->redis, &script, 1);

    lw_arg_z(a, o->streams[stream]);
    lw_arg_z(a, o->group);
    lw_arg_z(a, o->consumer);
    lw_arg_z(a, o->prefix);
    lw_arg_int(a, lw_now());
    lw_arg_int(a, o->max_claimed);
    lw_arg_int(a, o->claimed_ttl);
    lw_arg_int(a, o->daily_ttl);
    lw_arg_int(a, o->dedup + LW_BUCKET_MS);
    lw_arg_int(a, LW_OPEN_MS);
    lw_arg_str(a, lw_text_get(&l->pack));

    reply = lw_script_call(a, &script);

    rc = lw_ledger_answer(w, l, stream, reply, dropped);

    lw_reply_free(reply);

    if (rc == LW_OK && *dropped == 0) {
        w->entries += entries;
    }

    return rc;
}


static size_t
lw_ledger_ids(lw_ledger_t *l, unsigned stream)
{
    size_t  i, n, list;

    list = lw_pack_list(&l->pack);

    for (i = 0, n = 0; i < l->n; i++) {
        if (l->shares[i].entry->stream == stream && !l->shares[i].lost) {
            lw_pack(&l->pack, l->shares[i].entry->id);
            n++;
        }
    }

    lw_pack_end(&l->pack, list, n);

    return n;
}


/* runs by bucket; there are few buckets: looked for one by one */

static void
lw_ledger_seen(lw_t *w, lw_ledger_t *l, unsigned stream)
{
    size_t       i, n, m, list, row, members;
    int64_t      bucket, next;
    lw_share_t  *s;

    list = lw_pack_list(&l->pack);
    n = 0;

    for (bucket = -1; w->options->dedup; bucket = next) {

        next = INT64_MAX;

        for (i = 0; i < l->n; i++) {

            s = &l->shares[i];

            if (s->entry->stream == stream && !s->lost && s->counts
                && s->member.len && s->bucket > bucket && s->bucket < next)
            {
                next = s->bucket;
            }
        }

        if (next == INT64_MAX) {
            break;
        }

        row = lw_pack_list(&l->pack);
        lw_pack_int(&l->pack, next);
        members = lw_pack_list(&l->pack);

        for (i = 0, m = 0; i < l->n; i++) {

            s = &l->shares[i];

            if (s->entry->stream == stream && !s->lost && s->counts
                && s->member.len && s->bucket == next)
            {
                lw_pack(&l->pack, s->member);
                m++;
            }
        }

        lw_pack_end(&l->pack, members, m);
        lw_pack_end(&l->pack, row, 2);
        n++;
    }

    lw_pack_end(&l->pack, list, n);
}


static void
lw_ledger_opens(lw_t *w, lw_ledger_t *l, unsigned stream)
{
    size_t       i, n, list, row;
    lw_text_t    key;
    lw_share_t  *s;

    lw_text_init(&key, &w->mem);

    list = lw_pack_list(&l->pack);

    for (i = 0, n = 0; i < l->n; i++) {

        s = &l->shares[i];

        if (s->entry->stream != stream || s->lost || s->open.len == 0) {
            continue;
        }

        lw_ledger_open_key(w, &key, s->app, s->open);

        row = lw_pack_list(&l->pack);
        lw_pack(&l->pack, lw_text_get(&key));
        lw_pack(&l->pack, s->user);
        lw_pack_end(&l->pack, row, 2);
        n++;
    }

    lw_pack_end(&l->pack, list, n);

    l->pack.failed |= key.failed;
    lw_text_free(&key);
}


static int
lw_ledger_answer(lw_t *w, lw_ledger_t *l, unsigned stream,
    const redisReply *reply, size_t *dropped)
{
    size_t         i, k;
    lw_share_t    *s;
    lunary_str_t   one;

    if (!lw_reply_is_array(reply) || reply->elements != 3
        || !lw_reply_is_array(reply->element[0])
        || !lw_reply_is_array(reply->element[1]))
    {
        return LW_REDIS;
    }

    for (k = 0; k < 2; k++) {
        for (i = 0; i < reply->element[k]->elements; i++) {

            one = lw_reply_str(reply->element[k]->element[i]);

            for (s = l->shares; s < l->shares + l->n; s++) {

                if (s->entry->stream != stream || s->lost) {
                    continue;
                }

                if (k == 0 && lw_str_same(s->entry->id, one)) {
                    s->lost = 1;
                    (*dropped)++;

                } else if (k == 1 && s->counts && s->member.len
                           && lw_str_same(s->member, one))
                {
                    s->counts = 0;
                    w->skipped++;
                    (*dropped)++;
                }
            }
        }
    }

    if (reply->element[0]->elements + reply->element[1]->elements
        && *dropped == 0)
    {
        lw_log(LW_LOG_ERROR, "the ledger's answer names no entry of ours");
        return LW_REDIS;
    }

    if (reply->element[2]->type == REDIS_REPLY_INTEGER
        && reply->element[2]->integer > 0)
    {
        lw_log(LW_LOG_ERROR, "%lld counters could not be written: keys of "
               "another type, or values that are no numbers, are in the way",
               reply->element[2]->integer);
        w->failures++;
    }

    return LW_OK;
}


/* the time in a UUIDv7 chooses the set, 16 bytes are the member */

void
lw_ledger_member(lw_share_t *s, lunary_str_t run)
{
    size_t         i, k;
    int64_t        ms;
    unsigned       c;
    unsigned char *key;

    s->member = run.len <= LW_RUN_ID_MAX ? run : lunary_str(NULL, 0);
    s->bucket = s->first / LW_BUCKET_MS;

    key = s->key;
    k = 0;

    if (run.len == 36) {

        for (i = 0; i < 36; i++) {

            c = run.data[i];

            if (c == '-') {
                continue;
            }

            if (!isxdigit((int) c) || k == 32) {
                break;
            }

            c = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;

            if (k % 2 == 0) {
                key[k / 2] = (unsigned char) (c << 4);
            } else {
                key[k / 2] |= (unsigned char) c;
            }

            k++;
        }
    }

    if (k != 32) {
        return;
    }

    s->member = lunary_str(key, 16);

    if ((key[6] >> 4) == 7) {

        for (i = 0, ms = 0; i < 6; i++) {
            ms = ms << 8 | key[i];
        }

        s->bucket = ms / LW_BUCKET_MS;
    }
}


/* beside the run's own: what SDKs say of a run does not hide it */

void
lw_ledger_event_member(lw_share_t *s, lunary_str_t run, char event)
{
    lw_ledger_member(s, run);

    if (s->member.data != s->key) {

        /* an id as a text would lie in one that may move */

        s->member = lunary_str(NULL, 0);
        return;
    }

    s->key[16] = (unsigned char) event;
    s->member.len = sizeof(s->key);
}
