"""lunary_user parent: users inherited from a parent run or a thread."""

import json

import pytest

from harness.wait import wait_for

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    server {
        listen {{ listen }};
        location / {
            lunary on;
            lunary_user {{ sources | default("session body header parent") }};
            lunary_session_id cookie=sid;
            lunary_session sess:$lunary_session_id;
            lunary_run_header on;
            lunary_app $http_x_app;
            {{ extra | default("") }}
            proxy_pass {{ upstream }};
        }
    }
}
"""


def chat(**members):
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}],
            **members}


def who(run):
    return run.get("user_id"), run.get("user_source"), run.get("user_verified")


def test_a_call_inherits_its_parent_runs_user_and_props(nginx, runs):
    one = nginx(CONFIG)
    parent = one.post(json=chat(user_id="alice", user_props={"name": "A"}))
    run = parent.header("x-lunary-run-id")

    one.post(json=chat(parent_run_id=run))

    child = runs(2)[1]
    assert who(child) == ("alice", "parent", "0")
    assert child.json("user_props") == {"name": "A"}
    assert child["parent_run_id"] == run


def test_so_do_the_children_of_its_children(nginx, runs):
    one = nginx(CONFIG)
    run = one.post(json=chat(user_id="alice")).header("x-lunary-run-id")
    for _ in range(3):
        run = one.post(json=chat(parent_run_id=run)).header("x-lunary-run-id")

    assert who(runs(4)[3]) == ("alice", "parent", "0")


def test_a_thread_hands_down_its_user(nginx, runs):
    one = nginx(CONFIG)
    one.post(json=chat(user_id="alice", thread_id="t1"))

    one.post(json=chat(thread_id="t1"))
    one.post(json=chat(), headers={"X-Lunary-Thread-Id": "t1"})
    one.post(json=chat(parent_run_id="t1"))     # as Lunary's SDKs do

    assert [who(r) for r in runs(4)[1:]] == [("alice", "parent", "0")] * 3


def test_the_first_owner_stays(nginx, runs):
    one = nginx(CONFIG)
    one.post(json=chat(user_id="alice", thread_id="t1"))
    one.post(json=chat(user_id="mallory", thread_id="t1"))

    one.post(json=chat(thread_id="t1"))

    assert who(runs(3)[2]) == ("alice", "parent", "0")


def test_an_app_inherits_nothing_from_another(nginx, runs):
    one = nginx(CONFIG)
    one.post(json=chat(user_id="alice", thread_id="t1"),
             headers={"X-App": "a"})

    one.post(json=chat(thread_id="t1"), headers={"X-App": "b"})
    one.post(json=chat(thread_id="t1"), headers={"X-App": "a"})

    assert [who(r)[0] for r in runs(3)] == ["alice", None, "alice"]


def test_it_is_never_verified_whoever_the_parent_was(nginx, redis, runs):
    redis.set("sess:s1", '{"user_id":"carol"}')
    one = nginx(CONFIG, extra="lunary_require_user verified;")
    parent = one.post(json=chat(thread_id="t1"),
                      headers={"Cookie": "sid=s1"})
    assert parent.status == 200

    answer = one.post(json=chat(thread_id="t1"))

    assert answer.status == 401
    run = runs(2)[1]
    assert "user_id" not in run and run["claimed_user_id"] == "carol"


def test_it_never_wins_over_a_verified_user(nginx, redis, runs):
    redis.set("sess:s1", '{"user_id":"carol"}')
    one = nginx(CONFIG, sources="parent session")
    one.post(json=chat(thread_id="t1"), headers={"Cookie": "sid=s1"})
    redis.set("sess:s1", '{"user_id":"dave"}')

    one.post(json=chat(thread_id="t1"), headers={"Cookie": "sid=s1"})

    run = runs(2)[1]
    assert who(run) == ("dave", "session", "1")
    assert run["claimed_user_id"] == "carol"


def test_the_order_of_sources_counts(nginx, runs):
    one = nginx(CONFIG, sources="parent body")
    one.post(json=chat(user_id="alice", thread_id="t1"))

    one.post(json=chat(user_id="bob", thread_id="t1"))

    assert who(runs(2)[1])[:2] == ("alice", "parent")


def test_an_unknown_parent_is_nobody(nginx, runs):
    one = nginx(CONFIG, extra="lunary_require_user on;")

    answer = one.post(json=chat(parent_run_id="nobody-knows"))

    assert answer.json()["error"]["code"] == "user_required"


def test_what_is_known_expires(nginx, redis, runs):
    nginx(CONFIG).post(json=chat(user_id="alice", thread_id="t1"))
    run = runs.one()

    wait_for(lambda: redis.exists("lunary:thread:t1"))
    for key in ("lunary:thread:t1", f"lunary:run:{run['run_id']}"):
        assert 0 < redis.ttl(key) <= 86400
        assert redis.hgetall(key) == {"app": "default", "user": "alice"}


def test_nothing_is_written_unless_parent_is_listed(nginx, redis, runs):
    one = nginx(CONFIG, sources="body header")
    one.post(json=chat(user_id="alice", thread_id="t1"))
    one.post(json=chat(thread_id="t1"))

    assert who(runs(2)[1]) == (None, None, None)
    assert redis.keys("lunary:thread:*") == redis.keys("lunary:run:*") == []


def test_a_refused_call_owns_nothing(nginx, redis, runs):
    one = nginx(CONFIG, extra="lunary_require_user verified;")
    assert one.post(json=chat(user_id="m", thread_id="t1")).status == 401

    runs.one()
    assert redis.keys("lunary:thread:*") == []


def test_a_dead_redis_is_no_parent_where_no_user_is_required(
        nginx, redis_server, upstream):
    store = redis_server()
    one = nginx(CONFIG, redis=store.url + " timeout=50ms")
    store.pause()

    assert one.post(json=chat(thread_id="t1")).status == 200
    store.resume()


def test_a_dead_redis_refuses_what_needs_it(nginx, redis_server):
    store = redis_server()
    one = nginx(CONFIG, redis=store.url + " timeout=1s",
                extra="lunary_require_user on; lunary_policy off;")
    assert one.post(json=chat(user_id="a", thread_id="t1")).status == 200
    store.pause()

    answer = one.post(json=chat(thread_id="t1"))
    store.resume()

    assert (answer.status, answer.json()["error"]["code"]) == (
        503, "identity_unavailable")


@pytest.mark.parametrize("fields", [
    {"app": "default"}, {"app": "default", "user": "a\u200bb"},
    {"user": "alice"}, {"app": "default", "user": ""}])
def test_a_broken_record_is_nobody(nginx, redis, runs, fields):
    redis.hset("lunary:thread:t1", mapping=fields)

    nginx(CONFIG).post(json=chat(thread_id="t1"))

    assert who(runs.one()) == (None, None, None)


def test_a_record_of_another_type_is_nobody(nginx, redis, runs):
    redis.set("lunary:thread:t1", json.dumps({"user": "alice"}))

    assert nginx(CONFIG).post(json=chat(thread_id="t1")).status == 200
    assert who(runs.one()) == (None, None, None)


def test_session_and_parent_are_asked_at_once(nginx, redis, runs):
    redis.set("sess:s1", '{"user_id":"carol"}')
    redis.hset("lunary:thread:t1", mapping={"app": "default",
                                            "user": "carol",
                                            "props": '{"from":"thread"}'})

    nginx(CONFIG).post(json=chat(thread_id="t1"),
                       headers={"Cookie": "sid=s1"})

    run = runs.one()
    assert who(run) == ("carol", "session", "1")
    assert run.json("user_props")["from"] == "thread"


INGEST = CONFIG.replace("location / {", """location = /v1/runs/ingest {
            lunary_ingest key_file={{ keys }};
        }
        location / {""")


def test_an_sdk_event_makes_its_run_and_thread_known(nginx, runs, folder,
                                                     redis):
    (folder / "keys").write_text("k default\n")
    one = nginx(INGEST, keys=folder / "keys")
    events = [
        {"type": "chain", "event": "start", "runId": "r1", "userId": "alice",
         "userProps": {"name": "A"}, "timestamp": "2026-01-01T00:00:00Z"},
        {"type": "thread", "event": "chat", "runId": "m1",
         "parentRunId": "t1", "userId": "bob",
         "timestamp": "2026-01-01T00:00:00Z"}]
    answer = one.post("/v1/runs/ingest", json={"events": events},
                      headers={"Authorization": "Bearer k"})
    assert answer.status == 200

    one.post(json=chat(parent_run_id="r1"))
    one.post(json=chat(thread_id="t1"))

    first, second = runs(4)[2:]
    assert who(first) == ("alice", "parent", "0")
    assert first.json("user_props") == {"name": "A"}
    assert who(second) == ("bob", "parent", "0")
