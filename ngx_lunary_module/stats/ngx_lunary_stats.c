/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Counters of all workers in shared memory.  See ngx_lunary_stats.h.
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
 *   - the mutex is taken when a worker starts or ends and when an API is seen
 *     for the first time, never by the adding or by reading.
 */

#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_lunary_stats.h"


#define NGX_LUNARY_STATS_SLOTS    256
#define NGX_LUNARY_STATS_APIS     64
#define NGX_LUNARY_STATS_API_LEN  47
#define NGX_LUNARY_STATS_BOUNDS   16

/* what a line of output takes at most, and what comes before any API */
#define NGX_LUNARY_STATS_LINE     160
#define NGX_LUNARY_STATS_LINES    (2 * (NGX_LUNARY_C_MAX + NGX_LUNARY_G_MAX)  \
                                   + 3 * (NGX_LUNARY_C_MAX + 8))


typedef enum {
    NGX_LUNARY_H_DURATION = 0,
    NGX_LUNARY_H_TTFT,
    NGX_LUNARY_H_MAX
} ngx_lunary_histogram_e;


typedef struct {
    ngx_atomic_t               bucket[NGX_LUNARY_STATS_BOUNDS + 1];
    ngx_atomic_t               sum;                         /* ms */
} ngx_lunary_stats_histogram_t;


/* words of one kind only: they are summed as an array */

typedef struct {
    ngx_atomic_t               counter[NGX_LUNARY_C_MAX];
    ngx_atomic_t               missing[NGX_LUNARY_STATS_APIS];
    ngx_lunary_stats_histogram_t
                               histogram[NGX_LUNARY_STATS_APIS]
                                        [NGX_LUNARY_H_MAX];
} ngx_lunary_stats_values_t;

#define NGX_LUNARY_STATS_WORDS                                                \
    (sizeof(ngx_lunary_stats_values_t) / sizeof(ngx_atomic_t))


typedef struct {
    volatile ngx_pid_t         pid;          /* the owner's, 0: free */
    volatile int64_t           gauge[NGX_LUNARY_G_MAX];
    ngx_lunary_stats_values_t  values;
} ngx_lunary_stats_slot_t;


typedef struct {
    u_char                     len;
    u_char                     name[NGX_LUNARY_STATS_API_LEN];
} ngx_lunary_stats_api_t;


/* the numbers of slots and names only grow, after what they count is there */

typedef struct {
    ngx_uint_t                 layout;
    ngx_atomic_t               nslots;
    ngx_atomic_t               napis;
    ngx_lunary_stats_slot_t   *spare;
    ngx_lunary_stats_slot_t   *slot[NGX_LUNARY_STATS_SLOTS];
    ngx_lunary_stats_api_t     api[NGX_LUNARY_STATS_APIS];
} ngx_lunary_stats_sh_t;


typedef struct {
    int64_t                    gauge[NGX_LUNARY_G_MAX];
    ngx_atomic_uint_t          napis;
    ngx_lunary_stats_values_t  values;
} ngx_lunary_stats_total_t;


typedef struct {
    char                      *metric;
    char                      *label;
    char                      *value;
} ngx_lunary_stats_counter_t;


typedef struct {
    char                      *metric;
    ngx_uint_t                 max;          /* unsigned  max:1 */
} ngx_lunary_stats_gauge_t;


typedef struct {
    char                      *metric;
    char                      *help;
} ngx_lunary_stats_help_t;


static ngx_int_t ngx_lunary_stats_init_zone(ngx_shm_zone_t *shm_zone,
    void *data);
static ngx_shm_zone_t *ngx_lunary_stats_find(ngx_cycle_t *cycle);
static ngx_lunary_stats_slot_t *ngx_lunary_stats_take(ngx_slab_pool_t *shpool,
    ngx_lunary_stats_sh_t *sh, ngx_log_t *log);
static ngx_uint_t ngx_lunary_stats_alive(ngx_pid_t pid);
static ngx_inline void ngx_lunary_stats_bump(ngx_atomic_t *word,
    ngx_atomic_uint_t n);
static ngx_int_t ngx_lunary_stats_api(ngx_str_t *api);
static ngx_int_t ngx_lunary_stats_new_api(ngx_str_t *api);
static void ngx_lunary_stats_observe(ngx_str_t *api,
    ngx_lunary_histogram_e h, ngx_msec_t ms);
static ngx_lunary_stats_total_t *ngx_lunary_stats_total(ngx_pool_t *pool);
static ngx_buf_t *ngx_lunary_stats_buf(ngx_pool_t *pool,
    ngx_lunary_stats_total_t *total);
static u_char *ngx_lunary_stats_json_histogram(u_char *p,
    ngx_lunary_stats_total_t *total, ngx_lunary_histogram_e h);
static u_char *ngx_lunary_stats_prom_histogram(u_char *p,
    ngx_lunary_stats_total_t *total, ngx_lunary_histogram_e h);
static u_char *ngx_lunary_stats_head(u_char *p, char *metric, char *type);


#define NGX_LUNARY_STATS_COUNTER(sym, metric, label, value)                   \
    { metric, label, value },

static ngx_lunary_stats_counter_t  ngx_lunary_stats_counters[] = {
    NGX_LUNARY_COUNTERS(NGX_LUNARY_STATS_COUNTER)
    { NULL, NULL, NULL }
};


#define NGX_LUNARY_STATS_SUM  0
#define NGX_LUNARY_STATS_MAX  1

#define NGX_LUNARY_STATS_GAUGE(sym, metric, how)                              \
    { metric, NGX_LUNARY_STATS_##how },

static ngx_lunary_stats_gauge_t  ngx_lunary_stats_gauges[] = {
    NGX_LUNARY_GAUGES(NGX_LUNARY_STATS_GAUGE)
};


static char  *ngx_lunary_stats_histograms[] = {
    "request_duration_seconds",
    "ttft_seconds"
};


static ngx_lunary_stats_help_t  ngx_lunary_stats_helps[] = {
    { "runs_total", "Calls logged, by outcome." },
    { "runs_sent_total", "Runs that Redis has confirmed." },
    { "runs_recovered_total", "Runs found in the spools of earlier workers." },
    { "runs_resent_total", "Runs sent again, Redis had lost them." },
    { "runs_resent_total", "Runs sent anew after Redis had lost them." },
    { "runs_dropped_total", "Runs that were lost, by reason." },
    { "runs_spooled", "Runs that wait for Redis." },
    { "identity_total", "Calls by the source of their user." },
    { "rejected_total", "Calls refused by this module, by code." },
    { "usage_missing_total", "Calls answered without token usage." },
    { "session_lookups_total", "Session look-ups, by result." },
    { "redis_connected", "Open connections to Redis." },
    { "redis_reconnects_total", "Connections to Redis made anew." },
    { "redis_errors_total", "Errors of Redis connections, by kind." },
    { "events_total", "SDK events accepted." },
    { "events_recovered_total", "SDK events found in earlier spools." },
    { "events_sent_total", "SDK events that Redis has confirmed." },
    { "events_recovered_total", "SDK events found in such spools." },
    { "events_dropped_total", "SDK events that were lost." },
    { "events_spooled", "SDK events that wait for Redis." },
    { "spool_bytes", "Bytes in the spools that wait for Redis." },
    { "spool_oldest_seconds", "Age of the oldest run that waits." },
    { "request_duration_seconds", "Time from a call's head to its end." },
    { "ttft_seconds", "Time from a call's head to its first token." },
    { NULL, NULL }
};


/* upper bounds of a histogram's buckets */

static ngx_msec_t  ngx_lunary_stats_bounds[] = {
    10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 20000, 30000, 60000,
    120000, 300000, 600000
};

static char  *ngx_lunary_stats_le[] = {
    "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "20",
    "30", "60", "120", "300", "600", "+Inf"
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
    ngx_lunary_stats_slot_t  *slot;

    for (i = 0; i < sh->nslots; i++) {
        slot = sh->slot[i];

        if (slot->pid != 0 && slot->pid != ngx_pid
            && ngx_lunary_stats_alive(slot->pid))
        {
            continue;
        }

        ngx_log_debug2(NGX_LOG_DEBUG_CORE, log, 0,
                       "lunary stats slot %ui of process %P", i, slot->pid);

        ngx_memzero((void *) slot->gauge, sizeof(slot->gauge));
        slot->pid = ngx_pid;

        return slot;
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


/* the sum of all slots, or NULL */

static ngx_lunary_stats_total_t *
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


static ngx_buf_t *
ngx_lunary_stats_buf(ngx_pool_t *pool, ngx_lunary_stats_total_t *total)
{
    size_t  lines;

    /* an API has a line a bucket, the sum, the count and what is missing */

    lines = NGX_LUNARY_STATS_LINES
            + total->napis * (NGX_LUNARY_H_MAX * (NGX_LUNARY_STATS_BOUNDS + 3)
                              + 1);

    return ngx_create_temp_buf(pool, lines * NGX_LUNARY_STATS_LINE);
}


ngx_buf_t *
ngx_lunary_stats_json(ngx_pool_t *pool)
{
    u_char                      *p;
    ngx_buf_t                   *b;
    ngx_uint_t                   i;
    ngx_lunary_stats_sh_t       *sh;
    ngx_lunary_stats_total_t    *total;
    ngx_lunary_stats_counter_t  *c;

    total = ngx_lunary_stats_total(pool);
    if (total == NULL) {
        return NULL;
    }

    b = ngx_lunary_stats_buf(pool, total);
    if (b == NULL) {
        return NULL;
    }

    p = b->last;
    *p++ = '{';

    for (c = ngx_lunary_stats_counters, i = 0; c->metric; c++, i++) {

        if (*c->label == '\0') {
            p = ngx_sprintf(p, "\"%s\":%uA,", c->metric,
                            total->values.counter[i]);
            continue;
        }

        /* counters of one metric stand together */

        if (i == 0 || ngx_strcmp(c->metric, c[-1].metric) != 0) {
            p = ngx_sprintf(p, "\"%s\":{", c->metric);
        }

        p = ngx_sprintf(p, "\"%s\":%uA", c->value, total->values.counter[i]);

        if (c[1].metric && ngx_strcmp(c->metric, c[1].metric) == 0) {
            *p++ = ',';

        } else {
            *p++ = '}';
            *p++ = ',';
        }
    }

    for (i = 0; i < NGX_LUNARY_G_MAX; i++) {
        p = ngx_sprintf(p, "\"%s\":%L,", ngx_lunary_stats_gauges[i].metric,
                        total->gauge[i]);
    }

    p = ngx_cpymem(p, "\"usage_missing_total\":{",
                   sizeof("\"usage_missing_total\":{") - 1);

    for (i = 0; i < total->napis; i++) {
        sh = ngx_lunary_stats_shm->data;

        if (total->values.missing[i] == 0) {
            continue;
        }

        if (p[-1] != '{') {
            *p++ = ',';
        }

        p = ngx_sprintf(p, "\"%*s\":%uA", (size_t) sh->api[i].len,
                        sh->api[i].name, total->values.missing[i]);
    }

    *p++ = '}';

    for (i = 0; i < NGX_LUNARY_H_MAX; i++) {
        p = ngx_lunary_stats_json_histogram(p, total, i);
    }

    *p++ = '}';
    *p++ = LF;

    b->last = p;

    return b;
}


/* ,"ttft_seconds":{"API":{"count":1,"sum":0.120,"buckets":{"0.01":0,...}}} */

static u_char *
ngx_lunary_stats_json_histogram(u_char *p, ngx_lunary_stats_total_t *total,
    ngx_lunary_histogram_e h)
{
    ngx_uint_t                     i, b;
    ngx_atomic_uint_t              count;
    ngx_lunary_stats_sh_t         *sh;
    ngx_lunary_stats_histogram_t  *histogram;

    p = ngx_sprintf(p, ",\"%s\":{", ngx_lunary_stats_histograms[h]);

    for (i = 0; i < total->napis; i++) {
        sh = ngx_lunary_stats_shm->data;
        histogram = &total->values.histogram[i][h];

        count = 0;

        for (b = 0; b <= NGX_LUNARY_STATS_BOUNDS; b++) {
            count += histogram->bucket[b];
        }

        if (count == 0) {
            continue;
        }

        if (p[-1] != '{') {
            *p++ = ',';
        }

        p = ngx_sprintf(p, "\"%*s\":{\"count\":%uA,\"sum\":%uA.%03uA,"
                        "\"buckets\":{",
                        (size_t) sh->api[i].len, sh->api[i].name, count,
                        histogram->sum / 1000, histogram->sum % 1000);

        count = 0;

        for (b = 0; b <= NGX_LUNARY_STATS_BOUNDS; b++) {
            count += histogram->bucket[b];

            p = ngx_sprintf(p, "%s\"%s\":%uA", b ? "," : "",
                            ngx_lunary_stats_le[b], count);
        }

        *p++ = '}';
        *p++ = '}';
    }

    *p++ = '}';

    return p;
}


ngx_buf_t *
ngx_lunary_stats_prometheus(ngx_pool_t *pool)
{
    u_char                      *p;
    ngx_buf_t                   *b;
    ngx_uint_t                   i;
    ngx_lunary_stats_sh_t       *sh;
    ngx_lunary_stats_total_t    *total;
    ngx_lunary_stats_counter_t  *c;

    total = ngx_lunary_stats_total(pool);
    if (total == NULL) {
        return NULL;
    }

    b = ngx_lunary_stats_buf(pool, total);
    if (b == NULL) {
        return NULL;
    }

    p = b->last;

    for (c = ngx_lunary_stats_counters, i = 0; c->metric; c++, i++) {

        if (i == 0 || ngx_strcmp(c->metric, c[-1].metric) != 0) {
            p = ngx_lunary_stats_head(p, c->metric, "counter");
        }

        if (*c->label == '\0') {
            p = ngx_sprintf(p, "lunary_%s %uA\n", c->metric,
                            total->values.counter[i]);
            continue;
        }

        p = ngx_sprintf(p, "lunary_%s{%s=\"%s\"} %uA\n", c->metric, c->label,
                        c->value, total->values.counter[i]);
    }

    for (i = 0; i < NGX_LUNARY_G_MAX; i++) {
        p = ngx_lunary_stats_head(p, ngx_lunary_stats_gauges[i].metric,
                                  "gauge");
        p = ngx_sprintf(p, "lunary_%s %L\n", ngx_lunary_stats_gauges[i].metric,
                        total->gauge[i]);
    }

    p = ngx_lunary_stats_head(p, "usage_missing_total", "counter");

    for (i = 0; i < total->napis; i++) {
        sh = ngx_lunary_stats_shm->data;

        p = ngx_sprintf(p, "lunary_usage_missing_total{api=\"%*s\"} %uA\n",
                        (size_t) sh->api[i].len, sh->api[i].name,
                        total->values.missing[i]);
    }

    for (i = 0; i < NGX_LUNARY_H_MAX; i++) {
        p = ngx_lunary_stats_prom_histogram(p, total, i);
    }

    b->last = p;

    return b;
}


static u_char *
ngx_lunary_stats_prom_histogram(u_char *p, ngx_lunary_stats_total_t *total,
    ngx_lunary_histogram_e h)
{
    char                          *metric;
    size_t                         len;
    u_char                        *api;
    ngx_uint_t                     i, b;
    ngx_atomic_uint_t              count;
    ngx_lunary_stats_sh_t         *sh;
    ngx_lunary_stats_histogram_t  *histogram;

    metric = ngx_lunary_stats_histograms[h];

    p = ngx_lunary_stats_head(p, metric, "histogram");

    for (i = 0; i < total->napis; i++) {
        sh = ngx_lunary_stats_shm->data;

        len = sh->api[i].len;
        api = sh->api[i].name;
        histogram = &total->values.histogram[i][h];

        count = 0;

        for (b = 0; b <= NGX_LUNARY_STATS_BOUNDS; b++) {
            count += histogram->bucket[b];

            p = ngx_sprintf(p, "lunary_%s_bucket{api=\"%*s\",le=\"%s\"} %uA\n",
                            metric, len, api, ngx_lunary_stats_le[b], count);
        }

        p = ngx_sprintf(p, "lunary_%s_sum{api=\"%*s\"} %uA.%03uA\n", metric,
                        len, api, histogram->sum / 1000,
                        histogram->sum % 1000);

        p = ngx_sprintf(p, "lunary_%s_count{api=\"%*s\"} %uA\n", metric, len,
                        api, count);
    }

    return p;
}


static u_char *
ngx_lunary_stats_head(u_char *p, char *metric, char *type)
{
    ngx_lunary_stats_help_t  *h;

    for (h = ngx_lunary_stats_helps; h->metric; h++) {

        if (ngx_strcmp(h->metric, metric) == 0) {
            p = ngx_sprintf(p, "# HELP lunary_%s %s\n", metric, h->help);
            break;
        }
    }

    return ngx_sprintf(p, "# TYPE lunary_%s %s\n", metric, type);
}
