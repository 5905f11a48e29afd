#!/usr/bin/env python3
# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""Instructions a call takes in this project's own code, by callgrind: a
number that a busy machine does not change.

    instructions.py             compares with instructions.json; more than 3 %
                                above any figure is a failure
    instructions.py --update    writes instructions.json

The figures hold for one compiler; with another one they are only shown."""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from lab import Lab
from cases import EMBEDDINGS, chat

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FIGURES = HERE / "instructions.json"
LIMIT = 1.03

CYRILLIC = dict(zip(b"abcdefghijklmnopqrstuvwxyz",
                    "абцдефгхийклмнопярстужвщыз"))


def russian(size, escaped):
    """The benchmarks' chat in Cyrillic letters: as many bytes, or escaped as
    Python's json does unless told."""
    body = json.loads(chat(size * 5 // 9))
    for message in body["messages"]:
        message["content"] = message["content"].lower().translate(CYRILLIC)
    return json.dumps(body, ensure_ascii=escaped)


def anthropic(stream):
    """A request for 200 deltas, and the stream of them."""
    body = json.loads(chat(620)) | {"model": "claude-sonnet-4-5",
                                    "stream": True}
    if not stream:
        return json.dumps(body)
    start = {"type": "message_start", "message": {
        "id": "msg_01", "type": "message", "role": "assistant",
        "model": body["model"], "content": [], "stop_reason": None,
        "usage": {"input_tokens": 129, "output_tokens": 1}}}
    block = {"type": "content_block_start", "index": 0,
             "content_block": {"type": "text", "text": ""}}
    events = [start, block]
    events += [{"type": "content_block_delta", "index": 0,
                "delta": {"type": "text_delta", "text": f" word{n}"}}
               for n in range(200)]
    events += [{"type": "content_block_stop", "index": 0},
               {"type": "message_delta", "delta": {"stop_reason": "end_turn"},
                "usage": {"output_tokens": 200}},
               {"type": "message_stop"}]
    return "".join(f"event: {e['type']}\n"
                   f"data: {json.dumps(e, separators=(',', ':'))}\n\n"
                   for e in events)


# name: request, kind of answer, capture_max, capture, calls measured
CASES = {
    "chat 0.6 KB": (chat(620), "json", 1 << 20, 3, 100),
    "chat 9 KB": (chat(9 * 1024), "json", 1 << 20, 3, 100),
    "chat 213 KB": (chat(213 * 1024), "json", 1 << 20, 3, 20),
    "chat 213 KB, capture_max 32k": (chat(213 * 1024), "json", 32768, 3, 20),
    "chat 1 MB in small turns, capture_max 256k": (chat(1 << 20, turn=400),
                                                   "json", 1 << 18, 3, 5),
    "identity only 0.6 KB": (chat(620), "json", 1 << 18, 0, 100),
    "chat 213 KB, Cyrillic": (russian(213 * 1024, False), "json", 1 << 20, 3,
                              10),
    "chat 213 KB, Cyrillic, escaped": (russian(71 * 1024, True), "json",
                                       1 << 20, 3, 10),
    "stream of 200 chunks": (chat(620, True), "sse", 1 << 18, 3, 20),
    "Anthropic stream of 200 deltas": (anthropic(False), "anthropic", 1 << 18,
                                       3, 20),
    "embeddings, 1 MB answer": (EMBEDDINGS, "big", 1 << 18, 3, 5),
}


def compiler():
    text = subprocess.run(["gcc", "-dumpfullversion", "-dumpmachine"],
                          capture_output=True, text=True).stdout
    return "gcc " + " ".join(text.split())


def build(folder):
    sources = [HERE / "instructions.c"]
    for room in "inspect", "run":
        sources += (ROOT / "ngx_lunary_module" / room).rglob("*.c")
    out = folder / "instructions"
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-std=gnu11", "-O2", "-g",
                    "-I", ROOT / "ngx_lunary_module", "-o", out,
                    *sorted(sources), "-lz"], check=True)
    return out


def answers():
    """The bodies that the benchmarks' upstream sends."""
    got = {}
    with Lab(HERE) as lab:
        port = lab.upstream(100)
        for kind in "json", "big", "sse":
            with urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/{kind}/", b"{}") as f:
                got[kind] = f.read()
    got["anthropic"] = anthropic(True).encode()
    return got


def collected(binary, n, args):
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
         binary, str(n), *args], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return int(re.search(r"Collected : (\d+)", done.stderr).group(1))


def nanoseconds(binary, args, n):
    """The same without callgrind: the best of five, start-up taken off."""
    def best(count):
        times = []
        for _ in range(5):
            start = time.perf_counter_ns()
            subprocess.run([binary, str(count), *args], check=True,
                           stdout=subprocess.DEVNULL)
            times.append(time.perf_counter_ns() - start)
        return min(times)

    return (best(1 + n) - best(1)) / n


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--update", action="store_true")
    p.add_argument("--time", action="store_true",
                   help="nanoseconds a call, too")
    args = p.parse_args()

    for tool in "gcc", "valgrind":
        if shutil.which(tool) is None:
            sys.exit(f"needs {tool}: apt-get install {tool}")

    old = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    comparable = old.get("compiler") == compiler()
    new = {"compiler": compiler(), "instructions": {}}
    bad = []

    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        binary = build(folder)
        bodies = answers()
        for name, (request, kind, size, capture, n) in CASES.items():
            (folder / "request").write_text(request)
            (folder / "answer").write_bytes(bodies[kind])
            run = [str(size), str(capture), folder / "request",
                   folder / "answer"]
            count = (collected(binary, n + 1, run)
                     - collected(binary, 1, run)) // n
            new["instructions"][name] = count
            before = old.get("instructions", {}).get(name)
            line = f"{name:42} {count:>10}"
            if before:
                line += f"  {count / before - 1:+7.1%}"
                if comparable and count > before * LIMIT:
                    bad.append(name)
            if args.time:
                line += f"  {nanoseconds(binary, run, n * 20) / 1e3:9.2f} us"
            print(line, flush=True)

    if args.update:
        FIGURES.write_text(json.dumps(new, indent=1) + "\n")
        return 0
    if not comparable:
        print(f"not compared: {FIGURES.name} is of {old.get('compiler')}")
    if bad:
        print("more than 3 % above: " + ", ".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
