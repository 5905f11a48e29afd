#!/usr/bin/env node
// Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
//
// Counts runs and tokens per user, each run once, in Redis itself.
//
// A member of a consumer group.  The counters and the acknowledgement move in
// one step, a script, together with a mark that this run has been counted:
// whatever dies in between, and however often an entry is delivered, the
// counters are right.
//
//     npm install ioredis
//     node reader.mjs redis://127.0.0.1:6379/0
//
// Settings come from the environment:
//     STREAM    lunary:runs     the stream
//     GROUP     tally           the consumer group
//     CONSUMER  host-pid        this reader's name in it
//     PREFIX    tally           keys: tally:<app>:<user>, tally:seen:<run>
//     CLAIM_MS  60000           take over what was left this long
//     ONCE                      if set: end when nothing is left

import os from 'node:os';
import Redis from 'ioredis';

const env = process.env;
const stream = env.STREAM ?? 'lunary:runs';
const group = env.GROUP ?? 'tally';
const consumer = env.CONSUMER ?? `${os.hostname()}-${process.pid}`;
const prefix = env.PREFIX ?? 'tally';
const claimAfter = Number(env.CLAIM_MS ?? 60000);
const once = env.ONCE !== undefined;

// A mark need only outlive the time in which an entry can come again.
const MARK_SECONDS = 7 * 24 * 3600;

const redis = new Redis(process.argv[2] ?? 'redis://127.0.0.1:6379/0');

// KEYS: stream, mark, counters.  ARGV: group, entry id, mark's life,
// then name and amount of each counter.
redis.defineCommand('tally', {
  numberOfKeys: 3,
  lua: `
    if redis.call('SET', KEYS[2], 1, 'NX', 'EX', ARGV[3]) then
      for i = 4, #ARGV, 2 do
        redis.call('HINCRBY', KEYS[3], ARGV[i], ARGV[i + 1])
      end
    end
    return redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
  `,
});

let stopping = false;
for (const s of ['SIGTERM', 'SIGINT']) {
  process.on(s, () => { stopping = true; });
}

// [name, value, name, value, ...] as Redis sends it
function object(list) {
  const o = {};
  for (let i = 0; i + 1 < list.length; i += 2) {
    o[list[i]] = list[i + 1];
  }
  return o;
}

async function take([id, list]) {
  // trimmed after it was delivered, or no run: nothing to count
  const run = list ? object(list) : {};

  if (run.kind !== 'run' || run.user_id === undefined) {
    await redis.xack(stream, group, id);
    return;
  }

  const counters = ['runs', 1];

  if (run.outcome !== 'ok') {
    counters.push(`outcome:${run.outcome}`, 1);
  }

  // an absent count is unknown: it is not added, and said to be missing
  for (const name of ['input_tokens', 'output_tokens']) {
    if (run[name] !== undefined) {
      counters.push(name, run[name]);
    } else if (run.outcome === 'ok') {
      counters.push(`missing:${name}`, 1);
    }
  }

  await redis.tally(stream, `${prefix}:seen:${run.run_id}`,
    `${prefix}:${run.app}:${run.user_id}`,
    group, id, MARK_SECONDS, ...counters);
}

async function claim() {
  let start = '0-0';

  do {
    const [next, entries] = await redis.xautoclaim(stream, group, consumer,
      claimAfter, start, 'COUNT', 100);

    for (const entry of entries.filter((e) => e !== null)) {
      await take(entry);
    }

    start = next;
  } while (start !== '0-0');
}

async function main() {
  try {
    await redis.xgroup('CREATE', stream, group, '0', 'MKSTREAM');
  } catch (e) {
    if (!e.message.startsWith('BUSYGROUP')) {
      throw e;
    }
  }

  while (!stopping) {
    await claim();

    // claims are looked for again, and signals heard, after at most 2 s
    const got = await redis.xreadgroup('GROUP', group, consumer,
      'COUNT', 100, ...(once ? [] : ['BLOCK', 2000]),
      'STREAMS', stream, '>');

    for (const [, entries] of got ?? []) {
      for (const entry of entries) {
        await take(entry);
      }
    }

    if (once && got === null) {
      break;
    }
  }

  await redis.quit();
}

main().catch((e) => {
  console.error(e.message);
  process.exitCode = 1;
  redis.disconnect();
});
