// The photos opened on the page, and the queue that sends them to the server. They stay when another view is shown.

import { post } from "./api.js";
import { thumbnail } from "./pictures.js";
import { explain } from "./words.js";

const AT_ONCE = 4; // photos sent to the server in parallel
const MAX_FACES = 200;

const waiting = [];
const listeners = new Set();
let running = 0;
let serial = 0;

/** `photos`: {id, file, state: waiting|looking|done|failed, result, why, thumb}; `selected`: one of them or null. */
export const album = { photos: [], selected: null };

/** Calls `listener(photo)` when a photo has changed, `listener(null)` when the list has. */
export function follow(listener, signal) {
  listeners.add(listener);
  signal.addEventListener("abort", () => listeners.delete(listener), { once: true });
}

export function changed(photo) {
  listeners.forEach((listener) => listener(photo));
}

export function open(files) {
  const added = files.map((file) => ({ id: ++serial, file, state: "waiting", result: null, why: "", thumb: null }));
  album.photos.push(...added);
  album.selected ??= added[0] ?? null;
  waiting.push(...added);
  changed(null);
  while (running < Math.min(AT_ONCE, waiting.length + running)) work();
}

export function clear() {
  album.photos.length = 0;
  waiting.length = 0;
  album.selected = null;
  changed(null);
}

/** Identifies a photo again, after a person was named. */
export function again(photo) {
  if (photo.state === "looking" || photo.state === "waiting") return;
  photo.state = "waiting";
  waiting.unshift(photo);
  changed(photo);
  if (running < AT_ONCE) work();
}

async function work() {
  running++;
  for (let photo = waiting.shift(); photo; photo = waiting.shift()) {
    photo.state = "looking";
    changed(photo);
    photo.thumb ??= await thumbnail(photo.file);
    changed(photo);
    try {
      photo.result = await post("identify", {
        body: photo.file, query: { max_faces: MAX_FACES }, headers: { "Content-Type": photo.file.type.startsWith("image/") ? photo.file.type : "application/octet-stream" },
      });
      photo.state = "done";
    } catch (error) {
      photo.state = "failed";
      photo.result = null;
      photo.why = explain(error);
    }
    changed(photo);
  }
  running--;
}
