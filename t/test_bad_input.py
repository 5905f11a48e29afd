"""Hostile bytes: each a refusal, a log line or simply passed on; never a
crash, a stall or a wrong user."""

import json

import pytest

from harness.wait import wait_for
from upstream.server import split

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    client_max_body_size 100m;
    server {
        listen {{ listen }};
        location / {
            lunary on;
            {{ extra | default("") }}
            proxy_pass {{ upstream }};
        }
    }
}
"""

REQUIRED = "lunary_require_user on;"


def cpu(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_a_megabyte_in_one_string(nginx, upstream, runs):
    body = b'{"user":"u1","x":"' + b"\\u0041b" * 150000 + b'","messages":[]}'

    assert nginx(CONFIG, level="info").post(body=body).status == 200

    assert upstream.last.body == body
    assert runs.one()["user_id"] == "u1"


@pytest.mark.parametrize("body", [
    b"[" * 100000, b'{"a":' * 100000, b'{"messages":' + b"[" * 100000,
    b'{"user":"u1","x":' + b"[" * 50000 + b"]" * 50000 + b"}"],
    ids=["arrays", "objects", "messages", "closed"])
def test_100000_brackets(nginx, upstream, runs, body):
    one = nginx(CONFIG, level="info")

    one.post(body=body)

    assert upstream.last.body == body
    assert runs.one()["request_bytes"] == str(len(body))


def test_100000_brackets_are_no_way_past_the_refusal(nginx, upstream):
    body = b'{"x":' + b"[" * 50000 + b"]" * 50000 + b',"user":"u1"}'

    answer = nginx(CONFIG, extra=REQUIRED, level="info").post(body=body)

    assert answer.status in (200, 400)
    if answer.status == 400:
        assert upstream.requests == []


def test_100000_duplicate_keys(nginx, upstream, runs):
    body = (b'{"messages":[],' + b'"user":"a",' * 100000 + b'"user":"u1"}')

    one = nginx(CONFIG, level="info")

    one.post(body=body)
    assert upstream.last.body == body
    assert runs.one().get("user_id") in (None, "u1")    # never "a"


def test_a_flood_of_members_to_strip(nginx, upstream, runs):
    body = (b'{"messages":[],' + b'"tags":["a"],' * 5000 + b'"user":"u1"}')

    nginx(CONFIG, level="info").post(body=body)

    assert json.loads(upstream.last.body)["messages"] == []
    assert runs.one()["user_id"] == "u1"


@pytest.mark.parametrize("user", [b"a\xff", b"\xc0\xaf", b"\xed\xa0\x80",
                                  b"\xf4\x90\x80\x80", b"a\x01",
                                  b"\\ud800", b"a\\udc00b", b"\\ud83d"])
def test_invalid_utf8_is_no_user(nginx, upstream, runs, user):
    body = b'{"user":"' + user + b'","messages":[]}'

    nginx(CONFIG).post(body=body)

    assert upstream.last.body == body
    assert "user_id" not in runs.one()


@pytest.mark.parametrize("text", [b"a\xffb", b"\\ud800x", b"\\udc00",
                                  b"\xed\xa0\x80", b"\\u0000", b"\xe2\x80"])
def test_damaged_text_stays_in_a_valid_run(nginx, upstream, runs, text):
    body = (b'{"model":"m","messages":[{"role":"user","content":"'
            + text + b'"}]}')
    upstream.once(b'{"choices":[{"index":0,"message":{"content":"'
                  + text + b'"}}]}', content_type="application/json")

    answer = nginx(CONFIG).post(body=body)

    assert upstream.last.body == body
    assert text in answer.body
    run = runs.one()                # the schema's check parses its JSON
    assert run["model"] == "m"


def test_5_mb_chunked(nginx, upstream, runs):
    body = json.dumps({"user": "u1", "messages": [
        {"role": "user", "content": "é😀" * 500000}]},
        ensure_ascii=False).encode()

    one = nginx(CONFIG, level="info")
    one.post(chunks=split(body, 65521))

    assert upstream.last.body == body
    run = runs.one()
    assert run["truncated"] == "input,output"       # the stand-in echoes
    assert int(run["input_bytes"]) >= 3000000


@pytest.mark.slow
def test_time_is_linear_in_the_body_whatever_its_pieces(nginx, runs):
    one = nginx(CONFIG, level="warn")
    pid, = one.workers()
    took = []

    for size in (1 << 20, 4 << 20):
        body = b'{"model":"m","messages":["' + b"x" * size + b'"]}'
        before = cpu(pid)
        one.post(pieces=split(body, 1021))
        took.append(cpu(pid) - before)
    runs(2)

    # four times the bytes: far from sixteen times the work
    assert took[1] <= max(took[0], 0.05) * 9, took


def test_a_slow_body_does_not_hold_others_up(nginx, runs):
    one = nginx(CONFIG)
    slow = one.client()
    slow.send(slow.head("POST", "/v1/chat/completions", {
        "Content-Length": "100"}) + b'{"user":')

    # the slow one's own time-out is a minute
    assert one.post(json={"model": "m", "messages": []}).status == 200
    slow.close()
    runs(2)


@pytest.mark.parametrize("answer", [
    b"\x00" * 10000, b"data: " * 10000, b"data: {" + b"[" * 100000,
    b"\n" * 50000, b"\r" * 50000, b": " + b"x" * 200000,
    b'data: {"choices":[{"index":-1}]}\n\ndata: {"choices":{}}\n\n'
    b'data: {"choices":[{"index":99999999999,"delta":{"content":"x"}}]}\n\n'
    b'data: {"usage":{"prompt_tokens":1e999}}\n\ndata: null\n\ndata: []\n\n',
    b'event: \xff\xfe\ndata: {"choices":[{"delta":{"content":"\xff"}}]}\n\n'],
    ids=["zeroes", "data", "brackets", "newlines", "returns", "comment",
         "shapes", "utf8"])
@pytest.mark.parametrize("how", ["whole", 13])
def test_a_hostile_stream(nginx, upstream, runs, answer, how):
    upstream.once(split(answer, how), content_type="text/event-stream")

    one = nginx(CONFIG, level="info", extra="proxy_buffering off;")
    got = one.post(json={"model": "m", "messages": [], "stream": True})

    assert got.body == answer
    runs.one()


@pytest.mark.parametrize("answer", [
    b"[" * 100000, b'{"usage":' * 20000, b"{}" * 50000,
    b'{"choices":[{"message":{"content":"' + b"x" * 3000000 + b'"}}]}',
    b"\x1f\x8b not gzip at all"],
    ids=["arrays", "usage", "many", "long", "magic"])
def test_a_hostile_answer(nginx, upstream, runs, answer):
    upstream.once(answer, content_type="application/json")

    got = nginx(CONFIG, level="info").post(json={"model": "m",
                                                 "messages": []})

    assert got.body == answer
    runs.one()


def test_a_broken_gzip_answer_passes(nginx, upstream, runs):
    answer = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + b"\xff" * 5000
    upstream.once(answer, headers={"Content-Encoding": "gzip"},
                  content_type="application/json")

    assert nginx(CONFIG).post(json={"model": "m", "messages": []}).body == \
        answer
    runs.one()


@pytest.mark.slow
def test_a_bomb_costs_bounded_memory(nginx, upstream, runs):
    import zlib
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = packer.compress(b'{"choices":[{"message":{"content":"')
    for _ in range(300):
        bomb += packer.compress(b"a" * (1 << 20))
    bomb += packer.flush()
    upstream.once(bomb, headers={"Content-Encoding": "gzip"},
                  content_type="application/json")
    one = nginx(CONFIG, level="warn")
    pid, = one.workers()

    assert one.post(json={"model": "m", "messages": []}).body == bomb

    runs.one()
    with open(f"/proc/{pid}/status") as f:
        peak = next(int(line.split()[1]) for line in f
                    if line.startswith("VmHWM"))
    assert peak < 200 * 1024, f"{peak} KiB"


@pytest.mark.parametrize("head", [
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    b"Content-Length: -1\r\n\r\n{}",
    b"POST /v1/chat/completions HTTP/1.0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n"])
def test_heads_that_nginx_refuses(nginx, runs, head):
    one = nginx(CONFIG)
    with one.client() as c:
        c.send(head)
        c.half_close()
        try:
            c.read()
        except Exception:
            pass
    runs.more = True

    assert one.post(json={"model": "m", "messages": []}).status == 200
    wait_for(lambda: any(r["outcome"] == "ok" for r in runs.entries()),
             what="the run")


@pytest.mark.parametrize("head, method, uri", [
    (b"POST /v1/chat/completions", None, None),
    (b"POST /v1/%zz/chat/completions HTTP/1.1\r\nHost: a", "POST", None),
    (b"POST /v1/chat/completions HTTP/9.1\r\nHost: a", None, None),
    (b"POST /v1/chat/completions HTTP/1.1\r\nHost: a b", "POST",
     "/v1/chat/completions")], ids=["0.9", "escape", "9.1", "host"])
def test_a_request_line_that_nginx_cannot_read(nginx, runs, head, method, uri):
    """A run, where `lunary on` holds for all of the server, of what there is."""
    one = nginx(CONFIG.replace("server {", "server { lunary on;"))

    with one.client() as c:
        c.send(head + b"\r\n\r\n")
        run = runs.one()

    assert (run.get("method"), run.get("uri")) == (method, uri)
    assert run["outcome"] in ("rejected", "error")
