"""lunary_run_header: the answer names its run, where there is one."""

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    server {
        listen {{ listen }};
        location / {
            lunary on;
            lunary_run_header on;
            {{ extra | default("") }}
            proxy_pass {{ upstream }};
        }
    }
}
"""

CHAT = {"model": "m", "messages": []}


def header(answer):
    return {k.lower(): v for k, v in dict(answer.headers).items()}.get(
        "x-lunary-run-id")


def test_an_answer_names_its_run(nginx, runs):
    named = header(nginx(CONFIG).post(json=CHAT))

    assert named == runs.one()["run_id"]


def test_a_refusal_names_its_run(nginx, runs):
    named = header(nginx(CONFIG, extra="lunary_require_user on;").post(
        json=CHAT))

    assert named == runs.one()["run_id"]


def test_what_is_no_run_names_none(nginx, runs):
    one = nginx(CONFIG)

    assert header(one.get("/v1/models")) is None
    assert header(one.post(json=CHAT)) == runs.one()["run_id"]
