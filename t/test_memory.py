"""A worker's memory after many calls is that after a few: what is anonymous
(RssAnon; the mapped spool is the page cache's), to a few pages.

Calls come pipelined over two connections, several kinds in turn; nginx is its
own upstream.  The short form makes 2,000 and then 18,000 more calls, the long
one (`make soak`) 10,000 and then 990,000."""

import json
import re
import socket
import threading

import pytest

from harness import SANITIZED, VALGRIND
from harness.outbox import balance
from harness.wait import wait_for

# of 4 KiB: what malloc() keeps for itself may move by so much
PAGES = 16

CONFIG = """
{{ globals }}
http {
    {{ http }}
    access_log off;
    lunary_redis {{ redis }};
    lunary_stream lunary:runs maxlen=1000;
    lunary_spool {{ spool }};
    keepalive_requests 100000000;
    upstream self {
        server 127.0.0.1:{{ port2 }};
        keepalive 8;
        keepalive_requests 100000000;
    }
    server {
        listen {{ listen }};
        location / {
            lunary on;
            proxy_set_header Connection "";
            proxy_pass http://self;
        }
        location = /status { lunary_status json; }
    }
    server {
        listen 127.0.0.1:{{ port2 }};
        location /json { default_type application/json;
                         return 200 '{{ answer }}'; }
        location /sse  { default_type text/event-stream;
                         return 200 '{{ events }}'; }
    }
}
"""

USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}

ANSWER = json.dumps({
    "id": "c", "object": "chat.completion", "model": "m-1", "choices": [
        {"index": 0, "finish_reason": "stop", "message": {
            "role": "assistant", "content": "Hi there. " * 20}}],
    "usage": USAGE})

EVENTS = "".join("data: %s\n\n" % e for e in [
    *(json.dumps({"id": "c", "object": "chat.completion.chunk", "model": "m",
                  "choices": [{"index": 0, "delta": {"content": w}}]})
      for w in "one two three four five six".split()),
    json.dumps({"id": "c", "object": "chat.completion.chunk", "model": "m",
                "choices": [], "usage": USAGE}), "[DONE]"])


def call(path, size, **more):
    body = json.dumps({"model": "m", "user": "ann", **more, "messages": [
        {"role": "user", "content": "Hello \\ " * (size // 8)}]}).encode()
    return (f"POST {path}/v1/chat/completions HTTP/1.1\r\n"
            "Host: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body


# ten of them, sent at once
CALLS = [*[call("/json", n) for n in (40, 200, 600, 600, 9000)],
         *[call("/sse", n, stream=True) for n in (40, 200, 600, 600, 9000)]]


class Memory:
    def __init__(self, nginx):
        self.nginx = nginx
        self.done = 0
        [self.pid] = nginx.workers()

    def anonymous(self):
        """KiB"""
        with open(f"/proc/{self.pid}/status") as f:
            return int(re.search(r"RssAnon:\s+(\d+)", f.read())[1])

    def counters(self):
        return self.nginx.get("/status").json()

    def calls(self, n):
        """Until n calls were made in all."""
        threads = [threading.Thread(target=self.some,
                                    args=((n - self.done) // 2,))
                   for _ in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.done = n
        wait_for(lambda: sum(self.counters()["runs_total"].values()) == n, 10,
                 f"{n} runs")

    def some(self, n):
        batch = b"".join(CALLS)
        with socket.create_connection(("127.0.0.1", self.nginx.port)) as s:
            s.settimeout(60)
            for _ in range(n // len(CALLS)):
                s.sendall(batch)
                found, rest = 0, b""
                while found < len(CALLS):
                    data = s.recv(65536)
                    assert data, "nginx closed the connection"
                    data = rest + data
                    found += data.count(b"HTTP/1.1 200 OK\r\n")
                    rest = data[-16:]
                # the last answer's end: its own, or the terminal event's
                while not rest.endswith((b"]\n\n", b"0\r\n\r\n")):
                    rest = (rest + s.recv(65536))[-16:]


SHORT = pytest.param((2000, 20000), id="short", marks=pytest.mark.slow)
LONG = pytest.param((10000, 1000000), id="long", marks=[
    pytest.mark.soak, pytest.mark.timeout(3600)])

pytestmark = pytest.mark.skipif(
    SANITIZED or VALGRIND, reason="memory under a sanitizer is no worker's own")


@pytest.fixture
def memory(nginx):
    def make(redis, spool):
        return Memory(nginx(CONFIG, redis=redis.url, spool=spool,
                            answer=ANSWER, events=EVENTS, level="error"))
    return make


def compare(memory, few, many, more=0):
    """more: KiB"""
    memory.calls(few)
    before = memory.anonymous()
    memory.calls(many)
    after = memory.anonymous()
    print(f"RssAnon: {before} KiB after {few} calls, {after} KiB after {many}")
    assert after - before <= 4 * PAGES + more


@pytest.mark.parametrize("calls", [SHORT, LONG])
def test_with_redis(memory, redis_server, folder, calls):
    one = memory(redis_server(), f"{folder}/spool size=64m")
    compare(one, *calls)
    wait_for(lambda: one.counters()["runs_spooled"] == 0, 30)
    s = one.counters()
    assert s["runs_sent_total"] == calls[1]


@pytest.mark.parametrize("how", ["stopped", "down"])
@pytest.mark.parametrize("calls", [SHORT, LONG])
def test_without_redis(memory, redis_server, folder, calls, how):
    """The spool is full soon, and drops are counted."""
    redis = redis_server()
    one = memory(redis, f"{folder}/spool size=4m")
    redis.pause() if how == "stopped" else redis.stop()
    compare(one, *calls)
    s = one.counters()
    assert s["runs_dropped_total"]["full"] > 0
    left, right = balance(s)
    assert left == right == calls[1]
    if how == "stopped":
        redis.resume()


@pytest.mark.parametrize("calls", [SHORT, LONG])
def test_without_redis_and_without_a_spool(memory, redis_server, calls):
    """The ring in memory has its size, and no more."""
    redis = redis_server()
    redis.stop()
    one = memory(redis, "off size=4m")
    compare(one, *calls, more=4096)
    s = one.counters()
    assert s["runs_dropped_total"]["full"] > 0
    left, right = balance(s)
    assert left == right == calls[1]


# ---- one call

ONE = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    client_max_body_size 100m;
    server {
        listen {{ listen }};
        location / {
            lunary on;
            lunary_capture_max {{ limit }};
            proxy_pass {{ upstream }};
        }
    }
}
"""

MIB = 1 << 20
LIMIT = MIB
LARGE = 24 * MIB

TURN = b'{"role":"user","content":"' + b"some words " * 20 + b'"},'
CHOICE = b'{"message":{"content":"' + b"some words " * 2000 + b'"}},'


def large(form, value):
    return form % (value * (LARGE // len(value)))


# What passes, and how often capture_max may be there: as text that is read,
# as the field that is written of it, as the record; each of them twice while
# it grows.  (test_dialects.py counts the bytes that are asked for; this is
# what becomes of it.)
CALLED = {
    "one string": (4, "/v1/chat/completions", large(
        b'{"messages":[{"role":"user","content":"%s"}]}', b"word \\n "), b"{}"),
    "messages": (4, "/v1/chat/completions", large(
        b'{"messages":[%s{}]}', TURN), b"{}"),
    "written anew": (8, "/v1/embeddings", large(
        b'{"input":[%s"b"]}', b'"abcdefgh",'), b"{}"),
    "the answer": (8, "/v1/chat/completions", b'{"messages":[]}', large(
        b'{"choices":[%s{}]}', CHOICE)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CALLED))
def test_one_call_takes_a_few_times_capture_max(nginx, upstream, runs, name):
    """24 MiB pass; what the worker's peak grows by is its fields'."""
    times, path, body, answer = CALLED[name]
    one = nginx(ONE, limit=LIMIT, level="error")
    [pid] = one.workers()

    # what a first call takes once
    upstream.once(b"{}", content_type="application/json")
    one.post(path, body=b"{}")
    runs.one()

    with open(f"/proc/{pid}/clear_refs", "w") as f:
        f.write("5")
    before = peak(pid)
    upstream.once(answer, content_type="application/json")
    assert one.post(path, body=body).status == 200
    assert upstream.last.body == body
    run = runs(2)[-1]
    after = peak(pid)

    print(f"VmHWM: {before} KiB before, {after} KiB after {name}")
    assert run["truncated"] == ("output" if name == "the answer"
                                else "input")
    assert (after - before) * 1024 < times * LIMIT + MIB


def peak(pid):
    """KiB, since it was last reset"""
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"VmHWM:\s+(\d+)", f.read())[1])
