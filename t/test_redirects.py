"""What one location proved is no proof in the next: every location that
requires a user judges by its own sources, keeps what it says itself, and sends
on what is there by then."""

import json

import pytest

from harness.lua import LUA, needs_lua

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    server {
        listen {{ listen }};
        location /c/ {
            lunary on;
            lunary_session sess:$cookie_sid format=string;
            error_page 418 = @proven;
            try_files /nonexistent @proven;
        }
        location @proven {
            lunary on;
            lunary_require_user verified;
            proxy_pass {{ upstream }};
        }
        location /d/ {
            lunary on;
            lunary_session sess:$cookie_sid format=string;
            lunary_require_user verified;
            proxy_pass {{ upstream }};
        }
    }
}
"""

CHAT = {"model": "m", "messages": []}


def test_a_session_of_another_location_is_no_proof(nginx, redis, runs):
    redis.client.set("sess:1", "alice")
    one = nginx(CONFIG)

    assert one.post("/d/v1/chat/completions", json=CHAT,
                    headers={"Cookie": "sid=1"}).status == 200
    assert one.post("/c/v1/chat/completions", json=CHAT,
                    headers={"Cookie": "sid=1"}).status == 401

    first, second = runs(2)
    assert first["user_id"] == "alice"
    assert "user_id" not in second
    assert second["outcome"] == "rejected"


SERVER = """
{{ modules | default("") }}
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    {{ main | default("") }}
    server {
        listen {{ listen }};
        {{ server }}
        location / {
            {{ first | default("") }}
            root /nonexistent;
            try_files $uri @llm;
        }
        location @llm {
            {{ second | default("") }}
            proxy_pass {{ upstream }};
        }
    }
}
"""

HELLO = {"model": "gpt-4o", "user_id": "u1",
         "messages": [{"role": "user", "content": "hi"}]}


# -- a location with `lunary off` gets what the client sent

def test_behind_a_redirect_to_off_nothing_is_missing(nginx, upstream, redis):
    redis.client.hset("sess:s1", "user_id", "ann")
    one = nginx(SERVER, second="lunary off;", server="""
        lunary on;
        lunary_session sess:$lunary_session_id;
        lunary_session_id cookie=sid;""")
    head = {"Cookie": "sid=s1", "X-Lunary-User-Id": "me"}

    one.get("/account", headers=head)
    assert upstream.last.header("cookie") == "sid=s1"

    one.post("/form", json=HELLO, headers=head)
    assert upstream.last.json() == HELLO
    assert upstream.last.header("cookie") == "sid=s1"
    assert upstream.last.header("x-lunary-user-id") == "me"


# -- what is kept is the last location's to say

@pytest.mark.parametrize("size", [10, 40000])
def test_the_last_location_says_what_is_kept(nginx, runs, upstream, size):
    one = nginx(SERVER, server="lunary on;", second="lunary_capture none;")
    one.post(json={**HELLO, "messages": [{"role": "user",
                                          "content": "x" * size}]})
    run = runs.one()
    assert "input" not in run and run["user_id"] == "u1"


def test_the_last_location_may_keep_more(nginx, runs, upstream):
    one = nginx(SERVER, server="lunary on;", first="lunary_capture none;",
                second="lunary_capture full;")
    one.post(json=HELLO)
    assert runs.one().json("input") == HELLO["messages"]


def test_the_last_location_names_the_api(nginx, runs, upstream):
    one = nginx(SERVER, server="lunary on;",
                second="lunary_api anthropic.messages;")
    one.post("/any", json=HELLO)
    run = runs.one()
    assert (run["api"], run["user_id"]) == ("anthropic.messages", "u1")


# -- $content_length

def test_content_length_is_of_what_is_sent(nginx, upstream, runs):
    """A variable that was asked for before the body was changed."""
    one = nginx(SERVER, server="lunary on; if ($big) { return 413; }",
                main="map $content_length $big { default 0; ~^......... 1; }",
                second="proxy_set_header X-Length $content_length;")
    assert one.post("/v1/chat/completions", json=HELLO).status == 200
    assert upstream.last.header("x-length") == str(len(upstream.last.body))
    assert "user_id" not in upstream.last.json()
    runs.one()


# -- other modules change the request in between

NEW = ('{"model":"gpt-4o-mini","user":"bob","messages":[{"role":"user",'
       '"content":"replaced, and longer than what the client sent"}]}')
REPLACE = ("rewrite_by_lua_block { ngx.req.read_body() "
           f"ngx.req.set_body_data('{NEW}') }}")


@pytest.fixture
def scripted(nginx):
    def make(**variables):
        return nginx(SERVER, modules="".join(
            f"load_module {p};\n" for p in LUA), **variables)
    return make


@needs_lua
@pytest.mark.parametrize("first", ["", "lunary_strip off;"],
                         ids=["stripped", "as-it-was"])
def test_a_body_that_was_replaced_behind_a_redirect(scripted, upstream, runs,
                                                    first):
    one = scripted(server="lunary on;", first=first, second=REPLACE)
    assert one.post("/v1/chat/completions", json=HELLO).status == 200
    assert upstream.last.body.decode() == NEW
    run = runs.one()
    assert (run["user_id"], run["model"]) == ("bob", "gpt-4o-mini")
    assert "replaced" in run["input"]


@needs_lua
def test_a_body_of_the_same_length(scripted, upstream, runs):
    """Read by our filter, then replaced, in one location."""
    body = json.dumps(HELLO).replace(" ", "")
    one = scripted(server="lunary on;", second="lunary_strip off; "
                   "rewrite_by_lua_block { ngx.req.read_body() "
                   "ngx.req.set_body_data((ngx.req.get_body_data():gsub("
                   "'u1', 'u2'))) }", first="lunary off;")
    assert one.post("/v1/chat/completions", body=body.encode()).status == 200
    assert upstream.last.json()["user_id"] == "u2"
    assert runs.one()["user_id"] == "u2"


@needs_lua
def test_headers_that_were_changed_behind_a_redirect(scripted, upstream,
                                                     runs):
    one = scripted(server="lunary on;", second="rewrite_by_lua_block { "
                   "ngx.req.set_header('X-Foo', 'bar') "
                   "ngx.req.clear_header('X-Admin') }")
    assert one.post("/v1/chat/completions", json=HELLO, headers={
        "X-Lunary-User-Id": "ann", "X-Admin": "1"}).status == 200
    assert upstream.last.header("x-foo") == "bar"
    assert upstream.last.header("x-admin") is None
    assert upstream.last.header("x-lunary-user-id") is None
    runs.one()


# -- what is kept may depend on the user

def test_what_is_kept_by_user(nginx, runs, upstream):
    one = nginx(SERVER, main="map $lunary_user_id $keep { default full; "
                "u1 none; }", server="lunary on;",
                second="lunary_capture $keep;")
    one.post("/v1/chat/completions", json=HELLO)
    one.post("/v1/chat/completions", json={**HELLO, "user_id": "u2"})
    first, second = runs(2)
    assert first["user_id"] == "u1" and "input" not in first
    assert second.json("input") == HELLO["messages"]
