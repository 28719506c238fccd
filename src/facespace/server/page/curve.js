// A small line chart: the threshold by the share of strangers who would get a name.

import { svg } from "./dom.js";
import { percent, similarityText, t } from "./text.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [560, 240, 52, 24, 16, 44];

/** `points`: [{rate, threshold}], the rate on a logarithmic axis; `now` is the current pair. */
export function curve(points, now) {
  const all = points.filter((point) => point.rate > 0).sort((a, b) => a.rate - b.rate);
  const rates = [...all.map((point) => point.rate), ...(now?.rate > 0 ? [now.rate] : [])];
  const thresholds = [...all.map((point) => point.threshold), ...(now ? [now.threshold] : [])];
  const [x0, x1] = [Math.floor(Math.log10(Math.min(...rates))), Math.ceil(Math.log10(Math.max(...rates)) + 1e-9)];
  const [y0, y1] = [Math.floor(Math.min(...thresholds) * 10) / 10, Math.ceil(Math.max(...thresholds) * 10) / 10];
  const x = (rate) => LEFT + ((Math.log10(rate) - x0) / Math.max(1, x1 - x0)) * (WIDTH - LEFT - RIGHT);
  const y = (threshold) => HEIGHT - BOTTOM - ((threshold - y0) / Math.max(0.1, y1 - y0)) * (HEIGHT - TOP - BOTTOM);
  const label = now ? t("curve.label", { threshold: similarityText(now.threshold), rate: percent(now.rate) }) : t("curve.title");
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "curve", role: "img", "aria-label": label });
  for (let power = x0; power <= x1; power++) {
    picture.append(svg("line", { x1: x(10 ** power), x2: x(10 ** power), y1: TOP, y2: HEIGHT - BOTTOM, class: "grid" }),
      svg("text", { x: x(10 ** power), y: HEIGHT - BOTTOM + 19, class: "tick middle" }, percent(10 ** power)));
  }
  const step = y1 - y0 > 0.5 ? 0.2 : 0.1;
  for (let value = y0; value <= y1 + 1e-9; value += step) {
    picture.append(svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), class: "grid" }),
      svg("text", { x: LEFT - 8, y: y(value) + 5, class: "tick end" }, similarityText(Math.abs(value) < 1e-9 ? 0 : value)));
  }
  picture.append(svg("polyline", { points: all.map((point) => `${x(point.rate)},${y(point.threshold)}`).join(" "), class: "line" }));
  if (now?.rate > 0) {
    picture.append(svg("line", { x1: x(now.rate), x2: x(now.rate), y1: y(now.threshold), y2: HEIGHT - BOTTOM, class: "now-line" }),
      svg("circle", { cx: x(now.rate), cy: y(now.threshold), r: 5, class: "now" }));
  }
  picture.append(svg("text", { x: (WIDTH + LEFT) / 2, y: HEIGHT - 4, class: "tick middle" }, t("curve.rate")));
  return picture;
}
