// An HTTP/2 server: /slow/1000 is answered a second later, /end/1000 ends its connection then, and all else is answered at once. Each answer
// says how many connections there have been, and of how many bytes an answer may be on this one before any are taken. Over TLS where it is
// given a certificate, and where it is told how many requests a connection is for, the rest of them is refused by GOAWAY. Prints its port when it is ready, then a line with each path, and "closed" for each connection that has ended.
//
//   node http2-server.mjs '{"streams": 10, "tls": {"cert": "PEM", "key": "PEM"}}'

import { createSecureServer, createServer } from 'node:http2';

const { streams, requests, tls } = JSON.parse(process.argv[2]);
const settings = streams ? { maxConcurrentStreams: streams } : {};
const server = tls ? createSecureServer({ ...tls, settings }) : createServer({ settings });
let connections = 0;
server.on('session', (session) => {
  connections += 1;
  session.on('error', () => {}).on('close', () => process.stdout.write('closed\n'));
});
server.on('stream', (stream, headers) => {
  const { session } = stream;
  const path = headers[':path'];
  if (requests && stream.id > 2 * requests) return stream.destroy();
  if (requests && stream.id === 2 * requests - 1) session.goaway(0, stream.id);
  const [, what, later] = /^\/(slow|end)\/(\d+)$/.exec(path) ?? [];
  process.stdout.write(`${path}\n`);
  const answer = () => {
    if (what === 'end') return session.destroy();
    if (stream.destroyed) return;
    stream.respond({ ':status': 200 });
    stream.end(JSON.stringify({ connections, window: session.remoteSettings.initialWindowSize }));
  };
  stream.on('error', () => {}).on('end', () => setTimeout(answer, Number(later ?? 0)));
  stream.resume();
});
server.listen(0, '127.0.0.1', () => process.stdout.write(`${server.address().port}\n`));
