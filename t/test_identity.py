"""Who made the call: body, header, session, variable; props, thread, parent
run, tags, app; and what of it the upstream gets to see."""

import base64
import json

import pytest

from harness.client import H2Client

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    server {
        listen {{ listen }};
        location / {
            lunary on;
            {{ extra | default("") }}
            proxy_pass {{ upstream }};
        }
    }
}
"""


def chat(**members):
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}],
            **members}


# -- the body

@pytest.mark.parametrize("member", [
    {"user_id": "u1"}, {"userId": "u1"}, {"user": "u1"},
    {"safety_identifier": "u1"}, {"metadata": {"user_id": "u1"}},
    {"metadata": {"userId": "u1"}}],
    ids=lambda m: json.dumps(m).strip("{}").replace('"', ""))
def test_a_user_is_read_from_the_body(nginx, runs, member):
    assert nginx(CONFIG).post(json=chat(**member)).status == 200

    run = runs.one()
    assert (run["user_id"], run["user_source"], run["user_verified"]) == (
        "u1", "body", "0")


def test_the_first_name_that_holds_a_user_wins(nginx, runs):
    nginx(CONFIG).post(json=chat(
        user="third", userId="second", user_id="",
        metadata={"user_id": "fifth"}, safety_identifier="fourth"))

    assert runs.one()["user_id"] == "second"


@pytest.mark.parametrize("value", [
    "", "   ", None, 7, 1.5, True, {}, [], ["u1"], {"id": "u1"},
    "a\nb", "a\u0000b", "a\u200bb", "a\u202eb", "\u2028", "x" * 257,
    "é" * 129])
def test_what_is_no_user_id_is_no_user(nginx, runs, value):
    assert nginx(CONFIG).post(json=chat(user=value)).status == 200

    run = runs.one()
    assert "user_id" not in run
    assert "user_source" not in run


@pytest.mark.parametrize("value", ["x" * 256, "é" * 128, "Zoë 😀", "a b",
                                   'quo"te', "back\\slash", "/", "1"])
def test_unusual_but_valid_user_ids_are_kept(nginx, runs, value):
    nginx(CONFIG).post(json=chat(user=value))

    assert runs.one()["user_id"] == value


def test_an_escaped_member_name_is_the_same_name(nginx, runs):
    nginx(CONFIG).post(body=rb'{"model":"m","messages":[],"us\u0065r":"u1"}')

    assert runs.one()["user_id"] == "u1"


def test_a_nested_user_is_nobody(nginx, runs):
    nginx(CONFIG).post(json=chat(tools=[{"user": "u1", "user_id": "u2"}]))

    assert "user_id" not in runs.one()


@pytest.mark.parametrize("name", ["user_props", "userProps"])
@pytest.mark.parametrize("where", ["top", "metadata"])
def test_props_are_read_from_the_body(nginx, runs, name, where):
    props = {name: {"name": "Zoë", "plan": {"tier": 2}}}
    body = chat(user="u1", **(props if where == "top" else {}))
    if where == "metadata":
        body["metadata"] = props

    nginx(CONFIG).post(json=body)

    assert runs.one().json("user_props") == {"name": "Zoë",
                                             "plan": {"tier": 2}}


@pytest.mark.parametrize("props", ["x", 1, None, [], [{}]])
def test_props_that_are_no_object_are_none(nginx, runs, props):
    nginx(CONFIG).post(json=chat(user="u1", user_props=props))

    assert "user_props" not in runs.one()


def test_thread_parent_run_and_tags_are_read_from_the_body(nginx, runs):
    nginx(CONFIG).post(json=chat(thread_id="t1", parentRunId="p1",
                                 tags=["a", "b"]))

    run = runs.one()
    assert (run["thread_id"], run["parent_run_id"], run.json("tags")) == (
        "t1", "p1", ["a", "b"])


def test_one_tag_may_be_a_string(nginx, runs):
    nginx(CONFIG).post(json=chat(tags="solo"))

    assert runs.one().json("tags") == ["solo"]


# -- what the upstream gets

def test_lunary_members_do_not_reach_the_upstream(nginx, upstream, runs):
    nginx(CONFIG).post(body=(
        b'{ "user_id" : "u1", "model": "gpt-4o" ,"userProps":{"a":[1,{"b":2}]}'
        b',\n "messages":[{"role":"user","content":"h\\u0069"}],"tags":["x"],'
        b' "metadata":{"userId":"u2"}, "threadId":"t", "temperature":1.0 }'))

    assert upstream.last.body == (
        b'{ "model": "gpt-4o" ,\n "messages":[{"role":"user","content":'
        b'"h\\u0069"}], "temperature":1.0 }') or \
        upstream.last.json() == {
            "model": "gpt-4o", "temperature": 1.0,
            "messages": [{"role": "user", "content": "hi"}]}
    assert b'"h\\u0069"' in upstream.last.body
    assert upstream.last.header("content-length") == str(
        len(upstream.last.body))
    assert runs.one()["user_id"] == "u1"


def test_what_the_provider_defines_stays(nginx, upstream, runs):
    body = chat(user="u1", safety_identifier="u2",
                metadata={"user_id": "u3", "purpose": "x"})

    nginx(CONFIG).post(json=body)

    assert upstream.last.json() == body


def test_of_metadata_only_lunarys_members_go(nginx, upstream):
    nginx(CONFIG).post(json=chat(metadata={"userId": "u1", "purpose": "x",
                                           "user_props": {"a": 1}}))

    assert upstream.last.json() == chat(metadata={"purpose": "x"})


def test_a_body_without_them_is_not_touched(nginx, upstream):
    body = b'{"model":"m" ,  "messages":[ ]\t}\r\n '

    nginx(CONFIG).post(body=body)

    assert upstream.last.body == body


def test_strip_off_forwards_everything(nginx, upstream, runs):
    body = chat(user_id="u1", tags=["x"], userProps={"a": 1})

    nginx(CONFIG, extra="lunary_strip off;").post(
        json=body, headers={"X-Lunary-Thread-Id": "t1"})

    assert upstream.last.json() == body
    assert upstream.last.header("x-lunary-thread-id") == "t1"
    assert runs.one()["user_id"] == "u1"


def test_a_body_of_an_unknown_api_is_never_rewritten(nginx, upstream, runs):
    body = json.dumps({"user_id": "u1", "whatever": 1}).encode()

    nginx(CONFIG).post("/some/other/api", body=body)

    assert upstream.last.body == body
    run = runs.one()
    assert (run["api"], run["user_id"]) == ("unknown", "u1")


# -- headers

def test_identity_is_read_from_headers(nginx, runs, upstream):
    nginx(CONFIG).post(json=chat(), headers={
        "X-Lunary-User-Id": "u1", "X-Lunary-User-Props": '{"name":"A"}',
        "X-Lunary-Thread-Id": "t1", "X-Lunary-Parent-Run-Id": "p1",
        "X-Lunary-Tags": "red, green,blue", "X-Other": "kept"})

    run = runs.one()
    assert (run["user_id"], run["user_source"], run["thread_id"],
            run["parent_run_id"]) == ("u1", "header", "t1", "p1")
    assert run.json("user_props") == {"name": "A"}
    assert run.json("tags") == ["red", "green", "blue"]

    names = [n.lower() for n, _ in upstream.last.headers]
    assert not [n for n in names if n.startswith("x-lunary")]
    assert "x-other" in names


def test_props_may_come_in_base64url(nginx, runs):
    props = base64.urlsafe_b64encode('{"name":"Zoë"}'.encode()).decode()

    nginx(CONFIG).post(json=chat(), headers={
        "X-Lunary-User-Id": "u1", "X-Lunary-User-Props": props.rstrip("=")})

    assert runs.one().json("user_props") == {"name": "Zoë"}


@pytest.mark.parametrize("props", ['{"a":', "!!!", "e30x=x", '{"a":1}x'])
def test_broken_header_props_are_none(nginx, runs, props):
    assert nginx(CONFIG).post(json=chat(), headers={
        "X-Lunary-User-Id": "u1",
        "X-Lunary-User-Props": props}).status == 200

    run = runs.one()
    assert run["user_id"] == "u1"
    assert "user_props" not in run


def test_the_body_goes_before_the_header(nginx, runs):
    nginx(CONFIG).post(json=chat(user="b"), headers={"X-Lunary-User-Id": "h"})

    run = runs.one()
    assert (run["user_id"], run["user_source"]) == ("b", "body")


def test_the_order_of_sources_is_configurable(nginx, runs):
    nginx(CONFIG, extra="lunary_user header body;").post(
        json=chat(user="b"), headers={"X-Lunary-User-Id": "h"})

    run = runs.one()
    assert (run["user_id"], run["user_source"]) == ("h", "header")


def test_other_header_names_may_be_configured(nginx, runs, upstream):
    nginx(CONFIG, extra="lunary_header user X-First X-Second;"
                        "lunary_header props X-Prop-*;").post(
        json=chat(), headers={"X-Second": "u2", "X-Prop-Team": "red"})

    run = runs.one()
    assert run["user_id"] == "u2"
    props = {k.lower(): v for k, v in run.json("user_props").items()}
    assert props == {"team": "red"}
    assert upstream.last.header("x-second") is None


def test_header_props_of_another_user_are_not_taken(nginx, runs):
    nginx(CONFIG).post(json=chat(user="b"), headers={
        "X-Lunary-User-Id": "h", "X-Lunary-User-Props": '{"name":"H"}'})

    assert "user_props" not in runs.one()


def test_props_of_two_sources_merge_for_the_same_user(nginx, runs):
    nginx(CONFIG).post(
        json=chat(user="u", user_props={"name": "body", "a": 1}),
        headers={"X-Lunary-User-Id": "u",
                 "X-Lunary-User-Props": '{"name":"header","b":2}'})

    assert runs.one().json("user_props") == {"name": "body", "a": 1, "b": 2}


# -- variables

def test_a_variable_is_a_claim(nginx, runs):
    nginx(CONFIG, extra="lunary_user $http_x_employee body;").post(
        json=chat(user="b"), headers={"X-Employee": "e7"})

    run = runs.one()
    assert (run["user_id"], run["user_source"], run["user_verified"]) == (
        "e7", "$http_x_employee", "0")


def test_verified_sources_go_before_claims(nginx, runs):
    nginx("""
        {{ globals }}
        http {
            {{ http }}
            {{ lunary }}
            map $uri $proven { default "v1"; }
            server {
                listen {{ listen }};
                location / {
                    lunary on;
                    lunary_user body verified:$proven;
                    proxy_pass {{ upstream }};
                }
            }
        }
    """).post(json=chat(user="claimed"))

    run = runs.one()
    assert (run["user_id"], run["user_source"], run["user_verified"]) == (
        "v1", "$proven", "1")
    assert run["claimed_user_id"] == "claimed"


@pytest.mark.parametrize("variable", ["$http_x_user", "$arg_user",
                                      "$cookie_user"])
def test_client_text_is_never_verified(conf_test, variable):
    accepted, words = conf_test(
        CONFIG, extra=f"lunary_user verified:{variable};")

    assert not accepted
    assert variable in words and "verified" in words


def test_headers_from_trusted_peers_are_verified(nginx, runs):
    one = nginx(CONFIG, extra="lunary_trusted_from 127.0.0.0/8;")

    one.post(json=chat(user="b"), headers={"X-Lunary-User-Id": "h"})

    run = runs.one()
    assert (run["user_id"], run["user_source"], run["user_verified"]) == (
        "h", "header", "1")


def test_a_peer_is_not_trusted_for_what_realip_makes_of_it(nginx, runs):
    nginx(CONFIG, extra="""
        lunary_trusted_from 10.0.0.0/8;
        set_real_ip_from 127.0.0.1;
        real_ip_header X-Forwarded-For;
    """).post(json=chat(), headers={"X-Lunary-User-Id": "h",
                                    "X-Forwarded-For": "10.1.2.3"})

    assert runs.one()["user_verified"] == "0"


# -- app

def test_the_app_is_a_complex_value(nginx, runs):
    one = nginx(CONFIG, extra="lunary_app shop-$http_x_tenant;")

    one.post(json=chat(), headers={"X-Tenant": "eu"})

    assert runs.one()["app"] == "shop-eu"


def test_the_app_is_default_unless_said(nginx, runs):
    nginx(CONFIG).post(json=chat())

    assert runs.one()["app"] == "default"


def test_lunary_may_be_switched_by_a_variable(nginx, runs):
    one = nginx("""
        {{ globals }}
        http {
            {{ http }}
            {{ lunary }}
            map $http_x_app $track { default off; pilot on; }
            server {
                listen {{ listen }};
                location / { lunary $track; proxy_pass {{ upstream }}; }
            }
        }
    """)

    one.post(json=chat(user="u1"))
    one.post(json=chat(user="u2"), headers={"X-App": "pilot"})

    assert runs.one()["user_id"] == "u2"


def test_props_may_be_limited_to_names(nginx, runs):
    nginx(CONFIG, extra="lunary_props name plan;").post(
        json=chat(user="u", user_props={"name": "A", "ssn": "1", "plan": 2}))

    assert runs.one().json("user_props") == {"name": "A", "plan": 2}


def test_props_may_be_kept_out(nginx, runs):
    nginx(CONFIG, extra="lunary_props none;").post(
        json=chat(user="u", user_props={"name": "A"}))

    assert "user_props" not in runs.one()


# -- names of headers: each location has a set of those it reads

NAMES = {
    "short": ("u", "U"), "one byte, a sign": ("-", "-"),
    "case": ("X-Who", "x-wHO"),
    "underscore in front": ("_Who", "_who"),
    "a dash in front": ("-Who", "-WHO"),
    "63": ("x" * 63, "X" * 63), "64": ("x" * 64, "X" * 64),
    "200": ("x" * 200, "X" * 200),
    "a digit": ("9who", "9WHO")}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("h2", [0, 1])
def test_a_header_of_any_name_is_read_and_taken_out(nginx, runs, upstream,
                                                    name, h2):
    written, sent = NAMES[name]
    one = nginx(CONFIG.replace(
        "listen {{ listen }};", "listen {{ listen }};"
        "listen 127.0.0.1:{{ port2 }} http2; ignore_invalid_headers off;"
        "underscores_in_headers on;"), extra=f"lunary_header user {written};")

    if h2:
        with H2Client("127.0.0.1", one.port2) as c:
            answer = c.request("POST", "/v1/chat/completions",
                               headers=[(sent.lower(), "u1")], json=chat())
    else:
        answer = one.post(json=chat(), headers={sent: "u1"})

    assert answer.status == 200
    assert runs.one()["user_id"] == "u1"
    assert upstream.last.header(sent) is None


@pytest.mark.parametrize("prefix, sent", [
    ("X-P-*", "x-p-a"), ("_*", "_a"), ("X-*", "x-" + "a" * 100),
    ("x" * 70 + "*", "X" * 70 + "a"), ("p*", "Pa")])
def test_props_of_any_prefix_are_read_and_taken_out(nginx, runs, upstream,
                                                    prefix, sent):
    one = nginx(CONFIG.replace("listen {{ listen }};", "listen {{ listen }};"
                               "underscores_in_headers on;"),
                extra=f"lunary_header props {prefix};")

    one.post(json=chat(), headers=[("X-Lunary-User-Id", "u"), (sent, "1")])

    assert runs.one().json("user_props")[
        sent[len(prefix) - 1:].lower()] == "1"
    assert upstream.last.header(sent) is None


def test_each_header_of_a_name_is_taken_out(nginx, runs, upstream):
    """Past the list's first part, too; the others stay, in their order."""
    others = [(f"X-Other-{i}", str(i)) for i in range(60)]
    headers = others[:30] + [("X-Lunary-User-Id", "a")] + others[30:] + [
        ("x-lunary-user-id", "b"), ("X_Lunary_User_Id", "c")]
    one = nginx(CONFIG.replace("listen {{ listen }};", "listen {{ listen }};"
                               "underscores_in_headers on;"))

    one.post(json=chat(), headers=headers)

    assert runs.one()["user_id"] == "b"
    assert [h for h in upstream.last.headers
            if "ther" in h[0].lower() or "user" in h[0].lower()] == others


def test_a_set_is_its_locations_own(nginx, runs, upstream):
    """What one location reads and takes out passes through another, also on
    the same connection."""
    one = nginx(CONFIG.replace("location / {", """location /a/ {
            lunary on;
            lunary_header user X-A;
            proxy_pass {{ upstream }}/;
        }
        location / {"""), extra="lunary_header user X-B;")

    with one.client() as c:
        for path, name in ("/a/v1/chat/completions", "x-a"), (
                "/v1/chat/completions", "x-b"):
            c.request("POST", path, headers=[("X-A", "x-a"), ("X-B", "x-b")],
                      json=chat())
            assert upstream.last.header(name) is None
            other = {"x-a": "x-b", "x-b": "x-a"}[name]
            assert upstream.last.header(other) == other

    assert [r["user_id"] for r in runs(2)] == ["x-a", "x-b"]
