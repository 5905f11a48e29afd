"""lunary-worker export against a real OpenTelemetry collector: OTELCOL, or
otelcol on the path, or what t/otelcol/build made."""

import json
import os
import re
import shutil
import socket
import subprocess

import pytest

from harness import BUILD
from harness.wait import wait_for
from harness.worker import once, run


def find():
    for path in (os.environ.get("OTELCOL"), shutil.which("otelcol"),
                 BUILD / "otelcol" / "otelcol"):
        if path and os.access(path, os.X_OK):
            return path
    return None


@pytest.fixture
def collector(folder):
    """A collector that writes down each span: .url, .said()."""
    path = find()
    if not path:
        pytest.skip("no OpenTelemetry collector: t/otelcol/build makes one")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    (folder / "otelcol.yaml").write_text(json.dumps({
        "receivers": {"otlp": {"protocols": {"http": {
            "endpoint": f"127.0.0.1:{port}"}}}},
        "exporters": {"debug": {"verbosity": "detailed"}},
        "service": {
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {"traces": {"receivers": ["otlp"],
                                     "exporters": ["debug"]}}}}))
    log = folder / "otelcol.log"
    with open(log, "wb") as f:
        process = subprocess.Popen(
            [path, "--config", folder / "otelcol.yaml"], stdout=f, stderr=f,
            stdin=subprocess.DEVNULL)

    class Collector:
        url = f"http://127.0.0.1:{port}"

        @staticmethod
        def said():
            return log.read_text(errors="replace")

    try:
        wait_for(lambda: "Everything is ready" in Collector.said()
                 or process.poll() is not None, 20, "the collector")
        assert process.poll() is None, Collector.said()
        yield Collector
    finally:
        process.terminate()
        process.wait()


def test_a_real_collector_takes_our_spans(redis, collector):
    one = run(user_id="ann", params={"temperature": 0.5, "max_tokens": 7,
                                     "seed": 3},
              finish_reason="stop", thread_id="t", cached_tokens=4,
              reasoning_tokens=2, tags=["a"],
              trace_id="0af7651916cd43dd8448eb211c80319c",
              parent_span_id="b7ad6b7169203331")
    bad = run(outcome="error", model='mo"del\n', status=500,
              response_model=None, run_id="no-uuid",
              error={"message": "no \"such\" thing", "type": "server_error"})
    cut = run(outcome="aborted", output=None, type="embed")
    for e in (one, bad, cut):
        redis.client.xadd("lunary:runs", e)
    once(redis.unix_url, "export", "--once", "--endpoint", collector.url,
         "--contents")
    assert redis.client.xpending("lunary:runs", "export")["pending"] == 0
    wait_for(lambda: collector.said().count("Span #") == 3)
    said = collector.said()
    span = said[said.index("Span #0"):said.index("Span #1")]
    for name, value in (("Trace ID", one["trace_id"]),
                        ("Parent ID", one["parent_span_id"]),
                        ("ID", one["run_id"].replace("-", "")[16:]),
                        ("Name", "chat gpt-4o"), ("Kind", "Client"),
                        ("Status code", "Unset")):
        assert re.search(rf"^ +{name} +: {re.escape(value)}$", span, re.M), (
            name, span)
    for attribute in ("gen_ai.usage.input_tokens: Int(10)",
                      "gen_ai.usage.cache_read.input_tokens: Int(4)",
                      "gen_ai.request.temperature: Double(0.5)",
                      "gen_ai.request.max_tokens: Int(7)",
                      'gen_ai.response.finish_reasons: Slice(["stop"])',
                      "gen_ai.conversation.id: Str(t)", "user.id: Str(ann)",
                      "lunary.user_verified: Bool(true)"):
        assert f"-> {attribute}" in span, (attribute, span)
    assert re.search(r"-> lunary.cost_usd: Double\(0\.0000\d+\)", span), span
    assert "Error" in said[said.index("Span #1"):said.index("Span #2")]
    assert 'no "such" thing' in said and "embeddings" in said


def test_what_a_collector_cannot_take_harms_no_other(redis, collector):
    """Ids that are no hexadecimal digits would make it refuse a batch."""
    good = [run(user_id=f"u{n}") for n in range(5)]
    for e in (*good[:2], run(run_id="z" * 36, trace_id="x" * 32,
                             parent_span_id="y" * 16), *good[2:]):
        redis.client.xadd("lunary:runs", e)
    once(redis.unix_url, "export", "--once", "--endpoint", collector.url)
    wait_for(lambda: collector.said().count("Span #") == 6)
    assert redis.client.exists("lunary:runs:dead") == 0
