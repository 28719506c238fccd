// Toasts, dialogs, and notices.

import { button, fill, h, icon } from "./dom.js";
import { t } from "./text.js";
import { explain } from "./words.js";

const SHOWN = 9000; // milliseconds

/** Shows a short message, and with `undo` a button that undoes the change. */
export function toast(text, { undo = null, bad = false } = {}) {
  const box = h("div", { class: bad ? "toast bad" : "toast" }, h("span", {}, text));
  const leave = () => box.remove();
  if (undo) {
    box.append(button(t("undo"), async () => { leave(); await undo(); }, { look: "quiet" }));
  }
  box.append(h("button", { type: "button", class: "icon-button", "aria-label": t("close"), onclick: leave }, icon("close", 16)));
  let timer = setTimeout(leave, SHOWN);
  const hold = () => clearTimeout(timer);
  const goOn = () => { clearTimeout(timer); timer = setTimeout(leave, SHOWN / 2); };
  box.addEventListener("pointerenter", hold);
  box.addEventListener("pointerleave", goOn);
  box.addEventListener("focusin", hold);
  box.addEventListener("focusout", goOn);
  document.getElementById("toasts").append(box);
}

export function failed(error, signal) {
  if (signal?.aborted || error?.name === "AbortError") return;
  toast(explain(error), { bad: true });
}

/** Shows a dialog. `build(done)` returns its content. Resolves with the value given to `done`, or null if it is closed. */
export function dialog(title, build, { wide = false, signal = null, closable = true } = {}) {
  return new Promise((resolve) => {
    let answer = null;
    const box = h("dialog", { class: wide ? "dialog wide" : "dialog", "aria-labelledby": "dialog-title" });
    const done = (value) => { answer = value; box.close(); };
    fill(
      box,
      h("div", { class: "dialog-head" },
        h("h2", { id: "dialog-title" }, title),
        closable && h("button", { type: "button", class: "icon-button", "aria-label": t("close"), onclick: () => done(null) }, icon("close"))),
      build(done),
    );
    box.addEventListener("close", () => { box.remove(); resolve(answer); });
    if (!closable) box.addEventListener("cancel", (event) => event.preventDefault());
    signal?.addEventListener("abort", () => box.close(), { once: true });
    document.body.append(box);
    box.showModal();
    box.querySelector("[autofocus]")?.focus();
  });
}

/** Asks for confirmation. With `type`, the user must type this text first. */
export function confirm(title, text, yes, { danger = false, type = null, signal = null } = {}) {
  return dialog(title, (done) => {
    const go = button(yes, () => done(true), { look: danger ? "danger" : "primary", disabled: type !== null });
    const field = type !== null && h("input", {
      type: "text", class: "input", id: "confirm-field", autocomplete: "off", autofocus: true,
      oninput: (event) => { go.disabled = event.target.value.trim() !== type; },
    });
    return [
      h("p", {}, text),
      field && h("label", { for: "confirm-field", class: "label" }, t("confirm.type", { name: type })),
      field,
      h("div", { class: "actions" }, button(t("cancel"), () => done(null), { autofocus: type === null }), go),
    ];
  }, { signal });
}

/** Returns a notice for the top of a view, which stays until it is closed. */
export function notice(text, { bad = false } = {}) {
  const box = h("div", { class: bad ? "notice bad" : "notice", role: "alert" }, h("p", {}, text));
  box.append(h("button", { type: "button", class: "icon-button", "aria-label": t("close"), onclick: () => box.remove() }, icon("close", 16)));
  return box;
}

/** Returns the content of a view that has nothing to show yet. */
export function empty(iconName, title, text, ...actions) {
  return h("div", { class: "empty" }, icon(iconName, 40), h("h2", {}, title), h("p", {}, text), actions.length > 0 && h("div", { class: "actions" }, actions));
}
