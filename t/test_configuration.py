"""`nginx -t` refuses every wrong directive and says why, and what to write."""

import pytest

CONFIG = """
{{ globals }}
http {
    {{ http }}
    lunary_spool off;
    {{ main | default("lunary_redis " ~ redis ~ ";") }}
    server {
        listen {{ listen }};
        location / {
            lunary on;
            {{ here | default("") }}
            proxy_pass {{ upstream }};
        }
        {{ more | default("") }}
    }
}
"""


def test_the_configuration_without_mistakes_is_accepted(conf_test):
    accepted, words = conf_test(CONFIG)

    assert accepted, words


@pytest.mark.parametrize("directive, words", [
    ("lunary maybe;", ["duplicate"]),
    ("lunary_app;", ["number of arguments"]),
    ("lunary_user nobody;", ["unknown source", "nobody", "$variable"]),
    ("lunary_user session;", ["lunary_session KEY"]),
    ("lunary_user body body;", ["duplicate source", "body"]),
    ("lunary_user verified:$http_x_user;", ["client", "verified:"]),
    ("lunary_user verified:$remote_user;", ["lunary_phase precontent"]),
    ("lunary_user verified:text;", ["unknown source"]),
    ("lunary_header nothing X-A;", ["unknown", "user, props, thread"]),
    ("lunary_header user X:A;", ["invalid header name"]),
    ("lunary_header user X-*;", ["only props"]),
    ("lunary_header user X-A; lunary_header user X-B;", ["duplicate"]),
    ("lunary_trusted_from 1.2.3;", ["invalid address", "CIDR"]),
    ("lunary_session sess:1;", ["no", "variable"]),
    ("lunary_session sess:$cookie_s format=xml;", ["format="]),
    ("lunary_session sess:$lunary_session_id;", ["lunary_session_id cookie="]),
    ("lunary_inject_user user; lunary_strip off; proxy_set_body x;",
     ["proxy_set_body", "lunary_inject_user off"]),
    ("lunary_stream_usage on; lunary_strip off; proxy_set_body x;",
     ["lunary_stream_usage off"]),
    ("lunary_session sess:$cookie_s redis=other;", ["lunary_redis other"]),
    ("lunary_session sess:$cookie_s ttl=1;", ["invalid parameter"]),
    ("lunary_session sess:$cookie_s format=string user=id;", ["string"]),
    ("lunary_session_id sid;", ["cookie=NAME"]),
    ("lunary_session_id cookie=sid secret_file=/nonexistent;",
     ["secret_file", "No such file"]),
    ("lunary_session_id cookie=sid secret=x;", ["secret_file=PATH"]),
    ("lunary_session_id cookie=sid bearer;", ["secret_file=PATH"]),
    ("lunary_session_id secret_file=/dev/null;", ["secret"]),
    ("lunary_require_user sometimes;", ["invalid value", "sometimes"]),
    ("lunary_public v1;", ["slash"]),
    ("lunary_public GET;", ["no path"]),
    ("lunary_dry_run perhaps;", ["on", "off"]),
    ("lunary_identity_conflict panic;", ["invalid value"]),
    ("lunary_capture some;", ["invalid value"]),
    ("lunary_capture_max 10;", ["1k", "lunary_capture none"]),
    ("lunary_capture_max much;", ["invalid value"]),
    ("lunary_api openai.smalltalk;", ["unknown API", "openai.chat"]),
    ("lunary_phase content;", ["invalid value"]),
    ("lunary_stream_usage 1;", ["on", "off"]),
    ("lunary_accept acme;", ["acme"]),
    ("lunary_inject_user name;", ["name"]),
    ("lunary_inject_user header:Content-Length;", ["how a request is read"]),
    ("lunary_inject_user user header:host;", ["header:host"]),
    ("lunary_props all name;", ["all, none, or names"]),
    ("lunary_props name none;", ["all, none, or names"]),
    ("lunary_session_cache maybe;", ["maybe"]),
    ("proxy_set_body x;", ["proxy_set_body", "lunary_strip off"]),
    ("proxy_pass_request_body off;",
     ["proxy_pass_request_body off", "lunary_strip off"]),
    ("lunary_stream x;", ["not allowed here"]),
])
def test_a_wrong_directive_in_a_location(conf_test, directive, words):
    accepted, said = conf_test(CONFIG, here=directive)

    assert not accepted
    for word in words:
        assert word in said, said
    assert "[emerg]" in said


def test_session_beside_other_sources_may_stand_without_a_key(conf_test):
    accepted, words = conf_test(CONFIG, here="""
        lunary_user session body header parent;""")

    assert accepted and "lunary_session KEY" in words, words


def test_parameters_come_in_any_order(conf_test, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("s\n")

    for here in (f"lunary_session_id secret_file={secret} cookie=sid;",
                 f"lunary_session_id bearer secret_file={secret};",
                 "lunary_session s:$cookie_s user=a format=json props=b;",
                 "lunary_session_cache valid=1000ms zone=z:1048576;"):
        accepted, words = conf_test(CONFIG, here=here)
        assert accepted, words


@pytest.mark.parametrize("directive, words", [
    ("lunary_redis localhost;", ["redis://host:port/db"]),
    ("lunary_redis http://127.0.0.1;", ["redis://host:port/db"]),
    ("lunary_redis redis://127.0.0.1:99999/0;", ["invalid port"]),
    ("lunary_redis redis://127.0.0.1/x;", ["database number"]),
    ("lunary_redis redis://ann@127.0.0.1;", ["password"]),
    ("lunary_redis redis://127.0.0.1 ca=/x;", ["rediss://"]),
    ("lunary_redis redis://127.0.0.1 timeout=soon;", ["timeout"]),
    ("lunary_redis redis://127.0.0.1 speed=high;", ["invalid parameter"]),
    ("lunary_redis redis://127.0.0.1; lunary_redis redis://127.0.0.2;",
     ["duplicate", "NAME"]),
    ("lunary_redis a redis://127.0.0.1; lunary_redis a redis://127.0.0.2;",
     ["duplicate", "\"a\""]),
    ("lunary_stream runs shards=0;", ["shards=0"]),
    ("lunary_stream runs maxlen=many;", ["maxlen=many"]),
    ("lunary_stream runs; lunary_stream runs;", ["duplicate"]),
    ("lunary on; lunary sometimes;", ["duplicate"]),
    ("lunary_require_user sometimes;", ["invalid value"]),
])
def test_a_wrong_directive_in_http(conf_test, directive, words):
    accepted, said = conf_test(CONFIG, main=directive)

    assert not accepted
    for word in words:
        assert word in said, said


def test_a_location_without_lunary_may_set_the_body(conf_test):
    accepted, words = conf_test(CONFIG, more="""
        location /auth {
            lunary off;
            proxy_pass_request_body off;
            proxy_pass http://127.0.0.1:1;
        }""")

    assert accepted, words


def test_a_spool_without_a_path_is_refused(conf_test):
    accepted, said = conf_test(CONFIG.replace("spool off", 'spool ""'))

    assert not accepted and "empty path" in said, said


@pytest.mark.parametrize("here, useless", [
    ("", True),
    ("lunary_user body header;", True),
    ("lunary_user body; lunary_trusted_from 10.0.0.0/8;", True),
    ("lunary_trusted_from 10.0.0.0/8;", False),
    ("lunary_trusted_from unix:; lunary_user header;", False),
    ("lunary_session sess:$cookie_s;", False),
    ("lunary_user verified:$ssl_client_serial body;", False)])
def test_a_user_that_nothing_could_prove_is_warned_about(conf_test, here,
                                                         useless):
    accepted, words = conf_test(
        CONFIG, here="lunary_require_user verified; " + here)

    assert accepted, words
    assert ("nothing proves a user" in words) == useless
