# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""A body that stays in nginx's memory is read where it lies, in one piece:
whatever it holds, however it comes and whatever comes behind it, the upstream
gets its bytes and the run says what it said."""

import json
import random
import threading

import pytest

from harness import MODULE
from harness.client import Client, Cut, H2Client
from harness.outbox import built
from harness.wait import wait_for
from test_security_routes import certificate
from upstream.server import Answer, Gate, split

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
        location = /auth {
            internal;
            proxy_method GET;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_pass {{ upstream }};
        }
        location / {
            lunary on;
            {{ location | default("") }}
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


def each_was_read(runs):
    """One call of every size, of a user of its own."""
    for n, (size, run) in enumerate(zip(SIZES, runs(len(SIZES)))):
        assert (run["user_id"], run["request_bytes"]) == (f"u{n}", str(size))
        if size < 262144:
            assert said(run) == [m["content"] for m in json.loads(
                body_of(size))["messages"]]


def head_of(client, body, path=PATH, **headers):
    return client.head("POST", path, {"Content-Type": "application/json",
                                      **headers}, body)


def queued(sock, peer):
    """Bytes that wait to be sent, and to be read, at one end of a connection."""
    here, there = sock.getsockname()[1], sock.getpeername()[1]
    if peer:
        here, there = there, here
    with open("/proc/net/tcp") as f:
        for line in f.readlines()[1:]:
            words = line.split()
            ports = [int(w.split(":")[1], 16) for w in words[1:3]]
            if ports == [here, there]:
                return [int(n, 16) for n in words[4].split(":")]
    return [None, None]


def sent(client):
    return queued(client.sock, False)[0] == 0


def read(client):
    """Waits until nginx has taken all that was sent."""
    wait_for(lambda: sent(client) and queued(client.sock, True)[1] == 0, 10,
             "what was sent to be read")


def at_once(client, body, path=PATH):
    client.send(head_of(client, body, path) + body)


def behind_the_head(client, body, path=PATH):
    """When nginx has nothing of it yet, and waits."""
    client.send(head_of(client, body, path, Expect="100-continue"))
    while b"\r\n\r\n" not in client.buffer:
        client._more()
    interim, _, client.buffer = client.buffer.partition(b"\r\n\r\n")
    assert interim.startswith(b"HTTP/1.1 100")
    client.send(body)


def in_pieces(client, body):
    client.send(head_of(client, body) + body[:10])
    for piece in split(body[10:], 1 + len(body) // 9):
        client.send(piece)


def in_two(client, body):
    """The start with the head, the rest when nginx has read that and waits."""
    client.send(head_of(client, body) + body[:10])
    read(client)
    client.send(body[10:])


@pytest.mark.parametrize("come", [at_once, behind_the_head, in_pieces, in_two])
@pytest.mark.parametrize("extra", ["", LARGE], ids=["default", "large"])
def test_of_every_size(nginx, upstream, runs, come, extra):
    one = nginx(CONFIG, extra=extra)

    with one.client() as c:
        for n, size in enumerate(SIZES):
            body = body_of(size, user=f"u{n}")
            come(c, body)
            assert c.read("POST").status == 200
            assert upstream.last.body == body

    each_was_read(runs)


@pytest.mark.parametrize("come", [at_once, behind_the_head])
def test_over_tls(nginx, upstream, runs, folder, come):
    one = nginx(CONFIG, extra=LARGE, cert=certificate(folder, "localhost"))

    with Client("127.0.0.1", one.port2, ssl=True) as c:
        for n, size in enumerate(SIZES):
            body = body_of(size, user=f"u{n}")
            come(c, body)
            assert c.read("POST").status == 200
            assert upstream.last.body == body

    each_was_read(runs)


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

    each_was_read(runs)


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
@pytest.mark.parametrize("come", [at_once, behind_the_head, in_two])
def test_with_other_settings(nginx, upstream, runs, come, extra):
    sizes = [600, 800, 1100, 9000, 19000]
    with nginx(CONFIG, extra=extra, level="info").client() as c:
        for size in sizes:
            body = body_of(size)
            come(c, body)
            assert c.read("POST").status == 200
            assert upstream.last.body == body

    got = runs(len(sizes))
    assert [r["user_id"] for r in got] == ["u1"] * len(sizes)
    if "capture" not in extra:
        assert [said(r) for r in got] == [
            [m["content"] for m in json.loads(body_of(size))["messages"]]
            for size in sizes]


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


@pytest.mark.parametrize("size", [800, 9000, 30000])
@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
@pytest.mark.parametrize("extra", ["", LARGE], ids=["default", "large"])
def test_a_part_of_it_is_there_when_it_is_read(nginx, upstream, runs, size,
                                               http2, extra):
    """What came while another module waited lies elsewhere."""
    gate = Gate()

    def allow(request):
        if request.path != "/auth":
            return Answer({"id": "c", "choices": []})
        return Answer([gate, b"yes"], framing="chunked")

    upstream.answer(allow)
    one = nginx(CONFIG, extra=extra, location="auth_request /auth; "
                "lunary_phase precontent;")
    body = body_of(size)
    half = size // 2

    if http2:
        with H2Client("127.0.0.1", one.port3) as c:
            stream = c.start("POST", PATH, {
                "content-type": "application/json",
                "content-length": str(size)})
            c.data(stream, body[:half])
            upstream.wait(1)
            read(c)
            gate.open()
            c.data(stream, body[half:], end=True)
            assert c.read(stream).status == 200
    else:
        with one.client() as c:
            c.send(head_of(c, body) + body[:half])
            upstream.wait(1)
            gate.open()
            c.send(body[half:])
            assert c.read("POST").status == 200

    assert upstream.last.body == body
    run = runs.one()
    assert run["user_id"] == "u1"
    assert said(run) == [m["content"] for m in json.loads(body)["messages"]]


def filtered(nginx, before, config=CONFIG, **more):
    """With the filter before the module's, or behind it."""
    path = built("body_filter")
    if before:
        return nginx(config, module=f"{MODULE}; load_module {path}", **more)
    return nginx(f"load_module {path};" + config, **more)


@pytest.mark.parametrize("before", [False, True], ids=["behind", "before"])
@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
@pytest.mark.parametrize("size", [800, 9000, 30000])
def test_with_a_filter_that_keeps_what_comes(nginx, upstream, runs, before,
                                             http2, size):
    """In HTTP/2 each piece then comes to lie where the one before was."""
    one = filtered(nginx, before, extra=LARGE)
    body = body_of(size, text="".join(map(str, range(90))))
    pieces = split(body, size // 7)

    if http2:
        with H2Client("127.0.0.1", one.port3) as c:
            stream = c.start("POST", PATH, {
                "content-type": "application/json",
                "content-length": str(size)})
            for piece in pieces:
                c.data(stream, piece)
                read(c)
            c.data(stream, b"", end=True)
            assert c.read(stream).status == 200
    else:
        with one.client() as c:
            c.send(head_of(c, body))
            for piece in pieces:
                c.send(piece)
                read(c)
            assert c.read("POST").status == 200

    assert upstream.last.body == body
    run = runs.one()
    assert run["user_id"] == "u1"
    assert said(run) == [m["content"] for m in json.loads(body)["messages"]]


@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
@pytest.mark.parametrize("size", [800, 9000])
def test_with_a_filter_that_writes_in_place(nginx, upstream, runs, http2,
                                            size):
    """The upstream gets what it makes of it, the run is what was said."""
    one = filtered(nginx, False, extra=LARGE)
    body = body_of(size)
    path = PATH + "?write=1"

    if http2:
        with H2Client("127.0.0.1", one.port3) as c:
            assert c.request("POST", path, {
                "content-type": "application/json",
                "content-length": str(size)}, body=body).status == 200
    else:
        with one.client() as c:
            for come in (at_once, behind_the_head):
                come(c, body, path)
                assert c.read("POST").status == 200

    for run in runs(1 if http2 else 2):
        assert said(run) == [m["content"]
                             for m in json.loads(body)["messages"]]
    assert upstream.last.body == body.replace(b"x", b'"')


@pytest.mark.parametrize("args", ["", "&quiet=1", "&mute=1"])
def test_with_a_filter_before_it_that_lets_a_part_pass(nginx, upstream, runs,
                                                       args):
    """What is let pass is read in place.  nginx's buffer must not be called
    full then because a part of it is, or it is used again."""
    one = filtered(nginx, True, extra=LARGE + "lunary_capture_max 512k;")
    body = body_of(400000, text="".join(map(str, range(9000))))

    with one.client() as c:
        c.send(head_of(c, body, path=f"{PATH}?pass=2{args}") + body[:10])
        read(c)
        for piece in split(body[10:], 40000):
            c.send(piece)
            read(c)
        assert c.read("POST").status == 200

    assert upstream.last.body == body
    run = runs.one()
    assert run["user_id"] == "u1"
    assert said(run) == [m["content"] for m in json.loads(body)["messages"]]


UPGRADE = """
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection upgrade;"""


@pytest.mark.parametrize("location", ["", "return 101;"])
def test_a_101_that_is_no_upgrade(nginx, upstream, runs, location):
    """The connection is kept, and what came behind is the next call."""
    upstream.once(b"", head=b"HTTP/1.1 101 Switching\r\n"
                  b"Content-Length: 0\r\n\r\n")
    one = nginx(CONFIG, location=location)
    bodies = [body_of(400, user=f"u{n}") for n in range(2)]

    with one.client() as c:
        c.send(b"".join(head_of(c, b) + b for b in bodies))
        for _ in bodies:
            c._until(b"HTTP/1.1 ")

    got = runs(2)
    assert [r["uri"] for r in got] == [PATH] * 2
    if not location:
        assert [r["user_id"] for r in got] == ["u0", "u1"]


@pytest.mark.parametrize("tail", [b'{"user":"mallory"}' * 60, b"Z" * 900],
                         ids=["json", "other"])
def test_a_connection_that_becomes_another_one(nginx, upstream, runs, tail):
    """nginx reads on into the head's buffer, over what the run is made of."""
    gate, end = threading.Event(), Gate()

    def switch(request):
        gate.wait(10)
        return Answer([b"bye", end], close=True, framing="close",
                      head=b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n"
                           b"Connection: upgrade\r\n\r\n")

    upstream.answer(switch)
    one = nginx(CONFIG, location=UPGRADE)
    body = body_of(400)

    with one.client() as c:
        c.send(head_of(c, body, Connection="upgrade", Upgrade="x") + body
               + b"first")
        upstream.wait(1)
        c.send(tail)
        wait_for(lambda: sent(c), 10, "it to be there")
        gate.set()
        c._until(b"bye")
        read(c)
        end.open()

    run = runs.one()
    assert run["user_id"] == "u1"
    assert (run["method"], run["uri"]) == ("POST", PATH)
    assert said(run) == [m["content"] for m in json.loads(body)["messages"]]


def upgraded(headers=b"", body=b""):
    return Answer(body, close=True, framing="close",
                  head=b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n"
                       b"Connection: upgrade\r\n" + headers + b"\r\n")


def test_an_upgrade_that_is_refused(nginx, upstream, runs):
    """By a filter behind: nothing that goes with the request may be left to
    the connection."""
    upstream.answer(upgraded())
    one = filtered(nginx, False, location=UPGRADE)
    bodies = [body_of(400, user=f"u{n}") for n in range(2)]

    with one.client() as c:
        c.send(b"".join(head_of(c, b, path=PATH + "?refuse=1", Upgrade="x",
                                Connection="upgrade") + b for b in bodies))
        answer = c.read("POST")
        assert answer.status == 403
        assert answer.header("connection") == "close"
        with pytest.raises(Cut):
            c.read_head()

    run = runs.one()
    assert (run["user_id"], run["uri"], run["status"]) == ("u0", PATH, "403")


def test_an_upgrade_that_is_sent_elsewhere(nginx, upstream, runs):
    """The answer is another one then, and the connection is kept."""
    upstream.answer(upgraded(b"X-Accel-Redirect: /page\r\n"))
    one = nginx(CONFIG.replace("location / {", """location = /page {
            internal;
            return 200 "page";
        }
        location / {"""), location=UPGRADE)
    bodies = [body_of(400, user=f"u{n}") for n in range(2)]

    with one.client() as c:
        c.send(b"".join(head_of(c, b, Upgrade="x", Connection="upgrade") + b
                        for b in bodies))
        for _ in bodies:
            assert c.read("POST").text == "page"

    assert [r["user_id"] for r in runs(2)] == ["u0", "u1"]
