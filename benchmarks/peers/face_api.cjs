// /// script
// dependencies = []
// [tool.bench]
// title = "face-api (Node)"
// npm = ["@vladmandic/face-api@1.7.15", "@tensorflow/tfjs@4.22", "@tensorflow/tfjs-backend-wasm@4.22", "jpeg-js@0.4"]
// advice = "distance 0.6, the default of its `FaceMatcher`"
// ///
/**
 * @vladmandic/face-api on Node with TensorFlow.js by WebAssembly: SSD MobileNet, 68 landmarks, ResNet, with its defaults.
 * It answers as side_by_side/door.py describes.
 */

const fs = require('fs');
const path = require('path');
const readline = require('readline');
const { performance } = require('perf_hooks');

const answers = fs.openSync('/dev/fd/1', 'w');
for (const name of ['log', 'info', 'warn', 'debug']) console[name] = console.error; // what libraries print

const began = performance.now();
const jpeg = require('jpeg-js');
const tf = require('@tensorflow/tfjs');
const wasm = require('@tensorflow/tfjs-backend-wasm');
const faceapi = require('@vladmandic/face-api/dist/face-api.node-wasm.js');

const importSeconds = (performance.now() - began) / 1e3;

const folderOf = (name) => path.dirname(require.resolve(name));
let options;
let versions;
let photos = { paths: null, decoded: [] };
let enrolled = [];
const kept = new Map();

async function start() {
  const modules = folderOf('@tensorflow/tfjs-backend-wasm/package.json');
  wasm.setWasmPaths(path.join(modules, 'dist') + path.sep);
  await tf.setBackend('wasm');
  await tf.ready();
  const models = path.join(folderOf('@vladmandic/face-api/package.json'), 'model');
  await faceapi.nets.ssdMobilenetv1.loadFromDisk(models);
  await faceapi.nets.faceLandmark68Net.loadFromDisk(models);
  await faceapi.nets.faceRecognitionNet.loadFromDisk(models);
  options = new faceapi.SsdMobilenetv1Options();
  versions = { 'face-api': faceapi.version, tfjs: tf.version.tfjs ?? tf.version, backend: tf.getBackend(), node: process.version };
}

function read(file) {
  const { width, height, data } = jpeg.decode(fs.readFileSync(file), { useTArray: true, formatAsRGBA: false, maxMemoryUsageInMB: 1024 });
  return tf.tensor3d(data, [height, width, 3], 'int32');
}

const corners = ({ box }) => [box.x, box.y, box.x + box.width, box.y + box.height];
const detect = async (photo) => (await faceapi.detectAllFaces(photo, options)).map(corners);

async function represent(photo) {
  const faces = await faceapi.detectAllFaces(photo, options).withFaceLandmarks().withFaceDescriptors();
  return faces.map((face) => [corners(face.detection), face.descriptor]);
}

function central(faces, [height, width]) {
  const weight = ([[x1, y1, x2, y2]]) => (x2 - x1) * (y2 - y1) - 2 * (((x1 + x2 - width) / 2) ** 2 + ((y1 + y2 - height) / 2) ** 2);
  return faces.reduce((best, face) => (weight(face) > weight(best) ? face : best));
}

async function faceOf(file) {
  if (!kept.has(file)) {
    const photo = read(file);
    const faces = await represent(photo);
    kept.set(file, faces.length ? central(faces, photo.shape)[1] : null);
    photo.dispose();
  }
  return kept.get(file);
}

function verdict(a, b) {
  const distance = faceapi.euclideanDistance(a, b);
  return [-distance, distance <= 0.6];
}

async function timed(work, repeat) {
  const [wall, cpu] = [performance.now(), process.cpuUsage()];
  let result;
  for (let n = 0; n < repeat; n += 1) result = await work();
  const used = process.cpuUsage(cpu);
  return [{ seconds: (performance.now() - wall) / 1e3 / repeat, cpu: (used.user + used.system) / 1e6 / repeat }, result];
}

const requests = {
  about: () => ({ versions, import_seconds: importSeconds, can: ['detect', 'embed', 'represent', 'identify'], recognises: true }),
  async detect({ paths, repeat = 1 }) {
    if (JSON.stringify(photos.paths) !== JSON.stringify(paths)) {
      photos.decoded.forEach((photo) => photo.dispose());
      photos = { paths, decoded: paths.map(read) };
    }
    const [times, boxes] = await timed(async () => {
      const found = [];
      for (const photo of photos.decoded) found.push(await detect(photo));
      return found;
    }, repeat);
    return { ...times, faces: boxes.map((ofPhoto) => ofPhoto.length) };
  },
  async embed({ batch, repeat = 1 }) {
    const crops = Array.from({ length: batch }, () => tf.randomUniform([150, 150, 3], 0, 256, 'int32'));
    const [times] = await timed(() => faceapi.nets.faceRecognitionNet.computeFaceDescriptor(crops), repeat);
    crops.forEach((crop) => crop.dispose());
    return times;
  },
  async compare({ pairs }) {
    const verdicts = [];
    for (const [a, b] of pairs) {
      const [one, other] = [await faceOf(a), await faceOf(b)];
      verdicts.push(one && other ? verdict(one, other) : null);
    }
    return { verdicts };
  },
  async enroll({ people }) {
    enrolled = [];
    for (const [name, file] of Object.entries(people)) {
      const face = await faceOf(file);
      if (face) enrolled.push([name, face]);
    }
    return { enrolled: enrolled.length };
  },
  async identify({ paths }) {
    const [times, results] = await timed(async () => {
      const found = [];
      for (const file of paths) {
        const photo = read(file);
        const named = (await represent(photo)).map(([box, face]) => {
          let best = [-Infinity, false, null];
          for (const [name, other] of enrolled) {
            const [score, same] = verdict(face, other);
            if (score > best[0]) best = [score, same, name];
          }
          return [box, best[1] ? best[2] : null];
        });
        found.push([named, photo.shape]);
        photo.dispose();
      }
      return found;
    }, 1);
    return { ...times, names: results.map(([named, size]) => (named.length ? central(named, size)[1] : '')), faces: results.map(([named]) => named.length) };
  },
  memory: () => ({ peak: process.resourceUsage().maxRSS * 1024 }),
};

async function main() {
  let ready = null;
  for await (const line of readline.createInterface({ input: process.stdin })) {
    let answer;
    try {
      ready = ready ?? start();
      await ready;
      const request = JSON.parse(line);
      if (!Object.hasOwn(requests, request.do)) throw new Error(`unknown request '${request.do}'`);
      answer = await requests[request.do](request);
    } catch (error) {
      console.error(error);
      answer = { error: String(error).slice(0, 500) };
    }
    fs.writeSync(answers, `${JSON.stringify(answer)}\n`);
  }
}

main();
