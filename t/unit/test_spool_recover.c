/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Reading a spool that somebody left: the file of a killed worker, and images
 * that something happened to.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "spool.h"


/* as left by a killed worker: 60 records, 40 of them acknowledged */

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
