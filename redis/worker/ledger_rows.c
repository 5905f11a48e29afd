/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The ledger's rows: what a batch comes to for each user, as arguments of
 * ledger.lua, in the order in which it reads them.
 */

#include <stdlib.h>

#include "ledger_internal.h"


#define LW_BATCH_MODELS  16


static void lw_ledger_user(lw_ledger_t *l, size_t from, size_t to);
static void lw_ledger_models(lw_ledger_t *l, size_t from, size_t to);
static void lw_ledger_threads(lw_ledger_t *l, size_t from, size_t to);
static void lw_ledger_days(lw_ledger_t *l, size_t from, size_t to);
static void lw_ledger_sums(lw_ledger_t *l, const int64_t *sums,
    int64_t cost);


void
lw_ledger_users(lw_ledger_t *l, unsigned stream)
{
    size_t       i, k, n, m, spot;
    lw_share_t  *s, *first;

    spot = lw_put_later(l);

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

    lw_put_now(l, spot, (int64_t) n);
}


/* the row of one user: pick[from, to) */

static void
lw_ledger_user(lw_ledger_t *l, size_t from, size_t to)
{
    size_t       i, k;
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

    lw_put(l, s->app);
    lw_put(l, s->user);
    lw_put_int(l, verified);
    lw_put_int(l, first);
    lw_put_int(l, last);
    lw_ledger_sums(l, sums, cost);
    lw_ledger_models(l, from, to);
    lw_ledger_threads(l, from, to);
    lw_ledger_days(l, from, to);
}


static void
lw_ledger_sums(lw_ledger_t *l, const int64_t *sums, int64_t cost)
{
    size_t  k;

    for (k = 0; k < LW_SUMS; k++) {
        lw_put_int(l, sums[k]);
    }

    if (cost >= 0) {
        lw_put_int(l, cost);
    } else {
        lw_put(l, lunary_str(NULL, 0));
    }
}


static void
lw_ledger_models(lw_ledger_t *l, size_t from, size_t to)
{
    size_t         i, k, n, spot;
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

    spot = lw_put_later(l);

    for (k = 0; k < n; k++) {
        lw_put(l, names[k]);
        lw_put_int(l, runs[k]);
    }

    lw_put_now(l, spot, (int64_t) n);
}


static void
lw_ledger_threads(lw_ledger_t *l, size_t from, size_t to)
{
    size_t  i, n, spot;

    spot = lw_put_later(l);

    for (i = from, n = 0; i < to; i++) {

        if (l->pick[i]->thread.len
            && (i == from || !lw_str_same(l->pick[i - 1]->thread,
                                          l->pick[i]->thread)))
        {
            lw_put(l, l->pick[i]->thread);
            n++;
        }
    }

    lw_put_now(l, spot, (int64_t) n);
}


/* a batch is of one day, or of few: looked for one by one */

static void
lw_ledger_days(lw_ledger_t *l, size_t from, size_t to)
{
    char         date[11];
    size_t       i, k, m, n, spot;
    int64_t      day, next, cost, sums[LW_SUMS];
    lw_share_t  *s;

    spot = lw_put_later(l);
    n = 0;

    for (day = INT64_MIN; /* void */ ; day = next) {

        next = INT64_MAX;

        for (i = from; i < to; i++) {

            m = (size_t) l->pick[i]->first / 86400000;

            if ((int64_t) m > day && (int64_t) m < next) {
                next = (int64_t) m;
            }
        }

        if (next == INT64_MAX) {
            break;
        }

        memset(sums, 0, sizeof(sums));
        cost = -1;

        for (i = from; i < to; i++) {

            s = l->pick[i];

            if (s->first / 86400000 != next) {
                continue;
            }

            for (k = 0; k < LW_SUMS; k++) {
                sums[k] += s->sums[k];
            }

            if (s->cost >= 0) {
                cost = (cost < 0 ? 0 : cost) + s->cost;
            }
        }

        lw_date(date, next * 86400000);
        lw_put(l, lw_str(date));
        lw_ledger_sums(l, sums, cost);
        n++;
    }

    lw_put_now(l, spot, (int64_t) n);
}


/* an argument's bytes lie in args, spots say where each ends */

void
lw_put(lw_ledger_t *l, lunary_str_t s)
{
    void    *p;
    size_t   cap;

    lw_text_str(&l->args, s);

    if (l->nspots == l->cspots) {

        cap = l->cspots ? l->cspots * 2 : 1024;
        p = realloc(l->spots, cap * sizeof(*l->spots));

        if (p == NULL) {
            l->args.failed = 1;
            return;
        }

        l->spots = p;
        l->cspots = cap;
    }

    l->spots[l->nspots++] = l->args.buf.len;
}


void
lw_put_int(lw_ledger_t *l, int64_t n)
{
    lw_text_int(&l->args, n);
    lw_put(l, lunary_str(NULL, 0));
}


/* a count that is known behind its rows: ten digits, blanks in front */

size_t
lw_put_later(lw_ledger_t *l)
{
    lw_put(l, lw_str("         0"));

    return l->args.buf.len - 10;
}


void
lw_put_now(lw_ledger_t *l, size_t spot, int64_t n)
{
    char  digits[24];

    if (!l->args.failed) {
        (void) snprintf(digits, sizeof(digits), "%10lld", (long long) n);
        memcpy(l->args.buf.data + spot, digits, 10);
    }
}
