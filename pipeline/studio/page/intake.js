/** Photos and recipes that come in: dropped anywhere, pasted, or chosen. */

import { byId, show } from "./dom.js";
import { upload } from "./connection.js";
import { mebibytes } from "./words.js";

const LARGEST_RECIPE = 11_000_000;

/** Listens on the whole page; `generatorNow()` names the generator for a new photo. Returns take(file). */
export function createIntake(store, actions, generatorNow) {
  async function takeRecipe(file) {
    const { server } = store.get();
    if (!server) return actions.tell("Open a photo first, then drop the recipe on it.");
    if (file.size > LARGEST_RECIPE) return actions.tell("This file is too large for a recipe.");
    return actions.replay(await file.text());
  }

  async function takePhoto(file) {
    const most = store.get().hello?.limits?.bytes;
    if (most && file.size > most) {
      return actions.tell(`The photo has ${mebibytes(file.size)}: allowed are ${mebibytes(most)}.`);
    }
    store.set({ uploading: file.name || "the pasted photo" });
    try {
      const photo = await upload(file);
      store.set({ left: null });
      actions.open(photo, generatorNow());
    } catch (error) {
      actions.tell(error.message);
    } finally {
      store.set({ uploading: null });
    }
    return undefined;
  }

  function take(file) {
    return /\.json$/i.test(file.name) || file.type === "application/json" ? takeRecipe(file) : takePhoto(file);
  }

  function takeFirst(files) {
    const [file, ...more] = files;
    if (!file) return;
    if (more.length) actions.tell("Several files came at once: the first one is taken.", false);
    take(file);
  }

  let depth = 0;
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  function over(change) {
    depth = Math.max(0, change(depth));
    show(byId("dropping"), depth > 0);
  }
  addEventListener("dragenter", (event) => carriesFiles(event) && over((now) => now + 1));
  addEventListener("dragleave", (event) => carriesFiles(event) && over((now) => now - 1));
  addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    over(() => 0);
    takeFirst(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) {
      event.preventDefault();
      takeFirst(event.clipboardData.files);
    }
  });
  byId("choose").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", () => {
    takeFirst(byId("file").files);
    byId("file").value = "";
  });
  return { take };
}
