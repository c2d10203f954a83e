/** The tools' buttons and what each tool can be told. */

import { clamp } from "./geometry.js";
import { byId, enable, show } from "./dom.js";

/** Wires the tools; returns choose(tool), grow(factor) of the brush, and clear() of what the tool has made. */
export function createToolbar(store, actions, masks) {
  const tools = byId("tools");
  const size = byId("brush");

  function choose(tool) {
    store.set({ tool, pointer: null });
  }

  function grow(factor) {
    store.set({ brush: clamp(Math.round(store.get().brush * factor), Number(size.min), Number(size.max)) });
  }

  function clear() {
    const { tool } = store.get();
    if (tool === "brush" || tool === "eraser") masks.clear();
    else actions.clearPoints();
  }

  for (const button of tools.children) button.addEventListener("click", () => choose(button.dataset.tool));
  size.addEventListener("input", () => store.set({ brush: Number(size.value) }));
  byId("invert-mask").addEventListener("click", masks.invert);
  byId("clear-mask").addEventListener("click", masks.clear);
  byId("snap").addEventListener("click", () => store.set({ snapping: !store.get().snapping }));
  byId("remove-point").addEventListener("click", actions.removePoint);
  byId("clear-points").addEventListener("click", actions.clearPoints);

  function write({ tool, brush, snapping, pairs, hasMask, server }) {
    for (const button of tools.children) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    const painting = tool === "brush" || tool === "eraser";
    show(document.querySelector(".for-point"), tool === "point");
    show(document.querySelector(".for-brush"), painting);
    show(document.querySelector(".for-hand"), tool === "hand");
    size.value = String(brush);
    byId("snap").setAttribute("aria-pressed", String(snapping));
    const idle = !server?.running;
    enable(byId("remove-point"), idle && pairs.length > 0);
    enable(byId("clear-points"), idle && pairs.length > 0);
    enable(byId("invert-mask"), hasMask);
    enable(byId("clear-mask"), hasMask);
  }
  store.on(["tool", "brush", "snapping", "pairs", "hasMask", "server"], write);
  write(store.get());
  return { choose, grow, clear };
}
