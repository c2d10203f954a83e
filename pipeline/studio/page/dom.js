/** Small helpers for elements. Text that comes from elsewhere only ever becomes text. */

/** The element with an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** A new element with attributes (null and false leave one out) and children, which are elements or text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children);
  return element;
}

/** Writes text only where it is another one, so that screen readers stay calm. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Shows or hides. */
export function show(element, shown) {
  if (element.hidden === shown) element.hidden = !shown;
}

/** Sets or takes away `disabled`. */
export function enable(element, enabled) {
  if (element.disabled === enabled) element.disabled = !enabled;
}

/** A picture from the studio; an empty frame where there is none. */
export function thumbnail(url) {
  return url ? make("img", { src: url, alt: "", loading: "lazy", draggable: "false" }) : make("span", { class: "no-picture" });
}

/** Whether somebody is writing text in an element. */
export function isWriting(element) {
  return element?.matches?.("input:not([type=range]), textarea, select") ?? false;
}
