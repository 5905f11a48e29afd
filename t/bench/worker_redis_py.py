# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""The worker's two consumers as one writes them with redis-py, with the same
keys in the end: for worker_bench.py to compare with.  They leave out what costs
the worker time as well: bounds of unverified users, a price table, threads,
parents, failures.

    worker_redis_py.py ledger|relay SOCKET [API]
"""

import gzip
import http.client
import json
import sys
import time
from urllib.parse import urlsplit

import redis

COUNT = """
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
if redis.call('SADD', KEYS[5], ARGV[3]) == 0 then return 0 end
redis.call('PEXPIRE', KEYS[5], 4200000)
local sums = {'runs', 1, 'input_tokens', ARGV[4], 'output_tokens', ARGV[5],
              'duration_ms', ARGV[6], 'cost_nano', ARGV[7]}
for _, key in ipairs({KEYS[2], KEYS[4]}) do
  for i = 1, #sums, 2 do
    redis.call('HINCRBY', key, sums[i], sums[i + 1])
  end
end
redis.call('PEXPIRE', KEYS[4], 7776000000)
redis.call('HSETNX', KEYS[2], 'first_seen', ARGV[8])
redis.call('HSET', KEYS[2], 'last_seen', ARGV[9], 'verified', ARGV[10])
redis.call('HINCRBY', KEYS[2], 'model:' .. ARGV[11], 1)
if ARGV[12] ~= '' then
  local props = cjson.decode(redis.call('HGET', KEYS[2], 'props') or '{}')
  for k, v in pairs(cjson.decode(ARGV[12])) do props[k] = v end
  redis.call('HSET', KEYS[2], 'props', cjson.encode(props))
end
redis.call('ZADD', KEYS[3], 'GT', ARGV[9], ARGV[13])
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


# dollars a million tokens, in and out
PRICES = {"gpt-4o": (2.5, 10)}


def cost(f):
    into, out = PRICES.get(f["model"], (0, 0))
    return round((int(f.get("input_tokens", 0)) * into
                  + int(f.get("output_tokens", 0)) * out) * 1000)


def ledger(r):
    count = r.script_load(COUNT)
    for entries in batches(r, "py-ledger"):
        pipe = r.pipeline(transaction=False)
        for id, f in entries:
            app, user = f["app"], f["user_id"]
            day = time.strftime("%Y-%m-%d",
                                time.gmtime(int(f["started_at"]) // 1000))
            pipe.evalsha(count, 5, "lunary:runs", f"lunary:user:{app}:{user}",
                         f"lunary:users:{app}",
                         f"lunary:user-day:{app}:{user}:{day}",
                         f"lunary:ledger:seen:{int(f['started_at']) // 600000}",
                         "py-ledger", id, f["run_id"],
                         f.get("input_tokens", 0), f.get("output_tokens", 0),
                         f.get("duration_ms", 0), cost(f), f["started_at"],
                         f["ended_at"], f.get("user_verified", 0), f["model"],
                         f.get("user_props", ""), user)
        pipe.execute()


def memory(f):
    return f"lunary:relay:run:{f['app']}:{f['run_id']}"


def person(f):
    return f"lunary:user:{f['app']}:{f['user_id']}"


def merged(r, entries):
    """The users' props: what Redis has, and what these entries add."""
    people = list({person(f): None for _, f in entries})
    pipe = r.pipeline(transaction=False)
    for key in people:
        pipe.hget(key, "props")
    had = dict(zip(people, pipe.execute()))
    props = {k: json.loads(v or "{}") for k, v in had.items()}
    for _, f in entries:
        props[person(f)].update(json.loads(f.get("user_props", "{}")))
    pipe = r.pipeline(transaction=False)
    for key, value in props.items():
        if json.dumps(value) != had[key]:
            pipe.hset(key, "props", json.dumps(value))
    pipe.execute()
    return props


def events(f, props):
    start = {"event": "start", "type": f["type"], "runId": f["run_id"],
             "timestamp": int(f["started_at"]), "name": f["model"],
             "input": json.loads(f["input"]),
             "params": json.loads(f.get("params", "{}")),
             "userId": f["user_id"],
             "userProps": props}
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
        sent = r.mget([memory(f) for _, f in entries])
        fresh = [e for e, s in zip(entries, sent) if s is None]
        props = merged(r, fresh)
        body = gzip.compress(json.dumps({"events": [
            e for _, f in fresh for e in events(f, props[person(f)])]}
        ).encode(), 1)
        http_.request("POST", "/v1/runs/ingest", body, {
            "Content-Type": "application/json", "Content-Encoding": "gzip",
            "Authorization": "Bearer key"})
        results = json.loads(http_.getresponse().read())["results"]
        assert all(x["success"] for x in results)
        pipe = r.pipeline(transaction=False)
        for _, f in fresh:
            pipe.set(memory(f), f"p {f['started_at']} {f['user_id']}",
                     px=3600000)
        pipe.xack("lunary:runs", "py-relay", *[i for i, _ in entries])
        pipe.execute()


r = redis.Redis(unix_socket_path=sys.argv[2], decode_responses=True)
if sys.argv[1] == "ledger":
    ledger(r)
else:
    relay(r, sys.argv[3])
