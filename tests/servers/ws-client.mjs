// A WebSocket client (npm ws) for the interop tests.
//
//   node ws-client.mjs '{"url": "ws://...", "headers": {}, "proxy": "127.0.0.1:PORT", "do": "echo"}'
//
// `proxy`: where to dial instead, with the URL in the request line; `ca`: whom to trust, in PEM. Prints a line of JSON for each thing that happens; the last
// one is `close` with its code and reason, or `refused` with the status. `extended`: by HTTP/2, with this `:protocol` (RFC 8441), for
// `authority`. What it does:
//
//   echo    messages of every kind and back, one `case` each, then closes
//   hold    a message every 100 ms, until the other side closes
//   listen  reads nothing for `pause` ms, then closes

import { connect } from 'node:http2';
import { WebSocket } from 'ws';

const given = JSON.parse(process.argv[2]);
const say = (event, more) => console.log(JSON.stringify({ event, ...more }));

const options = { headers: given.headers ?? {}, perMessageDeflate: given.deflate ?? false, ca: given.ca };

// ws has no such client, and takes the stream for the connection of one.
function extended() {
  const { protocol, host, pathname, search } = new URL(given.url);
  const socket = Object.assign(new WebSocket(null, undefined, { autoPong: true, closeTimeout: 5000 }), { _isServer: false });
  const scheme = protocol === 'wss:' ? 'https' : 'http';
  const session = connect(`${scheme}://${host}`, { ca: given.ca });
  const failed = (error) => say('error', { code: error.code, message: error.message });
  socket.on('close', () => session.close());
  session.on('error', failed).once('remoteSettings', ({ enableConnectProtocol }) => {
    say('settings', { enableConnectProtocol });
    const stream = session.request({
      ':method': 'CONNECT',
      ':protocol': given.extended,
      ':scheme': scheme,
      ':authority': given.authority ?? host,
      ':path': pathname + search,
      'sec-websocket-version': '13',
      ...(given.protocols && { 'sec-websocket-protocol': given.protocols.join(', ') }),
      ...given.headers,
    });
    stream.on('error', failed).on('response', (headers) => {
      if (headers[':status'] !== 200) return refused(headers[':status'], headers, stream);
      say('upgrade', { headers });
      socket._protocol = headers['sec-websocket-protocol'] ?? '';
      const limits = { allowSynchronousEvents: true, maxBufferedChunks: 0, maxFragments: 0, maxPayload: 0 };
      return socket.setSocket(stream, Buffer.alloc(0), { ...limits, skipUTF8Validation: false });
    });
  });
  return socket;
}

function open() {
  if (given.extended) return extended();
  if (!given.proxy) return new WebSocket(given.url, given.protocols ?? [], options);
  // As a client with a proxy setting: ws dials the host of its URL, and the target of the request is ours to write.
  const target = given.url.replace(/^ws:/, 'http:');
  return new WebSocket(`ws://${given.proxy}/`, given.protocols ?? [], {
    ...options,
    headers: { ...options.headers, Host: new URL(target).host },
    finishRequest: (outgoing) => {
      outgoing.path = target;
      outgoing.end();
    },
  });
}

const socket = open();
socket.setMaxListeners(0);
socket.on('upgrade', (response) => say('upgrade', { headers: response.headers }));
socket.on('unexpected-response', (_, response) => refused(response.statusCode, response.headers, response));
socket.on('error', (error) => say('error', { code: error.code, message: error.message }));
socket.on('close', (code, reason) => say('close', { code, reason: reason.toString() }));

function refused(status, headers, response) {
  let body = '';
  response.on('data', (text) => (body += text));
  response.on('end', () => {
    say('refused', { status, headers, body });
    process.exit(0);
  });
}

// The next message, as a Buffer.
const next = () =>
  new Promise((resolve, reject) => {
    socket.once('message', (data, isBinary) => resolve({ data, isBinary }));
    socket.once('close', () => reject(new Error('closed')));
  });

async function echo(name, send, expected, isBinary) {
  const answer = next();
  await send();
  const { data, isBinary: binary } = await answer;
  say('case', { case: name, ok: Buffer.compare(data, Buffer.from(expected)) === 0 && binary === isBinary });
}

const what = {
  async echo() {
    const binary = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    await echo('text', () => socket.send('grüß dich'), 'grüß dich', false);
    await echo('empty', () => socket.send(''), '', false);
    await echo('binary', () => socket.send(binary), binary, true);
    for (const size of [125, 126, 65535, 65536]) {
      await echo(`of ${size}`, () => socket.send(Buffer.alloc(size, 7)), Buffer.alloc(size, 7), true);
    }
    const large = Buffer.alloc(1024 * 1024, 'abcdefg');
    await echo('large', () => socket.send(large), large, true);
    await echo(
      'fragments with a ping between them',
      () => {
        socket.send('one ', { fin: false });
        socket.ping('are you there');
        socket.send('two ', { fin: false });
        socket.send('three', { fin: true });
      },
      'one two three',
      false,
    );
    const pong = new Promise((resolve) => socket.once('pong', resolve));
    socket.ping('and now');
    say('case', { case: 'ping', ok: (await pong).toString() === 'and now' });
    for (let i = 0; i < 200; i += 1) await quiet(i);
    say('case', { case: 'many', ok: true, extensions: socket.extensions, protocol: socket.protocol });
    socket.close(4000, 'enough');
  },
  hold() {
    let echoes = 0;
    socket.on('message', () => say('echo', { echoes: (echoes += 1) }));
    const timer = setInterval(() => socket.readyState === socket.OPEN && socket.send('still here'), 100);
    socket.on('close', () => clearInterval(timer));
  },
  listen() {
    socket.pause();
    setTimeout(() => {
      say('heard', {});
      socket.terminate();
    }, given.pause);
  },
};

async function quiet(i) {
  const answer = next();
  socket.send(String(i));
  if ((await answer).data.toString() !== String(i)) throw new Error(`not ${i}`);
}

socket.on('open', async () => {
  say('open', {});
  try {
    await what[given.do ?? 'echo']();
  } catch (error) {
    say('error', { message: error.message });
  }
});
