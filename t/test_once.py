"""However a call ends, and whatever nginx does with it on the way, it is one
run, with the outcome that the client saw; and the counters add up."""

import gzip
import json
import socket
import time

import pytest

from harness.client import Cut, H2Client
from harness.wait import free_port, wait_for
from upstream.server import CUT, RESET, STALL, Answer, Gate, gzipped, sse

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
            {{ extra | default("") }}
            proxy_pass {{ upstream }};
        }
        location = /status {
            lunary_status;
        }
        {{ more | default("") }}
    }
}
"""

PATH = "/v1/chat/completions"

CHAT = {"model": "gpt-4o", "user": "u1",
        "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True}
BODY = json.dumps(CHAT).encode()

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def chunk(delta=None, finish=None, **more):
    choices = [] if delta is None else [
        {"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m-1",
            "choices": choices, **more}


EVENTS = [chunk({"role": "assistant", "content": ""}),
          chunk({"content": "Hello"}, usage=USAGE), chunk({"content": " you"}),
          chunk({}, "stop"), chunk(usage={**USAGE, "total_tokens": 6})]

ANSWER = {"id": "c1", "object": "chat.completion", "model": "m-1", "choices": [
    {"index": 0, "message": {"role": "assistant", "content": "Hello you"},
     "finish_reason": "stop"}], "usage": USAGE}


def counters(one):
    return one.get("/status", headers={"Accept": "application/json"}).json()


def balanced(one, n):
    """The equation of the counters, for n runs, once nothing is under way."""
    def holds():
        c = counters(one)
        total = sum(c["runs_total"].values())
        dropped = sum(c.get("runs_dropped_total", {}).values())
        return (total == n and c["runs_spooled"] == 0
                and total + c["runs_recovered_total"]
                == c["runs_sent_total"] + dropped)
    wait_for(holds, what=f"{n} runs in {counters(one)}")


@pytest.fixture
def only(runs):
    """The one run there is, after checking that the counters say so too."""
    def only(one):
        run = runs.one()
        balanced(one, 1)
        assert counters(one)["runs_total"][run["outcome"]] == 1
        return run
    return only


def send(client, body=STREAM, headers=()):
    data = json.dumps(body).encode()
    client.send(client.head("POST", PATH, [
        ("Content-Type", "application/json"), *headers], data) + data)


def read_until(client, mark):
    answer = client.read_head()
    while mark not in answer.body:
        client.read_piece(answer)
    return answer


# -- the client leaves

@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("phase", ["preaccess", "precontent"])
def test_before_the_head_of_the_answer(nginx, upstream, only, how, phase):
    gate = Gate()
    upstream.once([gate, b"{}"], head=b"")
    one = nginx(CONFIG, extra=f"lunary_phase {phase};")
    client = one.client()
    send(client)
    upstream.wait()
    getattr(client, how)()

    run = only(one)
    gate.open()
    assert (run["outcome"], run["status"], run["user_id"]) == (
        "aborted", "499", "u1")
    assert "upstream_status" not in run and "output" not in run
    assert (run["attempts"], run["model"]) == ("1", "gpt-4o")


@pytest.mark.parametrize("buffering", ["on", "off"])
def test_inside_the_stream(nginx, upstream, only, buffering):
    gate = Gate()
    events = sse(*EVENTS)
    upstream.once([b"".join(events[:2]) + b": " + b"x" * 9000 + b"\n\n", gate,
                   *events[2:]], content_type="text/event-stream")
    one = nginx(CONFIG, extra=f"proxy_buffering {buffering};")
    client = one.client()
    send(client)
    read_until(client, b"Hello")
    client.reset()

    run = only(one)
    gate.open()
    assert (run["outcome"], run["status"], run.text) == (
        "aborted", "200", "Hello")
    assert run.json("usage") == USAGE
    assert run["total_tokens"] == "5"


def test_at_the_terminal_event_it_had_everything(nginx, upstream, only):
    gate = Gate()
    upstream.once([*sse(*EVENTS), gate], content_type="text/event-stream")
    one = nginx(CONFIG, extra="proxy_buffering off;")
    client = one.client()
    send(client)
    read_until(client, b"[DONE]")
    client.reset()

    run = only(one)
    gate.open()
    assert (run["outcome"], run.text, run["total_tokens"]) == (
        "ok", "Hello you", "6")


def test_with_the_terminal_event_still_in_nginx_it_had_not(nginx, upstream,
                                                           only):
    big = chunk({"content": "x" * 12000000})
    upstream.once(sse(EVENTS[0], big, *EVENTS[3:]),
                  content_type="text/event-stream")
    # and not in the kernel, which may keep megabytes for a slow client
    one = nginx(CONFIG.replace("listen {{ listen }};",
                               "listen {{ listen }} sndbuf=32k;"),
                extra="proxy_buffers 2000 8k;")
    client = one.client()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    send(client)
    client.read_head()
    one.wait_log("finalize http upstream request: 0")
    client.reset()

    assert only(one)["outcome"] == "aborted"


def test_inside_its_own_body(nginx, upstream, only):
    one = nginx(CONFIG)
    client = one.client()
    client.send(client.head("POST", PATH, {"Content-Length": "500"})
                + BODY[:40])
    one.wait_log("http client request body")
    client.close()

    run = only(one)
    assert (run["outcome"], run["request_bytes"]) == ("aborted", "40")
    assert upstream.requests == []


def test_inside_its_chunked_body(nginx, upstream, only):
    one = nginx(CONFIG)
    client = one.client()
    client.send(client.head("POST", PATH, chunked=True) + b"20\r\n"
                + BODY[:10])
    one.wait_log("http client request body")
    client.close()

    assert only(one)["outcome"] == "aborted"


def test_inside_its_body_over_http2(nginx, upstream, only):
    one = nginx(CONFIG)
    with H2Client("127.0.0.1", one.port2) as c:
        stream = c.start("POST", PATH, {"content-type": "application/json"})
        c.data(stream, BODY[:30])
        one.wait_log("http2 DATA frame")
        c.reset(stream)
        assert only(one)["outcome"] == "aborted"
    assert upstream.requests == []


def test_in_the_round_in_which_it_was_judged(nginx, upstream, runs):
    """The end of the stream comes together with the request, which is judged
    by then and goes on at the end of the round: not to the upstream."""
    one = nginx(CONFIG)
    with H2Client("127.0.0.1", one.port2) as c:
        flush, c.flush = c.flush, lambda: None
        for _ in range(5):
            s = c.start("POST", PATH, end=True)
            c.h2.reset_stream(s, 8)
        flush()
        c.flush = flush
        assert c.request("POST", PATH, json=CHAT).status == 200
    assert sorted(r["outcome"] for r in runs(6)) == ["aborted"] * 5 + ["ok"]
    assert len(upstream.requests) == 1
    balanced(one, 6)


# -- the upstream ends early

@pytest.mark.parametrize("end", [CUT, RESET])
@pytest.mark.parametrize("buffering", ["on", "off"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_answer_cut_in_its_json(nginx, upstream, only, end, buffering,
                                   framing):
    body = json.dumps(ANSWER).encode()
    gate = Gate()
    gate.open()
    upstream.once(Answer([body[:130], gate, end], framing=framing, headers=(
        [("Content-Length", str(len(body)))] if framing == "length" else []),
        content_type="application/json"))
    one = nginx(CONFIG, extra=f"proxy_buffering {buffering};")
    try:
        one.post(json=CHAT)
    except (Cut, ConnectionError):
        pass

    run = only(one)
    assert run["outcome"] == "truncated"
    assert run["status"] == run["upstream_status"] == "200"


@pytest.mark.parametrize("end", [CUT, RESET])
def test_a_stream_cut_short(nginx, upstream, only, end):
    gate = Gate()
    upstream.once([*sse(*EVENTS[:2], done=False), gate, end],
                  content_type="text/event-stream")
    one = nginx(CONFIG, extra="proxy_buffering off;")
    with one.client() as client:
        send(client)
        read_until(client, b"Hello")
        gate.open()
        with pytest.raises((Cut, ConnectionError)):
            while True:
                client._more()

    run = only(one)
    assert (run["outcome"], run.text) == ("truncated", "Hello")
    assert run.json("usage") == USAGE
    assert "finish_reason" not in run


def test_a_client_that_stays_after_a_cut_is_no_longer_counted(nginx, upstream,
                                                              runs):
    """nginx waits for what such a client may still send (lingering close):
    that is no part of the call."""
    upstream.once([*sse(*EVENTS[:2], done=False), CUT],
                  content_type="text/event-stream")
    one = nginx(CONFIG, extra="proxy_buffering off; lingering_close always;"
                              "lingering_timeout 4s; lingering_time 4s;")
    client = one.client()
    send(client)
    read_until(client, b"Hello")

    run = runs.one(timeout=12)
    client.close()
    assert run["outcome"] == "truncated"
    assert int(run["duration_ms"]) < 3500


def test_nothing_before_the_timeout(nginx, upstream, only):
    upstream.once([STALL], head=b"")
    one = nginx(CONFIG, extra="proxy_read_timeout 200ms;")

    assert one.post(json=CHAT).status == 504
    run = only(one)
    assert (run["outcome"], run["status"], run["upstream_status"]) == (
        "timeout", "504", "504")


@pytest.mark.parametrize("buffering", ["on", "off"])
def test_silence_inside_the_stream(nginx, upstream, only, buffering):
    upstream.once([*sse(*EVENTS[:2], done=False), b": " + b"x" * 9000, STALL],
                  content_type="text/event-stream")
    one = nginx(CONFIG, extra="proxy_read_timeout 1s;"
                              f"proxy_buffering {buffering};")
    one.post(json=STREAM)

    run = only(one)
    assert (run["outcome"], run["status"], run.text) == (
        "timeout", "200", "Hello")


def test_nobody_listens(nginx, only):
    one = nginx(CONFIG, upstream=f"http://127.0.0.1:{free_port()}")

    assert one.post(json=CHAT).status == 502
    run = only(one)
    assert (run["outcome"], run["status"], run["attempts"]) == (
        "error", "502", "1")
    assert run["upstream_addr"].startswith("127.0.0.1:")


# -- several upstreams

BOTH = """
    upstream both {{
        server 127.0.0.1:{first};
        server 127.0.0.1:{second} backup;
    }}
"""


@pytest.mark.parametrize("fault", ["error", "timeout", "http_503"])
def test_the_next_upstream_answers(nginx, upstream, another_upstream, only,
                                   fault):
    bad = another_upstream()
    bad.answer(*{"error": [[RESET]], "timeout": [[STALL]],
                 "http_503": [{"error": {"message": "no"}}, 503]}[fault],
               **({} if fault == "http_503" else {"head": b""}))
    one = nginx(CONFIG, main=BOTH.format(first=bad.port,
                                         second=upstream.port),
                upstream="http://both", extra=f"""
                proxy_read_timeout 1500ms;
                proxy_next_upstream {fault} non_idempotent;""")

    assert one.post(json=CHAT).status == 200
    run = only(one)
    assert (run["outcome"], run["attempts"], run["upstream_status"]) == (
        "ok", "2", "200")
    assert run["upstream_addr"] == f"127.0.0.1:{upstream.port}"
    assert "error" not in run


def test_no_upstream_answers(nginx, only):
    one = nginx(CONFIG, main=BOTH.format(first=free_port(),
                                         second=free_port()),
                upstream="http://both",
                extra="proxy_next_upstream error non_idempotent;")

    assert one.post(json=CHAT).status == 502
    run = only(one)
    assert (run["outcome"], run["attempts"]) == ("error", "2")


# -- redirects inside nginx

def test_error_page_to_a_uri(nginx, upstream, only):
    upstream.once({"error": {"message": "no"}}, status=500)
    one = nginx(CONFIG, extra="""
        proxy_intercept_errors on;
        error_page 500 /sorry;""", more="""
        location = /sorry { return 503 "{}"; }""")

    assert one.post(json=CHAT).status == 500
    run = only(one)
    assert (run["outcome"], run["user_id"], run["upstream_status"]) == (
        "error", "u1", "500")


def test_error_page_to_another_upstream(nginx, upstream, another_upstream,
                                        only):
    bad = another_upstream()
    bad.answer({"error": {"message": "no"}}, status=500)
    upstream.once(ANSWER)
    one = nginx(CONFIG, upstream=bad.url, extra="""
        proxy_intercept_errors on;
        error_page 500 = @other;""", more=f"""
        location @other {{ lunary on; proxy_pass {upstream.url}; }}""")

    assert one.post(json=CHAT).json() == ANSWER
    run = only(one)
    assert (run["outcome"], run["status"], run["attempts"], run.text) == (
        "ok", "200", "2", "Hello you")
    assert upstream.last.json() == CHAT


def test_error_page_that_hides_the_failure(nginx, upstream, only):
    upstream.once({"error": {"message": "no"}}, status=500)
    one = nginx(CONFIG, extra="""
        proxy_intercept_errors on;
        error_page 500 =200 @sorry;""", more="""
        location @sorry { return 200 "{}"; }""")

    assert one.post(json=CHAT).status == 200
    run = only(one)
    assert (run["outcome"], run["status"], run["upstream_status"]) == (
        "error", "200", "500")


def test_error_page_leaves_lunary(nginx, upstream, only):
    one = nginx(CONFIG, upstream=f"http://127.0.0.1:{free_port()}",
                extra="error_page 502 = @other;", more=f"""
        location @other {{ lunary off; proxy_pass {upstream.url}; }}""")

    assert one.post(json=CHAT).status == 200
    assert only(one)["status"] == "200"


@pytest.mark.parametrize("path", [PATH, "/my/llm"])
def test_an_error_page_for_everything(nginx, upstream, only, path):
    """As nginx's own example has it: the method becomes GET on the way."""
    one = nginx(CONFIG, upstream=f"http://127.0.0.1:{free_port()}",
                extra="error_page 500 502 503 504 /50x.html;", more="""
        location = /50x.html { lunary on; return 200 sorry; }""")

    assert one.post(path, json=CHAT).status == 502
    run = only(one)
    assert (run["outcome"], run["status"], run["method"], run["uri"]) == (
        "error", "502", "POST", path)


@pytest.mark.parametrize("path", [PATH, "/my/llm"])
def test_an_error_page_for_a_body_over_the_limit(nginx, only, path):
    one = nginx(CONFIG, extra="""
        client_max_body_size 10; error_page 413 /413.html;""", more="""
        location = /413.html { lunary on; return 200 "too much"; }""")

    assert one.post(path + "?key=x", json=CHAT).status == 413
    run = only(one)
    assert (run["outcome"], run["status"], run["method"], run["uri"]) == (
        "rejected", "413", "POST", path)


def test_post_action_is_no_second_call(nginx, upstream, another_upstream,
                                       only):
    after = another_upstream()
    after.answer(b"", status=500)
    upstream.once(b"some text", content_type="text/plain")
    one = nginx(CONFIG, extra="post_action @after;", more=f"""
        location @after {{ lunary on; proxy_pass {after.url}; }}""")

    assert one.post(json=CHAT).body == b"some text"
    after.wait()
    run = only(one)
    assert (run["outcome"], run["response_bytes"], run["attempts"]) == (
        "ok", "9", "1")


def test_x_accel_redirect(nginx, upstream, only):
    upstream.once(b"", headers={"X-Accel-Redirect": "/inner" + PATH})
    upstream.once(ANSWER)
    one = nginx(CONFIG, more=f"""
        location /inner/ {{
            internal; lunary on; proxy_method POST;
            proxy_pass {upstream.url}/;
        }}""")

    assert one.post(json=CHAT).json() == ANSWER
    run = only(one)
    assert (run["outcome"], run["attempts"], run.text) == (
        "ok", "2", "Hello you")


def test_try_files(nginx, upstream, only):
    upstream.once(ANSWER)
    one = nginx(CONFIG, more=f"""
        location /files/ {{
            lunary on;
            root {{{{ dir }}}};
            try_files $uri @llm;
        }}
        location @llm {{ lunary on; proxy_pass {upstream.url}; }}""".replace(
            "{{ dir }}", "/nonexistent"))

    assert one.post("/files" + PATH, json=CHAT).status == 200
    run = only(one)
    assert (run["outcome"], run.text) == ("ok", "Hello you")


def test_rewrite_last(nginx, upstream, only):
    upstream.once(ANSWER)
    one = nginx(CONFIG, more="""
        location /old/ {
            lunary on;
            rewrite ^/old(/.*)$ $1 last;
        }""")

    assert one.post("/old" + PATH, json=CHAT).status == 200
    run = only(one)
    assert (run["outcome"], run["uri"], run["api"]) == (
        "ok", PATH, "openai.chat")


def test_a_loop_of_redirects(nginx, only):
    one = nginx(CONFIG, more="""
        location /loop {
            lunary on;
            rewrite ^ /loop last;
        }""")

    assert one.post("/loop", json=CHAT).status == 500
    run = only(one)
    assert (run["outcome"], run["status"]) == ("error", "500")


# -- subrequests

def test_mirrored_calls_are_one(nginx, upstream, another_upstream, only):
    shadow = another_upstream()
    one = nginx(CONFIG, extra="mirror /mirror;", more=f"""
        location = /mirror {{
            internal; lunary on; proxy_pass {shadow.url}{PATH};
        }}""")

    assert one.post(json={**CHAT, "user_id": "u1"}).status == 200
    shadow.wait()
    assert only(one)["outcome"] == "ok"
    wait_for(lambda: shadow.last.complete, what="the mirrored body")
    assert shadow.last.json() == upstream.last.json() == CHAT


@pytest.mark.parametrize("verdict, status, outcome", [
    (204, 200, "ok"), (401, 401, "rejected"), (403, 403, "rejected"),
    (500, 500, "error")])
@pytest.mark.parametrize("phase", ["preaccess", "precontent"])
def test_auth_request(nginx, upstream, another_upstream, only, verdict,
                      status, outcome, phase):
    auth = another_upstream()
    auth.answer(b"", status=verdict)
    one = nginx(CONFIG, extra=f"auth_request /auth; lunary_phase {phase};",
                more=f"""
        location = /auth {{
            internal; lunary off;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_pass {auth.url};
        }}""")

    assert one.post(json=CHAT).status == status
    run = only(one)
    assert (run["outcome"], run["status"]) == (outcome, str(status))
    assert len(upstream.requests) == (status == 200)
    if status != 200:
        assert "upstream_status" not in run


def test_ssi_parts_are_of_one_call(nginx, upstream, only):
    page = b'<!--# include virtual="/part" -->{"x":1}'
    upstream.answer(lambda request: Answer(
        page if request.path == PATH else b"part", content_type="text/html"))
    one = nginx(CONFIG, extra="ssi on;", more=f"""
        location = /part {{ lunary on; proxy_pass {upstream.url}; }}""")

    assert one.post(json=CHAT).body == b'part{"x":1}'
    assert only(one)["response_bytes"] == str(len(page))


def test_additions_are_no_answer(nginx, upstream, only):
    upstream.answer(lambda request: Answer(
        ANSWER if request.path == PATH else {"x": 1}))
    one = nginx(CONFIG, extra="""
        addition_types *; add_before_body /part; add_after_body /part;""",
                more=f"""
        location = /part {{ lunary on; proxy_pass {upstream.url}; }}""")

    assert one.post(json=CHAT).body.count(b'{"x": 1}') == 2
    run = only(one)
    assert (run["outcome"], run.text) == ("ok", "Hello you")


# -- other response filters

def test_the_answer_is_read_before_others_change_it(nginx, upstream, only):
    upstream.once(gzipped(json.dumps(ANSWER).encode()),
                  headers={"Content-Encoding": "gzip"},
                  content_type="application/json")
    one = nginx(CONFIG, extra="""
        gunzip on; sub_filter_types *; sub_filter Hello Bye;
        add_before_body /x; addition_types *;""", more="""
        location = /x { return 200 "before "; }""")

    answer = one.post(json=CHAT).body
    assert b"Bye you" in answer and b"Hello" not in answer
    assert only(one).text == "Hello you"


def test_an_answer_that_nginx_gzips(nginx, upstream, only):
    upstream.once({**ANSWER, "pad": "x" * 3000})
    one = nginx(CONFIG, extra="gzip on; gzip_types *; gzip_proxied any;")

    answer = one.post(json=CHAT, headers={"Accept-Encoding": "gzip"})
    assert json.loads(gzip.decompress(answer.body))["id"] == "c1"
    run = only(one)
    assert (run["outcome"], run.text) == ("ok", "Hello you")


# -- the cache

CACHE = "proxy_cache_path {dir} keys_zone=c:1m;"
CACHED = """
    proxy_cache c; proxy_cache_methods POST; proxy_cache_key $uri$request_body;
    proxy_cache_valid 200 500 1h; add_header X-Cache $upstream_cache_status;
"""


@pytest.fixture
def caching(nginx, folder):
    return lambda extra="", **kw: nginx(
        CONFIG, main=CACHE.format(dir=folder / "cache"),
        extra=CACHED + extra, **kw)


def test_every_hit_of_the_cache_is_a_run(caching, upstream, runs):
    upstream.answer(ANSWER)
    one = caching()

    answers = [one.post(json=CHAT) for _ in range(3)]
    assert [a.header("x-cache") for a in answers] == ["MISS", "HIT", "HIT"]
    assert len(upstream.requests) == 1
    found = runs(3)
    balanced(one, 3)
    for run in found:
        assert (run["outcome"], run.text, run["total_tokens"]) == (
            "ok", "Hello you", "5")
    assert [r.get("attempts") for r in found] == ["1", None, None]
    assert "upstream_status" not in found[1]


def test_a_cached_error_is_an_error(caching, upstream, runs):
    upstream.answer({"error": {"message": "no"}}, status=500)
    one = caching()

    assert [one.post(json=CHAT).status for _ in range(2)] == [500, 500]
    assert len(upstream.requests) == 1
    assert [r["outcome"] for r in runs(2)] == ["error", "error"]
    balanced(one, 2)


def test_a_stale_answer_is_an_answer(caching, upstream, runs):
    upstream.once(Answer(ANSWER, headers=[("Cache-Control", "max-age=1")]))
    upstream.answer({"error": {"message": "no"}}, status=503)
    one = caching("proxy_cache_use_stale http_503;")
    one.post(json=CHAT)

    def stale():
        return one.post(json=CHAT).header("x-cache") == "STALE"
    wait_for(stale, what="a stale answer")

    runs.more = True
    wait_for(lambda: len(upstream.requests) > 1)
    wait_for(lambda: any(r.get("upstream_status") == "503"
                         for r in runs.entries()), what="the run")
    last = [r for r in runs.entries() if r.get("upstream_status") == "503"]
    assert {(r["outcome"], r["status"], r.text) for r in last} == {
        ("ok", "200", "Hello you")}


# -- connections

def test_pipelined_calls(nginx, upstream, runs):
    one = nginx(CONFIG)
    with one.client() as c:
        data = b""
        for i in range(6):
            body = json.dumps({**CHAT, "user": f"u{i}"}).encode()
            data += c.head("POST", PATH, {
                "Content-Type": "application/json"}, body) + body
        c.send(data)
        for _ in range(6):
            assert c.read().status == 200

    found = runs(6)
    balanced(one, 6)
    assert [r["user_id"] for r in found] == [f"u{i}" for i in range(6)]
    assert len({r["run_id"] for r in found}) == 6


def test_http2_streams_side_by_side(nginx, upstream, runs):
    one = nginx(CONFIG)
    with H2Client("127.0.0.1", one.port2) as c:
        streams = [c.start("POST", PATH,
                           {"content-type": "application/json"})
                   for _ in range(8)]
        for i, stream in enumerate(streams):
            c.data(stream, json.dumps({**CHAT, "user": f"u{i}"}).encode(),
                   end=True)
        for stream in streams:
            assert c.read(stream).status == 200

    assert sorted(r["user_id"] for r in runs(8)) == [f"u{i}"
                                                     for i in range(8)]
    balanced(one, 8)


def test_http2_streams_reset_and_finished(nginx, upstream, runs):
    gate = Gate()
    events = sse(*EVENTS)
    upstream.once([*events[:2], gate, *events[2:]],
                  content_type="text/event-stream")
    one = nginx(CONFIG, extra="proxy_buffering off;")
    with H2Client("127.0.0.1", one.port2) as c:
        first = c.start("POST", PATH, {"content-type": "application/json"})
        c.data(first, json.dumps(STREAM).encode(), end=True)
        while b"Hello" not in c.streams[first].body:
            c.pump()
        c.reset(first)
        assert c.request("POST", PATH, json=CHAT).status == 200
        found = runs(2)
        gate.open()

    assert sorted(r["outcome"] for r in found) == ["aborted", "ok"]
    balanced(one, 2)


def test_an_http2_connection_that_goes_away_ends_its_streams(
        nginx, upstream, runs):
    upstream.answer([*sse(*EVENTS[:2], done=False), STALL],
                    content_type="text/event-stream")
    one = nginx(CONFIG, extra="proxy_buffering off;")
    with H2Client("127.0.0.1", one.port2) as c:
        for _ in range(3):
            s = c.start("POST", PATH, {"content-type": "application/json"})
            c.data(s, json.dumps(STREAM).encode(), end=True)
            while b"Hello" not in c.streams[s].body:
                c.pump()

    assert [r["outcome"] for r in runs(3)] == ["aborted"] * 3
    balanced(one, 3)


# -- what is a call

@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_what_is_no_call_is_no_run(nginx, upstream, runs, method):
    upstream.answer(b"x" * 100)
    one = nginx(CONFIG)

    assert one.request(method, "/hello").status == 200
    one.post(json=CHAT)
    assert runs.one()["method"] == "POST"
    balanced(one, 1)


def test_static_files_are_left_to_sendfile(nginx, folder, runs):
    (folder / "big.bin").write_bytes(b"x" * 300000)
    one = nginx(CONFIG, more=f"""
        location /files/ {{ lunary on; sendfile on; alias {folder}/; }}""")

    assert one.get("/files/big.bin").body == b"x" * 300000
    assert "sendfile:" in one.log()
    assert one.post("/files/big.bin", json=CHAT).status == 405
    run = runs.one()
    assert (run["outcome"], run["status"]) == ("error", "405")


# -- nginx refuses

REFUSED = {
    "limit_req": ("limit_req_zone $binary_remote_addr zone=z:1m rate=1r/m;",
                  "limit_req zone=z;", 503),
    "limit_req_429": ("limit_req_zone $binary_remote_addr zone=z:1m rate=1r/m;",
                      "limit_req zone=z; limit_req_status 429;", 429)}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("phase", ["preaccess", "precontent"])
def test_limit_req(nginx, upstream, runs, case, phase):
    main, extra, status = REFUSED[case]
    one = nginx(CONFIG, main=main,
                extra=f"{extra} lunary_phase {phase};")

    assert [one.post(json=CHAT).status for _ in range(2)] == [200, status]
    found = runs(2)
    balanced(one, 2)
    assert (found[1]["outcome"], found[1]["status"]) == (
        "rejected", str(status))
    if phase == "preaccess":
        assert found[1]["user_id"] == "u1"


@pytest.mark.parametrize("extra, status, outcome", [
    ('auth_basic x; auth_basic_user_file /dev/null;', 401, "rejected"),
    ("deny all;", 403, "rejected"),
    ("return 200 x;", 200, "ok"),
    ("return 204;", 204, "ok"),
    ("return 302 /x;", 302, "ok"),
    ("return 404;", 404, "error"),
    ("return 429 no;", 429, "rejected"),
    ("return 500;", 500, "error")])
def test_what_nginx_says_itself(nginx, upstream, only, extra, status,
                                outcome):
    one = nginx(CONFIG, extra=extra)

    assert one.post(json=CHAT).status == status
    run = only(one)
    assert (run["outcome"], run["status"]) == (outcome, str(status))
    assert upstream.requests == []


def test_return_444_closes_and_is_a_run(nginx, only):
    one = nginx(CONFIG, extra="return 444;")
    with pytest.raises(Cut):
        one.post(json=CHAT)

    run = only(one)
    assert (run["outcome"], run["status"]) == ("rejected", "444")


@pytest.mark.parametrize("how", ["length", "chunked", "http2"])
def test_a_body_over_the_limit(nginx, upstream, only, how):
    one = nginx(CONFIG, extra="client_max_body_size 1k;")
    body = BODY[:-1] + b" " * 3000 + b"}"

    if how == "http2":
        with H2Client("127.0.0.1", one.port2) as c:
            assert c.request("POST", PATH, body=body).status == 413
    elif how == "length":
        assert one.post(body=body).status == 413
    else:
        with one.client() as c:
            c.send(c.head("POST", PATH, chunked=True)
                   + b"%x\r\n%s\r\n" % (len(body), body))
            assert c.read().status == 413

    run = only(one)
    assert (run["outcome"], run["status"]) == ("rejected", "413")
    assert upstream.requests == []


def test_malformed_chunks(nginx, upstream, only):
    one = nginx(CONFIG)
    with one.client() as c:
        c.send(c.head("POST", PATH, chunked=True) + b"5\r\n{\"a\":\r\nxyz\r\n")
        assert c.read().status == 400

    run = only(one)
    assert (run["outcome"], run["status"]) == ("rejected", "400")
    assert upstream.requests == []


def test_a_body_that_does_not_come(nginx, upstream, only):
    one = nginx(CONFIG, extra="client_body_timeout 200ms;")
    with one.client() as c:
        c.send(c.head("POST", PATH, {"Content-Length": "90"}) + b"{")
        with pytest.raises(Cut):
            c.read()

    run = only(one)
    assert (run["outcome"], run["status"]) == ("timeout", "408")
    assert upstream.requests == []


# -- bodies, as nginx may be told to keep them

KEPT = ["", "proxy_request_buffering off;", "client_body_in_file_only on;",
        "client_body_in_file_only clean;", "client_body_buffer_size 16;",
        "client_body_in_single_buffer on; client_body_buffer_size 64;",
        "proxy_buffering off; proxy_request_buffering off;"]


@pytest.mark.parametrize("extra", KEPT, ids=lambda s: s.strip(";") or "as is")
@pytest.mark.parametrize("how", ["length", "chunked", "http2"])
def test_bodies_however_they_are_kept(nginx, upstream, only, extra, how):
    one = nginx(CONFIG, extra=extra, level="info")
    value = {**CHAT, "user_id": "u2", "pad": "x" * 20000}
    body = json.dumps(value).encode()

    if how == "http2":
        with H2Client("127.0.0.1", one.port2) as c:
            assert c.request("POST", PATH, body=body).status == 200
    elif how == "chunked":
        assert one.post(chunks=[body[:7], body[7:15000], body[15000:]]
                        ).status == 200
    else:
        assert one.post(body=body).status == 200

    del value["user_id"]
    assert upstream.last.json() == value
    run = only(one)
    assert (run["outcome"], run["user_id"], run["request_bytes"]) == (
        "ok", "u2", str(len(body)))


def test_expect_100_continue(nginx, upstream, only):
    one = nginx(CONFIG)
    with one.client() as c:
        c.send(c.head("POST", PATH, {"Expect": "100-continue",
                                     "Content-Length": str(len(BODY))}))
        assert c._until(b"\r\n\r\n").startswith(b"HTTP/1.1 100")
        c.send(BODY)
        assert c.read().status == 200

    assert only(one)["outcome"] == "ok"


def test_a_range_of_an_answer(nginx, upstream, only):
    upstream.once(Answer(json.dumps(ANSWER)[:20].encode(), status=206,
                         headers=[("Content-Range", "bytes 0-19/300")],
                         content_type="application/json"))
    one = nginx(CONFIG)

    assert one.post(json=CHAT, headers={"Range": "bytes=0-19"}).status == 206
    run = only(one)
    assert (run["outcome"], run["status"]) == ("ok", "206")


def test_a_client_too_slow_for_send_timeout(nginx, upstream, only):
    upstream.once(Answer([json.dumps(
        {**ANSWER, "pad": "x" * 6000000}).encode()], framing="length",
        content_type="application/json"))
    one = nginx(CONFIG, level="info", extra="send_timeout 500ms;"
                "proxy_max_temp_file_size 0;")
    with one.client() as c:
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        send(c, CHAT)
        c.read_head()
        run = only(one)

    assert (run["outcome"], run["status"]) == ("timeout", "200")


def test_times_are_of_the_call(nginx, upstream, only):
    gate = Gate()
    events = sse(*EVENTS)
    upstream.once([events[0], gate, *events[1:]],
                  content_type="text/event-stream")
    one = nginx(CONFIG, extra="proxy_buffering off;")
    before = time.time() * 1000
    with one.client() as c:
        send(c)
        read_until(c, b"assistant")
        gate.open()
        while b"[DONE]" not in c.buffer:
            c._more()

    run = only(one)
    after = time.time() * 1000
    started, ended = int(run["started_at"]), int(run["ended_at"])
    assert before - 5 <= started <= ended <= after + 5
    assert ended - started == int(run["duration_ms"])
    assert 0 <= int(run["ttft_ms"]) <= int(run["duration_ms"])
