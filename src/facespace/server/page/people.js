// People: all enrolled people, shown by face.

import { get, onceKey, post } from "./api.js";
import { crop } from "./crops.js";
import { dialog, empty, failed, toast } from "./dialogs.js";
import { button, fill, h, icon } from "./dom.js";
import { t } from "./text.js";

const PAGE = 60;
const WAIT = 200; // milliseconds after the last key press in the search field

export function people(main, { signal, redraw }) {
  const chosen = new Map();
  let next = null;
  let asked = 0;
  const tally = h("p", { class: "tally", role: "status" });
  const grid = h("ul", { class: "people" });
  const more = button(t("more"), () => load(), { hidden: true });
  const bar = h("div", { class: "bar", hidden: true });
  let timer = 0;
  const search = h("input", {
    type: "search", class: "input", "aria-label": t("people.search"), placeholder: t("people.search"), maxlength: 200,
    oninput: () => { clearTimeout(timer); timer = setTimeout(() => load(true), WAIT); },
  });
  fill(main,
    h("div", { class: "head" }, h("div", {}, h("h1", {}, t("nav.people")), tally),
      h("div", { class: "actions" }, h("div", { class: "search" }, icon("search", 18), search),
        h("a", { class: "button primary", href: "#/enrol" }, icon("add", 18), t("people.add")))),
    grid, more, bar);

  async function load(restart = false) {
    const turn = ++asked;
    try {
      const found = [];
      let answer;
      let after = restart ? null : next;
      do { // a page of a search may be empty although more follow
        answer = await get("people", { query: { search: search.value.trim(), limit: PAGE, after }, signal });
        if (turn !== asked) return;
        found.push(...answer.people);
        after = answer.next;
      } while (after && found.length < PAGE / 2);
      next = after;
      if (restart) grid.replaceChildren();
      grid.append(...found.map(card));
      more.hidden = !next;
      fill(tally, search.value.trim() ? t("people.found", { n: grid.children.length, of: answer.total }) : t("people_n", { n: answer.total }));
      main.querySelector(".empty")?.remove();
      if (!grid.children.length) {
        grid.after(search.value.trim()
          ? empty("search", t("people.none_found.title"), t("people.none_found.text", { search: search.value.trim() }))
          : empty("people", t("people.empty.title"), t("people.empty.text"), h("a", { class: "button primary", href: "#/enrol" }, t("people.add"))));
      }
    } catch (error) { failed(error, signal); }
  }

  function card(person) {
    const check = h("input", {
      type: "checkbox", "aria-label": t("people.select", { name: person.name }), checked: chosen.has(person.id),
      onchange: () => { if (check.checked) chosen.set(person.id, person); else chosen.delete(person.id); selection(); },
    });
    return h("li", { class: "person" },
      h("a", { href: `#/people/${encodeURIComponent(person.id)}` },
        crop(person.cover && `people/${encodeURIComponent(person.id)}/photos/${encodeURIComponent(person.cover)}/crop`, "", 160, signal),
        h("span", { class: "name" }, person.name), h("span", { class: "hint" }, t("photos_n", { n: person.n_photos }))),
      h("span", { class: "pick" }, check));
  }

  function selection() {
    bar.hidden = chosen.size === 0;
    grid.classList.toggle("choosing", chosen.size > 0);
    fill(bar, h("span", {}, t("selected_n", { n: chosen.size })),
      button(t("clear_selection"), () => { chosen.clear(); grid.querySelectorAll("input:checked").forEach((one) => { one.checked = false; }); selection(); }, { look: "quiet" }),
      button(t("people.merge"), () => merge([...chosen.values()]), { look: "primary", disabled: chosen.size < 2 }));
  }

  async function merge(all) {
    const kept = await askKept(all, signal);
    if (!kept) return;
    try {
      const others = all.filter((one) => one !== kept);
      const answer = await post(`people/${encodeURIComponent(kept.id)}/merge`, {
        json: { others: others.map((one) => one.id), etags: others.map((one) => one.etag) }, etag: kept.etag, once: onceKey(), signal,
      });
      toast(t("people.merged", { name: kept.name }), { undo: undoOf(answer.undo, redraw) });
      redraw({ focus: false });
    } catch (error) {
      failed(error, signal);
      if (error.status === 412) redraw({ focus: false });
    }
  }

  load(true);
}

/** Asks which name to keep when people are merged. */
export function askKept(all, signal) {
  return dialog(t("merge.title", { n: all.length }), (done) => {
    const sorted = [...all].sort((a, b) => b.n_photos - a.n_photos);
    let kept = sorted[0];
    return [
      h("p", {}, t("merge.text")),
      h("fieldset", { class: "choices" }, h("legend", {}, t("merge.name")), sorted.map((person) => h("label", { class: "choice" },
        h("input", { type: "radio", name: "kept", checked: person === kept, onchange: () => { kept = person; } }),
        crop(person.cover && `people/${encodeURIComponent(person.id)}/photos/${encodeURIComponent(person.cover)}/crop`, "", 40, signal),
        h("span", {}, person.name, h("span", { class: "hint" }, t("photos_n", { n: person.n_photos })))))),
      h("div", { class: "actions" }, button(t("cancel"), () => done(null)), button(t("merge.go"), () => done(kept), { look: "primary", autofocus: true })),
    ];
  }, { signal });
}

/** Returns a toast's undo action: it undoes the changes with these numbers, latest first, and then shows the result. */
export function undoOf(numbers, then) {
  return async () => {
    try {
      for (const number of [numbers].flat()) await post("undo", { json: { number }, once: onceKey() });
      toast(t("undone"));
      then({ focus: false });
    } catch (error) { failed(error); }
  };
}
