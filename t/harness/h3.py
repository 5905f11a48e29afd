"""One HTTP/3 request, or several at once on one connection (aioquic)."""

import asyncio
import json as json_
import ssl

from . import SLOW
from .client import Response


def _protocol():
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.h3.connection import H3Connection
    from aioquic.h3.events import DataReceived, HeadersReceived
    from aioquic.quic.events import (ConnectionTerminated,
                                     ProtocolNegotiated, StreamReset)

    class Protocol(QuicConnectionProtocol):
        http = None
        hook = None
        waiting = {}

        def quic_event_received(self, event):
            if isinstance(event, ProtocolNegotiated):
                self.http = H3Connection(self._quic)
                self.waiting = {}
            elif isinstance(event, ConnectionTerminated):
                for _, done in self.waiting.values():
                    if not done.done():
                        done.set_result(None)
            elif isinstance(event, StreamReset):
                self._end(event.stream_id)
            if self.http is None:
                return
            for part in self.http.handle_event(event):
                if part.stream_id not in self.waiting:
                    continue
                response, _ = self.waiting[part.stream_id]
                if isinstance(part, HeadersReceived):
                    headers = [(n.decode(), v.decode())
                               for n, v in part.headers]
                    if dict(headers).get(":status", "").startswith("1"):
                        continue
                    response.headers += headers
                    if response.header(":status"):
                        response.status = int(response.header(":status"))
                elif isinstance(part, DataReceived) and part.data:
                    response.body += part.data
                    response.pieces.append(part.data)
                    if self.hook:
                        self.hook(response)
                if part.stream_ended:
                    response.complete = True
                    self._end(part.stream_id)

        def _end(self, stream):
            if stream in self.waiting and not self.waiting[stream][1].done():
                self.waiting[stream][1].set_result(None)

        def start(self, method, path, headers, pieces):
            stream = self._quic.get_next_available_stream_id()
            response = Response(b"HTTP/3 0\r\n")
            response.pieces = []
            done = asyncio.get_running_loop().create_future()
            self.waiting[stream] = response, done
            self.http.send_headers(stream, [
                (b":method", method.encode()), (b":scheme", b"https"),
                (b":authority", b"localhost"), (b":path", path.encode()),
                *((n.lower().encode(), v.encode()) for n, v in headers)],
                end_stream=not pieces)
            for i, piece in enumerate(pieces):
                self.http.send_data(stream, piece, i == len(pieces) - 1)
            self.transmit()
            return stream, response, done

        def leave(self, stream):
            self._quic.reset_stream(stream, 0x10c)
            self._quic.stop_stream(stream, 0x10c)
            self.transmit()

    return Protocol


def h3(port, *requests, leave_after=None, hook=None):
    """Each request: (method, path, headers, body), a body bytes, a list of
    them, a value for JSON, or None.  Their responses; leave_after: the
    streams are reset once so many bytes of an answer have come; hook(response)
    is called for each piece."""
    from aioquic.asyncio.client import connect
    from aioquic.h3.connection import H3_ALPN
    from aioquic.quic.configuration import QuicConfiguration

    async def talk():
        conf = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN,
                                 verify_mode=ssl.CERT_NONE,
                                 server_name="localhost")
        async with connect("127.0.0.1", port, configuration=conf,
                           create_protocol=_protocol()) as c:
            c.hook = hook
            made = []
            for method, path, headers, body in requests:
                headers = list(headers.items() if isinstance(headers, dict)
                               else headers)
                if isinstance(body, (dict, str)):
                    body = json_.dumps(body).encode()
                    headers.append(("content-type", "application/json"))
                pieces = ([] if body is None else
                          body if isinstance(body, list) else [body])
                made.append(c.start(method, path, headers, pieces))
            for stream, response, done in made:
                if leave_after is not None:
                    while len(response.body) < leave_after:
                        await asyncio.sleep(0.005)
                    c.leave(stream)
                else:
                    await done
            if leave_after is not None:
                await asyncio.sleep(0.05)
            return [response for _, response, _ in made]

    return asyncio.run(asyncio.wait_for(talk(), 20 * SLOW))
