/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Files in the spool directory that are no use: they are remembered by inode,
 * so that a directory that is looked at three times a second is neither read
 * nor complained about as often.
 *
 * Invariants
 *   - a file is looked at once a minute at most, in case somebody mended it,
 *     and told of once while it is remembered;
 *   - no file takes the place of another in its minute: of too many the rest
 *     is looked at each time and not told of.
 */

#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_lunary_outbox_internal.h"


ngx_uint_t
ngx_lunary_outbox_known(ngx_lunary_outbox_thread_t *t, ino_t ino)
{
    time_t      now;
    ngx_uint_t  i, known;

    now = time(NULL);
    known = 0;

    (void) pthread_mutex_lock(&t->mutex);

    for (i = 0; i < NGX_LUNARY_OUTBOX_KNOWN; i++) {

        if (t->known[i].ino == ino) {
            known = (now < t->known[i].until);
            break;
        }
    }

    (void) pthread_mutex_unlock(&t->mutex);

    return known;
}


ngx_uint_t
ngx_lunary_outbox_remember(ngx_lunary_outbox_thread_t *t, ino_t ino)
{
    time_t                      now;
    ngx_uint_t                  i, news;
    ngx_lunary_outbox_known_t  *k, *oldest;

    now = time(NULL);
    oldest = &t->known[0];

    (void) pthread_mutex_lock(&t->mutex);

    for (i = 0; i < NGX_LUNARY_OUTBOX_KNOWN; i++) {
        k = &t->known[i];

        if (k->ino == ino) {
            oldest = k;
            break;
        }

        if (k->until < oldest->until) {
            oldest = k;
        }
    }

    news = (oldest->ino != ino && oldest->until <= now);

    if (news || oldest->ino == ino) {
        oldest->ino = ino;
        oldest->until = now + NGX_LUNARY_OUTBOX_KNOWN_FOR;
    }

    (void) pthread_mutex_unlock(&t->mutex);

    return news;
}


void
ngx_lunary_outbox_unusable(ngx_lunary_outbox_thread_t *t,
    lunary_spool_t *sp, const char *name, lunary_spool_status_e why)
{
    switch (why) {

    case LUNARY_SPOOL_NOT_OURS:
        ngx_log_error(NGX_LOG_ERR, t->log, 0,
                      "lunary: the spool \"%V/%s\" is not a file of this "
                      "worker's user with mode 0600: it is left alone; "
                      "chown and chmod it if its runs are wanted",
                      &t->conf->path, name);
        break;

    case LUNARY_SPOOL_TARGET:
        ngx_log_error(NGX_LOG_WARN, t->log, 0,
                      "lunary: the spool \"%V/%s\" is for \"%s\", not for "
                      "\"%s\": it is left alone; start an nginx with that "
                      "lunary_redis and lunary_stream to send its runs",
                      &t->conf->path, name, sp->target, t->target);
        break;

    case LUNARY_SPOOL_NEWER:
        ngx_log_error(NGX_LOG_WARN, t->log, 0,
                      "lunary: the spool \"%V/%s\" was written by a newer "
                      "version of this module: it is kept for it",
                      &t->conf->path, name);
        break;

    case LUNARY_SPOOL_RENAMED:
        ngx_log_error(NGX_LOG_ERR, t->log, 0,
                      "lunary: the spool \"%V/%s\" was \"%s\" when it was "
                      "written: it is left alone, since a copy would be sent "
                      "twice; remove it, or, if that one is gone and nothing "
                      "sent it, give it that name again",
                      &t->conf->path, name, sp->name);
        break;

    case LUNARY_SPOOL_DAMAGED:
        ngx_log_error(NGX_LOG_ERR, t->log, 0,
                      "lunary: the spool \"%V/%s\" has no readable head: it "
                      "is left alone; move it away", &t->conf->path, name);
        break;

    default:
        ngx_log_error(NGX_LOG_ERR, t->log, sp->err,
                      "lunary: the spool \"%V/%s\" cannot be read, %s failed",
                      &t->conf->path, name,
                      sp->call ? sp->call : "malloc()");
        break;
    }
}
