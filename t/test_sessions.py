"""Users out of a session store in Redis: formats, failures, and a session
that a real application wrote."""

import json
import pathlib
import socket
import subprocess
import threading

import pytest

from harness.wait import wait_for

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    {{ main | default("") }}
    server {
        listen {{ listen }};
        location / {
            lunary on;
            lunary_session_id cookie=sid;
            lunary_session sess:$lunary_session_id {{ options | default("") }};
            {{ extra | default("") }}
            proxy_pass {{ upstream }};
        }
    }
}
"""

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}

COOKIE = {"Cookie": "a=1; sid=s1; b=2"}


def who(run):
    return run.get("user_id"), run.get("user_source"), run.get("user_verified")


# -- formats

def test_a_hash(nginx, redis, runs):
    redis.hset("sess:s1", mapping={"user_id": "carol",
                                   "userProps": '{"name":"Carol"}'})

    nginx(CONFIG).post(json=CHAT, headers=COOKIE)

    run = runs.one()
    assert who(run) == ("carol", "session", "1")
    assert run.json("user_props") == {"name": "Carol"}


def test_a_hash_with_its_own_field_names(nginx, redis, runs):
    redis.hset("sess:s1", mapping={"account": "carol", "about": '{"a":1}'})

    nginx(CONFIG, options="format=hash user=account props=about").post(
        json=CHAT, headers=COOKIE)

    run = runs.one()
    assert who(run) == ("carol", "session", "1")
    assert run.json("user_props") == {"a": 1}


@pytest.mark.parametrize("session", [
    {"user_id": "carol"}, {"userId": "carol"}, {"user": {"id": "carol"}},
    {"passport": {"user": {"id": "carol"}}}, {"passport": {"user": "carol"}},
    {"user": "carol"}, {"sub": "carol"}], ids=json.dumps)
def test_json_of_the_usual_shapes(nginx, redis, runs, session):
    redis.set("sess:s1", json.dumps({"cookie": {"path": "/"}, **session}))

    nginx(CONFIG).post(json=CHAT, headers=COOKIE)

    assert who(runs.one()) == ("carol", "session", "1")


def test_json_with_dotted_paths(nginx, redis, runs):
    redis.set("sess:s1", json.dumps({"auth": {"accounts": [
        {"uid": "carol", "about": {"plan": "pro"}}]}}))

    nginx(CONFIG, options="format=json user=auth.accounts.0.uid "
                          "props=auth.accounts.0.about").post(
        json=CHAT, headers=COOKIE)

    run = runs.one()
    assert who(run) == ("carol", "session", "1")
    assert run.json("user_props") == {"plan": "pro"}


def test_a_json_integer_is_its_decimal_text(nginx, redis, runs):
    redis.set("sess:s1", '{"user":{"id":4711}}')

    nginx(CONFIG).post(json=CHAT, headers=COOKIE)

    assert who(runs.one()) == ("4711", "session", "1")


@pytest.mark.parametrize("value", ['"user_id":1.5', '"user_id":true',
                                   '"user_id":null', '"user_id":""',
                                   '"user_id":["a"]', '"other":"x"'])
def test_json_without_a_user_is_no_user(nginx, redis, runs, value):
    redis.set("sess:s1", "{" + value + "}")

    assert nginx(CONFIG).post(json=CHAT, headers=COOKIE).status == 200

    assert who(runs.one()) == (None, None, None) or \
        "user_id" not in runs.one()


def test_a_string_is_the_user(nginx, redis, runs):
    redis.set("sess:s1", "carol")

    nginx(CONFIG, options="format=string").post(json=CHAT, headers=COOKIE)

    assert who(runs.one()) == ("carol", "session", "1")


# -- what else names a session

def test_a_header_may_name_the_session(nginx, redis, runs, upstream):
    redis.set("sess:tok", '{"user_id":"carol"}')
    config = CONFIG.replace("cookie=sid", "header=X-Session")

    nginx(config).post(json=CHAT, headers={"X-Session": "tok"})

    assert who(runs.one()) == ("carol", "session", "1")
    assert upstream.last.header("x-session") is None


def test_a_bearer_token_may_name_the_session(nginx, redis, runs, upstream):
    redis.set("sess:tok", '{"user_id":"carol"}')
    config = CONFIG.replace("cookie=sid", "bearer")

    nginx(config).post(json=CHAT, headers={"Authorization": "Bearer tok"})

    assert who(runs.one()) == ("carol", "session", "1")
    assert upstream.last.header("authorization") is None


def test_only_the_sessions_cookie_is_kept_from_the_upstream(nginx, redis,
                                                           upstream):
    redis.set("sess:s1", '{"user_id":"carol"}')

    nginx(CONFIG).post(json=CHAT, headers=COOKIE)

    assert upstream.last.header("cookie") == "a=1; b=2"


def test_sessions_may_live_in_another_redis(nginx, redis, redis_server, runs):
    other = redis_server()
    other.client.set("sess:s1", '{"user_id":"elsewhere"}')
    redis.set("sess:s1", '{"user_id":"here"}')

    nginx(CONFIG, main=f"lunary_redis auth {other.url};",
          options="redis=auth").post(json=CHAT, headers=COOKIE)

    assert who(runs.one()) == ("elsewhere", "session", "1")


# -- before claims

def test_the_session_goes_before_the_body(nginx, redis, runs):
    redis.set("sess:s1", '{"user_id":"carol"}')

    nginx(CONFIG).post(json={**CHAT, "user": "mallory"}, headers=COOKIE)

    run = runs.one()
    assert who(run) == ("carol", "session", "1")
    assert run["claimed_user_id"] == "mallory"


@pytest.mark.parametrize("cookie", ["", "sid=", "sid=unknown", "other=s1",
                                    "sid=" + "x" * 513])
def test_without_a_session_the_next_source_counts(nginx, runs, cookie):
    nginx(CONFIG).post(json={**CHAT, "user": "b"}, headers={"Cookie": cookie})

    assert who(runs.one()) == ("b", "body", "0")


# -- failures

@pytest.mark.parametrize("fill", [
    lambda r: r.lpush("sess:s1", "x"),
    lambda r: r.set("sess:s1", "no json"),
    lambda r: r.set("sess:s1", '{"user_id":"carol"'),
    lambda r: r.set("sess:s1", '{"user_id":"carol"}' + "}"),
    lambda r: r.set("sess:s1", "[" * 100000)],
    ids=["list", "text", "cut", "garbage-behind", "brackets"])
def test_a_session_that_cannot_be_read_is_nobody(nginx, redis, runs, fill):
    fill(redis.client)

    one = nginx(CONFIG, options="format=json", level="info")
    assert one.post(json={**CHAT, "user": "b"}, headers=COOKIE).status == 200

    assert who(runs.one()) == ("b", "body", "0")


DEAD = CONFIG.replace("{{ main | default(\"\") }}",
                      "lunary_redis auth {{ auth }} timeout=100ms;")


def test_a_dead_store_is_the_next_source_where_none_is_required(nginx, runs):
    one = nginx(DEAD, options="redis=auth", auth="redis://127.0.0.1:1/0")

    assert one.post(json={**CHAT, "user": "b"}, headers=COOKIE).status == 200
    assert who(runs.one()) == ("b", "body", "0")


def test_a_dead_store_refuses_where_the_verdict_needs_it(nginx, runs,
                                                        upstream):
    one = nginx(DEAD, options="redis=auth", auth="redis://127.0.0.1:1/0",
                extra="lunary_require_user verified;")

    answer = one.post(json={**CHAT, "user": "b"}, headers=COOKIE)

    assert answer.status == 503
    assert answer.json()["error"]["code"] == "identity_unavailable"
    assert answer.header("retry-after")
    assert runs.one()["outcome"] == "rejected"
    assert upstream.requests == []


@pytest.fixture
def odd_store():
    """odd_store(bytes) answers every connection with them, or never."""
    listeners = []

    def start(says):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        connections = []

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connections.append(connection)
                threading.Thread(target=talk, args=(connection,),
                                 daemon=True).start()

        def talk(connection):
            try:
                while connection.recv(4096):
                    if says:
                        connection.sendall(says)
            except OSError:
                pass

        threading.Thread(target=serve, daemon=True).start()
        return f"redis://127.0.0.1:{listener.getsockname()[1]}/0"

    yield start
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("says", [
    b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$-5\r\n", b"*99999999\r\n",
    b"$2147483647\r\nx", b"\0" * 64, b":1\r\n:2\r\n:3\r\n:4\r\n:5\r\n"],
    ids=["silence", "http", "negative", "array", "huge", "zeroes", "extra"])
def test_a_store_that_talks_nonsense_holds_nobody_up(nginx, runs, odd_store,
                                                     says):
    one = nginx(DEAD, options="redis=auth", auth=odd_store(says))

    for _ in range(3):
        answer = one.post(json={**CHAT, "user": "b"}, headers=COOKIE)
        assert answer.status == 200

    assert {r["user_id"] for r in runs(3)} == {"b"}


def test_a_client_that_leaves_during_the_look_up_is_forgotten(
        nginx, redis, runs, redis_server):
    other = redis_server()
    other.client.set("sess:s1", '{"user_id":"carol"}')
    config = DEAD.replace("timeout=100ms", "timeout=5s")
    one = nginx(config, options="redis=auth", auth=other.url)
    one.post(json=CHAT, headers=COOKIE)
    other.pause()

    client = one.client()
    client.send(client.head("POST", "/v1/chat/completions", COOKIE, b"{}")
                + b"{}")
    wait_for(lambda: one.log().count("script var: \"s1\"") >= 2)
    client.reset()

    assert [r["outcome"] for r in runs(2)] == ["ok", "aborted"]
    other.resume()
    assert one.post(json=CHAT, headers=COOKIE).status == 200
    assert runs(3)[2]["user_id"] == "carol"


# -- as applications write them

def test_a_session_of_express_session_and_connect_redis(
        nginx, redis, runs, node_modules, folder):
    script = pathlib.Path(__file__).parent / "clients" / "session.mjs"
    done = subprocess.run(
        ["node", script, redis.socket], capture_output=True, text=True,
        timeout=280, cwd=node_modules.parent,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin",
             "NODE_MODULES": str(node_modules)})
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout)
    secret = folder / "secret"
    secret.write_text(written["secret"])

    config = CONFIG.replace(
        "cookie=sid", f"cookie=connect.sid secret_file={secret}")
    one = nginx(config, options="format=json")
    one.post(json=CHAT, headers={"Cookie": written["cookie"]})

    run = runs.one()
    assert who(run) == ("carol", "session", "1")
    assert run.json("user_props")["name"] == "Carol Diaz"

    # one character of the signature changed: no session
    forged = written["cookie"][:-1] + (
        "A" if written["cookie"][-1] != "A" else "B")
    one.post(json=CHAT, headers={"Cookie": forged})
    assert "user_id" not in runs(2)[1]
