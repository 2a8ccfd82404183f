// Classify PNG crops with a model of glomedge, without Python. Research use only. Not for diagnostic use.
//
//   glomedge export --with-preprocessing                 # on the workstation: model.onnx and enhance.onnx
//   ONNXRUNTIME_NODE_INSTALL=skip npm install            # here; "skip": the CPU needs no further download
//   node classify.mjs enhance.onnx model.onnx crop.png [more.png ...]
//
// Prints one JSON object a crop. `image_sha256` is of the enhanced pixels: in Python
// hashlib.sha256(glomedge.enhance(rgb, engine.spec.recipe).tobytes()) is the same.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";
import { PNG } from "pngjs";

const BATCH = 8;

/** PNG bytes to { data: uint8 RGB, dims: [height, width, 3] }, as docs/decoding.md says: on white where transparent. */
function decode(bytes) {
  const { data: rgba, width, height } = PNG.sync.read(bytes); // 8-bit RGBA, 16-bit samples rounded to 8
  const data = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    const alpha = rgba[from + 3];
    for (let channel = 0; channel < 3; channel++) {
      data[to++] = Math.floor((rgba[from + channel] * alpha + 255 * (255 - alpha)) / 255 + 0.5);
    }
  }
  return { data, dims: [height, width, 3] };
}

const [enhanceFile, modelFile, ...files] = process.argv.slice(2);
if (files.length === 0) {
  console.error("usage: node classify.mjs enhance.onnx model.onnx crop.png [more.png ...]");
  process.exit(2);
}
console.error("Research use only. Not for diagnostic use.");
const enhance = await ort.InferenceSession.create(enhanceFile);
const model = await ort.InferenceSession.create(modelFile);

for (let start = 0; start < files.length; start += BATCH) {
  const names = files.slice(start, start + BATCH);
  const images = [];
  for (const name of names) {
    // Crops have any size, so each is enhanced by itself; the network then takes the batch at once.
    const { data, dims } = decode(readFileSync(name));
    const { image } = await enhance.run({ crop: new ort.Tensor("uint8", data, dims) });
    images.push(image);
  }
  const [height, width, channels] = images[0].dims;
  const batch = new Uint8Array(names.length * height * width * channels);
  images.forEach((image, index) => batch.set(image.data, index * image.data.length));
  const shape = [names.length, height, width, channels];
  const { probability } = await model.run({ images: new ort.Tensor("uint8", batch, shape) });
  names.forEach((file, index) => {
    const image_sha256 = createHash("sha256").update(images[index].data).digest("hex");
    console.log(JSON.stringify({ file, probability: probability.data[index], image_sha256 }));
  });
}
