"""Under load: workers, masters and Redis are killed, stopped, cut off and
upgraded.  After each, every record that was answered is in the stream once.

A record that was not answered may be there or not, but not twice.  The long
variants of these tests are marked `soak`."""

import contextlib
import os
import signal
import subprocess
import time

import pytest

from harness.outbox import (Load, Proxy, append, balanced,  # noqa: F401
                            entries, once, outbox, outbox_module, spools,
                            stats, total, watermarks)
from harness.wait import wait_for

LONG = pytest.param(True, marks=[pytest.mark.soak, pytest.mark.timeout(300)],
                    id="long")
SHORT = pytest.param(False, id="short")
both = pytest.mark.parametrize("long", [SHORT, LONG])

# nothing is to be trimmed
ALL = {"stream": "lunary:runs maxlen=0 maxbytes=0"}


def settled(nginx, redis, load, timeout=20):
    """Every record that was answered is there once, and the counters know
    exactly what is there, whoever was killed."""
    once(redis, load.answered, timeout, maybe=load.unanswered)
    one_spool_a_worker(nginx, nginx.variables.get("workers", 1))
    s = balanced(nginx)
    assert total(s["runs_total"]) == len(entries(redis)), s


def one_spool_a_worker(nginx, workers):
    wait_for(lambda: len(spools(nginx)) == workers, 20,
             "the spools of the dead to be gone")


def test_a_killed_worker(outbox, redis):
    nginx = outbox(redis, workers=2, **ALL)
    nginx.allow("exited on signal")
    with Load(nginx) as load:
        for _ in range(8):
            done = len(load.answered)
            wait_for(lambda: len(load.answered) > done + 200, 20)
            os.kill(nginx.workers()[0], signal.SIGKILL)
            wait_for(lambda: len(nginx.workers()) == 2)
    settled(nginx, redis, load)
    one_spool_a_worker(nginx, 2)
    wait_for(lambda: len(watermarks(redis)) <= 2)


def test_a_killed_workers_spool_is_taken_over_within_a_second(outbox,
                                                              redis_server):
    redis = redis_server()
    nginx = outbox(redis, workers=2, **ALL)
    nginx.allow("exited on signal")
    ids = []
    took = []

    # the quickest of a few: the machine has other things to do
    for i in range(5):
        redis.stop()
        ids = append(nginx, f"a{i}", 100)
        redis.start()
        wait_for(lambda: len(nginx.workers()) == 2)
        for pid in nginx.workers():
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        wait_for(lambda: len(entries(redis) or []) == len(ids), 20)
        took.append(time.monotonic() - killed)
        once(redis, ids)
        if took[-1] < 2:
            return

    raise AssertionError(took)


def test_all_workers_killed(outbox, redis):
    nginx = outbox(redis, workers=2, **ALL)
    nginx.allow("exited on signal")
    with Load(nginx) as load:
        for _ in range(4):
            done = len(load.answered)
            wait_for(lambda: len(load.answered) > done + 200, 20)
            for pid in nginx.workers():
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: len(nginx.workers()) == 2)
    settled(nginx, redis, load)
    one_spool_a_worker(nginx, 2)


def test_everything_killed_and_started_with_another_number_of_workers(
        outbox, redis_server):
    redis = redis_server()
    nginx = outbox(redis, workers=3, **ALL)
    with Load(nginx) as load:
        wait_for(lambda: len(load.answered) > 300, 20)
        redis.pause()                   # so that something is left to do
        done = len(load.answered)
        wait_for(lambda: len(load.answered) > done + 300, 20)
        nginx.kill()
    redis.resume()
    assert len(spools(nginx)) == 3
    nginx.variables["workers"] = 1
    nginx.start()
    once(redis, load.answered, 20, maybe=load.unanswered)
    s = balanced(nginx)
    assert s["runs_recovered_total"] > 0
    one_spool_a_worker(nginx, 1)
    wait_for(lambda: len(watermarks(redis)) <= 1)


@both
def test_reload_again_and_again(outbox, redis, long):
    nginx = outbox(redis, workers=2, **ALL)
    with Load(nginx) as load:
        end = time.monotonic() + (30 if long else 4)
        n = 0
        while time.monotonic() < end:
            n += 1
            nginx.reload(workers=1 + n % 3)
            load.stopping.wait(0.9 if long else 0.3)
    wait_for(lambda: len(nginx.children()) == nginx.variables["workers"], 20,
             "the end of old workers")
    settled(nginx, redis, load)
    one_spool_a_worker(nginx, nginx.variables["workers"])
    wait_for(lambda: len(watermarks(redis)) <= nginx.variables["workers"])


def test_binary_upgrade(outbox, redis):
    # with its own idea of a parent: nginx ignores SIGUSR2 while the process
    # that started it lives, as the tests' does
    nginx = outbox(redis, workers=2, start=False, **ALL)
    nginx.write()
    conf = nginx.folder / "nginx.conf"
    conf.write_text(conf.read_text().replace("daemon off;", "daemon on;"))
    subprocess.run(nginx.command(), check=True, env=nginx.environment())
    pid_file = nginx.folder / "nginx.pid"
    old = int(wait_for(lambda: pid_file.exists() and pid_file.read_text()))
    new = None
    try:
        with Load(nginx) as load:
            wait_for(lambda: len(load.answered) > 100, 20)
            os.kill(old, signal.SIGUSR2)
            # it is renamed and written anew meanwhile
            def master():
                with contextlib.suppress(FileNotFoundError):
                    pid = pid_file.read_text().strip()
                    return pid not in ("", str(old)) and int(pid)

            new = wait_for(master, 10, "the new master")
            done = len(load.answered)
            wait_for(lambda: len(load.answered) > done + 200, 20)
            os.kill(old, signal.SIGQUIT)
            wait_for(lambda: not alive(old), 20, "the old master's end")
            done = len(load.answered)
            wait_for(lambda: len(load.answered) > done + 200, 20)
        once(redis, load.answered, 20, maybe=load.unanswered)
        balanced(nginx)
        one_spool_a_worker(nginx, 2)
    finally:
        for pid in filter(None, (new, old)):
            if alive(pid):
                os.kill(pid, signal.SIGQUIT)
                wait_for(lambda: not alive(pid), 10, "the end")
    assert spools(nginx) == []


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_redis_killed_with_its_log_synced_always(outbox, redis_server):
    redis = redis_server(appendonly="yes", appendfsync="always")
    nginx = outbox(redis, workers=2, **ALL)
    with Load(nginx) as load:
        for _ in range(5):
            done = len(load.answered)
            wait_for(lambda: len(load.answered) > done + 200, 20)
            redis.kill()
            done = len(load.answered)
            wait_for(lambda: len(load.answered) > done + 50, 20)
            redis.start()
    settled(nginx, redis, load)
    assert not load.unanswered
    assert stats(nginx)["runs_resent_total"] == 0


@both
def test_redis_stopped(outbox, redis_server, long):
    redis = redis_server()
    nginx = outbox(redis, workers=2, **ALL,
                   params="send_timeout=1s connect_timeout=500ms")
    with Load(nginx, pause=0.02) as load:
        for _ in range(1 if long else 2):
            done = len(load.answered)
            wait_for(lambda: len(load.answered) > done + 50, 20)
            redis.pause()
            load.stopping.wait(20 if long else 2.5)
            redis.resume()
            load.stopping.wait(0.3)
    settled(nginx, redis, load, timeout=30)
    assert not load.unanswered


@both
def test_redis_away(outbox, redis_server, long):
    """At a rate the spool holds; and nobody waits for it."""
    redis = redis_server()
    nginx = outbox(redis, **ALL)
    redis.kill()            # before the first run: it keeps nothing on disk
    with Load(nginx, pause=0.1 if long else 0.02) as load:
        load.stopping.wait(60 if long else 2)
        redis.start()
        load.stopping.wait(0.3)
    settled(nginx, redis, load, timeout=60)
    assert not load.unanswered


@both
def test_a_connection_cut_at_any_byte(outbox, redis, long):
    with Proxy(redis.port, cut=(1, 6000)) as proxy:
        nginx = outbox(proxy, workers=2, **ALL)
        want = 2000 if long else 60

        # at a rate the spool holds: few runs get through between two cuts
        with Load(nginx, pause=0.05 if long else 0.01) as load:
            wait_for(lambda: proxy.cuts >= want, 140 if long else 20,
                     f"{want} cuts")
        proxy.cut = None
        settled(nginx, redis, load, timeout=30)
        assert not load.unanswered


@both
def test_words_that_arrive_after_their_connection(outbox, redis, long):
    with Proxy(redis.port, cut=(3000, 15000), hold=0.3) as proxy:
        nginx = outbox(proxy, workers=2, **ALL)
        want = 300 if long else 25
        with Load(nginx, pause=0.01) as load:
            wait_for(lambda: proxy.late >= want, 140 if long else 20,
                     f"{want} late batches")
        proxy.cut = None
        settled(nginx, redis, load, timeout=30)


def test_words_that_arrive_after_their_worker(outbox, redis):
    """The first batch is held up; its worker sends it again, drains, and
    goes, and its watermark with it: the late one must find nothing."""
    with Proxy(redis.port, cut=(3000, 15000), hold=1.5) as proxy:
        nginx = outbox(proxy, **ALL)
        ids = []
        for i in range(6):
            ids += append(nginx, f"a{i}", 20, 300)
            wait_for(lambda: stats(nginx)["runs_spooled"] == 0, 10)
            nginx.reload()
        late = proxy.late
        wait_for(lambda: proxy.late > late or not proxy.cuts, 5)
        time.sleep(1.6)
        proxy.cut = None
        once(redis, ids)
