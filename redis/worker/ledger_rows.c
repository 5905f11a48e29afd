/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The ledger's rows: what a batch comes to for each user, as ledger.lua
 * reads it.
 */

#include <stdlib.h>

#include "ledger_internal.h"


#define LW_BATCH_MODELS  16
#define LW_DAY_MS        86400000LL


static void lw_ledger_user(lw_ledger_t *l, size_t from, size_t to);
static void lw_ledger_models(lw_ledger_t *l, size_t from, size_t to);
static void lw_ledger_threads(lw_ledger_t *l, size_t from, size_t to);
static void lw_ledger_days(lw_ledger_t *l, size_t from, size_t to);
static void lw_ledger_sums(lw_ledger_t *l, const int64_t *sums,
    int64_t cost);
static void lw_pack_length(unsigned char *p, size_t n);


void
lw_ledger_users(lw_ledger_t *l, unsigned stream)
{
    size_t       i, k, n, m, list;
    lw_share_t  *s, *first;

    list = lw_pack_list(&l->pack);

    /* order[] is by user; pick[] those of it that count here */

    for (i = 0, m = 0; i < l->n; i++) {

        s = &l->shares[l->order[i]];

        if (s->entry->stream == stream && s->counts && !s->lost) {
            l->pick[m++] = s;
        }
    }

    for (i = 0, n = 0; i < m; i = k, n++) {

        first = l->pick[i];

        for (k = i + 1; k < m; k++) {

            s = l->pick[k];

            if (s->who != first->who || !lw_str_same(s->user, first->user)
                || !lw_str_same(s->app, first->app))
            {
                break;
            }
        }

        lw_ledger_user(l, i, k);
    }

    lw_pack_end(&l->pack, list, n);
}


/* the row of one user: pick[from, to) */

static void
lw_ledger_user(lw_ledger_t *l, size_t from, size_t to)
{
    size_t       i, k, row;
    int64_t      first, last, cost, sums[LW_SUMS];
    unsigned     verified;
    lw_share_t  *s;

    memset(sums, 0, sizeof(sums));

    s = l->pick[from];
    first = s->first;
    last = s->last;
    cost = -1;
    verified = 0;

    for (i = from; i < to; i++) {

        s = l->pick[i];

        first = s->first < first ? s->first : first;
        last = s->last > last ? s->last : last;
        verified |= s->verified;

        for (k = 0; k < LW_SUMS; k++) {
            sums[k] += s->sums[k];
        }

        if (s->cost >= 0) {
            cost = (cost < 0 ? 0 : cost) + s->cost;
        }
    }

    row = lw_pack_list(&l->pack);

    lw_pack(&l->pack, s->app);
    lw_pack(&l->pack, s->user);
    lw_pack_int(&l->pack, verified);
    lw_pack_int(&l->pack, first);
    lw_pack_int(&l->pack, last);
    lw_ledger_sums(l, sums, cost);
    lw_ledger_models(l, from, to);
    lw_ledger_threads(l, from, to);
    lw_ledger_days(l, from, to);

    lw_pack_end(&l->pack, row, 9);
}


/* those that are not 0; a cost of 0 is known, too */

static void
lw_ledger_sums(lw_ledger_t *l, const int64_t *sums, int64_t cost)
{
    size_t  k, n, list;

    static const char *const  names[LW_SUMS] = {
        "runs", "errors", "aborted", "rejected", "input_tokens",
        "output_tokens", "unpriced_runs", "claimed_runs", "timed_runs",
        "duration_ms"
    };

    list = lw_pack_list(&l->pack);
    n = 0;

    for (k = 0; k < LW_SUMS; k++) {
        if (sums[k]) {
            lw_pack(&l->pack, lw_str(names[k]));
            lw_pack_int(&l->pack, sums[k]);
            n += 2;
        }
    }

    if (cost >= 0) {
        lw_pack(&l->pack, lw_str("cost_nano"));
        lw_pack_int(&l->pack, cost);
        n += 2;
    }

    lw_pack_end(&l->pack, list, n);
}


static void
lw_ledger_models(lw_ledger_t *l, size_t from, size_t to)
{
    size_t         i, k, n, list;
    int64_t        runs[LW_BATCH_MODELS];
    lunary_str_t   names[LW_BATCH_MODELS];

    for (i = from, n = 0; i < to; i++) {

        if (l->pick[i]->model.len == 0 || l->pick[i]->model.len > 256
            || l->pick[i]->sums[LW_SUM_RUNS] == 0)
        {
            continue;
        }

        for (k = 0; k < n; k++) {
            if (lw_str_same(names[k], l->pick[i]->model)) {
                break;
            }
        }

        if (k == n) {

            if (n == LW_BATCH_MODELS) {
                names[--k] = lw_str("(others)");

            } else {
                names[n] = l->pick[i]->model;
                runs[n++] = 0;
            }
        }

        runs[k]++;
    }

    list = lw_pack_list(&l->pack);

    for (k = 0; k < n; k++) {
        lw_pack(&l->pack, names[k]);
        lw_pack_int(&l->pack, runs[k]);
    }

    lw_pack_end(&l->pack, list, n * 2);
}


static void
lw_ledger_threads(lw_ledger_t *l, size_t from, size_t to)
{
    size_t  i, n, list;

    list = lw_pack_list(&l->pack);

    for (i = from, n = 0; i < to; i++) {

        if (l->pick[i]->thread.len
            && (i == from || !lw_str_same(l->pick[i - 1]->thread,
                                          l->pick[i]->thread)))
        {
            lw_pack(&l->pack, l->pick[i]->thread);
            n++;
        }
    }

    lw_pack_end(&l->pack, list, n);
}


/* a batch is of one day, or of few: looked for one by one */

static void
lw_ledger_days(lw_ledger_t *l, size_t from, size_t to)
{
    char         date[11];
    size_t       i, k, n, list, row, part;
    int64_t      day, next, cost, sums[LW_SUMS];
    lw_share_t  *s;

    list = lw_pack_list(&l->pack);
    n = 0;

    for (day = INT64_MIN; /* void */ ; day = next) {

        next = INT64_MAX;

        for (i = from; i < to; i++) {

            s = l->pick[i];

            if (s->first / LW_DAY_MS > day && s->first / LW_DAY_MS < next) {
                next = s->first / LW_DAY_MS;
            }
        }

        if (next == INT64_MAX) {
            break;
        }

        memset(sums, 0, sizeof(sums));
        cost = -1;
        part = 0;

        for (i = from; i < to; i++) {

            s = l->pick[i];

            if (s->first / LW_DAY_MS != next) {
                continue;
            }

            for (k = 0; k < LW_SUMS; k++) {
                sums[k] += s->sums[k];
            }

            if (s->cost >= 0) {
                cost = (cost < 0 ? 0 : cost) + s->cost;
            }

            part++;
        }

        lw_date(date, next * LW_DAY_MS);

        row = lw_pack_list(&l->pack);
        lw_pack(&l->pack, lw_str(date));

        if (part < to - from) {
            lw_ledger_sums(l, sums, cost);
        }

        lw_pack_end(&l->pack, row, part < to - from ? 2 : 1);
        n++;
    }

    lw_pack_end(&l->pack, list, n);
}


void
lw_pack(lw_text_t *t, lunary_str_t s)
{
    unsigned char  head[5];

    /* fixstr, else str 32: cmsgpack of Redis 6 knows all kinds */

    if (s.len < 32) {
        head[0] = (unsigned char) (0xa0 | s.len);
        lw_text_add(t, head, 1);

    } else {
        head[0] = 0xdb;
        lw_pack_length(head + 1, s.len);
        lw_text_add(t, head, 5);
    }

    lw_text_str(t, s);
}


void
lw_pack_int(lw_text_t *t, int64_t n)
{
    char  digits[24];
    int   len;

    len = snprintf(digits, sizeof(digits), "%lld", (long long) n);

    lw_pack(t, lunary_str(digits, (size_t) len));
}


size_t
lw_pack_list(lw_text_t *t)
{
    lw_text_add(t, "\xdd\0\0\0\0", 5);

    return t->buf.len - 4;
}


void
lw_pack_end(lw_text_t *t, size_t list, size_t n)
{
    if (!t->failed) {
        lw_pack_length(t->buf.data + list, n);
    }
}


static void
lw_pack_length(unsigned char *p, size_t n)
{
    p[0] = (unsigned char) (n >> 24);
    p[1] = (unsigned char) (n >> 16);
    p[2] = (unsigned char) (n >> 8);
    p[3] = (unsigned char) n;
}
