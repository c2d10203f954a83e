/** Draws the photo, what became of it and what lies over it, at the screen's own resolution. */

import { clamp, fitView, panesOf, panned, scaledAt, toScreen } from "./geometry.js";
import { label, paintBrush, paintOverlay, ring } from "./overlay.js";

const DRAWN = [
  "server", "view", "size", "mode", "peek", "wipe", "pairs", "selected", "cursor", "pointer", "live", "trails", "traced",
  "snapping", "tool", "brush", "hasMask", "shownPatch", "loupe",
];
const CRISP_FROM = 3;
const LOUPE_PX = 58;
const LOUPE_ZOOM = 2;
const DIM_PAINTING = 0.62;
const DIM = 0.2;
const LABEL_X_PX = 46; // at the left: the zoom bar lies at the right, and over the middle of a narrow pane

/** Keeps a canvas drawn; `parts` has pictures, regions and mask(); `drawn(live)` comes after each drawing. */
export function createCanvas(canvas, store, parts, drawn) {
  const context = canvas.getContext("2d");
  let asked = false;

  function invalidate() {
    if (asked) return;
    asked = true;
    requestAnimationFrame((now) => {
      asked = false;
      paint(context, canvas, store.get(), parts);
      drawn(store.get().live, now);
    });
  }

  function measure() {
    const { width, height } = canvas.parentElement.getBoundingClientRect();
    const ratio = devicePixelRatio || 1;
    const size = store.get().size;
    if (size.width === width && size.height === height && size.ratio === ratio) return;
    canvas.width = Math.max(1, Math.round(width * ratio));
    canvas.height = Math.max(1, Math.round(height * ratio));
    store.set({ size: { width, height, ratio } });
  }

  new ResizeObserver(measure).observe(canvas.parentElement);
  addEventListener("resize", measure);
  store.on(["size", "server", "mode", "fitted"], (values) => {
    if (values.fitted && values.server?.photo && values.size.width > 0) {
      const view = fittingView(values);
      if (["scale", "x", "y"].some((key) => view[key] !== values.view?.[key])) store.set({ view });
    }
  });
  store.on(DRAWN, invalidate);
  measure();
  return { invalidate };
}

/** The view that shows the whole photo in each pane, below what floats over the stage. */
export function fittingView(values) {
  const pane = panesOf(values.size, values.mode === "side")[0];
  const roomy = pane.width > 640 && pane.height > 420;
  const side = roomy ? 28 : 10;
  const insets = { left: side, right: side, top: roomy ? 60 : 52, bottom: roomy ? 28 : 12 };
  return fitView(values.server.photo, pane, insets, values.size.ratio > 1 ? 2 : 4);
}

function paint(context, canvas, values, parts) {
  const { server, view, size } = values;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!server?.photo || !view) return;
  const panes = panesOf(size, values.mode === "side");
  panes.forEach((pane, index) => {
    context.save();
    context.setTransform(size.ratio, 0, 0, size.ratio, 0, 0);
    context.beginPath();
    context.rect(pane.x, pane.y, pane.width, pane.height);
    context.clip();
    context.translate(pane.x, pane.y);
    paintPane(context, values, parts, pane, panes.length === 2 && index === 0);
    context.restore();
  });
  if (panes.length === 2) divide(context, panes[1], size.ratio);
}

function paintPane(context, values, parts, pane, first) {
  const original = first || values.peek || values.mode === "original";
  paintPicture(context, values, parts, original ? "original" : "result");
  if (values.mode === "wipe" && !values.peek) {
    context.save();
    context.beginPath();
    context.rect(0, 0, values.wipe * pane.width, pane.height);
    context.clip();
    paintPicture(context, values, parts, "original");
    context.restore();
  }
  const brushing = values.tool === "brush" || values.tool === "eraser";
  const mask = parts.mask();
  if (mask?.used && !values.peek && !first && values.mode !== "wipe") paintShade(context, values, mask, brushing);
  paintOverlay(context, values);
  if (values.loupe) paintLoupe(context, values, parts, pane, original ? "original" : "result");
  if (values.mode === "side") label(context, first ? "Original" : "Result", LABEL_X_PX, pane.height - 18);
  if (brushing && values.pointer) paintBrush(context, values.pointer, values.brush, values.tool === "eraser");
}

function paintPicture(context, { server, view, live, size, shownPatch }, parts, which) {
  const { width, height } = server.photo;
  context.save();
  context.translate(view.x, view.y);
  context.scale(view.scale, view.scale);
  context.imageSmoothingEnabled = view.scale * size.ratio < CRISP_FROM;
  context.imageSmoothingQuality = "high";
  const whole = parts.pictures.get(server.photo.view.url);
  if (whole) context.drawImage(whole, 0, 0, width, height);
  place(context, parts.regions.get("original"));
  if (which === "result") {
    if (live) context.drawImage(live.bitmap, live.x, live.y, live.w, live.h);
    else if (shownPatch) {
      const patch = parts.pictures.get(shownPatch.url);
      if (patch) context.drawImage(patch, shownPatch.x, shownPatch.y, shownPatch.w, shownPatch.h);
      place(context, parts.regions.get("result"));
    }
  }
  context.restore();
}

/** What lies under a finger, larger and beside it. */
function paintLoupe(context, values, parts, pane, which) {
  const [x, y] = toScreen(values.view, values.loupe);
  const [cx, cy] = [clamp(x, LOUPE_PX + 8, pane.width - LOUPE_PX - 8), y > 2.2 * LOUPE_PX ? y - 1.7 * LOUPE_PX : y + 1.9 * LOUPE_PX];
  const view = panned(scaledAt(values.view, [x, y], values.view.scale * LOUPE_ZOOM), cx - x, cy - y);
  context.save();
  context.beginPath();
  context.arc(cx, cy, LOUPE_PX, 0, 2 * Math.PI);
  context.clip();
  context.clearRect(cx - LOUPE_PX, cy - LOUPE_PX, 2 * LOUPE_PX, 2 * LOUPE_PX);
  paintPicture(context, { ...values, view }, parts, which);
  paintOverlay(context, { ...values, view });
  context.restore();
  ring(context, cx, cy, LOUPE_PX, "rgba(0, 0, 0, 0.6)", 4);
  ring(context, cx, cy, LOUPE_PX, "rgba(255, 255, 255, 0.95)", 2);
}

function place(context, part) {
  if (part) context.drawImage(part.picture, part.x, part.y, part.w, part.h);
}

/** Dark where nothing may change: clearly while the mask is painted, a trace of it otherwise. */
function paintShade(context, { server, view }, mask, painting) {
  context.save();
  context.globalAlpha = painting ? DIM_PAINTING : DIM;
  context.drawImage(mask.shade, view.x, view.y, server.photo.width * view.scale, server.photo.height * view.scale);
  context.restore();
}

function divide(context, pane, ratio) {
  context.save();
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = "rgba(128, 128, 128, 0.6)";
  if (pane.x) context.fillRect(pane.x - 0.5, 0, 1, pane.height);
  else context.fillRect(0, pane.y - 0.5, pane.width, 1);
  context.restore();
}
