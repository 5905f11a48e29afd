# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""What the benchmarks stand on: the servers, the load, the measuring.

CPU time is that of nginx's workers, all their threads, in nanoseconds, from
/proc/PID/task/*/schedstat (user and system; utime and stime of /proc/PID/stat
say the same in hundredths of a second)."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request


class Trouble(Exception):
    pass


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, check, timeout=20):
    end = time.monotonic() + timeout
    while not check():
        if time.monotonic() > end:
            raise Trouble("timed out: " + what)
        time.sleep(0.02)


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


class Lab:
    """A scratch folder and the processes that live in it."""

    def __init__(self, here):
        self.here = pathlib.Path(here)
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="lunary-bench-"))
        self.dir.chmod(0o755)
        self.processes = []
        # nginx has a core of its own, the others share the rest
        self.cores = sorted(os.sched_getaffinity(0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for p in reversed(self.processes):
            if p.poll() is None:
                p.terminate()
                p.send_signal(signal.SIGCONT)
        for p in self.processes:
            try:
                p.wait(10)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def others(self, nginx_cores=1):
        return self.cores[nginx_cores:] or self.cores

    def start(self, command, cores=None, **kw):
        cores = cores or self.others()
        log = open(self.dir / "processes.log", "ab")
        p = subprocess.Popen(
            [str(c) for c in command], stdin=subprocess.DEVNULL,
            stdout=log, stderr=log,
            preexec_fn=lambda: os.sched_setaffinity(0, cores), **kw)
        self.processes.append(p)
        return p

    def compile(self, source):
        out = self.dir / source.removesuffix(".c")
        subprocess.run(["cc", "-D_GNU_SOURCE", "-O2", "-o", out,
                        self.here / source], check=True)
        return out

    def upstream(self, tick_us):
        binary = self.dir / "upstream"
        if not binary.exists():
            self.compile("upstream.c")
        port = free_port()
        self.start([binary, port, tick_us])
        wait_for("the upstream", lambda: listens(port))
        return port

    def redis(self, port=None):
        port = port or free_port()
        p = self.start(["redis-server", "--port", port, "--bind", "127.0.0.1",
                        "--save", "", "--appendonly", "no", "--dir", self.dir])
        redis = Redis(port, p)
        wait_for("redis-server", lambda: listens(port))
        return redis

    def light(self, redis):
        """The port of a Redis before that one which takes batches for next to
        nothing (t/bench/light.c)."""
        port = free_port()
        self.start([self.compile("light.c"), port, redis.port])
        wait_for("light", lambda: listens(port))
        return port

    def nginx(self, name, config, binary, cores):
        folder = self.dir / name
        folder.mkdir()
        (folder / "nginx.conf").write_text(config)
        # root must not be the workers' user where the folder is ours
        folder.chmod(0o755)
        p = self.start([binary, "-p", folder, "-e", folder / "error.log",
                        "-c", folder / "nginx.conf"], cores=cores)
        return Nginx(p, folder)


def resp(*args):
    """A command as it goes to Redis."""
    parts = [a if isinstance(a, bytes) else str(a).encode() for a in args]
    return b"*%d\r\n" % len(parts) + b"".join(
        b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)


class Redis:
    def __init__(self, port, process):
        self.port = port
        self.process = process

    def stop(self):
        """It answers no more, but keeps its connections."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def command(self, *args):
        with socket.create_connection(("127.0.0.1", self.port)) as s:
            s.sendall(resp(*args))
            return self._read(s.makefile("rb"))

    def _read(self, f):
        line = f.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            n = int(rest)
            return None if n < 0 else f.read(n + 2)[:-2]
        if kind == b"*":
            return [self._read(f) for _ in range(int(rest))]
        if kind == b"-":
            raise Trouble(rest.decode())
        return int(rest) if kind == b":" else rest

    def added(self, stream):
        """How many entries were ever added."""
        try:
            info = self.command("XINFO", "STREAM", stream)
        except Trouble:
            return 0
        return dict(zip(info[::2], info[1::2]))[b"entries-added"]

    def last(self, stream):
        """The newest entry's fields and values, one after the other."""
        entries = self.command("XREVRANGE", stream, "+", "-", "COUNT", 1)
        return entries[0][1] if entries else []

    def last_size(self, stream):
        """Their bytes."""
        return sum(map(len, self.last(stream)))


class Nginx:
    def __init__(self, process, folder):
        self.process = process
        self.folder = folder

    def up(self, port):
        def check():
            if self.process.poll() is not None:
                raise Trouble("nginx ended:\n" + self.log())
            return listens(port) and self.workers()
        wait_for("nginx", check)
        return self

    def log(self):
        path = self.folder / "error.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() \
            else ""

    def workers(self):
        pid = self.process.pid
        with contextlib.suppress(OSError):
            text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
            return [int(p) for p in text.split()]
        return []

    def cpu(self):
        """Nanoseconds of CPU that the workers have taken."""
        total = 0
        for pid in self.workers():
            for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0])
        return total

    def rss(self, kind="RssAnon"):
        """KiB of memory of the largest worker; shared pages are not RssAnon."""
        most = 0
        for pid in self.workers():
            text = pathlib.Path(f"/proc/{pid}/status").read_text()
            most = max(most, int(re.search(kind + r":\s+(\d+)",
                                           text).group(1)))
        return most

    @staticmethod
    def status(port):
        url = f"http://127.0.0.1:{port}/lunary"
        with urllib.request.urlopen(url, timeout=5) as f:
            return json.load(f)


# -- load

def wrk(lab, port, path, body, conns, seconds, headers=()):
    """wrk -t1: {requests, failed, seconds, p50, p99}"""
    script = lab.dir / "post.lua"
    lines = ['wrk.method = "POST"',
             'local f = io.open("%s", "rb")' % body,
             'wrk.body = f:read("*a")', 'f:close()',
             'wrk.headers["Content-Type"] = "application/json"',
             'wrk.headers["Authorization"] = "Bearer sk-bench"']
    lines += ['wrk.headers["%s"] = "%s"' % h for h in headers]
    script.write_text("\n".join(lines) + "\n")

    done = subprocess.run(
        ["wrk", "-t1", "-c%d" % conns, "-d%ds" % max(1, round(seconds)), "--latency",
         "-s", script, "http://127.0.0.1:%d%s" % (port, path)],
        capture_output=True, text=True, check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, lab.others()))
    text = done.stdout

    def number(pattern):
        m = re.search(pattern, text)
        return int(m.group(1)) if m else 0

    def time_of(label):
        m = re.search(label + r"\s+([\d.]+)(us|ms|s)", text)
        return float(m.group(1)) * {"us": 1e-6, "ms": 1e-3, "s": 1}[m.group(2)]

    failed = number(r"Non-2xx or 3xx responses: (\d+)")
    m = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), "
                  r"timeout (\d+)", text)
    failed += sum(map(int, m.groups())) if m else 0

    return {"requests": number(r"(\d+) requests in"), "failed": failed,
            "seconds": float(re.search(r"requests in ([\d.]+)s",
                                       text).group(1)),
            "p50": time_of("50%"), "p99": time_of("99%")}


def streams(lab, port, path, body, conns, count):
    """whole streams, read by t/bench/streams.c"""
    binary = lab.dir / "streams"
    if not binary.exists():
        lab.compile("streams.c")
    done = subprocess.run(
        [binary, str(port), path, body, str(conns), str(count)],
        capture_output=True, text=True, timeout=300,
        preexec_fn=lambda: os.sched_setaffinity(0, lab.others()))
    if done.returncode:
        raise Trouble("streams: " + done.stderr)
    return json.loads(done.stdout)


def paced(lab, port, path, body, conns, rate, count, headers=()):
    """so many calls, so many a second (0: as fast as they are answered), by
    t/bench/paced.c"""
    binary = lab.dir / "paced"
    if not binary.exists():
        lab.compile("paced.c")
    done = subprocess.run(
        [binary, str(port), path, body, str(conns), str(rate), str(count),
         *map(": ".join, headers)],
        capture_output=True, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, lab.others()))
    if done.returncode:
        raise Trouble("paced: " + done.stderr)
    return json.loads(done.stdout)
