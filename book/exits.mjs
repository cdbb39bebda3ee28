// Real exits of a Russian Doll Network, without Python: node exits.mjs FOLDER IMAGES LAMBDA
// FOLDER: as `rdn export --policy` writes it. IMAGES: float32 pixels (count, 3, H, W), normalised as in training. LAMBDA: λ.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";

const [folder, file, lambda] = process.argv.slice(2);
const { subnetworks, size, state } = JSON.parse(readFileSync(join(folder, "stages.json"), "utf8"));
const open = (name) => InferenceSession.create(join(folder, `${name}.onnx`));
const first = await open("first");
const increments = [];
for (let i = 2; i <= subnetworks; i++) increments[i] = await open(`to_${i}`);

const bytes = readFileSync(file);
const pixels = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
const length = 3 * size[0] * size[1];
const lam = new Tensor("float32", [Number(lambda)], [1]);

for (let at = 0; at < pixels.length; at += length) {
  const images = new Tensor("float32", pixels.slice(at, at + length), [1, 3, ...size]);
  const outputs = await first.run({ images, lambda: lam }); // N_1, and where to leave
  const exit = Number(outputs.exits.data[0]);
  let { logits } = outputs;
  if (exit > 1) {
    const computed = Object.fromEntries(state.map((name) => [name, outputs[name]]));
    ({ logits } = await increments[exit].run(computed)); // only what N_exit adds to N_1
  }
  const scores = Array.from(logits.data);
  console.log(JSON.stringify({ exit, label: scores.indexOf(Math.max(...scores)), logits: scores }));
}
