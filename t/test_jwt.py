# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""JSON Web Tokens as docs/recipes.md shows them for the free nginx: checked in
Lua, or by a service that auth_request asks."""

import base64
import hashlib
import hmac
import json
import re
import time

import pytest

from harness import ROOT
from harness.lua import HAS_LUA, LUA, WHY_NOT

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
SECRET = "a secret of the application"


def b64(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def token(secret=SECRET, alg="HS256", digest=hashlib.sha256, **claims):
    claims = {"sub": "carol", "exp": int(time.time()) + 60, **claims}
    text = ".".join(b64(json.dumps(part).encode())
                    for part in ({"alg": alg, "typ": "JWT"}, claims))
    mac = hmac.new(secret.encode(), text.encode(), digest).digest()
    return text + "." + b64(mac)


def tampered():
    head, body, sign = token(sub="bob").split(".")
    return ".".join([head, token(sub="carol").split(".")[1], sign])


BAD = {
    "nothing": None, "empty": "", "no token": "x", "two parts": "a.b",
    "another secret": token("guess"), "tampered": tampered(),
    "none": ".".join(token(alg="none").split(".")[:2]) + ".",
    "none, signed": token(alg="none"), "RS256": token(alg="RS256"),
    "HS512": token(alg="HS512", digest=hashlib.sha512),
    "cut": token()[:-2], "more": token() + ".x", "over": token(exp=1),
    "not yet": token(nbf=int(time.time()) + 60), "no end": token(exp=None),
    "a number": token(sub=7), "nobody": token(sub=""),
    "an object": token(sub={"id": "carol"}), "two": token() + " " + token()}


def recipe():
    text = (ROOT / "docs" / "recipes.md").read_text()
    text = text.split("## JSON Web Tokens")[1]
    lua = re.search(r"```lua\n(.*?)```", text, re.S).group(1)
    conf = re.search(r"```\n(lua_package_path.*?)```", text, re.S).group(1)
    return lua, conf


@pytest.fixture
def guarded(nginx, folder, upstream):
    if not HAS_LUA:
        pytest.skip(WHY_NOT)
    lua, conf = recipe()
    (folder / "jwt.lua").write_text(lua.replace("/etc/nginx", str(folder)))
    (folder / "jwt.secret").write_text(SECRET + "\n")
    head, location = conf.split("\n", 1)
    location = location.replace("http://127.0.0.1:4000", upstream.url)
    return nginx(f"""
load_module {LUA[0]};
load_module {LUA[1]};
{{{{ globals }}}}
http {{
    {{{{ http }}}}
    {{{{ lunary }}}}
    {head.replace("/etc/nginx", str(folder))}
    server {{ listen {{{{ listen }}}}; {location} }}
}}""")


def bearer(text):
    return {} if text is None else {"Authorization": "Bearer " + text}


def test_a_token_that_holds_names_its_user(guarded, upstream, runs):
    assert guarded.post(json=CHAT, headers=bearer(token())).status == 200

    run = runs.one()
    assert (run["user_id"], run["user_verified"], run["user_source"]) == (
        "carol", "1", "$jwt_sub")
    assert upstream.last.header("authorization") == "Bearer sk-..."


@pytest.mark.parametrize("kind", BAD)
def test_any_other_names_nobody(guarded, upstream, kind):
    answer = guarded.post(json=CHAT, headers=bearer(BAD[kind]))

    assert answer.status == 401
    assert answer.json()["error"]["code"] == "user_required"
    assert upstream.requests == []


def test_a_service_may_check_it(nginx, upstream, runs):
    """auth_request: the recipe before, with a service that knows tokens."""
    from upstream.server import Answer

    def service(request):
        good = request.header("authorization") == "Bearer " + good_one
        return Answer(b"", status=200 if good else 401,
                      headers={"X-User": "carol"} if good else {})

    good_one = token()
    one = nginx("""
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    server {
        listen {{ listen }};
        location / {
            lunary               on;
            lunary_phase         precontent;
            auth_request         /auth;
            auth_request_set     $who $upstream_http_x_user;
            lunary_user          verified:$who;
            lunary_require_user  verified;
            proxy_pass           {{ upstream }};
        }
        location = /auth {
            internal;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_pass {{ upstream }};
        }
    }
}""")
    upstream.once(service)
    assert one.post(json=CHAT, headers={
        **bearer(good_one), "X-User": "mallory"}).status == 200
    upstream.once(service)
    assert one.post(json=CHAT, headers={
        **bearer(good_one + "x"), "X-User": "mallory"}).status == 401

    assert [r.get("user_id") for r in runs(2)] == ["carol", None]
    assert [r.path for r in upstream.requests] == [
        "/auth", "/v1/chat/completions", "/auth"]


# -- a cache by user

def test_an_answer_from_the_cache_is_ones_own(nginx, upstream, redis):
    text = (ROOT / "docs" / "recipes.md").read_text()
    block = re.search(r"```nginx\n(proxy_cache_path.*?)```", text, re.S)
    conf = block.group(1).replace("127.0.0.1:8081", "{{ listen }}").replace(
        "/var/cache/nginx/llm", "{{ dir }}/cache").replace(
        "http://127.0.0.1:4000", "{{ upstream }}")
    one = nginx("{{ globals }} http { {{ http }} {{ lunary }} %s }" % conf)
    for name in ("ann", "bob"):
        redis.set(f"sess:{name}", json.dumps({"user_id": name}))

    for name in ("ann", "bob"):
        upstream.once(json.dumps({"for": name}).encode(),
                      content_type="application/json")
        for _ in range(2):
            answer = one.get("/v1/models", headers={"Cookie": f"sid={name}"})
            assert answer.json() == {"for": name}

    assert one.get("/v1/models").status == 401
    assert len(upstream.requests) == 2
