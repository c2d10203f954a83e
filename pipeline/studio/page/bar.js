/** The bar at the top: which photo, which generator, and the way back to the start. */

import { byId, enable, setText, show } from "./dom.js";
import { fillGenerators } from "./generators.js";

/** Shows the right screen and keeps the bar; `home()` leaves the session. */
export function createBar(store, actions, home) {
  const select = byId("generator");
  byId("home").addEventListener("click", home);
  select.addEventListener("change", () => actions.useGenerator(select.value));

  function screens({ server }) {
    show(byId("start"), !server);
    show(byId("editor"), Boolean(server));
    document.title = server?.name ? `${server.name} – photodrag` : "photodrag studio";
  }

  function write({ server, hello }, before) {
    if (!server) return;
    setText(byId("name"), server.name);
    byId("name").title = server.photo ? `${server.name}, ${server.photo.width} × ${server.photo.height}` : server.name;
    const other = before.server?.generator !== server.generator || before.hello !== hello;
    if (hello && other) fillGenerators(select, hello, server.generator);
    enable(select, !server.running && server.phase !== "opening");
    enable(byId("save"), server.phase === "ready" && server.at > 0);
    byId("canvas").setAttribute("aria-label", `Photo ${server.name}`);
    const card = byId("waiting");
    show(card, waitingWords(server) !== "");
    setText(card, waitingWords(server));
  }

  function waitingWords({ phase, faces, sentence }) {
    if (phase === "opening") return "Opening the photo…";
    if (phase === "choosing") return faces.length ? "Click the face to edit." : "Looking for faces…";
    if (phase === "failed" && sentence) return sentence;
    return "";
  }

  store.on(["server", "hello"], write);
  store.on(["server"], screens);
  screens(store.get());
}
