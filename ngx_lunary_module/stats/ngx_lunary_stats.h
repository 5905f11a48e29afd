/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Counters of all workers, in shared memory that survives a reload (not a new
 * master).  Each worker adds to a slot of its own, on cache lines of its own,
 * without locks; reading sums the slots.  A new worker takes over the slot of a
 * dead one and adds on.
 *
 * Invariants
 *   - counters only grow, gauges are a worker's own and are cleared when its
 *     slot is taken over;
 *   - what was planned (below) holds also if the worker is killed at any
 *     instruction of it;
 *   - no label ever holds a user, a key or anything a client sent.
 */

#ifndef NGX_LUNARY_STATS_H
#define NGX_LUNARY_STATS_H

#include <ngx_config.h>
#include <ngx_core.h>


/* X(symbol, metric, label name, label value): a line here is a counter */

#define NGX_LUNARY_COUNTERS(X)                                                \
    X(RUNS_OK,             "runs_total",          "outcome", "ok")            \
    X(RUNS_ERROR,          "runs_total",          "outcome", "error")         \
    X(RUNS_REJECTED,       "runs_total",          "outcome", "rejected")      \
    X(RUNS_ABORTED,        "runs_total",          "outcome", "aborted")       \
    X(RUNS_TRUNCATED,      "runs_total",          "outcome", "truncated")     \
    X(RUNS_TIMEOUT,        "runs_total",          "outcome", "timeout")       \
    X(RUNS_SENT,           "runs_sent_total",     "",        "")              \
    X(RUNS_RECOVERED,      "runs_recovered_total", "",       "")              \
    X(RUNS_RESENT,         "runs_resent_total",   "",        "")              \
    X(DROPPED_FULL,        "runs_dropped_total",  "reason",  "full")          \
    X(DROPPED_TOO_LARGE,   "runs_dropped_total",  "reason",  "too_large")     \
    X(DROPPED_NO_MEMORY,   "runs_dropped_total",  "reason",  "no_memory")     \
    X(DROPPED_POISON,      "runs_dropped_total",  "reason",  "refused")       \
    X(DROPPED_EXIT,        "runs_dropped_total",  "reason",  "exit")          \
    X(IDENTITY_SESSION,    "identity_total",      "source",  "session")       \
    X(IDENTITY_BODY,       "identity_total",      "source",  "body")          \
    X(IDENTITY_HEADER,     "identity_total",      "source",  "header")        \
    X(IDENTITY_PARENT,     "identity_total",      "source",  "parent")        \
    X(IDENTITY_VARIABLE,   "identity_total",      "source",  "variable")      \
    X(IDENTITY_NONE,       "identity_total",      "source",  "none")          \
    X(REJECTED_REQUIRED,   "rejected_total",      "code", "user_required")    \
    X(REJECTED_MISMATCH,   "rejected_total",      "code", "user_mismatch")    \
    X(REJECTED_BLOCKED,    "rejected_total",      "code", "user_blocked")     \
    X(REJECTED_BUDGET,     "rejected_total",      "code", "budget_exceeded")  \
    X(REJECTED_DUPLICATE,  "rejected_total",   "code", "duplicate_identity")  \
    X(REJECTED_JSON,       "rejected_total",      "code", "invalid_json")     \
    X(REJECTED_ENCODING,   "rejected_total",  "code", "unsupported_encoding") \
    X(REJECTED_UNAVAILABLE, "rejected_total", "code", "identity_unavailable") \
    X(LOOKUP_HIT,          "session_lookups_total", "result", "hit")          \
    X(LOOKUP_MISS,         "session_lookups_total", "result", "miss")         \
    X(LOOKUP_CACHED,       "session_lookups_total", "result", "cached")       \
    X(LOOKUP_INVALID,      "session_lookups_total", "result", "invalid")      \
    X(LOOKUP_TIMEOUT,      "session_lookups_total", "result", "timeout")      \
    X(LOOKUP_ERROR,        "session_lookups_total", "result", "error")        \
    X(REDIS_RECONNECTS,    "redis_reconnects_total", "",     "")              \
    X(REDIS_ERR_CONNECT,   "redis_errors_total",  "kind",    "connect")       \
    X(REDIS_ERR_TIMEOUT,   "redis_errors_total",  "kind",    "timeout")       \
    X(REDIS_ERR_PROTOCOL,  "redis_errors_total",  "kind",    "protocol")      \
    X(REDIS_ERR_REPLY,     "redis_errors_total",  "kind",    "reply")         \
    X(EVENTS,              "events_total",        "",        "")              \
    X(EVENTS_SENT,         "events_sent_total",   "",        "")              \
    X(EVENTS_RECOVERED,    "events_recovered_total", "",     "")              \
    X(EVENTS_DROPPED,      "events_dropped_total", "",       "")

/* gauges: a worker's own share, summed (MAX: the largest is shown) */

#define NGX_LUNARY_GAUGES(X)                                                  \
    X(RUNS_SPOOLED,        "runs_spooled",        SUM)                        \
    X(EVENTS_SPOOLED,      "events_spooled",      SUM)                        \
    X(SPOOL_BYTES,         "spool_bytes",         SUM)                        \
    X(SPOOL_OLDEST,        "spool_oldest_seconds", MAX)                       \
    X(SPOOL_USED,          "spool_used_percent",  MAX)                        \
    X(REDIS_CONNECTED,     "redis_connected",     SUM)

typedef enum {
#define NGX_LUNARY_ENUM(sym, metric, label, value)  NGX_LUNARY_C_##sym,
    NGX_LUNARY_COUNTERS(NGX_LUNARY_ENUM)
#undef NGX_LUNARY_ENUM
    NGX_LUNARY_C_MAX
} ngx_lunary_counter_e;

typedef enum {
#define NGX_LUNARY_ENUM(sym, metric, how)  NGX_LUNARY_G_##sym,
    NGX_LUNARY_GAUGES(NGX_LUNARY_ENUM)
#undef NGX_LUNARY_ENUM
    NGX_LUNARY_G_MAX
} ngx_lunary_gauge_e;


/* adds the zone to the configuration (http main) */
ngx_int_t ngx_lunary_stats_zone(ngx_conf_t *cf, void *tag);

/* a worker takes its slot; before that, and in other processes, adding goes
 * to memory that nobody reads */
void ngx_lunary_stats_init(ngx_cycle_t *cycle);
void ngx_lunary_stats_exit(ngx_cycle_t *cycle);

void ngx_lunary_stats_add(ngx_lunary_counter_e c, ngx_uint_t n);
#define ngx_lunary_stats_inc(c)  ngx_lunary_stats_add(c, 1)

void ngx_lunary_stats_set(ngx_lunary_gauge_e g, int64_t value);


/*
 * Counters that change together, and together with a spool:
 *
 *     ngx_lunary_stats_plan(c, n);                 for each
 *     ngx_lunary_stats_begin(when, epoch, seq);
 *     ...                                          the store that decides
 *     ngx_lunary_stats_end();
 *
 * Killed before the store, nothing has changed; killed behind it, who takes
 * over spool or slot changes them.  Only counters of the equations of
 * docs/directives.md need this.
 */

typedef enum {
    NGX_LUNARY_STATS_NOTHING = 0,
    NGX_LUNARY_STATS_ANYWAY,                 /* no store decides             */
    NGX_LUNARY_STATS_APPENDED,               /* the spool has record seq     */
    NGX_LUNARY_STATS_COUNTED,                /* it is counted up to seq      */
    NGX_LUNARY_STATS_RECOVERED               /* its generation is seq        */
} ngx_lunary_stats_when_e;

void ngx_lunary_stats_plan(ngx_lunary_counter_e c, ngx_uint_t n);
void ngx_lunary_stats_begin(ngx_lunary_stats_when_e when, uint64_t epoch,
    uint64_t seq);
void ngx_lunary_stats_end(void);

/* the spool `epoch` of a dead worker, whose lock the caller holds, says this */
void ngx_lunary_stats_resolve(uint64_t epoch, uint64_t appended,
    uint64_t counted, uint64_t recovered);

/* what this worker keeps goes with it: if it is killed, that is dropped */
void ngx_lunary_stats_forgetful(void);

/* by the dialect's name (NUL-free, of lunary_dialect.h's table) */
void ngx_lunary_stats_usage_missing(ngx_str_t *api);
void ngx_lunary_stats_duration(ngx_str_t *api, ngx_msec_t ms);
void ngx_lunary_stats_ttft(ngx_str_t *api, ngx_msec_t ms);

/* the page, in one buf of the pool, or NULL */
ngx_buf_t *ngx_lunary_stats_json(ngx_pool_t *pool);
ngx_buf_t *ngx_lunary_stats_prometheus(ngx_pool_t *pool);


#endif /* NGX_LUNARY_STATS_H */
