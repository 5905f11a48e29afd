"""Upstreams that are asked by FastCGI, SCGI and uwsgi: they get the same
headers and the same body as by HTTP."""

import json

import pytest

from upstream.gateway import Gateway

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    server {
        listen {{ listen }};
        {{ protocol }}_param REQUEST_METHOD $request_method;
        {{ protocol }}_param CONTENT_LENGTH $content_length;
        {{ protocol }}_param CONTENT_TYPE   $content_type;
        location / {
            lunary on;
            lunary_session sess:$lunary_session_id format=string;
            lunary_session_id cookie=sid;
            {{ extra | default("") }}
            {{ protocol }}_pass {{ gateway }};
        }
        {{ more | default("") }}
    }
}
"""

PATH = "/v1/chat/completions"
ANSWER = {"id": "c1", "object": "chat.completion", "model": "gpt-4o",
          "choices": [{"index": 0, "finish_reason": "stop",
                       "message": {"role": "assistant", "content": "hello"}}],
          "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
CGI = (b"Status: 200 OK\r\nContent-Type: application/json\r\n\r\n"
       + json.dumps(ANSWER).encode())


@pytest.fixture(params=["fastcgi", "scgi", "uwsgi"])
def gateway(request):
    one = Gateway(request.param, CGI)
    yield one
    one.stop()


@pytest.fixture
def served(nginx, redis, gateway):
    redis.set("sess:s1", "ann")

    def make(**variables):
        return nginx(CONFIG, gateway=gateway.address,
                     protocol=gateway.protocol, **variables)

    return make


def values(pairs, name, separator=", "):
    """All values of a parameter.  nginx 1.23 and newer joins headers of one
    name, older ones send a parameter for each."""
    return sorted(one for key, value in pairs if key == name.encode()
                  for one in value.decode().split(separator))


def test_a_call_becomes_a_run_and_identity_stays_here(served, gateway, runs):
    answer = served().post(
        PATH, json={"model": "gpt-4o", "user_id": "eve", "messages": []},
        headers=[("X-Lunary-User-Id", "eve"), ("X-A", "1"),
                 ("Cookie", "sid=s1; theme=dark"),
                 ("Accept-Encoding", "gzip, unheard-of")])

    assert (answer.status, answer.json()) == (200, ANSWER)
    (pairs, body), = gateway.requests
    assert json.loads(body) == {"model": "gpt-4o", "messages": []}
    assert set(values(pairs, "CONTENT_LENGTH")) == {str(len(body))}
    assert values(pairs, "HTTP_X_LUNARY_USER_ID") == []
    assert values(pairs, "HTTP_COOKIE") == ["theme=dark"]
    assert values(pairs, "HTTP_ACCEPT_ENCODING") == ["gzip"]
    assert values(pairs, "HTTP_X_A") == ["1"]
    run = runs.one()
    assert (run["user_id"], run["user_source"]) == ("ann", "session")
    assert (run["outcome"], run["output_tokens"]) == ("ok", "2")


def test_an_injected_user_arrives(served, gateway, runs):
    served(extra="lunary_inject_user header:X-User;").post(
        PATH, json={"model": "gpt-4o", "messages": []},
        headers=[("Cookie", "sid=s1"), ("X-User", "eve"), ("X-User", "bob")])

    (pairs, _), = gateway.requests
    assert values(pairs, "HTTP_X_USER") == ["ann"]
    assert runs.one()["user_id"] == "ann"


@pytest.mark.parametrize("second", ["lunary on;", "lunary off;"])
def test_headers_of_one_name_stay_together_behind_a_redirect(
        served, gateway, runs, second):
    """nginx 1.23 and newer joins them: those that the location sends on."""
    one = served(extra="error_page 502 = @second;", more=f"""
        location @second {{
            {second}
            lunary_session sess:$lunary_session_id format=string;
            lunary_session_id cookie=sid;
            {gateway.protocol}_pass {gateway.address};
        }}""")
    gateway.answers.insert(0, b"no head\r\n")
    answer = one.post(
        PATH, json={"model": "gpt-4o", "messages": []},
        headers=[("Cookie", "sid=s1"), ("X-A", "1"), ("Cookie", "theme=dark"),
                 ("X-A", "2"), ("X-Lunary-User-Id", "eve"),
                 ("Cookie", "a=b")])

    assert answer.status == 200
    first, last = (pairs for pairs, _ in gateway.requests)
    for pairs in first, last:
        assert values(pairs, "HTTP_X_A") == ["1", "2"]

    taken_out = [], ["a=b", "theme=dark"]
    as_they_came = ["eve"], ["a=b", "sid=s1", "theme=dark"]

    def seen(pairs):
        return (values(pairs, "HTTP_X_LUNARY_USER_ID"),
                values(pairs, "HTTP_COOKIE", "; "))

    assert seen(first) == taken_out
    assert seen(last) == (taken_out if "on" in second else as_they_came)
    assert runs.one()["user_id"] == "ann"


def test_headers_are_joined_as_they_are_where_the_module_comes_second(
        served, gateway, runs):
    """What nginx has joined for the first upstream is not what the second
    one gets."""
    one = served(more=f"""
        location /first/ {{
            error_page 502 = @second;
            {gateway.protocol}_pass {gateway.address};
        }}
        location @second {{
            lunary on;
            lunary_session sess:$lunary_session_id format=string;
            lunary_session_id cookie=sid;
            lunary_inject_user header:X-A;
            {gateway.protocol}_pass {gateway.address};
        }}""")
    gateway.answers.insert(0, b"no head\r\n")

    answer = one.post(
        "/first" + PATH, json={"model": "gpt-4o", "messages": []},
        headers=[("X-Lunary-User-Id", "eve"), ("Cookie", "theme=dark"),
                 ("X-A", "1"), ("Cookie", "sid=s1"), ("X-A", "2"),
                 ("X-Lunary-User-Id", "bob"), ("Cookie", "a=b")])

    assert answer.status == 200
    first, last = (pairs for pairs, _ in gateway.requests)
    assert values(first, "HTTP_X_A") == ["1", "2"]
    assert values(first, "HTTP_COOKIE", "; ") == ["a=b", "sid=s1",
                                                  "theme=dark"]
    assert values(last, "HTTP_X_A") == ["ann"]
    assert values(last, "HTTP_COOKIE", "; ") == ["a=b", "theme=dark"]
    assert values(last, "HTTP_X_LUNARY_USER_ID") == []
    assert runs.one()["user_id"] == "ann"
