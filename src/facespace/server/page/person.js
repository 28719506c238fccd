// One person: their photos, and all changes that can be made.

import { get, onceKey, patch, post, remove as del } from "./api.js";
import { crop } from "./crops.js";
import { confirm, dialog, empty, failed, notice, toast } from "./dialogs.js";
import { button, fill, h, icon } from "./dom.js";
import { choose } from "./files.js";
import { nameField } from "./names.js";
import { askKept, undoOf } from "./people.js";
import { day, t } from "./text.js";
import { qualityLevel, qualityWord, reason } from "./words.js";

export async function person(main, { id, signal, redraw }) {
  const path = `people/${encodeURIComponent(id)}`;
  const back = h("a", { href: "#/people", class: "back" }, icon("back", 16), t("nav.people"));
  fill(main, back, h("div", { class: "portrait ghost" }));
  await load();

  async function load(message = null) {
    let known;
    try { known = await get(path, { signal }); } catch (error) {
      if (error.status !== 404) throw error;
      fill(main, back, message, empty("people", t("person.gone.title"), t("person.gone.text"), h("a", { class: "button", href: "#/people" }, t("nav.people"))));
      return;
    }
    draw(known, message);
  }

  /** Makes a change. If the person was changed meanwhile, shows the current state with a notice. */
  async function change(work) {
    try { await work(); } catch (error) {
      if (error.status === 412) await load(notice(t("person.stale"), { bad: true }));
      else if (error.status === 404) await load();
      else failed(error, signal);
    }
  }

  function draw(known, message) {
    const chosen = new Set();
    const bar = h("div", { class: "bar", hidden: true });
    const cover = known.cover ?? known.photos.find((photo) => photo.has_crop)?.id;
    const options = { etag: known.etag, signal };
    const photos = h("ul", { class: "photos" }, known.photos.map((photo, k) => {
      const check = h("input", {
        type: "checkbox", "aria-label": t("person.select", { n: k + 1 }),
        onchange: () => { if (check.checked) chosen.add(photo.id); else chosen.delete(photo.id); selection(); },
      });
      return h("li", {}, h("label", { class: "photo", title: photo.source ?? "" },
        crop(photo.has_crop && `${path}/photos/${encodeURIComponent(photo.id)}/crop`, t("person.photo", { n: k + 1, name: known.name }), 128, signal),
        h("span", { class: "quality", data: { level: String(qualityLevel(photo.quality)) } }, qualityWord(photo.quality)),
        h("span", { class: "hint" }, day(photo.added)), h("span", { class: "pick" }, check)));
    }));
    fill(main, back, message,
      h("div", { class: "portrait" },
        crop(cover && `${path}/photos/${encodeURIComponent(cover)}/crop`, "", 96, signal),
        h("div", {}, h("h1", {}, known.name),
          h("p", { class: "tally" }, [t("photos_n", { n: known.photos.length }), t("person.since", { day: day(known.added) }), known.external_id && t("person.external", { id: known.external_id })].filter(Boolean).join(" · "))),
        h("div", { class: "actions" },
          button(t("person.rename"), rename, { iconName: "pen" }),
          button(t("person.add"), add, { iconName: "upload" }),
          button(t("person.merge"), merge),
          button(t("person.remove"), remove),
          button(t("person.erase"), erase, { look: "danger-quiet" }))),
      h("p", { class: "hint" }, t("person.hint")), photos, bar);

    function selection() {
      bar.hidden = chosen.size === 0;
      const all = chosen.size === known.photos.length;
      fill(bar, h("span", {}, t("selected_n", { n: chosen.size })),
        button(t("person.split"), split, { disabled: all, title: all ? t("person.split_all") : null }),
        button(t("person.reject", { name: known.name }), reject, { disabled: all, title: all ? t("person.split_all") : null }),
        button(t("person.delete"), deletePhotos, { look: "danger-quiet", disabled: all, title: all ? t("person.split_all") : null }));
    }

    async function rename() {
      const name = await dialog(t("person.rename"), (done) => {
        const field = h("input", { type: "text", class: "input", id: "rename", value: known.name, maxlength: 200, autofocus: true, autocomplete: "off" });
        return h("form", { onsubmit: (event) => { event.preventDefault(); if (field.value.trim()) done(field.value.trim()); } },
          h("label", { class: "label", for: "rename" }, t("person.new_name")), field,
          h("div", { class: "actions" }, button(t("cancel"), () => done(null)), h("button", { type: "submit", class: "button primary" }, t("save"))));
      }, { signal });
      if (!name || name === known.name) return;
      await change(async () => {
        try { await patch(path, { json: { name }, ...options }); } catch (error) {
          if (error.code !== "name_taken" || !error.problem.other) throw error;
          const other = await get(`people/${encodeURIComponent(error.problem.other)}`, { signal });
          if (await confirm(t("person.taken.title", { name }), t("person.taken.text", { name }), t("merge.go"), { signal })) await together(known, [other]);
          return;
        }
        toast(t("person.renamed", { name }));
        await load();
      });
    }

    async function add() {
      const files = await choose();
      if (!files.length) return;
      await change(async () => {
        const form = new FormData();
        files.forEach((file) => form.append("photo", file, file.name));
        const answer = await post(`${path}/photos`, { body: form, once: onceKey(), signal });
        const why = [...new Set(answer.rejected.map((one) => reason(one.code, one.detail)))].join(" · ");
        toast([t("person.added", { n: answer.added.length }), why].filter(Boolean).join(" "), { bad: answer.added.length === 0 });
        await load();
      });
    }

    async function merge() {
      const other = await dialog(t("person.merge"), (done) => [
        h("p", {}, t("merge.with", { name: known.name })),
        nameField({ label: t("merge.who"), placeholder: t("people.search"), create: false, without: known.id, signal, submit: t("choose"), onpick: ({ id: found }) => done(found) }),
      ], { signal });
      if (!other) return;
      await change(async () => {
        const person = await get(`people/${encodeURIComponent(other)}`, { signal });
        const kept = await askKept([known, { ...person, n_photos: person.n_photos ?? person.photos.length }], signal);
        if (kept) await together(kept, [known, person].filter((one) => one.id !== kept.id));
      });
    }

    async function together(kept, others) {
      const answer = await post(`people/${encodeURIComponent(kept.id)}/merge`, {
        json: { others: others.map((one) => one.id), etags: others.map((one) => one.etag) }, etag: kept.etag, once: onceKey(), signal,
      });
      toast(t("people.merged", { name: kept.name }), { undo: undoOf(answer.undo, redraw) });
      if (kept.id === id) await load(); else location.hash = `#/people/${encodeURIComponent(kept.id)}`;
    }

    async function split() {
      const name = await dialog(t("person.split"), (done) => [
        h("p", {}, t("person.split_text", { n: chosen.size })),
        nameField({ label: t("person.split_name"), placeholder: t("name.placeholder"), without: known.id, signal, submit: t("person.split_go"), onpick: (who) => done(who.name) }),
      ], { signal });
      if (!name) return;
      await change(async () => {
        const answer = await post(`${path}/split`, { json: { photos: [...chosen], to: name }, once: onceKey(), ...options });
        toast(t("person.split_done", { n: chosen.size, name }), { undo: undoOf(answer.undo, redraw) });
        await load();
      });
    }

    async function reject() {
      if (!(await confirm(t("person.reject", { name: known.name }), t("person.reject_text", { n: chosen.size, name: known.name }), t("person.reject_go"), { signal }))) return;
      await change(async () => {
        const answer = await post(`${path}/reject`, { json: { photos: [...chosen] }, once: onceKey(), ...options });
        toast(t("person.rejected", { n: chosen.size }), { undo: undoOf(answer.undo, redraw) });
        await load();
      });
    }

    async function deletePhotos() {
      if (!(await confirm(t("person.delete"), t("person.delete_text", { n: chosen.size }), t("person.delete_go"), { danger: true, signal }))) return;
      await change(async () => {
        let etag = known.etag;
        const done = [];
        for (const photo of chosen) {
          const left = await del(`${path}/photos/${encodeURIComponent(photo)}`, { signal, etag });
          done.unshift(left.undo);
          etag = left.person?.etag;
        }
        toast(t("person.deleted", { n: chosen.size }), { undo: undoOf(done, redraw) });
        await load();
      });
    }

    async function remove() {
      if (!(await confirm(t("person.remove"), t("person.remove_text", { name: known.name }), t("person.remove_go"), { signal }))) return;
      await change(async () => {
        const answer = await del(path, options);
        const again = () => { if (location.hash === `#/${path}`) redraw({ focus: false }); else location.hash = `#/${path}`; };
        toast(t("person.removed", { name: known.name }), { undo: answer?.undo === undefined ? null : undoOf(answer.undo, again) });
        location.hash = "#/people";
      });
    }

    async function erase() {
      if (!(await confirm(t("person.erase"), t("person.erase_text", { name: known.name }), t("person.erase_go"), { danger: true, type: known.name, signal }))) return;
      await change(async () => {
        await post(`${path}/erase`, { once: onceKey(), ...options });
        toast(t("person.erased", { name: known.name }));
        location.hash = "#/people";
      });
    }
  }
}
