"""lunary_stream_usage: OpenAI-style streams are asked for their usage, and
the client gets what it would have got without."""

import json
import random
import time

import pytest

from harness.client import Cut, H2Client
from harness.wait import wait_for
from upstream.server import CUT, Answer, Gate, gzipped, split, sse

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    server {
        listen {{ listen }};
        listen 127.0.0.1:{{ port2 }} http2;
        location / {
            lunary on;
            lunary_stream_usage {{ usage | default("on") }};
            {{ extra | default("proxy_buffering off;") }}
            proxy_pass {{ upstream }};
        }
    }
}
"""

PATH = "/v1/chat/completions"
STREAM = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}],
          "stream": True}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def chunk(text=None, finish=None, **more):
    choices = [] if text is None else [
        {"index": 0, "delta": {"content": text}, "finish_reason": finish}]
    return {"id": "c1", "object": "chat.completion.chunk", "choices": choices,
            **more}


EVENTS = [chunk(""), chunk("Hello"), chunk(" you"), chunk("", "stop")]
EXTRA = chunk(usage=USAGE)


def wire(*events, eol="\n", done=True):
    return b"".join(sse(*events, eol=eol, done=done))


def check(run):
    assert (run["outcome"], run.text, run["total_tokens"]) == (
        "ok", "Hello you", "5")
    assert run.json("usage") == USAGE


# -- the request

@pytest.mark.parametrize("options, sent", [
    (None, {"include_usage": True}),
    ({}, {"include_usage": True}),
    ({"include_usage": False}, {"include_usage": True}),
    ({"x": 1}, {"include_usage": True, "x": 1})], ids=json.dumps)
def test_the_upstream_is_asked(nginx, upstream, runs, options, sent):
    body = {**STREAM, "user_id": "u1"}
    if options is not None:
        body["stream_options"] = options
    upstream.once([wire(*EVENTS, EXTRA)], content_type="text/event-stream")

    answer = nginx(CONFIG).post(json=body)

    asked = upstream.last.json()
    assert asked.pop("stream_options") == sent
    assert asked == STREAM
    assert upstream.last.header("content-length") == str(
        len(upstream.last.body))
    assert answer.body == wire(*EVENTS)
    run = runs.one()
    check(run)
    assert run["user_id"] == "u1"


@pytest.mark.parametrize("how", ["chunked", "http2", "file"])
def test_bodies_of_all_kinds_are_asked_with(nginx, upstream, runs, how):
    upstream.once([wire(*EVENTS, EXTRA)], content_type="text/event-stream")
    one = nginx(CONFIG, level="info", extra="""
        proxy_buffering off; client_body_buffer_size 16k;""")
    value = {"user_id": "u1", **STREAM, "tags": ["a"], "pad": "x" * 30000}
    body = json.dumps(value).encode()

    if how == "http2":
        with H2Client("127.0.0.1", one.port2) as c:
            answer = c.request("POST", PATH, body=body)
    elif how == "chunked":
        answer = one.post(chunks=split(body, 1000))
    else:
        answer = one.post(body=body)

    del value["user_id"], value["tags"]
    assert upstream.last.json() == {**value, "stream_options": {
        "include_usage": True}}
    assert answer.body == wire(*EVENTS)
    check(runs.one())


def test_a_client_that_asked_keeps_its_chunk(nginx, upstream, runs):
    body = json.dumps({**STREAM, "stream_options": {"include_usage": True}})
    upstream.once([wire(*EVENTS, EXTRA)], content_type="text/event-stream")

    answer = nginx(CONFIG).post(body=body)

    assert upstream.last.body == body.encode()
    assert answer.body == wire(*EVENTS, EXTRA)
    check(runs.one())


@pytest.mark.parametrize("buffering", ["on", "off"])
def test_an_extra_chunk_that_ends_without_a_blank_line(nginx, upstream, runs,
                                                       buffering):
    upstream.once([wire(*EVENTS, EXTRA, done=False).rstrip(b"\n")],
                  content_type="text/event-stream")

    answer = nginx(CONFIG, extra=f"proxy_buffering {buffering};").post(
        json=STREAM)

    assert answer.body == wire(*EVENTS, done=False)
    check(runs.one())


@pytest.mark.parametrize("path, body", [
    (PATH, {**STREAM, "stream": False}),
    (PATH, {k: v for k, v in STREAM.items() if k != "stream"}),
    (PATH, {**STREAM, "stream_options": "x"}),
    ("/v1/messages", {**STREAM, "max_tokens": 5}),
    ("/v1/embeddings", {"input": "x", "stream": True})])
def test_other_calls_are_left_alone(nginx, upstream, path, body):
    data = json.dumps(body)
    nginx(CONFIG).post(path, body=data)

    assert upstream.last.body == data.encode()


def test_off_asks_for_nothing(nginx, upstream, runs):
    upstream.once([wire(*EVENTS)], content_type="text/event-stream")
    data = json.dumps(STREAM)

    nginx(CONFIG, usage="off").post(body=data)

    assert upstream.last.body == data.encode()
    assert "usage" not in runs.one()


def test_the_upstream_is_asked_for_plain_text(nginx, upstream):
    upstream.once([wire(*EVENTS, EXTRA)], content_type="text/event-stream")

    nginx(CONFIG).post(json=STREAM, headers={"Accept-Encoding": "gzip, br"})

    assert upstream.last.header("accept-encoding") == "identity"


# -- the response

@pytest.mark.parametrize("how", ["whole", "bytes", 2, 3, 7, 64, "random"])
@pytest.mark.parametrize("eol", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("buffering", ["on", "off"])
def test_the_chunk_is_taken_out_however_it_is_cut(nginx, upstream, runs, how,
                                                  eol, buffering):
    comment = f": hello{eol}{eol}".encode()
    body = comment + wire(*EVENTS, EXTRA, eol=eol)
    upstream.once(split(body, how, random.Random(5)),
                  content_type="text/event-stream")

    answer = nginx(CONFIG, level="info",
                   extra=f"proxy_buffering {buffering};").post(json=STREAM)

    assert answer.body == comment + wire(*EVENTS, eol=eol)
    assert answer.complete
    run = runs.one()
    check(run)
    assert run["response_bytes"] == str(len(body))


def test_a_length_is_taken_away(nginx, upstream, runs):
    body = wire(*EVENTS, EXTRA)
    upstream.once(Answer([body], framing="length",
                         content_type="text/event-stream"))

    answer = nginx(CONFIG).post(json=STREAM)

    assert answer.header("content-length") is None
    assert (answer.body, answer.complete) == (wire(*EVENTS), True)
    check(runs.one())


def test_null_usage_in_every_chunk_stays(nginx, upstream, runs):
    events = [{**e, "usage": None} for e in EVENTS]
    upstream.once([wire(*events, EXTRA)], content_type="text/event-stream")

    assert nginx(CONFIG).post(json=STREAM).body == wire(*events)
    check(runs.one())


def test_an_error_instead_of_a_stream_is_the_clients(nginx, upstream, runs):
    error = {"error": {"message": "no", "choices": [], "usage": {}}}
    upstream.once(error, status=400)

    answer = nginx(CONFIG).post(json=STREAM)

    assert (answer.status, answer.json()) == (400, error)
    assert answer.header("content-length")
    assert runs.one()["outcome"] == "error"


def test_a_compressed_stream_passes_whole(nginx, upstream, runs):
    body = gzipped(wire(*EVENTS, EXTRA))
    upstream.once([body], headers={"Content-Encoding": "gzip"},
                  content_type="text/event-stream")

    assert nginx(CONFIG).post(json=STREAM).body == body
    check(runs.one())


def test_events_come_when_they_are_whole(nginx, upstream, runs):
    gates = [Gate(), Gate(), Gate()]
    pieces = sse(*EVENTS, EXTRA)
    upstream.once([pieces[0], gates[0], pieces[1][:9], gates[1],
                   pieces[1][9:], gates[2], *pieces[2:]],
                  content_type="text/event-stream")

    with nginx(CONFIG).client() as c:
        body = json.dumps(STREAM).encode()
        c.send(c.head("POST", PATH, {"Content-Type": "application/json"},
                      body) + body)
        answer = c.read_head()
        assert c.read_piece(answer) == pieces[0]
        gates[0].open()
        gates[1].wait()
        gates[1].open()
        while answer.body != pieces[0] + pieces[1]:
            c.read_piece(answer)
        gates[2].open()
        while not answer.complete:
            c.read_piece(answer)

    assert answer.body == wire(*EVENTS)
    check(runs.one())


def test_the_head_does_not_wait_for_an_event(nginx, upstream):
    gate = Gate()
    upstream.once([b"data: {", gate, b"}\n\n"],
                  content_type="text/event-stream")

    with nginx(CONFIG).client() as c:
        body = json.dumps(STREAM).encode()
        c.send(c.head("POST", PATH, {"Content-Type": "application/json"},
                      body) + body)
        assert c.read_head().status == 200
        gate.open()


def test_what_was_held_is_passed_on_where_the_stream_breaks(nginx, upstream,
                                                            runs):
    body = wire(*EVENTS[:2], done=False) + b'data: {"id":"c1","cho'
    upstream.once([body, CUT], content_type="text/event-stream")

    with nginx(CONFIG).client() as c:
        data = json.dumps(STREAM).encode()
        c.send(c.head("POST", PATH, {"Content-Type": "application/json"},
                      data) + data)
        answer = c.read_head()
        with pytest.raises((Cut, ConnectionError)):
            while True:
                c.read_piece(answer)

    assert answer.body == body
    run = runs.one()
    assert (run["outcome"], run.text) == ("truncated", "Hello")


def test_an_event_too_long_to_be_held(nginx, upstream, runs):
    long = chunk("x" * 200000)
    upstream.once(split(wire(*EVENTS, long, EXTRA), 5000),
                  content_type="text/event-stream")

    answer = nginx(CONFIG, level="info").post(json=STREAM)

    assert answer.body == wire(*EVENTS, long)
    assert runs.one()["total_tokens"] == "5"


def idle(pid):
    """A condition: the process has used no CPU for a third of a second."""
    seen = []

    def condition():
        with open(f"/proc/{pid}/stat") as f:
            ticks = f.read().rpartition(")")[2].split()[11:13]
        if not seen or seen[0] != ticks:
            seen[:] = ticks, time.monotonic()
        return time.monotonic() - seen[1] > 0.3
    return condition


@pytest.mark.slow
@pytest.mark.parametrize("buffering", ["on", "off"])
def test_a_client_that_does_not_read_stops_the_upstream(nginx, upstream, runs,
                                                        buffering):
    """40 MB of events, read late: all there, in bounded memory."""
    body = wire(chunk("x" * 500), done=False) * 64000
    upstream.once([*split(body, 60001), wire(EXTRA)],
                  content_type="text/event-stream")
    one = nginx(CONFIG, level="warn", extra=f"""
        proxy_buffering {buffering}; proxy_max_temp_file_size 0;""")
    pid, = one.workers()

    with one.client() as c:
        data = json.dumps(STREAM).encode()
        c.send(c.head("POST", PATH, {"Content-Type": "application/json"},
                      data) + data)
        answer = c.read_head()
        wait_for(idle(pid), what="a worker that waits")
        got = []
        while not answer.complete:
            got.append(c.read_piece(answer))
            answer.body = answer.wire = b""

    assert b"".join(got) == body + wire()
    runs.one()
    with open(f"/proc/{pid}/status") as f:
        peak = next(int(line.split()[1]) for line in f
                    if line.startswith("VmHWM"))
    assert peak < 64 * 1024, f"{peak} KiB"


def test_other_filters_behind_it(nginx, upstream, runs):
    upstream.once(split(wire(*EVENTS, EXTRA), 11),
                  content_type="text/event-stream")

    answer = nginx(CONFIG, extra="""
        sub_filter_types *; sub_filter Hello Bye; sub_filter_once off;
    """).post(json=STREAM)

    assert answer.body == wire(*EVENTS).replace(b"Hello", b"Bye")
    check(runs.one())


def test_over_http2(nginx, upstream, runs):
    upstream.once(split(wire(*EVENTS, EXTRA), 13),
                  content_type="text/event-stream")
    one = nginx(CONFIG)

    with H2Client("127.0.0.1", one.port2) as c:
        assert c.request("POST", PATH, json=STREAM).body == wire(*EVENTS)
    check(runs.one())


def test_the_next_upstream_is_asked_too(nginx, upstream, another_upstream,
                                        runs):
    bad = another_upstream()
    bad.answer([CUT], head=b"")
    upstream.once([wire(*EVENTS, EXTRA)], content_type="text/event-stream")
    config = CONFIG.replace("server {", """upstream both {
        server 127.0.0.1:{{ first }};
        server 127.0.0.1:{{ second }} backup;
    }
    server {""", 1)

    answer = nginx(config, upstream="http://both", first=bad.port,
                   second=upstream.port, extra="""
        proxy_next_upstream error non_idempotent;""").post(json=STREAM)

    assert upstream.last.json()["stream_options"] == {"include_usage": True}
    assert answer.body == wire(*EVENTS)
    wait_for(lambda: runs.entries(), what="the run")
    check(runs.one())
