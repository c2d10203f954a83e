/** What lies over the photo: faces, points, arrows, trails, landmarks, the crosshair and the brush. */

import { insidePolygon, toScreen } from "./geometry.js";

const HANDLE = "#ff4b4b";
const TARGET = "#3d9bff";
const DARK = "rgba(0, 0, 0, 0.65)";
const LIGHT = "rgba(255, 255, 255, 0.95)";
const TURN = 2 * Math.PI;

/** Draws everything over one pane; `context` counts in CSS pixels from the pane's corner. */
export function paintOverlay(context, values) {
  const { server, view } = values;
  context.lineJoin = "round";
  context.lineCap = "round";
  paintFaces(context, values);
  if (values.peek) return;
  if (values.snapping && server.face !== null) paintLandmarks(context, view, server.faces[server.face]?.landmarks ?? []);
  const running = Boolean(server.running);
  const traced = values.traced === null ? null : server.edits[values.traced];
  const comparing = values.mode !== "result" && !running;
  if (!comparing) paintTrails(context, view, traced ? (traced.tracks ?? []) : values.trails);
  if (running && !server.running.points) paintDots(context, view, values.live?.points ?? []);
  else paintPairs(context, values, running ? (values.live?.points ?? []) : []);
  if (values.cursor) paintCrosshair(context, toScreen(view, values.cursor));
}

/** The soft circle of the brush at a place of the pane. */
export function paintBrush(context, [x, y], width, erase) {
  ring(context, x, y, width / 2, DARK, 3);
  ring(context, x, y, width / 2, erase ? "rgba(255, 190, 180, 0.9)" : LIGHT, 1.25);
}

function paintFaces(context, { server, view }) {
  const alone = server.faces.length === 1;
  server.faces.forEach((face, index) => {
    const chosen = server.face === index;
    if (chosen && (alone || server.phase !== "preparing") && server.phase !== "choosing") return;
    const [x0, y0] = toScreen(view, [face.box[0], face.box[1]]);
    const [x1, y1] = toScreen(view, [face.box[2], face.box[3]]);
    context.globalAlpha = chosen || server.phase === "choosing" ? 1 : 0.55;
    for (const [colour, width] of [[DARK, 3.5], [LIGHT, 1.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      context.roundRect(x0, y0, x1 - x0, y1 - y0, 10);
      context.stroke();
    }
    label(context, String(index + 1), x0 + 14, y0 + 14);
    context.globalAlpha = 1;
  });
}

function paintLandmarks(context, view, landmarks) {
  for (const landmark of landmarks) dot(context, ...toScreen(view, landmark), 2, LIGHT);
}

function paintTrails(context, view, trails) {
  for (const trail of trails) {
    if (trail.length < 2) continue;
    const places = trail.map((point) => toScreen(view, point));
    for (const [colour, width] of [[DARK, 4], ["rgba(255, 120, 110, 0.95)", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      places.forEach(([x, y], at) => (at ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.stroke();
    }
  }
}

function paintDots(context, view, points) {
  for (const point of points) {
    const [x, y] = toScreen(view, point);
    dot(context, x, y, 3.5, DARK);
    dot(context, x, y, 2.25, HANDLE);
  }
}

function paintPairs(context, { pairs, view, selected }, handles) {
  const places = pairs.map(({ handle, target }, index) => ({
    from: toScreen(view, handles[index] ?? handle),
    to: target && toScreen(view, target),
  }));
  for (const { from, to } of places) if (to) arrow(context, from, to);
  places.forEach(({ from, to }, index) => {
    const mark = (end) => selected?.index === index && selected.end === end;
    if (to) knob(context, to, TARGET, mark("target"));
    knob(context, from, HANDLE, mark("handle"));
  });
}

function arrow(context, from, to) {
  const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
  if (length < 18) return;
  const [ux, uy] = [(to[0] - from[0]) / length, (to[1] - from[1]) / length];
  const [ax, ay] = [from[0] + ux * 8, from[1] + uy * 8];
  const [bx, by] = [to[0] - ux * 9, to[1] - uy * 9];
  for (const [colour, width] of [[DARK, 4], [LIGHT, 1.75]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    context.moveTo(ax, ay);
    context.lineTo(bx, by);
    for (const side of [-1, 1]) {
      context.moveTo(bx - ux * 6 - side * uy * 4, by - uy * 6 + side * ux * 4);
      context.lineTo(bx, by);
    }
    context.stroke();
  }
}

function knob(context, [x, y], colour, selected) {
  if (selected) ring(context, x, y, 11, LIGHT, 1.5);
  dot(context, x, y, 7.5, DARK);
  dot(context, x, y, 6.5, LIGHT);
  dot(context, x, y, 5, colour);
}

function paintCrosshair(context, [x, y]) {
  for (const [colour, width] of [[DARK, 3.5], [LIGHT, 1.5]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + dx * 5, y + dy * 5);
      context.lineTo(x + dx * 18, y + dy * 18);
    }
    context.stroke();
  }
}

function dot(context, x, y, radius, colour) {
  context.fillStyle = colour;
  context.beginPath();
  context.arc(x, y, radius, 0, TURN);
  context.fill();
}

/** A circle's line. */
export function ring(context, x, y, radius, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.beginPath();
  context.arc(x, y, radius, 0, TURN);
  context.stroke();
}

/** A short word on a dark ground. */
export function label(context, text, x, y) {
  context.font = "600 11px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  const width = context.measureText(text).width + 12;
  context.fillStyle = DARK;
  context.beginPath();
  context.roundRect(x - width / 2, y - 9, width, 18, 9);
  context.fill();
  context.fillStyle = LIGHT;
  context.fillText(text, x, y + 0.5);
}

/** The face at a place (photo pixels) that is not the chosen one, or -1. */
export function otherFaceAt(server, place) {
  const chosen = server.faces[server.face ?? -1];
  if (chosen && insidePolygon(chosen.quad, place)) return -1;
  return server.faces.findIndex(
    ({ box }, index) =>
      index !== server.face && place[0] >= box[0] && place[0] <= box[2] && place[1] >= box[1] && place[1] <= box[3],
  );
}
