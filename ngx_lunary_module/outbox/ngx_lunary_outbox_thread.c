/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A worker's helper thread: everything that may wait for a disk.  It syncs the
 * worker's spool, looks for spools whose workers are gone, locks and reads
 * them, and marks and removes the drained ones.  It is started where there is
 * some of that to do (ngx_lunary_outbox_glance.c), and then stays.  (nginx's
 * own thread pools are optional and are shut down before our last words.)
 *
 * Invariants
 *   - signals are blocked in it, so that nginx's handlers run where nginx
 *     expects them;
 *   - what is shared is guarded by the mutex, which is never held during a
 *     system call on a file;
 *   - a spool belongs to the thread while it is in `jobs`, to the event loop
 *     otherwise;
 *   - it is joined before the worker's outbox goes.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <sys/eventfd.h>
#include <sys/file.h>

#include "ngx_lunary_outbox_internal.h"


#define NGX_LUNARY_OUTBOX_STACK   (256 * 1024)


static void *ngx_lunary_outbox_thread_cycle(void *data);
static void ngx_lunary_outbox_thread_sync_own(ngx_lunary_outbox_thread_t *t);
static void ngx_lunary_outbox_thread_jobs(ngx_lunary_outbox_thread_t *t);
static void ngx_lunary_outbox_thread_scan(ngx_lunary_outbox_thread_t *t);
static ngx_uint_t ngx_lunary_outbox_thread_leaving(void);
static void ngx_lunary_outbox_thread_try(ngx_lunary_outbox_thread_t *t,
    const char *name, ino_t ino);
static void ngx_lunary_outbox_thread_leftover(ngx_lunary_outbox_thread_t *t,
    const char *name);
static void ngx_lunary_outbox_thread_tell(ngx_lunary_outbox_thread_t *t);
static uint64_t ngx_lunary_outbox_thread_now(void);
static void ngx_lunary_outbox_notify_handler(ngx_event_t *ev);
static void ngx_lunary_outbox_thread_room(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src);


ngx_int_t
ngx_lunary_outbox_thread_init(ngx_lunary_outbox_t *ob)
{
    ngx_connection_t            *c;
    pthread_condattr_t           cattr;
    ngx_lunary_outbox_thread_t  *t;

    t = ob->thread;

    t->log = ob->log;
    t->conf = ob->conf;
    t->own = &ob->own->spool;

    ngx_memcpy(t->own_name, ob->own->spool.name, sizeof(t->own_name));
    ngx_lunary_outbox_target(ob->conf, t->target);

    t->event_fd = eventfd(0, EFD_NONBLOCK|EFD_CLOEXEC);

    if (t->event_fd == -1) {
        ngx_log_error(NGX_LOG_ALERT, ob->log, ngx_errno, "eventfd() failed");
        return NGX_ERROR;
    }

    c = ngx_get_connection(t->event_fd, ob->log);
    if (c == NULL) {
        (void) close(t->event_fd);
        return NGX_ERROR;
    }

    c->data = ob;
    c->log = ob->log;
    c->read->log = ob->log;
    c->write->log = ob->log;
    c->read->handler = ngx_lunary_outbox_notify_handler;

    /* at worker_shutdown_timeout it is not one of the connections to close */
    c->read->channel = 1;

    if (ngx_handle_read_event(c->read, 0) != NGX_OK) {
        ngx_close_connection(c);
        return NGX_ERROR;
    }

    ob->notify = c;

    (void) pthread_mutex_init(&t->mutex, NULL);

    (void) pthread_condattr_init(&cattr);
    (void) pthread_condattr_setclock(&cattr, CLOCK_MONOTONIC);
    (void) pthread_cond_init(&t->cond, &cattr);
    (void) pthread_condattr_destroy(&cattr);

    return NGX_OK;
}


ngx_int_t
ngx_lunary_outbox_thread_start(ngx_lunary_outbox_t *ob)
{
    int                          err;
    sigset_t                     all, old;
    pthread_attr_t               attr;
    ngx_lunary_outbox_thread_t  *t;

    t = ob->thread;

    (void) pthread_attr_init(&attr);
    (void) pthread_attr_setstacksize(&attr, NGX_LUNARY_OUTBOX_STACK);

    (void) sigfillset(&all);
    (void) pthread_sigmask(SIG_BLOCK, &all, &old);

    err = pthread_create(&t->id, &attr, ngx_lunary_outbox_thread_cycle, t);

    (void) pthread_sigmask(SIG_SETMASK, &old, NULL);
    (void) pthread_attr_destroy(&attr);

    if (err) {
        ngx_log_error(NGX_LOG_CRIT, ob->log, err,
                      "lunary: no helper thread: spools are not synced, and "
                      "those of finished workers are not taken over");
        return NGX_ERROR;
    }

    t->started = 1;

    return NGX_OK;
}


void
ngx_lunary_outbox_thread_stop(ngx_lunary_outbox_t *ob)
{
    ngx_lunary_outbox_source_t  *src, *lists[3];
    ngx_uint_t                   i;
    ngx_lunary_outbox_thread_t  *t;

    t = ob->thread;

    if (ob->notify == NULL) {
        return;
    }

    if (t->started) {
        (void) pthread_mutex_lock(&t->mutex);
        t->stop = 1;
        (void) pthread_cond_signal(&t->cond);
        (void) pthread_mutex_unlock(&t->mutex);

        (void) pthread_join(t->id, NULL);

        t->started = 0;
    }

    (void) pthread_mutex_destroy(&t->mutex);
    (void) pthread_cond_destroy(&t->cond);

    ngx_close_connection(ob->notify);
    ob->notify = NULL;

    /* what it still holds goes back to the directory */

    lists[0] = t->jobs;
    lists[1] = t->done;
    lists[2] = t->adopted;

    for (i = 0; i < 3; i++) {
        while (lists[i]) {
            src = lists[i];
            lists[i] = src->next;

            if (src->queue.next) {
                ngx_queue_remove(&src->queue);
            }

            ngx_lunary_outbox_free_source(src);
        }
    }
}


/* asks for a sync of what was appended; wakes the thread only where somebody
 * waits for it */

void
ngx_lunary_outbox_thread_sync(ngx_lunary_outbox_t *ob)
{
    uint64_t                     last;
    ngx_lunary_outbox_thread_t  *t;

    t = ob->thread;
    last = lunary_spool_last(&ob->own->spool);

    if (t == NULL || !t->started
        || ob->conf->sync == NGX_LUNARY_SYNC_OFF
        || last == t->asked)
    {
        return;
    }

    t->asked = last;

    (void) pthread_mutex_lock(&t->mutex);

    t->want = last;

    if (ob->conf->sync == NGX_LUNARY_SYNC_ALWAYS) {
        (void) pthread_cond_signal(&t->cond);
    }

    (void) pthread_mutex_unlock(&t->mutex);
}


void
ngx_lunary_outbox_thread_job(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src)
{
    ngx_lunary_outbox_thread_t  *t;

    t = ob->thread;

    (void) pthread_mutex_lock(&t->mutex);

    src->next = t->jobs;
    t->jobs = src;

    (void) pthread_cond_signal(&t->cond);
    (void) pthread_mutex_unlock(&t->mutex);
}


/* the thread has results */

static void
ngx_lunary_outbox_notify_handler(ngx_event_t *ev)
{
    uint64_t                     n, synced;
    ngx_uint_t                   failed;
    ngx_connection_t            *c;
    ngx_lunary_outbox_t         *ob;
    ngx_lunary_outbox_source_t  *done, *adopted, *src;
    ngx_lunary_outbox_thread_t  *t;

    c = ev->data;
    ob = c->data;
    t = ob->thread;

    while (read(c->fd, &n, sizeof(uint64_t)) == sizeof(uint64_t)) {
        /* void */
    }

    (void) pthread_mutex_lock(&t->mutex);

    done = t->done;
    t->done = NULL;

    adopted = t->adopted;
    t->adopted = NULL;

    synced = t->synced;
    failed = t->failed;

    (void) pthread_mutex_unlock(&t->mutex);

    while (done) {
        src = done;
        done = src->next;

        if (src->life == NGX_LUNARY_OUTBOX_RETIRING) {
            src->life = NGX_LUNARY_OUTBOX_RETIRED;
            continue;
        }

        if (src->error) {
            ngx_log_error(NGX_LOG_ERR, ob->log, src->error,
                          "lunary: the drained spool \"%V/%s\" cannot be "
                          "removed: it holds nothing that was not sent; "
                          "remove it, or let the user of the workers do so",
                          &ob->conf->path, src->spool.name);
        }

        ngx_queue_remove(&src->queue);
        ngx_lunary_outbox_thread_room(ob, src);
        ngx_lunary_outbox_free_source(src);

        (void) pthread_mutex_lock(&t->mutex);
        t->nadopted--;
        (void) pthread_mutex_unlock(&t->mutex);
    }

    while (adopted) {
        src = adopted;
        adopted = src->next;

        if (ngx_lunary_outbox_adopted(ob, src) == NGX_OK) {
            continue;
        }

        /* no memory for it; in a minute, perhaps */

        (void) ngx_lunary_outbox_remember(t, src->ino);
        ngx_lunary_outbox_free_source(src);

        (void) pthread_mutex_lock(&t->mutex);
        t->nadopted--;
        (void) pthread_mutex_unlock(&t->mutex);
    }

    if (ob->conf->sync == NGX_LUNARY_SYNC_ALWAYS || failed) {
        ngx_lunary_outbox_synced(ob, synced, failed);
    }

    ngx_lunary_outbox_schedule(ob);
}


/* a worker without a spool on disk removed one: the next one may have one */

static void
ngx_lunary_outbox_thread_room(ngx_lunary_outbox_t *ob,
    ngx_lunary_outbox_source_t *src)
{
    if (src->error
        || ob->own->spool.fd != -1
        || ob->room_logged
        || ngx_queue_last(&ob->sources) != ngx_queue_head(&ob->sources))
    {
        return;
    }

    ob->room_logged = 1;

    ngx_log_error(NGX_LOG_WARN, ob->log, 0,
                  "lunary: the spools of finished workers in \"%V\" were "
                  "sent and removed, while this worker's runs wait in memory: "
                  "reload, and it has a spool there again", &ob->conf->path);
}


static void *
ngx_lunary_outbox_thread_cycle(void *data)
{
    ngx_lunary_outbox_thread_t  *t = data;

    uint64_t         now, scanned, synced;
    struct timespec  until;

    scanned = 0;
    synced = 0;

    (void) pthread_mutex_lock(&t->mutex);

    while (!t->stop) {

        now = ngx_lunary_outbox_thread_now();

        if (t->jobs) {
            ngx_lunary_outbox_thread_jobs(t);
            continue;
        }

        if (t->want > t->synced
            && (t->conf->sync == NGX_LUNARY_SYNC_ALWAYS
                || now - synced >= 1000))
        {
            synced = now;
            ngx_lunary_outbox_thread_sync_own(t);
            continue;
        }

        if (now - scanned >= NGX_LUNARY_OUTBOX_SCAN_EVERY) {
            scanned = now;

            if (!ngx_lunary_outbox_thread_leaving()
                && t->nadopted < NGX_LUNARY_OUTBOX_MAX_ADOPTED)
            {
                (void) pthread_mutex_unlock(&t->mutex);
                ngx_lunary_outbox_thread_scan(t);
                (void) pthread_mutex_lock(&t->mutex);
                continue;
            }
        }

        now = scanned + NGX_LUNARY_OUTBOX_SCAN_EVERY;
        until.tv_sec = now / 1000;
        until.tv_nsec = (now % 1000) * 1000000;

        (void) pthread_cond_timedwait(&t->cond, &t->mutex, &until);
    }

    (void) pthread_mutex_unlock(&t->mutex);

    return NULL;
}


/* both are called, and return, with the mutex held */

static void
ngx_lunary_outbox_thread_sync_own(ngx_lunary_outbox_thread_t *t)
{
    int       err;
    uint64_t  want;

    want = t->want;

    (void) pthread_mutex_unlock(&t->mutex);

    err = (lunary_spool_sync(t->own) == -1) ? errno : 0;

    (void) pthread_mutex_lock(&t->mutex);

    t->synced = want;

    if (err) {
        t->failed = err;
    }

    if (err || t->conf->sync == NGX_LUNARY_SYNC_ALWAYS) {
        ngx_lunary_outbox_thread_tell(t);
    }
}


static void
ngx_lunary_outbox_thread_jobs(ngx_lunary_outbox_thread_t *t)
{
    ngx_lunary_outbox_source_t  *src;

    src = t->jobs;
    t->jobs = src->next;

    (void) pthread_mutex_unlock(&t->mutex);

    src->error = 0;

    if (src->life == NGX_LUNARY_OUTBOX_RETIRING) {

        /* a mark that does not reach the disk costs duplicates after a power
         * failure, no more */

        (void) lunary_spool_retire(&src->spool);

    } else {
        if (lunary_spool_unlink(&src->spool, t->dirfd) == -1) {
            src->error = errno;
            (void) ngx_lunary_outbox_remember(t, src->ino);
        }

        lunary_spool_close(&src->spool);
    }

    (void) pthread_mutex_lock(&t->mutex);

    src->next = t->done;
    t->done = src;

    ngx_lunary_outbox_thread_tell(t);
}


static void
ngx_lunary_outbox_thread_scan(ngx_lunary_outbox_thread_t *t)
{
    int             fd;
    DIR            *dir;
    size_t          len;
    ngx_uint_t      enough;
    struct dirent  *e;

    fd = openat(t->dirfd, ".", O_RDONLY|O_DIRECTORY|O_CLOEXEC);

    if (fd == -1) {
        return;
    }

    dir = fdopendir(fd);

    if (dir == NULL) {
        (void) close(fd);
        return;
    }

    while ((e = readdir(dir)) != NULL) {

        len = ngx_strlen(e->d_name);

        if (len == LUNARY_SPOOL_TMP_LEN
            && ngx_strcmp(e->d_name + 32, LUNARY_SPOOL_TMP_SUFFIX) == 0)
        {
            ngx_lunary_outbox_thread_leftover(t, e->d_name);
            continue;
        }

        if (len != LUNARY_SPOOL_NAME_LEN
            || ngx_strcmp(e->d_name + 32, LUNARY_SPOOL_SUFFIX) != 0
            || ngx_strcmp(e->d_name, t->own_name) == 0)
        {
            continue;
        }

        (void) pthread_mutex_lock(&t->mutex);
        enough = t->stop || t->nadopted >= NGX_LUNARY_OUTBOX_MAX_ADOPTED;
        (void) pthread_mutex_unlock(&t->mutex);

        if (enough) {
            break;
        }

        ngx_lunary_outbox_thread_try(t, e->d_name, e->d_ino);
    }

    (void) closedir(dir);
}


/* flags of nginx's loop and signals: an older value costs one scan more */

static ngx_uint_t
ngx_lunary_outbox_thread_leaving(void)
{
    return __atomic_load_n(&ngx_exiting, __ATOMIC_RELAXED)
           || __atomic_load_n(&ngx_quit, __ATOMIC_RELAXED)
           || __atomic_load_n(&ngx_terminate, __ATOMIC_RELAXED);
}


static void
ngx_lunary_outbox_thread_try(ngx_lunary_outbox_thread_t *t, const char *name,
    ino_t ino)
{
    lunary_spool_status_e        rc;
    ngx_lunary_outbox_source_t  *src;

    if (ngx_lunary_outbox_known(t, ino)) {
        return;
    }

    src = ngx_lunary_outbox_source(t->log);
    if (src == NULL) {
        return;
    }

    src->ino = ino;

    rc = lunary_spool_adopt(&src->spool, t->dirfd, name, t->target);

    if (rc == LUNARY_SPOOL_OK
        && src->spool.shards > NGX_LUNARY_OUTBOX_MAX_SHARDS)
    {
        /* none of ours */

        rc = LUNARY_SPOOL_NEWER;
    }

    if (rc == LUNARY_SPOOL_OK) {

        if (t->conf->sync != NGX_LUNARY_SYNC_OFF) {
            (void) lunary_spool_sync(&src->spool);
        }

        (void) pthread_mutex_lock(&t->mutex);

        src->next = t->adopted;
        t->adopted = src;
        t->nadopted++;

        ngx_lunary_outbox_thread_tell(t);

        (void) pthread_mutex_unlock(&t->mutex);

        return;
    }

    if (rc != LUNARY_SPOOL_BUSY && rc != LUNARY_SPOOL_GONE) {

        if (ngx_lunary_outbox_remember(t, ino)) {
            ngx_lunary_outbox_unusable(t, &src->spool, name, rc);
        }
    }

    ngx_lunary_outbox_free_source(src);
}


/* a file whose worker was killed while it was made */

static void
ngx_lunary_outbox_thread_leftover(ngx_lunary_outbox_thread_t *t,
    const char *name)
{
    int          fd;
    struct stat  st;

    fd = openat(t->dirfd, name, O_RDWR|O_NOFOLLOW|O_NONBLOCK|O_CLOEXEC);

    if (fd == -1) {
        return;
    }

    if (fstat(fd, &st) == 0
        && S_ISREG(st.st_mode)
        && st.st_uid == geteuid()
        && st.st_mtime + NGX_LUNARY_OUTBOX_TMP_AGE < time(NULL)
        && flock(fd, LOCK_EX|LOCK_NB) == 0)
    {
        (void) unlinkat(t->dirfd, name, 0);
    }

    (void) close(fd);
}


static void
ngx_lunary_outbox_thread_tell(ngx_lunary_outbox_thread_t *t)
{
    uint64_t  one;

    one = 1;

    if (write(t->event_fd, &one, sizeof(uint64_t)) == -1
        && errno != EAGAIN)
    {
        ngx_log_error(NGX_LOG_ALERT, t->log, errno, "write() failed");
    }
}


static uint64_t
ngx_lunary_outbox_thread_now(void)
{
    struct timespec  ts;

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}
