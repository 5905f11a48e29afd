// Logs a user in with the real express-session and connect-redis, over HTTP,
// and prints the cookie that the browser got.  Argument: Redis' socket.

import { createRequire } from 'node:module';
import http from 'node:http';
import path from 'node:path';

const require = createRequire(path.join(process.env.NODE_MODULES, 'x.js'));
const express = require('express');
const session = require('express-session');
const { createClient } = require('redis');
const { RedisStore } = require('connect-redis');

const secret = 'keyboard cat';
const client = createClient({ socket: { path: process.argv[2] } });
await client.connect();

const app = express();
app.use(session({
  store: new RedisStore({ client, prefix: 'sess:' }),
  secret,
  resave: false,
  saveUninitialized: false,
}));
app.get('/login', (req, res) => {
  req.session.user = { id: 'carol', name: 'Carol Diaz' };
  req.session.save(() => res.end('ok'));
});

const server = app.listen(0, '127.0.0.1', () => {
  http.get({ port: server.address().port, host: '127.0.0.1',
    path: '/login' }, async (res) => {
    res.resume();
    const cookie = res.headers['set-cookie'][0].split(';')[0];
    console.log(JSON.stringify({ cookie, secret }));
    server.close();
    await client.close();
  });
});
