/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Counters of all workers in shared memory.  See ngx_lunary_stats.h; the page
 * that shows them is ngx_lunary_stats_page.c.
 *
 * The zone holds a head (names of APIs, pointers to slots) and slots, each on
 * pages of its own, so that no two workers ever write to one cache line.  A
 * slot is never given back: its counters go on counting for the next owner,
 * who is found by the liveness of its process.  Reload keeps the zone (same
 * name, tag and size), so old and new workers count side by side.
 *
 * Invariants
 *   - one writer a slot, so adding is a plain addition; only in the spare
 *     slot, for workers that found none, it is an atomic one;
 *   - the mutex is taken when a worker starts or ends, adopts a spool, or sees
 *     an API for the first time, never by the adding or by reading;
 *   - the slot of a killed worker whose plan waits for its spool is not taken
 *     over before that is resolved.
 *
 * A process that is killed stops between two instructions: what it stored
 * before is there for others, in the order of the program.  So the plan needs
 * the compiler to keep that order, and nothing of the processor.
 */

#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_lunary_stats_internal.h"


#define NGX_LUNARY_STATS_WORDS                                                \
    (sizeof(ngx_lunary_stats_values_t) / sizeof(ngx_atomic_t))


typedef struct {
    volatile ngx_pid_t         pid;          /* the owner's, 0: free */
    volatile int64_t           gauge[NGX_LUNARY_G_MAX];
    ngx_lunary_stats_plan_t    plan;
    ngx_uint_t                 forgetful;    /* and had kept, at its start:  */
    ngx_atomic_uint_t          runs;
    ngx_atomic_uint_t          events;
    ngx_lunary_stats_values_t  values;
} ngx_lunary_stats_slot_t;


#define ngx_lunary_stats_in_order()  __atomic_signal_fence(__ATOMIC_SEQ_CST)


/* the numbers of slots and names only grow, after what they count is there */

typedef struct {
    ngx_uint_t                 layout;
    ngx_atomic_t               nslots;
    ngx_atomic_t               napis;
    ngx_lunary_stats_slot_t   *spare;
    ngx_lunary_stats_slot_t   *slot[NGX_LUNARY_STATS_SLOTS];
    ngx_lunary_stats_api_t     api[NGX_LUNARY_STATS_APIS];
} ngx_lunary_stats_sh_t;


static ngx_int_t ngx_lunary_stats_init_zone(ngx_shm_zone_t *shm_zone,
    void *data);
static ngx_shm_zone_t *ngx_lunary_stats_find(ngx_cycle_t *cycle);
static ngx_lunary_stats_slot_t *ngx_lunary_stats_take(ngx_slab_pool_t *shpool,
    ngx_lunary_stats_sh_t *sh, ngx_log_t *log);
static ngx_uint_t ngx_lunary_stats_alive(ngx_pid_t pid);
static ngx_inline void ngx_lunary_stats_carry_out(
    ngx_lunary_stats_slot_t *slot);
static void ngx_lunary_stats_bury(ngx_lunary_stats_slot_t *slot);
static ngx_atomic_uint_t ngx_lunary_stats_kept_runs(
    ngx_lunary_stats_slot_t *slot);
static ngx_atomic_uint_t ngx_lunary_stats_kept_events(
    ngx_lunary_stats_slot_t *slot);
static ngx_inline void ngx_lunary_stats_bump(ngx_atomic_t *word,
    ngx_atomic_uint_t n);
static ngx_int_t ngx_lunary_stats_api(ngx_str_t *api);
static ngx_int_t ngx_lunary_stats_new_api(ngx_str_t *api);
static void ngx_lunary_stats_observe(ngx_str_t *api,
    ngx_lunary_histogram_e h, ngx_msec_t ms);


#define NGX_LUNARY_STATS_SUM  0
#define NGX_LUNARY_STATS_MAX  1

#define NGX_LUNARY_STATS_GAUGE(sym, metric, how)                              \
    { metric, NGX_LUNARY_STATS_##how },

ngx_lunary_stats_gauge_t  ngx_lunary_stats_gauges[] = {
    NGX_LUNARY_GAUGES(NGX_LUNARY_STATS_GAUGE)
};


/* upper bounds of a histogram's buckets */

static ngx_msec_t  ngx_lunary_stats_bounds[] = {
    10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 20000, 30000, 60000,
    120000, 300000, 600000
};


/* where nobody reads: the master, helpers, a worker before its start */
static ngx_lunary_stats_slot_t   ngx_lunary_stats_nowhere;

/* a worker's own; the zone is that of its cycle, as a configuration that was
 * refused leaves nothing behind */

static ngx_lunary_stats_slot_t  *ngx_lunary_stats_slot =
                                     &ngx_lunary_stats_nowhere;
static ngx_shm_zone_t           *ngx_lunary_stats_shm;
static ngx_uint_t                ngx_lunary_stats_shared;


ngx_int_t
ngx_lunary_stats_zone(ngx_conf_t *cf, void *tag)
{
    size_t           slot, size;
    ngx_str_t        name;
    ngx_shm_zone_t  *zone;

    ngx_str_set(&name, "lunary_stats");

    slot = ngx_align(sizeof(ngx_lunary_stats_slot_t), ngx_pagesize);

    /* a slot a worker and the spare one; the slab's own pages, the head */

    size = (NGX_LUNARY_STATS_SLOTS + 1) * slot;
    size += size / 64 + ngx_align(sizeof(ngx_lunary_stats_sh_t), ngx_pagesize)
            + 8 * ngx_pagesize;

    zone = ngx_shared_memory_add(cf, &name, size, tag);
    if (zone == NULL) {
        return NGX_ERROR;
    }

    zone->init = ngx_lunary_stats_init_zone;

    return NGX_OK;
}


static ngx_int_t
ngx_lunary_stats_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_uint_t              layout;
    ngx_slab_pool_t        *shpool;
    ngx_lunary_stats_sh_t  *sh;

    layout = (sizeof(ngx_lunary_stats_slot_t) << 8) + NGX_LUNARY_C_MAX;

    if (data != NULL) {
        sh = data;

        if (sh->layout != layout) {
            ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                          "the module has changed: zone \"%V\" cannot be kept "
                          "by a reload, restart nginx", &shm_zone->shm.name);
            return NGX_ERROR;
        }

        shm_zone->data = data;
        return NGX_OK;
    }

    shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    sh = ngx_slab_calloc(shpool, sizeof(ngx_lunary_stats_sh_t));
    if (sh == NULL) {
        return NGX_ERROR;
    }

    sh->spare = ngx_slab_calloc(shpool, sizeof(ngx_lunary_stats_slot_t));
    if (sh->spare == NULL) {
        return NGX_ERROR;
    }

    sh->layout = layout;

    shpool->data = sh;
    shpool->log_nomem = 0;

    shm_zone->data = sh;

    return NGX_OK;
}


void
ngx_lunary_stats_init(ngx_cycle_t *cycle)
{
    ngx_slab_pool_t        *shpool;
    ngx_lunary_stats_sh_t  *sh;

    ngx_lunary_stats_shm = ngx_lunary_stats_find(cycle);

    if (ngx_lunary_stats_shm == NULL) {
        return;
    }

    sh = ngx_lunary_stats_shm->data;
    shpool = (ngx_slab_pool_t *) ngx_lunary_stats_shm->shm.addr;

    ngx_shmtx_lock(&shpool->mutex);

    ngx_lunary_stats_slot = ngx_lunary_stats_take(shpool, sh, cycle->log);

    ngx_shmtx_unlock(&shpool->mutex);

    ngx_lunary_stats_shared = (ngx_lunary_stats_slot == sh->spare);

    if (ngx_lunary_stats_shared) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "more than %d workers: this one has no counters of its "
                      "own and its gauges are not shown",
                      NGX_LUNARY_STATS_SLOTS);
    }
}


static ngx_shm_zone_t *
ngx_lunary_stats_find(ngx_cycle_t *cycle)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_shm_zone_t   *zone;

    part = (ngx_list_part_t *) &cycle->shared_memory.part;
    zone = part->elts;

    for (i = 0; /* void */ ; i++) {

        if (i >= part->nelts) {

            if (part->next == NULL) {
                return NULL;
            }

            part = part->next;
            zone = part->elts;
            i = 0;
        }

        if (zone[i].init == ngx_lunary_stats_init_zone && zone[i].data) {
            return &zone[i];
        }
    }
}


void
ngx_lunary_stats_exit(ngx_cycle_t *cycle)
{
    ngx_slab_pool_t          *shpool;
    ngx_lunary_stats_slot_t  *slot;

    slot = ngx_lunary_stats_slot;

    if (slot == &ngx_lunary_stats_nowhere || ngx_lunary_stats_shared) {
        return;
    }

    shpool = (ngx_slab_pool_t *) ngx_lunary_stats_shm->shm.addr;

    ngx_shmtx_lock(&shpool->mutex);

    ngx_memzero((void *) slot->gauge, sizeof(slot->gauge));
    slot->forgetful = 0;
    slot->pid = 0;

    ngx_shmtx_unlock(&shpool->mutex);

    ngx_lunary_stats_slot = &ngx_lunary_stats_nowhere;
}


/* the slot of nobody or of a dead worker, a new one, or the spare one */

static ngx_lunary_stats_slot_t *
ngx_lunary_stats_take(ngx_slab_pool_t *shpool, ngx_lunary_stats_sh_t *sh,
    ngx_log_t *log)
{
    ngx_uint_t                i;
    ngx_lunary_stats_slot_t  *slot, *found;

    found = NULL;

    for (i = 0; i < sh->nslots; i++) {
        slot = sh->slot[i];

        if (slot->pid != 0) {

            if (slot->pid != ngx_pid && ngx_lunary_stats_alive(slot->pid)) {
                continue;
            }

            ngx_lunary_stats_bury(slot);
        }

        if (slot->plan.when != NGX_LUNARY_STATS_NOTHING || found) {
            continue;
        }

        found = slot;

        ngx_log_debug2(NGX_LOG_DEBUG_CORE, log, 0,
                       "lunary stats slot %ui of process %P", i, slot->pid);

        ngx_memzero((void *) slot->gauge, sizeof(slot->gauge));
        slot->pid = ngx_pid;
    }

    if (found) {
        return found;
    }

    if (sh->nslots == NGX_LUNARY_STATS_SLOTS) {
        return sh->spare;
    }

    slot = ngx_slab_calloc_locked(shpool, sizeof(ngx_lunary_stats_slot_t));
    if (slot == NULL) {
        return sh->spare;
    }

    slot->pid = ngx_pid;

    sh->slot[sh->nslots] = slot;

    ngx_memory_barrier();

    sh->nslots++;

    return slot;
}


static ngx_uint_t
ngx_lunary_stats_alive(ngx_pid_t pid)
{
    return kill(pid, 0) == 0 || ngx_errno != NGX_ESRCH;
}


void
ngx_lunary_stats_plan(ngx_lunary_counter_e c, ngx_uint_t n)
{
    ngx_lunary_stats_plan_t    *plan;
    ngx_lunary_stats_change_t  *change;

    if (n == 0) {
        return;
    }

    if (ngx_lunary_stats_shared) {
        ngx_lunary_stats_add(c, n);
        return;
    }

    plan = &ngx_lunary_stats_slot->plan;

    change = &plan->change[plan->n++];

    change->counter = c;
    change->value = ngx_lunary_stats_slot->values.counter[c] + n;
}


void
ngx_lunary_stats_begin(ngx_lunary_stats_when_e when, uint64_t epoch,
    uint64_t seq)
{
    ngx_lunary_stats_plan_t  *plan;

    if (ngx_lunary_stats_shared) {
        return;
    }

    plan = &ngx_lunary_stats_slot->plan;

    plan->epoch = epoch;
    plan->seq = seq;

    ngx_lunary_stats_in_order();

    plan->when = when;

    ngx_lunary_stats_in_order();
}


void
ngx_lunary_stats_end(void)
{
    ngx_lunary_stats_in_order();

    ngx_lunary_stats_carry_out(ngx_lunary_stats_slot);
}


static ngx_inline void
ngx_lunary_stats_carry_out(ngx_lunary_stats_slot_t *slot)
{
    ngx_uint_t                i;
    ngx_lunary_stats_plan_t  *plan;

    plan = &slot->plan;

    for (i = 0; i < plan->n; i++) {
        slot->values.counter[plan->change[i].counter] = plan->change[i].value;
    }

    ngx_lunary_stats_in_order();

    plan->when = NGX_LUNARY_STATS_NOTHING;

    ngx_lunary_stats_in_order();

    plan->n = 0;
}


void
ngx_lunary_stats_resolve(uint64_t epoch, uint64_t appended, uint64_t counted,
    uint64_t recovered)
{
    ngx_uint_t                i, done;
    ngx_slab_pool_t          *shpool;
    ngx_lunary_stats_sh_t    *sh;
    ngx_lunary_stats_plan_t  *plan;

    if (ngx_lunary_stats_shm == NULL) {
        return;
    }

    sh = ngx_lunary_stats_shm->data;
    shpool = (ngx_slab_pool_t *) ngx_lunary_stats_shm->shm.addr;

    ngx_shmtx_lock(&shpool->mutex);

    for (i = 0; i < sh->nslots; i++) {
        plan = &sh->slot[i]->plan;

        switch (plan->when) {

        case NGX_LUNARY_STATS_APPENDED:
            done = (plan->seq <= appended);
            break;

        case NGX_LUNARY_STATS_COUNTED:
            done = (plan->seq <= counted);
            break;

        case NGX_LUNARY_STATS_RECOVERED:
            done = (plan->seq == recovered);
            break;

        default:
            continue;
        }

        /* a living worker's plan is about a spool that it has locked */

        if (plan->epoch != epoch) {
            continue;
        }

        if (!done) {
            plan->n = 0;
        }

        ngx_lunary_stats_carry_out(sh->slot[i]);
    }

    ngx_shmtx_unlock(&shpool->mutex);
}


/* the slot of a killed worker: what can be settled without its spool */

static void
ngx_lunary_stats_bury(ngx_lunary_stats_slot_t *slot)
{
    ngx_uint_t                i, n;
    ngx_lunary_stats_plan_t  *plan;

    plan = &slot->plan;

    if (plan->when == NGX_LUNARY_STATS_NOTHING) {

        /* killed while it planned */

        plan->n = 0;

    } else if (plan->when == NGX_LUNARY_STATS_ANYWAY) {
        ngx_lunary_stats_carry_out(slot);
    }

    if (!slot->forgetful) {
        return;
    }

    n = ngx_lunary_stats_kept_runs(slot) - slot->runs;
    i = ngx_lunary_stats_kept_events(slot) - slot->events;

    slot->values.counter[NGX_LUNARY_C_DROPPED_EXIT] += n;
    slot->values.counter[NGX_LUNARY_C_EVENTS_DROPPED] += i;

    slot->forgetful = 0;
}


void
ngx_lunary_stats_forgetful(void)
{
    ngx_lunary_stats_slot_t  *slot;

    slot = ngx_lunary_stats_slot;

    if (ngx_lunary_stats_shared) {
        return;
    }

    slot->runs = ngx_lunary_stats_kept_runs(slot);
    slot->events = ngx_lunary_stats_kept_events(slot);

    ngx_lunary_stats_in_order();

    slot->forgetful = 1;
}


/* what was counted in a slot and neither sent nor dropped */

static ngx_atomic_uint_t
ngx_lunary_stats_kept_runs(ngx_lunary_stats_slot_t *slot)
{
    ngx_uint_t          i;
    ngx_atomic_t       *counter;
    ngx_atomic_uint_t   n;

    counter = slot->values.counter;
    n = counter[NGX_LUNARY_C_RUNS_RECOVERED] - counter[NGX_LUNARY_C_RUNS_SENT];

    for (i = NGX_LUNARY_C_RUNS_OK; i <= NGX_LUNARY_C_RUNS_TIMEOUT; i++) {
        n += counter[i];
    }

    for (i = NGX_LUNARY_C_DROPPED_FULL; i <= NGX_LUNARY_C_DROPPED_EXIT; i++) {
        n -= counter[i];
    }

    return n;
}


static ngx_atomic_uint_t
ngx_lunary_stats_kept_events(ngx_lunary_stats_slot_t *slot)
{
    ngx_atomic_t  *counter;

    counter = slot->values.counter;

    return counter[NGX_LUNARY_C_EVENTS]
           + counter[NGX_LUNARY_C_EVENTS_RECOVERED]
           - counter[NGX_LUNARY_C_EVENTS_SENT]
           - counter[NGX_LUNARY_C_EVENTS_DROPPED];
}


void
ngx_lunary_stats_add(ngx_lunary_counter_e c, ngx_uint_t n)
{
    ngx_lunary_stats_bump(&ngx_lunary_stats_slot->values.counter[c], n);
}


void
ngx_lunary_stats_set(ngx_lunary_gauge_e g, int64_t value)
{
    if (!ngx_lunary_stats_shared) {
        ngx_lunary_stats_slot->gauge[g] = value;
    }
}


static ngx_inline void
ngx_lunary_stats_bump(ngx_atomic_t *word, ngx_atomic_uint_t n)
{
    if (ngx_lunary_stats_shared) {
        (void) ngx_atomic_fetch_add(word, n);
        return;
    }

    *word += n;
}


void
ngx_lunary_stats_usage_missing(ngx_str_t *api)
{
    ngx_int_t  i;

    i = ngx_lunary_stats_api(api);

    if (i != NGX_ERROR) {
        ngx_lunary_stats_bump(&ngx_lunary_stats_slot->values.missing[i], 1);
    }
}


void
ngx_lunary_stats_duration(ngx_str_t *api, ngx_msec_t ms)
{
    ngx_lunary_stats_observe(api, NGX_LUNARY_H_DURATION, ms);
}


void
ngx_lunary_stats_ttft(ngx_str_t *api, ngx_msec_t ms)
{
    ngx_lunary_stats_observe(api, NGX_LUNARY_H_TTFT, ms);
}


static void
ngx_lunary_stats_observe(ngx_str_t *api, ngx_lunary_histogram_e h,
    ngx_msec_t ms)
{
    ngx_int_t                      i;
    ngx_uint_t                     b;
    ngx_lunary_stats_histogram_t  *histogram;

    i = ngx_lunary_stats_api(api);

    if (i == NGX_ERROR) {
        return;
    }

    for (b = 0; b < NGX_LUNARY_STATS_BOUNDS; b++) {
        if (ms <= ngx_lunary_stats_bounds[b]) {
            break;
        }
    }

    histogram = &ngx_lunary_stats_slot->values.histogram[i][h];

    ngx_lunary_stats_bump(&histogram->bucket[b], 1);
    ngx_lunary_stats_bump(&histogram->sum, ms);
}


/* the index of an API's name, or NGX_ERROR where nothing is counted */

static ngx_int_t
ngx_lunary_stats_api(ngx_str_t *api)
{
    ngx_uint_t               i;
    ngx_lunary_stats_sh_t   *sh;
    ngx_lunary_stats_api_t  *a;

    if (ngx_lunary_stats_slot == &ngx_lunary_stats_nowhere
        || api->len == 0 || api->len > NGX_LUNARY_STATS_API_LEN)
    {
        return NGX_ERROR;
    }

    sh = ngx_lunary_stats_shm->data;

    for (i = 0; i < sh->napis; i++) {
        a = &sh->api[i];

        if (a->len == api->len
            && ngx_memcmp(a->name, api->data, api->len) == 0)
        {
            return i;
        }
    }

    return ngx_lunary_stats_new_api(api);
}


static ngx_int_t
ngx_lunary_stats_new_api(ngx_str_t *api)
{
    ngx_int_t                i, n;
    ngx_slab_pool_t         *shpool;
    ngx_lunary_stats_sh_t   *sh;
    ngx_lunary_stats_api_t  *a;

    sh = ngx_lunary_stats_shm->data;
    shpool = (ngx_slab_pool_t *) ngx_lunary_stats_shm->shm.addr;

    ngx_shmtx_lock(&shpool->mutex);

    /* another worker may have been here first */

    n = sh->napis;

    for (i = 0; i < n; i++) {
        a = &sh->api[i];

        if (a->len == api->len
            && ngx_memcmp(a->name, api->data, api->len) == 0)
        {
            goto done;
        }
    }

    if (n == NGX_LUNARY_STATS_APIS) {
        i = NGX_ERROR;
        goto done;
    }

    a = &sh->api[n];

    ngx_memcpy(a->name, api->data, api->len);
    a->len = (u_char) api->len;

    ngx_memory_barrier();

    sh->napis = n + 1;

done:

    ngx_shmtx_unlock(&shpool->mutex);

    return i;
}


ngx_lunary_stats_total_t *
ngx_lunary_stats_total(ngx_pool_t *pool)
{
    ngx_uint_t                 i, n, w, g;
    ngx_atomic_t              *from, *to;
    ngx_lunary_stats_sh_t     *sh;
    ngx_lunary_stats_slot_t   *slot;
    ngx_lunary_stats_total_t  *total;

    total = ngx_pcalloc(pool, sizeof(ngx_lunary_stats_total_t));
    if (total == NULL) {
        return NULL;
    }

    if (ngx_lunary_stats_shm == NULL) {
        return total;
    }

    sh = ngx_lunary_stats_shm->data;

    n = sh->nslots;
    total->napis = sh->napis;
    total->api = sh->api;

    ngx_memory_barrier();

    to = (ngx_atomic_t *) &total->values;

    for (i = 0; i <= n; i++) {
        slot = (i < n) ? sh->slot[i] : sh->spare;
        from = (ngx_atomic_t *) &slot->values;

        for (w = 0; w < NGX_LUNARY_STATS_WORDS; w++) {
            to[w] += from[w];
        }

        /* a killed worker has no share in anything that is now */

        if (slot->pid == 0 || !ngx_lunary_stats_alive(slot->pid)) {
            continue;
        }

        for (g = 0; g < NGX_LUNARY_G_MAX; g++) {

            if (!ngx_lunary_stats_gauges[g].max) {
                total->gauge[g] += slot->gauge[g];

            } else if (total->gauge[g] < slot->gauge[g]) {
                total->gauge[g] = slot->gauge[g];
            }
        }
    }

    return total;
}
