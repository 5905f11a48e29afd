#!/usr/bin/env python3
# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""Benchmarks: nginx with the module beside nginx without, in one run.

All servers run at once, each nginx with its worker on the first core, the
upstream, Redis and the client on the others; a round loads one of them for a
moment, and rounds alternate (plain, module, Lua, plain, module, ...), so that
what disturbs the machine disturbs all alike.  Shown are medians of the rounds.

A round with the module counts only if every call became a run and every run
arrived in Redis, and its CPU time is taken after that.

    run.py [--rounds N] [--seconds S] [--json FILE] [CASE ...]

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

from lab import Lab, Nginx, Trouble, free_port, streams, wait_for, wrk

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STREAM = "lunary:runs"
SPOOL = 512 << 20
MODULES = pathlib.Path("/usr/lib/nginx/modules")

# what the Lua tracker needs: libnginx-mod-http-lua lua-cjson lua-nginx-redis
LUA = (MODULES / "ngx_http_lua_module.so", "/usr/share/lua/5.1/cjson/util.lua",
       "/usr/share/lua/5.1/nginx/redis.lua")

CONFIG = """
daemon off;
%(user)s
worker_processes 1;
pid nginx.pid;
error_log error.log warn;
%(load)s

events {
    worker_connections 4096;
}

http {
    access_log              off;
    keepalive_timeout       600s;
    keepalive_requests      1000000000;
    client_max_body_size    64m;
    client_body_buffer_size 256k;
    client_body_temp_path   body;
    proxy_temp_path         proxy;
    fastcgi_temp_path       fastcgi;
    uwsgi_temp_path         uwsgi;
    scgi_temp_path          scgi;
    proxy_http_version      1.1;
    proxy_set_header        Connection "";
    proxy_buffers           8 64k;

%(http)s

    upstream fast {
        server 127.0.0.1:%(upstream)d;
        keepalive 512;
        keepalive_requests 1000000000;
    }

    upstream slow {
        server 127.0.0.1:%(slow)d;
        keepalive 512;
        keepalive_requests 1000000000;
    }
%(servers)s
}
"""

SERVER = """
    server {
        listen 127.0.0.1:%(port)d;
        %(lines)s

        location / {
            proxy_pass http://fast;
        }

        location /sse/ {
            proxy_buffering off;
            proxy_pass http://fast;
        }

        location /slow/sse/ {
            proxy_buffering off;
            proxy_pass http://slow/sse/;
        }

        location = /lunary {
            %(status)s
        }
    }
"""


def chat(size, stream=False):
    """A chat request of about that many bytes, in turns of 400 or 4000."""
    words = ("The customer asks about an order that was placed last week and "
             "has not arrived. \"Please look it up\", she writes. ")
    turn = 400 if size < 100000 else 4000
    body = {"model": "gpt-4o-mini", "temperature": 0.7, "max_tokens": 512,
            "user": "user-4711", "messages": []}
    if stream:
        body["stream"] = True
    role = "system"
    while len(json.dumps(body)) < size:
        room = size - len(json.dumps(body)) - 34
        text = (words * (turn // len(words) + 1))[:min(turn, max(room, 1))]
        body["messages"].append({"role": role, "content": text})
        role = "assistant" if role == "user" else "user"
    return json.dumps(body)


# name: request, path, load, module's variant
CASES = {
    "chat 0.6 KB": (chat(620), "/json", 32, "full"),
    "chat 9 KB": (chat(9 * 1024), "/json", 32, "full"),
    "chat 213 KB": (chat(213 * 1024), "/json", 4, "full"),
    "chat 213 KB, capture_max 32k": (chat(213 * 1024), "/json", 4, "cap32k"),
    "identity only 0.6 KB": (chat(620), "/json", 32, "none"),
    "session look-up 0.6 KB": (chat(620), "/json", 32, "session"),
    "session from cache 0.6 KB": (chat(620), "/json", 32, "cached"),
    "no such session 0.6 KB": (chat(620), "/json", 32, "nosession"),
    "embeddings, 1 MB answer": (None, "/big", 8, "full"),
    "stream of 200 chunks": (chat(620, True), "/sse", 16, "full"),
    "200 streams at once": (chat(620, True), "/slow/sse", 200, "full"),
    "Redis dead 0.6 KB": (chat(620), "/json", 32, "dead"),
    "Redis stopped 0.6 KB": (chat(620), "/json", 32, "stopped"),
    "one connection 0.6 KB": (chat(620), "/json", 1, "full"),
}

EMBEDDINGS = json.dumps({"model": "text-embedding-3-small",
                         "input": ["some words to embed, a line of text"] * 32,
                         "user": "user-4711"})

VARIANTS = {
    "full": "lunary on; lunary_capture_max 1m;",
    "cap32k": "lunary on; lunary_capture_max 32k;",
    "none": "lunary on; lunary_capture none;",
    "session": "lunary on; lunary_capture_max 1m; "
               "lunary_user session body; "
               "lunary_session sess:$cookie_sid format=json;",
}
VARIANTS["cached"] = (VARIANTS["session"]
                      + " lunary_session_cache zone=bench:1m;")
VARIANTS["nosession"] = VARIANTS["session"].replace("sess:", "none:")


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("cases", nargs="*", metavar="CASE",
                   help="part of a case's name; default: all")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=int, default=2)
    p.add_argument("--json", metavar="FILE", help="all figures, also there")
    p.add_argument("--no-lua", action="store_true")
    return p.parse_args()


def nginx_config(lab, ups, servers, load="", http=""):
    return CONFIG % {
        "user": "user root;" if os.getuid() == 0 else "",
        "load": load, "http": http, "upstream": ups[0], "slow": ups[1],
        "servers": "".join(SERVER % {"port": port, "lines": lines,
                                     "status": status}
                           for port, lines, status in servers)}


# with a Redis that does not answer, a call costs at most so many times as much
NO_WORSE = 1.1


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
            got = self.round("full", "chat 213 KB", 1)
            done += got["runs"] * self.redis.last_size(STREAM)

    def one(self, name, servers, load="", http=""):
        core = [self.lab.cores[0]]
        config = nginx_config(self.lab, self.ups, servers, load, http)
        nginx = self.lab.nginx(name.replace(" ", "-"), config, self.binary,
                               core)
        return nginx.up(servers[0][0])

    def start(self):
        port = free_port()
        self.targets["plain"] = self.one("plain", [(port, "", "return 404;")]
                                         ), port

        load = "load_module %s;" % self.module if self.module else ""
        redis = "redis://127.0.0.1:%d/0" % self.redis.port
        ports = {v: free_port() for v in VARIANTS}
        nginx = self.one(
            "module",
            [(ports[v], VARIANTS[v], "lunary_status;") for v in VARIANTS],
            load, "lunary_redis %s;\nlunary_spool spool size=%d;\n"
            "lunary_stream %s maxlen=2000 maxbytes=512m;"
            % (redis, SPOOL, STREAM))
        for v, port in ports.items():
            self.targets[v] = nginx, port

        port = free_port()
        self.targets["dead"] = self.one(
            "dead", [(port, VARIANTS["full"], "lunary_status;")], load,
            "lunary_redis redis://127.0.0.1:%d/0;\nlunary_spool spool;"
            % free_port()), port

        # one that is stopped for each round; its spool holds a round
        self.halted = self.lab.redis()
        port = free_port()
        self.targets["stopped"] = self.one(
            "stopped", [(port, VARIANTS["full"], "lunary_status;")], load,
            "lunary_redis redis://127.0.0.1:%d/0;\nlunary_spool spool size=%d;"
            % (self.halted.port, SPOOL)), port

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
            config = nginx_config(self.lab, self.ups,
                                  [(port, "", "return 404;")], "", http)
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
                "added": redis is None and self.redis.added(STREAM)}

    def settled(self, port, redis=None):
        """The counters once nothing waits for Redis."""
        def check():
            self.now = self.counts(port, redis)
            return (self.now["spooled"] == 0
                    and self.now["runs"] == self.now["sent"]
                    + self.now["dropped"])
        wait_for("runs in Redis", check, 60)
        return self.now

    def load(self, port, case, seconds):
        body, path, conns, variant = CASES[case]
        if body is None:
            body = EMBEDDINGS
        api = "/v1/embeddings" if path == "/big" else "/v1/chat/completions"
        file = self.lab.dir / "body.json"
        file.write_text(body)
        path += api

        if path.startswith("/sse"):
            return streams(self.lab, port, path, file, conns,
                           max(conns, round(conns * seconds * 4)))
        if path.startswith("/slow"):
            return streams(self.lab, port, path, file, conns, conns)

        headers = ([("Cookie", "sid=abc")] if "lunary_session" in
                   VARIANTS.get(variant, "") else [])
        return wrk(self.lab, port, path, file, conns, seconds, headers)

    def round(self, target, case, seconds):
        nginx, port = self.targets[target]
        live = target in VARIANTS
        if live:
            before = self.settled(port)
        file = nginx.folder / "run.log"
        if file.exists():
            os.truncate(file, 0)
        if target == "stopped":
            before = self.settled(port, self.halted)
            self.halted.stop()

        cpu = nginx.cpu()
        got = self.load(port, case, seconds)
        if live:
            after = self.settled(port)
        else:
            time.sleep(0.2)
        got["cpu"] = (nginx.cpu() - cpu) / 1e3 / got["requests"]    # us
        got["rss"] = nginx.rss()

        if target == "stopped":
            after = self.counts(port, self.halted)
            if (after["sent"] - before["sent"] > 0 or after["dropped"]
                    or after["spooled"] < got["requests"]):
                raise Trouble("Redis was not stopped: %s" % after)
            self.halted.go_on()

        if got["failed"]:
            raise Trouble("%s, %s: %d requests failed\n%s"
                          % (case, target, got["failed"], nginx.log()))
        if live:
            got["runs"] = after["runs"] - before["runs"]
            added = after["added"] - before["added"]
            if (added != got["runs"] or after["dropped"] != before["dropped"]
                    or got["runs"] < got["requests"]):
                raise Trouble("%s: %d requests, %d runs, %d arrived: %s"
                              % (case, got["requests"], got["runs"], added,
                                 after))
        return got

    def case(self, case):
        body, _, _, variant = CASES[case]
        targets = ["plain", variant]

        # what Redis takes more slowly than nginx makes it must fit the spool
        seconds = (1 if body and len(body) > 100000 else self.args.seconds)

        # beside the same with a Redis that is well, which may not be cheaper
        if variant in ("dead", "stopped"):
            targets.append("full")

        if variant == "full" and CASES[case][1] == "/json":
            self.round("full", case, 1)
            targets.append(self.floor(self.redis.last_size(STREAM)))
            if "lua" in self.targets:
                targets.append("lua")

        for target in targets:                                     # warm
            self.round(target, case, 1)

        got = {t: [] for t in targets}
        for _ in range(self.args.rounds):
            for target in targets:
                got[target].append(self.round(target, case, seconds))

        result = {}
        for target, rounds in got.items():
            name = ("module" if target == variant else
                    "live" if target == "full" else
                    "floor" if target.startswith("floor") else target)
            result[name] = {
                key: statistics.median(r[key] for r in rounds)
                for key in ("cpu", "p50", "p99", "rss")}
            result[name]["rps"] = statistics.median(
                r["requests"] / r["seconds"] for r in rounds)
            result[name]["requests"] = sum(r["requests"] for r in rounds)
        if "live" in result:
            result["worse"] = [
                key for key in ("cpu", "p50")
                if result["module"][key] > NO_WORSE * result["live"][key]]

        # the ratio of each pair of neighbours, then the median of these
        result["ratio"] = statistics.median(
            p["cpu"] / m["cpu"] for p, m in zip(got["plain"], got[variant]))
        return result


HEAD = ("case", "", "CPU us/req", "req/s", "p50 us", "p99 us", "RSS MiB",
        "req/CPU s vs plain")


def table(results):
    rows = []
    for case, result in results.items():
        label = case
        for name in ("plain", "module", "live", "floor", "lua"):
            if name not in result:
                continue
            r = result[name]
            ratio = (result["ratio"] if name == "module"
                     else result["plain"]["cpu"] / r["cpu"])
            rows.append((label, name, "%.1f" % r["cpu"], "%.0f" % r["rps"],
                         "%.0f" % (r["p50"] * 1e6), "%.0f" % (r["p99"] * 1e6),
                         "%.1f" % (r["rss"] / 1024), "%.2f" % ratio))
            label = ""
    width = [max(len(x) for x in column) for column in zip(HEAD, *rows)]

    def line(cells):
        return "| " + " | ".join(
            c.ljust(w) if i < 2 else c.rjust(w)
            for i, (c, w) in enumerate(zip(cells, width))) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i < 2 else "-" * (w + 1) + ":"
                          for i, w in enumerate(width)) + "|"
    return "\n".join([line(HEAD), rule, *map(line, rows)])


def main():
    args = arguments()
    for tool in ("wrk", "redis-server", "cc"):
        if shutil.which(tool) is None:
            sys.exit("make bench needs %s: apt-get install wrk redis-server "
                     "gcc" % tool)

    names = [c for c in CASES
             if not args.cases or any(a in c for a in args.cases)]
    results = {}
    with Lab(HERE) as lab:
        try:
            bench = Bench(lab, args)
            version = subprocess.run([bench.binary, "-v"], text=True,
                                     capture_output=True).stderr.strip()
            print("%s; %d rounds of %d s each, medians; %s\n" % (
                version, args.rounds, args.seconds,
                "cores %s" % lab.cores), flush=True)
            for name in names:
                start = time.monotonic()
                results[name] = bench.case(name)
                print("%-30s %5.2f   (%.0f s)" % (
                    name, results[name]["ratio"], time.monotonic() - start),
                    flush=True)
        except Trouble as e:
            print("\n%s" % e, file=sys.stderr)
            if not results:
                return 1
            failed = 1
        else:
            failed = 0

    print("\n" + table(results))

    for case, result in results.items():
        if result.get("worse"):
            print("%s: more than %.1f times the %s of a live one"
                  % (case, NO_WORSE, " and ".join(result["worse"])))
            failed = 1

    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=1))
    return failed


if __name__ == "__main__":
    sys.exit(main())
