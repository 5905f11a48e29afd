#!/usr/bin/env python3
"""What a newcomer sees first (`make demo`): calls of three users through a
real nginx, each call as read back from the Redis stream, and what each user
used and what it cost, as lunary-worker counts it.

Everything runs in a scratch folder on free loopback ports and is stopped at
the end.  Only Python's own library is used.

    DEMO_UPSTREAM=https://api.openai.com   the real thing (OPENAI_API_KEY)
    DEMO_MODEL=gpt-4o-mini                 the model to ask for
    DEMO_KEEP=1                            leave it running, say where
    DEMO_BUILT=1                           build nothing: it is there
"""

import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
NGINX = os.environ.get("NGINX_BIN") or shutil.which(
    "nginx", path=os.environ["PATH"] + ":/usr/sbin")
MODULE = os.environ["NGINX_MODULE"]
WORKER = os.environ.get("LUNARY_WORKER") or \
    f"{os.environ.get('BUILD') or ROOT / 'build'}/lunary-worker"
BUILT = os.environ.get("DEMO_BUILT", "") not in ("", "0")
UPSTREAM = os.environ.get("DEMO_UPSTREAM", "").rstrip("/")
KEY = os.environ.get("OPENAI_API_KEY", "sk-the-stand-in-takes-any")
MODEL = os.environ.get("DEMO_MODEL", "gpt-4o-mini")
KEEP = os.environ.get("DEMO_KEEP", "") not in ("", "0")

TTY = sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def style(code, text):
    return f"\033[{code}m{text}\033[0m" if TTY else str(text)


def bold(text):
    return style("1", text)


def dim(text):
    return style("2", text)


def green(text):
    return style("32", text)


def yellow(text):
    return style("33", text)


class Step:
    """One line that says what goes on, and then how it went."""

    def __init__(self, what):
        self.what = what
        self.start = time.monotonic()
        print(f"  {what} ", end="\n" if not TTY else "", flush=True)

    def note(self, text):
        if TTY:
            print(f"\r\033[K  {self.what} {dim(text)}", end="", flush=True)

    def done(self, text=""):
        took = time.monotonic() - self.start
        took = f" {took:.0f} s" if took > 1 else ""
        mark = green("✓")
        if TTY:
            print(f"\r\033[K{mark} {self.what} {dim(text + took)}")
        else:
            print(f"  {mark} {text}{took}".rstrip())


def fail(text):
    print(f"\n{style('31', 'The demo failed')}: {text}", file=sys.stderr)
    sys.exit(1)


# -- a little Redis client: enough to write a session and read a stream

class Redis:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(path)
        self.file = self.sock.makefile("rb")

    def __call__(self, *args):
        out = b"*%d\r\n" % len(args)
        for arg in args:
            arg = str(arg).encode()
            out += b"$%d\r\n%s\r\n" % (len(arg), arg)
        self.sock.sendall(out)
        return self._reply()

    def _reply(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"*":
            return [self._reply() for _ in range(int(rest))]
        if kind == b"$":
            if rest == b"-1":
                return None
            return self.file.read(int(rest) + 2)[:-2].decode()
        if kind == b"-":
            raise OSError(rest.decode())
        return int(rest) if kind == b":" else rest.decode()


# -- building and starting

def build(what, target, made):
    step = Step(f"building {what}")
    make = subprocess.Popen(
        ["make", "--no-print-directory", "V=1", target], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said, compiled = [], 0
    for line in make.stdout:
        said.append(line)
        if "-o objs/" in line and "-shared" not in line:
            compiled += 1
            step.note(f"{compiled} {line.split('-o objs/')[1].split()[0]}")
    if make.wait() != 0:
        print("".join(said[-40:]), file=sys.stderr)
        fail(f"{what} could not be built")
    step.done(os.path.relpath(made, ROOT))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Stage:
    """Redis, upstream and nginx, in a scratch folder."""

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="lunary-demo-"))
        os.chmod(self.dir, 0o755)
        self.processes = []
        self.port = free_port()

    def run(self, name, *command):
        with open(self.dir / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True)
        self.processes.append((name, process))
        return process

    def wait(self, name, ready):
        process = self.processes[-1][1]
        for _ in range(1000):
            if process.poll() is not None:
                break
            try:
                if ready():
                    return
            except OSError:
                pass
            time.sleep(0.01)
        for log in (f"{name}.log", "error.log"):
            path = self.dir / log
            if path.exists():
                print(path.read_text()[-3000:], file=sys.stderr)
        fail(f"{name} did not start")

    def start_redis(self):
        step = Step("starting a private redis-server")
        path = f"{self.dir}/redis.sock"
        self.run("redis", "redis-server", "--port", "0", "--unixsocket", path,
                 "--dir", str(self.dir), "--save", "", "--daemonize", "no")
        self.wait("redis", lambda: Redis(path)("PING") == "PONG")
        self.redis = Redis(path)
        step.done(path)

    def start_upstream(self):
        if UPSTREAM:
            return UPSTREAM
        step = Step("starting a stand-in for the LLM service")
        port = free_port()
        self.run("upstream", sys.executable,
                 str(ROOT / "t/upstream/standin.py"), "--port", str(port))
        self.wait("upstream", lambda: socket.create_connection(
            ("127.0.0.1", port)).close() is None)
        step.done(f"http://127.0.0.1:{port}")
        return f"http://127.0.0.1:{port}"

    def start_nginx(self, upstream):
        step = Step("starting nginx with the module")
        host = upstream.partition("://")[2].partition("/")[0]
        tls = f"proxy_set_header Host {host};"
        if upstream.startswith("https:"):
            tls += f"""
            proxy_ssl_server_name on;
            proxy_ssl_name {host.partition(':')[0]};
            proxy_ssl_verify on;
            proxy_ssl_verify_depth 4;
            proxy_ssl_trusted_certificate /etc/ssl/certs/ca-certificates.crt;
            """
        text = (ROOT / "t/demo/nginx.conf").read_text()
        values = {"USER": "user root;" if os.getuid() == 0 else "",
                  "MODULE": MODULE, "DIR": self.dir, "PORT": self.port,
                  "UPSTREAM": upstream, "TLS": tls}
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
        conf = self.dir / "nginx.conf"
        conf.write_text(text)
        self.run("nginx", NGINX, "-p", str(self.dir), "-c", str(conf), "-e",
                 str(self.dir / "error.log"))
        self.wait("nginx", lambda: socket.create_connection(
            ("127.0.0.1", self.port)).close() is None)
        step.done(f"http://127.0.0.1:{self.port}")

    def stop(self):
        for name, process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGQUIT if name == "nginx"
                                    else signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.dir, ignore_errors=True)


# -- the calls

def call(stage, who, how, text, headers=None, **members):
    """One chat call, told in three lines."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}],
            **members}
    print(f"\n{bold(who)}  {dim(how)}")
    print(f"  → {text}" + (dim("  (streamed)") if members.get("stream")
                           else ""))
    start = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", stage.port,
                                            timeout=60)
    connection.request(
        "POST", "/v1/chat/completions", json.dumps(body),
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}",
         **(headers or {})})
    response = connection.getresponse()

    print("  ← ", end="", flush=True)
    if response.status != 200:
        error = json.loads(response.read()).get("error", {})
        print(yellow(f"{response.status} {error.get('code')}: "
                     f"{error.get('message')}"))
    elif members.get("stream"):
        for line in response:
            line = line.decode().strip()
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    print(choice["delta"].get("content") or "", end="",
                          flush=True)
        print(dim(f"  {time.monotonic() - start:.2f} s"))
    else:
        answer = json.loads(response.read())
        print(answer["choices"][0]["message"]["content"],
              dim(f"  {time.monotonic() - start:.2f} s"))
    connection.close()
    return response.status


def calls(stage):
    stage.redis("HSET", "sess:9f1c2e", "user_id", "carol", "userProps",
                json.dumps({"name": "Carol Diaz", "group": "research"}))

    plan = [
        lambda: call(stage, "alice", 'by the body: "user", "user_props"',
                     "What is nginx?", user="alice",
                     user_props={"name": "Alice Ng", "group": "support"}),
        lambda: call(stage, "alice", "again, streamed",
                     "Say that in one line.", user="alice", stream=True,
                     user_props={"name": "Alice Ng", "group": "support"},
                     stream_options={"include_usage": True}),
        lambda: call(stage, "bob", "by the header X-Lunary-User-Id",
                     "What is a Redis stream?", stream=True,
                     stream_options={"include_usage": True},
                     headers={"X-Lunary-User-Id": "bob",
                              "X-Lunary-User-Props": json.dumps(
                                  {"name": "Bob Okoro", "group": "sales"})}),
        lambda: call(stage, "carol", "by her session in Redis "
                     "(cookie sid=9f1c2e)", "Who am I?",
                     headers={"Cookie": "sid=9f1c2e"}),
        lambda: call(stage, "nobody", "no user, so lunary_require_user "
                     "refuses", "Let me in?"),
    ]
    wrong = 0
    for i, one in enumerate(plan):
        status = one()
        wrong += status != (200 if i < len(plan) - 1 else 400)
    return len(plan), wrong


# -- who used what

def table(head, rows, right=()):
    widths = [max(len(str(row[i])) for row in [head, *rows])
              for i in range(len(head))]

    def line(row, paint=str):
        cells = [str(c).rjust(w) if i in right else str(c).ljust(w)
                 for i, (c, w) in enumerate(zip(row, widths))]
        return "  " + paint("  ".join(cells).rstrip())

    print(line(head, bold))
    print(line(["─" * w for w in widths], dim))
    for row in rows:
        print(line(row))


def props_of(run):
    props = json.loads(run.get("user_props", "{}"))
    return ", ".join(str(v) for v in props.values()) or "-"


def costs_of(runs):
    """Dollars of each run, by the worker's price table; "-" is unknown."""
    lines = "".join(json.dumps(r) + "\n" for r in runs)
    said = subprocess.run([WORKER, "price"], input=lines, text=True,
                          stdout=subprocess.PIPE, check=True).stdout
    costs = [json.loads(x)["cost_usd"] for x in said.splitlines()]
    return ["-" if c is None else f"${c:.6f}" for c in costs]


def tokens_of(run):
    if "input_tokens" not in run and "output_tokens" not in run:
        return "-"
    return f"{run.get('input_tokens', '?')} + {run.get('output_tokens', '?')}"


def read_runs(stage, n):
    """The stream's entries, once there are n."""
    for _ in range(500):
        entries = stage.redis("XRANGE", "lunary:runs", "-", "+")
        if len(entries) >= n:
            break
        time.sleep(0.01)
    return [dict(zip(fields[::2], fields[1::2])) for _, fields in entries]


def show(runs):
    print(f"\n{bold('Every call is one entry of the stream lunary:runs')}\n")
    table(["user", "from", "props", "model", "tokens", "cost", "first token",
           "latency", "outcome"],
          [[r.get("user_id", "-"), r.get("user_source", "-"), props_of(r),
            r.get("model", "-"), tokens_of(r), cost,
            f"{r['ttft_ms']} ms" if "ttft_ms" in r else "-",
            f"{r['duration_ms']} ms" if "duration_ms" in r else "-",
            r["outcome"]] for r, cost in zip(runs, costs_of(runs))],
          right=(4, 5, 6, 7))


def users(stage):
    """The ledger's users, as its own commands show them."""
    print(f"\n{bold('Who used what, and what it cost')}\n")
    for command in (["ledger", "--once"], ["users"]):
        print(dim(f"  $ lunary-worker {' '.join(command)}"), flush=True)
        if worker(stage, *command).returncode != 0:
            fail(f"lunary-worker {command[0]}")


def worker(stage, *args, **how):
    return subprocess.run([WORKER, args[0], "--redis",
                           f"unix:{stage.dir}/redis.sock", *args[1:]], **how)


def main():
    if not NGINX:
        fail("no nginx found")
    print(bold("\nngx_lunary_module: who used which model, and what for\n"))
    if not BUILT:
        build("the module", "module", MODULE)
        build("lunary-worker", "worker", WORKER)

    stage = Stage()
    finished = False
    try:
        stage.start_redis()
        stage.start_nginx(stage.start_upstream())
        n, wrong = calls(stage)
        runs = read_runs(stage, n)
        show(runs)
        users(stage)
        if wrong or len(runs) != n:
            fail(f"{wrong} unexpected answers, {len(runs)} of {n} runs")
        finished = True
    finally:
        if KEEP and finished:
            keep(stage)
        else:
            stage.stop()
            print(dim("\n  nginx, redis-server and the stand-in are stopped; "
                      "DEMO_KEEP=1 leaves them running.\n"))


def keep(stage):
    pids = " ".join(str(p.pid) for _, p in stage.processes)
    print(f"""
{bold('Left running')}
  calls    curl http://127.0.0.1:{stage.port}/v1/chat/completions \\
                -d '{{"model":"{MODEL}","user":"me","messages":[]}}'
  runs     redis-cli -s {stage.dir}/redis.sock xrange lunary:runs - +
           {WORKER} tail --redis unix:{stage.dir}/redis.sock
  users    {WORKER} ledger --once --redis unix:{stage.dir}/redis.sock
           {WORKER} users --redis unix:{stage.dir}/redis.sock
  status   curl http://127.0.0.1:{stage.port}/status
  config   {stage.dir}/nginx.conf
  stop     kill {pids}; rm -r {stage.dir}
""")


if __name__ == "__main__":
    main()
