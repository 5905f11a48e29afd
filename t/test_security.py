"""Nothing gets past: calls that try to be somebody else, or nobody, where a
user is required.  docs/security.md names the test behind each attack."""

import gzip
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
        {{ server | default("") }}
        lunary on;
        lunary_require_user {{ require | default("on") }};
        lunary_session_id cookie=sid;
        lunary_session sess:$lunary_session_id;
        location / {
            {{ extra | default("") }}
            proxy_pass {{ upstream }};
        }
        {{ more | default("") }}
    }
}
"""

PATH = "/v1/chat/completions"
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
COOKIE = {"Cookie": "sid=s1"}


def chat(**members):
    return {**CHAT, **members}


def code(answer):
    return answer.status, answer.json()["error"]["code"]


@pytest.fixture
def guarded(nginx, redis, upstream):
    """One nginx that requires a user, and a session s1 of carol."""
    redis.set("sess:s1", '{"user_id":"carol"}')

    def make(**variables):
        return nginx(CONFIG, **variables)

    return make


# -- ids

NO_IDS = {
    "empty": "", "null": None, "number": 7, "float": 1.5, "true": True,
    "object": {}, "object with id": {"id": "a"}, "array": [],
    "array of one": ["alice"], "blank": "  \t ", "long": "x" * 257,
    "long in bytes": "é" * 129, "control": "a\x01b", "NUL": "a\x00b",
    "newline": "a\nb", "DEL": "a\x7fb", "C1": "a\x85b", "ZWSP": "a\u200bb",
    "ZWJ": "a\u200db", "BOM": "\ufeffa", "RLO": "a\u202eb",
    "LRI": "a\u2066b", "word joiner": "\u2060", "no-break space": "\u00a0",
    "ideographic space": "\u3000\u3000"}


@pytest.mark.parametrize("member", ["user", "user_id", "metadata"])
@pytest.mark.parametrize("kind", NO_IDS)
def test_what_is_no_id_is_nobody(guarded, upstream, kind, member):
    value = NO_IDS[kind]
    body = chat(metadata={"user_id": value}) if member == "metadata" \
        else chat(**{member: value})

    assert code(guarded().post(json=body)) == (400, "user_required")
    assert upstream.requests == []


@pytest.mark.parametrize("value", ["", " ", "a\u200bb", "x" * 257,
                                   "a\u202eb", "\udcff\udcfe"])
def test_nor_is_it_in_a_header(guarded, upstream, value):
    answer = guarded().post(json=CHAT, headers={"X-Lunary-User-Id": value})

    assert code(answer) == (400, "user_required")
    assert upstream.requests == []


# -- the same member twice, in any spelling

TWICE = {
    "twice": '"user":"a","user":"b"',
    "escaped": '"user":"a","us\\u0065r":"b"',
    "both escaped": '"\\u0075ser":"a","\\u0075\\u0073er":"b"',
    "case": '"user":"a","USER":"b"',
    "escaped case": '"user":"a","\\u0055ser":"b"',
    "first is null": '"user":null,"user":"b"',
    "second is null": '"user":"a","user":null',
    "user_id": '"user_id":"a","User_ID":"b"',
    "in metadata": '"metadata":{"user_id":"a","user_id":"b"}',
    "metadata twice": '"metadata":{"user_id":"a"},"metadata":{"user_id":"b"}',
    "metadata case": '"metadata":{"user_id":"a"},"Metadata":{"user_id":"b"}',
    "far apart": '"user":"a","x":[%s],"user":"b"' % ",".join(
        ['{"user":"c"}'] * 2000)}


@pytest.mark.parametrize("kind", TWICE)
def test_an_identity_given_twice_is_refused(guarded, upstream, kind):
    body = '{"model":"gpt-4o","messages":[],%s}' % TWICE[kind]

    assert code(guarded().post(body=body)) == (400, "duplicate_identity")
    assert upstream.requests == []


def test_two_identity_headers_are_refused(guarded, upstream):
    answer = guarded().post(json=CHAT, headers=[
        ("X-Lunary-User-Id", "alice"), ("x-lunary-user-id", "bob")])

    assert code(answer) == (400, "duplicate_identity")
    assert upstream.requests == []


def test_a_case_varied_member_alone_names_nobody(guarded, upstream):
    assert code(guarded().post(json=chat(USER="alice"))) == (
        400, "user_required")
    assert upstream.requests == []


def test_a_nested_user_is_nobody(guarded, upstream):
    body = chat(extra={"user": "alice"}, tools=[{"user_id": "bob"}])

    assert code(guarded().post(json=body)) == (400, "user_required")
    assert upstream.requests == []


# -- bodies that are hard to read

JSON = b'{"model":"m","messages":[],"user":"alice"}'

HARD = {
    "truncated": (JSON[:-1], {}),
    "garbage behind": (JSON + b"x", {}),
    "a second value": (JSON + JSON, {}),
    "NUL behind": (JSON + b"\x00", {}),
    "BOM": (b"\xef\xbb\xbf" + JSON, {}),
    "UTF-16": (JSON.decode().encode("utf-16"), {}),
    "UTF-16BE": (JSON.decode().encode("utf-16-be"),
                 {"Content-Type": "application/json; charset=utf-16"}),
    "comments": (b'{/*x*/"user":"alice"}', {}),
    "single quotes": (b"{'user':'alice'}", {}),
    "trailing comma": (b'{"user":"alice",}', {}),
    "NaN": (b'{"user":"alice","n":NaN}', {}),
    "deep": (b'{"user":"alice","x":' + b"[" * 5000 + b"]" * 5000 + b"}", {}),
    "an array": (b'[{"user":"alice"}]', {}),
    "a string": (b'"user"', {}),
    "broken gzip": (gzip.compress(JSON, mtime=0)[:-20], {"Content-Encoding": "gzip"}),
    "not gzip": (JSON, {"Content-Encoding": "gzip"}),
    "unknown coding": (JSON, {"Content-Encoding": "lzma"}),
    "two codings": (gzip.compress(gzip.compress(JSON, mtime=0), mtime=0),
                    {"Content-Encoding": "gzip, gzip"}),
    "form": (b"user=&model=m",
             {"Content-Type": "application/x-www-form-urlencoded"}),
    "multipart": (b"--b\r\nContent-Disposition: form-data; name=model\r\n"
                  b"\r\nm\r\n--b--\r\n",
                  {"Content-Type": "multipart/form-data; boundary=b"})}


@pytest.mark.parametrize("kind", HARD)
def test_a_body_that_cannot_be_judged_is_refused(guarded, upstream, kind):
    body, headers = HARD[kind]

    answer = guarded().post(body=body, headers=headers)

    assert answer.status in (400, 415), answer
    assert upstream.requests == []


@pytest.mark.parametrize("kind", ["truncated", "garbage behind", "BOM",
                                  "UTF-16", "broken gzip", "unknown coding"])
def test_nor_does_it_hold_against_a_verified_user_unread(guarded, upstream,
                                                         kind):
    body, headers = HARD[kind]
    one = guarded(extra="lunary_identity_conflict reject;")

    answer = one.post(body=body, headers={**headers, **COOKIE})

    assert answer.status in (400, 415), answer
    assert upstream.requests == []


@pytest.mark.parametrize("headers", [
    {"Content-Type": "text/plain"}, {"Content-Type": "application/xml"},
    {"Content-Type": ""}, {"Content-Type": "multipart/form-data"},
    {"Content-Type": "application/x-www-form-urlencoded"}])
def test_the_wrong_content_type_hides_no_conflict(guarded, upstream, headers):
    """An upstream that parses whatever comes would see mallory."""
    one = guarded(extra="lunary_identity_conflict reject;")

    answer = one.post(json=chat(user="mallory"),
                      headers={**headers, **COOKIE})

    assert answer.status in (400, 403), answer
    assert upstream.requests == []


@pytest.mark.parametrize("how", ["chunked", "gzip", "bytes", "spooled"])
def test_a_claim_is_found_however_it_comes(guarded, upstream, how):
    one = guarded(extra="lunary_identity_conflict reject; "
                        "client_body_buffer_size 1k;")
    body = json.dumps(chat(pad="x" * 5000, user="mallory")).encode()

    if how == "chunked":
        answer = one.post(chunks=[body[:3000], body[3000:]], headers=COOKIE)
    elif how == "gzip":
        answer = one.post(body=gzip.compress(body), headers={
            "Content-Encoding": "gzip", **COOKIE})
    elif how == "bytes":
        answer = one.post(pieces=[body[i:i + 1] for i in range(len(body))],
                          headers=COOKIE)
    else:
        answer = one.post(body=body, headers=COOKIE)

    assert code(answer) == (403, "user_mismatch")
    assert upstream.requests == []


def test_a_form_may_not_name_another(guarded, upstream):
    one = guarded(extra="lunary_identity_conflict reject;")
    body = (b"--b\r\nContent-Disposition: form-data; name=\"user\"\r\n\r\n"
            b"mallory\r\n--b--\r\n")

    answer = one.post("/v1/audio/transcriptions", body=body, headers={
        "Content-Type": "multipart/form-data; boundary=b", **COOKIE})

    assert code(answer) == (403, "user_mismatch")
    assert upstream.requests == []


def test_an_oversized_body_is_refused_and_logged(guarded, upstream, runs):
    one = guarded(extra="client_max_body_size 1k;")

    answer = one.post(json=chat(user="alice", pad="x" * 5000))

    assert answer.status == 413
    assert runs.one()["outcome"] == "rejected"
    assert upstream.requests == []


def test_an_oversized_chunked_body_too(guarded, upstream, runs):
    one = guarded(extra="client_max_body_size 1k;")

    answer = one.post(chunks=[json.dumps(chat(user="a")).encode()[:-1],
                              b',"x":"' + b"x" * 5000 + b'"}'])

    assert answer.status == 413
    assert upstream.requests == []


# -- methods, heads, paths

def test_a_get_with_a_body_needs_a_user(guarded, upstream):
    one = guarded()

    for request in ({"json": CHAT}, {"chunks": [b"{}"]}):
        answer = one.request("GET", PATH, **request)
        assert answer.status == 400, request
    assert upstream.requests == []


@pytest.mark.parametrize("require, status", [("on", 400), ("verified", 401)])
def test_an_upgrade_needs_a_user(guarded, upstream, require, status):
    answer = guarded(require=require).get("/v1/realtime", headers={
        "Upgrade": "websocket", "Connection": "Upgrade"})

    assert answer.status == status
    assert upstream.requests == []


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-HTTP-Method",
                                  "X-Method-Override"])
def test_a_get_that_wants_to_be_a_post_needs_a_user(guarded, upstream, name):
    answer = guarded().get(PATH, headers={name: "POST"})

    assert answer.status == 400
    assert upstream.requests == []


def test_expect_100_continue_is_answered_by_the_refusal(guarded, upstream):
    one = guarded()
    body = json.dumps(CHAT).encode()

    with one.client() as c:
        c.send(c.head("POST", PATH, {"Expect": "100-continue"}, body))
        c.send(body)
        assert c.read("POST").status == 400
    assert upstream.requests == []


@pytest.mark.parametrize("path", [
    "//v1/chat/completions", "/v1//chat/completions", "/v1/chat/completions/",
    "/V1/Chat/Completions", "/v1/chat/completions;x=y", "/v1/./chat/../chat/"
    "completions", "/v1/chat%2fcompletions", "/v1/chat/completions%00",
    "/v1/files", "/v1/batches", "/v1/fine_tuning/jobs", "/v1/assistants",
    "/v1/threads/t/runs", "/", "/anything", "/v1/chat/completions?x=/open"])
@pytest.mark.parametrize("require, status", [("on", 400), ("verified", 401)])
def test_whatever_the_path_a_post_needs_a_user(guarded, upstream, path,
                                               require, status):
    answer = guarded(require=require).post(path, json=CHAT)

    assert answer.status in (status, 400)
    assert upstream.requests == []


@pytest.mark.parametrize("path", [
    "/open/", "/open//", "/open/../v1/chat/completions", "/OPEN", "/open;x",
    "/openx", "/%6fpen/x", "/v1/open", "/pub", "/pub/../v1/x"])
def test_public_is_no_more_than_it_says(guarded, upstream, path):
    one = guarded(extra="lunary_public /open /pub/*;")

    assert one.post(path, json=CHAT).status == 400
    assert upstream.requests == []


def test_a_public_path_is_the_normalised_one(guarded, upstream):
    one = guarded(extra="lunary_public /open /pub/*;")

    for path in ("/x/../open", "/%6fpen", "/pub/%2e%2e/pub/a"):
        assert one.post(path, json=CHAT).status in (200, 404)
    assert len(upstream.requests) == 3


def test_header_names_with_underscores_name_nobody(guarded, upstream):
    one = guarded(server="underscores_in_headers on;")

    answer = one.post(json=CHAT, headers={"X_Lunary_User_Id": "alice"})

    assert code(answer) == (400, "user_required")
    answer = one.post(json=CHAT, headers={"X_Lunary_User_Id": "alice",
                                          "X-Lunary-User-Id": "bob"})
    assert answer.status == 200
    assert not [n for n, _ in upstream.last.headers if "unary" in n]


# -- connections

def test_a_connection_hands_nobody_on(guarded, upstream, runs):
    one = guarded()

    with one.client() as c:
        assert c.request("POST", PATH, json=CHAT,
                         headers=COOKIE).status == 200
        assert c.request("POST", PATH, json=CHAT).status == 400
        assert c.request("POST", PATH, json=chat(user="bob")).status == 200
        assert c.request("POST", PATH, json=CHAT).status == 400

    assert [r.get("user_id") for r in runs(4)] == ["carol", None, "bob", None]


def test_pipelined_requests_are_judged_each(guarded, upstream):
    one = guarded()
    good = json.dumps(chat(user="alice")).encode()
    bad = json.dumps(CHAT).encode()

    with one.client() as c:
        c.send(b"".join(c.head("POST", PATH, {"Content-Type":
                                              "application/json"}, b) + b
                        for b in (good, bad, good)))
        assert [c.read("POST").status for _ in range(3)] == [200, 400, 200]
    assert len(upstream.requests) == 2


def test_http2_requests_at_once_are_judged_each(guarded, upstream):
    one = guarded()

    with H2Client("127.0.0.1", one.port2) as c:
        streams = []
        for n in range(10):
            headers = [("content-type", "application/json")]
            if n % 2:
                headers.append(("cookie", "sid=s1"))
            streams.append(c.start("POST", PATH, headers))
        for s in streams:
            c.data(s, json.dumps(CHAT).encode(), end=True)
        statuses = [c.read(s).status for s in streams]

    assert statuses == [400, 200] * 5
    assert len(upstream.requests) == 5


def test_an_http2_get_with_data_needs_a_user(guarded, upstream):
    one = guarded()

    with H2Client("127.0.0.1", one.port2) as c:
        answer = c.request("GET", PATH, body=b"{}")

    assert answer.status == 400
    assert upstream.requests == []


# -- peers

def test_a_spoofed_forwarded_address_is_not_trusted(guarded, upstream):
    one = guarded(require="verified", server="""
        set_real_ip_from 127.0.0.1;
        real_ip_header X-Forwarded-For;
        real_ip_recursive on;""", extra="lunary_trusted_from 10.0.0.0/8;")

    answer = one.post(json=CHAT, headers={"X-Forwarded-For": "10.1.2.3",
                                          "X-Lunary-User-Id": "alice"})

    assert answer.status == 401
    assert upstream.requests == []


def test_a_parent_of_somebody_else_proves_nothing(guarded, upstream, redis):
    redis.hset("lunary:run:r1", mapping={"app": "default", "user": "carol"})
    one = guarded(require="verified",
                  extra="lunary_user session parent body;")

    answer = one.post(json=chat(parent_run_id="r1", user="carol"))

    assert answer.status == 401
    assert upstream.requests == []


# -- sessions

@pytest.mark.parametrize("cookie", [
    "sid=", "sid=nobody", "sid=s1x", "SID2=s1", "xsid=s1", "sid=\"s1\"",
    "sid=" + "s1" * 400, "sid=s1%00", "sid=*", "sid=s1\\"])
def test_no_other_cookie_is_the_session(guarded, upstream, cookie):
    one = guarded(require="verified")

    assert one.post(json=CHAT, headers={"Cookie": cookie}).status == 401
    assert upstream.requests == []


def test_a_session_key_without_an_id_is_no_key(guarded, upstream, redis):
    redis.set("sess:", '{"user_id":"ghost"}')
    one = guarded(require="verified")

    assert one.post(json=CHAT).status == 401
    assert one.post(json=CHAT, headers={"Cookie": "sid="}).status == 401


def test_an_unsigned_or_forged_cookie_is_no_session(guarded, upstream, redis,
                                                    folder):
    import base64
    import hashlib
    import hmac
    from urllib.parse import quote
    (folder / "secret").write_text("new\nold\n")
    one = guarded(require="verified", more="", extra="""
        lunary_session_id cookie=sid secret_file=%s/secret;
        lunary_session sess:$lunary_session_id;""" % folder)

    def signed(sid, key):
        mac = base64.b64encode(hmac.new(key, sid, hashlib.sha256).digest())
        return "s:" + sid.decode() + "." + mac.decode().rstrip("=")

    good = signed(b"s1", b"new")
    for value in ("s1", "s:s1", "s:s1.", "s:s1." + "A" * 43, good[:-1],
                  signed(b"s1", b"other"), signed(b"s2", b"new"),
                  "s:s1." + good.split(".")[1].lower()):
        answer = one.post(json=CHAT, headers={
            "Cookie": "sid=" + quote(value)})
        assert answer.status == 401, value
    assert upstream.requests == []
    for value in (good, signed(b"s1", b"old")):
        assert one.post(json=CHAT, headers={
            "Cookie": "sid=" + quote(value)}).status == 200


# -- nobody sees what is not theirs

def test_keys_and_sessions_reach_neither_log_nor_run(nginx, redis, runs,
                                                     upstream):
    redis.set("sess:top-secret-sid", '{"user_id":"carol"}')
    one = nginx(CONFIG, level="info", require="verified")
    for path in (PATH, PATH + "?api_key=query-secret"):
        one.post(path, json=CHAT, headers={
            "Cookie": "sid=top-secret-sid; other=o",
            "Authorization": "Bearer sk-header-secret",
            "x-api-key": "key-secret"})
    one.post(json=CHAT, headers={"Cookie": "sid=unknown-secret"})

    text = json.dumps(runs(3)) + one.log()
    assert "secret" not in text.replace("/secret", "")
    assert "sid=" not in str(upstream.last.headers)
    assert ("Cookie", "other=o") in upstream.last.headers
