"""Whose service was called: lunary_provider, else the proxied host, else the
dialect's own provider."""

import pytest

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    upstream {{ host | default("unknown.example") }} {
        server {{ upstream | replace("http://", "") }};
    }
    server {
        listen {{ listen }};
        location / {
            lunary on;
            {{ extra | default("") }}
            proxy_pass http://{{ host | default("unknown.example") }};
        }
    }
}
"""

CHAT = {"model": "m", "messages": []}


@pytest.mark.parametrize("host, provider", [
    ("api.openai.com", "openai"),
    ("acme.openai.azure.com", "azure.ai.openai"),
    ("api.groq.com", "groq"),
    ("API.Groq.com", "groq"),
    ("api.mistral.ai", "mistral_ai"),
    ("us-central1-aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("bedrock-runtime.eu-west-1.amazonaws.com", "aws.bedrock"),
    ("bedrock-mantle.eu-west-1.api.aws", "aws.bedrock"),
    ("api.x.ai", "x_ai"),
    ("acme.cognitiveservices.azure.com", "azure.ai.openai"),
    ("dashscope.aliyuncs.com", "dashscope"),
    ("ollama.com", "ollama"),
    # names that only end alike are somebody else's
    ("notapi.groq.com.example", "openai"),
    ("fakeapi.x.ai", "openai"),
])
def test_the_proxied_host_tells_the_provider(nginx, runs, host, provider):
    nginx(CONFIG, host=host).post(json=CHAT)

    assert runs.one()["provider"] == provider


def test_the_dialect_tells_where_the_host_does_not(nginx, runs):
    nginx(CONFIG).post("/v1/messages", json=CHAT)

    assert runs.one()["provider"] == "anthropic"


@pytest.mark.parametrize("path, provider", [
    ("/openai/deployments/d/chat/completions", "azure.ai.openai"),
    ("/v1/projects/p/locations/l/publishers/google/models/m:generateContent",
     "gcp.vertex_ai"),
    ("/v1/projects/p/locations/l/publishers/anthropic/models/m:rawPredict",
     "gcp.vertex_ai"),
    ("/x//o/p/openai/deployments/d/chat/completions", "azure.ai.openai"),
    ("/publishers/google/projects/p", "gcp.vertex_ai"),
    ("/projects/publishers/p", "gcp.vertex_ai"),
    # not whole segments, or one of two
    ("/v1/projects/p/publishers", "openai"),
    ("/v1/xprojects/p/publishers/google", "openai"),
    ("/openai/deployments", "openai"),
    ("/v1/p", "openai"),
    ("/v1/", "openai"),
    ("/v1beta/models/m:generateContent", "gcp.gemini"),
])
def test_a_path_that_one_provider_has_tells_it(nginx, runs, path, provider):
    nginx(CONFIG).post(path, json=CHAT)

    assert runs.one()["provider"] == provider


@pytest.mark.parametrize("extra, provider", [
    ("lunary_provider acme;", "acme"),
    ("lunary_provider $http_x_provider;", "by-header"),
    ("lunary_provider auto;", "groq"),
])
def test_a_setting_wins_over_the_host(nginx, runs, extra, provider):
    nginx(CONFIG, host="api.groq.com", extra=extra).post(
        json=CHAT, headers={"X-Provider": "by-header"})

    assert runs.one()["provider"] == provider
