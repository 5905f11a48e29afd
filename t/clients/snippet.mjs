// The snippets of Lunary's page on user tracking, in JavaScript, run as they
// stand there.  Arguments: which one, nginx's URL, the ingest endpoint's URL.

import { webcrypto } from 'node:crypto';
import { createRequire } from 'node:module';
import path from 'node:path';

// browsers and Node 20 have it; Debian 12's Node 18 hides it
globalThis.crypto ??= webcrypto;

const [which, base, ingest] = process.argv.slice(2);
Object.assign(process.env, {
  OPENAI_API_KEY: 'sk-test',
  OPENAI_BASE_URL: base + '/v1',
  LUNARY_PUBLIC_KEY: 'k',
  LUNARY_API_URL: ingest,
});

const require = createRequire(path.join(process.env.NODE_MODULES, 'x.js'));
const load = async (name) => require(name);

const messages = [{ role: 'user', content: 'Hello, world!' }];
const headers = { 'X-Lunary-User-Id': 'user123' };

const snippets = {
  async openai() {
    const { default: OpenAI } = await load('openai');
    const { monitorOpenAI } = await load('lunary/openai');
    const openai = monitorOpenAI(new OpenAI());

    await openai.chat.completions.create({
      model: 'gpt-4o',
      messages,
      user: 'user123',
      userProps: { name: 'John Doe' },
    });
  },

  async langchain() {
    const { ChatOpenAI } = await load('@langchain/openai');
    const { LunaryHandler } = await load('lunary/langchain');
    const chat = new ChatOpenAI({
      model: 'gpt-4o',
      callbacks: [new LunaryHandler()],
    });

    await chat.invoke('Hello, world!', {
      metadata: { userId: 'user123', userProps: { name: 'John Doe' } },
    });
  },

  async langchain_headers() {
    const { ChatOpenAI } = await load('@langchain/openai');
    const chat = new ChatOpenAI({
      model: 'gpt-4o',
      configuration: { defaultHeaders: headers },
    });

    await chat.invoke('Hello, world!');
  },

  async identify() {
    const { default: OpenAI } = await load('openai');
    const { default: lunary } = await load('lunary');
    const { monitorOpenAI } = await load('lunary/openai');
    const openai = monitorOpenAI(new OpenAI());

    const agent = lunary.wrapAgent(async function agent() {
      await openai.chat.completions.create({ model: 'gpt-4o', messages });
    });
    await agent().identify('user123', { email: 'a@b.example' });
    await lunary.flush();
  },

  async identify_headers() {
    const { default: OpenAI } = await load('openai');
    const { monitorOpenAI } = await load('lunary/openai');
    const openai = monitorOpenAI(new OpenAI({ defaultHeaders: headers }));

    await openai.chat.completions.create({ model: 'gpt-4o', messages });
  },

  async frontend() {
    const lunary = await load('lunary/browser');
    lunary.init({ appId: 'k', apiUrl: ingest });

    lunary.identify('user123', { name: 'John Doe' });
    lunary.trackEvent('custom', 'custom-event', {
      runId: crypto.randomUUID(), name: 'clicked' });
    await lunary.flush();
  },

  async thread() {
    const { default: lunary } = await load('lunary');

    const thread = lunary.openThread({
      userId: 'user123',
      userProps: { name: 'John Doe' },
    });
    thread.trackMessage({ role: 'user', content: 'Hello' });
    await lunary.flush();
  },
};

await snippets[which]();
