/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * How an entry ends: acknowledged, excused for now, or a dead letter.
 *
 * Invariant: a dead letter is written and its entry acknowledged in one step.
 */

#include "group_internal.h"


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
    int                  rc;
    char                 dead[512];
    size_t               i;
    lw_args_t           *a;
    redisReply          *reply;
    const redisReply    *fields;
    const char          *stream;
    const lw_options_t  *o;

    static lw_script_t  script = {
        "redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*',"
        " unpack(ARGV, 4)) "
        "return redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])", ""
    };

    o = w->options;
    stream = o->streams[e->stream];

    (void) snprintf(dead, sizeof(dead), "%s:dead", stream);

    /* behind a colon there may be words of others */

    lw_log(LW_LOG_ERROR, "%s: %.*s of %s is a dead letter: %.*s", o->name,
           (int) e->id.len, (const char *) e->id.data, stream,
           (int) strcspn(reason, ":"), reason);

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

    for (i = 0; fields && i + 1 < fields->elements; i += 2) {
        lw_arg_str(a, lw_reply_str(fields->element[i]));
        lw_arg_str(a, lw_reply_str(fields->element[i + 1]));
    }

    reply = lw_script_call(a, &script);
    rc = (reply && !lw_reply_is_error(reply)) ? LW_OK : LW_REDIS;

    lw_reply_free(reply);

    w->dead += (rc == LW_OK);

    return rc;
}
