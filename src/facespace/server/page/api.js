// Requests to the service: the key, waiting when it is busy or gone, and its problems as errors.

import { recall, recallKey } from "./memory.js";

const MAX_TRIES = 12;
const MAX_WAIT = 30; // seconds, whatever Retry-After says
const PROBE = 1000; // milliseconds between two looks for a server that is gone

/** What the service answered instead of doing it: RFC 9457 with a stable `code`. */
export class Problem extends Error {
  constructor(status, told = {}, retryAfter = null) {
    super(told.detail || told.title || String(status));
    this.status = status;
    this.code = told.code || "unknown";
    this.errors = told.errors || [];
    this.told = told;
    this.retryAfter = retryAfter;
  }
}

/** The server did not answer, and doing the request again might do it twice. */
export class Gone extends Error {}

const hooks = { signIn: null, gone: () => {} };
let back = null; // a promise while the server is gone

/** `signIn()` asks for a key and resolves when there is one; `gone(true|false)` shows whether the server answers. */
export function connect(signIn, gone) {
  Object.assign(hooks, { signIn, gone });
}

export function collection() {
  return recall("collection") || "default";
}

export function address(path, query = {}) {
  const url = new URL(`v1/${path}`, document.baseURI.split("#")[0]);
  if (collection() !== "default" && !/^(keys|collections|audit)/.test(path)) url.searchParams.set("collection", collection());
  for (const [name, value] of Object.entries(query)) if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  return url;
}

/** Random letters for an Idempotency-Key; works without HTTPS too. */
export function onceKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** One request; resolves with the fetch Response. Waits and tries again when the server is busy or, if that is safe, gone. */
export async function send(method, path, { query, json, body, headers = {}, etag, signal, once = null } = {}) {
  const sent = { ...headers };
  if (json !== undefined) sent["Content-Type"] = "application/json";
  if (etag) sent["If-Match"] = etag.startsWith('"') ? etag : `"${etag}"`;
  if (once) sent["Idempotency-Key"] = once;
  const safe = method === "GET" || method === "POST";
  for (let tries = 1; ; tries++) {
    const key = recallKey();
    if (key) sent.Authorization = `Bearer ${key}`;
    let response;
    try {
      response = await fetch(address(path, query), {
        method, headers: sent, body: json === undefined ? body : JSON.stringify(json), signal, cache: method === "GET" ? "no-cache" : "no-store",
        credentials: "omit", redirect: "error",
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      watchForReturn();
      if (!safe) throw new Gone();
      await back;
      continue;
    }
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (response.status === 401 && hooks.signIn) {
      await hooks.signIn(key !== null && key === recallKey(), signal);
      continue;
    }
    const busy = response.status === 429 || response.status === 503 || problem.code === "in_progress";
    if (busy && tries < MAX_TRIES) {
      await pause(Math.min(problem.retryAfter ?? 1, MAX_WAIT) * 1000 * (1 + Math.random() / 4), signal);
      continue;
    }
    throw problem;
  }
}

async function problemOf(response) {
  const after = Number(response.headers.get("Retry-After"));
  let told = {};
  try { told = await response.json(); } catch { /* a proxy's answer, no problem document */ }
  return new Problem(response.status, told && typeof told === "object" ? told : {}, response.headers.has("Retry-After") && after >= 0 ? after : null);
}

export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

function watchForReturn() {
  back ??= (async () => {
    hooks.gone(true);
    for (;;) {
      await pause(PROBE);
      try {
        const answer = await fetch(new URL("healthz", document.baseURI.split("#")[0]), { cache: "no-store", credentials: "omit" });
        if (answer.ok) break;
      } catch { /* still gone */ }
    }
    back = null;
    hooks.gone(false);
  })();
}

/** The answer's JSON, or null of an empty answer. */
async function told(response) {
  return response.status === 204 ? null : response.json();
}

export const get = async (path, options) => told(await send("GET", path, options));
export const post = async (path, options = {}) => told(await send("POST", path, options));
export const patch = async (path, options) => told(await send("PATCH", path, options));
export const remove = async (path, options) => told(await send("DELETE", path, options));
export const blob = async (path, options) => (await send("GET", path, options)).blob();
