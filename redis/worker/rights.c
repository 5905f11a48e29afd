/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * `lunary-worker show` and `forget`: for requests of access and of erasure.
 * What they find is subject.c's.
 */

#include <stdlib.h>

#include "display.h"
#include "subject.h"


#define LW_FORGET_ROUNDS   3


typedef struct {
    lw_text_t       out;
    lw_text_t       keys;          /* show: names and hashes, printed last    */
    int64_t         entries;
    int64_t         dead;
    int64_t         nkeys;
    int64_t         lunary;        /* what was deleted there                  */
    int             first;

    /* forget: what a round found, to be deleted when Lunary has done so */
    lw_text_t       runs;          /* ids, each ended by a newline            */
    lw_text_t       found;         /* of lw_found_t, each with its names      */
} lw_rights_t;


typedef struct {
    int             dead;
    size_t          stream;        /* length of its name; 0: this is a key    */
    size_t          len;           /* of the entry's id, or the key's name    */
} lw_found_t;


static int lw_show_entry(lw_t *w, void *ctx, const char *stream, int dead,
    const lw_entry_t *e);
static int lw_show_key(lw_t *w, void *ctx, lunary_str_t key, int policy);
static int lw_forget_entry(lw_t *w, void *ctx, const char *stream, int dead,
    const lw_entry_t *e);
static int lw_forget_key(lw_t *w, void *ctx, lunary_str_t key, int policy);
static int lw_forget_run(lw_t *w, void *ctx, lunary_str_t id);
static int lw_forget_note(lw_rights_t *r, lunary_str_t stream, int dead,
    lunary_str_t name);
static int lw_forget_round(lw_t *w, lw_rights_t *r, int round);
static int lw_forget_lists(lw_t *w, lw_rights_t *r);
static void lw_rights_count(lw_rights_t *r, int dead);
static int lw_rights_code(int rc, const lw_rights_t *r);


int
lw_show(lw_t *w, int argc, char **argv)
{
    int           rc;
    lw_rights_t   r;
    lw_subject_t  s;

    (void) argc;
    (void) argv;

    memset(&r, 0, sizeof(r));
    memset(&s, 0, sizeof(s));

    lw_text_init(&r.out, &w->mem);
    lw_text_init(&r.keys, &w->mem);

    r.first = 1;
    s.ctx = &r;
    s.entry = lw_show_entry;
    s.key = lw_show_key;

    rc = lw_redis_connect(w->redis);

    if (rc == LW_OK) {

        lw_text_lit(&r.out, "{\"app\":");
        lw_text_json(&r.out, lw_str(w->options->app));
        lw_text_lit(&r.out, ",\"user_id\":");
        lw_text_json(&r.out, lw_str(w->options->user));
        lw_text_lit(&r.out, ",\"entries\":[");

        rc = lw_subject_find(w, &s);
    }

    if (rc == LW_OK) {
        lw_text_lit(&r.out, "],\"keys\":{");
        lw_text_str(&r.out, lw_text_get(&r.keys));
        lw_text_lit(&r.out, "}}\n");
        r.out.failed |= r.keys.failed;
        rc = lw_display_flush_json(&r.out);
    }

    lw_text_free(&r.out);
    lw_text_free(&r.keys);

    return lw_rights_code(rc, &r);
}


static void
lw_rights_count(lw_rights_t *r, int dead)
{
    if (dead) {
        r->dead++;
    } else {
        r->entries++;
    }
}


static int
lw_show_entry(lw_t *w, void *ctx, const char *stream, int dead,
    const lw_entry_t *e)
{
    lw_rights_t *r = ctx;

    (void) w;
    (void) stream;

    lw_text_add(&r->out, r->first ? "\n" : ",\n", r->first ? 1 : 2);
    lw_display_entry(&r->out, e, NULL);
    r->first = 0;

    lw_rights_count(r, dead);

    return lw_display_flush_json(&r->out);
}


static int
lw_show_key(lw_t *w, void *ctx, lunary_str_t key, int policy)
{
    lw_rights_t *r = ctx;

    lw_args_t   *a;
    redisReply  *reply;

    (void) policy;

    lw_text_add(&r->keys, ",", r->nkeys++ ? 1 : 0);
    lw_text_lit(&r->keys, "\n");
    lw_text_json(&r->keys, key);
    lw_text_lit(&r->keys, ":");

    a = lw_args(w->redis);
    lw_arg_lit(a, "TYPE");
    lw_arg_str(a, key);

    reply = lw_args_call(a);

    if (reply == NULL) {
        return LW_REDIS;
    }

    if (lunary_eq(lw_reply_str(reply), "hash")) {
        lw_reply_free(reply);

        a = lw_args(w->redis);
        lw_arg_lit(a, "HGETALL");
        lw_arg_str(a, key);

        reply = lw_args_call(a);

        if (reply == NULL) {
            return LW_REDIS;
        }

        lw_display_hash(&r->keys, reply);

    } else if (lunary_eq(lw_reply_str(reply), "string")
               && memmem(key.data, key.len, "user-threads:", 13) == NULL)
    {
        lw_reply_free(reply);

        a = lw_args(w->redis);
        lw_arg_lit(a, "GET");
        lw_arg_str(a, key);

        reply = lw_args_call(a);

        if (reply == NULL) {
            return LW_REDIS;
        }

        lw_text_json(&r->keys, lw_reply_str(reply));

    } else {

        /* a count of threads, that holds none of them */

        lw_text_lit(&r->keys, "null");
    }

    lw_reply_free(reply);

    return LW_OK;
}


/*
 * All is found, then deleted in Lunary, and then here, for the ids of the runs
 * are nowhere else: what was interrupted is found again.  More than once, for
 * workers may be writing.
 */

int
lw_forget(lw_t *w, int argc, char **argv)
{
    int           rc, round;
    lw_rights_t   r;
    lw_subject_t  s;

    (void) argc;
    (void) argv;

    memset(&r, 0, sizeof(r));
    memset(&s, 0, sizeof(s));

    lw_text_init(&r.out, &w->mem);
    lw_text_init(&r.keys, &w->mem);
    lw_text_init(&r.runs, &w->mem);
    lw_text_init(&r.found, &w->mem);

    s.ctx = &r;
    s.entry = lw_forget_entry;
    s.key = lw_forget_key;
    s.run = lw_forget_run;

    rc = lw_redis_connect(w->redis);

    for (round = 0; rc == LW_OK && round < LW_FORGET_ROUNDS; round++) {

        lw_text_clear(&r.runs);
        lw_text_clear(&r.found);

        rc = lw_subject_find(w, &s);

        if (rc == LW_OK) {
            rc = lw_forget_round(w, &r, round);
        }

        if (rc == LW_STOPPED) {
            lw_log(LW_LOG_ERROR, "stopped before everything was deleted: run "
                   "forget again");
            rc = w->options->lunary_key_file ? LW_REMOTE : LW_STOPPED;
        }

        if (!w->options->yes || r.found.buf.len == 0) {
            break;
        }
    }

    if (rc == LW_OK || rc == LW_REMOTE || rc == LW_STOPPED) {

        if (w->options->json) {
            lw_text_fmt(&r.out, "{\"entries\":%lld,\"dead\":%lld,"
                        "\"keys\":%lld,\"deleted\":%s}\n",
                        (long long) r.entries, (long long) r.dead,
                        (long long) r.nkeys,
                        w->options->yes ? "true" : "false");

        } else {
            lw_text_fmt(&r.out, "%s: %lld entries, %lld dead letters, "
                        "%lld keys%s\n",
                        w->options->yes ? "deleted" : "found",
                        (long long) r.entries, (long long) r.dead,
                        (long long) r.nkeys,
                        w->options->yes ? "" : "; --yes deletes them");
        }

        if (lw_display_flush(&r.out) != LW_OK) {
            rc = LW_ERROR;
        }
    }

    lw_text_free(&r.out);
    lw_text_free(&r.runs);
    lw_text_free(&r.found);
    lw_text_free(&r.keys);

    return lw_rights_code(rc, &r);
}


static int
lw_forget_entry(lw_t *w, void *ctx, const char *stream, int dead,
    const lw_entry_t *e)
{
    lw_rights_t *r = ctx;

    (void) w;

    return lw_forget_note(r, lw_str(stream), dead, e->id);
}


static int
lw_forget_key(lw_t *w, void *ctx, lunary_str_t key, int policy)
{
    lw_rights_t *r = ctx;

    /* what an operator decided outlives the user's wish, unless told so */

    if (policy && !w->options->policy) {
        return LW_OK;
    }

    return lw_forget_note(r, lw_str(NULL), 0, key);
}


static int
lw_forget_run(lw_t *w, void *ctx, lunary_str_t id)
{
    lw_rights_t *r = ctx;

    (void) w;

    lw_text_str(&r->runs, id);
    lw_text_lit(&r->runs, "\n");

    return r->runs.failed ? LW_NOMEM : LW_OK;
}


static int
lw_forget_note(lw_rights_t *r, lunary_str_t stream, int dead,
    lunary_str_t name)
{
    lw_found_t  f;

    memset(&f, 0, sizeof(f));

    f.stream = stream.len;
    f.dead = dead;
    f.len = name.len;

    lw_text_add(&r->found, &f, sizeof(f));
    lw_text_str(&r->found, stream);
    lw_text_str(&r->found, name);

    return r->found.failed ? LW_NOMEM : LW_OK;
}


/* what this round found is counted, and deleted; entries come before keys */

static int
lw_forget_round(lw_t *w, lw_rights_t *r, int round)
{
    int                   rc;
    lw_args_t            *a;
    lw_found_t            f;
    const unsigned char  *p, *end;

    if (w->options->yes && w->options->lunary_key_file
        && (round == 0 || r->runs.buf.len))
    {
        rc = lw_subject_lunary(w, &r->runs, &r->lunary);

        if (rc != LW_OK) {
            lw_log(LW_LOG_ERROR, "what Redis has is kept until Lunary has "
                   "deleted its part: run forget again");
            return rc;
        }
    }

    p = r->found.buf.data;
    end = p + r->found.buf.len;

    for ( /* void */ ; p < end; p += f.stream + f.len) {

        memcpy(&f, p, sizeof(f));
        p += sizeof(f);

        if (w->options->yes) {

            a = lw_args(w->redis);

            if (f.stream) {
                lw_arg_lit(a, "XDEL");
                lw_arg(a, p, f.stream);

            } else {
                lw_arg_lit(a, "UNLINK");
            }

            lw_arg(a, p + f.stream, f.len);

            if (lw_args_done(a) != LW_OK) {
                return LW_REDIS;
            }
        }

        if (f.stream) {
            lw_rights_count(r, f.dead);
        } else {
            r->nkeys++;
        }
    }

    return w->options->yes ? lw_forget_lists(w, r) : LW_OK;
}


static int
lw_forget_lists(lw_t *w, lw_rights_t *r)
{
    size_t      i;
    lw_args_t  *a;

    static const char *const  lists[] = { "users:", "claimed:" };

    for (i = 0; i < 2; i++) {

        lw_text_clear(&r->keys);
        lw_text_fmt(&r->keys, "%s%s", w->options->prefix, lists[i]);
        lw_text_str(&r->keys, lw_str(w->options->app));

        a = lw_args(w->redis);
        lw_arg_lit(a, "ZREM");
        lw_arg_str(a, lw_text_get(&r->keys));
        lw_arg_z(a, w->options->user);

        if (r->keys.failed || lw_args_done(a) != LW_OK) {
            return LW_REDIS;
        }
    }

    return LW_OK;
}


static int
lw_rights_code(int rc, const lw_rights_t *r)
{
    switch (rc) {

    case LW_OK:
        return r->entries + r->dead + r->nkeys + r->lunary ? LW_EXIT_OK
                                                           : LW_EXIT_ABSENT;

    case LW_REDIS:
        return LW_EXIT_REDIS;

    case LW_REMOTE:
        return LW_EXIT_REMOTE;

    default:
        return LW_EXIT_LEFT;
    }
}
