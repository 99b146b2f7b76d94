// Callers over HTTP/2: asks what a line of JSON says, all at once over a connection of its own, and writes a line of answers. It
// hears the head of an answer that is reset at once; curl 7.88 drops a head that comes in one read with the reset behind it.
//
//   node http2-client.mjs '{"port": 8443, "host": "orders.example", "ca": "ca.pem", "patience": 30}'
//
// A line in is [{"method", "path", "headers", "body"}, ...], a line out [{"status", "headers", "body" in base64, "trouble"}, ...];
// `status` is 0 where there is no head, `trouble` null where the answer came to its end.

import { readFileSync } from 'node:fs';
import { connect, constants } from 'node:http2';
import { createInterface } from 'node:readline';

const { port, host, ca, patience } = JSON.parse(process.argv[2]);
const trusted = readFileSync(ca);

async function together(requests) {
  const session = connect(`https://127.0.0.1:${port}`, { ca: trusted, servername: host });
  // Each stream hears of it as well.
  session.on('error', () => {});
  const answers = await Promise.all(requests.map((request) => ask(session, request)));
  session.destroy();
  return answers;
}

function ask(session, { method, path, headers, body }) {
  return new Promise((resolve) => {
    const answer = { status: 0, headers: {}, trouble: null };
    const [parts, target] = [[], { ':method': method, ':path': path, ':authority': `${host}:${port}` }];
    const stream = session.request({ ...target, ...headers }, { endStream: !body });
    const late = setTimeout(() => {
      answer.trouble = `nothing more within ${patience} s`;
      stream.close(constants.NGHTTP2_CANCEL);
    }, patience * 1000);
    stream.on('response', ({ ':status': status, ...fields }) => Object.assign(answer, { status, headers: { ...fields } }));
    stream.on('data', (part) => parts.push(part));
    stream.on('error', (error) => (answer.trouble ??= error.message));
    stream.on('close', () => {
      clearTimeout(late);
      // A stream that was cancelled, or whose connection has ended, closes without an error, and seems to have come to its end.
      if (!stream.readableEnded || stream.rstCode) answer.trouble ??= `closed with code ${stream.rstCode}`;
      resolve({ ...answer, body: Buffer.concat(parts).toString('base64') });
    });
    if (body) stream.end(body);
  });
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await together(JSON.parse(line)))}\n`);
}
