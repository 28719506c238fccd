// Settings: appearance, recognition, storage, keys, changes, the audit log, and erasing a person.

import { collection, get, onceKey, patch, post, remove as del, send } from "./api.js";
import { curve } from "./curve.js";
import { confirm, failed, toast } from "./dialogs.js";
import { button, fill, h } from "./dom.js";
import { nameField } from "./names.js";
import { recall, recallKey, remember, rememberKey } from "./memory.js";
import { undoOf } from "./people.js";
import { bytes, chooseLanguage, date, known, language, LANGUAGES, number, percent, similarityText, t } from "./text.js";
import { explain } from "./words.js";

const ROLES = ["read", "identify", "enroll", "admin"];
const RATES = [0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1];
const [CURVE_FROM, CURVE_TO] = [1e-5, 0.1]; // rates on the curve: lower ones are extrapolated, higher ones are of no use
const SHOWN = 20; // rows of logs

export function settings(main, { signal, redraw }) {
  const parts = {
    looks: section("looks", looks), recognition: section("recognition", recognition), storage: section("storage", storage),
    keys: section("keys", keys), changes: section("changes", changes), audit: section("audit", audit), erase: section("erase", erase),
  };
  fill(main, h("div", { class: "head" }, h("h1", {}, t("nav.settings"))),
    h("div", { class: "settings" },
      h("nav", { class: "toc", "aria-label": t("settings.toc") }, Object.keys(parts).map((name) => h("button", {
        type: "button", onclick: () => { parts[name].scrollIntoView({ block: "start" }); parts[name].querySelector("h2").focus({ preventScroll: true }); },
      }, t(`settings.${name}`)))),
      h("div", { class: "sections" }, Object.values(parts))));

  /** Returns a section that loads itself. If the key does not allow it, the section shows the reason; the others still load. */
  function section(name, build) {
    const body = h("div", { class: "section-body" });
    const box = h("section", { class: "section", "aria-labelledby": `s-${name}`, data: { part: name } }, h("h2", { id: `s-${name}`, tabIndex: -1 }, t(`settings.${name}`)), body);
    const again = async () => {
      try { await build(body, again); } catch (error) {
        if (!signal.aborted) fill(body, h("p", { class: "hint" }, explain(error)));
      }
    };
    again();
    return box;
  }

  function looks(body) {
    const theme = recall("theme") ?? "system";
    fill(body, h("div", { class: "fields" },
      field("language", t("settings.language"), h("select", {
        class: "select", id: "language", onchange: async (event) => { await chooseLanguage(event.target.value); redraw({ focus: false }); document.getElementById("language")?.focus(); },
      }, Object.entries(LANGUAGES).map(([tag, name]) => h("option", { value: tag, selected: tag === language, lang: tag }, name)))),
      field("theme", t("settings.theme"), h("select", {
        class: "select", id: "theme", onchange: (event) => {
          remember("theme", event.target.value);
          if (event.target.value === "system") delete document.documentElement.dataset.theme;
          else document.documentElement.dataset.theme = event.target.value;
        },
      }, ["system", "light", "dark"].map((name) => h("option", { value: name, selected: name === theme }, t(`theme.${name}`)))))));
  }

  async function recognition(body, again) {
    const answer = await get("settings", { signal });
    const now = { rate: answer.rate, threshold: answer.threshold };
    const points = answer.calibration.strangers.filter((point) => point.rate >= CURVE_FROM && point.rate <= CURVE_TO);
    const rates = [...new Set([...RATES, answer.rate])].filter((rate) => rate > 0).sort((a, b) => a - b);
    fill(body,
      h("p", {}, !answer.n_people ? t("settings.no_threshold") : answer.threshold === null ? t("settings.not_measured")
        : t("settings.threshold", { threshold: similarityText(answer.threshold), rate: percent(answer.rate), n: answer.n_people ?? 0 })),
      field("rate", t("settings.rate"), h("select", {
        class: "select", id: "rate", onchange: async (event) => {
          try { await patch("settings", { json: { rate: Number(event.target.value) }, signal }); toast(t("saved")); await again(); } catch (error) { failed(error, signal); await again(); }
        },
      }, rates.map((rate) => h("option", { value: String(rate), selected: rate === answer.rate }, t("settings.rate_of", { rate: percent(rate), n: number(Math.round(1 / rate)) }))))),
      points.length > 1 && h("figure", { class: "curve-box" }, h("figcaption", {}, t("curve.title")), curve(points, answer.threshold === null || answer.rate < CURVE_FROM || answer.rate > CURVE_TO ? null : now)),
      answer.calibration.measured_on && h("p", { class: "hint" }, t("settings.measured_on", { what: answer.calibration.measured_on })),
      list([[t("settings.model"), modelOf(answer.model)], [t("settings.licence"), answer.model.licence], [t("settings.people"), number(answer.n_people)]]));
  }

  async function storage(body, again) {
    const answer = await get("settings", { signal });
    const size = (value) => (value === null ? null : bytes(value));
    fill(body, list([[t("storage.gallery"), size(answer.storage.gallery)], [t("storage.state"), size(answer.storage.state)], [t("settings.photos"), number(answer.n_photos)]]),
      h("div", { class: "fields" },
        field("unknowns", t("settings.unknowns_days"), days("unknowns", answer.unknowns_days, "unknowns_days", again)),
        field("retention", t("settings.retention_days"), days("retention", answer.retention_days, "retention_days", again))),
      h("div", { class: "actions" }, button(t("settings.export"), download), button(t("settings.check"), (event) => check(event.currentTarget, body))));
  }

  function days(id, now, name, again) {
    const choices = [...new Set([0, 7, 30, 90, 365, now ?? 0])].sort((a, b) => a - b);
    return h("select", {
      class: "select", id, onchange: async (event) => {
        const chosen = Number(event.target.value);
        try { await patch("settings", { json: { [name]: chosen || null }, signal }); toast(t("saved")); } catch (error) { failed(error, signal); }
        await again();
      },
    }, choices.map((n) => h("option", { value: String(n), selected: n === (now ?? 0) }, n ? t("days_n", { n }) : t(`settings.${name}_none`))));
  }

  async function download() {
    try {
      const answer = await send("GET", `collections/${encodeURIComponent(collection())}/export`, { signal });
      const url = URL.createObjectURL(await answer.blob());
      const named = /filename="?([^";]+)"?/.exec(answer.headers.get("Content-Disposition") ?? "");
      h("a", { href: url, download: named?.[1] ?? `${collection()}.facespace` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
    } catch (error) { failed(error, signal); }
  }

  async function check(pressed, body) {
    pressed.disabled = true;
    try {
      const answer = await get("check", { signal });
      const found = answer.findings;
      body.querySelector(".check-result")?.remove();
      body.append(h("div", { class: "check-result", role: "status" }, found.length
        ? h("ul", {}, found.map((one) => h("li", {}, one.text)))
        : h("p", {}, t("settings.check_fine"))));
    } catch (error) { failed(error, signal); }
    pressed.disabled = false;
  }

  async function keys(body, again) {
    const answer = (await get("keys", { signal })).keys;
    const role = h("select", { class: "select", id: "key-role" }, ROLES.map((name) => h("option", { value: name, selected: name === (answer.length ? ROLES[0] : "admin") }, t(`role.${name}`)))); // the first key must be an admin key
    const label = h("input", { type: "text", class: "input", id: "key-label", maxlength: 100, autocomplete: "off" });
    fill(body, h("p", { class: "hint" }, t(answer.length ? "keys.text" : "keys.none")),
      answer.length > 0 && h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": t("settings.keys") }, h("table", {},
        h("thead", {}, h("tr", {}, ["label", "role", "collection", "created", "used", "action"].map((name) => h("th", { scope: "col" }, t(`keys.${name}`))))),
        h("tbody", {}, answer.map((key) => h("tr", { class: key.valid ? "" : "off" },
          h("td", {}, key.label || key.id), h("td", {}, t(`role.${key.role}.short`)), h("td", {}, key.collection ?? t("keys.all")),
          h("td", {}, date(key.created)), h("td", {}, key.expires ? date(key.expires) : t("keys.never")),
          h("td", {}, key.revoked ? t("keys.revoked") : button(t("keys.revoke"), () => revoke(key, again), { look: "small", "aria-label": t("keys.revoke_n", { label: key.label || key.id }) }))))))),
      h("form", { class: "inline", onsubmit: (event) => { event.preventDefault(); create(role.value, label.value.trim(), again, body); } },
        field("key-label", t("keys.label"), label), field("key-role", t("keys.role"), role), h("button", { type: "submit", class: "button" }, t("keys.create"))));
  }

  async function create(role, label, again, body) {
    try {
      const answer = await post("keys", { json: { role, label }, signal });
      // After the first key, the service requires one: this tab continues with it if it is an admin key.
      if (recallKey() === null && role === "admin") rememberKey(answer.key);
      if (recallKey() !== null) await again();
      body.append(h("div", { class: "secret", role: "status" }, h("p", {}, h("b", {}, t("keys.once"))), h("code", {}, answer.key),
        button(t("keys.copy"), async (event) => {
          try { await navigator.clipboard.writeText(answer.key); event.target.textContent = t("keys.copied"); } catch { /* the user can select it by hand */ }
        }, { look: "small" })));
    } catch (error) { failed(error, signal); }
  }

  async function revoke(key, again) {
    if (!(await confirm(t("keys.revoke"), t("keys.revoke_text", { label: key.label || key.id }), t("keys.revoke"), { danger: true, signal }))) return;
    try { await del(`keys/${encodeURIComponent(key.id)}`, { signal }); toast(t("keys.revoked_done")); await again(); } catch (error) { failed(error, signal); }
  }

  async function changes(body) {
    const answer = await get("log", { query: { limit: SHOWN }, signal });
    const rows = answer.changes;
    if (!rows.length) { fill(body, h("p", { class: "hint" }, t("changes.none"))); return; }
    fill(body, h("ol", { class: "log" }, rows.map((row) => h("li", {}, h("time", {}, date(row.at)), h("span", { class: row.undone ? "undone" : "" }, known(`change.${row.kind}`) ? `${t(`change.${row.kind}`)}: ${row.text}` : row.text), h("span", { class: "hint" }, row.actor),
      row.can_be_undone && button(t("undo"), undoOf(row.number, redraw), { look: "quiet small", "aria-label": t("changes.undo_n", { n: row.number }) })))));
  }

  async function audit(body) {
    const answer = await get("audit", { query: { limit: SHOWN }, signal });
    const rows = answer.entries;
    if (!rows.length) { fill(body, h("p", { class: "hint" }, t("audit.none"))); return; }
    fill(body, h("ol", { class: "log" }, rows.map((row) => h("li", {}, h("time", {}, date(row.at)),
      h("span", {}, [row.action, row.path, row.status].filter(Boolean).join(" · ")), h("span", { class: "hint" }, row.actor)))));
  }

  function erase(body) {
    fill(body, h("p", {}, t("settings.erase_text")),
      nameField({ label: t("settings.erase_who"), placeholder: t("people.search"), create: false, signal, submit: t("choose"), onpick: async ({ id, name }) => {
        try {
          const person = await get(`people/${encodeURIComponent(id)}`, { signal });
          if (!(await confirm(t("person.erase"), t("person.erase_text", { name }), t("person.erase_go"), { danger: true, type: name, signal }))) return;
          await post(`people/${encodeURIComponent(id)}/erase`, { etag: person.etag, once: onceKey(), signal });
          toast(t("person.erased", { name }));
          redraw({ focus: false });
        } catch (error) { failed(error, signal); }
      } }));
  }
}

function field(id, label, control) {
  return h("div", { class: "field" }, h("label", { class: "label", for: id }, label), control);
}

function list(rows) {
  return h("dl", { class: "facts" }, rows.filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function modelOf({ name, network, dimension }) {
  return [name, network, dimension && t("settings.dimension", { n: dimension })].filter(Boolean).join(" · ");
}
