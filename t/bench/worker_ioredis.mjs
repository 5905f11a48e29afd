// Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
//
// The worker's two consumers as one writes them with ioredis: for
// worker_bench.py to compare with.
//
//     node worker_ioredis.mjs ledger|relay SOCKET [API]

import http from "node:http";
import { createRequire } from "node:module";
import zlib from "node:zlib";

const require = createRequire(process.env.NODE_BASE + "/");
const Redis = require("ioredis");

const COUNT = `
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('HINCRBY', KEYS[2], 'runs', 1)
redis.call('HINCRBY', KEYS[2], 'input_tokens', ARGV[3])
redis.call('HINCRBY', KEYS[2], 'output_tokens', ARGV[4])
redis.call('HSET', KEYS[2], 'last_seen', ARGV[5])
redis.call('ZADD', KEYS[3], 'GT', ARGV[5], ARGV[6])
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

async function ledger() {
  const sha = await redis.script("LOAD", COUNT);
  for await (const entries of batches()) {
    const pipe = redis.pipeline();
    for (const [id, f] of entries) {
      pipe.evalsha(sha, 3, "lunary:runs", `lunary:user:${f.app}:${f.user_id}`,
        `lunary:users:${f.app}`, group, id, f.input_tokens ?? 0,
        f.output_tokens ?? 0, f.ended_at, f.user_id);
    }
    await pipe.exec();
  }
}

function events(f) {
  return [
    { event: "start", type: f.type, runId: f.run_id,
      timestamp: +f.started_at, name: f.model, input: JSON.parse(f.input),
      params: JSON.parse(f.params ?? "{}"), userId: f.user_id,
      userProps: JSON.parse(f.user_props ?? "{}") },
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

async function relay() {
  for await (const entries of batches()) {
    const body = JSON.stringify({ events: entries.flatMap(([, f]) =>
      events(f)) });
    const { results } = await post(zlib.gzipSync(body, { level: 1 }));
    if (!results.every(x => x.success)) throw new Error("refused");
    await redis.xack("lunary:runs", group, ...entries.map(([id]) => id));
  }
}

await (what === "ledger" ? ledger() : relay());
redis.disconnect();
agent.destroy();
