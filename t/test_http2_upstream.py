"""Upstreams that are asked by HTTP/2 (nginx 1.29.4): the same headers and the
same bodies, both ways.  The upstream's front is nginx, too."""

import json

import pytest

from harness.nginx import nginx_version

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    client_max_body_size 100m;
    server {
        listen {{ listen }};
        location / {
            lunary on;
            {{ extra | default("") }}
            proxy_http_version 2;
            proxy_pass http://127.0.0.1:{{ port2 }};
        }
    }
    server {
        listen 127.0.0.1:{{ port2 }};
        http2 on;
        location / {
            proxy_buffering off;
            proxy_pass {{ upstream }};
        }
    }
}
"""

PATH = "/v1/chat/completions"

pytestmark = pytest.mark.skipif(
    nginx_version() < (1, 29, 4),
    reason="proxy_http_version 2 came with nginx 1.29.4")


@pytest.mark.parametrize("extra", ["", "client_body_buffer_size 1k;",
                                   "proxy_request_buffering off;"],
                         ids=["memory", "disk", "unbuffered"])
@pytest.mark.parametrize("size", [0, 5000, 1500000])
def test_identity_stays_here(nginx, upstream, runs, extra, size):
    rest = {"model": "m", "messages": [{"role": "user",
                                        "content": "x" * size}]}
    body = json.dumps({"user_id": "u1", **rest, "tags": ["t"]}).encode()

    answer = nginx(CONFIG, extra=extra, level="info").post(
        PATH, body=body, headers={"X-Lunary-User-Id": "u1",
                                  "Accept-Encoding": "gzip, unheard-of"})

    assert answer.status == 200
    assert upstream.last.json() == rest
    assert upstream.last.header("x-lunary-user-id") is None
    assert upstream.last.header("accept-encoding") == "gzip"
    run = runs.one()
    assert (run["user_id"], run["outcome"]) == ("u1", "ok")
    assert run["request_bytes"] == str(len(body))


def test_an_injected_user_arrives(nginx, upstream, runs):
    nginx(CONFIG, extra="lunary_inject_user header:X-User;").post(
        PATH, json={"model": "m", "user_id": "u1", "messages": []},
        headers={"X-User": "eve"})

    assert upstream.last.header("x-user") == "u1"
    assert runs.one()["user_id"] == "u1"


def test_a_stream_is_read(nginx, upstream, runs):
    answer = nginx(CONFIG, extra="lunary_stream_usage on;").post(
        PATH, json={"model": "m", "stream": True, "messages": []})

    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert upstream.last.json()["stream_options"] == {"include_usage": True}
    run = runs.one()
    assert (run["outcome"], run["stream"]) == ("ok", "1")
    assert int(run["output_tokens"]) > 0
