# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""The JSON Schemas of stream entries: that they say what the module writes
(the table of fields in lunary_run.h) and refuse what it never should.  Every
entry that any test reads from Redis is validated against them elsewhere
(t/harness)."""

import json
import pathlib
import re

import pytest

jsonschema = pytest.importorskip("jsonschema")

ROOT = pathlib.Path(__file__).resolve().parent.parent


def schema(name):
    text = (ROOT / "redis" / "schema" / name).read_text()
    return json.loads(text)


def validator(name):
    return jsonschema.Draft202012Validator(schema(name))


def fields_of_the_table():
    text = (ROOT / "ngx_lunary_module/run/lunary_run.h").read_text()
    return re.findall(r'X\([A-Z_0-9]+,\s+"([a-z_0-9]+)",\s+[A-Z]+\)', text)


RUN = {
    "kind": "run", "v": "1", "origin": "proxy",
    "run_id": "019ab4c1-79b0-7fee-9dcc-bbaa99887766",
    "app": "default", "type": "llm", "provider": "openai",
    "api": "openai.chat", "user_id": "ann", "user_source": "body",
    "user_verified": "0", "user_props": '{"name":"Ann"}', "model": "gpt-4o",
    "input": '[{"role":"user","content":"hi"}]',
    "output": '{"role":"assistant","content":"ho"}',
    "stream": "0", "input_tokens": "12", "output_tokens": "0",
    "prompt_tokens": "12", "status": "200", "attempts": "1",
    "outcome": "ok", "started_at": "1763772000000",
    "ended_at": "1763772000120", "duration_ms": "120", "method": "POST",
    "uri": "/v1/chat/completions",
}

EVENT = {
    "kind": "event", "v": "1", "origin": "sdk", "app": "default",
    "event": '{"type":"llm","event":"start"}', "type": "llm",
    "event_name": "start", "run_id": "a", "user_id": "ann",
}


@pytest.mark.parametrize("name", ["run.v1.json", "event.v1.json"])
def test_schema_is_valid_json_schema_2020_12(name):
    assert schema(name)["$schema"].endswith("2020-12/schema")
    jsonschema.Draft202012Validator.check_schema(schema(name))


# fields of the one table that only SDK events have
OF_EVENTS = ["event_name", "event"]


def test_schema_has_every_field_of_the_run_and_no_other():
    assert list(schema("run.v1.json")["properties"]) == [
        f for f in fields_of_the_table() if f not in OF_EVENTS]


def test_schema_of_events_has_fields_of_the_table_only():
    properties = set(schema("event.v1.json")["properties"])
    assert set(OF_EVENTS) <= properties <= set(fields_of_the_table())


def test_a_run_is_accepted():
    validator("run.v1.json").validate(RUN)


def test_an_event_is_accepted():
    validator("event.v1.json").validate(EVENT)


def test_fields_to_come_are_accepted():
    validator("run.v1.json").validate({**RUN, "field_of_tomorrow": "1"})


@pytest.mark.parametrize("name", schema("run.v1.json")["required"])
def test_a_run_without_a_required_field_is_refused(name):
    run = {k: v for k, v in RUN.items() if k != name}
    assert not validator("run.v1.json").is_valid(run)


@pytest.mark.parametrize("name", schema("run.v1.json")["properties"])
def test_an_empty_value_is_refused_because_unknown_is_absent(name):
    assert not validator("run.v1.json").is_valid({**RUN, name: ""})


@pytest.mark.parametrize("name, value", [
    ("kind", "event"),
    ("v", "2"),
    ("run_id", "019ab4c1-79b0-4fee-9dcc-bbaa99887766"),
    ("type", "chat"),
    ("user_id", "a\nb"),
    ("user_id", "x" * 257),
    ("user_verified", "true"),
    ("user_props", "[]"),
    ("tags", "a,b"),
    ("input", "hi"),
    ("output", '"hi"'),
    ("truncated", "usage"),
    ("stream", "yes"),
    ("usage", "12"),
    ("input_tokens", "-1"),
    ("input_tokens", "012"),
    ("prompt_tokens", "1.5"),
    ("status", "0"),
    ("attempts", "0"),
    ("outcome", "failed"),
    ("would_reject", "no"),
    ("error", "bad"),
    ("started_at", "1763772000"),
    ("duration_ms", "-5"),
    ("request_id", "abc"),
    ("trace_id", "0AF7651916CD43DD8448EB211C80319C"),
])
def test_a_run_with_a_malformed_value_is_refused(name, value):
    assert not validator("run.v1.json").is_valid({**RUN, name: value})


@pytest.mark.parametrize("name", ["user_source", "user_verified"])
def test_a_user_comes_with_where_it_is_from(name):
    run = {k: v for k, v in RUN.items() if k != name}
    assert not validator("run.v1.json").is_valid(run)


def test_props_without_a_user_are_refused():
    run = {k: v for k, v in RUN.items() if not k.startswith("user_")}
    validator("run.v1.json").validate(run)
    assert not validator("run.v1.json").is_valid({**run, "user_props": "{}"})


@pytest.mark.parametrize("name, value", [
    ("kind", "run"),
    ("origin", "proxy"),
    ("event", "start"),
    ("app", ""),
    ("user_id", ""),
])
def test_an_event_with_a_malformed_value_is_refused(name, value):
    assert not validator("event.v1.json").is_valid({**EVENT, name: value})
