"""Nothing gets past, whatever way a request takes through nginx: internal
redirects, subrequests, mirrors, caches, and other modules' checks."""

import base64
import json

import pytest

from harness.wait import wait_for

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    {{ main | default("") }}
    proxy_cache_path {{ dir }}/cache keys_zone=c:1m;
    server {
        listen {{ listen }};
        root {{ dir }};
        lunary on;
        lunary_session_id cookie=sid;
        lunary_session sess:$lunary_session_id;
        location /status { lunary off; lunary_status; }
        {{ server }}
    }
}
"""

PATH = "/v1/chat/completions"
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
COOKIE = {"Cookie": "sid=s1"}


@pytest.fixture
def guarded(nginx, redis, upstream):
    redis.set("sess:s1", '{"user_id":"carol"}')

    def make(server, **variables):
        return nginx(CONFIG.replace("{{ server }}", server), **variables)

    return make


def basic(name, password):
    token = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {"Authorization": "Basic " + token}


@pytest.fixture
def htpasswd(folder):
    (folder / "htpasswd").write_text("alice:{PLAIN}secret\n")
    return folder / "htpasswd"


# -- internal redirects

REDIRECTS = {
    "error_page": """
        location / { lunary off; error_page 418 = @llm; return 418; }
        location @llm { lunary_require_user verified;
                        proxy_pass {{ upstream }}; }""",
    "error_page to a path": """
        location / { lunary off; error_page 418 =200 /inner; return 418; }
        location /inner { lunary_require_user verified;
                          proxy_pass {{ upstream }}; }""",
    "try_files": """
        location / { lunary off; try_files /none @llm; }
        location @llm { lunary_require_user verified;
                        proxy_pass {{ upstream }}; }""",
    "try_files, lunary on": """
        location / { try_files /none @llm; }
        location @llm { lunary_require_user verified;
                        proxy_pass {{ upstream }}; }""",
    "rewrite": """
        location / { lunary off; rewrite ^ /inner last; }
        location /inner { lunary_require_user verified;
                          proxy_pass {{ upstream }}; }""",
    "index": """
        location = / { lunary off; try_files /none /inner; }
        location /v1 { lunary off; try_files /none /inner; }
        location /inner { lunary_require_user verified;
                          proxy_pass {{ upstream }}; }""",
    "from on to verified": """
        location / { lunary_require_user on; try_files /none @llm; }
        location @llm { lunary_require_user verified;
                        proxy_pass {{ upstream }}; }"""}


@pytest.mark.parametrize("kind", REDIRECTS)
def test_each_location_on_the_way_judges(guarded, upstream, kind):
    one = guarded(REDIRECTS[kind])

    answer = one.post(PATH, json={**CHAT, "user": "mallory"})

    assert answer.status == 401, answer
    assert upstream.requests == []
    one.post(PATH, json=CHAT, headers=COOKIE)
    assert len(upstream.requests) == 1


def test_x_accel_redirect_is_judged(guarded, upstream):
    one = guarded("""
        location / { lunary off; proxy_pass {{ upstream }}; }
        location /inner/ { internal; lunary_require_user verified;
                           proxy_pass {{ upstream }}/; }""")
    upstream.once(b"", headers=[("X-Accel-Redirect", "/inner/x")])

    assert one.post(PATH, json=CHAT).status == 401
    assert len(upstream.requests) == 1

    upstream.once(b"", headers=[("X-Accel-Redirect", "/inner/x")])
    upstream.once(b"{}", content_type="application/json")
    assert one.post(PATH, json=CHAT, headers=COOKIE).status == 200


def test_a_public_path_leads_no_further_than_itself(guarded, upstream):
    one = guarded("""
        lunary_public /open;
        location / { lunary_require_user on; try_files /none/$uri @llm; }
        location @llm { lunary_require_user on; rewrite ^/open$ /v1/x break;
                        proxy_pass {{ upstream }}; }
        location = /open { lunary_require_user on; try_files /none /v1/y; }
        """)

    assert one.post("/open", json=CHAT).status == 400
    assert upstream.requests == []


def test_the_same_location_judges_another_uri_anew(guarded, upstream):
    one = guarded("""
        location / { lunary_require_user on; lunary_public /open;
                     proxy_pass {{ upstream }}; }""")
    upstream.once(b"", headers=[("X-Accel-Redirect", "/v1/secret")])

    answer = one.post("/open", json=CHAT)

    assert answer.status == 400
    assert len(upstream.requests) == 1


def test_trust_of_one_location_is_not_another_ones(guarded, upstream):
    one = guarded("""
        location / { lunary_trusted_from 127.0.0.1;
                     try_files /none @llm; }
        location @llm { lunary_require_user verified;
                        proxy_pass {{ upstream }}; }""")

    answer = one.post(PATH, json=CHAT, headers={"X-Lunary-User-Id": "m"})

    assert answer.status == 401
    assert upstream.requests == []


def test_the_last_location_reads_what_the_client_sent(guarded, upstream,
                                                      runs):
    one = guarded("""
        location / { try_files /none @llm; }
        location @llm { lunary_require_user on; lunary_header user X-Who;
                        lunary_inject_user user header:X-End-User;
                        proxy_pass {{ upstream }}; }""")

    answer = one.post(PATH, json={**CHAT, "user_id": "alice", "pad": 1},
                      headers={"X-Who": "bob", "X-End-User": "m"})

    assert answer.status == 200
    assert json.loads(upstream.last.body) == {"user": "alice", **CHAT,
                                              "pad": 1}
    assert upstream.last.header("x-end-user") == "alice"
    assert upstream.last.header("x-who") is None
    assert runs.one()["user_id"] == "alice"


def test_a_refusal_is_no_error_page(guarded, upstream):
    one = guarded("""
        error_page 400 401 403 =200 /fine;
        location / { lunary_require_user verified;
                     proxy_pass {{ upstream }}; }
        location /fine { lunary off; return 200 fine; }""")

    answer = one.post(PATH, json=CHAT)

    assert answer.status == 401
    assert answer.json()["error"]["code"] == "user_required"


# -- subrequests

SSI = """
        location / { lunary off; ssi on; ssi_types text/html;
                     default_type text/html; root {{ dir }}/www; }
        location /llm/ { lunary_require_user verified;
                         proxy_pass {{ upstream }}/; }
        location /page/ { ssi on; ssi_types text/html; default_type text/html;
                          lunary_require_user verified;
                          alias {{ dir }}/www/; }"""


def test_ssi_lets_nobody_in(guarded, upstream, folder):
    one = guarded(SSI)
    www = one.folder / "www"
    www.mkdir()
    (www / "a.html").write_text('<!--#include virtual="/llm/v1/models" -->')

    assert b"gpt" not in one.get("/a.html").body
    assert upstream.requests == []

    answer = one.get("/page/a.html", headers=COOKIE)
    assert answer.status == 200 and len(upstream.requests) == 1


def test_auth_request_alone_lets_nobody_in(guarded, upstream):
    one = guarded("""
        location / { lunary off; auth_request /auth;
                     proxy_pass {{ upstream }}; }
        location = /auth { internal; lunary_require_user verified;
                           lunary_strip off; proxy_pass_request_body off;
                           proxy_pass {{ upstream }}/v1/models; }""")

    assert one.post(PATH, json=CHAT).status in (401, 403)
    assert upstream.requests == []


def test_what_is_mirrored_is_the_rewritten_body(guarded, upstream,
                                                another_upstream):
    other = another_upstream()
    one = guarded("""
        location / { lunary_require_user on; mirror /mirror;
                     lunary_inject_user user;
                     {{ phase }}
                     proxy_pass {{ upstream }}; }
        location = /mirror { internal; lunary off;
                             proxy_pass {{ other }}$request_uri; }""",
                  other=other.url, phase="")

    assert one.post(PATH, json={**CHAT, "user_id": "alice",
                                "user": "x"}).status == 200

    other.wait(1)
    assert other.last.body == upstream.last.body
    assert json.loads(other.last.body) == {"user": "alice", **CHAT}


def test_mirrored_also_in_precontent(guarded, upstream, another_upstream):
    other = another_upstream()
    one = guarded("""
        location / { lunary_require_user on; lunary_phase precontent;
                     mirror /mirror; proxy_pass {{ upstream }}; }
        location = /mirror { internal; lunary off;
                             proxy_pass {{ other }}$request_uri; }""",
                  other=other.url)

    assert one.post(PATH, json=CHAT).status == 400
    assert one.post(PATH, json={**CHAT, "user_id": "alice"}).status == 200

    other.wait(1)
    assert json.loads(other.last.body) == CHAT
    assert len(other.requests) == 1


def test_a_mirror_that_requires_takes_the_main_verdict(guarded, upstream,
                                                       another_upstream):
    other = another_upstream()
    one = guarded("""
        location / { mirror /mirror; proxy_pass {{ upstream }}; }
        location = /mirror { internal; lunary_require_user verified;
                             proxy_pass {{ other }}$request_uri; }""",
                  other=other.url)

    assert one.post(PATH, json={**CHAT, "user": "m"}).status == 200
    assert one.post(PATH, json=CHAT, headers=COOKIE).status == 200

    other.wait(1)
    assert len(other.requests) == 1


# -- caches

def test_a_cache_hit_is_judged(guarded, upstream):
    one = guarded("""
        location / { lunary_require_user verified; proxy_cache c;
                     proxy_cache_methods POST; proxy_cache_valid 200 1m;
                     proxy_cache_key $uri; proxy_pass {{ upstream }}; }""")
    assert one.post(PATH, json=CHAT, headers=COOKIE).status == 200

    assert one.post(PATH, json=CHAT).status == 401
    assert one.post(PATH, json=CHAT, headers=COOKIE).status == 200
    assert len(upstream.requests) == 1


# -- other modules' checks

BASIC = """
        location / {
            lunary_phase precontent;
            lunary_user verified:$remote_user;
            lunary_require_user verified;
            %s
            proxy_pass {{ upstream }};
        }"""


def test_a_checked_password_proves_the_user(guarded, upstream, runs,
                                            htpasswd):
    one = guarded(BASIC % f"auth_basic x; auth_basic_user_file {htpasswd};")

    assert one.post(PATH, json=CHAT,
                    headers=basic("alice", "secret")).status == 200
    assert one.post(PATH, json=CHAT,
                    headers=basic("alice", "wrong")).status == 401

    run = [r for r in runs(2) if r["outcome"] == "ok"][0]
    assert (run["user_id"], run["user_source"], run["user_verified"]) == (
        "alice", "$remote_user", "1")


def test_without_auth_basic_the_name_proves_nothing(guarded, upstream):
    one = guarded(BASIC % "")

    assert one.post(PATH, json=CHAT,
                    headers=basic("alice", "x")).status == 401
    assert upstream.requests == []


def test_nor_where_satisfy_any_was_enough(guarded, upstream, htpasswd):
    one = guarded(BASIC % f"satisfy any; allow 127.0.0.1; auth_basic x; "
                          f"auth_basic_user_file {htpasswd};")

    answer = one.post(PATH, json=CHAT, headers=basic("alice", "wrong"))

    assert answer.status == 401
    assert upstream.requests == []


def test_nor_where_auth_basic_is_off_by_a_variable(guarded, upstream,
                                                   htpasswd):
    one = guarded(BASIC % f"set $realm off; auth_basic $realm; "
                          f"auth_basic_user_file {htpasswd};")

    answer = one.post(PATH, json=CHAT, headers=basic("alice", "wrong"))

    assert answer.status == 401
    assert upstream.requests == []


def test_before_the_password_is_checked_it_is_refused(conf_test):
    accepted, words = conf_test(CONFIG.replace("{{ server }}", """
        location / { lunary_user verified:$remote_user; }"""))

    assert not accepted and "lunary_phase precontent" in words


def test_auth_request_may_prove_the_user(guarded, upstream, runs):
    one = guarded("""
        location / {
            lunary_phase precontent;
            auth_request /auth;
            auth_request_set $who $upstream_http_x_user;
            lunary_user verified:$who;
            lunary_require_user verified;
            proxy_pass {{ upstream }};
        }
        location = /auth { internal; lunary off; proxy_pass_request_body off;
                           proxy_set_header Content-Length "";
                           proxy_pass {{ upstream }}/auth; }""")
    upstream.once(b"", headers=[("X-User", "alice")])
    assert one.post(PATH, json=CHAT).status == 200
    upstream.once(b"", headers=[])
    assert one.post(PATH, json=CHAT,
                    headers={"X-User": "mallory"}).status == 401
    upstream.once(b"", status=401)
    assert one.post(PATH, json=CHAT).status == 401

    assert [r.get("user_id") for r in runs(3)] == ["alice", None, None]


# -- limit_req

LIMIT = """
    map $lunary_user_verified $llm_key {
        1        user:$lunary_app:$lunary_user_id;
        default  addr:$binary_remote_addr;
    }
    limit_req_zone $llm_key zone=llm:1m rate=1r/m;
"""


def test_limits_go_by_user_where_verified_else_by_address(guarded, redis,
                                                          upstream):
    redis.set("sess:s2", '{"user_id":"dave"}')
    one = guarded("""
        location / { limit_req zone=llm; limit_req_status 429;
                     proxy_pass {{ upstream }}; }""", main=LIMIT)

    def call(**kw):
        return one.post(PATH, json=CHAT, **kw).status

    assert [call(headers=COOKIE), call(headers=COOKIE)] == [200, 429]
    assert call(headers={"Cookie": "sid=s2"}) == 200
    # claims do not make a key: all of them share the address
    assert [call(headers={"X-Lunary-User-Id": f"u{n}"})
            for n in range(3)] == [200, 429, 429]


def test_a_refused_call_takes_nothing_of_the_limit(guarded, upstream):
    one = guarded("""
        location / { limit_req zone=llm; limit_req_status 429;
                     lunary_require_user on; proxy_pass {{ upstream }}; }""",
                  main=LIMIT)

    for _ in range(3):
        assert one.post(PATH, json=CHAT).status == 400
    assert one.post(PATH, json={**CHAT, "user": "a"}).status == 200


def test_limit_conn_may_key_on_the_user(guarded, upstream):
    from upstream.server import Gate
    gate = Gate()
    upstream.once([gate, b"{}"], content_type="application/json")
    one = guarded("""
        location / { limit_conn per_user 1; limit_conn_status 429;
                     proxy_pass {{ upstream }}; }""",
                  main="limit_conn_zone $lunary_user_id zone=per_user:1m;")

    with one.client() as c:
        body = json.dumps(CHAT).encode()
        c.send(c.head("POST", PATH, COOKIE, body) + body)
        upstream.wait(1)
        assert one.post(PATH, json=CHAT, headers=COOKIE).status == 429
        gate.open()
        c.read("POST")
    wait_for(lambda: one.post(PATH, json=CHAT, headers=COOKIE).status == 200)


# -- what `verified:` may stand before

LAUNDERED = {
    "a map": ("map $http_x_user $who { default $http_x_user; }", ""),
    "a map's capture": ('map $http_x_user $who { "~^(.+)$" $1; }', ""),
    "a named capture": (
        'map $http_x_user $who { "~^u-(?<u>.+)$" $u; default ""; }', ""),
    "a braced name": ('map $host $who { default "x-${arg_user}"; }', ""),
    "two maps": ("map $cookie_u $a { default $cookie_u; }"
                 " map $a $who { default $a; }", ""),
    "set": ("", "set $who $http_x_user;"),
    "set and a map": ("map $arg_u $a { default $arg_u; }", "set $who $a;"),
    "an if's capture": ("", "if ($http_x_user ~ (.*)) { set $who $1; }"),
    "an included file": ("include {{ dir }}/../map*.conf;", ""),
    "session id": ("", "set $who $lunary_session_id;")}


@pytest.mark.parametrize("kind", LAUNDERED)
def test_client_text_is_not_laundered_into_verified(conf_test, folder, kind):
    main, location = LAUNDERED[kind]
    (folder / "map1.conf").write_text(
        "map $http_x_user $who { # a comment { ; }\n  default $http_x_user;}")
    server = "location / { %s lunary_user verified:$who; }" % location

    accepted, words = conf_test(
        CONFIG.replace("{{ server }}", server).replace(
            '{{ main | default("") }}', main))

    assert not accepted and "would trust text that the client wrote" in words


FAIR = {
    "a map from keys": (
        'map $http_x_key $who { "k1" alice; k2 "bob"; default ""; }', ""),
    "a map of certificates": (
        "map $ssl_client_fingerprint $who { default $ssl_client_fingerprint;}",
        ""),
    "a map by address": ("map $remote_addr $who { 127.0.0.1 local; }", ""),
    "set": ("", "set $who alice;"),
    "another variable's map": (
        "map $http_x $other { default $http_x; }"
        "map $remote_addr $who { default $remote_addr; }", ""),
    "geo": ("geo $who { default x; 127.0.0.1 local; }", "")}


@pytest.mark.parametrize("kind", FAIR)
def test_what_is_yours_may_be_verified(conf_test, kind):
    main, location = FAIR[kind]
    server = "location / { %s lunary_user verified:$who; }" % location

    accepted, words = conf_test(
        CONFIG.replace("{{ server }}", server).replace(
            '{{ main | default("") }}', main))

    assert accepted, words


def certificate(folder, name):
    from datetime import datetime, timedelta, timezone

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    cert = (x509.CertificateBuilder().subject_name(subject)
            .issuer_name(subject).public_key(key.public_key())
            .serial_number(7).not_valid_before(now - timedelta(1))
            .not_valid_after(now + timedelta(1)).sign(key, hashes.SHA256()))
    path = folder / f"{name}.pem"
    path.write_bytes(cert.public_bytes(serialization.Encoding.PEM)
                     + key.private_bytes(
                         serialization.Encoding.PEM,
                         serialization.PrivateFormat.PKCS8,
                         serialization.NoEncryption()))
    return path


@pytest.mark.parametrize("verify, name, status", [
    ("optional_no_ca", "$ssl_client_s_dn", 401),
    ("optional_no_ca", "$ssl_client_fingerprint", 200),
    ("on", "$ssl_client_s_dn", 200)])
def test_a_certificate_that_nobody_signed_names_nobody(
        guarded, upstream, folder, verify, name, status):
    import ssl

    from harness.client import Client
    own, alice = certificate(folder, "server"), certificate(folder, "alice")
    one = guarded(f"""
        listen 127.0.0.1:{{{{ port2 }}}} ssl;
        ssl_certificate {own};
        ssl_certificate_key {own};
        ssl_client_certificate {alice};
        ssl_verify_client {verify};
        location / {{ lunary_user verified:{name};
                     lunary_require_user verified;
                     proxy_pass {{{{ upstream }}}}; }}""")
    context = ssl._create_unverified_context()
    mallory = certificate(folder, "mallory")
    context.load_cert_chain(alice if verify == "on" else mallory)

    with Client("127.0.0.1", one.port2, ssl=context) as c:
        assert c.request("POST", PATH, json=CHAT).status == status
    assert len(upstream.requests) == (status == 200)
