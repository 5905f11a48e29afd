#!/usr/bin/env python3
# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""The longest time that nginx's loop spends in the module's code.

    handlers.py [--rounds N] [SCENARIO ...]

NGINX_MODULE names a module built with timed.h (`make bench-handlers` does
both).  Each scenario has an nginx of its own; shown is the longest entry into
the module (from nginx's call of one of its functions to that one's end, without
what nginx does for the request meanwhile), the longest round of the event loop,
all entries of that round together: no event handler took more; and the longest
round with all that nginx itself does in it.  It is the thread's CPU time, which
a busy machine does not change much.  Of N rounds (3) the one with the shortest longest entry
counts: what the code does comes again, what an interrupt does seldom.

Fails where an entry took more than 1 ms of CPU.
"""

import argparse
import gzip
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading

from cases import chat, nginx_config
from lab import Lab, Nginx, Trouble, free_port, wait_for, wrk
from upload import body

MEBIBYTE = 1 << 20
LIMIT = 1000                                             # us

# before and after the event loop
AROUND = ("ngx_http_lunary_init_process", "ngx_http_lunary_exit_process")

KEEP = "lunary on; lunary_capture_max 1m;"


# -- an upstream whose answers are made beforehand

def head(type, length, more=""):
    return (f"HTTP/1.1 200 OK\r\nContent-Type: {type}\r\n"
            f"Content-Length: {length}\r\n{more}\r\n").encode()


def completion(size):
    text = "a line of words, \\\"quoted\\\" \u00fc and not\\n"
    text *= size // len(text.encode())
    return ('{"id":"c","object":"chat.completion","model":"m","choices":[{'
            '"index":0,"finish_reason":"stop","message":{"role":"assistant",'
            f'"content":"{text}"}}}}],"usage":{{"prompt_tokens":1,'
            '"completion_tokens":1,"total_tokens":2}}').encode()


def json_answer(size, packed=False):
    data = completion(size)
    if packed:
        data = gzip.compress(data, 6)
    return head("application/json", len(data),
                "Content-Encoding: gzip\r\n" if packed else "") + data


def events(one, count):
    data = one * count + b"data: [DONE]\n\n"
    return head("text/event-stream", len(data)) + data


DELTA = (b'data: {"id":"c","object":"chat.completion.chunk","model":"m",'
         b'"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')

ANSWERS = {
    "small": lambda: json_answer(900),
    "large": lambda: json_answer(100 * MEBIBYTE),
    "packed": lambda: json_answer(100 * MEBIBYTE, True),
    "empty": lambda: events(b"data: {}\n\n", 1000000),
    "deltas": lambda: events(DELTA, 1000000),
}


class Upstream:
    """Answers each request by its path's first segment."""

    def __init__(self):
        self.made = {}
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            s, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def serve(self, s):
        data = b""
        try:
            while True:
                while b"\r\n\r\n" not in data:
                    data += self.some(s)
                top, _, data = data.partition(b"\r\n\r\n")
                left = int(re.search(rb"(?i)content-length: (\d+)",
                                     top).group(1)) - len(data)
                while left > 0:
                    left -= len(self.some(s))
                data = b""
                name = top.split(b" ")[1].decode().split("/")[1]
                s.sendall(self.answer(name))
        except OSError:
            s.close()

    @staticmethod
    def some(s):
        data = s.recv(MEBIBYTE)
        if not data:
            raise ConnectionResetError
        return data

    def answer(self, name):
        if name not in self.made:
            self.made[name] = ANSWERS[name]()
        return self.made[name]


# -- one nginx under test

class Test:
    def __init__(self, lab, ups, redis, name):
        self.lab, self.ups, self.redis, self.name = lab, ups, redis, name
        self.binary = os.environ.get("NGINX_BIN") or "/usr/sbin/nginx"
        self.nginx = None

    def start(self, lines=KEEP, http="", size="64m", workers=1, redis=None,
              wait=True):
        self.port = free_port()
        http = (f"lunary_redis redis://127.0.0.1:{redis or self.redis.port};\n"
                f"lunary_spool {self.lab.dir}/spool-{self.name} size={size};\n"
                "lunary_stream lunary:runs maxlen=2000 maxbytes=2g;\n" + http)
        config = nginx_config(
            (self.ups.port, self.ups.port),
            [(self.port, lines, "lunary_status;")],
            "load_module %s;" % os.environ["NGINX_MODULE"], http, workers)
        config = config.replace("error.log warn", "error.log notice")
        config = config.replace("client_max_body_size    64m",
                                "client_max_body_size    128m")
        self.count = getattr(self, "count", 0) + 1
        self.nginx = self.lab.nginx(f"{self.name}{self.count}", config,
                                    self.binary, self.lab.cores)
        if wait:
            self.nginx.up(self.port)
        return self

    def kill(self):
        """as a machine does that loses its power"""
        pids = self.nginx.workers()
        self.nginx.process.kill()
        self.nginx.process.wait()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def figures(self):
        self.nginx.process.send_signal(signal.SIGQUIT)
        self.nginx.process.wait(60)
        text = (self.nginx.folder / "error.log").read_text(errors="replace")
        bad = [x for x in text.splitlines()
               if re.search(r"\[(alert|emerg|crit)\]", x)]
        if bad:
            raise Trouble("\n".join(bad[:5]))
        return text

    def settled(self, timeout=120):
        def check():
            s = Nginx.status(self.port)
            return s["runs_spooled"] == 0
        wait_for("runs in Redis", check, timeout)

    def call(self, path="/small", data=b'{"model":"m","messages":[]}',
             headers=""):
        with socket.create_connection(("127.0.0.1", self.port)) as s:
            s.settimeout(120)
            s.sendall((f"POST {path}/v1/chat/completions HTTP/1.1\r\n"
                       "Host: h\r\nConnection: close\r\n"
                       "Content-Type: application/json\r\n"
                       f"{headers}Content-Length: {len(data)}\r\n\r\n"
                       ).encode())
            s.sendall(data)
            got = s.recv(4096)
            if not got.startswith(b"HTTP/1.1 200"):
                raise Trouble("%s: %r" % (self.name, got[:60]))
            while s.recv(MEBIBYTE):
                pass

    def load(self, data, conns, seconds):
        file = self.lab.dir / "handlers.json"
        file.write_text(data)
        got = wrk(self.lab, self.port, "/small/v1/chat/completions", file,
                  conns, seconds)
        if got["failed"]:
            raise Trouble("%s: %d failed" % (self.name, got["failed"]))


# -- scenarios

def small(t):
    """calls of 0.6 KB, 32 at a time"""
    t.start().load(chat(620), 32, 2)


def prompts(t):
    """prompts of 213 KB, 4 at a time"""
    t.start(size="512m").load(chat(213 * 1024), 4, 2)
    t.settled()


def upload(t):
    """bodies of 64 MB, into a temporary file"""
    t.start()
    for _ in range(3):
        t.call(data=body(64 * MEBIBYTE - 4096))


def upload_plain(t):
    """the same with lunary off"""
    t.start("lunary off;", "server { listen 127.0.0.1:%d; lunary on; }\n"
            % free_port())
    for _ in range(3):
        t.call(data=body(64 * MEBIBYTE - 4096))


def answer_plain(t):
    """the same with lunary off"""
    t.start("lunary off;", "server { listen 127.0.0.1:%d; lunary on; }\n"
            % free_port())
    for _ in range(3):
        t.call("/large")


def upload_memory(t):
    """bodies of 64 MB, in memory"""
    t.start(KEEP + " client_body_buffer_size 64m;")
    for _ in range(3):
        t.call(data=body(64 * MEBIBYTE - 4096))


def upload_spliced(t):
    """bodies of 64 MB that lose a member, and gain a user"""
    t.start(KEEP + " lunary_inject_user user;")
    data = body(64 * MEBIBYTE - 4096).replace(
        b'"user":', b'"user_id":"ann","user":', 1)
    for _ in range(3):
        t.call(data=data)


def answer(t):
    """answers of 100 MB"""
    t.start()
    for _ in range(3):
        t.call("/large")


def answer_packed(t):
    """answers of 100 MB, packed with gzip"""
    t.start()
    for _ in range(3):
        t.call("/packed")


def tiny_empty(t):
    """1,000,000 empty events at once"""
    t.start()
    t.call("/empty")


def tiny_deltas(t):
    """1,000,000 events of a character at once"""
    t.start()
    t.call("/deltas")


def tiny_unbuffered(t):
    """the same, proxy_buffering off and a buffer of 1 MB"""
    t.start(KEEP + " proxy_buffering off; proxy_buffer_size 1m;"
            " proxy_buffers 4 1m; proxy_busy_buffers_size 2m;")
    t.call("/empty")
    t.call("/deltas")


def sessions(t):
    """10,000 sessions in the cache, 256 connections"""
    t.redis.command("MSET", *(x for i in range(10000) for x in (
        f"sess:s{i}", '{"user":{"id":"user-%d"}}' % i)))
    t.start(KEEP + " lunary_user session body;"
            " lunary_session sess:$cookie_sid format=json;"
            " lunary_session_cache zone=c:8m;")
    script = t.lab.dir / "sessions.lua"
    script.write_text(
        'local n = 0\nrequest = function()\n'
        '    n = (n + 1) % 10000\n'
        '    return wrk.format("POST", nil, {["Cookie"] = "sid=s" .. n,\n'
        '        ["Content-Type"] = "application/json"},\n'
        "        '{\"model\":\"m\",\"messages\":[]}')\nend\n")
    subprocess.run(["wrk", "-t1", "-c256", "-d4s", "-s", script,
                    f"http://127.0.0.1:{t.port}/small/v1/chat/completions"],
                   check=True, capture_output=True)


def full(t):
    """a full spool of 64 MB is sent"""
    t.start()
    t.call()
    t.settled()
    t.redis.stop()
    try:
        data = chat(213 * 1024).encode()
        while not Nginx.status(t.port)["runs_dropped_total"]["full"]:
            t.call(data=data)
        # and nothing holds up a small one
        for _ in range(20):
            t.call()
    finally:
        t.redis.go_on()
    t.settled()


def adopt(t):
    """256 spools of dead workers are adopted"""
    port = free_port()
    for n in range(4):
        t.start(size="1m", workers=64, redis=port)
        wait_for("64 spools more", lambda: len(spools(t)) >= 64 * (n + 1))
        for _ in range(100):
            t.call()
        t.kill()
    had = len(spools(t))
    if had < 256:
        raise Trouble(f"only {had} spools")
    t.redis = t.lab.redis(port)
    t.start(size="1m")
    wait_for("spools adopted", lambda: len(spools(t)) <= 1, 120)
    t.settled()


def spools(t):
    folder = t.lab.dir / f"spool-{t.name}"
    return [f for f in folder.iterdir() if f.suffix == ".spool"]


SCENARIOS = [small, prompts, upload, upload_plain, upload_memory,
             upload_spliced, answer, answer_plain, answer_packed, tiny_empty,
             tiny_deltas, tiny_unbuffered, sessions, full, adopt]


# -- what came of it

def functions(module):
    """{offset: name} of the shared object's functions"""
    out = subprocess.run(["nm", module], check=True, capture_output=True,
                         text=True).stdout
    found = {}
    for line in out.splitlines():
        parts = line.split()
        if len(parts) == 3 and parts[1] in "tT":
            found[int(parts[0], 16)] = parts[2]
    return found


def result(text, names):
    rounds = [list(map(int, m)) for m in re.findall(
        r"lunary timed: rounds (\d+) over (\d+) cpu (\d+) wall (\d+) "
        r"loop (\d+)", text)]
    entries = [[int(x, 0 if i else 16) for i, x in enumerate(m)]
               for m in re.findall(r"lunary timed: entry (\w+) calls (\d+) "
                                   r"all (\d+) cpu (\d+) wall (\d+)", text)]
    if not rounds or not entries:
        raise Trouble("no figures: is NGINX_MODULE built with timed.h?\n"
                      + text[-2000:])
    serving = [e for e in entries if names.get(e[0]) not in AROUND]
    most = max(serving, key=lambda e: e[3], default=(0, 0, 0, 0))
    return {
        "entry": most[3] / 1e3,
        "by": names.get(most[0], hex(most[0])),
        "round": max(r[2] for r in rounds) / 1e3,
        "loop": max(r[4] for r in rounds) / 1e3,
        "over": sum(r[1] for r in rounds),
        "entries": [(names.get(e[0], hex(e[0])), e[1], e[2] / 1e3 / e[1],
                     e[3] / 1e3) for e in entries],
    }


def measure(scenario, ups, names):
    with Lab(pathlib.Path(__file__).parent) as lab:
        test = Test(lab, ups, lab.redis(), scenario.__name__)
        scenario(test)
        return result(test.figures(), names)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("names", nargs="*", metavar="SCENARIO", help=" ".join(
        s.__name__ for s in SCENARIOS))
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--verbose", action="store_true",
                   help="the longest entries of all scenarios")
    args = p.parse_args()

    names = functions(os.environ["NGINX_MODULE"])
    ups = Upstream()
    slow = 0
    print("| %-51s | entry us | round us | loop us | rounds > 1 ms |"
          % "scenario")
    print("|%s|---------:|---------:|--------:|--------------:|" % ("-" * 53))
    for scenario in SCENARIOS:
        if args.names and scenario.__name__ not in args.names:
            continue
        try:
            r = min((measure(scenario, ups, names)
                     for _ in range(args.rounds)), key=lambda r: r["entry"])
        except Trouble as e:
            print("%s: %s" % (scenario.__name__, e), file=sys.stderr)
            slow += 1
            continue
        print("| %-51s | %8.0f | %8.0f | %7.0f | %13d |"
              % (scenario.__doc__, r["entry"], r["round"], r["loop"],
                 r["over"]), flush=True)
        if r["entry"] > LIMIT or args.verbose:
            for name, calls, mean, most in sorted(
                    r["entries"], key=lambda e: -e[3])[:6]:
                print("    %-48s %8d calls, mean %8.1f us, most %8.0f us"
                      % (name, calls, mean, most), flush=True)
        slow += r["entry"] > LIMIT
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
