"""lunary-worker relay: from the stream to Lunary, as Lunary expects it."""

import json
import os
import subprocess
import threading
import time

import pytest
import redis as redis_py

from harness import ROOT
from harness.wait import wait_for
from harness.worker import Worker, event, once, run, uuid7
from ingest_standin.server import Ingest


@pytest.fixture
def lunary(folder):
    server = Ingest(keys=("key", "key-b")).start()
    (folder / "key").write_text("key\n")
    (folder / "key-b").write_text("key-b\n")
    yield server
    server.stop()


@pytest.fixture
def workers():
    made = []
    yield made
    for w in made:
        if w.process and w.process.poll() is None:
            w.kill()


@pytest.fixture
def relay(redis, lunary, folder, workers):
    """relay(*flags): runs it once; relay.start(*flags): as a daemon."""
    def flags(args):
        return ["relay", "--api", lunary.url, "--linger", "20ms",
                *([] if "--project" in args else
                  ["--project", f"*={folder}/key"]), *args]

    def go(*args, check=True):
        return once(redis.unix_url, *flags(args), "--once", check=check)

    def start(*args):
        w = Worker(folder, redis.unix_url, *flags(args)).start()
        workers.append(w)
        return w

    go.start = start
    return go


def add(redis, *entries, stream="lunary:runs"):
    return [redis.client.xadd(stream, e) for e in entries]


def pending(redis, stream="lunary:runs", group="relay"):
    """Entries that are read and not acknowledged; None without a group."""
    try:
        return redis.client.xpending(stream, group)["pending"]
    except redis_py.exceptions.ResponseError:
        return None


def dead(redis, stream="lunary:runs"):
    return [f for _, f in redis.client.xrange(stream + ":dead")]


def test_a_run_becomes_start_and_end_in_one_request(redis, relay, lunary):
    one = run(user_id="ann", user_props={"name": "Ann"}, tags=["a"],
              params={"temperature": 0.5, "stream": True},
              model="gpt-4o-2024-08-06", cached_tokens=4)
    add(redis, one)
    relay()

    state = lunary.runs[one["run_id"]]
    assert state["status"] == "success"
    assert state["name"] == "gpt-4o"
    assert state["user"] == "ann"
    assert state["input"] == [{"role": "user", "content": "Hello"}]
    assert state["output"] == {"role": "assistant", "content": "Hi!"}
    assert state["tokens"] == {"prompt": 10, "completion": 5,
                               "promptCached": 4}
    assert state["params"] == {"temperature": 0.5}
    assert state["tags"] == ["a"]
    assert state["end"] - state["start"] == 800
    assert len(lunary.requests) == 1
    assert lunary.requests[0]["gzip"] == "gzip"
    assert lunary.users[("key", "ann")]["props"] == {"name": "Ann"}
    assert lunary.complaints == []
    assert pending(redis) == 0


def test_absent_fields_stay_absent(redis, relay, lunary):
    one = run(input_tokens=None, output_tokens=None, usage=None, output=None,
              model=None, response_model=None, input=[{"role": "user"}])
    add(redis, one)
    relay()
    assert all("tokensUsage" not in e and "userId" not in e
               and "metadata" not in e and "name" not in e
               for e in lunary.events)
    assert lunary.runs[one["run_id"]]["status"] == "success"


@pytest.mark.parametrize("outcome", ["aborted", "truncated", "timeout"])
def test_a_call_cut_short_keeps_its_tokens(redis, relay, lunary, outcome):
    one = run(outcome=outcome)
    add(redis, one)
    relay()
    assert [e["event"] for e in lunary.events] == ["start", "end", "error"]
    state = lunary.runs[one["run_id"]]
    assert state["status"] == "error"
    assert state["tokens"] == {"prompt": 10, "completion": 5}


@pytest.mark.parametrize("outcome", ["aborted", "truncated", "timeout",
                                     "error"])
def test_a_call_without_any_answer_is_start_and_error(redis, relay, lunary,
                                                      outcome):
    one = run(outcome=outcome, output=None, input_tokens=None,
              output_tokens=None, usage=None, status=502)
    add(redis, one)
    relay()
    assert [e["event"] for e in lunary.events] == ["start", "error"]
    assert "502" in lunary.events[1]["error"]["message"]


def test_an_error_says_what_the_provider_said(redis, relay, lunary):
    add(redis, run(outcome="error", output=None, input_tokens=None,
                   output_tokens=None,
                   error={"message": "no \"such\" model", "code": "x"}))
    relay()
    assert lunary.events[1]["error"]["message"] == 'no "such" model'


def test_a_refusal_is_tagged(redis, relay, lunary):
    add(redis, run(outcome="rejected", status=403, output=None, tags=["a"]))
    relay()
    assert [e["event"] for e in lunary.events] == ["start", "error"]
    assert lunary.events[0]["tags"] == ["a", "rejected"]


def test_each_app_has_its_own_key(redis, relay, lunary, folder):
    a, b = run(app="a"), run(app="b")
    add(redis, a, b)
    relay("--project", f"a={folder}/key", "--project", f"b={folder}/key-b")
    assert lunary.runs[a["run_id"]]["key"] == "key"
    assert lunary.runs[b["run_id"]]["key"] == "key-b"


def test_an_app_without_a_project_is_kept_as_a_dead_letter(redis, relay,
                                                           lunary, folder):
    add(redis, run(app="a"), run(app="other"), run(app="other"),
        run(app="x\033[2J\u202e"), run(app="ignored"))
    done = relay("--project", f"a={folder}/key", "--ignore", "ignored")
    assert {d["dead_reason"] for d in dead(redis)} == {
        "no --project for its app"}
    assert len(dead(redis)) == 3 and pending(redis) == 0
    warned = [x for x in done.stderr.splitlines() if "[warn]" in x]
    assert len(warned) == 2 and 'app "other"' in warned[0]
    assert "--project 'other=KEY_FILE'" in warned[0]
    assert "lunary:runs:dead" in warned[0]
    assert "\033" not in done.stderr and "\u202e" not in done.stderr
    assert done.stderr.count("is a dead letter: no --project for its app") == 3


@pytest.mark.parametrize("ignored", [0, 1])
def test_once_that_has_no_project_for_anything_is_exit_code_2(
        redis, relay, folder, ignored):
    add(redis, run(app="other"), run(app="third"),
        *[run(app="ignored")] * ignored)
    done = relay("--project", f"a={folder}/key", "--ignore", "ignored",
                 check=False)
    assert done.returncode == 2 and "nothing was sent" in done.stderr
    assert len(dead(redis)) == 2 and pending(redis) == 0
    done = relay("--project", f"a={folder}/key")      # nothing is left
    assert "nothing was sent" not in done.stderr


def test_apps_without_a_project_do_not_fill_the_log(redis, relay, folder):
    """A client may choose what they are called."""
    add(redis, *[run(app=f"app-{n}") for n in range(100)])
    done = relay("--project", f"a={folder}/key", check=False)
    warned = [x for x in done.stderr.splitlines() if "[warn]" in x]
    assert len(warned) == 32 and "More apps are not told" in warned[-1]


def test_dead_letters_are_put_back_as_documented(redis, relay, lunary, folder):
    """The recipe of docs/worker.md, word for word."""
    text = (ROOT / "docs" / "worker.md").read_text()
    recipe = text.split("put back", 1)[1].split("```\n", 2)[1]
    script, again = recipe.split("lunary-worker", 1)
    assert "--stream lunary:runs-again --once" in again
    one = run(app="other", user_id="ann", user_props={"name": "Ann"})
    two = run(app="other")
    add(redis, one, two, {"kind": "run"}, run(app="a"))
    relay("--project", f"a={folder}/key")
    assert len(dead(redis)) == 3

    env = {**os.environ, "REDIS": redis.socket}
    script = script.replace("redis-cli ", 'redis-cli -s "$REDIS" ')
    done = subprocess.run(["sh", "-c", script], env=env, text=True,
                          capture_output=True, check=True)
    assert done.stdout.strip() == "2"
    (left,) = dead(redis)
    assert left["dead_reason"] == "run_id: absent"
    assert [f for _, f in redis.client.xrange("lunary:runs-again")] == [one, two]

    relay("--stream", "lunary:runs-again")
    assert {one["run_id"], two["run_id"]} <= set(lunary.runs)
    assert redis.exists("lunary:user:other:ann")


def test_props_are_merged_and_sent_in_full_each_time(redis, relay, lunary):
    add(redis, run(user_id="ann", user_props={"name": "Ann", "group": "x"}),
        run(user_id="ann", user_props={"group": "y"}),
        run(user_id="ann"))
    relay()
    full = {"name": "Ann", "group": "y"}
    assert [e["userProps"] for e in lunary.events if e["event"] == "start"] \
        == [full, full, full]
    add(redis, run(user_id="ann"))
    relay()
    assert lunary.users[("key", "ann")]["props"] == full
    assert json.loads(redis.hget("lunary:user:default:ann", "props")) == full
    assert lunary.complaints == []


def test_a_claim_cannot_change_verified_props(redis, relay, lunary):
    add(redis, run(user_id="ann", user_props={"name": "Ann"}),
        run(user_id="ann", user_verified="0", user_source="body",
            user_props={"name": "Mallory"}),
        event(type="thread", event="chat", runId=uuid7(1), userId="ann",
              parentRunId=uuid7(2), userProps={"name": "Eve"},
              message={"role": "user", "content": "x"}))
    relay()
    assert lunary.users[("key", "ann")]["props"] == {"name": "Ann"}


def test_verified_props_replace_claims(redis, relay, lunary):
    add(redis, run(user_id="ann", user_verified="0", user_source="body",
                   user_props={"name": "?", "junk": 1}))
    relay()
    add(redis, run(user_id="ann", user_props={"name": "Ann"}))
    relay()
    assert lunary.users[("key", "ann")]["props"] == {"name": "Ann"}


def test_a_parent_that_was_relayed_is_named(redis, relay, lunary):
    parent = run(user_id="ann", started_at=int(time.time() * 1000) - 5000)
    add(redis, parent)
    relay()
    child = run(user_id="ann", parent_run_id=parent["run_id"])
    add(redis, child)
    relay()
    assert lunary.runs[child["run_id"]]["parent"] == parent["run_id"]
    assert lunary.complaints == []


def test_a_parent_in_the_same_batch_is_named(redis, relay, lunary):
    agent = uuid7(1)
    child = run(user_id="ann", parent_run_id=agent)
    add(redis, event(type="agent", event="start", runId=agent, userId="ann",
                     timestamp=int(child["started_at"]) - 10, input="hi"),
        child)
    relay()
    assert lunary.runs[child["run_id"]]["parent"] == agent


@pytest.mark.parametrize("parent", ["unknown", "of another user"])
def test_any_other_parent_goes_into_the_metadata(redis, relay, lunary,
                                                 parent):
    other = run(user_id="bob", started_at=int(time.time() * 1000) - 5000)
    pid = other["run_id"] if parent == "of another user" else uuid7(7)
    if parent == "of another user":
        add(redis, other)
    child = run(user_id="ann", parent_run_id=pid,
                metadata={"flat": 1, "nested": {"a": 1}})
    add(redis, child)
    relay()
    state = lunary.runs[child["run_id"]]
    assert state["parent"] is None and state["user"] == "ann"
    assert state["metadata"] == {"flat": 1, "parentRunId": pid}
    assert lunary.complaints == []


def test_a_thread_gets_its_last_turn_and_the_answer(redis, relay, lunary):
    add(redis, run(user_id="ann", thread_id="t1", input=[
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": [{"type": "text", "text": "3"}]}]))
    relay()
    assert [(m["thread"], m["role"], m["content"], m["user"])
            for m in lunary.messages] == [("t1", "user", "3", "ann"),
                                          ("t1", "assistant", "Hi!", "ann")]


def test_a_tool_round_does_not_repeat_the_users_turn(redis, relay, lunary):
    add(redis, run(thread_id="t1", input=[
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "sun"}]))
    relay()
    assert [m["role"] for m in lunary.messages] == ["assistant"]


def test_chats_are_never_sent_twice(redis, relay, lunary):
    """The answer is lost after the server took the events."""
    add(redis, run(thread_id="t1"))
    lunary.lose = 1
    relay()
    assert len(lunary.messages) == 2
    assert len(lunary.runs) == 1
    assert pending(redis) == 0


def test_chats_are_sent_again_where_nothing_can_have_arrived(redis, relay,
                                                             lunary):
    add(redis, run(thread_id="t1"))
    lunary.fail(2, 429)
    relay()
    assert len(lunary.messages) == 2


def test_a_run_that_is_in_the_stream_twice_is_sent_once(redis, relay,
                                                        lunary):
    one = run(thread_id="t1")
    add(redis, one, one)
    relay()
    add(redis, one)
    relay()
    assert len(lunary.messages) == 2
    assert [e["event"] for e in lunary.events if e["event"] != "chat"] == [
        "start", "end"]


def test_sdk_events_are_forwarded_with_full_props(redis, relay, lunary):
    rid = uuid7(5)
    add(redis, run(user_id="ann", user_props={"name": "Ann"}),
        event(type="chain", event="start", runId=rid, userId="ann",
              appId="secret", input="x"),
        event(type="chain", event="end", runId=rid, output="y"))
    relay()
    state = lunary.runs[rid]
    assert state["output"] == "y" and state["ends"] == 1
    assert all("appId" not in e for e in lunary.events)
    assert lunary.users[("key", "ann")]["props"] == {"name": "Ann"}
    assert lunary.complaints == []


def test_of_events_about_a_proxied_run_only_feedback_passes(redis, relay,
                                                            lunary):
    one = run()
    add(redis, one)
    relay()
    add(redis,
        event(type="llm", event="end", runId=one["run_id"], output="no"),
        event(type="llm", event="feedback", runId=one["run_id"],
              feedback={"thumb": "up"}))
    relay()
    assert lunary.feedback == {one["run_id"]: {"thumb": "up"}}
    assert lunary.runs[one["run_id"]]["ends"] == 1


def test_an_end_waits_for_its_start(redis, relay, lunary):
    """The start is in another worker's hands."""
    rid = uuid7(5)
    w = relay.start("--hold", "30s")
    add(redis, event(type="chain", event="end", runId=rid, output="y"))
    wait_for(lambda: pending(redis) == 1)
    add(redis, event(type="chain", event="start", runId=rid, input="x",
                     timestamp=1763772000123))
    wait_for(lambda: lunary.runs.get(rid, {}).get("status") == "success")
    wait_for(lambda: pending(redis) == 0)
    assert w.term() == 0
    assert lunary.complaints == []


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_server_in_trouble_is_asked_again(redis, relay, lunary, status):
    add(redis, *[run() for _ in range(20)])
    lunary.fail(2, status)
    relay()
    assert len(lunary.runs) == 20 and pending(redis) == 0
    assert dead(redis) == []


def test_retry_after_is_heeded(redis, relay, lunary):
    add(redis, run())
    lunary.fail(1, 429)
    lunary.retry_after = 2
    begun = time.monotonic()
    relay()
    assert time.monotonic() - begun >= 2


def test_what_is_too_large_is_sent_in_halves(redis, relay, lunary):
    lunary.max = 20000
    entries = [run() for _ in range(100)]
    add(redis, *entries)
    relay()
    assert set(lunary.runs) == {e["run_id"] for e in entries}
    assert dead(redis) == []


def test_an_entry_too_large_by_itself_is_dead(redis, relay, lunary):
    lunary.max = 20000
    big = run(output={"role": "assistant", "content": "x" * 30000})
    entries = [run() for _ in range(10)]
    add(redis, *entries[:5], big, *entries[5:])
    relay()
    assert set(lunary.runs) == {e["run_id"] for e in entries}
    assert [(d["run_id"], d["dead_reason"][:3]) for d in dead(redis)] == [
        (big["run_id"], "413")]
    assert pending(redis) == 0


def test_an_entry_that_breaks_the_server_is_dead(redis, relay, lunary,
                                                 workers):
    lunary.poison = "POISON"
    bad = run(output={"role": "assistant", "content": "POISON"})
    entries = [run() for _ in range(3)]
    relay.start()
    add(redis, bad, *entries)
    wait_for(lambda: len(dead(redis)) == 1, 30)
    assert dead(redis)[0]["run_id"] == bad["run_id"]
    wait_for(lambda: pending(redis) == 0)
    assert set(lunary.runs) == {e["run_id"] for e in entries}


def test_an_entry_that_breaks_the_server_keeps_no_other_waiting(
        redis, relay, lunary):
    """Also where it stood alone when it was read first."""
    lunary.poison = "POISON"
    bad = run(output={"role": "assistant", "content": "POISON"})
    relay.start()
    add(redis, bad)
    wait_for(lambda: len(lunary.requests) >= 5, 30,
             "its tries, and one more as a suspect")
    good = run()
    add(redis, good)
    wait_for(lambda: list(lunary.runs) == [good["run_id"]], 30)
    wait_for(lambda: len(dead(redis)) == 1, 30)
    assert dead(redis)[0]["run_id"] == bad["run_id"]
    wait_for(lambda: pending(redis) == 0)


def test_one_that_breaks_the_server_hides_no_other_suspect(redis, relay,
                                                           lunary):
    """Both fail alone while the server is in trouble; then one passes, though
    nothing else comes."""
    lunary.poison = "POISON"
    bad = run(output={"role": "assistant", "content": "POISON"})
    good = run()
    lunary.fail(9)              # together, and each by itself, three times
    add(redis, bad, good)
    relay.start()
    wait_for(lambda: list(lunary.runs) == [good["run_id"]], 30)
    wait_for(lambda: len(dead(redis)) == 1, 30)
    assert dead(redis)[0]["run_id"] == bad["run_id"]
    wait_for(lambda: pending(redis) == 0)


def test_a_suspect_stays_with_its_worker(redis, relay, lunary):
    """However long it is held: it is no delivery, and not claimed from
    ourselves, which would be a second entry of the same run."""
    lunary.fail(10 ** 4)
    one = run()
    add(redis, one)
    w = relay.start("--claim-after", "200ms", "--max-deliveries", "2")
    wait_for(lambda: len(lunary.requests) >= 7, 60,
             "three tries alone, and four as a suspect")
    assert pending(redis) == 1 and dead(redis) == []
    lunary.failures.clear()
    wait_for(lambda: list(lunary.runs) == [one["run_id"]], 60)
    wait_for(lambda: pending(redis) == 0)
    assert dead(redis) == []
    assert lunary.complaints == []
    assert w.term() == 0


def test_too_many_suspects_stay_pending_and_come_again(redis, relay, lunary):
    """One is held for all of --batch-bytes, the others are claimed."""
    lunary.fail(3 * 3 + 4)
    entries = [run() for _ in range(3)]
    add(redis, *entries)
    relay.start("--batch-bytes", "1", "--batch", "1", "--claim-after",
                "200ms", "--max-deliveries", "2")
    wait_for(lambda: set(lunary.runs) == {e["run_id"] for e in entries}, 60)
    wait_for(lambda: pending(redis) == 0)
    assert dead(redis) == []
    assert lunary.complaints == []


def test_a_worker_with_a_suspect_stops_at_once(redis, relay, lunary):
    """And the entry is the next one's."""
    one = run()
    lunary.fail(10 ** 4)
    add(redis, one)
    w = relay.start()
    wait_for(lambda: len(lunary.requests) >= 7, 30,
             "four tries as a suspect: the next is 4 seconds away, then 8")
    asked = len(lunary.requests)
    begun = time.monotonic()
    assert w.term() == 0
    assert time.monotonic() - begun < 4
    assert len(lunary.requests) <= asked + 1 and pending(redis) == 1
    lunary.failures.clear()
    relay()
    assert list(lunary.runs) == [one["run_id"]] and pending(redis) == 0


def test_an_outage_with_500_kills_no_entry(redis, relay, lunary):
    lunary.fail(8, 500)
    relay.start()
    one = run()
    add(redis, one)
    wait_for(lambda: list(lunary.runs) == [one["run_id"]], 60)
    wait_for(lambda: pending(redis) == 0)
    assert dead(redis) == []


def test_an_event_that_lunary_refuses_is_dead_with_its_words(redis, relay,
                                                             lunary):
    bad, good = run(), run()
    lunary.refuse(bad["run_id"], "no such thing")
    add(redis, bad, good)
    relay()
    assert list(lunary.runs) == [good["run_id"]]
    (d,) = dead(redis)
    assert d["run_id"] == bad["run_id"] and "no such thing" in d["dead_reason"]
    assert pending(redis) == 0


def test_an_event_without_a_result_is_not_taken_for_sent(redis, relay,
                                                         lunary):
    lost = run()
    lunary.mute.add(lost["run_id"])
    add(redis, lost, run())
    relay()
    assert [d["run_id"] for d in dead(redis)] == [lost["run_id"]]


def test_a_malformed_entry_is_dead_and_harms_no_other(redis, relay, lunary):
    good = run()
    add(redis, {"kind": "run", "run_id": "x"}, {"what": "ever"},
        run(output=None) | {"output": "{broken"}, good)
    relay()
    assert list(lunary.runs) == [good["run_id"]]
    assert len(dead(redis)) == 3 and pending(redis) == 0


def test_a_refused_key_stops_only_its_project(redis, relay, lunary, folder):
    (folder / "wrong").write_text("wrong\n")
    a, b = run(app="a"), run(app="b")
    add(redis, a, b)
    done = relay("--project", f"a={folder}/wrong", "--project",
                 f"b={folder}/key", check=False)
    w = relay.start("--project", f"a={folder}/wrong", "--project",
                    f"b={folder}/key", "--claim-after", "200ms")
    wait_for(lambda: b["run_id"] in lunary.runs)
    assert done.returncode == 4
    assert a["run_id"] not in lunary.runs and dead(redis) == []

    # put right, and read again
    (folder / "wrong").write_text("key-b\n")
    w.hup()
    wait_for(lambda: a["run_id"] in lunary.runs, 20)
    assert w.term() == 0


def test_once_tells_that_lunary_is_away(redis, relay, lunary):
    lunary.kill()
    add(redis, run())
    done = relay(check=False)
    assert done.returncode == 4
    assert pending(redis) == 1
    lunary.start()
    relay()
    assert pending(redis) == 0 and len(lunary.runs) == 1


def test_sigterm_lets_the_request_at_hand_end(redis, relay, lunary):
    lunary.hang = threading.Event()
    w = relay.start()
    add(redis, run())
    wait_for(lambda: pending(redis) == 1)
    wait_for(lambda: lunary.connections == 1)
    w.process.terminate()
    time.sleep(0.3)                     # it has to still be there
    assert w.process.poll() is None
    lunary.hang.set()
    assert w.process.wait(40) == 0
    assert pending(redis) == 0 and len(lunary.runs) == 1
    assert redis.client.xinfo_consumers("lunary:runs", "relay") == []


def test_one_connection_is_kept(redis, relay, lunary):
    relay.start("--batch", "1")
    for n in range(1, 6):
        add(redis, run())
        wait_for(lambda: len(lunary.runs) == n)
    assert lunary.connections == 1


def test_no_key_and_no_content_is_logged(redis, relay, lunary):
    lunary.fail(1, 500)
    lunary.refuse("x")
    bad = run(user_id="someone-secret", output={"role": "assistant",
                                                "content": "TOP"})
    lunary.refuse(bad["run_id"], "quoting TOP")
    add(redis, bad, run())
    said = relay("--log-level", "info").stderr
    assert "is a dead letter: refused by Lunary" in said
    assert "TOP" not in said and "key" not in said and "someone" not in said


@pytest.mark.slow
def test_nothing_is_lost_when_everything_is_killed(redis_server, lunary,
                                                   folder, workers):
    """kill -9 of workers, of Lunary and of Redis, while runs come."""
    server = redis_server(appendonly="yes", appendfsync="always")
    entries, stop = [], threading.Event()

    def produce():
        n = 0
        while not stop.is_set():
            e = run(user_id=f"u{n % 7}", user_props={f"p{n % 5}": n % 3},
                    thread_id=f"t{n % 11}")
            try:
                server.client.xadd("lunary:runs", e)
                entries.append(e)
                n += 1
            except Exception:
                pass
            time.sleep(0.004)

    def start():
        w = Worker(folder, server.unix_url, "relay", "--api", lunary.url,
                   "--project", f"*={folder}/key", "--linger", "30ms",
                   "--batch", "40", "--claim-after", "1s").start()
        workers.append(w)
        return w

    pool = [start(), start(), start()]
    thread = threading.Thread(target=produce)
    thread.start()
    for round in range(5):
        time.sleep(0.7)
        pool[round % 3].kill()
        pool[round % 3] = start()
        if round == 1:
            lunary.kill()
            time.sleep(0.5)
            lunary.start()
        if round == 3:
            server.kill()
            server.start()
    stop.set()
    thread.join()

    wanted = {e["run_id"] for e in entries}
    wait_for(lambda: wanted <= set(lunary.runs), 30)
    wait_for(lambda: server.client.xpending("lunary:runs",
                                            "relay")["pending"] == 0, 30)
    assert all(lunary.runs[r]["ends"] >= 1 and
               lunary.runs[r]["status"] == "success" for r in wanted)
    ids = [m["id"] for m in lunary.messages]
    assert len(ids) == len(set(ids)), "a chat message was sent twice"
    props = {}
    for e in entries:
        props.setdefault(e["user_id"], set()).update(
            json.loads(e["user_props"]))
    for u, names in props.items():
        assert set(lunary.users[("key", u)]["props"]) == names
    assert server.client.exists("lunary:runs:dead") == 0
