"""Headers that the upstream does not get, or gets changed, as other modules see
them: limits, auth_request, keys of caches, logs, scripts.

Limits and access come before the headers are rewritten.  $http_NAME keeps what
the client sent of a header that was taken out, and shows what the upstream gets
of one that was put in or narrowed, whoever asked for it first."""

import pathlib

import pytest

from harness import SANITIZED

CONFIG = """
{{ modules | default("") }}
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    {{ main | default("") }}
    server {
        listen {{ listen }};
        {{ server | default("") }}
        location / {
            lunary on;
            {{ extra | default("") }}
            proxy_pass {{ upstream }};
        }
        {{ more | default("") }}
    }
}
"""

PATH = "/v1/chat/completions"
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
PHASES = pytest.mark.parametrize("phase", ["preaccess", "precontent"])

MODULES = pathlib.Path("/usr/lib/nginx/modules")
LUA = [MODULES / "ndk_http_module.so", MODULES / "ngx_http_lua_module.so"]

lua = pytest.mark.skipif(
    bool(SANITIZED) or not all(p.exists() for p in LUA),
    reason="needs Debian's nginx with libnginx-mod-http-lua")


def ann(**headers):
    return {"X-Lunary-User-Id": "ann", **headers}


@PHASES
@pytest.mark.parametrize("header,key", [
    ("X-Lunary-User-Id", "$http_x_lunary_user_id"),
    ("X-Session", "$http_x_session")])
def test_a_limit_by_a_header_that_is_taken_out(nginx, upstream, runs, header,
                                               key, phase):
    one = nginx(CONFIG, main=f"limit_req_zone {key} zone=z:1m rate=1r/m;",
                extra="limit_req zone=z; limit_req_status 429; "
                      f"lunary_session_id header=X-Session; lunary_phase {phase};")

    status = [one.post(PATH, json=CHAT, headers={header: value}).status
              for value in ("ann", "ann", "bob", "bob")]

    assert status == [200, 429, 200, 429]
    assert [r.header(header) for r in upstream.requests] == [None, None]
    runs(4)


def test_auth_request_gets_what_the_client_sent(nginx, upstream,
                                                another_upstream, redis, runs):
    redis.set("sess:s1", '{"user_id":"ann"}')
    auth = another_upstream()
    auth.answer(b"")
    one = nginx(CONFIG, extra="""
            lunary_session_id cookie=sid; lunary_session sess:$lunary_session_id;
            lunary_require_user on; auth_request /auth;""",
                more=f"""
        location = /auth {{
            internal; lunary off; proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_pass {auth.url};
        }}""")

    assert one.post(PATH, json=CHAT, headers={
        "Cookie": "sid=s1; theme=dark", "X-Lunary-Tags": "a"}).status == 200

    assert auth.last.header("cookie") == "sid=s1; theme=dark"
    assert auth.last.header("x-lunary-tags") == "a"
    assert upstream.last.header("cookie") == "theme=dark"
    assert upstream.last.header("x-lunary-tags") is None
    assert runs.one()["user_id"] == "ann"


@PHASES
def test_the_key_of_a_cache(nginx, upstream, phase):
    one = nginx(CONFIG, main="proxy_cache_path cache keys_zone=c:1m;", extra=f"""
            lunary_phase {phase};
            proxy_cache c; proxy_cache_methods POST; proxy_cache_valid any 1h;
            proxy_cache_key $uri$http_x_lunary_user_id;""")

    for name in ("ann", "bob"):
        upstream.once(b'{"for":"%s"}' % name.encode(),
                      content_type="application/json")
        for _ in range(2):
            assert one.post(PATH, json=CHAT, headers={
                "X-Lunary-User-Id": name}).json() == {"for": name}

    assert len(upstream.requests) == 2


@PHASES
def test_a_log_says_what_the_client_sent(nginx, runs, phase):
    one = nginx(CONFIG, main='log_format h "$http_x_lunary_user_id";',
                extra=f"access_log seen.log h; lunary_phase {phase};")

    assert one.post(PATH, json=CHAT, headers=ann()).status == 200

    runs.one()
    one.quit()
    assert one.log("seen.log") == "ann\n"


@PHASES
@pytest.mark.parametrize("before", ["", "limit_req zone=z burst=9;"],
                         ids=["first", "asked-before"])
def test_what_is_put_in_is_what_the_variable_says(nginx, upstream, runs, phase,
                                                  before):
    """The client's own word for it never passes, by no way."""
    one = nginx(CONFIG, main="limit_req_zone $http_x_user zone=z:1m rate=9r/s;",
                extra=f"{before} lunary_phase {phase}; "
                      "lunary_inject_user header:X-User; "
                      "proxy_set_header X-Copy $http_x_user;")

    assert one.post(PATH, json=CHAT, headers=ann(
        **{"X-User": "mallory"})).status == 200
    assert upstream.last.header("x-user") == "ann"
    assert upstream.last.header("x-copy") == "ann"

    assert one.post(PATH, json=CHAT, headers={"X-User": "mallory"}).status == 200
    assert upstream.last.header("x-user") is None
    runs(2)


@PHASES
@pytest.mark.parametrize("before", ["", "limit_req zone=z burst=9;"],
                         ids=["first", "asked-before"])
def test_an_encoding_that_nobody_could_read_is_not_asked_for(nginx, upstream,
                                                             phase, before):
    one = nginx(CONFIG, main="limit_req_zone $http_accept_encoding zone=z:1m "
                             "rate=9r/s;",
                extra=f"{before} lunary_phase {phase}; "
                      "proxy_set_header Accept-Encoding $http_accept_encoding;")

    one.post(PATH, json=CHAT, headers={"Accept-Encoding": "gzip, dcb"})

    assert upstream.last.header("accept-encoding") == "gzip"


def test_behind_a_redirect_the_next_location_sees_them_all(nginx, upstream, runs):
    one = nginx(CONFIG, extra="""
            error_page 502 = @second; proxy_intercept_errors on;
            proxy_set_header X-Copy $http_accept_encoding;""",
                more=f"""
        location @second {{
            lunary off;
            proxy_set_header X-Copy $http_accept_encoding;
            proxy_pass {upstream.url};
        }}""")
    upstream.once(b"", status=502)

    one.post(PATH, json=CHAT, headers=ann(**{"Accept-Encoding": "gzip, dcb"}))

    first, second = upstream.requests
    assert first.header("x-copy") == "gzip"
    assert first.header("x-lunary-user-id") is None
    assert second.header("x-copy") == second.header("accept-encoding") == \
        "gzip, dcb"
    assert second.header("x-lunary-user-id") == "ann"
    runs.one()


def scripted(nginx, script, **variables):
    return nginx(CONFIG, modules="".join(f"load_module {p};\n" for p in LUA),
                 extra=f"""
            lunary_session_id bearer; lunary_session sess:$lunary_session_id;
            lunary_require_user on;
            access_by_lua_block {{ {script} }}""", **variables)


@lua
def test_a_key_that_a_script_puts_in_the_tokens_place_stays(nginx, upstream,
                                                            redis, runs):
    redis.set("sess:t1", '{"user_id":"ann"}')
    one = scripted(nginx, 'ngx.req.set_header("Authorization", "Bearer sk-1") '
                          'ngx.req.set_header("X-Lunary-Tags", "mine")')

    assert one.post(PATH, json=CHAT, headers={
        "Authorization": "Bearer t1", "X-Lunary-Tags": "a"}).status == 200

    assert upstream.last.header_values("authorization") == ["Bearer sk-1"]
    assert upstream.last.header_values("x-lunary-tags") == ["mine"]
    assert runs.one()["user_id"] == "ann"


@lua
def test_the_token_is_there_for_a_script_and_not_for_the_upstream(
        nginx, upstream, redis, runs):
    redis.set("sess:t1", '{"user_id":"ann"}')
    one = scripted(nginx, 'if ngx.var.http_authorization ~= "Bearer t1" '
                          'then ngx.exit(403) end')

    assert one.post(PATH, json=CHAT,
                    headers={"Authorization": "Bearer t1"}).status == 200

    assert upstream.last.header("authorization") is None
    assert runs.one()["user_id"] == "ann"
