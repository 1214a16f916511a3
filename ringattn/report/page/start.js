/* What all parts share: the data, how numbers look, how elements are made, the tip at the pointer. */
"use strict";

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const byId = (id) => document.getElementById(id);

const { setup, results } = read("data");
const ran = results.map((result, index) => ({ ...result, index })).filter((result) => result.passes.forward || result.passes.backward);

/* As many decimals as show about four digits. */
function decimalsOf(value) {
  const size = Math.abs(value);
  return size > 0 ? 3 - Math.min(3, Math.max(0, Math.floor(Math.log10(size)))) : 0;
}

function digits(value, decimals = decimalsOf(value)) {
  return value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

const milliseconds = (seconds) => `${digits(seconds * 1e3)} ms`;
const percent = (fraction) => `${fraction > 0 ? "+" : ""}${(100 * fraction).toFixed(Math.abs(fraction) < 0.0995 ? 1 : 0)}%`;

function mebibytes(bytes) {
  const shown = bytes / 2 ** 20;
  const decimals = shown >= 1000 ? 0 : shown >= 1 || shown === 0 ? 1 : 3;
  return shown.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

/* element("div.bar.wide", { title: "..." }, "text", child, ...) */
function element(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/* A name that may break after its marks, and nowhere else. */
const breakable = (name) => name.split(/(?<=[,:=])/).flatMap((part, n) => (n ? [document.createElement("wbr"), part] : [part]));

/* Ticks at 1, 2 or 5 times a power of ten, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high * (1 + 1e-9); n++) found.push(n * step);
  return { found, decimals: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

const tip = byId("tip");

function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 14 + width > innerWidth ? x - 14 - width : x + 14;
  const top = y + 14 + height > innerHeight ? y - 10 - height : y + 14;
  tip.style.left = `${Math.max(6, Math.min(left, innerWidth - width - 6))}px`;
  tip.style.top = `${Math.max(6, top)}px`;
}

function hideTip() {
  tip.hidden = true;
}
