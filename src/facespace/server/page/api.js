// Requests to the service: sends the key, waits while the service is busy or gone, and throws its problems as errors.

import { recall, recallKey } from "./memory.js";

const MAX_TRIES = 12;
const MAX_WAIT = 30; // seconds; a longer Retry-After is shortened to this
const PROBE = 1000; // milliseconds between two checks whether the server is back

/** An error answer of the service: RFC 9457 with a stable `code`. */
export class Problem extends Error {
  constructor(status, problem = {}, retryAfter = null) {
    super(problem.detail || problem.title || String(status));
    this.status = status;
    this.code = problem.code || "unknown";
    this.errors = problem.errors || [];
    this.problem = problem;
    this.retryAfter = retryAfter;
  }
}

/** The server did not answer, and repeating the request might carry it out twice. */
export class Gone extends Error {}

const hooks = { signIn: null, gone: () => {} };
let back = null; // a promise while the server is gone

/** `signIn()` asks for a key and resolves when there is one. `gone(true|false)` shows whether the server is gone. */
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

/** Returns random hexadecimal digits for an Idempotency-Key. Works without HTTPS too. */
export function onceKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Sends a request and resolves with the fetch Response. Retries while the server is busy or, if that is safe, gone. */
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
  let problem = {};
  try { problem = await response.json(); } catch { /* the answer of a proxy, which is not a problem document */ }
  return new Problem(response.status, problem && typeof problem === "object" ? problem : {}, response.headers.has("Retry-After") && after >= 0 ? after : null);
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

/** Returns the answer's JSON, or null for an empty answer. */
async function jsonOf(response) {
  return response.status === 204 ? null : response.json();
}

export const get = async (path, options) => jsonOf(await send("GET", path, options));
export const post = async (path, options = {}) => jsonOf(await send("POST", path, options));
export const patch = async (path, options) => jsonOf(await send("PATCH", path, options));
export const remove = async (path, options) => jsonOf(await send("DELETE", path, options));
export const blob = async (path, options) => (await send("GET", path, options)).blob();
