"""Anthropic's Messages API and its token counting."""

import json
import re

from .openai import deltas, example, ident, last_text, reply_to, words
from .server import Answer, sse


def error(status, kind, message):
    return Answer({"type": "error", "error": {"type": kind,
                                              "message": message},
                   "request_id": ident("req_", message)}, status=status)


def messages(request):
    wanted = request.header("x-standin-error")
    if wanted:
        status, _, kind = wanted.partition(" ")
        return error(int(status), kind or "overloaded_error", "Overloaded")

    body = request.json()
    text = reply_to(last_text(body["messages"]))
    tools = body.get("tools") or []
    call = None
    if tools and "tool_result" not in str(body["messages"][-1]):
        call = {"type": "tool_use", "id": ident("toolu_", body),
                "name": tools[0]["name"],
                "input": example(tools[0].get("input_schema"))}

    asked = words(body["messages"]) + words(body.get("system"))
    said = words(call["input"] if call else text)
    usage = {"input_tokens": asked, "cache_creation_input_tokens": 0,
             "cache_read_input_tokens": 0, "output_tokens": said,
             "service_tier": "standard"}
    stop = "tool_use" if call else "end_turn"
    whole = {"id": ident("msg_", body), "type": "message",
             "role": "assistant", "model": body["model"],
             "content": [call or {"type": "text", "text": text}],
             "stop_reason": stop, "stop_sequence": None, "usage": usage}
    headers = [("request-id", ident("req_", body))]

    if not body.get("stream"):
        return Answer(whole, headers=headers)

    start = {**whole, "content": [], "stop_reason": None,
             "usage": {**usage, "output_tokens": 1}}
    block = {**call, "input": {}} if call else {"type": "text", "text": ""}
    if call:
        parts = [{"type": "input_json_delta", "partial_json": p} for p in
                 ["", *re.findall(r".{1,6}", json.dumps(call["input"]))]]
    else:
        parts = [{"type": "text_delta", "text": d} for d in deltas(text)]

    events = [{"type": "message_start", "message": start},
              {"type": "content_block_start", "index": 0,
               "content_block": block},
              {"type": "ping"},
              *({"type": "content_block_delta", "index": 0, "delta": p}
                for p in parts),
              {"type": "content_block_stop", "index": 0},
              {"type": "message_delta",
               "delta": {"stop_reason": stop, "stop_sequence": None},
               "usage": {"output_tokens": said}},
              {"type": "message_stop"}]
    return Answer(sse(*((e["type"], e) for e in events), done=False),
                  headers=headers, content_type="text/event-stream")


def count_tokens(request):
    return Answer({"input_tokens": words(request.json().get("messages"))})


ROUTES = [
    ("POST", r"/v1/messages$", messages),
    ("POST", r"/v1/messages/count_tokens$", count_tokens),
]
