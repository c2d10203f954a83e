/** Comparing with the original: held for a moment, wiped, or side by side. */

import { clamp, panesOf } from "./geometry.js";
import { byId, show } from "./dom.js";

/** Wires the buttons and the wipe; returns setMode(mode) (again: back to the result) and peek(shown). */
export function createCompare(store, zoom) {
  const wipe = byId("wipe");

  function setMode(mode) {
    const before = store.get().mode;
    const now = mode === before && mode !== "result" ? "result" : mode;
    store.set({ mode: now, peek: false });
    if (now === "side") {
      zoom.fit();
      const { view, size } = store.get();
      if (view && view.scale < 1 / size.ratio) zoom.one();
    } else if (before === "side") zoom.fit();
  }

  function peek(shown) {
    if (store.get().server) store.set({ peek: shown });
  }

  function setWipe(share) {
    store.set({ wipe: clamp(share, 0, 1) });
  }

  for (const button of byId("modes").children) button.addEventListener("click", () => setMode(button.dataset.mode));
  const held = byId("peek");
  held.addEventListener("pointerdown", () => peek(true));
  for (const name of ["pointerup", "pointercancel", "pointerleave", "blur"]) held.addEventListener(name, () => peek(false));
  held.addEventListener("keydown", (event) => {
    if (event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    if (!event.repeat) peek(true);
  });
  held.addEventListener("keyup", () => peek(false));
  held.addEventListener("contextmenu", (event) => event.preventDefault());

  wipe.addEventListener("pointerdown", (event) => {
    wipe.setPointerCapture(event.pointerId);
    event.preventDefault();
    wipe.focus({ preventScroll: true });
  });
  wipe.addEventListener("pointermove", (event) => {
    if (!wipe.hasPointerCapture(event.pointerId)) return;
    const box = wipe.parentElement.getBoundingClientRect();
    setWipe((event.clientX - box.left) / box.width);
  });
  wipe.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    setWipe(store.get().wipe + by * (event.shiftKey ? 5 : 1));
  });

  store.on(["mode", "peek", "wipe", "size", "server"], (values) => {
    for (const button of byId("modes").children) {
      button.setAttribute("aria-pressed", String(values.mode === button.dataset.mode));
    }
    held.setAttribute("aria-pressed", String(values.peek));
    show(byId("peeking"), values.peek);
    show(wipe, values.mode === "wipe" && !values.peek);
    const pane = panesOf(values.size, false)[0];
    wipe.style.left = `${values.wipe * pane.width}px`;
    wipe.setAttribute("aria-valuenow", String(Math.round(values.wipe * 100)));
  });
  return { setMode, peek };
}
