/** Presets, directions and the choice of a face. */

import { byId, enable, make, setText, show } from "./dom.js";
import { capital } from "./words.js";

const GROUPS = [
  ["Mouth", ["smile", "frown", "open_mouth", "close_mouth"]],
  ["Eyes", ["open_eyes", "close_eyes", "bigger_eyes", "raise_brows"]],
  ["Head", ["turn_left", "turn_right", "look_up", "look_down", "tilt"]],
  ["Face", ["slimmer_face", "wider_face", "slim"]],
];

/** [{title, presets}] in the page's order; what no group knows comes last. */
export function grouped(presets) {
  const known = GROUPS.map(([title, names]) => ({
    title,
    presets: names.flatMap((name) => presets.filter((preset) => preset.name === name)),
  }));
  const listed = GROUPS.flatMap(([, names]) => names);
  const others = presets.filter(({ name }) => !listed.includes(name));
  return [...known, { title: "More", presets: others }].filter((group) => group.presets.length);
}

/** Fills and wires the panel. */
export function createPanel(store, actions) {
  const strength = byId("strength");
  strength.addEventListener("input", () => store.set({ strength: Number(strength.value) }));
  strength.addEventListener("dblclick", () => store.set({ strength: 1 }));
  byId("apply-direction").addEventListener("click", () => actions.direction(byId("direction").value));
  byId("adjust").addEventListener("click", () => toggle(byId("adjust").getAttribute("aria-expanded") !== "true"));

  byId("canvas").addEventListener("pointerdown", () => toggle(false));
  byId("panel").addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !byId("editor").classList.contains("panel-open")) return;
    event.stopPropagation();
    toggle(false);
    byId("adjust").focus();
  });

  function toggle(open) {
    byId("adjust").setAttribute("aria-expanded", String(open));
    byId("editor").classList.toggle("panel-open", open);
  }

  function fill({ hello }) {
    if (!hello) return;
    byId("presets").replaceChildren(
      ...grouped(hello.presets).map(({ title, presets }) =>
        make(
          "section",
          {},
          make("h2", {}, title),
          make("div", { class: "chips" }, ...presets.map(({ name, label }) => presetButton(name, label))),
        ),
      ),
    );
    byId("direction").replaceChildren(...hello.directions.map(({ name, label }) => make("option", { value: name }, label)));
    show(byId("directions-part"), hello.directions.length > 0);
    follow(store.get());
  }

  function presetButton(name, label) {
    const button = make("button", { type: "button", "data-preset": name }, capital(label));
    button.addEventListener("click", () => {
      actions.preset(name);
      toggle(false);
    });
    return button;
  }

  function follow({ server }) {
    const ready = server?.phase === "ready"; // what a generated picture allows, the studio says
    for (const button of byId("presets").querySelectorAll("button")) enable(button, ready);
    enable(byId("apply-direction"), ready);
  }

  function faces({ server }, before) {
    const list = server?.faces ?? [];
    show(byId("faces-part"), list.length > 1);
    if (before.server?.faces.length === list.length && before.server?.face === server?.face) return;
    byId("faces").replaceChildren(
      ...list.map((face, index) => {
        const button = make("button", { type: "button", "aria-pressed": server.face === index }, String(index + 1));
        button.setAttribute("aria-label", `Face ${index + 1}`);
        button.setAttribute("aria-pressed", String(server.face === index));
        button.addEventListener("click", () => actions.chooseFace(index));
        return button;
      }),
    );
  }

  store.on(["hello"], fill);
  store.on(["server"], (values, before) => {
    follow(values);
    faces(values, before);
  });
  store.on(["strength"], (values) => {
    strength.value = String(values.strength);
    setText(byId("strength-value"), values.strength.toFixed(1));
  });
}
