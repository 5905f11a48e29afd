"""lunary-worker relay where Lunary answers 200 and refuses events: whose fault
that is, an entry's or Lunary's, and what becomes of it."""

import pytest

from harness.wait import wait_for
from harness.worker import Worker, event, once, run, uuid7
from ingest_standin.server import Ingest


@pytest.fixture
def lunary(folder):
    server = Ingest().start()
    (folder / "key").write_text("key\n")
    yield server
    server.stop()


@pytest.fixture
def relay(redis, lunary, folder):
    """relay(*args): runs it once; relay.start(*args): as a daemon."""
    made = []

    def flags(args):
        return ["relay", "--api", lunary.url, "--project", f"*={folder}/key",
                "--linger", "20ms", *args]

    def go(*args, code=0):
        done = once(redis.unix_url, *flags(args), "--once", check=False)
        assert done.returncode == code, done.stderr
        return done

    def start(*args):
        made.append(Worker(folder, redis.unix_url, *flags(args)).start())
        return made[-1]

    go.start = start
    yield go
    for w in made:
        w.kill()


def add(redis, *entries):
    return [redis.client.xadd("lunary:runs", e) for e in entries]


def pending(redis):
    return redis.client.xpending("lunary:runs", "relay")["pending"]


def counted(redis):
    """How often each pending entry counts as delivered."""
    return [x["times_delivered"] for x in redis.client.xpending_range(
        "lunary:runs", "relay", "-", "+", 100)]


def dead(redis):
    return [(f.get("run_id"), f["dead_reason"])
            for _, f in redis.client.xrange("lunary:runs:dead")]


def ids(*entries):
    return [e["run_id"] for e in entries]


# -- Lunary refuses everything

def test_a_lunary_that_refuses_everything_kills_no_entry(redis, relay,
                                                         lunary):
    """Its database is read-only.  What it says it took then, ends of runs that
    it does not know, it dropped."""
    entries = [run(thread_id="t1"), run(outcome="error"), run()]
    add(redis, *entries)
    lunary.room = 0
    w = relay.start()
    wait_for(lambda: len(lunary.requests) >= 8, 60)
    assert dead(redis) == [] and pending(redis) == 3
    lunary.room = None
    wait_for(lambda: list(lunary.runs) and pending(redis) == 0, 60)
    assert set(lunary.runs) == set(ids(*entries)) and dead(redis) == []
    assert all(r["ends"] for r in lunary.runs.values())
    assert len(lunary.messages) == 2, "no message was taken, nor sent twice"
    assert "refused all" in w.said


def test_once_tells_that_lunary_refuses_everything(redis, relay, lunary):
    entries = [run(), run(), run()]
    add(redis, *entries)
    lunary.room = 0
    relay(code=4)
    assert dead(redis) == [] and counted(redis) == [0, 0, 0]
    lunary.room = None
    relay()
    assert set(lunary.runs) == set(ids(*entries)) and pending(redis) == 0


def test_a_refused_entry_goes_on_where_lunary_recovers(redis, relay, lunary):
    """The same request again, later: as after a 500."""
    one = run()
    add(redis, one)
    lunary.room = 0
    relay.start()
    wait_for(lambda: len(lunary.requests) == 2)
    lunary.room = None
    wait_for(lambda: list(lunary.runs) == ids(one), 10)
    wait_for(lambda: pending(redis) == 0)


# -- a refusal in the midst of others

def test_a_failover_in_the_midst_of_a_batch_kills_no_entry(redis, relay,
                                                           lunary):
    """All that was refused was refused behind what was taken."""
    entries = [run(thread_id=f"t{n}") for n in range(6)]
    add(redis, *entries)
    lunary.room = 5
    relay.start()
    wait_for(lambda: len(lunary.requests) >= 8, 60)
    assert dead(redis) == []
    lunary.room = None
    wait_for(lambda: pending(redis) == 0, 60)
    assert set(lunary.runs) == set(ids(*entries)) and dead(redis) == []
    assert all(r["ends"] for r in lunary.runs.values())


def test_what_lunary_refuses_before_it_takes_another_is_dead(redis, relay,
                                                             lunary):
    """With the words about it, and not those about another."""
    bad = [run(started_at=1763772000000), run(started_at=1763772001000)]
    lunary.refuse(bad[0]["run_id"], "no such thing")
    lunary.refuse(bad[1]["run_id"], "another thing")
    good = run()
    add(redis, *bad, good)
    relay()
    assert list(lunary.runs) == ids(good) and pending(redis) == 0
    assert dead(redis) == [
        (bad[0]["run_id"], "refused by Lunary: no such thing"),
        (bad[1]["run_id"], "refused by Lunary: another thing")]


def test_what_lunary_refuses_last_waits_for_another(redis, relay, lunary):
    """Whether it is the entry's fault is not known before."""
    bad, good = run(), run(started_at=1763772000000)
    lunary.refuse(bad["run_id"], "no such thing")
    add(redis, good, bad)
    relay.start()
    wait_for(lambda: len(lunary.requests) >= 4, 30)
    assert list(lunary.runs) == ids(good)
    assert dead(redis) == [] and pending(redis) == 1
    add(redis, run())
    wait_for(lambda: dead(redis), 30)
    assert dead(redis) == [(bad["run_id"], "refused by Lunary: no such thing")]
    wait_for(lambda: pending(redis) == 0)


@pytest.mark.parametrize("refused", ["start", "end"])
def test_an_entry_refused_in_part_is_asked_for_now_and_then(redis, relay,
                                                            lunary, refused):
    """What Lunary takes of an entry again and again tells nothing of the
    rest: no loop, and no burial before another entry has passed."""
    bad = run(thread_id="t1")
    lunary.refuse(bad["run_id"], "no", refused)
    add(redis, bad)
    relay.start()
    wait_for(lambda: len(lunary.requests) >= 5, 30)
    with pytest.raises(AssertionError):
        wait_for(lambda: len(lunary.requests) > 9, 3)
    assert dead(redis) == [] and pending(redis) == 1
    add(redis, run())
    wait_for(lambda: dead(redis), 30)
    assert dead(redis) == [(bad["run_id"], "refused by Lunary: no")]
    assert len(lunary.messages) == 2


def test_messages_that_were_taken_are_not_sent_again(redis, relay, lunary):
    """With the rest of their entry, of which Lunary refuses a part."""
    one = run(thread_id="t1")
    lunary.refuse(one["run_id"], "no", "end")
    add(redis, one)
    relay.start()
    wait_for(lambda: len(lunary.requests) >= 2)
    lunary.refused.clear()
    wait_for(lambda: pending(redis) == 0, 20)
    assert len(lunary.messages) == 2 and dead(redis) == []
    assert lunary.runs[one["run_id"]]["ends"] == 1


# -- once

def test_once_leaves_what_nothing_tells_about(redis, relay, lunary):
    """And the next time it does not keep others waiting."""
    bad = run()
    lunary.refuse(bad["run_id"], "no such thing")
    add(redis, bad)
    for _ in range(2):
        relay(code=4)
        assert dead(redis) == [] and counted(redis) == [0]
    good = run()
    add(redis, good)
    relay()
    assert list(lunary.runs) == ids(good) and pending(redis) == 0
    assert dead(redis) == [(bad["run_id"], "refused by Lunary: no such thing")]


def test_once_tries_each_suspect(redis, relay, lunary):
    """One that fails first does not end it for another."""
    bad, good = run(), run()
    lunary.fail(9)              # together, and each by itself, three times
    lunary.poison = bad["run_id"]
    add(redis, bad, good)
    relay()
    assert list(lunary.runs) == ids(good) and pending(redis) == 0
    assert [d[0] for d in dead(redis)] == ids(bad)


# -- ids that Lunary changes

def test_a_refused_event_whose_id_is_no_uuid_is_not_taken_for_sent(
        redis, relay, lunary):
    lunary.refuse("no-uuid", "no such thing")
    add(redis, event(event="start", type="llm", runId="no-uuid", userId="ann",
                     timestamp=1763772000000), run())
    relay()
    assert dead(redis) == [("no-uuid", "refused by Lunary: no such thing")]


def test_of_several_whose_ids_are_no_uuids_one_is_refused(redis, relay,
                                                          lunary):
    """Which of them, Lunary's answer does not tell: each is asked for."""
    lunary.refuse("no-uuid-2", "no such thing")
    add(redis, *[event(event="start", type="llm", runId=f"no-uuid-{n}",
                       timestamp=1763772000000 + n) for n in range(4)], run())
    relay()
    assert dead(redis) == [("no-uuid-2", "refused by Lunary: no such thing")]
    assert len(lunary.runs) == 4 and pending(redis) == 0


def test_a_refused_message_whose_id_is_no_uuid_is_sent_again(redis, relay,
                                                             lunary):
    add(redis, event(event="chat", type="thread", runId="m1", userId="ann",
                     parentRunId=uuid7(1), message={"role": "user",
                                                    "content": "hi"}))
    lunary.room = 0
    relay(code=4)
    lunary.room = None
    relay()
    assert len(lunary.messages) == 1 and pending(redis) == 0


def test_messages_of_which_one_was_refused_are_sent_once(redis, relay,
                                                         lunary):
    """Nobody can say which, where no id is a UUID: all are dead letters."""
    lunary.refuse("m1", "no such thing")
    add(redis, *[event(event="chat", type="thread", runId=f"m{n}",
                       timestamp=1763772000000 + n, parentRunId=uuid7(1),
                       message={"role": "user", "content": "hi"})
                 for n in range(3)], run())
    relay()
    assert len(lunary.messages) == 2 and pending(redis) == 0
    assert {d[0] for d in dead(redis)} == {"m0", "m1", "m2"}


# -- an SDK's run

def test_an_end_waits_where_its_start_was_refused(redis, relay, lunary):
    """Lunary says that it took it, and drops it."""
    rid = uuid7(1763772000000)
    add(redis, run(started_at=1763771000000),
        event(type="chain", event="start", runId=rid, input="x",
              timestamp=1763772000000),
        event(type="chain", event="end", runId=rid, output="y",
              timestamp=1763772001000))
    lunary.room = 2
    relay.start("--hold", "100ms")
    wait_for(lambda: len(lunary.requests) >= 5, 30)
    assert pending(redis) == 2
    lunary.room = None
    wait_for(lambda: pending(redis) == 0, 30)
    assert lunary.runs[rid]["output"] == "y" and dead(redis) == []


def test_once_tries_a_start_before_its_end(redis, relay, lunary):
    """Both are suspects."""
    rid = uuid7(1763772000000)
    add(redis, event(type="chain", event="start", runId=rid, input="x",
                     timestamp=1763772000000),
        event(type="chain", event="end", runId=rid, output="y",
              timestamp=1763772001000))
    lunary.fail(10)             # together, each by itself, and the start again
    relay()
    assert lunary.runs[rid]["output"] == "y" and dead(redis) == []
    assert pending(redis) == 0 and lunary.complaints == []


# -- memory

def test_words_of_lunary_move_no_id(redis, relay, lunary):
    """They are kept beside the event's ids, which name keys in Redis: the mark
    of a message goes with it."""
    mid = uuid7(1763772000000)
    lunary.refuse(mid, "no such thing " * 30)
    add(redis, event(event="chat", type="thread", runId=mid,
                     timestamp=1763772000000, parentRunId=uuid7(1),
                     message={"role": "user", "content": ""}), run())
    relay()
    (d,) = dead(redis)
    assert d[0] == mid and d[1].startswith("refused by Lunary: no such")
    assert redis.keys("lunary:relay:chat:*") == []
