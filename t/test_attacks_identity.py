# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""A second look at who may say who calls: headers and cookies that two readers
understand differently, what trusted peers hand on, bodies that name two users,
client text on its way into other headers.  docs/security.md has the table."""

import base64
import json
import pytest

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    {{ main | default("") }}
    server {
        listen {{ listen }};
        {{ server | default("") }}
        lunary on;
        lunary_require_user {{ require | default("verified") }};
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
TRUST = "lunary_trusted_from 127.0.0.0/8;"


def chat(**members):
    return {**CHAT, **members}


def code(answer):
    return answer.status, answer.json()["error"]["code"]


@pytest.fixture
def guarded(nginx, redis, upstream):
    """One nginx that wants a verified user, and a session s1 of carol."""
    redis.set("sess:s1", '{"user_id":"carol"}')

    def make(**variables):
        return nginx(CONFIG, **variables)

    return make


# -- what a trusted peer hands on

@pytest.mark.parametrize("names", [("mallory", "alice"), ("alice", "mallory"),
                                   ("alice", "alice")])
@pytest.mark.parametrize("require", ["on", "verified"])
def test_a_trusted_peer_says_one_user_or_none(guarded, upstream, names,
                                              require):
    """A peer that adds its header to the client's, before it or behind."""
    one = guarded(extra=TRUST, require=require)

    answer = one.post(json=CHAT, headers=[("X-Lunary-User-Id", n)
                                          for n in names])

    assert code(answer) == (400, "duplicate_identity")
    assert upstream.requests == []


def test_nor_is_it_proof_where_none_is_required(guarded, runs):
    one = guarded(extra=TRUST, require="off")

    one.post(json=CHAT, headers=[("X-Lunary-User-Id", "alice"),
                                 ("X-Lunary-User-Id", "mallory")])

    assert runs.one()["user_verified"] == "0"


@pytest.mark.parametrize("headers", [
    {"Helicone-User-Id": "alice"}, {"x-litellm-end-user-id": "alice"},
    {"x-portkey-metadata": '{"_user":"alice"}'}])
def test_what_lunary_accept_reads_is_a_claim_from_trusted_peers_too(
        guarded, upstream, headers):
    """The peer guards the header that it sets, not other gateways'."""
    one = guarded(extra=TRUST + "lunary_accept litellm helicone portkey;")

    assert code(one.post(json=CHAT, headers=headers)) == (
        401, "user_required")
    assert upstream.requests == []


# -- passwords

def test_auth_basic_without_its_file_checks_no_password(guarded, upstream):
    """nginx takes `auth_basic` alone for off."""
    one = guarded(extra='lunary_phase precontent; auth_basic "LLM";'
                        "lunary_user verified:$remote_user;")
    word = base64.b64encode(b"alice:guess").decode()

    answer = one.post(json=CHAT, headers={"Authorization": "Basic " + word})

    assert code(answer) == (401, "user_required")
    assert upstream.requests == []


# -- cookies that two readers split differently

@pytest.mark.parametrize("cookie", [
    "pref=a,sid=s1", "pref=\"a, sid=s1\"", "SID=s1", "Sid=s1",
    "x;\tsid2=s1", "pref=a sid=s1"])
def test_no_part_of_another_cookie_is_the_session(guarded, upstream, cookie):
    assert guarded().post(json=CHAT, headers={"Cookie": cookie}).status == 401
    assert upstream.requests == []


@pytest.mark.parametrize("cookie", [
    "sid=s1", "sid =s1", "sid= s1", " sid=s1 ", "a=b;sid=s1", "a=b;sid=s1;c=d",
    "a=b; sid=s1; sid=other", "sid=s1; a=\"x\""])
def test_what_is_read_as_the_session_does_not_reach_the_upstream(
        guarded, upstream, cookie):
    answer = guarded().post(json=CHAT, headers={"Cookie": cookie})

    assert answer.status == 200
    assert "sid" not in (upstream.last.header("cookie") or "")


def test_cookies_in_two_headers_are_one_list(guarded, upstream):
    answer = guarded().post(json=CHAT, headers=[
        ("Cookie", "a=b"), ("Cookie", "sid=s1; c=d")])

    assert answer.status == 200
    assert "sid" not in str([v for n, v in upstream.last.headers
                             if n.lower() == "cookie"])


# -- session ids that lead elsewhere

@pytest.mark.parametrize("sid", [
    "lunary:thread:t1", "lunary:run:r1", "lunary:user:default:bob",
    "lunary:policy:default:bob"])
@pytest.mark.parametrize("form", ["auto", "hash"])
def test_a_token_reaches_none_of_our_own_keys(guarded, upstream, redis, sid,
                                              form):
    """A claim makes `lunary:thread:t1`, a hash with a member `user`: a token
    of that name must not make the claim a session."""
    redis.hset(sid, mapping={"app": "default", "user": "bob"})
    one = guarded(extra="lunary_session_id bearer;"
                        f"lunary_session $lunary_session_id format={form};")

    answer = one.post(json=CHAT, headers={"Authorization": "Bearer " + sid})

    assert code(answer) == (401, "user_required")
    assert upstream.requests == []


@pytest.mark.parametrize("sid", ["s1%00", "s1%0d%0aX-Admin:1", "s1%0a",
                                 "%7fs1"])
def test_a_session_id_with_control_characters_is_none(guarded, upstream, sid):
    one = guarded(require="off", extra="""
        lunary_session_id cookie=sid;
        proxy_set_header X-Session $lunary_session_id;""")

    one.post(json=CHAT, headers={"Cookie": f"sid=s%3A{sid}.sig"})

    assert upstream.last.header("x-session") is None
    assert upstream.last.header("x-admin") is None


# -- two users in one body

@pytest.mark.parametrize("body", [
    {"user_id": "carol", "user": "mallory"},
    {"userId": "carol", "user": "mallory"},
    {"user": "carol", "metadata": {"user_id": "mallory"}},
    {"user_id": "carol", "metadata": {"userId": "mallory"}},
    {"User": "mallory"}, {"USER": "mallory", "user_id": "carol"},
    {"Metadata": {"user_id": "mallory"}}, {"metadata": {"USER_ID": "m"}}])
def test_a_second_member_hides_no_conflict(guarded, upstream, body):
    one = guarded(extra="lunary_identity_conflict reject;")

    answer = one.post(json=chat(**body), headers=COOKIE)

    assert code(answer) == (403, "user_mismatch")
    assert upstream.requests == []


LONG_S = ['"u\u017fer"', '"u\\u017fer"', '"U\u017fER"', '"USER"']


@pytest.mark.parametrize("name", LONG_S)
def test_a_letter_that_folds_to_another_is_that_one(guarded, upstream, name):
    """Go takes the long s, U+017F, for an s, as it takes US for us."""
    body = json.dumps(chat(user="carol"))[:-1] + f', {name}: "mallory"}}'

    one = guarded(extra="lunary_inject_user user;")
    one.post(body=body, headers=COOKIE)
    assert b"mallory" not in b"".join(r.body for r in upstream.requests)
    upstream.clear()

    one = guarded(extra="lunary_identity_conflict reject;")
    assert one.post(body=body, headers=COOKIE).status in (400, 403)
    assert upstream.requests == []


@pytest.mark.parametrize("hidden", [
    {"user_props": {"p": "x" * 65000}, "userProps": {"p": "x" * 65000},
     "tags": ["x" * 65000], "thread_id": "t", "user": "mallory"},
    {"metadata": {"user_props": {"p": "x" * 65000}, "tags": ["x" * 65000],
                  "userProps": {"p": "x" * 65000}, "user_id": "mallory"},
     "tags": ["x" * 65000], "user": "mallory"},
    {"user_id": "carol", "user": "mallory" * 1000}],
    ids=["top", "metadata", "long"])
def test_much_before_a_claim_does_not_hide_it(guarded, upstream, hidden):
    one = guarded(extra="lunary_identity_conflict reject;")

    answer = one.post(json={**hidden, **CHAT}, headers=COOKIE)

    assert code(answer) == (403, "user_mismatch")
    assert upstream.requests == []


def test_two_spellings_of_one_user_are_no_conflict(guarded, upstream):
    one = guarded(extra="lunary_identity_conflict reject;")

    answer = one.post(json=chat(user_id="carol", user="carol",
                                metadata={"user_id": "carol"},
                                safety_identifier="5f2b"), headers=COOKIE)

    assert answer.status == 200


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize("body", [
    b'{"user":"mallory","model":"m","x":"&user=carol&"}',
    b' \r\n\t{"user":"mallory","model":"m","x":"&user=carol&"}'])
def test_json_that_says_it_is_a_form_is_read_as_json(guarded, upstream, body):
    one = guarded(extra="lunary_inject_user user;")
    one.post(body=body, headers={**FORM, **COOKIE})
    assert upstream.last.json()["user"] == "carol"

    upstream.clear()
    one = guarded(extra="lunary_identity_conflict reject;")
    answer = one.post(body=body, headers={**FORM, **COOKIE})
    assert code(answer) == (403, "user_mismatch")
    assert upstream.requests == []


@pytest.mark.parametrize("body", [
    b"user=mallory&user=carol", b"user=carol&user=mallory",
    b"us%65r=mallory&user=carol", b"User=mallory&user=carol",
    b"user[]=mallory&user=carol", b"user=carol&safety_identifier=mallory",
    b"user=carol;user=mallory"])
def test_a_form_names_its_user_once(guarded, upstream, body):
    one = guarded(extra="lunary_inject_user user safety_identifier;")

    answer = one.post("/v1/images/edits", body=b"model=m&" + body,
                      headers={**FORM, **COOKIE})

    assert answer.status in (400, 403), upstream.last.body
    assert upstream.requests == []


def part(name, value, more=b""):
    return (b'--b\r\nContent-Disposition: form-data; name="' + name + b'"'
            + more + b"\r\n\r\n" + value + b"\r\n")


@pytest.mark.parametrize("parts", [
    part(b"user", b"mallory") + part(b"user", b"carol"),
    part(b"user", b"carol") + part(b"user", b"mallory"),
    part(b"USER", b"mallory") + part(b"user", b"carol"),
    part(b"user", b"carol") + part(b"safety_identifier", b"mallory"),
    b'--b\r\ncontent-disposition: form-data; name=user\r\n\r\nmallory\r\n'
    + part(b"user", b"carol"),
    part(b"user", b"mallory", b'; filename="u.txt"') + part(b"user", b"carol"),
    b'--b\r\nContent-Disposition: form-data; name*=utf-8\'\'user\r\n\r\n'
    b'mallory\r\n' + part(b"user", b"carol"),
    b'--b\nContent-Disposition: form-data; name="user"\n\nmallory\n'
    + part(b"user", b"carol")])
def test_a_multipart_form_names_its_user_once(guarded, upstream, parts):
    one = guarded(extra="lunary_inject_user user safety_identifier;")

    answer = one.post("/v1/images/edits", body=parts + b"--b--\r\n", headers={
        "Content-Type": "multipart/form-data; boundary=b", **COOKIE})

    assert answer.status in (400, 403), upstream.last.body
    assert upstream.requests == []


# -- client text on its way into headers

@pytest.mark.parametrize("member", ["model", "thread_id", "parent_run_id"])
def test_no_variable_breaks_out_of_a_header(guarded, upstream, member):
    one = guarded(require="off", extra="""
        proxy_set_header X-One   "$lunary_model";
        proxy_set_header X-Two   "$lunary_thread_id";
        proxy_set_header X-Three "$lunary_parent_run_id";
        add_header X-Model "$lunary_model";
        add_header X-Thread "$lunary_thread_id$lunary_parent_run_id";""")

    answer = one.post(json=chat(**{
        member: "x\r\nX-Admin: 1\r\nX-User: alice"}))

    assert upstream.last.header("x-admin") is None
    assert answer.header("x-admin") is None


# -- the method that an upstream makes of it

@pytest.mark.parametrize("name", [
    "X_HTTP_Method_Override", "X-HTTP-Method_Override", "X_Method_Override",
    "X_HTTP_METHOD"])
def test_a_method_override_with_underscores(guarded, upstream, name):
    one = guarded(require="on", server="underscores_in_headers on;")

    assert one.get(PATH, headers={name: "POST"}).status == 400
    assert upstream.requests == []


@pytest.mark.parametrize("headers", [
    {"X-HTTP-Method-Override": "POST"}, {"X-Method-Override": "DELETE"},
    {"Upgrade": "websocket", "Connection": "upgrade"}])
def test_what_is_public_for_get_is_so_for_plain_ones(guarded, upstream,
                                                     headers):
    one = guarded(extra="lunary_public GET /v1/models*;")

    assert one.get("/v1/models").status == 200
    assert one.get("/v1/models", headers=headers).status == 401
    assert one.request("GET", "/v1/models", json=CHAT).status == 401
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("path", [
    "/open/..;/v1/chat/completions", "/open/..;x=y/v1/chat/completions",
    "/open/..%5cv1%5cchat", "/open/..\\v1\\chat\\completions",
    "/open/%252e%252e/v1/chat/completions", "/open/..%252fv1/chat",
    "/v1/chat/completions/..%2f..%2f..%2fopen/x",
    "/open/x%2f..%2f..%2fv1/chat/completions", "/open/.%2e/v1/models"])
def test_public_is_no_path_that_others_read_differently(guarded, upstream,
                                                        path):
    """`..;/` is Tomcat's, `\\` IIS's, %252e anybody's who decodes twice; and
    nginx passes on the path as it came."""
    one = guarded(extra="lunary_public /open/*;")

    assert one.post("/open/x", json=CHAT).status != 401
    upstream.clear()

    assert one.post(path, json=CHAT).status == 401
    assert upstream.requests == []


# -- subrequests

def test_auth_request_lets_nobody_into_what_requires_a_user(guarded,
                                                            upstream):
    """The main request is public: it will never be asked for its user."""
    one = guarded(extra="lunary_phase precontent; lunary_public /open/*;"
                        "auth_request /inner;",
                  more="location = /inner { internal; "
                       "proxy_pass {{ upstream }}/inner; }"
                       .replace("{{ upstream }}", upstream.url))

    answer = one.post("/open/x", body=b"")

    assert upstream.requests == []
    assert answer.status == 403


# -- switches

@pytest.mark.parametrize("word", ["yes", "true", "ON", "enabled", "verified"])
def test_a_word_that_nobody_knows_switches_nothing_off(guarded, upstream,
                                                       word):
    one = guarded(main="map $host $switch { default %s; }" % word,
                  extra="lunary $switch;")

    assert one.post(json=CHAT).status == 401
    assert upstream.requests == []


# -- what `verified:` may stand before

LAUNDERED = {
    "a location's capture": "location ~ ^/u/(?<who>[^/]+)/ { %s }",
    "a location's P capture": "location ~ '^/u/(?P<who>[^/]+)/' { %s }",
    "a quoted capture": "location ~ \"^/u/(?'who'[^/]+)/\" { %s }",
    "the server's name": "server_name ~^(?<who>.+)\\.test$; location / { %s }",
    "an if's named capture":
        "location / { if ($http_x ~ '(?<who>.*)') { set $x 1; } %s }",
    "a rewrite's": "location / { rewrite ^/(?<who>.*)$ /$1 break; %s }",
    "five maps": "location / { %s }",
    "uid_got": "location / { lunary_user verified:$uid_got; }",
    "path info": "location / { fastcgi_split_path_info ^(.+)/(.+)$; "
                 "lunary_user verified:$fastcgi_path_info; }",
    "the slice": "location / { lunary_user verified:$slice_range; }"}

MAPS = "".join(f"map $http_x{i} $m{i} {{ default $m{i + 1}; }}"
               for i in range(7)) + """
    map $http_x $m7 { default $http_x; }
    map $http_y $who { default $m0; }"""


@pytest.mark.parametrize("kind", LAUNDERED)
def test_client_text_has_no_way_into_verified(conf_test, kind):
    server = LAUNDERED[kind].replace("%s", "lunary_user verified:$who;")

    accepted, words = conf_test(
        CONFIG.replace("location / {", "location /other {", 1),
        main=MAPS if kind == "five maps" else "", more=server)

    assert not accepted and "would trust text that the client wrote" in words


def test_a_capture_of_a_certificates_name_may_be_verified(conf_test):
    accepted, words = conf_test(
        CONFIG, main="""
            map $ssl_client_s_dn $who { "~CN=(?<cn>[^,]+)" $cn; default ""; }
            map $ssl_client_s_dn $why { "~CN=(?<what>[^,]+)" 1; }""",
        more="location ~ ^/u/(?<other>.+)$ { lunary_user verified:$who; }")

    assert accepted, words


# -- bodies that do not look like what they are

def encoded(body, kind):
    import gzip
    text = body.encode()
    return {"two encodings": gzip.compress(text),
            "a list": gzip.compress(text),
            "BOM": b"\xef\xbb\xbf" + text,
            "UTF-16": body.encode("utf-16"),
            "UTF-16BE": body.encode("utf-16-be"),
            "UTF-16LE": body.encode("utf-16-le"),
            "blank and BOM": b" \n\xef\xbb\xbf" + text}[kind]


@pytest.mark.parametrize("pieces", [0, 1])
@pytest.mark.parametrize("kind", ["two encodings", "a list", "BOM", "UTF-16",
                                  "UTF-16BE", "UTF-16LE", "blank and BOM"])
def test_a_body_in_disguise_hides_no_conflict(guarded, upstream, kind,
                                              pieces):
    """Whatever reads any type, or joins the headers, would see mallory."""
    one = guarded(extra="lunary_identity_conflict reject;")
    body = encoded(json.dumps(chat(user="mallory")), kind)
    headers = [("Cookie", "sid=s1"), ("Content-Type", "text/plain")]
    if kind == "two encodings":
        headers += [("Content-Encoding", "identity"),
                    ("Content-Encoding", "gzip")]
    if kind == "a list":
        headers += [("Content-Encoding", "identity, gzip")]

    with one.client() as c:
        if pieces:
            answer = c.request("POST", PATH, headers=headers,
                               pieces=[body[i:i + 1] for i in range(60)]
                               + [body[60:]])
        else:
            answer = c.request("POST", PATH, headers=headers, body=body)

    assert answer.status in (400, 403, 415), answer
    assert upstream.requests == []


@pytest.mark.parametrize("body", [
    b"\xff\xfb\x90\x64" + b"\0" * 500, b"\0\0\0\x20ftypisom" + b"\0" * 500,
    b"\x89PNG\r\n\x1a\n", b"RIFF1234WAVE"])
def test_a_body_of_another_kind_passes(guarded, upstream, body):
    one = guarded(extra="lunary_identity_conflict reject;")

    one.post("/v1/uploads/x/parts", body=body, headers={
        "Content-Type": "application/octet-stream", **COOKIE})

    assert upstream.last.body == body
