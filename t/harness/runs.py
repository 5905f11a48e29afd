"""Reading stream entries back, each checked against the schema."""

import json

import redis as redis_py

from . import ROOT
from .wait import wait_for

JSON_FIELDS = ("input", "output", "params", "usage", "metadata", "tags",
               "user_props", "error")


class Run(dict):
    """A stream entry: its fields as strings; run.json("usage") parsed."""

    def json(self, field):
        return json.loads(self[field]) if field in self else None

    @property
    def text(self):
        """The assistant's text of the (first) output message."""
        output = self.json("output")
        if isinstance(output, list):
            output = output[0]
        content = (output or {}).get("content")
        if isinstance(content, list):
            return "".join(p.get("text", "") for p in content)
        return content


_validators = {}


def validate(entry):
    kind = entry.get("kind")
    path = ROOT / "redis" / "schema" / f"{kind}.v1.json"
    if kind not in _validators:
        _validators[kind] = None
        if path.exists():
            from jsonschema import Draft202012Validator
            _validators[kind] = Draft202012Validator(
                json.loads(path.read_text()))
    if _validators[kind] is not None:
        errors = [f"{'/'.join(map(str, e.path))}: {e.message}"
                  for e in _validators[kind].iter_errors(dict(entry))]
        assert not errors, (errors, dict(entry))
    assert kind in ("run", "event"), dict(entry)
    for field in JSON_FIELDS:
        if field in entry:
            json.loads(entry[field])


class Runs:
    """runs(n): waits for n entries in all and returns them, oldest first.

    That there are no more is checked when the test is over and nginx has
    drained: `runs.more` allows them."""

    def __init__(self, server, stream="lunary:runs"):
        self.server = server
        self.stream = stream
        self.expected = None
        self.more = False

    def entries(self):
        try:
            raw = self.server.client.execute_command(
                "XRANGE", self.stream, "-", "+")
        except (redis_py.exceptions.ConnectionError, OSError):
            return []
        entries = [Run(fields) for _, fields in raw]
        for entry in entries:
            validate(entry)
        return entries

    def __call__(self, n=1, timeout=5):
        seen = []

        def arrived():
            seen[:] = self.entries()
            return len(seen) >= n

        try:
            wait_for(arrived, timeout)
        except AssertionError:
            raise AssertionError(f"{len(seen)} entries, not {n}: " + str(
                [(r.get("uri"), r.get("outcome"))
                 for r in seen[:20]])) from None

        assert len(seen) == n, [(r.get("run_id"), r.get("uri"),
                                 r.get("outcome")) for r in seen[:20]]
        self.expected = n
        return seen

    def one(self, timeout=5):
        return self(1, timeout)[0]

    def settled(self):
        """Called when nginx is gone: nothing came later, nothing twice."""
        if self.expected is None:
            return
        entries = self.entries()
        ids = [e["run_id"] for e in entries if e["kind"] == "run"]
        assert len(ids) == len(set(ids)), "a run is there twice"
        if not self.more:
            assert len(entries) <= self.expected, (
                "entries came later", [(e.get("uri"), e.get("outcome"))
                                       for e in entries[-20:]])
