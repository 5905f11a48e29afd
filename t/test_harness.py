"""The harness itself: that its checks can fail, with an nginx without the
module."""

import random

import pytest

from harness.client import H2Client
from harness.nginx import ConfigError
from harness.runs import Runs
from upstream.server import CUT, RESET, Answer, Gate, split, sse

PLAIN = """
{{ globals }}
http {
    {{ http }}
    server {
        listen {{ listen }};
        listen 127.0.0.1:{{ port2 }} http2;
        location / {
            proxy_pass {{ upstream }};
            proxy_buffering off;
        }
        location /broken { proxy_pass http://127.0.0.1:1; }
    }
}
"""

CALL = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def plain(nginx):
    return nginx(PLAIN, module="")


def test_the_upstream_sees_the_bytes_that_were_sent(plain, upstream):
    body = b'{ "model" : "x",\n "messages":[] }'

    assert plain.post(body=body).status == 200
    assert upstream.last.body == body

    assert plain.post(chunks=[body[:3], body[3:]]).status == 200
    assert upstream.last.body == body


def test_a_gate_holds_an_answer_back(plain, upstream):
    gate = Gate()
    upstream.once([b"one", gate, b"two"], content_type="text/plain")

    with plain.client() as c:
        c.send(c.head("POST", "/", body=b""))
        response = c.read_head()
        assert c.read_piece(response) == b"one"
        gate.wait()
        gate.open()
        assert c.read_piece(response) == b"two"


@pytest.mark.parametrize("how", ["whole", "bytes", 7, "random"])
def test_answers_arrive_whole_however_they_are_split(plain, upstream, how):
    body = b"".join(sse({"a": 1}, {"b": 2}))
    upstream.once(split(body, how, random.Random(1)),
                  content_type="text/event-stream")

    assert plain.post(json=CALL).body == body


@pytest.mark.parametrize("end", [CUT, RESET])
def test_an_answer_can_break_off(plain, upstream, end):
    upstream.once([b"one", end], content_type="text/plain")

    response = plain.post(json=CALL)

    assert (response.body, response.complete) == (b"one", False)


def test_http2_streams(plain):
    with H2Client("127.0.0.1", plain.port2) as c:
        answer = c.request("POST", "/v1/chat/completions", json=CALL)

    assert answer.status == 200
    assert b"You said: hi" in answer.body


def test_a_broken_configuration_is_an_error(nginx):
    with pytest.raises(ConfigError, match="unknown directive"):
        nginx("{{ globals }} http { nonsense; }", module="")


def test_an_alert_in_the_log_is_found(nginx):
    one = nginx(PLAIN, module="")
    with open(one.folder / "error.log", "a") as f:
        f.write("2026/01/01 00:00:00 [alert] 1#1: open socket #3 left\n")

    assert "open socket" in one.finish()[0]
    one.allow("open socket")


def test_a_process_left_over_is_found(nginx):
    one = nginx(PLAIN, module="")
    one.process.kill()
    one.process.wait()

    assert "left over" in one.finish()[0]


def test_an_entry_too_many_is_found(redis):
    runs = Runs(redis)
    event = {"kind": "event", "v": "1", "origin": "sdk", "app": "default",
             "event": "{}"}
    redis.client.xadd("lunary:runs", event)
    assert runs(1) == [event]
    redis.client.xadd("lunary:runs", event)

    with pytest.raises(AssertionError, match="came later"):
        runs.settled()


def test_answers_of_the_stand_in_end_as_the_real_ones(upstream, plain):
    answer = plain.post(json={**CALL, "stream": True})

    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert Answer(b"x").head_bytes().startswith(b"HTTP/1.1 200 OK\r\n")
