/** The edits as a strip of pictures, the original first; a click goes there. */

import { byId, enable, make, thumbnail } from "./dom.js";
import { capital, stopWords } from "./words.js";

/** Wires undo and redo, and keeps the strip. */
export function createHistory(store, actions, pictures) {
  const strip = byId("history");
  byId("undo").addEventListener("click", actions.undo);
  byId("redo").addEventListener("click", actions.redo);

  function entry(server, at, label, picture, details) {
    const button = make("button", { type: "button", "data-at": at, title: details, "aria-label": `${at ? `Edit ${at}: ` : ""}${label}` });
    if (at === server.at) button.setAttribute("aria-current", "step");
    button.append(picture, make("span", { class: "label" }, label));
    button.addEventListener("click", () => actions.jump(at));
    if (at) {
      const trace = (index) => () => store.set({ traced: index });
      for (const name of ["pointerenter", "focus"]) button.addEventListener(name, trace(at - 1));
      for (const name of ["pointerleave", "blur"]) button.addEventListener(name, trace(null));
    }
    return make("li", { class: at > server.at ? "undone" : null }, button);
  }

  function original(server) {
    const canvas = make("canvas", { width: 96, height: 96, "aria-hidden": "true" });
    pictures.whole(server.photo.view.url).then((image) => image && crop(canvas, image, server));
    return canvas;
  }

  function write({ server }, before) {
    enable(byId("undo"), Boolean(server?.can_undo));
    enable(byId("redo"), Boolean(server?.can_redo));
    if (!server?.photo) return strip.replaceChildren();
    const old = before.server;
    if (old?.photo && ["session", "at", "face"].every((key) => old[key] === server[key]) && same(old.edits, server.edits)) return undefined;
    const focused = strip.contains(document.activeElement) ? document.activeElement.dataset.at : null;
    strip.replaceChildren(
      entry(server, 0, "Original", original(server), "The photo as it was"),
      ...server.edits.map((edit, index) => entry(server, index + 1, capital(edit.label), thumbnail(edit.thumb), stopWords(edit))),
    );
    if (focused !== null) strip.querySelector(`[data-at="${Number(focused)}"]`)?.focus();
    const current = strip.querySelector("[aria-current]");
    if (current) strip.scrollTo({ left: current.offsetLeft - strip.clientWidth / 2 });
    return undefined;
  }
  store.on(["server"], write);
}

function same(a, b) {
  return a.length === b.length && a.every((edit, index) => edit.thumb === b[index].thumb && edit.label === b[index].label);
}

/** The face's square of the photo, or its middle. */
function crop(canvas, image, { photo, faces, face }) {
  const factor = image.naturalWidth / photo.width;
  const quad = faces[face ?? -1]?.quad;
  const side = Math.min(photo.width, photo.height);
  let box = [(photo.width - side) / 2, (photo.height - side) / 2, side];
  if (quad) {
    const [xs, ys] = [0, 1].map((axis) => quad.map((corner) => corner[axis]));
    box = [Math.min(...xs), Math.min(...ys), Math.max(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys))];
  }
  const [x, y, size] = box.map((value) => value * factor);
  canvas.getContext("2d").drawImage(image, x, y, size, size, 0, 0, canvas.width, canvas.height);
}
