/** The page's state as data attributes of <body>, for tests and for styles. */

import { completeCount } from "./points.js";
import { kindOf } from "./words.js";

/** What the attributes say for these values. */
export function attributesOf(values) {
  const { server, run, view, size } = values;
  const edit = server?.at ? server.edits[server.at - 1] : null;
  return {
    connected: values.connected ? "1" : "0",
    screen: server ? "editor" : "start",
    session: server?.session ?? "",
    phase: server?.phase ?? "",
    stage: server?.progress ? kindOf(server.progress.stage) : "",
    step: String(server?.running && values.live ? run.step : (server?.progress?.step ?? "")),
    at: String(server?.at ?? ""),
    edits: String(server?.edits.length ?? ""),
    frames: String(run?.frames ?? 0),
    frameLatency: String(run?.latency ?? ""),
    stop: server?.running ? "" : (edit?.stop ?? ""),
    saved: String(server?.saved.length ?? 0),
    trouble: values.trouble,
    faces: String(server?.faces.length ?? 0),
    points: String(completeCount(values.pairs)),
    mask: values.hasMask ? "1" : "0",
    zoom: view ? String(Math.round(view.scale * size.ratio * 1000) / 1000) : "",
    view: view ? [view.scale, view.x, view.y].map((value) => Math.round(value * 1e4) / 1e4).join(" ") : "",
    tool: values.tool,
    mode: values.peek ? "original" : values.mode,
    running: server?.running ? (server.running.paused ? "paused" : "1") : "0",
  };
}

/** Keeps the attributes of `body` as the store has it. */
export function showAttributes(store, body) {
  function write() {
    for (const [name, value] of Object.entries(attributesOf(store.get()))) {
      if (body.dataset[name] !== value) body.dataset[name] = value;
    }
  }
  store.on(Object.keys(store.get()), write);
  write();
}
