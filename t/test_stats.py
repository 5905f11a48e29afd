# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""Counters of all workers in shared memory, and the page that shows them."""

import os
import re
import shutil
import signal
import subprocess

import pytest

from harness.wait import wait_for

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    server {
        listen {{ listen }} reuseport;
        location /v1/ {
            lunary on;
            proxy_pass {{ upstream }};
        }
        location /strict/ {
            lunary on;
            lunary_require_user on;
            proxy_pass {{ upstream }}/;
        }
        location = /json { lunary_status json; }
        location = /prom { lunary_status prometheus; }
        location = /any  { lunary_status; }
    }
}
"""

CALL = {"model": "gpt-4o", "user": "ann",
        "messages": [{"role": "user", "content": "hi"}]}

ANSWER = {"id": "c1", "object": "chat.completion", "model": "gpt-4o",
          "choices": [{"index": 0, "finish_reason": "stop", "message":
                       {"role": "assistant", "content": "ho"}}]}


def status(nginx):
    return nginx.get("/json").json()


def prometheus(nginx):
    """{'lunary_runs_total{outcome="ok"}': 1.0, ...}"""
    text = nginx.get("/prom").text
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in text.splitlines() if not line.startswith("#")}


def total(nginx):
    return sum(status(nginx)["runs_total"].values())


def at_rest(nginx):
    """The equation of docs/directives.md, once nothing waits for Redis."""
    def rested():
        s = status(nginx)
        return s["runs_spooled"] == 0 and s
    s = wait_for(rested)
    assert (sum(s["runs_total"].values()) + s["runs_recovered_total"]
            == s["runs_sent_total"] + sum(s["runs_dropped_total"].values()))
    return s


def counted(nginx, n):
    """Waits until n calls are counted: with several workers, the one that
    shows the page may be quicker than the one that logs."""
    wait_for(lambda: total(nginx) >= n)
    assert total(nginx) == n


def test_a_call_is_counted_by_its_outcome(nginx):
    nginx = nginx(CONFIG)

    nginx.post(json=CALL)

    assert status(nginx)["runs_total"] == {
        "ok": 1, "error": 0, "rejected": 0, "aborted": 0, "truncated": 0,
        "timeout": 0}


def test_an_upstream_error_is_counted_as_error(nginx, upstream):
    nginx = nginx(CONFIG)
    upstream.once({"error": {"message": "no"}}, status=500)

    nginx.post(json=CALL)

    assert status(nginx)["runs_total"]["error"] == 1


def test_a_refusal_is_counted_by_its_code(nginx):
    nginx = nginx(CONFIG)

    nginx.post("/strict/v1/chat/completions", json={**CALL, "user": ""})

    s = status(nginx)
    assert s["rejected_total"]["user_required"] == 1
    assert s["runs_total"]["rejected"] == 1


def test_a_call_is_counted_by_the_source_of_its_user(nginx):
    nginx = nginx(CONFIG)

    nginx.post(json=CALL)
    nginx.post(json={**CALL, "user": ""})
    nginx.post(json={**CALL, "user": ""},
               headers={"X-Lunary-User-Id": "bob"})

    s = status(nginx)["identity_total"]
    assert (s["body"], s["header"], s["none"]) == (1, 1, 1)


def test_runs_that_redis_confirmed_are_counted(nginx, runs):
    nginx = nginx(CONFIG)

    for _ in range(5):
        nginx.post(json=CALL)
    runs(5)

    s = at_rest(nginx)
    assert s["runs_sent_total"] == 5
    assert s["redis_connected"] >= 1


def test_an_answer_without_usage_is_counted_by_api(nginx, upstream):
    nginx = nginx(CONFIG)
    upstream.once(ANSWER)
    nginx.post(json=CALL)
    upstream.once({**ANSWER, "usage": {
        "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})
    nginx.post(json=CALL)

    assert status(nginx)["usage_missing_total"] == {"openai.chat": 1}


def test_durations_are_a_histogram_by_api(nginx):
    nginx = nginx(CONFIG)

    for _ in range(3):
        nginx.post(json=CALL)
    nginx.post("/v1/unheard-of", json={"a": 1})

    h = status(nginx)["request_duration_seconds"]
    assert {api: h[api]["count"] for api in h} == {
        "openai.chat": 3, "unknown": 1}
    buckets = list(h["openai.chat"]["buckets"].values())
    assert buckets == sorted(buckets)
    assert buckets[-1] == 3


def test_the_time_to_the_first_token_is_a_histogram_by_api(nginx, upstream):
    nginx = nginx(CONFIG)

    nginx.post(json={**CALL, "stream": True})
    upstream.once({"error": {"message": "no"}}, status=500)
    nginx.post(json={**CALL, "stream": True})        # no token at all

    h = status(nginx)["ttft_seconds"]
    assert {api: h[api]["count"] for api in h} == {"openai.chat": 1}


def test_durations_are_summed_in_seconds(nginx, upstream):
    from upstream.server import Gate
    nginx = nginx(CONFIG)
    gate = Gate()
    upstream.once([b'{"choices":[', gate, b"]}"],
                  content_type="application/json")

    with nginx.client() as c:
        body = b'{"model":"m","messages":[]}'
        c.send(c.head("POST", "/v1/chat/completions",
                      {"Content-Type": "application/json"}, body) + body)
        gate.wait()
        began = os.times().elapsed
        wait_for(lambda: os.times().elapsed - began > 0.15)
        gate.open()
        c.read()

    h = wait_for(lambda: status(nginx)["request_duration_seconds"]
                 .get("openai.chat"))
    assert 0.15 <= h["sum"] < 5
    assert h["buckets"]["0.1"] == 0


def test_prometheus_shows_the_same_numbers(nginx, runs):
    nginx = nginx(CONFIG)
    for _ in range(3):
        nginx.post(json=CALL)
    nginx.post(json={**CALL, "stream": True})
    nginx.post("/strict/v1/chat/completions", json={**CALL, "user": ""})
    runs(5)

    s, p = at_rest(nginx), prometheus(nginx)

    for name, value in s.items():
        if isinstance(value, (int, float)):
            assert p.pop(f"lunary_{name}") == value
            continue
        for label, n in value.items():
            if isinstance(n, dict):
                where = f'{{api="{label}"'
                metric = f"lunary_{name}"
                assert p.pop(f"{metric}_count{where}}}") == n["count"]
                assert p.pop(f"{metric}_sum{where}}}") == n["sum"]
                for le, m in n["buckets"].items():
                    assert p.pop(f'{metric}_bucket{where},le="{le}"}}') == m
                continue
            names = [k for k in p if re.fullmatch(
                rf'lunary_{name}{{\w+="{re.escape(label)}"}}', k)]
            assert [p.pop(k) for k in names] == [n]

    # what JSON leaves out because nothing was counted
    assert set(p.values()) <= {0.0}


def test_prometheus_format_passes_promtool(nginx, runs):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: apt-get install prometheus")
    nginx = nginx(CONFIG)
    nginx.post(json=CALL)
    nginx.post(json={**CALL, "stream": True})
    runs(2)

    done = subprocess.run([promtool, "check", "metrics"], text=True,
                          input=nginx.get("/prom").text, capture_output=True)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_metric_has_help_and_type_once(nginx):
    nginx = nginx(CONFIG)
    nginx.post(json=CALL)

    text = nginx.get("/prom").text

    helps = re.findall(r"^# HELP (\w+) .+\.$", text, re.M)
    types = re.findall(r"^# TYPE (\w+) (?:counter|gauge|histogram)$", text,
                       re.M)
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in
             re.findall(r"^(lunary_\w+)", text, re.M)}
    assert helps == types
    assert len(set(helps)) == len(helps)
    assert shown <= set(helps)


@pytest.mark.parametrize("path, accept, kind", [
    ("/json", None, "application/json"),
    ("/prom", None, "text/plain"),
    ("/any", None, "application/json"),
    ("/any", "text/plain", "text/plain"),
    ("/any", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
     "text/plain"),
    ("/any", "application/json", "application/json"),
    ("/any", "*/*", "application/json"),
])
def test_the_argument_or_accept_picks_the_format(nginx, path, accept, kind):
    nginx = nginx(CONFIG)

    r = nginx.get(path, headers={"Accept": accept} if accept else {})

    assert r.header("content-type").startswith(kind)
    assert r.body.startswith(b"{" if kind.endswith("json") else b"# HELP")


def test_the_page_is_read_only(nginx):
    nginx = nginx(CONFIG)

    assert nginx.post("/json", body=b"x").status == 405
    assert nginx.request("HEAD", "/json").status == 200


def test_no_label_holds_what_a_client_sent(nginx):
    nginx = nginx(CONFIG)
    nginx.post("/v1/secret-path", json={
        "model": "secret-model", "user": "secret-user", "messages": []},
        headers={"X-Lunary-Tags": "secret-tag"})

    assert total(nginx) == 1
    assert "secret" not in nginx.get("/prom").text
    assert "secret" not in nginx.get("/json").text


def test_all_workers_are_summed(nginx):
    nginx = nginx(CONFIG, workers=3)

    for _ in range(60):
        nginx.post(json=CALL)

    counted(nginx, 60)
    assert status(nginx)["request_duration_seconds"]["openai.chat"][
        "count"] == 60


def test_counters_survive_a_reload(nginx):
    nginx = nginx(CONFIG, workers=2)
    for _ in range(10):
        nginx.post(json=CALL)

    nginx.reload()
    for _ in range(10):
        nginx.post(json=CALL)

    counted(nginx, 20)


def test_counters_survive_a_reload_with_fewer_and_more_workers(nginx, runs):
    nginx = nginx(CONFIG, workers=3)
    for n, workers in enumerate((1, 4, 2), 1):
        for _ in range(10):
            nginx.post(json=CALL)
        nginx.reload(workers=workers)
        counted(nginx, 10 * n)

    runs(30)
    assert at_rest(nginx)["runs_sent_total"] == 30


def test_a_killed_workers_counters_are_kept(nginx, runs):
    nginx = nginx(CONFIG)
    for n in range(1, 4):
        for _ in range(5):
            nginx.post(json=CALL)
        runs(5 * n)
        old = nginx.workers()
        nginx.allow(r"exited on signal 9")
        os.kill(old[0], signal.SIGKILL)
        wait_for(lambda: nginx.workers() and nginx.workers() != old)
        assert total(nginx) == 5 * n


def test_a_killed_workers_gauges_are_not_shown(nginx, runs):
    nginx = nginx(CONFIG)
    nginx.post(json=CALL)
    runs(1)
    connected = wait_for(lambda: status(nginx)["redis_connected"])
    old = nginx.workers()
    nginx.allow(r"exited on signal 9")
    os.kill(old[0], signal.SIGKILL)
    wait_for(lambda: nginx.workers() and nginx.workers() != old)

    nginx.post(json=CALL)
    runs(2)

    assert status(nginx)["redis_connected"] == connected
    assert status(nginx)["runs_spooled"] == 0


def test_counters_survive_a_reload_that_was_refused(nginx):
    nginx = nginx(CONFIG)
    nginx.post(json=CALL)

    good = nginx.config
    nginx.allow(r"unknown directive \"nonsense\"")
    nginx.config = good + "\nnonsense;\n"
    nginx.write()
    nginx.signal(signal.SIGHUP)
    nginx.wait_log('unknown directive "nonsense"')
    nginx.config = good
    nginx.write()

    # a worker that is started now has the old cycle
    old = nginx.workers()
    nginx.allow(r"exited on signal 9")
    os.kill(old[0], signal.SIGKILL)
    wait_for(lambda: nginx.workers() and nginx.workers() != old)
    nginx.post(json=CALL)

    assert total(nginx) == 2


def test_a_new_master_starts_from_nothing(nginx):
    nginx = nginx(CONFIG)
    nginx.post(json=CALL)
    assert total(nginx) == 1

    nginx.quit()
    nginx.start()

    assert total(nginx) == 0


def test_the_page_is_there_without_any_lunary_location(nginx):
    nginx = nginx("""
    {{ globals }}
    http {
        {{ http }}
        server {
            listen {{ listen }};
            location / { lunary_status; }
        }
    }
    """)

    s = nginx.get("/").json()

    assert s["runs_total"]["ok"] == 0
    assert s["request_duration_seconds"] == {}


def test_lunary_status_takes_a_known_format_only(conf_test):
    config = """
    {{ globals }}
    http {
        {{ http }}
        server { listen {{ listen }}; location / { lunary_status %s; } }
    }
    """

    assert conf_test(config % "prometheus")[0]
    accepted, words = conf_test(config % "xml")
    assert not accepted and 'invalid "xml" in "lunary_status"' in words
