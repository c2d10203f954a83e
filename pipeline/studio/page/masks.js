/** The mask of the open session: painted here, sent when a stroke ends, taken over from the studio when it is newer. */

import { createMask } from "./mask.js";

const WAIT_MS = 250;

/** Keeps the mask; `changed()` asks for a drawing. */
export function createMasks(store, actions, pictures, changed) {
  let mask = null;
  let session = null;
  let revision = null;
  let underway = 0;
  let timer = 0;
  let dirty = false;

  function note() {
    store.set({ hasMask: Boolean(mask?.used) });
    changed();
  }

  async function take({ url, revision: newest }) {
    revision = newest;
    const mine = mask;
    const picture = await pictures.whole(url);
    if (picture && mine === mask && revision === newest && !dirty) mine.take(picture);
  }

  function follow({ server }, before) {
    if (!server?.photo) return;
    if (server.session !== session) {
      session = server.session;
      mask = createMask(server.photo, note);
      underway = 0;
      revision = null;
      dirty = false;
      note();
      if (server.mask) take(server.mask);
      return;
    }
    const theirs = server.mask?.revision ?? null;
    if (theirs === revision || dirty) return;
    if (underway > 0) {
      underway -= 1;
      revision = theirs;
    } else if (server.mask) take(server.mask);
    else if (before.server?.mask) {
      revision = null;
      mask.clear();
    }
  }

  async function sendNow() {
    if (!dirty) return;
    dirty = false;
    const png = mask.used ? await mask.png() : null;
    if (actions.sendMask(png)) underway += 1;
    else dirty = true;
  }

  function send(wait = WAIT_MS) {
    dirty = true;
    clearTimeout(timer);
    timer = setTimeout(sendNow, wait);
  }

  store.on(["server"], follow);
  store.on(["connected"], ({ connected }) => {
    underway = 0;
    if (connected) sendNow();
  });

  return {
    get: () => mask,
    stroke(...details) {
      dirty = true;
      mask?.stroke(...details);
    },
    send,
    /** Sends at once what is waiting, as an edit is about to use it. */
    flush() {
      clearTimeout(timer);
      return sendNow();
    },
    invert() {
      if (!mask?.used) return;
      mask.invert();
      send();
    },
    clear() {
      if (!mask?.used) return;
      mask.clear();
      send(0);
    },
  };
}
