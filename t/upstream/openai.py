"""OpenAI's API: chat completions, completions, embeddings, responses,
moderations, models; also what speaks it (Azure, vLLM, Mistral, Groq ...)."""

import base64
import hashlib
import json
import re
import struct

from .server import Answer, sse

CREATED = 1700000000


def words(value):
    """A count of tokens that looks like one."""
    if isinstance(value, str):
        return max(1, len(re.findall(r"\w+|[^\w\s]", value)))
    if isinstance(value, dict):
        return sum(words(v) for v in value.values())
    if isinstance(value, list):
        return sum(words(v) for v in value)
    return 0


def ident(prefix, *what):
    digest = hashlib.sha256(repr(what).encode()).hexdigest()
    return f"{prefix}{digest[:24]}"


def error(status, message, kind="invalid_request_error", code=None,
          param=None):
    return Answer({"error": {"message": message, "type": kind,
                             "param": param, "code": code}}, status=status,
                  headers=[("x-request-id", ident("req_", message))])


def last_text(messages):
    for m in reversed(messages):
        content = m.get("content")
        if isinstance(content, str) and m.get("role") == "user":
            return content
        if isinstance(content, list):
            for part in content:
                if isinstance(part, dict) and "text" in part:
                    return part["text"]
    return ""


def reply_to(text):
    return f"You said: {text}" if text else "Hello! How can I help?"


def example(schema):
    """A value that a JSON schema would take, for tool arguments."""
    kind = (schema or {}).get("type")
    if "enum" in (schema or {}):
        return schema["enum"][0]
    if kind == "object":
        return {k: example(v) for k, v in schema.get("properties", {}).items()}
    return {"integer": 7, "number": 7.5, "boolean": True,
            "array": []}.get(kind, "Paris")


def usage_of(body, text):
    prompt, completion = words(body.get("messages")), words(text)
    return {"prompt_tokens": prompt, "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0}}


def wanted_error(request):
    """`X-Standin-Error: 429 rate_limit_exceeded` asks for one."""
    wanted = request.header("x-standin-error")
    if not wanted:
        return None
    status, _, code = wanted.partition(" ")
    kinds = {401: "authentication_error", 429: "rate_limit_error",
             500: "server_error"}
    return error(int(status), "The stand-in was asked for this error.",
                 kinds.get(int(status), "invalid_request_error"),
                 code or None)


def deltas(text):
    """Text as a model streams it: word by word."""
    return re.findall(r"\s*\S+|\s+$", text)


def chat(request):
    refused = wanted_error(request)
    if refused:
        return refused
    try:
        body = request.json()
        messages = body["messages"]
    except (ValueError, KeyError, TypeError):
        return error(400, "We could not parse the JSON body of your request.")

    model = body.get("model") or request.path.split("/")[-3]
    text = reply_to(last_text(messages))
    tools = body.get("tools") or []
    call = None
    if tools and messages[-1].get("role") != "tool":
        f = tools[0]["function"]
        call = {"id": ident("call_", messages), "type": "function",
                "function": {"name": f["name"], "arguments": json.dumps(
                    example(f.get("parameters")))}}

    rid = ident("chatcmpl-", body)
    usage = usage_of(body, call["function"]["arguments"] if call else text)
    head = {"id": rid, "created": CREATED, "model": f"{model}-2024-08-06",
            "system_fingerprint": "fp_standin"}
    headers = [("x-request-id", ident("req_", rid)),
               ("openai-processing-ms", "3")]
    n = body.get("n") or 1

    if not body.get("stream"):
        message = {"role": "assistant", "content": None if call else text,
                   "refusal": None}
        if call:
            message["tool_calls"] = [call]
        return Answer({**head, "object": "chat.completion", "choices": [
            {"index": i, "message": message, "logprobs": None,
             "finish_reason": "tool_calls" if call else "stop"}
            for i in range(n)], "usage": usage}, headers=headers)

    head["object"] = "chat.completion.chunk"
    asked = (body.get("stream_options") or {}).get("include_usage")

    def chunk(delta, i=0, finish=None):
        c = {**head, "choices": [{"index": i, "delta": delta,
                                  "logprobs": None, "finish_reason": finish}]}
        return {**c, "usage": None} if asked else c

    events = []
    for i in range(n):
        if call:
            f = call["function"]
            events.append(chunk({"role": "assistant", "content": None,
                                 "tool_calls": [{
                                     "index": 0, "id": call["id"],
                                     "type": "function", "function": {
                                         "name": f["name"],
                                         "arguments": ""}}]}, i))
            for piece in re.findall(r".{1,5}", f["arguments"]):
                events.append(chunk({"tool_calls": [
                    {"index": 0, "function": {"arguments": piece}}]}, i))
            events.append(chunk({}, i, "tool_calls"))
            continue
        events.append(chunk({"role": "assistant", "content": "",
                             "refusal": None}, i))
        events += [chunk({"content": d}, i) for d in deltas(text)]
        events.append(chunk({}, i, "stop"))
    if asked:
        events.append({**head, "choices": [], "usage": usage})

    return Answer(sse(*events), headers=headers,
                  content_type="text/event-stream; charset=utf-8")


def completions(request):
    body = request.json()
    prompt = body.get("prompt", "")
    if isinstance(prompt, list):
        prompt = prompt[0] if prompt and isinstance(prompt[0], str) else ""
    text = reply_to(prompt)
    head = {"id": ident("cmpl-", body), "object": "text_completion",
            "created": CREATED, "model": body.get("model")}
    usage = {"prompt_tokens": words(prompt),
             "completion_tokens": words(text),
             "total_tokens": words(prompt) + words(text)}

    if not body.get("stream"):
        return Answer({**head, "choices": [
            {"text": text, "index": 0, "logprobs": None,
             "finish_reason": "stop"}], "usage": usage})

    events = [{**head, "choices": [{"text": d, "index": 0, "logprobs": None,
                                    "finish_reason": None}]}
              for d in deltas(text)]
    events.append({**head, "choices": [{"text": "", "index": 0,
                                        "logprobs": None,
                                        "finish_reason": "stop"}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append({**head, "choices": [], "usage": usage})
    return Answer(sse(*events), content_type="text/event-stream")


def embeddings(request):
    body = request.json()
    given = body.get("input")
    given = given if isinstance(given, list) else [given]
    vector = [0.5, -0.25, 0.125, 1.0]
    if body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack("<4f", *vector)).decode()
    n = words(given)
    return Answer({"object": "list", "model": body.get("model"), "data": [
        {"object": "embedding", "index": i, "embedding": vector}
        for i in range(len(given))],
        "usage": {"prompt_tokens": n, "total_tokens": n}})


def responses(request):
    refused = wanted_error(request)
    if refused:
        return refused
    body = request.json()
    given = body.get("input", "")
    text = reply_to(given if isinstance(given, str) else last_text(given))
    rid, mid = ident("resp_", body), ident("msg_", body)
    usage = {"input_tokens": words(given),
             "input_tokens_details": {"cached_tokens": 0},
             "output_tokens": words(text),
             "output_tokens_details": {"reasoning_tokens": 0},
             "total_tokens": words(given) + words(text)}
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"type": "message", "id": mid, "status": "completed",
            "role": "assistant", "content": [part]}
    whole = {"id": rid, "object": "response", "created_at": CREATED,
             "status": "completed", "error": None,
             "incomplete_details": None, "instructions": None,
             "max_output_tokens": None, "model": body.get("model"),
             "output": [item], "parallel_tool_calls": True,
             "previous_response_id": None, "reasoning": {
                 "effort": None, "summary": None}, "store": True,
             "temperature": 1.0, "text": {"format": {"type": "text"}},
             "tool_choice": "auto", "tools": [], "top_p": 1.0,
             "truncation": "disabled", "usage": usage, "user": None,
             "metadata": {}}

    if not body.get("stream"):
        return Answer(whole)

    started = {**whole, "status": "in_progress", "output": [], "usage": None}
    where = {"item_id": mid, "output_index": 0, "content_index": 0}
    events = [
        {"type": "response.created", "response": started},
        {"type": "response.in_progress", "response": started},
        {"type": "response.output_item.added", "output_index": 0,
         "item": {**item, "status": "in_progress", "content": []}},
        {"type": "response.content_part.added", **where,
         "part": {**part, "text": ""}},
        *({"type": "response.output_text.delta", **where, "delta": d,
           "logprobs": []} for d in deltas(text)),
        {"type": "response.output_text.done", **where, "text": text,
         "logprobs": []},
        {"type": "response.content_part.done", **where, "part": part},
        {"type": "response.output_item.done", "output_index": 0,
         "item": item},
        {"type": "response.completed", "response": whole}]
    events = [(e["type"], {**e, "sequence_number": i})
              for i, e in enumerate(events)]
    return Answer(sse(*events, done=False), content_type="text/event-stream")


def moderations(request):
    body = request.json()
    return Answer({"id": ident("modr-", body), "model": body.get(
        "model", "omni-moderation-latest"), "results": [
            {"flagged": False, "categories": {}, "category_scores": {},
             "category_applied_input_types": {}}]})


def models(request):
    return Answer({"object": "list", "data": [
        {"id": "gpt-4o", "object": "model", "created": CREATED,
         "owned_by": "standin"}]})


ROUTES = [
    ("POST", r"/chat/completions$", chat),
    ("POST", r"/completions$", completions),
    ("POST", r"/embeddings$", embeddings),
    ("POST", r"/responses$", responses),
    ("POST", r"/moderations$", moderations),
    ("GET", r"/v1/models$", models),
]
