/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The spool: its ring against a simple model, its file against everything
 * that may have happened to it.  The power-loss test keeps the image that was
 * last synced and all the states since then, makes a disk of arbitrary
 * sectors (or pages) of each, and reads that.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

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
#define RECORDS  200000


static char  folder[64];
static int   dirfd_ = -1;


/* a generator of our own: the same everywhere */

static uint64_t  seed;

static uint32_t
rnd(uint32_t n)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;

    return (uint32_t) (seed >> 33) % n;
}


/* what is in record number seq: length and bytes follow from it */

static size_t
content_len(uint64_t seq)
{
    uint32_t  h;

    h = (uint32_t) (seq * 2654435761u) >> 8;

    return (h % 50 == 0) ? 20000 + h % 30000 : 1 + h % 3000;
}


static void
content(uint64_t seq, unsigned char *dst, size_t len)
{
    size_t  i;

    for (i = 0; i < len; i++) {
        dst[i] = (unsigned char) (seq * 31 + i * 7 + (i >> 8));
    }
}


static void
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

static int
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

static uint64_t
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


static void
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


static void
crc_is_castagnoli(void **state)
{
    int                   i, k;
    uint32_t              a, b;
    static unsigned char  buf[5000];

    (void) state;

    for (i = 0; i < 2; i++) {
        lunary_crc32c_init(i);

        memset(buf, 0, 32);
        assert_int_equal(lunary_crc32c(0, buf, 32), 0x8a9136aa);
        memset(buf, 0xff, 32);
        assert_int_equal(lunary_crc32c(0, buf, 32), 0x62a8ab43);
        assert_int_equal(lunary_crc32c(0, "123456789", 9), 0xe3069283);
    }

    for (i = 0; i < (int) sizeof(buf); i++) {
        buf[i] = (unsigned char) rnd(256);
    }

    for (i = 0; i < 300; i++) {
        k = (int) rnd(sizeof(buf));

        lunary_crc32c_init(0);
        a = lunary_crc32c(lunary_crc32c(0, buf, k / 3), buf + k / 3,
                          k - k / 3);
        lunary_crc32c_init(1);
        b = lunary_crc32c(0, buf, k);

        assert_int_equal(a, b);
    }

    lunary_crc32c_init(0);
}


/* any mix of appending, sending, acknowledging and going back */

static void
ring_keeps_order_and_bytes(void **state)
{
    int                     i;
    uint64_t                acked, sent, bytes, n, back, most, counted;
    lunary_spool_t          sp;
    lunary_spool_pos_t      pos;
    lunary_spool_record_t   rec;

    (void) state;

    create(&sp, -1, SIZE);

    acked = 0;
    sent = 0;
    most = 0;
    counted = 0;

    for (i = 0; i < RECORDS; i++) {

        switch (rnd(8)) {

        case 0: case 1: case 2: case 3:
            (void) append(&sp);
            break;

        case 4: case 5:
            for (n = rnd(20); n; n--) {
                if (!lunary_spool_read(&sp, &sp.send, &rec)) {
                    assert_int_equal(sent, lunary_spool_last(&sp));
                    break;
                }

                assert_int_equal(rec.seq, sent + 1);
                check(&rec);
                sent = rec.seq;
                lunary_spool_next(&sp, &sp.send);
            }
            break;

        case 6:
            acked += (sent > acked) ? rnd((uint32_t) (sent - acked) + 1) : 0;
            most = (acked > most) ? acked : most;
            counted += ack(&sp, acked);
            assert_int_equal(counted, most);
            assert_int_equal(lunary_spool_acked(&sp), acked);
            assert_int_equal(sp.head.seq, acked + 1);
            break;

        default:
            if (rnd(30)) {
                break;
            }

            back = rnd((uint32_t) acked + 1);
            n = lunary_spool_rewind(&sp, back);

            assert_true(sp.head.seq > back);
            assert_true(sp.head.seq <= acked + 1);
            assert_true(sp.head.seq == sp.first.seq
                        || sp.head.seq == back + 1);
            assert_int_equal(n, acked + 1 - sp.head.seq);

            acked = sp.head.seq - 1;
            sent = acked;
            break;
        }

        assert_true(sp.first.seq <= sp.head.seq);
        assert_true(sp.tail <= sp.size);
    }

    /* everything still there can be read, and adds up */

    pos = sp.first;
    bytes = 0;

    for (n = sp.first.seq; lunary_spool_read(&sp, &pos, &rec); n++) {
        assert_int_equal(rec.seq, n);
        check(&rec);
        bytes += (rec.seq > acked) ? rec.len : 0;
        lunary_spool_next(&sp, &pos);
    }

    assert_int_equal(n, sp.next_seq);
    assert_int_equal(bytes, sp.bytes);
    assert_true(sp.lap > 100);
    assert_int_equal(sp.unacked[0] + sp.unacked[1], sp.next_seq - 1 - acked);

    lunary_spool_close(&sp);
}


static void
what_is_not_acknowledged_is_never_overwritten(void **state)
{
    int                     n;
    lunary_spool_t          sp;
    lunary_spool_record_t   rec;

    (void) state;

    create(&sp, -1, SIZE);

    for (n = 0; append(&sp); n++) { /* void */ }

    assert_true(n > 50);

    /* room comes only with acknowledgements */

    assert_false(append(&sp));
    (void) ack(&sp, (uint64_t) n / 2);
    assert_true(append(&sp));

    while (append(&sp)) { /* void */ }

    while (lunary_spool_read(&sp, &sp.send, &rec)) {
        check(&rec);
        lunary_spool_next(&sp, &sp.send);
    }

    lunary_spool_close(&sp);
}


static void
a_record_has_a_size_limit(void **state)
{
    lunary_spool_t         sp;
    lunary_spool_status_e  status;

    (void) state;

    create(&sp, -1, SIZE);

    assert_non_null(lunary_spool_reserve(&sp, sp.max_record, &status));
    assert_null(lunary_spool_reserve(&sp, sp.max_record + 1, &status));
    assert_int_equal(status, LUNARY_SPOOL_TOO_LARGE);

    lunary_spool_close(&sp);
}


/* a spool that is not behind stays within its window */

static void
an_idle_ring_rewinds(void **state)
{
    int             i;
    size_t          max;
    lunary_spool_t  sp;

    (void) state;

    create(&sp, -1, 16 * SIZE);
    max = 0;

    for (i = 0; i < 20000; i++) {
        assert_true(append(&sp));
        (void) ack(&sp, lunary_spool_last(&sp));

        if (sp.tail > max) {
            max = sp.tail;
        }
    }

    assert_true(max < sp.window + LUNARY_SPOOL_DATA + 60000);

    /* and nearly as much of what was sent can be sent again */

    assert_true(lunary_spool_rewind(&sp, 0) > 300);
    assert_true(sp.bytes > sp.window - 60000);

    lunary_spool_close(&sp);
}


/* power failure */

typedef struct {
    unsigned char  *image[5];         /* [0] was synced                      */
    int             nimages;
    uint64_t        synced;           /* last sequence in it                 */
} disk_t;


static void
snapshot(disk_t *d, lunary_spool_t *sp, int synced)
{
    if (synced) {
        d->nimages = 0;
        d->synced = lunary_spool_last(sp);

    } else if (d->nimages == 5) {
        return;
    }

    memcpy(d->image[d->nimages++], sp->base, sp->size);
}


static void
lose_power(disk_t *d, lunary_spool_t *sp, size_t unit, unsigned char *image)
{
    size_t          off;
    unsigned        k, choice;
    unsigned char  *from;

    choice = rnd(4);

    for (off = 0; off < sp->size; off += unit) {

        /* often mostly old or mostly new: that is where seams are */

        k = (choice == 0) ? rnd((unsigned) d->nimages + 1)
            : (choice == 1) ? (rnd(20) ? 0 : rnd((unsigned) d->nimages + 1))
            : (choice == 2) ? (rnd(20) ? (unsigned) d->nimages : 0)
                            : rnd(2) * (unsigned) d->nimages;

        from = (k == (unsigned) d->nimages) ? sp->base : d->image[k];

        memcpy(image + off, from + off, unit);
    }
}


static void
power_loss(size_t unit)
{
    int                     i, k, found;
    disk_t                  d;
    uint64_t                acked, seq;
    unsigned char          *image;
    lunary_spool_t          sp, got;
    lunary_spool_pos_t      pos;
    lunary_spool_record_t   rec;
    lunary_spool_status_e   status;

    create(&sp, -1, SIZE);

    for (i = 0; i < 5; i++) {
        d.image[i] = malloc(SIZE);
        assert_non_null(d.image[i]);
    }

    image = malloc(SIZE);
    assert_non_null(image);

    acked = 0;
    snapshot(&d, &sp, 1);

    for (i = 0; i < 1500; i++) {

        for (k = (int) rnd(60); k; k--) {
            (void) append(&sp);
        }

        if (rnd(3) == 0) {
            acked += rnd((uint32_t) (lunary_spool_last(&sp) - acked) + 1);
            (void) ack(&sp, acked);
        }

        if (rnd(4) == 0) {
            snapshot(&d, &sp, 1);

        } else if (rnd(2)) {
            snapshot(&d, &sp, 0);
        }

        if (rnd(2)) {
            /* in the middle of a record */
            unsigned char *p = lunary_spool_reserve(&sp, 2000, &status);

            if (p) {
                memset(p, 'x', rnd(2001));
            }
        }

        lose_power(&d, &sp, unit, image);

        memset(&got, 0, sizeof(got));
        got.fd = -1;
        assert_int_equal(lunary_spool_recover(&got, image, SIZE, TARGET),
                         LUNARY_SPOOL_OK);

        /* nothing damaged, nothing that was never committed */

        pos = got.first;
        seq = acked + 1;
        found = 0;

        while (lunary_spool_read(&got, &pos, &rec)) {
            check(&rec);
            assert_true(rec.seq < sp.next_seq);

            /* every record that was synced and is still owed */

            if (rec.seq > acked && rec.seq <= d.synced) {
                assert_int_equal(rec.seq, seq);
                seq++;
                found++;
            }

            lunary_spool_next(&got, &pos);
        }

        if (d.synced > acked) {
            assert_int_equal(found, d.synced - acked);
        }

        got.base = NULL;
        lunary_spool_close(&got);
    }

    free(image);

    for (i = 0; i < 5; i++) {
        free(d.image[i]);
    }

    lunary_spool_close(&sp);
}


static void
power_loss_of_sectors(void **state)
{
    (void) state;
    power_loss(512);
}


static void
power_loss_of_pages(void **state)
{
    (void) state;
    power_loss(4096);
}


/* files */

static int
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


static int
remove_folder(void **state)
{
    char  command[128];

    (void) state;

    close(dirfd_);
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);

    return system(command);
}


/* as left by a killed worker: 100 records, 40 of them acknowledged */

static void
leave(lunary_spool_t *sp, char *name)
{
    int  i;

    create(sp, dirfd_, SIZE);

    for (i = 0; i < 60; i++) {
        assert_true(append(sp));
    }

    (void) ack(sp, 40);
    memcpy(name, sp->name, sizeof(sp->name));
}


static void
a_dead_workers_spool_is_found_whole(void **state)
{
    char                    name[LUNARY_SPOOL_NAME_LEN + 1];
    uint64_t                seq;
    lunary_spool_t          sp, got;
    lunary_spool_record_t   rec;

    (void) state;

    leave(&sp, name);
    lunary_spool_close(&sp);

    assert_int_equal(lunary_spool_adopt(&got, dirfd_, name, TARGET),
                     LUNARY_SPOOL_OK);
    assert_int_equal(got.head.seq, 41);
    assert_int_equal(got.unacked[0] + got.unacked[1], 20);
    assert_int_equal(got.missing, 0);
    assert_int_equal(got.generation, 7);
    assert_int_equal(got.retired, 0);

    for (seq = 41; lunary_spool_read(&got, &got.send, &rec); seq++) {
        assert_int_equal(rec.seq, seq);
        check(&rec);
        lunary_spool_next(&got, &got.send);
    }

    assert_int_equal(seq, 61);

    /* Redis went back: what was acknowledged is still there */

    assert_int_equal(lunary_spool_rewind(&got, 10), 30);
    assert_int_equal(got.head.seq, 11);

    assert_int_equal(lunary_spool_retire(&got), 0);
    lunary_spool_close(&got);

    assert_int_equal(lunary_spool_adopt(&got, dirfd_, name, TARGET),
                     LUNARY_SPOOL_OK);
    assert_int_equal(got.retired, 1);
    assert_true(lunary_spool_empty(&got));
    assert_int_equal(lunary_spool_unlink(&got, dirfd_), 0);
    lunary_spool_close(&got);

    assert_int_equal(lunary_spool_adopt(&got, dirfd_, name, TARGET),
                     LUNARY_SPOOL_GONE);
}


/* what was counted before stays so for who takes it over, wherever the
 * acknowledgements went back to */

static void
a_dead_workers_records_are_counted_once(void **state)
{
    char                    name[LUNARY_SPOOL_NAME_LEN + 1];
    lunary_spool_t          sp, got;
    lunary_spool_done_t     done;
    lunary_spool_record_t   rec;

    (void) state;

    leave(&sp, name);
    (void) lunary_spool_rewind(&sp, 20);
    assert_int_equal(ack(&sp, 25), 0);
    lunary_spool_close(&sp);

    assert_int_equal(lunary_spool_adopt(&got, dirfd_, name, TARGET),
                     LUNARY_SPOOL_OK);
    assert_int_equal(got.head.seq, 26);
    assert_int_equal(got.counted, 40);
    assert_int_equal(got.unacked[0] + got.unacked[1], 35);
    assert_int_equal(got.again[0] + got.again[1], 15);
    assert_int_equal(got.recovered, 0);

    lunary_spool_recovered(&got, 0x0102030405060708ull);
    assert_int_equal(ack(&got, 50), 10);

    /* one that is set aside is known, too */

    assert_true(lunary_spool_read(&got, &got.head, &rec));
    assert_int_equal(rec.refused, 0);
    lunary_spool_refuse(&got, &rec);
    lunary_spool_close(&got);

    assert_int_equal(lunary_spool_adopt(&got, dirfd_, name, TARGET),
                     LUNARY_SPOOL_OK);
    assert_int_equal(got.recovered, 0x0102030405060708ull);
    assert_int_equal(got.missing, 0);
    assert_int_equal(got.again[0] + got.again[1], 0);
    assert_true(lunary_spool_read(&got, &got.head, &rec));
    assert_int_equal(rec.seq, 51);
    assert_int_equal(rec.refused, 1);

    lunary_spool_ack(&got, 60, &done);
    assert_int_equal(done.sent[0] + done.sent[1], 9);
    assert_int_equal(done.refused[0] + done.refused[1], 1);

    assert_int_equal(lunary_spool_unlink(&got, dirfd_), 0);
    lunary_spool_close(&got);
}


static void
a_living_workers_spool_is_left_alone(void **state)
{
    char            name[LUNARY_SPOOL_NAME_LEN + 1];
    lunary_spool_t  sp, one, two;

    (void) state;

    leave(&sp, name);

    /* also from the same process */

    assert_int_equal(lunary_spool_adopt(&one, dirfd_, name, TARGET),
                     LUNARY_SPOOL_BUSY);

    lunary_spool_close(&sp);

    assert_int_equal(lunary_spool_adopt(&one, dirfd_, name, TARGET),
                     LUNARY_SPOOL_OK);
    assert_int_equal(lunary_spool_adopt(&two, dirfd_, name, TARGET),
                     LUNARY_SPOOL_BUSY);

    lunary_spool_close(&one);
}


static void
another_targets_spool_is_left_alone(void **state)
{
    char            name[LUNARY_SPOOL_NAME_LEN + 1];
    lunary_spool_t  sp, got;

    (void) state;

    leave(&sp, name);
    lunary_spool_close(&sp);

    assert_int_equal(lunary_spool_adopt(&got, dirfd_, name, "elsewhere"),
                     LUNARY_SPOOL_TARGET);
    assert_string_equal(got.target, TARGET);
    assert_int_equal(lunary_spool_adopt(&got, dirfd_, name, TARGET),
                     LUNARY_SPOOL_OK);
    lunary_spool_close(&got);
}


static void
links_and_loose_modes_are_refused(void **state)
{
    char            name[LUNARY_SPOOL_NAME_LEN + 1];
    lunary_spool_t  sp, got;

    (void) state;

    leave(&sp, name);
    lunary_spool_close(&sp);

    assert_int_equal(symlinkat(name, dirfd_, "link.spool"), 0);
    assert_int_equal(lunary_spool_adopt(&got, dirfd_, "link.spool", TARGET),
                     LUNARY_SPOOL_NOT_OURS);

    assert_int_equal(mkfifoat(dirfd_, "fifo.spool", 0600), 0);
    assert_int_equal(lunary_spool_adopt(&got, dirfd_, "fifo.spool", TARGET),
                     LUNARY_SPOOL_NOT_OURS);

    assert_int_equal(fchmodat(dirfd_, name, 0644, 0), 0);
    assert_int_equal(lunary_spool_adopt(&got, dirfd_, name, TARGET),
                     LUNARY_SPOOL_NOT_OURS);
}


/* an image that something happened to */

static unsigned char *
image_of_sixty(void)
{
    int              i;
    lunary_spool_t   sp;
    unsigned char   *image;

    create(&sp, -1, SIZE);

    for (i = 0; i < 60; i++) {
        assert_true(append(&sp));
    }

    image = malloc(SIZE);
    assert_non_null(image);
    memcpy(image, sp.base, SIZE);
    lunary_spool_close(&sp);

    return image;
}


static lunary_spool_status_e
recover(lunary_spool_t *got, unsigned char *image, size_t size)
{
    memset(got, 0, sizeof(*got));
    got->fd = -1;

    return lunary_spool_recover(got, image, size, TARGET);
}


static void
forget(lunary_spool_t *got)
{
    got->base = NULL;
    lunary_spool_close(got);
}


static void
a_damaged_head_has_a_copy(void **state)
{
    lunary_spool_t   got;
    unsigned char   *image;

    (void) state;

    image = image_of_sixty();

    memset(image, 0xaa, 500);
    assert_int_equal(recover(&got, image, SIZE), LUNARY_SPOOL_OK);
    assert_int_equal(got.nindex, 60);
    forget(&got);

    memset(image + LUNARY_SPOOL_HEAD_COPY, 0xaa, 500);
    assert_int_equal(recover(&got, image, SIZE), LUNARY_SPOOL_DAMAGED);

    free(image);
}


static void
a_newer_format_is_known_as_such(void **state)
{
    lunary_spool_t   got;
    unsigned char   *image;

    (void) state;

    image = image_of_sixty();
    image[LUNARY_SPOOL_H_VERSION] = LUNARY_SPOOL_VERSION + 1;

    assert_int_equal(recover(&got, image, SIZE), LUNARY_SPOOL_NEWER);

    free(image);
}


static void
a_truncated_file_keeps_what_is_left(void **state)
{
    size_t                  size;
    lunary_spool_t          got;
    unsigned char          *image;
    lunary_spool_record_t   rec;

    (void) state;

    image = image_of_sixty();

    for (size = LUNARY_SPOOL_DATA; size < SIZE; size += 1 + rnd(3000)) {

        assert_int_equal(recover(&got, image, size), LUNARY_SPOOL_OK);
        assert_true(got.truncated);

        while (lunary_spool_read(&got, &got.send, &rec)) {
            check(&rec);
            lunary_spool_next(&got, &got.send);
        }

        forget(&got);
    }

    free(image);
}


static void
noise_is_never_a_record(void **state)
{
    int                     i, k;
    lunary_spool_t          got;
    unsigned char          *image, *copy;
    lunary_spool_record_t   rec;

    (void) state;

    image = image_of_sixty();
    copy = malloc(SIZE);
    assert_non_null(copy);

    for (i = 0; i < 400; i++) {
        memcpy(copy, image, SIZE);

        for (k = (int) rnd(200); k >= 0; k--) {
            copy[LUNARY_SPOOL_DATA + rnd(SIZE - LUNARY_SPOOL_DATA)] =
                                                 (unsigned char) rnd(256);
        }

        assert_int_equal(recover(&got, copy, SIZE), LUNARY_SPOOL_OK);

        while (lunary_spool_read(&got, &got.send, &rec)) {
            check(&rec);
            lunary_spool_next(&got, &got.send);
        }

        forget(&got);
    }

    /* and noise alone is no spool, heads or not */

    for (i = 0; i < SIZE; i++) {
        copy[i] = (unsigned char) rnd(256);
    }

    assert_int_equal(recover(&got, copy, SIZE), LUNARY_SPOOL_DAMAGED);

    memcpy(copy, image, LUNARY_SPOOL_DATA);
    assert_int_equal(recover(&got, copy, SIZE), LUNARY_SPOOL_OK);
    assert_int_equal(got.nindex, 0);
    forget(&got);

    free(image);
    free(copy);
}


/* what a client writes into its text is text: it does not know the epoch */

static void
a_record_inside_a_record_is_text(void **state)
{
    lunary_spool_t          a, b, got;
    unsigned char          *p, *image;
    lunary_spool_record_t   rec;
    lunary_spool_status_e   status;

    (void) state;

    create(&a, -1, SIZE);
    assert_true(append(&a));
    assert_int_equal(lunary_spool_read(&a, &a.send, &rec), 1);

    create(&b, -1, SIZE);
    p = lunary_spool_reserve(&b, rec.len, &status);
    assert_non_null(p);
    memcpy(p, rec.data, rec.len);
    (void) lunary_spool_commit(&b, rec.len, 0, 1, 0, 0);

    /* the outer one is damaged, so the search looks inside it */

    image = malloc(SIZE);
    assert_non_null(image);
    memcpy(image, b.base, SIZE);
    image[LUNARY_SPOOL_DATA + 20] ^= 1;

    assert_int_equal(recover(&got, image, SIZE), LUNARY_SPOOL_OK);
    assert_int_equal(got.nindex, 0);
    forget(&got);

    free(image);
    lunary_spool_close(&a);
    lunary_spool_close(&b);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(crc_is_castagnoli),
        cmocka_unit_test(ring_keeps_order_and_bytes),
        cmocka_unit_test(what_is_not_acknowledged_is_never_overwritten),
        cmocka_unit_test(a_record_has_a_size_limit),
        cmocka_unit_test(an_idle_ring_rewinds),
        cmocka_unit_test(power_loss_of_sectors),
        cmocka_unit_test(power_loss_of_pages),
        cmocka_unit_test(a_damaged_head_has_a_copy),
        cmocka_unit_test(a_newer_format_is_known_as_such),
        cmocka_unit_test(a_truncated_file_keeps_what_is_left),
        cmocka_unit_test(noise_is_never_a_record),
        cmocka_unit_test(a_record_inside_a_record_is_text),
        cmocka_unit_test(a_dead_workers_spool_is_found_whole),
        cmocka_unit_test(a_dead_workers_records_are_counted_once),
        cmocka_unit_test(a_living_workers_spool_is_left_alone),
        cmocka_unit_test(another_targets_spool_is_left_alone),
        cmocka_unit_test(links_and_loose_modes_are_refused)
    };

    seed = 20240229;

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
