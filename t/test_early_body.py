"""Bodies that nginx reads before it has chosen a location
(client_body_early_read of nginx 1.31.5): the module sees them afterwards."""

import json

import pytest

from harness.nginx import nginx_version

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    client_max_body_size {{ max | default("100m") }};
    client_body_early_read 1;
    {{ extra | default("") }}
    server {
        listen {{ listen }};
        lunary on;
        lunary_require_user on;
        location / { proxy_pass {{ upstream }}; }
    }
}
"""


pytestmark = pytest.mark.skipif(
    nginx_version() < (1, 31, 5),
    reason="client_body_early_read came with nginx 1.31.5")


@pytest.mark.parametrize("extra", ["", "client_body_buffer_size 1k;",
                                   "client_body_in_single_buffer on;"],
                         ids=["memory", "disk", "single"])
@pytest.mark.parametrize("size", [0, 5000, 1500000])
def test_members_are_taken_out_of_it(nginx, upstream, runs, extra, size):
    rest = {"model": "m", "messages": [{"role": "user",
                                        "content": "x" * size}]}
    body = json.dumps({"user_id": "u1", **rest, "tags": ["t"]}).encode()

    answer = nginx(CONFIG, extra=extra, level="info").post(body=body)

    assert answer.status == 200
    assert upstream.last.json() == rest
    run = runs.one()
    assert (run["user_id"], run["request_bytes"]) == ("u1", str(len(body)))


def test_without_a_user_it_is_refused(nginx, upstream, runs):
    answer = nginx(CONFIG, level="info").post(
        body=b'{"model":"m","messages":[]}')

    assert answer.status == 400
    assert upstream.requests == []
    assert runs.one()["outcome"] == "rejected"


def test_one_that_is_too_large_is_a_run_all_the_same(nginx, runs):
    answer = nginx(CONFIG, max="1k", level="error").post(
        body=b"[" + b" " * 2000 + b"]")

    assert answer.status == 413
    assert runs.one()["status"] == "413"
