/** Fingers, pens, mice and wheels on the canvas: who pans and zooms, and what reaches the tool. */

import { clamp, isTrackpad, keptInSight, panned, panesOf, pinched, zoomAt } from "./geometry.js";
import { fittingView } from "./canvas.js";

const TAP_PX = 6;

/** The least scale to zoom out to. */
export function leastScale(values) {
  return Math.min(fittingView(values).scale / 2, 1);
}

/** Listens on `canvas`; `tool` has down, move, up, cancel, each with {at, alt, touch}; `spaceHeld()` says whether to pan. */
export function listenForGestures(canvas, store, tool, spaceHeld) {
  const fingers = new Map();
  let gesture = null;

  function ready() {
    const { server, view } = store.get();
    return Boolean(server?.photo && view);
  }

  /** CSS pixels within the pane that the event lies in, or that the gesture began in. */
  function placeOf(event, pane = null) {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const { size, mode } = store.get();
    const panes = panesOf(size, mode === "side");
    const mine =
      pane ?? panes.find((one) => x >= one.x && x < one.x + one.width && y >= one.y && y < one.y + one.height) ?? panes[0];
    return { at: [x - mine.x, y - mine.y], pane: mine };
  }

  function show(view) {
    const { server, size, mode } = store.get();
    store.set({ view: keptInSight(view, server.photo, panesOf(size, mode === "side")[0]), fitted: false });
  }

  function toolEvent(event, pane) {
    return { at: placeOf(event, pane).at, alt: event.altKey, touch: event.pointerType === "touch" };
  }

  function begin(event) {
    const { pane } = placeOf(event);
    const details = toolEvent(event, pane);
    if (event.button === 1 || spaceHeld() || store.get().tool === "hand") {
      gesture = { kind: "pan", id: event.pointerId, pane, last: details.at };
    } else if (details.touch) {
      gesture = { kind: "waiting", id: event.pointerId, pane, start: details };
    } else {
      gesture = { kind: "tool", id: event.pointerId, pane };
      tool.down(details);
    }
    canvas.dataset.gesture = gesture.kind;
  }

  function pinch() {
    if (gesture?.kind === "tool") tool.cancel();
    const [a, b] = [...fingers.values()];
    gesture = { kind: "pinch", pane: a.pane, from: [a.at, b.at], view: store.get().view };
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (!ready() || event.button === 2) return;
    canvas.dataset.pressed = "1"; // its focus ring is for the keyboard
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    if (event.button === 1) event.preventDefault();
    if (event.pointerType === "touch") {
      fingers.set(event.pointerId, placeOf(event, [...fingers.values()][0]?.pane));
      if (fingers.size === 2) return pinch();
      if (fingers.size > 2) return undefined;
    }
    return gesture ? undefined : begin(event);
  });

  canvas.addEventListener("pointermove", (event) => {
    if (!ready()) return;
    if (event.pointerType !== "touch") store.set({ pointer: pointerFor(event) });
    if (!gesture) canvas.toggleAttribute("data-over", tool.over(placeOf(event).at));
    if (fingers.has(event.pointerId)) fingers.set(event.pointerId, placeOf(event, fingers.get(event.pointerId).pane));
    if (gesture?.kind === "pinch") {
      const [a, b] = [...fingers.values()];
      if (b) show(pinched(gesture.view, gesture.from, [a.at, b.at], leastScale(store.get())));
      return;
    }
    if (gesture?.id !== event.pointerId) return;
    const details = toolEvent(event, gesture.pane);
    if (gesture.kind === "waiting") {
      const [x, y] = gesture.start.at;
      if (Math.hypot(details.at[0] - x, details.at[1] - y) < TAP_PX) return;
      tool.down(gesture.start);
      gesture = { ...gesture, kind: "tool" };
    }
    if (gesture.kind === "tool") tool.move(details);
    if (gesture.kind === "pan") {
      show(panned(store.get().view, details.at[0] - gesture.last[0], details.at[1] - gesture.last[1]));
      gesture.last = details.at;
    }
  });

  function pointerFor(event) {
    const { tool: name } = store.get();
    return name === "brush" || name === "eraser" ? placeOf(event).at : null;
  }

  function finish(event, cancelled) {
    fingers.delete(event.pointerId);
    if (gesture?.kind === "pinch") {
      if (fingers.size === 0) gesture = null;
    } else if (gesture?.id === event.pointerId) {
      const done = gesture;
      gesture = null;
      delete canvas.dataset.gesture;
      if (!ready()) return;
      if (done.kind === "waiting" && !cancelled) {
        tool.down(done.start);
        tool.up(done.start);
      } else if (done.kind === "tool") {
        if (cancelled) tool.cancel();
        else tool.up(toolEvent(event, done.pane));
      }
    }
  }

  canvas.addEventListener("pointerup", (event) => finish(event, false));
  canvas.addEventListener("pointercancel", (event) => finish(event, true));
  canvas.addEventListener("blur", () => delete canvas.dataset.pressed);
  canvas.addEventListener("pointerleave", () => store.set({ pointer: null }));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      if (!ready()) return;
      const { view } = store.get();
      if (!event.ctrlKey && (event.shiftKey || isTrackpad(event))) {
        const [dx, dy] = event.shiftKey && !event.deltaX ? [event.deltaY, 0] : [event.deltaX, event.deltaY];
        show(panned(view, -dx, -dy));
        return;
      }
      const unit = event.deltaMode === 1 ? 30 : 1;
      const power = event.ctrlKey && Math.abs(event.deltaY) < 50 ? 0.01 : 0.0018;
      const factor = Math.exp(-clamp(event.deltaY * unit, -400, 400) * power);
      show(zoomAt(view, placeOf(event).at, factor, leastScale(store.get())));
    },
    { passive: false },
  );
}
