// Starts the page: header, language, the view named after `#` in the address, the sign-in dialog, and the banner for a missing server.

import { collection, connect, get } from "./api.js";
import { announce, fill, h, icon } from "./dom.js";
import { compare } from "./compare.js";
import { enrol } from "./enrol.js";
import { failed } from "./dialogs.js";
import { remember } from "./memory.js";
import { people } from "./people.js";
import { person } from "./person.js";
import { photos } from "./photos.js";
import { settings } from "./settings.js";
import { signIn } from "./sign_in.js";
import { startLanguage, t } from "./text.js";
import { unnamed } from "./unnamed.js";

const TABS = ["photos", "people", "unnamed", "compare", "settings"];
const VIEWS = { photos, people, unnamed, compare, settings, enrol };
let leaving = new AbortController();

function place() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  const id = rest.length ? decodeURIComponent(rest.join("/")) : null;
  if (name === "people" && id) return { name: "person", tab: "people", view: person, id };
  if (Object.hasOwn(VIEWS, name)) return { name, tab: name === "enrol" ? "people" : name, view: VIEWS[name], id: null };
  return { name: "photos", tab: "photos", view: photos, id: null };
}

/** Draws the header and the view again. The page's data are kept. */
function show({ focus = true } = {}) {
  leaving.abort(new DOMException("left", "AbortError"));
  leaving = new AbortController();
  const { name, tab, view, id } = place();
  header(tab);
  const main = document.getElementById("main");
  main.dataset.view = name;
  main.replaceChildren();
  const context = { signal: leaving.signal, id, redraw: show };
  Promise.resolve(view(main, context)).catch((error) => failed(error, context.signal));
  document.title = t("title", { view: t(`nav.${tab}`) });
  window.scrollTo(0, 0);
  if (focus) {
    main.focus({ preventScroll: true });
    announce(t(`nav.${tab}`));
  }
}

function header(tab) {
  document.getElementById("skip").textContent = t("skip");
  const nav = document.getElementById("nav");
  nav.setAttribute("aria-label", t("nav.label"));
  fill(nav, TABS.map((name) =>
    h("a", { href: `#/${name}`, class: "tab", "aria-current": name === tab ? "page" : null }, icon(name), h("span", {}, t(`nav.${name}`)))));
}

/** Adds a list of collections to the header if there are several. */
async function collections() {
  let names;
  try { names = (await get("collections")).collections.map((one) => one.name); } catch { return; }
  if (names.length < 2 && collection() === "default") return;
  const choice = h("select", {
    class: "select", "aria-label": t("collection"),
    onchange: (event) => { remember("collection", event.target.value); show(); },
  }, [...new Set([...names, collection()])].map((name) => h("option", { value: name, selected: name === collection() }, name)));
  fill(document.getElementById("top-end"), choice);
}

function gone(isGone) {
  const banner = document.getElementById("banner");
  banner.hidden = !isGone;
  fill(banner, isGone && h("span", { class: "pulse" }), isGone && t("gone"));
  if (!isGone) announce(t("back_again"));
}

await startLanguage();
connect(signIn, gone);
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
addEventListener("hashchange", () => show());
show({ focus: false });
collections();
