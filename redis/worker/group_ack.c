/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * How an entry ends: acknowledged, excused for now, or a dead letter.
 *
 * Invariants
 *   - a dead letter is written and its entry acknowledged in one step;
 *   - an entry that cannot be buried stays pending, and stops no other.
 */

#include "group_internal.h"


#define LW_DEAD_PAIRS   1000           /* Lua's stack has room for 4000      */
#define LW_DEAD_MS      60000


static int lw_group_send(lw_t *w, const char *command,
    const lw_entry_t *entries, size_t n);


int
lw_group_ack(lw_t *w, const lw_entry_t *entries, size_t n)
{
    int  rc;

    rc = lw_group_send(w, "XACK", entries, n);

    if (rc == LW_OK) {
        w->entries += n;
    }

    return rc;
}


int
lw_group_excuse(lw_t *w, const lw_entry_t *entries, size_t n)
{
    return lw_group_send(w, "XCLAIM", entries, n);
}


/* a command for each stream that has some of the entries, in one round trip */

static int
lw_group_send(lw_t *w, const char *command, const lw_entry_t *entries,
    size_t n)
{
    int          claim, head;
    size_t       i, k, queued;
    lw_args_t   *a;

    claim = strcmp(command, "XCLAIM") == 0;
    queued = 0;

    for (k = 0; n && k < w->options->nstreams; k++) {

        a = lw_args(w->redis);

        lw_arg_z(a, command);
        lw_arg_z(a, w->options->streams[k]);
        lw_arg_z(a, w->options->group);

        if (claim) {
            lw_arg_z(a, w->options->consumer);
            lw_arg_lit(a, "0");
        }

        head = a->n;

        for (i = 0; i < n; i++) {
            if (entries[i].stream == k) {
                lw_arg_str(a, entries[i].id);
            }
        }

        if (a->n == head) {
            continue;
        }

        if (claim) {
            lw_arg_lit(a, "RETRYCOUNT");
            lw_arg_lit(a, "0");
            lw_arg_lit(a, "JUSTID");
        }

        if (lw_args_queue(a) != LW_OK) {
            return LW_REDIS;
        }

        queued++;
    }

    return lw_redis_drain(w->redis, queued);
}


int
lw_group_bury(lw_t *w, const lw_entry_t *e, const char *reason)
{
    char                 dead[512];
    size_t               i, left;
    lw_args_t           *a;
    lw_group_t          *g;
    redisReply          *reply;
    const redisReply    *fields;
    const char          *stream;
    const lw_options_t  *o;

    static lw_script_t  script = {
        "local added = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3],"
        " '*', unpack(ARGV, 4)) "
        "if type(added) == 'table' then return {added.err} end "
        "return redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])", ""
    };

    g = w->group;
    o = w->options;
    stream = o->streams[e->stream];

    (void) snprintf(dead, sizeof(dead), "%s:dead", stream);

    a = lw_script(w->redis, &script, 2);

    lw_arg_z(a, stream);
    lw_arg_z(a, dead);
    lw_arg_z(a, o->group);
    lw_arg_str(a, e->id);
    lw_arg_int(a, o->dead_maxlen);

    lw_arg_lit(a, "dead_reason");
    lw_arg(a, reason, strlen(reason));
    lw_arg_lit(a, "dead_group");
    lw_arg_z(a, o->group);
    lw_arg_lit(a, "dead_id");
    lw_arg_str(a, e->id);
    lw_arg_lit(a, "dead_at");
    lw_arg_int(a, lw_now());

    fields = e->gone ? NULL : e->reply->element[1];

    left = fields ? fields->elements / 2 : 0;
    left = left > LW_DEAD_PAIRS ? left - LW_DEAD_PAIRS : 0;

    if (left) {
        lw_arg_lit(a, "dead_left_out");
        lw_arg_int(a, (int64_t) left);
    }

    for (i = 0; fields && i + 1 < fields->elements - left * 2; i += 2) {
        lw_arg_str(a, lw_reply_str(fields->element[i]));
        lw_arg_str(a, lw_reply_str(fields->element[i + 1]));
    }

    reply = lw_script_call(a, &script);

    if (reply == NULL) {
        return LW_REDIS;
    }

    if (reply->type != REDIS_REPLY_INTEGER) {

        /* another's turn; this one is claimed again later */

        w->failures++;
        g->unburied++;

        if (lw_clock() >= g->next_unburied) {

            g->next_unburied = lw_clock() + LW_DEAD_MS;

            lw_log(LW_LOG_ERROR, "%s: %.*s cannot be moved from %s to %s and "
                   "stays pending, as do others that are not told here, until "
                   "that can be written: %.60s", o->name, (int) e->id.len,
                   (const char *) e->id.data, stream, dead,
                   lw_reply_is_array(reply) && reply->elements == 1
                   && reply->element[0]->str ? reply->element[0]->str
                                             : "refused");
        }

        lw_reply_free(reply);

        return LW_OK;
    }

    lw_reply_free(reply);

    /* behind a colon there may be words of others */

    lw_log(LW_LOG_ERROR, "%s: %.*s of %s is a dead letter: %.*s", o->name,
           (int) e->id.len, (const char *) e->id.data, stream,
           (int) strcspn(reason, ":"), reason);

    w->dead++;

    return LW_OK;
}
