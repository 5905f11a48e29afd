"""Calls that outlive what nginx does with itself: reload, quit, a shutdown
that has to wait too long; and nginx commands that serve nobody."""

import json
import os
import shutil
import signal
import subprocess

import pytest

from harness.client import Cut
from harness.wait import wait_for
from upstream.server import Gate, sse

CONFIG = """
{{ globals }}
{{ top | default("") }}
http {
    {{ http }}
    {{ lunary }}
    server {
        listen {{ listen }};
        location / {
            lunary on;
            proxy_buffering off;
            proxy_pass {{ upstream }};
        }
        location = /status {
            lunary_status;
        }
    }
}
"""

PATH = "/v1/chat/completions"
CHAT = {"model": "gpt-4o", "user": "u1",
        "messages": [{"role": "user", "content": "hi"}]}


def delta(text, finish=None):
    return {"id": "c1", "choices": [{"index": 0, "delta": {"content": text},
                                     "finish_reason": finish}]}


EVENTS = sse(delta("Hello"), delta(" you"), delta("", "stop"))


@pytest.fixture
def stream(upstream):
    """stream(nginx): a client inside a stream, and the gate before its
    rest."""
    def stream(one):
        gate = Gate()
        upstream.once([EVENTS[0], gate, *EVENTS[1:]],
                      content_type="text/event-stream")
        client = one.client()
        body = json.dumps({**CHAT, "stream": True}).encode()
        client.send(client.head("POST", PATH, {
            "Content-Type": "application/json"}, body) + body)
        answer = client.read_head()
        while b"Hello" not in answer.body:
            client.read_piece(answer)
        return client, answer, gate
    return stream


def finish(client, answer, gate):
    gate.open()
    while not answer.complete:
        client.read_piece(answer)
    client.close()
    assert answer.body == b"".join(EVENTS)


def counters(one):
    return one.get("/status", headers={"Accept": "application/json"}).json()


def balanced(c):
    return (sum(c["runs_total"].values()) + c["runs_recovered_total"]
            == c["runs_sent_total"] + c["runs_spooled"]
            + sum(c.get("runs_dropped_total", {}).values()))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_stream_across_reloads(nginx, runs, stream, workers):
    one = nginx(CONFIG, shutdown="20s")
    inside = stream(one)

    one.reload(workers=workers)
    assert one.post(json=CHAT).status == 200
    one.reload()
    assert one.post(json=CHAT).status == 200
    runs(2)
    finish(*inside)

    found = runs(3)
    assert [r["outcome"] for r in found] == ["ok"] * 3
    assert found[2].text == "Hello you"
    wait_for(lambda: (lambda c: balanced(c) and c["runs_sent_total"] == 3)(
        counters(one)), what="the counters of old workers and new")


def test_a_stream_across_quit(nginx, runs, stream):
    one = nginx(CONFIG, shutdown="20s")
    inside = stream(one)

    one.signal(signal.SIGQUIT)
    one.wait_log("gracefully shutting down")
    finish(*inside)
    one.process.wait(40)

    run = runs.one()
    assert (run["outcome"], run.text) == ("ok", "Hello you")


@pytest.mark.parametrize("how", ["reload", "quit"])
def test_worker_shutdown_timeout_cuts_a_stream(nginx, runs, stream, how):
    one = nginx(CONFIG, shutdown="300ms")
    client, answer, gate = stream(one)

    if how == "reload":
        one.reload()
    else:
        one.signal(signal.SIGQUIT)
    with pytest.raises((Cut, ConnectionError)):
        while True:
            client._more()
    gate.open()
    if how == "quit":
        # the timeout ended the connection to Redis, too: the spool has it
        one.process.wait(40)
        one.start()

    run = runs.one()
    assert (run["outcome"], run.text) == ("truncated", "Hello")


def test_a_fast_stop_leaves_what_was_logged_to_the_spool(nginx, redis, runs,
                                                         stream):
    one = nginx(CONFIG)
    client, answer, gate = stream(one)
    assert one.post(json=CHAT).status == 200
    one.stop()
    gate.open()
    client.close()

    one.start()
    runs.more = True
    wait_for(lambda: [r for r in runs.entries() if r["outcome"] == "ok"],
             what="the run")
    assert len(runs.entries()) <= 2


def test_without_a_master(nginx, runs):
    one = nginx(CONFIG, start=False)
    one.config = CONFIG.replace("{{ globals }}",
                                "{{ globals }}\nmaster_process off;")
    one._workers_up = lambda: "epoll" in one.log()
    one.start()

    assert one.post(json=CHAT).status == 200
    assert runs.one()["outcome"] == "ok"
    assert balanced(counters(one))


def test_testing_a_configuration_touches_nothing(nginx, redis, folder):
    one = nginx(CONFIG, start=False)
    before = redis.client.info("stats")["total_connections_received"]

    assert one.test_config()[0]
    assert redis.client.info("stats")["total_connections_received"] == before
    spool = one.folder / "spool"
    assert not spool.exists() or not list(spool.iterdir())


def test_signals_by_command_line_touch_nothing(nginx, redis, runs):
    one = nginx(CONFIG)
    assert one.post(json=CHAT).status == 200
    runs.one()
    spools = sorted(os.listdir(one.folder / "spool"))

    done = one.run("-s", "reopen")
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(one.folder / "spool")) == spools
    assert one.post(json=CHAT).status == 200
    runs(2)


def test_promtool_finds_nothing_to_say(nginx, runs):
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("no promtool: apt-get install prometheus")
    one = nginx(CONFIG)
    one.post(json=CHAT)
    one.get("/nothing")
    runs.one()

    text = one.get("/status", headers={"Accept": "text/plain"}).body
    done = subprocess.run([promtool, "check", "metrics"], input=text,
                          capture_output=True, timeout=240)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
    assert b"u1" not in text
