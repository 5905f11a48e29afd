/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * A Redis that takes the outbox's batches for next to nothing, to tell what
 * nginx spends from what it spends because Redis shares a core with nginx's
 * peers.  No test and no other figure rests on it.
 *
 *     light PORT REDIS_PORT
 *
 * It stands before a real Redis, which gets everything but what is between
 * MULTI and EXEC: of that, runs are counted (INCRBY light:runs) and dropped,
 * the watermark is set, and the answer is what Redis would say where all goes
 * well.  One thread; a few connections, each with one to Redis.
 *
 * What it knows of a transaction is in ngx_lunary_outbox_multi.c: an EVAL with
 * the watermark as its last argument, XADDs, an EVAL with the new one, perhaps
 * an EVALSHA that trims.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>


#define CONNS     32
#define IN        (16 << 20)             /* a batch, and what comes behind it */
#define OUT       (64 << 10)
#define ARGS      8                      /* that are looked at                */
#define TEXT      256

#define LENGTH    1000                   /* that the stream is said to have   */


typedef struct {
    const char  *data;
    size_t       len;
} arg_t;


typedef struct {
    int      fd;
    int      redis;
    char    *in;
    size_t   len;

    int      multi;
    long     commands;
    long     runs;
    char     key[TEXT];
    char     begin[TEXT];
    char     end[TEXT];
} conn_t;


static conn_t  conns[CONNS];
static int     nconns, redis_port;
static char    out[OUT], answer[1 << 20];
static size_t  nout;


static void
fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}


static void
give(int fd, const char *p, size_t n)
{
    ssize_t  k;

    for ( ; n; p += k, n -= (size_t) k) {

        k = send(fd, p, n, MSG_NOSIGNAL);

        if (k < 0) {
            if (errno != EINTR) {
                return;                 /* the next read sees that it is gone */
            }

            k = 0;
        }
    }
}


static void
flush(conn_t *c)
{
    give(c->fd, out, nout);
    nout = 0;
}


static void
say(conn_t *c, const char *p, size_t n)
{
    if (n > OUT - nout) {
        flush(c);
    }

    if (n > OUT) {
        give(c->fd, p, n);
        return;
    }

    memcpy(out + nout, p, n);
    nout += n;
}


/* a number behind a type's character: what follows, or NULL */

static const char *
number(const char *p, const char *end, long *n)
{
    const char  *lf;

    lf = memchr(p, '\n', (size_t) (end - p));
    if (lf == NULL) {
        return NULL;
    }

    *n = atol(p + 1);

    return lf + 1;
}


/* a command: its first arguments, its last one; what follows, or NULL */

static const char *
command(const char *p, const char *end, arg_t args[ARGS], arg_t *last,
    long *count)
{
    long  i, n;

    p = number(p, end, count);

    for (i = 0; p && i < *count; i++) {

        if (p == end) {
            return NULL;
        }

        p = number(p, end, &n);

        if (p == NULL || end - p < n + 2) {
            return NULL;
        }

        last->data = p;
        last->len = (size_t) n;

        if (i < ARGS) {
            args[i] = *last;
        }

        p += n + 2;
    }

    return p;
}


/* what is behind an answer, or NULL */

static const char *
behind(const char *p, const char *end)
{
    char  type;
    long  i, n;

    if (p == end) {
        return NULL;
    }

    type = *p;
    p = number(p, end, &n);

    if (p == NULL) {
        return NULL;
    }

    if (type == '$') {
        return (n < 0) ? p : (end - p < n + 2) ? NULL : p + n + 2;
    }

    if (type == '*') {
        for (i = 0; p && i < n; i++) {
            p = behind(p, end);
        }
    }

    return p;
}


/* asks Redis; the answer's length */

static size_t
ask(conn_t *c, const char *p, size_t len)
{
    size_t   n;
    ssize_t  k;

    give(c->redis, p, len);

    for (n = 0; behind(answer, answer + n) == NULL; n += (size_t) k) {

        k = recv(c->redis, answer + n, sizeof(answer) - n, 0);

        if (k <= 0) {
            fail("Redis");
        }
    }

    return n;
}


static int
is(arg_t *a, const char *name)
{
    return a->len == strlen(name) && memcmp(a->data, name, a->len) == 0;
}


static void
copy(char dst[TEXT], arg_t *a)
{
    snprintf(dst, TEXT, "%.*s", (int) a->len, a->data);
}


static void
queue(conn_t *c, arg_t args[ARGS], arg_t *last)
{
    say(c, "+QUEUED\r\n", 9);

    c->commands++;

    if (is(&args[0], "XADD")) {
        c->runs++;

    } else if (c->commands == 1) {
        copy(c->key, &args[4]);
        snprintf(c->begin, TEXT, "~%d~%.*s", LENGTH, (int) last->len,
                 last->data);

    } else if (is(&args[0], "EVAL")) {
        copy(c->end, last);
    }
}


static void
execute(conn_t *c)
{
    int   n;
    long  i;
    char  text[4 * TEXT], value[32];

    static const char  unwatch[] = "*1\r\n$7\r\nUNWATCH\r\n";
    static const char  id[] = "$15\r\n1700000000000-0\r\n";
    static const char  trimmed[] = "*4\r\n:0\r\n:0\r\n:0\r\n:1000\r\n";

    n = snprintf(text, sizeof(text), "*%ld\r\n", c->commands);
    say(c, text, (size_t) n);

    if (c->commands == 0) {
        (void) ask(c, unwatch, sizeof(unwatch) - 1);
        return;
    }

    n = snprintf(text, sizeof(text), "$%zu\r\n%s\r\n", strlen(c->begin),
                 c->begin);
    say(c, text, (size_t) n);

    for (i = 0; i < c->runs; i++) {
        say(c, id, sizeof(id) - 1);
    }

    n = snprintf(text, sizeof(text), ":%d\r\n", LENGTH);
    say(c, text, (size_t) n);

    for (i = c->runs + 2; i < c->commands; i++) {
        say(c, trimmed, sizeof(trimmed) - 1);
    }

    n = snprintf(text, sizeof(text),
                 "*3\r\n$3\r\nSET\r\n$%zu\r\n%s\r\n$%zu\r\n%s\r\n",
                 strlen(c->key), c->key, strlen(c->end), c->end);
    (void) ask(c, text, (size_t) n);

    n = snprintf(value, sizeof(value), "%ld", c->runs);
    n = snprintf(text, sizeof(text),
                 "*3\r\n$6\r\nINCRBY\r\n$10\r\nlight:runs\r\n"
                 "$%d\r\n%s\r\n", n, value);
    (void) ask(c, text, (size_t) n);
    (void) ask(c, unwatch, sizeof(unwatch) - 1);
}


/* all commands that are there */

static void
serve(conn_t *c)
{
    long         n;
    arg_t        args[ARGS], last;
    size_t       len;
    const char  *p, *end, *next;

    p = c->in;
    end = p + c->len;

    while (p < end && (next = command(p, end, args, &last, &n)) != NULL) {

        if (c->multi && !is(&args[0], "EXEC")) {
            queue(c, args, &last);

        } else if (c->multi) {
            c->multi = 0;
            execute(c);

        } else if (is(&args[0], "MULTI")) {
            c->multi = 1;
            c->commands = 0;
            c->runs = 0;
            say(c, "+OK\r\n", 5);

        } else {
            len = ask(c, p, (size_t) (next - p));
            say(c, answer, len);
        }

        p = next;
    }

    flush(c);

    c->len = (size_t) (end - p);
    memmove(c->in, p, c->len);
}


/* binds and listens, or connects: 0, or else errno says why not */

static int
attach(int fd, int port, int listening)
{
    int                 one;
    struct sockaddr_in  sin;

    one = 1;

    memset(&sin, 0, sizeof(sin));
    sin.sin_family = AF_INET;
    sin.sin_port = htons((unsigned short) port);
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    if (listening) {
        return setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one))
               || bind(fd, (struct sockaddr *) &sin, sizeof(sin))
               || listen(fd, CONNS);
    }

    return connect(fd, (struct sockaddr *) &sin, sizeof(sin))
           || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}


static void
enter(int listener)
{
    int      one;
    conn_t  *c;

    if (nconns == CONNS) {
        errno = ENFILE;
        fail("accept");
    }

    one = 1;
    c = &conns[nconns++];

    memset(c, 0, sizeof(*c));

    c->in = malloc(IN);
    c->fd = accept(listener, NULL, NULL);
    c->redis = socket(AF_INET, SOCK_STREAM, 0);

    if (c->in == NULL || c->fd == -1 || c->redis == -1
        || setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        || attach(c->redis, redis_port, 0))
    {
        fail("accept");
    }
}


static void
leave(conn_t *c)
{
    close(c->fd);
    close(c->redis);
    free(c->in);

    *c = conns[--nconns];
}


int
main(int argc, char **argv)
{
    int            i, n, listener;
    ssize_t        k;
    conn_t        *c;
    struct pollfd  fds[CONNS + 1];

    if (argc != 3) {
        fprintf(stderr, "light PORT REDIS_PORT\n");
        return 2;
    }

    redis_port = atoi(argv[2]);
    listener = socket(AF_INET, SOCK_STREAM, 0);

    if (listener == -1 || attach(listener, atoi(argv[1]), 1)) {
        fail("listen");
    }

    for ( ;; ) {

        n = nconns;

        for (i = 0; i < n; i++) {
            fds[i].fd = conns[i].fd;
            fds[i].events = POLLIN;
        }

        fds[n].fd = listener;
        fds[n].events = POLLIN;

        if (poll(fds, (nfds_t) n + 1, -1) == -1 && errno != EINTR) {
            fail("poll");
        }

        /* backwards: the last one takes the place of one that leaves */

        for (i = n - 1; i >= 0; i--) {

            if (fds[i].revents == 0) {
                continue;
            }

            c = &conns[i];
            k = recv(c->fd, c->in + c->len, IN - c->len, 0);

            if (k <= 0) {
                leave(c);
                continue;
            }

            c->len += (size_t) k;
            serve(c);
        }

        if (fds[n].revents) {
            enter(listener);
        }
    }
}
