"""lunary_inject_user: what the upstream is told of the user; lunary_accept:
what other gateways' clients say of him."""

import base64
import gzip
import hashlib
import hmac
import json

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
            {{ inject | default("") }}
            {{ extra | default("") }}
            proxy_pass {{ upstream }};
        }
    }
}
"""

CHAT = "/v1/chat/completions"
TRUST = "lunary_trusted_from 127.0.0.1;"
ALICE = {"X-Lunary-User-Id": "alice"}


def chat(**members):
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}],
            **members}


def sent(upstream):
    return json.loads(upstream.last.body)


# -- members

@pytest.mark.parametrize("field", ["user", "safety_identifier"])
def test_the_user_is_put_into_the_body(nginx, upstream, field):
    one = nginx(CONFIG, inject=f"lunary_inject_user {field};", extra=TRUST)

    assert one.post(json=chat(), headers=ALICE).status == 200

    assert sent(upstream) == {field: "alice", **chat()}


def test_it_replaces_what_the_client_sent(nginx, upstream, runs):
    one = nginx(CONFIG, inject="lunary_inject_user user;", extra=TRUST)

    one.post(json=chat(user="mallory"), headers=ALICE)

    assert sent(upstream) == {"user": "alice", **chat()}
    assert runs.one()["claimed_user_id"] == "mallory"


@pytest.mark.parametrize("body", [
    '{"us\\u0065r":"mallory","model":"m","messages":[]}',
    '{"USER":"mallory","model":"m","messages":[]}',
    '{"model":"m","messages":[],"User" : "mallory" }',
    '{"user":"mallory","model":"m","user":"eve","messages":[]}',
    '{"user":{"a":[1,"}"]},"model":"m","messages":[],"uSer":null}',
    '{"model":"m","user":"mallory","messages":[]}'])
def test_however_it_is_spelled(nginx, upstream, body):
    one = nginx(CONFIG, inject="lunary_inject_user user;", extra=TRUST)

    one.post(body=body, headers=ALICE)

    raw = upstream.last.body.decode()
    assert json.loads(raw) == {"user": "alice", "model": "m", "messages": []}
    assert "mallory" not in raw and "eve" not in raw


def test_a_body_of_nothing_else(nginx, upstream):
    one = nginx(CONFIG, inject="lunary_inject_user user;", extra=TRUST)

    for body in ("{}", " { } ", '{"user":"m"}', '{"user_id":"m","user":"n"}'):
        one.post(body=body, headers=ALICE)
        assert sent(upstream) == {"user": "alice"}, body


def test_where_nobody_is_known_nobody_is_told(nginx, upstream):
    one = nginx(CONFIG, inject="lunary_inject_user user header:X-User;",
                extra="lunary_user header;")

    one.post(json=chat(user="mallory"), headers={"X-User": "m"})

    assert sent(upstream) == chat()
    assert upstream.last.header("x-user") is None


@pytest.mark.parametrize("metadata, want", [
    (None, {"user_id": "alice"}),
    ({}, {"user_id": "alice"}),
    ({"user_id": "mallory"}, {"user_id": "alice"}),
    ({"user_id": "mallory", "a": 1}, {"user_id": "alice", "a": 1}),
    ({"a": 1, "User_Id": "mallory"}, {"user_id": "alice", "a": 1}),
    ({"userId": "mallory"}, {"user_id": "alice"}),
    ("text", {"user_id": "alice"}),
    ([1], {"user_id": "alice"})])
def test_anthropics_metadata(nginx, upstream, metadata, want):
    one = nginx(CONFIG, extra=TRUST,
                inject="lunary_inject_user user metadata.user_id;")
    body = {"model": "claude", "max_tokens": 5, "messages": []}
    extra = {} if metadata is None else {"metadata": metadata}

    one.post("/v1/messages", json={**body, **extra}, headers=ALICE)

    assert sent(upstream) == {**body, "metadata": want}


def test_another_metadata_beside_is_taken_out(nginx, upstream):
    one = nginx(CONFIG, extra=TRUST,
                inject="lunary_inject_user metadata.user_id;")

    one.post("/v1/messages", headers=ALICE,
             body='{"METADATA":{"user_id":"m"},"model":"c","messages":[],'
                  '"metadata":{"user_id":"n","x":[]}}')

    assert sent(upstream) == {"model": "c", "messages": [],
                              "metadata": {"user_id": "alice", "x": []}}


def test_an_api_gets_only_what_it_defines(nginx, upstream):
    one = nginx(CONFIG, extra=TRUST, inject="lunary_inject_user user "
                "safety_identifier metadata.user_id header:X-User;")

    one.post("/api/chat", json=chat(), headers=ALICE)

    assert sent(upstream) == chat()
    assert upstream.last.header("x-user") == "alice"


def test_a_body_of_an_unknown_api_is_left_alone(nginx, upstream):
    one = nginx(CONFIG, extra=TRUST,
                inject="lunary_inject_user user header:X-User;")

    one.post("/whatever", body='{"user":"m", "x":1}', headers=ALICE)

    assert upstream.last.body == b'{"user":"m", "x":1}'
    assert upstream.last.header("x-user") == "alice"


def test_only_that_changes(nginx, upstream):
    one = nginx(CONFIG, inject="lunary_inject_user user;", extra=TRUST)
    body = b'{ "model" : "m",\n\t"messages":[ ],"n":1.0e0, "x":"\\ud83d" }'

    one.post(body=body, headers=ALICE)

    assert upstream.last.body == b'{"user":"alice",' + body[1:]


def test_awkward_ids_are_escaped(nginx, upstream, redis):
    redis.set("sess:s1", json.dumps({"user_id": 'a"\\é,{'}))
    one = nginx(CONFIG, inject="lunary_inject_user user;",
                extra="lunary_session_id cookie=s; "
                      "lunary_session sess:$lunary_session_id;")

    one.post(json=chat(), headers={"Cookie": "s=s1"})

    assert sent(upstream)["user"] == 'a"\\é,{'


def test_what_is_strip_off_stays_but_for_the_user(nginx, upstream):
    one = nginx(CONFIG, inject="lunary_inject_user user;",
                extra=TRUST + "lunary_strip off;")

    one.post(json=chat(user="m", user_id="m2", thread_id="t"), headers=ALICE)

    assert sent(upstream) == chat(user="alice", user_id="m2", thread_id="t")


def test_chunked_and_large_bodies(nginx, upstream):
    one = nginx(CONFIG, inject="lunary_inject_user user;",
                extra=TRUST + "client_body_buffer_size 1k;")
    body = json.dumps(chat(user="m", pad="x" * 50000)).encode()

    one.post(chunks=[body[:9], body[9:30000], body[30000:]], headers=ALICE)

    assert sent(upstream) == chat(user="alice", pad="x" * 50000)
    assert upstream.last.header("content-length") == str(
        len(upstream.last.body))


# -- as a hash

def test_an_hmac_tells_upstreams_apart_what_they_need_not_know(
        nginx, upstream, folder):
    (folder / "key").write_text("k3y\n")
    one = nginx(CONFIG, extra=TRUST, inject="lunary_inject_user user "
                f"header:X-User hmac_file={folder}/key;")

    one.post(json=chat(), headers=ALICE)

    want = hmac.new(b"k3y", b"alice", "sha256").hexdigest()
    assert len(want) == 64
    assert sent(upstream)["user"] == want
    assert upstream.last.header("x-user") == want


def test_long_ids_become_their_hash(nginx, upstream):
    one = nginx(CONFIG, inject="lunary_inject_user safety_identifier;",
                extra=TRUST)
    for n in (64, 65, 256):
        one.post(json=chat(), headers={"X-Lunary-User-Id": "u" * n})
        want = "u" * n if n == 64 else hashlib.sha256(b"u" * n).hexdigest()
        assert sent(upstream)["safety_identifier"] == want


# -- headers

def test_a_header_replaces_the_clients(nginx, upstream):
    one = nginx(CONFIG, extra=TRUST, inject="lunary_inject_user "
                "header:X-End-User;")

    one.post(json=chat(), headers=[("X-Lunary-User-Id", "alice"),
                                   ("x-end-user", "m"), ("X-End-User", "n")])

    values = [v for n, v in upstream.last.headers
              if n.lower().replace("_", "-") == "x-end-user"]
    assert values == ["alice"]


def test_with_underscores_too(nginx, upstream):
    one = nginx(CONFIG.replace("listen {{ listen }};", "listen {{ listen }};"
                               "underscores_in_headers on;"), extra=TRUST,
                inject="lunary_inject_user header:X-End-User;")

    one.post(json=chat(), headers=[("X-Lunary-User-Id", "alice"),
                                   ("X_End_User", "m")])

    assert [v for n, v in upstream.last.headers
            if n.lower().replace("_", "-") == "x-end-user"] == ["alice"]


# -- bodies in which it cannot be taken out are refused

@pytest.mark.parametrize("headers, body, status", [
    ({}, b"{not json", 400),
    ({}, b'{"user":"m"} trailing', 400),
    ({}, b'\xef\xbb\xbf{"user":"m"}', 400),
    ({}, '{"user":"m"}'.encode("utf-16"), 400),
    ({}, b'["user"]', 400),
    ({"Content-Encoding": "gzip"}, gzip.compress(b'{"user":"m"}', mtime=0), 415),
    ({"Content-Encoding": "compress"}, b"\x1f\x9d", 415),
    ({}, b"{" + b'"user":"m",' * 70 + b'"model":"m"}', 400)],
    ids=["broken", "trailing", "bom", "utf-16", "array", "gzip", "compress",
         "flood"])
def test_what_cannot_be_rewritten_is_refused(nginx, upstream, headers, body,
                                             status):
    one = nginx(CONFIG, inject="lunary_inject_user user;", extra=TRUST)

    answer = one.post(body=body, headers={**headers, **ALICE})

    assert answer.status == status
    assert upstream.requests == []


@pytest.mark.parametrize("inject", [
    "nonsense", "off user", "hmac_file=/dev/null user", "header:",
    "header:a,b", "hmac_file=/nowhere user"])
def test_nonsense_is_refused(conf_test, inject):
    accepted, words = conf_test(CONFIG,
                                inject=f"lunary_inject_user {inject};")

    assert not accepted


def test_a_body_that_nginx_sets_does_not_go_with_it(conf_test):
    accepted, words = conf_test(CONFIG, inject="lunary_inject_user user;",
                                extra="lunary_strip off; proxy_set_body x;")

    assert not accepted and "proxy_set_body" in words


# -- lunary_accept

def accepted(nginx, systems):
    return nginx(CONFIG, extra=f"lunary_accept {systems};")


@pytest.mark.parametrize("systems, headers", [
    ("litellm", {"x-litellm-customer-id": "alice"}),
    ("litellm", {"x-litellm-end-user-id": "alice"}),
    ("helicone", {"Helicone-User-Id": "alice"}),
    ("portkey", {"x-portkey-metadata": '{"_user":"alice","team":"t"}'}),
    ("litellm helicone portkey", {"Helicone-User-Id": "alice"})])
def test_headers_of_other_gateways_are_claims(nginx, runs, upstream, systems,
                                              headers):
    accepted(nginx, systems).post(json=chat(), headers=headers)

    run = runs.one()
    assert (run["user_id"], run["user_source"], run["user_verified"]) == (
        "alice", "header", "0")
    for name in headers:
        assert upstream.last.header(name) is None


def test_their_other_headers(nginx, runs, upstream):
    accepted(nginx, "helicone litellm").post(json=chat(), headers={
        "Helicone-User-Id": "alice", "Helicone-Property-Plan": "pro",
        "Helicone-Session-Id": "t1", "x-litellm-tags": "a, b"})

    run = runs.one()
    assert run.json("user_props") == {"plan": "pro"}
    assert run["thread_id"] == "t1" and run.json("tags") == ["a", "b"]
    assert not [n for n, _ in upstream.last.headers
                if n.lower().startswith(("helicone", "x-litellm"))]


def test_portkeys_metadata_becomes_props(nginx, runs):
    accepted(nginx, "portkey").post(json=chat(), headers={
        "x-portkey-metadata": '{"_user":"al\\u0069ce","_env":"x","team":"t"}'})

    run = runs.one()
    assert run["user_id"] == "alice"
    assert run.json("user_props") == {"team": "t"}


@pytest.mark.parametrize("value", [
    "", "x", "{}", '{"_user":7}', '{"_user":""}', '{"_user":"a"',
    base64.b64encode(b'{"_user":"a"}').decode()])
def test_metadata_that_names_nobody(nginx, runs, value):
    accepted(nginx, "portkey").post(json=chat(), headers={
        "x-portkey-metadata": value})

    assert "user_id" not in runs.one()


def test_litellms_metadata_in_the_body(nginx, runs, upstream):
    accepted(nginx, "litellm").post(json=chat(
        litellm_metadata={"user": "alice"}))

    assert runs.one()["user_id"] == "alice"
    assert sent(upstream) == chat()


def test_lunarys_names_go_first(nginx, runs):
    accepted(nginx, "helicone").post(json=chat(), headers={
        "Helicone-User-Id": "bob", "X-Lunary-User-Id": "alice"})

    assert runs.one()["user_id"] == "alice"


def test_unless_they_are_accepted_they_are_nothing(nginx, runs, upstream):
    nginx(CONFIG).post(json=chat(litellm_metadata={"user": "a"}), headers={
        "Helicone-User-Id": "alice"})

    assert "user_id" not in runs.one()
    assert upstream.last.header("helicone-user-id") == "alice"
    assert sent(upstream) == chat(litellm_metadata={"user": "a"})


def test_a_location_accepts_what_it_says(nginx, runs):
    one = nginx(CONFIG.replace("{{ lunary }}",
                               "{{ lunary }} lunary_accept helicone;"),
                extra="lunary_accept none;")

    one.post(json=chat(), headers={"Helicone-User-Id": "alice"})

    assert "user_id" not in runs.one()


@pytest.mark.parametrize("systems", ["x", "litellm litellm", "none litellm"])
def test_unknown_systems_are_refused(conf_test, systems):
    ok, words = conf_test(CONFIG, extra=f"lunary_accept {systems};")

    assert not ok and "lunary_accept" in words
