// Compare: whether two photos show the same person, and how certain that is.

import { post } from "./api.js";
import { failed } from "./dialogs.js";
import { button, fill, h, icon } from "./dom.js";
import { choose, takeDrops, takePastes } from "./files.js";
import { decode, face as cutFace } from "./pictures.js";
import { number, similarityText, t } from "./text.js";
import { explain, likeness, qualityLevel, qualityWord } from "./words.js";

const LOW_QUALITY = 0.35;
const both = [null, null]; // {file, picture}; they stay when another view is shown

export function compare(main, { signal }) {
  const slots = [0, 1].map((k) => h("div", { class: "slot" }));
  const answer = h("section", { class: "verdict", "aria-live": "polite", "aria-label": t("compare.answer") });
  fill(main, h("div", { class: "head" }, h("div", {}, h("h1", {}, t("nav.compare")), h("p", { class: "tally" }, t("compare.lead")))), h("div", { class: "pair" }, slots), answer);
  slots.forEach((slot, k) => takeDrops(slot, (files) => place(files, k), signal));
  takePastes((files) => place(files, both[0] ? 1 : 0), signal);
  both.forEach((_, k) => dress(k));
  judge();

  async function place(files, k) {
    if (files.length > 1) { await put(files[0], 0); await put(files[1], 1); } else await put(files[0], k);
    judge();
  }

  async function put(file, k) {
    both[k] = { file, picture: await decode(file) };
    dress(k);
  }

  function dress(k) {
    const pick = button(t(both[k] ? "compare.other" : "compare.choose"), async () => {
      const files = await choose();
      if (files.length) place(files, k);
    }, { iconName: "upload", "aria-label": t(both[k] ? "compare.other_n" : "compare.choose_n", { n: k + 1 }) });
    fill(slots[k], h("div", { class: "slot-picture" }, both[k]?.picture ?? icon("photos", 40)), both[k] && h("p", { class: "file-name" }, both[k].file.name), pick);
  }

  async function judge() {
    if (!both[0] || !both[1]) { fill(answer, h("p", { class: "hint" }, t("compare.two"))); return; }
    fill(answer, h("p", { class: "hint" }, t("compare.looking")));
    const asked = [...both];
    const form = new FormData();
    asked.forEach(({ file }) => form.append("photo", file, file.name));
    try {
      const answered = await post("verify", { body: form, signal });
      if (asked.some((one, k) => one !== both[k])) return;
      show(answered, asked);
    } catch (error) {
      if (signal.aborted) return;
      if (!error.status) failed(error, signal);
      fill(answer, h("p", { class: "error" }, explain(error)), error.errors?.map((one) => h("p", { class: "hint" }, one.message)));
    }
  }

  function show(answered, asked) {
    const crops = answered.faces.map((one, k) => {
      const { picture } = asked[k];
      const image = one.image ?? answered.images?.[k] ?? { width: picture?.fullWidth ?? 1, height: picture?.fullHeight ?? 1 };
      const small = picture ? cutFace(picture, image, one.box, 224) : h("canvas", { width: 224, height: 224 });
      small.className = "face large";
      small.setAttribute("role", "img");
      small.setAttribute("aria-label", t("compare.face", { n: k + 1 }));
      return h("figure", {}, small, h("figcaption", { class: "quality", data: { level: String(qualityLevel(one.quality)) } }, t("photos.quality", { word: qualityWord(one.quality) })));
    });
    const rate = answered.false_match_rate;
    const weak = answered.faces.some((one) => one.quality !== null && one.quality < LOW_QUALITY);
    fill(answer,
      h("div", { class: "faces-pair" }, crops[0], h("div", { class: "sum", data: { same: String(answered.same) } },
        h("h2", {}, t(answered.same ? "compare.same" : "compare.different")),
        h("p", { class: "why" }, likeness(answered.similarity, answered.threshold)), meter(answered)), crops[1]),
      h("div", { class: "meaning" }, h("h3", {}, t("compare.meaning")),
        h("p", {}, t("compare.threshold", { threshold: similarityText(answered.threshold), n: 1, of: rate > 0 ? number(Math.round(1 / rate)) : "∞" })),
        h("p", {}, t(weak ? "compare.weak" : answered.faces.every((one) => qualityLevel(one.quality) >= 3) ? "compare.good" : "compare.fair",
          { one: qualityWord(answered.faces[0].quality), other: qualityWord(answered.faces[1].quality) })),
        h("p", { class: "hint" }, t("compare.twins"))));
  }

  /** Returns a meter that shows the similarity from 0 to 1, with the threshold marked. */
  function meter({ similarity, threshold, same }) {
    const at = (value) => `${100 * Math.max(0, Math.min(1, value))}%`;
    const bar = h("span", { class: "meter-bar" });
    const mark = h("span", { class: "meter-mark" });
    bar.style.width = at(similarity);
    mark.style.left = at(threshold);
    return h("div", { class: "meter", data: { same: String(same) } }, h("div", { class: "meter-track", role: "img",
      "aria-label": t("compare.numbers", { similarity: similarityText(similarity), threshold: similarityText(threshold) }) }, bar, mark),
    h("p", { class: "hint numbers" }, t("compare.numbers", { similarity: similarityText(similarity), threshold: similarityText(threshold) })));
  }
}
