"""An HTTP/1.1 server that says exactly the bytes it is told to, when told.

It owns the transport: reading requests as they are on the wire (every byte
kept) and writing answers piece by piece.  It knows nothing of LLMs.

An Answer's body is bytes, or a list of pieces: bytes (each written, and
flushed, on its own), a Gate (waits until the test opens it), a Pause, and at
the end CUT (the connection is closed early), RESET (with a TCP reset) or
STALL (nothing more comes until the peer leaves).
"""

import asyncio
import gzip
import json
import socket
import struct
import threading

CUT = object()
RESET = object()
STALL = object()

REASONS = {200: "OK", 201: "Created", 204: "No Content", 206:
           "Partial Content", 304: "Not Modified", 400: "Bad Request",
           401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
           429: "Too Many Requests", 500: "Internal Server Error",
           503: "Service Unavailable", 529: "Overloaded"}


class Pause:
    """Waits; for demos and soaks, not for tests."""

    def __init__(self, seconds):
        self.seconds = seconds


class Gate:
    """A place in an answer where the server waits for the test."""

    def __init__(self):
        self._reached = threading.Event()
        self._open = threading.Event()

    def open(self):
        self._open.set()

    def wait(self, timeout=10):
        """Until the server has written everything before the gate."""
        assert self._reached.wait(timeout), "the answer got not this far"

    async def pass_through(self):
        self._reached.set()
        while not self._open.is_set():
            await asyncio.sleep(0.002)


class Request:
    """What was received.  `raw` is every byte of the head, `wire` every byte
    of the body with its framing, `body` the body without it."""

    def __init__(self, raw):
        self.raw = raw
        lines = raw.split(b"\r\n")
        self.method, self.target, self.version = (
            lines[0].decode("latin-1").split(" ", 2))
        self.path, _, self.query = self.target.partition("?")
        self.headers = []
        for line in lines[1:]:
            if line:
                name, _, value = line.decode("latin-1").partition(":")
                self.headers.append((name, value.strip()))
        self.body = b""
        self.wire = b""
        self.complete = False

    def header(self, name, default=None):
        for n, v in self.headers:
            if n.lower() == name.lower():
                return v
        return default

    def header_values(self, name):
        return [v for n, v in self.headers if n.lower() == name.lower()]

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.method} {self.target}, {len(self.body)} bytes>"


class Answer:
    """One answer.  framing: `length`, `chunked` (each piece one chunk),
    `close` (the end of the connection is the end of the body)."""

    def __init__(self, body=b"", status=200, headers=(), framing=None,
                 content_type=None, head=None, close=False):
        if isinstance(body, (dict, list)) and not (
                isinstance(body, list) and _pieces(body)):
            body = json.dumps(body).encode()
            content_type = content_type or "application/json"
        if isinstance(body, str):
            body = body.encode()

        self.status = status
        self.headers = list(headers.items()
                            if isinstance(headers, dict) else headers)
        self.pieces = [body] if isinstance(body, bytes) else body
        if framing is None:
            framing = "length" if isinstance(body, bytes) else "chunked"
        self.framing = framing
        self.head = head
        self.close = close or framing == "close"
        if content_type:
            self.headers.insert(0, ("Content-Type", content_type))

    def head_bytes(self):
        if self.head is not None:
            return self.head
        lines = [f"HTTP/1.1 {self.status} {REASONS.get(self.status, 'X')}"]
        names = {n.lower() for n, _ in self.headers}
        if "date" not in names:
            lines.append("Date: Sat, 01 Jan 2022 00:00:00 GMT")
        lines += [f"{n}: {v}" for n, v in self.headers]
        if self.framing == "length" and "content-length" not in names:
            if self.status not in (204, 304):
                n = sum(len(p) for p in self.pieces if isinstance(p, bytes))
                lines.append(f"Content-Length: {n}")
        elif self.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
        if self.close:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _pieces(value):
    return all(isinstance(p, (bytes, Gate, Pause))
               or p in (CUT, RESET, STALL) for p in value)


def sse(*events, done=True, eol="\n"):
    """Server-sent events, one piece each; dicts become JSON; a pair is
    (event name, data)."""
    pieces = []
    for event in events:
        if isinstance(event, (Gate, Pause)) or event in (CUT, RESET, STALL):
            pieces.append(event)
            continue
        name = None
        if isinstance(event, tuple):
            name, event = event
        if not isinstance(event, str):
            event = json.dumps(event)
        head = f"event: {name}{eol}" if name else ""
        pieces.append(f"{head}data: {event}{eol}{eol}".encode())
    if done:
        pieces.append(f"data: [DONE]{eol}{eol}".encode())
    return pieces


def split(data, how, rng=None):
    """Cuts bytes: "whole", "bytes" (one at a time), a size, or with a
    random.Random in pieces of 1 to 97 bytes."""
    if how == "whole":
        return [data]
    if how == "bytes":
        how = 1
    if isinstance(how, int):
        return [data[i:i + how] for i in range(0, len(data), how)]
    out, i = [], 0
    while i < len(data):
        n = rng.randint(1, 97)
        out.append(data[i:i + n])
        i += n
    return out


def gzipped(data):
    return gzip.compress(data, mtime=0)


class Server:
    """Runs in a thread of its own; handler(request) is a coroutine that
    returns an Answer; received(request) is called when a head is there."""

    def __init__(self, handler, host="127.0.0.1", port=0, path=None, ssl=None,
                 received=None):
        self.handler = handler
        self.received = received
        self.host = host
        self.port = port
        self.path = path
        self.ssl = ssl
        self._tasks = set()

    def start(self):
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._main, args=(started,), daemon=True)
        self._thread.start()
        started.wait()
        if self._error:
            raise self._error
        return self

    def stop(self):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _main(self, started):
        asyncio.set_event_loop(self._loop)
        self._error = None
        try:
            server = self._loop.run_until_complete(self.listen())
        except OSError as e:
            self._error = e
            started.set()
            return
        started.set()
        self._loop.run_forever()

        server.close()
        for task in list(self._tasks):
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(
            *self._tasks, return_exceptions=True))
        self._loop.close()

    async def listen(self):
        if self.path:
            return await asyncio.start_unix_server(self._serve, self.path)
        server = await asyncio.start_server(
            self._serve, self.host, self.port, backlog=1024, ssl=self.ssl,
            limit=1 << 20)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader, writer):
        sock = writer.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False

        request = Request(head)
        if self.received:
            self.received(request)
        await self._read_body(reader, writer, request)

        answer = await self.handler(request)
        return await self._write(reader, writer, request, answer)

    async def _read_body(self, reader, writer, request):
        if request.header("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")

        if "chunked" in request.header("transfer-encoding", "").lower():
            wire, body = bytearray(), bytearray()
            size = None
            while size != 0:
                line = await reader.readline()
                size = int(line.split(b";")[0], 16)
                data = await reader.readexactly(size + 2)
                wire += line + data
                body += data[:size]
            request.wire, request.body = bytes(wire), bytes(body)
        else:
            left = int(request.header("content-length", 0))
            parts = []
            while left:
                data = await reader.read(min(left, 1 << 18))
                if not data:
                    request.body = request.wire = b"".join(parts)
                    raise ConnectionResetError
                parts.append(data)
                left -= len(data)
            request.body = request.wire = b"".join(parts)

        request.complete = True

    async def _write(self, reader, writer, request, answer):
        head = answer.head_bytes()
        pieces = [] if request.method == "HEAD" else list(answer.pieces)
        chunked = answer.framing == "chunked"

        # head and first piece leave together, as from most servers
        first = True
        for piece in pieces:
            if isinstance(piece, bytes):
                if chunked:
                    if not piece:
                        continue
                    piece = b"%x\r\n%s\r\n" % (len(piece), piece)
                writer.write(head + piece if first else piece)
                first = False
                await writer.drain()
                await asyncio.sleep(0)
                continue

            if first:
                writer.write(head)
                first = False
                await writer.drain()

            if isinstance(piece, Gate):
                await piece.pass_through()
            elif isinstance(piece, Pause):
                await asyncio.sleep(piece.seconds)
            elif piece is STALL:
                await reader.read(1)
                return False
            elif piece is RESET:
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER,
                    struct.pack("ii", 1, 0))
                writer.transport.abort()
                return False
            elif piece is CUT:
                return False

        if first:
            writer.write(head)
        if chunked and request.method != "HEAD":
            writer.write(b"0\r\n\r\n")
        await writer.drain()

        closing = request.header("connection", "").lower() == "close"
        return not (answer.close or closing or request.version == "HTTP/1.0")
