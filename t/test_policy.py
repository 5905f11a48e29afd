"""Policies that operators write: blocked users, budgets."""

import concurrent.futures
import datetime
import json

import pytest

from harness.wait import wait_for
from upstream.server import CUT

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    {{ main | default("") }}
    log_format lunary "$lunary_decision $lunary_user_id";
    server {
        listen {{ listen }};
        location / {
            lunary on;
            lunary_require_user {{ require | default("on") }};
            {{ extra | default("") }}
            proxy_pass {{ upstream }};
        }
        location /limited/ {
            lunary on;
            lunary_require_user on;
            limit_req zone=none;
            proxy_pass {{ upstream }}/;
        }
        location = /status { lunary_status; }
    }
    limit_req_zone $server_addr zone=none:1m rate=1r/m;
}
"""

TODAY = datetime.datetime.now(datetime.timezone.utc)


def chat(user="alice", **members):
    return {"model": "gpt-4o", "user": user,
            "messages": [{"role": "user", "content": "hi"}], **members}


def policy(redis, user="alice", app="default", **fields):
    redis.hset(f"lunary:policy:{app}:{user}", mapping=fields)


def budget(redis, user="alice", app="default", period=None):
    now = datetime.datetime.now(datetime.timezone.utc)
    period = now.strftime("%Y-%m-%d" if period == "day" else "%Y-%m")
    return redis.hgetall(f"lunary:budget:{app}:{user}:{period}")


def settled(redis, spent, **kw):
    wait_for(lambda: budget(redis, **kw).get("spent", "0") == str(spent)
             and budget(redis, **kw).get("reserved", "0") == "0",
             what=f"{spent} spent of {budget(redis, **kw)}")


def total(run):
    return int(run["input_tokens"]) + int(run["output_tokens"])


# -- blocked

@pytest.mark.parametrize("value", ["1", "true", "yes", "since monday"])
def test_a_blocked_user_is_refused(nginx, redis, runs, upstream, value):
    policy(redis, blocked=value)
    one = nginx(CONFIG)

    answer = one.post(json=chat())

    assert answer.status == 403
    assert answer.json()["error"]["code"] == "user_blocked"
    assert answer.header("x-should-retry") == "false"
    run = runs.one()
    assert (run["outcome"], run["user_id"]) == ("rejected", "alice")
    assert run.json("error")["code"] == "user_blocked"
    assert upstream.requests == []
    assert one.get("/status").json()["rejected_total"]["user_blocked"] == 1


@pytest.mark.parametrize("value", ["0", "", "false", "no"])
def test_a_user_who_is_not_blocked_passes(nginx, redis, runs, value):
    policy(redis, blocked=value)

    assert nginx(CONFIG).post(json=chat()).status == 200


def test_only_that_user_is_blocked(nginx, redis, runs):
    policy(redis, blocked=1)

    assert nginx(CONFIG).post(json=chat("bob")).status == 200


def test_a_policy_is_of_one_app(nginx, redis, runs):
    policy(redis, app="other", blocked=1)
    one = nginx(CONFIG, extra="lunary_app $http_x_app;")

    assert one.post(json=chat()).status == 200
    assert one.post(json=chat(), headers={"X-App": "other"}).status == 403


def test_the_prefix_is_that_of_the_stream(nginx, redis):
    redis.hset("llm:policy:default:alice", "blocked", "1")

    one = nginx(CONFIG, main="lunary_stream llm:runs;")

    assert one.post(json=chat()).status == 403


def test_a_block_counts_in_a_dry_run_only(nginx, redis, runs):
    policy(redis, blocked=1)
    one = nginx(CONFIG, extra="lunary_dry_run on;")

    assert one.post(json=chat()).status == 200
    assert runs.one()["would_reject"] == "user_blocked"


def test_policies_may_be_off(nginx, redis, runs):
    policy(redis, blocked=1)

    assert nginx(CONFIG, extra="lunary_policy off;").post(
        json=chat()).status == 200


def test_where_no_user_is_required_none_is_asked_for(nginx, redis, runs):
    policy(redis, blocked=1)

    assert nginx(CONFIG, require="off").post(json=chat()).status == 200


def test_a_block_is_cached_as_absence_is(nginx, redis):
    one = nginx(CONFIG, extra="lunary_session_cache zone=s:1m negative=50ms;")
    assert one.post(json=chat()).status == 200
    policy(redis, blocked=1)

    wait_for(lambda: one.post(json=chat()).status == 403)
    redis.delete("lunary:policy:default:alice")
    wait_for(lambda: one.post(json=chat()).status == 200)


# -- token budgets

def test_what_was_used_is_what_is_spent(nginx, redis, runs):
    policy(redis, budget_tokens=1000000)

    assert nginx(CONFIG).post(json=chat()).status == 200

    run = runs.one()
    settled(redis, total(run))
    assert "usage_estimated" not in run


def test_a_spent_budget_is_refused(nginx, redis, runs, upstream):
    policy(redis, budget_tokens=5)
    one = nginx(CONFIG)
    assert one.post(json=chat()).status == 200
    settled(redis, total(runs.one()))

    answer = one.post(json=chat())

    assert answer.status == 429
    assert answer.json()["error"]["code"] == "budget_exceeded"
    assert answer.json()["error"]["type"] == "insufficient_quota"
    assert 1 <= int(answer.header("retry-after")) <= 31 * 86400
    assert len(upstream.requests) == 1
    assert runs(2)[1].json("error")["code"] == "budget_exceeded"


@pytest.mark.parametrize("period", ["day", "month"])
def test_a_budget_is_of_its_period(nginx, redis, runs, period):
    policy(redis, budget_tokens=1000, budget_period=period)

    one = nginx(CONFIG)
    one.post(json=chat())

    settled(redis, total(runs.one()), period=period)
    key = [k for k in redis.keys("lunary:budget:*")
           if not k.endswith(":held")]
    assert len(key) == 1 and redis.ttl(key[0]) > 86400 - 60


def test_another_periods_spending_does_not_count(nginx, redis, runs):
    policy(redis, budget_tokens=1000, budget_period="day")
    redis.hset("lunary:budget:default:alice:2001-01-01", "spent", 5000)

    assert nginx(CONFIG).post(json=chat()).status == 200


def test_parallel_first_calls_do_not_pass_the_budget(nginx, redis, upstream,
                                                     runs):
    policy(redis, budget_tokens=1000)
    one = nginx(CONFIG, workers=2)

    def call(_):
        return one.post(json=chat(max_tokens=500)).status

    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        statuses = list(pool.map(call, range(100)))

    passed = statuses.count(200)
    assert passed + statuses.count(429) == 100
    # each reserves a little more than 500, and settles at what it took
    all_runs = runs(100)
    took = sum(total(r) for r in all_runs if r["outcome"] == "ok")
    assert 2 <= passed and took <= 1000 + 2 * 530
    settled(redis, took)


def test_calls_under_way_hold_their_reservation(nginx, redis, upstream):
    from upstream.server import Gate
    gate = Gate()
    policy(redis, budget_tokens=1000)
    upstream.once([gate, b"{}"], content_type="application/json")
    one = nginx(CONFIG)

    with one.client() as c:
        body = json.dumps(chat(max_tokens=900, n=2)).encode()
        c.send(c.head("POST", "/v1/chat/completions", body=body,
                      headers={"Content-Type": "application/json"}) + body)
        upstream.wait(1)
        assert int(budget(redis)["reserved"]) > 1800
        answer = one.post(json=chat())
        assert answer.status == 429
        assert answer.header("retry-after") == "1"
        gate.open()
        c.read("POST")


@pytest.mark.parametrize("members, least", [
    ({"max_tokens": 5000}, 5000),
    ({"max_completion_tokens": 6000}, 6000),
    ({"max_tokens": 10, "n": 50}, 500),
    ({"max_tokens": -7}, 1024),
    ({"max_tokens": "many"}, 1024),
    ({"max_tokens": 10 ** 18}, 100000000),
    ({}, 1024)])
def test_what_a_call_may_take_is_reserved(nginx, redis, upstream, runs,
                                          members, least):
    policy(redis, budget_tokens=10 ** 12)
    upstream.once(b"no usage in here", content_type="text/plain")

    assert nginx(CONFIG).post(json=chat(**members)).status == 200

    run = runs.one()
    assert run["usage_estimated"] == "1"
    wait_for(lambda: int(budget(redis).get("spent", 0)) >= least)
    assert int(budget(redis)["spent"]) < least + 100 or least == 100000000
    assert budget(redis)["reserved"] == "0"


def test_an_answer_that_breaks_off_costs_what_was_reserved(nginx, redis,
                                                           upstream, runs):
    policy(redis, budget_tokens=10 ** 9)
    upstream.once([b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', CUT],
                  content_type="text/event-stream")

    nginx(CONFIG).post(json=chat(stream=True, max_tokens=700))

    assert runs.one()["usage_estimated"] == "1"
    wait_for(lambda: int(budget(redis).get("spent", 0)) > 700)


def test_an_upstreams_refusal_costs_nothing(nginx, redis, runs):
    policy(redis, budget_tokens=10 ** 9)

    nginx(CONFIG).post(json=chat(), headers={
        "X-Standin-Error": "429 rate_limit_exceeded"})

    assert "usage_estimated" not in runs.one()
    settled(redis, 0)


def test_a_call_that_limit_req_refuses_costs_nothing(nginx, redis, runs):
    policy(redis, budget_tokens=10 ** 9)
    one = nginx(CONFIG)
    first = one.post("/limited/v1/chat/completions", json=chat())
    second = one.post("/limited/v1/chat/completions", json=chat())

    assert (first.status, second.status) == (200, 503)
    settled(redis, total(runs(2)[0]))


def test_a_reservation_that_nobody_settles_expires(nginx, redis, runs):
    policy(redis, budget_tokens=1000)
    now = datetime.datetime.now(datetime.timezone.utc)
    key = f"lunary:budget:default:alice:{now:%Y-%m}"
    redis.hset(key, mapping={"reserved": 5000, "spent": 0})
    redis.zadd(key + ":held", {"dead-run|5000": 1000})

    assert nginx(CONFIG).post(json=chat()).status == 200
    settled(redis, total(runs.one()))


def test_settling_waits_for_redis(nginx, redis_server, upstream):
    from upstream.server import Gate
    store = redis_server()
    policy(store, budget_tokens=100000)
    gate = Gate()
    upstream.once([gate, json.dumps({"id": "x", "choices": [], "usage": {
        "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}})
        .encode()], content_type="application/json")
    one = nginx(CONFIG, redis=store.url + " timeout=1s")

    with one.client() as c:
        body = json.dumps(chat()).encode()
        c.send(c.head("POST", "/v1/chat/completions", body=body,
                      headers={"Content-Type": "application/json"}) + body)
        upstream.wait(1)
        store.pause()
        gate.open()
        assert c.read("POST").status == 200
        one.wait_log("no reply in time")
        store.resume()
    settled(store, 7)


@pytest.mark.parametrize("tokens", ["x", "-1", "0", "1e"])
def test_a_budget_that_is_no_number_is_none_at_all(nginx, redis, tokens):
    policy(redis, budget_tokens=tokens)

    assert nginx(CONFIG).post(json=chat()).status == 429


def test_a_plain_get_takes_nothing(nginx, redis, runs):
    policy(redis, budget_tokens=1)
    one = nginx(CONFIG, require="verified", extra="lunary_trusted_from "
                "127.0.0.1;")

    answer = one.get("/v1/models", headers={"X-Lunary-User-Id": "alice"})

    assert answer.status == 200
    assert budget(redis) == {}


# -- money

def ledger(redis, user="alice", **fields):
    redis.hset(f"lunary:user:default:{user}", mapping=fields)


def test_a_budget_of_money_is_judged_by_the_ledger(nginx, redis, runs):
    policy(redis, budget_usd="2.50")
    ledger(redis, cost_usd="2.49")
    one = nginx(CONFIG)
    assert one.post(json=chat()).status == 200

    ledger(redis, cost_usd="2.50")

    assert one.post(json=chat()).status == 429


def test_what_was_paid_before_the_period_does_not_count(nginx, redis):
    policy(redis, budget_usd="5", budget_period="day")
    ledger(redis, cost_usd="100", first_seen="1600000000000")
    one = nginx(CONFIG)
    assert one.post(json=chat()).status == 200

    ledger(redis, cost_usd="104.9")
    assert one.post(json=chat()).status == 200
    ledger(redis, cost_usd="105")
    assert one.post(json=chat()).status == 429


# -- failures

def test_verified_refuses_what_it_cannot_judge(nginx, redis_server):
    store = redis_server()
    policy(store, blocked=1)
    one = nginx(CONFIG, redis=store.url + " timeout=2s", require="verified",
                extra="lunary_trusted_from 127.0.0.1;")
    headers = {"X-Lunary-User-Id": "alice"}
    assert one.post(json=chat(), headers=headers).status == 403
    store.pause()

    answer = one.post(json=chat(), headers=headers)
    store.resume()

    assert answer.status == 503
    assert answer.json()["error"]["code"] == "identity_unavailable"
    assert answer.header("retry-after")


def test_on_passes_and_says_so(nginx, redis_server):
    store = redis_server()
    one = nginx(CONFIG, redis=store.url + " timeout=50ms")
    assert one.post(json=chat()).status == 200
    store.pause()

    assert one.post(json=chat()).status == 200
    one.wait_log("passed without asking for the user's policy")
    store.resume()


def test_a_missing_identity_never_skips_a_limit(nginx, redis, upstream):
    policy(redis, budget_tokens=0)
    policy(redis, user="", budget_tokens=0)
    one = nginx(CONFIG)

    assert one.post(json=chat("")).status == 400
    assert upstream.requests == []


def test_a_redis_that_forgot_the_script_gets_it_again(nginx, redis):
    policy(redis, blocked=1)
    one = nginx(CONFIG)
    assert one.post(json=chat()).status == 403
    redis.client.script_flush()

    assert one.post(json=chat()).status == 403
    assert one.post(json=chat("bob")).status == 200
