"""From a real nginx through Redis to Lunary and to what each user cost: the
entries are the module's own, Lunary is the strict stand-in."""

import json

import pytest

from harness.wait import wait_for
from harness.worker import once
from ingest_standin.server import Ingest
from upstream.server import Gate, sse

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    server {
        listen {{ listen }};
        location / {
            lunary on;
            lunary_app shop;
            lunary_require_user on;
            lunary_run_header on;
            proxy_buffering off;
            proxy_pass {{ upstream }};
        }
        location = /v1/runs/ingest {
            lunary_ingest key_file={{ keys }};
        }
    }
}
"""

PATH = "/v1/chat/completions"
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100,
         "total_tokens": 1100}
COST = 0.0035                     # of gpt-4o: 2.5 and 10 dollars a million


def chat(text, **more):
    return {"model": "gpt-4o",
            "messages": [{"role": "user", "content": text}], **more}


def answer(text):
    return {"id": "c1", "object": "chat.completion", "model": "gpt-4o",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {
                "role": "assistant", "content": text}}], "usage": USAGE}


def chunk(delta=None, finish=None, **more):
    choices = [] if delta is None else [
        {"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "c1", "object": "chat.completion.chunk", "model": "gpt-4o",
            "choices": choices, **more}


@pytest.fixture
def lunary(folder):
    server = Ingest().start()
    (folder / "key").write_text("key\n")
    (folder / "keys").write_text("ingest-key shop\n")
    yield server
    server.stop()


@pytest.fixture
def served(nginx, lunary, folder):
    return nginx(CONFIG, keys=folder / "keys")


@pytest.fixture
def relayed(redis, lunary, folder, runs):
    """relayed(n): the stand-in's state, when n entries are through."""
    def go(n):
        runs(n)
        once(redis.unix_url, "relay", "--once", "--api", lunary.url,
             "--project", f"shop={folder}/key")
        assert lunary.complaints == []
        assert redis.client.exists("lunary:runs:dead") == 0
        assert redis.client.xpending("lunary:runs", "relay")["pending"] == 0
        return lunary
    return go


@pytest.fixture
def counted(redis):
    def go(name):
        once(redis.unix_url, "ledger", "--once")
        return redis.hgetall(f"lunary:user:shop:{name}")
    return go


def post(one, body, **kw):
    return one.post(PATH, json=body, **kw)


def test_a_call_arrives_whole(served, upstream, relayed, counted):
    upstream.answer(answer("Hello, Ann!"))
    response = post(served, chat("hello", user="ann", temperature=0.5,
                                 user_props={"name": "Ann", "group": "x"}))
    assert response.status == 200
    run = relayed(1).runs[response.header("X-Lunary-Run-Id")]
    assert run["status"] == "success" and run["name"] == "gpt-4o"
    assert run["user"] == "ann" and run["params"]["temperature"] == 0.5
    assert run["input"] == [{"role": "user", "content": "hello"}]
    assert run["output"]["content"] == "Hello, Ann!"
    assert run["tokens"] == {"prompt": 1000, "completion": 100}
    user = counted("ann")
    assert (user["runs"], user["input_tokens"]) == ("1", "1000")
    assert float(user["cost_usd"]) == COST
    assert json.loads(user["props"]) == {"name": "Ann", "group": "x"}
    assert json.loads(user["models"]) == {"gpt-4o": 1}


def test_what_a_client_left_keeps_its_tokens(served, upstream, relayed,
                                             counted):
    gate = Gate()
    events = sse(chunk({"content": "Hello"}, usage=USAGE),
                 chunk({"content": " you"}), chunk({}, "stop"))
    upstream.once([events[0], gate, *events[1:]],
                  content_type="text/event-stream")
    client = served.client()
    body = json.dumps(chat("hi", user="ann", stream=True)).encode()
    client.send(client.head("POST", PATH, [
        ("Content-Type", "application/json")], body) + body)
    head = client.read_head()
    while b"Hello" not in head.body:
        client.read_piece(head)
    client.reset()
    lunary = relayed(1)
    gate.open()
    (run,) = lunary.runs.values()
    assert [e["event"] for e in lunary.events] == ["start", "end", "error"]
    assert run["status"] == "error" and run["output"]["content"] == "Hello"
    assert run["tokens"] == {"prompt": 1000, "completion": 100}
    user = counted("ann")
    assert user["aborted"] == "1" and float(user["cost_usd"]) == COST


def test_a_refusal_is_a_run_of_nobody(served, upstream, relayed, counted,
                                      redis):
    assert post(served, chat("let me in")).status == 400
    lunary = relayed(1)
    (run,) = lunary.runs.values()
    assert run["status"] == "error" and run["tags"] == ["rejected"]
    assert run["user"] is None and run["tokens"] is None
    assert [e["event"] for e in lunary.events] == ["start", "error"]
    counted("")
    rest = redis.hgetall("lunary:user-rest:shop:none")
    assert rest["rejected"] == "1" and "cost_usd" not in rest
    assert upstream.requests == []


def test_a_conversation_is_a_thread(served, upstream, relayed, counted):
    upstream.answer(answer("One."))
    turn = chat("first", user="ann", thread_id="t-1")
    post(served, turn)
    upstream.answer(answer("Two."))
    turn["messages"] += [{"role": "assistant", "content": "One."},
                         {"role": "user", "content": "second"}]
    post(served, turn)
    lunary = relayed(2)
    assert [(m["thread"], m["role"], m["content"], m["user"])
            for m in lunary.messages] == [
        ("t-1", "user", "first", "ann"), ("t-1", "assistant", "One.", "ann"),
        ("t-1", "user", "second", "ann"), ("t-1", "assistant", "Two.", "ann")]
    assert counted("ann")["threads"] == "1"


def test_a_call_below_another_names_its_parent(served, upstream, relayed):
    upstream.answer(answer("x"))
    first = post(served, chat("a", user="ann")).header("X-Lunary-Run-Id")
    second = post(served, chat("b", user="ann", parent_run_id=first)).header(
        "X-Lunary-Run-Id")
    third = post(served, chat("c", user="bob", parent_run_id=first)).header(
        "X-Lunary-Run-Id")
    runs = relayed(3).runs
    assert runs[second]["parent"] == first
    assert runs[third]["parent"] is None and runs[third]["user"] == "bob"
    assert runs[third]["metadata"]["parentRunId"] == first


def test_a_call_below_an_sdks_agent(served, upstream, relayed, lunary):
    """The agent's start comes by lunary_ingest, the call by the proxy."""
    upstream.answer(answer("x"))
    agent = "b7e9c1d0-1111-4222-8333-444455556666"
    key = {"Authorization": "Bearer ingest-key"}

    def event(**fields):
        got = served.post("/v1/runs/ingest", headers=key, json={
            "events": [{"type": "agent", "runId": agent, **fields}]})
        assert got.json()["results"][0]["success"]

    event(event="start", name="Agent", input="hi", userId="ann",
          userProps={"name": "Ann"}, timestamp=1763772000000)
    child = post(served, chat("a", user="ann", parent_run_id=agent)).header(
        "X-Lunary-Run-Id")
    event(event="end", output="done", timestamp=1763772009000)
    state = relayed(3)
    assert state.runs[child]["parent"] == agent
    assert state.runs[agent]["output"] == "done"
    assert state.users[("key", "ann")]["props"] == {"name": "Ann"}


def test_an_error_of_the_provider_says_what_it_said(served, upstream,
                                                    relayed, counted):
    upstream.answer({"error": {"message": "Slow down", "type": "requests",
                               "code": "rate_limit"}}, status=429)
    assert post(served, chat("a", user="ann")).status == 429
    (run,) = relayed(1).runs.values()
    assert run["error"]["message"] == "Slow down" and run["tokens"] is None
    user = counted("ann")
    assert user["errors"] == "1" and "cost_usd" not in user


def test_a_redis_that_restarts_loses_and_doubles_nothing(
        redis_server, nginx, upstream, folder, lunary):
    server = redis_server(appendonly="yes", appendfsync="always")
    one = nginx(CONFIG, keys=folder / "keys", redis=server.unix_url)
    upstream.answer(answer("x"))
    ids = []

    def call(n):
        for _ in range(n):
            ids.append(post(one, chat("a", user="ann", thread_id="t")).header(
                "X-Lunary-Run-Id"))

    def work():
        for what in (["relay", "--api", lunary.url, "--project",
                      f"*={folder}/key"], ["ledger"]):
            once(server.unix_url, *what, "--once", "--claim-after", "1ms")

    call(5)
    wait_for(lambda: server.client.xlen("lunary:runs") == 5)
    work()
    server.kill()
    call(5)
    server.start()
    wait_for(lambda: server.client.xlen("lunary:runs") == 10)
    work()
    work()
    assert set(lunary.runs) == set(ids) and len(ids) == 10
    assert len(lunary.messages) == 20 and lunary.complaints == []
    assert server.client.hget("lunary:user:shop:ann", "runs") == "10"
    one.allow("Redis|redis")
