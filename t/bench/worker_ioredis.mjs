// Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
//
// The worker's two consumers as one writes them with ioredis, with the same
// keys in the end: for worker_bench.py to compare with.  They leave out what
// costs the worker time as well: bounds of unverified users, a price table,
// threads, parents, failures.
//
//     node worker_ioredis.mjs ledger|relay SOCKET [API]

import http from "node:http";
import { createRequire } from "node:module";
import zlib from "node:zlib";

const require = createRequire(process.env.NODE_BASE + "/");
const Redis = require("ioredis");

const COUNT = `
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
`;

const [what, socket, api] = process.argv.slice(2);
const redis = new Redis({ path: socket });
const group = "node-" + what;

async function* batches() {
  await redis.xgroup("CREATE", "lunary:runs", group, "0", "MKSTREAM")
    .catch(() => {});
  for (;;) {
    const got = await redis.xreadgroup("GROUP", group, "node", "COUNT", 500,
      "STREAMS", "lunary:runs", ">");
    if (!got) return;
    yield got[0][1].map(([id, list]) => {
      const f = {};
      for (let i = 0; i < list.length; i += 2) f[list[i]] = list[i + 1];
      return [id, f];
    });
  }
}

// dollars a million tokens, in and out
const PRICES = { "gpt-4o": [2.5, 10] };

function cost(f) {
  const [input, output] = PRICES[f.model] ?? [0, 0];
  return Math.round(((f.input_tokens ?? 0) * input
    + (f.output_tokens ?? 0) * output) * 1000);
}

async function ledger() {
  const sha = await redis.script("LOAD", COUNT);
  for await (const entries of batches()) {
    const pipe = redis.pipeline();
    for (const [id, f] of entries) {
      const day = new Date(+f.started_at).toISOString().slice(0, 10);
      pipe.evalsha(sha, 5, "lunary:runs", `lunary:user:${f.app}:${f.user_id}`,
        `lunary:users:${f.app}`,
        `lunary:user-day:${f.app}:${f.user_id}:${day}`,
        `lunary:ledger:seen:${Math.floor(f.started_at / 600000)}`, group, id,
        f.run_id, f.input_tokens ?? 0, f.output_tokens ?? 0,
        f.duration_ms ?? 0, cost(f), f.started_at, f.ended_at,
        f.user_verified ?? 0, f.model, f.user_props ?? "", f.user_id);
    }
    await pipe.exec();
  }
}

function events(f, props) {
  return [
    { event: "start", type: f.type, runId: f.run_id,
      timestamp: +f.started_at, name: f.model, input: JSON.parse(f.input),
      params: JSON.parse(f.params ?? "{}"), userId: f.user_id,
      userProps: props },
    { event: "end", type: f.type, runId: f.run_id, timestamp: +f.ended_at,
      name: f.model, output: JSON.parse(f.output),
      tokensUsage: { prompt: +f.input_tokens,
                     completion: +f.output_tokens } },
  ];
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function post(body) {
  return new Promise((resolve, reject) => {
    const req = http.request(api + "/v1/runs/ingest", { agent,
      method: "POST", headers: { "Content-Type": "application/json",
        "Content-Encoding": "gzip", "Authorization": "Bearer key",
        "Content-Length": body.length } }, res => {
      const parts = [];
      res.on("data", p => parts.push(p));
      res.on("end", () => resolve(JSON.parse(Buffer.concat(parts))));
    });
    req.on("error", reject);
    req.end(body);
  });
}

const memory = f => `lunary:relay:run:${f.app}:${f.run_id}`;
const person = f => `lunary:user:${f.app}:${f.user_id}`;

async function merged(entries) {
  const people = [...new Set(entries.map(([, f]) => person(f)))];
  const had = redis.pipeline();
  for (const key of people) had.hget(key, "props");
  const props = new Map((await had.exec()).map(([, text], i) =>
    [people[i], JSON.parse(text ?? "{}")]));
  const before = new Map([...props].map(([k, v]) => [k, JSON.stringify(v)]));
  for (const [, f] of entries) {
    Object.assign(props.get(person(f)), JSON.parse(f.user_props ?? "{}"));
  }
  const changed = redis.pipeline();
  for (const [key, value] of props) {
    const text = JSON.stringify(value);
    if (text !== before.get(key)) changed.hset(key, "props", text);
  }
  await changed.exec();
  return props;
}

async function relay() {
  for await (const entries of batches()) {
    // runs that were sent before, and all that is known of the users
    const sent = await redis.mget(entries.map(([, f]) => memory(f)));
    const fresh = entries.filter((_, i) => sent[i] === null);
    const props = await merged(fresh);
    const body = JSON.stringify({ events: fresh.flatMap(([, f]) =>
      events(f, props.get(person(f)))) });
    const { results } = await post(zlib.gzipSync(body, { level: 1 }));
    if (!results.every(x => x.success)) throw new Error("refused");
    const pipe = redis.pipeline();
    for (const [, f] of fresh) {
      pipe.set(memory(f), `p ${f.started_at} ${f.user_id}`, "PX", 3600000);
    }
    pipe.xack("lunary:runs", group, ...entries.map(([id]) => id));
    await pipe.exec();
  }
}

await (what === "ledger" ? ledger() : relay());
redis.disconnect();
agent.destroy();
