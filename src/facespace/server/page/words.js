// Texts for numbers and codes: quality, likeness, reasons, problems.

import { Gone, Problem } from "./api.js";
import { known, t } from "./text.js";

const LOW_QUALITY = 0.35; // the service's own limit: a face below it is never called a stranger

export function qualityWord(quality) {
  if (quality === null || quality === undefined) return t("quality.unknown");
  if (quality >= 0.7) return t("quality.good");
  if (quality >= 0.5) return t("quality.fair");
  if (quality >= LOW_QUALITY) return t("quality.weak");
  return t("quality.poor");
}

export function qualityLevel(quality) {
  if (quality === null || quality === undefined) return 0;
  return quality >= 0.7 ? 4 : quality >= 0.5 ? 3 : quality >= LOW_QUALITY ? 2 : 1;
}

/** Returns how certain a name is, from the distance of the similarity to the threshold. */
export function likeness(similarity, threshold) {
  const above = similarity - threshold;
  if (above >= 0.2) return t("likeness.very_sure");
  if (above >= 0.08) return t("likeness.sure");
  if (above >= 0) return t("likeness.just");
  if (above >= -0.1) return t("likeness.close");
  return t("likeness.far");
}

/** Returns the text for a suggestion's likeness. */
export function suggestionWord(word) {
  const key = `suggestion.${String(word).replaceAll(" ", "_")}`;
  return known(key) ? t(key) : String(word);
}

export function reason(code, detail) {
  const key = `reason.${code}`;
  return known(key) ? t(key) : detail || code;
}

/** Returns an error as a text for users. */
export function explain(error) {
  if (error instanceof Gone) return t("problem.gone");
  if (!(error instanceof Problem)) return t("problem.page", { detail: String(error?.message ?? error) });
  const key = `problem.${error.code}`;
  return known(key) ? t(key) : error.message;
}
