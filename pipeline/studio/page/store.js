/** What the page knows, in one place: values are replaced, never changed, and whoever asked is told. */

/** A store of named values: `get()`, `set(changes)`, `on(keys, run)`; `run(values, before)` comes after a change. */
export function createStore(initial) {
  let values = Object.freeze({ ...initial });
  const listeners = new Set();
  return Object.freeze({
    get: () => values,
    set(changes) {
      const before = values;
      const changed = Object.keys(changes).filter((key) => changes[key] !== before[key]);
      if (!changed.length) return;
      values = Object.freeze({ ...before, ...changes });
      for (const listener of [...listeners]) {
        if (listener.keys.some((key) => changed.includes(key))) listener.run(values, before);
      }
    },
    on(keys, run) {
      const listener = { keys, run };
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  });
}

/** The values of a page that has just been loaded. */
export function firstValues() {
  return {
    connected: false,
    hello: null,
    server: null,
    left: null,
    tries: 0,
    notice: null,
    trouble: "",
    uploading: null,
    tool: "point",
    brush: 48,
    snapping: false,
    view: null,
    fitted: true,
    size: { width: 0, height: 0, ratio: 1 },
    mode: "result",
    peek: false,
    wipe: 0.5,
    pairs: [],
    selected: null,
    pendingGo: false,
    cursor: null,
    pointer: null,
    loupe: null,
    hasMask: false,
    live: null,
    shownPatch: null,
    trails: [],
    run: null,
    traced: null,
    strength: 1,
  };
}
