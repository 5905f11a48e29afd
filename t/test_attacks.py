# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""Ways past lunary_require_user, round the phases and locations of nginx: what
docs/security.md says of each."""

import base64
import hashlib
import hmac

import pytest

CALL = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
NAMED = {**CALL, "user": "ann"}

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}

    proxy_cache_path {{ dir }}/cache keys_zone=cache:1m;

    server {
        listen {{ listen }};

        lunary              on;
        lunary_require_user {{ require | default("on") }};
        lunary_public       GET /open/*;

        location / {
            proxy_pass {{ upstream }};
        }

        location /hop/ {
            lunary_require_user off;
            rewrite ^/hop(/.*)$ $1 last;
        }

        location /try/ {
            lunary_require_user off;
            root {{ dir }}/none;
            try_files $uri @strict;
        }

        location @strict {
            proxy_pass {{ upstream }};
        }

        location /accel/ {
            lunary_require_user off;
            proxy_pass {{ upstream }};
        }

        location /inner/ {
            internal;
            proxy_pass {{ upstream }}/v1/;
        }

        location /error/ {
            lunary_require_user off;
            error_page 404 = /v1/chat/completions;
            return 404;
        }

        location /ssi/ {
            lunary_require_user off;
            ssi on;
            ssi_types *;
            proxy_pass {{ upstream }};
        }

        location /mirrored/ {
            lunary_require_user off;
            mirror /v1/mirror;
            proxy_pass {{ upstream }};
        }

        location /cached/ {
            proxy_cache cache;
            proxy_cache_methods GET HEAD POST;
            proxy_cache_key $uri;
            proxy_cache_valid any 1h;
            proxy_ignore_headers Cache-Control Expires Set-Cookie Vary;
            proxy_pass {{ upstream }}/;
        }
    }
}
"""


def refused(answer, code="user_required"):
    return (answer.status in (400, 401, 403, 503)
            and answer.json()["error"]["code"] == code)


@pytest.mark.parametrize("path", [
    "/v1/chat/completions", "//v1//chat/completions", "/v1/chat/completions/",
    "/v1/chat/completions;x=1", "/V1/CHAT/COMPLETIONS", "/v1/%63hat/completions",
    "/v1/../v1/chat/completions", "/v1/chat/completions?user=ann",
    "/v1/files", "/v1/batches", "/v1/threads", "/", "/favicon.ico",
    "/hop/v1/chat/completions", "/try/v1/chat/completions",
    "/error/v1/chat/completions", "/open/../v1/chat/completions",
    "/open/%2e%2e/v1/chat/completions", "/open/x",
])
def test_no_spelling_of_a_path_is_a_way_past(nginx, upstream, path):
    answer = nginx(CONFIG).post(path, json=CALL)

    assert refused(answer), (path, answer.status)
    assert upstream.requests == []


def test_a_public_path_is_public_for_its_method_only(nginx, upstream):
    nginx = nginx(CONFIG, require="verified")

    assert nginx.get("/open/x").status != 401
    assert refused(nginx.get("/open/../v1/models"))
    assert refused(nginx.request("DELETE", "/open/x"))


@pytest.mark.parametrize("names", [
    ("X-Lunary-User-Id", "X-Lunary-User-Id"),
    ("X-Lunary-User-Id", "x-lunary-user-id"),
])
def test_two_identity_headers_are_refused(nginx, upstream, names):
    answer = nginx(CONFIG).post(json=CALL, headers=[
        (names[0], "ann"), (names[1], "bob")])

    assert refused(answer, "duplicate_identity")
    assert upstream.requests == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_plain_method_with_a_body_is_no_plain_one(nginx, upstream, method):
    answer = nginx(CONFIG).request(method, "/v1/chat/completions", json=CALL)

    assert answer.status == 400
    assert upstream.requests == []


def test_an_internal_redirect_of_the_upstreams_is_judged_anew(nginx,
                                                              upstream):
    upstream.answer(b"", headers={"X-Accel-Redirect": "/inner/x"})

    answer = nginx(CONFIG).post("/accel/x", json=CALL)

    assert refused(answer)
    assert [r.path for r in upstream.requests] == ["/accel/x"]


def test_with_a_user_the_internal_redirect_passes(nginx, upstream, runs):
    upstream.once(b"", headers={"X-Accel-Redirect": "/inner/x"})

    assert nginx(CONFIG).post("/accel/v1/chat/completions", json=NAMED
                              ).status != 400
    assert [r.path for r in upstream.requests] == [
        "/accel/v1/chat/completions", "/v1/x"]
    assert runs.one()["user_id"] == "ann"


def test_a_subrequest_takes_the_main_requests_verdict(nginx, upstream):
    upstream.once(b'<!--#include virtual="/v1/secret" -->',
                  content_type="text/html")

    nginx(CONFIG).post("/ssi/x", json=CALL)

    assert [r.path for r in upstream.requests] == ["/ssi/x"]


def test_with_a_user_the_subrequest_passes(nginx, upstream, runs):
    upstream.once(b'<!--#include virtual="/v1/more" -->',
                  content_type="text/html")

    nginx(CONFIG).post("/ssi/x", json=NAMED)

    assert [r.path for r in upstream.requests] == ["/ssi/x", "/v1/more"]
    assert runs.one()["uri"] == "/ssi/x"


def test_a_mirror_is_judged_too(nginx, upstream, runs):
    nginx = nginx(CONFIG)
    path = "/mirrored/v1/chat/completions"

    assert nginx.post(path, json=CALL).status == 200
    runs(1)

    assert [r.path for r in upstream.requests] == [path]


def test_a_mirrored_body_is_the_rewritten_one(nginx, upstream, runs):
    nginx = nginx(CONFIG)
    path = "/mirrored/v1/chat/completions"

    assert nginx.post(path, json={**NAMED, "user_props": {"a": 1}}
                      ).status == 200
    upstream.wait(2)

    assert {r.path for r in upstream.requests} == {path, "/v1/mirror"}
    assert [r.json() for r in upstream.requests] == [NAMED, NAMED]


def test_an_answer_from_the_cache_needs_a_user_too(nginx, upstream, runs):
    nginx = nginx(CONFIG)
    path = "/cached/v1/chat/completions"

    assert nginx.post(path, json=NAMED).status == 200
    assert nginx.post(path, json=NAMED).status == 200
    assert len(upstream.requests) == 1

    assert refused(nginx.post(path, json=CALL))
    assert [r["outcome"] for r in runs(3)] == ["ok", "ok", "rejected"]


# -- what nginx has proven, and what it has not

BASIC = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}

    map $host $switch { default off; }

    server {
        listen {{ listen }};
        lunary              on;
        lunary_require_user verified;

        location /basic/ {
            lunary_phase precontent;
            lunary_user verified:$remote_user;
            auth_basic "LLM";
            auth_basic_user_file {{ dir }}/htpasswd;
            proxy_pass {{ upstream }}/;
        }

        location /any/ {
            lunary_phase precontent;
            lunary_user verified:$remote_user;
            satisfy any;
            allow all;
            auth_basic "LLM";
            auth_basic_user_file {{ dir }}/htpasswd;
            proxy_pass {{ upstream }}/;
        }

        location /none/ {
            lunary_phase precontent;
            lunary_user verified:$remote_user;
            proxy_pass {{ upstream }}/;
        }

        location /off/ {
            lunary_phase precontent;
            lunary_user verified:$REMOTE_USER;
            auth_basic $switch;
            auth_basic_user_file {{ dir }}/htpasswd;
            proxy_pass {{ upstream }}/;
        }

        location /asked/ {
            lunary_phase precontent;
            lunary_user verified:$who;
            auth_request /auth;
            auth_request_set $who $upstream_http_x_who;
            proxy_pass {{ upstream }}/;
        }

        location = /auth {
            internal;
            lunary off;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_pass {{ upstream }}/auth;
        }
    }
}
"""


def basic(user, password):
    text = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": "Basic " + text}


@pytest.fixture
def guarded(nginx, folder):
    (folder / "nginx0").mkdir(exist_ok=True)
    (folder / "nginx0" / "htpasswd").write_text("ann:{PLAIN}right\n")
    return nginx(BASIC)


def test_a_right_password_verifies(guarded, runs):
    assert guarded.post("/basic/v1/chat/completions", json=CALL,
                        headers=basic("ann", "right")).status == 200

    run = runs.one()
    assert (run["user_id"], run["user_verified"], run["user_source"]) == (
        "ann", "1", "$remote_user")


@pytest.mark.parametrize("user, password", [("ann", "wrong"), ("bob", "x")])
def test_a_wrong_password_does_not(guarded, upstream, runs, user, password):
    answer = guarded.post("/basic/v1/chat/completions", json=CALL,
                          headers=basic(user, password))

    assert answer.status == 401
    assert upstream.requests == []
    assert "user_id" not in runs.one()


@pytest.mark.parametrize("place", ["any", "none", "off"])
def test_a_name_whose_password_nobody_checked_proves_nothing(
        guarded, upstream, place):
    answer = guarded.post(f"/{place}/v1/chat/completions", json=CALL,
                          headers=basic("ann", "wrong"))

    assert refused(answer)
    assert upstream.requests == []


def test_what_auth_request_says_is_proven(guarded, upstream, runs):
    upstream.once(b"", headers={"X-Who": "ann"})

    assert guarded.post("/asked/v1/chat/completions", json=CALL).status == 200

    run = runs.one()
    assert (run["user_id"], run["user_verified"]) == ("ann", "1")


def test_what_auth_request_does_not_say_is_nobody(guarded, upstream):
    upstream.once(b"")

    answer = guarded.post("/asked/v1/chat/completions", json=CALL,
                          headers={"X-Who": "ann"})

    assert refused(answer)


# -- sessions

SESSION = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    server {
        listen {{ listen }};
        location / {
            lunary              on;
            lunary_user         session;
            lunary_session      sess:$lunary_session_id format=json;
            lunary_session_id   cookie=sid secret_file={{ dir }}/secrets;
            lunary_require_user verified;
            proxy_pass          {{ upstream }};
        }
    }
}
"""


def signed(sid, secret):
    mac = hmac.new(secret.encode(), sid.encode(), hashlib.sha256).digest()
    signature = base64.b64encode(mac).decode().rstrip("=")
    return (f"s:{sid}.{signature}".replace("+", "%2B").replace("/", "%2F")
            .replace(":", "%3A"))


@pytest.fixture
def shop(nginx, folder, redis):
    (folder / "nginx0").mkdir(exist_ok=True)
    (folder / "nginx0" / "secrets").write_text("new secret\nold secret\n")
    redis.client.set("sess:abc", '{"user_id":"ann"}')
    return nginx(SESSION)


@pytest.mark.parametrize("secret", ["new secret", "old secret"])
def test_a_cookie_signed_by_any_of_the_secrets_counts(shop, runs, secret):
    assert shop.post(json=CALL, headers={
        "Cookie": "sid=" + signed("abc", secret)}).status == 200
    assert runs.one()["user_id"] == "ann"


@pytest.mark.parametrize("cookie", [
    signed("abc", "a guess"), "abc", "s:abc", "s:abc.", "s%3Aabc.AAAA",
    signed("abc", "new secret")[:-1], signed("abc", "new secret") + "x",
    signed("abd", "new secret").replace("abd", "abc"), "s:.", "", "s:abc.%",
])
def test_a_forged_cookie_is_no_session(shop, upstream, cookie):
    answer = shop.post(json=CALL, headers={"Cookie": "sid=" + cookie})

    assert refused(answer)
    assert upstream.requests == []
