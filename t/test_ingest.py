"""lunary_ingest: Lunary's own endpoint.  Each event of its SDKs becomes one
stream entry; success is said of what is kept, and of nothing else."""

import gzip
import json

import pytest

from harness.client import Cut, H2Client
from harness.wait import wait_for
from upstream.server import split

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    {{ main | default("") }}
    server {
        listen {{ listen }};
        listen 127.0.0.1:{{ port2 }} http2;
        client_max_body_size 30m;
        location = /v1/runs/ingest {
            lunary_ingest key_file={{ keys }} {{ options | default("") }};
            {{ extra | default("") }}
        }
        location = /status {
            lunary_status;
        }
    }
}
"""

PATH = "/v1/runs/ingest"
KEYS = """\
# a comment
key-one shop

key-two
   key-three\tdesk\r
"""
ONE = {"Authorization": "Bearer key-one"}
START = {"type": "agent", "event": "start", "runId": "r1", "name": "Agent",
         "timestamp": "2025-01-01T00:00:00.000Z", "userId": "u1",
         "userProps": {"name": "Ann"}, "input": "hi", "appId": "key-one"}
END = {"type": "agent", "event": "end", "runId": "r1", "output": "Hello"}


@pytest.fixture
def ingest(nginx, folder):
    (folder / "keys").write_text(KEYS)
    return lambda **kw: nginx(CONFIG, keys=folder / "keys", **kw)


def post(one, *events, headers=ONE, **kw):
    if events:
        kw["json"] = {"events": list(events)}
    return one.post(PATH, headers=headers, **kw)


def counters(one):
    return one.get("/status", headers={"Accept": "application/json"}).json()


def balanced(one, total, dropped=0):
    def holds():
        c = counters(one)
        return (c["events_total"], c["events_sent_total"],
                c["events_spooled"], c["events_dropped_total"]) == (
                    total, total - dropped, 0, dropped)
    wait_for(holds, what=f"{total} events in {counters(one)}")


# -- events

def test_each_event_is_an_entry(ingest, runs):
    one = ingest()
    answer = post(one, START, END)

    assert answer.status == 200
    assert answer.header("content-type") == "application/json"
    assert answer.json() == {"results": [{"id": "r1", "success": True}] * 2}
    start, end = runs(2)
    assert {k: v for k, v in start.items() if k != "event"} == {
        "kind": "event", "v": "1", "origin": "sdk", "app": "shop",
        "type": "agent", "event_name": "start", "run_id": "r1",
        "user_id": "u1"}
    assert start.json("event") == {k: v for k, v in START.items()
                                   if k != "appId"}
    assert end.json("event") == END
    assert "user_id" not in end
    balanced(one, 2)


def test_one_event_needs_no_array(ingest, runs):
    answer = post(ingest(), json={"events": START})

    assert answer.json()["results"] == [{"id": "r1", "success": True}]
    assert runs.one()["run_id"] == "r1"


def test_no_event_is_no_entry(ingest, runs):
    one = ingest()
    assert post(one, json={"events": []}).json() == {"results": []}
    post(one, START)
    runs.one()


def test_an_event_stays_as_it_was_sent(ingest, runs):
    text = ('{"event":"end" , "runId":"r1","output":{"a":[1.50,"\\u00e9\\ud83d'
            '\\ude00"]},"x":"ü" }')
    post(ingest(), body='{"events":[' + text + "]}")

    assert runs.one()["event"] == text


@pytest.mark.parametrize("name", ['"appId"', '"app\\u0049d"',
                                  '"\\u0061ppId"'])
@pytest.mark.parametrize("where", ["first", "last", "alone", "twice"])
def test_the_sdks_key_is_not_stored(ingest, runs, name, where):
    app, event = f'{name}:"key-one"', '"event":"end","runId":"r1"'
    text = {"first": f"{{{app},{event}}}", "last": f"{{{event},{app}}}",
            "alone": f'{{"event":"end",{app},"runId":"r1"}}',
            "twice": f"{{{app},{event},{app}}}"}[where]
    post(ingest(), body='{"events":[' + text + "]}")

    assert runs.one().json("event") == {"event": "end", "runId": "r1"}


def test_the_order_of_events_is_kept(ingest, runs):
    one = ingest()
    sent = [{**END, "runId": f"r{i}"} for i in range(300)]
    assert len(post(one, *sent).json()["results"]) == 300

    assert [r["run_id"] for r in runs(300)] == [e["runId"] for e in sent]
    balanced(one, 300)


def test_a_bad_event_fails_alone(ingest, runs):
    one = ingest()
    bad = [None, 7, "x", [], {}, {"event": "end"}, {"runId": "r1"},
           {"event": 1, "runId": "r1"}, {"event": "end", "runId": 5},
           {"event": "end", "runId": ""}]
    answer = post(one, START, *bad, END)

    assert answer.status == 200
    results = answer.json()["results"]
    assert [r["success"] for r in results] == [True] + [False] * len(bad) + [
        True]
    assert all(r["error"] for r in results[1:-1])
    assert results[7]["id"] == "r1" and results[6]["id"] is None
    assert [r["event_name"] for r in runs(2)] == ["start", "end"]
    balanced(one, 2)


@pytest.mark.parametrize("user", ["", " ", 5, None, {"a": 1}, "a\x01",
                                  "x" * 257, "a\u200bb"], ids=repr)
def test_what_is_no_user_id_is_none(ingest, runs, user):
    post(ingest(), {**START, "userId": user})

    assert "user_id" not in runs.one()


def test_llm_events_can_be_dropped(ingest, runs):
    one = ingest(options="llm=drop")
    answer = post(one, {**START, "type": "llm"}, START,
                  {**END, "type": "llm"})

    assert [r["success"] for r in answer.json()["results"]] == [True] * 3
    assert runs.one()["type"] == "agent"
    balanced(one, 1)


def test_feedback_about_a_call_is_not_left_out(ingest, runs):
    one = ingest(options="llm=drop")

    post(one, {**START, "type": "llm"},
         {**START, "type": "llm", "event": "feedback",
          "feedback": {"thumb": "up"}})

    assert runs.one()["event_name"] == "feedback"


def test_an_ingest_is_no_call(ingest, runs):
    one = ingest(main="lunary on; lunary_require_user verified;")

    assert post(one, START).status == 200
    assert runs.one()["kind"] == "event"


def test_inside_an_if(ingest, runs):
    one = ingest(extra='if ($http_x_tag) { set $a 1; }')

    assert post(one, START, headers={**ONE, "X-Tag": "1"}).status == 200
    runs.one()


# -- bodies

@pytest.mark.parametrize("how", ["whole", "pieces", "chunks", "http2", "file"])
def test_bodies_of_all_kinds(ingest, runs, how):
    one = ingest(extra="client_body_buffer_size 1k;" if how == "file" else "",
                 level="info")
    body = json.dumps({"events": [{**START, "input": "é" * 40000}]}).encode()

    if how == "http2":
        with H2Client("127.0.0.1", one.port2) as c:
            answer = c.request("POST", PATH, headers=ONE, body=body)
    else:
        answer = post(one, **{
            "whole": {"body": body}, "pieces": {"pieces": split(body, 999)},
            "chunks": {"chunks": split(body, 777)},
            "file": {"body": body}}[how])

    assert answer.json() == {"results": [{"id": "r1", "success": True}]}
    assert runs.one().json("event")["input"] == "é" * 40000


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"null", b'"x"', b"{}", b'{"events":5}',
    b'{"events":null}', b'{"events":"x"}', b'{"events":[{]}',
    b'{"events":[]} x', b'{"events":[{"event":"\xff"}]}',
    b'{"events":' + b"[" * 100000, b'{"events":' + b'{"a":' * 1000
    + b"1" + b"}" * 1000 + b"}", gzip.compress(b'{"events":[]}', mtime=0)],
    ids=lambda b: repr(b[:20]))
def test_what_is_no_batch_is_refused(ingest, runs, body):
    one = ingest(level="info")
    answer = post(one, body=body)

    assert answer.status == 400
    assert set(answer.json()) == {"error", "message"}
    post(one, START)
    runs.one()


def test_a_batch_of_too_many_events(ingest, runs):
    one = ingest(level="info")
    answer = post(one, body=b'{"events":[' + b"{}," * 10000 + b"{}]}")

    assert answer.status == 413
    post(one, START)
    runs.one()


@pytest.mark.parametrize("how", ["length", "chunks"])
def test_a_batch_too_large(ingest, runs, how):
    one = ingest(level="info")
    body = b'{"events":[],"x":"' + b"x" * (21 << 20) + b'"}'
    if how == "length":
        with one.client() as c:
            c.send(c.head("POST", PATH, [*ONE.items(), (
                "Content-Length", str(len(body)))]) + body[:1000])
            answer = c.read()
    else:
        answer = post(one, chunks=split(body, 1 << 20))

    assert answer.status == 413
    assert answer.json()["message"]
    post(one, START)
    runs.one()


def test_a_refused_batch_is_no_request_of_its_own(ingest, runs):
    """What follows the head is its body, also where nobody reads it."""
    one = ingest(level="info")
    smuggled = b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n"
    with one.client() as c:
        c.send(c.head("POST", PATH, [*ONE.items(), (
            "Content-Length", str(21 << 20))]) + smuggled)
        assert c.read().status == 413
        c.half_close()
        with pytest.raises((Cut, OSError)):
            c.read()


def test_a_client_that_leaves_in_its_body(ingest, runs):
    one = ingest()
    with one.client() as c:
        c.send(c.head("POST", PATH, [*ONE.items(), ("Content-Length", "500")])
               + b'{"events":[')
        one.wait_log("http client request body")
    post(one, START)

    runs.one()


# -- keys

@pytest.mark.parametrize("headers, app", [
    ({"Authorization": "Bearer key-one"}, "shop"),
    ({"authorization": "bearer key-two"}, "default"),
    ({"x-api-key": "key-three"}, "desk"),
    ({"X-Api-Key": "key-one", "Authorization": "Basic eDp5"}, "shop")],
    ids=lambda v: str(v))
def test_keys_name_the_app(ingest, runs, headers, app):
    assert post(ingest(), START, headers=headers).status == 200

    assert runs.one()["app"] == app


@pytest.mark.parametrize("headers", [
    {}, {"Authorization": "Bearer"}, {"Authorization": "Bearer "},
    {"Authorization": "Bearer key-on"}, {"Authorization": "Bearer key-one2"},
    {"Authorization": "key-one"}, {"x-api-key": "shop"},
    {"x-api-key": "# a comment"}, {"x-api-key": "#"}], ids=str)
def test_without_a_key_nothing_is_stored(ingest, runs, headers):
    one = ingest()
    answer = post(one, START, headers=headers)

    assert answer.status == 401
    assert answer.json()["message"]
    assert answer.header("content-type") == "application/json"
    post(one, {**START, "runId": "r2"})
    assert runs.one()["run_id"] == "r2"


def test_keys_are_in_no_log_and_no_entry(ingest, runs):
    one = ingest(level="info")
    post(one, START)
    post(one, START, headers={"x-api-key": "key-wrong"})

    assert "key-" not in json.dumps(dict(runs.one()))
    assert "key-" not in one.log()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
def test_other_methods(ingest, method):
    assert ingest().request(method, PATH, headers=ONE).status == 405


@pytest.mark.parametrize("keys, options, words", [
    (None, "", "cannot open key_file"),
    ("# nothing\n", "", "holds no key"),
    ("x" * 70000, "", "too large"),
    ("k\n", "colour=red", "invalid parameter"),
    ("k\n", "llm=maybe", "invalid parameter")])
def test_what_the_directive_refuses(conf_test, folder, keys, options, words):
    if keys is not None:
        (folder / "keys").write_text(keys)

    accepted, said = conf_test(CONFIG, keys=folder / "keys", options=options)
    assert not accepted
    assert words in said
    assert "xxxx" not in said


# -- browsers

PAGE = {"Origin": "https://app.example.com"}


def test_a_preflight(ingest):
    one = ingest(options="origin=https://app.example.com")
    answer = one.request("OPTIONS", PATH, headers={
        **PAGE, "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type"})

    assert answer.status == 204
    assert answer.header("access-control-allow-origin") == PAGE["Origin"]
    assert "POST" in answer.header("access-control-allow-methods")
    allowed = answer.header("access-control-allow-headers").lower()
    assert "authorization" in allowed and "content-type" in allowed
    assert answer.header("vary") == "Origin"


@pytest.mark.parametrize("headers", [ONE, {}], ids=["accepted", "refused"])
def test_a_page_may_read_the_answer(ingest, headers):
    one = ingest(options="origin=https://other.example "
                         "origin=https://app.example.com")
    answer = post(one, START, headers={**headers, **PAGE})

    assert answer.header("access-control-allow-origin") == PAGE["Origin"]
    assert answer.header("vary") == "Origin"


@pytest.mark.parametrize("options", ["", "origin=https://other.example",
                                     "origin=https://app.example.com.evil",
                                     "origin=https://app.example.co"])
def test_other_pages_may_not(ingest, options):
    one = ingest(options=options)

    for method in ("OPTIONS", "POST"):
        answer = one.request(method, PATH, headers={**ONE, **PAGE},
                             body=b'{"events":[]}')
        assert answer.header("access-control-allow-origin") is None


def test_any_page_may(ingest):
    answer = post(ingest(options="origin=*"), START, headers={**ONE, **PAGE})

    assert answer.header("access-control-allow-origin") in ("*",
                                                            PAGE["Origin"])


# -- a spool that fills

@pytest.fixture
def filling(nginx, folder, redis_server):
    """An nginx whose Redis is stopped, and whose spool is small."""
    (folder / "keys").write_text(KEYS)
    server = redis_server()
    one = nginx(CONFIG.replace("{{ lunary }}", """
        lunary_redis {{ redis }} send_timeout=1s;
        lunary_spool {{ dir }}/spool size=256k;"""),
        keys=folder / "keys", redis=server.unix_url, level="info")
    server.pause()
    return one, server


def test_a_full_spool_says_so_and_loses_nothing_it_took(filling):
    one, server = filling
    taken, answers = [], []

    for i in range(200):
        answer = post(one, {**END, "runId": f"r{i}", "output": "x" * 4000})
        answers.append(answer.status)
        if answer.status == 200:
            taken.append(f"r{i}")
        else:
            assert answer.status == 503
            assert answer.header("retry-after")
            break

    assert answers[-1] == 503 and len(taken) > 10
    server.resume()

    def arrived():
        return [f["run_id"] for _, f in server.client.xrange("lunary:runs")]
    wait_for(lambda: len(arrived()) >= len(taken), 20, "the events")
    assert arrived() == taken
    balanced(one, len(taken) + 1, dropped=1)


def test_of_a_batch_what_fits_is_taken(filling):
    one, server = filling
    answer = post(one, *({**END, "runId": f"r{i}", "output": "x" * 4000}
                         for i in range(200)))

    assert answer.status == 200
    results = answer.json()["results"]
    taken = [r["id"] for r in results if r["success"]]
    assert 10 < len(taken) < 200
    assert all("full" in r["error"] for r in results if not r["success"])
    server.resume()

    def arrived():
        return [f["run_id"] for _, f in server.client.xrange("lunary:runs")]
    wait_for(lambda: len(arrived()) >= len(taken), 20, "the events")
    assert arrived() == taken
    balanced(one, 200, dropped=200 - len(taken))


def test_events_leave_room_for_runs(nginx, folder, redis_server, upstream):
    (folder / "keys").write_text(KEYS)
    server = redis_server()
    one = nginx(CONFIG.replace("{{ lunary }}", """
        lunary_redis {{ redis }} send_timeout=1s;
        lunary_spool {{ dir }}/spool size=256k;""").replace(
            "location = /status", """location / {
            lunary on;
            proxy_pass {{ upstream }};
        }
        location = /status"""),
        keys=folder / "keys", redis=server.unix_url, level="info")
    server.pause()
    while post(one, {**END, "output": "x" * 4000}).status == 200:
        pass
    for _ in range(20):
        assert one.post(json={"model": "m", "messages": []}).status == 200

    c = counters(one)
    assert sum(c.get("runs_dropped_total", {}).values()) == 0
    assert c["runs_spooled"] == 20
    server.resume()
    wait_for(lambda: counters(one)["runs_sent_total"] == 20, 20, "the runs")


def test_a_dead_redis_keeps_nobody_waiting(filling):
    one, server = filling
    assert post(one, START).status == 200
    assert counters(one)["events_spooled"] == 1
    server.resume()
    balanced(one, 1)
