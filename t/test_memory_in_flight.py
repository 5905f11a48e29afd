"""What a worker keeps for a call that is under way: 16 KiB beside what is
captured of it, and 44 KiB more where the answer is inflated.  A request that
lies in nginx's memory already is not kept twice.

1,000 calls are open at once, each with a part of a streamed answer behind it;
what 1,000 calls cost nginx without the module is taken off."""

import json
import re
import socket
import zlib

import pytest

from harness import SANITIZED, VALGRIND
from harness.wait import wait_for
from upstream.server import STALL

CALLS = 1000

CONFIG = """
daemon off;
{% if root %} user root; {% endif %}
{% if module %} load_module {{ module }}; {% endif %}
worker_processes 1;
worker_shutdown_timeout 3s;
pid {{ dir }}/nginx.pid;
error_log {{ dir }}/error.log {{ level }};
events { worker_connections 4096; }
http {
    {{ http }}
    access_log off;
    {% if on == "on" %}
    lunary_redis {{ redis }};
    lunary_spool {{ dir }}/spool size=16m;
    {% endif %}
    server {
        listen {{ listen }} backlog=1024;
        client_body_buffer_size 64k;
        location / {
            {% if on == "on" %} lunary on; {% endif %}
            proxy_buffering off;
            proxy_pass {{ upstream }};
        }
    }
}
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SANITIZED or VALGRIND, reason="memory under a "
                       "sanitizer is no worker's own")]


def event(text):
    return ("data: %s\n\n" % json.dumps({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m-1",
        "choices": [{"index": 0, "delta": {"content": text}}]})).encode()


# 20 events and no end
ANSWER = b"".join(event(f"word {i} ") for i in range(20))
ANSWERED = 20 * len("word 10 ")


def request(size, expect):
    body = json.dumps({"model": "m-1", "stream": True, "user": "ann",
                       "messages": [{"role": "user",
                                     "content": "Hello \\ " * (size // 8)}]})
    return (f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Type: application/json\r\nAccept-Encoding: gzip\r\n"
            f"{expect}Content-Length: {len(body)}\r\n\r\n").encode(), (
        body.encode())


def anonymous(nginx):
    """KiB of the worker's own"""
    [pid] = nginx.workers()
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"RssAnon:\s+(\d+)", f.read())[1])


def per_call(nginx, head, body):
    """KiB a call, with all of them open; the body follows when it is asked
    for, where it is."""
    before = anonymous(nginx)
    open_ones = []
    try:
        for i in range(CALLS):
            s = socket.create_connection(("127.0.0.1", nginx.port))
            open_ones.append(s)
            s.settimeout(30)
            if b"Expect" not in head:
                s.sendall(head + body)
                continue
            s.sendall(head)
            assert s.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            s.sendall(body)
        for s in open_ones:
            got = b""
            while b"\r\n\r\n" not in got or not got.partition(
                    b"\r\n\r\n")[2]:
                got += s.recv(65536)
            assert got.startswith(b"HTTP/1.1 200")
        return (anonymous(nginx) - before) / CALLS
    finally:
        for s in open_ones:
            s.close()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("size", [600, 9000, 60000])
@pytest.mark.parametrize("expect", ["", "Expect: 100-continue\r\n"],
                         ids=["at-once", "behind-the-head"])
def test_an_open_call(nginx, redis_server, upstream, size, packed, expect):
    redis = redis_server()
    headers = {"Content-Type": "text/event-stream"}
    body = ANSWER
    if packed:
        headers["Content-Encoding"] = "gzip"
        z = zlib.compressobj(wbits=31)
        body = z.compress(ANSWER) + z.flush(zlib.Z_SYNC_FLUSH)
    upstream.answer([body, STALL], headers=headers, framing="chunked")

    with_it, without = (
        per_call(nginx(CONFIG, redis=redis.url, on=on, level="error"),
                 *request(size, expect))
        for on in ("on", "off"))

    captured = ANSWERED / 1024
    more = with_it - without - captured
    print(f"{with_it:.1f} KiB a call, {without:.1f} without the module, "
          f"{captured:.1f} captured: {more:.1f} more")
    assert more <= 16 + (44 if packed else 0)
