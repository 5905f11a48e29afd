"""The demo, as `make demo` runs it, but for the building."""

import os
import re
import subprocess
import sys

import pytest

from harness import MODULE, NGINX_BIN, ROOT, SANITIZED, VALGRIND
from harness.worker import binary


@pytest.fixture(scope="module")
def said():
    if SANITIZED or VALGRIND:
        pytest.skip("the demo is for ordinary builds")
    env = {k: v for k, v in os.environ.items() if not k.startswith("DEMO_")}
    done = subprocess.run(
        [sys.executable, ROOT / "t" / "demo" / "demo.py"],
        capture_output=True, text=True, timeout=280,
        env={**env, "NGINX_BIN": NGINX_BIN, "NGINX_MODULE": MODULE,
             "LUNARY_WORKER": binary(), "DEMO_BUILT": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(said, title):
    """The lines of the table that begins with this title."""
    lines = iter(said.splitlines())
    head = next(x for x in lines if x.split()[:1] == [title])
    out = [head]
    for line in lines:
        if not line.strip() or line.startswith("  nginx"):
            break
        out.append(line)
    return out


def test_each_call_is_shown_with_tokens_cost_and_latency(said):
    head, _, *calls = rows(said, "user")
    assert head.split() == ["user", "from", "props", "model", "tokens",
                            "cost", "first", "token", "latency", "outcome"]
    assert [c.split()[0] for c in calls] == ["alice", "alice", "bob", "carol",
                                             "-"]
    assert all(re.search(r"\d \+ \d+ +\$0\.00000\d +\d+ ms +\d+ ms +ok$", c)
               for c in calls[:4]), calls


def test_what_is_unknown_of_a_refused_call_is_not_called_zero(said):
    refused = rows(said, "user")[-1].split()
    assert refused[:3] == ["-", "-", "-"]
    assert refused[4:7] == ["-", "-", "-"] and refused[-1] == "rejected"


def test_it_ends_with_what_each_user_cost(said):
    head, *users = rows(said, "USER")
    assert head.split() == ["USER", "NAME", "GROUP", "APP", "RUNS", "ERRORS",
                            "IN", "OUT", "COST", "LATENCY", "MODELS", "FIRST",
                            "SEEN", "LAST", "SEEN"]
    by = {u.split()[0]: u for u in users}
    assert set(by) == {"alice", "bob", "carol", "(no"}
    assert "Alice Ng" in by["alice"] and "support" in by["alice"]
    assert re.search(r" 2 +0 +12 +16 +\$0\.000011 ", by["alice"])
    assert "gpt-4o-mini" in by["alice"] and " ms " in by["alice"]
    assert by["alice"].split()[1] == "?" and by["carol"].split()[1] != "?"
    assert re.search(r" - +- +- +- +gpt-4o-mini", by["(no"])
