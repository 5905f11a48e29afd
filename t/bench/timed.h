/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A build that measures itself (`make bench-handlers`): how long nginx's loop
 * is in the module's code.  No source of the module knows of it: the compiler
 * calls __cyg_profile_func_enter() and _exit() around the functions of http/,
 * outbox/ and client/, which are all that nginx calls, and includes this file
 * in front of each source.
 *
 * Measured is the module's own time: it stops where the module calls a part of
 * nginx that serves the request on (the next filter, the phases), and begins
 * anew where that comes back into the module.
 *
 *   entry   from the moment nginx calls a function of the module until that
 *           returns
 *   round   all of the entries in one round of the event loop: an upper bound
 *           of what one event handler took
 *   loop    the longest round with all that nginx itself does
 *
 * CPU time is the thread's (what others do with the machine is not in it, nor
 * is waiting for a disk), wall time the clock's.  A worker writes its figures
 * into the error log when it exits, at `notice`; functions by their offset in
 * the shared object, as most are static.
 */

#ifndef LUNARY_TIMED_H
#define LUNARY_TIMED_H

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>

#include <dlfcn.h>
#include <sys/syscall.h>


#define TIMED_ROWS   256
#define TIMED_DEPTH  32

/* one copy for all sources, not seen outside of the shared object */
#define TIMED_ONCE                                                            \
    __attribute__((weak, visibility("hidden"), no_instrument_function))


typedef struct {
    uint64_t          cpu;           /* ns                                   */
    uint64_t          wall;
} timed_span_t;


typedef struct {
    void             *function;
    uint64_t          calls;
    uint64_t          cpu;           /* all of them                          */
    timed_span_t      most;
} timed_row_t;


typedef struct {
    void             *function;
    ngx_uint_t        depth;         /* functions of the module              */
    ngx_uint_t        out;           /* it has called nginx                  */
    timed_span_t      since;
    timed_span_t      own;
} timed_entry_t;


typedef struct {
    timed_row_t       rows[TIMED_ROWS];
    timed_entry_t     stack[TIMED_DEPTH];
    ngx_uint_t        entries;
    timed_span_t      round;
    timed_span_t      most;          /* of the rounds, each on its own       */
    void             *largest;       /* the entry that made round.cpu        */
    uint64_t          largest_cpu;
    void             *most_by;
    uint64_t          since;         /* this round's begin, nginx included   */
    uint64_t          loop;          /* the longest, nginx included          */
    uint64_t          over;          /* rounds of more than 1 ms of CPU      */
    uint64_t          rounds;

    ngx_int_t       (*process_events)(ngx_cycle_t *cycle, ngx_msec_t timer,
                                      ngx_uint_t flags);
} timed_t;


extern ngx_module_t  ngx_http_lunary_module;

extern timed_t  lunary_timed;
extern __thread int  lunary_timed_thread;

__attribute__((weak, visibility("hidden"))) timed_t  lunary_timed;
__attribute__((weak, visibility("hidden"))) __thread int  lunary_timed_thread;

void timed_now(timed_span_t *t);
void timed_add(timed_entry_t *e);
timed_row_t *timed_row(void *function);
ngx_int_t timed_process_events(ngx_cycle_t *cycle, ngx_msec_t timer,
    ngx_uint_t flags);
void timed_out(void);
void timed_back(void);
void timed_report(void);
void __cyg_profile_func_enter(void *function, void *caller);
void __cyg_profile_func_exit(void *function, void *caller);


TIMED_ONCE void
timed_now(timed_span_t *t)
{
    struct timespec  cpu, wall;

    (void) clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    (void) clock_gettime(CLOCK_MONOTONIC, &wall);

    t->cpu = (uint64_t) cpu.tv_sec * 1000000000 + (uint64_t) cpu.tv_nsec;
    t->wall = (uint64_t) wall.tv_sec * 1000000000 + (uint64_t) wall.tv_nsec;
}


/* what has passed since e->since */

TIMED_ONCE void
timed_add(timed_entry_t *e)
{
    timed_span_t  now;

    timed_now(&now);

    e->own.cpu += now.cpu - e->since.cpu;
    e->own.wall += now.wall - e->since.wall;
}


TIMED_ONCE timed_row_t *
timed_row(void *function)
{
    ngx_uint_t    i, n;
    timed_row_t  *row;

    i = ((uintptr_t) function >> 4) % TIMED_ROWS;

    for (n = 0; n < TIMED_ROWS; n++) {
        row = &lunary_timed.rows[(i + n) % TIMED_ROWS];

        if (row->function == function || row->function == NULL) {
            row->function = function;
            return row;
        }
    }

    return NULL;
}


TIMED_ONCE ngx_int_t
timed_process_events(ngx_cycle_t *cycle, ngx_msec_t timer, ngx_uint_t flags)
{
    timed_t       *t = &lunary_timed;
    timed_span_t   now;

    t->rounds++;

    timed_now(&now);

    if (t->since && now.cpu - t->since > t->loop) {
        t->loop = now.cpu - t->since;
    }

    t->since = now.cpu;

    if (t->round.cpu > t->most.cpu) {
        t->most.cpu = t->round.cpu;
        t->most_by = t->largest;
    }

    if (t->round.wall > t->most.wall) {
        t->most.wall = t->round.wall;
    }

    if (t->round.cpu > 1000000) {
        t->over++;
    }

    ngx_memzero(&t->round, sizeof(timed_span_t));
    t->largest_cpu = 0;

    return t->process_events(cycle, timer, flags);
}


/* around a call of nginx that serves the request on */

TIMED_ONCE void
timed_out(void)
{
    timed_t  *t = &lunary_timed;

    if (t->entries && lunary_timed_thread == 1) {
        timed_add(&t->stack[t->entries - 1]);
        t->stack[t->entries - 1].out = 1;
    }
}


TIMED_ONCE void
timed_back(void)
{
    timed_t  *t = &lunary_timed;

    if (t->entries && lunary_timed_thread == 1) {
        t->stack[t->entries - 1].out = 0;
        timed_now(&t->stack[t->entries - 1].since);
    }
}


TIMED_ONCE void
__cyg_profile_func_enter(void *function, void *caller)
{
    timed_t        *t = &lunary_timed;
    timed_entry_t  *e;

    if (ngx_process != NGX_PROCESS_WORKER) {
        return;
    }

    if (lunary_timed_thread == 0) {
        lunary_timed_thread = (syscall(SYS_gettid) == ngx_pid) ? 1 : 2;
    }

    if (lunary_timed_thread == 2) {
        return;
    }

    if (t->process_events == NULL && ngx_event_actions.process_events) {
        t->process_events = ngx_event_actions.process_events;
        ngx_event_actions.process_events = timed_process_events;
    }

    if (t->entries && !t->stack[t->entries - 1].out) {
        t->stack[t->entries - 1].depth++;
        return;
    }

    if (t->entries == TIMED_DEPTH) {
        ngx_abort();
    }

    e = &t->stack[t->entries++];

    ngx_memzero(e, sizeof(timed_entry_t));
    e->function = function;
    e->depth = 1;

    timed_now(&e->since);
}


TIMED_ONCE void
__cyg_profile_func_exit(void *function, void *caller)
{
    timed_t        *t = &lunary_timed;
    timed_row_t    *row;
    timed_entry_t  *e;

    if (lunary_timed_thread != 1 || t->entries == 0) {
        return;
    }

    e = &t->stack[t->entries - 1];

    if (--e->depth) {
        return;
    }

    timed_add(e);
    t->entries--;

    row = timed_row(e->function);

    if (row) {
        row->calls++;
        row->cpu += e->own.cpu;
        row->most.cpu = ngx_max(row->most.cpu, e->own.cpu);
        row->most.wall = ngx_max(row->most.wall, e->own.wall);
    }

    if (e->function == (void *) (uintptr_t) ngx_http_lunary_module.init_process
        || e->function
           == (void *) (uintptr_t) ngx_http_lunary_module.exit_process)
    {
        return;                      /* no event handler's                   */
    }

    t->round.cpu += e->own.cpu;
    t->round.wall += e->own.wall;

    if (e->own.cpu > t->largest_cpu) {
        t->largest_cpu = e->own.cpu;
        t->largest = e->function;
    }
}


__attribute__((weak, visibility("hidden"), no_instrument_function, destructor))
void
timed_report(void)
{
    Dl_info       info;
    uint64_t      base;
    ngx_uint_t    i;
    timed_t      *t = &lunary_timed;
    timed_row_t  *row;
    static int    reported;

    if (t->rounds == 0 || reported || dladdr(t, &info) == 0) {
        return;
    }

    reported = 1;
    base = (uint64_t) (uintptr_t) info.dli_fbase;

    ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                  "lunary timed: rounds %uL over %uL cpu %uL wall %uL "
                  "loop %uL by %xL",
                  t->rounds, t->over, t->most.cpu, t->most.wall, t->loop,
                  t->most_by ? (uint64_t) (uintptr_t) t->most_by - base : 0);

    for (i = 0; i < TIMED_ROWS; i++) {
        row = &t->rows[i];

        if (row->calls) {
            ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                          "lunary timed: entry %xL calls %uL all %uL "
                          "cpu %uL wall %uL",
                          (uint64_t) (uintptr_t) row->function - base,
                          row->calls, row->cpu, row->most.cpu,
                          row->most.wall);
        }
    }
}


#define TIMED_VALUE(call)                                                     \
    __extension__ ({                                                          \
        ngx_int_t  timed_rc_;                                                 \
        timed_out();                                                          \
        timed_rc_ = (call);                                                   \
        timed_back();                                                         \
        timed_rc_;                                                            \
    })

#define TIMED_VOID(call)  (timed_out(), (call), timed_back())


#define ngx_http_next_header_filter(r)                                        \
    TIMED_VALUE(ngx_http_next_header_filter(r))
#define ngx_http_next_body_filter(r, in)                                      \
    TIMED_VALUE(ngx_http_next_body_filter(r, in))
#define ngx_http_lunary_next_request_body(r, in)                              \
    TIMED_VALUE(ngx_http_lunary_next_request_body(r, in))
#define ngx_http_read_client_request_body(r, handler)                         \
    TIMED_VALUE(ngx_http_read_client_request_body(r, handler))
#define ngx_http_send_header(r)                                               \
    TIMED_VALUE(ngx_http_send_header(r))
#define ngx_http_output_filter(r, in)                                         \
    TIMED_VALUE(ngx_http_output_filter(r, in))

#define ngx_http_core_run_phases(r)                                           \
    TIMED_VOID(ngx_http_core_run_phases(r))
#define ngx_http_run_posted_requests(c)                                       \
    TIMED_VOID(ngx_http_run_posted_requests(c))
#define ngx_http_finalize_request(r, rc)                                      \
    TIMED_VOID(ngx_http_finalize_request(r, rc))


#endif /* LUNARY_TIMED_H */
