// Photos: shows the people in them. Unknown faces are named next to the picture.

import { album, again, clear, follow, open } from "./album.js";
import { onceKey, post } from "./api.js";
import { takePhoto } from "./camera.js";
import { confirm, empty, failed, toast } from "./dialogs.js";
import { announce, button, fill, h } from "./dom.js";
import { bySubfolder, choose, isPhoto, takeDrops, takePastes } from "./files.js";
import { startFolder } from "./enrol.js";
import { nameField } from "./names.js";
import { decode, drawBox, face as cutFace, lay } from "./pictures.js";
import { similarityText, t } from "./text.js";
import { likeness, qualityLevel, qualityWord, reason } from "./words.js";

export function photos(main, { signal }) {
  const take = (files) => {
    if (bySubfolder(files).size) { startFolder(files); return; }
    const many = files.length > 1 && files.some(isPhoto) ? files.filter((file) => isPhoto(file) || !file.webkitRelativePath) : files;
    open(many);
  };
  const pick = async (options) => { const files = await choose(options); if (files.length) take(files); };
  const snap = async () => { const photo = await takePhoto(signal); if (photo) { open([photo]); select(album.photos.at(-1)); } };
  takePastes(take, signal);
  takeDrops(main, take, signal);

  const actions = () => [
    button(t("photos.choose"), () => pick({}), { look: "primary", iconName: "upload" }),
    button(t("photos.camera"), snap, { iconName: "camera" }),
    button(t("photos.folder"), () => pick({ folder: true }), { iconName: "folder" }),
  ];
  const tally = h("p", { class: "tally", role: "status" });
  const stage = h("div", { class: "stage" });
  const side = h("section", { class: "side", "aria-label": t("photos.faces") });
  const strip = h("ul", { class: "strip", "aria-label": t("photos.list") });
  const tiles = new Map();
  let shown = null; // the photo on the stage, with its result

  function layout() {
    if (!album.photos.length) {
      tiles.clear();
      shown = null;
      fill(main, h("h1", { class: "unseen" }, t("nav.photos")),
        h("div", { class: "dropzone" }, empty("photos", t("photos.empty.title"), t("photos.empty.text"), actions())));
      return;
    }
    if (!strip.isConnected) {
      fill(main,
        h("div", { class: "head" }, h("div", {}, h("h1", {}, t("nav.photos")), tally),
          h("div", { class: "actions" }, actions(), button(t("photos.clear"), clear, { look: "quiet" }))),
        h("div", { class: "desk" }, h("div", { class: "left" }, stage, strip), side));
    }
    for (const photo of album.photos) if (!tiles.has(photo)) { tiles.set(photo, tile(photo)); strip.append(tiles.get(photo)); }
    strip.hidden = album.photos.length < 2;
    count();
    select(album.selected);
  }

  function tile(photo) {
    const item = h("li", {}, h("button", { type: "button", class: "tile", onclick: () => select(photo), onkeydown: move }));
    dress(photo, item);
    return item;
  }

  function dress(photo, item) {
    const inner = item.firstChild;
    const unknown = photo.result?.faces.filter((one) => !one.name).length ?? 0;
    const state = photo.state === "done" ? (unknown ? "unknown" : photo.result.faces.length ? "known" : "no_face") : photo.state;
    inner.dataset.state = state;
    inner.setAttribute("aria-label", `${photo.file.name}: ${t(`photos.state.${state}`, { n: unknown })}`);
    inner.setAttribute("aria-current", String(photo === album.selected));
    fill(inner, photo.thumb, h("span", { class: "dot" }));
  }

  function move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = album.photos[album.photos.indexOf(album.selected) + step];
    if (next) { select(next); tiles.get(next).firstChild.focus(); }
  }

  function select(photo) {
    const before = album.selected;
    album.selected = photo;
    if (before && before !== photo && tiles.has(before)) dress(before, tiles.get(before));
    if (photo && tiles.has(photo)) dress(photo, tiles.get(photo));
    if (photo) present(photo);
  }

  function count() {
    const done = album.photos.filter((photo) => photo.state === "done");
    const faces = done.flatMap((photo) => photo.result.faces);
    const left = album.photos.filter((photo) => photo.state === "waiting" || photo.state === "looking").length;
    fill(tally, [
      t("photos.tally.photos", { n: album.photos.length }),
      t("photos.tally.known", { n: faces.filter((one) => one.name).length }),
      t("photos.tally.unknown", { n: faces.filter((one) => !one.name).length }),
      left ? t("photos.tally.left", { n: left }) : "",
    ].filter(Boolean).join(" · "));
  }

  async function present(photo) {
    if (shown?.photo === photo && shown.result === photo.result && shown.state === photo.state) return;
    const fresh = shown?.photo !== photo;
    shown = { photo, result: photo.result, state: photo.state };
    if (fresh) { fill(stage, h("div", { class: "wait" })); photo.picture = null; }
    const turned = photo.result?.image.turned ?? 0;
    const picture = (!fresh && photo.turned === turned && photo.picture) || (await decode(photo.file, undefined, turned));
    if (signal.aborted || shown.photo !== photo || shown.result !== photo.result) return;
    album.photos.forEach((one) => { if (one !== photo) one.picture = null; });
    Object.assign(photo, { picture, turned });
    draw(photo);
  }

  function draw(photo) {
    const { picture, result } = photo;
    const image = result?.image ?? (picture ? { width: picture.width, height: picture.height } : { width: 4, height: 3 });
    const frame = h("div", { class: "frame" });
    frame.style.setProperty("--ratio", String(image.width / image.height));
    if (picture) {
      picture.setAttribute("role", "img");
      picture.setAttribute("aria-label", photo.file.name);
      frame.append(picture);
    } else frame.append(h("p", { class: "no-picture" }, t(photo.state === "failed" ? "photos.not_read" : "photos.no_preview")));
    const rows = [];
    result?.faces.forEach((one, k) => {
      const row = faceRow(photo, one, k);
      const box = lay(h("button", {
        type: "button", class: "box", data: { state: one.name ? "known" : "unknown", small: String(one.box[2] - one.box[0] < image.width / 9), end: String(one.box[0] > image.width * 0.6) },
        "aria-label": one.name ?? t("photos.unknown_n", { n: k + 1 }),
        onclick: () => { row.scrollIntoView({ block: "nearest" }); (row.querySelector("input") ?? row.querySelector("a, button"))?.focus(); },
        onpointerenter: () => row.classList.add("lit"), onpointerleave: () => row.classList.remove("lit"),
      }, h("span", { class: "tag" }, one.name ?? "?")), image, one.box);
      row.addEventListener("pointerenter", () => box.classList.add("lit"));
      row.addEventListener("pointerleave", () => box.classList.remove("lit"));
      row.addEventListener("focusin", () => box.classList.add("lit"));
      row.addEventListener("focusout", () => box.classList.remove("lit"));
      frame.append(box);
      rows.push(row);
    });
    fill(stage, frame);
    aside(photo, frame, image, rows);
    if (result) announce(`${photo.file.name}: ${result.faces.map((one) => one.name ?? t("photos.unknown")).join(", ") || t("photos.no_face")}`);
  }

  function aside(photo, frame, image, rows) {
    const title = h("h2", { class: "file-name", title: photo.file.name }, photo.file.name);
    if (photo.state === "failed") {
      fill(side, title, h("p", { class: "error" }, photo.why), h("div", { class: "actions" }, button(t("again"), () => again(photo))));
      return;
    }
    if (!photo.result) { fill(side, title, h("p", { class: "hint" }, t(`photos.state.${photo.state}`)), h("div", { class: "row ghost" })); return; }
    const hand = photo.picture && button(t("photos.draw"), () => byHand(photo, frame, image), { look: "quiet", iconName: "draw" });
    fill(side, title, rows.length ? h("ul", { class: "faces" }, rows) : h("p", {}, t("photos.no_face_long")), hand);
  }

  function faceRow(photo, one, k) {
    const small = photo.picture ? cutFace(photo.picture, photo.result.image, one.box) : h("canvas", { width: 112, height: 112 });
    small.className = "face";
    small.setAttribute("aria-hidden", "true");
    const meter = h("span", { class: "quality", data: { level: String(qualityLevel(one.quality)) } }, t("photos.quality", { word: qualityWord(one.quality) }));
    const head = one.name
      ? [h("a", { class: "name", href: `#/people/${encodeURIComponent(one.person?.id ?? "")}` }, one.name),
         h("p", { class: "why", title: t("photos.numbers", { similarity: similarityText(one.similarity), threshold: similarityText(one.threshold) }) },
           likeness(one.similarity, one.threshold))]
      : [h("span", { class: "name unknown" }, t("photos.unknown")), h("p", { class: "why" }, reason(one.unknown?.reason ?? "stranger"))];
    const more = one.name
      ? one.person && button(t("photos.keep"), (event) => keep(event.currentTarget, photo, one), { look: "quiet small" })
      : nameField({ label: t("photos.name_n", { n: k + 1 }), placeholder: t("name.placeholder"), signal, onpick: (who) => name(photo, one, who) });
    return h("li", { class: "row" }, small, h("div", { class: "row-text" }, head, meter, more));
  }

  async function name(photo, one, { name: called, id }) {
    try {
      if (one.unknown_id) await post("unknowns/name", { json: { faces: [one.unknown_id], ...(id ? { person: id } : { name: called }) }, once: onceKey(), signal });
      else if (!(await send(photo, called, one.box))) return;
      toast(t("name.done", { name: called }));
      refresh(photo, called);
    } catch (error) { failed(error, signal); }
  }

  /** Adds the face in a box to a person. If the service rejects it, shows the reason and returns false. */
  async function send(photo, called, box, accept = null) {
    const form = new FormData();
    form.append("name", called);
    form.append("box", box.map((n) => Math.round(n * 10) / 10).join(","));
    form.append("photo", photo.file, photo.file.name);
    const answer = await post("enroll", { body: form, query: { accept }, once: onceKey(), signal });
    if (answer.added.length) return true;
    const [why] = answer.rejected;
    if (why?.code === "other_person" && !accept) {
      const sure = await confirm(t("photos.other.title"), t("photos.other.text", { name: called }), t("photos.other.go"), { signal });
      return sure && send(photo, called, box, "other_person");
    }
    toast(reason(why?.code, why?.detail), { bad: true });
    return false;
  }

  function refresh(photo, called) {
    again(photo);
    for (const other of album.photos) {
      if (other !== photo && other.state === "done" && other.result.faces.some((one) => !one.name || one.name === called)) again(other);
    }
  }

  async function keep(pressed, photo, one) {
    pressed.disabled = true;
    try {
      if (await send(photo, one.name, one.box)) toast(t("photos.kept", { name: one.name }));
    } catch (error) { pressed.disabled = false; failed(error, signal); }
  }

  async function byHand(photo, frame, image) {
    const hint = h("p", { class: "hint", role: "status" }, t("photos.draw_hint"));
    side.append(hint);
    const box = await drawBox(frame, image, t("photos.draw_label"), signal);
    hint.remove();
    if (!box || signal.aborted) return;
    const mark = lay(h("div", { class: "box by-hand" }), image, box);
    frame.append(mark);
    const small = cutFace(photo.picture, image, box);
    small.className = "face";
    const field = nameField({
      label: t("photos.name_drawn"), placeholder: t("name.placeholder"), signal,
      onpick: async ({ name: called }) => {
        try {
          if (!(await send(photo, called, box))) return;
          toast(t("name.done", { name: called }));
          refresh(photo, called);
        } catch (error) { failed(error, signal); }
      },
    });
    const list = side.querySelector(".faces") ?? side.insertBefore(h("ul", { class: "faces" }), side.lastChild);
    list.append(h("li", { class: "row lit" }, small, h("div", { class: "row-text" }, h("span", { class: "name unknown" }, t("photos.drawn")), field,
      button(t("cancel"), (event) => { mark.remove(); event.target.closest(".row").remove(); }, { look: "quiet small" }))));
    field.field.focus();
  }

  follow((photo) => {
    if (!photo || !tiles.has(photo)) { layout(); return; }
    dress(photo, tiles.get(photo));
    count();
    if (photo === album.selected) present(photo);
  }, signal);
  layout();
}

