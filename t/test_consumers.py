# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""The readers of redis/examples, as docs/consumers.md has them: run against a
real Redis, on runs of the real module, killed and started again."""

import re
import shutil
import signal
import sqlite3
import subprocess
import sys

import pytest

from harness import ROOT
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
            proxy_pass {{ upstream }};
        }
    }
}
"""

EXAMPLES = ROOT / "redis" / "examples"
STREAM = "lunary:runs"


def call(nginx, user, **more):
    return nginx.post(json={
        "model": "gpt-4o", "user": user,
        "messages": [{"role": "user", "content": "hi"}], **more})


@pytest.fixture
def calls(nginx, runs):
    """The runs of six calls of two users, in the stream."""
    nginx = nginx(CONFIG)
    for user in ("ann", "bob", "ann", "ann", "bob", "ann"):
        assert call(nginx, user).status == 200
    entries = runs(6)
    return entries


class Reader:
    """One of the example programs."""

    def __init__(self, command, env=None):
        self.command = [str(c) for c in command]
        self.env = env

    def start(self):
        self.process = subprocess.Popen(
            self.command, env=self.env, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        return self

    def finish(self, timeout=240):
        words, _ = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, words

    def once(self):
        self.start().finish()

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.communicate(timeout=240)


@pytest.fixture
def python(folder, redis):
    def make(*args, consumer="one"):
        return Reader([sys.executable, EXAMPLES / "reader.py",
                       "--redis", redis.url, "--db", folder / "runs.db",
                       "--consumer", consumer, *args])
    return make


@pytest.fixture
def rows(folder):
    def read(sql="SELECT * FROM runs ORDER BY started_at, run_id"):
        db = sqlite3.connect(folder / "runs.db")
        db.row_factory = sqlite3.Row
        try:
            return [dict(r) for r in db.execute(sql)]
        except sqlite3.OperationalError:      # not made yet
            return []
        finally:
            db.close()
    return read


@pytest.fixture
def node(folder, redis, node_modules):
    program = shutil.which("node")
    if program is None:
        pytest.skip("no node")
    place = folder / "node"
    place.mkdir()
    shutil.copy(EXAMPLES / "reader.mjs", place)
    (place / "node_modules").symlink_to(node_modules)

    def make(consumer="one", **env):
        return Reader([program, place / "reader.mjs", redis.url],
                      {"CONSUMER": consumer, "PATH": "/usr/bin:/bin", **env})
    return make


def pending(redis, group):
    return redis.client.xpending(STREAM, group)["pending"]


def test_python_stores_each_run_once(calls, python, rows, redis):
    python("--once").once()
    python("--once").once()

    assert [r["run_id"] for r in rows()] == [
        r["run_id"] for r in sorted(calls, key=lambda r: (r["started_at"],
                                                          r["run_id"]))]
    assert [r["user_id"] for r in rows("SELECT DISTINCT user_id FROM runs "
                                       "ORDER BY 1")] == ["ann", "bob"]
    assert pending(redis, "example") == 0


def test_python_keeps_unknown_apart_from_zero(nginx, runs, upstream, python,
                                              rows):
    nginx = nginx(CONFIG)
    upstream.once({"model": "m", "choices": [{"index": 0, "message": {
        "role": "assistant", "content": "ho"}, "finish_reason": "stop"}]})
    call(nginx, "ann")
    upstream.once({"model": "m", "choices": [{"index": 0, "message": {
        "role": "assistant", "content": ""}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 0,
                  "total_tokens": 3}})
    call(nginx, "ann")
    runs(2)

    python("--once").once()

    assert [r["output_tokens"] for r in rows()] == [None, 0]


def test_python_stores_a_run_once_that_is_delivered_twice(calls, python, rows,
                                                          redis, runs):
    runs.expected = None                 # the second one is ours
    entry = redis.client.xrange(STREAM, count=1)[0][1]
    redis.client.xadd(STREAM, entry)

    python("--once").once()

    assert len(rows()) == 6
    assert pending(redis, "example") == 0


def test_python_takes_over_what_a_dead_reader_left(calls, python, rows,
                                                   redis):
    redis.client.xgroup_create(STREAM, "example", id="0")
    redis.client.xreadgroup("example", "dead", {STREAM: ">"}, count=4)
    assert pending(redis, "example") == 4

    python("--once", "--claim-after", "0", consumer="two").once()

    assert len(rows()) == 6
    assert pending(redis, "example") == 0


def test_python_passes_over_entries_that_were_trimmed(calls, python, rows,
                                                      redis):
    redis.client.xgroup_create(STREAM, "example", id="0")
    redis.client.xreadgroup("example", "dead", {STREAM: ">"}, count=4)
    redis.client.xtrim(STREAM, maxlen=2, approximate=False)

    python("--once", "--claim-after", "0", consumer="two").once()

    assert len(rows()) == 2
    assert pending(redis, "example") == 0


def test_python_passes_over_entries_of_other_kinds(calls, python, rows,
                                                   redis, runs):
    runs.expected = None
    redis.client.xadd(STREAM, {"kind": "event", "v": "1", "event": "{}"})

    python("--once").once()

    assert len(rows()) == 6
    assert pending(redis, "example") == 0


def test_python_reads_on_and_ends_when_it_is_told(nginx, runs, python, rows):
    nginx = nginx(CONFIG)
    call(nginx, "ann")
    runs(1)
    reader = python().start()
    wait_for(lambda: len(rows()) == 1)

    call(nginx, "bob")
    runs(2)
    wait_for(lambda: len(rows()) == 2)

    reader.stop()
    assert reader.process.returncode == 0


def test_python_killed_at_any_time_stores_each_run_once(nginx, runs, python,
                                                        rows, redis):
    nginx = nginx(CONFIG)
    for n in range(5):
        reader = python("--claim-after", "0", consumer=f"c{n}").start()
        for _ in range(10):
            call(nginx, "ann")
        wait_for(lambda: rows())
        reader.stop(signal.SIGKILL)
    entries = runs(50)

    python("--once", "--claim-after", "0", consumer="last").once()

    assert sorted(r["run_id"] for r in rows()) == sorted(
        r["run_id"] for r in entries)
    assert pending(redis, "example") == 0


def test_python_reads_several_streams(calls, python, rows, redis):
    entry = redis.client.xrange(STREAM, count=1)[0][1]
    redis.client.xadd("lunary:runs:{0}", {**entry, "run_id": "a"})
    redis.client.xadd("lunary:runs:{1}", {**entry, "run_id": "b"})

    python("--once", "--stream", "lunary:runs:{0}", "lunary:runs:{1}").once()

    assert [r["run_id"] for r in rows("SELECT run_id FROM runs ORDER BY 1")
            ] == ["a", "b"]


def test_node_counts_each_run_once(calls, node, redis):
    node(ONCE="1").once()
    node(ONCE="1").once()

    ann = redis.client.hgetall("tally:default:ann")
    assert (ann["runs"], redis.client.hget("tally:default:bob", "runs")
            ) == ("4", "2")
    assert int(ann["input_tokens"]) == sum(
        int(r["input_tokens"]) for r in calls if r["user_id"] == "ann")
    assert pending(redis, "tally") == 0


def test_node_counts_a_run_once_that_is_delivered_twice(calls, node, redis,
                                                        runs):
    runs.expected = None
    for _, entry in redis.client.xrange(STREAM):
        redis.client.xadd(STREAM, entry)

    node(ONCE="1").once()

    assert redis.client.hget("tally:default:ann", "runs") == "4"
    assert pending(redis, "tally") == 0


def test_node_takes_over_what_a_dead_reader_left(calls, node, redis):
    redis.client.xgroup_create(STREAM, "tally", id="0")
    redis.client.xreadgroup("tally", "dead", {STREAM: ">"}, count=4)

    node("two", ONCE="1", CLAIM_MS="0").once()

    assert redis.client.hget("tally:default:ann", "runs") == "4"
    assert pending(redis, "tally") == 0


def test_node_passes_over_entries_that_were_trimmed(calls, node, redis):
    redis.client.xgroup_create(STREAM, "tally", id="0")
    redis.client.xreadgroup("tally", "dead", {STREAM: ">"}, count=4)
    redis.client.xtrim(STREAM, maxlen=2, approximate=False)

    node("two", ONCE="1", CLAIM_MS="0").once()

    assert pending(redis, "tally") == 0
    assert redis.client.hget("tally:default:ann", "runs") == "1"


def test_both_readers_see_every_run(calls, python, node, rows, redis):
    python("--once").once()
    node(ONCE="1").once()

    assert len(rows()) == 6
    assert redis.client.hget("tally:default:ann", "runs") == "4"


def test_the_documented_acl_lets_a_counting_reader_count(
        calls, node, redis_server, redis):
    server = redis_server()
    text = (ROOT / "docs" / "consumers.md").read_text()
    command = re.search(r"^(ACL SETUSER tally .+)$", text, re.M).group(1)
    server.client.execute_command(*command.split())
    for _, entry in redis.client.xrange(STREAM):
        server.client.xadd(STREAM, entry)

    reader = node(ONCE="1")
    reader.command[-1] = server.url.replace("redis://",
                                            "redis://tally:secret@")
    reader.once()

    assert server.client.hget("tally:default:ann", "runs") == "4"
    assert server.client.acl_log() == []


def test_the_documented_acl_lets_a_reader_read_and_nothing_else(
        calls, python, rows, redis_server, redis):
    server = redis_server()
    text = (ROOT / "docs" / "consumers.md").read_text()
    command = re.search(r"^(ACL SETUSER reader .+)$", text, re.M).group(1)
    server.client.execute_command(*command.split())
    for _, entry in redis.client.xrange(STREAM):
        server.client.xadd(STREAM, entry)
    url = server.url.replace("redis://", "redis://reader:secret@")

    reader = python("--once")
    reader.command[reader.command.index("--redis") + 1] = url
    reader.once()

    assert len(rows()) == 6
    import redis as redis_py
    client = redis_py.Redis.from_url(url)
    for what in (lambda: client.xadd(STREAM, {"a": 1}),
                 lambda: client.delete(STREAM),
                 lambda: client.get("sess:1")):
        with pytest.raises(redis_py.exceptions.NoPermissionError):
            what()
