/** What went wrong or is worth knowing, as a calm sentence; and whether the line to the studio is lost. */

import { byId, make, setText, show } from "./dom.js";

const SHOWN_MS = 9000;
const MOST = 3;

/** Shows the store's notices and the state of the connection. */
export function showNotices(store) {
  const toasts = byId("toasts");

  function toast({ sentence, bad }) {
    for (const old of toasts.children) if (old.dataset.sentence === sentence) old.remove();
    const close = make("button", { type: "button", class: "icon", "aria-label": "Dismiss" }, "×");
    const element = make("div", { class: bad ? "toast bad" : "toast", "data-sentence": sentence }, make("p", {}, sentence), close);
    close.addEventListener("click", () => element.remove());
    toasts.append(element);
    while (toasts.children.length > MOST) toasts.firstChild.remove();
    setTimeout(() => element.remove(), SHOWN_MS);
  }

  store.on(["notice"], ({ notice }) => notice && toast(notice));
  store.on(["connected", "tries"], ({ connected, tries }) => {
    show(byId("lost"), !connected && tries > 0);
    const advice = tries > 4 ? " If it was closed, start it anew and open the address that it prints." : "";
    setText(byId("lost"), connected ? "" : `The connection to the studio is lost. Trying again…${advice}`);
  });
}
