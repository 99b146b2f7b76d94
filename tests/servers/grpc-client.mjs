// A gRPC client (npm @grpc/grpc-js) for the interop tests: the cases of grpc_client.py by another implementation.
//
//   node grpc-client.mjs TARGET ['{"authority": "NAME", "token": "TOKEN"}']
//
// Prints {"case": ..., "ok": true} or {"case": ..., "ok": false, "error": ...} for each.

import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

const [target, more = '{}'] = process.argv.slice(2);
const { authority, token } = JSON.parse(more);
const definition = loadSync(fileURLToPath(new URL('echo.proto', import.meta.url)));
const { Echo } = grpc.loadPackageDefinition(definition).countersign.test;

const options = {
  'grpc.enable_http_proxy': 0,
  'grpc.max_receive_message_length': -1,
  'grpc.keepalive_time_ms': 1000,
  ...(authority && { 'grpc.default_authority': authority }),
};
const connect = (over) => new Echo(target, grpc.credentials.createInsecure(), { ...options, ...over });
const client = connect({});

const metadata = () => {
  const metadata = new grpc.Metadata();
  if (token) metadata.set('authorization', `Bearer ${token}`);
  return metadata;
};
const within = (seconds = 20) => ({ deadline: Date.now() + seconds * 1000 });
const large = Buffer.alloc(1024 * 1024, Buffer.from(Array.from({ length: 256 }, (_, i) => i)));

// What a unary call comes to: its reply, or its error, with metadata and status.
function unary(method, payload, { on = client, sent = metadata(), timeout } = {}) {
  const result = {};
  return new Promise((resolve) => {
    const call = on[method]({ payload: Buffer.from(payload) }, sent, within(timeout), (error, reply) => {
      Object.assign(result, { error, reply: reply?.payload });
      if (result.status || error) resolve(result);
    });
    result.call = call;
    call.on('metadata', (initial) => (result.initial = initial));
    call.on('status', (status) => {
      result.status = status;
      if (result.reply || result.error) resolve(result);
    });
  });
}

async function reply(method, payload, more) {
  const { error, reply } = await unary(method, payload, more);
  if (error) throw error;
  return reply;
}

// All messages of a stream, and its status.
async function collect(call, each = () => {}) {
  const messages = [];
  const status = new Promise((resolve) => call.on('status', resolve));
  call.on('error', () => {});
  try {
    for await (const { payload } of call) {
      messages.push(payload);
      await each(messages.length);
    }
  } catch (error) {
    if (error.code === undefined) throw error;
  }
  return { messages, status: await status };
}

function hold(timeout) {
  const name = String(process.hrtime.bigint());
  let ended;
  const end = new Promise((resolve) => (ended = resolve));
  const call = client.Hold({ payload: Buffer.from(name) }, metadata(), within(timeout), (error) => ended(error));
  return { name, call, end };
}

async function report(name, isKnown) {
  for (const began = Date.now(); ; await sleep(50)) {
    const known = JSON.parse((await reply('Report', name)).toString());
    if (isKnown(known)) return known;
    assert(Date.now() - began < 5000, `the server knows only ${JSON.stringify(known)}`);
  }
}

const cases = {
  async unary() {
    const { reply, status } = await unary('Unary', 'hello');
    assert.equal(reply.toString(), 'hello');
    assert.deepEqual(status.metadata.get('x-trailer'), ['from the server']);
    assert.deepEqual(status.metadata.get('x-trailer-bin'), [Buffer.from([0, 1, 254, 255])]);
  },
  async unary_empty() {
    assert.equal((await reply('Unary', '')).length, 0);
  },
  async unary_large() {
    assert.equal(Buffer.compare(await reply('Unary', large), large), 0);
  },
  async server_stream() {
    const { messages } = await collect(client.ServerStream({ payload: Buffer.from('500') }, metadata(), within()));
    assert.deepEqual(messages.map(String), Array.from({ length: 500 }, (_, i) => String(i)));
  },
  async server_stream_empty() {
    const { messages, status } = await collect(client.ServerStream({ payload: Buffer.from('0') }, metadata(), within()));
    assert.deepEqual([messages.length, status.code], [0, grpc.status.OK]);
  },
  async client_stream() {
    const answer = await new Promise((resolve, reject) => {
      const call = client.ClientStream(metadata(), within(), (error, reply) => (error ? reject(error) : resolve(reply)));
      for (let i = 0; i < 200; i += 1) call.write({ payload: Buffer.alloc(1000, 'x') });
      call.end();
    });
    assert.equal(answer.payload.toString(), '200000');
  },
  async bidi() {
    const call = client.Bidi(metadata(), within());
    call.write({ payload: Buffer.from('1') });
    const { messages } = await collect(call, (count) =>
      count < 50 ? call.write({ payload: Buffer.from(String(count + 1)) }) : call.end(),
    );
    assert.equal(messages.length, 50);
  },
  async error_with_trailers() {
    const { error } = await unary('Fail', '');
    assert.deepEqual([error.code, error.details], [grpc.status.FAILED_PRECONDITION, 'as asked: 100% «no»']);
    assert.deepEqual(error.metadata.get('x-trailer'), ['from the server']);
  },
  async trailers_only() {
    const { error, initial } = await unary('Fail', '');
    assert.deepEqual(initial?.get('x-trailer') ?? [], []);
    assert.deepEqual(error.metadata.get('x-trailer-bin'), [Buffer.from([0, 1, 254, 255])]);
  },
  async error_after_messages() {
    const { messages, status } = await collect(client.FailLate({ payload: Buffer.alloc(0) }, metadata(), within()));
    assert.deepEqual([messages.length, status.code, status.details], [10, grpc.status.DATA_LOSS, 'too late']);
    assert.deepEqual(status.metadata.get('x-trailer'), ['from the server']);
  },
  async unimplemented() {
    const method = { path: '/countersign.test.Echo/Nothing' };
    const none = (message) => message;
    const error = await new Promise((resolve) =>
      client.makeUnaryRequest(method.path, none, none, Buffer.alloc(0), metadata(), within(), resolve),
    );
    assert.equal(error.code, grpc.status.UNIMPLEMENTED);
  },
  async metadata_echo() {
    const sent = metadata();
    sent.set('x-plain', 'value');
    sent.set('x-bytes-bin', Buffer.from([1, 2, 255]));
    const { reply, initial } = await unary('Metadata', '', { sent });
    const seen = JSON.parse(reply.toString());
    assert.deepEqual([seen['x-plain'], seen['x-bytes-bin']], ['value', '0102ff']);
    assert.deepEqual(initial.get('x-initial'), ['early']);
  },
  async large_metadata() {
    const sent = metadata();
    sent.set('x-large', 'm'.repeat(6000));
    assert.equal(JSON.parse((await reply('Metadata', '', { sent })).toString())['x-large'].length, 6000);
  },
  async gzip() {
    const on = connect({ 'grpc.default_compression_algorithm': grpc.compressionAlgorithms.gzip });
    for (const message of [Buffer.alloc(0), Buffer.alloc(100_000, 'a'), large]) {
      assert.equal(Buffer.compare(await reply('Unary', message, { on }), message), 0);
    }
    on.close();
  },
  async parallel() {
    await Promise.all(Array.from({ length: 32 }, (_, i) => reply('Unary', String(i))));
  },
  async slow_reader() {
    let size = 0;
    const call = client.Large({ payload: Buffer.from('512') }, metadata(), within());
    const { messages } = await collect(call, (count) => ([1, 101].includes(count) ? sleep(1000) : undefined));
    for (const message of messages) size += message.length;
    assert.deepEqual([messages.length, size], [512, 32 * 1024 * 1024]);
  },
  async keepalive() {
    const call = client.Bidi(metadata(), within());
    call.write({ payload: Buffer.from('0') });
    const { messages, status } = await collect(call, async (count) => {
      if (count === 2) return call.end();
      await sleep(4000);
      return call.write({ payload: Buffer.from('1') });
    });
    assert.deepEqual([messages.length, status.code], [2, grpc.status.OK]);
  },
  async cancel() {
    const call = client.Bidi(metadata(), within());
    call.write({ payload: Buffer.from('one') });
    const { messages, status } = await collect(call, () => call.cancel());
    assert.deepEqual([messages.length, status.code], [1, grpc.status.CANCELLED]);
    await cases.unary();
  },
  async cancel_reaches_the_server() {
    const { name, call, end } = hold(20);
    await report(name, (known) => known);
    call.cancel();
    assert.equal((await end).code, grpc.status.CANCELLED);
    const known = await report(name, (known) => known?.cancelled);
    assert(known.left > 15_000 && known.left <= 21_000, JSON.stringify(known));
  },
  async deadline() {
    const call = client.ClientStream(metadata(), within(0.3), () => {});
    const { code } = await new Promise((resolve) => call.on('status', resolve));
    assert.equal(code, grpc.status.DEADLINE_EXCEEDED);
  },
  async deadline_reaches_the_server() {
    const { name, end } = hold(1);
    assert.equal((await end).code, grpc.status.DEADLINE_EXCEEDED);
    const known = await report(name, (known) => known?.cancelled);
    assert(known.left > 0 && known.left <= 2000, JSON.stringify(known));
  },
};

for (const [name, run] of Object.entries(cases)) {
  try {
    await run();
    console.log(JSON.stringify({ case: name, ok: true }));
  } catch (error) {
    console.log(JSON.stringify({ case: name, ok: false, error: error.stack ?? String(error) }));
  }
}
client.close();
