/** Every key, what it does and the help that shows them. */

import { byId, isWriting, make } from "./dom.js";

const HELD_MS = 250;
const SLIDER_KEYS = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"];

/** The keys as [group, [[keys, words, action or null], ...]]; `does` has the page's parts. */
export function keyTable({ actions, toolbar, zoom, compare, saving, masks, help }) {
  return [
    ["Tools", [
      [["p"], "Point: press at the handle, drag to the target", () => toolbar.choose("point")],
      [["b"], "Brush: paint where it may change", () => toolbar.choose("brush")],
      [["e"], "Eraser", () => toolbar.choose("eraser")],
      [["h"], "Hand", () => toolbar.choose("hand")],
      [["["], "Smaller brush", () => toolbar.grow(1 / 1.2)],
      [["]"], "Larger brush", () => toolbar.grow(1.2)],
      [["i"], "Invert the mask", masks.invert],
      [["c"], "Clear the points or the mask", toolbar.clear],
      [["Delete", "Backspace"], "Remove the chosen point", actions.removePoint],
      [["s (held)", "Alt"], "Snap to the face's landmarks", null],
    ]],
    ["Run", [
      [["Enter"], "Go, or go on", actions.go],
      [["Space"], "Go, pause, go on (tapped)", null],
      [["."], "One step", actions.step],
      [["Escape"], "Stop", null],
    ]],
    ["View", [
      [["+", "="], "Zoom in", zoom.zoomIn],
      [["-"], "Zoom out", zoom.zoomOut],
      [["0"], "The whole photo", zoom.fit],
      [["1"], "100 %", zoom.one],
      [["f"], "The face", zoom.face],
      [["Space (held)", "Middle button"], "Drag to move the photo", null],
      [["Wheel", "Pinch"], "Zoom to the pointer", null],
      [["Tab (held)", "o (held)"], "Show the original", null],
      [["w"], "Wipe", () => compare.setMode("wipe")],
      [["d"], "Side by side at 100 %", () => compare.setMode("side")],
    ]],
    ["Edits", [
      [["Ctrl+Z"], "Undo", actions.undo],
      [["Ctrl+Shift+Z", "Ctrl+Y"], "Redo", actions.redo],
      [["Ctrl+S"], "Save", saving.open],
      [["?"], "These keys", help],
    ]],
    ["On the photo, without a mouse", [
      [["Arrow keys"], "Move a cursor, or what it holds (Shift: finer)", null],
      [["Enter"], "Place a handle, then its target; take and drop a point", null],
      [["Ctrl+Enter"], "Go", actions.go],
      [["Escape"], "Put the cursor away", null],
    ]],
  ];
}

/** The name of a pressed key as the table writes it. */
export function nameOf(event) {
  const key = event.key === " " ? "Space" : event.key;
  const short = key.length === 1 ? key.toLowerCase() : key;
  if (!event.ctrlKey && !event.metaKey) return short;
  return `Ctrl+${event.shiftKey ? "Shift+" : ""}${short.length === 1 ? short.toUpperCase() : short}`;
}

/** Listens to the keyboard; `cursor` is the keyboard's own cursor. Returns spaceHeld(). */
export function listenToKeys(store, parts, cursor) {
  const table = keyTable(parts);
  const byName = new Map(table.flatMap(([, rows]) => rows.flatMap(([keys, , action]) => (action ? keys.map((key) => [key, action]) : []))));
  const { actions, compare } = parts;
  const canvas = byId("canvas");
  let space = null;
  let tab = null;
  fillHelp(table);

  function down(event) {
    if (document.querySelector("dialog[open]") || !store.get().server || event.isComposing) return;
    const focused = document.activeElement;
    const free = focused === document.body || focused === canvas;
    if (event.key === "Tab" && !event.shiftKey && free) return tabDown(event);
    const name = nameOf(event);
    const sliding = focused?.type === "range";
    if (isWriting(focused) && !(focused.tagName === "SELECT" && name.startsWith("Ctrl+"))) return;
    if (sliding && SLIDER_KEYS.includes(event.key)) return;
    if (name === "Escape") return escape();
    if (!free && !sliding && (name === "Enter" || name === "Space")) return;
    if (name === "Space") return spaceDown(event);
    if (free && cursor.key(event)) return event.preventDefault();
    if (event.altKey && event.key === "Alt") return event.preventDefault();
    if (name === "s") return store.set({ snapping: true });
    if (name === "o") return compare.peek(true);
    const action = byName.get(name);
    if (!action || event.altKey) return;
    event.preventDefault();
    action();
  }

  function escape() {
    if (store.get().cursor) store.set({ cursor: null });
    else actions.stop();
  }

  function spaceDown(event) {
    event.preventDefault();
    if (!event.repeat) space = { since: performance.now() };
    canvas.dataset.pan = "1";
  }

  /** A tap moves the focus on as ever, holding shows the original. */
  function tabDown(event) {
    event.preventDefault();
    if (event.repeat || tab) return;
    tab = { held: false, from: document.activeElement, timer: setTimeout(() => compare.peek((tab.held = true)), HELD_MS) };
  }

  function tabUp() {
    clearTimeout(tab.timer);
    if (tab.held) compare.peek(false);
    else focusAfter(tab.from);
    tab = null;
  }

  function up(event) {
    if (event.key === "Tab" && tab) tabUp();
    if (event.key === "s" || event.key === "S") store.set({ snapping: false });
    if (event.key === "o" || event.key === "O") compare.peek(false);
    if (event.key === " " && space) {
      const tapped = performance.now() - space.since < HELD_MS && !space.used;
      release();
      if (tapped) actions.goOrPause();
    }
  }

  function release() {
    space = null;
    delete canvas.dataset.pan;
  }

  addEventListener("keydown", down);
  addEventListener("keyup", up);
  addEventListener("blur", () => {
    release();
    if (tab) clearTimeout(tab.timer);
    tab = null;
    store.set({ snapping: false, peek: false });
  });
  return {
    spaceHeld() {
      if (space) space.used = true;
      return Boolean(space);
    },
  };
}

/** Gives the focus to what follows an element; to the first thing behind the page itself. */
function focusAfter(element) {
  const all = [...document.querySelectorAll("a[href], button, input, select, canvas[tabindex], [role=slider]")];
  const usable = all.filter((one) => one === element || (!one.disabled && one.getClientRects().length));
  usable[(usable.indexOf(element) + 1) % usable.length].focus({ focusVisible: true });
}

function fillHelp(table) {
  byId("keys").replaceChildren(
    ...table.map(([title, rows]) =>
      make(
        "section",
        {},
        make("h3", {}, title),
        make("dl", {}, ...rows.flatMap(([keys, words]) => [make("dt", {}, ...keys.flatMap(keycap)), make("dd", {}, words)])),
      ),
    ),
  );
}

function keycap(key, index) {
  const cap = make("kbd", {}, key);
  return index ? [" ", cap] : [cap];
}
