/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Is there work for the helper thread?  A process with a second thread pays
 * for it in every system call on a descriptor and every lock of the C library
 * (1 % of a small call), and most workers never have a spool to take over.  So
 * the event loop looks into the spool directory itself, and the thread begins
 * with the first file there that nobody holds.
 *
 * Invariants
 *   - nothing is read here and nothing waited for: names, and who holds a
 *     lock;
 *   - whether a file is a spool, and for us, is the thread's to say.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <sys/file.h>

#include "ngx_lunary_outbox_internal.h"


/* more files are not looked at one by one */
#define NGX_LUNARY_OUTBOX_GLANCE  64


static ngx_uint_t ngx_lunary_outbox_glance(ngx_lunary_outbox_t *ob);
static ngx_uint_t ngx_lunary_outbox_free_file(int dirfd, const char *name);
static ngx_uint_t ngx_lunary_outbox_old_file(int dirfd, const char *name);


void
ngx_lunary_outbox_glance_handler(ngx_event_t *ev)
{
    ngx_connection_t     *c;
    ngx_lunary_outbox_t  *ob;

    c = ev->data;
    ob = c->data;

    if (ngx_exiting) {
        return;
    }

    if (ngx_lunary_outbox_glance(ob)) {

        if (ngx_lunary_outbox_thread_start(ob) == NGX_OK) {
            return;
        }

        /* it was logged; later there may be room for a thread */

        ngx_add_timer(ev, 60000);
        return;
    }

    ngx_add_timer(ev, NGX_LUNARY_OUTBOX_SCAN_EVERY);
}


/* 1 where the thread has something to look at */

static ngx_uint_t
ngx_lunary_outbox_glance(ngx_lunary_outbox_t *ob)
{
    int             fd;
    DIR            *dir;
    size_t          len;
    ngx_uint_t      n, found;
    struct dirent  *e;

    fd = openat(ob->thread->dirfd, ".", O_RDONLY|O_DIRECTORY|O_CLOEXEC);

    if (fd == -1) {
        return 0;
    }

    dir = fdopendir(fd);

    if (dir == NULL) {
        (void) close(fd);
        return 0;
    }

    n = 0;
    found = 0;

    while (!found && (e = readdir(dir)) != NULL) {

        len = ngx_strlen(e->d_name);

        if (len == LUNARY_SPOOL_TMP_LEN
            && ngx_strcmp(e->d_name + 32, LUNARY_SPOOL_TMP_SUFFIX) == 0)
        {
            found = ngx_lunary_outbox_old_file(ob->thread->dirfd, e->d_name);
            continue;
        }

        if (len != LUNARY_SPOOL_NAME_LEN
            || ngx_strcmp(e->d_name + 32, LUNARY_SPOOL_SUFFIX) != 0
            || ngx_strcmp(e->d_name, ob->own->spool.name) == 0)
        {
            continue;
        }

        found = ++n > NGX_LUNARY_OUTBOX_GLANCE
                || ngx_lunary_outbox_free_file(ob->thread->dirfd, e->d_name);
    }

    (void) closedir(dir);

    return found;
}


/* 1 where no worker holds it, as far as can be told */

static ngx_uint_t
ngx_lunary_outbox_free_file(int dirfd, const char *name)
{
    int         fd;
    ngx_uint_t  held;

    fd = openat(dirfd, name, O_RDWR|O_NOFOLLOW|O_NONBLOCK|O_CLOEXEC);

    if (fd == -1) {

        /* it has gone meanwhile; anything else the thread will say */

        return errno != ENOENT;
    }

    held = flock(fd, LOCK_SH|LOCK_NB) == -1 && errno == EWOULDBLOCK;

    (void) close(fd);

    return !held;
}


/* 1 where it was not made just now */

static ngx_uint_t
ngx_lunary_outbox_old_file(int dirfd, const char *name)
{
    struct stat  st;

    return fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0
           && st.st_mtime + NGX_LUNARY_OUTBOX_TMP_AGE < ngx_time();
}
