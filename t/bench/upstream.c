/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The benchmarks' upstream: an HTTP/1.1 server that costs next to nothing, so
 * that what is measured is nginx.  One thread, one epoll; requests are read
 * and forgotten, answers are made once at the start.
 *
 *     upstream PORT TICK_US
 *
 * The path's first segment says what is answered:
 *     /json   a chat completion of 0.9 KB
 *     /big    an embeddings answer of 1 MB
 *     /sse    200 events, one each tick, each with a write() of its own
 *     /few    the last four of them
 *
 * An event says when it was written (CLOCK_MONOTONIC, ns, 18 digits behind
 * "fp_"), so that a client on this machine knows how long it was on its way:
 * in "obfuscation", which is another one in each of OpenAI's events, too.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>


#define EVENTS   256
#define CHUNKS   200
#define FEW      4
#define STAMP    18
#define MAX_FD   8192


typedef struct {
    char        *data;
    size_t       len;
} text_t;


typedef struct {
    char      head[4096];      /* of the request                             */
    size_t    len;
    size_t    body;            /* bytes of the request's body still to come  */
    text_t    out;             /* what is being sent                         */
    int       chunk;           /* next event of a stream, -1: no stream      */
    int       open;
} conn_t;


static conn_t  conns[MAX_FD];
static int     streams[MAX_FD];
static int     nstreams;
static int     poller;
static text_t  json, big, sse_head, chunks[CHUNKS + 1];
static char   *stamps[CHUNKS + 1];


static void
die(const char *what)
{
    perror(what);
    exit(1);
}


static text_t
text(char *data)
{
    text_t  t = { data, strlen(data) };

    return t;
}


/* a head and a body in one */

static text_t
answer(const char *type, const char *body)
{
    char    *p;
    size_t   size;

    size = strlen(body) + 256;
    p = malloc(size);

    if (p == NULL) {
        die("malloc");
    }

    snprintf(p, size, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\n"
             "x-request-id: req_bench\r\nContent-Length: %zu\r\n\r\n%s",
             type, strlen(body), body);

    return text(p);
}


static text_t
chunk(const char *data)
{
    char    *p;
    size_t   size;

    size = strlen(data) + 32;
    p = malloc(size);

    if (p == NULL) {
        die("malloc");
    }

    snprintf(p, size, "%zx\r\n%s\r\n", strlen(data), data);

    return text(p);
}


static void
prepare(void)
{
    int    i;
    char  *p, *body, line[512];

    json = answer("application/json",
        "{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\","
        "\"object\":\"chat.completion\",\"created\":1741569952,"
        "\"model\":\"gpt-4o-mini-2024-07-18\",\"choices\":[{\"index\":0,"
        "\"message\":{\"role\":\"assistant\",\"content\":\"Hello! The "
        "shipment you asked about left the warehouse in Rotterdam on Tuesday "
        "and should reach you by Friday at noon. I have attached the tracking "
        "number to your order and asked the carrier to call before delivery. "
        "Is there anything else that I can look up for you today?\","
        "\"refusal\":null,\"annotations\":[]},\"logprobs\":null,"
        "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":129,"
        "\"completion_tokens\":63,\"total_tokens\":192,"
        "\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},"
        "\"completion_tokens_details\":{\"reasoning_tokens\":0,"
        "\"audio_tokens\":0,\"accepted_prediction_tokens\":0,"
        "\"rejected_prediction_tokens\":0}},\"service_tier\":\"default\","
        "\"system_fingerprint\":\"fp_06737a9306\"}");

    body = malloc(1200000);
    if (body == NULL) {
        die("malloc");
    }

    p = body + sprintf(body, "{\"object\":\"list\",\"data\":[");

    for (i = 0; i < 32; i++) {
        int  k;

        p += sprintf(p, "%s{\"object\":\"embedding\",\"index\":%d,"
                     "\"embedding\":[", i ? "," : "", i);

        for (k = 0; k < 1536; k++) {
            p += sprintf(p, "%s%s0.0%07d", k ? "," : "", k & 1 ? "-" : "",
                         (k * 7919 + i * 104729) % 10000000);
        }

        p += sprintf(p, "]}");
    }

    /* up to 1 MB as the benchmark has it */

    while (p - body < 1000000) {
        p += sprintf(p, "          ");
    }

    sprintf(p, "],\"model\":\"text-embedding-3-small\",\"usage\":"
            "{\"prompt_tokens\":8192,\"total_tokens\":8192}}");

    big = answer("application/json", body);
    free(body);

    sse_head = text("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; "
                    "charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n");

    for (i = 0; i < CHUNKS; i++) {

        if (i == CHUNKS - 1) {
            chunks[i] = chunk("data: [DONE]\n\n");
            continue;
        }

        if (i == CHUNKS - 2) {
            snprintf(line, sizeof(line), "data: {\"id\":\"chatcmpl-B9MHDbsl"
                     "fkBeAs8l4bebGdFOJ6PeG\",\"object\":\"chat.completion."
                     "chunk\",\"created\":1741570283,\"model\":\"gpt-4o-mini-"
                     "2024-07-18\",\"choices\":[],\"usage\":{"
                     "\"prompt_tokens\":129,\"completion_tokens\":197,"
                     "\"total_tokens\":326}}\n\n");

        } else {
            snprintf(line, sizeof(line), "data: {\"id\":\"chatcmpl-B9MHDbsl"
                     "fkBeAs8l4bebGdFOJ6PeG\",\"object\":\"chat.completion."
                     "chunk\",\"created\":1741570283,\"model\":\"gpt-4o-mini-"
                     "2024-07-18\",\"service_tier\":\"default\","
                     "\"system_fingerprint\":null,"
                     "\"choices\":[{\"index\":0,"
                     "\"delta\":{%s\"content\":\"%s\"},"
                     "\"logprobs\":null,\"finish_reason\":%s}],"
                     "\"obfuscation\":\"fp_000000000000000000\"}\n\n",
                     i ? "" : "\"role\":\"assistant\",",
                     i ? " word" : "", i == CHUNKS - 3 ? "\"stop\"" : "null");
        }

        chunks[i] = chunk(line);
        stamps[i] = strstr(chunks[i].data, "\"fp_");
    }

    chunks[CHUNKS] = text("0\r\n\r\n");
}


static void
closed(int fd)
{
    int  i;

    conns[fd].open = 0;
    conns[fd].chunk = -1;

    for (i = 0; i < nstreams; i++) {
        if (streams[i] == fd) {
            streams[i] = streams[--nstreams];
            break;
        }
    }

    close(fd);
}


/* sends what is left of out; waits for room if there is none */

static void
flush(int fd, uint32_t waiting)
{
    ssize_t             n;
    conn_t             *c;
    struct epoll_event  ev;

    c = &conns[fd];

    while (c->out.len) {
        n = send(fd, c->out.data, c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0) {
            if (errno != EAGAIN) {
                closed(fd);
                return;
            }

            break;
        }

        c->out.data += n;
        c->out.len -= (size_t) n;
    }

    if ((c->out.len != 0) != (waiting != 0)) {
        ev.events = EPOLLIN | (c->out.len ? EPOLLOUT : 0);
        ev.data.fd = fd;
        epoll_ctl(poller, EPOLL_CTL_MOD, fd, &ev);
    }
}


static void
respond(int fd)
{
    conn_t  *c;

    c = &conns[fd];

    if (strstr(c->head, " /sse/") != NULL) {
        c->out = sse_head;
        c->chunk = 0;
        streams[nstreams++] = fd;

    } else if (strstr(c->head, " /few/") != NULL) {
        c->out = sse_head;
        c->chunk = CHUNKS - FEW;
        streams[nstreams++] = fd;

    } else if (strstr(c->head, " /big/") != NULL) {
        c->out = big;

    } else {
        c->out = json;
    }

    c->len = 0;

    flush(fd, 0);
}


static void
readable(int fd)
{
    char         *end, *length;
    size_t        have, body;
    ssize_t       n;
    conn_t       *c;
    static char   sink[1 << 16];

    c = &conns[fd];

    for ( ;; ) {

        if (c->body) {
            n = recv(fd, sink, c->body < sizeof(sink) ? c->body : sizeof(sink),
                     MSG_DONTWAIT);
        } else {
            n = recv(fd, c->head + c->len, sizeof(c->head) - 1 - c->len,
                     MSG_DONTWAIT);
        }

        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            closed(fd);
            return;
        }

        if (n < 0) {
            return;
        }

        if (c->body) {
            c->body -= (size_t) n;

            if (c->body == 0) {
                respond(fd);
            }

            continue;
        }

        c->len += (size_t) n;
        c->head[c->len] = '\0';

        end = strstr(c->head, "\r\n\r\n");

        if (end == NULL) {
            if (c->len == sizeof(c->head) - 1) {
                fprintf(stderr, "a request's head is too long\n");
                closed(fd);
                return;
            }

            continue;
        }

        length = strcasestr(c->head, "\r\ncontent-length:");
        body = (length && length < end) ? strtoul(length + 17, NULL, 10) : 0;
        have = c->len - (size_t) (end + 4 - c->head);

        c->body = (body > have) ? body - have : 0;

        if (c->body == 0) {
            respond(fd);
        }
    }
}


/* a part of an event that has still to go shows a later time: rare */

static void
stamp(char *p)
{
    char             text[STAMP + 4];
    uint64_t         ns;
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    ns = (uint64_t) ts.tv_sec * 1000000000 + (uint64_t) ts.tv_nsec;

    snprintf(text, sizeof(text), "%0*llu", STAMP, (unsigned long long) ns);
    memcpy(p + 4, text, STAMP);
}


static void
tick(void)
{
    int      i, fd;
    conn_t  *c;

    for (i = nstreams; i-- > 0; /* void */ ) {
        fd = streams[i];
        c = &conns[fd];

        if (c->out.len) {
            continue;
        }

        if (stamps[c->chunk]) {
            stamp(stamps[c->chunk]);
        }

        c->out = chunks[c->chunk++];

        if (c->chunk == CHUNKS) {

            /* the last event and the end of the body go out together */

            flush(fd, 0);

            if (!c->open) {
                continue;
            }

            c->out = chunks[CHUNKS];
            c->chunk = -1;
            streams[i] = streams[--nstreams];
        }

        flush(fd, 0);
    }
}


int
main(int argc, char **argv)
{
    int                  listener, timer, fd, i, n, one;
    long                 us;
    uint64_t             ticks;
    struct epoll_event   ev, events[EVENTS];
    struct sockaddr_in   addr;
    struct itimerspec    its;

    if (argc != 3) {
        fprintf(stderr, "usage: upstream PORT TICK_US\n");
        return 2;
    }

    signal(SIGPIPE, SIG_IGN);
    prepare();

    one = 1;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));

    memset(&addr, 0, sizeof(addr));
    addr.sin_family = AF_INET;
    addr.sin_port = htons((uint16_t) atoi(argv[1]));
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    if (bind(listener, (struct sockaddr *) &addr, sizeof(addr)) == -1
        || listen(listener, 1024) == -1)
    {
        die("bind");
    }

    us = atol(argv[2]);
    memset(&its, 0, sizeof(its));
    its.it_value.tv_sec = its.it_interval.tv_sec = us / 1000000;
    its.it_value.tv_nsec = its.it_interval.tv_nsec = us % 1000000 * 1000;

    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    timerfd_settime(timer, 0, &its, NULL);

    poller = epoll_create1(0);

    ev.events = EPOLLIN;
    ev.data.fd = listener;
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &ev);
    ev.data.fd = timer;
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &ev);

    for ( ;; ) {
        n = epoll_wait(poller, events, EVENTS, -1);

        for (i = 0; i < n; i++) {
            fd = events[i].data.fd;

            if (fd == timer) {
                if (read(timer, &ticks, sizeof(ticks)) > 0) {
                    tick();
                }

                continue;
            }

            if (fd == listener) {
                fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);

                if (fd == -1) {
                    continue;
                }

                if (fd >= MAX_FD) {
                    close(fd);
                    continue;
                }

                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));

                memset(&conns[fd], 0, sizeof(conn_t));
                conns[fd].chunk = -1;
                conns[fd].open = 1;

                ev.events = EPOLLIN;
                ev.data.fd = fd;
                epoll_ctl(poller, EPOLL_CTL_ADD, fd, &ev);
                continue;
            }

            if ((events[i].events & EPOLLOUT) && conns[fd].open) {
                flush(fd, 1);
            }

            if ((events[i].events & ~(uint32_t) EPOLLOUT) && conns[fd].open) {
                readable(fd);
            }
        }
    }
}
