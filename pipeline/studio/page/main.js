/** Puts the page together. */

import { createActions } from "./actions.js";
import { showAttributes } from "./attributes.js";
import { createBar } from "./bar.js";
import { createCanvas } from "./canvas.js";
import { createCompare } from "./compare.js";
import { connect } from "./connection.js";
import { createCursor } from "./cursor.js";
import { byId } from "./dom.js";
import { listenForGestures } from "./gestures.js";
import { createHistory } from "./history.js";
import { createIntake } from "./intake.js";
import { listenToKeys } from "./keys.js";
import { createMasks } from "./masks.js";
import { showNotices } from "./notices.js";
import { createPanel } from "./panel.js";
import { createPictures } from "./pictures.js";
import { keepPairs } from "./points.js";
import { createRegions } from "./regions.js";
import { createRunbar } from "./runbar.js";
import { createSaving } from "./saving.js";
import { createStart } from "./start.js";
import { createStore, firstValues } from "./store.js";
import { createTalk } from "./talk.js";
import { createToolbar } from "./toolbar.js";
import { createTools } from "./tools.js";
import { createZoom } from "./zoom.js";

const store = createStore(firstValues());
showAttributes(store, document.body);
showNotices(store);

let line = null;
const actions = createActions(store, (message) => line?.send(message) ?? false, () => masks.flush());
const pictures = createPictures(() => canvas.invalidate());
const regions = createRegions(store, () => canvas.invalidate());
const masks = createMasks(store, actions, pictures, () => canvas.invalidate());
const talk = createTalk(store, actions, pictures);
const canvas = createCanvas(byId("canvas"), store, { pictures, regions, mask: masks.get }, talk.drawn);

const zoom = createZoom(store);
const compare = createCompare(store, zoom);
const toolbar = createToolbar(store, actions, masks);
const start = createStart(store, actions, talk.open);
const saving = createSaving(store, actions);
createBar(store, actions, talk.home);
createHistory(store, actions, pictures);
createPanel(store, actions);
createRunbar(store, actions);
createIntake(store, actions, start.generatorNow);

function help() {
  if (!byId("help-dialog").open) byId("help-dialog").showModal();
}
byId("help").addEventListener("click", help);
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}
// A press on a button leaves the focus on the photo, so that its keys go on to work; the keyboard focuses as ever.
byId("editor").addEventListener("mousedown", (event) => {
  if (event.target.closest("button")) event.preventDefault();
});

const cursor = createCursor(store, actions);
const keys = listenToKeys(store, { actions, toolbar, zoom, compare, saving, masks, help }, cursor);
listenForGestures(byId("canvas"), store, createTools(store, actions, masks), keys.spaceHeld);
store.on(["pairs"], ({ pairs, server }) => server && keepPairs(server.session, pairs));
line = connect(talk.listener);
