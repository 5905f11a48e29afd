"""Calls without a user are refused, before the upstream hears of them, in
words that the official clients understand; each refusal is a run."""

import json

import pytest

from harness.client import H2Client

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    {{ main | default("") }}
    server {
        listen {{ listen }};
        listen 127.0.0.1:{{ port2 }} http2;
        location / {
            lunary on;
            lunary_require_user {{ require | default("on") }};
            {{ extra | default("") }}
            proxy_pass {{ upstream }};
        }
        location /gone { return 404 "not json"; }
    }
}
"""

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


def test_a_call_without_a_user_is_refused(nginx, upstream, runs):
    answer = nginx(CONFIG).post(json=CHAT)

    assert answer.status == 400
    assert answer.header("content-type").startswith("application/json")
    assert answer.header("x-should-retry") == "false"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == ("user_required", "user")
    assert upstream.requests == []

    run = runs.one()
    assert (run["outcome"], run["status"]) == ("rejected", "400")
    assert "upstream_status" not in run
    assert run.json("error")["code"] == "user_required"
    assert run["model"] == "gpt-4o"


@pytest.mark.parametrize("word, status", [
    ("off", 200), ("on", 400), ("verified", 401), ("none", 401), ("", 401)])
def test_a_variable_that_holds_no_known_word_requires_most(
        nginx, runs, word, status):
    one = nginx(CONFIG, require="$word",
                main='map $uri $word { default "%s"; }' % word)

    assert one.post(json=CHAT).status == status
    assert one.post(json=CHAT).status == status
    runs(2)
    warnings = one.log().count("holds no word that its directive knows")
    assert (warnings > 0) == (word in ("none", ""))


def test_verified_wants_more_than_a_claim(nginx, upstream, runs):
    answer = nginx(CONFIG, require="verified").post(
        json={**CHAT, "user": "me"})

    assert answer.status == 401
    assert answer.header("www-authenticate")
    assert answer.json()["error"]["code"] == "user_required"
    assert upstream.requests == []
    run = runs.one()
    assert (run["outcome"], run["status"]) == ("rejected", "401")


def test_with_a_user_it_passes(nginx, upstream, runs):
    assert nginx(CONFIG).post(json={**CHAT, "user": "me"}).status == 200

    assert runs.one()["outcome"] == "ok"


@pytest.mark.parametrize("path, shape", [
    ("/v1/messages", lambda e: e["type"] == "error"
     and e["error"]["message"].endswith("(user_required)")),
    ("/v1beta/models/gemini-2.0-flash:generateContent",
     lambda e: e["error"]["code"] == 400 and e["error"]["status"]),
    ("/api/chat", lambda e: isinstance(e["error"], str)),
    ("/v1/responses", lambda e: e["error"]["code"] == "user_required"),
    ("/v1/embeddings", lambda e: e["error"]["code"] == "user_required"),
    ("/whatever", lambda e: e["error"]["code"] == "user_required")])
def test_each_api_gets_its_own_shape(nginx, upstream, path, shape):
    answer = nginx(CONFIG).post(path, json=CHAT)

    assert answer.status == 400
    assert shape(answer.json()), answer.json()
    assert upstream.requests == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_plain_reads_pass_under_on(nginx, upstream, method):
    assert nginx(CONFIG).request(method, "/v1/models").status != 400

    assert upstream.wait()[0].method == method


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_every_other_method_needs_a_user(nginx, upstream, method):
    assert nginx(CONFIG).request(method, "/v1/files", body=b"").status == 400

    assert upstream.requests == []


@pytest.mark.parametrize("method, status", [("GET", 401), ("HEAD", 401),
                                            ("POST", 401)])
def test_reads_need_a_user_under_verified(nginx, upstream, method, status):
    answer = nginx(CONFIG, require="verified").request(method, "/v1/models")

    assert answer.status == status
    assert upstream.requests == []


def test_a_preflight_passes_under_verified(nginx, upstream):
    nginx(CONFIG, require="verified").request(
        "OPTIONS", "/v1/models", headers={
            "Origin": "http://a", "Access-Control-Request-Method": "POST"})

    assert upstream.wait()[0].method == "OPTIONS"


def test_an_upgrade_needs_a_user(nginx, upstream):
    answer = nginx(CONFIG).get("/v1/realtime", headers={
        "Upgrade": "websocket", "Connection": "upgrade"})

    assert answer.status == 400
    assert upstream.requests == []


# -- exceptions

@pytest.mark.parametrize("path", ["/v1/open", "/v1/pre/any/thing",
                                  "//v1//open", "/v1/x/../open"])
def test_public_paths_pass(nginx, upstream, path):
    one = nginx(CONFIG, extra="lunary_public /v1/open /v1/pre/*;")

    one.post(path, json=CHAT)

    assert len(upstream.requests) == 1


@pytest.mark.parametrize("path", ["/v1/open/", "/v1/opener", "/v1/Open",
                                  "/v1/open;x", "/v1/pre",
                                  "/v1/pre/../chat/completions"])
def test_others_do_not(nginx, upstream, path):
    one = nginx(CONFIG, extra="lunary_public /v1/open /v1/pre/*;")

    assert one.post(path, json=CHAT).status == 400
    assert upstream.requests == []


def test_public_may_name_a_method(nginx, upstream):
    one = nginx(CONFIG, extra="lunary_public PUT /v1/open;")

    assert one.request("PUT", "/v1/open", json=CHAT).status != 400
    assert one.request("POST", "/v1/open", json=CHAT).status == 400


def test_a_public_get_is_a_public_head_too(nginx, upstream):
    one = nginx(CONFIG, require="verified",
                extra="lunary_public GET /v1/open;")

    assert one.request("HEAD", "/v1/open").status != 401
    assert one.request("HEAD", "/v1/other").status == 401
    assert one.request("DELETE", "/v1/open").status == 401


def test_dry_run_only_counts(nginx, upstream, runs):
    one = nginx(CONFIG, extra="lunary_dry_run on;")

    assert one.post(json=CHAT).status == 200

    run = runs.one()
    assert (run["outcome"], run["would_reject"]) == ("ok", "user_required")
    assert len(upstream.requests) == 1


def test_require_may_be_a_variable(nginx):
    one = nginx(CONFIG.replace("{{ lunary }}", """{{ lunary }}
        map $http_x_internal $required { default on; yes off; }"""),
        require="$required")

    assert one.post(json=CHAT).status == 400
    assert one.post(json=CHAT, headers={"X-Internal": "yes"}).status == 200


# -- conflicts

def test_a_claim_that_differs_may_be_refused(nginx, redis, upstream, runs):
    redis.set("sess:s1", '{"user_id":"carol"}')
    one = nginx(CONFIG, extra="""
        lunary_session_id cookie=sid;
        lunary_session sess:$lunary_session_id;
        lunary_identity_conflict reject;""")

    answer = one.post(json={**CHAT, "user": "mallory"},
                      headers={"Cookie": "sid=s1"})

    assert answer.status == 403
    assert answer.json()["error"]["code"] == "user_mismatch"
    assert upstream.requests == []
    run = runs.one()
    assert (run["user_id"], run["claimed_user_id"]) == ("carol", "mallory")

    same = one.post(json={**CHAT, "user": "carol"},
                    headers={"Cookie": "sid=s1"})
    assert same.status == 200
    runs(2)


# -- bodies that cannot be judged

def test_a_user_given_twice_is_refused(nginx, upstream, runs):
    answer = nginx(CONFIG).post(
        body=b'{"user":"a","model":"m","USER":"b","messages":[]}')

    assert answer.status == 400
    assert answer.json()["error"]["code"] == "duplicate_identity"
    assert upstream.requests == []
    assert runs.one()["outcome"] == "rejected"


def test_a_user_given_twice_passes_where_none_is_required(nginx, runs):
    answer = nginx(CONFIG, require="off").post(
        body=b'{"user":"a","model":"m","user":"b","messages":[]}')

    assert answer.status == 200
    assert runs.one()["user_id"] == "b"


@pytest.mark.parametrize("body", [b"", b"no json", b'{"user":"a"',
                                  b'{"user":"a"} garbage', b'{"user":"a"}{}',
                                  b'\xef\xbb\xbf{"user":"a"}', b"[1]",
                                  '{"user":"a"}'.encode("utf-16"),
                                  b'{"user":"a",}', b"{'user':'a'}"])
def test_a_body_that_is_not_json_is_no_claim(nginx, upstream, body):
    answer = nginx(CONFIG).post(body=body)

    assert answer.status == 400
    assert answer.json()["error"]["code"] in ("invalid_json",
                                              "user_required")
    assert upstream.requests == []


def test_a_body_in_an_unknown_encoding_is_refused(nginx, upstream):
    answer = nginx(CONFIG).post(body=b'{"user":"a"}',
                                headers={"Content-Encoding": "compress"})

    assert answer.status == 415
    assert answer.json()["error"]["code"] == "unsupported_encoding"
    assert upstream.requests == []


def test_a_header_is_enough_where_the_body_cannot_be_read(nginx, upstream):
    answer = nginx(CONFIG).post(body=b"no json", headers={
        "X-Lunary-User-Id": "me"})

    assert upstream.wait()[0].body == b"no json"
    assert answer.status == 400              # the stand-in's own words
    assert answer.json()["error"]["code"] is None


def test_a_large_body_without_a_user_is_refused(nginx, upstream):
    body = json.dumps({**CHAT, "pad": "x" * 900000}).encode()

    assert nginx(CONFIG).post(body=body).status == 400
    assert upstream.requests == []


def test_a_refusal_is_not_an_error_page(nginx):
    one = nginx(CONFIG, extra="error_page 400 401 /gone;")

    answer = one.post(json=CHAT)

    assert (answer.status, answer.json()["error"]["code"]) == (
        400, "user_required")


def test_a_connection_is_kept_after_a_refusal(nginx, runs):
    with nginx(CONFIG).client() as c:
        assert c.request("POST", "/v1/chat/completions",
                         json=CHAT).status == 400
        assert c.request("POST", "/v1/chat/completions",
                         json={**CHAT, "user": "me"}).status == 200

    assert [r["outcome"] for r in runs(2)] == ["rejected", "ok"]


def test_http2_calls_are_judged_alike(nginx, upstream, runs):
    one = nginx(CONFIG)

    with H2Client("127.0.0.1", one.port2) as c:
        refused = c.request("POST", "/v1/chat/completions", json=CHAT)
        passed = c.request("POST", "/v1/chat/completions",
                           json={**CHAT, "user": "me"})

    assert (refused.status, passed.status) == (400, 200)
    assert len(upstream.requests) == 1
    assert [r["outcome"] for r in runs(2)] == ["rejected", "ok"]


def test_expect_100_continue_is_judged_alike(nginx, upstream):
    body = json.dumps(CHAT).encode()

    with nginx(CONFIG).client() as c:
        c.send(c.head("POST", "/v1/chat/completions",
                      {"Expect": "100-continue"}, body))
        c.send(body)
        assert c.read().status == 400
    assert upstream.requests == []


def test_the_method_override_header_is_ignored(nginx, upstream):
    assert nginx(CONFIG).post(json=CHAT, headers={
        "X-HTTP-Method-Override": "GET"}).status == 400
    assert upstream.requests == []


def test_header_names_with_underscores_are_no_identity(nginx, upstream):
    assert nginx(CONFIG).post(json=CHAT, headers={
        "X_Lunary_User_Id": "me"}).status == 400
