"""The outbox while Redis and the stream are as they like."""

import itertools
import os
import re
import signal
import socketserver
import subprocess
import threading
import time

import pytest

from harness.nginx import AT_ONCE
from harness.outbox import (CONFIG, Proxy, append, balance,  # noqa: F401
                            balanced, entries, once, outbox, outbox_module,
                            spools, stats, total, watermarks)
from harness.wait import wait_for


def test_a_record_reaches_the_stream(outbox, redis):
    nginx = outbox(redis)
    append(nginx, "a")
    once(redis, ["a-0"])
    assert balanced(nginx)["runs_sent_total"] == 1


def test_thousands_arrive_in_their_order(outbox, redis):
    nginx = outbox(redis)
    ids = append(nginx, "a", 5000, 300)
    assert len(ids) == 5000
    once(redis, ids)
    assert entries(redis) == ids


def test_a_worker_that_has_several_at_a_time_waits_for_more(outbox,
                                                            redis_server):
    """So it sends fewer batches than one that is told to wait 2 ms."""
    def batches(redis):
        all_ = redis.client.info("commandstats")
        return sum(all_.get(f"cmdstat_{c}", {"calls": 0})["calls"]
                   for c in ("evalsha", "exec"))

    def used(nginx, redis, name):
        before = batches(redis)
        with nginx.client() as c:
            for i in range(300):
                assert c.request("GET", f"/append?id={name}{i}&n=1&size=100"
                                 ).status == 200
        wait_for(lambda: stats(nginx)["runs_spooled"] == 0)
        return batches(redis) - before

    one, two = redis_server(), redis_server()
    patient = outbox(one), one
    hasty = outbox(two, stream="lunary:runs flush=2ms"), two
    names = itertools.count()
    wait_for(lambda: 2 * used(*patient, f"a{next(names)}.")
             < used(*hasty, f"b{next(names)}."), 10)


def test_bytes_arrive_as_they_were(outbox, redis):
    nginx = outbox(redis)
    append(nginx, "a", 3, 200000)
    once(redis, ["a-0", "a-1", "a-2"])
    assert {f["body"] for _, f in redis.xrange("lunary:runs")} == {
        "x" * 200000}


def test_records_wait_for_a_redis_that_comes_later(outbox, redis_server):
    redis = redis_server()
    redis.stop()
    nginx = outbox(redis)
    ids = append(nginx, "a", 100)
    s = stats(nginx)
    assert s["runs_spooled"] == 100 and s["redis_connected"] == 0
    assert s["spool_bytes"] > 100 * 100
    assert balance(s)[0] == balance(s)[1]
    redis.start()
    once(redis, ids)
    s = balanced(nginx)
    assert s["runs_sent_total"] == 100 and s["redis_connected"] >= 1


def test_a_dead_redis_is_one_log_line(outbox, redis_server):
    redis = redis_server()
    redis.stop()
    nginx = outbox(redis)
    for i in range(50):
        append(nginx, f"a{i}")
    wait_for(lambda: stats(nginx)["redis_errors_total"]["connect"] >= 3)
    assert len(re.findall(r"\(outbox\): connecting failed",
                          nginx.log())) == 1


@pytest.mark.parametrize("how", ["down", "stopped"])
def test_requests_do_not_wait_for_a_dead_redis(outbox, redis_server, how):
    redis = redis_server()
    nginx = outbox(redis)

    def slowest():
        times = []
        for i in range(300):
            began = time.monotonic()
            append(nginx, f"a{i}", 1, 1000)
            times.append(time.monotonic() - began)
        return sorted(times)[-3]            # the machine has other things to do

    live = slowest()
    redis.pause() if how == "stopped" else redis.stop()

    # a request that waits does so each time; a busy machine does not
    assert any(slowest() < live + 0.05 for _ in range(5))


def test_memory_does_not_grow_with_the_number_of_records(outbox, redis):
    nginx = outbox(redis, stream="lunary:runs maxlen=100", asan=AT_ONCE)
    [pid] = nginx.workers()

    def anonymous():
        with open(f"/proc/{pid}/status") as f:
            return int(re.search(r"RssAnon:\s+(\d+)", f.read())[1])

    def some(n):
        for i in range(n):
            append(nginx, f"a{i}", 50, 200)
        wait_for(lambda: stats(nginx)["runs_spooled"] == 0)

    some(20)
    before = anonymous()
    some(400)
    assert anonymous() - before <= 64


def test_memory_is_bounded_while_redis_is_down(outbox, redis_server):
    redis = redis_server()
    redis.stop()
    nginx = outbox(redis, spool="off size=4m", asan=AT_ONCE)
    [pid] = nginx.workers()

    def resident():
        with open(f"/proc/{pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read())[1])

    append(nginx, "w", 10)                  # code that runs for the first time
    before = resident()
    append(nginx, "a", 50000, 1000)         # 50 MB
    assert resident() - before < 5000


def test_a_full_spool_drops_the_newest(outbox, redis_server):
    redis = redis_server()
    redis.stop()
    nginx = outbox(redis, spool="{{ dir }}/spool size=256k".replace(
        "{{ dir }}", str(redis.folder.parent / "nginx0")))
    ids = append(nginx, "a", 1000, 1000)
    assert 150 < len(ids) < 260
    dropped = stats(nginx)["runs_dropped_total"]
    assert dropped["full"] == 1000 - len(ids)
    assert ids == [f"a-{i}" for i in range(len(ids))]
    lines = re.findall(r"spool is full, (\d+) records dropped", nginx.log())
    assert 1 <= len(lines) <= 2
    # how full is looked at once a second
    wait_for(lambda: stats(nginx)["spool_used_percent"] >= 90)
    redis.start()
    once(redis, ids)
    balanced(nginx)
    wait_for(lambda: stats(nginx)["spool_used_percent"] == 0)
    # and there is room again
    once(redis, ids + append(nginx, "b", 100, 1000))


def test_a_record_larger_than_a_quarter_of_the_spool_is_refused(outbox, redis):
    nginx = outbox(redis)
    assert append(nginx, "a", 1, 1100000) == []
    assert stats(nginx)["runs_dropped_total"]["too_large"] == 1
    assert "a record of 1100" in nginx.log()
    once(redis, append(nginx, "b", 1, 900000))


def test_a_spool_can_be_used_up_again_and_again(outbox, redis):
    nginx = outbox(redis)
    ids = []
    for i in range(60):
        ids += append(nginx, f"a{i}", 97, 4000)     # 23 MB through 4
        wait_for(lambda: stats(nginx)["runs_spooled"] == 0)
    once(redis, ids)
    assert len(ids) == 60 * 97


def test_without_a_spool_records_wait_in_memory(outbox, redis_server):
    redis = redis_server()
    redis.stop()
    nginx = outbox(redis, spool="off size=1m")
    ids = append(nginx, "a", 50)
    redis.start()
    once(redis, ids)
    balanced(nginx)


def test_without_a_spool_what_is_left_at_the_end_is_counted(outbox,
                                                            redis_server):
    redis = redis_server()
    redis.stop()
    nginx = outbox(redis, spool="off")
    append(nginx, "a", 7)
    nginx.reload()
    wait_for(lambda: total(stats(nginx)["runs_dropped_total"]) == 7)
    s = stats(nginx)
    assert s["runs_dropped_total"]["exit"] == 7
    assert balance(s)[0] == balance(s)[1]
    assert "7 records that waited in memory" in nginx.log()


def test_shards_get_what_their_hash_says(outbox, redis):
    nginx = outbox(redis, stream="app:runs shards=3 flush=2ms")
    ids = append(nginx, "a", 500)
    keys = [f"app:runs:{{{i}}}" for i in range(3)]

    def found():
        return [set(entries(redis, k)) for k in keys]

    wait_for(lambda: sum(map(len, found())) == 500)
    assert set().union(*found()) == set(ids)
    assert min(map(len, found())) > 100
    balanced(nginx)
    assert [re.sub(r":[0-9a-f]{32}$", "", w)
            for w in watermarks(redis, "app:outbox:*")] == [
        f"app:outbox:{{{i}}}" for i in range(3)]


def test_shards_in_a_redis_that_does_not_know_the_script(outbox, redis):
    redis.script_flush()
    nginx = outbox(redis, stream="app:runs shards=8")
    append(nginx, "a", 100)
    balanced(nginx)
    redis.script_flush()
    append(nginx, "b", 100)
    balanced(nginx)
    assert "does not take runs" not in nginx.log()


# the stream's limits

def test_at_maxlen_the_oldest_go(outbox, redis):
    nginx = outbox(redis, stream="lunary:runs maxlen=100")
    ids = append(nginx, "a", 1000)
    wait_for(lambda: stats(nginx)["runs_spooled"] == 0)
    assert entries(redis) == ids[-100:]


def test_a_maxlen_smaller_than_a_batch_is_kept(outbox, redis):
    nginx = outbox(redis, stream="lunary:runs maxlen=3")
    ids = append(nginx, "a", 50)
    wait_for(lambda: stats(nginx)["runs_spooled"] == 0)
    assert entries(redis) == ids[-3:]


def test_what_a_group_has_not_acknowledged_is_never_trimmed(outbox, redis):
    redis.xgroup_create("lunary:runs", "slow", id="0", mkstream=True)
    nginx = outbox(redis, stream="lunary:runs maxlen=100")
    ids = append(nginx, "a", 100)
    wait_for(lambda: len(entries(redis)) == 100)
    redis.xgroup_create("lunary:runs", "quick", id="$")
    ids += append(nginx, "b", 50)
    nginx.wait_log(r'is full and its consumer group "slow"')
    assert entries(redis) == ids[:100]
    assert stats(nginx)["runs_spooled"] == 50

    # delivered is not acknowledged
    seen = redis.xreadgroup("slow", "c", {"lunary:runs": ">"}, count=60)
    delivered = [id for id, _ in seen[0][1]]
    time.sleep(0.6)                     # two looks: nothing may happen
    assert entries(redis) == ids[:100]

    redis.xack("lunary:runs", "slow", *delivered)
    wait_for(lambda: stats(nginx)["runs_spooled"] == 0)
    assert entries(redis) == ids[50:]
    nginx.wait_log("has room again")
    assert '"quick"' not in nginx.log()


def test_only_the_excess_is_trimmed_for_groups_that_follow(outbox, redis):
    redis.xgroup_create("lunary:runs", "g", id="0", mkstream=True)
    nginx = outbox(redis, stream="lunary:runs maxlen=200")
    ids = append(nginx, "a", 200)
    wait_for(lambda: len(entries(redis)) == 200)
    for _, e in redis.xreadgroup("g", "c", {"lunary:runs": ">"}):
        redis.xack("lunary:runs", "g", *[id for id, _ in e])
    ids += append(nginx, "b", 30)
    wait_for(lambda: stats(nginx)["runs_spooled"] == 0)
    assert entries(redis) == ids[-200:]


def test_maxbytes_bounds_the_memory_of_the_stream(outbox, redis):
    nginx = outbox(redis, stream="lunary:runs maxbytes=1m")
    for i in range(40):
        append(nginx, f"a{i}", 20, 5000)                    # 4 MB
        wait_for(lambda: stats(nginx)["runs_spooled"] == 0)
    used = redis.memory_usage("lunary:runs", samples=0)
    assert 500_000 < used < 1_200_000
    assert entries(redis)[-1] == "a39-19"


def test_maxbytes_without_the_right_to_look_is_warned_about(outbox,
                                                            redis_server):
    redis = redis_server()
    redis.client.execute_command(
        "ACL", "SETUSER", "runs", "on", ">secret", "~*", "+@all", "-memory")
    nginx = outbox(f"redis://runs:secret@127.0.0.1:{redis.port}",
                   stream="lunary:runs maxbytes=1m")
    ids = append(nginx, "a", 20)
    once(redis, ids)
    nginx.wait_log(r'maxbytes= does not bound it: give its user "\+memory')
    for i in range(10):                     # a 64th of it each: looked at
        ids += append(nginx, f"b{i}", 4, 5000)
        once(redis, ids)
    assert nginx.log().count("maxbytes= does not bound it") == 1


# errors of Redis

def test_a_key_of_another_type_is_told_and_waited_for(outbox, redis):
    redis.set("lunary:runs", "no stream")
    nginx = outbox(redis)
    ids = append(nginx, "a", 3)
    nginx.wait_log(r'does not take runs into "lunary:runs": "WRONGTYPE')
    assert stats(nginx)["runs_spooled"] == 3
    redis.delete("lunary:runs")
    once(redis, ids, timeout=15)


def test_a_user_that_may_not_is_told_and_waited_for(outbox, redis_server):
    redis = redis_server()
    redis.client.execute_command(
        "ACL", "SETUSER", "runs", "on", ">secret", "~*", "+@all", "-xadd")
    nginx = outbox(f"redis://runs:secret@127.0.0.1:{redis.port}")
    ids = append(nginx, "a", 3)
    nginx.wait_log("does not take runs into")
    assert "secret" not in nginx.log()
    assert stats(nginx)["runs_spooled"] == 3
    redis.client.execute_command("ACL", "SETUSER", "runs", "+xadd")
    once(redis, ids, timeout=15)


def test_a_watermark_that_may_not_be_moved_adds_nothing(outbox, redis_server):
    """The script asks before it adds: what was added could not be taken back,
    and would be added again each time."""
    redis = redis_server()
    redis.client.execute_command(
        "ACL", "SETUSER", "runs", "on", ">secret", "~*", "+@all", "-watch")
    nginx = outbox(f"redis://runs:secret@127.0.0.1:{redis.port}")
    ids = append(nginx, "a", 3)
    once(redis, ids)
    redis.client.execute_command("ACL", "SETUSER", "runs", "-set")
    ids += append(nginx, "b", 3)
    nginx.wait_log("does not take runs into")
    assert entries(redis) == ids[:3]
    redis.client.execute_command("ACL", "SETUSER", "runs", "+set")
    once(redis, ids, timeout=15)
    assert stats(nginx)["runs_resent_total"] == 0


def test_a_redis_without_memory_is_tried_again(outbox, redis_server):
    redis = redis_server()
    redis.set("ballast", "x" * 6_000_000)
    redis.config_set("maxmemory", "5mb")
    nginx = outbox(redis)
    ids = append(nginx, "a", 3)
    nginx.wait_log(r'"OOM')
    redis.delete("ballast")
    once(redis, ids)
    nginx.wait_log("takes runs again")
    balanced(nginx)


def test_a_replica_that_becomes_master_gets_them(outbox, redis_server):
    master = redis_server()
    redis = redis_server(replicaof=f"127.0.0.1 {master.port}")
    nginx = outbox(redis)
    ids = append(nginx, "a", 3)
    nginx.wait_log("READONLY")
    redis.client.execute_command("REPLICAOF", "NO", "ONE")
    once(redis, ids)
    balanced(nginx)


def test_a_script_that_was_flushed_is_sent_again(outbox, redis):
    nginx = outbox(redis)
    ids = append(nginx, "a", 3)
    once(redis, ids)
    redis.script_flush()
    once(redis, ids + append(nginx, "b", 3))
    balanced(nginx)


def test_a_busy_redis_is_waited_for(outbox, redis_server):
    redis = redis_server(busy_reply_threshold="10")
    nginx = outbox(redis)
    ids = append(nginx, "a", 3)
    once(redis, ids)

    def busy():
        try:
            redis.client.eval("while true do end", 0)
        except Exception:
            pass

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        ids += append(nginx, "b", 3)
        nginx.wait_log("BUSY")
    finally:
        subprocess.run(["redis-cli", "-s", redis.socket, "script", "kill"],
                       capture_output=True)
        thread.join()
    once(redis, ids)
    balanced(nginx)


def test_a_paused_redis_is_waited_for(outbox, redis):
    nginx = outbox(redis, params="send_timeout=300ms connect_timeout=300ms")
    ids = append(nginx, "a", 3)
    once(redis, ids)
    redis.client_pause(1500)
    ids += append(nginx, "b", 300)
    once(redis, ids)
    balanced(nginx)


def test_a_record_that_redis_refuses_is_set_aside(outbox, redis):
    nginx = outbox(redis)
    ids = append(nginx, "a", 3)
    append(nginx, "bad", 1, 0, "&fields=0")     # XADD without a field
    ids += append(nginx, "b", 300)
    once(redis, ids)
    s = balanced(nginx)
    assert s["runs_dropped_total"]["refused"] == 1
    assert s["runs_sent_total"] == 303
    nginx.wait_log("refused a record of .* set aside in the spool's")
    assert len(list(nginx.spool.glob("*.refused"))) == 1


def test_a_first_record_that_is_refused_holds_nothing_up(outbox, redis):
    nginx = outbox(redis)
    append(nginx, "bad", 3, 0, "&fields=0")
    ids = append(nginx, "a", 10)
    once(redis, ids, 5)
    s = balanced(nginx)
    assert s["runs_dropped_total"]["refused"] == 3
    assert len(list(nginx.spool.glob("*.refused"))) == 3


def test_a_record_that_is_refused_waits_for_another_one(outbox, redis):
    """Nothing else shows that it is not Redis."""
    nginx = outbox(redis)
    ids = append(nginx, "a", 3)
    once(redis, ids)
    append(nginx, "bad", 1, 0, "&fields=0")
    nginx.wait_log("refuses a run: .*; it waits in the spool for another one")
    s = stats(nginx)
    assert s["runs_spooled"] == 1 and total(s["runs_dropped_total"]) == 0
    began = time.monotonic()
    ids += append(nginx, "b", 1)
    once(redis, ids)
    assert time.monotonic() - began < 5     # not at the next try
    assert balanced(nginx)["runs_dropped_total"]["refused"] == 1


def test_a_record_that_is_refused_in_a_spool_taken_over(outbox, redis):
    """The last one there: the worker's own show that it is not Redis."""
    nginx = outbox(redis)
    ids = append(nginx, "a", 3)
    append(nginx, "bad", 1, 0, "&fields=0")
    nginx.wait_log("refuses a run")
    [name] = spools(nginx)
    nginx.reload()
    nginx.wait_log("took over the spool", 15)
    for i in range(3):
        ids += append(nginx, f"b{i}", 1)
        once(redis, ids, 20)
    wait_for(lambda: name not in spools(nginx), 20)
    assert balanced(nginx)["runs_dropped_total"]["refused"] == 1


def test_a_record_of_one_shard_that_is_refused(outbox, redis):
    nginx = outbox(redis, stream="lunary:runs shards=2")
    append(nginx, "a", 100)
    append(nginx, "bad", 1, 0, "&fields=0")
    append(nginx, "b", 100)
    s = balanced(nginx)
    assert s["runs_dropped_total"]["refused"] == 1
    assert s["runs_sent_total"] == 200


def test_a_last_record_that_is_refused_stays_refused(outbox, redis):
    nginx = outbox(redis)
    append(nginx, "bad", 1, 0, "&fields=0")
    ids = append(nginx, "a", 3)
    nginx.wait_log("refused a record")
    s = balanced(nginx)
    redis.client.client_kill_filter(_type="normal", skipme=True)
    ids += append(nginx, "b", 3)
    once(redis, ids)
    assert balanced(nginx)["runs_dropped_total"] == s["runs_dropped_total"]
    assert len(list(nginx.spool.glob("*.refused"))) == 1


def test_a_batch_that_is_refused_is_halved_down_to_the_record(outbox,
                                                              redis_server):
    redis = redis_server()
    with Proxy(redis.port, poison=b"bad-0") as proxy:
        nginx = outbox(proxy)
        once(redis, append(nginx, "first"))
        redis.pause()
        append(nginx, "hold")               # so that the next ones wait
        time.sleep(0.05)
        ids = append(nginx, "a", 30)
        append(nginx, "bad")
        ids += append(nginx, "b", 30)
        redis.resume()
        once(redis, ids + ["first-0", "hold-0"], 20)
        s = balanced(nginx)
        assert s["runs_dropped_total"]["refused"] == 1
        [path] = nginx.spool.glob("*.refused")
        assert b"bad-0" in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_first_one_that_something_refuses(outbox, redis_server):
    """No record is named: the one behind it is tried, once."""
    redis = redis_server()
    with Proxy(redis.port, poison=b"bad-0") as proxy:
        nginx = outbox(proxy)
        append(nginx, "bad")
        nginx.wait_log("refuses a run")
        ids = append(nginx, "a", 3)
        once(redis, ids, 20)
        s = balanced(nginx)
        assert s["runs_dropped_total"]["refused"] == 1


def test_an_error_for_every_record_costs_none(outbox, redis):
    nginx = outbox(redis)
    once(redis, append(nginx, "a", 1))
    # no id can be greater than this one: every XADD fails
    redis.xadd("lunary:runs", {"run_id": "last"},
               id="18446744073709551615-18446744073709551615")
    ids = append(nginx, "b", 20)
    nginx.wait_log("refuses every run")
    for i in range(2):
        nginx.reload()
        wait_for(lambda: nginx.log().count("refuses every run") == i + 2, 15)
    s = stats(nginx)
    assert total(s["runs_dropped_total"]) == 0
    assert s["runs_spooled"] == 20
    redis.delete("lunary:runs")
    once(redis, ids, 20)
    assert total(balanced(nginx)["runs_dropped_total"]) == 0


def test_a_redis_without_xadd_costs_none(outbox, redis_server):
    redis = redis_server(rename_command="XADD nobody")
    nginx = outbox(redis, shutdown="1s")
    append(nginx, "a", 40)
    nginx.wait_log("does not take runs .*(?i:unknown).*10 seconds")
    nginx.reload()
    wait_for(lambda: nginx.log().count("does not take runs") == 2, 15)
    s = stats(nginx)
    assert total(s["runs_dropped_total"]) == 0 and s["runs_spooled"] == 40


# what Redis has lost

def test_a_missing_watermark_is_a_counted_resend(outbox, redis):
    nginx = outbox(redis)
    ids = append(nginx, "a", 50)
    once(redis, ids)
    balanced(nginx)
    redis.flushall()
    ids += append(nginx, "b", 5)
    once(redis, ids)
    s = balanced(nginx)
    assert s["runs_resent_total"] == 50
    assert s["runs_sent_total"] == 55
    nginx.wait_log("has lost the watermark: 50 records are sent again")


@pytest.mark.parametrize("value", [b"", b"x\x01y", b"7" * 80, b"0-", b"~3~",
                                   b"words"])
def test_what_is_no_watermark_counts_as_missing(outbox, redis, value):
    nginx = outbox(redis)
    before = append(nginx, "a", 50)
    once(redis, before)
    balanced(nginx)
    [key] = watermarks(redis)
    redis.set(key, value)
    ids = append(nginx, "b", 5)
    wait_for(lambda: entries(redis) == before + before + ids)
    s = balanced(nginx)
    assert s["runs_resent_total"] == 50 and s["runs_sent_total"] == 55
    nginx.wait_log(f'something in "{key}" that is no watermark')
    assert redis.get(key) == "55"


class Astray(socketserver.BaseRequestHandler):
    """A Redis whose watermark is another one each time."""

    asked = 0

    def handle(self):
        while data := self.request.recv(65536):
            for call in data.split(b"\r\nEVAL")[1:]:
                Astray.asked += 1
                mark = b"0-%06x" % Astray.asked
                words = ([b"ok", mark, b"found"] if b"\r\nopen\r\n" in call
                         else [b"stale", mark])
                self.request.sendall(b"*%d\r\n" % len(words) + b"".join(
                    b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
            if b"EVAL" not in data:
                self.request.sendall(b"+OK\r\n")


def test_a_watermark_that_is_another_one_each_time(outbox):
    """The worker does not ask at full speed."""
    Astray.asked = 0
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Astray) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            nginx = outbox(f"redis://127.0.0.1:{server.server_address[1]}")
            append(nginx, "b", 1)
            wait_for(lambda: Astray.asked > 3)
            time.sleep(1)                   # of what must not happen
            assert Astray.asked < 30
        finally:
            server.shutdown()
    assert stats(nginx)["runs_spooled"] == 1


def test_an_older_watermark_is_brought_up_to_date(outbox, redis):
    nginx = outbox(redis)
    ids = append(nginx, "a", 50)
    once(redis, ids)
    balanced(nginx)
    # the state of a replica that was ten records behind
    [key] = watermarks(redis)
    for id, _ in redis.xrevrange("lunary:runs", count=10):
        redis.xdel("lunary:runs", id)
    redis.set(key, int(redis.get(key)) - 10)
    redis.client.client_kill_filter(_type="normal", skipme=True)
    once(redis, ids)
    s = balanced(nginx)
    assert s["runs_resent_total"] == 10 and s["runs_sent_total"] == 50


def test_an_older_watermark_of_one_shard(outbox, redis):
    nginx = outbox(redis, stream="lunary:runs shards=2")
    append(nginx, "a", 100)
    balanced(nginx)
    before = {k: entries(redis, k) for k in ("lunary:runs:{0}",
                                            "lunary:runs:{1}")}
    [key] = watermarks(redis, "lunary:outbox:{1}*")
    redis.delete("lunary:runs:{1}")
    redis.set(key, "0")
    redis.client.client_kill_filter(_type="normal", skipme=True)
    wait_for(lambda: entries(redis, "lunary:runs:{1}")
             == before["lunary:runs:{1}"])
    assert entries(redis, "lunary:runs:{0}") == before["lunary:runs:{0}"]
    s = balanced(nginx)
    assert s["runs_resent_total"] == len(before["lunary:runs:{1}"])


def test_wait_keeps_what_no_replica_has(outbox, redis_server):
    redis = redis_server()
    nginx = outbox(redis, params="wait=1 send_timeout=400ms")
    ids = append(nginx, "a", 20)
    once(redis, ids)
    nginx.wait_log("0 of the 1 replicas of wait= confirm")
    assert stats(nginx)["runs_spooled"] == 20
    replica = redis_server(replicaof=f"127.0.0.1 {redis.port}")
    wait_for(lambda: stats(nginx)["runs_spooled"] == 0, 15)
    assert entries(replica) == ids
    once(redis, ids)
    balanced(nginx)


def confirms(nginx):
    """How many workers have said that no replica confirms."""
    return len(re.findall(r"0 of the 1 replicas of wait= confirm",
                          nginx.log()))


@pytest.mark.parametrize("how", ["reload", "kill"])
def test_wait_is_kept_by_who_takes_over(outbox, redis_server, how):
    """Applied by a worker that went before the replica had it: the watermark
    tells the next one that it is there, and not that it is safe."""
    redis = redis_server()
    replica = redis_server(replicaof=f"127.0.0.1 {redis.port}")
    wait_for(lambda: redis.info("replication")["connected_slaves"] == 1)
    nginx = outbox(redis, params="wait=1 send_timeout=400ms", shutdown="1s")
    nginx.allow("exited on signal")
    before = append(nginx, "a", 5)
    wait_for(lambda: stats(nginx)["runs_spooled"] == 0)
    [name] = spools(nginx)
    replica.pause()
    ids = append(nginx, "b", 20)
    once(redis, before + ids)
    wait_for(lambda: confirms(nginx) == 1)
    if how == "reload":
        nginx.reload()
    else:
        os.kill(nginx.workers()[0], signal.SIGKILL)
    nginx.wait_log("took over the spool", 15)
    wait_for(lambda: confirms(nginx) == 2 or name not in spools(nginx), 15)
    assert name in spools(nginx)
    assert stats(nginx)["runs_spooled"] == 20
    replica.resume()
    wait_for(lambda: stats(nginx)["runs_spooled"] == 0, 15)
    wait_for(lambda: name not in spools(nginx))
    assert entries(replica) == before + ids
    once(redis, before + ids)
    balanced(nginx)


def test_wait_after_a_lost_connection(outbox, redis_server):
    redis = redis_server()
    replica = redis_server(replicaof=f"127.0.0.1 {redis.port}")
    wait_for(lambda: redis.info("replication")["connected_slaves"] == 1)
    nginx = outbox(redis, params="wait=1 send_timeout=400ms")
    once(redis, append(nginx, "a", 5))
    wait_for(lambda: stats(nginx)["runs_spooled"] == 0)
    replica.pause()
    ids = append(nginx, "b", 20)
    wait_for(lambda: confirms(nginx) == 1)
    asked = redis.info("commandstats")["cmdstat_wait"]["calls"]
    redis.client.client_kill_filter(_type="normal", skipme=True)
    wait_for(lambda: redis.info("commandstats")["cmdstat_wait"]["calls"]
             > asked + 1)
    assert stats(nginx)["runs_spooled"] == 20
    replica.resume()
    wait_for(lambda: stats(nginx)["runs_spooled"] == 0, 15)
    assert entries(replica)[5:] == ids


# when a batch leaves

def batches(redis):
    """How many there were: each sets the watermark twice, to itself and to
    what it has become; opening one sets it once."""
    c = redis.info("commandstats")
    return c.get("cmdstat_set", {}).get("calls", 0) / 2


def warm(outbox, redis, **kw):
    nginx = outbox(redis, **kw)
    once(redis, append(nginx, "w", 128))
    wait_for(lambda: stats(nginx)["runs_spooled"] == 0)
    return nginx


def test_a_lone_run_leaves_after_flush(outbox, redis):
    nginx = warm(outbox, redis, stream="lunary:runs flush=2s")
    sent = batches(redis)
    began = time.monotonic()
    [id] = append(nginx, "a")
    assert stats(nginx)["runs_spooled"] == 1
    wait_for(lambda: id in entries(redis))
    assert time.monotonic() - began > 1.9
    assert batches(redis) == sent + 1


@pytest.mark.parametrize("n, size", [(64, 100), (2, 140000)])
def test_a_batchs_worth_does_not_wait(outbox, redis, n, size):
    nginx = warm(outbox, redis, stream="lunary:runs flush=60s")
    sent = batches(redis)
    ids = append(nginx, "a", n, size)
    wait_for(lambda: entries(redis)[-n:] == ids)
    assert batches(redis) == sent + 1


def test_half_of_a_small_spool_does_not_wait(outbox, redis):
    """It would be full before a batch's worth is there."""
    nginx = warm(outbox, redis, stream="lunary:runs flush=60s",
                 config=CONFIG.replace("size=4m", "size=256k"))
    ids = append(nginx, "a", 4, 40000)
    assert len(ids) == 4
    wait_for(lambda: entries(redis)[-4:] == ids)


def test_little_of_both_waits_together(outbox, redis):
    nginx = warm(outbox, redis, stream="lunary:runs flush=3s")
    sent = batches(redis)
    ids = [i for k in "abc" for i in append(nginx, k, 20)]
    wait_for(lambda: entries(redis)[-60:] == ids)
    assert batches(redis) == sent + 1


def test_one_batch_is_in_flight(outbox, redis_server):
    redis = redis_server()
    nginx = warm(outbox, redis, params="send_timeout=60s")
    sent = batches(redis)
    redis.pause()
    ids = [i for k in range(60) for i in append(nginx, f"a{k}")]
    redis.resume()
    wait_for(lambda: entries(redis)[-60:] == ids)
    assert batches(redis) <= sent + 2


# the end of a worker

def test_a_graceful_end_leaves_nothing_behind(outbox, redis):
    nginx = outbox(redis, workers=2)
    ids = append(nginx, "a", 500)
    nginx.quit()
    once(redis, ids)
    assert spools(nginx) == [] and watermarks(redis) == []


@pytest.mark.parametrize("flush", ["1s", "60s"])
def test_a_graceful_end_sends_first(outbox, redis, flush):
    nginx = outbox(redis, stream=f"lunary:runs flush={flush}")
    ids = append(nginx, "a", 5)
    nginx.quit()
    assert entries(redis) == ids


def test_a_fast_end_leaves_the_rest_to_the_spool(outbox, redis_server):
    redis = redis_server()
    redis.stop()
    nginx = outbox(redis)
    ids = append(nginx, "a", 5)
    nginx.stop()
    assert len(spools(nginx)) == 1
    redis.start()
    nginx.start()
    once(redis, ids)
    s = balanced(nginx)
    assert s["runs_recovered_total"] == 5 and s["runs_sent_total"] == 5
    wait_for(lambda: len(spools(nginx)) == 1)


def test_a_graceful_end_without_redis_does_not_wait(outbox, redis_server):
    redis = redis_server()
    redis.stop()
    nginx = outbox(redis, shutdown="60s")
    append(nginx, "a", 5)
    began = time.monotonic()
    nginx.quit(20)
    assert time.monotonic() - began < 30


def test_an_evicting_redis_is_warned_about(outbox, redis_server):
    redis = redis_server(maxmemory="100mb", maxmemory_policy="allkeys-lru")
    nginx = outbox(redis)
    nginx.wait_log(r'has "maxmemory-policy allkeys-lru"')


def test_single_process(outbox, redis):
    nginx = outbox(redis, main="master_process off;", start=False)
    nginx.variables["workers"] = 0
    nginx.start()
    wait_for(lambda: nginx.spool.exists() and spools(nginx))
    ids = append(nginx, "a", 10)
    once(redis, ids)


def test_checking_the_configuration_touches_nothing(outbox, redis):
    nginx = outbox(redis)
    once(redis, append(nginx, "a", 1))
    before = spools(nginx), redis.info("stats")["total_connections_received"]
    for args in ("-t",), ("-T",), ("-s", "reopen"):
        assert nginx.run(*args).returncode == 0
    after = redis.info("stats")["total_connections_received"]
    assert (spools(nginx), after) == before
