// Classifies the images of a file in MNIST's format, or a stroke drawn here:
//
//   npm ci
//   node classify.js [HOST:PORT] [IMAGES.idx3-ubyte]
//
// First in as few requests as the server allows, then over a stream, an image a message.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const IMAGE_BYTES = 28 * 28;
// What a server takes in one request unless it was told otherwise.
const IMAGES_PER_REQUEST = 1024;
const TIMEOUT_MS = 5000;
const STREAM_TIMEOUT_MS = 60_000;

const proto = fileURLToPath(new URL("../../../protos/digits/v1/digits.proto", import.meta.url));
const { DigitRecognizer } = grpc.loadPackageDefinition(loadSync(proto, { keepCase: true, defaults: true })).digits.v1;

// What a server refused because it was busy or away is asked again; the server says when (`grpc-retry-pushback-ms`).
const serviceConfig = {
  methodConfig: [
    {
      name: [{ service: DigitRecognizer.serviceName }],
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: "0.05s",
        maxBackoff: "1s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
      },
    },
  ],
};

// Every call has a deadline.
const deadline = (ms) => ({ deadline: Date.now() + ms });

function classify(client, pixels) {
  return new Promise((resolve, reject) => {
    const done = (error, response) => (error ? reject(error) : resolve(response));
    client.Classify({ pixels, top_k: 2 }, deadline(TIMEOUT_MS), done);
  });
}

// One answer a message, in their order: a response, or why the server refused that message.
async function* stream(client, images) {
  const call = client.ClassifyStream(deadline(STREAM_TIMEOUT_MS));
  // Both ways at once: the server does not read on while nobody reads its answers.
  const sending = send(call, images);
  for await (const { result, response, refusal } of call) {
    if (result === "refusal") throw new Error(`refused with status ${refusal.code}: ${refusal.message}`);
    yield response;
  }
  await sending;
}

async function send(call, images) {
  for (const pixels of images) {
    if (!call.write({ pixels })) await new Promise((resolve) => call.once("drain", resolve));
  }
  call.end();
}

// White ink on black, a byte a pixel, row by row.
function stroke() {
  const pixels = Buffer.alloc(IMAGE_BYTES);
  for (let row = 4; row < 24; row++) pixels.fill(255, row * 28 + 13, row * 28 + 16);
  return pixels;
}

function split(pixels, images) {
  const size = images * IMAGE_BYTES;
  // At least one, so that the server says what is wrong with none.
  const count = Math.max(1, Math.ceil(pixels.length / size));
  return Array.from({ length: count }, (_, i) => pixels.subarray(i * size, (i + 1) * size));
}

const [address = "127.0.0.1:8001", file] = process.argv.slice(2);
const pixels = file ? readFileSync(file).subarray(16) : stroke();

const client = new DigitRecognizer(address, grpc.credentials.createInsecure(), {
  "grpc.service_config": JSON.stringify(serviceConfig),
});
try {
  const answers = [];
  for (const piece of split(pixels, IMAGES_PER_REQUEST)) answers.push(await classify(client, piece));
  const { model, version } = answers[0];
  const predictions = answers.flatMap((answer) => answer.predictions);
  const [best, second] = predictions[0].top;
  console.log(`${model} ${version}: ${predictions.map(({ digit }) => digit).join(" ")}`);
  console.log(`first image: ${best.digit} ${percent(best)}, then ${second.digit} ${percent(second)}`);
  const streamed = [];
  for await (const response of stream(client, split(pixels, 1))) streamed.push(response.predictions[0].digit);
  console.log(`streamed: ${streamed.join(" ")}`);
} catch (error) {
  console.error(`error: ${address}: ${error.message}`);
  process.exitCode = 1;
} finally {
  client.close();
}

function percent({ probability }) {
  return `${(100 * probability).toFixed(1)}%`;
}
