/** Lists of generators: those that are here can be chosen, of the others it says how to get them. */

import { make } from "./dom.js";

const COMMAND = "photodrag models download NAME";

/** Fills a select with the generators of a hello message. */
export function fillGenerators(select, { generators }, chosen) {
  const here = generators.filter((generator) => generator.here);
  const missing = generators.filter((generator) => !generator.here);
  const groups = [make("optgroup", { label: "Here" }, ...here.map(({ name }) => make("option", { value: name }, name)))];
  if (missing.length) {
    const options = missing.map(({ name }) => make("option", { value: name, disabled: true }, name));
    groups.push(make("optgroup", { label: `To get: ${COMMAND}` }, ...options));
  }
  if (!generators.some(({ name }) => name === chosen)) groups[0].append(make("option", { value: chosen }, chosen));
  select.replaceChildren(...groups);
  select.value = chosen;
}

/** How to get another generator, as a sentence; empty when all are here. */
export function generatorHint({ generators }) {
  const others = generators.filter((generator) => !generator.here);
  const missing = others.find(({ name }) => name.includes("ffhq-512")) ?? others[0];
  return missing ? `More generators: photodrag models download ${missing.name}` : "";
}
