#!/usr/bin/env python3
# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""Reads runs from the stream into an SQLite table, each run once.

A member of a consumer group: start as many as you like, each with a
--consumer name of its own.  It shows the four things every consumer needs:

  - entries are acknowledged (XACK) only after they are stored, so that a
    reader that dies loses nothing;
  - what a dead reader was given and did not acknowledge is taken over
    (XAUTOCLAIM);
  - an entry may therefore be delivered twice: `run_id` is the table's primary
    key, and a second delivery changes nothing;
  - entries come in the order in which calls ended: sort by `started_at`.

    pip install redis
    python3 reader.py --redis redis://127.0.0.1:6379/0 --db runs.db
"""

import argparse
import os
import signal
import socket
import sqlite3
import sys

import redis


TABLE = """
    CREATE TABLE IF NOT EXISTS runs (
        run_id         TEXT PRIMARY KEY,
        started_at     INTEGER NOT NULL,
        app            TEXT NOT NULL,
        user_id        TEXT,
        user_verified  INTEGER,
        model          TEXT,
        outcome        TEXT NOT NULL,
        input_tokens   INTEGER,
        output_tokens  INTEGER,
        duration_ms    INTEGER,
        input          TEXT,
        output         TEXT
    )"""

# A field that is absent is unknown: it becomes NULL, never 0.
COLUMNS = ("run_id", "started_at", "app", "user_id", "user_verified", "model",
           "outcome", "input_tokens", "output_tokens", "duration_ms", "input",
           "output")

NUMBERS = {"started_at", "user_verified", "input_tokens", "output_tokens",
           "duration_ms"}


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--redis", default="redis://127.0.0.1:6379/0")
    p.add_argument("--stream", default="lunary:runs", nargs="+",
                   help="several where lunary_stream has shards=")
    p.add_argument("--group", default="example")
    p.add_argument("--consumer", default="%s-%d" % (socket.gethostname(),
                                                    os.getpid()))
    p.add_argument("--db", default="runs.db")
    p.add_argument("--claim-after", type=float, default=60, metavar="SECONDS",
                   help="take over what another reader left this long")
    p.add_argument("--once", action="store_true",
                   help="end when there is nothing left to read")
    args = p.parse_args()

    if isinstance(args.stream, str):
        args.stream = [args.stream]

    return args


def join(r, stream, group):
    """Makes the group, from the stream's first entry on."""
    try:
        r.xgroup_create(stream, group, id="0", mkstream=True)
    except redis.ResponseError as e:
        if not str(e).startswith("BUSYGROUP"):
            raise


def store(db, entries):
    """One transaction for a batch; runs that are there already stay."""
    rows = []

    for _, fields in entries:
        if fields.get("kind") != "run":      # SDK events, kinds to come
            continue

        rows.append([int(fields[c]) if c in NUMBERS and c in fields
                     else fields.get(c) for c in COLUMNS])

    with db:
        db.executemany("INSERT OR IGNORE INTO runs (%s) VALUES (%s)"
                       % (",".join(COLUMNS), ",".join("?" * len(COLUMNS))),
                       rows)


def take(r, db, stream, group, entries):
    """Stores, then acknowledges: in this order."""
    # an entry that was trimmed after it was delivered has no fields any more
    there = [(i, f) for i, f in entries if f]

    store(db, there)

    if entries:
        r.xack(stream, group, *[i for i, _ in entries])


def claim(r, db, args, stream):
    """Takes over what other readers have left unacknowledged."""
    start = "0-0"

    while True:
        answer = r.xautoclaim(stream, args.group, args.consumer,
                              min_idle_time=int(args.claim_after * 1000),
                              start_id=start, count=100)
        start, entries = answer[0], answer[1]
        take(r, db, stream, args.group,
             [e for e in entries if e[0] is not None])

        if start == "0-0":
            return


def main():
    args = arguments()

    stopping = []
    for s in signal.SIGTERM, signal.SIGINT:
        signal.signal(s, lambda *_: stopping.append(1))

    # longer than XREADGROUP blocks
    r = redis.Redis.from_url(args.redis, decode_responses=True,
                             socket_timeout=30)

    db = sqlite3.connect(args.db, timeout=30)
    db.execute(TABLE)

    for stream in args.stream:
        join(r, stream, args.group)

    while not stopping:
        for stream in args.stream:
            claim(r, db, args, stream)

        # claims are looked for again, and signals heard, after at most 2 s
        got = r.xreadgroup(args.group, args.consumer,
                           {s: ">" for s in args.stream}, count=100,
                           block=None if args.once else 2000)

        for stream, entries in got:
            take(r, db, stream, args.group, entries)

        if args.once and not got:
            break

    return 0


if __name__ == "__main__":
    sys.exit(main())
