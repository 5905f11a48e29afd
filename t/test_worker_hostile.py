"""lunary-worker against what strangers, neighbours and bad luck can do."""

import json
import os
import shutil
import socket
import subprocess
import threading

import pytest

from harness.nginx import AT_ONCE
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
def start(folder):
    """start(url, *args): a worker that is gone after the test."""
    made = []

    def go(url, *args):
        made.append(Worker(folder, url, *args).start())
        return made[-1]

    yield go
    for w in made:
        w.kill()


def flags(lunary, folder, *args):
    return ["relay", "--api", lunary.url, "--project", f"*={folder}/key",
            "--linger", "20ms", *args]


def add(redis, *entries, stream="lunary:runs"):
    return [redis.client.xadd(stream, e) for e in entries]


def pending(redis, group):
    return redis.client.xpending("lunary:runs", group)["pending"]


def calls(redis, command):
    stats = redis.client.info("commandstats")
    return stats.get(f"cmdstat_{command}", {"calls": 0})["calls"]


# -- injection

def test_a_run_id_cannot_name_the_keys_of_others(redis, lunary, folder):
    """A line break in an id is no second key."""
    redis.hset("lunary:policy:default:eve", "blocked", "1")
    evil = "x\nlunary:policy:default:eve\n"
    add(redis, event(type="thread", event="chat", runId=evil, userId="eve",
                     parentRunId=uuid7(1),
                     message={"role": "user", "content": "hi"}))
    once(redis.unix_url, *flags(lunary, folder, "--once"))
    assert len(lunary.messages) == 1
    assert redis.hget("lunary:policy:default:eve", "blocked") == "1"


def test_a_run_id_cannot_name_the_runs_of_others_in_lunary(redis, lunary,
                                                           folder):
    mine = uuid7(1)
    add(redis, run(user_id="bob", run_id=mine),
        event(type="llm", event="start", runId=f"x\n{mine}", userId="eve"))
    once(redis.unix_url, *flags(lunary, folder, "--once"))
    (folder / "private").write_text("private")
    once(redis.unix_url, "forget", "default", "eve", "--yes", "--api",
         lunary.url, "--lunary-key-file", folder / "private")
    assert mine in lunary.runs


EVIL = "\x9b31m\x7f\u202e\u200b\u2066"


@pytest.mark.parametrize("command", [
    ["tail", "--no-follow"], ["tail", "--no-follow", "--json"], ["users"],
    ["users", "--json"], ["show", "default", "e" + EVIL]])
def test_no_output_can_drive_a_terminal(redis, command):
    add(redis, run(user_id="e" + EVIL, user_props={"name": EVIL},
                   model=EVIL, response_model=None,
                   output={"role": "assistant", "content": EVIL}))
    once(redis.unix_url, "ledger", "--once")
    out = once(redis.unix_url, *command).stdout
    assert not set(out) & (set(EVIL) - set("31m")), ascii(out)
    assert not any(0x7f <= ord(c) < 0xa0 for c in out)
    if out[0] in "[{":
        assert "e" + EVIL in json.dumps(json.loads(out), ensure_ascii=False)


# -- secrets

def test_a_password_in_the_url_is_not_for_ps(redis_server, folder, start):
    server = redis_server(requirepass="s3cret-word")
    w = start(f"redis://:s3cret-word@127.0.0.1:{server.port}/0", "ledger")
    add(server, run(user_id="ann"))
    wait_for(lambda: server.client.hget("lunary:user:default:ann", "runs"))
    with open(f"/proc/{w.process.pid}/cmdline") as f:
        assert "s3cret" not in f.read()
    w.hup()                          # which parses the command line again
    w.says("read again")
    add(server, run(user_id="bob"))
    wait_for(lambda: server.client.hget("lunary:user:default:bob", "runs"))
    assert "s3cret" not in w.said


def test_who_is_forgotten_is_not_logged(redis, folder):
    add(redis, run(user_id="someone"))
    (folder / "private").write_text("private")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        done = once(redis.unix_url, "forget", "default", "someone", "--yes",
                    "--api", f"http://me:word@127.0.0.1:{s.getsockname()[1]}",
                    "--lunary-key-file", folder / "private", check=False)
    assert done.returncode == 4 and "GET" in done.stderr
    assert "someone" not in done.stderr and "word" not in done.stderr


# -- apps

def test_forget_takes_an_app_for_what_it_is_called(redis, lunary, folder):
    """`a` is in `default`, and is another app all the same."""
    add(redis, run(user_id="ann"), run(user_id="ann", app="a"))
    once(redis.unix_url, *flags(lunary, folder, "--once"))
    once(redis.unix_url, "forget", "a", "ann", "--yes")
    assert redis.keys("lunary:relay:run:a:*") == []
    assert len(redis.keys("lunary:relay:run:default:*")) == 1


def test_users_of_very_many_apps_are_all_shown(redis):
    add(redis, *[run(user_id="ann", app=f"app-{n}") for n in range(600)])
    once(redis.unix_url, "ledger", "--once")
    rows = json.loads(once(redis.unix_url, "users", "--json").stdout)
    assert {r["app"] for r in rows} == {f"app-{n}" for n in range(600)}


# -- counting once, whatever is in the way

def test_a_key_of_another_type_harms_nobody_else(redis):
    redis.set("lunary:user:default:ann", "not a hash")
    redis.hset("lunary:user:default:cy", "runs", "not a number")
    add(redis, run(user_id="bob"), run(user_id="ann"), run(user_id="cy"))
    done = once(redis.unix_url, "ledger", "--once")
    assert "in the way" in done.stderr
    assert redis.hget("lunary:user:default:bob", "runs") == "1"
    assert redis.hget("lunary:user:default:cy", "input_tokens") == "10"
    assert pending(redis, "ledger") == 0


def test_a_full_redis_counts_nothing_and_later_all(redis_server, folder,
                                                   start):
    server = redis_server(maxmemory_policy="noeviction")
    add(server, *[run(user_id=f"u{n % 3}") for n in range(30)])
    server.client.config_set("maxmemory", "1")
    done = once(server.unix_url, "ledger", "--once", "--dedup", "0",
                check=False)
    assert done.returncode == 3
    server.client.config_set("maxmemory", "0")
    server.client.xgroup_create("lunary:runs", "ledger", "0")
    server.client.config_set("maxmemory", "1")
    done = once(server.unix_url, "ledger", "--once", "--dedup", "0",
                check=False)
    assert done.returncode == 3
    assert server.keys("lunary:user*") == []
    server.client.config_set("maxmemory", "0")
    start(server.unix_url, "ledger", "--dedup", "0", "--claim-after", "1ms")
    wait_for(lambda: server.hget("lunary:user:default:u0", "runs") == "10")
    wait_for(lambda: pending(server, "ledger") == 0)


def test_nobody_is_seen_in_the_future(redis):
    """A claim that would never be old enough to make room for another."""
    add(redis, event(type="llm", event="start", runId=uuid7(1), userId="eve",
                     timestamp=10 ** 17, name="gpt-4o"))
    once(redis.unix_url, "ledger", "--once")
    assert int(redis.hget("lunary:user:default:eve", "last_seen")) < 10 ** 13
    (_, score), = redis.client.zrange("lunary:claimed:default", 0, -1,
                                      withscores=True)
    assert score < 10 ** 13


# -- the relay

def test_chats_are_not_sent_where_no_mark_can_be_set(redis_server, lunary,
                                                     folder):
    server = redis_server(maxmemory_policy="noeviction")
    add(server, run(thread_id="t1"))
    server.client.xgroup_create("lunary:runs", "relay", "0")
    server.client.config_set("maxmemory", "1")
    done = once(server.unix_url, *flags(lunary, folder, "--once"),
                check=False)
    assert done.returncode == 3 and lunary.messages == []
    server.client.config_set("maxmemory", "0")
    once(server.unix_url, *flags(lunary, folder, "--once", "--claim-after",
                                 "1ms"))
    assert len(lunary.messages) == 2


class Tap:
    """A proxy in front of a Redis; holds what contains `words` until let()."""

    def __init__(self, server, words):
        self.words, self.held, self.go = words, threading.Event(), \
            threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}/0"
        self.path = server.socket
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(self.path)
            for a, b, look in ((client, peer, True), (peer, client, False)):
                threading.Thread(target=self.pump, args=(a, b, look),
                                 daemon=True).start()

    def pump(self, a, b, look):
        try:
            while data := a.recv(65536):
                if look and self.words in data:
                    self.held.set()
                    self.go.wait(120)
                b.sendall(data)
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


@pytest.mark.parametrize("args, code", [([], 1), (["--lunary-key-file"], 4)])
def test_forget_that_is_stopped_while_it_looks_deletes_nothing(
        redis, lunary, folder, start, args, code):
    add(redis, run(user_id="ann"))
    (folder / "private").write_text("private")
    tap = Tap(redis, b"XRANGE")
    w = start(tap.url, "forget", "default", "ann", "--yes", "--api",
              lunary.url, *args, *([folder / "private"] if args else []))
    assert tap.held.wait(40)
    w.process.terminate()
    tap.go.set()
    assert w.process.wait(40) == code
    tap.listener.close()
    assert "stopped" in w.said and redis.client.xlen("lunary:runs") == 1


def test_two_workers_at_one_entry_send_its_chats_once(redis, lunary, folder,
                                                      start):
    """One is held up before it says that it sends; the other claims."""
    tap = Tap(redis, b"$3\r\nSET\r\n")
    first = start(tap.url, *flags(lunary, folder))
    add(redis, run(thread_id="t1"))
    assert tap.held.wait(40)
    start(redis.unix_url, *flags(lunary, folder, "--claim-after", "1ms"))
    wait_for(lambda: len(lunary.messages) == 2)
    wait_for(lambda: pending(redis, "relay") == 0)
    tap.go.set()
    wait_for(lambda: len(lunary.requests) >= 2 or first.process.poll())
    assert first.term() == 0
    tap.listener.close()
    assert len(lunary.messages) == 2 and len(lunary.runs) == 1


def test_chats_wait_for_a_key_that_is_put_right(redis, lunary, folder):
    (folder / "key").write_text("wrong\n")
    add(redis, run(thread_id="t1"))
    done = once(redis.unix_url, *flags(lunary, folder, "--once"),
                check=False)
    assert done.returncode == 4 and lunary.messages == []
    (folder / "key").write_text("key\n")
    once(redis.unix_url, *flags(lunary, folder, "--once", "--claim-after",
                                "1ms"))
    assert len(lunary.messages) == 2


def test_waiting_for_a_key_makes_no_dead_letters(redis, lunary, folder,
                                                 start):
    (folder / "key").write_text("wrong\n")
    add(redis, run())
    redis.client.config_resetstat()
    start(redis.unix_url, *flags(lunary, folder, "--claim-after", "20ms",
                                 "--max-deliveries", "2"))
    wait_for(lambda: calls(redis, "xautoclaim") > 8, 20)
    assert redis.client.exists("lunary:runs:dead") == 0
    assert pending(redis, "relay") == 1


# -- memory

def test_large_entries_come_few_at_a_time(redis, start):
    """300 MB in the stream, a batch of 500: not all at once in memory."""
    text = json.dumps({"role": "assistant", "content": "x" * 1_000_000})
    pipe = redis.client.pipeline(transaction=False)
    for n in range(300):
        pipe.xadd("lunary:runs", run(user_id="ann", output=text))
        if n % 20 == 19:
            pipe.execute()
    w = start(redis.unix_url, "ledger")
    most = 0

    def done():
        nonlocal most
        most = max(most, w.rss())
        return redis.hget("lunary:user:default:ann", "runs") == "300"

    wait_for(done, 30)
    assert most < 120e6, most


@pytest.mark.slow
def test_memory_does_not_grow_with_users(redis, start, monkeypatch):
    # with a sanitizer: what was freed is not kept back
    monkeypatch.setenv("ASAN_OPTIONS",
                       os.environ.get("ASAN_OPTIONS", "") + AT_ONCE)
    w = start(redis.unix_url, "ledger", "--linger", "0")
    sizes = []
    for round in range(4):
        pipe = redis.client.pipeline(transaction=False)
        for n in range(5000):
            pipe.xadd("lunary:runs", run(
                user_id=f"user-{round}-{n}", user_props={"n": n},
                user_verified="1"))
        pipe.execute()
        wait_for(lambda: redis.client.zcard("lunary:users:default")
                 == 5000 * (round + 1), 60)
        sizes.append(w.rss())
    assert sizes[3] < sizes[1] + 4e6, sizes


# -- TLS

@pytest.fixture
def tls(redis_server, folder):
    """A redis-server with TLS, and its CA; skipped without hiredis_ssl."""
    done = once("rediss://127.0.0.1:1", "ledger", "--once", check=False)
    if done.returncode == 2:
        pytest.skip("this worker is built with a hiredis without TLS")
    if not shutil.which("openssl"):
        pytest.skip("no openssl")

    def openssl(*args):
        subprocess.run(["openssl", *map(str, args)], check=True,
                       capture_output=True, cwd=folder)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout",
            "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=test CA")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "r.key",
            "-out", "r.csr", "-subj", "/CN=redis")
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "r.csr", "-CA", "ca.crt", "-CAkey",
            "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "ext",
            "-out", "r.crt")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = redis_server(tls_port=port, tls_cert_file=folder / "r.crt",
                          tls_key_file=folder / "r.key",
                          tls_ca_cert_file=folder / "ca.crt",
                          tls_auth_clients="no")
    server.tls_port = port
    return server


def test_rediss_without_tls_in_hiredis_says_so():
    done = once("rediss://127.0.0.1:1", "ledger", "--once", check=False)
    if done.returncode != 2:
        pytest.skip("this worker has TLS")
    assert "hiredis" in done.stderr and "TLS" in done.stderr
    assert "rediss://" in done.stderr


def test_rediss(tls, folder):
    add(tls, run(user_id="ann"))
    once(f"rediss://127.0.0.1:{tls.tls_port}/0", "ledger", "--once", "--ca",
         folder / "ca.crt")
    assert tls.hget("lunary:user:default:ann", "runs") == "1"


@pytest.mark.parametrize("host, trusted", [("127.0.0.1", False),
                                           ("localhost", True)])
def test_rediss_wants_a_certificate_of_that_name(tls, folder, host, trusted):
    done = once(f"rediss://{host}:{tls.tls_port}/0", "ledger", "--once",
                *(["--ca", folder / "ca.crt"] if trusted else []),
                check=False)
    assert done.returncode == 3 and "TLS" in done.stderr
    assert os.path.exists(folder / "ca.crt")
