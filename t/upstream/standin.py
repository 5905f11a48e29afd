#!/usr/bin/env python3
"""A stand-in for LLM services, in the shapes of their official clients.

    standin.py [--port N] [--delay MS]

serves OpenAI (chat completions, completions, embeddings, responses),
Anthropic messages, Gemini and Vertex, Ollama and Cohere on loopback, JSON and
streamed.  It answers by what it was asked, with plausible token counts, calls
the first tool offered, and errs where a request says `X-Standin-Error: 429
rate_limit_exceeded`.  One line a request goes to standard output.
"""

import argparse
import asyncio
import os
import re
import sys

if __package__ in (None, ""):
    sys.path.insert(0, os.path.dirname(os.path.dirname(
        os.path.abspath(__file__))))
    __package__ = "upstream"

from upstream import anthropic, cohere, gemini, ollama, openai  # noqa: E402
from upstream.server import Answer, Pause, Server               # noqa: E402

ROUTES = [(method, re.compile(path), handler)
          for module in (anthropic, gemini, ollama, cohere, openai)
          for method, path, handler in module.ROUTES]


async def standin(request):
    """The Answer to a request."""
    for method, path, handler in ROUTES:
        if request.method == method and path.search(request.path):
            try:
                return handler(request)
            except (ValueError, KeyError, TypeError, AttributeError) as e:
                return openai.error(400, f"The stand-in cannot read this: "
                                         f"{type(e).__name__} {e}")
    return openai.error(404, f"Unknown request URL: {request.method} "
                             f"{request.path}.", code="unknown_url")


def delayed(handler, seconds):
    """The same with a pause before each piece, as a model thinks."""
    async def slow(request):
        answer = await handler(request)
        if answer.framing == "length":
            await asyncio.sleep(seconds * 4)
        elif seconds:
            answer.pieces = [q for p in answer.pieces
                             for q in (Pause(seconds), p)]
        return answer
    return slow


def main():
    options = argparse.ArgumentParser(description="A stand-in LLM service.")
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=8080)
    options.add_argument("--delay", type=float, default=20,
                         help="milliseconds between streamed pieces")
    options.add_argument("--quiet", action="store_true")
    options = options.parse_args()

    async def serve():
        async def logged(request):
            answer = await slow(request)
            if not options.quiet:
                print(request.method, request.path, answer.status, flush=True)
            return answer

        slow = delayed(standin, options.delay / 1000)
        server = Server(logged, options.host, options.port)
        await server.listen()
        print(f"stand-in on http://{options.host}:{server.port}", flush=True)
        await asyncio.Event().wait()

    try:
        asyncio.run(serve())
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
