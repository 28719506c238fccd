// Unnamed: unknown faces, grouped by person, that wait for a name. The view can be used with the keyboard alone.

import { get, onceKey, patch, post, remove } from "./api.js";
import { crop } from "./crops.js";
import { confirm, dialog, empty, failed, toast } from "./dialogs.js";
import { announce, button, fill, h } from "./dom.js";
import { nameField } from "./names.js";
import { similarityText, t } from "./text.js";
import { suggestionWord } from "./words.js";

const MAX_FACES = 8; // faces of a cluster on the page
const MAX_IGNORED = 200; // ignored faces shown at once
const DAYS = 30; // for which faces are kept if the user turns it on here
const skipped = new Set(); // until the page is closed

export async function unnamed(main, { signal }) {
  let groups = []; // {id, faces, n, cover, suggestions}
  let current = 0;
  let kept = true; // whether the service keeps unknown faces
  const chosen = new Set();
  const tally = h("p", { class: "tally", role: "status" });
  const ignoredButton = button(t("unnamed.ignored_faces"), showIgnored, { look: "quiet" });
  const list = h("ul", { class: "groups" });
  const bar = h("div", { class: "bar", hidden: true });
  const keysHint = h("p", { class: "keys" }, ["arrows", "space", "enter", "suggestion", "skip", "ignore"].map((what) =>
    h("span", {}, h("kbd", {}, t(`unnamed.key.${what}`)), t(`unnamed.does.${what}`))));
  fill(main, h("div", { class: "head" }, h("div", {}, h("h1", {}, t("nav.unnamed")), tally), ignoredButton), keysHint, list, bar);
  document.addEventListener("keydown", keys, { signal });
  await load();

  async function load() {
    const [clusters, settings] = await Promise.all([get("unknowns/clusters", { signal }), get("settings", { signal })]);
    kept = Boolean(settings.unknowns_days);
    const alone = clusters.loose.map((face) => ({ id: `face-${face}`, faces: [face], n: 1, cover: face, suggestions: [] }));
    const all = [...clusters.clusters, ...alone];
    const waits = (group) => !group.faces.every((face) => skipped.has(face));
    groups = [...all.filter(waits), ...all.filter((group) => !waits(group))];
    chosen.clear();
    current = Math.min(current, Math.max(0, groups.length - 1));
    draw();
  }

  function draw() {
    const faces = groups.reduce((sum, group) => sum + group.n, 0);
    const waiting = faces === 1 ? t("unnamed.tally_one_face") : t("unnamed.tally", { n: groups.length, faces });
    fill(tally, groups.length ? waiting : "");
    keysHint.hidden = groups.length === 0;
    main.querySelector(".empty")?.remove();
    if (!groups.length) list.after(kept ? nobodyWaits() : nothingKept());
    fill(list, groups.map(card));
    selection();
  }

  function nobodyWaits() {
    return empty("unnamed", t("unnamed.empty.title"), t("unnamed.empty.text"), h("a", { class: "button", href: "#/photos" }, t("nav.photos")));
  }

  function nothingKept() {
    return empty("unnamed", t("unnamed.off.title"), t("unnamed.off.text"), button(t("unnamed.off.go", { n: DAYS }), () => done(async () => {
      await patch("settings", { json: { unknowns_days: DAYS }, signal });
      toast(t("saved"));
    }), { look: "primary" }));
  }

  function card(group, k) {
    const check = h("input", { type: "checkbox", "aria-label": t("unnamed.select", { n: k + 1 }), checked: chosen.has(group), tabIndex: -1, onchange: () => toggle(group) });
    const hidden = group.n - Math.min(group.faces.length, MAX_FACES);
    const item = h("li", {
      class: "group", tabIndex: k === current ? 0 : -1, "aria-label": t("unnamed.group", { n: group.n, k: k + 1 }),
      data: { skipped: String(group.faces.every((face) => skipped.has(face))) },
      onfocus: () => { current = k; rove(); },
    },
      h("div", { class: "group-faces" }, group.faces.slice(0, MAX_FACES).map((face) => crop(`unknowns/${encodeURIComponent(face)}/crop`, "", 72, signal)),
        hidden > 0 && h("span", { class: "rest" }, t("unnamed.rest", { n: hidden }))),
      h("p", { class: "why" }, t("unnamed.seen", { n: group.n })),
      h("div", { class: "group-text" },
        group.suggestions.length > 0 && h("div", { class: "suggestions" }, group.suggestions.slice(0, 3).map((one) =>
          h("button", { type: "button", class: "chip", title: t("photos.numbers", { similarity: similarityText(one.similarity), threshold: similarityText(one.threshold) }),
            onclick: () => name(targets(group), { name: one.person.name, id: one.person.id }) },
            h("b", {}, one.person.name), h("span", {}, suggestionWord(one.likeness))))),
        nameField({ label: t("unnamed.name", { k: k + 1 }), placeholder: t("name.placeholder"), signal, onpick: (who) => name(targets(group), who) }),
        h("div", { class: "actions" }, button(t("unnamed.skip"), () => skip(k), { look: "quiet small" }), button(t("unnamed.ignore"), () => ignore(targets(group)), { look: "quiet small" }))),
      h("label", { class: "pick" }, check));
    return item;
  }

  /** Returns the groups that an action on one group applies to: all selected groups if it is one of them. */
  function targets(group) {
    return chosen.has(group) ? [...chosen] : [group];
  }

  function toggle(group) {
    if (chosen.has(group)) chosen.delete(group); else chosen.add(group);
    const item = list.children[groups.indexOf(group)];
    item.querySelector(".pick input").checked = chosen.has(group);
    item.classList.toggle("chosen", chosen.has(group));
    announce(t(chosen.has(group) ? "unnamed.chosen" : "unnamed.not_chosen", { n: chosen.size }));
    selection();
  }

  function selection() {
    bar.hidden = chosen.size < 1;
    if (bar.hidden) return;
    fill(bar, h("span", {}, t("selected_n", { n: chosen.size })),
      nameField({ label: t("unnamed.name_all", { n: chosen.size }), placeholder: t("name.placeholder"), signal, onpick: (who) => name([...chosen], who) }),
      button(t("unnamed.ignore"), () => ignore([...chosen]), { look: "quiet" }));
  }

  function rove() {
    [...list.children].forEach((item, k) => { item.tabIndex = k === current ? 0 : -1; });
  }

  function go(k) {
    current = Math.max(0, Math.min(groups.length - 1, k));
    rove();
    list.children[current]?.focus();
    list.children[current]?.scrollIntoView({ block: "nearest" });
  }

  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !groups.length || document.querySelector("dialog[open]")) return;
    const typing = event.target.closest("input:not([type=checkbox]), select, textarea");
    if (typing) {
      if (event.key === "Escape" && list.contains(typing)) go(current);
      return;
    }
    const onCard = document.activeElement?.classList.contains("group");
    if (!onCard && event.target.closest("a, button") && (event.key === "Enter" || event.key === " ")) return;
    const group = groups[current];
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    const number = Number(event.key);
    if (step) go(onCard ? current + step : current);
    else if (event.key === "Home") go(0);
    else if (event.key === "End") go(groups.length - 1);
    else if (!onCard) return;
    else if (event.key === " ") toggle(group);
    else if (event.key === "Enter") (list.children[current].querySelector("input[role=combobox]")).focus();
    else if (event.key.toLowerCase() === "s") skip(current);
    else if (event.key.toLowerCase() === "i") ignore(targets(group));
    else if (number >= 1 && number <= Math.min(3, group.suggestions.length)) {
      const { person } = group.suggestions[number - 1];
      name(targets(group), { name: person.name, id: person.id });
    } else return;
    event.preventDefault();
  }

  function skip(k) {
    groups[k].faces.forEach((face) => skipped.add(face));
    list.children[k].dataset.skipped = "true";
    announce(t("unnamed.skipped"));
    go(k + 1);
  }

  async function name(some, who) {
    const faces = some.flatMap((group) => group.faces);
    await done(async () => {
      await post("unknowns/name", { json: { faces, ...(who.id ? { person: who.id } : { name: who.name }) }, once: onceKey(), signal });
      toast(t("unnamed.named", { n: faces.length, name: who.name }));
    });
  }

  async function ignore(some) {
    const faces = some.flatMap((group) => group.faces);
    if (!(await confirm(t("unnamed.ignore"), t("unnamed.ignore_text", { n: faces.length }), t("unnamed.ignore_go"), { signal }))) { go(current); return; }
    await done(async () => {
      // One request for each group, because all faces of a request count as one person.
      for (const group of some) await post("unknowns/ignore", { json: { faces: group.faces }, once: onceKey(), signal });
      toast(t("unnamed.ignored", { n: faces.length }));
    });
  }

  /** Shows the ignored faces; each can be shown again. */
  async function showIgnored() {
    let faces;
    try { faces = (await get("unknowns", { query: { ignored: true, limit: MAX_IGNORED }, signal })).unknowns; } catch (error) { failed(error, signal); return; }
    await dialog(t("unnamed.ignored_faces"), () => {
      const rows = h("ul", { class: "ignored" }, faces.map((face, k) => h("li", {},
        crop(`unknowns/${encodeURIComponent(face.id)}/crop?ignored=true`, "", 72, signal),
        button(t("unnamed.again"), async (event) => {
          const row = event.currentTarget.closest("li");
          try {
            await remove(`unknowns/${encodeURIComponent(face.id)}`, { query: { ignored: true }, signal });
            row.remove();
          } catch (error) { failed(error, signal); }
        }, { look: "small", "aria-label": t("unnamed.again_n", { n: k + 1 }) }))));
      return [h("p", { class: "hint" }, t(faces.length ? "unnamed.again_text" : "unnamed.none_ignored")), rows];
    }, { wide: true, signal });
  }

  async function done(work) {
    try {
      await work();
      await load();
      go(current);
    } catch (error) {
      failed(error, signal);
      if (error.status === 404) await load();
    }
  }
}
