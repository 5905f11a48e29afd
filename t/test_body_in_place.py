# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""A body that stays in nginx's memory is read where it lies, in one piece:
whatever it holds, however it comes and whatever comes behind it, the upstream
gets its bytes and the run says what it said."""

import json
import random

import pytest

from harness.client import Client, H2Client
from test_security_routes import certificate
from upstream.server import split

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    client_max_body_size 10m;
    {{ extra | default("") }}
    server {
        listen {{ listen }};
        listen 127.0.0.1:{{ port3 }} http2;
        {% if cert is defined %}
        listen 127.0.0.1:{{ port2 }} ssl;
        ssl_certificate     {{ cert }};
        ssl_certificate_key {{ cert }};
        {% endif %}
        location / {
            lunary on;
            proxy_pass {{ upstream }};
        }
    }
}
"""

PATH = "/v1/chat/completions"

# nginx's default for the body's buffer is 16k, and a quarter more in one go;
# for the head's it is 1k
SIZES = [300, 800, 1100, 3000, 16384, 20479, 20480, 20481, 100000, 300000]
LARGE = "client_body_buffer_size 512k;"


@pytest.fixture(autouse=True)
def answer(upstream):
    upstream.answer({"id": "c", "object": "chat.completion", "choices": []})


def body_of(size, user="u1", text=None):
    """size bytes of a chat, exactly"""
    body = {"model": "gpt-4o", "user": user, "messages": [
        {"role": "user", "content": text or "a \\ \u00e9 "}]}
    empty = len(json.dumps(body).encode())
    body["messages"].append({"role": "user", "content": ""})
    more = size - len(json.dumps(body).encode())
    assert more >= 0, empty
    body["messages"][1]["content"] = "x" * more
    data = json.dumps(body).encode()
    assert len(data) == size
    return data


def said(run):
    return [m["content"] for m in run.json("input")]


def head_of(client, body, **headers):
    return client.head("POST", PATH, {"Content-Type": "application/json",
                                      **headers}, body)


def at_once(client, body):
    client.send(head_of(client, body) + body)


def behind_the_head(client, body):
    """When nginx has nothing of it yet, and waits."""
    client.send(head_of(client, body, Expect="100-continue"))
    while b"\r\n\r\n" not in client.buffer:
        client._more()
    interim, _, client.buffer = client.buffer.partition(b"\r\n\r\n")
    assert interim.startswith(b"HTTP/1.1 100")
    client.send(body)


def in_pieces(client, body):
    client.send(head_of(client, body) + body[:10])
    for piece in split(body[10:], 1 + len(body) // 9):
        client.send(piece)


@pytest.mark.parametrize("come", [at_once, behind_the_head, in_pieces])
@pytest.mark.parametrize("extra", ["", LARGE], ids=["default", "large"])
def test_of_every_size(nginx, upstream, runs, come, extra):
    one = nginx(CONFIG, extra=extra)

    with one.client() as c:
        for n, size in enumerate(SIZES):
            body = body_of(size, user=f"u{n}")
            come(c, body)
            assert c.read("POST").status == 200
            assert upstream.last.body == body

    for n, (size, run) in enumerate(zip(SIZES, runs(len(SIZES)))):
        assert (run["user_id"], run["request_bytes"]) == (f"u{n}", str(size))
        if size < 262144:
            assert said(run) == [m["content"] for m in json.loads(
                body_of(size))["messages"]]


@pytest.mark.parametrize("come", [at_once, behind_the_head])
def test_over_tls(nginx, upstream, runs, folder, come):
    one = nginx(CONFIG, extra=LARGE, cert=certificate(folder, "localhost"))

    with Client("127.0.0.1", one.port2, ssl=True) as c:
        for n, size in enumerate(SIZES):
            body = body_of(size, user=f"u{n}")
            come(c, body)
            assert c.read("POST").status == 200
            assert upstream.last.body == body

    assert [r["user_id"] for r in runs(len(SIZES))] == [
        f"u{n}" for n in range(len(SIZES))]


@pytest.mark.parametrize("extra", ["", LARGE], ids=["default", "large"])
def test_over_http_2(nginx, upstream, runs, extra):
    one = nginx(CONFIG, extra=extra)

    with H2Client("127.0.0.1", one.port3) as c:
        for n, size in enumerate(SIZES):
            body = body_of(size, user=f"u{n}")
            answer = c.request("POST", PATH, {
                "content-type": "application/json",
                "content-length": str(size)}, pieces=split(body, 7000))
            assert answer.status == 200
            assert upstream.last.body == body

    for n, (size, run) in enumerate(zip(SIZES, runs(len(SIZES)))):
        assert (run["user_id"], run["request_bytes"]) == (f"u{n}", str(size))
        if size < 262144:
            assert said(run) == [m["content"] for m in json.loads(
                body_of(size))["messages"]]


@pytest.mark.parametrize("extra", ["", "client_header_buffer_size 64k;",
                                   "client_header_buffer_size 1k;"
                                   "large_client_header_buffers 4 64k;"],
                         ids=["1k", "64k", "large"])
@pytest.mark.parametrize("size", [300, 800, 5000, 30000])
def test_what_is_pipelined_behind_it(nginx, upstream, runs, size, extra):
    """It lies behind the body in the head's buffer."""
    one = nginx(CONFIG, extra=extra + LARGE)
    long = {"X-Long": "y" * 2000} if "4 64k" in extra else {}

    with one.client() as c:
        bodies = [body_of(size + n, user=f"u{n}") for n in range(6)]
        c.send(b"".join(head_of(c, b, **long) + b for b in bodies))
        for body in bodies:
            assert c.read("POST").status == 200

    assert [r.body for r in upstream.requests] == bodies
    assert [r["user_id"] for r in runs(6)] == [f"u{n}" for n in range(6)]


@pytest.mark.parametrize("come", [at_once, behind_the_head, in_pieces])
@pytest.mark.parametrize("size", [800, 9000])
def test_what_only_a_document_can_judge(nginx, upstream, runs, come, size):
    """It takes over in the midst of a body, and must leave that alone."""
    rnd = random.Random(size)
    vector = [rnd.random() for _ in range(size // 20)]
    bodies = [
        json.dumps({"user": "u1", "model": "m", "input": vector}).encode(),
        json.dumps({"user": "u1", "model": "m", "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {
                "url": "data:image/png;base64," + "iVBO" * (size // 4)}}]},
            {"role": "user", "content": "\\\u2028\"" * 9}]}).encode(),
        b'{"user":"u1","model":"m","a":' + b"[" * 60 + b"]" * 60
        + b',"b":"' + b"z" * size + b'"} \n ',
        b'{"user":"u1","model":"m","a":"' + b"z" * size + b'","a":1,}',
        b'{"user":"u1","model":"m","a":"' + b"z" * size + b'\x01"}',
        b'  \n {"user":"u1","model":"m","a":"' + b"z" * size,
        b"not json" * (size // 8)]

    with nginx(CONFIG, level="info").client() as c:
        for body in bodies:
            come(c, body)
            assert c.read("POST").status == 200

    assert [r.body for r in upstream.requests] == bodies
    got = runs(len(bodies))
    assert [r.get("user_id") for r in got] == ["u1"] * 3 + [None] * 4
    assert [r.get("model") for r in got] == ["m"] * 6 + [None]


@pytest.mark.parametrize("extra", [
    "client_body_in_file_only clean;", "client_body_in_single_buffer on;",
    "client_body_buffer_size 1k;", "proxy_request_buffering off;",
    "lunary_capture_max 2k;", "lunary_capture none;"])
@pytest.mark.parametrize("come", [at_once, behind_the_head])
def test_with_other_settings(nginx, upstream, runs, come, extra):
    with nginx(CONFIG, extra=extra, level="info").client() as c:
        for size in (800, 1100, 9000, 19000):
            body = body_of(size)
            come(c, body)
            assert c.read("POST").status == 200
            assert upstream.last.body == body

    assert [r["user_id"] for r in runs(4)] == ["u1"] * 4


@pytest.mark.parametrize("size", [800, 9000])
def test_members_are_cut_out_of_it(nginx, upstream, runs, size):
    data = json.loads(body_of(size)) | {"tags": ["t"], "user_id": "u2"}
    body = json.dumps(data).encode()

    with nginx(CONFIG).client() as c:
        for come in (at_once, behind_the_head):
            come(c, body)
            assert c.read("POST").status == 200
            sent = upstream.last.json()
            assert sent == {k: v for k, v in data.items()
                            if k not in ("tags", "user_id")}

    assert [r["user_id"] for r in runs(2)] == ["u2"] * 2
