// The page's texts by language. The code contains only keys; `en.js` and `zh.js` contain the sentences.

import en from "./en.js";
import { recall, remember } from "./memory.js";

export const LANGUAGES = { en: "English", zh: "中文" };

let texts = en;
let plurals = new Intl.PluralRules("en");
export let language = "en";

/** Loads the chosen language, or the first of the browser's languages that exists here. */
export async function startLanguage() {
  const preferred = [recall("language"), ...navigator.languages].map((tag) => (tag || "").slice(0, 2));
  await setLanguage(preferred.find((tag) => tag in LANGUAGES) ?? "en");
}

export async function setLanguage(tag) {
  texts = tag === "zh" ? (await import("./zh.js")).default : en;
  language = tag;
  plurals = new Intl.PluralRules(tag);
  document.documentElement.lang = tag === "zh" ? "zh-CN" : tag;
}

export async function chooseLanguage(tag) {
  remember("language", tag);
  await setLanguage(tag);
}

export function known(key) {
  return key in en;
}

/** Returns the text of a key, with `{name}` replaced by that value. With `n`, `key.one` is used for the singular. */
export function t(key, values = {}) {
  const one = `${key}.one`;
  const chosen = "n" in values && one in texts && plurals.select(values.n) === "one" ? texts[one] : texts[key];
  if (chosen === undefined) return key;
  return chosen.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? shown(values[name]) : whole));
}

function shown(value) {
  return typeof value === "number" ? number(value) : String(value);
}

export function number(value, digits = 0) {
  return new Intl.NumberFormat(document.documentElement.lang, { maximumFractionDigits: digits }).format(value);
}

export function similarityText(value) {
  return new Intl.NumberFormat(document.documentElement.lang, { minimumFractionDigits: 2, maximumFractionDigits: 2 }).format(value);
}

export function percent(value) {
  return new Intl.NumberFormat(document.documentElement.lang, { style: "percent", maximumSignificantDigits: 2 }).format(value);
}

export function date(value) {
  const moment = new Date(value);
  if (Number.isNaN(moment.getTime())) return String(value);
  return new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" }).format(moment);
}

export function day(value) {
  const moment = new Date(value);
  if (Number.isNaN(moment.getTime())) return String(value);
  return new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium" }).format(moment);
}

export function bytes(value) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
  const step = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(value, 1)) / 3));
  return new Intl.NumberFormat(document.documentElement.lang, { style: "unit", unit: units[step], maximumFractionDigits: 1 })
    .format(value / 1000 ** step);
}
