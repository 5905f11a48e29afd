"""Ollama's own API: newline-delimited JSON, streaming unless told not to."""

import json

from .openai import deltas, last_text, reply_to, words
from .server import Answer

WHEN = "2024-01-01T00:00:00.000000Z"


def _answer(body, text, asked, say):
    head = {"model": body["model"], "created_at": WHEN}
    end = {"done": True, "done_reason": "stop", "total_duration": 5000000,
           "load_duration": 1000000, "prompt_eval_count": asked,
           "prompt_eval_duration": 1000000, "eval_count": words(text),
           "eval_duration": 3000000}

    if body.get("stream") is False:
        return Answer({**head, **say(text), **end})

    lines = [{**head, **say(d), "done": False} for d in deltas(text)]
    lines.append({**head, **say(""), **end})
    return Answer([json.dumps(line).encode() + b"\n" for line in lines],
                  content_type="application/x-ndjson")


def chat(request):
    body = request.json()
    text = reply_to(last_text(body.get("messages", [])))
    return _answer(body, text, words(body.get("messages")),
                   lambda t: {"message": {"role": "assistant", "content": t}})


def generate(request):
    body = request.json()
    text = reply_to(body.get("prompt", ""))
    return _answer(body, text, words(body.get("prompt", "")),
                   lambda t: {"response": t})


def embed(request):
    body = request.json()
    given = body.get("input", "")
    n = len(given) if isinstance(given, list) else 1
    return Answer({"model": body["model"],
                   "embeddings": [[0.5, -0.25, 0.125]] * n,
                   "total_duration": 1000, "load_duration": 10,
                   "prompt_eval_count": words(given)})


def tags(request):
    return Answer({"models": []})


ROUTES = [
    ("POST", r"/api/chat$", chat),
    ("POST", r"/api/generate$", generate),
    ("POST", r"/api/embed$", embed),
    ("GET", r"/api/tags$", tags),
]
