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
