/** What the studio says: states, frames, troubles; and which session this tab watches (its id is in the address). */

import { keptPairs } from "./points.js";
import { frameShown, takeFrame, takeState } from "./session.js";

const TRAILS_MS = 2500;

/** `listener` for the connection; drawn() after each drawing; open(session) and home(). */
export function createTalk(store, actions, pictures) {
  let waiting = null;
  let decoding = 0;

  function wanted() {
    return decodeURIComponent(location.hash.slice(1));
  }

  function open(session) {
    store.set({ left: null });
    actions.watch(session);
  }

  function home() {
    const { server, hello } = store.get();
    if (!server) return;
    const thumb = server.edits[server.at - 1]?.thumb || server.photo?.view.url;
    const entry = { session: server.session, name: server.name, thumb, edits: server.at, when: Date.now() / 1000 };
    const others = (hello?.recent ?? []).filter(({ session }) => session !== server.session);
    store.set({ server: null, left: server.session, live: null, hello: hello && { ...hello, recent: [entry, ...others] } });
    history.replaceState(null, "", location.pathname);
  }

  function hello(message) {
    const { server, left } = store.get();
    store.set({ hello: message });
    const session = server?.session ?? (wanted() || (left ? "" : message.open));
    if (session) actions.watch(session);
  }

  function state(message) {
    const values = store.get();
    if (values.left === message.session) return;
    store.set(takeState(values, message, keptPairs));
    if (values.server?.running && !message.running) fadeTrails();
    if (wanted() !== message.session) history.replaceState(null, "", `#${encodeURIComponent(message.session)}`);
    settle();
  }

  /** The trails of an edit that has ended stay for a moment, and then the photo is free of them. */
  function fadeTrails() {
    const { trails } = store.get();
    setTimeout(() => store.get().trails === trails && store.set({ trails: [] }), TRAILS_MS);
  }

  /** Shows the newest result as soon as its picture is here; what was shown stays until then. */
  async function settle() {
    const { server, shownPatch, live } = store.get();
    const patch = server.patch;
    if ((patch?.url ?? null) !== (shownPatch?.url ?? null) && patch && server.phase !== "failed") await pictures.whole(patch.url);
    const now = store.get();
    if (now.server?.session !== server.session || now.server.patch?.url !== patch?.url) return;
    store.set(now.live === live && !now.server.running ? { shownPatch: patch, live: null } : { shownPatch: patch });
  }

  async function frame(header, picture) {
    const mine = ++decoding;
    let bitmap = null;
    try {
      bitmap = await createImageBitmap(picture);
    } catch {
      // A picture that cannot be decoded is acknowledged like one that was shown, or no other would come.
    }
    const values = store.get();
    const shown = bitmap && mine === decoding && values.server?.session === header.session && values.server.running;
    if (!shown) return actions.seen(header.number);
    waiting = header;
    store.set(takeFrame(values, header, bitmap));
    values.live?.bitmap.close();
    return undefined;
  }

  /** Comes from requestAnimationFrame after each drawing: the frame on the screen is acknowledged. */
  function drawn() {
    if (!waiting) return;
    const header = waiting;
    waiting = null;
    actions.seen(header.number);
    const { run } = store.get();
    if (run) store.set({ run: frameShown(run, header, performance.now()) });
  }

  function trouble({ sentence, session }) {
    actions.tell(sentence);
    const { server } = store.get();
    if (!server && (!session || session === wanted())) history.replaceState(null, "", location.pathname);
  }

  const listener = {
    opened() {
      const { server } = store.get();
      // A studio that was started anew counts its revisions from the beginning.
      store.set({ connected: true, tries: 0, server: server && { ...server, revision: -1 } });
    },
    closed: (tries) => store.set({ connected: false, tries: tries + 1 }),
    message(message) {
      ({ hello, state, trouble })[message.is]?.(message);
    },
    frame,
  };
  addEventListener("hashchange", () => {
    const session = wanted();
    if (session && session !== store.get().server?.session) open(session);
    if (!session) home();
  });
  return { listener, drawn, open, home };
}
