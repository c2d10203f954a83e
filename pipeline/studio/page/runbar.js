/** The run: Go, step and stop, how far it is, what it measured, and why it ended. */

import { byId, enable, make, setText, show } from "./dom.js";
import { drawPlot } from "./plot.js";
import { completeCount } from "./points.js";
import { framesPerSecond } from "./session.js";
import { capital, duration, kindOf, row, shortName, stageName, stopWords } from "./words.js";

const PREPARING = ["align", "invert", "tune"];

/** What the buttons and the lines of the bar say: {go, goIcon, sentence, numbers, share}; share is null without a bar. */
export function reportOf(values) {
  const { server, pairs, pendingGo, run } = values;
  if (!server) return { go: "Go", icon: "play", sentence: "", numbers: "", share: null };
  if (server.running) return whileRunning(values);
  const { progress } = server;
  if (server.phase === "opening") return { go: "Go", icon: "play", sentence: "Opening the photo…", numbers: "", share: null };
  if (server.phase === "saving") return { go: "Go", icon: "play", sentence: "Blending into the full photo…", numbers: "", share: shareOf(progress) };
  if (server.phase === "preparing") {
    return {
      go: pendingGo ? "Will go" : "Go",
      icon: "play",
      stage: server.waiting ? null : (progress ? kindOf(progress.stage) : null),
      sentence: preparing(progress, server.waiting),
      numbers: pendingGo ? `Starts when the face is ready: ${timeLeft(progress)}` : timeLeft(progress),
      share: shareOf(progress),
    };
  }
  const edit = server.edits[server.at - 1];
  if (server.phase === "failed") return { go: "Go", icon: "play", sentence: "This did not work.", numbers: "", share: null };
  const sentence = server.sentence || stopWords(edit) || hint(pairs);
  return { go: "Go", icon: "play", sentence, numbers: edit ? afterwards(edit, run) : server.sentence ? hint(pairs) : "", share: null };
}

function hint(pairs) {
  const count = completeCount(pairs);
  if (count) return count === 1 ? "1 point: Go drags it." : `${count} points: Go drags them.`;
  return "Press on the photo and drag to where it should go.";
}

function whileRunning({ server, run, live }) {
  const { paused, label } = server.running;
  if (server.progress && kindOf(server.progress.stage) === "blend") {
    return { go: "Pause", icon: "pause", sentence: "Blending into the photo…", numbers: row(measured(run)), share: null };
  }
  const step = live ? run.step : (server.progress?.step ?? 0);
  const total = run?.total || server.progress?.total || 0;
  const parts = [`step ${step}${total ? ` of ${total}` : ""}`];
  if (run?.distance !== null && run?.distance !== undefined) parts.push(`${run.distance.toFixed(1)} px to go`);
  parts.push(...measured(run));
  return {
    go: paused ? "Go on" : "Pause",
    icon: paused ? "play" : "pause",
    sentence: server.waiting ? `Waiting for ${server.waiting} other…` : `${capital(label)}${paused ? ", paused" : ""}`,
    numbers: row(parts),
    share: total ? step / total : null,
  };
}

function measured(run) {
  const parts = [];
  const rate = framesPerSecond(run);
  if (rate !== null) parts.push(`${rate.toFixed(rate < 9.5 ? 1 : 0)} pictures/s`);
  if (run?.latency !== null && run?.latency !== undefined) parts.push(`first after ${Math.round(run.latency)} ms`);
  return parts;
}

function afterwards(edit, run) {
  const parts = [edit.label];
  if (edit.steps) parts.push(`${edit.steps} steps`);
  if (edit.seconds) parts.push(duration(edit.seconds));
  if (run?.frames && run.latency !== null) parts.push(`first picture after ${Math.round(run.latency)} ms`);
  return row(parts);
}

function preparing(progress, waiting) {
  if (waiting) return `Waiting for ${waiting} other ${waiting === 1 ? "job" : "jobs"}…`;
  if (!progress) return "Preparing the face…";
  return stageName(progress.stage);
}

function timeLeft(progress) {
  if (!progress) return "";
  const parts = progress.total > 1 ? [`step ${progress.step} of ${progress.total}`] : [];
  if (progress.seconds_left !== null && progress.seconds_left !== undefined) parts.push(`about ${duration(progress.seconds_left)} left`);
  return row(parts) || "Points can be placed meanwhile.";
}

function shareOf(progress) {
  return progress?.total ? progress.step / progress.total : null;
}

/** The three stages of a preparation, those that are done ticked. */
function writeStages(stage) {
  const list = byId("stages");
  const at = PREPARING.indexOf(stage);
  show(list, at >= 0);
  if (at < 0 || list.dataset.stage === stage) return;
  list.dataset.stage = stage;
  list.replaceChildren(
    ...PREPARING.map((name, index) => make("li", { class: index < at ? "done" : index === at ? "now" : null }, shortName(name))),
  );
}

/** Wires the run's buttons and keeps its lines. */
export function createRunbar(store, actions) {
  byId("go").addEventListener("click", actions.goOrPause);
  byId("step").addEventListener("click", actions.step);
  byId("stop").addEventListener("click", actions.stop);

  function write(values) {
    const { server, pairs, run, size } = values;
    const report = reportOf(values);
    setText(byId("go").querySelector("span"), report.go);
    byId("go").querySelector("use").setAttribute("href", `#i-${report.icon}`);
    byId("go").setAttribute("aria-pressed", String(values.pendingGo));
    writeStages(report.stage);
    show(byId("sentence"), byId("stages").hidden);
    setText(byId("sentence"), report.sentence);
    byId("sentence").classList.toggle("bad", Boolean(server?.failed));
    setText(byId("numbers"), report.numbers);
    byId("numbers").title = run?.madeMs ? `A live picture takes ${Math.round(run.madeMs)} ms to draw.` : "";
    const some = completeCount(pairs) > 0;
    const startable = some && (server?.phase === "ready" || server?.phase === "preparing");
    enable(byId("go"), Boolean(server?.running) || startable);
    enable(byId("step"), Boolean(server?.running) || (some && server?.phase === "ready"));
    enable(byId("stop"), Boolean(server?.running) || server?.phase === "preparing");
    const progress = byId("progress");
    show(progress, report.share !== null);
    if (report.share !== null) {
      progress.setAttribute("aria-valuenow", String(Math.round(report.share * 100)));
      progress.firstElementChild.style.transform = `scaleX(${report.share})`;
    }
    const plotted = (run?.distances.length ?? 0) > 1;
    show(byId("plot"), plotted);
    if (plotted) drawPlot(byId("plot"), run.distances, server?.running ? run.total : 0, size.ratio);
  }
  store.on(["server", "pairs", "run", "live", "pendingGo", "size"], write);
  store.on(["server"], ({ server }, before) => {
    const old = before.server?.session === server?.session ? before.server : null;
    if (server?.sentence && server.sentence !== old?.sentence) setText(byId("spoken"), server.sentence);
    if (!server?.failed || old?.failed) return;
    const words = server.sentence || "This did not work.";
    if (server.phase === "failed") store.set({ trouble: words }); // the stage says it in full
    else actions.tell(words);
  });
  write(store.get());
}
