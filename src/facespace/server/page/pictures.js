// Photos in the browser: decoding, thumbnails, face crops, and boxes over a picture.

import { h } from "./dom.js";

const SHOWN_SIDE = 1600; // the longest side of a picture on the page, in pixels
const THUMB_SIDE = 144;

/** Returns the photo as an upright canvas with no side longer than `side`, or null if the browser cannot read it. */
export async function decode(file, side = SHOWN_SIDE, turned = 0) {
  let bitmap;
  try { bitmap = await createImageBitmap(file, { imageOrientation: "from-image" }); } catch { return null; }
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width * scale, bitmap.height * scale].map((n) => Math.max(1, Math.round(n)));
  const across = turned % 180 === 0;
  const canvas = h("canvas", { width: across ? width : height, height: across ? height : width });
  [canvas.fullWidth, canvas.fullHeight] = across ? [bitmap.width, bitmap.height] : [bitmap.height, bitmap.width];
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.translate(canvas.width / 2, canvas.height / 2);
  pen.rotate((turned * Math.PI) / 180);
  pen.drawImage(bitmap, -width / 2, -height / 2, width, height);
  bitmap.close();
  return canvas;
}

/** Returns a small square from the middle of the photo, for lists. */
export async function thumbnail(file) {
  const whole = await decode(file, THUMB_SIDE * 2);
  if (!whole) return null;
  const side = Math.min(whole.width, whole.height);
  return cut(whole, [(whole.width - side) / 2, Math.max(0, (whole.height - side) / 3), side, side], THUMB_SIDE);
}

function cut(source, [x, y, width, height], side) {
  const canvas = h("canvas", { width: side, height: side });
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(source, x, y, width, height, 0, 0, side, side);
  return canvas;
}

/** Returns one face with a border as a square canvas. `image` is the size of the image that `box` refers to. */
export function face(picture, image, box, side = 112) {
  const scale = picture.width / image.width;
  const [x1, y1, x2, y2] = box.map((n) => n * scale);
  const whole = Math.max(x2 - x1, y2 - y1) * 1.5;
  return cut(picture, [(x1 + x2 - whole) / 2, (y1 + y2 - whole) / 2, whole, whole], side);
}

/** Places an element over a picture, at a box (x1 y1 x2 y2) in pixels of the image. */
export function lay(element, image, [x1, y1, x2, y2]) {
  const part = (value, whole) => `${Math.max(0, Math.min(100, (100 * value) / whole))}%`;
  element.style.left = part(x1, image.width);
  element.style.top = part(y1, image.height);
  element.style.width = part(Math.min(x2, image.width) - Math.max(x1, 0), image.width);
  element.style.height = part(Math.min(y2, image.height) - Math.max(y1, 0), image.height);
  return element;
}

/** Lets the user draw a box with the pointer, or move it with arrows and resize it with Shift. Resolves with the box or null. */
export function drawBox(frame, image, label, signal) {
  return new Promise((resolve) => {
    let box = [0.35, 0.25, 0.65, 0.65].map((part, k) => part * (k % 2 ? image.height : image.width));
    const mark = h("div", { class: "drawn", role: "application", tabIndex: 0, "aria-label": label });
    const sheet = h("div", { class: "sheet" }, mark);
    const show = () => lay(mark, image, box);
    const at = (event) => {
      const place = sheet.getBoundingClientRect();
      const within = (n) => Math.min(1, Math.max(0, n));
      return [within((event.clientX - place.left) / place.width) * image.width, within((event.clientY - place.top) / place.height) * image.height];
    };
    let from = null;
    const finish = (answer) => { sheet.remove(); resolve(answer); };
    sheet.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      sheet.setPointerCapture(event.pointerId);
      from = at(event);
    });
    sheet.addEventListener("pointermove", (event) => {
      if (!from) return;
      const to = at(event);
      box = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
      show();
    });
    sheet.addEventListener("pointerup", () => {
      const large = from && box[2] - box[0] >= 8 && box[3] - box[1] >= 8;
      from = null;
      if (large) finish(box.map(Math.round));
    });
    mark.addEventListener("keydown", (event) => {
      const step = Math.max(image.width, image.height) / 50;
      const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
      if (event.key === "Escape") { event.stopPropagation(); finish(null); return; }
      if (event.key === "Enter") { event.preventDefault(); event.stopPropagation(); finish(box.map(Math.round)); return; }
      if (!(event.key in moves)) return;
      event.preventDefault();
      event.stopPropagation();
      const [dx, dy] = moves[event.key];
      const [x1, y1, x2, y2] = box;
      const moved = event.shiftKey ? [x1, y1, Math.max(x1 + 8, x2 + dx), Math.max(y1 + 8, y2 + dy)] : [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
      if (moved[0] >= 0 && moved[1] >= 0 && moved[2] <= image.width && moved[3] <= image.height) box = moved;
      show();
    });
    signal.addEventListener("abort", () => finish(null), { once: true });
    frame.append(sheet);
    show();
    mark.focus();
  });
}
