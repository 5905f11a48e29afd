"""Recorded traffic of real services, replayed through a real nginx: the
client gets the recorded bytes, and the run says what an independent reader of
the same bytes says.  (test_inspect_corpus.py does it without nginx, and
prints a table.)
"""

import base64
import random

import pytest

import test_inspect_corpus as corpus
from harness.client import H2Client
from upstream.server import Answer, gzipped, split

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (corpus.CORPUS / "expected_open.jsonl").exists(),
                       reason="no ../shared/corpus beside the project")]

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    lunary_run_header on;
    client_max_body_size 100m;
    large_client_header_buffers 8 64k;
    proxy_buffer_size 64k;
    proxy_buffers 8 64k;
    proxy_buffering {{ buffering }};
    server {
        listen {{ listen }};
        listen 127.0.0.1:{{ port2 }} http2;
        location / {
            lunary on;
            lunary_capture_max 16m;
            proxy_pass {{ upstream }};
        }
    }
}
"""

# what belongs to one connection, or is computed anew
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length",
       "host", "expect", "upgrade", "te", "trailer", "proxy-connection",
       "date", "server", "accept-encoding"}


def headers_of(message):
    return [(k, v) for k, v in (message.get("headers") or {}).items()
            if isinstance(v, str) and k.lower() not in HOP
            and not k.startswith(":") and v.isprintable()]


def pieces_of(body, how, rng):
    """A large body is fed by single bytes at its ends only."""
    if how == "bytes" and len(body) > 6000:
        return [*split(body[:2500], 1), *split(body[2500:-2500], 1009),
                *split(body[-2500:], 1)]
    return split(body, how, rng)


def expected_user(want):
    fields = want["request"]["user_fields"] or {}
    metadata = fields.get("metadata")
    if not isinstance(metadata, dict):
        metadata = {}
    for value in (*(fields.get(name) for name in (
            "user_id", "userId", "user", "safety_identifier")),
            metadata.get("user_id"), metadata.get("userId")):
        if isinstance(value, str) and value.strip() and \
                len(value.encode()) <= 256:
            return value
    return None


def replay(one, upstream, runs, how, http2, gzip):
    """[(record, expected differences)]"""
    rng = random.Random(11)
    bodies = {}

    def answer(request):
        record = bodies["record"]
        response = record["response"]
        headers = headers_of(response)
        if bodies["gzip"]:
            headers.append(("Content-Encoding", "gzip"))
        chunked = len(bodies["body"]) % 2 or how != "whole"
        return Answer(pieces_of(bodies["body"], how, rng), headers=headers,
                      status=response["status"],
                      framing="chunked" if chunked else "length")

    upstream.answer(answer)
    sent = []

    for record in corpus.records():
        q, r = record["request"], record["response"]
        body = base64.b64decode(r.get("body_b64") or "")
        encoded = any(k.lower() == "content-encoding"
                      for k in r.get("headers") or {})
        bodies.update(record=record, gzip=gzip and body and not encoded)
        bodies["body"] = gzipped(body) if bodies["gzip"] else body
        request = base64.b64decode(q.get("body_b64") or "")

        if http2:
            with H2Client("127.0.0.1", one.port2) as c:
                got = c.request(q["method"], q["path"], headers_of(q),
                                pieces=pieces_of(request, how, rng))
        else:
            with one.client() as c:
                got = c.request(
                    q["method"], q["path"], headers_of(q),
                    pieces=pieces_of(request, how, rng) if request else None)

        assert got.status == r["status"], record["id"]
        assert got.body == bodies["body"], record["id"]
        sent.append((record, got.header("x-lunary-run-id")))

    # all that there will be: nginx drains as it goes
    one.quit(60)
    entries = runs.entries()
    by_id = {run["run_id"]: run for run in entries}
    assert len(by_id) == len(entries)
    assert set(by_id) <= {run_id for _, run_id in sent}
    return [(record, by_id.get(run_id)) for record, run_id in sent]


@pytest.mark.parametrize("how, http2, gzip, buffering", [
    ("whole", False, False, "on"), ("bytes", False, False, "off"),
    ("random", False, False, "off"), ("random", True, False, "on"),
    (7, False, True, "off")],
    ids=["whole", "bytes", "random", "http2", "gzipped"])
def test_every_recorded_call_passes_unchanged_and_is_read(
        nginx, upstream, runs, how, http2, gzip, buffering):
    one = nginx(CONFIG, level="warn", buffering=buffering)
    expected = corpus.expectations()
    wrong = []

    for record, run in replay(one, upstream, runs, how, http2, gzip):
        want = expected[record["id"]]
        if run is None:
            # plain reads that no dialect knows
            if record["request"]["method"] == "POST":
                wrong.append((record["id"], "no run"))
            continue
        if record["api"] in corpus.UNKNOWN | corpus.UNEXPECTED:
            continue

        diff = {field: (a, b) for field, (a, b) in
                corpus.differences(want, corpus.seen(run)).items()
                if not any(rule(record, field, a, b)
                           for rule in corpus.RULES)}
        api = corpus.SAME_API.get(record["api"], record["api"])
        if run["api"] != api:
            diff["api"] = (api, run["api"])
        if run.get("user_id") != expected_user(want) and \
                record["request"].get("headers", {}).get(
                    "content-type", "").startswith("application/json"):
            diff["user_id"] = (expected_user(want), run.get("user_id"))
        if diff:
            wrong.append((record["id"], diff))

    for id, diff in wrong[:40]:
        print(id, str(diff)[:400])
    assert not wrong, f"{len(wrong)} records differ"
