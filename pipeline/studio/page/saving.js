/** The dialog that saves, and the files that were saved. */

import { byId, enable, make, setText, show } from "./dom.js";

const FORMATS = { keep: "As the photo", jpeg: "JPEG", png: "PNG", tiff: "TIFF", webp: "WebP" };
const KINDS = { photo: "Photo", recipe: "Recipe", video: "Video", edits: "Edits", session: "Session" };

/** Wires the dialog; returns open(). */
export function createSaving(store, actions) {
  const dialog = byId("save-dialog");
  const format = byId("format");
  const quality = byId("quality");

  function open() {
    const { server } = store.get();
    if (server?.photo && server.at > 0 && !dialog.open) dialog.showModal();
    else if (server?.photo && !server.at) actions.tell("There is no edit to save yet.", false);
  }

  function qualityMatters() {
    show(byId("quality-part"), format.value !== "png" && format.value !== "tiff");
  }

  byId("save").addEventListener("click", open);
  byId("save-now").addEventListener("click", () => actions.save(format.value, Number(quality.value)));
  format.addEventListener("change", qualityMatters);
  quality.addEventListener("input", () => setText(byId("quality-value"), quality.value));

  function file({ kind, name, url, path }) {
    return make(
      "li",
      {},
      make("span", { class: "soft" }, KINDS[kind] ?? kind),
      make("a", { href: url, download: name }, name),
      make("span", { class: "path" }, path),
    );
  }

  store.on(["hello"], ({ hello }) => {
    const chosen = format.value || "keep";
    format.replaceChildren(...hello.formats.map((name) => make("option", { value: name }, FORMATS[name] ?? name)));
    format.value = chosen;
    qualityMatters();
  });
  store.on(["server"], ({ server }, before) => {
    const saving = server?.phase === "saving";
    enable(byId("save-now"), server?.phase === "ready");
    setText(byId("saving"), saving ? "Blending into the full photo…" : "");
    const files = server?.saved ?? [];
    if (JSON.stringify(before.server?.saved ?? []) !== JSON.stringify(files)) byId("saved").replaceChildren(...files.map(file));
  });
  return { open };
}
