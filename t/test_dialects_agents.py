"""inspect/: Bedrock's agents, whose streams have names of their own and no
last event.  Through t/tools/lunary_inspect, without nginx."""

import base64
import json
import struct
import zlib

import pytest

from harness.inspect import Inspector

AGENT = "/agents/AGENT1/agentAliases/ALIAS1/sessions/s-1/text"
INLINE = "/agents/s-1"
RAG = "/retrieveAndGenerate"
JSON = {"content-type": "application/json"}
AWS = {"content-type": "application/vnd.amazon.eventstream"}
SPLITS = ["whole", "bytes", "3", "random"]


@pytest.fixture(scope="module")
def inspector():
    tool = Inspector()
    yield tool
    tool.close()


def aws(name, payload, kind="event"):
    head = b""
    for key, value in ((f":{kind}-type", name),
                       (":content-type", "application/json"),
                       (":message-type", kind)):
        head += bytes([len(key)]) + key.encode() + b"\x07"
        head += struct.pack(">H", len(value)) + value.encode()
    payload = json.dumps(payload).encode()
    out = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    out += struct.pack(">I", zlib.crc32(out)) + head + payload
    return out + struct.pack(">I", zlib.crc32(out))


def chunk(text):
    if isinstance(text, str):
        text = text.encode()
    return aws("chunk", {"bytes": base64.b64encode(text).decode()})


def trace(kind, **step):
    return aws("trace", {"agentId": "AGENT1", "trace": {kind: step}})


def asked(kind, model):
    return trace(kind, modelInvocationInput={"foundationModel": model,
                                             "text": "..."})


def used(kind, n, m):
    return trace(kind, modelInvocationOutput={"metadata": {
        "usage": {"inputTokens": n, "outputTokens": m}}})


def run(inspector, request, answer, path=AGENT, headers=AWS, **more):
    return inspector.run(path=path, request=json.dumps(request).encode(),
                         request_type="application/json", status=200,
                         headers=headers, response=answer, **more)


@pytest.mark.parametrize("split", SPLITS)
def test_an_agent_answers(inspector, split):
    got = run(inspector, {"inputText": "Hi \"there\"", "enableTrace": False},
              chunk("One \"and\"\n") + chunk("tw\u00f6 \U0001f600"),
              split=split)
    f = got["fields"]
    assert (f["api"], f["type"], f["model"], f["stream"]) == (
        "bedrock.agent", "llm", "AGENT1", "0")
    assert json.loads(f["input"]) == [
        {"role": "user", "content": "Hi \"there\""}]
    assert json.loads(f["output"]) == {
        "role": "assistant",
        "content": "One \"and\"\ntw\u00f6 \U0001f600"}
    assert json.loads(f["params"]) == {"enableTrace": False}
    assert (got["content"], got["terminal"], got["errored"]) == (1, 1, 0)
    assert "input_tokens" not in f and "response_model" not in f


@pytest.mark.parametrize("split", SPLITS)
def test_a_trace_tells_what_each_model_used(inspector, split):
    got = run(inspector, {"inputText": "x", "enableTrace": True,
                          "streamingConfigurations": {
                              "streamFinalResponse": True}},
              asked("preProcessingTrace", "m-small")
              + used("preProcessingTrace", 7, 3)
              + trace("orchestrationTrace", rationale={"text": "hm"})
              + asked("orchestrationTrace", "m-large")
              + used("orchestrationTrace", 100, 20)
              + used("routingClassifierTrace", 5, 1)
              + trace("guardrailTrace", action="NONE")
              + chunk("a") + chunk("b") + used("postProcessingTrace", 1, 1),
              split=split)["fields"]
    assert json.loads(got["output"])["content"] == "ab"
    assert (got["stream"], got["response_model"]) == ("1", "m-large")
    assert (got["input_tokens"], got["output_tokens"]) == ("113", "25")


@pytest.mark.parametrize("usage", [
    {"inputTokens": -1, "outputTokens": "3"}, {"inputTokens": 1.5}, [], None,
    {"inputTokens": 2 ** 60}])
def test_what_is_no_count_is_not_added(inspector, usage):
    got = run(inspector, {"inputText": "x"},
              used("orchestrationTrace", 4, 2)
              + trace("orchestrationTrace", modelInvocationOutput={
                  "metadata": {"usage": usage}}) + chunk("a"))["fields"]
    assert (got["input_tokens"], got["output_tokens"]) == ("4", "2")


def test_counts_stay_numbers(inspector):
    body = used("orchestrationTrace", 2 ** 53 - 1, 1) * 2000 + chunk("a")
    got = run(inspector, {"inputText": "x"}, body)["fields"]
    assert 0 < int(got["input_tokens"]) < 2 ** 55
    assert got["output_tokens"] == "2000"


def test_functions_that_the_caller_is_to_run(inspector):
    args = [{"name": "city", "type": "string", "value": "Ulm"}]
    got = run(inspector, {"inputText": "x"}, aws("returnControl", {
        "invocationId": "i-1", "invocationInputs": [
            {"functionInvocationInput": {"actionGroup": "g",
                                         "function": "weather",
                                         "parameters": args}},
            {"apiInvocationInput": {"apiPath": "/time",
                                    "httpMethod": "GET"}}]}))
    calls = json.loads(got["fields"]["output"])["tool_calls"]
    assert [(c["id"], c["function"]["name"]) for c in calls] == [
        ("i-1", "weather"), ("i-1", "/time")]
    assert json.loads(calls[0]["function"]["arguments"]) == args
    assert got["terminal"] == 1


def test_an_agent_that_is_described_in_the_call(inspector):
    got = run(inspector, {"foundationModel": "m-1", "instruction": "Be kind.",
                          "inputText": "x", "idleSessionTTLInSeconds": 60},
              chunk("a"), path=INLINE)["fields"]
    assert (got["api"], got["model"]) == ("bedrock.agent", "m-1")
    assert json.loads(got["input"]) == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "x"}]
    assert json.loads(got["params"]) == {"idleSessionTTLInSeconds": 60}


@pytest.mark.parametrize("request_", [
    {"name": "a", "model": "m"}, {"foundationModel": 1}, {}, []])
def test_other_agents_are_none_of_bedrock(inspector, request_):
    assert run(inspector, request_, b"{}", path="/v1/agents/a1",
               headers=JSON)["fields"]["api"] == "unknown"


@pytest.mark.parametrize("path", ["/agents/", "/agents/AGENT1/"])
def test_to_make_an_agent_is_no_call_of_one(inspector, path):
    got = run(inspector, {"foundationModel": "m-1", "instruction": "Be kind.",
                          "agentName": "a"}, b'{"agent":{}}', path=path,
              headers=JSON, method="PUT")["fields"]
    assert got["api"] == "unknown" and "input" not in got


@pytest.mark.parametrize("end, terminal", [("complete", 1), ("broken", 0)])
def test_the_end_of_the_connection_is_the_end(inspector, end, terminal):
    got = run(inspector, {"inputText": "x"}, chunk("a"), end=end)
    assert got["terminal"] == terminal


def test_a_stream_with_no_answer_has_no_end(inspector):
    got = run(inspector, {"inputText": "x"},
              trace("guardrailTrace", action="NONE"))
    assert got["terminal"] == 0 and "output" not in got["fields"]


@pytest.mark.parametrize("path", [AGENT, RAG + "Stream"])
def test_an_agent_that_fails(inspector, path):
    got = run(inspector, {"inputText": "x"}, chunk("a") + aws(
        "dependencyFailedException", {"message": "no model"}, "exception"),
        path=path)
    assert json.loads(got["fields"]["error"]) == {
        "message": "no model", "type": "dependencyFailedException"}
    assert (got["errored"], got["terminal"]) == (1, 0)


@pytest.mark.parametrize("bytes_", ["", "!", "////", "YQ", 1, None])
def test_a_chunk_that_is_no_text(inspector, bytes_):
    got = run(inspector, {"inputText": "x"},
              aws("chunk", {"bytes": bytes_}) + chunk("b"))["fields"]
    want = {"////": "\ufffd" * 3, "YQ": "a"}.get(bytes_, "") + "b"
    assert json.loads(got["output"])["content"] == want


@pytest.mark.parametrize("kind, config", [
    ("knowledgeBaseConfiguration", {"knowledgeBaseId": "K"}),
    ("externalSourcesConfiguration", {"sources": []})])
def test_an_answer_out_of_documents(inspector, kind, config):
    request = {"input": {"text": "why?"}, "retrieveAndGenerateConfiguration": {
        "type": "X", kind: {"modelArn": "m-1", **config}}}
    got = run(inspector, request, json.dumps({
        "sessionId": "s", "output": {"text": "so"},
        "citations": []}).encode(), path=RAG, headers=JSON)["fields"]
    assert (got["api"], got["model"], got["stream"]) == (
        "bedrock.rag", "m-1", "0")
    assert json.loads(got["input"]) == [{"role": "user", "content": "why?"}]
    assert json.loads(got["output"])["content"] == "so"

    for split in SPLITS:
        got = run(inspector, request, aws("output", {"text": "s"})
                  + aws("citation", {"citation": {}})
                  + aws("output", {"text": "o"}), path=RAG + "Stream",
                  split=split)
        assert json.loads(got["fields"]["output"])["content"] == "so"
        assert (got["terminal"], got["fields"]["stream"]) == (1, "1")


@pytest.mark.parametrize("forced", [{}, {"api": "bedrock.rerank"}])
def test_a_rerank_names_its_model_and_query(inspector, forced):
    arn = "arn:aws:bedrock:us-west-2::foundation-model/amazon.rerank-v1:0"
    config = {"type": "BEDROCK_RERANKING_MODEL",
              "bedrockRerankingConfiguration": {
                  "numberOfResults": 1, "modelConfiguration": {
                      "modelArn": arn}}}
    sources = [{"type": "INLINE", "inlineDocumentSource": {
        "type": "TEXT", "textDocument": {"text": t}}} for t in "ab"]
    got = run(inspector, {"queries": [{"type": "TEXT", "textQuery": {
        "text": "which?"}}], "sources": sources,
        "rerankingConfiguration": config}, json.dumps({"results": [
            {"index": 1, "relevanceScore": 0.5}]}).encode(), path="/rerank",
        headers=JSON, **forced)["fields"]
    assert (got["api"], got["model"]) == ("bedrock.rerank", arn)
    assert json.loads(got["input"]) == [{"role": "user", "content": "which?"}]
    assert json.loads(got["params"]) == {
        "sources": sources, "rerankingConfiguration": config}
    assert "type" not in got and "output" not in got


@pytest.mark.parametrize("queries", [None, [], "x", [1], [{}],
                                     [{"textQuery": {"text": 1}}]])
def test_a_rerank_without_a_query_has_no_input(inspector, queries):
    got = run(inspector, {"queries": queries, "rerankingConfiguration": {}},
              b"{}", path="/rerank", headers=JSON)["fields"]
    assert got["api"] == "bedrock.rerank"
    assert "model" not in got and "input" not in got


@pytest.mark.parametrize("split", SPLITS)
def test_a_stream_that_ends_within_a_message_is_not_whole(inspector, split):
    last = chunk("b")
    for n in range(1, len(last)):
        got = run(inspector, {"inputText": "x"}, chunk("a") + last[:n],
                  split=split)
        assert got["terminal"] == 0, n
        assert json.loads(got["fields"]["output"])["content"] == "a"


# --- what is in base64 ---------------------------------------------------------

LONG = "All of it, in one piece. " * 400      # 10 KB


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("sources", [0, 10, 1000])
def test_a_chunk_may_be_long(inspector, split, sources):
    more = {"attribution": {"citations": [
        {"retrievedReferences": [{"content": {"text": "x" * 90}}]}
        for _ in range(sources)]}}
    text = base64.b64encode(LONG.encode()).decode()
    got = run(inspector, {"inputText": "x"}, chunk("a ")
              + aws("chunk", {**more, "bytes": text})
              + aws("chunk", {"bytes": text, **more}) + chunk("z"),
              split=split, capture_max=1 << 18)["fields"]
    assert json.loads(got["output"])["content"] == "a " + LONG * 2 + "z"


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("n", [1, 3, 10])
def test_a_models_own_event_may_be_long(inspector, split, n):
    answer = json.dumps({"outputText": LONG * n, "completionReason": "FINISH",
                         "totalOutputTextTokenCount": 7,
                         "amazon-bedrock-invocationMetrics": {
                             "inputTokenCount": 3, "outputTokenCount": 7}})
    got = run(inspector, {"inputText": "x"}, chunk(answer), split=split,
              path="/model/amazon.titan-text/invoke-with-response-stream",
              capture_max=1 << 18)
    f = got["fields"]
    assert (f["input_tokens"], f["output_tokens"]) == ("3", "7")
    assert json.loads(f["output"])["content"].startswith(LONG[:1000])
    assert f["finish_reason"] == "FINISH" and got["terminal"] == 1


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("path, answer", [
    (AGENT, LONG * 20),
    ("/model/amazon.titan-text/invoke-with-response-stream",
     json.dumps({"outputText": LONG * 20}))])
def test_what_is_too_long_to_be_kept_counts_as_cut(inspector, split, path,
                                                   answer):
    got = run(inspector, {"inputText": "x"}, chunk(answer), split=split,
              path=path, capture_max=65536)["fields"]
    assert json.loads(got["output"])["content"] == ""
    assert abs(int(got["output_bytes"]) - len(LONG) * 20) < 100
    assert got["truncated"] == "output"


@pytest.mark.parametrize("capture_max", [1024, 65536])
def test_a_chunk_costs_no_more_than_its_field(inspector, capture_max):
    body = chunk("word " * 200000) + chunk("z")
    for split in ("whole", "random"):
        got = run(inspector, {"inputText": "x"}, body, split=split,
                  capture_max=capture_max)
        assert json.loads(got["fields"]["output"])["content"][-1] == "z"
        assert got["peak"] < 4 * capture_max + 128 * 1024
