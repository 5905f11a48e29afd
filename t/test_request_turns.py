"""A large body is read in turns: after 256 KiB nginx sees to its other
connections, even if the client has sent more than that."""

import json
import os
import re
import signal
import socket
import threading

import pytest

from harness.wait import wait_for
from upstream.server import split

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    client_max_body_size 100m;
    client_body_buffer_size 64k;
    server {
        listen {{ listen }} rcvbuf=4m;
        location / {
            lunary on;
            {{ extra | default("") }}
            proxy_pass {{ upstream }};
        }
        location = /other { return 200 other; }
    }
}
"""

TURN = 256 << 10
SIZE = 3 << 20

TURNS = re.compile(r"lunary: body is read on in the next round, (\d+) bytes")


def body_of(size):
    return json.dumps({"model": "gpt-4o", "user_id": "u1", "messages": [
        {"role": "user", "content": "xyz\\ " * (size // 6)}]}).encode()


@pytest.fixture(autouse=True)
def answer(upstream):
    upstream.answer({"id": "c", "object": "chat.completion", "choices": []})


def head(length):
    return (b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n"
            b"Content-Type: application/json\r\n%s\r\n\r\n" % length)


class Stopped:
    """A worker that does nothing meanwhile."""

    def __init__(self, nginx):
        [self.pid] = nginx.workers()

    def __enter__(self):
        os.kill(self.pid, signal.SIGSTOP)

    def __exit__(self, *_):
        os.kill(self.pid, signal.SIGCONT)


def fill(s, data):
    """As much of it as the sockets take; what is left."""
    s.setblocking(False)
    at = 0
    try:
        while at < len(data):
            at += s.send(data[at:at + 65536])
    except BlockingIOError:
        pass
    s.setblocking(True)
    s.settimeout(30)
    return data[at:]


def framed(body, framing, chunk=100000):
    if framing == "length":
        return head(b"Content-Length: %d" % len(body)) + body
    return head(b"Transfer-Encoding: chunked") + b"".join(
        b"%x\r\n%s\r\n" % (len(p), p) for p in split(body, chunk)
        ) + b"0\r\n\r\n"


@pytest.mark.parametrize("extra", ["", "client_body_in_file_only clean;",
                                   "proxy_request_buffering off;"],
                         ids=["usual", "file", "unbuffered"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_that_is_there_at_once(nginx, upstream, runs, framing, extra):
    one = nginx(CONFIG, extra=extra)
    body = body_of(SIZE)

    with socket.create_connection(("127.0.0.1", one.port)) as s:
        with Stopped(one):
            left = fill(s, framed(body, framing))
        s.sendall(left)
        assert s.recv(65536).startswith(b"HTTP/1.1 200")

    value = json.loads(body)
    del value["user_id"]
    assert upstream.last.json() == value
    run = runs.one()
    assert (run["user_id"], run["request_bytes"]) == ("u1", str(len(body)))

    at = [0, *map(int, TURNS.findall(one.log()))]
    assert len(at) > 2
    # one read of the buffer more, at most
    assert all(TURN <= b - a for a, b in zip(at, at[1:]))


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_large_buffer_is_not_filled_at_once(nginx, upstream, runs, framing):
    """nginx asks the socket for as much as its buffer has room for."""
    one = nginx(CONFIG.replace("body_buffer_size 64k", "body_buffer_size 8m"))
    body = body_of(SIZE)
    data = framed(body, framing, SIZE * 2)

    with socket.create_connection(("127.0.0.1", one.port)) as s:
        # more than nginx reads together with the head
        s.sendall(data[:2000])
        one.wait_log("http client request body rest")
        with Stopped(one):
            left = fill(s, data[2000:])
        s.sendall(left)
        assert s.recv(65536).startswith(b"HTTP/1.1 200")

    value = json.loads(body)
    del value["user_id"]
    assert upstream.last.json() == value
    assert runs.one()["request_bytes"] == str(len(body))

    reads = re.findall(r"request body recv (\d+)", one.log())
    assert max(map(int, reads)) == TURN
    assert len(TURNS.findall(one.log())) > 2
    assert "a client request body is buffered" not in one.log()


def test_others_are_served_between_its_turns(nginx, upstream):
    one = nginx(CONFIG)
    data = framed(body_of(SIZE), "length")

    with socket.create_connection(("127.0.0.1", one.port)) as other, \
            socket.create_connection(("127.0.0.1", one.port)) as s:
        # nginx has accepted both, and waits for what they want
        for c in (s, other):
            c.sendall(b"GET /other HTTP/1.1\r\nHost: h\r\n\r\n")
            assert c.recv(4096).startswith(b"HTTP/1.1 200")

        with Stopped(one):
            left = fill(s, data)
            other.sendall(b"GET /other?late HTTP/1.1\r\nHost: h\r\n\r\n")
        sender = threading.Thread(target=s.sendall, args=(left,))
        sender.start()
        assert other.recv(4096).startswith(b"HTTP/1.1 200")
        sender.join()
        assert s.recv(65536).startswith(b"HTTP/1.1 200")

    log = one.log()
    turns = [m.start() for m in TURNS.finditer(log)]
    assert turns[0] < log.index("GET /other?late") < turns[-1]


def test_a_client_that_leaves_between_them_is_a_run(nginx, upstream, runs):
    one = nginx(CONFIG)
    data = framed(body_of(5 * SIZE), "length")

    with socket.create_connection(("127.0.0.1", one.port)) as s:
        with Stopped(one):
            left = fill(s, data)
            assert left
    run = runs.one()

    assert run["outcome"] == "aborted"
    assert upstream.requests == []
    wait_for(lambda: TURNS.search(one.log()))


def test_a_client_that_stops_between_them_times_out(nginx, runs):
    one = nginx(CONFIG, extra="client_body_timeout 300ms;")
    data = framed(body_of(5 * SIZE), "length")

    with socket.create_connection(("127.0.0.1", one.port)) as s:
        with Stopped(one):
            assert fill(s, data)
        assert s.recv(4096) == b""

    assert runs.one()["outcome"] == "timeout"
