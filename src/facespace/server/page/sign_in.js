// Asks for a key when the service requires one. The key stays in this tab and is only sent in the request header.

import { h } from "./dom.js";
import { dialog } from "./dialogs.js";
import { rememberKey } from "./memory.js";
import { t } from "./text.js";

let asking = null;

/** Resolves when there is a key. Several refused requests share one dialog. */
export function signIn(wasRefused) {
  asking ??= ask(wasRefused).finally(() => { asking = null; });
  return asking;
}

async function ask(wasRefused) {
  await dialog(t("sign_in.title"), (done) => {
    const field = h("input", { type: "password", class: "input", id: "key", autocomplete: "off", spellcheck: "false", autofocus: true, required: true });
    return h("form", {
      onsubmit: (event) => {
        event.preventDefault();
        const key = field.value.trim();
        if (!/^[\x21-\x7e]+$/.test(key)) { field.focus(); return; }
        rememberKey(key);
        done(true);
      },
    },
      h("p", {}, t("sign_in.text")),
      wasRefused && h("p", { class: "error", role: "alert" }, t("sign_in.refused")),
      h("label", { class: "label", for: "key" }, t("sign_in.key")), field,
      h("p", { class: "hint" }, t("sign_in.hint")),
      h("div", { class: "actions" }, h("button", { type: "submit", class: "button primary" }, t("sign_in.go"))));
  }, { closable: false });
}

