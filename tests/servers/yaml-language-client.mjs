// An editor without a window: opens one document in yaml-language-server and says what it completes and marks there.
//
//   node yaml-language-client.mjs FILE SCHEMA LINE:CHARACTER...     (both from 0)
//
// The schema is set for all files, as in the settings of an editor; `-`: the file's own first line names it.
//
// Prints {"diagnostics": [{"line", "message"}], "completions": [[label...]...], "hover": text} as JSON.

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [file, schema, ...places] = process.argv.slice(2);
const uri = pathToFileURL(resolve(file)).href;
const manifest = createRequire(import.meta.url).resolve("yaml-language-server/package.json");
const program = join(dirname(manifest), "bin", "yaml-language-server");
const server = spawn(process.execPath, [program, "--stdio"], { stdio: ["pipe", "pipe", "inherit"] });

// Nothing from the network: no schema store.
const schemas = schema === "-" ? {} : { [pathToFileURL(resolve(schema)).href]: ["*.yaml"] };
const settings = { yaml: { validate: true, completion: true, hover: true, schemaStore: { enable: false }, schemas } };
const waiting = new Map();
let last = 0;
// Of a document that was opened: who waits for what is wrong with it.
const opened = new Map();

function send(message) {
  const text = JSON.stringify({ jsonrpc: "2.0", ...message });
  server.stdin.write(`Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
}

function ask(method, params) {
  const id = ++last;
  send({ id, method, params });
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

function receive(message) {
  if (message.method === "workspace/configuration") {
    send({ id: message.id, result: message.params.items.map(({ section }) => settings[section] ?? null) });
  } else if (message.method === "textDocument/publishDiagnostics") {
    opened.get(message.params.uri)?.(message.params.diagnostics);
  } else if (message.method && message.id !== undefined) {
    send({ id: message.id, result: null });
  } else if (waiting.has(message.id)) {
    const { resolve, reject } = waiting.get(message.id);
    waiting.delete(message.id);
    if (message.error) reject(new Error(message.error.message)); else resolve(message.result);
  }
}

let buffer = Buffer.alloc(0);
server.stdout.on("data", (chunk) => {
  buffer = Buffer.concat([buffer, chunk]);
  for (;;) {
    const end = buffer.indexOf("\r\n\r\n");
    if (end < 0) return;
    const length = Number(/Content-Length: (\d+)/i.exec(buffer.subarray(0, end).toString())[1]);
    if (buffer.length < end + 4 + length) return;
    const message = JSON.parse(buffer.subarray(end + 4, end + 4 + length).toString());
    buffer = buffer.subarray(end + 4 + length);
    receive(message);
  }
});

await ask("initialize", {
  processId: process.pid,
  rootUri: null,
  capabilities: { workspace: { configuration: true, didChangeConfiguration: {} }, textDocument: { completion: {}, hover: {} } },
});
send({ method: "initialized", params: {} });
send({ method: "workspace/didChangeConfiguration", params: { settings } });
const text = readFileSync(file, "utf8");

// What is wrong with a document, once somebody looked. It may give up on one whose schema changes meanwhile.
function open(uri, text, patience) {
  const diagnostics = new Promise((resolve) => {
    opened.set(uri, resolve);
    if (patience) setTimeout(() => resolve([]), patience);
  });
  send({ method: "textDocument/didOpen", params: { textDocument: { uri, languageId: "yaml", version: 1, text } } });
  return diagnostics;
}

// It reads settings and documents beside each other, and one that is opened too early is one without a schema. So first
// documents that are wrong, until that is noticed.
let probes = 0;
async function probe() {
  const head = schema === "-" ? `${text.split("\n")[0]}\n` : "";
  for (let tries = 0; tries < 15; tries += 1) {
    const wrong = pathToFileURL(join(dirname(resolve(file)), `probe-${probes++}.yaml`)).href;
    if ((await open(wrong, `${head}kind: Nothing\n`, 2000)).length > 0) return;
  }
  console.error("the schema is not applied");
  process.exit(1);
}

await probe();
// Of a document without fault it may say nothing at all; what it says of the next one comes after that.
const silence = async () => {
  await probe();
  return new Promise((resolve) => setTimeout(resolve, 1000, []));
};
const marked = await Promise.race([open(uri, text), silence()]);
const completions = [];
let hover = "";
for (const place of places) {
  const [line, character] = place.split(":").map(Number);
  const at = { textDocument: { uri }, position: { line, character } };
  const found = await ask("textDocument/completion", at);
  completions.push((found.items ?? found ?? []).map((item) => item.label));
  hover ||= (await ask("textDocument/hover", at))?.contents?.value ?? "";
}
const found = marked.map(({ range, message }) => ({ line: range.start.line, message }));
server.kill();
process.stdout.write(`${JSON.stringify({ diagnostics: found, completions, hover })}\n`, () => process.exit());
