/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What every file of the worker stands on: results, exit codes, time, the
 * log, texts that grow, and the one struct that a running command has.
 *
 * Invariants
 *   - one thread; signals only set flags, which loops look at;
 *   - contents, keys and users are never logged above debug;
 *   - an allocation that fails is a result (LW_NOMEM), never an exit.
 */

#ifndef LW_H
#define LW_H

#include <signal.h>
#include <stdint.h>
#include <stdio.h>

#include "../../ngx_lunary_module/inspect/lunary_base.h"
#include "../../ngx_lunary_module/inspect/lunary_json.h"


/* what functions return unless they say otherwise */

#define LW_OK          0
#define LW_ERROR     (-1)     /* cannot be done, and was logged              */
#define LW_NOMEM     (-2)
#define LW_REDIS     (-3)     /* the connection broke, and was closed         */
#define LW_STOPPED   (-4)     /* a signal asked to end meanwhile              */
#define LW_REMOTE    (-5)     /* Lunary or the collector failed, or refused */


/* exit codes (documented in docs/worker.md and the manual page) */

#define LW_EXIT_OK       0
#define LW_EXIT_LEFT     1    /* --once: entries are left, not all done     */
#define LW_EXIT_USAGE    2    /* the command line or the configuration      */
#define LW_EXIT_REDIS    3    /* Redis could not be reached, or refused     */
#define LW_EXIT_REMOTE   4    /* Lunary or the collector failed, or refused */
#define LW_EXIT_ABSENT   5    /* show, forget: nothing is known of the user */


typedef struct lw_options_s  lw_options_t;
typedef struct lw_redis_s    lw_redis_t;
typedef struct lw_prices_s   lw_prices_t;
typedef struct lw_group_s    lw_group_t;

typedef struct {
    lw_options_t   *options;
    lw_redis_t     *redis;
    lw_prices_t    *prices;
    lw_group_t     *group;
    lunary_mem_t    mem;

    /* since the start, for the progress line and --metrics */
    uint64_t        entries;      /* acknowledged                             */
    uint64_t        dead;         /* moved to the dead letters                */
    uint64_t        skipped;      /* acknowledged without effect              */
    uint64_t        unpriced;     /* runs with usage, but no price for it     */
    uint64_t        failures;     /* requests and connections that failed     */
} lw_t;


/* set by signals */
extern volatile sig_atomic_t  lw_stop;      /* SIGTERM, SIGINT: times seen    */
extern volatile sig_atomic_t  lw_reload;    /* SIGHUP                         */


/* milliseconds: since 1970, and of a clock that never jumps */
int64_t lw_now(void);
int64_t lw_clock(void);

/* sleeps, but ends early when a signal came */
void lw_sleep(int64_t ms);


typedef enum {
    LW_LOG_ERROR = 0,
    LW_LOG_WARN,
    LW_LOG_NOTICE,
    LW_LOG_INFO,
    LW_LOG_DEBUG
} lw_log_e;

extern lw_log_e  lw_log_level;

void lw_log(lw_log_e level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* a line on a terminal that is written over; "" takes it away */
void lw_progress(const char *fmt, ...) __attribute__((format(printf, 1, 2)));


/*
 * A text that grows.  A failed allocation is kept in `failed` and everything
 * later is left out, so that it is asked for once, at the end.
 */
typedef struct {
    lunary_mem_t   *mem;
    lunary_buf_t    buf;
    int             failed;
} lw_text_t;

void lw_text_init(lw_text_t *t, lunary_mem_t *mem);
void lw_text_free(lw_text_t *t);
void lw_text_clear(lw_text_t *t);
void lw_text_add(lw_text_t *t, const void *p, size_t n);
void lw_text_str(lw_text_t *t, lunary_str_t s);
void lw_text_int(lw_text_t *t, int64_t n);
void lw_text_fmt(lw_text_t *t, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
#define lw_text_lit(t, lit)  lw_text_add(t, lit, sizeof(lit) - 1)

/* a JSON string of the bytes, with its quotes */
void lw_text_json(lw_text_t *t, lunary_str_t bytes);

/* the text of a JSON string value: unescaped; other values as written */
void lw_text_plain(lw_text_t *t, lunary_str_t value);

static inline lunary_str_t
lw_text_get(const lw_text_t *t)
{
    return lunary_str(t->buf.data, t->buf.len);
}


static inline lunary_str_t
lw_str(const char *s)
{
    return lunary_str(s, s == NULL ? 0 : strlen(s));
}


static inline int
lw_str_same(lunary_str_t a, lunary_str_t b)
{
    return a.len == b.len
           && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* a decimal number that is the whole text; 1 and *n, or 0 */
int lw_int(lunary_str_t s, int64_t *n);

/* 64-bit hash of bytes, for tables */
uint64_t lw_hash(lunary_str_t s, uint64_t seed);

/*
 * A whole file of at most max bytes into t; LW_ERROR is said on stderr, with
 * the option that named the file.
 */
int lw_file_read(const char *option, const char *path, lw_text_t *t,
    size_t max);

/* "2026-11-22" of epoch ms, UTC; out has 11 bytes */
void lw_date(char *out, int64_t ms);

/* "2026-11-22T04:05:06.789Z"; out has 32 bytes */
void lw_timestamp(char *out, int64_t ms);


#endif /* LW_H */
