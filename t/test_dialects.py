"""inspect/ on bytes that no recording has: odd encodings, odd line ends, odd
JSON, hostile sizes.  Through t/tools/lunary_inspect, without nginx."""

import base64
import gzip
import json
import shutil
import struct
import subprocess
import zlib

import pytest

from harness.inspect import Inspector

CHAT = dict(path="/v1/chat/completions", request_type="application/json")
SSE = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}
LIMIT = 256 * 1024


@pytest.fixture(scope="module")
def inspector():
    tool = Inspector()
    yield tool
    tool.close()


def chunk(content=None, **more):
    choice = {"index": 0, "delta": {}}
    if content is not None:
        choice["delta"]["content"] = content
    return dict({"id": "c1", "object": "chat.completion.chunk", "model": "m",
                 "choices": [choice]}, **more)


def event(value):
    if not isinstance(value, (bytes, str)):
        value = json.dumps(value)
    if isinstance(value, str):
        value = value.encode()
    return b"data: " + value + b"\n\n"


def stream(inspector, response, headers=SSE, **more):
    more.setdefault("request", b'{"model":"m","messages":[],"stream":true}')
    return inspector.run(status=200, headers=headers, response=response,
                         **{**CHAT, **more})


def text(got):
    return json.loads(got["fields"]["output"])["content"]


SPLITS = ["whole", "bytes", "2", "3", "5", "random"]


# --- server-sent events ----------------------------------------------------

@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"])
def test_lines_may_end_in_lf_crlf_or_cr(inspector, eol, split):
    body = event(chunk("Hel")) + event(chunk("lo")) + event(b"[DONE]")
    got = stream(inspector, body.replace(b"\n", eol), split=split)
    assert text(got) == "Hello"
    assert got["terminal"] == 1


@pytest.mark.parametrize("split", SPLITS)
def test_line_ends_may_be_mixed(inspector, split):
    body = (b"data: " + json.dumps(chunk("a")).encode() + b"\r\n\n"
            + b"data: " + json.dumps(chunk("b")).encode() + b"\n\r\n"
            + b"data: " + json.dumps(chunk("c")).encode() + b"\r\r"
            + b"data: [DONE]\r\n\r\n")
    got = stream(inspector, body, split=split)
    assert text(got) == "abc"
    assert got["terminal"] == 1


def test_a_stream_cut_at_any_byte_reads_the_same(inspector):
    body = (b": hi\r\n\r\nevent: x\r\ndata: "
            + json.dumps(chunk("a\u00e9\U0001f600")).encode() + b"\r\n\r\n"
            + event(chunk("b")) + b"data: [DONE]\n\n")
    want = stream(inspector, body)["fields"]
    for at in range(1, len(body)):
        got = stream(inspector, b"", response_head=body[:at],
                     response_tail=body[at:])
        assert got["fields"] == want, at


@pytest.mark.parametrize("split", SPLITS)
def test_the_first_event_may_be_a_long_one(inspector, split):
    got = stream(inspector, event(chunk("x" * 20000)) + event(chunk("y")),
                 split=split, capture_max=LIMIT)
    assert got["response_state"] == "stream"
    assert text(got).startswith("xxx") and text(got).endswith("xy")


@pytest.mark.parametrize("split", SPLITS)
def test_a_byte_order_mark_starts_a_stream(inspector, split):
    got = stream(inspector, b"\xef\xbb\xbf" + event(chunk("x")), split=split)
    assert text(got) == "x"


def test_choices_stand_in_the_order_of_their_indices(inspector):
    choices = [{"index": n, "message": {"content": f"c{n}"},
                "finish_reason": f"r{n}"} for n in (2, 0, 3, 1)]
    got = stream(inspector, json.dumps({"choices": choices}).encode(), JSON)
    assert [m["content"] for m in json.loads(got["fields"]["output"])] == [
        "c0", "c1", "c2", "c3"]
    assert got["fields"]["finish_reason"] == "r0"
    body = b"".join(event({"choices": [{"index": n, "delta": {
        "content": str(n)}}]}) for n in (1, 0, 1, 2, 0))
    got = stream(inspector, body)
    assert [m["content"] for m in json.loads(got["fields"]["output"])] == [
        "00", "11", "2"]


@pytest.mark.parametrize("split", SPLITS)
def test_a_byte_order_mark_starts_a_body(inspector, split):
    body = {"choices": [{"index": 0, "message": {"content": "x"}}]}
    got = stream(inspector, b"\xef\xbb\xbf" + json.dumps(body).encode(),
                 headers=JSON, split=split)
    assert text(got) == "x"


def test_data_needs_no_space(inspector):
    got = stream(inspector, b"data:" + json.dumps(chunk("x")).encode()
                 + b"\n\ndata:[DONE]\n\n")
    assert text(got) == "x" and got["terminal"] == 1


@pytest.mark.parametrize("split", SPLITS)
def test_data_of_many_lines_is_one_event(inspector, split):
    lines = json.dumps(chunk("x"), indent=1).split("\n")
    body = b"".join(b"data: " + line.encode() + b"\n" for line in lines)
    got = stream(inspector, body + b"\n" + event(b"[DONE]"), split=split)
    assert text(got) == "x"


def test_comments_ids_and_retries_are_no_events(inspector):
    body = (b": keep-alive\n\nretry: 1000\nid: 7\n" + event(chunk("x"))
            + b":\n\nnonsense\n\nid\n\n" + event(b"[DONE]"))
    assert text(stream(inspector, body)) == "x"


def test_the_last_event_needs_no_blank_line(inspector):
    body = event(chunk("a")) + b"data: " + json.dumps(chunk("b")).encode()
    for end in (b"", b"\n", b"\r\n", b"\r"):
        assert text(stream(inspector, body + end)) == "ab"


def test_an_event_that_is_no_json_is_passed_over(inspector):
    body = event(chunk("a")) + event(b"{nonsense") + event(chunk("b"))
    assert text(stream(inspector, body)) == "ab"


def test_an_error_line_is_an_error(inspector):
    """llama.cpp's server: a field of its own name in the midst of a stream"""
    body = event(chunk("a")) + (b'error: {"code":500,"message":"slot lost",'
                                b'"type":"server_error"}\n\n')
    got = stream(inspector, body)
    assert json.loads(got["fields"]["error"]) == {
        "message": "slot lost", "type": "server_error", "code": 500}
    assert got["errored"] == 1 and text(got) == "a"


def test_an_error_inside_a_stream_of_status_200(inspector):
    body = event(chunk("a")) + event({"error": {"message": "overloaded",
                                                "code": "busy"}})
    got = stream(inspector, body)
    assert json.loads(got["fields"]["error"]) == {"message": "overloaded",
                                                  "code": "busy"}
    assert text(got) == "a" and got["terminal"] == 0


def test_a_stream_without_a_type_is_known_by_its_bytes(inspector):
    got = stream(inspector, event(chunk("x")), headers={})
    assert text(got) == "x" and got["response_state"] == "stream"


def test_json_that_is_announced_as_a_stream_is_read_as_json(inspector):
    got = stream(inspector, b' \n{"error":{"message":"no","type":"t"}}')
    assert json.loads(got["fields"]["error"])["message"] == "no"
    assert got["response_state"] == "json"


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 20000])
def test_events_that_no_blank_line_keeps_apart(inspector, split, end, size):
    long = "x" * size
    lines = [b"data: " + json.dumps(v).encode() for v in (
        chunk("a{"), chunk("\"}" + long), chunk("\\"), chunk("]b", usage={
            "prompt_tokens": 3, "completion_tokens": 4}))]
    got = stream(inspector, end.join([*lines, b"data: [DONE]", b"", b""]),
                 split=split)
    assert text(got) == "a{\"}" + long + "\\]b"
    assert got["fields"]["completion_tokens"] == "4"
    assert got["terminal"] == 1


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("first", [b"", b"event: message\n"])
@pytest.mark.parametrize("size", [1, 20000])
def test_a_name_is_its_own_events_where_no_blank_line_is(inspector, split,
                                                         first, size):
    body = (first + b"data: " + json.dumps(chunk("x" * size)).encode()
            + b'\nevent: error\ndata: {"message":"overloaded"}\n')
    got = stream(inspector, body, split=split)
    assert json.loads(got["fields"]["error"]) == {"message": "overloaded"}
    assert text(got) == "x" * size and got["errored"] == 1


@pytest.mark.parametrize("split", SPLITS)
def test_a_name_may_come_behind_its_data(inspector, split):
    body = (event(chunk("a")) + b'data: {"message":"overloaded"}\n'
            b"event: message\nevent: error\n\n" + event(chunk("b")))
    got = stream(inspector, body, split=split)
    assert json.loads(got["fields"]["error"]) == {"message": "overloaded"}
    assert text(got) == "ab"


@pytest.mark.parametrize("split", SPLITS)
def test_a_value_over_many_lines_is_one_event(inspector, split):
    lines = json.dumps(chunk("a}\n{b"), indent=1).split("\n")
    got = stream(inspector, b"".join(b"data: %s\n" % l.encode()
                                     for l in lines) + b"\n", split=split)
    assert text(got) == "a}\n{b"


# --- what is in a stream ---------------------------------------------------

def test_role_and_empty_deltas_are_no_content(inspector):
    role = chunk()
    role["choices"][0]["delta"] = {"role": "assistant", "content": "",
                                   "refusal": None}
    got = stream(inspector, event(role) + event(chunk("")))
    assert got["content"] == 0
    assert stream(inspector, event(role) + event(chunk("x")))["content"] == 1


def test_several_choices_are_several_messages(inspector):
    one, two = chunk("a"), chunk("b")
    two["choices"][0]["index"] = 1
    two["choices"][0]["finish_reason"] = "length"
    one["choices"][0]["finish_reason"] = "stop"
    got = stream(inspector, event(two) + event(one) + event(b"[DONE]"))
    output = json.loads(got["fields"]["output"])
    assert sorted(m["content"] for m in output) == ["a", "b"]
    assert got["fields"]["finish_reason"] == "stop"


def test_tool_calls_are_assembled_from_their_deltas(inspector):
    def delta(*calls):
        value = chunk()
        value["choices"][0]["delta"] = {"tool_calls": list(calls)}
        return event(value)

    body = (delta({"index": 0, "id": "t0", "type": "function",
                   "function": {"name": "f", "arguments": ""}})
            + delta({"index": 0, "function": {"arguments": '{"a":'}},
                    {"index": 1, "id": "t1",
                     "function": {"name": "g", "arguments": "{}"}})
            + delta({"index": 0, "function": {"arguments": '"\u00e9"}'}}))
    message = json.loads(stream(inspector, body)["fields"]["output"])
    assert message["content"] is None
    assert [(c["id"], c["function"]["name"], c["function"]["arguments"])
            for c in message["tool_calls"]] == [
                ("t0", "f", '{"a":"\u00e9"}'), ("t1", "g", "{}")]


def test_what_was_spoken_is_told_by_its_transcript(inspector):
    spoken = [{"role": "assistant", "audio": {"id": "audio_1"}},
              {"audio": {"transcript": "Good "}},
              {"audio": {"data": "UklGRg==" * 100}},
              {"audio": {"transcript": "morning\n"}},
              {"audio": {"expires_at": 1}}]
    body = b"".join(event({"choices": [{"index": 0, "delta": d}]})
                    for d in spoken) + event(b"[DONE]")
    want = {"role": "assistant", "content": None,
            "audio": {"transcript": "Good morning\n"}}
    for split in ("whole", "bytes"):
        got = stream(inspector, body, split=split)
        assert json.loads(got["fields"]["output"]) == want
        assert got["content"] == 1
    got = stream(inspector, json.dumps({"choices": [{
        "index": 0, "finish_reason": "stop", "message": {
            "role": "assistant", "content": None, "refusal": None,
            "audio": {"id": "audio_1", "data": "UklGRg==" * 100,
                      "expires_at": 1, "transcript": "Good morning\n"}}}]})
                 .encode(), headers=JSON)
    assert json.loads(got["fields"]["output"]) == want


@pytest.mark.parametrize("name", ["error", "errors"])
def test_the_first_of_several_errors_counts(inspector, name):
    got = inspector.run(**CHAT, request=b'{"model":"m","messages":[]}',
                        status=422, headers=JSON, response=json.dumps(
        {name: [{"message": "too long", "type": "bad", "code": 7},
                {"message": "too short"}]}).encode())
    assert json.loads(got["fields"]["error"]) == {
        "message": "too long", "type": "bad", "code": 7}
    got = inspector.run(**CHAT, request=b'{"model":"m","messages":[]}',
                        status=422, headers=JSON,
                        response=b'{"%s":["too long"]}' % name.encode())
    assert json.loads(got["fields"]["error"]) == {"message": "too long"}


def test_usage_that_is_repeated_counts_once(inspector):
    body = b"".join(event(chunk("x", usage={
        "prompt_tokens": 5, "completion_tokens": n, "total_tokens": 5 + n}))
        for n in (1, 2, 3))
    fields = stream(inspector, body)["fields"]
    assert fields["completion_tokens"] == "3"
    assert json.loads(fields["usage"])["total_tokens"] == 8


def test_what_is_not_reported_is_absent_and_never_0(inspector):
    fields = stream(inspector, event(chunk("x", usage=None)))["fields"]
    for name in fields:
        assert not name.endswith("_tokens"), name
    assert "usage" not in fields and "finish_reason" not in fields


def test_reasoning_that_the_total_shows_is_output(inspector):
    """xAI leaves reasoning out of completion_tokens"""
    fields = stream(inspector, event(chunk("x", usage={
        "prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 115,
        "completion_tokens_details": {"reasoning_tokens": 100}})))["fields"]
    assert fields["completion_tokens"] == "10"
    assert fields["output_tokens"] == "110"


# --- odd text --------------------------------------------------------------

def test_a_surrogate_pair_split_over_two_deltas_is_one_character(inspector):
    body = (event(b'{"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}')
            + event(b'{"choices":[{"index":0,"delta":{"content":"\\ude00"}}]}'))
    assert text(stream(inspector, body)) == "\U0001f600"


@pytest.mark.parametrize("inside", [
    b"\xff\xfe", b"a\xc3", b"\xed\xa0\x80", b"\x00", b"\x01\n\t", b"\\q",
    b"\\u12", b"\\u12zz", b"{\n", b"[[\x02", b"\\ud800", b"\xf5\x80\x80\x80"])
def test_hostile_text_still_makes_valid_json(inspector, inside):
    body = event(b'{"choices":[{"index":0,"delta":{"content":"' + inside
                 + b'"}}]}') + event(chunk("end"))
    got = stream(inspector, body)
    assert text(got).endswith("end")


def test_the_last_of_two_equal_names_counts(inspector):
    body = event(b'{"choices":[{"index":0,"delta":{"content":"a"},'
                 b'"finish_reason":"length","finish_reason":"stop"}]}')
    assert stream(inspector, body)["fields"]["finish_reason"] == "stop"


def test_nan_is_no_number(inspector):
    body = event(b'{"choices":[{"index":0,"delta":{"content":"a"},'
                 b'"logprob":NaN}],"usage":{"prompt_tokens":NaN,'
                 b'"completion_tokens":2}}')
    fields = stream(inspector, body)["fields"]
    assert "prompt_tokens" not in fields
    assert fields["completion_tokens"] == "2"
    assert "usage" not in fields          # it would be no JSON


# --- ends ------------------------------------------------------------------

def test_a_stream_that_breaks_off_keeps_its_text_and_usage(inspector):
    body = (event(chunk("Hel", usage={"prompt_tokens": 4}))
            + event(chunk("lo"))[:-20])
    got = stream(inspector, body, end="broken")
    assert text(got).startswith("Hel")
    assert got["fields"]["prompt_tokens"] == "4"
    assert got["terminal"] == 0


def test_a_body_that_breaks_off_keeps_what_it_said(inspector):
    body = json.dumps({"model": "m", "choices": [{"index": 0, "message": {
        "role": "assistant", "content": "Hello there, this is long"}}]})
    got = stream(inspector, body[:-20].encode(), headers=JSON, end="broken",
                 request=b'{"model":"m","messages":[]}')
    assert text(got).startswith("Hello")
    assert got["terminal"] == 0 and got["response_state"] == "partial"


def test_a_request_that_breaks_off_still_tells_its_model(inspector):
    got = inspector.run(**CHAT, end="none",
                        request=b'{"model":"gpt-4o","messages":[{"role":"us')
    assert got["fields"]["model"] == "gpt-4o"
    assert got["request_state"] == "partial"


def test_a_malformed_request_tells_its_model_and_claims_nothing(inspector):
    got = inspector.run(**CHAT, request=b'{"user_id":"eve","model":"m",'
                        b'"messages":[{"role":"user","content":"x"}],}')
    assert got["request_state"] == "invalid"
    assert got["fields"]["model"] == "m" and got["claims"]["user"] == ""


def test_a_request_without_a_body_tells_what_its_path_does(inspector):
    got = inspector.run(path="/v1beta/models/g:streamGenerateContent",
                        end="none")
    assert got["fields"]["model"] == "g" and got["fields"]["stream"] == "1"


def test_plain_text_of_a_failed_answer_is_its_message(inspector):
    got = inspector.run(**CHAT, request=b"{}", status=502,
                        headers={"content-type": "text/html"},
                        response=b"<h1>Bad \"Gateway\"</h1>")
    assert json.loads(got["fields"]["error"]) == {
        "message": '<h1>Bad "Gateway"</h1>'}


# --- capturing -------------------------------------------------------------

def test_nothing_is_kept_of_contents_that_are_not_captured(inspector):
    secret = "s3cr3t" * 50
    got = stream(inspector, event(chunk(secret)) + event(chunk(
        "x", usage={"prompt_tokens": 3})), capture="none",
        request=json.dumps({"model": "m", "stream": True, "messages": [
            {"role": "user", "content": secret}]}).encode())
    assert "s3cr3t" not in json.dumps(got["fields"])
    assert "output" not in got["fields"] and "input" not in got["fields"]
    assert got["content"] == 1 and got["fields"]["prompt_tokens"] == "3"
    assert int(got["fields"]["output_bytes"]) == 33 + 301


def test_a_long_string_keeps_its_first_and_last_thirty_second(inspector):
    limit = 32768
    body = b"".join(event(chunk(f"{n:07d};")) for n in range(20000))
    got = stream(inspector, body, capture_max=limit)
    whole = "".join(f"{n:07d};" for n in range(20000))
    head, _, tail = text(got).split("\u2026")
    assert whole.startswith(head) and whole.endswith(tail)
    assert len(head) == len(tail) == limit // 32
    assert f"\u2026[{len(whole) - len(head) - len(tail)} bytes]\u2026" in \
        text(got)
    assert got["fields"]["truncated"] == "output"
    assert int(got["fields"]["output_bytes"]) == len(whole) + 33


def test_what_fits_is_never_cut(inspector):
    limit = 32768
    whole = "x" * (limit - 1000)
    got = stream(inspector, event(chunk(whole)), capture_max=limit)
    assert text(got) == whole and "truncated" not in got["fields"]


def test_a_cut_never_falls_into_an_escape_or_a_character(inspector):
    for unit in ("\U0001f600", "\u00e9", '"', "\\", "\n", "\u20ac"):
        for raw in (True, False):
            body = b"".join(event(json.dumps(chunk(unit * 7),
                                             ensure_ascii=raw))
                            for _ in range(3000))
            got = stream(inspector, body, capture_max=4096)
            head, _, tail = text(got).split("\u2026")
            assert set(head) == set(tail) == {unit}


def test_parameters_are_kept_as_sent_without_identity(inspector):
    got = inspector.run(**CHAT, request=b'{"model":"m","messages":[],'
                        b'"temperature":0.50,"user":"u1","user_id":"u2",'
                        b'"tools":[{"type":"function"}],"stream":false,'
                        b'"metadata":{"a":"b","user_id":"u3"}}')
    assert got["fields"]["params"] == (
        '{"temperature":0.50,"tools":[{"type":"function"}]}')
    assert json.loads(got["fields"]["metadata"]) == {"a": "b"}
    assert got["claims"]["user"] == "u2"


@pytest.mark.parametrize("path", [
    "/v1/chat/completions", "/v1/ocr", "/v1/embeddings", "/v1/messages"])
def test_a_parameter_may_have_an_empty_name(inspector, path):
    got = inspector.run(path=path, request=b'{"":1,"model":"m","a":{"":2}}')
    assert json.loads(got["fields"]["params"]) == {"": 1, "a": {"": 2}}


# --- encodings -------------------------------------------------------------

def encoded(name, data):
    if name == "gzip":
        return gzip.compress(data)
    if name == "deflate":
        return zlib.compress(data)
    if name == "raw deflate":
        tool = zlib.compressobj(wbits=-15)
        return tool.compress(data) + tool.flush()
    tool = {"br": "brotli", "zstd": "zstd"}[name]
    if shutil.which(tool) is None:
        if name != "br" or shutil.which("node") is None:
            pytest.skip(f"no {tool}")
        return subprocess.run(
            ["node", "-e", "process.stdout.write(require('zlib')."
             "brotliCompressSync(require('fs').readFileSync(0)))"],
            input=data, capture_output=True, check=True).stdout
    return subprocess.run([tool, "-c", "-"], input=data, capture_output=True,
                          check=True).stdout


@pytest.mark.parametrize("split", ["whole", "bytes", "random"])
@pytest.mark.parametrize("name", ["gzip", "deflate", "raw deflate", "br",
                                  "zstd"])
def test_a_compressed_stream_is_inflated_across_pieces(inspector, name,
                                                       split):
    words = [f"word{n} " for n in range(300)]
    body = b"".join(event(chunk(w)) for w in words) + event(b"[DONE]")
    got = stream(inspector, encoded(name, body), split=split, headers=dict(
        SSE, **{"content-encoding": name.split()[-1]}))
    assert text(got) == "".join(words) and got["terminal"] == 1


def test_gzip_of_several_members_is_one_body(inspector):
    body = event(chunk("a")) + event(chunk("b"))
    packed = gzip.compress(body[:50]) + gzip.compress(body[50:])
    for split in ("whole", "bytes"):
        got = stream(inspector, packed, split=split,
                     headers=dict(SSE, **{"content-encoding": "gzip"}))
        assert text(got) == "ab"


def test_a_gzipped_request_tells_its_user_and_is_not_rewritten(inspector):
    got = inspector.run(**CHAT, request_encoding="gzip", request=gzip.compress(
        b'{"model":"m","user_id":"alice","messages":[]}'))
    assert got["claims"]["user"] == "alice"
    assert got["fields"]["model"] == "m"


def test_an_unknown_encoding_is_said_and_not_read(inspector):
    got = stream(inspector, b"whatever", headers=dict(
        SSE, **{"content-encoding": "compress"}))
    assert got["response_state"] == "encoding"
    assert got["fields"]["body_error"] == "response_encoding"


def test_broken_compressed_data_keeps_what_came_before(inspector):
    body = b"".join(event(chunk(f"word{n} ")) for n in range(2000))
    packed = bytearray(gzip.compress(body))
    half = len(packed) // 2
    packed[half:half + 100] = b"\xff" * 100
    got = stream(inspector, bytes(packed), headers=dict(
        SSE, **{"content-encoding": "gzip"}))
    assert got["response_state"] == "encoding"
    assert text(got).startswith("word0 word1 ")


def test_a_decompression_bomb_is_left_alone(inspector):
    bomb = gzip.compress(b"data: {\"x\":\"" + b"a" * (40 << 20), 9)
    got = stream(inspector, bomb, headers=dict(
        SSE, **{"content-encoding": "gzip"}))
    assert got["response_state"] == "limit"
    assert got["peak"] < 2 * LIMIT


def test_an_answer_may_repeat_itself(inspector):
    """Search results in every chunk: far more than 100 times smaller."""
    found = [{"title": "t" * 200, "url": "https://example.org/%d" % n}
             for n in range(30)]
    body = b"".join(event(chunk("w%d " % n, search_results=found,
                                usage={"completion_tokens": n}))
                    for n in range(400)) + event(b"[DONE]")
    packed = gzip.compress(body, 9)
    assert len(body) > 1 << 21 and len(body) > 100 * len(packed)
    got = stream(inspector, packed, headers=dict(
        SSE, **{"content-encoding": "gzip"}))
    assert got["terminal"] == 1
    assert got["fields"]["completion_tokens"] == "399"


def test_a_request_may_not_repeat_itself_as_much(inspector):
    body = json.dumps({"model": "m", "messages": [
        {"role": "user", "content": "a" * (2 << 20)}]}).encode()
    got = inspector.run(**CHAT, request=gzip.compress(body, 9),
                        request_encoding="gzip")
    assert got["request_state"] == "limit"


# --- sizes -----------------------------------------------------------------

def test_64_mb_in_one_string_are_read_in_little_memory(inspector):
    head = b'{"model":"m","choices":[{"index":0,"message":{"content":"'
    tail = b'"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7}}'
    got = stream(inspector, b"x" * 65536, repeat=1024, headers=JSON,
                 response_head=head, response_tail=tail,
                 request=b'{"model":"m","messages":[]}')
    assert got["fields"]["prompt_tokens"] == "7"
    assert got["fields"]["finish_reason"] == "stop"
    assert got["fields"]["truncated"] == "output"
    assert int(got["fields"]["output_bytes"]) > 64 << 20
    assert got["peak"] < 2 * LIMIT


def test_64_mb_in_one_string_a_byte_at_a_time_take_linear_time(inspector):
    """4 MB a byte at a time here: 64 MB take sixteen times as long, not 256
    times (the quadratic way would not end within the test's time)."""
    head = b'{"choices":[{"index":0,"message":{"content":"'
    got = stream(inspector, b"x" * 65536, repeat=64, split="bytes",
                 headers=JSON, response_head=head,
                 response_tail=b'"}}],"usage":{"prompt_tokens":7}}',
                 request=b'{"model":"m","messages":[]}')
    assert got["fields"]["prompt_tokens"] == "7"
    assert got["peak"] < 2 * LIMIT


def test_a_long_string_in_the_request_is_read_in_little_memory(inspector):
    content = b"x" * (32 << 20)
    got = inspector.run(**CHAT, request=b'{"messages":[{"role":"user",'
                        b'"content":"' + content + b'"}],"model":"m",'
                        b'"user_id":"u"}')
    assert got["fields"]["model"] == "m" and got["claims"]["user"] == "u"
    assert got["fields"]["truncated"] == "input"
    assert int(got["fields"]["input_bytes"]) > 32 << 20
    assert got["peak"] < 2 * LIMIT


def test_a_million_tiny_events(inspector):
    body = event(b'{"choices":[{"index":0,"delta":{"content":"x"}}]}') * 1000
    got = stream(inspector, body, repeat=1000,
                 response_tail=event(chunk("", usage={"prompt_tokens": 1})))
    assert got["fields"]["prompt_tokens"] == "1"
    assert int(got["fields"]["output_bytes"]) == 1_000_000 + 33
    assert got["peak"] < 2 * LIMIT


def test_events_of_several_lines_that_end_with_cr(inspector):
    """All in one piece: a search for an LF, which never comes, at each event
    would not end within the test's time."""
    one = (b'event: x\rdata: {"choices":[{"index":0,\r'
           b'data: "delta":{"content":"x"}}]}\r\r')
    got = stream(inspector, one * 400_000)
    assert int(got["fields"]["output_bytes"]) == 400_000 + 33


def test_a_hundred_mb_without_a_line_end(inspector):
    got = stream(inspector, b"x" * (1 << 20), repeat=100,
                 response_head=b"data: ")
    assert got["peak"] < LIMIT + LIMIT // 8 + 65536
    got = stream(inspector, b" " * (1 << 20), repeat=100)
    assert got["peak"] < 65536


def test_a_hundred_thousand_levels(inspector):
    deep = b"[" * 100_000 + b"]" * 100_000
    got = inspector.run(**CHAT, request=b'{"messages":' + deep + b"}")
    assert got["request_state"] == "limit"
    for split in ("whole", "1000"):
        got = stream(inspector, event(b'{"choices":' + deep + b"}")
                     + event(chunk("x")), split=split)
        assert text(got) == "x"


def test_an_event_over_64_kb_still_tells_its_usage(inspector):
    big = {"type": "response.completed", "response": {
        "id": "r1", "model": "m", "status": "completed",
        "output": [{"type": "image_generation_call", "result": "QUJD" * 70000},
                   {"type": "message", "content": [
                       {"type": "output_text", "text": "long " * 50000}]}],
        "usage": {"input_tokens": 11, "output_tokens": 22,
                  "total_tokens": 33}}}
    for split in ("whole", "4096"):
        got = inspector.run(path="/v1/responses", status=200, headers=SSE,
                            request=b'{"model":"m","input":"x"}', split=split,
                            response=event(big))
        assert got["fields"]["input_tokens"] == "11"
        assert got["fields"]["finish_reason"] == "completed"
        assert got["terminal"] == 1 and got["peak"] < 3 * LIMIT


def test_many_choices_and_tools_are_bounded(inspector):
    body = b"".join(event({"choices": [{"index": n, "delta": {
        "content": "x", "tool_calls": [
            {"index": n, "id": f"t{n}",
             "function": {"name": "f", "arguments": "y" * 500}}]}}]})
        for n in range(20000))
    got = stream(inspector, body)
    assert len(json.loads(got["fields"]["output"])) <= 128
    assert got["peak"] < 4 * LIMIT


def times(value, n):
    return b"[" + b",".join([value] * n) + b"]"


# requests of which messages are made that are many times as long
LONGER = {
    "texts to embed": ("/v1/embeddings",
                       b'{"model":"m","input":%s}', b'"a"'),
    "tokens": ("/v1/completions", b'{"model":"m","prompt":%s}', b"[1]"),
    "instances": ("/v1/projects/p/publishers/google/models/m:predict",
                  b'{"instances":%s}', b"{}"),
    "calls": ("/v1beta/models/m:generateContent", b'{"contents":%s}',
              b'{"parts":[{"functionCall":{}}]}'),
    "parts": ("/v1beta/models/m:generateContent",
              b'{"contents":[{"parts":%s}]}', b'{"functionCall":{}}'),
    "items": ("/v1/responses", b'{"model":"m","input":%s}',
              b'{"type":"function_call"}'),
    "tools used": ("/v1/messages",
                   b'{"messages":[{"role":"user","content":%s}]}',
                   b'{"type":"tool_use"}'),
    "of Bedrock": ("/model/m/converse", b'{"messages":%s}',
                   b'{"content":[{"toolUse":{}}]}'),
    "arguments": ("/v1/messages",
                  b'{"messages":[{"role":"user","content":[{"type":"tool_use",'
                  b'"input":%s}]}]}', b'"' + b'\\"' * 40 + b'"'),
}


@pytest.mark.parametrize("limit", [65536, LIMIT])
@pytest.mark.parametrize("name", list(LONGER))
def test_a_request_takes_capture_max_a_field(inspector, name, limit):
    """The text as read, and `input` as written of it, whatever it grows
    to; half of it more while that moves."""
    path, body, value = LONGER[name]
    count = (limit - 64) // (len(value) + 1)
    body = body % times(value, count)
    assert len(body) <= limit
    got = inspector.run(path=path, request=body, capture_max=limit,
                        split="16384")
    kept = got["fields"]["input"]
    assert got["peak"] < 2.5 * limit + 65536
    assert int(got["fields"]["input_bytes"]) > limit
    assert limit // 32 < len(kept.encode()) <= limit
    assert got["fields"]["truncated"] == "input" and json.loads(kept)

    # and no more than the text where it is not kept
    none = inspector.run(path=path, request=body, capture_max=limit,
                         split="16384", capture="none")
    assert none["peak"] < limit + 65536
    assert (none["fields"]["input_bytes"] == got["fields"]["input_bytes"])


@pytest.mark.parametrize("limit", [65536, LIMIT, 4 << 20])
def test_a_body_takes_capture_max_and_a_few_kib(inspector, limit):
    for words in (10, 500, limit // 20):
        body = json.dumps({"model": "m", "messages": [
            {"role": "user", "content": "word \" " * words}
            for _ in range(2 * limit // (7 * words))]}).encode()
        assert len(body) > 1.5 * limit
        for split in ("whole", "16384"):
            got = inspector.run(**CHAT, request=body, capture_max=limit,
                                split=split)
            assert got["fields"]["truncated"] == "input"
            assert got["peak"] < limit + max(4096, limit // 32) + 16384


def test_an_answer_takes_capture_max_twice_at_most(inspector):
    """The texts as they came, and the field as it is written of them."""
    for n, kind in ((1, "content"), (100, "content"), (100, "tool")):
        words = "word \" " * 20
        body = b"".join(event({"choices": [{"index": i % n, "delta": {
            "content": words} if kind == "content" else {"tool_calls": [
                {"index": 0, "id": "t", "function": {
                    "name": "f", "arguments": words}}]}}]})
            for i in range(8 * LIMIT // len(words)))
        got = stream(inspector, body, capture_max=LIMIT, split="16384")
        assert got["fields"]["truncated"] == "output"
        assert got["peak"] < 2 * LIMIT + 65536


# --- memory that ends ------------------------------------------------------

TORTURE = {
    "chat": dict(CHAT, request=b'{"model":"m","user_id":"u","messages":['
                 b'{"role":"user","content":"x"}],"stream":true,"n":2,'
                 b'"metadata":{"a":"b"}}', status=200, headers=SSE,
                 response=b"".join(event(c) for c in (
                     chunk("a" * 500), {"choices": [
                         {"index": 1, "delta": {"reasoning": "r", "tool_calls":
                          [{"index": 0, "id": "t", "function": {
                              "name": "f", "arguments": "{}"}}]},
                          "finish_reason": "stop"}],
                         "usage": {"prompt_tokens": 1}},
                     b'{"error":{"message":"m"}}', b"[DONE]"))),
    "messages": dict(path="/v1/messages", status=200, headers=JSON,
                     request=b'{"model":"m","system":"s","messages":[{"role":'
                     b'"user","content":[{"type":"tool_result","tool_use_id":'
                     b'"t","content":"c"},{"type":"text","text":"x"}]}]}',
                     response=b'{"type":"message","content":[{"type":"text",'
                     b'"text":"a"},{"type":"tool_use","id":"t","name":"f",'
                     b'"input":{"a":1}}],"usage":{"input_tokens":1}}'),
    "gzip": dict(CHAT, request_encoding="gzip", request=gzip.compress(b"{}"),
                 status=200, headers=dict(SSE, **{"content-encoding": "gzip"}),
                 response=gzip.compress(event(chunk("a" * 9000)) * 3)),
    "form": dict(path="/v1/audio/transcriptions", status=400, headers=JSON,
                 request=b'--b\r\nContent-Disposition: form-data; name="model"'
                 b'\r\n\r\nw\r\n--b--\r\n',
                 request_type="multipart/form-data; boundary=b",
                 response=b'{"detail":[{"loc":["body"]}]}'),
}


@pytest.mark.parametrize("split", ["whole", "random"])
@pytest.mark.parametrize("name", list(TORTURE))
def test_each_allocation_may_fail(inspector, name, split):
    """A call loses what it has no memory for and nothing else; the tool ends
    with an error where any byte is not given back."""
    what = dict(TORTURE[name], split=split, capture_max=2048)
    total = inspector.run(**what, fail=10**9)["allocations"]
    assert total > 5
    for n in range(1, total + 1):
        for sign in ("", "-"):
            got = inspector.run(**what, fail=f"{sign}{n}")
            for field in ("input", "output", "params", "usage", "error"):
                json.loads(got.get("fields", {}).get(field, "0"))


# --- forms -----------------------------------------------------------------

def form(fields, boundary=b"xyz"):
    out = b""
    for name, value, filename in fields:
        out += b"--" + boundary + b'\r\nContent-Disposition: form-data; name="'
        out += name + b'"'
        if filename:
            out += b'; filename="' + filename + b'"\r\nContent-Type: audio/wav'
        out += b"\r\n\r\n" + value + b"\r\n"
    return out + b"--" + boundary + b"--\r\n"


@pytest.mark.parametrize("split", SPLITS)
def test_a_form_tells_model_and_user_and_keeps_no_media(inspector, split):
    media = (b"RIFF\r\n--xy\r\n--xyzz\r\n-" + bytes(range(256))) * 20
    body = form([(b"model", b"whisper-1", None), (b"file", media, b"a.wav"),
                 (b"user", b"alice", None), (b"prompt", b"Hi \"you\"", None)])
    got = inspector.run(path="/v1/audio/transcriptions", request=body,
                        request_type="multipart/form-data; boundary=xyz",
                        split=split, status=200, headers=JSON,
                        response=b'{"text":"hello"}')
    assert got["fields"]["model"] == "whisper-1"
    assert got["claims"]["user"] == "alice"
    assert got["request_state"] == "form"
    params = json.loads(got["fields"]["params"])
    assert params == {"file": f"audio/wav [{len(media)} bytes]"}
    assert json.loads(got["fields"]["input"]) == [
        {"role": "user", "content": 'Hi "you"'}]
    assert text(got) == "hello"


def test_urlencoded_fields_are_decoded(inspector):
    got = inspector.run(path="/v1/audio/speech", request_type="application/"
                        "x-www-form-urlencoded", request=b"model=tts%2D1&"
                        b"user=al+ice&input=h%C3%A9")
    assert got["fields"]["model"] == "tts-1"
    assert got["claims"]["user"] == "al ice"


def test_json_sent_as_a_form_by_curl_is_json(inspector):
    got = inspector.run(path="/api/chat", request_type="application/x-www-"
                        "form-urlencoded",
                        request=b'{"model":"m","user_id":"u","messages":[]}')
    assert got["request_state"] == "json" and got["claims"]["user"] == "u"


# --- dialects --------------------------------------------------------------

@pytest.mark.parametrize("path, api", [
    ("/v1/chat/completions", "openai.chat"),
    ("/proxy/foo/api/v1/chat/completions/", "openai.chat"),
    ("/openai/deployments/my-gpt/chat/completions", "openai.chat"),
    ("/openai/v1/responses", "openai.responses"),
    ("/v1/responses/input_tokens", "openai.responses.input_tokens"),
    ("/v1/embeddings", "openai.embeddings"),
    ("/v1/messages", "anthropic.messages"),
    ("/v1/messages/count_tokens", "anthropic.count_tokens"),
    ("/v1/messages/batches", "unknown"),
    ("/v1/threads/t1/messages", "openai.assistants"),
    ("/v1/projects/p/locations/l/publishers/anthropic/models/claude:"
     "streamRawPredict", "anthropic.messages"),
    ("/v1beta/models/gemini-2.5-flash:generateContent",
     "gemini.generateContent"),
    ("/v1/projects/p/locations/l/publishers/google/models/g:"
     "streamGenerateContent", "gemini.generateContent"),
    ("/model/arn:aws:bedrock:us-east-1:1:inference-profile/x/converse-stream",
     "bedrock.converse"),
    ("/model/meta.llama3/invoke", "bedrock.invoke"),
    ("/api/chat", "ollama.chat"),
    ("/ollama/api/embed", "ollama.embed"),
    ("/v2/chat", "cohere.chat.v2"),
    ("/v1/models", "unknown"),
    ("/v1/files", "unknown"),
])
def test_an_api_is_known_by_its_path_whatever_stands_before(inspector, path,
                                                            api):
    got = inspector.run(path=path, request=b"{}")
    assert got["fields"]["api"] == api
    assert got["recognised"] == (api != "unknown")


@pytest.mark.parametrize("body, api", [
    ({"model": "m", "messages": [{"role": "user", "content": "x"}]},
     "openai.chat"),
    ({"anthropic_version": "x", "messages": []}, "anthropic.messages"),
    ({"model": "m", "system": "s", "messages": []}, "anthropic.messages"),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}],
      "inferenceConfig": {}}, "bedrock.converse"),
    ({"contents": [{"parts": [{"text": "x"}]}]}, "gemini.generateContent"),
    ({"model": "m", "prompt": "x"}, "openai.completions"),
    ({"model": "m", "input": [{"role": "user", "content": "x"}]},
     "openai.responses"),
    ({"model": "m", "input": ["x"], "dimensions": 3}, "openai.embeddings"),
    ({"model": "m", "message": "x"}, "cohere.chat.v1"),
    ({"inputs": "x"}, "huggingface.inference"),
    ({"messages": ["x"]}, "unknown"),
    ({"x": 1}, "unknown"),
    ([], "unknown"),
])
def test_an_unknown_path_is_known_by_the_bodys_shape(inspector, body, api):
    got = inspector.run(path="/somewhere", request=json.dumps(body).encode())
    assert got["fields"]["api"] == api and got["recognised"] == 0


def test_a_forced_dialect_needs_no_path(inspector):
    got = inspector.run(path="/x", api="anthropic.messages", request=b"{}")
    assert got["fields"]["api"] == "anthropic.messages"
    assert got["recognised"] == 1


def test_anthropic_requests_become_messages(inspector):
    body = {"model": "claude", "system": "Be brief", "max_tokens": 5,
            "messages": [
                {"role": "user", "content": [
                    {"type": "image", "source": {
                        "type": "base64", "media_type": "image/png",
                        "data": "QUJD" * 100}},
                    {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "Hm", "signature": "s"},
                    {"type": "tool_use", "id": "t1", "name": "f",
                     "input": {"a": "\u00e9\""}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1",
                     "content": "ok"}]}]}
    got = inspector.run(path="/v1/messages", request=json.dumps(body).encode())
    assert json.loads(got["fields"]["input"]) == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": [
            {"type": "image_url", "image_url": {
                "url": "data:image/png;base64,[400 bytes]"}},
            {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": None, "reasoning_content": "Hm",
         "tool_calls": [{"id": "t1", "type": "function", "function": {
             "name": "f", "arguments": json.dumps({"a": "\u00e9\""}).replace(
                 '": ', '": ')}}]},
        {"role": "tool", "tool_call_id": "t1", "content": "ok"}]
    assert json.loads(got["fields"]["params"]) == {"max_tokens": 5}


def test_gemini_requests_become_messages(inspector):
    body = {"systemInstruction": {"parts": [{"text": "Be brief"}]},
            "contents": [
                {"role": "user", "parts": [{"text": "a"}, {"inlineData": {
                    "mimeType": "image/png", "data": "QUJD"}}]},
                {"role": "model", "parts": [{"functionCall": {
                    "name": "f", "args": {"x": 1}}}]},
                {"role": "user", "parts": [{"functionResponse": {
                    "name": "f", "response": {"y": 2}}}]}],
            "generationConfig": {"temperature": 1}}
    got = inspector.run(path="/v1beta/models/gemini-2.5-pro:generateContent",
                        request=json.dumps(body).encode())
    assert json.loads(got["fields"]["input"]) == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": [
            {"type": "text", "text": "a"},
            {"type": "image_url", "image_url": {
                "url": "data:image/png;base64,[4 bytes]"}}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"type": "function", "function": {"name": "f",
                                              "arguments": '{"x": 1}'}}]},
        {"role": "tool", "tool_call_id": "f", "content": {"y": 2}}]
    assert got["fields"]["model"] == "gemini-2.5-pro"
    assert json.loads(got["fields"]["params"]) == {
        "generationConfig": {"temperature": 1}}


def test_responses_requests_become_messages(inspector):
    body = {"model": "m", "instructions": "Be brief", "input": [
        {"role": "user", "content": "Hi"},
        {"type": "function_call", "call_id": "c1", "name": "f",
         "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "ok"}]}
    got = inspector.run(path="/v1/responses",
                        request=json.dumps(body).encode())
    assert json.loads(got["fields"]["input"]) == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function",
             "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "ok"}]


def test_token_counts_are_made_comparable(inspector):
    got = inspector.run(
        path="/v1/messages", request=b'{"model":"c"}', status=200,
        headers=JSON, response=json.dumps({
            "type": "message", "model": "c", "stop_reason": "end_turn",
            "content": [{"type": "text", "text": "x"}],
            "usage": {"input_tokens": 10, "cache_read_input_tokens": 100,
                      "cache_creation_input_tokens": 1000,
                      "output_tokens": 5}}).encode())
    assert got["fields"]["prompt_tokens"] == "10"
    assert got["fields"]["input_tokens"] == "1110"
    assert got["fields"]["output_tokens"] == "5"

    got = inspector.run(
        path="/v1beta/models/g:generateContent", request=b"{}", status=200,
        headers=JSON, response=json.dumps({
            "candidates": [{"content": {"parts": [{"text": "x"}]},
                            "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 10,
                              "toolUsePromptTokenCount": 3,
                              "candidatesTokenCount": 5,
                              "thoughtsTokenCount": 7}}).encode())
    assert got["fields"]["input_tokens"] == "13"
    assert got["fields"]["output_tokens"] == "12"


def aws(name, payload, kind=b"event"):
    head = b""
    for key, value in ((b":event-type" if kind == b"event"
                        else b":exception-type", name),
                       (b":content-type", b"application/json"),
                       (b":message-type", kind)):
        head += bytes([len(key)]) + key + b"\x07"
        head += struct.pack(">H", len(value)) + value
    out = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    out += struct.pack(">I", zlib.crc32(out)) + head + payload
    return out + struct.pack(">I", zlib.crc32(out))


AWS = {"content-type": "application/vnd.amazon.eventstream"}


@pytest.mark.parametrize("split", SPLITS)
def test_an_exception_in_an_event_stream_is_an_error(inspector, split):
    body = (aws(b"messageStart", b'{"role":"assistant"}')
            + aws(b"contentBlockDelta",
                  b'{"contentBlockIndex":0,"delta":{"text":"a"}}')
            + aws(b"throttlingException", b'{"message":"slow down"}',
                  b"exception"))
    got = inspector.run(path="/model/m/converse-stream", request=b"{}",
                        status=200, headers=AWS, response=body, split=split)
    assert text(got) == "a" and got["errored"] == 1
    assert json.loads(got["fields"]["error"]) == {
        "message": "slow down", "type": "throttlingException"}


@pytest.mark.parametrize("where", [8, 40, -1])
def test_a_wrong_checksum_ends_an_event_stream(inspector, where):
    good = aws(b"contentBlockDelta",
               b'{"contentBlockIndex":0,"delta":{"text":"a"}}')
    bad = bytearray(good)
    bad[where] ^= 1
    got = inspector.run(path="/model/m/converse-stream", request=b"{}",
                        status=200, headers=AWS,
                        response=good + bytes(bad) + good)
    assert text(got) == "a" and got["response_state"] == "invalid"


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("headers", [
    {}, {"content-type": "application/octet-stream"}, JSON])
def test_an_event_stream_is_known_by_its_first_bytes(inspector, headers,
                                                     split):
    body = (aws(b"contentBlockDelta",
                b'{"contentBlockIndex":0,"delta":{"text":"a"}}')
            + aws(b"messageStop", b'{"stopReason":"end_turn"}'))
    got = inspector.run(path="/model/m/converse-stream", request=b"{}",
                        status=200, headers=headers, response=body,
                        split=split)
    assert text(got) == "a" and got["response_state"] == "stream"
    assert got["fields"]["finish_reason"] == "end_turn"


@pytest.mark.parametrize("split", SPLITS)
def test_other_bytes_that_start_with_zero_are_not_read(inspector, split):
    for body in (b"\0" * 3, b"\0\0\0\x20ftypmp42" + bytes(200)):
        got = inspector.run(path="/model/m/converse-stream", request=b"{}",
                            status=200, response=body, split=split)
        assert "output" not in got["fields"] and "error" not in got["fields"]
        assert got["response_state"] in ("partial", "other")


def test_chunks_of_invoke_are_base64(inspector):
    inner = json.dumps({"type": "content_block_delta", "index": 0, "delta": {
        "type": "text_delta", "text": "h\u00e9"}}).encode()
    body = aws(b"chunk", json.dumps({
        "bytes": base64.b64encode(inner).decode(), "p": "abc"}).encode())
    got = inspector.run(path="/model/anthropic.claude/invoke-with-response-"
                        "stream", request=b"{}", status=200, headers=AWS,
                        response=body)
    assert text(got) == "h\u00e9"
    assert got["fields"]["model"] == "anthropic.claude"


@pytest.mark.parametrize("model, body, type", [
    ("amazon.titan-embed-text-v2:0", {"inputText": "a"}, "embed"),
    ("cohere.embed-english-v3", {"texts": ["a"]}, "embed"),
    ("amazon.titan-text-lite-v1", {"inputText": "a"}, "llm"),
])
def test_models_of_bedrock_that_embed_are_told_by_name(inspector, model, body,
                                                       type):
    got = inspector.run(path=f"/model/{model}/invoke",
                        request=json.dumps(body).encode())
    assert got["fields"]["type"] == type
    assert got["fields"]["api"] == "bedrock.invoke"
    assert json.loads(got["fields"]["input"]) == [
        {"role": "user", "content": "a"}]
    assert "params" not in got["fields"]


@pytest.mark.parametrize("split", SPLITS)
def test_a_gemini_stream_may_be_a_json_array(inspector, split):
    parts = [{"candidates": [{"content": {"parts": [{"text": t}]}}]}
             for t in ("a]", '"b{', "c\\")]
    parts[-1]["candidates"][0]["finishReason"] = "STOP"
    got = inspector.run(path="/v1beta/models/g:streamGenerateContent",
                        request=b"{}", status=200, headers=JSON, split=split,
                        response=json.dumps(parts, indent=2).encode())
    assert text(got) == 'a]"b{c\\' and got["terminal"] == 1
    assert got["fields"]["stream"] == "1"


@pytest.mark.parametrize("model, instance, content, type", [
    ("text-embedding-005", {"content": "a", "task_type": "X"}, "a", "embed"),
    ("imagen-4.0", {"prompt": "a cat"}, "a cat", None),
    ("some-model", {"b64": 1}, {"b64": 1}, None),
])
def test_instances_of_vertex_are_messages(inspector, model, instance, content,
                                          type):
    path = f"/v1/projects/p/locations/l/publishers/google/models/{model}"
    got = inspector.run(path=path + ":predict", request=json.dumps(
        {"instances": [instance] * 2, "parameters": {"n": 1}}).encode())
    fields = got["fields"]
    assert (fields["api"], fields["model"]) == ("vertex.predict", model)
    assert fields.get("type") == type
    assert json.loads(fields["input"]) == [
        {"role": "user", "content": content}] * 2
    assert json.loads(fields["params"]) == {"parameters": {"n": 1}}


def test_thoughts_sent_back_to_gemini_are_reasoning(inspector):
    parts = [{"text": "Hm, ", "thought": True}, {"text": "so.", "thought": True},
             {"text": "Seven."},
             {"functionCall": {"name": "f", "args": {"a": 1}}}]
    got = inspector.run(path="/v1beta/models/g:generateContent",
                        request=json.dumps({"contents": [
                            {"role": "model", "parts": parts},
                            {"role": "model", "parts": parts[:1]}]}).encode())
    first, second = json.loads(got["fields"]["input"])
    assert first["content"] == "Seven."
    assert first["reasoning_content"] == "Hm, so."
    assert first["tool_calls"][0]["function"]["name"] == "f"
    assert second == {"role": "assistant", "content": None,
                      "reasoning_content": "Hm, "}


def test_text_before_a_result_in_gemini_stays_text(inspector):
    got = inspector.run(path="/v1beta/models/g:generateContent",
                        request=json.dumps({"contents": [{"parts": [
                            {"text": "Look"}, {"functionResponse": {
                                "id": "c7", "name": "f",
                                "response": {"a": 1}}}]}]}).encode())
    assert json.loads(got["fields"]["input"]) == [
        {"role": "tool", "tool_call_id": "c7", "content": {"a": 1}},
        {"role": "user", "content": "Look"}]


def test_partial_arguments_of_gemini_are_assembled(inspector):
    def part(**call):
        return event({"candidates": [{"content": {"parts": [
            {"functionCall": call}]}}]})

    body = (part(name="f", willContinue=True)
            + part(partialArgs=[{"jsonPath": "$.city", "stringValue": "New ",
                                 "willContinue": True}], willContinue=True)
            + part(partialArgs=[{"jsonPath": "$.city", "stringValue": "\"D\""}],
                   willContinue=True)
            + part(partialArgs=[{"jsonPath": "$.n", "numberValue": 3}])
            + part())
    got = inspector.run(path="/v1beta/models/g:streamGenerateContent",
                        request=b"{}", status=200, headers=SSE, response=body)
    call = json.loads(got["fields"]["output"])["tool_calls"][0]["function"]
    assert call["name"] == "f"
    assert json.loads(call["arguments"]) == {"city": 'New "D"', "n": 3}


@pytest.mark.parametrize("split", SPLITS)
def test_ollama_streams_lines_unless_told_otherwise(inspector, split):
    lines = [{"model": "m", "message": {"role": "assistant", "content": t},
              "done": False} for t in "ab"]
    lines.append({"model": "m", "message": {"content": ""}, "done": True,
                  "done_reason": "stop", "prompt_eval_count": 3,
                  "eval_count": 4})
    body = b"".join(json.dumps(v).encode() + b"\r\n" for v in lines)
    got = inspector.run(path="/api/chat", request=b'{"model":"m"}',
                        status=200, response=body, split=split,
                        headers={"content-type": "application/x-ndjson"})
    assert text(got) == "ab" and got["terminal"] == 1
    assert got["fields"]["stream"] == "1"
    assert got["fields"]["completion_tokens"] == "4"
    got = inspector.run(path="/api/chat", status=200, headers=JSON,
                        request=b'{"model":"m","stream":false}',
                        response=json.dumps(lines[0]).encode())
    assert got["fields"]["stream"] == "0" and text(got) == "a"


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("eol", ["\n", "\r\n"])
def test_ollama_may_answer_with_one_value_of_several_lines(inspector, eol,
                                                           split):
    value = {"model": "m", "message": {"role": "assistant", "content": "ab"},
             "done": True, "eval_count": 4}
    body = json.dumps(value, indent=2).replace("\n", eol).encode()
    got = inspector.run(path="/api/chat", request=b'{"model":"m"}',
                        status=200, response=body, split=split, headers=JSON)
    assert text(got) == "ab" and got["terminal"] == 1
    assert got["fields"]["completion_tokens"] == "4"


def test_images_are_answered_by_reference(inspector):
    got = inspector.run(path="/v1/images/generations", status=200,
                        headers=JSON, request=b'{"model":"i","prompt":"cat"}',
                        response=json.dumps({"data": [
                            {"b64_json": "QUJD" * 1000},
                            {"b64_json": "QUJD"}]}).encode())
    assert [p["image_url"]["url"] for p in text(got)] == [
        "data:image/png;base64,[4000 bytes]", "data:image/png;base64,[4 bytes]"]


def test_media_is_not_read(inspector):
    got = inspector.run(path="/v1/audio/speech", status=200,
                        request=b'{"model":"tts","input":"Hi"}',
                        headers={"content-type": "audio/mpeg"},
                        response=b"{" + bytes(range(256)) * 100)
    assert got["response_state"] == "other"
    assert "output" not in got["fields"] and "error" not in got["fields"]


def test_cohere_counts_what_it_reasoned_within_the_output(inspector):
    got = inspector.run(path="/v2/chat", status=200, headers=JSON,
                        request=b'{"model":"c","messages":[]}',
                        response=json.dumps({"usage": {
                            "billed_units": {"input_tokens": 3},
                            "tokens": {"input_tokens": 90, "output_tokens": 50,
                                       "reasoning_tokens": 40}}}).encode())
    fields = got["fields"]
    assert fields["reasoning_tokens"] == "40"
    assert (fields["input_tokens"], fields["output_tokens"]) == ("90", "50")


def test_images_may_count_tokens_as_chats_do(inspector):
    got = inspector.run(path="/api/v1/images", status=200, headers=JSON,
                        request=b'{"model":"v/i","prompt":"a dog"}',
                        response=json.dumps({
                            "data": [{"b64_json": "QUJD"}],
                            "usage": {"prompt_tokens": 7, "total_tokens": 90,
                                      "completion_tokens": 83}}).encode())
    assert got["fields"]["api"] == "openai.images"
    assert got["fields"]["prompt_tokens"] == "7"
    assert got["fields"]["completion_tokens"] == "83"


def test_a_page_that_is_read_tells_its_model_and_usage(inspector):
    pdf = "data:application/pdf;base64," + "QUJD" * 10000
    usage = {"pages_processed": 2, "doc_size_bytes": 30000}
    got = inspector.run(path="/v1/ocr", status=200, headers=JSON,
                        request=json.dumps({
                            "model": "ocr-latest", "pages": [0, 1],
                            "document": {"type": "document_url",
                                         "document_url": pdf}}).encode(),
                        response=json.dumps({
                            "model": "ocr-2505", "pages": [
                                {"index": 0, "markdown": "# Title"}],
                            "usage_info": usage}).encode())
    fields = got["fields"]
    assert (fields["api"], fields["model"], fields["response_model"]) == (
        "mistral.ocr", "ocr-latest", "ocr-2505")
    assert json.loads(fields["usage"]) == usage
    assert json.loads(fields["params"])["document"]["document_url"] == (
        "data:application/pdf;base64,[40000 bytes]")
    assert "type" not in fields


# --- paths that several APIs use -------------------------------------------

def api(inspector, path, request, **more):
    return inspector.run(path=path, request=json.dumps(request).encode(),
                         **more)["fields"]["api"]


def test_a_message_at_v1_chat_is_coheres(inspector):
    got = inspector.run(path="/v1/chat", status=200, headers=JSON,
                        request=b'{"message":"Hi"}',
                        response=b'{"text":"Hello","finish_reason":"COMPLETE"}')
    assert got["fields"]["api"] == "cohere.chat.v1"
    assert json.loads(got["fields"]["input"]) == [
        {"role": "user", "content": "Hi"}]
    assert text(got) == "Hello"


def test_other_bodies_at_v1_chat_are_told_by_their_shape(inspector):
    messages = [{"role": "user", "content": "Hi"}]
    got = inspector.run(path="/v1/chat", status=200, headers=JSON,
                        request=json.dumps({"model": "m",
                                            "messages": messages}).encode(),
                        response=b'{"choices":[{"message":{"content":"x"}}]}')
    assert got["fields"]["api"] == "openai.chat"
    assert got["fields"]["model"] == "m" and text(got) == "x"
    assert json.loads(got["fields"]["input"]) == messages
    assert api(inspector, "/v1/chat", {"text": "Hi"}) == "unknown"
    assert api(inspector, "/v1/chat", {"text": "Hi"},
               api="cohere.chat.v1") == "cohere.chat.v1"


def test_a_conversation_is_mistrals_where_it_has_inputs(inspector):
    path = "/v1/conversations"
    assert api(inspector, path, {"model": "m", "inputs": "Hi"}) == (
        "mistral.conversations")
    assert api(inspector, path + "/conv_1", {"inputs": [], "stream": True}) == (
        "mistral.conversations")
    for kept in ({}, {"metadata": {"a": "b"}}, {"items": [
            {"type": "message", "role": "user", "content": "Hi"}]}):
        assert api(inspector, path, kept) == "unknown"
        assert api(inspector, path + "/conv_1", kept) == "unknown"


@pytest.mark.parametrize("inputs, name", [
    ("a text", "huggingface.inference"),
    (["a", "b"], "huggingface.inference"),
    ([{"url": "https://example.org/a.pdf"}], "unknown"), ([], "unknown"),
    ({"question": "a"}, "unknown"), (1, "unknown"),
])
def test_inputs_are_texts(inspector, inputs, name):
    assert api(inspector, "/any", {"inputs": inputs}) == name


@pytest.mark.parametrize("path, body", [
    ("/v1beta/cachedContents", {"contents": [{"parts": [{"text": "a"}]}]}),
    ("/v1/videos/generations", {"model": "v", "prompt": "a wave"}),
    ("/v1/videos", {"model": "v", "prompt": "a wave"}),
    ("/tokenize", {"model": "m", "prompt": "a wave"}),
    ("/apply-template", {"messages": [{"role": "user", "content": "a"}]}),
])
def test_what_only_looks_like_a_completion_is_unknown(inspector, path, body):
    assert api(inspector, path, body) == "unknown"
    assert api(inspector, "/other", body) != "unknown"


# --- lunary_stream_usage ---------------------------------------------------

def asked(inspector, body, response=b"", **more):
    return inspector.run(**CHAT, request=body, status=200, response=response,
                         usage=1, **more)


@pytest.mark.parametrize("body", [
    b'{"stream":true}', b'{ "stream" : true , "model":"m"}',
    b'{"model":"m","stream":true}',
    b'{"stream":true,"stream_options":null}',
    b'{"stream_options":{},"stream":true}',
    b'{"stream_options":{ },"stream":true}',
    b'{"stream":true,"stream_options":{"include_usage":false}}',
    b'{"stream":true,"stream_options":{"a":1,"include_usage": null}}',
    b'{"stream":true,"stream_options": {"include_obfuscation":false}}',
])
def test_usage_is_asked_for_beside_what_the_client_sent(inspector, body):
    got = asked(inspector, body)
    assert got["usage"] == "added"
    edited = (body[:got["start"]] + got["text"].encode() + body[got["end"]:])
    want, have = json.loads(body), json.loads(edited)
    options = dict(want.get("stream_options") or {}, include_usage=True)
    assert have == dict(want, stream_options=options)


@pytest.mark.parametrize("body, answer", [
    (b'{"stream":true,"stream_options":{"include_usage":true}}', "asked"),
    (b'{"stream":false}', "no"), (b"{}", "no"), (b"nonsense", "no"),
    (b'{"stream":true,"stream_options":"x"}', "no"),
    (b'{"stream":true,"stream":true}', "no"),
])
def test_usage_is_not_asked_for_where_it_is_no_use(inspector, body, answer):
    assert asked(inspector, body)["usage"] == answer


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("eol", ["\n", "\r\n", "\r"])
def test_only_the_extra_chunk_goes_missing(inspector, eol, split):
    def line(value):
        return "data: " + json.dumps(value) + eol + eol

    usage = {"prompt_tokens": 1}
    kept = [": comment" + eol + eol, line(chunk("a", usage=None)),
            line({"choices": [], "prompt_filter_results": []}),
            line(chunk("b", usage=usage)), "data: [DONE]" + eol + eol,
            "trailing"]
    extra = line({"choices": [], "usage": usage})
    body = "".join(kept[:4]) + extra + "".join(kept[4:])
    got = asked(inspector, b'{"stream":true}', body.encode(), split=split)
    assert got["passed"] == "".join(kept)
    assert got["dropped"] == 1


def test_an_event_over_64_kb_is_passed_on_as_it_comes(inspector):
    body = ("data: " + "x" * 200000 + "\n\n"
            + 'data: {"choices":[],"usage":{"a":1}}\n\ndata: y\n\n')
    for split in ("whole", "4096", "random"):
        got = asked(inspector, b'{"stream":true}', body.encode(), split=split)
        assert got["passed"] == "data: " + "x" * 200000 + "\n\ndata: y\n\n"
        assert got["held"] <= 65536
