"""The module's variables in the directives of others: access_log, map,
limit_req, proxy_set_header, return."""

import json

import pytest

from upstream.server import sse

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    {{ main | default("") }}
    server {
        listen {{ listen }};
        location / {
            lunary on;
            {{ extra | default("") }}
            proxy_pass {{ upstream }};
        }
        location /off { proxy_pass {{ upstream }}; {{ off | default("") }} }
    }
}
"""

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}

LOG = """
    log_format lunary escape=json '{'
        '"app":"$lunary_app","user":"$lunary_user_id",'
        '"source":"$lunary_user_source","verified":"$lunary_user_verified",'
        '"props":"$lunary_user_props","run":"$lunary_run_id",'
        '"thread":"$lunary_thread_id","parent":"$lunary_parent_run_id",'
        '"model":"$lunary_model","provider":"$lunary_provider",'
        '"api":"$lunary_api","stream":"$lunary_stream",'
        '"decision":"$lunary_decision","outcome":"$lunary_outcome",'
        '"ttft":"$lunary_ttft","in":"$lunary_input_tokens",'
        '"out":"$lunary_output_tokens","total":"$lunary_total_tokens"}';
    access_log {{ dir }}/lunary.log lunary;
"""


def logged(one):
    one.quit()
    return [json.loads(line) for line in one.log("lunary.log").splitlines()]


def with_log(config=CONFIG):
    return config.replace('{{ main | default("") }}', LOG)


def test_every_variable_in_the_access_log(nginx, upstream, runs):
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    upstream.once(sse({"id": "c", "model": "m", "choices": [
        {"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]},
        {"id": "c", "model": "m", "choices": [], "usage": usage}),
        content_type="text/event-stream")
    one = nginx(with_log(), extra="lunary_app shop;")

    one.post(json={**CHAT, "stream": True, "user": "u1", "thread_id": "t1",
                   "parent_run_id": "p1", "user_props": {"a": 1}})

    run = runs.one()
    line, = logged(one)
    ttft = line.pop("ttft")
    assert len(ttft.partition(".")[2]) == 3 and float(ttft) >= 0
    assert json.loads(line.pop("props")) == {"a": 1}
    assert line == {
        "app": "shop", "user": "u1", "source": "body", "verified": "0",
        "run": run["run_id"], "thread": "t1", "parent": "p1",
        "model": "gpt-4o", "provider": run["provider"], "api": "openai.chat",
        "stream": "1", "decision": "PASSED", "outcome": "ok", "in": "3",
        "out": "4", "total": "7"}


def test_what_is_unknown_is_empty(nginx, upstream, runs):
    upstream.once({"choices": []})
    one = nginx(with_log())

    one.post(json=CHAT)

    runs.one()
    line, = logged(one)
    assert [line[k] for k in ("user", "source", "props", "in", "out",
                              "total", "thread")] == [""] * 7


def test_a_call_that_asks_for_no_stream(nginx, runs):
    one = nginx(with_log())

    one.post(json=CHAT)

    assert (logged(one)[0]["stream"], runs.one()["stream"]) == ("0", "0")


@pytest.mark.parametrize("extra, decision, status", [
    ("lunary_require_user on;", "REJECTED", 400),
    ("lunary_require_user on; lunary_dry_run on;", "REJECTED_DRY_RUN", 200)])
def test_the_decision(nginx, runs, extra, decision, status):
    one = nginx(with_log(), extra=extra)

    assert one.post(json=CHAT).status == status

    runs.one()
    assert logged(one)[0]["decision"] == decision


def test_variables_are_empty_where_lunary_is_off(nginx, runs):
    one = nginx(with_log())

    assert one.post("/off", json={**CHAT, "user": "u1"}).status != 500

    line, = logged(one)
    assert set(line.values()) <= {"", "default"}


def test_a_user_in_limit_req(nginx, runs):
    one = nginx(CONFIG, main="limit_req_zone $lunary_user_id zone=u:1m "
                             "rate=1r/m;",
                extra="limit_req zone=u; limit_req_status 429;")

    status = [one.post(json={**CHAT, "user": user}).status
              for user in ("alice", "alice", "bob", "bob", "carol")]

    assert status == [200, 429, 200, 429, 200]
    assert [r["outcome"] for r in runs(5)].count("rejected") == 2


def test_limit_req_ignores_an_empty_user(nginx, runs):
    one = nginx(CONFIG, main="limit_req_zone $lunary_user_id zone=u:1m "
                             "rate=1r/m;",
                extra="limit_req zone=u;")

    assert [one.post(json=CHAT).status for _ in range(3)] == [200] * 3


def test_the_recipe_keys_by_user_if_verified_else_by_address(nginx, redis):
    redis.set("sess:a", '{"user_id":"alice"}')
    redis.set("sess:b", '{"user_id":"bob"}')
    one = nginx(CONFIG, main="""
        map $lunary_user_verified $limit_key {
            1        user:$lunary_user_id;
            default  addr:$binary_remote_addr;
        }
        limit_req_zone $limit_key zone=u:1m rate=1r/m;""",
        extra="""
        lunary_session_id cookie=sid;
        lunary_session sess:$lunary_session_id;
        limit_req zone=u; limit_req_status 429;""")

    def status(cookie, user):
        return one.post(json={**CHAT, "user": user},
                        headers={"Cookie": cookie}).status

    assert status("sid=a", "x") == 200
    assert status("sid=a", "y") == 429
    assert status("sid=b", "x") == 200
    assert status("", "x") == 200
    assert status("", "y") == 429       # another claim, the same address


def test_a_map_of_the_model_chooses_the_upstream(nginx, upstream,
                                                 another_upstream, runs):
    cheap = another_upstream()
    one = nginx("""
        {{ globals }}
        http {
            {{ http }}
            {{ lunary }}
            map $lunary_model $where {
                ~mini$   {{ cheap }};
                default  {{ upstream }};
            }
            server {
                listen {{ listen }};
                location / { lunary on; proxy_pass $where; }
            }
        }
    """, cheap=cheap.url)

    one.post(json={**CHAT, "model": "gpt-4o-mini"})
    one.post(json=CHAT)

    assert [r.json()["model"] for r in cheap.requests] == ["gpt-4o-mini"]
    assert [r.json()["model"] for r in upstream.requests] == ["gpt-4o"]
    assert len(runs(2)) == 2


def test_headers_for_the_upstream(nginx, upstream, runs):
    nginx(CONFIG, extra="""
        proxy_set_header X-User $lunary_user_id;
        proxy_set_header X-Run $lunary_run_id;
        proxy_set_header X-Model $lunary_model;""").post(
        json={**CHAT, "user": "u1"})

    run = runs.one()
    assert (upstream.last.header("x-user"), upstream.last.header("x-run"),
            upstream.last.header("x-model")) == (
        "u1", run["run_id"], "gpt-4o")


def test_a_location_without_an_upstream_makes_a_run_too(nginx, runs):
    one = nginx("""
        {{ globals }}
        http {
            {{ http }}
            {{ lunary }}
            server {
                listen {{ listen }};
                location / { lunary on; return 200 "$lunary_user_id"; }
            }
        }
    """)

    assert one.post(json={**CHAT, "user": "u1"}).status == 200

    assert runs.one()["method"] == "POST"
