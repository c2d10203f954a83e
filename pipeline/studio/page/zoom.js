/** Zooming by keys and buttons. */

import { keptInSight, LARGEST_SCALE, panesOf, scaledAt, zoomAt } from "./geometry.js";
import { fittingView } from "./canvas.js";
import { leastScale } from "./gestures.js";
import { byId, setText } from "./dom.js";
import { percent } from "./words.js";

const STEP = 1.25;

/** zoomIn, zoomOut, fit, face, and one: 100 %, which is one photo pixel for each pixel of the screen. */
export function createZoom(store) {
  function middle(values) {
    const pane = panesOf(values.size, values.mode === "side")[0];
    return [pane.width / 2, pane.height / 2];
  }

  function show(change) {
    const values = store.get();
    if (!values.view || !values.server?.photo) return;
    const pane = panesOf(values.size, values.mode === "side")[0];
    store.set({ view: keptInSight(change(values), values.server.photo, pane), fitted: false });
  }

  /** Where 100 % looks at: the chosen face, else the middle of the view. */
  function at(values, scale) {
    const face = values.fitted ? values.server.faces[values.server.face ?? -1] : null;
    const [x, y] = middle(values);
    if (!face) return scaledAt(values.view, [x, y], scale);
    const centre = [(face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2];
    return { scale, x: x - (centre[0] + 0.5) * scale, y: y - (centre[1] + 0.5) * scale };
  }

  const zoom = {
    zoomIn: () => show((values) => zoomAt(values.view, middle(values), STEP, leastScale(values))),
    zoomOut: () => show((values) => zoomAt(values.view, middle(values), 1 / STEP, leastScale(values))),
    one: () => show((values) => at(values, 1 / values.size.ratio)),
    /** The chosen face fills the view. */
    face: () =>
      show((values) => {
        const quad = values.server.faces[values.server.face ?? -1]?.quad;
        if (!quad) return values.view;
        const [xs, ys] = [0, 1].map((axis) => quad.map((corner) => corner[axis]));
        const [left, top, right, bottom] = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
        const pane = panesOf(values.size, values.mode === "side")[0];
        const scale = Math.min(pane.width / (right - left), pane.height / (bottom - top), LARGEST_SCALE);
        return { scale, x: pane.width / 2 - ((left + right + 1) / 2) * scale, y: pane.height / 2 - ((top + bottom + 1) / 2) * scale };
      }),
    fit() {
      const values = store.get();
      if (values.server?.photo) store.set({ view: fittingView(values), fitted: true });
    },
  };
  const buttons = { out: zoom.zoomOut, in: zoom.zoomIn, one: zoom.one, face: zoom.face, fit: zoom.fit };
  for (const button of byId("zoom").querySelectorAll("button")) button.addEventListener("click", buttons[button.dataset.zoom]);
  store.on(["view", "size"], ({ view, size }) => view && setText(byId("zoom-value"), percent(view.scale * size.ratio)));
  return zoom;
}
