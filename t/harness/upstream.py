"""The stand-in upstream as a fixture: what it answers is up to the test."""

import threading

from upstream.server import Answer, Server
from upstream.standin import standin

from .wait import wait_for


class Upstream:
    """Answers as the stand-in LLM service does until a test says otherwise:

    answer(...)    what every request gets from now on: an Answer, its
                   arguments, or a function of the request
    once(...)      what the next request gets, queued
    requests       what was received, oldest first
    """

    def __init__(self, **kw):
        self._lock = threading.Lock()
        self.server = Server(self._handle, received=self._received, **kw)
        self.server.start()
        self.clear()

    def clear(self):
        with self._lock:
            self.requests = []
            self._next = []
            self._always = None

    @property
    def port(self):
        return self.server.port

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.port}"

    def _received(self, request):
        with self._lock:
            self.requests.append(request)

    async def _handle(self, request):
        with self._lock:
            answer = self._next.pop(0) if self._next else self._always
        if answer is None:
            return await standin(request)
        return answer(request) if callable(answer) else answer

    @staticmethod
    def _made(args, kw):
        if len(args) == 1 and (isinstance(args[0], Answer)
                               or callable(args[0])):
            return args[0]
        return Answer(*args, **kw)

    def answer(self, *args, **kw):
        self._always = self._made(args, kw)

    def once(self, *args, **kw):
        with self._lock:
            self._next.append(self._made(args, kw))

    def wait(self, n=1):
        """The requests, once there are n."""
        wait_for(lambda: len(self.requests) >= n, what=f"{n} requests")
        return self.requests

    @property
    def last(self):
        return self.requests[-1]

    def stop(self):
        self.server.stop()
