// Builds elements. Text always becomes a text node, so nothing from the server is ever parsed as markup.

const PROPERTIES = new Set(["value", "checked", "disabled", "selected", "multiple", "hidden", "htmlFor", "tabIndex"]);

/** Returns an element with attributes, listeners (`onclick`) and children: elements, strings, numbers, or lists of them. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (PROPERTIES.has(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...filled(children));
  return element;
}

/** Replaces the children of an element. Empty ones are left out. */
export function fill(element, ...children) {
  element.replaceChildren(...filled(children));
  return element;
}

function filled(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false && child !== "");
}

/** Returns an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...filled(children));
  return element;
}

const ICONS = {
  photos: "M4 6.5A1.5 1.5 0 0 1 5.5 5h13A1.5 1.5 0 0 1 20 6.5v11a1.5 1.5 0 0 1-1.5 1.5h-13A1.5 1.5 0 0 1 4 17.5zM4.5 16l4.5-4.5 4 4 2.5-2.5 4 4M15.5 9.5h.01",
  people: "M9 11a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM3.5 19c.4-3 2.6-4.5 5.5-4.5s5.1 1.5 5.5 4.5M15.5 5.3a3 3 0 0 1 0 5.4M17.5 14.8c1.7.6 2.7 2 3 4.2",
  unnamed: "M5 9V6.5A1.5 1.5 0 0 1 6.5 5H9M15 5h2.5A1.5 1.5 0 0 1 19 6.5V9M19 15v2.5a1.5 1.5 0 0 1-1.5 1.5H15M9 19H6.5A1.5 1.5 0 0 1 5 17.5V15M10 10.5c0-1.2.9-2 2-2s2 .8 2 1.9c0 1.5-2 1.6-2 3M12 16h.01",
  compare: "M4.5 6h6v12h-6zM13.5 6h6v12h-6z",
  settings: "M4 7h9M17 7h3M4 12h3M11 12h9M4 17h9M17 17h3M15 5v4M9 10v4M15 15v4",
  upload: "M12 16V5M7.5 9 12 4.5 16.5 9M5 15v3.5A1.5 1.5 0 0 0 6.5 20h11a1.5 1.5 0 0 0 1.5-1.5V15",
  camera: "M4 8.5A1.5 1.5 0 0 1 5.5 7H8l1.5-2h5L16 7h2.5A1.5 1.5 0 0 1 20 8.5v9a1.5 1.5 0 0 1-1.5 1.5h-13A1.5 1.5 0 0 1 4 17.5zM12 16a3.2 3.2 0 1 0 0-6.4 3.2 3.2 0 0 0 0 6.4z",
  folder: "M4 7a1.5 1.5 0 0 1 1.5-1.5H9l2 2.5h7.5A1.5 1.5 0 0 1 20 9.5v8a1.5 1.5 0 0 1-1.5 1.5h-13A1.5 1.5 0 0 1 4 17.5z",
  check: "m5 12.5 4.5 4.5L19 7.5",
  close: "m6 6 12 12M18 6 6 18",
  draw: "M5 5h3M11 5h2M16 5h3v3M19 11v2M19 16v3h-3M13 19h-2M8 19H5v-3M5 13v-2M5 8V5",
  search: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.5 15.5 20 20",
  pen: "M4.5 19.5 5.5 15.5 16 5l3 3L8.5 18.5z",
  back: "M14.5 5.5 8 12l6.5 6.5",
  add: "M12 5v14M5 12h14",
};

/** Returns a line icon that screen readers ignore. */
export function icon(name, size = 20) {
  return svg(
    "svg",
    { viewBox: "0 0 24 24", width: size, height: size, class: "icon", "aria-hidden": "true", focusable: "false" },
    svg("path", { d: ICONS[name] }),
  );
}

/** Returns a button with a text, a click handler and optionally an icon. */
export function button(text, onclick, { look = "", iconName = "", ...attributes } = {}) {
  return h("button", { type: "button", class: `button ${look}`.trim(), onclick, ...attributes }, iconName && icon(iconName, 18), text);
}

/** Announces a text to screen readers. */
export function announce(text) {
  const place = document.getElementById("announcer");
  place.textContent = "";
  requestAnimationFrame(() => { place.textContent = text; });
}
