// Stores choices in the browser permanently, and the key for this tab only. Works without storage too.

const choices = new Map();

export function recall(name) {
  try { return localStorage.getItem(`facespace.${name}`); } catch { return choices.get(name) ?? null; }
}

export function remember(name, value) {
  choices.set(name, value);
  try { localStorage.setItem(`facespace.${name}`, value); } catch { /* kept until the tab is closed */ }
}

export function recallKey() {
  try { return sessionStorage.getItem("facespace.key"); } catch { return choices.get("key") ?? null; }
}

export function rememberKey(value) {
  choices.set("key", value);
  try {
    if (value) sessionStorage.setItem("facespace.key", value);
    else sessionStorage.removeItem("facespace.key");
  } catch { /* kept until the tab is closed */ }
}
