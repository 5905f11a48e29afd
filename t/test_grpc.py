"""Behind grpc_pass messages go both ways at the same time: the body is neither
waited for nor read.  The caller is known by headers and sessions."""

import json
import socket

import pytest

from harness.client import H2Client

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    {{ main | default("") }}
    server {
        listen 127.0.0.1:{{ port2 }} http2;
        listen 127.0.0.1:{{ port3 }};
        location / {
            lunary on;
            lunary_session sess:$lunary_session_id format=string;
            lunary_session_id header=x-session;
            {{ extra | default("") }}
            grpc_pass grpc://{{ grpc | default("127.0.0.1:%d" % port) }};
            {{ last | default("") }}
        }
        {{ more | default("") }}
    }
    server {
        listen {{ listen }} http2;
        location / { proxy_pass {{ upstream }}; }
    }
}
"""

PATH = "/inference.GRPCInferenceService/ModelStreamInfer"
HEAD = {"content-type": "application/grpc", "te": "trailers"}
MESSAGE = b"\0\0\0\0\x05hello"


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as one:
        one.settimeout(10)
        yield one


@pytest.fixture
def served(nginx, redis):
    redis.set("sess:s1", "ann")

    def make(**variables):
        return nginx(CONFIG, **variables)

    return make


def test_the_upstream_is_asked_before_the_body_comes(served, listener):
    one = served(grpc="127.0.0.1:%d" % listener.getsockname()[1])

    with H2Client("127.0.0.1", one.port2) as client:
        client.start("POST", PATH, HEAD)
        conn, _ = listener.accept()
        with conn:
            conn.settimeout(10)
            assert conn.recv(24).startswith(b"PRI * HTTP/2.0")


def test_a_call_becomes_a_run_without_contents(served, upstream, runs):
    upstream.answer(MESSAGE, headers={"Content-Type": "application/grpc"})

    with H2Client("127.0.0.1", served().port2) as client:
        answer = client.request("POST", PATH, {
            **HEAD, "x-session": "s1", "x-lunary-user-id": "eve"},
            pieces=[MESSAGE, MESSAGE])

    assert (answer.status, answer.body) == (200, MESSAGE)
    assert upstream.last.body == 2 * MESSAGE
    assert upstream.last.header("x-session") is None
    assert upstream.last.header("x-lunary-user-id") is None
    run = runs.one()
    assert (run["user_id"], run["user_source"]) == ("ann", "session")
    assert (run["request_bytes"], run["status"]) == ("20", "200")
    assert "input" not in run


def test_without_a_user_nobody_is_asked(served, upstream, runs):
    one = served(extra="lunary_require_user on;")

    with H2Client("127.0.0.1", one.port2) as client:
        answer = client.request("POST", PATH, HEAD, pieces=[MESSAGE])

    assert answer.status == 400
    assert upstream.requests == []
    assert runs.one()["outcome"] == "rejected"


@pytest.mark.parametrize("block", [
    "if ($http_x) { PASS }", "if ($http_x) { PASS_VARIABLE }",
    "limit_except GET { PASS }", "limit_except GET { PASS_VARIABLE }",
    "location /v1/ { lunary on; PASS }", "PASS"])
def test_what_another_module_answers_is_read(served, upstream, runs, block):
    last = (block.replace("PASS_VARIABLE", "proxy_pass $other;")
                 .replace("PASS", f"proxy_pass {upstream.url};"))
    one = served(last=last,
                 main=f"map $host $other {{ default {upstream.url}; }}")
    rest = {"model": "m", "messages": []}

    with H2Client("127.0.0.1", one.port2) as client:
        answer = client.request(
            "POST", "/v1/chat/completions", {**HEAD, "x-x": "1", "x": "1"},
            pieces=[json.dumps({"user_id": "bob", **rest}).encode()])

    assert answer.status == 200
    assert upstream.last.json() == rest
    assert runs.one()["user_id"] == "bob"


@pytest.mark.parametrize("block", ["if ($http_x) { }", "limit_except GET { }",
                                   "if ($http_x) { set $a b; }"])
def test_blocks_in_the_location_change_nothing(served, listener, block):
    one = served(grpc="127.0.0.1:%d" % listener.getsockname()[1], extra=block)

    with H2Client("127.0.0.1", one.port2) as client:
        client.start("POST", PATH, {**HEAD, "x": "1"})
        conn, _ = listener.accept()
        with conn:
            conn.settimeout(10)
            assert conn.recv(24).startswith(b"PRI * HTTP/2.0")


def test_where_a_user_is_put_into_bodies_they_are_read(served, upstream, runs):
    """... and what cannot be read there is refused, as ever."""
    one = served(extra="lunary_inject_user user; lunary_api openai.chat;")

    with H2Client("127.0.0.1", one.port2) as client:
        answer = client.request("POST", PATH, {**HEAD, "x-session": "s1"},
                                pieces=[MESSAGE])

    assert answer.status == 400
    assert upstream.requests == []


JSON = """
        location @json {
            lunary on;
            lunary_capture none;
            proxy_pass http://127.0.0.1:PORT;
        }"""
CHAT = {"user_id": "bob", "model": "m", "messages": []}


@pytest.mark.parametrize("status", [403, 502])
def test_behind_a_redirect_the_body_is_read(served, upstream, runs, status):
    """Before anybody has begun to, or while all of it is there."""
    one = served(grpc="127.0.0.1:1", extra=f"error_page {status} = @json; "
                 + ("deny all;" if status == 403 else ""),
                 more=JSON.replace("http://127.0.0.1:PORT", upstream.url),
                 level="info")
    body = json.dumps(CHAT).encode()

    with one.client(one.port3) as client:
        answer = client.request("POST", "/unheard/of", body=body)

    assert answer.status == 404         # the stand-in's, who has no such path
    assert upstream.last.json() == {"model": "m", "messages": []}
    run = runs.one()
    assert (run["user_id"], run["model"]) == ("bob", "m")
    assert run["request_bytes"] == str(len(body))


@pytest.mark.parametrize("page", ["/50x.html", "@json"])
def test_behind_a_redirect_a_body_on_its_way_is_not_sent(served, upstream,
                                                         runs, page):
    one = served(grpc="127.0.0.1:1", extra=f"error_page 502 = {page};",
                 more=JSON.replace("http://127.0.0.1:PORT", upstream.url)
                 + "location = /50x.html { lunary on; root html; }",
                 level="info")
    html = one.folder / "html"
    html.mkdir()
    (html / "50x.html").write_text("a page")

    with H2Client("127.0.0.1", one.port2) as client:
        stream = client.start("POST", PATH, HEAD)
        client.data(stream, MESSAGE)
        answer = client.read(stream)

    assert upstream.requests == []
    if page == "@json":
        assert answer.status == 502
    else:
        assert answer.body == b"a page"
    assert runs.one()["outcome"] == "error"


@pytest.mark.parametrize("version", [1, 2])
def test_behind_a_redirect_no_body_is_none(served, upstream, runs, version):
    one = served(grpc="127.0.0.1:1", extra="error_page 502 = @json;",
                 more=JSON.replace("http://127.0.0.1:PORT", upstream.url),
                 level="info")

    if version == 2:
        with H2Client("127.0.0.1", one.port2) as client:
            answer = client.request("POST", "/unheard/of")
    else:
        with one.client(one.port3) as client:
            answer = client.request("POST", "/unheard/of")

    assert answer.status == 404
    assert upstream.last.body == b""
    runs.one()


def test_the_body_of_a_known_api_is_read(served, upstream, runs):
    """An upstream may be asked by HTTP/2 in this way."""
    body = json.dumps(CHAT).encode()

    with H2Client("127.0.0.1", served().port2) as client:
        answer = client.request(
            "POST", "/v1/chat/completions",
            {"content-type": "application/json"}, pieces=[body])

    assert answer.status == 200
    assert upstream.last.json() == {"model": "m", "messages": []}
    run = runs.one()
    assert (run["user_id"], run["model"]) == ("bob", "m")
