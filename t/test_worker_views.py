"""lunary-worker tail, users, show, forget, export and price."""

import gzip
import http.server
import json
import os
import shutil
import subprocess
import threading

import pytest
import redis as redis_py

from harness import SHARED
from harness.wait import wait_for
from harness.worker import Worker, event, once, run, uuid7
from ingest_standin.server import Ingest


def add(redis, *entries, stream="lunary:runs"):
    return [redis.client.xadd(stream, e) for e in entries]


# -- tail

def test_tail_shows_what_is_there(redis):
    add(redis, run(user_id="ann", input_tokens=1000, output_tokens=100),
        run(user_id="bob", user_verified="0", outcome="aborted"))
    out = once(redis.unix_url, "tail", "--no-follow").stdout
    head, ann, bob = out.splitlines()
    assert head.split()[:5] == ["TIME", "USER", "APP", "MODEL", "OUTCOME"]
    assert ann.split()[1:5] == ["ann", "default", "gpt-4o", "ok"]
    assert "1 000" in ann and "0.003500" in ann
    assert "bob" in bob and "?" in bob and "aborted" in bob
    assert "\033" not in out


def test_tail_follows(redis, folder):
    w = Worker(folder, redis.unix_url, "tail", "--json").start()
    try:
        add(redis, run(user_id="ann"))
        w.says('"user_id":"ann"')
        line = json.loads([x for x in w.said.splitlines() if "ann" in x][0])
        assert line["input"] == [{"role": "user", "content": "Hello"}]
        assert line["input_tokens"] == 10 and line["cost_usd"] > 0
        assert w.term() == 0
    finally:
        w.kill()


def test_nothing_in_a_run_can_drive_the_terminal(redis):
    add(redis, run(user_id="a", model="x\033]0;pwned\007\u202e\u009b31m",
                   response_model=None))
    out = once(redis.unix_url, "tail", "--no-follow").stdout
    assert not any(c in out for c in "\033\007\u202e\u009b")
    row = json.loads(once(redis.unix_url, "tail", "--no-follow",
                          "--json").stdout)
    assert "\033" in row["model"]


def test_tail_of_one_user(redis):
    add(redis, run(user_id="ann"), run(user_id="bob"))
    out = once(redis.unix_url, "tail", "--no-follow", "--user", "bob",
               "--color", "always").stdout
    assert "bob" in out and "ann" not in out and "\033[32m" in out


# -- users

EVIL = '</script><img src=x onerror=alert(1)>'


@pytest.fixture
def three(redis):
    add(redis, run(user_id="ann", user_props={"name": "Ann Lee", "group": "s",
                                              "email": "ann@x.org"},
                   input_tokens=100000),
        run(user_id="bob", user_props={"name": EVIL}, user_verified="0",
            model="unknown", response_model=None),
        run(user_id="cy", app="other"), run())
    once(redis.unix_url, "ledger", "--once")


def test_users_as_a_table(redis, three):
    out = once(redis.unix_url, "users").stdout.splitlines()
    assert out[0].split()[:4] == ["USER", "NAME", "GROUP", "APP"]
    assert out[1].startswith("ann") and "Ann Lee" in out[1]
    assert "0.250050" in out[1]
    assert len(out) == 5 and any("(no user)" in line for line in out)


def test_users_as_json(redis, three):
    rows = json.loads(once(redis.unix_url, "users", "--json", "--app",
                           "default").stdout)
    by = {r.get("user_id"): r for r in rows}
    assert set(by) == {"ann", "bob", None}
    assert by["ann"]["cost_usd"] == 0.25005
    assert by["ann"]["props"]["group"] == "s" and by["ann"]["verified"]
    assert "cost_usd" not in by["bob"] and by["bob"]["unpriced_runs"] == 1
    assert by[None]["rest"] == "none"


def test_users_page_holds_no_markup_of_strangers(redis, three, folder):
    once(redis.unix_url, "users", "--html", folder / "u.html")
    page = (folder / "u.html").read_text()
    assert "<img" not in page and "@USERS@" not in page
    assert page.count("</script>") == 2
    assert "http://" not in page and "https://" not in page
    data = page.split('id="users">')[1].split("</script>")[0]
    assert EVIL in [u.get("props", {}).get("name") for u in json.loads(data)]


def test_users_page_in_a_browser(redis, three, folder):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("no chromium")
    once(redis.unix_url, "users", "--html", folder / "u.html")
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu",
         f"--user-data-dir={folder}/chromium", "--virtual-time-budget=3000",
         "--dump-dom", f"file://{folder}/u.html"],
        capture_output=True, text=True, timeout=280,
        env={**os.environ, "HOME": str(folder)})
    dom = done.stdout
    body = dom.split('<tbody id="rows">')[1].split("</tbody>")[0]
    assert body.count("<tr>") == 4
    assert body.index("Ann Lee") < body.index("&lt;img")   # by cost
    assert 'aria-sort="descending"' in dom and "$0.2500" in body
    assert "<img" not in body


# -- show, forget

@pytest.fixture
def traces(redis):
    """ann and bob, everywhere something can be kept."""
    rid = uuid7(5)
    for who in ("ann", "bob"):
        r = rid if who == "ann" else uuid7(6)
        add(redis, run(user_id=who, user_props={"name": who.title()},
                       thread_id="t"),
            run(user_id=who, run_id="", app="default"),
            event(type="llm", event="start", runId=r, userId=who,
                  name="gpt-4o", input="mine"),
            event(type="llm", event="end", runId=r, output="answer to " + who))
        redis.hset(f"lunary:policy:default:{who}", "blocked", "0")
        redis.set(f"lunary:budget:default:{who}:2026-11", "5")
        redis.hset(f"lunary:thread:t-{who}",
                   mapping={"app": "default", "user": who})
    add(redis, run(user_id="ann", app="other"))
    once(redis.unix_url, "ledger", "--once")
    return rid


def relay(redis, folder, lunary):
    (folder / "key").write_text("key")
    once(redis.unix_url, "relay", "--once", "--api", lunary.url, "--project",
         f"*={folder}/key")


def everything(redis):
    """All that Redis holds, as text; sets hold run ids in binary."""
    redis = redis_py.Redis(unix_socket_path=redis.socket,
                           decode_responses=True, encoding_errors="replace")
    out = []
    for key in redis.keys("*"):
        kind = redis.type(key)
        if kind == "set":
            continue
        value = {"hash": redis.hgetall, "string": redis.get,
                 "zset": lambda k: redis.zrange(k, 0, -1),
                 "stream": redis.xrange}[kind](key)
        out.append(f"{key} {value!r}")
    return out


def test_show_tells_everything_of_a_user(redis, traces, folder):
    lunary = Ingest().start()
    relay(redis, folder, lunary)
    lunary.stop()
    shown = json.loads(once(redis.unix_url, "show", "default", "ann",
                            "--json").stdout)
    assert len(shown["entries"]) == 5          # one of them a dead letter
    assert any(e.get("event", {}).get("output") == "answer to ann"
               for e in shown["entries"])
    keys = shown["keys"]
    assert keys["lunary:user:default:ann"]["props"] == {"name": "Ann"}
    assert {"lunary:policy:default:ann", "lunary:thread:t-ann",
            "lunary:budget:default:ann:2026-11"} <= set(keys)
    assert any(k.startswith("lunary:user-day:default:ann:") for k in keys)
    assert "bob" not in json.dumps(shown)


def test_forget_leaves_nothing(redis, traces, folder):
    lunary = Ingest().start()
    relay(redis, folder, lunary)
    (folder / "private").write_text("private")
    dry = once(redis.unix_url, "forget", "default", "ann")
    assert "--yes" in dry.stdout and redis.exists("lunary:user:default:ann")
    assert ("key", "ann") in lunary.users

    once(redis.unix_url, "forget", "default", "ann", "--yes", "--policy",
         "--api", lunary.url, "--lunary-key-file", folder / "private")
    lunary.stop()
    left = [x for x in everything(redis)
            if "ann" in x and ":other" not in x
            and not x.startswith("lunary:runs ")]
    assert left == []
    assert [e["app"] for _, e in redis.client.xrange("lunary:runs")
            if "ann" in str(e)] == ["other"]
    assert sum("bob" in x for x in everything(redis)) > 5
    assert redis.client.xlen("lunary:runs") == 5
    assert ("key", "ann") not in lunary.users
    assert ("key", "bob") in lunary.users
    assert traces not in lunary.runs
    again = once(redis.unix_url, "forget", "default", "ann", "--yes",
                 check=False)
    assert again.returncode == 5


@pytest.mark.parametrize("trimmed", [False, True])
def test_forget_takes_the_marks_of_the_users_messages(redis, folder, trimmed):
    """Of runs that are in the stream, and of those that were relayed and have
    left it."""
    ann, bob = (run(user_id=who, thread_id="t") for who in ("ann", "bob"))
    said = event(type="thread", event="chat", runId=uuid7(7), userId="ann",
                 parentRunId=uuid7(8), message={"role": "user",
                                                "content": "hi"})
    add(redis, ann, bob, said)
    lunary = Ingest().start()
    relay(redis, folder, lunary)
    lunary.stop()
    marks = [f"lunary:relay:chat:default:{e['run_id']}"
             for e in (ann, bob, said)]
    assert sorted(redis.keys("lunary:relay:chat:*")) == sorted(marks)
    if trimmed:
        redis.client.xtrim("lunary:runs", maxlen=0)
        redis.delete(marks[2])         # which nothing tells of any more
    redis.set("lunary:relay:chat:other:" + ann["run_id"], "1")
    found = once(redis.unix_url, "forget", "default", "ann").stdout
    once(redis.unix_url, "forget", "default", "ann", "--yes")
    assert sorted(redis.keys("lunary:relay:chat:*")) == sorted(
        [marks[1], "lunary:relay:chat:other:" + ann["run_id"]])
    assert ("2 keys" if trimmed else "3 keys") in found, found


def test_forget_keeps_the_operators_policy(redis, traces):
    once(redis.unix_url, "forget", "default", "ann", "--yes")
    assert redis.exists("lunary:policy:default:ann")


def test_a_user_that_is_called_like_a_flag(redis):
    add(redis, run(user_id="--yes"), run(user_id="a*"), run(user_id="ab"))
    once(redis.unix_url, "ledger", "--once")
    once(redis.unix_url, "forget", "--yes", "--", "default", "--yes")
    once(redis.unix_url, "forget", "--yes", "default", "a*")
    assert redis.keys("lunary:user:*") == ["lunary:user:default:ab"]


# -- export

@pytest.fixture
def collector():
    """Takes OTLP/HTTP JSON; parsed by OpenTelemetry's own schema, if there."""
    got, statuses = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            status = statuses.pop(0) if statuses else 200
            if status == 200:
                got.append((self.path, dict(self.headers), body))
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.got, server.statuses = got, statuses
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield server
    server.shutdown()
    server.server_close()


def attributes(span):
    return {a["key"]: list(a["value"].values())[0] for a in
            span["attributes"]}


def test_runs_become_spans(redis, collector):
    one = run(user_id="ann", params={"temperature": 0.5, "max_tokens": 7},
              finish_reason="stop", thread_id="t", cached_tokens=4,
              trace_id="0af7651916cd43dd8448eb211c80319c",
              parent_span_id="b7ad6b7169203331")
    bad = run(outcome="error", model='mo"del', status=500,
              error={"message": "no", "type": "server_error"})
    add(redis, one, bad, event(type="chain", event="start", runId="x"))
    collector.statuses[:] = [503]
    once(redis.unix_url, "export", "--once", "--endpoint", collector.url,
         "--header", "X-Team: a")
    (path, headers, body), = collector.got
    assert path == "/v1/traces" and headers["X-Team"] == "a"
    spans = json.loads(body)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert len(spans) == 2
    span = spans[0]
    assert span["name"] == "chat gpt-4o" and span["kind"] == 3
    assert span["traceId"] == one["trace_id"]
    assert span["parentSpanId"] == one["parent_span_id"]
    assert span["spanId"] == one["run_id"].replace("-", "")[16:]
    assert span["startTimeUnixNano"] == one["started_at"] + "000000"
    a = attributes(span)
    assert a["gen_ai.usage.input_tokens"] == "10"
    assert a["gen_ai.usage.cache_read.input_tokens"] == "4"
    assert a["gen_ai.request.temperature"] == 0.5
    assert a["gen_ai.request.max_tokens"] == "7"
    assert a["gen_ai.conversation.id"] == "t" and a["user.id"] == "ann"
    assert a["gen_ai.response.finish_reasons"] == {
        "values": [{"stringValue": "stop"}]}
    assert "gen_ai.input.messages" not in a
    assert spans[1]["status"] == {"code": 2, "message": "no"}
    assert attributes(spans[1])["error.type"] == "server_error"
    assert redis.client.xpending("lunary:runs", "export")["pending"] == 0


def test_spans_are_what_opentelemetry_defines(redis, collector):
    trace_service = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    from google.protobuf import json_format
    add(redis, run(user_id="ann", params={"temperature": 1}), run(
        run_id="no-uuid", outcome="aborted"))
    once(redis.unix_url, "export", "--once", "--endpoint", collector.url,
         "--contents")
    json_format.Parse(collector.got[0][2],
                      trace_service.ExportTraceServiceRequest())


def test_a_collector_that_is_away_is_exit_code_4(redis, collector):
    add(redis, run())
    collector.statuses[:] = [503] * 10
    done = once(redis.unix_url, "export", "--once", "--endpoint",
                collector.url, check=False)
    assert done.returncode == 4
    assert redis.client.xpending("lunary:runs", "export")["pending"] == 1


# -- price

def price(*entries):
    lines = "".join(json.dumps(e) + "\n" for e in entries)
    out = once(None, "price", input=lines).stdout
    return [json.loads(x)["cost_usd"] for x in out.splitlines()]


@pytest.mark.parametrize("fields, cost", [
    # 2.5 a million in, 1.25 cached, 10 out
    (dict(input_tokens=1000, output_tokens=100), 0.0035),
    (dict(input_tokens=1000, output_tokens=100, cached_tokens=400), 0.003),
    (dict(input_tokens="1000", output_tokens="100"), 0.0035),
    (dict(input_tokens=0, output_tokens=0), 0),
    (dict(input_tokens=1000), 0.0025),
    (dict(), None),
    (dict(input_tokens=1, cached_tokens=2), None),
    (dict(input_tokens=1, model="no-such"), None),
    (dict(input_tokens=1, provider="no-such"), None),
])
def test_cost_of_a_call(fields, cost):
    base = dict(provider="openai", model="gpt-4o", started_at=1763772000000)
    assert price({**base, **fields}) == [cost]


def test_tiers_cache_writes_and_their_lifetime():
    base = dict(provider="anthropic", model="claude-sonnet-4-5",
                started_at=1763772000000)
    plain, tier, write, hour = price(
        dict(base, input_tokens=200000, output_tokens=0),
        dict(base, input_tokens=200001, output_tokens=0),
        dict(base, input_tokens=1000000, cache_write_tokens=1000,
             output_tokens=0) | {"input_tokens": 1000},
        dict(base, input_tokens=1000, cache_write_tokens=1000,
             output_tokens=0,
             usage={"cache_creation": {"ephemeral_1h_input_tokens": 1000}}))
    assert plain == 0.6
    assert tier == pytest.approx(1.200006)
    assert write == pytest.approx(0.00375)
    assert hour == pytest.approx(0.006)


def test_what_a_compaction_had_from_the_cache_costs_what_that_does():
    base = dict(provider="anthropic", model="claude-sonnet-4-5",
                started_at=1763772000000, output_tokens=0)
    passed = {"type": "compaction", "input_tokens": 100, "output_tokens": 0,
              "cache_read_input_tokens": 50000,
              "cache_creation_input_tokens": 2000}
    other = {"type": "message", "input_tokens": 181,
             "cache_read_input_tokens": 7}
    cost = [100 + 181, 50000, 2000]
    cost = (cost[0] * 3 + cost[1] * 0.3 + cost[2] * 3.75) / 1e6
    odd = [1, None, {"type": "compaction"}, {**passed, "type": 1}, {
        "type": "compaction", "cache_read_input_tokens": -5,
        "cache_creation_input_tokens": "x"}]
    for usage, known in (({"iterations": [passed, other]}, {}),
                         ({"iterations": [*odd, passed]}, {
                             "cached_tokens": 0, "cache_write_tokens": 0})):
        assert price(dict(base, input_tokens=52281, usage=usage, **known)) == [
            pytest.approx(cost)]
    assert price(dict(base, input_tokens=1000, usage={"iterations": odd})) == [
        pytest.approx(0.003)]
    assert price(dict(base, input_tokens=1000,
                      usage={"iterations": passed})) == [pytest.approx(0.003)]


PROVIDERS = {"gemini": "google", "vertex": "google", "bedrock": "aws",
             "xai": "x-ai"}


def usages():
    """All usage in the recorded traffic, made comparable as the run has it."""
    for line in open(SHARED / "corpus" / "expected_open.jsonl"):
        r = json.loads(line)
        u, model = r["response"].get("usage") or {}, r["request"].get("model")
        total, out, cached, write, thought = (u.get(k) for k in (
            "prompt", "completion", "cached", "cache_write", "reasoning"))
        if not model or (total is None and out is None):
            continue
        if r["api"].startswith("anthropic") or r["provider"] == "bedrock":
            total = (total or 0) + (cached or 0) + (write or 0)
        if "gemini" in r["api"] and thought:
            out = (out or 0) + thought
        yield dict(provider=PROVIDERS.get(r["provider"], r["provider"]),
                   model=model, input_tokens=total, output_tokens=out,
                   cached_tokens=cached, cache_write_tokens=write,
                   reasoning_tokens=thought)


def cases():
    """Every model of the table, with usage at the edges of tiers."""
    from genai_prices.data import providers
    n = 0
    for provider in providers:
        for model in provider.models:
            n += 1
            total = (0, 1, 999, 200001, 272001, 1000000)[n % 6]
            yield dict(provider=provider.id, model=model.id,
                       input_tokens=total, output_tokens=n % 5 * 777,
                       cached_tokens=(None, total // 3)[n % 2],
                       cache_write_tokens=(None, total // 4, 0)[n % 3],
                       reasoning_tokens=None)


@pytest.mark.parametrize("source", [usages, cases])
@pytest.mark.parametrize("at", [1763772000123, 1795300000000, 1850000012000])
def test_costs_are_those_of_genai_prices(source, at):
    genai = pytest.importorskip("genai_prices")
    if source is usages and not (SHARED / "corpus").is_dir():
        pytest.skip("no recorded traffic beside the project")
    version = json.load(open(
        os.path.join(os.path.dirname(__file__), "..", "redis", "prices",
                     "prices.json")))["source"]
    if genai.__version__ not in version.split()[1]:
        pytest.skip(f"another genai-prices: {genai.__version__}")

    import datetime
    names = dict(input_tokens="input_tokens", output_tokens="output_tokens",
                 cached_tokens="cache_read_tokens",
                 cache_write_tokens="cache_write_tokens",
                 reasoning_tokens="output_reasoning_tokens")
    when = datetime.datetime.fromtimestamp(at / 1000, datetime.timezone.utc)
    calls = list(source())
    assert len(calls) > 400
    got = price(*[{k: v for k, v in dict(c, started_at=at).items()
                   if v is not None} for c in calls])
    priced = 0
    for call, cost in zip(calls, got, strict=True):
        try:
            want = genai.calc_price(
                genai.Usage(**{names[k]: v for k, v in call.items()
                               if k in names and v is not None}),
                call["model"], provider_id=call["provider"],
                genai_request_timestamp=when).total_price
        except (LookupError, ValueError):
            want = None
        assert (want is None) == (cost is None), (call, want, cost)
        if want is not None:
            priced += 1
            assert abs(float(want) - cost) < 1e-6, (call, want, cost)
    assert priced > 300
