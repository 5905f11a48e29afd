#!/usr/bin/env python3
# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""What a client waits while another one uploads 64 MB, plain nginx beside the
module, in one run.

A client sends 200 small calls a second, at their times, while another one
uploads bodies of 64 MB without a pause; rounds alternate between plain nginx
and the module.  Shown are the medians of the rounds' p50 and p99 of the small
calls, and how many bodies went through.

    upload.py [--rounds N] [--seconds S] [--alone]

--alone leaves the uploads out, to see what the machine itself does."""

import argparse
import contextlib
import http.client
import json
import statistics
import sys
import threading
from types import SimpleNamespace

from cases import chat
from lab import Lab, Trouble, paced

MEBIBYTE = 1 << 20
RATE, CONNS = 200, 64


def body(size):
    """A chat request of that many bytes, in messages of 4 KB."""
    text = ("The customer asks about an order that was placed last week. "
            "\u00dcber \"Lieferung\" fragt sie auch. " * 43)
    message = json.dumps({"role": "user", "content": text},
                         ensure_ascii=False)
    head = '{"model":"gpt-4o-mini","user":"user-4711","messages":['
    count = size // (len(message.encode()) + 1)
    return (head + ",".join([message] * count) + "]}").encode()


class Uploads:
    """Uploads one body after the other until it is left."""

    def __init__(self, port, data):
        self.port, self.data = port, data
        self.done = 0
        self.error = None
        self.stop = threading.Event()
        self.started = threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.work)
        self.thread.start()
        self.started.wait(30)
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        if self.error:
            raise Trouble(f"an upload failed: {self.error}")

    def pieces(self):
        for at in range(0, len(self.data), MEBIBYTE):
            yield self.data[at:at + MEBIBYTE]
            self.started.set()

    def work(self):
        try:
            while not self.stop.is_set():
                c = http.client.HTTPConnection("127.0.0.1", self.port,
                                               timeout=60)
                c.request("POST", "/json/v1/chat/completions", self.pieces(),
                          {"Content-Type": "application/json",
                           "Content-Length": str(len(self.data))})
                answer = c.getresponse()
                answer.read()
                if answer.status != 200:
                    raise Trouble(f"status {answer.status}")
                c.close()
                self.done += 1
        except Exception as e:              # shown by the main thread
            self.error = e
            self.started.set()


def measure(bench, rounds, seconds, alone=False):
    """{target: [figures of each round]} of plain nginx and the module"""
    big = body(64 * MEBIBYTE - 4096)
    file = bench.lab.dir / "small.json"
    file.write_text(chat(620))

    got = {"plain": [], "full": []}
    for _ in range(rounds):
        for target in got:
            nginx, port = bench.targets[target]
            uploads = (contextlib.nullcontext() if alone
                       else Uploads(port, big))
            with uploads:
                r = paced(bench.lab, port, "/json/v1/chat/completions", file,
                          CONNS, RATE, RATE * seconds)
            r["uploads"] = 0 if alone else uploads.done
            if r["failed"]:
                raise Trouble("%s: %d requests failed\n%s"
                              % (target, r["failed"], nginx.log()))
            got[target].append(r)
    bench.settled(bench.targets["full"][1])
    return got


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=int, default=4)
    p.add_argument("--alone", action="store_true", help="without uploads")
    args = p.parse_args()

    import run                       # which imports this file

    with Lab(run.HERE) as lab:
        try:
            bench = run.Bench(lab, SimpleNamespace(no_lua=True))
            got = measure(bench, args.rounds, args.seconds, args.alone)
        except Trouble as e:
            sys.exit(str(e))

    for target, rounds in got.items():
        m = {k: statistics.median(r[k] for r in rounds)
             for k in ("p50", "p99", "uploads")}
        print("%-7s p50 %6.0f us   p99 %6.0f us   %2.0f bodies a round" % (
            {"full": "module"}.get(target, target), m["p50"] * 1e6,
            m["p99"] * 1e6, m["uploads"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
