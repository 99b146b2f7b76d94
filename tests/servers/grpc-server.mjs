// A gRPC server (npm @grpc/grpc-js) for the interop tests: every kind of call, an error with trailers, metadata echoed.
//
//   node grpc-server.mjs [PORT [HOST]]
//
// Prints one line of JSON with its port when ready.

import grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { fileURLToPath } from 'node:url';

const definition = loadSync(fileURLToPath(new URL('echo.proto', import.meta.url)));
const { Echo } = grpc.loadPackageDefinition(definition).countersign.test;

const trailers = () => {
  const metadata = new grpc.Metadata();
  metadata.set('x-trailer', 'from the server');
  metadata.set('x-trailer-bin', Buffer.from([0, 1, 254, 255]));
  return metadata;
};

// By payload: what is known of a call that is held.
const held = new Map();

const server = new grpc.Server({ 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 });
server.addService(Echo.service, {
  Unary(call, reply) {
    reply(null, call.request, trailers());
  },
  ServerStream(call) {
    // The payload says how many messages to send.
    const count = Number(call.request.payload.toString());
    for (let i = 0; i < count; i += 1) call.write({ payload: Buffer.from(String(i)) });
    call.end(trailers());
  },
  ClientStream(call, reply) {
    let bytes = 0;
    call.on('data', (message) => (bytes += message.payload.length));
    call.on('end', () => reply(null, { payload: Buffer.from(String(bytes)) }));
  },
  Bidi(call) {
    call.on('data', (message) => call.write(message));
    call.on('end', () => call.end(trailers()));
  },
  Fail(call, reply) {
    reply({ code: grpc.status.FAILED_PRECONDITION, details: 'as asked: 100% «no»', metadata: trailers() });
  },
  async Large(call) {
    const payload = Buffer.alloc(64 * 1024, 'abc');
    for (let left = Number(call.request.payload.toString()); left > 0 && !call.cancelled; left -= 1) {
      if (!call.write({ payload })) await new Promise((resolve) => call.once('drain', resolve));
    }
    call.end(trailers());
  },
  FailLate(call) {
    for (let i = 0; i < 10; i += 1) call.write({ payload: Buffer.from(String(i)) });
    call.emit('error', { code: grpc.status.DATA_LOSS, details: 'too late', metadata: trailers() });
  },
  Hold(call) {
    const deadline = call.getDeadline();
    const known = { left: deadline === Infinity ? null : new Date(deadline) - Date.now(), cancelled: false };
    held.set(call.request.payload.toString(), known);
    call.on('cancelled', () => (known.cancelled = true));
  },
  Report(call, reply) {
    const known = held.get(call.request.payload.toString()) ?? null;
    reply(null, { payload: Buffer.from(JSON.stringify(known)) });
  },
  Metadata(call, reply) {
    const seen = Object.entries(call.metadata.getMap()).map(([k, v]) => [k, Buffer.isBuffer(v) ? v.toString('hex') : v]);
    const initial = new grpc.Metadata();
    initial.set('x-initial', 'early');
    call.sendMetadata(initial);
    reply(null, { payload: Buffer.from(JSON.stringify(Object.fromEntries(seen))) });
  },
});
const [port = 0, host = '127.0.0.1'] = process.argv.slice(2);
server.bindAsync(`${host}:${port}`, grpc.ServerCredentials.createInsecure(), (error, bound) => {
  if (error) throw error;
  console.log(JSON.stringify({ port: bound }));
});
