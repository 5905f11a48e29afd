# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""A strict stand-in of Lunary's ingestion API, and of the state behind it.

It does what Lunary does with events: takes them in the order of their
timestamps, refuses a start that it has, drops an end whose start it has not
(after a stall), lets a parent's user override a child's, replaces props at
every event with a user, duplicates a chat that is sent again.  Where Lunary
would pass over a mistake in silence it is noted in `complaints`, so that a
test can demand that there are none.

    standin = Ingest(); standin.start() ... standin.stop()
    standin.runs["<uuid>"]["status"], standin.users[("key", "ann")]["props"]

fail(n, status) answers the next n requests with that status; refuse(id)
fails the events of a run one by one (event: of that kind only); room = n
takes so many events more, until its database is full; kill() closes the port,
start() opens the same one again with the same state.
"""

import gzip
import hashlib
import http.server
import json
import re
import socket
import threading
import time

MAX = 20 * 1024 * 1024
UUID = re.compile(r"^[0-9a-fA-F-]{36}$")


def camel(name):
    return re.sub(r"_([a-z0-9])", lambda m: m.group(1).upper(), name)


def camelized(value):
    if isinstance(value, dict):
        return {camel(k): camelized(v) for k, v in value.items()}
    if isinstance(value, list):
        return [camelized(v) for v in value]
    return value


def as_uuid(text):
    if len(text) == 36:
        return text
    h = hashlib.sha1(text.encode()).hexdigest()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:32]}"


def like(words):
    """SQL's `ilike '%words%'`."""
    return re.compile("".join(
        re.escape(escaped) if escaped else
        {"%": ".*", "_": "."}.get(one) or re.escape(one)
        for escaped, one in re.findall(r"\\(.)|(.)", f"%{words}%", re.S)),
        re.I | re.S)


class Ingest:
    def __init__(self, keys=("key",), stall=0.0):
        self.keys = set(keys)
        self.private_keys = {"private"}
        self.stall = stall            # Lunary's are 5 seconds
        self.lock = threading.RLock()
        self.runs = {}                # id: state
        self.users = {}               # (key, id): {"props", "id"}
        self.messages = []            # chat, in order; duplicates show
        self.feedback = {}
        self.events = []              # all that was taken, in order
        self.requests = []            # {"n", "gzip", "status"}
        self.complaints = []
        self.deleted = []
        self.failures = []            # statuses to answer next
        self.refused = {}             # run id: (error, event or None)
        self.room = None              # events until the database is full
        self.poison = None            # text that makes a request a 500
        self.mute = set()             # run ids that get no result
        self.asked = []               # queries of users, in order
        self.page = 10 ** 6           # users of an answer, whatever is asked
        self.instead = None           # a 200 of somebody else: its body
        self.retry_after = None
        self.delay = 0
        self.hang = None              # an Event: answers wait for it
        self.lose = 0                 # so many are handled, never answered
        self.max = MAX
        self.port = None
        self.server = None
        self.connections = 0

    # -- switches

    def fail(self, n, status=500):
        self.failures += [status] * n

    def refuse(self, run_id, error="Invalid event", event=None):
        self.refused[run_id] = error, event

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    # -- the server

    def start(self):
        standin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self):
                super().setup()
                standin.connections += 1

            def log_message(self, *_):
                pass

            def do_POST(self):
                standin.post(self)

            def do_GET(self):
                standin.get(self)

            def do_DELETE(self):
                standin.delete(self)

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64

            def get_request(self):
                pair = super().get_request()
                self.open.append(pair[0])
                return pair

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", self.port or 0), Handler,
                             bind_and_activate=False)
        self.server.open = []
        self.server.server_bind()
        self.server.server_activate()
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(
            target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self

    def kill(self):
        """Gone at once, connections cut; start() brings it back."""
        self.server.shutdown()
        self.server.server_close()
        for s in self.server.open:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    stop = kill

    # -- requests

    def answer(self, h, status, body=b"", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.requests.append({"path": h.path, "status": status,
                              "gzip": h.headers.get("Content-Encoding")})
        h.send_response(status)
        for name, value in headers.items():
            h.send_header(name.replace("_", "-"), str(value))
        h.send_header("Content-Type", "application/json")
        h.send_header("Content-Length", str(len(body)))
        h.end_headers()
        h.wfile.write(body)

    def key(self, h):
        auth = h.headers.get("Authorization", "")
        return auth[7:] if auth.startswith("Bearer ") else \
            h.headers.get("x-api-key")

    def post(self, h):
        body = h.rfile.read(int(h.headers.get("Content-Length", 0)))
        if self.delay:
            time.sleep(self.delay)
        if self.hang:
            self.hang.wait(30)
        if h.path != "/v1/runs/ingest":
            return self.answer(h, 404, {"error": "Not Found"})
        if self.failures:
            status = self.failures.pop(0)
            headers = {}
            if status == 429 and self.retry_after is not None:
                headers["Retry_After"] = self.retry_after
            return self.answer(h, status, {"error": "as told"}, **headers)
        if self.instead is not None:
            return self.answer(h, 200, self.instead)
        key = self.key(h)
        if key not in self.keys:
            return self.answer(h, 401, {"error": "Unauthorized"})
        if h.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if len(body) > self.max:
            return self.answer(h, 413, {"error": "Payload Too Large"})
        if self.poison and self.poison.encode() in body:
            return self.answer(h, 500, {"error": "Internal"})
        try:
            data = json.loads(body)
        except ValueError:
            self.complaints.append("not JSON")
            return self.answer(h, 400, {"error": "bad JSON"})
        if not isinstance(data, dict) or "events" not in data:
            self.complaints.append("no events")
            return self.answer(h, 500, {"error": "events"})
        events = data["events"]
        if not isinstance(events, list):
            events = [events]
        with self.lock:
            results = self.take(key, events)
        if self.lose:
            self.lose -= 1
            h.close_connection = True
            h.connection.shutdown(socket.SHUT_RDWR)
            return None
        self.answer(h, 200, {"results": results})

    def get(self, h):
        path, _, query = h.path.partition("?")
        if self.key(h) not in self.private_keys:
            return self.answer(h, 401, {"error": "Unauthorized"})
        if path == "/v1/external-users":
            from urllib.parse import parse_qs
            query = parse_qs(query)
            self.asked.append(query)
            search = like(query.get("search", [""])[0])
            limit = min(int(query.get("limit", ["100"])[0]), self.page)
            first = int(query.get("page", ["0"])[0]) * limit
            found = [{"id": u["id"], "externalId": uid, "props": u["props"]}
                     for (_, uid), u in self.users.items()
                     if search.fullmatch(uid)]
            return self.answer(h, 200, found[first:first + limit])
        self.answer(h, 404, {"error": "Not Found"})

    def delete(self, h):
        if self.key(h) not in self.private_keys:
            return self.answer(h, 401, {"error": "Unauthorized"})
        if self.failures:
            return self.answer(h, self.failures.pop(0))
        self.deleted.append(h.path)
        m = re.match(r"/v1/external-users/(\d+)$", h.path)
        if m:
            for name, u in list(self.users.items()):
                if u["id"] == int(m.group(1)):
                    del self.users[name]
            return self.answer(h, 204)
        m = re.match(r"/v1/runs/([0-9a-f-]{36})$", h.path)
        if m:
            self.runs.pop(m.group(1), None)
            return self.answer(h, 204)
        self.answer(h, 404, {"error": "Not Found"})

    # -- events

    def take(self, key, events):
        results = []
        for raw in sorted(events, key=lambda e: e.get("timestamp") or 0):
            e = camelized(raw)
            run_id = e.get("runId")
            if not isinstance(run_id, str) or not run_id:
                results.append({"id": run_id, "success": False,
                                "error": "runId is missing"})
                continue
            uid = as_uuid(run_id)
            if run_id in self.mute:
                continue
            error, what = self.refused.get(run_id, (None, None))
            if what not in (None, e.get("event")):
                error = None
            if self.room == 0 and not (e.get("event") in ("end", "error")
                                       and uid not in self.runs):
                error = f"Run with this ID already exists: {uid}" \
                    if e.get("event") == "start" and uid in self.runs else \
                    "cannot execute INSERT in a read-only transaction"
            error = error or self.one(key, uid, e)
            if error:
                results.append({"id": uid, "success": False, "error": error})
            else:
                self.events.append(raw)
                self.room = self.room and self.room - 1
                results.append({"id": uid, "success": True})
        return results

    def one(self, key, uid, e):
        kind, what = e.get("type"), e.get("event")
        if e.get("timestamp") is None:
            self.complaints.append(f"{what} without a timestamp")
        parent = e.get("parentRunId")
        if parent is not None:
            parent = as_uuid(parent)
        user = e.get("userId")
        if user is not None and not isinstance(user, str):
            self.complaints.append("userId is no string")
            user = None
        if user is not None and what not in ("end", "error"):
            self.identify(key, user, e.get("userProps"))

        if what == "start":
            if uid in self.runs:
                return f"Run with this ID already exists: {uid}"
            if parent and parent not in self.runs:
                self.complaints.append("a parent that is unknown")
                time.sleep(self.stall)
                parent = None
            if parent and self.runs[parent]["user"]:
                user = self.runs[parent]["user"]
            for v in (e.get("metadata") or {}).values():
                if isinstance(v, dict):
                    self.complaints.append("metadata is nested")
            self.runs[uid] = {
                "key": key, "type": kind, "name": e.get("name"),
                "input": e.get("input"), "user": user, "parent": parent,
                "params": e.get("params"), "tags": e.get("tags"),
                "metadata": e.get("metadata"), "status": "started",
                "start": e["timestamp"], "tokens": None, "output": None,
                "error": None, "ends": 0}
            return None

        if what in ("end", "error"):
            run = self.runs.get(uid)
            if run is None:
                self.complaints.append(f"{what} whose start is unknown")
                time.sleep(self.stall)
                return None
            if what == "end":
                run["ends"] += 1
                run["status"] = "success"
                run["end"] = e["timestamp"]
                run["output"] = e.get("output")
                run["tokens"] = e.get("tokensUsage")
            else:
                if not isinstance((e.get("error") or {}).get("message"), str):
                    return "error.message is missing"
                run["status"] = "error"
                run["error"] = e["error"]
            return None

        if what == "chat":
            if not parent:
                return "parentRunId is missing"
            if not isinstance(e.get("message"), dict):
                return "message is missing"
            self.messages.append({"thread": e["parentRunId"], "id": uid,
                                  "user": user, **e["message"]})
            return None

        if what == "feedback":
            self.feedback[uid] = e.get("feedback")
            return None
        return None

    def identify(self, key, user, props):
        had = self.users.setdefault((key, user), {
            "id": len(self.users) + 1, "props": None})
        if had["props"] and not props:
            self.complaints.append("props were lost")
        had["props"] = props
