// A name field that suggests known people: type, choose with the arrow keys, press Enter.

import { get } from "./api.js";
import { crop } from "./crops.js";
import { fill, h, icon } from "./dom.js";
import { t } from "./text.js";

const WAIT = 120; // milliseconds after the last key press
const MAX_SHOWN = 6;
let serial = 0;

/** Returns the field. It calls `onpick({name, id})`; `id` is null for a name that is not a known person. */
export function nameField({ label, placeholder, onpick, signal, without = null, create = true, submit = t("name.save") }) {
  const id = `name-${++serial}`;
  let people = [];
  let active = -1;
  let timer = 0;
  let picked = ""; // the last chosen name, for which no suggestions are shown again
  const list = h("ul", { class: "options", role: "listbox", id: `${id}-list`, "aria-label": t("name.known"), hidden: true });
  const input = h("input", {
    type: "text", class: "input", id, role: "combobox", autocomplete: "off", spellcheck: "false", maxlength: 200, placeholder,
    "aria-label": label, "aria-expanded": "false", "aria-controls": `${id}-list`, "aria-autocomplete": "list",
    oninput: () => { clearTimeout(timer); timer = setTimeout(look, WAIT); },
    onfocus: () => { if (input.value && input.value !== picked) look(); },
    onblur: () => setTimeout(close, 150),
    onkeydown: keys,
  });
  const form = h("form", {
    class: "name-field",
    onsubmit: (event) => { event.preventDefault(); pick(active); },
  }, h("div", { class: "combo" }, input, list), h("button", { type: "submit", class: "button" }, submit));

  async function look() {
    const asked = input.value.trim();
    if (!asked) { close(); return; }
    try {
      const answer = await get("people", { query: { search: asked, limit: MAX_SHOWN + 1 }, signal });
      if (input.value.trim() !== asked || !form.isConnected) return;
      people = answer.people.filter((person) => person.id !== without).slice(0, MAX_SHOWN);
    } catch { people = []; }
    active = -1;
    draw(asked);
  }

  function draw(asked) {
    const same = people.some((person) => person.name === asked);
    fill(list,
      people.map((person, k) => option(k, crop(person.cover && `people/${person.id}/photos/${person.cover}/crop`, "", 28, signal), person.name)),
      create && !same && option(people.length, icon("add", 18), t("name.new", { name: asked })));
    list.hidden = list.children.length === 0;
    input.setAttribute("aria-expanded", String(!list.hidden));
    mark();
  }

  function option(k, picture, text) {
    return h("li", { role: "option", id: `${id}-${k}`, class: "option", onpointerdown: (event) => { event.preventDefault(); pick(k); } },
      picture, h("span", {}, text));
  }

  function mark() {
    [...list.children].forEach((item, k) => item.setAttribute("aria-selected", String(k === active)));
    if (active >= 0) input.setAttribute("aria-activedescendant", `${id}-${active}`);
    else input.removeAttribute("aria-activedescendant");
  }

  function keys(event) {
    if (event.key === "Escape" && !list.hidden) { event.stopPropagation(); event.preventDefault(); close(); return; }
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    event.preventDefault();
    if (list.hidden) { look(); return; }
    const n = list.children.length;
    active = event.key === "ArrowDown" ? (active + 1) % n : (active + n - (active < 0 ? 0 : 1)) % n;
    mark();
  }

  function close() {
    list.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    mark();
  }

  function pick(k) {
    const person = people[k];
    const name = person?.name ?? input.value.trim();
    if (!name) { input.focus(); return; }
    const known = person ?? people.find((one) => one.name === name);
    if (!create && !known) { look(); return; }
    clearTimeout(timer);
    picked = input.value;
    close();
    onpick({ name, id: known?.id ?? null });
  }

  form.field = input;
  return form;
}
