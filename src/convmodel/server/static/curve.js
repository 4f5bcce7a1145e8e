// Curves over the steps of a training run, as drawings with a text for screen readers.

import { h, svg } from "./dom.js";
import { number } from "./format.js";

const [WIDTH, HEIGHT, MARGIN] = [320, 110, 6];

/** Returns a range of values as text. */
const range = (points) => `${number(points[0][1])} at step ${points[0][0]}, ${number(points.at(-1)[1])} at step ${points.at(-1)[0]}`;

/** Draws values over steps, and a limit as a dashed line. */
export function curve(name, points, limit = null) {
  const most = limit === null ? "" : `; at most ${number(limit)} is allowed`;
  if (!points.length) return h("div", {});
  return figure(`${name}: ${number(points.at(-1)[1])}${limit === null ? "" : ` (at most ${number(limit)})`}`,
    drawing(`${name}: ${range(points)}${most}`, [WIDTH, HEIGHT], [{ points }], limit));
}

/**
 * Draws several lines into one drawing, with a legend that has their newest values.
 * @param {string} name
 * @param {{name: string, className: string, points: [number, number][]}[]} lines those without points are left out
 */
export function curves(name, lines) {
  const drawn = lines.filter(({ points }) => points.length);
  const legend = drawn.flatMap(({ name: line, className, points }) => [
    h(`span.key.${className}`, { "aria-hidden": "true" }), h("span", {}, `${line}: ${number(points.at(-1)[1])}`)]);
  return figure(h("span.keys", {}, h("b", {}, name), ...legend),
    drawing(`${name}: ${drawn.map(({ name: line, points }) => `${line} ${range(points)}`).join("; ")}`, [2 * WIDTH, 2 * HEIGHT], drawn));
}

const figure = (caption, drawn) => h("figure", {}, h("figcaption.quiet", {}, caption), drawn);

function drawing(label, [width, height], lines, limit = null) {
  const all = lines.flatMap(({ points }) => points);
  const values = [...all.map(([, value]) => value), ...(limit === null ? [] : [limit])];
  const [low, high, end] = [Math.min(...values), Math.max(...values), Math.max(1, ...all.map(([step]) => step))];
  const x = (step) => (MARGIN + (width - 2 * MARGIN) * step / end).toFixed(1);
  const y = (value) => (high === low ? height / 2 : MARGIN + (height - 2 * MARGIN) * (high - value) / (high - low)).toFixed(1);
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "curve" },
    limit === null ? null : svg("line", { x1: MARGIN, x2: width - MARGIN, y1: y(limit), y2: y(limit) }),
    ...lines.flatMap(({ points, className = "" }) => [
      svg("polyline", { class: className, points: points.map(([step, value]) => `${x(step)},${y(value)}`).join(" ") }),
      svg("circle", { class: className, cx: x(points.at(-1)[0]), cy: y(points.at(-1)[1]), r: 3.5 })]));
}
