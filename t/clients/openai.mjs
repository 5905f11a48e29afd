// One call with the official client, and what it made of the answer, as JSON.
// Arguments: nginx's URL, and chat, stream, tools or anonymous.

import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(path.join(process.env.NODE_MODULES, 'x.js'));
const OpenAI = require('openai');

const [url, what] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'sk-x' });
const messages = [{ role: 'user', content: 'hi there' }];
const call = { model: 'gpt-4o', messages, user: 'u1' };

const calls = {
  async chat() {
    const answer = await client.chat.completions.create(call);
    return { content: answer.choices[0].message.content };
  },
  async stream() {
    let content = '';
    let usage = null;
    const stream = await client.chat.completions.create({
      ...call, stream: true, stream_options: { include_usage: true },
    });
    for await (const chunk of stream) {
      content += chunk.choices[0]?.delta?.content ?? '';
      usage = chunk.usage ?? usage;
    }
    return { content, usage };
  },
  async tools() {
    const answer = await client.chat.completions.create({
      ...call,
      tools: [{ type: 'function', function: {
        name: 'weather',
        parameters: { type: 'object', properties: {
          city: { type: 'string' } } } } }],
    });
    return { tool_calls: answer.choices[0].message.tool_calls };
  },
  async anonymous() {
    try {
      await client.chat.completions.create({ model: 'gpt-4o', messages });
      return {};
    } catch (e) {
      return { name: e.constructor.name, status: e.status, code: e.code };
    }
  },
};

console.log(JSON.stringify(await calls[what]()));
