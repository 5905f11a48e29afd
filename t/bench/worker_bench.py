#!/usr/bin/env python3
# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""Entries a second of `lunary-worker relay` and `ledger`, beside the same
consumers in Python (redis-py) and Node (ioredis), in one run.

Each reads the same stream from its beginning through a group of its own; the
relay sends to a stand-in of Lunary on loopback (ingest_sink.c).  Best of
ROUNDS.  All three write the same: totals and days of each user, cost, merged
props, models, what was counted and what was relayed.

    worker_bench.py [ENTRIES]
"""

import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from harness import BUILD                           # noqa: E402
from harness.redis import RedisServer               # noqa: E402
from harness.worker import Worker, binary, run      # noqa: E402

HERE = pathlib.Path(__file__).parent
N = int(sys.argv[1]) if len(sys.argv) > 1 else 40000
ROUNDS = int(os.environ.get("ROUNDS", 3))
USERS = 100

TEXT = ("The quick brown fox jumps over the lazy dog, and %d others look on. "
        * 5)


def fill(server):
    server.client.flushall()
    pipe = server.client.pipeline(transaction=False)
    for n in range(N):
        pipe.xadd("lunary:runs", run(
            user_id=f"user-{n % USERS}", user_props={"name": f"User {n % USERS}",
                                                   "group": "sales"},
            params={"temperature": 0.5, "max_tokens": 400},
            input=[{"role": "system", "content": "Be brief."},
                   {"role": "user", "content": TEXT.replace("%d", str(n))}],
            output={"role": "assistant",
                    "content": TEXT.replace("%d", str(n * 7))},
            input_bytes=500, output_bytes=400, stream=1, finish_reason="stop",
            response_id=f"chatcmpl-{n}", total_tokens=15, request_bytes=900,
            response_bytes=2000, upstream_status=200, attempts=1,
            upstream_addr="10.0.0.1:443", ttft_ms=210, host="api.example.org",
            request_id=f"{n:032x}", node="web-1"))
        if n % 1000 == 999:
            pipe.execute()
    pipe.execute()


def timed(server, command, env=None):
    """Entries a second; microseconds of the client's and of Redis' CPU."""
    def redis_cpu():
        c = server.client.info("cpu")
        return c["used_cpu_user"] + c["used_cpu_sys"]

    before, redis_before = resource.getrusage(resource.RUSAGE_CHILDREN), \
        redis_cpu()
    begun = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, **(env or {})})
    took = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    client = (after.ru_utime + after.ru_stime - before.ru_utime
              - before.ru_stime)
    return N / took, client / N * 1e6, (redis_cpu() - redis_before) / N * 1e6


def reset(server):
    """The entries stay; groups and what they wrote go."""
    for g in server.client.xinfo_groups("lunary:runs"):
        server.client.xgroup_destroy("lunary:runs", g["name"])
    for key in server.client.scan_iter(count=5000):
        if key != "lunary:runs":
            server.client.unlink(key)


def check(server, name):
    """Whoever is measured did the work."""
    c, keys = server.client, []
    if name[0] == "relay":
        done = sum(1 for _ in c.scan_iter("lunary:relay:run:*", count=5000))
        assert done == N, (name, done)
        keys = ["props"]
    else:
        keys = ["runs", "input_tokens", "cost_nano", "last_seen", "props"]
    users = [c.hmget(f"lunary:user:default:user-{n}", keys)
             for n in range(USERS)]
    assert all(all(u) for u in users), (name, users[0])
    if name[0] == "ledger":
        sums = [sum(int(u[i]) for u in users) for i in range(3)]
        assert sums == [N, 10 * N, 75000 * N], (name, sums)


def flat(server, folder, api):
    """Resident memory of a relay after a tenth and after all."""
    reset(server)
    w = Worker(folder, server.unix_url, "relay", "--api", api, "--project",
               f"*={folder}/key", "--linger", "0").start()
    sizes = []
    while True:
        time.sleep(0.05)
        groups = [g for g in server.client.xinfo_groups("lunary:runs")
                  if g["name"] == "relay"]
        if not groups:
            continue
        left = groups[0]["lag"]
        if left is not None and left < N * 0.9:
            sizes.append(w.rss())
        if left == 0 and groups[0]["pending"] == 0:
            break
    sizes.append(w.rss())
    w.term()
    return sizes[0] / 1e6, sizes[-1] / 1e6


def main():
    worker = binary()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="lunary-b-"))
    (folder / "key").write_text("key")
    sink = folder / "sink"
    subprocess.run(["cc", "-O2", "-o", sink, HERE / "ingest_sink.c", "-lz"],
                   check=True)
    server = RedisServer(folder / "redis").start()
    standin = subprocess.Popen([sink], stdout=subprocess.PIPE, text=True)
    api = f"http://127.0.0.1:{standin.stdout.readline().strip()}"
    node = shutil.which("node")
    base = BUILD / "node"

    try:
        fill(server)
        commands = {}
        for what in "ledger", "relay":
            commands[what, "lunary-worker"] = (
                [worker, what, "--redis", server.unix_url, "--once"]
                + (["--api", api, "--project", f"*={folder}/key"]
                   if what == "relay" else []), None)
            commands[what, "redis-py"] = (
                [sys.executable, HERE / "worker_redis_py.py", what,
                 server.socket, api], None)
            if node and (base / "node_modules" / "ioredis").is_dir():
                commands[what, "ioredis"] = (
                    [node, HERE / "worker_ioredis.mjs", what, server.socket,
                     api], {"NODE_BASE": str(base)})

        best = {}
        for _ in range(ROUNDS):
            for name, (command, env) in commands.items():
                reset(server)
                best[name] = max(best.get(name, (0, 0, 0)),
                                 timed(server, command, env))
                check(server, name)

        print(f"\n{N} entries of {USERS} users, best of {ROUNDS}")
        print(f"{'':8}{'':15}{'entries/s':>10}{'CPU us/entry':>14}"
              f"{'of Redis':>10}")
        for (what, client), (rate, cpu, theirs) in best.items():
            ours = best[what, "lunary-worker"]
            print(f"{what:8}{client:15}{rate:10,.0f}{cpu:14.1f}{theirs:10.1f}"
                  + (f"   worker: {ours[0] / rate:.1f}x the rate, "
                     f"1/{cpu / ours[1]:.1f} of the CPU"
                     if client != "lunary-worker" else ""))
        early, late = flat(server, folder, api)
        print(f"relay's memory: {early:.1f} MB after a tenth, "
              f"{late:.1f} MB after all")
    finally:
        standin.kill()
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
