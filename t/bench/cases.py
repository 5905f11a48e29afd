# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""What the benchmarks measure: nginx's configuration, requests, cases, and what
they ought to reach."""

import json
import os
from typing import NamedTuple

CONFIG = """
daemon off;
%(user)s
worker_processes %(workers)d;
pid nginx.pid;
error_log error.log warn;
%(load)s

events {
    worker_connections 4096;
}

http {
    access_log              off;
    keepalive_timeout       600s;
    keepalive_requests      1000000000;
    client_max_body_size    64m;
    client_body_buffer_size 256k;
    client_body_temp_path   body;
    proxy_temp_path         proxy;
    fastcgi_temp_path       fastcgi;
    uwsgi_temp_path         uwsgi;
    scgi_temp_path          scgi;
    proxy_http_version      1.1;
    proxy_set_header        Connection "";
    proxy_buffers           8 64k;

%(http)s

    upstream fast {
        server 127.0.0.1:%(upstream)d;
        keepalive 512;
        keepalive_requests 1000000000;
    }

    upstream slow {
        server 127.0.0.1:%(slow)d;
        keepalive 512;
        keepalive_requests 1000000000;
    }
%(servers)s
}
"""

SERVER = """
    server {
        listen 127.0.0.1:%(port)d%(listen)s;
        %(lines)s

        location / {
            proxy_pass http://fast;
        }

        location /sse/ {
            proxy_buffering off;
            proxy_pass http://fast;
        }

        location /few/ {
            proxy_buffering off;
            proxy_pass http://fast;
        }

        location /slow/sse/ {
            proxy_buffering off;
            proxy_pass http://slow/sse/;
        }

        location = /lunary {
            %(status)s
        }
    }
"""


def chat(size, stream=False, turn=0):
    """A chat request of about that many bytes, in turns of so many; 0: of 400,
    a large one in turns of 4000."""
    words = ("The customer asks about an order that was placed last week and "
             "has not arrived. \"Please look it up\", she writes. ")
    turn = turn or (400 if size < 100000 else 4000)
    body = {"model": "gpt-4o-mini", "temperature": 0.7, "max_tokens": 512,
            "user": "user-4711", "messages": []}
    if stream:
        body["stream"] = True
    role = "system"
    length = len(json.dumps(body))
    while length < size:
        room = size - length - 34
        text = (words * (turn // len(words) + 1))[:min(turn, max(room, 1))]
        message = {"role": role, "content": text}
        length += len(json.dumps(message)) + (2 if body["messages"] else 0)
        body["messages"].append(message)
        role = "assistant" if role == "user" else "user"
    return json.dumps(body)


class Case(NamedTuple):
    body: str
    path: str                  # its first segment: see upstream.c
    conns: int
    variant: str               # of the module's configuration
    workers: int = 1


EMBEDDINGS = json.dumps({"model": "text-embedding-3-small",
                         "input": ["some words to embed, a line of text"] * 32,
                         "user": "user-4711"})

VARIANTS = {
    "full": "lunary on; lunary_capture_max 1m;",
    "cap32k": "lunary on; lunary_capture_max 32k;",
    "none": "lunary on; lunary_capture none;",
    "session": "lunary on; lunary_capture_max 1m; "
               "lunary_user session body; "
               "lunary_session sess:$cookie_sid format=json;",
}
VARIANTS["cached"] = (VARIANTS["session"]
                      + " lunary_session_cache zone=bench:1m;")
VARIANTS["nosession"] = VARIANTS["session"].replace("sess:", "none:")

CASES = {
    "chat 0.6 KB": Case(chat(620), "/json", 32, "full"),
    "chat 9 KB": Case(chat(9 * 1024), "/json", 32, "full"),
    "chat 213 KB": Case(chat(213 * 1024), "/json", 4, "full"),
    "chat 213 KB, capture_max 32k":
        Case(chat(213 * 1024), "/json", 4, "cap32k"),
    "identity only 0.6 KB": Case(chat(620), "/json", 32, "none"),
    "session look-up 0.6 KB": Case(chat(620), "/json", 32, "session"),
    "session from cache 0.6 KB": Case(chat(620), "/json", 32, "cached"),
    "no such session 0.6 KB": Case(chat(620), "/json", 32, "nosession"),
    "embeddings, 1 MB answer": Case(EMBEDDINGS, "/big", 8, "full"),
    "stream of 200 chunks": Case(chat(620, True), "/sse", 16, "full"),
    "200 streams at once": Case(chat(620, True), "/slow/sse", 200, "full"),
    "Redis dead 0.6 KB": Case(chat(620), "/json", 32, "dead"),
    "Redis stopped 0.6 KB": Case(chat(620), "/json", 32, "stopped"),
    "one connection 0.6 KB": Case(chat(620), "/json", 1, "full"),
    "two workers, chat 0.6 KB": Case(chat(620), "/json", 32, "full", 2),
    "two workers, chat 9 KB": Case(chat(9 * 1024), "/json", 32, "full", 2),
}

# beside these, the same requests at the same rate
RATES = ("chat 0.6 KB", "chat 9 KB", "chat 213 KB",
         "chat 213 KB, capture_max 32k", "identity only 0.6 KB")

# so many a second leave the machine idle
IDLE = ("chat 0.6 KB", "chat 9 KB")
IDLE_RATE = 500

# one short stream after the other
FIRST = Case(chat(620, True), "/few", 1, "full")

# requests a second of worker CPU beside plain nginx's: at least, strive for
AIMS = {
    "chat 0.6 KB": (0.75, 0.85),
    "chat 9 KB": (0.75, 0.85),
    "chat 213 KB": (0.45, 0.60),
    "chat 213 KB, capture_max 32k": (0.70, 0.85),
    "stream of 200 chunks": (0.85, 0.95),
    "identity only 0.6 KB": (0.85, 0.95),
}

# the same beside Lua's
LUA_AIMS = {
    "chat 0.6 KB": (3.5, 5),
    "chat 9 KB": (6, 8),
    "chat 213 KB": (10, 15),
}

# added on an idle machine, in seconds
LATENCY_AIMS = {"p50": 50e-6, "p99": 200e-6}


def nginx_config(ups, servers, load="", http="", workers=1):
    listen = " reuseport" if workers > 1 else ""
    return CONFIG % {
        "user": "user root;" if os.getuid() == 0 else "",
        "workers": workers, "load": load, "http": http,
        "upstream": ups[0], "slow": ups[1],
        "servers": "".join(SERVER % {"port": port, "lines": lines,
                                     "status": status, "listen": listen}
                           for port, lines, status in servers)}
