/** The line to the studio: a WebSocket that comes back by itself, and the upload of photos. */

import { splitFrame } from "./session.js";

const FIRST_WAIT_MS = 300;
const LONGEST_WAIT_MS = 8000;

/** How long to wait before try number `tries` (from 0). */
export function waitBefore(tries) {
  return Math.min(FIRST_WAIT_MS * 2 ** tries, LONGEST_WAIT_MS);
}

/**
 * Connects, and again whenever the line breaks. `on` has opened(), closed(tries), message(object), frame(header, blob).
 * Returns send(object), which says whether there was a line.
 */
export function connect(on) {
  let socket = null;
  let tries = 0;
  let timer = 0;

  function open() {
    clearTimeout(timer);
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const mine = new WebSocket(`${scheme}://${location.host}/socket`);
    mine.binaryType = "arraybuffer";
    mine.onopen = () => {
      tries = 0;
      on.opened();
    };
    mine.onmessage = ({ data }) => {
      if (typeof data === "string") return on.message(JSON.parse(data));
      const { header, picture } = splitFrame(data);
      return on.frame(header, picture);
    };
    mine.onclose = () => {
      if (socket !== mine) return;
      on.closed(tries);
      timer = setTimeout(open, waitBefore(tries));
      tries += 1;
    };
    socket = mine;
  }

  addEventListener("online", () => {
    if (socket.readyState === WebSocket.CLOSED) open();
  });
  open();
  return {
    send(message) {
      if (socket.readyState !== WebSocket.OPEN) return false;
      socket.send(JSON.stringify(message));
      return true;
    },
  };
}

/** Sends a photo; its identifier, or an Error whose message is a sentence for the person. */
export async function upload(file) {
  let answer;
  try {
    answer = await fetch("/photos", {
      method: "POST",
      headers: { "X-Name": encodeURIComponent(file.name || "pasted.png") },
      body: file,
    });
  } catch {
    throw new Error("The photo did not reach the studio: is it still running?");
  }
  let content = {};
  try {
    content = await answer.json();
  } catch {
    // Handled below: without JSON there is no photo.
  }
  if (answer.ok && content.photo) return content.photo;
  throw new Error(content.error || `The studio did not take the photo (${answer.status}).`);
}
