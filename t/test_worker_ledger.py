"""lunary-worker ledger: what each user used, counted once."""

import json
import re
import threading
import time

import pytest

from harness.wait import wait_for
from harness.worker import Worker, event, once, run, uuid7


@pytest.fixture
def ledger(redis):
    def go(*args, check=True):
        return once(redis.unix_url, "ledger", "--once", *args, check=check)
    return go


def add(redis, *entries, stream="lunary:runs"):
    return [redis.client.xadd(stream, e) for e in entries]


def user(redis, name, app="default"):
    return redis.hgetall(f"lunary:user:{app}:{name}")


def test_a_users_runs_tokens_and_cost(redis, ledger):
    # gpt-4o: 2.5 and 10 dollars a million
    add(redis,
        run(user_id="ann", user_props={"name": "Ann"}, thread_id="t1",
            started_at=1763772000000, ended_at=1763772001000,
            input_tokens=1000, output_tokens=100),
        run(user_id="ann", thread_id="t2", started_at=1763772002000,
            ended_at=1763772003000, input_tokens=1000, output_tokens=100),
        run(user_id="bob", outcome="error", input_tokens=None,
            output_tokens=None))
    ledger()
    ann = user(redis, "ann")
    assert ann["runs"] == "2" and "errors" not in ann
    assert (ann["input_tokens"], ann["output_tokens"]) == ("2000", "200")
    assert float(ann["cost_usd"]) == 0.007
    assert ann["first_seen"] == "1763772000000"
    assert ann["last_seen"] == "1763772003000"
    assert json.loads(ann["props"]) == {"name": "Ann"}
    assert json.loads(ann["models"]) == {"gpt-4o": 2}
    assert ann["threads"] == "2"
    bob = user(redis, "bob")
    assert bob["errors"] == "1" and "cost_usd" not in bob
    assert redis.client.zrange("lunary:users:default", 0, -1) == ["ann",
                                                                  "bob"]
    day = redis.hgetall("lunary:user-day:default:ann:2025-11-22")
    assert day["runs"] == "2" and float(day["cost_usd"]) == 0.007
    assert redis.client.ttl("lunary:user-day:default:ann:2025-11-22") > 0
    assert redis.client.xpending("lunary:runs", "ledger")["pending"] == 0


def test_an_unknown_model_has_no_cost_and_is_counted(redis, ledger):
    add(redis, run(user_id="ann", model="nobody-knows", response_model=None),
        run(user_id="ann", provider="ollama"))
    ledger()
    ann = user(redis, "ann")
    assert "cost_usd" not in ann and ann["unpriced_runs"] == "2"


def test_outcomes_are_counted_apart(redis, ledger):
    for outcome in ("ok", "error", "timeout", "truncated", "aborted",
                    "rejected"):
        add(redis, run(user_id="ann", outcome=outcome))
    ledger()
    ann = user(redis, "ann")
    assert [ann[f] for f in ("runs", "errors", "aborted", "rejected")] == [
        "6", "3", "1", "1"]


def test_a_run_that_is_in_the_stream_twice_counts_once(redis, ledger):
    one = run(user_id="ann")
    add(redis, one, one)
    ledger()
    add(redis, one)
    ledger()
    assert user(redis, "ann")["runs"] == "1"


def test_calls_without_a_user_are_counted_together(redis, ledger):
    add(redis, run(), run())
    ledger()
    assert redis.hget("lunary:user-rest:default:none", "runs") == "2"
    assert redis.keys("lunary:user:*") == []


def test_unverified_users_are_bounded(redis, ledger):
    add(redis, *[run(user_id=f"u{n}", user_verified="0", user_source="body",
                     user_props={"n": n}) for n in range(20)],
        *[run(user_id=f"v{n}") for n in range(5)])
    ledger("--max-claimed", "8", "--batch", "6")
    assert len(redis.keys("lunary:user:default:u*")) == 8
    assert len(redis.keys("lunary:user:default:v*")) == 5
    assert redis.hget("lunary:user-rest:default:claimed", "runs") == "12"
    assert all(redis.client.ttl(k) > 0
               for k in redis.keys("lunary:user:default:u*"))
    assert all(redis.client.ttl(k) == -1
               for k in redis.keys("lunary:user:default:v*"))


def test_a_claimed_user_that_is_proven_stays(redis, ledger):
    add(redis, run(user_id="ann", user_verified="0", user_source="body"))
    ledger()
    assert redis.client.ttl("lunary:user:default:ann") > 0
    add(redis, run(user_id="ann"))
    ledger()
    assert redis.client.ttl("lunary:user:default:ann") == -1
    assert user(redis, "ann")["claimed_runs"] == "1"
    assert redis.client.zcard("lunary:claimed:default") == 0


def test_apps_are_kept_apart(redis, ledger):
    add(redis, run(app="a", user_id="ann"), run(app="b", user_id="ann"))
    ledger()
    assert user(redis, "ann", "a")["runs"] == "1"
    assert user(redis, "ann", "b")["runs"] == "1"


SDK = [dict(type="llm", event="start", runId="R", userId="ann", name="gpt-4o"),
       dict(type="llm", event="end", runId="R", name="gpt-4o",
            tokensUsage={"prompt": 1000, "completion": 100})]


@pytest.mark.parametrize("batch", ["1", "500"])
def test_sdk_llm_events_count_as_runs(redis, ledger, batch):
    add(redis, *[event(**e) for e in SDK])
    ledger("--batch", batch)
    ann = user(redis, "ann")
    assert ann["runs"] == "1" and ann["input_tokens"] == "1000"
    assert float(ann["cost_usd"]) == 0.0035
    assert redis.keys("lunary:user-rest:*") == []


def test_sdk_llm_events_do_not_count_where_dropped(redis, ledger):
    add(redis, *[event(**e) for e in SDK],
        event(type="chain", event="start", runId="C", userId="ann"))
    ledger("--llm", "drop")
    assert user(redis, "ann") == {}


def test_whatever_lies_in_the_stream_is_passed_over(redis, ledger):
    add(redis, {"what": "ever"}, event(type=5, event="x"),
        {"kind": "event", "event": "{broken", "app": "a"},
        {"kind": "run", "user_id": "ann", "input_tokens": "-1"},
        run(user_id="bob", user_props="x", usage="["))
    ledger()
    assert user(redis, "bob")["runs"] == "1"
    assert redis.client.xpending("lunary:runs", "ledger")["pending"] == 0


def test_shards_are_read_by_all_workers(redis, folder):
    for n in range(30):
        add(redis, run(user_id="ann"), stream="lunary:runs:{%d}" % (n % 3))
    once(redis.unix_url, "ledger", "--once", "--shards", "3")
    assert user(redis, "ann")["runs"] == "30"


def test_a_configuration_file_and_flags_that_win(redis, folder):
    (folder / "w.conf").write_text(
        f"# common\nredis {redis.unix_url}\nstream = other:runs\n"
        "[relay]\nbatch 3\n[ledger]\ngroup mine\nllm drop\n")
    add(redis, run(user_id="ann"), stream="x:runs")
    once(None, "ledger", "--config", folder / "w.conf", "--stream", "x:runs",
         "--once")
    assert redis.hget("x:user:default:ann", "runs") == "1"
    assert redis.client.xinfo_groups("x:runs")[0]["name"] == "mine"


@pytest.mark.parametrize("args", [
    ["ledger", "--no-such"], ["nothing"], ["relay"], ["ledger", "--batch"],
    ["ledger", "--batch", "x"], ["ledger", "--batch", "5001"], ["ledger", "--linger", "5w"],
    ["ledger", "--llm", "maybe"], ["ledger", "--config", "/nonexistent"],
    ["ledger", "--redis", "http://x"], ["show", "app"],
    ["relay", "--project", "a=/nonexistent"], ["ledger", "word"]])
def test_a_bad_command_line_is_exit_code_2(args):
    done = once(None, *args, check=False)
    assert done.returncode == 2 and done.stderr


def test_no_redis_is_exit_code_3(folder):
    done = once(f"unix:{folder}/none.sock", "ledger", "--once", check=False)
    assert done.returncode == 3


def test_metrics_are_written_for_the_node_exporter(redis, ledger, folder):
    add(redis, run(user_id="ann"), run(user_id="ann", model="unknown-one",
                                       response_model=None))
    ledger("--metrics", folder / "m.prom")
    text = (folder / "m.prom").read_text()
    assert 'lunary_worker_entries_total{command="ledger"} 2' in text
    assert 'lunary_worker_unpriced_total{command="ledger"} 1' in text


def test_the_metrics_of_a_worker_that_has_ended_say_so(redis, folder):
    add(redis, run(user_id="ann"))
    file = folder / "m.prom"

    def up():
        return file.exists() and re.search(
            r'worker_up{command="ledger"} (\d)', file.read_text())[1]

    worker = Worker(folder, redis.unix_url, "ledger", "--metrics",
                    file).start()
    try:
        wait_for(lambda: up() == "1", 20)
        assert worker.term() == 0
    finally:
        worker.kill()
    assert up() == "0"

    # one that is for cron has done what it should
    once(redis.unix_url, "ledger", "--once", "--metrics", file)
    assert up() == "1"


@pytest.mark.slow
def test_each_entry_counts_once_whoever_dies(redis_server, folder):
    """kill -9 of workers and of Redis, while runs come."""
    server = redis_server(appendonly="yes", appendfsync="always")
    count, stop = {}, threading.Event()
    pool = []

    def produce():
        n = 0
        while not stop.is_set():
            rid = uuid7(time.time() * 1000)
            e = run(user_id=f"u{n % 7}", input_tokens=3, output_tokens=2,
                    run_id=rid)
            while not stop.is_set():
                try:
                    server.client.xadd("lunary:runs", e)
                    count[e["user_id"]] = count.get(e["user_id"], 0) + 1
                    break
                except Exception:
                    time.sleep(0.05)
            n += 1
            time.sleep(0.002)

    def start():
        return Worker(folder, server.unix_url, "ledger", "--batch", "50",
                      "--linger", "10ms", "--claim-after", "1s").start()

    pool = [start(), start(), start()]
    thread = threading.Thread(target=produce)
    thread.start()
    try:
        for round in range(8):
            time.sleep(0.5)
            pool[round % 3].kill()
            pool[round % 3] = start()
            if round == 4:
                server.kill()
                server.start()
        stop.set()
        thread.join()

        def all_there():
            return (server.client.xpending("lunary:runs",
                                           "ledger")["pending"] == 0
                    and server.client.xinfo_groups("lunary:runs")[0]["lag"]
                    == 0)

        wait_for(all_there, 30)
        # a Redis that was killed may have taken an entry and not said so
        ids = {f["run_id"]: f["user_id"]
               for _, f in server.client.xrange("lunary:runs")}
        want = {}
        for u in ids.values():
            want[u] = want.get(u, 0) + 1
        got = {u: int(server.client.hget(f"lunary:user:default:{u}", "runs"))
               for u in want}
        assert got == want
        assert all(int(server.client.hget(f"lunary:user:default:{u}",
                                          "input_tokens")) == 3 * n
                   for u, n in want.items())
    finally:
        stop.set()
        for w in pool:
            w.kill()
