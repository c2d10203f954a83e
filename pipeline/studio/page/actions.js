/** What a person can ask for, as requests to the studio. */

import { newRun } from "./session.js";
import { removed, toRows } from "./points.js";

const HINT = "Place a point first: press where it is, and drag to where it should go.";

/** All requests; `send(message)` says whether it went out, `beforeEdit()` sends what an edit needs (the mask). */
export function createActions(store, send, beforeEdit) {
  function tell(sentence, bad = true) {
    store.set({ notice: { sentence, bad }, ...(bad ? { trouble: sentence } : {}) });
  }

  function ask(name, details = {}) {
    const sent = send({ do: name, ...details });
    if (!sent) tell("There is no connection to the studio just now; this was not sent.");
    return sent;
  }

  function here(name, details = {}) {
    const { server } = store.get();
    return server ? ask(name, { session: server.session, ...details }) : false;
  }

  async function edit(name, details) {
    const { server } = store.get();
    if (!server || server.phase !== "ready") return;
    const run = newRun(performance.now());
    await beforeEdit();
    if (here(name, details)) store.set({ run, trails: [], traced: null, mode: calmMode(store.get().mode), peek: false });
  }

  function drag(paused) {
    const { server, pairs } = store.get();
    const points = toRows(pairs);
    if (!server?.photo) return;
    if (!points.length) tell(HINT, false);
    else if (server.phase === "ready") {
      store.set({ pendingGo: false });
      edit("drag", paused ? { points, paused } : { points }).then(() => paused && here("step"));
    } else if (server.phase === "preparing") store.set({ pendingGo: !store.get().pendingGo });
  }

  store.on(["server"], ({ server, pendingGo }) => {
    if (pendingGo && server?.phase === "ready") drag(false);
  });

  return {
    tell,
    watch: (session) => ask("watch", { session }),
    open: (photo, generator, anew = false) =>
      ask("open", { photo, ...(generator ? { generator } : {}), ...(anew ? { anew } : {}) }),
    sample: (seed, generator) => ask("sample", { seed, ...(generator ? { generator } : {}) }),
    forget: (session) => ask("forget", { session }),
    seen: (number) => send({ do: "seen", number }),
    chooseFace: (face) => here("face", { face }),
    useGenerator: (generator) => here("generator", { generator }),
    /** Starts the drag, goes on with a paused edit, or holds a running one. */
    goOrPause() {
      const { server } = store.get();
      if (!server?.running) drag(false);
      else here(server.running.paused ? "go" : "pause");
    },
    go() {
      const { server } = store.get();
      if (!server?.running) drag(false);
      else if (server.running.paused) here("go");
    },
    step() {
      const { server } = store.get();
      if (!server?.running) drag(true);
      else here(server.running.paused ? "step" : "pause");
    },
    stop() {
      const { server } = store.get();
      store.set({ pendingGo: false });
      if (server?.running || server?.phase === "preparing") here("stop");
    },
    retarget() {
      const { server, pairs, live } = store.get();
      if (server?.running?.points) here("retarget", { points: toRows(pairs, live?.points) });
    },
    preset: (preset) => edit("preset", { preset, strength: store.get().strength }),
    direction: (direction) => edit("direction", { direction, strength: store.get().strength }),
    replay: (recipe) => here("replay", { recipe }),
    undo: () => store.get().server?.can_undo && here("undo"),
    redo: () => store.get().server?.can_redo && here("redo"),
    jump: (at) => at !== store.get().server?.at && here("jump", { at }),
    sendMask(png) {
      const { server, connected } = store.get();
      return Boolean(server && connected && here("mask", { png }));
    },
    save: (format, quality) => here("save", { format, quality }),
    removePoint() {
      const { server, pairs, selected } = store.get();
      const index = selected?.index ?? pairs.length - 1;
      if (server?.running || index < 0) return;
      store.set({ pairs: removed(pairs, index), selected: null });
    },
    clearPoints() {
      if (!store.get().server?.running) store.set({ pairs: [], selected: null, trails: [] });
    },
  };
}

function calmMode(mode) {
  return mode === "original" ? "result" : mode;
}
