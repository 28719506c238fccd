// Enrolling many photos: a folder with one sub-folder per person, or photos of one person. Continues while other views are shown.

import { onceKey, post } from "./api.js";
import { toast } from "./dialogs.js";
import { announce, button, fill, h, icon } from "./dom.js";
import { bySubfolder, choose, inParallel, takeDrops } from "./files.js";
import { nameField } from "./names.js";
import { t } from "./text.js";
import { explain, reason } from "./words.js";

const AT_ONCE = 3; // requests sent in parallel
const MAX_PHOTOS = 8; // photos in one request
const MAX_BYTES = 12 * 2 ** 20; // bytes of one request with several photos

let job = null; // {people: [{name, files, chosen, added, rejected, sent}], state: plan | running | done}
const listeners = new Set();
const notify = () => listeners.forEach((listener) => listener());

/** Lists the people in a folder and shows the plan. */
export function startFolder(files) {
  if (job?.state === "running") { toast(t("enrol.still"), { bad: true }); return; }
  const people = [...bySubfolder(files)].map(([name, photos]) => planned(name, photos));
  if (!people.length) { toast(t("enrol.no_folders"), { bad: true }); return; }
  job = { people, state: "plan" };
  if (location.hash === "#/enrol") notify();
  else location.hash = "#/enrol";
}

function planned(name, files) {
  return { name, files, chosen: true, added: 0, rejected: [], sent: 0 };
}

function batches(person) {
  const found = [];
  let size = 0;
  for (const file of person.files) {
    const last = found.at(-1);
    if (!last || last.files.length >= MAX_PHOTOS || size + file.size > MAX_BYTES) { found.push({ person, files: [file] }); size = file.size; } else { last.files.push(file); size += file.size; }
  }
  return found;
}

async function run() {
  job.state = "running";
  const mine = job;
  notify();
  // Each person's first batch is sent before the person's other batches, because it creates the person.
  const firsts = [];
  const others = [];
  for (const person of mine.people.filter((one) => one.chosen)) {
    const [first, ...more] = batches(person);
    if (first) firsts.push(first);
    others.push(...more);
  }
  await inParallel(firsts, AT_ONCE, send);
  await inParallel(others, AT_ONCE, send);
  mine.state = "done";
  const added = mine.people.reduce((sum, person) => sum + person.added, 0);
  announce(t("enrol.done", { n: added }));
  notify();
}

async function send({ person, files }) {
  const form = new FormData();
  form.append("name", person.name);
  for (const file of files) form.append("photo", file, file.name);
  try {
    const answer = await post("enroll", { body: form, once: onceKey() });
    person.added += answer.added.length;
    for (const one of answer.rejected) person.rejected.push({ file: files[one.index]?.name ?? one.filename, why: reason(one.code, one.detail), code: one.code });
    person.id = answer.person?.id ?? person.id;
  } catch (error) {
    if (error.status === 413 && files.length > 1) {
      for (const file of files) await send({ person, files: [file] });
      return;
    }
    for (const file of files) person.rejected.push({ file: file.name, why: explain(error), code: error.code ?? "failed" });
  }
  person.sent += files.length;
  notify();
}

export function enrol(main, { signal }) {
  const pick = async () => { const files = await choose({ folder: true }); if (files.length) startFolder(files); };
  takeDrops(main, (files) => startFolder(files), signal);

  function draw() {
    const head = h("div", { class: "head" }, h("div", {}, h("a", { href: "#/people", class: "back" }, icon("back", 16), t("nav.people")), h("h1", {}, t("enrol.title"))));
    if (!job) { fill(main, head, start()); return; }
    fill(main, head, h("p", { class: "lead" }, t(`enrol.${job.state}_text`)), progress(), table(), actions());
  }

  function start() {
    const chosen = [];
    const status = h("span", { class: "hint" }, t("enrol.none_chosen"));
    const field = nameField({
      label: t("enrol.name"), placeholder: t("name.placeholder"), signal, submit: t("enrol.go"),
      onpick: ({ name }) => {
        if (!chosen.length) { toast(t("enrol.none_chosen"), { bad: true }); return; }
        job = { people: [planned(name, [...chosen])], state: "plan" };
        run();
      },
    });
    return h("div", { class: "two" },
      h("section", { class: "card" }, icon("folder", 28), h("h2", {}, t("enrol.folder_title")), h("p", {}, t("enrol.folder_text")),
        h("pre", { class: "tree", "aria-hidden": "true" }, t("enrol.tree")),
        button(t("enrol.choose_folder"), pick, { look: "primary", iconName: "folder" })),
      h("section", { class: "card" }, icon("people", 28), h("h2", {}, t("enrol.one_title")), h("p", {}, t("enrol.one_text")),
        h("div", { class: "actions" }, button(t("photos.choose"), async () => {
          const files = (await choose()).filter(Boolean);
          chosen.push(...files);
          fill(status, t("enrol.chosen", { n: chosen.length }));
        }, { iconName: "upload" }), status), field));
  }

  function progress() {
    const people = job.people.filter((one) => one.chosen);
    const total = people.reduce((sum, one) => sum + one.files.length, 0);
    const sent = people.reduce((sum, one) => sum + one.sent, 0);
    return h("div", { class: "progress" },
      h("progress", { max: total || 1, value: sent, "aria-label": t("enrol.progress") }),
      h("span", {}, t("enrol.count", { n: total, people: people.length, sent, added: people.reduce((sum, one) => sum + one.added, 0) })));
  }

  function table() {
    const plan = job.state === "plan";
    return h("ul", { class: "plan" }, job.people.map((person) => h("li", { class: person.chosen ? "" : "off" },
      plan ? h("label", { class: "check" }, h("input", {
        type: "checkbox", checked: person.chosen, onchange: (event) => { person.chosen = event.target.checked; draw(); },
      }), h("span", {}, person.name)) : person.id ? h("a", { href: `#/people/${encodeURIComponent(person.id)}` }, person.name) : h("span", {}, person.name),
      h("span", { class: "plan-count" }, plan || !person.sent ? t("photos_n", { n: person.files.length }) : t("enrol.added", { n: person.added, of: person.files.length })),
      person.rejected.length > 0 && h("details", {}, h("summary", {}, t("enrol.rejected", { n: person.rejected.length })),
        h("ul", { class: "reasons" }, person.rejected.map((one) => h("li", {}, h("span", { class: "file-name" }, one.file), h("span", {}, one.why))))))));
  }

  function actions() {
    if (job.state === "running") return null;
    const over = () => { job = null; draw(); };
    return h("div", { class: "actions" }, job.state === "plan"
      ? [button(t("cancel"), over), button(t("enrol.go_n", { n: job.people.filter((one) => one.chosen).length }), run, { look: "primary", disabled: !job.people.some((one) => one.chosen) })]
      : [button(t("enrol.more"), over), h("a", { class: "button primary", href: "#/people" }, t("enrol.see"))]);
  }

  listeners.add(draw);
  signal.addEventListener("abort", () => listeners.delete(draw), { once: true });
  draw();
}

