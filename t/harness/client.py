"""HTTP clients that send exact bytes and show exact bytes: HTTP/1.1 over a
plain socket, and HTTP/2 without TLS."""

import json as json_
import socket
import ssl as ssl_
import struct

from . import SLOW


class Response:
    """status, headers (list of pairs), body (framing taken off), wire (the
    body as it came, chunked framing included)."""

    def __init__(self, head):
        self.raw_head = head
        lines = head.decode("latin-1").split("\r\n")
        self.version, status, *_ = lines[0].split(" ", 2)
        self.status = int(status)
        self.headers = [tuple(s.strip() for s in line.split(":", 1))
                        for line in lines[1:] if line]
        self.body = b""
        self.wire = b""
        self.complete = False

    def header(self, name, default=None):
        for n, v in self.headers:
            if n.lower() == name.lower():
                return v
        return default

    def json(self):
        return json_.loads(self.body)

    @property
    def text(self):
        return self.body.decode()

    def __repr__(self):
        return f"<{self.status}, {len(self.body)} bytes>"


class Cut(Exception):
    """The connection ended before the response did."""


class Client:
    """One HTTP/1.1 connection.  `send` is raw bytes; `request` the usual."""

    def __init__(self, host, port, ssl=None, source=None, timeout=10):
        self.sock = socket.create_connection(
            (host, port), timeout=timeout * SLOW,
            source_address=(source, 0) if source else None)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if ssl:
            context = ssl if isinstance(ssl, ssl_.SSLContext) else \
                ssl_._create_unverified_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=host)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def reset(self):
        """Leaves with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                             struct.pack("ii", 1, 0))
        self.sock.close()

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)

    # -- sending

    def send(self, data):
        self.sock.sendall(data)

    def head(self, method, path, headers=(), body=None, chunked=False):
        """Bytes of a request head; lengths are added unless given."""
        headers = list(headers.items() if isinstance(headers, dict)
                       else headers)
        names = {n.lower() for n, _ in headers}
        if "host" not in names:
            headers.insert(0, ("Host", "localhost"))
        if chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        elif body is not None and "content-length" not in names:
            headers.append(("Content-Length", str(len(body))))
        lines = [f"{method} {path} HTTP/1.1",
                 *(f"{n}: {v}" for n, v in headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode(
            "utf-8", "surrogateescape")

    def request(self, method, path, headers=(), body=None, json=None,
                chunks=None, pieces=None):
        """Sends a request and reads its response.  json: a value, sent as
        such; chunks: bytes sent as chunked; pieces: the body, written piece
        by piece under one Content-Length."""
        headers = list(headers.items() if isinstance(headers, dict)
                       else headers)
        if json is not None:
            body = json_.dumps(json).encode()
        if isinstance(body, str):
            body = body.encode()
        if (body is not None or chunks or pieces) and not any(
                n.lower() == "content-type" for n, _ in headers):
            headers.append(("Content-Type", "application/json"))

        if chunks is not None:
            self.send(self.head(method, path, headers, chunked=True))
            for chunk in chunks:
                self.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.send(b"0\r\n\r\n")
        elif pieces is not None:
            self.send(self.head(method, path, headers, b"".join(pieces)))
            for piece in pieces:
                self.send(piece)
        else:
            head = self.head(method, path, headers, body)
            self.send(head + (body or b""))
        return self.read(method)

    # -- receiving

    def _more(self):
        data = self.sock.recv(65536)
        if not data:
            raise Cut
        self.buffer += data

    def _until(self, mark):
        while mark not in self.buffer:
            self._more()
        data, _, self.buffer = self.buffer.partition(mark)
        return data + mark

    def _exactly(self, n):
        while len(self.buffer) < n:
            self._more()
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def read_head(self):
        """The next response's head, interim ones passed over."""
        while True:
            response = Response(self._until(b"\r\n\r\n")[:-4])
            if response.status >= 200:
                return response

    def read_piece(self, response):
        """What has come of a response's body, at least a byte; b"" at its
        end.  For chunked ones, one chunk."""
        if "chunked" in response.header("transfer-encoding", ""):
            line = self._until(b"\r\n")
            size = int(line.split(b";")[0], 16)
            data = self._exactly(size + 2)
            response.wire += line + data
            piece = data[:size]
            response.complete = size == 0
        elif response.header("content-length") is not None:
            left = int(response.header("content-length")) - len(response.body)
            if left and not self.buffer:
                self._more()
            piece = self._exactly(min(left, len(self.buffer)))
            response.wire += piece
            response.complete = len(piece) == left
        else:
            try:
                if not self.buffer:
                    self._more()
                piece, self.buffer = self.buffer, b""
            except Cut:
                piece = b""
                response.complete = True
            response.wire += piece
        response.body += piece
        return piece

    def read(self, method="GET"):
        """The next response, whole, or as far as it came."""
        response = self.read_head()
        if method == "HEAD" or response.status in (204, 304):
            response.complete = True
            return response
        if response.header("content-length") == "0":
            response.complete = True
            return response
        try:
            while not response.complete:
                self.read_piece(response)
        except (Cut, ConnectionResetError):
            pass
        return response


class H2Client:
    """One HTTP/2 connection (prior knowledge, no TLS): exact frames."""

    def __init__(self, host, port, timeout=10):
        import h2.connection
        import h2.config
        self.sock = socket.create_connection((host, port), timeout * SLOW)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(
            client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.flush()
        self.streams = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def flush(self):
        self.sock.sendall(self.h2.data_to_send())

    def start(self, method, path, headers=(), end=False):
        """Sends the head of a request; its stream's number."""
        headers = headers.items() if isinstance(headers, dict) else headers
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, [
            (":method", method), (":path", path), (":scheme", "http"),
            (":authority", "localhost"),
            *((n.lower(), v) for n, v in headers)], end_stream=end)
        response = Response(b"HTTP/2 0\r\n")
        self.streams[stream] = response
        self.flush()
        return stream

    def data(self, stream, data, end=False):
        """Sends body bytes, as the peer's windows allow."""
        while data:
            n = min(len(data), self.h2.local_flow_control_window(stream),
                    self.h2.max_outbound_frame_size)
            if n == 0:
                self.pump()
                continue
            self.h2.send_data(stream, data[:n])
            data = data[n:]
            self.flush()
        if end:
            self.h2.end_stream(stream)
            self.flush()

    def reset(self, stream):
        self.h2.reset_stream(stream, 8)
        self.flush()

    def pump(self):
        import h2.events
        data = self.sock.recv(65536)
        if not data:
            raise Cut
        for event in self.h2.receive_data(data):
            response = self.streams.get(getattr(event, "stream_id", None))
            if isinstance(event, h2.events.ResponseReceived):
                response.headers = [(n, v) for n, v in event.headers]
                response.status = int(response.header(":status"))
            elif isinstance(event, h2.events.DataReceived):
                response.body += event.data
                self.h2.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id)
            elif isinstance(event, (h2.events.StreamEnded,
                                    h2.events.StreamReset)):
                response.complete = isinstance(event, h2.events.StreamEnded)
                response.closed = True
            elif isinstance(event, h2.events.ConnectionTerminated):
                raise Cut
        self.flush()

    def read(self, stream):
        response = self.streams[stream]
        while not getattr(response, "closed", False):
            self.pump()
        return response

    def request(self, method, path, headers=(), body=None, json=None,
                pieces=None):
        headers = list(headers.items() if isinstance(headers, dict)
                       else headers)
        if json is not None:
            body = json_.dumps(json).encode()
            headers.append(("content-type", "application/json"))
        pieces = pieces or ([body] if body is not None else [])
        stream = self.start(method, path, headers, end=not pieces)
        for i, piece in enumerate(pieces):
            self.data(stream, piece, end=i == len(pieces) - 1)
        return self.read(stream)
