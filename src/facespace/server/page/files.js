// Photos that users choose, drop, or paste, including folders.

import { h } from "./dom.js";

const PHOTO = /\.(jpe?g|png|webp|heic|heif|tiff?|bmp|gif|jp2|avif)$/i;

/** Returns whether a file in a folder is probably a photo. Files chosen one by one are always sent. */
export function isPhoto(file) {
  return !file.name.startsWith(".") && (file.type.startsWith("image/") || PHOTO.test(file.name));
}

/** Opens the browser's dialog for photos, or for a folder, and resolves with the files. */
export function choose({ folder = false, several = true } = {}) {
  return new Promise((resolve) => {
    const input = h("input", { type: "file", class: "unseen", multiple: several, accept: folder ? null : "image/*,.heic,.heif,.jp2", "aria-hidden": "true", tabIndex: -1 });
    if (folder) input.webkitdirectory = true;
    const finish = (files) => { input.remove(); resolve(files); };
    input.addEventListener("change", () => finish([...input.files]));
    input.addEventListener("cancel", () => finish([]));
    document.body.append(input);
    input.click();
  });
}

/** Accepts files dropped on an element. While files are dragged over it, it has the class `over`. */
export function takeDrops(element, take, signal) {
  let depth = 0;
  const set = (n) => { depth = n; element.classList.toggle("over", depth > 0); };
  const on = (name, listener) => element.addEventListener(name, listener, { signal });
  const holds = (event) => event.dataTransfer?.types.includes("Files");
  on("dragenter", (event) => { if (holds(event)) { event.preventDefault(); set(depth + 1); } });
  on("dragover", (event) => { if (holds(event)) event.preventDefault(); });
  on("dragleave", (event) => { if (holds(event)) set(Math.max(0, depth - 1)); });
  on("drop", async (event) => {
    if (!holds(event)) return;
    event.preventDefault();
    event.stopPropagation();
    set(0);
    const files = await dropped(event.dataTransfer);
    if (files.length) take(files);
  });
}

export function takePastes(take, signal) {
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])].filter(isPhoto);
    if (!files.length) return;
    event.preventDefault();
    take(files);
  }, { signal });
}

async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const files = [];
  const walk = async (entry, path) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      if (isPhoto(file)) files.push(Object.assign(file, { folderPath: path + file.name }));
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const one of some) await walk(one, `${path}${entry.name}/`);
    }
  };
  for (const entry of entries) await walk(entry, "");
  return files;
}

/** Returns the path of a file in the chosen folder: `album/Ada/1.jpg`. */
export function pathOf(file) {
  return file.folderPath || file.webkitRelativePath || file.name;
}

/** Returns photos by the name of their sub-folder of the chosen folder, sorted by name. */
export function bySubfolder(files) {
  const people = new Map();
  for (const file of files.filter(isPhoto)) {
    const parts = pathOf(file).split("/");
    if (parts.length < 3) continue;
    const name = parts[1].normalize("NFC").trim();
    people.set(name, [...(people.get(name) ?? []), file]);
  }
  return new Map([...people].sort(([a], [b]) => a.localeCompare(b)));
}

/** Calls `work` for each item, at most `limit` at once. */
export async function inParallel(items, limit, work) {
  const waiting = [...items];
  await Promise.all(Array.from({ length: Math.min(limit, waiting.length) }, async () => {
    while (waiting.length) await work(waiting.shift());
  }));
}
