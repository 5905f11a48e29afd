"""The official clients, unchanged, through nginx to the stand-in."""

import asyncio
import json
import pathlib
import subprocess

import pytest

openai = pytest.importorskip("openai")

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    server {
        listen {{ listen }};
        location / {
            lunary on;
            {{ extra | default("") }}
            proxy_buffering off;
            proxy_pass {{ upstream }};
        }
    }
}
"""

MESSAGES = [{"role": "user", "content": "hi there"}]

TOOLS = [{"type": "function", "function": {
    "name": "weather", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}}}}]


@pytest.fixture
def client(request):
    made = []

    def make(one, **kw):
        made.append(openai.OpenAI(base_url=one.url + "/v1", api_key="sk-x",
                                  max_retries=2, **kw))
        return made[-1]

    yield make
    for c in made:
        c.close()


# -- openai for Python

def test_python_chat(nginx, runs, client):
    answer = client(nginx(CONFIG)).chat.completions.create(
        model="gpt-4o", messages=MESSAGES, user="u1")

    run = runs.one()
    assert answer.choices[0].message.content == run.text == \
        "You said: hi there"
    assert (run["user_id"], run["api"], run["outcome"]) == (
        "u1", "openai.chat", "ok")
    assert run["prompt_tokens"] == str(answer.usage.prompt_tokens)
    assert run.json("input") == MESSAGES


def test_python_stream(nginx, runs, client):
    stream = client(nginx(CONFIG)).chat.completions.create(
        model="gpt-4o", messages=MESSAGES, stream=True,
        stream_options={"include_usage": True})
    chunks = list(stream)

    run = runs.one()
    text = "".join(c.choices[0].delta.content or ""
                   for c in chunks if c.choices)
    assert (run.text, run["outcome"], run["stream"]) == (text, "ok", "1")
    assert run["total_tokens"] == str(chunks[-1].usage.total_tokens)


def test_python_stream_left_early(nginx, runs, client):
    stream = client(nginx(CONFIG)).chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "w " * 20000}],
        stream=True)
    for _ in zip(range(3), stream):
        pass
    stream.close()

    assert runs.one()["outcome"] in ("aborted", "ok")


def test_python_tools(nginx, runs, client):
    answer = client(nginx(CONFIG)).chat.completions.create(
        model="gpt-4o", messages=MESSAGES, tools=TOOLS)

    run = runs.one()
    call = answer.choices[0].message.tool_calls[0]
    assert run.json("output")["tool_calls"][0] == {
        "id": call.id, "type": "function", "function": {
            "name": "weather", "arguments": '{"city": "Paris"}'}}
    assert run.json("params")["tools"] == TOOLS


def test_python_streamed_tools(nginx, runs, client):
    list(client(nginx(CONFIG)).chat.completions.create(
        model="gpt-4o", messages=MESSAGES, tools=TOOLS, stream=True))

    call, = runs.one().json("output")["tool_calls"]
    assert call["function"] == {"name": "weather",
                                "arguments": '{"city": "Paris"}'}


def test_python_async(nginx, runs):
    one = nginx(CONFIG)

    async def calls():
        async with openai.AsyncOpenAI(base_url=one.url + "/v1",
                                      api_key="sk-x") as c:
            await asyncio.gather(*(c.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user",
                                           "content": f"n{i}"}],
                user=f"u{i}") for i in range(20)))

    asyncio.run(calls())

    assert {(r["user_id"], r.text) for r in runs(20)} == {
        (f"u{i}", f"You said: n{i}") for i in range(20)}


def test_python_identity_by_extra_body_and_headers(nginx, upstream, runs,
                                                   client):
    client(nginx(CONFIG), default_headers={
        "X-Lunary-Thread-Id": "t1"}).chat.completions.create(
        model="gpt-4o", messages=MESSAGES,
        extra_body={"user_id": "u1", "user_props": {"name": "A"}})

    run = runs.one()
    assert (run["user_id"], run["thread_id"], run.json("user_props")) == (
        "u1", "t1", {"name": "A"})
    assert set(upstream.last.json()) == {"model", "messages"}


def test_python_raises_bad_request_without_a_user(nginx, upstream, runs,
                                                  client):
    one = nginx(CONFIG, extra="lunary_require_user on;")

    with pytest.raises(openai.BadRequestError) as e:
        client(one).chat.completions.create(model="gpt-4o",
                                            messages=MESSAGES)

    assert (e.value.code, e.value.param) == ("user_required", "user")
    assert "user" in e.value.message
    assert runs.one()["outcome"] == "rejected"      # and none of a retry
    assert upstream.requests == []


def test_python_raises_authentication_error_under_verified(nginx, runs,
                                                           client):
    one = nginx(CONFIG, extra="lunary_require_user verified;")

    with pytest.raises(openai.AuthenticationError) as e:
        client(one).chat.completions.create(model="gpt-4o",
                                            messages=MESSAGES, user="me")

    assert e.value.code == "user_required"
    runs.one()


def test_python_does_not_retry_an_unavailable_identity(nginx, runs, client):
    config = CONFIG.replace("{{ lunary }}", """{{ lunary }}
        lunary_redis auth redis://127.0.0.1:1/0;""")
    one = nginx(config, extra="""
        lunary_session_id header=X-Session;
        lunary_session sess:$lunary_session_id redis=auth;
        lunary_require_user verified;""")

    with pytest.raises(openai.InternalServerError) as e:
        client(one).chat.completions.create(
            model="gpt-4o", messages=MESSAGES,
            extra_headers={"X-Session": "s1"})

    assert (e.value.status_code, e.value.code) == (503,
                                                   "identity_unavailable")
    runs.one()


def test_python_sees_the_upstreams_errors_as_its_own(nginx, runs, client):
    with pytest.raises(openai.RateLimitError):
        client(nginx(CONFIG)).with_options(
            max_retries=0).chat.completions.create(
            model="gpt-4o", messages=MESSAGES,
            extra_headers={"X-Standin-Error": "429 rate_limit_exceeded"})

    run = runs.one()
    assert (run["outcome"], run.json("error")["code"]) == (
        "error", "rate_limit_exceeded")


def test_python_embeddings(nginx, runs, client):
    client(nginx(CONFIG)).embeddings.create(model="e", input=["a", "b c"],
                                            user="u1")

    run = runs.one()
    assert (run["api"], run["type"], run["user_id"]) == (
        "openai.embeddings", "embed", "u1")
    assert run["prompt_tokens"] == "3"


@pytest.mark.parametrize("stream", [False, True])
def test_python_responses(nginx, runs, client, stream):
    answer = client(nginx(CONFIG)).responses.create(
        model="gpt-4o", input="hi there", stream=stream)
    if stream:
        list(answer)

    run = runs.one()
    assert (run["api"], run.text, run["outcome"]) == (
        "openai.responses", "You said: hi there", "ok")
    assert run["input_tokens"] == "2"


# -- openai for Node

@pytest.fixture
def node(node_modules):
    def run(one, *args):
        script = pathlib.Path(__file__).parent / "clients" / "openai.mjs"
        done = subprocess.run(
            ["node", script, one.url, *args], capture_output=True, text=True,
            timeout=280, env={"PATH": "/usr/local/bin:/usr/bin:/bin",
                             "NODE_MODULES": str(node_modules)})
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_node_chat(nginx, runs, node):
    answer = node(nginx(CONFIG), "chat")

    run = runs.one()
    assert answer["content"] == run.text == "You said: hi there"
    assert run["user_id"] == "u1"


def test_node_stream(nginx, runs, node):
    answer = node(nginx(CONFIG), "stream")

    run = runs.one()
    assert answer["content"] == run.text == "You said: hi there"
    assert run["total_tokens"] == str(answer["usage"]["total_tokens"])


def test_node_tools(nginx, runs, node):
    answer = node(nginx(CONFIG), "tools")

    assert runs.one().json("output")["tool_calls"] == answer["tool_calls"]


@pytest.mark.parametrize("required, name, status", [
    ("on", "BadRequestError", 400), ("verified", "AuthenticationError", 401)])
def test_node_raises_its_own_errors(nginx, runs, node, required, name,
                                    status):
    answer = node(nginx(CONFIG, extra=f"lunary_require_user {required};"),
                  "anonymous")

    assert answer == {"name": name, "status": status,
                      "code": "user_required"}
    assert runs.one()["outcome"] == "rejected"


# -- the clients of others

@pytest.mark.parametrize("stream", [False, True])
def test_anthropic(nginx, runs, stream):
    anthropic = pytest.importorskip("anthropic")
    one = nginx(CONFIG)
    with anthropic.Anthropic(base_url=one.url, api_key="sk-x") as client:
        answer = client.messages.create(
            model="claude-x", max_tokens=50, messages=MESSAGES,
            system="be kind", stream=stream, metadata={"user_id": "u1"})
        if stream:
            list(answer)

    run = runs.one()
    assert (run["api"], run.text, run["user_id"], run["outcome"]) == (
        "anthropic.messages", "You said: hi there", "u1", "ok")
    assert run["prompt_tokens"] == "5"


def test_anthropic_raises_its_own_error(nginx, runs):
    anthropic = pytest.importorskip("anthropic")
    one = nginx(CONFIG, extra="lunary_require_user on;")

    with anthropic.Anthropic(base_url=one.url, api_key="sk-x") as client:
        with pytest.raises(anthropic.BadRequestError, match="user_required"):
            client.messages.create(model="claude-x", max_tokens=50,
                                   messages=MESSAGES)

    runs.one()


@pytest.mark.parametrize("stream", [False, True])
def test_google_genai(nginx, runs, stream):
    genai = pytest.importorskip("google.genai")
    one = nginx(CONFIG)
    client = genai.Client(api_key="x", http_options={"base_url": one.url})
    call = dict(model="gemini-2.0-flash", contents="hi there")
    if stream:
        list(client.models.generate_content_stream(**call))
    else:
        client.models.generate_content(**call)

    run = runs.one()
    assert (run["api"], run.text, run["model"], run["outcome"]) == (
        "gemini.generateContent", "You said: hi there", "gemini-2.0-flash",
        "ok")
    assert run["prompt_tokens"] == "2"


@pytest.mark.parametrize("stream", [False, True])
def test_ollama(nginx, runs, stream):
    ollama = pytest.importorskip("ollama")
    answer = ollama.Client(host=nginx(CONFIG).url).chat(
        model="llama3", messages=MESSAGES, stream=stream)
    if stream:
        list(answer)

    run = runs.one()
    assert (run["api"], run.text, run["outcome"]) == (
        "ollama.chat", "You said: hi there", "ok")
    assert run["output_tokens"] == "5"


@pytest.mark.parametrize("stream", [False, True])
def test_cohere(nginx, runs, stream):
    cohere = pytest.importorskip("cohere")
    client = cohere.ClientV2(api_key="x", base_url=nginx(CONFIG).url)
    if stream:
        list(client.chat_stream(model="command-a", messages=MESSAGES))
    else:
        client.chat(model="command-a", messages=MESSAGES)

    run = runs.one()
    assert (run["api"], run.text, run["outcome"]) == (
        "cohere.chat.v2", "You said: hi there", "ok")


@pytest.mark.parametrize("stream", [False, True])
def test_mistral(nginx, runs, stream):
    mistralai = pytest.importorskip("mistralai.client")
    client = mistralai.Mistral(api_key="x", server_url=nginx(CONFIG).url)
    call = dict(model="mistral-large", messages=MESSAGES)
    if stream:
        list(client.chat.stream(**call))
    else:
        client.chat.complete(**call)

    run = runs.one()
    assert (run["api"], run.text, run["outcome"]) == (
        "openai.chat", "You said: hi there", "ok")
