/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The file of a spool: making it, locking it, mapping it, taking it over.
 *
 * Invariants
 *   - a name ending in .spool appears only once head and size are on the disk
 *     and the lock is held;
 *   - files are opened by their name in one directory, never through a link,
 *     and used only where they are ours and nobody else's;
 *   - a file that cannot be read is never changed.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lunary_crc32c.h"
#include "lunary_spool.h"
#include "lunary_spool_format.h"


static void lunary_spool_init(lunary_spool_t *sp, size_t size);
static void lunary_spool_write_head(lunary_spool_t *sp,
    const unsigned char *id);
static lunary_spool_status_e lunary_spool_failed(lunary_spool_t *sp,
    const char *call, int err);


lunary_spool_status_e
lunary_spool_create(lunary_spool_t *sp, const lunary_spool_conf_t *conf)
{
    int     i, rc;
    char    tmp[LUNARY_SPOOL_NAME_LEN + 1];
    size_t  size;

    size = conf->size & ~(size_t) 4095;

    if (size < LUNARY_SPOOL_MIN_SIZE) {
        size = LUNARY_SPOOL_MIN_SIZE;
    }

    lunary_spool_init(sp, size);

    memcpy(&sp->epoch, conf->random + 16, 8);
    sp->generation = conf->generation;
    sp->shards = conf->shards;

    snprintf(sp->target, sizeof(sp->target), "%s", conf->target);

    for (i = 0; i < 16; i++) {
        snprintf(sp->name + 2 * i, 3, "%02x", conf->random[i]);
    }

    memcpy(tmp, sp->name, 32);
    memcpy(tmp + 32, LUNARY_SPOOL_TMP_SUFFIX,
           sizeof(LUNARY_SPOOL_TMP_SUFFIX));
    memcpy(sp->name + 32, LUNARY_SPOOL_SUFFIX, sizeof(LUNARY_SPOOL_SUFFIX));

    if (conf->dirfd == -1) {
        sp->base = mmap(NULL, size, PROT_READ|PROT_WRITE,
                        MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE, -1, 0);

        if (sp->base == MAP_FAILED) {
            sp->base = NULL;
            return lunary_spool_failed(sp, "mmap()", errno);
        }

        sp->mapped = size;
        lunary_spool_write_head(sp, conf->random);

        return LUNARY_SPOOL_OK;
    }

    sp->fd = openat(conf->dirfd, tmp,
                    O_RDWR|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC, 0600);

    if (sp->fd == -1) {
        return lunary_spool_failed(sp, "open()", errno);
    }

    if (flock(sp->fd, LOCK_EX|LOCK_NB) == -1) {
        rc = errno;
        (void) unlinkat(conf->dirfd, tmp, 0);
        return lunary_spool_failed(sp, "flock()", rc);
    }

    /* a hole in the file would be a SIGBUS on a full disk */

    rc = posix_fallocate(sp->fd, 0, (off_t) size);

    if (rc != 0) {
        (void) unlinkat(conf->dirfd, tmp, 0);
        return lunary_spool_failed(sp, "posix_fallocate()", rc);
    }

    sp->base = mmap(NULL, size, PROT_READ|PROT_WRITE, MAP_SHARED, sp->fd, 0);

    if (sp->base == MAP_FAILED) {
        rc = errno;
        sp->base = NULL;
        (void) unlinkat(conf->dirfd, tmp, 0);
        return lunary_spool_failed(sp, "mmap()", rc);
    }

    /*
     * a page that is written for the first time is read first: without this
     * the kernel reads ahead, which for a file of no contents means that it
     * clears as much as read_ahead_kb says, while the event loop waits
     */

    (void) madvise(sp->base, size, MADV_RANDOM);

    sp->mapped = size;
    lunary_spool_write_head(sp, conf->random);

    if (fsync(sp->fd) == -1
        || renameat(conf->dirfd, tmp, conf->dirfd, sp->name) == -1
        || fsync(conf->dirfd) == -1)
    {
        rc = errno;
        (void) unlinkat(conf->dirfd, tmp, 0);
        (void) unlinkat(conf->dirfd, sp->name, 0);
        return lunary_spool_failed(sp, "fsync()", rc);
    }

    return LUNARY_SPOOL_OK;
}


static void
lunary_spool_init(lunary_spool_t *sp, size_t size)
{
    memset(sp, 0, sizeof(lunary_spool_t));

    sp->fd = -1;
    sp->size = size;
    sp->piece = 1;
    sp->pieces[1].start = LUNARY_SPOOL_DATA;
    sp->pieces[1].seq = 1;
    sp->tail = LUNARY_SPOOL_DATA;
    sp->limit = size;
    sp->clear = size;
    sp->next_seq = 1;

    sp->first.seq = 1;
    sp->first.off = LUNARY_SPOOL_DATA;
    sp->first.piece = 1;
    sp->head = sp->first;
    sp->send = sp->first;

    sp->window = (size - LUNARY_SPOOL_DATA) / 4;

    if (sp->window > 4 * 1024 * 1024) {
        sp->window = 4 * 1024 * 1024;
    }

    sp->recent = malloc(LUNARY_SPOOL_RECENT * sizeof(lunary_spool_recent_t));

    sp->max_record = (size - LUNARY_SPOOL_DATA) / 4 - LUNARY_SPOOL_PREFIX;

    if (sp->max_record > LUNARY_SPOOL_MAX_RECORD) {
        sp->max_record = LUNARY_SPOOL_MAX_RECORD;
    }
}


static void
lunary_spool_write_head(lunary_spool_t *sp, const unsigned char *id)
{
    size_t          len;
    uint32_t        crc;
    unsigned char  *p;

    len = strlen(sp->target);
    p = sp->base;

    memset(p, 0, LUNARY_SPOOL_HEAD_LEN);
    memcpy(p, LUNARY_SPOOL_MAGIC, 8);
    lunary_spool_put(p + LUNARY_SPOOL_H_VERSION, 4, LUNARY_SPOOL_VERSION);
    lunary_spool_put(p + LUNARY_SPOOL_H_SIZE, 8, sp->size);
    lunary_spool_put(p + LUNARY_SPOOL_H_EPOCH, 8, sp->epoch);
    memcpy(p + LUNARY_SPOOL_H_ID, id, 16);
    lunary_spool_put(p + LUNARY_SPOOL_H_GENERATION, 8, sp->generation);
    lunary_spool_put(p + LUNARY_SPOOL_H_SHARDS, 4, sp->shards);
    lunary_spool_put(p + LUNARY_SPOOL_H_TARGET_LEN, 2, len);
    memcpy(p + LUNARY_SPOOL_H_TARGET, sp->target, len);

    crc = lunary_crc32c(0, p, LUNARY_SPOOL_HEAD_LEN);
    lunary_spool_put(p + LUNARY_SPOOL_H_CRC, 4, crc);

    memcpy(p + LUNARY_SPOOL_HEAD_COPY, p, LUNARY_SPOOL_HEAD_LEN);

    lunary_spool_hint(p, LUNARY_SPOOL_HINT_FLOOR, 1);
    lunary_spool_hint(p, LUNARY_SPOOL_HINT_ACKED, 0);
    lunary_spool_hint(p, LUNARY_SPOOL_HINT_RETIRED, 0);
    lunary_spool_hint(p, LUNARY_SPOOL_HINT_COUNTED, 0);
    lunary_spool_hint(p, LUNARY_SPOOL_HINT_RECOVERED, 0);
}


lunary_spool_status_e
lunary_spool_adopt(lunary_spool_t *sp, int dirfd, const char *name,
    const char *target)
{
    void                   *map;
    size_t                  size;
    struct stat             st, now;
    lunary_spool_status_e   rc;

    memset(sp, 0, sizeof(lunary_spool_t));

    sp->fd = openat(dirfd, name, O_RDWR|O_NOFOLLOW|O_NONBLOCK|O_CLOEXEC);

    if (sp->fd == -1) {
        if (errno == ENOENT) {
            return LUNARY_SPOOL_GONE;
        }

        if (errno == ELOOP || errno == EACCES || errno == EPERM
            || errno == EISDIR || errno == ENXIO)
        {
            return LUNARY_SPOOL_NOT_OURS;
        }

        return lunary_spool_failed(sp, "open()", errno);
    }

    if (fstat(sp->fd, &st) == -1) {
        return lunary_spool_failed(sp, "fstat()", errno);
    }

    if (!S_ISREG(st.st_mode)
        || st.st_uid != geteuid()
        || (st.st_mode & 077) != 0)
    {
        lunary_spool_close(sp);
        return LUNARY_SPOOL_NOT_OURS;
    }

    if (flock(sp->fd, LOCK_EX|LOCK_NB) == -1) {
        if (errno == EWOULDBLOCK) {
            lunary_spool_close(sp);
            return LUNARY_SPOOL_BUSY;
        }

        return lunary_spool_failed(sp, "flock()", errno);
    }

    /* between open() and flock() another may have drained and removed it */

    if (fstatat(dirfd, name, &now, AT_SYMLINK_NOFOLLOW) == -1
        || now.st_ino != st.st_ino
        || now.st_dev != st.st_dev
        || fstat(sp->fd, &st) == -1)
    {
        lunary_spool_close(sp);
        return LUNARY_SPOOL_GONE;
    }

    if (st.st_size < LUNARY_SPOOL_DATA
        || (uint64_t) st.st_size > LUNARY_SPOOL_MAX_SIZE)
    {
        lunary_spool_close(sp);
        return LUNARY_SPOOL_DAMAGED;
    }

    size = (size_t) st.st_size;

    map = mmap(NULL, size, PROT_READ|PROT_WRITE, MAP_SHARED, sp->fd, 0);

    if (map == MAP_FAILED) {
        return lunary_spool_failed(sp, "mmap()", errno);
    }

    sp->mapped = size;
    snprintf(sp->name, sizeof(sp->name), "%s", name);

    rc = lunary_spool_recover(sp, map, size, target);

    if (rc != LUNARY_SPOOL_OK) {
        sp->base = map;
        lunary_spool_close(sp);
        return rc;
    }

    return LUNARY_SPOOL_OK;
}


int
lunary_spool_sync(lunary_spool_t *sp)
{
    return (sp->fd == -1) ? 0 : fdatasync(sp->fd);
}


int
lunary_spool_retire(lunary_spool_t *sp)
{
    lunary_spool_hint(sp->base, LUNARY_SPOOL_HINT_RETIRED, 1);

    return (sp->fd == -1) ? 0 : msync(sp->base, 4096, MS_SYNC);
}


int
lunary_spool_unlink(lunary_spool_t *sp, int dirfd)
{
    return (sp->fd == -1) ? 0 : unlinkat(dirfd, sp->name, 0);
}


void
lunary_spool_close(lunary_spool_t *sp)
{
    if (sp->base && sp->mapped) {
        (void) munmap(sp->base, sp->mapped);
    }

    if (sp->fd != -1) {
        (void) close(sp->fd);
    }

    free(sp->index);
    free(sp->recent);

    sp->base = NULL;
    sp->mapped = 0;
    sp->index = NULL;
    sp->recent = NULL;
    sp->fd = -1;
}


static lunary_spool_status_e
lunary_spool_failed(lunary_spool_t *sp, const char *call, int err)
{
    lunary_spool_close(sp);

    sp->call = call;
    sp->err = err;

    return LUNARY_SPOOL_ERRNO;
}
