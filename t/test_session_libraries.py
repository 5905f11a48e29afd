"""Sessions written by the libraries that applications use (express-session is
in test_sessions.py)."""

import json
import pathlib
import subprocess
import sys

import pytest

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    server {
        listen {{ listen }};
        location / {
            lunary on;
            lunary_require_user verified;
            {{ session }}
            proxy_pass {{ upstream }};
        }
    }
}
"""

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


def login(script, *arguments):
    path = pathlib.Path(__file__).parent / "clients" / script
    done = subprocess.run([sys.executable, str(path), *arguments],
                          capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_flask_session(nginx, redis, runs, upstream):
    pytest.importorskip("flask_session")
    cookie = login("session_flask.py", redis.socket)
    one = nginx(CONFIG, session="""
        lunary_session_id cookie=session;
        lunary_session session:$lunary_session_id;""")

    assert one.post(json=CHAT, headers={"Cookie": cookie}).status == 200

    run = runs.one()
    assert (run["user_id"], run["user_verified"]) == ("carol", "1")
    assert run.json("user_props") == {"id": "carol", "name": "Carol Diaz",
                                      "roles": ["a"]}
    assert "not for anybody" not in json.dumps(run)
    assert upstream.last.header("cookie") is None


def test_flask_session_in_msgpack_is_no_session(nginx, redis, runs):
    pytest.importorskip("flask_session")
    cookie = login("session_flask.py", redis.socket, "msgpack")
    one = nginx(CONFIG, session="""
        lunary_session_id cookie=session;
        lunary_session session:$lunary_session_id format=json;""")

    assert one.post(json=CHAT, headers={"Cookie": cookie}).status == 401
    one.wait_log("is not a JSON object")


def test_django(nginx, redis, runs):
    pytest.importorskip("django_redis")
    cookie = login("session_django.py", redis.socket)
    one = nginx(CONFIG, session="""
        lunary_session_id cookie=sessionid;
        lunary_session :1:django.contrib.sessions.cache$lunary_session_id
                       user=_auth_user_id;""")

    assert one.post(json=CHAT, headers={"Cookie": cookie}).status == 200

    run = runs.one()
    assert (run["user_id"], run["user_verified"]) == ("42", "1")
    assert run.json("user_props")["name"] == "Carol Diaz"
    assert "0123456789abcdef" not in json.dumps(run)


def test_spring_session_with_json_values(nginx, redis, runs):
    """As GenericJackson2JsonRedisSerializer writes: each value is JSON."""
    redis.hset("spring:session:sessions:s1", mapping={
        "creationTime": "1700000000000", "maxInactiveInterval": "1800",
        "sessionAttr:user": json.dumps({"@class": "app.User", "id": 42,
                                        "name": "Carol", "teams": ["a"]}),
        "sessionAttr:login": '"carol"'})
    one = nginx(CONFIG.replace("{{ session }}", """
        lunary_session_id cookie=SESSION;
        {{ session }}"""), session="""
        lunary_session spring:session:sessions:$lunary_session_id
                       user=sessionAttr:login props=sessionAttr:user;""")

    assert one.post(json=CHAT,
                    headers={"Cookie": "SESSION=s1"}).status == 200

    run = runs.one()
    assert run["user_id"] == "carol"
    assert run.json("user_props")["teams"] == ["a"]


def test_a_path_into_a_hashs_json_value(nginx, redis, runs):
    redis.hset("spring:session:sessions:s1", mapping={
        "sessionAttr:user": '{"ids":[{"v":41},{"v":42}]}'})
    one = nginx(CONFIG, session="""
        lunary_session_id cookie=SESSION;
        lunary_session spring:session:sessions:$lunary_session_id
                       user=sessionAttr:user.ids.1.v;""")

    assert one.post(json=CHAT,
                    headers={"Cookie": "SESSION=s1"}).status == 200
    assert runs.one()["user_id"] == "42"


def test_an_opaque_token_is_a_key(nginx, redis, runs, upstream):
    redis.set("token:tok-1", "carol")
    one = nginx(CONFIG, session="""
        lunary_session_id bearer;
        lunary_session token:$lunary_session_id format=string;
        proxy_set_header Authorization "Bearer sk-provider";""")

    assert one.post(json=CHAT, headers={
        "Authorization": "Bearer tok-1"}).status == 200
    assert one.post(json=CHAT, headers={
        "Authorization": "Bearer tok-2"}).status == 401

    assert runs(2)[0]["user_id"] == "carol"
    assert upstream.last.header("authorization") == "Bearer sk-provider"
