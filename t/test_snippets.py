"""The snippets of Lunary's page on user tracking, run with the official
clients as they stand there: what identifies each call (docs/recipes.md has
the table).  Where nothing reaches the wire, the one-line change that does.

`proxy`: the call itself names its user; `ingest`: the SDK's events do."""

import json
import pathlib
import subprocess
import sys

import pytest

from harness.wait import wait_for

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    server {
        listen {{ listen }};
        location / {
            lunary on;
            proxy_pass {{ upstream }};
        }
        location = /v1/runs/ingest {
            lunary_ingest key_file={{ keys }};
        }
        location = /api/report {
            lunary_ingest key_file={{ keys }};
        }
    }
}
"""

CLIENTS = pathlib.Path(__file__).parent / "clients"


@pytest.fixture
def run_snippet(nginx, runs, folder, node_modules):
    """run_snippet(language, name): the calls and the events it caused."""
    (folder / "keys").write_text("k default\n")
    one = nginx(CONFIG, keys=folder / "keys")
    runs.more = True

    def run(language, name):
        if language == "python":
            command = [sys.executable, str(CLIENTS / "snippet.py")]
            pytest.importorskip("lunary")
            pytest.importorskip("langchain_openai")
        else:
            command = ["node", str(CLIENTS / "snippet.mjs")]
            if not (node_modules / "lunary").exists():
                pytest.skip("no lunary package: make node")
        done = subprocess.run(
            command + [name, one.url, one.url], capture_output=True,
            text=True, timeout=280, cwd=folder,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder),
                 "NODE_MODULES": str(node_modules)})
        assert done.returncode == 0, done.stderr[-3000:]
        wait_for(lambda: runs.entries(), what="an entry")
        one.quit()
        entries = runs.entries()
        return ([e for e in entries if e["kind"] == "run"
                 and e.get("api") == "openai.chat"],
                [e for e in entries if e["kind"] == "event"])

    return run


def of(events, field="user_id"):
    return {e[field] for e in events if field in e}


def props(events):
    found = [json.loads(e["event"]).get("userProps") for e in events]
    return [p for p in found if p]


# -- the call names its user

def test_openai_js(run_snippet, upstream):
    (call,), _ = run_snippet("js", "openai")

    assert (call["user_id"], call["user_source"]) == ("user123", "body")
    body = json.loads(upstream.last.body)
    assert body["user"] == "user123" and "userProps" not in body


# -- the SDK's events do; the call does with one line more

def test_openai_python(run_snippet, upstream):
    (call,), events = run_snippet("python", "openai")

    assert "user_id" not in call
    assert "user" not in str(json.loads(upstream.last.body).keys())
    assert of(events) == {"user123"}
    assert {"name": "John Doe"} in props(events)


@pytest.mark.parametrize("how, source", [("openai_headers", "header"),
                                         ("openai_extra_body", "body")])
def test_openai_python_with_one_line_more(run_snippet, upstream, how, source):
    (call,), _ = run_snippet("python", how)

    assert (call["user_id"], call["user_source"]) == ("user123", source)
    if source == "body":
        assert call.json("user_props") == {"name": "John Doe"}
    assert set(json.loads(upstream.last.body)) == {"model", "messages"}


@pytest.mark.parametrize("language", ["python", "js"])
def test_langchain(run_snippet, language):
    (call,), events = run_snippet(language, "langchain")

    assert "user_id" not in call
    assert of(events) == {"user123"}
    assert {"name": "John Doe"} in props(events)


@pytest.mark.parametrize("language", ["python", "js"])
def test_langchain_with_one_line_more(run_snippet, language):
    (call,), _ = run_snippet(language, "langchain_headers")

    assert (call["user_id"], call["user_source"]) == ("user123", "header")


@pytest.mark.parametrize("language", ["python", "js"])
def test_identify(run_snippet, language):
    (call,), events = run_snippet(language, "identify")

    assert "user_id" not in call
    assert of(events) == {"user123"}
    assert {"email": "a@b.example"} in props(events)


@pytest.mark.parametrize("language", ["python", "js"])
def test_identify_with_one_line_more(run_snippet, language):
    (call,), _ = run_snippet(language, "identify_headers")

    assert call["user_id"] == "user123"


@pytest.mark.parametrize("name, kind", [("frontend", "custom"),
                                        ("thread", "thread")])
def test_frontend_and_threads(run_snippet, name, kind):
    calls, events = run_snippet("js", name)

    assert calls == []
    assert of(events) == {"user123"}
    assert kind in of(events, "type")
    assert {"name": "John Doe"} in props(events)
