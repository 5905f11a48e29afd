# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""What Redis, or something in its place, can do to callers: answers that come
late, are another's, or carry text for the log; and what stands in the log."""

import json
import re
import socket
import threading
import time

import pytest

from harness.nginx import AT_ONCE
from harness.wait import wait_for

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    lunary_redis auth {{ auth }} timeout={{ patience | default("1s") }};
    server {
        listen {{ listen }};
        lunary on;
        lunary_require_user verified;
        lunary_session_id cookie=sid;
        lunary_session sess:$lunary_session_id redis=auth
                       format={{ format | default("json") }};
        {{ extra | default("") }}
        location / { proxy_pass {{ upstream }}; }
    }
}
"""

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


def cookie(sid):
    return {"Cookie": "sid=" + sid}


class Store:
    """Speaks RESP: answer(words) -> bytes, asked for each command."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}/0"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(connection,),
                             daemon=True).start()

    def talk(self, connection):
        stream = connection.makefile("rb")
        try:
            while line := stream.readline():
                words = []
                for _ in range(int(line[1:])):
                    size = int(stream.readline()[1:])
                    words.append(stream.read(size + 2)[:-2])
                self.asked.append(words)
                says = (b"+OK\r\n" if words[0].upper() in (
                    b"CLIENT", b"SELECT", b"PING") else self.answer(words))
                connection.sendall(says)
        except (OSError, ValueError):
            pass


@pytest.fixture
def store():
    made = []

    def make(answer):
        made.append(Store(answer))
        return made[-1]

    yield make
    for one in made:
        one.listener.close()


def bulk(text):
    return b"$%d\r\n%s\r\n" % (len(text), text)


def user_of(words):
    """The session of sid X is user-X's."""
    sid = words[1].split(b":", 1)[1]
    return bulk(b'{"user_id":"user-%s"}' % sid)


# -- answers that are late

def test_a_late_answer_is_nobodys(nginx, store, runs):
    """The one of the first request must not be the next one's."""
    late = threading.Event()

    def answer(words):
        if words[1].endswith(b"slow"):
            late.wait(10)
        return user_of(words)

    one = nginx(CONFIG, auth=store(answer).url,
                extra="add_header X-User $lunary_user_id;")
    assert one.post(json=CHAT, headers=cookie("slow")).status == 503
    late.set()

    seen = []

    def ask():
        answer = one.post(json=CHAT, headers=cookie(f"s{len(seen)}"))
        seen.append(answer.status)
        if answer.status == 200:
            assert answer.header("x-user") == f"user-s{len(seen) - 1}"
        return seen[-3:] == [200] * 3

    wait_for(ask)
    named = [r["user_id"] for r in runs(len(seen) + 1) if "user_id" in r]
    assert "user-slow" not in named and len(named) == len(set(named))


@pytest.mark.parametrize("workers", [1, 2])
def test_many_at_once_get_their_own_user(nginx, store, runs, workers):
    import concurrent.futures
    one = nginx(CONFIG, workers=workers, auth=store(user_of).url,
                patience="5s", extra="add_header X-User $lunary_user_id;")

    def call(i):
        return one.post(json=CHAT, headers=cookie(f"s{i}")).header("x-user")

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert list(pool.map(call, range(200))) == [
            f"user-s{i}" for i in range(200)]


# -- the cache

def test_a_session_that_ended_while_it_was_read_is_not_kept(nginx, store):
    """PTTL -2: a log-out between GET and PTTL."""
    there = [True]

    def answer(words):
        if words[0] == b"PTTL":
            return b":-2\r\n"
        return user_of(words) if there[0] else b"$-1\r\n"

    one = nginx(CONFIG, auth=store(answer).url,
                extra="lunary_session_cache zone=s:1m valid=1h;")
    assert one.post(json=CHAT, headers=cookie("s1")).status == 200
    there[0] = False
    assert one.post(json=CHAT, headers=cookie("s1")).status == 401


@pytest.mark.parametrize("ttl", [b":-1\r\n", b":60000\r\n"])
def test_what_is_not_over_is_kept(nginx, store, ttl):
    shop = store(lambda w: ttl if w[0] == b"PTTL" else user_of(w))
    one = nginx(CONFIG, auth=shop.url,
                extra="lunary_session_cache zone=s:1m valid=1h;")
    for _ in range(3):
        assert one.post(json=CHAT, headers=cookie("s1")).status == 200
    assert len([w for w in shop.asked if w[0] == b"GET"]) == 1


def test_keys_that_only_look_alike_share_nothing(nginx, redis):
    """Of one zone: two stores' sessions of one id, and templates whose parts
    could be moved."""
    redis.set("a:bc", '{"user_id":"ann"}')
    redis.set("ab:c", '{"user_id":"bob"}')
    redis.client.execute_command("SELECT", 0)
    one = nginx("""
        {{ globals }}
        http {
            {{ http }}
            {{ lunary }}
            lunary_session_cache zone=s:1m valid=1h negative=1h;
            add_header X-User $lunary_user_id;
            lunary_redis other {{ redis }}?db=1 timeout=1s;
            server {
                listen {{ listen }};
                lunary on;
                location /1/ { lunary_session a:$arg_s;
                               proxy_pass {{ upstream }}/; }
                location /2/ { lunary_session ab:$arg_s;
                               proxy_pass {{ upstream }}/; }
                location /3/ { lunary_session a:$arg_s redis=other;
                               proxy_pass {{ upstream }}/; }
                location /4/ { lunary_session a:$arg_s format=string;
                               proxy_pass {{ upstream }}/; }
            }
        }""")
    for _ in range(2):
        seen = [one.post(f"/{i}/v1/chat/completions?s={s}", json=CHAT
                         ).header("x-user")
                for i, s in ((1, "bc"), (2, "c"), (3, "bc"), (1, "c"))]
        assert seen == ["ann", "bob", None, None]
    assert one.post("/4/v1/chat/completions?s=bc", json=CHAT).header(
        "x-user") == '{"user_id":"ann"}'


# -- the log

def test_an_error_of_redis_quotes_no_key(nginx, redis_server, redis):
    """"ERR unknown command 'GET', with args beginning with: 'sess:...'" """
    other = redis_server(rename_command="GET x")
    one = nginx(CONFIG, auth=other.url, level="info")

    answer = one.post(json=CHAT, headers=cookie("top-secret-sid"))

    assert answer.status == 503
    one.wait_log("Redis refused the session look-up")
    assert "sess:" not in one.log() and "top-s" not in one.log()


def test_an_error_of_redis_writes_no_line_of_its_own(nginx, store):
    one = nginx(CONFIG, level="info", auth=store(
        lambda w: b"-ERR \x1b[2J\x07 x\n2030/01/01 [crit] forged\r\n").url)
    one.post(json=CHAT, headers=cookie("s1"))

    one.wait_log("Redis refused the session look-up")
    assert not re.search(r"^2030", one.log(), re.M)
    assert "????" not in one.log()
    assert "\x1b" not in one.log() and "\x07" not in one.log()


SECRETS = ["sid-0secret", "sk-0secret", "query-0secret", "body-0secret",
           "user-0secret", "thread-0secret", "prop-0secret"]


@pytest.mark.parametrize("trouble", ["none", "store", "upstream", "json",
                                     "twice", "policy", "cascade"])
def test_no_text_of_a_call_is_in_the_error_log(nginx, redis, redis_server,
                                               runs, trouble):
    """Above debug level, whatever goes wrong."""
    other = redis_server()
    if trouble == "store":
        other.hset("sess:sid-0secret", "x", "y")
    else:
        other.set("sess:sid-0secret", '{"user_id":"user-0secret"')
    if trouble == "policy":
        redis.set("lunary:policy:default:user-0secret", "wrong type")
    if trouble == "cascade":
        redis.set("lunary:thread:thread-0secret", "wrong type")
        redis.set("lunary:run:thread-0secret", "wrong type")
    one = nginx(CONFIG.replace("require_user verified", "require_user on"),
                level="info", auth=other.url,
                extra="lunary_user session body header parent;"
                      "lunary_identity_conflict reject;")
    body = json.dumps({
        **CHAT, "user": "user-0secret", "thread_id": "thread-0secret",
        "user_props": {"p": "prop-0secret"}, "parent_run_id": "thread-0secret",
        "messages": [{"role": "user", "content": "body-0secret"}]})
    if trouble == "json":
        body = body[:-1]
    if trouble == "twice":
        body = body[:-1] + ', "us\\u0065r": "user-0secret"}'

    headers = {**cookie("sid-0secret"), "Authorization": "Bearer sk-0secret"}
    if trouble == "upstream":
        headers["X-Standin-Error"] = "500 server_error"
    one.post(body=body, headers=headers)
    one.quit()

    lines = [line for line in one.log().splitlines() if "lunary" in line]
    for secret in SECRETS:
        assert not [line for line in lines if secret in line], lines


# -- how much it can make us keep or wait

@pytest.mark.parametrize("says", [
    bulk(b'{"user_id":"' + b"x" * (2 << 20) + b'"}'),
    b"*1\r\n" * 8 + b":1\r\n", b"*100000\r\n" + b":1\r\n" * 100000,
    b"$-1\r\n", b"+carol\r\n", b":7\r\n", b"*-1\r\n", b"*0\r\n",
    b"*2\r\n:7\r\n$5\r\ncarol\r\n"],
    ids=["long", "deep", "many", "nil", "status", "integer", "nil array",
         "empty", "numbers"])
def test_an_odd_answer_is_nobody(nginx, store, says):
    one = nginx(CONFIG, auth=store(lambda w: says).url)

    assert one.post(json=CHAT, headers=cookie("s1")).status in (401, 503)
    pid = one.workers()[0]
    assert pid and one.get("/", headers=cookie("s1")).status in (401, 503)


def test_an_endless_answer_costs_bounded_memory(nginx, store):
    def endless(words):
        return b"$500000000\r\n" + b"x" * (40 << 20)

    one = nginx(CONFIG, auth=store(endless).url, patience="2s", asan=AT_ONCE)
    pid = one.workers()[0]

    def resident():
        with open(f"/proc/{pid}/statm") as f:
            return int(f.read().split()[1]) * 4096

    before = resident()
    start = time.monotonic()
    assert one.post(json=CHAT, headers=cookie("s1")).status == 503
    assert time.monotonic() - start < 10
    wait_for(lambda: resident() < before + (32 << 20))
