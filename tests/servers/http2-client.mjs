// Sends requests for /0, /1, ... over one HTTP/2 connection without TLS, one after another, each for an authority of its own.
// Prints the status of each.
//
//   node http2-client.mjs '{"at": "203.0.113.10:8081", "authorities": ["a.shop.test:8081", "b.shop.test:8081"]}'

import { connect } from 'node:http2';

const { at, authorities } = JSON.parse(process.argv.at(-1));
const session = connect(`http://${at}`);
for (const [number, authority] of authorities.entries()) {
  const stream = session.request({ ':path': `/${number}`, ':authority': authority });
  const status = await new Promise((resolve, reject) => {
    let status;
    stream.on('response', (headers) => (status = headers[':status']));
    stream.on('end', () => resolve(status)).on('error', reject).resume();
  });
  process.stdout.write(`${status}\n`);
}
session.close();
