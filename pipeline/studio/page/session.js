/** What a new state or a new frame of the server changes in the page's values. Pure functions. */

import { fromRows } from "./points.js";

const SHOWN_FOR_MS = 1500;

/** The record of a run that begins: frames that were shown, their times, the distances. */
export function newRun(sentAt = null) {
  return { sentAt, frames: 0, latency: null, shownAt: [], distances: [], madeMs: null, step: 0, total: 0, distance: null };
}

/** The changes that a `state` message makes; `kept` gives the points that were placed before a reload. */
export function takeState(values, state, kept = () => []) {
  const known = values.server?.session === state.session ? values.server : null;
  if (known && state.revision < known.revision) return {};
  const changes = { server: state };
  if (!known) Object.assign(changes, blank(), { pairs: kept(state.session) });
  const was = known?.running ?? null;
  const is = state.running ?? null;
  if (is && !was) {
    changes.trails = [];
    changes.live = null;
    if (!values.run || values.run.sentAt === null || values.run.frames > 0 || !known) changes.run = newRun();
    if (is.points) changes.pairs = fromRows(is.points);
    changes.selected = null;
  }
  if (known && !was && !is && state.at !== known.at) Object.assign(changes, { trails: [], run: null });
  if (was && !is) Object.assign(changes, afterRun(values, known, state, was));
  if (state.phase === "failed") changes.live = null;
  return changes;
}

function blank() {
  return {
    pairs: [], selected: null, live: null, trails: [], run: null, mode: "result", peek: false, cursor: null, view: null,
    fitted: true, pendingGo: false, traced: null, hasMask: false, shownPatch: null,
  };
}

/** Points that have arrived are done; others stay, from where their handles are now, so that Go goes on. */
function afterRun(values, before, state, was) {
  if (!was.points || state.at <= before.at) return {};
  const edit = state.edits[state.at - 1];
  if (edit?.stop === "arrived") return { pairs: [], selected: null };
  const pairs = values.pairs.map((pair, index) => {
    const track = edit?.tracks?.[index];
    const handle = track?.length ? track[track.length - 1] : values.live?.points?.[index];
    return handle ? { ...pair, handle: [...handle] } : pair;
  });
  return { pairs };
}

/** The changes that a frame makes: its picture, the trails, the plot. */
export function takeFrame(values, header, bitmap) {
  const fresh = header.first && values.run?.frames > 0;
  const run = fresh || !values.run ? newRun() : values.run;
  const before = fresh ? [] : values.trails;
  const points = header.points ?? [];
  const trails = points.map((point, index) => [...(before[index] ?? []), point]);
  const measured = typeof header.distance_px === "number";
  return {
    live: { ...header, points, bitmap },
    trails,
    run: {
      ...run,
      step: header.step,
      total: header.total,
      distance: measured ? header.distance_px : null,
      distances: measured ? [...run.distances, [header.step, header.distance_px]] : run.distances,
      madeMs: header.made_ms ?? null,
    },
  };
}

/** The run's record once its frame is on the screen at `now` (ms). */
export function frameShown(run, header, now) {
  const latency = run.latency ?? (run.sentAt === null ? header.since_start_ms ?? null : now - run.sentAt);
  const shownAt = [...run.shownAt.filter((time) => now - time < SHOWN_FOR_MS), now];
  return { ...run, frames: run.frames + 1, latency: latency === null ? null : Math.round(latency), shownAt };
}

/** Frames a second over the last moments; null when there were too few. */
export function framesPerSecond(run) {
  const times = run?.shownAt ?? [];
  if (times.length < 3) return null;
  return ((times.length - 1) * 1000) / Math.max(times[times.length - 1] - times[0], 1);
}

/** The header and the picture of a binary message. */
export function splitFrame(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return { header, picture: new Blob([new Uint8Array(buffer, 4 + length)], { type: header.type }) };
}
