/** Parts of the photo at full resolution, fetched when the screen shows more than the loaded view holds. */

import { panesOf, regionFor } from "./geometry.js";

const WAIT_MS = 180;

/** Which pictures of the photo the screen shows: the original, the result or both. */
export function shownNow(values) {
  if (values.peek || values.mode === "original") return ["original"];
  if (values.mode === "result") return [values.server.patch || values.live ? "result" : "original"];
  return ["original", "result"];
}

/** The parts that the screen needs and that the loaded view is too coarse for: [{key, which, url, x, y, w, h}]. */
export function wantedRegions(values) {
  const { server, view, size } = values;
  const loaded = server?.photo?.view;
  if (!loaded || !view) return [];
  const held = loaded.width / server.photo.width;
  const fine = Math.min(1, view.scale * size.ratio);
  const coarse = fine > held * 1.05;
  if (!coarse && (server.patch?.sharp !== false || fine < held * 0.95)) return [];
  const box = regionFor(view, server.photo, panesOf(size, values.mode === "side")[0], size.ratio);
  if (!box) return [];
  const running = Boolean(server.running || values.live);
  const asked = shownNow(values).map((which) => (which === "result" && (running || !server.patch) ? "original" : which));
  return [...new Set(asked)].filter((which) => coarse || which === "result").map((which) => {
    const query = new URLSearchParams({ session: server.session, which, ...box });
    const key = `${which === "result" ? server.patch.url : ""} ${query}`;
    return { key, which, url: `/region?${query}`, ...box };
  });
}

/** Keeps the newest part of the original and of the result; `get(which)` gives {picture, x, y, w, h} or null. */
export function createRegions(store, arrived) {
  const parts = { original: null, result: null };
  let timer = 0;
  let asked = "";
  let aborter = new AbortController();

  async function fetchOne(part, signal) {
    if (parts[part.which]?.key === part.key) return undefined;
    try {
      const answer = await fetch(part.url, { signal });
      if (!answer.ok) return forget(part);
      const picture = await createImageBitmap(await answer.blob());
      if (signal.aborted) return undefined;
      parts[part.which] = { ...part, picture };
      arrived();
    } catch {
      if (!signal.aborted) forget(part); // the coarser picture stays
    }
    return undefined;
  }

  /** So that the part is asked for again when the view comes back to it. */
  function forget({ key }) {
    if (asked.includes(key)) asked = "";
  }

  /** Asks for what the screen needs once the view rests; what is on its way already is not asked for again. */
  function soon(values) {
    const wanted = wantedRegions(values);
    const keys = wanted.map(({ key }) => key).join("|");
    if (keys === asked) return;
    asked = keys;
    clearTimeout(timer);
    timer = setTimeout(() => {
      aborter.abort();
      aborter = new AbortController();
      for (const part of wanted) fetchOne(part, aborter.signal);
    }, WAIT_MS);
  }

  store.on(["view", "size", "mode", "peek", "server", "live"], (values, before) => {
    if (values.server?.session !== before.server?.session) parts.original = null;
    if (values.server?.patch?.url !== before.server?.patch?.url) parts.result = null;
    soon(values);
  });
  return { get: (which) => parts[which] };
}
