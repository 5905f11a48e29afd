# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""HTTP/3, where the nginx has it (--with-http_v3_module): who calls, refusals,
streams as they come, and one run a call."""

import json
import subprocess

import pytest

from harness import NGINX_BIN
from harness.h3 import h3
from test_security_routes import certificate
from upstream.server import Gate

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    server {
        listen 127.0.0.1:{{ port2 }} quic;
        listen {{ listen }};
        ssl_certificate     {{ cert }};
        ssl_certificate_key {{ cert }};
        lunary on;
        lunary_require_user {{ require | default("on") }};
        lunary_session_id cookie=sid;
        lunary_session sess:$lunary_session_id;
        {{ extra | default("") }}
        location / { proxy_pass {{ upstream }}; }
    }
}
"""

PATH = "/v1/chat/completions"
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module", autouse=True)
def has_http3():
    pytest.importorskip("aioquic")
    says = subprocess.run([NGINX_BIN, "-V"], capture_output=True, text=True)
    if "http_v3_module" not in says.stderr:
        pytest.skip("this nginx is built without --with-http_v3_module")


@pytest.fixture
def served(nginx, folder, redis):
    redis.set("sess:s1", '{"user_id":"carol"}')
    cert = certificate(folder, "localhost")

    def make(**variables):
        return nginx(CONFIG, cert=cert, **variables)

    return make


def test_a_call_becomes_a_run(served, upstream, runs):
    one = served()

    answer, = h3(one.port2, ("POST", PATH, {}, {
        **CHAT, "user": "alice", "user_props": {"plan": "pro"}}))

    assert answer.status == 200 and answer.complete
    run = runs.one()
    assert (run["user_id"], run["outcome"], run["uri"]) == (
        "alice", "ok", PATH)
    assert run.json("user_props") == {"plan": "pro"}
    assert run.text and run["total_tokens"]
    assert upstream.last.json() == {**CHAT, "user": "alice"}


def test_a_call_without_a_user_is_refused(served, upstream, runs):
    one = served()

    answer, = h3(one.port2, ("POST", PATH, {}, CHAT))

    assert answer.status == 400
    assert answer.json()["error"]["code"] == "user_required"
    assert answer.header("x-should-retry") == "false"
    assert upstream.requests == []
    assert runs.one()["outcome"] == "rejected"


@pytest.mark.parametrize("method, headers, body, status", [
    ("POST", {}, CHAT, 401), ("GET", {}, None, 401), ("HEAD", {}, None, 401),
    ("POST", {"x-lunary-user-id": "carol"}, CHAT, 401),
    ("POST", {"cookie": "sid=s2"}, CHAT, 401),
    ("POST", {"cookie": "sid=s1"}, CHAT, 200),
    ("POST", [("cookie", "a=b"), ("cookie", "sid=s1")], CHAT, 200)])
def test_only_a_verified_user_passes(served, upstream, method, headers, body,
                                     status):
    one = served(require="verified")

    answer, = h3(one.port2, (method, PATH, headers, body))

    assert answer.status == status
    assert len(upstream.requests) == (status == 200)
    if status == 200:
        assert "sid" not in str(upstream.last.headers)


def test_a_get_with_data_and_no_length_is_no_plain_get(served, upstream):
    one = served()

    answer, = h3(one.port2, ("GET", PATH, {}, [b"{}"]))

    assert answer.status == 400
    assert upstream.requests == []


def test_calls_at_once_are_of_their_own_users(served, runs):
    one = served()

    answers = h3(one.port2, *[
        ("POST", PATH, {}, {**CHAT, "user": f"u{i}"} if i % 2 else CHAT)
        for i in range(20)])

    assert [a.status for a in answers] == [400, 200] * 10
    assert sorted(r["user_id"] for r in runs(20) if "user_id" in r) == sorted(
        f"u{i}" for i in range(1, 20, 2))


def test_a_body_in_pieces_is_read_and_rewritten(served, upstream, runs):
    one = served(extra="client_body_buffer_size 1k;")
    body = json.dumps({**CHAT, "user": "alice", "userProps": {"a": 1},
                       "pad": "x" * 5000}).encode()

    answer, = h3(one.port2, ("POST", PATH, {
        "content-type": "application/json"},
        [body[i:i + 100] for i in range(0, len(body), 100)]))

    assert answer.status == 200
    assert "userProps" not in upstream.last.json()
    assert runs.one()["request_bytes"] == str(len(body))


def test_a_stream_arrives_as_it_comes(served, upstream, runs):
    gate = Gate()
    upstream.once([
        b'data: {"choices":[{"delta":{"content":"one"}}]}\n\n', gate,
        b'data: {"choices":[{"delta":{"content":" two"},'
        b'"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'],
        content_type="text/event-stream")
    one = served()

    # the rest is sent only when the first piece is here
    answer, = h3(one.port2, ("POST", PATH, {}, {
        **CHAT, "user": "alice", "stream": True}),
        hook=lambda response: gate.open())

    assert len(answer.pieces) >= 2 and answer.body.endswith(b"[DONE]\n\n")
    run = runs.one()
    assert (run.text, run["outcome"], run["stream"]) == ("one two", "ok", "1")
    assert int(run["ttft_ms"]) <= int(run["duration_ms"])


def test_who_leaves_in_a_stream_is_an_aborted_run(served, upstream, runs):
    gate = Gate()
    upstream.once([b'data: {"choices":[{"delta":{"content":"one"}}]}\n\n',
                   gate], content_type="text/event-stream")
    one = served()

    h3(one.port2, ("POST", PATH, {}, {**CHAT, "user": "alice",
                                      "stream": True}), leave_after=10)

    run = runs.one()
    gate.open()
    assert (run["outcome"], run.text) == ("aborted", "one")
