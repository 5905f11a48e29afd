"""What the relay sends for the documented examples, beside what the official
JS SDK was seen to send for them (../shared/lunary-sdk/capture.jsonl): the
same fields and values, but ids, times and runtime.

Where it differs, it says more: the SDK never reads a stream's usage (its
`prompt` is missing and `completion` counts chunks), and takes Anthropic's
input_tokens, which leave out the cache, for the prompt.  `refusal: null` and
an empty `tool_calls` of the answer are left out.
"""

import json

import pytest

from harness import SHARED
from harness.worker import event, once, run
from ingest_standin.server import Ingest

CAPTURE = SHARED / "lunary-sdk" / "capture.jsonl"


@pytest.fixture(scope="module")
def sdk():
    """The SDK's events, by run."""
    if not CAPTURE.exists():
        pytest.skip("no capture of the SDK beside the project")
    events = []
    for line in CAPTURE.read_text().splitlines():
        r = json.loads(line)
        if r["path"] == "/v1/runs/ingest":
            events += r["body"]["events"]
    return events


@pytest.fixture
def sent(redis, folder):
    """sent(entries): the events that the relay makes of them."""
    def go(*entries):
        lunary = Ingest().start()
        (folder / "key").write_text("key")
        for e in entries:
            redis.client.xadd("lunary:runs", e)
        once(redis.unix_url, "relay", "--once", "--api", lunary.url,
             "--project", f"*={folder}/key")
        lunary.stop()
        assert lunary.complaints == []
        return lunary.events
    return go


def bare(e):
    """An event without ids, times and runtime, and without empty answers."""
    e = {k: v for k, v in e.items()
         if k not in ("runId", "parentRunId", "timestamp", "runtime")}
    if isinstance(e.get("output"), dict):
        e["output"] = {k: v for k, v in e["output"].items()
                       if v not in (None, [])}
    return e


def pair(events, n):
    """The SDK's n-th run of type llm: start and end."""
    starts = [e for e in events if e["type"] == "llm"
              and e["event"] == "start"]
    end = [e for e in events if e["event"] == "end"
           and e["runId"] == starts[n]["runId"]]
    return bare(starts[n]), bare(end[0])


def test_a_call(sdk, sent):
    start, end = map(bare, sent(run(
        user_id="user123", user_props={"name": "John"}, tags=["a"],
        params={"temperature": 0.5}, input_tokens=9, output_tokens=2,
        output={"role": "assistant", "content": "Hello!"})))
    assert (start, end) == pair(sdk, 0)


def test_a_stream_has_its_usage(sdk, sent):
    start, end = map(bare, sent(run(
        user_id="user123", user_props={"name": "John"}, stream="1",
        params={"stream": True}, input_tokens=9, output_tokens=1,
        output={"role": "assistant", "content": "Hello"})))
    theirs = pair(sdk, 1)
    assert start == theirs[0]
    assert end.pop("tokensUsage") == {"prompt": 9, "completion": 1}
    assert theirs[1].pop("tokensUsage") == {"completion": 3}   # chunks
    assert end == theirs[1]


def test_an_agent_and_the_call_in_it(sdk, sent):
    agent = [e for e in sdk if e["type"] == "agent"]
    call = [e for e in sdk if e.get("parentRunId") == agent[0]["runId"]]
    got = sent(event(**agent[0]), run(
        user_id="user123", user_props={"email": "email@example.org"},
        parent_run_id=agent[0]["runId"], input_tokens=9, output_tokens=2,
        input=[{"role": "user", "content": "hi"}],
        started_at=agent[0]["timestamp"] + 1,
        ended_at=agent[1]["timestamp"] - 1,
        output={"role": "assistant", "content": "Hello!"}), event(**agent[1]))
    assert got[0] == agent[0] and got[-1] in agent
    assert got[1]["parentRunId"] == agent[0]["runId"]
    assert bare(got[1]) == bare(call[0])
    # the user is of no effect on an end
    theirs = bare(call[1])
    del theirs["userId"], theirs["userProps"]
    assert bare(next(e for e in got if e["event"] == "end"
                     and e["type"] == "llm")) == theirs


def test_messages_and_feedback_pass_as_they_are(sdk, sent):
    theirs = [e for e in sdk if e["event"] in ("chat", "feedback")]
    assert sent(*[event(**e) for e in theirs]) == theirs


def test_a_call_to_anthropic(sdk, sent):
    start, end = map(bare, sent(run(
        user_id="u9", user_props={"name": "Z"}, provider="anthropic",
        api="anthropic.messages", model="claude-sonnet-4",
        response_model="claude-sonnet-4", response_id="msg_1",
        finish_reason="end_turn", params={"max_tokens": 10},
        input=[{"role": "system", "content": "sys"},
               {"role": "user", "content": "Hey"}],
        output={"role": "assistant", "content": "Hi there"},
        prompt_tokens=10, input_tokens=12, output_tokens=4, cached_tokens=2,
        cache_write_tokens=0)))
    theirs = pair(sdk, -1)
    assert start == theirs[0]
    assert end.pop("tokensUsage") == {"prompt": 12, "completion": 4,
                                      "promptCached": 2}
    assert theirs[1].pop("tokensUsage") == {"prompt": 10, "completion": 4,
                                            "promptCached": 2}
    assert end == theirs[1]
