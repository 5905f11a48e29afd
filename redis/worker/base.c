/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Time, the log, texts that grow, and what else every file needs.  See lw.h.
 */

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "lw.h"


volatile sig_atomic_t  lw_stop;
volatile sig_atomic_t  lw_reload;

lw_log_e  lw_log_level = LW_LOG_NOTICE;


static int  lw_progress_shown;


int64_t
lw_now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_REALTIME, &ts);

    return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}


int64_t
lw_clock(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}


void
lw_sleep(int64_t ms)
{
    int64_t       end;
    sig_atomic_t  stop;

    end = lw_clock() + ms;
    stop = lw_stop;

    while (lw_stop == stop && !lw_reload && (ms = end - lw_clock()) > 0) {
        /* a signal between the look and the poll costs 100 ms at most */
        (void) poll(NULL, 0, ms > 100 ? 100 : (int) ms);
    }
}


void
lw_log(lw_log_e level, const char *fmt, ...)
{
    char     stamp[32], line[1024];
    size_t   i, len;
    va_list  args;

    static const char  *names[] = { "error", "warn", "notice", "info",
                                    "debug" };

    if (level > lw_log_level) {
        return;
    }

    va_start(args, fmt);
    (void) vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);

    /* what others sent stays one line, and moves no cursor */

    len = strlen(line);

    for (i = 0; i < len; i++) {
        if ((unsigned char) line[i] < 0x20 || line[i] == 0x7f) {
            line[i] = '?';
        }
    }

    lw_timestamp(stamp, lw_now());
    lw_progress("%s", "");

    fprintf(stderr, "%s [%s] %ld: %s\n", stamp, names[level], (long) getpid(),
            line);
}


void
lw_progress(const char *fmt, ...)
{
    char     line[256];
    va_list  args;

    va_start(args, fmt);
    (void) vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);

    if (line[0] == '\0' && !lw_progress_shown) {
        return;
    }

    fprintf(stderr, "\r\033[K%s", line);
    fflush(stderr);

    lw_progress_shown = (line[0] != '\0');
}


void
lw_text_init(lw_text_t *t, lunary_mem_t *mem)
{
    memset(t, 0, sizeof(*t));
    t->mem = mem;
}


void
lw_text_free(lw_text_t *t)
{
    lunary_buf_free(t->mem, &t->buf);
    t->failed = 0;
}


void
lw_text_clear(lw_text_t *t)
{
    t->buf.len = 0;
    t->failed = 0;
}


void
lw_text_add(lw_text_t *t, const void *p, size_t n)
{
    if (!t->failed && lunary_buf_append(t->mem, &t->buf, p, n) != LUNARY_OK) {
        t->failed = 1;
    }
}


void
lw_text_str(lw_text_t *t, lunary_str_t s)
{
    lw_text_add(t, s.data, s.len);
}


void
lw_text_int(lw_text_t *t, int64_t n)
{
    if (!t->failed && lunary_buf_append_int(t->mem, &t->buf, n) != LUNARY_OK) {
        t->failed = 1;
    }
}


void
lw_text_fmt(lw_text_t *t, const char *fmt, ...)
{
    int      n;
    char     line[512];
    va_list  args;

    va_start(args, fmt);
    n = vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);

    if (n < 0 || (size_t) n >= sizeof(line)) {
        t->failed = 1;
        return;
    }

    lw_text_add(t, line, (size_t) n);
}


void
lw_text_json(lw_text_t *t, lunary_str_t bytes)
{
    lw_text_lit(t, "\"");

    if (!t->failed && lunary_json_escape(t->mem, &t->buf, bytes) != LUNARY_OK) {
        t->failed = 1;
    }

    lw_text_lit(t, "\"");
}


void
lw_text_plain(lw_text_t *t, lunary_str_t value)
{
    int  rc;

    if (!lunary_json_is_string(value)) {
        lw_text_str(t, value);
        return;
    }

    if (t->failed) {
        return;
    }

    rc = lunary_json_unescape(t->mem, &t->buf, lunary_json_inside(value));

    if (rc == LUNARY_NOMEM) {
        t->failed = 1;
    }
}


int
lw_int(lunary_str_t s, int64_t *n)
{
    size_t    i;
    int64_t   v;
    unsigned  d;
    int       minus;

    i = 0;
    v = 0;
    minus = (s.len > 1 && s.data[0] == '-');

    if (s.len == 0 || s.len > 19 + (size_t) minus) {
        return 0;
    }

    for (i = (size_t) minus; i < s.len; i++) {

        d = (unsigned) s.data[i] - '0';

        if (d > 9 || v > (INT64_MAX - (int64_t) d) / 10) {
            return 0;
        }

        v = v * 10 + d;
    }

    *n = minus ? -v : v;

    return 1;
}


uint64_t
lw_hash(lunary_str_t s, uint64_t seed)
{
    size_t    i;
    uint64_t  h;

    /* FNV-1a, then mixed so that the low bits are good ones */

    h = 0xcbf29ce484222325u ^ seed;

    for (i = 0; i < s.len; i++) {
        h = (h ^ s.data[i]) * 0x100000001b3u;
    }

    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdu;
    h ^= h >> 33;

    return h;
}


int
lw_file_read(const char *option, const char *path, lw_text_t *t, size_t max)
{
    int      failed;
    FILE    *f;
    size_t   n;
    char     piece[8192];

    f = fopen(path, "re");

    if (f == NULL) {
        fprintf(stderr, "lunary-worker: --%s: %s: %s\n", option, path,
                strerror(errno));
        return LW_ERROR;
    }

    while ((n = fread(piece, 1, sizeof(piece), f)) > 0) {

        if (t->buf.len + n > max) {
            fprintf(stderr, "lunary-worker: --%s: %s: more than %zu bytes\n",
                    option, path, max);
            fclose(f);
            return LW_ERROR;
        }

        lw_text_add(t, piece, n);
    }

    failed = ferror(f) ? errno : t->failed ? ENOMEM : 0;
    fclose(f);

    if (failed) {
        fprintf(stderr, "lunary-worker: --%s: %s: %s\n", option, path,
                strerror(failed));
        return LW_ERROR;
    }

    return LW_OK;
}


void
lw_date(char *out, int64_t ms)
{
    time_t     t;
    struct tm  tm;

    t = (time_t) (ms / 1000);

    if (gmtime_r(&t, &tm) == NULL || strftime(out, 11, "%Y-%m-%d", &tm) == 0) {
        memcpy(out, "1970-01-01", 11);
    }
}


void
lw_timestamp(char *out, int64_t ms)
{
    time_t     t;
    char       text[24];
    struct tm  tm;

    t = (time_t) (ms / 1000);

    if (gmtime_r(&t, &tm) == NULL
        || strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm) == 0)
    {
        memcpy(text, "1970-01-01T00:00:00", 20);
    }

    (void) snprintf(out, 32, "%s.%03dZ", text, (int) (ms % 1000));
}
