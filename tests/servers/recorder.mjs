// Records what arrives: an HTTP/1.1 server on these addresses, over TLS where it is given a certificate, or HTTP/2 in plain text.
// Prints a line of JSON when it is ready and one for each request, and answers with that line: for /slow/1000 a second later.
//
//   node recorder.mjs '{"listen": ["10.16.0.2:8080", "[::]:8080"], "tls": {"cert": "PEM", "key": "PEM"}}'

import { createServer } from 'node:http';
import { createServer as createHttp2Server } from 'node:http2';
import { createServer as createTlsServer } from 'node:https';

const { listen, tls, http2 } = JSON.parse(process.argv[2]);
const say = (line) => process.stdout.write(`${line}\n`);

for (const address of listen) {
  const [, host, port] = /^(.*):(\d+)$/.exec(address);
  const handle = (request, response) => {
    const { method, url, headers, socket } = request;
    const seen = JSON.stringify({ at: address, from: socket.remoteAddress, method, url, headers });
    say(seen);
    const [, slow] = /^\/slow\/(\d+)$/.exec(url) ?? [0, 0];
    request.resume().on('end', () => setTimeout(() => response.end(`${seen}\n`), Number(slow)));
  };
  const create = http2 ? createHttp2Server : createServer;
  const server = tls ? createTlsServer(tls, handle) : create(handle);
  await new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host: host.replace(/[[\]]/g, ''), port: Number(port), ipv6Only: host.startsWith('[') }, resolve);
  });
}
say(JSON.stringify({ ready: listen }));
