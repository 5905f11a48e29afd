"""Who a request body says is calling, and what is taken out of it, beside
Python's json: random bodies, with every name of ours in odd places, written
with odd white space and odd escapes, fed whole and in random pieces."""

import ctypes
import json
import pathlib
import random
import shutil
import subprocess

import pytest

from harness import BUILD, ROOT

# the rooms that need no nginx
SOURCES = [str(path) for room in ("inspect", "run")
           for path in sorted((ROOT / "ngx_lunary_module" / room
                               ).rglob("*.c"))]

# lunary_member_e
TOP = """user_id userId user safety_identifier user_props userProps thread_id
    threadId parent_run_id parentRunId tags templateId metadata""".split()
METADATA = """user_id userId user_props userProps thread_id threadId
    parent_run_id parentRunId tags""".split()
BIT = {("", name): 1 + i for i, name in enumerate(TOP)}
BIT |= {("metadata", name): 14 + i for i, name in enumerate(METADATA)}
IDENTITY = set(TOP) - {"templateId", "metadata"}

pytestmark = pytest.mark.skipif(shutil.which("cc") is None,
                                reason="no C compiler")


class Str(ctypes.Structure):
    _fields_ = [("len", ctypes.c_size_t), ("data", ctypes.c_void_p)]

    def __bytes__(self):
        return ctypes.string_at(self.data, self.len) if self.len else b""


class Mem(ctypes.Structure):
    _fields_ = [("fn", ctypes.c_void_p), ("ctx", ctypes.c_void_p),
                ("used", ctypes.c_size_t), ("peak", ctypes.c_size_t)]


class Claims(ctypes.Structure):
    _fields_ = [(n, Str) for n in "user props thread parent tags".split()]


class Edit(ctypes.Structure):
    _fields_ = [("start", ctypes.c_uint64), ("end", ctypes.c_uint64),
                ("text", Str)]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("splice") / "lunary.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC",
                    f"-I{ROOT / 'ngx_lunary_module'}",
                    f"-I{ROOT / 'ngx_lunary_module' / 'inspect'}",
                    "-o", str(path), *SOURCES, "-lz"], check=True)
    lib = ctypes.CDLL(str(path))
    lib.lunary_request_create.restype = ctypes.c_void_p
    lib.lunary_request_claims.restype = ctypes.c_void_p
    lib.lunary_request_strip.restype = ctypes.c_size_t
    return lib


def inspect(lib, body, strip, pieces=None):
    """What the module makes of a body: claims, whether an identity came
    twice, and the body with members taken out."""
    mem = Mem()
    lib.lunary_mem_init(ctypes.byref(mem))
    rq = ctypes.c_void_p(lib.lunary_request_create(
        ctypes.byref(mem), ctypes.c_size_t(1 << 16), ctypes.c_size_t(0)))

    at = 0
    while at < len(body):
        piece = body[at:at + (pieces.randint(1, pieces.choice([1, 3, 20, 500]))
                              if pieces else len(body))]
        lib.lunary_request_feed(rq, piece, ctypes.c_size_t(len(piece)))
        at += len(piece)

    assert lib.lunary_request_finish(rq) == 0, body

    claims = Claims.from_address(lib.lunary_request_claims(rq))
    said = {name: bytes(getattr(claims, name)) for name, _ in Claims._fields_}

    edits = (Edit * 64)()
    n = lib.lunary_request_strip(rq, ctypes.c_uint32(strip), edits,
                                 ctypes.c_size_t(64))
    out, at = b"", 0
    for edit in edits[:n]:
        assert at <= edit.start < edit.end <= len(body)
        out += body[at:edit.start]
        at = edit.end
    out += body[at:]

    twice = bool(lib.lunary_request_duplicate(rq))
    lib.lunary_request_destroy(rq)
    assert mem.used == 0

    return said, twice, out


# ---- random bodies: objects are lists of pairs, so that names may repeat

def blank(r):
    return r.choice(["", "", "", " ", "\n ", "\t", "\r\n"])


def string(r, s):
    if r.random() < .7:
        return json.dumps(s, ensure_ascii=r.random() < .5)
    return '"' + "".join(
        f"\\u{ord(c):04x}" if ord(c) < 0xd800 and r.random() < .5
        else json.dumps(c, ensure_ascii=False)[1:-1] for c in s) + '"'


def write(r, value):
    if isinstance(value, tuple):
        return "{" + blank(r) + ",".join(
            blank(r) + string(r, k) + blank(r) + ":" + blank(r) + write(r, v)
            + blank(r) for k, v in value) + "}"
    if isinstance(value, list):
        return "[" + blank(r) + ",".join(
            blank(r) + write(r, v) + blank(r) for v in value) + "]"
    return string(r, value) if isinstance(value, str) else json.dumps(value)


def some(r, depth):
    dice = r.random()
    if depth and dice < .2:
        return tuple((r.choice(TOP + ["x", "role"]), some(r, depth - 1))
                     for _ in range(r.randint(0, 4)))
    if depth and dice < .35:
        return [some(r, depth - 1) for _ in range(r.randint(0, 4))]
    return r.choice(["", "a", "bob", "é", "  ", "x" * 256, "x" * 257,
                     "x" * 2000, None, 1, 2.5, True, "\u200b", 't"q\\', "😀"])


def body_of(r):
    names = [r.choice(TOP + ["x", "model", "messages", "stream", "User_Id"])
             for _ in range(r.randint(0, 8))]
    if r.random() < .8:
        names = list(dict.fromkeys(names))
    members = []
    for name in names:
        value = some(r, 2)
        if name == "metadata" and r.random() < .8:
            value = tuple((k, some(r, 2)) for k in dict.fromkeys(
                r.choice(METADATA + ["zz"]) for _ in range(r.randint(0, 4))))
        members.append((name, value))
    return tuple(members), write(r, tuple(members)).encode()


# ---- what should come of them

def first_string(body, names):
    for name in names:
        value = body
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, str) and value:
            return value
    return ""


def user_of(body):
    user = first_string(body, ["user_id", "userId", "user",
                               "safety_identifier", "metadata.user_id",
                               "metadata.userId"])
    good = user.strip() and len(user.encode()) <= 256 and "\u200b" not in user
    return user.encode() if good else b""


def came_twice(members):
    def twice(pairs):
        names = [k.lower() for k, _ in pairs
                 if k in IDENTITY or k == "User_Id"]
        return len(names) != len(set(names))

    metadata = [v for k, v in members
                if k == "metadata" and isinstance(v, tuple)]
    count = sum(k == "metadata" for k, _ in members)
    return (twice(members) or any(twice(m) for m in metadata)
            or count > 1 and any(k in METADATA for m in metadata
                                 for k, _ in m))


def pairs_of(text):
    return json.loads(text, object_pairs_hook=lambda pairs: tuple(pairs))


def without(members, strip):
    left = []
    for name, value in members:
        if ("", name) in BIT and strip >> BIT["", name] & 1:
            continue
        if name == "metadata" and isinstance(value, tuple):
            kept = tuple((k, v) for k, v in value
                         if not strip >> BIT.get(("metadata", k), 31) & 1)
            if value and not kept:
                continue
            value = kept
        left.append((name, value))
    return tuple(left)


@pytest.mark.parametrize("seed", range(8))
def test_bodies_are_read_and_spliced_as_python_would(library, seed):
    r = random.Random(seed)
    removed = claimed = 0

    for _ in range(500):
        members, body = body_of(r)
        strip = sum(1 << bit for bit in range(1, 23) if r.random() < .5)

        said, twice, out = inspect(library, body, strip)

        assert inspect(library, body, strip, r) == (said, twice, out), body
        assert said["user"] == user_of(json.loads(body)), body
        assert twice == came_twice(members), body
        assert pairs_of(out) == without(pairs_of(body), strip), (body, out)

        removed += out != body
        claimed += said["user"] != b""

    # the bodies were not all alike
    assert removed > 100 and claimed > 50


def test_an_edit_touches_nothing_else(library):
    """What is left are the original bytes, odd ones too."""
    body = (b'{ "a" :\t"\\ud800 \\/ \xf0\x9f\x98\x80" , "user_id" : [ 1 ,2],\n'
            b' "b":1.50e+1, "tags" : "x" }')
    out = inspect(library, body, (1 << BIT["", "user_id"])
                  | (1 << BIT["", "tags"]))[2]
    assert out == (b'{ "a" :\t"\\ud800 \\/ \xf0\x9f\x98\x80" , "b":1.50e+1 }')
