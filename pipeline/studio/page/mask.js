/** The mask: where the photo may change. Kept as a canvas of the photo's shape whose alpha means "may change". */

import { maskSize, toMask } from "./geometry.js";

/** A mask for a photo; `changed()` is called whenever it looks different. */
export function createMask(photo, changed) {
  const size = maskSize(photo);
  const area = canvasOf(size);
  const dim = canvasOf(size);
  const pen = area.getContext("2d", { willReadFrequently: true });
  const shade = dim.getContext("2d");
  let used = false;

  function shadeAgain(x = 0, y = 0, width = size.width, height = size.height) {
    shade.save();
    shade.beginPath();
    shade.rect(x, y, width, height);
    shade.clip();
    shade.clearRect(x, y, width, height);
    shade.fillStyle = "#0b0b0d";
    shade.fillRect(x, y, width, height);
    shade.globalCompositeOperation = "destination-out";
    shade.drawImage(area, x, y, width, height, x, y, width, height);
    shade.restore();
    changed();
  }

  function filled(composite) {
    pen.save();
    pen.globalCompositeOperation = composite;
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, size.width, size.height);
    pen.restore();
  }

  return {
    size,
    /** What is drawn over the photo: dark where nothing may change. */
    shade: dim,
    get used() {
      return used;
    },
    /** A stroke from a to b (photo pixels), `radius` in photo pixels; an erasing one makes the place stay as it is. */
    stroke(a, b, radius, erase) {
      if (!used && erase) filled("source-over");
      const first = !used;
      used = true;
      const from = toMask(photo, size, a);
      const to = toMask(photo, size, b);
      const wide = Math.max((radius * size.width) / photo.width, 0.75);
      pen.save();
      pen.globalCompositeOperation = erase ? "destination-out" : "source-over";
      pen.strokeStyle = "#fff";
      pen.lineCap = "round";
      pen.lineWidth = 2 * wide;
      pen.beginPath();
      pen.moveTo(...from);
      pen.lineTo(to[0] + 0.001, to[1]);
      pen.stroke();
      pen.restore();
      if (first) return shadeAgain();
      const x = Math.floor(Math.min(from[0], to[0]) - wide - 2);
      const y = Math.floor(Math.min(from[1], to[1]) - wide - 2);
      // Whole pixels: an edge within one would be dimmed twice.
      const reach = (first, second) => Math.ceil(Math.abs(first - second) + 2 * wide + 5);
      return shadeAgain(x, y, reach(from[0], to[0]), reach(from[1], to[1]));
    },
    /** What may change and what stays change places. */
    invert() {
      if (!used) return;
      filled("source-out");
      shadeAgain();
    },
    /** Everything may change. */
    clear() {
      used = false;
      pen.clearRect(0, 0, size.width, size.height);
      changed();
    },
    /** Takes over a black and white picture. */
    take(picture) {
      pen.clearRect(0, 0, size.width, size.height);
      pen.drawImage(picture, 0, 0, size.width, size.height);
      const pixels = pen.getImageData(0, 0, size.width, size.height);
      for (let at = 0; at < pixels.data.length; at += 4) {
        pixels.data[at + 3] = pixels.data[at];
        pixels.data.fill(255, at, at + 3);
      }
      pen.putImageData(pixels, 0, 0);
      used = true;
      shadeAgain();
    },
    /** The share of the photo that may change, from 0 to 1. */
    share() {
      const { data } = pen.getImageData(0, 0, size.width, size.height);
      let sum = 0;
      for (let at = 3; at < data.length; at += 4) sum += data[at];
      return sum / (255 * size.width * size.height);
    },
    /** The mask as a PNG in base64, white on black. */
    async png() {
      const flat = canvasOf(size);
      const context = flat.getContext("2d");
      context.fillStyle = "#000";
      context.fillRect(0, 0, size.width, size.height);
      context.drawImage(area, 0, 0);
      return flat.toDataURL("image/png").split(",")[1];
    },
  };
}

function canvasOf({ width, height }) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}
