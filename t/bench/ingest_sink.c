/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A fast stand-in of Lunary's ingestion, for benchmarks: answers each POST
 * with a success for every runId in it, and counts.  One process, one
 * connection at a time is enough: a relay keeps one.  GET answers the count.
 *
 *     ingest_sink        prints its port, runs until it is killed
 */

#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>


#define SINK_MAX      (32 * 1024 * 1024)
#define SINK_CLIENTS  16


typedef struct {
    int     fd;
    char   *in;
    size_t  len;
} sink_client_t;


static char           *sink_plain;
static char           *sink_out;
static unsigned long   sink_events;


static int
sink_answer(int fd, const char *body, size_t len)
{
    int      n;
    char     head[256];
    size_t   sent;
    ssize_t  rc;

    n = snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\n"
                 "Content-Type: application/json\r\n"
                 "Content-Length: %zu\r\n\r\n", len);

    if (send(fd, head, (size_t) n, MSG_MORE) != n) {
        return -1;
    }

    for (sent = 0; sent < len; sent += (size_t) rc) {

        rc = send(fd, body + sent, len - sent, MSG_NOSIGNAL);

        if (rc <= 0) {
            return -1;
        }
    }

    return 0;
}


static size_t
sink_unpack(const char *in, size_t len)
{
    z_stream  z;

    memset(&z, 0, sizeof(z));

    if (inflateInit2(&z, 15 + 32) != Z_OK) {
        return 0;
    }

    z.next_in = (unsigned char *) (size_t) in;
    z.avail_in = (unsigned) len;
    z.next_out = (unsigned char *) sink_plain;
    z.avail_out = SINK_MAX;

    (void) inflate(&z, Z_FINISH);
    len = z.total_out;
    (void) inflateEnd(&z);

    return len;
}


static int
sink_request(sink_client_t *c, const char *head, const char *body, size_t len)
{
    char        *p, *end, *out;
    const char  *id;

    if (strncmp(head, "POST", 4) != 0) {
        len = (size_t) sprintf(sink_out, "%lu", sink_events);
        return sink_answer(c->fd, sink_out, len);
    }

    if (strcasestr(head, "content-encoding: gzip")) {
        len = sink_unpack(body, len);
        body = sink_plain;
    }

    out = sink_out + sprintf(sink_out, "{\"results\":[");

    for (p = (char *) (size_t) body, end = p + len; /* void */ ; /* void */ ) {

        p = memmem(p, (size_t) (end - p), "\"runId\":\"", 9);

        if (p == NULL || end - p < 45) {
            break;
        }

        id = p + 9;
        out += sprintf(out, "%s{\"id\":\"%.36s\",\"success\":true}",
                       out[-1] == '[' ? "" : ",", id);
        p += 45;
        sink_events++;
    }

    out += sprintf(out, "]}");

    return sink_answer(c->fd, sink_out, (size_t) (out - sink_out));
}


static int
sink_read(sink_client_t *c)
{
    char     *body, *length, kept;
    size_t    len;
    ssize_t   n;

    n = recv(c->fd, c->in + c->len, SINK_MAX - 1 - c->len, 0);

    if (n <= 0) {
        return -1;
    }

    c->len += (size_t) n;
    c->in[c->len] = '\0';

    for ( ;; ) {

        body = memmem(c->in, c->len, "\r\n\r\n", 4);

        if (body == NULL) {
            return 0;
        }

        kept = *body;
        *body = '\0';
        length = strcasestr(c->in, "content-length:");
        len = length ? strtoul(length + 15, NULL, 10) : 0;
        body += 4;

        if (c->len < (size_t) (body - c->in) + len) {
            body[-4] = kept;
            return c->len == SINK_MAX - 1 ? -1 : 0;
        }

        if (sink_request(c, c->in, body, len) != 0) {
            return -1;
        }

        c->len -= (size_t) (body - c->in) + len;
        memmove(c->in, body + len, c->len);
    }
}


int
main(void)
{
    int                  s, i, n, on;
    socklen_t            len;
    sink_client_t        clients[SINK_CLIENTS];
    struct pollfd        fds[SINK_CLIENTS + 1];
    struct sockaddr_in   addr;

    s = socket(AF_INET, SOCK_STREAM, 0);
    sink_plain = malloc(SINK_MAX);
    sink_out = malloc(SINK_MAX);

    memset(&addr, 0, sizeof(addr));
    addr.sin_family = AF_INET;
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    len = sizeof(addr);

    if (s < 0 || sink_plain == NULL || sink_out == NULL
        || bind(s, (struct sockaddr *) &addr, sizeof(addr)) != 0
        || listen(s, 64) != 0
        || getsockname(s, (struct sockaddr *) &addr, &len) != 0)
    {
        return 1;
    }

    printf("%d\n", ntohs(addr.sin_port));
    fflush(stdout);

    n = 0;

    for ( ;; ) {

        fds[0].fd = s;
        fds[0].events = n < SINK_CLIENTS ? POLLIN : 0;

        for (i = 0; i < n; i++) {
            fds[i + 1].fd = clients[i].fd;
            fds[i + 1].events = POLLIN;
        }

        if (poll(fds, (nfds_t) n + 1, -1) < 0) {
            return 1;
        }

        for (i = n - 1; i >= 0; i--) {
            if (fds[i + 1].revents && sink_read(&clients[i]) != 0) {
                close(clients[i].fd);
                free(clients[i].in);
                clients[i] = clients[--n];
            }
        }

        if (fds[0].revents) {
            clients[n].fd = accept(s, NULL, NULL);
            clients[n].in = malloc(SINK_MAX);
            clients[n].len = 0;

            if (clients[n].fd < 0 || clients[n].in == NULL) {
                return 1;
            }

            on = 1;
            setsockopt(clients[n].fd, IPPROTO_TCP, TCP_NODELAY, &on,
                       sizeof(on));
            n++;
        }
    }
}
