#!/usr/bin/env python3
# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""What a run costs Redis: by the outbox's script, by MULTI as the outbox sends
it, and as a bare XADD, which is the least it can be.  CPU time of
redis-server, from /proc.

    redis_cost.py
"""

import pathlib
import re
import socket
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from lab import Lab, resp

HERE = pathlib.Path(__file__).resolve().parent
OUTBOX = HERE.parent.parent / "ngx_lunary_module/outbox"
LIMIT = 2000

# a run's fields, with values of a usual length; input is the prompt
LENGTHS = {"input": None, "output": 300, "usage": 150, "params": 40}
NAMES = """kind v origin run_id app type provider api user_id user_source
user_verified model response_model response_id params input output input_bytes
output_bytes stream finish_reason usage prompt_tokens completion_tokens
total_tokens cached_tokens reasoning_tokens input_tokens output_tokens
request_bytes response_bytes status upstream_status upstream_addr attempts
outcome started_at ended_at duration_ms ttft_ms method uri host request_id
node""".split()

# prompt, runs a batch (as large as the outbox makes them), batches
CASES = (500, 64, 400), (9000, 40, 300), (213000, 2, 300)


def lua(file, name):
    """The text of a script that is a macro in that file."""
    source = (OUTBOX / file).read_text()
    macro = re.search(r"#define %s\b(.*?[^\\])\n" % name, source, re.S)[1]
    macro = re.sub(r"/\*.*?\*/", "", macro, flags=re.S)
    return "".join(part.encode().decode("unicode_escape") for part in
                   re.findall(r'"((?:[^"\\]|\\.)*)"', macro))


def run(size):
    fields = []
    for name in NAMES:
        n = LENGTHS.get(name, 12)
        fields += [name, "x" * (size if n is None else n)]
    return fields


class Ways:
    """Each gives the bytes of one batch, and how many replies come."""

    def __init__(self, redis):
        self.script = redis.command("SCRIPT", "LOAD", lua(
            "ngx_lunary_outbox_script.c", "NGX_LUNARY_OUTBOX_LUA"))
        self.begin = lua("ngx_lunary_outbox_multi.c",
                         "NGX_LUNARY_OUTBOX_BEGIN")
        self.end = lua("ngx_lunary_outbox_multi.c", "NGX_LUNARY_OUTBOX_END")

    def by_script(self, fields, n, last):
        head = struct.pack("<32xH6x", len(NAMES))
        return resp("EVALSHA", self.script, 2, "runs", "mark", "add", last,
                    last + n, LIMIT, 0, n, *((head, *fields) * n)), 1

    def by_multi(self, fields, n, last):
        keys = 2, "runs", "mark"
        return (resp("WATCH", "mark") + resp("GET", "mark")
                + resp("MULTI") + resp("EVAL", self.begin, *keys, last)
                + resp("XADD", "runs", "*", *fields) * n
                + resp("EVAL", self.end, *keys, n, last, last + n)
                + resp("EVALSHA", self.script, *keys, "trim", LIMIT)
                + resp("EXEC")), n + 7

    def bare(self, fields, n, last):
        return resp("XADD", "runs", "MAXLEN", "~", LIMIT, "*", *fields) * n, n


def spent(process):
    return sum(int((task / "schedstat").read_text().split()[0]) for task in
               pathlib.Path(f"/proc/{process.pid}/task").iterdir())


def measure(redis, way, size, n, batches):
    """us a run"""
    redis.command("FLUSHALL")
    redis.command("SET", "mark", 0)
    fields = run(size)
    with socket.create_connection(("127.0.0.1", redis.port)) as s:
        replies = s.makefile("rb")
        before = spent(redis.process)
        for i in range(batches):
            text, count = way(fields, n, i * n)
            s.sendall(text)
            for _ in range(count):
                reply = redis._read(replies)
        after = spent(redis.process)
    added = redis.added("runs")
    assert added == n * batches, (way.__name__, added, reply)
    return (after - before) / 1e3 / added


def main():
    with Lab(HERE) as lab:
        redis = lab.redis()
        ways = Ways(redis)
        print("prompt    script     MULTI  bare XADD   (us a run)")
        for size, n, batches in CASES:
            print("%6d" % size, *("%9.1f" % measure(redis, way, size, n,
                                                    batches)
                                  for way in (ways.by_script, ways.by_multi,
                                              ways.bare)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
