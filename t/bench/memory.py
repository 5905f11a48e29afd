#!/usr/bin/env python3
# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""A worker's memory over many calls, each captured and in a live Redis.

    memory.py [CALLS]                  10,000,000 of them if not said

Of each hundred calls 90 are chats of 0.6 KB, 9 of 9 KB, one is a short stream.
Shown after 10,000 calls and then ten times a decade or each tenth of the whole:
RssAnon, what is the worker's own; RssFile, pages of files it has mapped (its
program, its spool), which the page cache holds anyway; RssShmem, nginx's shared
zones.

Fails where a call did not become a run in Redis, or where RssAnon after all of
them is more than 256 KiB above what it was after 100,000 (or the first tenth).
"""

import os
import pathlib
import shutil
import sys
import time

from cases import VARIANTS, chat, nginx_config
from lab import Lab, Nginx, Trouble, free_port, paced, wait_for

ROOT = pathlib.Path(__file__).resolve().parents[2]
STREAM = "lunary:runs"
MORE = 256                                               # KiB

# of each hundred: request, path, how many
MIX = ((chat(620), "/json", 90), (chat(9 * 1024), "/json", 9),
       (chat(620, True), "/few", 1))


def steps(calls):
    """10,000, 100,000, then each tenth"""
    found = {n for n in (10000, 100000) if n < calls}
    return sorted(found | {calls * i // 10 for i in range(1, 11)})


def main():
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 10000000
    binary = os.environ.get("NGINX_BIN") or shutil.which(
        "nginx", path=os.environ["PATH"] + ":/usr/sbin")
    module = os.environ.get(
        "NGINX_MODULE", str(ROOT / "build/ngx_http_lunary_module.so"))

    with Lab(pathlib.Path(__file__).parent) as lab:
        ups = lab.upstream(1000), lab.upstream(10000)
        redis = lab.redis()
        port = free_port()
        nginx = lab.nginx("memory", nginx_config(
            ups, [(port, VARIANTS["full"], "lunary_status;")],
            f"load_module {module};",
            f"lunary_redis redis://127.0.0.1:{redis.port};\n"
            "lunary_spool spool size=64m;\n"
            f"lunary_stream {STREAM} maxlen=1000 maxbytes=64m;"), binary,
            lab.cores[:1]).up(port)

        def some(n):
            for i, (body, path, share) in enumerate(MIX):
                count = n * share // 100 or 1
                if i == 0:
                    count = n - sum(n * m[2] // 100 or 1 for m in MIX[1:])
                file = lab.dir / "body.json"
                file.write_text(body)
                got = paced(lab, port, path + "/v1/chat/completions", file,
                            32, 0, count)
                if got["requests"] != count or got["failed"]:
                    raise Trouble(f"{got['failed']} of {count} calls failed\n"
                                  + nginx.log())

        def settled():
            s = Nginx.status(port)
            return s["runs_spooled"] == 0

        print("|      calls | RssAnon KiB | RssFile KiB | RssShmem KiB "
              "| calls/s |")
        print("|-----------:|------------:|------------:|-------------:"
              "|--------:|")
        done, base, small = 0, None, 0
        for goal in steps(calls):
            start = time.monotonic()
            begun = done
            while done < goal:
                # no more than the spool holds: Redis may be the slower one
                n = min(goal - done, 10000)
                some(n)
                done += n
                wait_for("runs in Redis", settled, 60)
            small = nginx.rss("RssAnon")
            if base is None and done >= min(100000, calls // 10):
                base = small
            print("| %10d | %11d | %11d | %12d | %7.0f |" % (
                done, small, nginx.rss("RssFile"), nginx.rss("RssShmem"),
                (done - begun) / (time.monotonic() - start)), flush=True)

        s = Nginx.status(port)
        sent, added = s["runs_sent_total"], redis.added(STREAM)
        print(f"\n{done} calls, {sum(s['runs_total'].values())} runs, "
              f"{sent} sent, {added} in Redis, "
              f"{sum(s['runs_dropped_total'].values())} dropped")
        if not done == sent == added == sum(s["runs_total"].values()):
            raise Trouble("some are missing")
        if small - base > MORE:
            raise Trouble(f"RssAnon has grown by {small - base} KiB")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Trouble as e:
        sys.exit(str(e))
