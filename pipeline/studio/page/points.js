/** Pairs {handle, target}: what is to be dragged where, in photo pixels. A target is null until it is placed. */

import { nearest } from "./geometry.js";

export const REACH = 14;
export const TOUCH_REACH = 24;

/** Pairs from rows [x, y, x2, y2]. */
export function fromRows(rows) {
  return rows.map(([x, y, x2, y2]) => ({ handle: [x, y], target: [x2, y2] }));
}

/** Rows [x, y, x2, y2] of the pairs that are complete; `handles` replaces where the handles are. */
export function toRows(pairs, handles = []) {
  return pairs.flatMap(({ handle, target }, index) => (target ? [[...(handles[index] ?? handle), ...target].map(rounded)] : []));
}

function rounded(value) {
  return Math.round(value * 100) / 100;
}

/** How many pairs have both ends. */
export function completeCount(pairs) {
  return pairs.filter(({ target }) => target).length;
}

/** The end of a pair at a place of the screen, {index, end}, or null; targets lie above handles. */
export function hitPair(pairs, at, view, within = REACH) {
  for (const end of ["target", "handle"]) {
    const index = nearest(pairs.map((pair) => pair[end]), at, view, within);
    if (index >= 0) return { index, end };
  }
  return null;
}

/** With one more pair. */
export function added(pairs, handle, target = null) {
  return [...pairs, { handle, target }];
}

/** With one end moved. */
export function moved(pairs, { index, end }, place) {
  return pairs.map((pair, at) => (at === index ? { ...pair, [end]: place } : pair));
}

/** Without a pair. */
export function removed(pairs, index) {
  return pairs.filter((_, at) => at !== index);
}

/** The pair that still waits for its target, or -1. */
export function openPair(pairs) {
  return pairs.findIndex(({ target }) => !target);
}

const PREFIX = "photodrag-points-";

/** The points that this tab kept for a session over a reload. */
export function keptPairs(session) {
  try {
    const rows = JSON.parse(sessionStorage.getItem(PREFIX + session) ?? "[]");
    return fromRows(rows.filter((row) => Array.isArray(row) && row.length === 4 && row.every(Number.isFinite)));
  } catch {
    return [];
  }
}

/** Keeps the points of a session over a reload of this tab. */
export function keepPairs(session, pairs) {
  try {
    sessionStorage.setItem(PREFIX + session, JSON.stringify(toRows(pairs)));
  } catch {
    // A browser without storage loses the points on reload, and nothing else.
  }
}
