# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""Ways to take more than a budget allows, or to be judged by another user's
policy: docs/security.md has the table."""

import concurrent.futures
import datetime
import gzip
import json

import pytest

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
        location / {
            lunary on;
            lunary_require_user {{ require | default("on") }};
            {{ extra | default("") }}
            proxy_pass {{ upstream }};
        }
    }
}
"""

PATH = "/v1/chat/completions"
TYPE = {"Content-Type": "application/json"}


def chat(user="alice", **members):
    return {"model": "gpt-4o", "user": user,
            "messages": [{"role": "user", "content": "hi"}], **members}


def policy(redis, user="alice", app="default", **fields):
    redis.hset(f"lunary:policy:{app}:{user}", mapping=fields)


def budget(redis, user="alice", app="default"):
    now = datetime.datetime.now(datetime.timezone.utc)
    return redis.hgetall(f"lunary:budget:{app}:{user}:{now:%Y-%m}")


def reserved(nginx, redis, upstream, body, headers=()):
    """What is held for a call while its upstream is at work."""
    gate = Gate()
    upstream.once([gate, b"{}"], content_type="application/json")
    policy(redis, budget_tokens=10 ** 12)
    one = nginx(CONFIG)

    with one.client() as c:
        c.send(c.head("POST", PATH, {**TYPE, **dict(headers)}, body) + body)
        upstream.wait(1)
        held = int(budget(redis)["reserved"])
        gate.open()
        c.read("POST")
    return held


def text(**members):
    return json.dumps(chat(**members)).encode()


# -- a reservation smaller than what the upstream will take

@pytest.mark.parametrize("limit", [
    '"max_tokens":1e5', '"max_tokens":100000.0', '"max_tokens":"100000"',
    '"max_tokens":1.0E+5', '"max_tok\\u0065ns":100000',
    '"max_tokens":1,"max_tokens":100000', '"max_tokens":100000,"max_tokens":1',
    '"Max_Tokens":100000', '"max_tokens":1,"max_completion_tokens":100000',
    '"max_tokens":" 100000 "', '"max_tokens":100000.9'])
def test_however_the_limit_is_written_it_is_reserved(nginx, redis, upstream,
                                                     limit):
    body = text().replace(b'"model"', limit.encode() + b',"model"', 1)

    assert reserved(nginx, redis, upstream, body) >= 100000


def test_a_limit_behind_a_long_body_is_reserved(nginx, redis, upstream):
    body = text(pad=["x" * 2000] * 400, max_tokens=500000)

    assert reserved(nginx, redis, upstream, body) >= 700000


def test_a_compressed_body_is_what_it_holds(nginx, redis, upstream):
    body = gzip.compress(text(messages=[
        {"role": "user", "content": "word " * 80000}], max_tokens=100000))

    held = reserved(nginx, redis, upstream, body,
                    {"Content-Encoding": "gzip"})

    assert len(body) < 4000 and held >= 200000


@pytest.mark.parametrize("require", ["on", "verified"])
def test_a_spent_budget_is_spent_for_websockets_too(nginx, redis, upstream,
                                                    require):
    policy(redis, budget_tokens=0)
    one = nginx(CONFIG, require=require, main="geo $me { default alice; }",
                extra="lunary_user verified:$me;")

    answer = one.get("/v1/realtime", headers={
        "Connection": "Upgrade", "Upgrade": "websocket"})

    assert answer.status == 429
    assert upstream.requests == []


# -- an operator's slip

@pytest.mark.parametrize("fields", [
    {"budget_tokens": "nan"}, {"budget_tokens": "-nan"},
    {"budget_usd": "nan"}, {"budget_usd": "x"}])
def test_a_limit_that_is_no_number_lets_nobody_in(nginx, redis, fields):
    policy(redis, **fields)

    assert nginx(CONFIG).post(json=chat()).status == 429


def test_a_ledger_that_is_no_number_is_no_blank_cheque(nginx, redis):
    policy(redis, budget_usd=1)
    redis.hset("lunary:user:default:alice", "cost_usd", "nan")

    assert nginx(CONFIG).post(json=chat()).status == 429


# -- keys of other users and apps

@pytest.mark.parametrize("user", [
    "bob:2026-01", "bob:2026-01:held", ":bob", "b*", "b?b", "[b]ob",
    "bob}{x", "{bob}", "bob ", "bob|1", "bob\\", "bob'--", "$3"])
def test_an_odd_id_is_judged_by_its_own_policy(nginx, redis, user):
    policy(redis, "bob", blocked=1)
    one = nginx(CONFIG)

    assert one.post(json=chat(user)).status == 200
    policy(redis, user, blocked=1)
    assert one.post(json=chat(user)).status == 403
    assert one.post(json=chat("bob")).status == 403


@pytest.mark.parametrize("n", [2 ** 63 - 1, 2 ** 62, 10 ** 30, -5, -2 ** 63])
def test_what_an_upstream_says_it_took_settles_once(nginx, redis, upstream,
                                                    runs, n):
    policy(redis, budget_tokens=10 ** 6)
    upstream.once(json.dumps({
        "choices": [{"message": {"role": "assistant", "content": "x"},
                     "finish_reason": "stop"}],
        "usage": {"prompt_tokens": n, "completion_tokens": n}}).encode(),
        content_type="application/json")
    one = nginx(CONFIG)

    one.post(json=chat())
    runs.one()

    wait_for(lambda: budget(redis).get("reserved") == "0",
             what=budget(redis))
    assert 0 <= int(budget(redis).get("spent", 0)) <= 2 * 10 ** 12
    assert "Redis refused" not in one.log()


# -- races

def test_a_hundred_calls_and_leavers_hold_the_budget(nginx, redis, upstream,
                                                     runs):
    """Half of them leave as soon as they have asked: what they reserved
    counts until it is settled."""
    policy(redis, budget_tokens=3000)
    one = nginx(CONFIG, workers=2)
    body = text(max_tokens=500)

    def call(i):
        with one.client() as c:
            c.send(c.head("POST", PATH, TYPE, body) + body)
            if i % 2:
                c.reset()
                return None
            return c.read("POST").status

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        statuses = list(pool.map(call, range(100)))

    assert statuses.count(200) <= 50 and set(statuses) <= {200, 429, None}
    runs.more = True
    wait_for(lambda: budget(redis).get("reserved") == "0",
             what=lambda: budget(redis))
    spent = int(budget(redis)["spent"])
    assert len(upstream.requests) * 4 <= spent + 4 * 530
    assert not [k for k in redis.keys("*:held")]


def test_a_killed_worker_leaves_its_reservation_to_expire(nginx, redis,
                                                          upstream, runs):
    import os
    import signal
    gate = Gate()
    upstream.once([gate, b"{}"], content_type="application/json")
    policy(redis, budget_tokens=600)
    one = nginx(CONFIG)
    one.allow("exited on signal 9")
    body = text(max_tokens=600)

    with one.client() as c:
        c.send(c.head("POST", PATH, TYPE, body) + body)
        upstream.wait(1)
        old = one.workers()[0]
        os.kill(old, signal.SIGKILL)
    wait_for(lambda: one.workers() and old not in one.workers())
    gate.open()

    assert one.post(json=chat()).status == 429
    key = [k for k in redis.keys("lunary:budget:*:held")][0]
    redis.zadd(key, {m: 1 for m, _ in redis.zrange(key, 0, -1,
                                                   withscores=True)})
    assert one.post(json=chat()).status == 200
    runs.more = True
