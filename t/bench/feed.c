/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Keeps a Redis as busy as the module does, without nginx: sends the commands
 * of BATCH_FILE (RESP, BATCH runs that REPLIES lines of an answer come of)
 * again and again, RATE runs a second, for so many SECONDS.  A batch is due at
 * its time whatever became of those before it; one is under way at a time.
 *
 *     feed PORT BATCH_FILE BATCH REPLIES RATE SECONDS
 *
 * Prints JSON: how many runs were taken, in how many seconds.  Fails where the
 * connection ends, or Redis answers an error first.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>


static char    *batch;
static size_t   batch_len;


static void
fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}


static double
now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (double) ts.tv_sec + (double) ts.tv_nsec / 1e9;
}


static void
slurp(const char *name)
{
    FILE  *f;

    f = fopen(name, "rb");

    if (f == NULL || fseek(f, 0, SEEK_END) != 0) {
        fail(name);
    }

    batch_len = (size_t) ftell(f);
    batch = malloc(batch_len);
    rewind(f);

    if (batch == NULL || fread(batch, 1, batch_len, f) != batch_len) {
        fail(name);
    }

    fclose(f);
}


static int
dial(int port)
{
    int                 fd, one;
    struct sockaddr_in  sin;

    one = 1;

    memset(&sin, 0, sizeof(sin));
    sin.sin_family = AF_INET;
    sin.sin_port = htons((unsigned short) port);
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd == -1
        || connect(fd, (struct sockaddr *) &sin, sizeof(sin)) == -1
        || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == -1)
    {
        fail("connect");
    }

    return fd;
}


/* one batch, and its answer: so many lines */

static void
give(int fd, long lines)
{
    char     answer[65536], *p, *end;
    size_t   at;
    ssize_t  n;

    for (at = 0; at < batch_len; at += (size_t) n) {

        n = send(fd, batch + at, batch_len - at, MSG_NOSIGNAL);

        if (n <= 0) {
            fail("send");
        }
    }

    while (lines > 0) {

        n = recv(fd, answer, sizeof(answer), 0);

        if (n <= 0) {
            fail("recv");
        }

        if (answer[0] == '-') {
            fprintf(stderr, "%.*s\n", (int) (n < 200 ? n : 200), answer);
            exit(1);
        }

        end = answer + n;

        for (p = answer; (p = memchr(p, '\n', (size_t) (end - p))); p++) {
            lines--;
        }
    }
}


int
main(int argc, char **argv)
{
    int              fd;
    long             runs, count, lines;
    double           start, due, t, rate, seconds;
    struct timespec  ts;

    if (argc != 7) {
        fprintf(stderr,
                "feed PORT BATCH_FILE BATCH REPLIES RATE SECONDS\n");
        return 2;
    }

    fd = dial(atoi(argv[1]));
    slurp(argv[2]);
    count = atol(argv[3]);
    lines = atol(argv[4]);
    rate = atof(argv[5]);
    seconds = atof(argv[6]);

    runs = 0;
    start = due = now();

    for (t = start; t - start < seconds; t = now()) {

        if (t < due) {
            ts.tv_sec = 0;
            ts.tv_nsec = (long) ((due - t < 0.9 ? due - t : 0.9) * 1e9);
            nanosleep(&ts, NULL);
            continue;
        }

        give(fd, lines);

        runs += count;
        due += (double) count / rate;
    }

    printf("{\"runs\": %ld, \"seconds\": %.3f}\n", runs, t - start);

    close(fd);

    return 0;
}
