// SPDX-License-Identifier: Apache-2.0
// Perfetto's own trace processor, without a browser: it is given requests, and its answers are written.
// Usage: node traceprocessor.js FOLDER; a request or an answer is a u32 length, little endian, and the bytes.

const fs = require("fs");
const path = require("path");
const vm = require("vm");

const folder = process.argv[2];
const read = (name) => fs.readFileSync(path.join(folder, path.basename(name)));
const quiet = () => {};

/** A synchronous request, which the engine makes for its WebAssembly. */
class Request {
  open(_method, name) { this.name = name; }
  send() { const data = read(this.name); this.response = data.buffer.slice(data.byteOffset, data.byteOffset + data.length); }
}

const worker = {
  console: { log: quiet, warn: quiet, error: quiet }, TextDecoder, TextEncoder, URL, Response, XMLHttpRequest: Request,
  setTimeout, clearTimeout, performance, crypto: globalThis.crypto, location: { href: "http://localhost/" }, navigator: {},
  WorkerGlobalScope: quiet, importScripts: quiet,
  fetch: async (name) => new Response(read(name), { headers: { "Content-Type": "application/wasm" } }),
};
worker.self = worker;
vm.createContext(worker);
vm.runInContext(read("engine_bundle.js").toString(), worker);
const Bytes = vm.runInContext("Uint8Array", worker);

const port = {
  postMessage(answer) {
    const head = Buffer.alloc(4);
    head.writeUInt32LE(answer.length);
    fs.writeSync(1, head);
    for (let at = 0; at < answer.length;) at += fs.writeSync(1, answer, at);
  },
};
worker.onmessage({ data: port });
let waiting = fs.readFileSync(0);
setTimeout(() => {
  while (waiting.length) {
    const length = waiting.readUInt32LE(0);
    port.onmessage({ data: new Bytes(waiting.subarray(4, 4 + length)) });
    waiting = waiting.subarray(4 + length);
  }
  process.exit(0);
}, 200);
