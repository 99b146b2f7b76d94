// The application behind the sidecar: says what reached it, so that whoever asked can tell whether it was his request, and
// writes down of each request that it sees the port that it came from, and its nonce. HTTP/1.1 and HTTP/2 without TLS on one
// port, as callers speak.
//
//   node application.mjs PORT FILE
//
// The answer to METHOD PATH with `x-nonce: N` is `METHOD PATH\nN\nCLIENT\n`, the body as it came, and, as a PATH /…/COUNT/N asks
// for, COUNT bytes of N over and over. A PATH with /chunked/ in it is answered without a length.

import { createWriteStream } from 'node:fs';
import { createServer as createHttp1 } from 'node:http';
import { createServer as createHttp2 } from 'node:http2';
import { createServer } from 'node:net';

const [port, file] = process.argv.slice(2);
const seen = createWriteStream(file);

async function answer(request, response) {
  const { method, url, headers } = request;
  const nonce = headers['x-nonce'] ?? '-';
  seen.write(`${method} ${url} ${(request.stream ?? request.socket).from} ${nonce}\n`);
  const parts = [];
  try {
    for await (const part of request) parts.push(part);
  } catch {
    return; // Its caller went away half-way.
  }
  const count = Number(/\/(\d+)\/[^/]*$/.exec(url)?.[1] ?? 0);
  const filler = nonce.repeat(Math.ceil(count / nonce.length)).slice(0, count);
  const head = `${method} ${url}\n${nonce}\n${headers['x-client-id'] ?? '-'}\n`;
  const body = Buffer.concat([Buffer.from(head), ...parts, Buffer.from(filler)]);
  const length = url.includes('/chunked/') ? {} : { 'content-length': body.length };
  response.writeHead(200, { 'content-type': 'text/plain', 'x-nonce': nonce, ...length });
  response.end(body);
}

const http1 = createHttp1({ keepAliveTimeout: 60_000 }, answer);
const http2 = createHttp2(answer);
// Peers that go away in the middle are what this is for.
for (const server of [http1, http2]) server.on('clientError', (_error, socket) => socket.destroy());
http2.on('sessionError', () => {});
http2.on('session', (session) => {
  const { from } = session.socket;
  session.prependListener('stream', (stream) => (stream.from = from));
});

createServer({ noDelay: true }, (socket) => {
  socket.on('error', () => {});
  // By the time that a request is read its peer, or its session, may have gone.
  socket.from = socket.remotePort;
  // Looked at and put back: no method of HTTP/1 begins with PRI.
  socket.once('readable', () => {
    const first = socket.read();
    if (first === null) return;
    socket.unshift(first);
    (first.toString('latin1', 0, 3) === 'PRI' ? http2 : http1).emit('connection', socket);
  });
}).listen(Number(port), '127.0.0.1');
process.on('SIGTERM', () => seen.end(() => process.exit(0)));
