"""inspect/: shapes that providers and gateways send now and then, and what
clients put into requests that is nobody's business.  Through
t/tools/lunary_inspect, without nginx."""

import json

import pytest

from harness.inspect import Inspector

JSON = {"content-type": "application/json"}
SSE = {"content-type": "text/event-stream"}
CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"


@pytest.fixture(scope="module")
def inspector():
    tool = Inspector()
    yield tool
    tool.close()


@pytest.fixture
def read(inspector):
    """read(request, answer): the fields, the same however it is cut."""

    def run(request, answer=b"{}", path=CHAT, status=200, headers=None):
        if not isinstance(request, bytes):
            request = json.dumps(request).encode()
        if isinstance(answer, list):
            answer = b"".join(
                (b"event: %s\n" % e[0].encode() if isinstance(e, tuple)
                 else b"")
                + b"data: " + line(e[1] if isinstance(e, tuple) else e)
                + b"\n\n" for e in answer)
            headers = headers or SSE
        elif not isinstance(answer, bytes):
            answer = json.dumps(answer).encode()
        one = dict(path=path, request=request, request_type="application/json",
                   status=status, headers=headers or JSON, response=answer)
        got = inspector.run(**one)
        assert inspector.run(**one, split="bytes")["fields"] == got["fields"]
        return got["fields"]
    return run


def line(value):
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def error(fields):
    return json.loads(fields["error"])


def calls(fields):
    return [(c["function"]["name"], c["function"]["arguments"])
            for c in json.loads(fields["output"])["tool_calls"]]


# --- secrets in parameters --------------------------------------------------

SECRET = "sk-0123456789"

WITH_SECRETS = [
    {"data_sources": [{"type": "azure_search", "parameters": {
        "endpoint": "https://e", "authentication": {
            "type": "api_key", "key": SECRET}}}]},
    {"dataSources": [{"parameters": {"key": 1, "apiKey": SECRET}}]},
    {"tools": [{"type": "function", "function": {"name": "f"}},
               {"type": "mcp", "server_url": "https://s",
                "authorization": SECRET}]},
    {"tools": [{"type": "mcp", "headers": {"X-Any": SECRET}}]},
    {"mcp_servers": [{"url": "https://s", "authorization_token": SECRET}]},
    {"api_key": SECRET},
    {"API-Key": SECRET},
    {"extra_headers": {"Authorization": "Bearer " + SECRET}},
    {"extra_body": {"nested": [{"api_key": SECRET}]}},
    {"fallbacks": [{"model": "m", "api_key": SECRET}]},
    {"vertex_credentials": {"private_key": SECRET}},
    {"aws_secret_access_key": SECRET}]


@pytest.mark.parametrize("params", WITH_SECRETS,
                         ids=["+".join(p) + str(i)
                              for i, p in enumerate(WITH_SECRETS)])
@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, "/other"])
def test_no_key_of_anybody_is_in_the_parameters(read, path, params):
    request = {"model": "m", "messages": [], "temperature": 0.5, **params}
    got = read(request, path=path)
    assert SECRET not in json.dumps(got)
    if "params" in got:
        kept = json.loads(got["params"])
        assert kept["temperature"] == 0.5
        assert "[redacted]" in got["params"]


def test_a_name_with_escapes_hides_no_key(read):
    got = read(b'{"model":"m","messages":[],"api\\u005fkey":"%s",'
               b'"extra_body":{"\\u0061pi_key":"%s"}}'
               % (SECRET.encode(), SECRET.encode()))
    assert SECRET not in json.dumps(got)


def test_what_describes_a_tool_stays_as_it_is(read):
    tools = [{"type": "function", "function": {
        "name": "f", "parameters": {"type": "object", "properties": {
            "api_key": {"type": "string"}, "headers": {"type": "object"},
            "password": {"description": "a \" mcp \\ "}}}}}]
    params = {"tools": tools, "tool_choice": "auto", "stop": ["a", "b"],
              "response_format": {"type": "json_schema", "json_schema": {
                  "schema": {"properties": {"secret": {"type": "string"}}}}}}
    got = read({"model": "m", "messages": [], **params})
    assert json.loads(got["params"]) == params


def test_of_a_server_only_what_is_secret_goes(read):
    tools = [{"type": "function", "function": {
                  "name": "f", "parameters": {"headers": {"type": "x"}}}},
             {"type": "mcp", "server_label": "a", "authorization": SECRET,
              "headers": {"a": "b"}, "allowed_tools": ["x"]},
             {"type": "function", "function": {"name": "g"}}]
    got = read({"model": "m", "messages": [], "tools": tools})
    kept = json.loads(got["params"])["tools"]
    tools[1]["authorization"] = tools[1]["headers"] = "[redacted]"
    assert kept == tools


# --- requests ----------------------------------------------------------------

def test_member_names_may_have_escapes(read):
    got = read(b'{"mod\\u0065l":"a","m\\u0065ssages":[{"role":"user",'
               b'"content":"x"}],"us\\u0065r":"u1","str\\u0065am":true,'
               b'"temp\\u0065rature":1}')
    assert (got["model"], got["stream"]) == ("a", "1")
    assert json.loads(got["input"])[0]["content"] == "x"
    assert json.loads(got["params"]) == {"temperature": 1}


def test_databricks_embeddings(read):
    got = read({"input": ["x"]},
               {"object": "list", "data": [], "model": "bge",
                "usage": {"prompt_tokens": 3, "total_tokens": 3}},
               path="/serving-endpoints/bge/invocations")
    assert (got["api"], got["model"], got["prompt_tokens"]) == (
        "openai.embeddings", "bge", "3")


@pytest.mark.parametrize("body, api", [
    ({"prompt": "x"}, "openai.completions"),
    ({"input": [{"role": "user", "content": "x"}]}, "openai.responses"),
    ({"input": [{"type": "message", "content": "x"}]}, "openai.responses"),
    ({"messages": [{"role": "user", "content": "x"}]}, "openai.chat"),
    ({"input": ["x"]}, "openai.embeddings"), ({"x": 1}, "unknown")])
def test_what_a_databricks_endpoint_serves_is_told_by_the_body(read, body,
                                                               api):
    got = read(body, path="/serving-endpoints/e/invocations")
    assert got["api"] == api
    assert got.get("model") == (None if api == "unknown" else "e")


RUN = {"id": "run_1", "object": "thread.run", "status": "cancelling",
       "model": "gpt", "usage": None}


@pytest.mark.parametrize("prefix", ["/v1", "/openai"])
@pytest.mark.parametrize("method, path", [
    ("POST", "/threads"), ("POST", "/threads/t"), ("GET", "/threads/t"),
    ("GET", "/threads/t/runs"), ("POST", "/threads/t/runs/r/cancel"),
    ("GET", "/threads/t/runs/r/steps"), ("GET", "/threads/t/messages/m"),
    ("POST", "/assistants/a"), ("GET", "/assistants/a"),
    ("GET", "/assistants")])
def test_what_else_there_is_of_assistants(inspector, method, prefix, path):
    got = inspector.run(method=method, path=prefix + path, status=200,
                        headers=JSON, response=line(RUN))["fields"]
    assert (got["api"], got["response_model"], got["finish_reason"]) == (
        "openai.assistants", "gpt", "cancelling")


@pytest.mark.parametrize("path", ["/threads", "/forum/threads/1",
                                  "/assistants", "/v1/assistants/a/files"])
def test_a_page_of_that_name_is_none(inspector, path):
    got = inspector.run(method="GET", path=path, status=200, headers=JSON,
                        response=b"{}")
    assert got["fields"]["api"] == "unknown" and not got["recognised"]


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize("path, body, input, params", [
    ("/threads", {"messages": [USER]}, [USER], None),
    ("/threads/runs", {"assistant_id": "a", "thread": {"messages": [USER]}},
     [USER], {"assistant_id": "a"}),
    ("/threads/t/runs", {"assistant_id": "a", "additional_messages": [USER]},
     [USER], {"assistant_id": "a"}),
    ("/threads/t/messages", USER, [USER], {"role": "user"}),
    ("/threads/t/messages", {"role": "assistant", "content": [
        {"type": "text", "text": "y"}]},
     [{"role": "assistant", "content": [{"type": "text", "text": "y"}]}],
     {"role": "assistant"}),
    ("/threads/t/runs/r/submit_tool_outputs", {"tool_outputs": [
        {"tool_call_id": "c", "output": "42"}]},
     [{"role": "tool", "tool_call_id": "c", "content": "42"}], None)])
def test_what_a_thread_is_told_is_the_input(read, path, body, input,
                                            params):
    got = read(body, path="/v1" + path)
    assert json.loads(got["input"]) == input
    assert json.loads(got.get("params", "null")) == params


# --- chat --------------------------------------------------------------------

def completion(**choice):
    return {"id": "c", "model": "m", "choices": [{"index": 0, **choice}]}


def test_of_a_member_that_comes_twice_the_last_counts(read):
    got = read({"model": "m", "messages": []},
               b'{"model":"a","model":"b","choices":[{"index":0,"message":'
               b'{"content":"x","content":"y","refusal":"r","refusal":null}}'
               b']}')
    assert (got["response_model"], json.loads(got["output"])) == (
        "b", {"role": "assistant", "content": "y"})
    got = read({"model": "m", "messages": []},
               [b'{"choices":[{"index":0,"delta":{"content":"x",'
                b'"content":"y"}}]}'])
    assert json.loads(got["output"])["content"] == "y"


def test_the_finish_reason_is_the_first_choices(read):
    got = read({"model": "m", "messages": []},
               [{"choices": [{"index": 0, "delta": {"content": "a"}}]},
                {"choices": [{"index": 1, "delta": {"content": "b"},
                              "finish_reason": "stop"}]}])
    assert "finish_reason" not in got


@pytest.mark.parametrize("event, want", [
    ({"choices": [{"index": 0, "delta": {}}], "error": "boom"},
     {"message": "boom"}),
    ({"choices": [{"index": 0, "delta": {"content": ""},
                   "finish_reason": "error",
                   "error": {"code": 502, "message": "dead"}}]},
     {"message": "dead", "code": 502}),
    ({"object": "error", "message": "m", "type": "BadRequestError",
      "code": 400}, {"message": "m", "type": "BadRequestError", "code": 400}),
    ({"type": "error", "message": "m"}, {"message": "m", "type": "error"}),
    ({"errors": [{"message": "m", "code": 7}]}, {"message": "m", "code": 7}),
    ({"choices": [{"index": 0, "delta": {}}],
      "x_groq": {"error": "over capacity"}}, {"message": "over capacity"}),
    (("error", b"upstream timed out"), {"message": "upstream timed out"}),
    (("error", b'"a \\"b\\""'), {"message": 'a "b"'}),
    (("error", b'"a":"b"'), {"message": '"a":"b"'}),
    (("error", b'"a'), {"message": '"a'})])
def test_errors_in_the_middle_of_a_stream(read, event, want):
    got = read({"model": "m", "messages": [], "stream": True},
               [completion(delta={"content": "a"}), event])
    assert error(got) == want
    assert json.loads(got["output"])["content"] == "a"


@pytest.mark.parametrize("event", [
    {"choices": [], "usage": {"prompt_tokens": 1}}, {"id": "c"},
    {"choices": [{"index": 0, "delta": {}}], "error": None},
    {"choices": [{"index": 0, "delta": {}}], "error": ""},
    {"choices": [{"index": 0, "delta": {}, "error": None}]},
    {"message": "no error"}])
def test_what_is_no_error(read, event):
    got = read({"model": "m", "messages": [], "stream": True},
               [completion(delta={"content": "a"}), event])
    assert "error" not in got


@pytest.mark.parametrize("function", [
    None, {}, {"name": None, "arguments": None}, {"name": "", "arguments": ""},
    {"name": "", "arguments": {}}, {"arguments": None}])
def test_a_function_call_that_says_nothing_is_none(read, function):
    said = {"content": "a", "function_call": function}
    for answer in (completion(message=said), [completion(delta=said)]):
        got = read({"model": "m", "messages": []}, answer)
        assert "tool_calls" not in json.loads(got["output"])


def test_an_error_beside_choices_that_is_a_string(read):
    got = read({"model": "m", "messages": []},
               {**completion(message={"content": "a"}), "error": "boom"})
    assert error(got) == {"message": "boom"}


@pytest.mark.parametrize("index", [0, None])
def test_ids_may_be_numbers(read, index):
    tools = [{"index": index, "id": n, "type": "function",
              "function": {"name": "f", "arguments": f"[{n}]"}}
             for n in (1, 2)]
    got = read({"model": "m", "messages": [], "stream": True},
               [{**completion(delta={"tool_calls": [t]}), "id": 7}
                for t in tools])
    assert calls(got) == [("f", "[1]"), ("f", "[2]")]
    assert [c["id"] for c in json.loads(got["output"])["tool_calls"]] == [
        "1", "2"]
    assert got["response_id"] == "7"
    got = read({"model": "m", "messages": []},
               {**completion(message={"tool_calls": tools}), "id": None})
    assert [c["id"] for c in json.loads(got["output"])["tool_calls"]] == [
        "1", "2"]
    assert "response_id" not in got


@pytest.mark.parametrize("path", [
    RESPONSES, "/v1/images/generations", "/v1/audio/transcriptions",
    "/v1/threads/t/runs"])
@pytest.mark.parametrize("event, want", [
    ({"error": "boom"}, {"message": "boom"}),
    ({"error": {"message": "m", "code": 5}}, {"message": "m", "code": 5}),
    (("error", {"error": "boom"}), {"message": "boom"}),
    (("error", {"detail": "m"}), {"message": "m"}),
    (("error", {"type": "t", "message": "m", "code": None}),
     {"message": "m", "type": "t"})])
def test_errors_in_streams_of_other_apis(read, path, event, want):
    assert error(read({"model": "m", "stream": True}, [event],
                      path=path)) == want


def test_an_anthropic_error_event_that_is_text(read):
    got = read({"model": "m", "messages": [], "stream": True},
               [("error", b"overloaded")], path=MESSAGES)
    assert error(got) == {"message": "overloaded"}


@pytest.mark.parametrize("body", [
    b"error: upstream connect error", b": x", b"id: abc not found",
    b"retry: later", b"data: bad", b"event", b"event: x", b"{not json}",
    b"{oops", b"Service Unavailable\n", b"d"])
def test_an_error_that_is_text_is_its_message(read, body):
    got = read({"model": "m", "messages": []}, body, status=503,
               headers={"content-type": "text/plain"})
    assert error(got) == {"message": body.decode()}


@pytest.mark.parametrize("head", [b"\n", b"  ", b"\r\n\t"])
def test_white_space_before_an_errors_text_is_of_it(read, head):
    for body in (b"<html>x</html>\n", b"nothing here"):
        got = read({"model": "m", "messages": []}, head + body, status=404,
                   headers={"content-type": "text/html"})
        assert error(got) == {"message": (head + body).decode()}
    got = read({"model": "m", "messages": []},
               head + b'{"error":{"message":"m"}}', status=404)
    assert error(got) == {"message": "m"}
    got = read({"model": "m", "messages": []}, head, status=404)
    assert "error" not in got


def test_white_space_before_an_errors_text_is_bounded(read):
    got = read({"model": "m", "messages": []}, b" " * 9000 + b"x",
               status=500)
    assert len(error(got).get("message", "")) <= 4096


@pytest.mark.parametrize("body, message", [
    ({"title": "T", "detail": None}, "T"),
    ({"title": "T", "detail": "d", "Message": None}, "d"),
    ({"message": None, "Message": "M", "detail": "d"}, "M")])
def test_what_is_null_is_not_the_message(read, body, message):
    got = read({"model": "m", "messages": []}, body, status=400)
    assert error(got) == {"message": message}


@pytest.mark.parametrize("body", [b"{}", b"[]", b"", b'{"a":1}'])
def test_an_error_that_says_nothing_has_no_text(read, body):
    got = read({"model": "m", "messages": []}, body, status=503)
    assert "error" not in got


@pytest.mark.parametrize("body", [b"x", b"data", b"<html>", b""])
def test_text_that_is_no_error(inspector, body):
    got = inspector.run(path=CHAT, request=b"{}", status=200, response=body,
                        request_type="application/json",
                        headers={"content-type": "text/plain"})
    assert not got["errored"] and "error" not in got["fields"]


def test_the_text_of_an_error_is_bounded(read):
    got = read({"model": "m", "messages": []}, b"{" + b"x" * 100000,
               status=500)
    assert 4000 < len(error(got)["message"]) <= 4096


def test_an_error_in_an_event_stream_is_the_events(read):
    got = read({"model": "m", "messages": [], "stream": True},
               [{"error": {"message": "m", "type": "t"}}], status=429)
    assert error(got) == {"message": "m", "type": "t"}


# --- Responses ---------------------------------------------------------------

def item(kind, call, name, **more):
    return {"type": f"response.output_item.{kind}", "item": {
        "type": "function_call", "call_id": call, "name": name, **more}}


def delta(call, text, **more):
    return {"type": "response.function_call_arguments.delta",
            "item_id": call, "delta": text, **more}


def test_parallel_calls_whose_events_do_not_say_where(read):
    """llama.cpp: no output_index; item_id is the call's id."""
    got = read({"model": "m", "input": "x", "stream": True}, [
        item("added", "fc_a", "f"), delta("fc_a", '{"a":'),
        delta("fc_a", "1}"), item("added", "fc_b", "g"),
        delta("fc_b", '{"b":2}'),
        item("done", "fc_a", "f", arguments='{"a":1}'),
        item("done", "fc_b", "g", arguments='{"b":2}')], path=RESPONSES)
    assert calls(got) == [("f", '{"a":1}'), ("g", '{"b":2}')]


def test_parallel_calls_at_one_place(read):
    got = read({"model": "m", "input": "x", "stream": True}, [
        {**item("added", "a", "f"), "output_index": 0},
        delta("fc_1", "{}", output_index=0),
        {**item("added", "b", "g"), "output_index": 0},
        delta("fc_2", "[]", output_index=0)], path=RESPONSES)
    assert calls(got) == [("f", "{}"), ("g", "[]")]


def test_calls_as_openai_sends_them(read):
    """The item's id is another than the call's; deltas may be mixed."""
    got = read({"model": "m", "input": "x", "stream": True}, [
        {**item("added", "call_a", "f", id="fc_a"), "output_index": 0},
        {**item("added", "call_b", "g", id="fc_b"), "output_index": 1},
        delta("fc_b", "[", output_index=1), delta("fc_a", "{",
                                                  output_index=0),
        delta("fc_b", "]", output_index=1), delta("fc_a", "}",
                                                  output_index=0),
        {**item("done", "call_a", "f", arguments="{}"), "output_index": 0},
        {**item("done", "call_b", "g", arguments="[]"), "output_index": 1}],
        path=RESPONSES)
    assert calls(got) == [("f", "{}"), ("g", "[]")]


def test_a_part_without_a_type_is_text(read):
    got = read({"model": "m", "input": "x"}, {"output": [{
        "type": "message", "content": [{"type": None, "text": "a"},
                                       {"text": "b"}]}]}, path=RESPONSES)
    assert json.loads(got["output"])["content"] == "ab"


def test_a_compaction_without_output(read):
    got = read({"model": "m", "input": "x"},
               {"id": "r", "object": "response.compaction", "model": "g",
                "usage": {"input_tokens": 3, "output_tokens": 2}},
               path="/v1/responses/compact")
    assert (got["response_model"], got["input_tokens"]) == ("g", "3")


def test_an_error_beside_output_that_is_a_string(read):
    got = read({"model": "m", "input": "x"},
               {"object": "response", "output": [], "status": "failed",
                "error": "boom"}, path=RESPONSES)
    assert (error(got), got["finish_reason"]) == (
        {"message": "boom"}, "failed")


def test_a_response_that_is_cancelled(read):
    got = read(b"", {"id": "resp_1", "object": "response", "model": "g",
                     "status": "cancelled", "output": [], "usage": None},
               path="/v1/responses/resp_1/cancel")
    assert (got["api"], got["response_model"], got["finish_reason"]) == (
        "openai.responses", "g", "cancelled")


# --- others ------------------------------------------------------------------

@pytest.mark.parametrize("content", [None, "", {}])
def test_an_anthropic_message_without_content(read, content):
    got = read({"model": "c", "messages": []},
               {"type": "message", "id": "m1", "model": "c-1",
                "content": content, "stop_reason": "refusal",
                "usage": {"input_tokens": 5, "output_tokens": 1}},
               path=MESSAGES)
    assert (got["response_id"], got["response_model"], got["finish_reason"],
            got["input_tokens"], got["output_tokens"]) == (
        "m1", "c-1", "refusal", "5", "1")


def test_an_empty_input_with_a_space_in_it(read):
    got = read({"model": "c", "messages": [], "stream": True}, [
        b'{"type":"content_block_start","index":0,"content_block":{"type":'
        b'"tool_use","id":"t","name":"f","input":{ }}}',
        {"type": "content_block_delta", "index": 0, "delta": {
            "type": "input_json_delta", "partial_json": '{"a":1}'}}],
        path=MESSAGES)
    assert calls(got) == [("f", '{"a":1}')]


def test_voxtral_streams(read):
    got = read(b'{"model":"voxtral","stream":true}', [
        {"type": "transcription.language", "audio_language": "en"},
        {"type": "transcription.text.delta", "text": "Hel"},
        {"type": "transcription.text.delta", "text": "lo"},
        {"type": "transcription.done", "model": "voxtral-1", "text": "Hello",
         "usage": {"prompt_tokens": 4, "completion_tokens": 2,
                   "total_tokens": 6}}], path="/v1/audio/transcriptions")
    assert json.loads(got["output"])["content"] == "Hello"
    assert (got["response_model"], got["prompt_tokens"]) == ("voxtral-1", "4")


def test_converse_without_a_message(read):
    got = read({"messages": []}, {"stopReason": "guardrail_intervened",
                                  "usage": {"inputTokens": 3}},
               path="/model/m/converse")
    assert (got["finish_reason"], got["input_tokens"]) == (
        "guardrail_intervened", "3")


def test_converse_text_with_citations(read):
    got = read({"messages": []}, {"output": {"message": {"content": [
        {"text": "a"}, {"citationsContent": {
            "content": [{"text": "b"}, {"text": "c"}],
            "citations": [{"title": "t"}]}}]}}}, path="/model/m/converse")
    assert json.loads(got["output"])["content"] == "abc"


def test_converse_images_have_a_media_type(read):
    got = read({"messages": [{"role": "user", "content": [{"image": {
        "format": "png", "source": {"bytes": "AAAA"}}}]}]},
        path="/model/m/converse")
    assert "data:image/png" in got["input"]


def test_an_exception_with_an_odd_name(read):
    got = read({"messages": []}, [('a"b\\Exception', {"message": "m"})],
               path="/model/m/converse-stream")
    assert error(got) == {"message": "m"}
    got = read({"messages": []}, [("ThrottlingException", {"message": "m"})],
               path="/model/m/converse-stream")
    assert error(got) == {"message": "m", "type": "ThrottlingException"}


def test_cohere_without_a_message(read):
    got = read({"model": "m", "messages": []},
               {"id": "i", "finish_reason": "MAX_TOKENS"}, path="/v2/chat")
    assert got["finish_reason"] == "MAX_TOKENS"


def test_gemini_calls_without_arguments(read):
    got = read({"contents": []}, {"candidates": [{"content": {"parts": [
        {"functionCall": {"name": "f", "args": None}}]}}]},
        path="/v1beta/models/g:generateContent")
    assert calls(got) == [("f", "{}")]


def test_gemini_errors_that_are_text(read):
    got = read({"contents": []}, [{"error": "boom"}],
               path="/v1beta/models/g:streamGenerateContent")
    assert error(got)["message"] == "boom"


# --- where a path tells more -------------------------------------------------

VERTEX = "/v1/projects/p/locations/l/publishers/anthropic/models/"
WORDS = {"messages": [{"role": "user", "content": "x"}]}


def test_vertex_counts_claudes_tokens(read):
    got = read({"model": "claude-h", **WORDS}, {"input_tokens": 14},
               path=VERTEX + "count-tokens:rawPredict")
    assert (got["api"], got["model"], got["prompt_tokens"]) == (
        "anthropic.count_tokens", "claude-h", "14")
    assert "type" not in got and "output" not in got


@pytest.mark.parametrize("path, stream", [
    (VERTEX + "c:streamRawPredict", "1"), (VERTEX + "c:rawPredict", "0"),
    ("/v1/publishers/mistralai/models/m:streamRawPredict", "1"),
    ("/ml/v1/text/chat_stream", "1"), ("/ml/v1/text/chat", "0")])
def test_a_stream_that_the_path_asks_for(read, path, stream):
    got = read(WORDS, {"error": {"message": "m"}}, path=path, status=429)
    assert got["stream"] == stream


@pytest.mark.parametrize("system", [{}, {"system": "s"}])
def test_anthropic_without_a_version_in_the_path(read, system):
    got = read({"model": "c", "max_tokens": 9, **WORDS, **system},
               {"type": "message", "content": [{"type": "text", "text": "a"}],
                "usage": {"input_tokens": 1, "output_tokens": 2}},
               path="/gateway/messages")
    assert got["api"] == "anthropic.messages"
    assert json.loads(got["output"])["content"] == "a"


def test_a_conversation_that_starts_again(read):
    got = read({"inputs": "x", "from_entry_id": "e"},
               {"conversation_id": "c", "outputs": [{
                   "type": "message.output", "model": "m", "content": "a"}],
                "usage": {"prompt_tokens": 1}},
               path="/v1/conversations/c/restart")
    assert (got["api"], got["prompt_tokens"]) == ("mistral.conversations",
                                                  "1")
    assert json.loads(got["output"])["content"] == "a"


@pytest.mark.parametrize("path, request_", [
    ("/v1/classify", {"inputs": ["a"], "examples": []}),
    ("/v1/classifications", {"model": "m", "input": ["a"]}),
    ("/v1/chat/classifications", {"model": "m", "input": [WORDS]}),
    ("/v1/publishers/google/models/g:computeTokens",
     {"contents": [{"parts": [{"text": "a"}]}]})])
def test_what_looks_like_a_completion_and_is_none(read, path, request_):
    got = read(request_, {"meta": {}}, path=path)
    assert got["api"] == "unknown" and "type" not in got


def test_code_assist_wraps_the_request(read):
    got = read({"model": "g", "project": "p", "request": {
        "systemInstruction": {"parts": [{"text": "s"}]},
        "contents": [{"role": "user", "parts": [{"text": "x"}]}],
        "generationConfig": {"temperature": 1}}},
        {"response": {"candidates": [{"content": {"parts": [
            {"text": "a"}]}}]}}, path="/v1internal:generateContent")
    assert json.loads(got["input"]) == [{"role": "system", "content": "s"},
                                        {"role": "user", "content": "x"}]
    assert json.loads(got["params"]) == {"generationConfig": {
        "temperature": 1}}
    assert (got["model"], json.loads(got["output"])["content"]) == ("g", "a")


# --- what is there, and no more ----------------------------------------------

NDJSON = {"content-type": "application/x-ndjson"}


def test_one_answer_over_lines_where_lines_were_announced(read):
    got = read({"model": "m", **WORDS}, json.dumps(
        {"model": "m", "message": {"role": "assistant", "content": "a"},
         "done": True, "done_reason": "stop", "eval_count": 2},
        indent=2).encode(), path="/api/chat", headers=NDJSON)
    assert (got["finish_reason"], got["completion_tokens"]) == ("stop", "2")
    assert json.loads(got["output"])["content"] == "a"


def test_lines_that_were_announced_and_came(read):
    lines = b'{"message":{"content":"a"}}\r\n{"message":{"content":"b"}}'
    got = read({"model": "m", **WORDS}, lines, path="/api/chat",
               headers=NDJSON)
    assert json.loads(got["output"])["content"] == "ab"


def test_ranks_of_bedrock_are_no_answers(read):
    got = read({"query": "q", "documents": ["a"]},
               {"results": [{"index": 0, "relevance_score": 0.5}]},
               path="/model/cohere.rerank/invoke")
    assert "output" not in got


def test_a_model_in_the_body_of_bedrock(read):
    got = read({"model": "m", **WORDS}, path="/model/arn:aws:x/invoke")
    assert got["model"] == "m"


def test_the_model_in_the_path_of_bedrock_is_the_one_that_is_paid_for(read):
    got = read({"model": "cheap", **WORDS}, path="/model/meta.llama3/invoke")
    assert got["model"] == "meta.llama3"


def test_titan_that_was_stopped_says_why(read):
    got = read({"inputText": "a"}, {"inputTextTokenCount": 3, "results": [
        {"tokenCount": 4, "completionReason": "CONTENT_FILTERED"}]},
        path="/model/amazon.titan-text-lite-v1/invoke")
    assert (got["output_tokens"], got["finish_reason"]) == (
        "4", "CONTENT_FILTERED")


@pytest.mark.parametrize("path", ["/api/messages", "/openai/messages",
                                  "/chat/x/messages", "/api/classify"])
def test_a_chat_at_a_path_that_others_use_otherwise(read, path):
    got = read({"model": "gpt-4o", **WORDS}, {
        "id": "c", "object": "chat.completion", "model": "gpt-4o", "choices": [
            {"index": 0, "finish_reason": "stop",
             "message": {"role": "assistant", "content": "ho"}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5}}, path=path)
    assert (got["api"], got["input_tokens"], got["output_tokens"]) == (
        "openai.chat", "3", "5")


def test_databricks_with_a_prompt_and_an_input_of_null(read):
    got = read({"prompt": "x", "input": None},
               path="/serving-endpoints/e/invocations")
    assert got["api"] == "openai.completions"


def test_the_history_of_command_on_bedrock(read):
    got = read({"message": "c", "chat_history": [
        {"role": "USER", "message": "a"},
        {"role": "CHATBOT", "message": "b"}], "preamble": "s",
        "max_tokens": 5}, {"text": "d", "finish_reason": "COMPLETE"},
        path="/model/cohere.command-r-v1:0/invoke")
    assert [m["content"] for m in json.loads(got["input"])] == [
        "s", "a", "b", "c"]
    assert json.loads(got["params"]) == {"max_tokens": 5}
    assert (got["api"], got["model"], got["stream"]) == (
        "bedrock.invoke", "cohere.command-r-v1:0", "0")


def test_a_legacy_event_without_text(read):
    got = read({"model": "c", "prompt": "x", "stream": True}, [
        ("completion", {"type": "completion", "completion": "a"}),
        ("completion", {"type": "completion", "completion": None,
                        "stop_reason": "stop_sequence"})],
        path="/v1/complete")
    assert got["finish_reason"] == "stop_sequence"


@pytest.mark.parametrize("path, request_, event, want", [
    ("/generate_stream", {"inputs": "x"},
     {"error": {"message": "m", "http_status_code": 500}}, {"message": "m"}),
    ("/ml/v1/text/generation_stream", {"input": "x"}, {"error": "m"},
     {"message": "m"}),
    ("/model/m/invoke-with-response-stream", {"prompt": "x"},
     {"error": {"message": "m", "type": "t"}},
     {"message": "m", "type": "t"})])
def test_an_error_that_a_stream_tells_by_no_event(read, path, request_, event,
                                                  want):
    assert error(read(request_, [event], path=path)) == want


@pytest.mark.parametrize("path, request_", [
    ("/v1/chat", {"message": "x", "stream": True}),
    ("/v1/generate", {"prompt": "x", "stream": True})])
@pytest.mark.parametrize("name", ["error", "err"])
def test_a_cohere_stream_that_ends_in_an_error(read, path, request_, name):
    got = read(request_, b'{"text":"a","is_finished":false}\n'
               b'{"is_finished":true,"event_type":"stream-end",'
               b'"finish_reason":"ERROR","%s":"m"}\n' % name.encode(),
               path=path, headers={"content-type": "application/stream+json"})
    assert (got["finish_reason"], error(got)) == ("ERROR", {"message": "m"})
    assert json.loads(got["output"])["content"] == "a"


def test_an_event_without_a_token_is_no_answer(read):
    got = read({"inputs": "x"}, [{"text_output": "a"}],
               path="/generate_stream")
    assert "output" not in got


@pytest.mark.parametrize("body, message", [
    (b"", {}), (b"<html>", {"message": "<html>"}), (b"{}", {})])
def test_aws_names_an_exception_in_a_header(read, body, message):
    got = read(WORDS, body, path="/model/m/converse", status=403,
               headers={"x-amzn-errortype": "AccessDeniedException:x"})
    assert error(got) == {**message, "type": "AccessDeniedException"}


@pytest.mark.parametrize("path, request_, answer", [
    ("/v1/chat", {"message": "x"}, {"text": "a", "finish_reason": "MAX"}),
    ("/v1/generate", {"prompt": "x"}, {"generations": [
        {"text": "a", "finish_reason": "MAX"}]})])
def test_cohere_answers_at_once_where_a_stream_was_asked_for(
        read, path, request_, answer):
    usage = {"meta": {"billed_units": {"input_tokens": 3.0}}}
    got = read({**request_, "stream": True}, {**answer, **usage}, path=path)
    assert json.loads(got["output"])["content"] == "a"
    assert (got["finish_reason"], got["prompt_tokens"]) == ("MAX", "3")


@pytest.mark.parametrize("body, message", [
    ({"detail": None, "title": "t"}, "t"), ({"Message": None,
                                             "detail": "d"}, "d"),
    ({"message": None, "Message": "M", "title": "t"}, "M")])
def test_an_error_whose_first_names_are_null(read, body, message):
    got = read({"model": "m", "messages": []}, body, status=400)
    assert error(got) == {"message": message}


@pytest.mark.parametrize("first", [
    {"partialArgs": []}, {"partialArgs": None}, {},
    {"partialArgs": [{"jsonPath": "$.a", "stringValue": "x",
                      "willContinue": True}]}])
@pytest.mark.parametrize("more", [[], [{"jsonPath": "$.a",
                                        "stringValue": "y"}]])
def test_gemini_calls_that_come_in_parts(read, first, more):
    got = read({"contents": []}, [{"candidates": [{"content": {"parts": [
        {"functionCall": call}]}}]} for call in (
            {"name": "f", "willContinue": True, **first},
            {"partialArgs": more}, {})],
        path="/v1beta/models/g:streamGenerateContent")
    text = ("x" if first.get("partialArgs") else "") + ("y" if more else "")
    assert [(n, json.loads(a)) for n, a in calls(got)] == [
        ("f", {"a": text} if text else {})]


# --- what is counted in total only -------------------------------------------

RANK = {"model": "r-1", "query": "which?", "documents": ["a", "b"]}


@pytest.mark.parametrize("usage, want", [
    ({"total_tokens": 17, "cost": 3.4e-7},
     {"total_tokens": "17", "input_tokens": "17"}),
    ({"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9},
     {"prompt_tokens": "9", "completion_tokens": "0", "total_tokens": "9",
      "input_tokens": "9", "output_tokens": "0"}),
    ({"search_units": 1}, {}), (None, {})])
@pytest.mark.parametrize("path", ["/v1/rerank", "/api/v1/rerank", "/rerank"])
def test_a_rerank_tells_its_model_and_tokens(read, path, usage, want):
    got = read(RANK, {"id": "x1", "model": "r-1-lite", "results": [
        {"index": 1, "relevance_score": 0.8}], "usage": usage}, path=path)
    assert (got["api"], got["response_model"], got["response_id"]) == (
        "cohere.rerank", "r-1-lite", "x1")
    assert {k: v for k, v in got.items() if k.endswith("_tokens")} == want
    assert ("usage" in got) == (usage is not None)


def test_a_rerank_of_cohere_is_read_as_before(read):
    got = read(RANK, {"id": "x1", "results": [], "meta": {
        "billed_units": {"search_units": 1}, "tokens": {
            "input_tokens": 4, "output_tokens": 0}}}, path="/v2/rerank")
    assert (got["input_tokens"], got["response_id"]) == ("4", "x1")
    assert "response_model" not in got


@pytest.mark.parametrize("usage, want", [
    ({"total_tokens": 8}, ("8", None)), ({"total_tokens": 0}, ("0", None)),
    ({"prompt_tokens": 5, "total_tokens": 8}, ("5", None)),
    ({"input_tokens": 5, "total_tokens": 8}, ("5", None)),
    ({"total_tokens": "8"}, (None, None)), ({}, (None, None))])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/moderations"])
def test_all_tokens_of_what_is_embedded_are_input(read, path, usage, want):
    got = read({"model": "m", "input": "x"},
               {"object": "list", "data": [], "model": "m", "usage": usage},
               path=path)
    assert (got.get("input_tokens"), got.get("output_tokens")) == want
    assert got.get("prompt_tokens") == (
        "5" if want[0] == "5" else None)


def test_a_total_alone_is_no_input_of_a_chat(read):
    got = read({"model": "m", "messages": []}, {"choices": [
        {"index": 0, "message": {"content": "a"}}],
        "usage": {"total_tokens": 8}})
    assert got["total_tokens"] == "8"
    assert "input_tokens" not in got


@pytest.mark.parametrize("counts, want", [
    ([7], "7"), ([7, 0, 12.0], "19"), ([0], "0"), ([None, 3], None), ([3, None], None),
    ([None], None), ([-1], None), (["4"], None), ([], None),
    ([2 ** 53 - 1] * 1100, str(2 ** 54 - 2))])
def test_vertex_counts_each_text_that_it_embeds(read, counts, want):
    got = read({"instances": [{"content": "a"} for _ in counts]},
               {"predictions": [{"embeddings": {
                   "values": [0.5, -1e-3],
                   "statistics": {"truncated": False, **(
                       {} if n is None else {"token_count": n})}}}
                   for n in counts],
                "metadata": {"billableCharacterCount": 9}},
               path="/v1/projects/p/locations/l/publishers/google/models/"
                    "text-embedding-005:predict")
    assert got.get("input_tokens") == want
    assert "prompt_tokens" not in got and "output_tokens" not in got


@pytest.mark.parametrize("split", ["whole", "bytes"])
def test_what_vertex_counted_of_half_an_answer_is_not_all(inspector, split):
    one = {"embeddings": {"values": [0.5],
                          "statistics": {"token_count": 3}}}
    body = json.dumps({"predictions": [one, one, one]}).encode()
    for n in (0, 1, 2, 4, 30, 75):
        got = inspector.run(
            path="/v1/projects/p/locations/l/publishers/google/models/"
                 "text-embedding-005:predict", request=b'{"instances":[]}',
            status=200, headers=JSON, response=body[:len(body) - n],
            end="broken", split=split)["fields"]
        assert got.get("input_tokens") == ("9" if n == 0 else None), n


@pytest.mark.parametrize("model", ["cohere.rerank-v3-5:0",
                                   "amazon.rerank-v1:0"])
def test_a_rerank_of_bedrock_is_no_answer_of_a_model(read, model):
    got = read({"query": "which?", "documents": ["a", "b"], "top_n": 1},
               {"results": [{"index": 0, "relevance_score": 0.5}]},
               path=f"/model/{model}/invoke",
               headers={**JSON, "x-amzn-bedrock-input-token-count": "7"})
    assert (got["api"], got["model"], got["input_tokens"]) == (
        "bedrock.invoke", model, "7")
    assert json.loads(got["input"]) == [{"role": "user", "content": "which?"}]
    assert json.loads(got["params"]) == {"documents": ["a", "b"], "top_n": 1}
    assert "type" not in got and "output" not in got


# --- what is said beside the answer ------------------------------------------

PLAN = "I will look it up, \u201ctwice\u201d."


def test_cohere_tells_what_it_is_going_to_do(read):
    tool = {"id": "t1", "type": "function",
            "function": {"name": "f", "arguments": '{"a":1}'}}
    got = read({"model": "m", "messages": []}, {
        "id": "c", "finish_reason": "TOOL_CALL", "message": {
            "role": "assistant", "tool_plan": PLAN, "tool_calls": [tool]}},
        path="/v2/chat")
    assert json.loads(got["output"]) == {
        "role": "assistant", "content": None, "tool_plan": PLAN,
        "tool_calls": [tool]}


def test_cohere_streams_what_it_is_going_to_do(read):
    got = read({"model": "m", "messages": [], "stream": True}, [
        ("message-start", {"type": "message-start", "id": "c"}),
        *(("tool-plan-delta", {"type": "tool-plan-delta", "delta": {
            "message": {"tool_plan": part}}})
          for part in (PLAN[:6], PLAN[6:], "", 1, None)),
        ("tool-call-start", {"type": "tool-call-start", "index": 0,
                             "delta": {"message": {"tool_calls": {
                                 "id": "t1", "function": {
                                     "name": "f", "arguments": "{}"}}}}}),
        ("message-end", {"type": "message-end", "delta": {
            "finish_reason": "TOOL_CALL"}})], path="/v2/chat")
    assert json.loads(got["output"])["tool_plan"] == PLAN
    assert calls(got) == [("f", "{}")]


def test_a_plan_without_a_call_is_kept_too(read):
    got = read({"model": "m", "messages": []}, {"finish_reason": "ERROR",
               "message": {"role": "assistant", "tool_plan": "p"}},
               path="/v2/chat")
    assert json.loads(got["output"]) == {
        "role": "assistant", "content": None, "tool_plan": "p"}


@pytest.mark.parametrize("failed", [True, False, None, "x"])
def test_a_tool_that_failed_says_so(read, failed):
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "no"}
    if failed is not None:
        result["is_error"] = failed
    got = read({"model": "m", "max_tokens": 1, "messages": [
        {"role": "user", "content": [result]}]}, path=MESSAGES)
    want = {"role": "tool", "tool_call_id": "t1", "content": "no"}
    if failed is True:
        want["is_error"] = True
    assert json.loads(got["input"]) == [want]


@pytest.mark.parametrize("status", ["error", "success", None])
def test_a_tool_of_bedrock_that_failed_says_so(read, status):
    result = {"toolUseId": "t1", "content": [{"text": "no"}]}
    if status is not None:
        result["status"] = status
    got = read({"messages": [{"role": "user", "content": [
        {"toolResult": result}]}]}, path="/model/m/converse")
    assert json.loads(got["input"])[0].get("is_error") == (
        True if status == "error" else None)


def test_an_uploaded_image_stays_a_reference(read):
    image = {"type": "image", "source": {"type": "file", "file_id": "f_1"}}
    got = read({"model": "m", "max_tokens": 1, "messages": [
        {"role": "user", "content": [image, {"type": "text", "text": "?"}]}]},
        path=MESSAGES)
    assert json.loads(got["input"])[0]["content"][0] == image


def test_a_step_of_a_run(inspector):
    got = inspector.run(method="GET", status=404, headers=JSON,
                        path="/v1/threads/t/runs/r/steps/s",
                        response=b'{"error":{"message":"none"}}')
    assert got["fields"]["api"] == "openai.assistants"
    assert error(got["fields"]) == {"message": "none"}


@pytest.mark.parametrize("capture_max", [4096, 65536, 1 << 20])
def test_counts_of_many_long_vectors_are_all_or_none(inspector, capture_max):
    answer = json.dumps({"predictions": [{"embeddings": {
        "values": [(i * k % 997) / 997 - 0.5 for k in range(768)],
        "statistics": {"token_count": i, "truncated": False}}}
        for i in range(1, 101)]}).encode()
    for split in ("whole", "random"):
        got = inspector.run(
            path="/v1/models/text-embedding-005:predict", split=split,
            request=b'{"instances":[{"content":"a"}]}', status=200,
            request_type="application/json", headers=JSON,
            response=answer, capture_max=capture_max)["fields"]
        assert got.get("input_tokens") in (None, "5050")


# --- a call that is several --------------------------------------------------

def passed(kind, n, m, cached=0, written=0, **more):
    return {"type": kind, "input_tokens": n, "output_tokens": m,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": written, **more}


@pytest.mark.parametrize("passes, extra", [
    ([passed("compaction", 9000, 80), passed("message", 10, 5)], (9000, 80)),
    ([passed("compaction", 1, 2, 30, 400), passed("message", 10, 5),
      passed("compaction", 5000, 70)], (5431, 72)),
    ([passed("message", 10, 5), passed("advisor_message", 77, 66,
                                       model="other")], (0, 0)),
    ([passed("message", 10, 5)], (0, 0)), ([], (0, 0)), (None, (0, 0)),
    ({"type": "compaction", "input_tokens": 7}, (0, 0)),
    (["compaction", {"type": "compaction", "input_tokens": -1,
                     "output_tokens": "3"}], (0, 0))])
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_summary_took_is_counted_in(read, passes, extra, stream):
    usage = passed("x", 10, 5, 100, 1000, iterations=passes)
    del usage["type"]
    if stream:
        first = {"type": "message", "content": [], "model": "c",
                 "usage": {**usage, "output_tokens": 1}}
        answer = [("message_start", {"type": "message_start",
                                     "message": first}),
                  ("message_delta", {"type": "message_delta", "delta": {
                      "stop_reason": "end_turn"}, "usage": usage}),
                  ("message_stop", {"type": "message_stop"})]
    else:
        answer = {"type": "message", "content": [], "model": "c",
                  "stop_reason": "end_turn", "usage": usage}
    got = read({"model": "c", "messages": [], "stream": stream}, answer,
               path=MESSAGES)
    assert (got["prompt_tokens"], got["completion_tokens"]) == ("10", "5")
    assert (got["cached_tokens"], got["cache_write_tokens"]) == ("100", "1000")
    assert (int(got["input_tokens"]), int(got["output_tokens"])) == (
        1110 + extra[0], 5 + extra[1])


# --- what the client is to run itself ----------------------------------------

TO_RUN = [
    {"type": "local_shell_call", "id": "l", "call_id": "c", "status":
     "completed", "action": {"type": "exec", "command": ["ls", "-l \"a\""]}},
    {"type": "shell_call", "id": "s", "call_id": "c",
     "action": {"commands": ["ls"]}},
    {"type": "shell_call", "id": "s", "call_id": "c",
     "environment": {"type": "local"}, "action": {"commands": ["ls"]}},
    {"type": "apply_patch_call", "id": "p", "call_id": "c", "operation": {
        "type": "update_file", "path": "a.c", "diff": "@@\n-a\n+b\n"}},
    {"type": "computer_call", "id": "k", "call_id": "c",
     "action": {"type": "click", "x": 1, "y": 2}},
    {"type": "mcp_approval_request", "id": "m", "name": "f",
     "arguments": "{}", "server_label": "s"},
    {"type": "tool_search_call", "id": "t", "call_id": "c",
     "execution": "client", "arguments": {"goal": "x"}}]

NOT_TO_RUN = [
    {"type": "web_search_call", "id": "w", "action": {"query": "x"}},
    {"type": "shell_call", "id": "s", "environment": {
        "type": "container_reference", "container_id": "c"}, "action": {}},
    {"type": "tool_search_call", "id": "t", "execution": "server"},
    {"type": "mcp_call", "id": "m", "arguments": "{}"}]


def answered(items, stream):
    end = {"id": "r", "object": "response", "model": "m",
           "status": "completed", "output": items}
    if not stream:
        return end
    return [*({"type": "response.output_item." + when, "output_index": i,
               "item": item} for i, item in enumerate(items)
              for when in ("added", "done")),
            {"type": "response.completed", "response": end}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("item", TO_RUN)
def test_what_the_client_is_to_run_is_kept(read, item, stream):
    got = read({"model": "m", "input": "x", "stream": stream},
               answered([item], stream), path=RESPONSES)
    assert json.loads(got["output"]) == {"role": "assistant",
                                         "content": [item]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("item", NOT_TO_RUN)
def test_what_the_provider_ran_is_not(read, item, stream):
    got = read({"model": "m", "input": "x", "stream": stream},
               answered([item], stream), path=RESPONSES)
    assert json.loads(got["output"])["content"] == ""


def test_what_is_to_be_run_stands_behind_what_is_said(read):
    message = {"type": "message", "role": "assistant", "content": [
        {"type": "output_text", "text": "I look."}]}
    call = {"type": "function_call", "call_id": "f1", "name": "f",
            "arguments": "{}"}
    got = read({"model": "m", "input": "x"},
               answered([message, *TO_RUN[:2], call], False), path=RESPONSES)
    output = json.loads(got["output"])
    assert output["content"] == [{"type": "text", "text": "I look."},
                                 *TO_RUN[:2]]
    assert calls(got) == [("f", "{}")]


# --- what was said before the messages ---------------------------------------

LONG = "A long story of which not much can be kept. " * 900
SAID = [{"role": "user", "content": "x"}]
PARTS = [{"role": "user", "parts": [{"text": "x"}]}]

BEFORE = {
    "messages": (MESSAGES, {"messages": SAID, "system": LONG}),
    "messages, blocks": (MESSAGES, {"messages": SAID, "system": [
        {"type": "text", "text": LONG}]}),
    "messages on Bedrock": ("/model/m/invoke", {
        "anthropic_version": "b", "messages": SAID, "system": LONG}),
    "converse": ("/model/m/converse", {"system": [{"text": LONG}], "messages":
                 [{"role": "user", "content": [{"text": "x"}]}]}),
    "responses": (RESPONSES, {"input": "x", "instructions": LONG}),
    "responses, items": (RESPONSES, {"input": SAID, "instructions": LONG}),
    "gemini": ("/v1/models/g:generateContent", {
        "contents": PARTS, "systemInstruction": {"parts": [{"text": LONG}]}}),
    "gemini, snake": ("/v1/models/g:generateContent", {
        "contents": PARTS, "system_instruction": {"parts": {"text": LONG}}}),
    "gemini, counted": ("/v1/models/g:countTokens", {
        "generateContentRequest": {"contents": PARTS, "systemInstruction": {
            "parts": [{"text": LONG}]}}}),
    "gemini, wrapped": ("/v1/models/g:generateContent", {
        "request": {"contents": [{"parts": [{"text": LONG}]}]}}),
    "interactions": ("/v1beta/interactions", {
        "input": "x", "system_instruction": LONG}),
    "cohere": ("/v1/chat", {"message": "x", "preamble": LONG}),
    "cohere, history": ("/v1/chat", {"message": "x", "chat_history": [
        {"role": "USER", "message": LONG}]}),
    "ollama": ("/api/generate", {"prompt": "x", "system": LONG}),
    "agent": ("/agents/s", {"foundationModel": "m", "instruction": LONG,
                            "inputText": "x"}),
}


@pytest.mark.parametrize("capture_max", [2048, 8192])
@pytest.mark.parametrize("what", BEFORE)
def test_the_size_before_it_was_cut_is_of_all_of_it(inspector, what,
                                                    capture_max):
    path, request = BEFORE[what]
    one = dict(path=path, request=json.dumps({"model": "m",
                                              **request}).encode(),
               request_type="application/json")
    whole = inspector.run(**one, capture_max=1 << 20)["fields"]
    assert LONG[:200] in whole["input"]
    assert len(whole["input"]) == int(whole["input_bytes"])
    for split in ("whole", "random"):
        got = inspector.run(**one, capture_max=capture_max,
                            split=split)["fields"]
        assert len(got["input"]) <= capture_max + 64
        assert abs(int(got["input_bytes"]) - int(whole["input_bytes"])) < 64
        assert got["truncated"] == "input"


ECHOED = {
    "instructions": (RESPONSES, {"object": "response", "output": [
        {"type": "message", "content": [{"type": "output_text",
                                         "text": "a"}]}]},
        {"instructions": LONG * 4, "tools": [{"description": LONG}] * 4}),
    "sources": (CHAT, {"choices": [{"index": 0, "message": {
        "content": "a"}}]}, {"citations": [LONG] * 4, "search_results": [
            {"snippet": LONG}] * 4}),
    "history": ("/v1/chat", {"text": "a"}, {"chat_history": [
        {"role": "USER", "message": LONG}] * 4, "documents": [
            {"text": LONG}] * 4}),
    "prompt": ("/v1/generate", {"generations": [{"text": "a"}]},
               {"prompt": LONG * 4}),
}


@pytest.mark.parametrize("what", ECHOED)
def test_what_an_answer_repeats_of_others_is_not_its_size(inspector, what):
    path, answer, more = ECHOED[what]
    for body in ({**more, **answer}, {**answer, **more}):
        got = inspector.run(
            path=path, request=b'{"model":"m","message":"x"}', status=200,
            headers=JSON, response=json.dumps(body).encode(),
            request_type="application/json", capture_max=4096,
            split="random")["fields"]
        assert json.loads(got["output"])["content"] == "a"
        assert int(got["output_bytes"]) == len(got["output"])
        assert "truncated" not in got


def test_what_is_cut_of_an_answer_still_counts(inspector):
    got = inspector.run(
        path=CHAT, request=b'{"model":"m","messages":[]}', status=200,
        headers=JSON, request_type="application/json", capture_max=4096,
        response=json.dumps({"citations": [LONG], "choices": [
            {"index": 0, "message": {"content": LONG}}]}).encode(),
        split="random")["fields"]
    assert abs(int(got["output_bytes"]) - len(LONG)) < 128
    assert got["truncated"] == "output"


# --- answers that broke off --------------------------------------------------

def broken(inspector, path, answer, headers=JSON, request=None,
           end="broken"):
    out = []
    for split in ("whole", "bytes", "random"):
        out.append(inspector.run(
            path=path, request=json.dumps(request or {
                "model": "m", "messages": [], "contents": []}).encode(),
            request_type="application/json", status=200, headers=headers,
            response=answer, end=end, split=split))
    assert out[0]["fields"] == out[1]["fields"] == out[2]["fields"]
    assert len({o["terminal"] for o in out}) == 1
    return out[0]


@pytest.mark.parametrize("path, answer", [
    ("/v1/models/g:generateContent",
     {"candidates": [{"content": {"parts": [{"text": "a"}]},
                      "finishReason": "STOP"}], "usageMetadata": {"x": 1}}),
    ("/api/chat", {"message": {"content": "a"}, "done": True,
                   "done_reason": "stop", "prompt_eval_count": 12}),
    (CHAT, {"choices": [{"message": {"content": "a"},
                         "finish_reason": "stop"}], "usage": {"x": 1}}),
    ("/model/amazon.titan/invoke", {"outputText": "a",
                                    "amazon-bedrock-invocationMetrics": {}})])
def test_half_a_body_is_no_whole_answer(inspector, path, answer):
    answer = json.dumps(answer).encode()
    request = {"model": "m", "messages": [], "stream": False}
    assert broken(inspector, path, answer, request=request)["terminal"] == 1
    for n in range(1, 5):
        got = broken(inspector, path, answer[:-n], request=request)
        assert got["terminal"] == 0
        assert json.loads(got["fields"]["output"])["content"] == "a"


@pytest.mark.parametrize("n", [0, 1, 3, 6])
def test_half_a_name_is_none(inspector, n):
    name = "gpt-5-mini"
    got = broken(inspector, CHAT, b'{"choices":[],"id":"i","model":"'
                 + name[:n].encode())["fields"]
    assert "response_model" not in got and got["response_id"] == "i"
    got = broken(inspector, CHAT, b'{"model":"gpt","id":"'
                 + name[:n].encode())["fields"]
    assert "response_id" not in got and got["response_model"] == "gpt"
    got = broken(inspector, CHAT, b'{"choices":[{"message":{"content":"a"},'
                 b'"finish_reason":"' + name[:n].encode())["fields"]
    assert "finish_reason" not in got
    assert json.loads(got["output"])["content"] == "a"


def test_a_whole_name_stays_where_what_follows_broke_off(inspector):
    for rest in (b"", b",", b',"usage"', b',"usage":{', b',"usage":{"a":1',
                 b',"x":tr'):
        got = broken(inspector, CHAT, b'{"choices":[],"model":"gpt"' + rest)
        assert got["fields"]["response_model"] == "gpt"


@pytest.mark.parametrize("start, headers", [
    (b"data: ", SSE), (b"", {"content-type": "application/x-ndjson"})])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_half_a_number_of_a_stream_is_none(inspector, start, headers, n):
    event = (b'{"choices":[{"index":0,"delta":{"content":"a"}}],'
             b'"usage":{"completion_tokens":7,"prompt_tokens":')
    got = broken(inspector, CHAT, start + event + b"123"[:n], headers,
                 {"model": "m", "messages": [], "stream": True})["fields"]
    assert json.loads(got["output"])["content"] == "a"
    assert "prompt_tokens" not in got and got["completion_tokens"] == "7"


def test_the_last_number_of_a_stream_that_lacks_its_line_end(inspector):
    got = broken(inspector, CHAT, b'data: {"choices":[{"index":0,"delta":{}}'
                 b'],"usage":{"prompt_tokens":123}}', SSE)["fields"]
    assert got["prompt_tokens"] == "123"


LAST = [
    (RESPONSES, {"type": "response.completed", "response": {
        "id": "r", "status": "completed", "model": "m", "output": [],
        "usage": {"input_tokens": 12}}}),
    (CHAT, {"choices": [{"index": 0, "delta": {"content": "a"},
                         "finish_reason": "stop"}], "usage": {
                             "prompt_tokens": 12}}),
    ("/v1beta/interactions", {"event_type": "interaction.completed",
                              "interaction": {"model": "m", "usage": {
                                  "total_input_tokens": 12}}}),
    ("/v1/models/g:streamGenerateContent", {"candidates": [{
        "content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 12}}),
    (MESSAGES, {"type": "message_stop", "amazon-bedrock": {"a": 12}})]


@pytest.mark.parametrize("long", [0, 20000])
@pytest.mark.parametrize("member", ["model", "id"])
def test_half_a_name_of_a_stream_is_none(inspector, member, long):
    event = {"padding": "x" * long, "choices": [
        {"index": 0, "delta": {"content": "a"}}], member: "gpt-5-mini"}
    event = b"data: " + json.dumps(event).encode()
    field = "response_" + member
    for n in (2, 3, 8, 12):
        got = broken(inspector, CHAT, event[:-n], SSE)["fields"]
        assert field not in got
        assert json.loads(got["output"])["content"] == "a"
    for n in (0, 1):
        got = broken(inspector, CHAT, event[:len(event) - n], SSE)["fields"]
        assert got[field] == "gpt-5-mini"


def test_half_a_finish_of_a_long_event_is_none(inspector):
    got = broken(inspector, CHAT, b'data: {"padding":"' + b"x" * 20000
                 + b'","choices":[{"index":0,"delta":{"content":"a"},'
                 b'"finish_reason":"sto', SSE)["fields"]
    assert "finish_reason" not in got
    assert json.loads(got["output"])["content"] == "a"


@pytest.mark.parametrize("long", [0, 20000])
@pytest.mark.parametrize("start, headers, path", [
    (b"data: ", SSE, CHAT), (b"data:  \t", SSE, CHAT),
    (b"", {"content-type": "application/x-ndjson"}, CHAT),
    (b" ", {"content-type": "application/x-ndjson"}, CHAT)])
def test_a_stream_that_ends_in_order_within_an_event_is_not_whole(
        inspector, start, headers, path, long):
    first = start + json.dumps({"choices": [{
        "index": 0, "delta": {"content": "a"},
        "finish_reason": "stop"}]}).encode() + b"\n\n"
    last = start + json.dumps({"choices": [], "padding": "x" * long, "usage": {
        "completion_tokens": 7, "prompt_tokens": 123}}).encode()
    for n, whole in ((0, 1), (1, 0), (2, 0), (3, 0), (30, 0)):
        got = broken(inspector, path, first + last[:len(last) - n], headers,
                     {"model": "m", "messages": [], "stream": True},
                     end="complete")
        assert got["terminal"] == whole, n
        f = got["fields"]
        assert (f["finish_reason"], f["stream"]) == ("stop", "1")
        assert f.get("prompt_tokens") == ("123" if n < 2 else None)


@pytest.mark.parametrize("path, last", [
    (MESSAGES, {"type": "message_stop", "x": "y"}),
    ("/api/chat", {"message": {"content": "b"}, "done": True,
                   "eval_count": 12})])
def test_half_the_last_event_is_no_end_behind_blanks(inspector, path, last):
    start = b"data:   " if path == MESSAGES else b"  "
    headers = SSE if path == MESSAGES else {
        "content-type": "application/x-ndjson"}
    last = start + b'{"type":"ping"}\n\n' + start + json.dumps(last).encode()
    for n in range(4):
        got = broken(inspector, path, last[:len(last) - n], headers,
                     {"model": "m", "messages": [], "stream": True})
        assert got["terminal"] == (n == 0)
        if n > 1:
            assert "completion_tokens" not in got["fields"]


@pytest.mark.parametrize("long", [0, 30000])
@pytest.mark.parametrize("path, event", LAST)
def test_half_the_last_event_is_no_end(inspector, path, event, long):
    if long:
        event = {**event, "padding": "x" * long, "behind": {}}
    event = b"data: " + json.dumps(event).encode()
    request = {"model": "m", "messages": [], "contents": [], "input": "x",
               "stream": True}
    for n in range(1, 9):
        got = broken(inspector, path, event[:-n], SSE, request)
        assert got["terminal"] == 0, n
    if path != CHAT:
        for end in (b"", b"\n"):
            got = broken(inspector, path, event + end, SSE, request)
            assert got["terminal"] == 1


# --- sound that is asked about -----------------------------------------------

@pytest.mark.parametrize("usage, want", [
    ({"prompt_tokens": 9, "completion_tokens": 248, "total_tokens": 632,
      "prompt_tokens_details": {"audio_tokens": 375, "cached_tokens": 0}},
     ("384", "248")),
    ({"prompt_tokens": 9, "completion_tokens": 248, "total_tokens": 257,
      "prompt_tokens_details": {"audio_tokens": 5}}, ("9", "248")),
    ({"prompt_tokens": 9, "completion_tokens": 248, "total_tokens": 632,
      "completion_tokens_details": {"audio_tokens": 375}}, ("9", "248")),
    ({"prompt_tokens": 9, "total_tokens": 384,
      "prompt_tokens_details": {"audio_tokens": 375}}, ("9", None)),
    ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 399,
      "prompt_tokens_details": {"audio_tokens": 375},
      "completion_tokens_details": {"reasoning_tokens": 10}},
     ("384", "15")),
    ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 24,
      "prompt_tokens_details": {"audio_tokens": 10},
      "completion_tokens_details": {"reasoning_tokens": 10}}, ("9", "15"))])
@pytest.mark.parametrize("stream", [False, True])
def test_sound_on_top_of_the_prompt_is_input(read, usage, want, stream):
    choice = {"index": 0, "finish_reason": "stop"}
    request = {"model": "m", "messages": [], "stream": stream}
    if stream:
        got = read(request, [{"choices": [{**choice, "delta": {
            "content": "a"}}], "usage": usage}, b"[DONE]"])
    else:
        got = read(request, {"choices": [{**choice, "message": {
            "content": "a"}}], "usage": usage})
    assert got["prompt_tokens"] == "9"
    assert (got["input_tokens"], got.get("output_tokens")) == want


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES, "/v1/embeddings",
                                  "/unknown"])
@pytest.mark.parametrize("body, model", [
    (b'{"model":"gpt-5', None), (b'{"stream":true,"model":"g', None),
    (b'{"model":"', None), (b'{"model":"gpt\\', None),
    (b'{"model":"gpt"', "gpt"), (b'{"model":"gpt","user":"al', "gpt"),
    (b'{"model":"gpt","input":["x', "gpt")])
def test_half_a_model_of_a_request_is_none(inspector, path, body, model):
    for split in ("whole", "bytes"):
        got = inspector.run(path=path, request=body, split=split, end="none",
                            request_type="application/json")
        assert got["fields"].get("model") == model
        assert not got["claims"]["user"]
