"""Request bodies on their way through: every framing, size and end."""

import gzip
import json
import random

import pytest

from harness.client import Cut, H2Client
from upstream.server import split

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    client_max_body_size 100m;
    server {
        listen {{ listen }};
        listen 127.0.0.1:{{ port2 }} http2;
        location / {
            lunary on;
            {{ extra | default("") }}
            proxy_pass {{ upstream }};
        }
    }
}
"""

SPOOLED = "client_body_buffer_size 1k; client_body_in_file_only off;"


def body_of(size=0, **members):
    body = {"model": "gpt-4o", "user_id": "u1", **members, "messages": [
        {"role": "user", "content": "x" * size}], "tags": ["t"]}
    return json.dumps(body).encode()


def forwarded(body):
    value = json.loads(body)
    del value["user_id"], value["tags"]
    return value


@pytest.mark.parametrize("extra", ["", SPOOLED,
                                   "client_body_in_file_only clean;",
                                   "client_body_in_single_buffer on;",
                                   "proxy_request_buffering off;"],
                         ids=["memory", "disk", "file-only", "single",
                              "unbuffered"])
@pytest.mark.parametrize("size", [0, 5000, 70000, 1500000])
@pytest.mark.parametrize("framing", ["length", "chunked", "h2"])
def test_members_are_taken_out_of_any_body(nginx, upstream, runs, extra, size,
                                           framing):
    body = body_of(size)
    one = nginx(CONFIG, extra=extra, level="info")
    pieces = split(body, 16384)

    if framing == "h2":
        with H2Client("127.0.0.1", one.port2) as c:
            answer = c.request("POST", "/v1/chat/completions", {
                "content-type": "application/json"}, pieces=pieces)
    elif framing == "chunked":
        answer = one.post(chunks=pieces)
    else:
        answer = one.post(pieces=pieces)

    assert answer.status == 200
    assert upstream.last.json() == forwarded(body)
    run = runs.one()
    assert (run["user_id"], run["request_bytes"]) == ("u1", str(len(body)))
    assert run["outcome"] == "ok"


@pytest.mark.parametrize("size", [2000, 40000])
def test_a_spooled_body_without_members_goes_as_it_came(nginx, upstream,
                                                        size):
    body = b'{"model":"m","messages":["' + b"\\u00e9 " * size + b'"]}  \n'

    nginx(CONFIG, extra=SPOOLED, level="info").post(body=body)

    assert upstream.last.body == body


@pytest.mark.parametrize("how", ["bytes", 2, "random"])
def test_a_body_may_come_in_any_pieces(nginx, upstream, runs, how):
    body = body_of(200, user_props={"na\\u006de": "Zoë\u2028\"\\"})

    nginx(CONFIG, level="info").post(
        pieces=split(body, how, random.Random(7)))

    value = forwarded(body)
    del value["user_props"]
    assert upstream.last.json() == value
    run = runs.one()
    assert run["user_id"] == "u1"
    assert list(run.json("user_props").values()) == ["Zoë\u2028\"\\"]


def test_chunks_of_one_byte(nginx, upstream, runs):
    body = body_of(50)

    nginx(CONFIG, level="info").post(chunks=split(body, 1))

    assert upstream.last.json() == forwarded(body)
    assert runs.one()["request_bytes"] == str(len(body))


@pytest.mark.parametrize("body", [b"", b"not json", b"{", b'{"user_id":"u1"',
                                  b"\xff\xfe\x00", b"null", b"[]", b'"x"'],
                         ids=repr)
def test_bodies_that_are_no_calls_pass_untouched(nginx, upstream, runs, body):
    nginx(CONFIG).post(body=body)

    assert upstream.last.body == body
    assert runs.one()["request_bytes"] == str(len(body)) or body == b""


def test_a_call_without_a_body_is_a_run(nginx, upstream, runs):
    nginx(CONFIG).post()

    assert upstream.last.body == b""
    assert runs.one()["method"] == "POST"


def test_plain_gets_are_no_runs(nginx, upstream, runs):
    one = nginx(CONFIG)

    one.get("/v1/models")
    one.post(body=body_of())

    assert runs.one()["method"] == "POST"


def test_a_client_that_leaves_inside_its_body_is_a_run(nginx, upstream, runs):
    one = nginx(CONFIG)
    client = one.client()
    client.send(client.head("POST", "/v1/chat/completions", {
        "Content-Length": "500"}) + b'{"model":"gpt-4o","user":"u1",')
    one.wait_log("http client request body")
    client.close()

    run = runs.one()
    assert run["outcome"] == "aborted"
    assert upstream.requests == []


def test_a_client_that_never_ends_its_body_times_out(nginx, upstream, runs):
    one = nginx(CONFIG, extra="client_body_timeout 200ms;")

    with one.client() as c:
        c.send(c.head("POST", "/v1/chat/completions", {
            "Content-Length": "500"}) + b'{"model":')
        with pytest.raises(Cut):
            c.read()

    assert runs.one()["outcome"] == "timeout"
    assert upstream.requests == []


def test_a_body_over_the_limit_is_a_run(nginx, upstream, runs):
    one = nginx(CONFIG, extra="client_max_body_size 1k;")

    assert one.post(body=body_of(5000)).status == 413

    run = runs.one()
    assert (run["outcome"], run["status"]) == ("rejected", "413")
    assert upstream.requests == []


def test_a_gzipped_body_is_read_and_passed_on(nginx, upstream, runs):
    body = gzip.compress(body_of(100))

    nginx(CONFIG).post(body=body, headers={"Content-Encoding": "gzip"})

    assert upstream.last.body == body
    run = runs.one()
    assert (run["user_id"], run["model"]) == ("u1", "gpt-4o")


def test_a_broken_gzipped_body_passes(nginx, upstream, runs):
    body = gzip.compress(body_of(100))[:-20]

    nginx(CONFIG).post(body=body, headers={"Content-Encoding": "gzip"})

    assert upstream.last.body == body
    runs.one()


def test_multipart_fields_name_user_and_model(nginx, upstream, runs):
    body = (b"--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n"
            b"whisper-1\r\n--B\r\nContent-Disposition: form-data; "
            b"name=\"user\"\r\n\r\nu1\r\n--B\r\nContent-Disposition: form-data"
            b"; name=\"file\"; filename=\"a.mp3\"\r\nContent-Type: audio/mpeg"
            b"\r\n\r\n" + bytes(range(256)) * 20 + b"\r\n--B--\r\n")

    nginx(CONFIG).post("/v1/audio/transcriptions", body=body, headers={
        "Content-Type": "multipart/form-data; boundary=B"})

    assert upstream.last.body == body
    run = runs.one()
    assert (run["user_id"], run["model"]) == ("u1", "whisper-1")


def test_a_chunked_body_of_5_mb_is_spliced(nginx, upstream, runs):
    body = body_of(5 << 20)

    nginx(CONFIG, level="info").post(chunks=split(body, 100000))

    assert upstream.last.json() == forwarded(body)
    run = runs.one()
    assert run["request_bytes"] == str(len(body))
    assert run["truncated"] == "input,output"       # the stand-in echoes


@pytest.mark.parametrize("directive", ["proxy_set_body x;",
                                       "proxy_pass_request_body off;"])
def test_directives_that_undo_a_rewrite_are_refused(conf_test, directive):
    accepted, words = conf_test(CONFIG, extra=directive)

    assert not accepted
    assert directive.split()[0] in words


def test_pipelined_calls_are_kept_apart(nginx, upstream, runs):
    one = nginx(CONFIG)
    with one.client() as c:
        c.send(b"".join(c.head("POST", "/v1/chat/completions", {
            "Content-Type": "application/json"}, b) + b
            for b in (body_of(user_id=f"u{i}") for i in range(5))))
        for _ in range(5):
            assert c.read().status == 200

    assert [r["user_id"] for r in runs(5)] == [f"u{i}" for i in range(5)]


def test_a_failed_over_call_is_one_run_with_its_body(
        nginx, upstream, another_upstream, runs):
    from upstream.server import RESET, Answer, Pause
    broken = another_upstream()
    broken.answer(lambda request: Answer([Pause(0), RESET], head=b""))
    one = nginx("""
        {{ globals }}
        http {
            {{ http }}
            {{ lunary }}
            upstream both {
                server 127.0.0.1:{{ first }};
                server 127.0.0.1:{{ second }} backup;
            }
            server {
                listen {{ listen }};
                location / {
                    lunary on;
                    proxy_pass http://both;
                    proxy_next_upstream error timeout non_idempotent;
                }
            }
        }
    """, first=broken.port, second=upstream.port)

    body = body_of(100)
    assert one.post(body=body).status == 200

    assert upstream.last.json() == forwarded(body)
    run = runs.one()
    assert (run["outcome"], run["attempts"]) == ("ok", "2")
    assert run["upstream_addr"] == f"127.0.0.1:{upstream.port}"


@pytest.mark.parametrize("extra", ["", "lunary_strip off; "
                                   "lunary_inject_user user;"],
                         ids=["strip", "inject"])
@pytest.mark.parametrize("size", [100, 40000, 300000])
def test_the_next_upstream_gets_the_same_bytes(
        nginx, upstream, another_upstream, runs, size, extra):
    """nginx rewinds what lies in a file to the file's beginning."""
    first = another_upstream()
    first.answer({"error": {"message": "busy"}}, 503)
    one = nginx("""
        {{ globals }}
        http {
            {{ http }}
            {{ lunary }}
            client_max_body_size 1m;
            upstream both {
                server 127.0.0.1:{{ first }};
                server 127.0.0.1:{{ second }} backup;
            }
            server {
                listen {{ listen }};
                location / {
                    lunary on;
                    {{ extra }}
                    proxy_pass http://both;
                    proxy_next_upstream http_503 non_idempotent;
                }
            }
        }
    """, first=first.port, second=upstream.port, extra=extra)

    assert one.post(body=body_of(size)).status == 200

    assert upstream.last.body == first.last.body
    got = upstream.last.json()
    assert got["messages"][0]["content"] == "x" * size
    assert runs.one()["attempts"] == "2"
