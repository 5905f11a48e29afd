/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The benchmarks' client that keeps time: COUNT requests, RATE a second, over
 * CONNS connections kept alive.  A request is due at its time whatever became
 * of those before it, and its latency counts from then: where the server
 * stalls, all that fell due meanwhile show it (a client that waits for an
 * answer before it asks again leaves these out).
 *
 *     paced PORT PATH BODY_FILE CONNS RATE COUNT [HEADER ...]
 *
 * RATE 0: as fast as answers come.
 *
 * Prints JSON: how many, how many failed (any status but 200, a connection
 * that ends), how long it took; percentiles of the latency, of the delay of the
 * answer's first byte, and of how late the client itself was, in seconds.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>


#define MAX_CONNS  4096


typedef enum {
    HEAD,                      /* of the answer                              */
    BODY,                      /* rest bytes of it                           */
    SIZE,                      /* of a chunk                                 */
    CHUNK,                     /* rest bytes of it, with its line's end      */
    TRAILER                    /* lines, up to an empty one                  */
} state_e;


typedef struct {
    int        fd;
    state_e    state;
    int        busy;
    size_t     out;            /* of the request, bytes sent                 */
    uint64_t   rest;
    char       line[8192];     /* the head; a chunk's size; a trailer's line */
    size_t     len;
    double     due;
} conn_t;


static conn_t   conns[MAX_CONNS];
static conn_t  *idle[MAX_CONNS];
static int      nidle, live;
static char    *request;
static size_t   request_len;
static double   start, rate;
static long     count, sent, done, failed;
static float   *latency, *first, *late;
static long     nfirst;


static double
now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (double) ts.tv_sec + (double) ts.tv_nsec / 1e9;
}


static void
lost(conn_t *c)
{
    failed += c->busy;
    live--;
    close(c->fd);
    c->fd = -1;
}


/* -1 where the connection is lost */

static int
flush(conn_t *c)
{
    ssize_t  n;

    while (c->out < request_len) {
        n = send(c->fd, request + c->out, request_len - c->out,
                 MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0) {
            if (errno == EAGAIN) {
                return 0;
            }

            lost(c);
            return -1;
        }

        c->out += (size_t) n;
    }

    return 0;
}


/* sends what is due, as far as there are connections */

static void
advance(void)
{
    double   t;
    conn_t  *c;

    while (nidle && sent < count) {
        t = now();

        c = idle[nidle - 1];
        c->due = rate > 0 ? start + (double) sent / rate : t;

        if (c->due > t) {
            return;
        }

        nidle--;
        late[sent++] = (float) (t - c->due);

        c->busy = 1;
        c->state = HEAD;
        c->len = 0;
        c->out = 0;

        (void) flush(c);
    }
}


static void
finished(conn_t *c)
{
    latency[done++] = (float) (now() - c->due);

    c->busy = 0;
    idle[nidle++] = c;
}


/* a head, a chunk's size or a trailer is complete: -1 where it is no good */

static int
line(conn_t *c)
{
    char  *p;

    c->line[c->len] = '\0';
    c->len = 0;

    if (c->state == TRAILER) {

        if (c->line[0] == '\r') {
            finished(c);
        }

        return 0;
    }

    if (c->state == SIZE) {
        c->rest = strtoull(c->line, NULL, 16);

        if (c->rest == 0) {
            c->state = TRAILER;
            return 0;
        }

        c->rest += 2;
        c->state = CHUNK;

        return 0;
    }

    if (strncmp(c->line, "HTTP/1.1 200 ", 13) != 0) {
        return -1;
    }

    if (strcasestr(c->line, "\r\ntransfer-encoding: chunked\r\n") != NULL) {
        c->state = SIZE;
        return 0;
    }

    p = strcasestr(c->line, "\r\ncontent-length:");

    if (p == NULL) {
        return -1;
    }

    c->rest = strtoull(p + 17, NULL, 10);
    c->state = BODY;

    if (c->rest == 0) {
        finished(c);
    }

    return 0;
}


static int
feed(conn_t *c, const char *p, size_t n)
{
    size_t       take;
    const char  *last;

    last = p + n;

    while (p < last) {

        if (!c->busy) {
            return -1;                       /* more than was asked for */
        }

        if (c->state == BODY || c->state == CHUNK) {
            take = (size_t) (last - p);

            if (take > c->rest) {
                take = (size_t) c->rest;
            }

            p += take;
            c->rest -= take;

            if (c->rest == 0) {
                if (c->state == BODY) {
                    finished(c);

                } else {
                    c->state = SIZE;
                }
            }

            continue;
        }

        if (c->len == sizeof(c->line) - 1) {
            return -1;
        }

        c->line[c->len++] = *p++;

        if (c->line[c->len - 1] != '\n') {
            continue;
        }

        if (c->state == HEAD) {
            if (c->len < 4 || memcmp(c->line + c->len - 4, "\r\n\r\n", 4) != 0)
            {
                continue;
            }

            first[nfirst++] = (float) (now() - c->due);
        }

        if (line(c) == -1) {
            return -1;
        }
    }

    return 0;
}


static void
readable(conn_t *c)
{
    ssize_t      n;
    static char  buf[1 << 16];

    for ( ;; ) {
        n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT);

        if (n < 0 && errno == EAGAIN) {
            return;
        }

        if (n <= 0 || feed(c, buf, (size_t) n) == -1) {

            if (!c->busy) {
                int  i;

                for (i = 0; i < nidle; i++) {
                    if (idle[i] == c) {
                        idle[i] = idle[--nidle];
                        break;
                    }
                }
            }

            lost(c);
            return;
        }

        if (n < (ssize_t) sizeof(buf)) {
            return;
        }
    }
}


static int
compare(const void *a, const void *b)
{
    float  x = *(const float *) a, y = *(const float *) b;

    return (x > y) - (x < y);
}


static void
percentiles(const char *name, float *values, long n)
{
    qsort(values, (size_t) n, sizeof(float), compare);

    printf(",\"%sp50\":%.7f,\"%sp99\":%.7f,\"%sp999\":%.7f",
           name, n ? (double) values[n / 2] : 0.0,
           name, n ? (double) values[n * 99 / 100] : 0.0,
           name, n ? (double) values[n * 999 / 1000] : 0.0);
}


static int
make_request(int argc, char **argv)
{
    int      i;
    FILE    *f;
    long     size;
    size_t   room;

    f = fopen(argv[3], "rb");

    if (f == NULL || fseek(f, 0, SEEK_END) == -1 || (size = ftell(f)) < 0) {
        perror(argv[3]);
        return -1;
    }

    rewind(f);

    room = (size_t) size + strlen(argv[2]) + 512;

    for (i = 7; i < argc; i++) {
        room += strlen(argv[i]) + 2;
    }

    request = malloc(room);

    if (request == NULL) {
        return -1;
    }

    request_len = (size_t) sprintf(request, "POST %s HTTP/1.1\r\n"
                                   "Host: bench\r\n"
                                   "Content-Type: application/json\r\n"
                                   "Authorization: Bearer sk-bench\r\n"
                                   "Content-Length: %ld\r\n", argv[2], size);

    for (i = 7; i < argc; i++) {
        request_len += (size_t) sprintf(request + request_len, "%s\r\n",
                                        argv[i]);
    }

    request_len += (size_t) sprintf(request + request_len, "\r\n");

    if (fread(request + request_len, 1, (size_t) size, f) != (size_t) size) {
        return -1;
    }

    request_len += (size_t) size;
    fclose(f);

    return 0;
}


static int
open_conns(int poller, int n, int port)
{
    int                  i, fd, one;
    struct epoll_event   ev;
    struct sockaddr_in   addr;

    memset(&addr, 0, sizeof(addr));
    addr.sin_family = AF_INET;
    addr.sin_port = htons((uint16_t) port);
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    one = 1;

    for (i = 0; i < n; i++) {
        fd = socket(AF_INET, SOCK_STREAM, 0);

        if (fd == -1
            || connect(fd, (struct sockaddr *) &addr, sizeof(addr)) == -1)
        {
            perror("connect");
            return -1;
        }

        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));

        ev.events = EPOLLIN | EPOLLOUT | EPOLLET;
        ev.data.ptr = &conns[i];
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &ev);

        conns[i].fd = fd;
        idle[nidle++] = &conns[i];
        live++;
    }

    return 0;
}


/* the next request's time wakes the poller */

static void
wake(int timer)
{
    double             due;
    struct itimerspec  its;

    if (rate <= 0 || sent == count || nidle == 0) {
        return;
    }

    due = start + (double) sent / rate;

    memset(&its, 0, sizeof(its));
    its.it_value.tv_sec = (time_t) due;
    its.it_value.tv_nsec = (long) ((due - (double) its.it_value.tv_sec) * 1e9);

    timerfd_settime(timer, TFD_TIMER_ABSTIME, &its, NULL);
}


int
main(int argc, char **argv)
{
    int                  poller, timer, i, n, nconns;
    conn_t              *c;
    uint64_t             ticks;
    struct epoll_event   ev, events[256];

    if (argc < 7 || (nconns = atoi(argv[4])) < 1 || nconns > MAX_CONNS
        || (count = atol(argv[6])) < 1)
    {
        fprintf(stderr, "usage: paced PORT PATH BODY_FILE CONNS RATE COUNT "
                "[HEADER ...]\n");
        return 2;
    }

    rate = atof(argv[5]);

    latency = calloc((size_t) count, sizeof(float));
    first = calloc((size_t) count, sizeof(float));
    late = calloc((size_t) count, sizeof(float));
    poller = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);

    if (latency == NULL || first == NULL || late == NULL || poller == -1
        || timer == -1
        || make_request(argc, argv) == -1
        || open_conns(poller, nconns, atoi(argv[1])) == -1)
    {
        return 1;
    }

    ev.events = EPOLLIN;
    ev.data.ptr = NULL;
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &ev);

    start = now() + (rate > 0 ? 0.01 : 0);

    advance();
    wake(timer);

    while (live && done + failed < count) {
        n = epoll_wait(poller, events, 256, 30000);

        if (n <= 0) {
            fprintf(stderr, "no answer for 30 s\n");
            return 1;
        }

        for (i = 0; i < n; i++) {
            c = events[i].data.ptr;

            if (c == NULL) {
                if (read(timer, &ticks, sizeof(ticks)) < 0) {
                    continue;
                }

                advance();
                continue;
            }

            if (c->fd != -1 && c->busy && (events[i].events & EPOLLOUT)) {
                (void) flush(c);
            }

            if (c->fd != -1 && (events[i].events & ~(uint32_t) EPOLLOUT)) {
                readable(c);
            }
        }

        advance();
        wake(timer);
    }

    /* what could not be sent for want of connections has failed, too */

    printf("{\"requests\":%ld,\"failed\":%ld,\"seconds\":%.4f",
           done, count - done, now() - start);

    percentiles("", latency, done);
    percentiles("first_", first, nfirst);
    percentiles("late_", late, sent);
    printf("}\n");

    return 0;
}
