# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""What happens while a look-up is under way: streams are reset, nginx is
reloaded, workers are killed, Redis says nothing.  Nobody gets another's user,
nothing is held for a call that is over, and every call is one run."""

import concurrent.futures
import datetime
import json
import os
import random
import signal
import time

import pytest

from harness.client import H2Client
from harness.wait import wait_for
from upstream.server import Gate

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
            lunary_require_user {{ require | default("verified") }};
            lunary_user session{{ sources | default("") }};
            lunary_session_id cookie=sid;
            lunary_session sess:$lunary_session_id {{ options | default("") }};
            {{ extra | default("") }}
            proxy_pass {{ upstream }};
        }
        location = /status { lunary_status; }
    }
}
"""

PATH = "/v1/chat/completions"


def chat(name):
    return {"model": "gpt-4o", "thread_id": name, "max_tokens": 500,
            "messages": [{"role": "user", "content": "hi"}]}


def cookie(name):
    return {"Cookie": f"sid={name}"}


@pytest.fixture
def store(redis_server):
    """A store of sessions, whose users are called like them."""
    other = redis_server()
    for i in range(100):
        other.client.set(f"sess:s{i}", '{"user_id":"user-s%d"}' % i)
    return other


def stored(nginx, store, config=CONFIG, **more):
    return nginx(config, options="redis=store",
                 main=f"lunary_redis store {store.url} timeout=5s;", **more)


def check_each_is_its_own(entries):
    """One that was left before its body was read names no thread."""
    for run in entries:
        user = f"user-{run.get('thread_id')}"
        if run["outcome"] == "ok":
            assert run["user_id"] == user, dict(run)
        else:
            assert run.get("user_id") in (None, user), dict(run)


# -- clients that leave

def test_streams_that_are_reset_during_the_look_up_leave_the_others_alone(
        nginx, runs, store):
    one = stored(nginx, store)
    one.post(json=chat("s0"), headers=cookie("s0"))
    chance = random.Random(1)

    for turn in range(1, 4):
        store.pause()
        with H2Client("127.0.0.1", one.port2) as client:
            streams = []
            for i in range(40):
                body = json.dumps(chat(f"s{i}")).encode()
                stream = client.start("POST", PATH, {
                    **cookie(f"s{i}"), "content-type": "application/json"})
                client.data(stream, body, end=True)
                streams.append(stream)
            gone = set(chance.sample(streams, 20))
            for stream in gone:
                client.reset(stream)
            wait_for(lambda: one.log().count("http2 RST_STREAM frame")
                     == 20 * turn)
            store.resume()
            for stream in set(streams) - gone:
                assert client.read(stream).status == 200
        entries = runs(1 + 40 * turn)[-40:]
        assert sorted(r["outcome"] for r in entries) == (
            ["aborted"] * 20 + ["ok"] * 20)
        check_each_is_its_own(entries)


def test_a_connection_of_streams_that_goes_during_the_look_up(
        nginx, runs, store):
    one = stored(nginx, store)
    one.post(json=chat("s0"), headers=cookie("s0"))
    store.pause()
    with H2Client("127.0.0.1", one.port2) as client:
        for i in range(40):
            stream = client.start("POST", PATH, {
                **cookie(f"s{i}"), "content-type": "application/json"})
            client.data(stream, json.dumps(chat(f"s{i}")).encode(), end=True)
        wait_for(lambda: one.log().count("http2 frame type:0 f:1") == 40)

    assert {r["outcome"] for r in runs(41)[1:]} == {"aborted"}
    store.resume()
    assert one.post(json=chat("s7"), headers=cookie("s7")).status == 200
    assert runs(42)[-1]["user_id"] == "user-s7"


UNJUDGED = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    log_format who "$lunary_app $lunary_user_id $lunary_outcome "
                   "$lunary_run_id";
    server {
        listen {{ listen }};
        client_max_body_size 1k;
        lunary_app shop;
        lunary on;
        access_log {{ dir }}/who.log who;
        location / {
            proxy_pass {{ upstream }};
        }
        location /basic/ {
            auth_basic on;
            auth_basic_user_file {{ dir }}/nobody;
            lunary_phase precontent;
            lunary_user verified:$remote_user header;
            proxy_pass {{ upstream }};
        }
    }
}
"""


def test_a_call_that_ends_before_it_is_judged_is_its_apps_and_users(
        nginx, runs):
    one = nginx(UNJUDGED)
    answer = one.post(body=b"x" * 2000, headers={
        "X-Lunary-User-Id": "ann", "X-Lunary-Thread-Id": "t1"})

    assert answer.status == 413
    run = runs.one()
    assert (run["app"], run["outcome"], run["thread_id"]) == (
        "shop", "rejected", "t1")
    assert (run["user_id"], run["user_source"], run["user_verified"]) == (
        "ann", "header", "0")
    line = wait_for(lambda: one.log("who.log")).split()
    assert line == ["shop", "ann", "rejected", run["run_id"]]


def test_a_claim_is_no_user_where_it_would_not_have_been_enough(nginx, runs):
    one = nginx(UNJUDGED.replace("lunary on;",
                                 "lunary on; lunary_require_user verified;"))
    assert one.post(body=b"x" * 2000, headers={
        "X-Lunary-User-Id": "ann"}).status == 413

    run = runs.one()
    assert run["claimed_user_id"] == "ann" and "user_id" not in run


def test_a_password_that_was_not_asked_for_proves_nobody_in_the_log(
        nginx, runs):
    """413 comes before the access phase."""
    one = nginx(UNJUDGED)
    headers = {"Authorization": "Basic YWRtaW46eA==",
               "X-Lunary-User-Id": "ann"}
    assert one.post("/basic/v1/chat/completions", body=b"x" * 2000,
                    headers=headers).status == 413
    one.post("/basic/v1/chat/completions", body=b"{}", headers=headers)

    for run in runs(2):
        assert run["outcome"] in ("rejected", "error")
        assert (run["user_id"], run["user_verified"]) == ("ann", "0")


@pytest.mark.parametrize("require", ["off", "on", "verified"])
def test_a_call_left_during_the_look_up_has_what_it_said(nginx, runs, store,
                                                         require):
    """As a claim: the session might have named another."""
    one = stored(nginx, store, sources=" body", require=require)
    one.post(json=chat("s0"), headers=cookie("s0"))
    store.pause()
    with one.client() as client:
        body = json.dumps({**chat("t1"), "user": "ann"}).encode()
        client.send(client.head("POST", PATH, {
            **cookie("s1"), "Content-Type": "application/json"}, body) + body)
        wait_for(lambda: one.log().count("http process request line") == 2)
        client.reset()
    run = runs(2)[1]
    store.resume()

    assert run["outcome"] == "aborted"
    assert (run["thread_id"], run["claimed_user_id"]) == ("t1", "ann")
    assert "user_id" not in run


# -- nginx that is reloaded, or stopped, or killed

@pytest.mark.parametrize("reloads", [1, 3])
def test_calls_that_wait_for_their_user_across_reloads(nginx, runs, store,
                                                       reloads):
    one = stored(nginx, store)
    one.post(json=chat("s0"), headers=cookie("s0"))
    store.pause()

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        calls = [pool.submit(one.post, json=chat(f"s{i}"),
                             headers=cookie(f"s{i}")) for i in range(20)]
        wait_for(lambda: one.get("/status").json()["runs_total"] and
                 one.log().count("http process request line") >= 21)
        for _ in range(reloads):
            one.reload()
        store.resume()
        assert [c.result().status for c in calls] == [200] * 20

    check_each_is_its_own(runs(21))


@pytest.mark.slow
def test_workers_that_are_killed_leave_the_cache_to_the_others(nginx, runs,
                                                               store):
    """Also in the middle of a change to it, with its lock held."""
    one = stored(nginx, store, workers=3,
                 extra="lunary_session_cache zone=c:32k valid=50ms;")
    one.allow("exited on signal 9")
    one.allow('shared memory zone "c" was locked by')
    end = time.monotonic() + 4
    chance = random.Random(2)

    def calls(seed):
        mine, answers = random.Random(seed), 0
        while time.monotonic() < end:
            name = f"s{mine.randrange(100)}"
            try:
                answers += one.post(json=chat(name),
                                    headers=cookie(name)).status == 200
            except (OSError, AssertionError, EOFError):
                pass
            except Exception as e:
                if type(e).__name__ != "Cut":
                    raise
        return answers

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        threads = [pool.submit(calls, seed) for seed in range(6)]
        while time.monotonic() < end:
            victims = one.workers()
            if len(victims) == 3:
                os.kill(chance.choice(victims), signal.SIGKILL)
            time.sleep(0.03)
        assert sum(t.result() for t in threads) > 50

    wait_for(lambda: len(one.workers()) == 3)
    for i in range(100):
        assert one.post(json=chat(f"s{i}"),
                        headers=cookie(f"s{i}")).status == 200
    runs.more = True
    check_each_is_its_own(runs.entries())


# -- budgets

def policy(redis, name, **fields):
    redis.hset(f"lunary:policy:default:user-{name}", mapping=fields)


def budget(redis, name):
    now = datetime.datetime.now(datetime.timezone.utc)
    return redis.hgetall(f"lunary:budget:default:user-{name}:{now:%Y-%m}")


@pytest.mark.parametrize("require, status", [("verified", 503), ("on", 200)])
def test_a_question_that_redis_answers_too_late_holds_nothing(
        nginx, redis_server, store, require, status):
    """It is executed nevertheless, once Redis is back."""
    server = redis_server()
    policy(server.client, "s1", budget_tokens=600)
    one = stored(nginx, store, redis=server.url, require=require)
    assert one.post(json=chat("s2"), headers=cookie("s2")).status == 200

    server.pause()
    assert one.post(json=chat("s1"), headers=cookie("s1")).status == status
    server.resume()

    wait_for(lambda: "reserved" in budget(server.client, "s1"))
    wait_for(lambda: budget(server.client, "s1")["reserved"] == "0")
    assert one.post(json=chat("s1"), headers=cookie("s1")).status == 200


@pytest.mark.parametrize("how", ["reload", "quit"])
def test_what_was_used_is_settled_by_a_worker_that_leaves(
        nginx, redis, upstream, runs, store, how):
    policy(redis, "s1", budget_tokens=10000)
    one = stored(nginx, store)
    gate = Gate()
    upstream.once([gate, b'{"object":"chat.completion","choices":[],"usage":'
                   b'{"prompt_tokens":3,"completion_tokens":4,'
                   b'"total_tokens":7}}'], content_type="application/json")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(one.post, json=chat("s1"), headers=cookie("s1"))
        upstream.wait(1)
        if how == "reload":
            one.reload()
        else:
            one.signal(signal.SIGQUIT)
            wait_for(lambda: "gracefully shutting down" in one.log())
        gate.open()
        assert call.result().status == 200

    runs.one()
    wait_for(lambda: budget(redis, "s1").get("spent") == "7")
    assert budget(redis, "s1")["reserved"] == "0"


# -- many workers

MANY = """
{{ globals }}
http {
    {{ http }}
    lunary_redis {{ redis }};
    lunary_spool {{ dir }}/spool size=1m;
    server {
        listen {{ listen }};
        location / { lunary on; proxy_pass {{ upstream }}; }
        location = /status { lunary_status; }
    }
}
"""


@pytest.mark.soak
def test_workers_beyond_256_count_together(nginx, runs):
    one = nginx(MANY, workers=258, level="warn")
    assert "no counters of its own" in one.log()

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        assert {a.status for a in pool.map(
            lambda i: one.post(json=chat(f"s{i}")), range(200))} == {200}

    runs(200, timeout=30)
    wait_for(lambda: one.get("/status").json()["runs_sent_total"] == 200, 30)
    counted = one.get("/status").json()
    assert counted["runs_total"]["ok"] == 200
    assert counted["runs_spooled"] == 0
    assert set(counted["runs_dropped_total"].values()) <= {0}
