"""inspect/ without nginx: builds t/tools/lunary_inspect and talks to it.

    run(method="POST", path="/v1/chat/completions", request=b"{}",
        status=200, headers={"content-type": "application/json"},
        response=b"{}", split="bytes")  ->  what the tool prints, as a dict

LUNARY_INSPECT names another binary (a sanitizer build).
"""

import json
import os
import pathlib
import subprocess

from . import BUILD, ROOT

TOOLS = ROOT / "t" / "tools"
BINARY = pathlib.Path(os.environ.get("LUNARY_INSPECT")
                      or BUILD / "tools" / "lunary_inspect")


def build():
    """The binary, built where it is not; raises with make's output."""
    if os.environ.get("LUNARY_INSPECT"):
        return BINARY
    done = subprocess.run(["flock", "-w", "600", str(TOOLS),
                           "make", "-C", str(TOOLS), "-j2",
                           f"BUILD={BINARY.parent}"],
                          capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return BINARY


def entry(name, value):
    if isinstance(value, int):
        value = str(value)
    if isinstance(value, str):
        value = value.encode()
    return b"%s %d\n%s\n" % (name.encode(), len(value), value)


def record(method="POST", path="/", request=b"", request_type=None,
           request_encoding=None, status=None, headers=None, response=b"",
           **more):
    """One record in the tool's own form; `more` are its other entries."""
    out = [entry("method", method), entry("path", path),
           entry("request", request)]
    if request_type is not None:
        out.append(entry("request-type", request_type))
    if request_encoding is not None:
        out.append(entry("request-encoding", request_encoding))
    if status is not None:
        out.append(entry("status", status))
        out.append(entry("response", response))
        for name, value in (headers or {}).items():
            out.append(entry("header", f"{name}: {value}"))
    for name, value in more.items():
        out.append(entry(name.replace("_", "-"), value))
    return b"".join(out) + b"run\n"


class Inspector:
    """One process of the tool, kept over many records."""

    def __init__(self):
        self.process = subprocess.Popen([str(build())],
                                        stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)

    def raw(self, **what):
        self.process.stdin.write(record(**what))
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "lunary_inspect died"
        return line

    def run(self, **what):
        line = self.raw(**what)
        return json.loads(line.decode("utf-8"))

    def close(self):
        self.process.stdin.close()
        status = self.process.wait(60)
        assert status == 0, f"lunary_inspect ended with {status}"
