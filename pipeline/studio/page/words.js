/** Names and numbers as a person reads them. */

const STAGES = { align: "Aligning the face", invert: "Inversion", tune: "Tuning", edit: "Dragging", blend: "Blending" };
const STOPS = {
  arrived: "Every point is where it should be.",
  cap: "Stopped at the last step that was allowed.",
  stalled: "Stopped: it came no closer.",
  oscillating: "Stopped: it went to and fro.",
  lost: "Stopped: a point was lost from sight.",
  diverged: "Stopped: its steps led to what is no picture.",
  stopped: "Stopped by you.",
};

const SHORT = { align: "Align", invert: "Inversion", tune: "Tuning" };

/** A label with a capital at its beginning. */
export function capital(label) {
  return label.charAt(0).toUpperCase() + label.slice(1);
}

/** Short facts in a row; a fact is never broken between two lines. */
export function row(facts) {
  return facts.filter(Boolean).map((fact) => fact.replaceAll(" ", "\u00a0")).join(" · ");
}

/** The name of a stage of the preparation, in one word. */
export function shortName(stage) {
  return SHORT[kindOf(stage)] ?? stage;
}

/** The name of a stage. */
export function stageName(stage) {
  return STAGES[kindOf(stage)] ?? stage;
}

/** The word of a stage, of which there may be several ("edit 3/3"). */
export function kindOf(stage) {
  return stage.split(" ")[0];
}

/** Why an edit ended. */
export function stopWords(edit) {
  return edit?.words || STOPS[edit?.stop] || "";
}

/** Seconds in a few letters. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 9.5) return `${Math.max(seconds, 0.1).toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return `${Math.round(seconds / 60)} min`;
}

/** How long ago, from seconds since 1970. */
export function ago(when, now = Date.now() / 1000) {
  const minutes = Math.round((now - when) / 60);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  if (minutes < 36 * 60) return `${Math.round(minutes / 60)} h ago`;
  return new Date(when * 1000).toLocaleDateString();
}

/** A zoom as per cent. */
export function percent(zoom) {
  const value = zoom * 100;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} %`;
}

/** Bytes as mebibytes. */
export function mebibytes(bytes) {
  return `${Math.round(bytes / 2 ** 20)} MiB`;
}
