#!/usr/bin/env python3
# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""Benchmarks: nginx with the module beside nginx without, in one run.

All servers run at once, each nginx with its worker on the first core, the
upstream, Redis and the client on the others; a round loads one of them for a
moment, and rounds alternate (plain, module, Lua, plain, module, ...), so that
what disturbs the machine disturbs all alike.  Shown are medians of the rounds.

A round with the module counts only if every call became a run and every run
arrived in Redis, and its CPU time is taken after that.

Measurements, each of which can be named by a part of its name:

    CASE             as fast as answers come (see cases.py); of some also with
                     a Redis that takes batches for next to nothing (light.c)
    same rate: CASE  plain nginx and the module at the same requests a second
    idle: CASE       the same, so few that the machine has nothing to do
    first event      of a stream: how long from the upstream to the client
    upload           small calls while another client uploads 64 MB

    run.py [--rounds N] [--seconds S] [--json FILE] [--docs] [NAME ...]

--docs puts the figures into docs/performance.md and draws its plot anew.

NGINX_BIN and NGINX_MODULE name another nginx and module than the default ones.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import report
import upload
from cases import (CASES, FIRST, IDLE, IDLE_RATE, RATES, VARIANTS,
                   nginx_config)
from lab import Lab, Nginx, Trouble, free_port, paced, streams, wait_for, wrk

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STREAM = "lunary:runs"
SPOOL = 1 << 30      # what Redis takes more slowly than nginx makes it fits
MODULES = pathlib.Path("/usr/lib/nginx/modules")

# what the Lua tracker needs: libnginx-mod-http-lua lua-cjson lua-nginx-redis
LUA = (MODULES / "ngx_http_lua_module.so", "/usr/share/lua/5.1/cjson/util.lua",
       "/usr/share/lua/5.1/nginx/redis.lua")

# with a Redis that does not answer, a call costs at most so many times as much
NO_WORSE = 1.1


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("names", nargs="*", metavar="NAME",
                   help="part of a measurement's name; default: all")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=int, default=2)
    p.add_argument("--json", metavar="FILE", help="all figures, also there")
    p.add_argument("--docs", action="store_true",
                   help="figures and plot into docs/")
    p.add_argument("--no-lua", action="store_true")
    return p.parse_args()


class Bench:
    def __init__(self, lab, args):
        self.lab = lab
        self.args = args
        self.binary = os.environ.get("NGINX_BIN") or shutil.which(
            "nginx", path=os.environ["PATH"] + ":/usr/sbin")
        self.module = os.environ.get(
            "NGINX_MODULE", str(ROOT / "build/ngx_http_lunary_module.so"))
        self.ups = lab.upstream(1000), lab.upstream(10000)
        self.redis = lab.redis()
        self.redis.command("SET", "sess:abc",
                           '{"user":{"id":"user-4711","name":"Ann"}}')
        self.targets = {}          # name: (nginx, port)
        self.start()
        # once round the spool: a file's pages cost more the first time
        done = 0
        while done < SPOOL:
            got = self.round("full", CASES["chat 213 KB"], 1)
            done += got["runs"] * self.redis.last_size(STREAM)

    # -- the servers

    def one(self, name, servers, load="", http="", workers=1):
        config = nginx_config(self.ups, servers, load, http, workers)
        nginx = self.lab.nginx(name.replace(" ", "-"), config, self.binary,
                               self.lab.cores[:workers])
        return nginx.up(servers[0][0])

    def with_module(self, name, variants, redis, size=SPOOL, workers=1):
        """nginx with the module, a server for each of the variants"""
        load = "load_module %s;" % self.module if self.module else ""
        ports = {v: free_port() for v in variants}
        nginx = self.one(
            name, [(ports[v], VARIANTS[v], "lunary_status;")
                   for v in variants],
            load, "lunary_redis redis://127.0.0.1:%d/0;\n"
            "lunary_spool spool size=%d;\n"
            "lunary_stream %s maxlen=2000 maxbytes=512m;"
            % (redis, size, STREAM), workers)
        return nginx, ports

    def start(self):
        port = free_port()
        self.targets["plain"] = self.one("plain", [(port, "", "return 404;")]
                                         ), port
        nginx, ports = self.with_module("module", VARIANTS, self.redis.port)
        for v, port in ports.items():
            self.targets[v] = nginx, port

        # two workers, on the first two cores
        port = free_port()
        self.targets["plain 2"] = self.one(
            "plain2", [(port, "", "return 404;")], workers=2), port
        nginx, ports = self.with_module("module2", ["full"], self.redis.port,
                                        128 << 20, 2)
        self.targets["full 2"] = nginx, ports["full"]

        nginx, ports = self.with_module("dead", ["full"], free_port(),
                                        64 << 20)
        self.targets["dead"] = nginx, ports["full"]

        # one whose Redis has next to nothing to do
        self.real = self.lab.redis()
        nginx, ports = self.with_module("module3", ["full", "cap32k", "none"],
                                        self.lab.light(self.real), 64 << 20)
        for v, port in ports.items():
            self.targets[v + " light"] = nginx, port

        # one that is stopped for each round; its spool holds a round
        self.halted = self.lab.redis()
        nginx, ports = self.with_module("stopped", ["full"], self.halted.port)
        self.targets["stopped"] = nginx, ports["full"]

        if self.args.no_lua or not all(map(os.path.exists, LUA)):
            return

        lua = (HERE / "tracker.lua").read_text()
        (self.lab.dir / "tracker.lua").write_text(lua)
        port = free_port()
        self.targets["lua"] = self.one(
            "lua", [(port, (HERE / "lua.conf").read_text()
                     .replace("REDIS_PORT", str(self.redis.port)),
                     "return 404;")],
            "load_module %s;\nload_module %s;"
            % (MODULES / "ndk_http_module.so",
               MODULES / "ngx_http_lua_module.so"),
            'lua_package_path "%s/?.lua;/usr/share/lua/5.1/?.lua;;";\n'
            'lua_package_cpath "/usr/lib/%s-linux-gnu/lua/5.1/?.so;;";\n'
            'init_worker_by_lua_block { require("tracker").start(%d) }'
            % (self.lab.dir, platform.machine(), self.redis.port)), port

    def floor(self, size):
        """Plain nginx that also writes so many bytes a request."""
        port = free_port()
        name = "floor%d" % size
        if name not in self.targets:
            # nginx takes words of up to 4 KB: larger ones are put together
            http = ("map $host $kb { default %s; }\n"
                    "log_format run escape=none '%s%s';\n"
                    "access_log run.log run;" % (
                        "x" * 1024, "${kb}" * (size // 1024),
                        "x" * (size % 1024)))
            config = nginx_config(self.ups, [(port, "", "return 404;")], "",
                                  http)
            config = config.replace("access_log              off;", "")
            self.targets[name] = self.lab.nginx(
                name, config, self.binary, [self.lab.cores[0]]).up(port), port
        return name

    # -- one round

    def counts(self, port, redis=None):
        s = Nginx.status(port)
        return {"runs": sum(s["runs_total"].values()),
                "sent": s["runs_sent_total"], "spooled": s["runs_spooled"],
                "dropped": sum(s["runs_dropped_total"].values()),
                "added": 0 if redis is self.halted else self.added(redis)}

    def added(self, redis=None):
        """How many runs arrived."""
        redis = redis or self.redis
        light = redis.command("GET", "light:runs")       # dropped by light.c
        return redis.added(STREAM) + int(light or 0)

    def settled(self, port, redis=None):
        """The counters once nothing waits for Redis."""
        def check():
            self.now = self.counts(port, redis)
            return (self.now["spooled"] == 0
                    and self.now["runs"] == self.now["sent"]
                    + self.now["dropped"])
        wait_for("runs in Redis", check, 60)
        return self.now

    def load(self, port, case, seconds, rate):
        api = ("/v1/embeddings" if case.path == "/big"
               else "/v1/chat/completions")
        path = case.path + api
        file = self.lab.dir / "body.json"
        file.write_text(case.body)

        if case.path == "/few":
            return streams(self.lab, port, path, file, case.conns,
                           round(seconds * 150))
        if case.path == "/sse":
            return streams(self.lab, port, path, file, case.conns,
                           max(case.conns, round(case.conns * seconds * 4)))
        if case.path == "/slow/sse":
            return streams(self.lab, port, path, file, case.conns, case.conns)

        headers = ([("Cookie", "sid=abc")] if "lunary_session" in
                   VARIANTS.get(case.variant, "") else [])
        if rate:
            return paced(self.lab, port, path, file, case.conns, rate,
                         round(rate * seconds), headers)
        return wrk(self.lab, port, path, file, case.conns, seconds, headers)

    def round(self, target, case, seconds, rate=None):
        """case: one, or the name of one"""
        case = CASES.get(case, case)
        nginx, port = self.targets[target]
        live = target.split()[0] in VARIANTS
        redis = self.real if target.endswith(" light") else None
        if live:
            before = self.settled(port, redis)
        file = nginx.folder / "run.log"
        if file.exists():
            os.truncate(file, 0)
        if target == "stopped":
            before = self.settled(port, self.halted)
            self.halted.stop()

        cpu = nginx.cpu()
        got = self.load(port, case, seconds, rate)
        if live:
            after = self.settled(port, redis)
        else:
            time.sleep(0.2)
        got["cpu"] = (nginx.cpu() - cpu) / 1e3 / got["requests"]    # us
        got["rss"] = nginx.rss()
        got["rps"] = got["requests"] / got["seconds"]

        if target == "stopped":
            after = self.counts(port, self.halted)
            if (after["sent"] - before["sent"] > 0 or after["dropped"]
                    or after["spooled"] < got["requests"]):
                raise Trouble("Redis was not stopped: %s" % after)
            self.halted.go_on()

        if got["failed"]:
            raise Trouble("%s: %d requests failed\n%s"
                          % (target, got["failed"], nginx.log()))
        if live:
            got["runs"] = after["runs"] - before["runs"]
            added = after["added"] - before["added"]
            if (added != got["runs"] or after["dropped"] != before["dropped"]
                    or got["runs"] < got["requests"]):
                raise Trouble("%d requests, %d runs, %d arrived: %s"
                              % (got["requests"], got["runs"], added, after))
        return got

    def rounds(self, targets, case, seconds, rate=None):
        """{target: [figures of each round]}"""
        got = {t: [] for t in targets}
        for _ in range(self.args.rounds):
            for target in targets:
                got[target].append(self.round(target, case, seconds, rate))
        return got

    # -- the measurements

    def case(self, name):
        """As fast as answers come."""
        case = CASES[name]
        more = " 2" if case.workers == 2 else ""
        plain, module = "plain" + more, case.variant + more
        targets = [plain, module]
        if name in RATES:
            targets.append(module + " light")

        # what Redis takes more slowly than nginx makes it must fit the spool
        seconds = 1 if len(case.body) > 100000 else self.args.seconds

        # beside the same with a Redis that is well, which may not be cheaper
        if case.variant in ("dead", "stopped"):
            targets.append("full")

        if name in report.LUA_AIMS:
            self.round("full", case, 1)
            targets.append(self.floor(self.redis.last_size(STREAM)))
            if "lua" in self.targets:
                targets.append("lua")

        for target in targets:                                     # warm
            self.round(target, case, 1)

        got = self.rounds(targets, case, seconds)
        result = {}
        for target, rounds in got.items():
            name = ("plain" if target == plain else
                    "module" if target == module else
                    "light" if target == module + " light" else
                    "live" if target == "full" else
                    "floor" if target.startswith("floor") else target)
            result[name] = medians(rounds)
        if "live" in result:
            result["worse"] = [
                key for key in ("cpu", "p50")
                if result["module"][key] > NO_WORSE * result["live"][key]]

        # of each pair of neighbours, then the median of these
        result["ratio"] = ratio(got[plain], got[module])
        return result

    def at_rate(self, name, rate=None):
        """Plain nginx and the module at the same rate: that, or a third of
        what plain nginx can do (half of what the module can, if that is
        less)."""
        case = CASES[name]
        seconds = 1 if len(case.body) > 100000 else self.args.seconds
        fast = {t: self.round(t, case, 1)["rps"]
                for t in ("plain", case.variant)}
        if rate is None:
            rate = min(fast["plain"] / 3, fast[case.variant] / 2)
            rate = max(100, round(rate, -2))

        got = self.rounds(fast, case, seconds, rate)
        return self.pair(got["plain"], got[case.variant], rate=rate)

    def first(self):
        got = self.rounds(("plain", "full"), FIRST, self.args.seconds)
        return self.pair(got["plain"], got["full"])

    def upload(self):
        got = upload.measure(self, self.args.rounds, self.args.seconds)
        return self.pair(got["plain"], got["full"])

    @staticmethod
    def pair(plain, module, **more):
        keys = [k for k in plain[0] if k.endswith(("p50", "p99"))]
        return {
            "plain": medians(plain), "module": medians(module),
            "ratio": ratio(plain, module, "cpu" if "cpu" in plain[0]
                           else "p99"),
            "more": {k: statistics.median(m[k] - p[k] for p, m in
                                          zip(plain, module)) for k in keys},
            **more}

    def measure(self, name):
        kind, _, case = name.rpartition(": ")
        if name == "first event":
            return self.first()
        if name == "upload":
            return self.upload()
        if kind == "idle":
            return self.at_rate(case, IDLE_RATE)
        if kind:
            return self.at_rate(case)
        return self.case(case)


def medians(rounds):
    return {key: statistics.median(r[key] for r in rounds)
            for key in rounds[0] if key not in ("failed", "seconds", "runs")}


def ratio(plain, module, key="cpu"):
    return statistics.median(p[key] / m[key] for p, m in zip(plain, module))


NAMES = (*CASES, *(f"same rate: {c}" for c in RATES),
         *(f"idle: {c}" for c in IDLE), "first event", "upload")


def main():
    args = arguments()
    for tool in ("wrk", "redis-server", "cc"):
        if shutil.which(tool) is None:
            sys.exit("make bench needs %s: apt-get install wrk redis-server "
                     "gcc" % tool)

    names = [n for n in NAMES
             if not args.names or any(a in n for a in args.names)]
    results = {}
    begun = time.monotonic()
    args.others = os.getloadavg()[0]
    report.quiet = args.others < 2
    with Lab(HERE) as lab:
        name = "start"
        try:
            bench = Bench(lab, args)
            version = subprocess.run([bench.binary, "-v"], text=True,
                                     capture_output=True).stderr.strip()
            print("%s; %d rounds of %d s each, medians; %s\n" % (
                version, args.rounds, args.seconds,
                "cores %s" % lab.cores), flush=True)
            for name in names:
                start = time.monotonic()
                results[name] = bench.measure(name)
                print("%-43s %5.2f   (%.0f s)" % (
                    name, results[name]["ratio"], time.monotonic() - start),
                    flush=True)
        except Trouble as e:
            print("\n%s: %s" % (name, e), file=sys.stderr)
            if not results:
                return 1
            failed = 1
        else:
            failed = 0
    whole = not failed

    for title, text in report.tables(results):
        print("\n%s\n\n%s" % (title, text))
    print("\n%.0f s" % (time.monotonic() - begun))

    for case, result in results.items():
        if result.get("worse"):
            print("%s: more than %.1f times the %s of a live one"
                  % (case, NO_WORSE, " and ".join(result["worse"])))
            failed = 1

    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=1))
    if args.docs and whole:
        report.docs(ROOT / "docs", results, version, args)
    return failed


if __name__ == "__main__":
    sys.exit(main())
