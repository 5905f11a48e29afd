"""A server that is asked by FastCGI, SCGI or uwsgi, and answers as a CGI
program does.  It keeps what it was asked: the parameters, and the body.

FastCGI: its specification 1.0; SCGI: "SCGI: A Simple Common Gateway Interface
alternative"; uwsgi: "The uwsgi Protocol" of uWSGI's documentation."""

import socket
import struct
import threading

BEGIN, END, PARAMS, STDIN, STDOUT = 1, 3, 4, 5, 6


def _exactly(f, n):
    data = f.read(n)
    if len(data) != n:
        raise EOFError(f"{len(data)} of {n} bytes")
    return data


def _fastcgi(f):
    streams = {PARAMS: b"", STDIN: b""}
    ended = set()
    while len(ended) < 2:
        _, kind, ident, n, pad = struct.unpack("!BBHHBx", _exactly(f, 8))
        data = _exactly(f, n + pad)[:n]
        if kind in streams:
            streams[kind] += data
            if n == 0:
                ended.add(kind)
    pairs, text, at = [], streams[PARAMS], 0
    while at < len(text):
        lens = []
        for _ in range(2):
            if text[at] < 128:
                lens.append(text[at])
                at += 1
            else:
                lens.append(struct.unpack_from("!I", text, at)[0] & 0x7fffffff)
                at += 4
        pairs.append((text[at:at + lens[0]],
                      text[at + lens[0]:at + sum(lens)]))
        at += sum(lens)
    return pairs, streams[STDIN]


def _scgi(f):
    size = b""
    while (c := _exactly(f, 1)) != b":":
        size += c
    parts = _exactly(f, int(size)).split(b"\0")
    assert _exactly(f, 1) == b","
    pairs = list(zip(parts[0:-1:2], parts[1::2]))
    return pairs, _exactly(f, int(dict(pairs)[b"CONTENT_LENGTH"] or 0))


def _uwsgi(f):
    _, size, _ = struct.unpack("<BHB", _exactly(f, 4))
    text, pairs, at = _exactly(f, size), [], 0
    while at < size:
        pair = []
        for _ in range(2):
            n = struct.unpack_from("<H", text, at)[0]
            pair.append(text[at + 2:at + 2 + n])
            at += 2 + n
        pairs.append(tuple(pair))
    return pairs, _exactly(f, int(dict(pairs)[b"CONTENT_LENGTH"] or 0))


READ = {"fastcgi": _fastcgi, "scgi": _scgi, "uwsgi": _uwsgi}


def _record(kind, data):
    return struct.pack("!BBHHBx", 1, kind, 1, len(data), 0) + data


class Gateway:
    """protocol: "fastcgi", "scgi" or "uwsgi".  answers: of each request the
    bytes, a head as of CGI and a body; the last one also of all that follow.
    requests: of each a list of pairs (bytes) and a body."""

    def __init__(self, protocol, *answers):
        self.protocol, self.answers = protocol, list(answers)
        self.requests = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            with conn, conn.makefile("rb") as f:
                try:
                    self.requests.append(READ[self.protocol](f))
                except EOFError:
                    continue
                answer = self.answers[min(len(self.requests),
                                          len(self.answers)) - 1]
                if self.protocol == "fastcgi":
                    answer = (_record(STDOUT, answer) + _record(STDOUT, b"")
                              + _record(END, bytes(8)))
                conn.sendall(answer)

    def stop(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
