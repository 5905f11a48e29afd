"""Recorded traffic of real services through inspect/: every record of
../shared/corpus/open whole, a byte at a time and in random pieces, each field
compared with what an independent reader of the same bytes expects.

The table at the end (pytest -s) says by provider and API how many records
there are, how many are equal and why the others are not.
"""

import base64
import collections
import gzip
import json
import urllib.parse

import pytest

from harness import SHARED
from harness.inspect import Inspector

CORPUS = SHARED / "corpus"

pytestmark = pytest.mark.skipif(
    not (CORPUS / "expected_open.jsonl").exists(),
    reason="no ../shared/corpus beside the project")


# Where the expectation is not what the bytes say: rules that hold for every
# record, so that none is excused by its name.

def cache_write_of_responses(record, field, want, have):
    """The Responses API reports input_tokens_details.cache_write_tokens; the
    expectation does not look there (it does so for chat completions)."""
    return (field == "usage.cache_write"
            and record["api"] == "openai.responses" and want is None
            and f'"cache_write_tokens":{have}' in squeezed(record))


def answered_by_a_stream(record, field, want, have):
    """GET /v1/responses/ID?stream=true: no body says so, the answer does."""
    return (field == "stream" and record["request"]["method"] == "GET"
            and have == "1" and record["wire"] == "sse")


def counted_in_headers(record, field, want, have):
    """Bedrock's x-amzn-bedrock-*-token-count, where the body has no usage:
    the expectation keeps them apart (header_usage)."""
    head = {k.lower(): v for k, v in record["response"]["headers"].items()}
    name = {"usage.prompt": "input", "usage.completion": "output"}.get(field)
    return (want is None and name is not None
            and head.get(f"x-amzn-bedrock-{name}-token-count") == str(have))


def reasoning_of_cohere(record, field, want, have):
    """Cohere's usage.tokens.reasoning_tokens: the expectation does not look
    there."""
    return (field == "usage.reasoning"
            and record["api"] == "cohere.chat.v2" and want is None
            and f'"reasoning_tokens":{have}' in squeezed(record))


def steps_of_interactions(record, field, want, have):
    """A stream of the Interactions API names a function call in step.start
    and sends its arguments as arguments_delta, a thought as thought_summary:
    the expectation reads neither."""
    if record["api"] != "gemini.interactions" or record["wire"] != "sse":
        return False
    if field == "tool_calls":
        return (not want and len(have)
                == squeezed(record).count('"type":"function_call"}'))
    return (field == "reasoning" and want == ""
            and '"type":"thought_summary"' in squeezed(record))


RULES = [cache_write_of_responses, answered_by_a_stream, counted_in_headers,
         reasoning_of_cohere, steps_of_interactions]


def squeezed(record):
    """The answer's bytes without white space."""
    body = base64.b64decode(record["response"].get("body_b64") or "")
    if record["response"]["headers"].get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    return b"".join(body.split()).decode("utf-8", "replace")

# names of one API in the corpus that are another dialect here
SAME_API = {
    "writer.completions": "openai.completions",
}

# answered requests that no dialect reads: logged as `unknown`
UNKNOWN = {"openai.models", "openai.files", "openai.batches",
           "anthropic.models", "anthropic.batches", "ollama.models"}

# read by its shape here, where the expectation reads nothing
UNEXPECTED = {"sagemaker.invocations", "replicate.predictions"}


def records():
    for path in sorted((CORPUS / "open").glob("*.jsonl")):
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)


def expectations():
    with open(CORPUS / "expected_open.jsonl", encoding="utf-8") as lines:
        return {e["id"]: e for e in map(json.loads, lines)}


def arguments(record):
    """The record as the tool takes it."""
    q, r = record["request"], record["response"]
    head = {k.lower(): v for k, v in (q.get("headers") or {}).items()}
    path = urllib.parse.unquote(q["path"].split("?")[0])
    return dict(method=q["method"], path=path,
                request=base64.b64decode(q.get("body_b64") or ""),
                request_type=head.get("content-type", ""),
                request_encoding=head.get("content-encoding", ""),
                status=r["status"],
                headers={k: v for k, v in (r.get("headers") or {}).items()
                         if isinstance(v, str)},
                response=base64.b64decode(r.get("body_b64") or ""))


def text_of(message):
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(p["text"] for p in content if p.get("type") == "text")
    return ""


def seen(fields):
    """The fields of a run in the expectation's terms."""
    output = json.loads(fields["output"]) if "output" in fields else None
    choices = output if isinstance(output, list) else [output]
    first = choices[0] or {}
    number = lambda name: (int(fields[name]) if name in fields else None)
    return {
        "request.model": fields.get("model"),
        "request.stream": fields.get("stream"),
        "model": fields.get("response_model"),
        "text": text_of(first),
        "reasoning": first.get("reasoning_content") or "",
        "refusal": first.get("refusal"),
        "tool_calls": [(c["function"]["name"], c["function"]["arguments"])
                       for c in first.get("tool_calls", [])],
        "n_choices": len(choices) if output is not None else None,
        "finish_reason": fields.get("finish_reason"),
        "usage": {
            "prompt": number("prompt_tokens"),
            "completion": number("completion_tokens"),
            "total": number("total_tokens"),
            "cached": number("cached_tokens"),
            "cache_write": number("cache_write_tokens"),
            "reasoning": number("reasoning_tokens"),
        },
        "error": json.loads(fields["error"]) if "error" in fields else None,
    }


def value(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def differences(expected, got):
    """{field: (expected, got)} where they differ."""
    q, r = expected["request"], expected["response"]
    out = {}

    def check(name, want, have):
        if want != have:
            out[name] = (want, have)

    check("request.model", q["model"], got["request.model"])
    check("stream", "1" if q["wants_stream"] else "0",
          got["request.stream"] or "0")
    check("model", r["model"] or None, got["model"])
    check("text", r["text"], got["text"])
    check("reasoning", r["reasoning"], got["reasoning"])
    check("refusal", r["refusal"], got["refusal"])

    want = [(c["name"],
             value(c["arguments"]) if c["kind"] == "object"
             else c["arguments"]) for c in r["tool_calls"]]
    have = [(name, value(a) if i < len(want)
             and r["tool_calls"][i]["kind"] == "object" else a)
            for i, (name, a) in enumerate(got["tool_calls"])]
    check("tool_calls", want, have)

    # null: the notion does not apply; images are parts of one message
    if r["n_choices"] and not expected["api"].startswith("openai.images"):
        check("n_choices", r["n_choices"], got["n_choices"])

    finish = r["finish_reason"]
    check("finish_reason", None if finish in (None, "") else str(finish),
          got["finish_reason"])

    for name, want in r["usage"].items():
        if isinstance(want, float):
            want = int(want) if want.is_integer() else None
        check("usage." + name, want, got["usage"][name])

    want, have = r["error"], got["error"]
    if want is None or have is None:
        check("error", want, have)
    else:
        check("error.message", want["message"] or None, have.get("message"))
        check("error.type", want["type"] or None, have.get("type"))
        check("error.code", want["code"], have.get("code"))
    return out


@pytest.fixture(scope="module")
def inspector():
    tool = Inspector()
    yield tool
    tool.close()


@pytest.fixture(scope="module")
def expected():
    return expectations()


def replay(inspector, expected, **how):
    """[(record, differences)] and the table."""
    table = collections.defaultdict(lambda: [0, 0, collections.Counter()])
    wrong = []
    for record in records():
        want = expected[record["id"]]
        got = inspector.run(**arguments(record), **how)
        if record["api"] in UNKNOWN:
            # only what has no dialect to be read by
            assert got["fields"]["api"] == "unknown", record["id"]
            assert "output" not in got["fields"], record["id"]
            diff = {}
        elif record["api"] in UNEXPECTED:
            diff = {}
        else:
            api = SAME_API.get(record["api"], record["api"])
            diff = differences(want, seen(got["fields"]))
            if got["fields"]["api"] != api:
                diff["api"] = (api, got["fields"]["api"])
        row = table[(record["provider"], record["api"])]
        row[0] += 1
        left = {}
        for field, (a, b) in diff.items():
            why = [rule for rule in RULES if rule(record, field, a, b)]
            if why:
                row[2][why[0].__name__] += 1
            else:
                left[field] = (a, b)
                row[2][field] += 1
        if not diff:
            row[1] += 1
        if left:
            wrong.append((record["id"], left))
    return wrong, table


def show(table):
    print(f"\n{'provider':18} {'api':30} {'records':>7} {'equal':>6}"
          f" {'differing':>9}  why")
    total = [0, 0]
    for (provider, api), (n, equal, why) in sorted(table.items()):
        total[0] += n
        total[1] += equal
        print(f"{provider:18} {api:30} {n:7} {equal:6} {n - equal:9}  "
              + "; ".join(f"{k} ({v})" for k, v in why.items()))
    print(f"{'all':18} {'':30} {total[0]:7} {total[1]:6}"
          f" {total[0] - total[1]:9}")


@pytest.mark.parametrize("split", ["whole", "bytes", "random", "7"])
def test_every_recorded_call_is_read_as_its_bytes_say(inspector, expected,
                                                      split):
    wrong, table = replay(inspector, expected, split=split, seed=7)
    if split == "whole":
        show(table)
    for id, diff in wrong[:60]:
        print(id)
        for field, (want, have) in diff.items():
            print(f"    {field}:\n        want {str(want)[:300]!r}"
                  f"\n        have {str(have)[:300]!r}")
    assert not wrong, f"{len(wrong)} records differ"


def test_the_split_of_the_bytes_changes_no_field(inspector):
    for record in records():
        what = arguments(record)
        whole = inspector.run(**what)
        for split in ("bytes", "random"):
            other = inspector.run(**what, split=split, seed=3)
            assert other["fields"] == whole["fields"], record["id"]


def test_a_recorded_call_never_costs_more_than_its_fields(inspector):
    """Content fields of capture_max, and little more."""
    limit = 64 * 1024
    for record in records():
        got = inspector.run(**arguments(record), capture_max=limit)
        inflated = "content-encoding" in (record["response"]["headers"] or {})
        bound = 4 * limit + 64 * 1024 + (64 * 1024 if inflated else 0)
        assert got["peak"] < bound, (record["id"], got["peak"])
