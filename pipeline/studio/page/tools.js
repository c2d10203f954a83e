/** The tools: what a press, a drag and a release on the photo do. */

import { insidePhoto, snapped, toPhoto, toScreen } from "./geometry.js";
import { otherFaceAt } from "./overlay.js";
import { added, hitPair, moved, openPair, REACH, TOUCH_REACH } from "./points.js";

const DRAG_PX = 5;

/** The tool that is chosen, as one object with down, move, up and cancel. */
export function createTools(store, actions, masks) {
  const tools = { point: pointTool(store, actions), brush: brushTool(store, masks, false), eraser: brushTool(store, masks, true) };
  let active = null;
  return {
    down(event) {
      active = tools[store.get().tool] ?? null;
      active?.down(event);
    },
    move: (event) => active?.move(event),
    over: (at) => tools[store.get().tool]?.over?.(at) ?? false,
    up(event) {
      active?.up(event);
      active = null;
    },
    cancel() {
      active?.cancel();
      active = null;
    },
  };
}

/** A place of the screen as photo pixels inside the photo; on the nearest landmark when that is asked for. */
export function placeFor(values, at, alt) {
  const place = insidePhoto(values.server.photo, toPhoto(values.view, at));
  const landmarks = values.server.faces[values.server.face ?? -1]?.landmarks ?? [];
  return alt || values.snapping ? snapped(landmarks, place, values.view) : place;
}

function pointTool(store, actions) {
  let drag = null;

  function downWhileRunning({ at, touch }) {
    const { server, pairs, view } = store.get();
    if (!server.running.points) return;
    const hit = hitPair(pairs.map(({ target }) => ({ handle: null, target })), at, view, touch ? TOUCH_REACH : REACH);
    if (hit) drag = { ...hit, kind: "target", start: at, offset: offsetOf(hit, at), before: pairs };
  }

  function offsetOf({ index, end }, at) {
    const { pairs, view } = store.get();
    const [x, y] = toScreen(view, pairs[index][end]);
    return [x - at[0], y - at[1]];
  }

  function begin({ at, alt, touch }) {
    const values = store.get();
    const { pairs, server, view } = values;
    const hit = hitPair(pairs, at, view, touch ? TOUCH_REACH : REACH);
    const open = openPair(pairs);
    if (hit) {
      drag = { ...hit, kind: "move", start: at, offset: offsetOf(hit, at), before: pairs, fresh: hit.end === "handle" && hit.index === open };
      return store.set({ selected: hit });
    }
    if (open >= 0) {
      const end = { index: open, end: "target" };
      drag = { ...end, kind: "move", start: at, offset: [0, 0], before: pairs };
      return store.set({ pairs: moved(pairs, end, placeFor(values, at, alt)), selected: end });
    }
    const face = otherFaceAt(server, toPhoto(view, at));
    if (face >= 0) drag = { kind: "face", face, start: at };
    else if (server.phase !== "choosing") {
      const index = pairs.length;
      drag = { index, kind: "new", start: at, before: pairs };
      store.set({ pairs: added(pairs, placeFor(values, at, alt)), selected: { index, end: "handle" } });
    }
    return undefined;
  }

  function dragTo({ at, alt }) {
    const values = store.get();
    const far = Math.hypot(at[0] - drag.start[0], at[1] - drag.start[1]) > DRAG_PX;
    if (drag.kind === "new" || drag.fresh) {
      if (!far && !drag.began) return;
      drag.began = true;
      const target = { index: drag.index, end: "target" };
      store.set({ pairs: moved(values.pairs, target, placeFor(values, at, false)), selected: target });
    } else if (drag.kind !== "face") {
      if (!far && !drag.began) return;
      drag.began = true;
      const place = placeFor(values, [at[0] + drag.offset[0], at[1] + drag.offset[1]], alt && drag.end === "handle");
      store.set({ pairs: moved(values.pairs, drag, place) });
    }
  }

  /** The loupe shows the end that the finger moves. */
  function magnify() {
    const { pairs, selected } = store.get();
    const end = drag.kind === "target" ? drag : selected;
    store.set({ loupe: pairs[end?.index]?.[end?.end] ?? null });
  }

  return {
    down(event) {
      const { server } = store.get();
      store.set({ cursor: null, traced: null });
      if (server.running) downWhileRunning(event);
      else if (server.phase !== "opening" && server.phase !== "failed") begin(event);
    },
    move(event) {
      if (!drag) return;
      dragTo(event);
      if (event.touch) magnify();
    },
    /** Whether a point can be taken here. */
    over(at) {
      const { server, pairs, view } = store.get();
      const takeable = server.running ? pairs.map(({ target }) => ({ handle: null, target })) : pairs;
      return (!server.running || Boolean(server.running.points)) && hitPair(takeable, at, view) !== null;
    },
    up(event) {
      if (!drag) return;
      store.set({ loupe: null });
      const done = drag;
      if (done.kind === "target") {
        dragTo(event);
        actions.retarget(); // once it is let go, as each new target is an edit of its own
      }
      if (done.kind === "face") actions.chooseFace(done.face);
      drag = null;
    },
    cancel() {
      if (drag?.before) store.set({ pairs: drag.before, selected: null, loupe: null });
      drag = null;
    },
  };
}

function brushTool(store, masks, erase) {
  let last = null;
  function stroke(at) {
    const { view, brush } = store.get();
    const place = toPhoto(view, at);
    masks.stroke(last ?? place, place, brush / 2 / view.scale, erase);
    last = place;
  }
  return {
    down({ at }) {
      last = null;
      stroke(at);
    },
    move: ({ at }) => last && stroke(at),
    up() {
      last = null;
      masks.send();
    },
    cancel() {
      last = null;
      masks.send();
    },
  };
}
