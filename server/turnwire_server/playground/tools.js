"use strict";
// --- Small tools ---------------------------------------------------------------------------------------------
const $ = (id) => document.getElementById(id);

/** An element; strings among the children become text, properties with a dash attributes. */
function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props))
    if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

const button = (className, label, onclick, ...children) =>
  el("button", { type: "button", className, onclick, "aria-label": label, title: label }, ...children);
// `crypto.randomUUID` is for secure origins only; a server in the local network may not be one.
const newId = (prefix) =>
  prefix + [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
const seconds = (ms) =>
  ms < 95
    ? `${Math.round(ms)} ms`
    : ms < 9950
      ? `${(ms / 1000).toFixed(1)} s`
      : ms < 120_000
        ? `${Math.round(ms / 1000)} s`
        : `${Math.round(ms / 60_000)} min`;
const pretty = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 1).replace(/\n\s*/g, " "));

/** Kept for this tab: reloading goes on where it was. Storage that is full or forbidden only loses comfort. */
const kept = {
  get(key) {
    try {
      return JSON.parse(sessionStorage.getItem(`turnwire.${key}`));
    } catch {
      return null;
    }
  },
  set(key, value) {
    try {
      sessionStorage.setItem(`turnwire.${key}`, JSON.stringify(value));
    } catch {
      sessionStorage.removeItem(`turnwire.${key}`);
    }
  },
};
