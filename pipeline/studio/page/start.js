/** The first screen: a photo, a generated face, or a recent session. */

import { byId, make, setText, show, thumbnail } from "./dom.js";
import { fillGenerators, generatorHint } from "./generators.js";
import { ago } from "./words.js";

/** Wires the start screen; `open(session)` goes to a session. Returns generatorNow(). */
export function createStart(store, actions, open) {
  byId("sample").addEventListener("submit", (event) => {
    event.preventDefault();
    store.set({ left: null });
    actions.sample(byId("seed").valueAsNumber, byId("start-generator").value);
  });

  function recent({ session, name, thumb, edits, when }) {
    const words = [edits === 1 ? "1 edit" : `${edits} edits`, ago(when)].join(" · ");
    const button = make("button", { type: "button", class: "recent" }, thumbnail(thumb), make("span", { class: "name" }, name), make("span", { class: "soft" }, words));
    button.addEventListener("click", () => open(session));
    const forget = make("button", { type: "button", class: "icon forget", title: "Forget", "aria-label": `Forget ${name}` }, "×");
    forget.addEventListener("click", () => {
      if (!actions.forget(session)) return;
      const { hello } = store.get();
      store.set({ hello: { ...hello, recent: hello.recent.filter((one) => one.session !== session) } });
    });
    return make("li", { "data-session": session }, button, forget);
  }

  store.on(["hello"], ({ hello }, before) => {
    if (!before.hello) fillGenerators(byId("start-generator"), hello, hello.generator);
    setText(byId("generator-hint"), generatorHint(hello));
    show(byId("recent-part"), hello.recent.length > 0);
    byId("recent").replaceChildren(...hello.recent.map(recent));
  });
  store.on(["uploading"], ({ uploading }) => {
    setText(byId("uploading"), uploading ? `Receiving ${uploading}…` : "");
  });
  return { generatorNow: () => byId("start-generator").value };
}
