/** The keyboard's cursor on the photo: places points, takes and drops them, without a pointer. */

import { insidePhoto, panesOf, toPhoto, toScreen } from "./geometry.js";
import { byId, setText } from "./dom.js";
import { added, hitPair, moved, openPair } from "./points.js";
import { otherFaceAt } from "./overlay.js";

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const COARSE_PX = 10;
const REACH = 12;

/** key(event) says whether the cursor took the key. */
export function createCursor(store, actions) {
  let held = null;

  function say(words) {
    const { cursor } = store.get();
    setText(byId("spoken"), cursor ? `${words} x ${Math.round(cursor[0])}, y ${Math.round(cursor[1])}` : words);
  }

  function start(values) {
    const pane = panesOf(values.size, values.mode === "side")[0];
    const { selected, pairs } = values;
    const chosen = selected && pairs[selected.index]?.[selected.end];
    return chosen ?? insidePhoto(values.server.photo, toPhoto(values.view, [pane.width / 2, pane.height / 2]));
  }

  function move([dx, dy], fine) {
    const values = store.get();
    if (!values.cursor) return store.set({ cursor: start(values) });
    const [x, y] = toScreen(values.view, values.cursor);
    const by = fine ? 1 : COARSE_PX;
    const cursor = insidePhoto(values.server.photo, toPhoto(values.view, [x + dx * by, y + dy * by]));
    const pairs = held ? moved(values.pairs, held, cursor) : values.pairs;
    store.set({ cursor, pairs });
    return say(held ? held.end : "");
  }

  function enter() {
    const { cursor, pairs, server, view } = store.get();
    const running = Boolean(server.running);
    if (held) {
      held = null;
      if (running) actions.retarget();
      return say("Placed:");
    }
    const hit = hitPair(pairs, toScreen(view, cursor), view, REACH);
    const open = openPair(pairs);
    if (hit && !(hit.end === "handle" && hit.index === open) && !(running && hit.end === "handle")) {
      held = hit;
      store.set({ selected: hit });
      return say(`Holding the ${hit.end}:`);
    }
    if (running) return undefined;
    if (open >= 0) {
      store.set({ pairs: moved(pairs, { index: open, end: "target" }, cursor), selected: { index: open, end: "target" } });
      return say("Target:");
    }
    const face = otherFaceAt(server, cursor);
    if (face >= 0) return actions.chooseFace(face);
    store.set({ pairs: added(pairs, cursor), selected: { index: pairs.length, end: "handle" } });
    return say("Handle:");
  }

  store.on(["cursor"], ({ cursor }) => {
    if (!cursor) held = null;
  });

  return {
    key(event) {
      const { cursor, server, view, tool } = store.get();
      if (!server?.photo || !view || tool !== "point" || event.ctrlKey || event.metaKey) return false;
      if (ARROWS[event.key]) {
        move(ARROWS[event.key], event.shiftKey);
        return true;
      }
      if (event.key !== "Enter" || !cursor) return false;
      enter();
      return true;
    },
  };
}
