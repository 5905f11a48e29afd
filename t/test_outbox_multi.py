"""Batches by WATCH and MULTI, the way of a busy worker: the connection waits
inside of MULTI, and nothing that happens to it, to the watermark or to the
stream loses a record or adds one twice."""

import re
import socket
import threading

import pytest

from harness import ROOT
from harness.outbox import (append, balanced, entries,  # noqa: F401
                            once, outbox, outbox_module, stats, total,
                            watermarks)
from harness.wait import wait_for


def in_multi(redis):
    """Whether the outbox's connection is inside of MULTI."""
    return any(c["multi"] != "-1" for c in redis.client.client_list()
               if "outbox" in c["name"])


def calls(redis, command):
    return redis.client.info("commandstats").get(
        f"cmdstat_{command}", {"calls": 0})["calls"]


@pytest.fixture
def armed(outbox):
    """armed(redis): an nginx whose next batch goes by MULTI, and the ids that
    it has sent."""

    def make(redis, to=None, **variables):
        nginx = outbox(to or redis, **variables)
        ids = append(nginx, "first", 100)
        once(redis, ids)
        wait_for(lambda: in_multi(redis), what="a connection inside of MULTI")
        return nginx, ids

    return make


def test_a_busy_worker_goes_by_multi(armed, redis):
    nginx, ids = armed(redis)
    by_script = calls(redis, "evalsha")
    ids += append(nginx, "a", 2000)
    once(redis, ids)
    assert entries(redis) == ids
    assert calls(redis, "exec") >= 10
    assert calls(redis, "evalsha") - by_script <= 2
    s = balanced(nginx)
    assert s["runs_sent_total"] == len(ids)


def test_bytes_arrive_as_they_were(armed, redis):
    nginx, ids = armed(redis)
    ids += append(nginx, "a", 12, 300000)
    once(redis, ids)
    assert calls(redis, "exec") >= 1
    assert {f["body"] for _, f in redis.xrevrange("lunary:runs", count=12)} \
        == {"x" * 300000}


def test_a_single_record_ends_it(armed, redis):
    """What is seldom goes by the script: the connection is not left inside of
    MULTI."""
    nginx, ids = armed(redis)
    ids += append(nginx, "a")
    once(redis, ids)
    wait_for(lambda: not in_multi(redis), what="the end of MULTI")
    ids += append(nginx, "b")
    once(redis, ids)


def test_a_worker_that_leaves_sends_by_the_script(outbox, redis):
    """Its last batch is refused by EXEC: it does not leave before it has sent
    that in another way."""
    redis.client.execute_command("ACL", "SETUSER", "some", "on", ">secret",
                                 "~*", "+@all", "-exec")
    nginx = outbox(f"redis://some:secret@127.0.0.1:{redis.port}",
                   spool="off")
    ids = append(nginx, "a", 100)
    wait_for(lambda: in_multi(redis))
    ids += append(nginx, "b", 2000)
    nginx.quit()
    once(redis, ids)
    assert watermarks(redis) == []


@pytest.mark.parametrize("spool", ["off", "file"])
def test_a_worker_that_leaves_takes_its_watermark_along(armed, redis, spool):
    nginx, ids = armed(redis, **({"spool": "off"} if spool == "off" else {}))
    [mark] = watermarks(redis)
    nginx.reload()
    ids += append(nginx, "a", 10)
    once(redis, ids)
    wait_for(lambda: mark not in watermarks(redis), what="no watermark")


@pytest.mark.parametrize("how", ["the same", "deleted"])
def test_a_watermark_that_somebody_touches(armed, redis, how):
    nginx, ids = armed(redis)
    [mark] = watermarks(redis)
    if how == "the same":
        redis.set(mark, redis.get(mark))
    else:
        redis.delete(mark)
    ids += append(nginx, "a", 100)
    # without its watermark all that is in the ring is sent again, as ever
    if how == "deleted":
        nginx.wait_log("has lost the watermark: 100 records are sent again")
        wait_for(lambda: set(entries(redis)) == set(ids))
    else:
        once(redis, ids)
    s = balanced(nginx)
    assert s["runs_sent_total"] == len(ids)
    assert s["runs_resent_total"] == (100 if how == "deleted" else 0)


@pytest.mark.parametrize("command", ["watch", "multi", "exec", "eval"])
def test_without_the_right_to_it_the_script_goes_on(outbox, redis, command):
    redis.client.execute_command("ACL", "SETUSER", "some", "on", ">secret",
                                 "~*", "+@all")
    url = f"redis://some:secret@127.0.0.1:{redis.port}"
    nginx = outbox(url)
    once(redis, append(nginx, "first"))          # Redis knows the script
    redis.client.execute_command("ACL", "SETUSER", "some", f"-{command}")
    ids = ["first-0"]
    for i in range(4):
        ids += append(nginx, f"a{i}", 100)
        once(redis, ids)
        ids += append(nginx, f"b{i}")
        once(redis, ids)
        # the stream's memory is looked at once a second: by the script
        if i == 1:
            before = calls(redis, "memory|usage")
            def again():
                ids.extend(append(nginx, f"c{len(ids)}", 10))
                return calls(redis, "memory|usage") > before
            wait_for(again)
    once(redis, ids)
    s = balanced(nginx)
    assert total(s["runs_dropped_total"]) == 0
    assert "set aside" not in nginx.log()
    assert nginx.log().count("takes no batches by WATCH, MULTI") == (
        command in ("watch", "multi", "exec"))
    # and it leaves no watermark behind, nor is inside of MULTI
    [mark] = watermarks(redis)
    nginx.reload()
    wait_for(lambda: mark not in watermarks(redis), what="no watermark")


@pytest.mark.parametrize("command", ["WATCH", "MULTI", "EXEC", "EVAL"])
def test_a_redis_that_does_not_know_it(outbox, redis_server, command):
    """A command that is not there, as with some services: in MULTI that is not
    the same as one that is refused."""
    redis = redis_server(rename_command=f"{command} nobody")
    by_eval = command == "EVAL"
    if by_eval:
        source = (ROOT / "ngx_lunary_module/outbox/ngx_lunary_outbox_script.c")
        redis.client.script_load(script_of(source.read_text()))
    nginx = outbox(redis)
    ids = []
    for i in range(3):
        ids += append(nginx, f"a{i}", 100)
        once(redis, ids, 20)
        ids += append(nginx, f"b{i}")
        once(redis, ids, 20)
    assert total(balanced(nginx)["runs_dropped_total"]) == 0
    assert "set aside" not in nginx.log()


def script_of(source):
    macro = re.search(r"#define NGX_LUNARY_OUTBOX_LUA(.*?[^\\])\n", source,
                      re.S)[1]
    macro = re.sub(r"/\*.*?\*/", "", macro, flags=re.S)
    return "".join(part.encode().decode("unicode_escape") for part in
                   re.findall(r'"((?:[^"\\]|\\.)*)"', macro))


def test_a_right_that_is_taken_away(outbox, redis):
    redis.client.execute_command("ACL", "SETUSER", "some", "on", ">secret",
                                 "~*", "+@all")
    nginx = outbox(f"redis://some:secret@127.0.0.1:{redis.port}")
    ids = append(nginx, "a", 100)
    wait_for(lambda: in_multi(redis))
    balanced(nginx)
    redis.client.execute_command("ACL", "SETUSER", "some", "-xadd")
    ids += append(nginx, "b", 100)
    nginx.wait_log("does not take runs")
    assert stats(nginx)["runs_spooled"] == 100
    redis.client.execute_command("ACL", "SETUSER", "some", "+xadd")
    once(redis, ids, 20)
    balanced(nginx)


def test_a_stream_of_another_type(armed, redis):
    """XADD fails inside of EXEC, and the watermark stays where it is."""
    nginx, _ = armed(redis)
    redis.delete("lunary:runs")
    redis.set("lunary:runs", "text")
    ids = append(nginx, "a", 100)
    nginx.wait_log("does not take runs .*WRONGTYPE")
    [mark] = watermarks(redis)
    assert redis.get(mark) == "100"
    redis.delete("lunary:runs")
    once(redis, ids, 20)
    s = balanced(nginx)
    assert s["runs_sent_total"] == 200 and s["runs_resent_total"] == 0


def test_a_stream_that_has_no_id_left(armed, redis):
    """XADD fails inside of EXEC, and the watermark is put back: nothing is
    taken for delivered."""
    nginx, _ = armed(redis)
    redis.xadd("lunary:runs", {"run_id": "last"},
               id="18446744073709551615-18446744073709551615")
    ids = append(nginx, "a", 20)
    nginx.wait_log("refuses every run")
    [mark] = watermarks(redis)
    assert int(redis.get(mark)) == 100
    redis.delete("lunary:runs")
    once(redis, ids, 20)
    assert total(balanced(nginx)["runs_dropped_total"]) == 0


def test_a_watermark_that_cannot_be_moved(outbox, redis):
    """The records are added and the watermark is not: it follows as soon as
    it can, and nothing is sent again."""
    redis.client.execute_command("ACL", "SETUSER", "some", "on", ">secret",
                                 "~*", "+@all")
    nginx = outbox(f"redis://some:secret@127.0.0.1:{redis.port}")
    ids = append(nginx, "a", 100)
    wait_for(lambda: in_multi(redis))
    balanced(nginx)
    [mark] = watermarks(redis)
    redis.client.execute_command("ACL", "SETUSER", "some", "-set")
    ids += append(nginx, "b", 100)
    nginx.wait_log("records of a batch, and did not move its watermark")
    assert redis.get(mark) == "100"
    redis.client.execute_command("ACL", "SETUSER", "some", "+set")
    ids += append(nginx, "c", 100)
    once(redis, ids, 25)
    wait_for(lambda: redis.get(mark) == "300")
    s = balanced(nginx)
    assert s["runs_sent_total"] == 300 and s["runs_resent_total"] == 0


def test_a_watermark_that_was_left_in_between(outbox, redis):
    """"~length~watermark" means the watermark that it names."""
    nginx = outbox(redis)
    ids = append(nginx, "a", 100)
    once(redis, ids)
    [mark] = watermarks(redis)
    wait_for(lambda: redis.get(mark) == "100")
    redis.set(mark, "~57~100")
    redis.client.client_kill_filter(_type="normal", skipme=True)
    ids += append(nginx, "b", 10)
    once(redis, ids)
    wait_for(lambda: redis.get(mark) == "110")
    assert balanced(nginx)["runs_resent_total"] == 0


def test_a_redis_without_memory(armed, redis):
    nginx, ids = armed(redis)
    redis.client.config_set("maxmemory", "1")
    ids += append(nginx, "a", 100)
    nginx.wait_log("does not take runs .*OOM")
    assert stats(nginx)["runs_spooled"] == 100
    redis.client.config_set("maxmemory", "0")
    once(redis, ids, 20)
    balanced(nginx)


def test_a_script_that_redis_forgets(armed, redis):
    """What moves the watermark needs no script that Redis remembers."""
    nginx, ids = armed(redis, stream="lunary:runs maxlen=2000")
    for i in range(30):
        redis.client.script_flush()
        ids += append(nginx, f"a{i}", 200)
        wait_for(lambda: stats(nginx)["runs_spooled"] == 0)
    found = entries(redis)
    assert len(found) == len(set(found)) and found == ids[-len(found):]
    assert 2000 <= len(found) <= 2064
    assert balanced(nginx)["runs_sent_total"] == len(ids)


def test_a_limit_holds(armed, redis):
    nginx, ids = armed(redis, stream="lunary:runs maxlen=2000")
    for i in range(10):
        ids += append(nginx, f"a{i}", 1000)
    balanced(nginx)
    assert entries(redis) == ids[-2000:]
    assert calls(redis, "exec") >= 10


def test_what_a_group_has_not_read_stays(armed, redis):
    nginx, ids = armed(redis, stream="lunary:runs maxlen=2000")
    redis.xgroup_create("lunary:runs", "slow", "0")
    for i in range(3):
        ids += append(nginx, f"a{i}", 1000)
    nginx.wait_log('"slow" has not acknowledged')
    # at most one batch beyond the limit, and it is all that ever came
    found = entries(redis)
    assert 2000 <= len(found) <= 2064
    assert found == ids[:len(found)]
    redis.client.xgroup_destroy("lunary:runs", "slow")
    wait_for(lambda: stats(nginx)["runs_spooled"] == 0, 20)
    assert entries(redis)[-1] == ids[-1]
    assert balanced(nginx)["runs_sent_total"] == len(ids)


def test_over_a_unix_socket(armed, redis):
    """Its buffer is smaller than a batch: Redis answers the first commands
    while the last are on their way."""
    nginx, ids = armed(redis, f"unix:{redis.socket}")
    for i in range(5):
        ids += append(nginx, f"a{i}", 100, 20000)
        wait_for(lambda: stats(nginx)["runs_spooled"] == 0)
    once(redis, ids)
    assert calls(redis, "exec") >= 5
    assert "unexpected reply" not in nginx.log()
    assert stats(nginx)["redis_reconnects_total"] == 0


class Slow(threading.Thread):
    """A TCP proxy that takes what the client sends in small bites, and gives
    it answers at once."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port_of_redis = port
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen()
        self.port = self.listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def run(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(
                ("127.0.0.1", self.port_of_redis))
            for a, b, n in (client, server, 2000), (server, client, 65536):
                threading.Thread(target=self.pump, args=(a, b, n),
                                 daemon=True).start()

    @staticmethod
    def pump(source, sink, n):
        try:
            while data := source.recv(n):
                sink.sendall(data)
        except OSError:
            pass


def test_over_a_slow_connection(armed, redis):
    nginx, ids = armed(redis, Slow(redis.port))
    for i in range(3):
        ids += append(nginx, f"a{i}", 60, 20000)
        wait_for(lambda: stats(nginx)["runs_spooled"] == 0, 30)
    once(redis, ids)
    assert calls(redis, "exec") >= 3
    assert "unexpected reply" not in nginx.log()
    assert stats(nginx)["redis_reconnects_total"] == 0


class Holder:
    """A TCP proxy that keeps a batch back: asked to, it hangs up on the client
    when that sends a transaction, and gives it to Redis, over the connection
    that was watching, only when told."""

    def __init__(self, port):
        self.port_of_redis = port
        self.asked = threading.Event()
        self.go = threading.Event()
        self.late = 0
        self.answers = b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(
                ("127.0.0.1", self.port_of_redis))
            threading.Thread(target=self.up, args=(client, server),
                             daemon=True).start()
            threading.Thread(target=self.down, args=(server, client),
                             daemon=True).start()

    def up(self, client, server):
        try:
            while data := client.recv(1 << 20):
                if self.asked.is_set() and b"XADD" in data:
                    # all of it: a transaction ends with MULTI, the next one
                    while not data.endswith(b"$5\r\nMULTI\r\n"):
                        data += client.recv(1 << 20)
                    self.asked.clear()
                    self.keep(client, server, data)
                    return
                server.sendall(data)
        except OSError:
            pass

    def keep(self, client, server, data):
        client.shutdown(socket.SHUT_RDWR)
        self.go.wait(30)
        self.go.clear()
        server.sendall(data)
        server.shutdown(socket.SHUT_WR)
        self.late += 1

    def down(self, server, client):
        try:
            while data := server.recv(1 << 20):
                self.answers += data
                try:
                    client.sendall(data)
                except OSError:
                    pass              # what Redis says to the late one
        except OSError:
            pass


def hold_one_back(nginx, redis, holder, name):
    """Appends until a batch by MULTI was held back; what was appended."""
    ids = []

    def more():
        ids.extend(append(nginx, f"{name}.{len(ids)}", 10))
        return in_multi(redis)

    wait_for(more, 20, "MULTI")
    holder.asked.set()
    # now and then one goes by the script, which looks at the stream's memory

    def held():
        ids.extend(append(nginx, f"{name}.{len(ids)}", 10))
        return not holder.asked.is_set()

    wait_for(held, 20, "a batch that is held back")
    return ids


def test_a_batch_that_is_late_does_nothing(armed, redis):
    holder = Holder(redis.port)
    nginx, ids = armed(redis, holder)
    for i in range(4):
        ids += hold_one_back(nginx, redis, holder, f"a{i}")
        # by another connection they get through
        once(redis, ids, 20)
        holder.go.set()
        wait_for(lambda: holder.answers.count(b"*-1\r\n") == i + 1,
                 what="Redis refuses the late one")
        ids += append(nginx, f"b{i}", 50)
        once(redis, ids, 20)
    balanced(nginx)


def test_the_late_one_may_also_be_the_first(armed, redis):
    """Redis gets it before the new connection asks: it counts, and what was
    sent is not sent again."""
    holder = Holder(redis.port)
    nginx, ids = armed(redis, holder)
    holder.go.set()
    ids += hold_one_back(nginx, redis, holder, "a")
    once(redis, ids, 20)
    assert balanced(nginx)["runs_sent_total"] == len(ids)


STRINGS = b"*3\r\n$1\r\na\r\n$3\r\n1-1\r\n*2\r\n$3\r\n1-2\r\n$3\r\n1-3\r\n"


class Brief(Holder):
    """A TCP proxy through which a queued command is answered with less."""

    def down(self, server, client):
        data = b""
        try:
            while more := server.recv(1 << 20):
                *lines, data = (data + more).split(b"\r\n")
                client.sendall(b"".join(
                    (b"+Q" if line == b"+QUEUED" else line) + b"\r\n"
                    for line in lines))
        except OSError:
            pass


def test_answers_shorter_than_those_of_redis(armed, redis):
    """The worker is not woken before as many bytes have come as Redis sends:
    what waits for more than there will be is looked at in the end."""
    nginx, ids = armed(redis, Brief(redis.port), params="send_timeout=400ms")
    [mark] = watermarks(redis)
    redis.set(mark, redis.get(mark))       # EXEC will do nothing, and say so
    ids += append(nginx, "a", 100)
    once(redis, ids)
    s = balanced(nginx)
    assert (s["runs_sent_total"], s["runs_resent_total"]) == (len(ids), 0)
    assert calls(redis, "exec") >= 1
    assert "no reply in time" not in nginx.log()


class Liar(Holder):
    """A TCP proxy that answers a transaction itself, when it is asked to, and
    hangs up."""

    def __init__(self, port, says):
        self.says = says
        super().__init__(port)

    def keep(self, client, server, data):
        client.sendall(self.says)
        client.shutdown(socket.SHUT_WR)
        while client.recv(1 << 20):
            pass
        server.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("says", [
    STRINGS * 200,                             # in place of QUEUED, and more
    b"+QUEUED\r\n" * 3 + STRINGS[:-9],         # half an array
    b"*2\r\n$1\r\na\r\n*1\r\n" * 3,            # arrays that never end
    b"*3\r\n$-1\r\n$3\r\n1-1\r\n-ERR no\r\n" * 200,
], ids=["arrays", "half", "open", "errors"])
def test_answers_that_are_none(armed, redis, says):
    liar = Liar(redis.port, says)
    nginx, ids = armed(redis, liar)
    for i in range(3):
        ids += hold_one_back(nginx, redis, liar, f"a{i}")
        once(redis, ids, 20)
    balanced(nginx)
