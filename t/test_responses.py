"""Answers on their way back: the client's bytes are the upstream's, when
they come; what they say is in the run, however they are cut."""

import gzip
import json
import random

import pytest

from harness.client import Cut, H2Client
from upstream.server import (CUT, RESET, STALL, Answer, Gate, gzipped, split,
                             sse)

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    {{ main | default("") }}
    server {
        listen {{ listen }};
        listen 127.0.0.1:{{ port2 }} http2;
        location / {
            lunary on;
            {{ extra | default("proxy_buffering off;") }}
            proxy_pass {{ upstream }};
        }
    }
}
"""

CHAT = {"model": "gpt-4o", "user": "u1",
        "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True}

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18,
         "prompt_tokens_details": {"cached_tokens": 3},
         "completion_tokens_details": {"reasoning_tokens": 2}}


def completion(content="Hello wörld 😀", **more):
    return {"id": "chatcmpl-1", "object": "chat.completion",
            "model": "gpt-4o-2024-08-06", "choices": [
                {"index": 0, "message": {"role": "assistant",
                                         "content": content},
                 "finish_reason": "stop"}], "usage": USAGE, **more}


def chunk(delta=None, finish=None, index=0, **more):
    choices = [] if delta is None else [
        {"index": index, "delta": delta, "finish_reason": finish}]
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk",
            "model": "gpt-4o-2024-08-06", "choices": choices, **more}


EVENTS = [chunk({"role": "assistant", "content": ""}),
          chunk({"content": "Hello"}), chunk({"content": " wörld 😀"}),
          chunk({}, "stop"), chunk(usage=USAGE)]


def check_hello(run):
    assert run["outcome"] == "ok", dict(run)
    assert run.text == "Hello wörld 😀"
    assert run["finish_reason"] == "stop"
    assert run.json("usage") == USAGE
    assert {k: run[k] for k in run if k.endswith("_tokens")} == {
        "prompt_tokens": "11", "completion_tokens": "7",
        "total_tokens": "18", "cached_tokens": "3", "reasoning_tokens": "2",
        "input_tokens": "11", "output_tokens": "7"}
    assert run["response_model"] == "gpt-4o-2024-08-06"
    assert run["response_id"] == "chatcmpl-1"


SPLITS = ["whole", "bytes", 2, 3, 7, 64, "random"]


@pytest.mark.parametrize("how", SPLITS)
@pytest.mark.parametrize("buffering", ["on", "off"])
def test_a_json_answer(nginx, upstream, runs, how, buffering):
    body = json.dumps(completion()).encode()
    upstream.once(split(body, how, random.Random(3)),
                  content_type="application/json")

    answer = nginx(CONFIG, extra=f"proxy_buffering {buffering};",
                   level="info").post(json=CHAT)

    assert answer.body == body
    run = runs.one()
    check_hello(run)
    assert (run["stream"], run["response_bytes"]) == ("0", str(len(body)))


@pytest.mark.parametrize("how", SPLITS)
@pytest.mark.parametrize("eol", ["\n", "\r\n"])
@pytest.mark.parametrize("buffering", ["on", "off"])
def test_a_stream(nginx, upstream, runs, how, eol, buffering):
    body = b": hello\n\n" + b"".join(sse(*EVENTS, eol=eol))
    upstream.once(split(body, how, random.Random(4)),
                  content_type="text/event-stream")

    answer = nginx(CONFIG, extra=f"proxy_buffering {buffering};",
                   level="info").post(json=STREAM)

    assert answer.body == body
    run = runs.one()
    check_hello(run)
    assert (run["stream"], run["response_bytes"]) == ("1", str(len(body)))
    assert int(run["ttft_ms"]) >= 0


@pytest.mark.parametrize("how", ["whole", "bytes", 5, "random"])
@pytest.mark.parametrize("kind", ["json", "stream"])
def test_a_gzipped_answer(nginx, upstream, runs, how, kind):
    plain = (json.dumps(completion()).encode() if kind == "json"
             else b"".join(sse(*EVENTS)))
    body = gzipped(plain)
    upstream.once(split(body, how, random.Random(5)),
                  headers={"Content-Encoding": "gzip"},
                  content_type="application/json" if kind == "json"
                  else "text/event-stream")

    answer = nginx(CONFIG, level="info").post(
        json=CHAT if kind == "json" else STREAM,
        headers={"Accept-Encoding": "gzip"})

    assert answer.body == body
    check_hello(runs.one())


def test_a_gzipped_answer_is_read_also_where_nginx_gunzips(nginx, upstream,
                                                          runs):
    upstream.once(gzipped(json.dumps(completion()).encode()),
                  headers={"Content-Encoding": "gzip"},
                  content_type="application/json")

    answer = nginx(CONFIG, extra="gunzip on;").post(json=CHAT)

    assert answer.json() == completion()
    check_hello(runs.one())


def test_an_answer_that_nginx_gzips_is_read_before(nginx, upstream, runs):
    upstream.once(completion("x" * 2000))

    answer = nginx(CONFIG, extra="gzip on; gzip_types *;"
                                 "gzip_proxied any;").post(
        json=CHAT, headers={"Accept-Encoding": "gzip"})

    assert json.loads(gzip.decompress(answer.body)) == completion("x" * 2000)
    assert runs.one().text == "x" * 2000


def test_the_upstream_is_asked_only_for_encodings_we_read(nginx, upstream):
    nginx(CONFIG).post(json=CHAT, headers={
        "Accept-Encoding": "compress, gzip;q=0.5, dcb, *"})

    asked = upstream.last.header("accept-encoding", "")
    assert "gzip" in asked
    assert "compress" not in asked and "dcb" not in asked


def test_bytes_reach_the_client_when_they_come(nginx, upstream, runs):
    first, second = Gate(), Gate()
    events = sse(*EVENTS)
    upstream.once([events[0] + events[1], first, events[2][:20], second,
                   events[2][20:] + b"".join(events[3:])],
                  content_type="text/event-stream")

    with nginx(CONFIG).client() as c:
        body = json.dumps(STREAM).encode()
        c.send(c.head("POST", "/v1/chat/completions", {
            "Content-Type": "application/json"}, body) + body)
        answer = c.read_head()
        assert c.read_piece(answer) == events[0] + events[1]
        first.open()
        assert c.read_piece(answer) == events[2][:20]
        second.open()
        while not answer.complete:
            c.read_piece(answer)

    assert answer.body == b"".join(events)
    check_hello(runs.one())


# -- what answers hold

def test_tool_calls(nginx, upstream, runs):
    events = [
        chunk({"role": "assistant", "content": None, "tool_calls": [
            {"index": 0, "id": "c0", "type": "function", "function": {
                "name": "weather", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {
            "arguments": '{"ci'}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "c1", "type": "function",
                               "function": {"name": "time",
                                            "arguments": "{}"}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {
            "arguments": 'ty":"Köln"}'}}]}),
        chunk({}, "tool_calls")]
    upstream.once(sse(*events), content_type="text/event-stream")

    nginx(CONFIG).post(json=STREAM)

    run = runs.one()
    calls = run.json("output")["tool_calls"]
    assert [(c["id"], c["function"]["name"], c["function"]["arguments"])
            for c in calls] == [("c0", "weather", '{"city":"Köln"}'),
                                ("c1", "time", "{}")]
    assert run["finish_reason"] == "tool_calls"
    assert "usage" not in run and "prompt_tokens" not in run


def test_several_choices(nginx, upstream, runs):
    events = [chunk({"role": "assistant", "content": "a"}, index=0),
              chunk({"role": "assistant", "content": "x"}, index=1),
              chunk({"content": "b"}, index=0),
              chunk({"content": "y"}, index=1),
              chunk({}, "stop", index=1), chunk({}, "stop", index=0)]
    upstream.once(sse(*events), content_type="text/event-stream")

    nginx(CONFIG).post(json={**STREAM, "n": 2})

    assert [m["content"] for m in runs.one().json("output")] == ["ab", "xy"]


def test_an_error_event_in_a_stream(nginx, upstream, runs):
    upstream.once(sse(EVENTS[0], EVENTS[1], {"error": {
        "message": "overloaded", "type": "server_error", "code": "busy"}},
        done=False), content_type="text/event-stream")

    nginx(CONFIG).post(json=STREAM)

    run = runs.one()
    assert run["outcome"] == "error"
    assert run.json("error")["message"] == "overloaded"
    assert run.text == "Hello"


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_an_upstream_error(nginx, upstream, runs, status):
    error = {"error": {"message": "no", "type": "t", "param": None,
                       "code": "c"}}
    upstream.once(error, status=status)

    answer = nginx(CONFIG).post(json=CHAT)

    assert (answer.status, answer.json()) == (status, error)
    run = runs.one()
    assert (run["outcome"], run["status"], run["upstream_status"]) == (
        "error", str(status), str(status))
    assert run.json("error") == {"message": "no", "type": "t", "code": "c"}


def test_the_providers_request_id_is_kept(nginx, upstream, runs):
    upstream.once(Answer(completion(), headers=[("x-request-id", "req_7")]))

    nginx(CONFIG).post(json=CHAT)

    assert runs.one()["client_request_id"] == "req_7"


def test_the_trace_of_the_caller_is_kept(nginx, runs):
    nginx(CONFIG).post(json=CHAT, headers={
        "traceparent":
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})

    run = runs.one()
    assert (run["trace_id"], run["parent_span_id"]) == (
        "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")


def test_secrets_are_in_no_field(nginx, runs):
    nginx(CONFIG).post("/v1/chat/completions?key=qsecret", json=CHAT,
                       headers={"Authorization": "Bearer asecret",
                                "Cookie": "c=csecret",
                                "x-api-key": "ksecret",
                                "api-key": "zsecret"})

    run = runs.one()
    assert run["uri"] == "/v1/chat/completions"
    assert "secret" not in json.dumps(dict(run))


# -- ends

@pytest.mark.parametrize("end", [CUT, RESET])
def test_a_json_answer_cut_short(nginx, upstream, runs, end):
    body = json.dumps(completion()).encode()
    upstream.once(Answer([body[:60], end], headers=[
        ("Content-Length", str(len(body)))], framing="length",
        content_type="application/json"))

    nginx(CONFIG).post(json=CHAT)

    assert runs.one()["outcome"] == "truncated"


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_json_answer_that_ends_in_order_inside_its_json(nginx, upstream,
                                                          runs, framing):
    body = json.dumps(completion()).encode()
    upstream.once(Answer([body[:60]], framing=framing,
                         content_type="application/json"))

    assert nginx(CONFIG).post(json=CHAT).body == body[:60]

    assert runs.one()["outcome"] == "truncated"


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_stream_that_ends_in_order_inside_an_event(nginx, upstream, runs,
                                                     framing):
    body = b"".join(sse(*EVENTS, done=False))[:-7]
    upstream.once(Answer([body], framing=framing,
                         content_type="text/event-stream"))

    nginx(CONFIG).post(json=STREAM)

    run = runs.one()
    assert (run["outcome"], run["finish_reason"]) == ("truncated", "stop")
    assert run.text == "Hello wörld 😀"


@pytest.mark.parametrize("end", [CUT, RESET])
@pytest.mark.parametrize("buffering", ["on", "off"])
def test_a_stream_cut_short_keeps_what_came(nginx, upstream, runs, end,
                                            buffering):
    gate = Gate()
    upstream.once([*sse(EVENTS[0], EVENTS[1], done=False), gate, end],
                  content_type="text/event-stream")
    one = nginx(CONFIG, extra=f"proxy_buffering {buffering};")

    with one.client() as c:
        body = json.dumps(STREAM).encode()
        c.send(c.head("POST", "/v1/chat/completions", {
            "Content-Type": "application/json"}, body) + body)
        gate.wait()
        gate.open()
        try:
            c.read()
        except (Cut, ConnectionError):
            pass

    run = runs.one()
    assert (run["outcome"], run.text) == ("truncated", "Hello")


def test_a_stream_without_a_terminator_but_with_its_finish_is_ok(
        nginx, upstream, runs):
    upstream.once(sse(*EVENTS, done=False), content_type="text/event-stream")

    nginx(CONFIG).post(json=STREAM)

    check_hello(runs.one())


def test_an_upstream_that_says_nothing(nginx, upstream, runs):
    upstream.once([STALL], head=b"")

    answer = nginx(CONFIG, extra="proxy_read_timeout 300ms;").post(json=CHAT)

    assert answer.status == 504
    run = runs.one()
    assert (run["outcome"], run["status"]) == ("timeout", "504")
    assert "ttft_ms" not in run


def test_an_upstream_that_falls_silent_in_a_stream(nginx, upstream, runs):
    upstream.once([*sse(EVENTS[0], EVENTS[1], done=False), STALL],
                  content_type="text/event-stream")
    one = nginx(CONFIG, extra="proxy_buffering off; proxy_read_timeout 1s;")

    one.post(json=STREAM)

    run = runs.one()
    assert run["outcome"] in ("truncated", "timeout")
    assert run.text == "Hello"


def test_an_upstream_that_is_not_there(nginx, runs):
    answer = nginx(CONFIG, upstream="http://127.0.0.1:1").post(json=CHAT)

    assert answer.status == 502
    run = runs.one()
    assert (run["outcome"], run["status"]) == ("error", "502")


def test_a_client_that_leaves_before_the_answer(nginx, upstream, runs):
    upstream.once([STALL], head=b"")
    one = nginx(CONFIG)

    client = one.client()
    body = json.dumps(CHAT).encode()
    client.send(client.head("POST", "/v1/chat/completions", {
        "Content-Type": "application/json"}, body) + body)
    upstream.wait()
    client.close()

    run = runs.one()
    assert (run["outcome"], run["user_id"], run["status"]) == (
        "aborted", "u1", "499")


def test_a_client_that_leaves_inside_a_stream(nginx, upstream, runs):
    gate = Gate()
    events = sse(*EVENTS)
    upstream.once([events[0], events[1], gate, *events[2:]],
                  content_type="text/event-stream")
    one = nginx(CONFIG)

    client = one.client()
    body = json.dumps(STREAM).encode()
    client.send(client.head("POST", "/v1/chat/completions", {
        "Content-Type": "application/json"}, body) + body)
    answer = client.read_head()
    while len(answer.body) < len(events[0] + events[1]):
        client.read_piece(answer)
    client.reset()

    run = runs.one()
    gate.open()
    assert (run["outcome"], run.text) == ("aborted", "Hello")


def test_a_client_that_leaves_at_the_terminator_had_it_all(nginx, upstream,
                                                           runs):
    gate = Gate()
    upstream.once([*sse(*EVENTS), gate], content_type="text/event-stream")
    one = nginx(CONFIG)

    client = one.client()
    body = json.dumps(STREAM).encode()
    client.send(client.head("POST", "/v1/chat/completions", {
        "Content-Type": "application/json"}, body) + body)
    answer = client.read_head()
    while b"[DONE]" not in answer.body:
        client.read_piece(answer)
    client.reset()

    run = runs.one()
    gate.open()
    check_hello(run)


def test_an_http2_stream_that_is_reset(nginx, upstream, runs):
    gate = Gate()
    events = sse(*EVENTS)
    upstream.once([events[0], events[1], gate, *events[2:]],
                  content_type="text/event-stream")
    one = nginx(CONFIG)

    with H2Client("127.0.0.1", one.port2) as c:
        stream = c.start("POST", "/v1/chat/completions",
                         {"content-type": "application/json"})
        c.data(stream, json.dumps(STREAM).encode(), end=True)
        while len(c.streams[stream].body) < len(events[0] + events[1]):
            c.pump()
        c.reset(stream)
        run = runs.one()
        gate.open()

    assert (run["outcome"], run.text) == ("aborted", "Hello")


def test_an_http2_stream(nginx, upstream, runs):
    body = b"".join(sse(*EVENTS))
    upstream.once(split(body, 7), content_type="text/event-stream")

    one = nginx(CONFIG, level="info")
    with H2Client("127.0.0.1", one.port2) as c:
        assert c.request("POST", "/v1/chat/completions",
                         json=STREAM).body == body

    check_hello(runs.one())


def test_two_calls_of_a_connection_do_not_mix(nginx, upstream, runs):
    upstream.once(completion("one"))
    upstream.once(completion("two"))

    with nginx(CONFIG).client() as c:
        c.request("POST", "/v1/chat/completions", json={**CHAT, "user": "a"})
        c.request("POST", "/v1/chat/completions", json={**CHAT, "user": "b"})

    assert [(r["user_id"], r.text) for r in runs(2)] == [("a", "one"),
                                                         ("b", "two")]


def test_the_run_header(nginx, runs):
    answer = nginx(CONFIG, extra="lunary_run_header on;").post(json=CHAT)

    assert answer.header("x-lunary-run-id") == runs.one()["run_id"]


def test_without_it_there_is_no_header(nginx, runs):
    assert nginx(CONFIG).post(json=CHAT).header("x-lunary-run-id") is None


@pytest.mark.parametrize("capture, there", [
    ("full", {"input", "output"}), ("input", {"input"}),
    ("output", {"output"}), ("none", set())])
def test_what_is_captured(nginx, upstream, runs, capture, there):
    upstream.once(sse(*EVENTS), content_type="text/event-stream")

    nginx(CONFIG, extra=f"lunary_capture {capture};").post(json=STREAM)

    run = runs.one()
    assert {"input", "output"} & set(run) == there
    assert (run["user_id"], run["completion_tokens"]) == ("u1", "7")
    if "output" not in there:
        assert "wörld" not in json.dumps(dict(run), ensure_ascii=False)


@pytest.mark.parametrize("word, there", [
    ("full", {"input", "output"}), ("input", {"input"}), ("everything", set()),
    ("", set())])
def test_a_variable_that_holds_no_known_word_captures_nothing(
        nginx, runs, word, there):
    one = nginx(CONFIG, extra="lunary_capture $word;",
                main='map $uri $word { default "%s"; }' % word)
    one.post(json=CHAT)

    assert {"input", "output"} & set(runs.one()) == there
    warnings = one.log().count("holds no word that its directive knows")
    assert warnings == (word not in ("full", "input"))


SMALL = CONFIG.replace("{{ lunary }}", """
    lunary_redis {{ redis }};
    lunary_spool {{ dir }}/spool size=256k;""")


@pytest.mark.parametrize("asked, answered, gone", [
    (100000, 10, "input,output"), (10, 100000, "input,output"),
    (10, 10, None)])
def test_a_run_too_large_for_the_spool_goes_without_its_contents(
        nginx, upstream, runs, asked, answered, gone):
    upstream.once(json.dumps(completion("b" * answered)).encode(),
                  content_type="application/json")
    one = nginx(SMALL)
    one.post(json={**CHAT, "messages": [{"role": "user",
                                         "content": "a" * asked}]})

    run = runs.one()
    assert (run["user_id"], run["outcome"]) == ("u1", "ok")
    assert (run["input_tokens"], run["output_tokens"]) == ("11", "7")
    assert run.get("truncated") == gone
    assert {"input", "output"} & set(run) == (
        set() if gone else {"input", "output"})
    assert int(run["input_bytes"]) > asked
    assert ("without its contents" in one.log()) == bool(gone)


def test_contents_that_are_not_kept_make_no_run_too_large(nginx, upstream,
                                                          runs):
    upstream.once(json.dumps(completion("b")).encode(),
                  content_type="application/json")
    one = nginx(SMALL, extra="lunary_capture output;")
    one.post(json={**CHAT, "messages": [{"role": "user",
                                         "content": "a" * 100000}]})

    run = runs.one()
    assert "output" in run and "truncated" not in run


def test_who_writes_no_word_is_mentioned_once_a_second(nginx, runs):
    one = nginx(CONFIG, extra="lunary_capture $word;",
                main='map $uri $word { default secret; }')
    for _ in range(20):
        one.post(json=CHAT)
    runs(20)

    lines = [line for line in one.log().splitlines()
             if "no word" in line]
    assert 0 < len(lines) == len({line[:19] for line in lines})
    assert not any("secret" in line for line in lines)
