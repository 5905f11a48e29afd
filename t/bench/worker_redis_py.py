# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""The worker's two consumers as one writes them with redis-py: for
worker_bench.py to compare with.

    worker_redis_py.py ledger|relay SOCKET [API]
"""

import gzip
import http.client
import json
import sys
from urllib.parse import urlsplit

import redis

COUNT = """
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('HINCRBY', KEYS[2], 'runs', 1)
redis.call('HINCRBY', KEYS[2], 'input_tokens', ARGV[3])
redis.call('HINCRBY', KEYS[2], 'output_tokens', ARGV[4])
redis.call('HSET', KEYS[2], 'last_seen', ARGV[5])
redis.call('ZADD', KEYS[3], 'GT', ARGV[5], ARGV[6])
return 1
"""


def batches(r, group):
    try:
        r.xgroup_create("lunary:runs", group, id="0", mkstream=True)
    except redis.ResponseError:
        pass
    while True:
        got = r.xreadgroup(group, "py", {"lunary:runs": ">"}, count=500)
        if not got:
            return
        yield (got["lunary:runs"][0] if isinstance(got, dict)
               else got[0][1])


def ledger(r):
    count = r.script_load(COUNT)
    for entries in batches(r, "py-ledger"):
        pipe = r.pipeline(transaction=False)
        for id, f in entries:
            app, user = f["app"], f["user_id"]
            pipe.evalsha(count, 3, "lunary:runs", f"lunary:user:{app}:{user}",
                         f"lunary:users:{app}", "py-ledger", id,
                         f.get("input_tokens", 0), f.get("output_tokens", 0),
                         f["ended_at"], user)
        pipe.execute()


def events(f):
    start = {"event": "start", "type": f["type"], "runId": f["run_id"],
             "timestamp": int(f["started_at"]), "name": f["model"],
             "input": json.loads(f["input"]),
             "params": json.loads(f.get("params", "{}")),
             "userId": f["user_id"],
             "userProps": json.loads(f.get("user_props", "{}"))}
    end = {"event": "end", "type": f["type"], "runId": f["run_id"],
           "timestamp": int(f["ended_at"]), "name": f["model"],
           "output": json.loads(f["output"]),
           "tokensUsage": {"prompt": int(f["input_tokens"]),
                           "completion": int(f["output_tokens"])}}
    return start, end


def relay(r, api):
    url = urlsplit(api)
    http_ = http.client.HTTPConnection(url.hostname, url.port)
    for entries in batches(r, "py-relay"):
        body = gzip.compress(json.dumps({"events": [
            e for _, f in entries for e in events(f)]}).encode(), 1)
        http_.request("POST", "/v1/runs/ingest", body, {
            "Content-Type": "application/json", "Content-Encoding": "gzip",
            "Authorization": "Bearer key"})
        results = json.loads(http_.getresponse().read())["results"]
        assert all(x["success"] for x in results)
        r.xack("lunary:runs", "py-relay", *[i for i, _ in entries])


r = redis.Redis(unix_socket_path=sys.argv[2], decode_responses=True)
if sys.argv[1] == "ledger":
    ledger(r)
else:
    relay(r, sys.argv[3])
