"""Cohere's chat (v1 and v2), embed and rerank."""

import json

from .openai import deltas, ident, last_text, reply_to, words
from .server import Answer, sse


def _usage(asked, said):
    return {"billed_units": {"input_tokens": asked, "output_tokens": said},
            "tokens": {"input_tokens": asked + 60, "output_tokens": said}}


def chat_v2(request):
    body = request.json()
    text = reply_to(last_text(body["messages"]))
    usage = _usage(words(body["messages"]), words(text))
    rid = ident("", body)

    if not body.get("stream"):
        return Answer({"id": rid, "finish_reason": "COMPLETE", "message": {
            "role": "assistant", "content": [
                {"type": "text", "text": text}]}, "usage": usage})

    events = [
        {"id": rid, "type": "message-start", "delta": {"message": {
            "role": "assistant", "content": [], "tool_plan": "",
            "tool_calls": [], "citations": []}}},
        {"type": "content-start", "index": 0, "delta": {"message": {
            "content": {"type": "text", "text": ""}}}},
        *({"type": "content-delta", "index": 0, "delta": {"message": {
            "content": {"text": d}}}} for d in deltas(text)),
        {"type": "content-end", "index": 0},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE",
                                          "usage": usage}}]
    return Answer(sse(*((e["type"], e) for e in events), done=False),
                  content_type="text/event-stream")


def chat_v1(request):
    body = request.json()
    text = reply_to(body.get("message", ""))
    whole = {"response_id": ident("", body), "text": text,
             "generation_id": ident("g", body), "finish_reason": "COMPLETE",
             "chat_history": [], "meta": {
                 "api_version": {"version": "1"},
                 **_usage(words(body.get("message", "")), words(text))}}

    if not body.get("stream"):
        return Answer(whole)

    lines = [{"is_finished": False, "event_type": "stream-start",
              "generation_id": whole["generation_id"]},
             *({"is_finished": False, "event_type": "text-generation",
                "text": d} for d in deltas(text)),
             {"is_finished": True, "event_type": "stream-end",
              "response": whole, "finish_reason": "COMPLETE"}]
    return Answer([json.dumps(line).encode() + b"\n" for line in lines],
                  content_type="application/stream+json")


def embed(request):
    body = request.json()
    given = body.get("texts") or []
    return Answer({"id": ident("", body), "embeddings": {
        "float": [[0.5, -0.25] for _ in given]}, "texts": given,
        "response_type": "embeddings_by_type", "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"input_tokens": words(given)}}})


def rerank(request):
    body = request.json()
    return Answer({"id": ident("", body), "results": [
        {"index": i, "relevance_score": 0.5}
        for i in range(len(body.get("documents", [])))],
        "meta": {"billed_units": {"search_units": 1}}})


ROUTES = [
    ("POST", r"/v2/chat$", chat_v2),
    ("POST", r"/v1/chat$", chat_v1),
    ("POST", r"/v[12]/embed$", embed),
    ("POST", r"/v[12]/rerank$", rerank),
]
