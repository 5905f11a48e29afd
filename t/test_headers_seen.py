"""Headers that the upstream does not get, or gets changed, as other modules see
them: limits, auth_request, keys of caches, logs, scripts.

Limits and access come before headers are taken out.  $http_NAME keeps what the
client claimed in a header that was taken out, and shows what the upstream gets of
the session's, and of one that was put in or narrowed, whoever asked for it first.
What the client wrote where a user is put in is seen by nobody."""

import pytest

from harness.lua import LUA, needs_lua

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
    assert upstream.last.header("x-copy") is None
    runs(2)


SERVICE = """
        location = /auth {{
            internal; lunary {lunary}; proxy_pass_request_body off;
            lunary_strip off; proxy_set_header Content-Length "";
            proxy_pass {url};
        }}"""

SESSION = """lunary_session_id cookie=sid; lunary_session sess:$lunary_session_id;
            lunary_require_user verified;"""

MALLORY = {"Cookie": "sid=s1", "X-User": "mallory", "X-Lunary-User-Id": "eve"}


@pytest.mark.parametrize("lunary", ["on", "off"])
def test_a_service_is_told_the_user_and_not_the_clients_word(
        nginx, upstream, another_upstream, redis, lunary):
    """Of an auth service in a location with `lunary on`, which is enforced on as
    any upstream, the session's cookie and claims are kept away, too."""
    redis.set("sess:s1", '{"user_id":"ann"}')
    auth = another_upstream()
    auth.answer(b"")
    one = nginx(CONFIG, server=SESSION + "lunary_inject_user header:X-User;",
                extra="auth_request /auth;",
                more=SERVICE.format(lunary=lunary, url=auth.url))

    assert one.post(PATH, json=CHAT, headers=MALLORY).status == 200

    assert auth.last.header_values("x-user") == ["ann"]
    assert (auth.last.header("cookie") is None) == (lunary == "on")
    assert (auth.last.header("x-lunary-user-id") is None) == (lunary == "on")
    assert upstream.last.header_values("x-user") == ["ann"]
    assert upstream.last.header("cookie") is None
    assert upstream.last.header("x-lunary-user-id") is None


def test_a_subrequest_takes_no_claim_from_the_key_of_a_cache(
        nginx, upstream, another_upstream):
    """It shares the main request's variables, and is without the header."""
    auth = another_upstream()
    auth.answer(b"")
    one = nginx(CONFIG, main="proxy_cache_path cache keys_zone=c:1m;", extra="""
            auth_request /auth;
            proxy_cache c; proxy_cache_methods POST; proxy_cache_valid any 1h;
            proxy_cache_key $uri$http_x_lunary_user_id;""",
                more=SERVICE.format(lunary="on; proxy_set_header X-User "
                                           "$http_x_lunary_user_id",
                                    url=auth.url))

    for name in ("ann", "bob"):
        upstream.once(b'{"for":"%s"}' % name.encode(),
                      content_type="application/json")
        assert one.post(PATH, json=CHAT, headers={
            "X-Lunary-User-Id": name}).json() == {"for": name}

    assert [r.header("x-user") for r in auth.requests] == ["ann", "bob"]


@pytest.mark.parametrize("main", ["lunary_phase precontent;", "lunary off;"])
def test_an_upstream_that_is_asked_before_anyone_is_judged(
        nginx, another_upstream, redis, main):
    redis.set("sess:s1", '{"user_id":"ann"}')
    auth = another_upstream()
    auth.answer(b"")
    one = nginx(CONFIG.replace("lunary on;", ""),
                server="lunary on; lunary_session_id cookie=sid; "
                       "lunary_session sess:$lunary_session_id;"
                       "lunary_inject_user header:X-User;",
                extra=main + "auth_request /auth;",
                more=SERVICE.replace("lunary_strip off;", "").replace(
                    "proxy_pass_request_body off;", "").format(
                        lunary="on", url=auth.url))

    one.get("/v1/models", headers={**MALLORY, "X-Kept": "1"})

    assert auth.last.header("x-kept") == "1"
    for name in "x-user", "cookie", "x-lunary-user-id":
        assert auth.last.header(name) is None


def test_behind_a_redirect_to_the_other_phase(nginx, upstream, another_upstream,
                                              redis, runs):
    redis.set("sess:s1", '{"user_id":"ann"}')
    auth = another_upstream()
    auth.answer(b"")
    one = nginx(CONFIG, server=SESSION, extra="""
            proxy_intercept_errors on; error_page 502 = @second;""",
                more=f"""
        location @second {{
            lunary on; lunary_phase precontent; auth_request /auth;
            proxy_pass {upstream.url};
        }}""" + SERVICE.format(lunary="off", url=auth.url))
    upstream.once(b"", status=502)

    assert one.post(PATH, json=CHAT, headers=MALLORY).status == 200

    assert auth.last.header("cookie") == "sid=s1"
    assert [r.header("cookie") for r in upstream.requests] == [None, None]
    runs.one()


@pytest.mark.parametrize("value, told", [("foo", ["foo"]), ('""', []),
                                         ("$http_x_user", ["ann"])])
def test_proxy_set_header_takes_the_place_of_what_is_put_in(
        nginx, upstream, runs, value, told):
    one = nginx(CONFIG, extra=f"proxy_set_header X-User {value}; "
                              "lunary_inject_user header:X-User;")

    one.post(PATH, json=CHAT, headers=ann(**{"X-User": "mallory"}))

    assert upstream.last.header_values("x-user") == told
    runs.one()


def test_a_limit_by_what_is_put_in_is_one_of_the_user(nginx, runs):
    one = nginx(CONFIG, main="limit_req_zone $http_x_user zone=z:1m rate=1r/m;",
                extra="limit_req zone=z; limit_req_status 429; "
                      "lunary_inject_user header:X-User;")

    assert [one.post(PATH, json=CHAT, headers=ann(**{"X-User": name})).status
            for name in "abc"] == [200, 429, 429]
    runs(3)


def test_a_map_of_what_is_put_in(nginx, upstream, runs):
    one = nginx(CONFIG, main="""
        map $http_x_user $tier { default free; ceo gold; }
        limit_req_zone $tier zone=z:1m rate=9r/s;""",
                extra="limit_req zone=z burst=9; proxy_set_header X-Tier $tier; "
                      "lunary_inject_user header:X-User;")

    one.post(PATH, json=CHAT, headers=ann(**{"X-User": "ceo"}))

    assert upstream.last.header("x-tier") == "free"
    runs.one()


def test_what_was_judged_is_rewritten_though_a_variable_says_off_by_then(
        nginx, upstream, another_upstream, redis, runs):
    redis.set("sess:s1", '{"user_id":"ann"}')
    auth = another_upstream()
    auth.answer(b"")
    one = nginx(CONFIG.replace("lunary on;", "lunary $llm;"), extra=SESSION + """
            set $llm 1; auth_request /auth;
            auth_request_set $llm $upstream_http_x_llm;""",
                more=SERVICE.format(lunary="off", url=auth.url))

    assert one.post(PATH, json=CHAT, headers=MALLORY).status == 200

    assert upstream.last.header("cookie") is None
    assert upstream.last.header("x-lunary-user-id") is None


@pytest.mark.parametrize("before", ["", "limit_req zone=z burst=9;"],
                         ids=["first", "asked-before"])
def test_a_token_is_not_handed_on_by_its_variable(nginx, upstream, redis, runs,
                                                  before):
    redis.set("sess:t1", '{"user_id":"ann"}')
    one = nginx(CONFIG, main="limit_req_zone $http_authorization zone=z:1m "
                             "rate=9r/s;", extra=before + """
            lunary_session_id bearer; lunary_session sess:$lunary_session_id;
            proxy_set_header Authorization $http_authorization;""")

    assert one.post(PATH, json=CHAT,
                    headers={"Authorization": "Bearer t1"}).status == 200

    assert upstream.last.header("authorization") is None
    assert runs.one()["user_id"] == "ann"


def test_once_more_through_the_same_location(nginx, upstream, another_upstream,
                                             redis, runs):
    redis.set("sess:s1", '{"user_id":"ann"}')
    auth = another_upstream()
    auth.answer(b"")
    one = nginx(CONFIG.replace("location / {", "location @main {"),
                extra=SESSION + """
            auth_request /auth; lunary_inject_user header:X-User;
            proxy_intercept_errors on; error_page 502 = @main;""",
                server="recursive_error_pages on;",
                more="location / { error_page 418 = @main; return 418; }"
                     + SERVICE.format(lunary="off", url=auth.url))
    upstream.once(b"", status=502)

    assert one.post(PATH, json=CHAT, headers=MALLORY).status == 200

    assert [r.header("cookie") for r in auth.requests] == ["sid=s1"] * 2
    for request in upstream.requests:
        assert request.header_values("x-user") == ["ann"]
        assert request.header("cookie") is None
        assert request.header("x-lunary-user-id") is None
    assert len(upstream.requests) == 2
    runs.one()


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


@needs_lua
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


@needs_lua
def test_the_token_is_there_for_a_script_and_not_for_the_upstream(
        nginx, upstream, redis, runs):
    redis.set("sess:t1", '{"user_id":"ann"}')
    one = scripted(nginx, 'if ngx.var.http_authorization ~= "Bearer t1" '
                          'then ngx.exit(403) end')

    assert one.post(PATH, json=CHAT,
                    headers={"Authorization": "Bearer t1"}).status == 200

    assert upstream.last.header("authorization") is None
    assert runs.one()["user_id"] == "ann"


@needs_lua
def test_a_part_that_a_script_asks_for(nginx, upstream, another_upstream, redis):
    """It goes to an upstream like the request itself."""
    redis.set("sess:s1", '{"user_id":"ann"}')
    part = another_upstream()
    one = nginx(CONFIG, modules="".join(f"load_module {p};\n" for p in LUA),
                server=SESSION + "lunary_inject_user header:X-User;",
                extra="""access_by_lua_block {
                ngx.location.capture("/part", {method = ngx.HTTP_POST}) }""",
                more=f"location /part {{ lunary on; proxy_pass {part.url}; }}")

    assert one.post(PATH, json=CHAT, headers=MALLORY).status == 200

    for request in part.last, upstream.last:
        assert request.header_values("x-user") == ["ann"]
        assert request.header("cookie") is None
        assert request.header("x-lunary-user-id") is None
