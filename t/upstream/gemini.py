"""Google's generateContent, of Gemini and Vertex alike."""

import json
import re

from .openai import deltas, ident, reply_to, words
from .server import Answer, sse


def model_of(request):
    return re.search(r"models/([^:/]+)", request.path).group(1)


def texts(body):
    return [p.get("text", "") for c in body.get("contents", [])
            for p in c.get("parts", []) if isinstance(p, dict)]


def candidate(text, finish=None):
    c = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    return {**c, "finishReason": finish} if finish else c


def generate(request):
    body = request.json()
    given = texts(body)
    text = reply_to(given[-1] if given else "")
    asked = words(given)
    tail = {"modelVersion": model_of(request), "responseId": ident("", body)}

    def usage(said):
        return {"promptTokenCount": asked, "candidatesTokenCount": said,
                "totalTokenCount": asked + said}

    if ":stream" not in request.path:
        return Answer({"candidates": [candidate(text, "STOP")],
                       "usageMetadata": usage(words(text)), **tail})

    parts = deltas(text)
    chunks = [{"candidates": [candidate(
        d, "STOP" if i == len(parts) - 1 else None)],
        "usageMetadata": usage(i + 1), **tail}
        for i, d in enumerate(parts)]

    if "alt=sse" in request.query:
        return Answer(sse(*chunks, done=False, eol="\r\n"),
                      content_type="text/event-stream")
    return Answer([b"[" + json.dumps(chunks[0]).encode(),
                   *(b",\r\n" + json.dumps(c).encode() for c in chunks[1:]),
                   b"]"], content_type="application/json; charset=UTF-8")


def count(request):
    return Answer({"totalTokens": words(texts(request.json()))})


def embed(request):
    body = request.json()
    vector = {"values": [0.5, -0.25, 0.125]}
    if "requests" in body:
        return Answer({"embeddings": [vector for _ in body["requests"]]})
    return Answer({"embedding": vector})


ROUTES = [
    ("POST", r":(stream)?[gG]enerateContent$", generate),
    ("POST", r":countTokens$", count),
    ("POST", r":(batchEmbedContents|embedContent)$", embed),
]
