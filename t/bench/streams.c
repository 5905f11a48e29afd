/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The benchmarks' client of streams: COUNT streams over CONNS connections at
 * a time, all of them read to their end (a client that stops by the clock
 * leaves streams half read, and these cost the server something else).
 *
 *     streams PORT PATH BODY_FILE CONNS COUNT
 *
 * Prints JSON: how many, how long; percentiles of the first event's delay from
 * the request on, and of how long the first event, and any event, was on its
 * way from the upstream (who writes the time into each), in seconds.
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
#include <time.h>
#include <unistd.h>


#define MAX_FD     8192
#define MAX_TIMES  (1 << 20)


typedef struct {
    double   sent;             /* when                                       */
    int      first;            /* the first event is still to come           */
    int      stamped;          /* its time was taken                         */
    char     tail[5];          /* last bytes read, to find the end           */
} conn_t;


static conn_t   conns[MAX_FD];
static char    *request;
static size_t   request_len;
static int      left, done, failed, nfirst;
static double  *firsts, *ways;                 /* of the first events        */
static double  *times;                         /* of events, in general      */
static int      nways, ntimes;


static double
now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (double) ts.tv_sec + (double) ts.tv_nsec / 1e9;
}


static int
begin(int fd)
{
    if (left == 0) {
        return -1;
    }

    left--;

    memset(&conns[fd], 0, sizeof(conn_t));
    conns[fd].sent = now();
    conns[fd].first = 1;

    if (send(fd, request, request_len, MSG_NOSIGNAL) != (ssize_t) request_len)
    {
        failed++;
        return -1;
    }

    return 0;
}


/*
 * When an event was written: "fp_" and 18 digits, in nanoseconds.  One that is
 * cut by the end of what was read is left out.
 */

static void
on_its_way(conn_t *c, const char *p, const char *last, double t)
{
    double       way;
    const char  *q;

    while ((q = memmem(p, (size_t) (last - p), "\"fp_", 4)) != NULL) {
        p = q + 4;

        if (last - p < 19) {
            return;
        }

        way = t - (double) strtoull(p, NULL, 10) / 1e9;

        if (!c->stamped) {
            c->stamped = 1;
            ways[nways++] = way;
        }

        if (ntimes < MAX_TIMES) {
            times[ntimes++] = way;
        }
    }
}


/* 1 where the connection has nothing more to do */

static int
readable(int fd)
{
    char         *data;
    size_t        keep;
    ssize_t       n;
    conn_t       *c;
    static char   buf[1 << 16];

    c = &conns[fd];

    n = recv(fd, buf + 5, sizeof(buf) - 5, MSG_DONTWAIT);

    if (n < 0 && errno == EAGAIN) {
        return 0;
    }

    if (n <= 0) {
        failed++;
        return 1;
    }

    /* "data: " comes with the first event, maybe behind the head */

    data = buf + 5;

    on_its_way(c, data, data + n, now());

    if (c->first && memmem(data, (size_t) n, "\ndata:", 6) != NULL) {
        c->first = 0;
        firsts[nfirst++] = now() - c->sent;

        if (memcmp(data, "HTTP/1.1 200", 12) != 0 && n > 12
            && memmem(data, (size_t) n, "HTTP/1.1", 8) != NULL)
        {
            failed++;
        }
    }

    memcpy(buf, c->tail, 5);
    keep = (size_t) n;

    if (memcmp(buf + keep, "0\r\n\r\n", 5) == 0) {
        done++;
        return begin(fd) == -1;
    }

    memcpy(c->tail, buf + keep, 5);

    return 0;
}


static int
compare(const void *a, const void *b)
{
    double  x = *(const double *) a, y = *(const double *) b;

    return (x > y) - (x < y);
}


static void
percentiles(const char *name, double *values, int n)
{
    qsort(values, (size_t) n, sizeof(double), compare);

    printf(",\"%sp50\":%.7f,\"%sp99\":%.7f", name, n ? values[n / 2] : 0.0,
           name, n ? values[n * 99 / 100] : 0.0);
}


int
main(int argc, char **argv)
{
    int                  poller, fd, i, n, live, count, one;
    FILE                *f;
    long                 size;
    char                *body;
    double               start;
    struct epoll_event   ev, events[256];
    struct sockaddr_in   addr;

    if (argc != 6) {
        fprintf(stderr, "usage: streams PORT PATH BODY_FILE CONNS COUNT\n");
        return 2;
    }

    f = fopen(argv[3], "rb");

    if (f == NULL || fseek(f, 0, SEEK_END) == -1 || (size = ftell(f)) < 0) {
        perror(argv[3]);
        return 1;
    }

    rewind(f);

    count = left = atoi(argv[5]);
    body = malloc((size_t) size + 1);
    request = malloc((size_t) size + 512);
    firsts = calloc((size_t) count + 1, sizeof(double));
    ways = calloc((size_t) count + 1, sizeof(double));
    times = calloc(MAX_TIMES, sizeof(double));

    if (body == NULL || request == NULL || firsts == NULL || ways == NULL
        || times == NULL
        || fread(body, 1, (size_t) size, f) != (size_t) size)
    {
        return 1;
    }

    n = sprintf(request, "POST %s HTTP/1.1\r\nHost: bench\r\n"
                "Content-Type: application/json\r\n"
                "Authorization: Bearer sk-bench\r\n"
                "Content-Length: %ld\r\n\r\n", argv[2], size);
    memcpy(request + n, body, (size_t) size);
    request_len = (size_t) n + (size_t) size;

    memset(&addr, 0, sizeof(addr));
    addr.sin_family = AF_INET;
    addr.sin_port = htons((uint16_t) atoi(argv[1]));
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    poller = epoll_create1(0);
    live = 0;
    one = 1;
    start = now();

    for (i = 0; i < atoi(argv[4]); i++) {
        fd = socket(AF_INET, SOCK_STREAM, 0);

        if (fd == -1 || fd >= MAX_FD
            || connect(fd, (struct sockaddr *) &addr, sizeof(addr)) == -1)
        {
            perror("connect");
            return 1;
        }

        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));

        ev.events = EPOLLIN;
        ev.data.fd = fd;
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &ev);

        if (begin(fd) == 0) {
            live++;
        }
    }

    while (live) {
        n = epoll_wait(poller, events, 256, 30000);

        if (n <= 0) {
            fprintf(stderr, "no answer for 30 s\n");
            return 1;
        }

        for (i = 0; i < n; i++) {
            fd = events[i].data.fd;

            if (readable(fd)) {
                close(fd);
                live--;
            }
        }
    }

    printf("{\"requests\":%d,\"failed\":%d,\"seconds\":%.4f",
           done, failed, now() - start);

    percentiles("", firsts, nfirst);
    percentiles("way_", ways, nways);
    percentiles("event_", times, ntimes);
    printf("}\n");

    return 0;
}
