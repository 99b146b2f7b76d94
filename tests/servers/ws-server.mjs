// A WebSocket server (npm ws) for the interop tests: every message comes back, compressed where the client can.
//
//   node ws-server.mjs ['{"cert": "PEM", "key": "PEM", "host": "::", "port": 8080}']
//
// Prints one line of JSON with its port when ready, and one for everything that it sees: a request (`request`), one for
// WebSocket (`upgrade`, with its headers), the bytes that came behind it (`head`), a message, a `close` with its target and code. By path:
// `/refuse` answers 403, `/wrong-accept` and `/other-protocol` with a 101 that is none, `/flood` sends without an end,
// `/close?code=&reason=` closes at once.

import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { WebSocketServer } from 'ws';

const { host = '127.0.0.1', port = 0, ...tls } = JSON.parse(process.argv[2] ?? '{}');
const say = (event, more) => console.log(JSON.stringify({ event, ...more }));

const http = tls.cert ? createTlsServer({ ...tls, ALPNProtocols: ['http/1.1'] }) : createServer();
const ws = new WebSocketServer({
  noServer: true,
  perMessageDeflate: { threshold: 0 },
  handleProtocols: (offered) => (offered.has('chat') ? 'chat' : false),
});

http.on('request', (request, response) => {
  say('request', { url: request.url, headers: request.headers });
  response.writeHead(426).end('websocket, please');
});

http.on('upgrade', (request, socket, head) => {
  say('upgrade', { url: request.url, headers: request.headers, head: head.toString('latin1') });
  const canned = (text) => {
    socket.on('data', (bytes) => say('bytes', { bytes: bytes.toString('latin1') }));
    socket.on('error', () => {});
    socket.write(text);
  };
  switch (new URL(request.url, 'http://a').pathname.replace(/^\/orders/, '')) {
    case '/refuse':
      return canned('HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno');
    case '/wrong-accept':
      return canned(
        'HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n',
      );
    case '/other-protocol':
      return canned('HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n');
    default:
      return ws.handleUpgrade(request, socket, head, (client) => serve(client, request));
  }
});

function serve(client, request) {
  client.on('message', (data, isBinary) => {
    say('message', { bytes: data.length });
    client.send(data, { binary: isBinary });
  });
  client.on('error', (error) => say('error', { code: error.code, message: error.message }));
  client.on('close', (code, reason) => say('close', { target: request.url, code, reason: reason.toString() }));
  if (request.url.endsWith('/flood')) flood(client, 0);
  const { pathname, searchParams: asked } = new URL(request.url, 'http://a');
  if (pathname.endsWith('/close')) client.close(Number(asked.get('code')), asked.get('reason') ?? '');
}

// As fast as the other side takes it, and says how far it has come.
function flood(client, sent) {
  if (client.readyState !== client.OPEN) return;
  const message = Buffer.alloc(64 * 1024);
  client.send(message, { compress: false }, () => {
    if (sent % 16 === 0) say('flood', { sent: sent * message.length });
    flood(client, sent + 1);
  });
}

http.listen(port, host, () => say('ready', { port: http.address().port }));
