"""The counters after a kill -9, exactly: the test module kills its worker at
chosen instructions of a count, around the store into the spool that decides
about it.  (test_outbox_crash.py kills at any moment, under load.)"""

import fcntl
import os
import shutil
import signal
import threading

import pytest

from harness.client import Cut
from harness.outbox import (CONFIG, append, balance, balanced,  # noqa: F401
                            entries, outbox, outbox_module, spools, stats,
                            total)
from harness.wait import wait_for

# of ngx_lunary_stats_when_e
ANYWAY, APPENDED, COUNTED, RECOVERED = 1, 2, 3, 4

POINTS = {"unplanned": 0, "planned": 1, "decided": 2}

at_each_point = pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)


def die(nginx, when, point, nth=1):
    """The worker will, the nth time that it counts such a thing."""
    nginx.allow("exited on signal 9")
    answer = nginx.get(f"/die?when={when}&point={point}&nth={nth}")
    assert answer.status == 200
    return nginx.workers()[0]


def dead(nginx, pid):
    """Waits until another worker is in its place."""
    wait_for(lambda: nginx.workers() and pid not in nginx.workers(), 10,
             "the worker's successor")


def settled(nginx):
    """The counters, once the spools of the dead are drained: a spool that is
    there alone may be that of one who is dead, and what is in it is in no
    counter then."""
    def drained():
        left, right = balance(stats(nginx))
        return len(spools(nginx)) == 1 and left == right

    wait_for(drained, 10, "the spools of the dead to be gone")
    return balanced(nginx)


def try_to_append(nginx, *args, **kw):
    with pytest.raises((OSError, Cut, ValueError)):
        append(nginx, *args, **kw)


@at_each_point
def test_killed_while_it_counts_a_record(outbox, redis, point):
    """There, and counted: or neither."""
    nginx = outbox(redis)
    append(nginx, "a", 3)
    balanced(nginx)
    pid = die(nginx, APPENDED, point)
    try_to_append(nginx, "b")
    dead(nginx, pid)
    n = 4 if point == POINTS["decided"] else 3
    wait_for(lambda: len(entries(redis)) == n, 10, f"{n} entries")
    s = settled(nginx)
    assert (total(s["runs_total"]), s["runs_sent_total"]) == (n, n)


def test_an_open_plan_is_not_overwritten(outbox, redis):
    """The successor counts before the spool of the dead is adopted."""
    nginx = outbox(redis)
    pid = die(nginx, APPENDED, POINTS["decided"])
    with open(nginx.spool / spools(nginx)[0], "rb") as f:
        # the kernel gives it to who waits, once the worker is gone
        keep = threading.Thread(target=fcntl.flock, args=(f, fcntl.LOCK_EX))
        keep.start()
        try_to_append(nginx, "a")
        keep.join()
        dead(nginx, pid)
        append(nginx, "b", 5)
        balanced(nginx)
        assert len(spools(nginx)) == 2
    s = settled(nginx)
    assert (total(s["runs_total"]), s["runs_sent_total"]) == (6, 6)


@at_each_point
def test_killed_while_it_counts_what_is_sent(outbox, redis, point):
    nginx = outbox(redis)
    pid = die(nginx, COUNTED, point)
    ids = append(nginx, "a", 50)
    dead(nginx, pid)
    s = settled(nginx)
    assert (total(s["runs_total"]), s["runs_sent_total"]) == (50, 50)
    assert sorted(entries(redis)) == sorted(ids)


@at_each_point
def test_killed_while_it_counts_what_is_sent_again(outbox, redis_server,
                                                   point):
    redis = redis_server()
    nginx = outbox(redis)
    append(nginx, "a", 300)             # three batches
    balanced(nginx)
    redis.client.flushall()             # the watermark, too
    pid = die(nginx, COUNTED, point, nth=2)
    append(nginx, "b", 1)
    dead(nginx, pid)
    wait_for(lambda: len(entries(redis)) == 301, 10, "301 entries")
    s = settled(nginx)
    assert (total(s["runs_total"]), s["runs_sent_total"]) == (301, 301)


@at_each_point
def test_killed_while_it_drops_a_record(outbox, redis, point):
    nginx = outbox(redis, config=CONFIG.replace("size=4m", "size=256k"))
    pid = die(nginx, ANYWAY, point)
    try_to_append(nginx, "a", 1, 200000)
    dead(nginx, pid)
    append(nginx, "b", 3)
    s = settled(nginx)
    n = 0 if point == POINTS["unplanned"] else 1
    assert total(s["runs_total"]) == 3 + n
    assert s["runs_dropped_total"]["too_large"] == n


@at_each_point
def test_killed_while_it_counts_what_it_found(outbox, redis_server, folder,
                                              point):
    """Spools of an nginx that is gone, found by one that runs."""
    redis = redis_server()
    redis.stop()
    first = outbox(redis, workers=2)
    ids = append(first, "a", 20)
    first.kill()
    nginx = outbox(redis)
    pid = die(nginx, RECOVERED, point)
    for name in spools(first):
        shutil.move(first.spool / name, nginx.spool / name)
    dead(nginx, pid)
    redis.start()
    wait_for(lambda: sorted(entries(redis) or []) == sorted(ids), 20,
             "20 entries")
    s = settled(nginx)
    assert s["runs_recovered_total"] == s["runs_sent_total"] == 20


def test_what_is_found_is_counted_once_also_across_reloads(outbox,
                                                           redis_server):
    redis = redis_server()
    redis.stop()
    nginx = outbox(redis)
    append(nginx, "a", 20)
    nginx.kill()
    nginx.start()
    wait_for(lambda: stats(nginx)["runs_recovered_total"] == 20, 10)
    for _ in range(3):
        nginx.reload()
        wait_for(lambda: len(nginx.children()) == 1, 10, "the old one's end")
        wait_for(lambda: stats(nginx)["runs_spooled"] == 20, 10)
    os.kill(nginx.workers()[0], signal.SIGKILL)
    nginx.allow("exited on signal 9")
    redis.start()
    wait_for(lambda: len(entries(redis) or []) == 20, 20, "20 entries")
    s = settled(nginx)
    assert s["runs_recovered_total"] == s["runs_sent_total"] == 20


def test_one_that_was_set_aside_stays_so_for_the_next_worker(outbox, redis,
                                                             folder):
    """Killed before its drop was counted: it is not offered to Redis again,
    and counted then."""
    nginx = outbox(redis)
    append(nginx, "a", 1)
    balanced(nginx)
    with nginx.client() as c:
        c.request("GET", "/append?fields=0")
    nginx.wait_log("refuses a run")
    pid = die(nginx, COUNTED, POINTS["unplanned"])
    append(nginx, "good", 1)
    nginx.wait_log("it is set aside")
    dead(nginx, pid)
    append(nginx, "b", 3)
    s = settled(nginx)
    assert s["runs_dropped_total"]["refused"] == 1
    assert (total(s["runs_total"]), s["runs_sent_total"]) == (6, 5)
    assert nginx.log().count("it is set aside") == 1


def test_what_a_killed_worker_had_in_memory_is_dropped(outbox, redis_server):
    redis = redis_server()
    nginx = outbox(redis, spool="off")
    append(nginx, "a", 5)
    balanced(nginx)
    redis.stop()
    append(nginx, "b", 20)
    pid = nginx.workers()[0]
    nginx.allow("exited on signal 9")
    os.kill(pid, signal.SIGKILL)
    dead(nginx, pid)
    s = stats(nginx)
    assert s["runs_dropped_total"]["exit"] == 20
    left, right = balance(s)
    assert left == right == 25
