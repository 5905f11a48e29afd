"""Real calls through the real module, while things are killed: every call
that was answered is a run in the stream, once (ids compared); after kill -9 a
worker may have kept the one call to itself that it had answered and not yet
logged.  t/test_outbox_crash.py does the same with many more records."""

import collections
import json
import os
import signal
import threading

from harness.client import Cut
from harness.outbox import balance, entries
from harness.wait import wait_for

CONFIG = """
{{ globals }}
http {
    {{ http }}
    lunary_redis {{ redis }};
    lunary_stream lunary:runs maxlen=0 maxbytes=0;
    lunary_spool {{ dir }}/spool size=16m;
    keepalive_requests 100000;
    server {
        listen {{ listen }};
        location / {
            lunary on;
            lunary_run_header on;
            proxy_pass http://127.0.0.1:{{ port2 }};
        }
        location = /status { lunary_status json; }
    }
    server {
        listen 127.0.0.1:{{ port2 }};
        default_type application/json;
        location / {
            return 200 '{{ answer }}';
        }
    }
}
"""

ANSWER = {"id": "c", "object": "chat.completion", "model": "m-1",
          "choices": [{"index": 0, "finish_reason": "stop", "message": {
              "role": "assistant", "content": "Hi"}}],
          "usage": {"prompt_tokens": 1, "completion_tokens": 2,
                    "total_tokens": 3}}

BODY = {"model": "m", "user": "ada",
        "messages": [{"role": "user", "content": "Hello " * 20}]}


class Calls:
    """Calls all the time; remembers the run ids of the answers."""

    def __init__(self, nginx, threads=2):
        self.nginx = nginx
        self.answered = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.run)
                        for _ in range(threads)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for t in self.threads:
            t.join()

    def run(self):
        while not self.stopping.is_set():
            try:
                with self.nginx.client() as c:
                    while not self.stopping.is_set():
                        answer = c.request("POST", "/v1/chat/completions",
                                           json=BODY)
                        # 502: its upstream, the other worker, was killed
                        assert answer.status in (200, 502)
                        self.answered.append(
                            answer.header("x-lunary-run-id"))
            except (OSError, Cut):          # it was killed
                self.stopping.wait(0.01)

    def more(self, n=100):
        want = len(self.answered) + n
        wait_for(lambda: len(self.answered) >= want, 30, f"{n} more answers")


def compare(nginx, redis, calls, killed=0, timeout=15):
    answered = set(calls.answered)
    assert len(answered) == len(calls.answered) > 100

    def missing():
        found = entries(redis)
        return answered - set(found) if found is not None else answered

    wait_for(lambda: len(missing()) <= killed, timeout,
             f"the entries; {len(missing())} are missing")
    twice = [i for i, n in collections.Counter(entries(redis)).items()
             if n > 1]
    assert not twice
    wait_for(lambda: len(list((nginx.folder / "spool").glob("*.spool")))
             == nginx.variables["workers"], timeout,
             "the spools of the dead to be gone")
    wait_for(lambda: nginx.get("/status").json()["runs_spooled"] == 0)
    s = nginx.get("/status").json()
    left, right = balance(s)
    assert left == right, s
    if not s["runs_recovered_total"]:
        assert left == len(entries(redis)), s


def test_workers_killed(nginx, redis_server):
    redis = redis_server()
    nginx = nginx(CONFIG, workers=2, redis=redis.url, level="info",
                  answer=json.dumps(ANSWER))
    nginx.allow("exited on signal")
    killed = 0
    with Calls(nginx) as calls:
        for victims in (1, 1, 2, 1, 2):
            calls.more()
            for pid in nginx.workers()[:victims]:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            wait_for(lambda: len(nginx.workers()) == 2)
        calls.more()
    compare(nginx, redis, calls, killed)


def test_everything_killed(nginx, redis_server):
    redis = redis_server()
    nginx = nginx(CONFIG, workers=2, redis=redis.url, level="info",
                  answer=json.dumps(ANSWER))
    with Calls(nginx) as calls:
        calls.more()
        redis.pause()
        calls.more()
        nginx.kill()
        redis.resume()
        nginx.variables["workers"] = 1
        nginx.start()
        calls.more()
    compare(nginx, redis, calls, killed=2)


def test_redis_killed_with_its_log_synced_always(nginx, redis_server):
    redis = redis_server(appendonly="yes", appendfsync="always")
    nginx = nginx(CONFIG, workers=2, redis=redis.url, level="info",
                  answer=json.dumps(ANSWER))
    with Calls(nginx) as calls:
        for _ in range(3):
            calls.more()
            redis.kill()
            redis.mend_log()
            calls.more()
            redis.start()
        calls.more()
    compare(nginx, redis, calls)


def test_reloaded(nginx, redis_server):
    redis = redis_server()
    nginx = nginx(CONFIG, workers=2, redis=redis.url, level="info",
                  answer=json.dumps(ANSWER))
    with Calls(nginx) as calls:
        for workers in (1, 3, 2, 1, 2):
            calls.more(50)
            nginx.reload(workers=workers)
        calls.more(50)
    compare(nginx, redis, calls)
