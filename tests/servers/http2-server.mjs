// An HTTP/2 server that tells what it is asked of: /slow/1000 is answered a second later, all else at once. Each answer says how many
// connections there have been and how many are open, and which one it came on. Over TLS where it is given a certificate, with ALPN.
// Prints its port when it is ready.
//
//   node http2-server.mjs '{"streams": 10, "tls": {"cert": "PEM", "key": "PEM"}}'

import { createSecureServer, createServer } from 'node:http2';

const { streams, tls } = JSON.parse(process.argv[2]);
const settings = streams ? { maxConcurrentStreams: streams } : {};
const server = tls ? createSecureServer({ ...tls, settings }) : createServer({ settings });
let [connections, open] = [0, 0];
server.on('session', (session) => {
  connections += 1;
  open += 1;
  session.number = connections;
  session.on('error', () => {}).on('close', () => (open -= 1));
});
server.on('stream', (stream, headers) => {
  const [, slow] = /^\/slow\/(\d+)$/.exec(headers[':path']) ?? [0, 0];
  const answer = () => {
    if (stream.destroyed) return;
    stream.respond({ ':status': 200 });
    stream.end(JSON.stringify({ connections, open, on: stream.session.number }));
  };
  stream.on('error', () => {}).on('end', () => setTimeout(answer, Number(slow)));
  stream.resume();
});
server.listen(0, '127.0.0.1', () => process.stdout.write(`${server.address().port}\n`));
