// Runs the model apart from the page, so that the page answers meanwhile.

import * as ort from "./ort.wasm.bundle.min.mjs";

ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", import.meta.url).href };
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
let session;

async function open() {
  const response = await fetch(new URL("model.onnx", import.meta.url));
  if (!response.ok) throw new Error(`model.onnx: ${response.status} ${response.statusText}`);
  const length = Number(response.headers.get("Content-Length")), parts = [];
  let size = 0, told = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    size += value.length;
    if (size - told > 2e6) {
      told = size;
      postMessage({ progress: `Loading the model: ${Math.round(size / 1e6)}${length ? ` of ${Math.round(length / 1e6)}` : ""} MB …` });
    }
  }
  postMessage({ progress: "Preparing the model …" });
  session = await ort.InferenceSession.create(new Uint8Array(await new Blob(parts).arrayBuffer()), { executionProviders: ["wasm"] });
}

async function label({ pixels, columns, rows, width, height, classes }) {
  const images = new ort.Tensor("uint8", pixels, [1, rows, columns, 3]);
  const outputs = await session.run({ images }, ["labels", "probabilities"]);
  const probabilities = outputs.probabilities.data;
  const isWhole = width === columns && height === rows;
  const labels = isWhole ? Uint8Array.from(outputs.labels.data) : new Uint8Array(width * height);
  const confidence = new Uint8Array(width * height);
  if (isWhole) labels.forEach((id, i) => (confidence[i] = Math.round(255 * probabilities[i * classes + id])));
  else enlarge(probabilities, { columns, rows, width, height, classes }, labels, confidence);
  for (const tensor of Object.values(outputs)) tensor.dispose();
  return { labels, confidence, width, height };
}

// The labels and the confidence of probabilities [rows, columns, classes], interpolated to [height, width].
function enlarge(probabilities, { columns, rows, width, height, classes }, labels, confidence) {
  const places = (full, few) =>
    Array.from({ length: full }, (_, i) => {
      const place = Math.min(Math.max(((i + 0.5) * few) / full - 0.5, 0), few - 1), low = Math.floor(place);
      return [low * classes, Math.min(low + 1, few - 1) * classes, place - low];
    });
  const across = places(width, columns), down = places(height, rows);
  for (let y = 0; y < height; y++) {
    const [above, below, t] = down[y];
    for (let x = 0; x < width; x++) {
      const [left, right, s] = across[x], at = y * width + x;
      const corners = [above * columns + left, above * columns + right, below * columns + left, below * columns + right];
      let best = -1;
      for (let id = 0; id < classes; id++) {
        const upper = probabilities[corners[0] + id] * (1 - s) + probabilities[corners[1] + id] * s;
        const lower = probabilities[corners[2] + id] * (1 - s) + probabilities[corners[3] + id] * s;
        const value = upper * (1 - t) + lower * t;
        if (value > best) {
          best = value;
          labels[at] = id;
        }
      }
      confidence[at] = Math.round(255 * best);
    }
  }
}

self.onmessage = async ({ data }) => {
  try {
    const { labels, confidence, width, height } = data.open ? (await open()) ?? {} : await label(data);
    postMessage({ labels, confidence, width, height }, labels ? [labels.buffer, confidence.buffer] : []);
  } catch (error) {
    postMessage({ error: `${error.message ?? error}`.split("\n")[0] });
  }
};
