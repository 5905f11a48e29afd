"""lunary-worker, built once, and entries made by hand as the module makes
them (redis/schema)."""

import fcntl
import json
import os
import pathlib
import signal
import subprocess
import time
import uuid

from . import BUILD, ROOT, SLOW
from .wait import wait_for

_built = None


def binary():
    """The worker: LUNARY_WORKER, or built here, once at a time."""
    global _built
    if _built:
        return _built
    path = os.environ.get("LUNARY_WORKER")
    if not path:
        BUILD.mkdir(parents=True, exist_ok=True)
        with open(BUILD / ".worker-lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = subprocess.run(
                ["make", "-C", str(ROOT / "redis" / "worker"),
                 f"BUILD={BUILD}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        path = str(BUILD / "lunary-worker")
    _built = path
    return path


def uuid7(ms):
    """A run id as the module makes them."""
    n = (int(ms) & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10))
    n = n & ~(0xf << 76) | 7 << 76
    n = n & ~(3 << 62) | 2 << 62
    return str(uuid.UUID(int=n))


def run(**fields):
    """A run's fields: an ordinary call, but for what is given.  Lists and
    objects become JSON, None takes a field away."""
    now = int(time.time() * 1000)
    start = int(fields.get("started_at", now - 900))
    entry = {
        "kind": "run", "v": "1", "origin": "proxy", "run_id": uuid7(start),
        "app": "default", "type": "llm", "provider": "openai",
        "api": "openai.chat", "model": "gpt-4o", "response_model":
        "gpt-4o-2024-08-06", "outcome": "ok", "status": 200,
        "input": [{"role": "user", "content": "Hello"}],
        "output": {"role": "assistant", "content": "Hi!"},
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
        "input_tokens": 10, "output_tokens": 5, "prompt_tokens": 10,
        "completion_tokens": 5, "started_at": start, "ended_at": start + 800,
        "duration_ms": 800, "method": "POST", "uri": "/v1/chat/completions",
    }
    if "user_id" in fields and fields["user_id"] is not None:
        entry.update(user_source="session", user_verified="1")
    entry.update(fields)
    return {k: json.dumps(v) if isinstance(v, (dict, list)) else str(v)
            for k, v in entry.items() if v is not None}


def event(**event):
    """An SDK's event as the ingest location writes it."""
    app = event.pop("app", "default")
    event.setdefault("timestamp", int(time.time() * 1000))
    event.setdefault("runtime", "lunary-js")
    entry = {"kind": "event", "v": "1", "origin": "sdk", "app": app,
             "event": json.dumps(event)}
    for field, name in (("type", "type"), ("event_name", "event"),
                        ("run_id", "runId"), ("user_id", "userId"),
                        ("parent_run_id", "parentRunId")):
        if isinstance(event.get(name), str) and event[name]:
            entry[field] = event[name]
    return entry


class Worker:
    """A running lunary-worker; `args` are its command and flags."""

    def __init__(self, folder, url, *args, env=None):
        self.log = pathlib.Path(folder) / f"worker-{uuid.uuid4().hex[:8]}.log"
        self.args = [binary(), args[0], "--redis", url, *map(str, args[1:])]
        self.process = None
        self.env = {**os.environ, **(env or {})}

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.args, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env=self.env)
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

    def term(self, timeout=10):
        """SIGTERM, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout * SLOW)

    def hup(self):
        self.process.send_signal(signal.SIGHUP)

    @property
    def said(self):
        return self.log.read_text(errors="replace")

    def says(self, words, timeout=10):
        wait_for(lambda: words in self.said, timeout, f"log: {words}")

    def rss(self):
        """Resident bytes."""
        with open(f"/proc/{self.process.pid}/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def once(url, *args, input=None, check=True):
    """Runs a command to its end: subprocess.CompletedProcess."""
    args = [binary(), args[0], *(["--redis", url] if url else []),
            *map(str, args[1:])]
    done = subprocess.run(args, capture_output=True, text=True, input=input,
                          timeout=240)
    if check:
        assert done.returncode == 0, (done.returncode, done.stderr)
    assert "Sanitizer" not in done.stderr, done.stderr
    return done
