"""For the tests of client/ and outbox/: an nginx with t/tools/
nginx_outbox_test, whose /append puts records into the outbox, so that a test
makes thousands in a second and knows each by its id."""

import collections
import fcntl
import json
import os
import random
import select
import socket
import struct
import subprocess
import threading
import time

import pytest
import redis as redis_py

from . import BUILD, NGINX_BIN, ROOT
from .client import Cut
from .wait import wait_for

CONFIG = """
{{ globals }}
{{ main | default("") }}
http {
    {{ http }}
    {{ more | default("") }}
    lunary_redis {{ redis }} {{ params | default("") }};
    lunary_stream {{ stream | default("lunary:runs") }};
    lunary_spool {{ spool | default(dir + "/spool size=4m") }};
    server {
        listen {{ listen }};
        location /append { outbox_test; }
        location /get { redis_test; }
        location /stats { stats_test; }
        location /die { die_test; }
    }
}
"""


def built(name):
    """The .so of t/tools/nginx_<name>_test, built for the nginx that the tests
    run."""
    tree = os.path.dirname(os.path.dirname(NGINX_BIN))
    if not os.path.exists(f"{tree}/objs/ngx_auto_config.h"):
        tree = BUILD / "nginx-debian"
    if not os.path.exists(f"{tree}/objs/ngx_auto_config.h"):
        pytest.skip("no configured nginx tree under build/: run make")
    flags = ""
    if "-asan" in str(tree):
        flags = "-fsanitize=address,undefined -fno-omit-frame-pointer"
    if "-tsan" in str(tree):
        flags = "-fsanitize=thread -fno-omit-frame-pointer"

    # several versions of nginx may have their trees here
    out = BUILD / f"{os.path.basename(tree)}-{name}-test.so"
    with open(f"{out}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            ["make", "-C", ROOT / f"t/tools/nginx_{name}_test",
             f"TREE={tree}", f"OUT={out}", f"CFLAGS={flags}",
             *(["CC=clang"] if flags else [])],
            capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(out)


@pytest.fixture(scope="session")
def outbox_module():
    return built("outbox")


@pytest.fixture
def outbox(nginx, outbox_module):
    """outbox(redis, workers=1, stream=…, spool=…, params=…) starts one."""

    def make(redis=None, config=CONFIG, start=True, **variables):
        if redis is not None:
            variables["redis"] = getattr(redis, "url", redis)
        one = nginx(config, module=outbox_module, start=start, **variables)
        one.spool = one.folder / "spool"
        return one

    return make


def append(nginx, id="r", n=1, size=100, more="", port=None):
    """The ids of the records that were taken."""
    with nginx.client(port) as c:
        answer = c.request("GET", f"/append?id={id}&n={n}&size={size}{more}")
    assert answer.status == 200
    return [f"{id}-{i}" for i in range(int(answer.body))]


def entries(redis, stream="lunary:runs"):
    """The ids in the stream, as they lie; None where Redis does not answer."""
    try:
        return [fields["run_id"] for _, fields in redis.client.execute_command(
            "XRANGE", stream, "-", "+")]
    except (redis_py.exceptions.ConnectionError,
            redis_py.exceptions.BusyLoadingError, OSError):
        return None


def once(redis, ids, timeout=10, stream="lunary:runs", maybe=()):
    """Waits until every id is in the stream; then each must be there once,
    and nothing else but, perhaps, ids of `maybe`."""
    ids = set(ids)

    def there():
        found = entries(redis, stream)
        return found is not None and ids <= set(found)

    try:
        wait_for(there, timeout, f"{len(ids)} entries")
    except AssertionError:
        found = entries(redis, stream) or []
        missing = sorted(ids - set(found))
        raise AssertionError(f"{len(missing)} of {len(ids)} are missing: "
                             f"{missing[:10]}") from None
    found = entries(redis, stream)
    twice = [i for i, n in collections.Counter(found).items() if n > 1]
    assert not twice, f"{len(twice)} are there more than once: {twice[:10]}"
    strange = set(found) - ids - set(maybe)
    assert not strange, f"nobody made {sorted(strange)[:10]}"


def stats(nginx, port=None):
    with nginx.client(port) as c:
        return json.loads(c.request("GET", "/stats").body)


def total(counter):
    return sum(counter.values()) if isinstance(counter, dict) else counter


def balance(s):
    """The equation of the counters: both sides."""
    return (total(s["runs_total"]) + s["runs_recovered_total"],
            s["runs_sent_total"] + s["runs_spooled"]
            + total(s["runs_dropped_total"]))


def balanced(nginx, port=None):
    """Waits until nothing is under way; the counters must add up then."""
    wait_for(lambda: stats(nginx, port)["runs_spooled"] == 0, 10,
             "an empty spool")
    s = stats(nginx, port)
    left, right = balance(s)
    assert left == right, s
    return s


def spools(nginx):
    return sorted(p.name for p in nginx.spool.glob("*.spool"))


def watermarks(redis, pattern="lunary:outbox:*"):
    return sorted(redis.client.keys(pattern))


def crc32c(data):
    c = 0xffffffff
    for b in data:
        c ^= b
        for _ in range(8):
            c = (c >> 1) ^ (0x82f63b78 if c & 1 else 0)
    return c ^ 0xffffffff


def put_spool(nginx, id, target, shards=1, size=262144):
    """A spool of a dead worker without records, <id>.spool; its path."""
    target = target.encode()
    h = bytearray(512)
    h[0:8] = b"LUNSPOOL"
    struct.pack_into("<I", h, 8, 1)
    struct.pack_into("<QQ", h, 16, size, 0x1234567890)
    h[32:48] = bytes.fromhex(id)
    struct.pack_into("<QIH", h, 48, 1, shards, len(target))
    h[62:62 + len(target)] = target
    struct.pack_into("<I", h, 12, crc32c(bytes(h)))
    path = nginx.spool / f"{id}.spool"
    new = path.with_suffix(".new")
    with open(new, "wb", opener=lambda p, f: os.open(p, f, 0o600)) as f:
        f.truncate(size)
        f.write(h)
        f.seek(4096)
        f.write(h)
    new.rename(path)
    return path


class Load:
    """Appends all the time from some threads; remembers what was answered."""

    def __init__(self, nginx, threads=2, n=5, size=200, name="l", pause=0):
        self.nginx = nginx
        self.n, self.size, self.name, self.pause = n, size, name, pause
        self.answered = []
        self.unanswered = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(i,))
                        for i in range(threads)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.stopping.set()
        for t in self.threads:
            t.join()

    def run(self, number):
        i = 0
        while not self.stopping.is_set():
            i += 1
            id = f"{self.name}{number}.{i}"
            ids = [f"{id}-{k}" for k in range(self.n)]
            try:
                self.answered += append(self.nginx, id, self.n, self.size)
            except (OSError, AssertionError, ValueError, Cut):
                self.unanswered += ids
                self.stopping.wait(0.01)
            if self.pause:
                self.stopping.wait(self.pause)


class Proxy:
    """A TCP proxy in front of a Redis.  cut=(a, b): it resets a connection
    after a random number of bytes between a and b, counted both ways, at any
    byte; hold=seconds: what a client sent just before it went is delivered
    that much later.  poison=bytes: what holds them is not passed on but
    answered with an error.  late=seconds: of what Redis says at once, if it is
    more than 800 bytes, the last one comes that much after the others."""

    def __init__(self, port, cut=None, hold=0, seed=1, poison=None, late=0):
        self.target = port
        self.cut = cut
        self.hold = hold
        self.last = late
        self.poison = poison
        self.cuts = 0
        self.late = 0
        self.random = random.Random(seed)
        self.closing = False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closing = True
        self.listener.close()

    def accept(self):
        while not self.closing:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,),
                             daemon=True).start()

    def serve(self, client):
        try:
            server = socket.create_connection(("127.0.0.1", self.target), 2)
        except OSError:
            client.close()
            return
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        left = self.random.randint(*self.cut) if self.cut else None
        try:
            while True:
                ready, _, _ = select.select([client, server], [], [], 30)
                if not ready:
                    return
                for one in ready:
                    data = one.recv(65536)
                    if not data:
                        return
                    if left is not None:
                        left -= len(data)
                        if left < 0 and not self.hold:
                            data = data[:left]
                    if one is client and self.poison \
                            and self.poison in data:
                        client.sendall(b"-ERR does not compute\r\n")
                        continue
                    spent = left is not None and left <= 0
                    if one is client and self.hold and spent:
                        # the client goes, its words arrive later
                        self.reset(client)
                        time.sleep(self.hold)
                        server.sendall(data)
                        time.sleep(0.05)
                        self.late += 1
                        return
                    if one is server and self.last and len(data) > 800:
                        client.sendall(data[:-1])
                        time.sleep(self.last)
                        data = data[-1:]
                    (server if one is client else client).sendall(data)
                    if spent:
                        self.cuts += 1
                        return
        except OSError:
            pass
        finally:
            self.reset(client)
            server.close()

    @staticmethod
    def reset(one):
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                           struct.pack("ii", 1, 0))
        except OSError:
            pass
        one.close()
