// Crops from the server: fetched with the key when they come into view, and shown as blob URLs that are revoked after loading.

import { blob } from "./api.js";
import { h } from "./dom.js";

const MAX_AT_ONCE = 6;
let running = 0;
const waiting = [];

/** Returns an image of a fixed size that loads when it comes into view. If `path` is null, it shows a placeholder. */
export function crop(path, alt, size, signal) {
  const image = h("img", { class: "crop", alt, width: size, height: size, decoding: "async" });
  if (!path) {
    image.dataset.state = "none";
    image.src = EMPTY;
    return image;
  }
  image.dataset.state = "waiting";
  image.src = EMPTY;
  const seen = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return;
    seen.disconnect();
    inTurn(() => load(image, path, signal));
  }, { rootMargin: "200px" });
  seen.observe(image);
  signal.addEventListener("abort", () => seen.disconnect(), { once: true });
  return image;
}

const EMPTY = "page/empty.svg";

async function load(image, path, signal) {
  if (signal.aborted) return;
  try {
    const url = URL.createObjectURL(await blob(path, { signal }));
    const release = () => URL.revokeObjectURL(url);
    image.addEventListener("load", () => { image.dataset.state = "shown"; release(); }, { once: true });
    image.addEventListener("error", release, { once: true });
    image.src = url;
  } catch {
    if (!signal.aborted) image.dataset.state = "none";
  }
}

async function inTurn(work) {
  if (running >= MAX_AT_ONCE) await new Promise((resolve) => waiting.push(resolve));
  running++;
  try { await work(); } finally {
    running--;
    waiting.shift()?.();
  }
}
