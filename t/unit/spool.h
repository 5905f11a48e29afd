/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the tests of the spool share: records whose length and bytes follow
 * from their sequence, and a folder for the files.
 */

#ifndef LUNARY_UNIT_SPOOL_H
#define LUNARY_UNIT_SPOOL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../ngx_lunary_module/outbox/lunary_crc32c.h"
#include "../../ngx_lunary_module/outbox/lunary_spool.h"
#include "../../ngx_lunary_module/outbox/lunary_spool_format.h"


#define SIZE     (256 * 1024)
#define TARGET   "127.0.0.1:6379/0 lunary:runs"

static char  folder[64];
static int   dirfd_ = -1;


/* a generator of our own: the same everywhere */

static uint64_t  seed;

static inline uint32_t
rnd(uint32_t n)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;

    return (uint32_t) (seed >> 33) % n;
}


/* what is in record number seq: length and bytes follow from it */

static inline size_t
content_len(uint64_t seq)
{
    uint32_t  h;

    h = (uint32_t) (seq * 2654435761u) >> 8;

    return (h % 50 == 0) ? 20000 + h % 30000 : 1 + h % 3000;
}


static inline void
content(uint64_t seq, unsigned char *dst, size_t len)
{
    size_t  i;

    for (i = 0; i < len; i++) {
        dst[i] = (unsigned char) (seq * 31 + i * 7 + (i >> 8));
    }
}


static inline void
create(lunary_spool_t *sp, int dirfd, size_t size)
{
    int                  i;
    unsigned char        random[24];
    lunary_spool_conf_t  conf;

    for (i = 0; i < 24; i++) {
        random[i] = (unsigned char) rnd(256);
    }

    memset(&conf, 0, sizeof(conf));
    conf.dirfd = dirfd;
    conf.size = size;
    conf.target = TARGET;
    conf.shards = 1;
    conf.generation = 7;
    conf.random = random;

    assert_int_equal(lunary_spool_create(sp, &conf), LUNARY_SPOOL_OK);
}


/* appends the next record; 0 where there is no room */

static inline int
append(lunary_spool_t *sp)
{
    size_t                  len, more;
    uint64_t                seq;
    unsigned char          *p;
    lunary_spool_status_e   status;

    seq = sp->next_seq;
    len = content_len(seq);
    more = (seq % 3 == 0) ? 50 : 0;      /* reserved, written, not taken */

    p = lunary_spool_reserve(sp, len + more, &status);

    if (p == NULL) {
        assert_int_equal(status, LUNARY_SPOOL_FULL);
        return 0;
    }

    content(seq, p, len);
    memset(p + len, 0xee, more);

    assert_int_equal(lunary_spool_commit(sp, len, seq % 5 == 0, 3,
                                         (uint32_t) seq,
                                         1000 + (uint32_t) seq),
                     seq);
    return 1;
}


/* returns how many were acknowledged for the first time */

static inline uint64_t
ack(lunary_spool_t *sp, uint64_t seq)
{
    unsigned             i;
    uint64_t             n;
    lunary_spool_done_t  done;

    lunary_spool_ack(sp, seq, &done);
    lunary_spool_counted(sp);

    for (n = 0, i = 0; i < LUNARY_SPOOL_KINDS; i++) {
        n += done.sent[i] + done.refused[i];
        assert_true(sp->again[i] <= sp->unacked[i]);
    }

    return n;
}


static inline void
check(const lunary_spool_record_t *rec)
{
    size_t                len, n;
    static unsigned char  want[60000];

    len = content_len(rec->seq);

    assert_int_equal(rec->len, LUNARY_SPOOL_PREFIX + len);
    assert_int_equal(rec->fields, 3);
    assert_int_equal(rec->kind, rec->seq % 5 == 0);
    assert_int_equal(rec->hash, (uint32_t) rec->seq);
    assert_int_equal(rec->time, 1000 + (uint32_t) rec->seq);
    assert_memory_equal(rec->data, "$40\r\nLREC", 9);
    assert_memory_equal(rec->data + 45, "\r\n", 2);

    content(rec->seq, want, len);
    n = memcmp(want, rec->data + LUNARY_SPOOL_PREFIX, len);
    assert_int_equal(n, 0);
}


/* a folder for them */

static inline int
make_folder(void **state)
{
    (void) state;

    snprintf(folder, sizeof(folder), "/tmp/lunary-spool-XXXXXX");

    if (mkdtemp(folder) == NULL) {
        return -1;
    }

    dirfd_ = open(folder, O_RDONLY|O_DIRECTORY);

    return (dirfd_ == -1) ? -1 : 0;
}


static inline int
remove_folder(void **state)
{
    char  command[128];

    (void) state;

    close(dirfd_);
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);

    return system(command);
}


#endif /* LUNARY_UNIT_SPOOL_H */
