/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The spool's ring against a simple model, and against a loss of power: that
 * test keeps the image that was last synced and all the states since then,
 * makes a disk of arbitrary sectors (or pages) of each, and reads that.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "spool.h"
#include "upper.h"


#define RECORDS  200000


static void
crc_is_castagnoli(void **state)
{
    size_t                k, n;
    uint32_t              want;
    lunary_crc32c_e       most, is, before;
    static unsigned char  buf[5000];

    (void) state;

    before = LUNARY_CRC32C_BEST;

    for (most = 0; most <= LUNARY_CRC32C_BEST; most++) {

        is = lunary_crc32c_init(most);
        assert_true(is <= most);

        if (is == before) {
            continue;                    /* not for this processor */
        }

        before = is;
        print_message("implementation %d\n", (int) is);

        memset(buf, 0, 32);
        assert_int_equal(lunary_crc32c(0, buf, 32), 0x8a9136aa);
        memset(buf, 0xff, 32);
        assert_int_equal(lunary_crc32c(0, buf, 32), 0x62a8ab43);
        assert_int_equal(lunary_crc32c(0, "123456789", 9), 0xe3069283);

        for (n = 0; n < sizeof(buf); n++) {
            buf[n] = (unsigned char) rnd(256);
        }

        /* each length there is, and some of the long ones, in two pieces */

        for (n = 0; n < sizeof(buf); n += (n < 1100) ? 1 : 1 + rnd(20)) {

            (void) lunary_crc32c_init(LUNARY_CRC32C_TABLE);
            want = lunary_crc32c(0, buf, n);

            (void) lunary_crc32c_init(is);
            assert_int_equal(lunary_crc32c(0, buf, n), want);
            assert_false(upper_halves_in_use());

            k = rnd((unsigned) n + 1);
            assert_int_equal(lunary_crc32c(lunary_crc32c(0, buf, k), buf + k,
                                           n - k), want);
        }
    }

    (void) lunary_crc32c_init(LUNARY_CRC32C_BEST);
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
    assert_true(sp.piece > 100);
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


/* a Redis that is slow for long: what is full is full, and not in pieces */

static void
a_full_ring_is_used_well(void **state)
{
    int                    i, k;
    size_t                 n, least;
    uint64_t               acked;
    unsigned char         *p;
    lunary_spool_t         sp;
    lunary_spool_status_e  status;

    (void) state;

    create(&sp, -1, 16 * SIZE);

    acked = 0;
    least = sp.size;

    for (i = 0; i < 20000; i++) {

        for (k = 0; k < 1000; k++) {
            n = rnd(4) ? 20 + rnd(400) : rnd(16) ? 3000 + rnd(3000)
                                                 : sp.size / 32;
            p = lunary_spool_reserve(&sp, n, &status);

            if (p == NULL) {
                break;
            }

            memset(p, 'x', n);
            (void) lunary_spool_commit(&sp, n, 0, 1, 0, 0);
        }

        assert_true(k < 1000 || i == 0);

        if (i && sp.bytes < least) {
            least = sp.bytes;
        }

        acked += 1 + rnd(i % 100 ? 20 : 400);

        if (acked > lunary_spool_last(&sp)) {
            acked = lunary_spool_last(&sp);
        }

        (void) ack(&sp, acked);
    }

    assert_true(least > sp.size * 3 / 4);

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

    assert_true(max < sp.window * 5 / 4 + LUNARY_SPOOL_DATA + 60000);

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


/* what is at hand of a record is what its head in the ring says, and without
 * it nothing is missing */

static void
recent_heads_are_those_of_the_ring(void **state)
{
    int                     i, known;
    uint64_t                seq;
    lunary_spool_t          sp;
    lunary_spool_pos_t      pos, p;
    lunary_spool_record_t   rec, r;
    lunary_spool_recent_t  *recent;

    (void) state;

    memset(&rec, 0, sizeof(rec));
    memset(&r, 0, sizeof(r));

    create(&sp, -1, 64 * 1024 * 1024);

    for (known = 0; known < 2; known++) {

        for (i = 0; i < 2 * LUNARY_SPOOL_RECENT; i++) {
            assert_int_equal(append(&sp), 1);
        }

        /* some that are at hand, and some that are not any more */

        for (i = 0, pos = sp.send; lunary_spool_read(&sp, &pos, &rec); i++) {

            if (i % 7 == 0) {
                lunary_spool_refuse(&sp, &rec);
            }

            lunary_spool_next(&sp, &pos);
        }

        for (pos = sp.send, seq = sp.send.seq;
             lunary_spool_read(&sp, &pos, &rec);
             seq++)
        {
            assert_int_equal(rec.seq, seq);
            assert_int_equal(rec.refused, (seq - sp.send.seq) % 7 == 0);

            if (!rec.refused) {
                check(&rec);
            }

            recent = sp.recent;
            sp.recent = NULL;
            p = pos;

            assert_int_equal(lunary_spool_read(&sp, &p, &r), 1);
            assert_memory_equal(&r, &rec, sizeof(rec));
            lunary_spool_next(&sp, &p);

            sp.recent = recent;
            lunary_spool_next(&sp, &pos);
            assert_memory_equal(&p, &pos, sizeof(pos));
        }

        assert_int_equal(seq, sp.next_seq);

        /* the second time over those that were acknowledged */

        (void) ack(&sp, sp.next_seq - 1);
    }

    lunary_spool_close(&sp);
}


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


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(crc_is_castagnoli),
        cmocka_unit_test(ring_keeps_order_and_bytes),
        cmocka_unit_test(what_is_not_acknowledged_is_never_overwritten),
        cmocka_unit_test(a_full_ring_is_used_well),
        cmocka_unit_test(a_record_has_a_size_limit),
        cmocka_unit_test(an_idle_ring_rewinds),
        cmocka_unit_test(recent_heads_are_those_of_the_ring),
        cmocka_unit_test(power_loss_of_sectors),
        cmocka_unit_test(power_loss_of_pages)
    };

    seed = 20240229;

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
