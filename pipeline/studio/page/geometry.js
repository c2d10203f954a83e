/**
 * Where the photo lies on the screen. A view {scale, x, y} maps photo pixels, whose centres are whole numbers, to CSS
 * pixels of a pane: the photo's outer corner (-0.5, -0.5) lies at (x, y), and a photo pixel is `scale` CSS pixels wide.
 */

export const LANDMARK_REACH = 20;
export const LARGEST_SCALE = 40;

/** Photo pixels to CSS pixels of the pane. */
export function toScreen(view, [x, y]) {
  return [view.x + (x + 0.5) * view.scale, view.y + (y + 0.5) * view.scale];
}

/** CSS pixels of the pane to photo pixels. */
export function toPhoto(view, [x, y]) {
  return [(x - view.x) / view.scale - 0.5, (y - view.y) / view.scale - 0.5];
}

/** The nearest place inside the photo. */
export function insidePhoto(photo, [x, y]) {
  return [clamp(x, -0.5, photo.width - 0.5), clamp(y, -0.5, photo.height - 0.5)];
}

/** `value`, but no less than `least` and no more than `most`. */
export function clamp(value, least, most) {
  return Math.min(Math.max(value, least), most);
}

/** The whole photo in the middle of a pane, less its insets {top, right, bottom, left}; never larger than `most`. */
export function fitView(photo, pane, insets, most = 1) {
  const width = Math.max(pane.width - insets.left - insets.right, 32);
  const height = Math.max(pane.height - insets.top - insets.bottom, 32);
  const scale = Math.min(width / photo.width, height / photo.height, most);
  return {
    scale,
    x: insets.left + (width - photo.width * scale) / 2,
    y: insets.top + (height - photo.height * scale) / 2,
  };
}

/** Zoomed by `factor`, while what lies at `at` (CSS pixels of the pane) stays there. */
export function zoomAt(view, at, factor, least, most = LARGEST_SCALE) {
  return scaledAt(view, at, clamp(view.scale * factor, least, most));
}

/** At `scale`, while what lies at `at` stays there. */
export function scaledAt(view, [x, y], scale) {
  const factor = scale / view.scale;
  return { scale, x: x - (x - view.x) * factor, y: y - (y - view.y) * factor };
}

/** Moved by CSS pixels. */
export function panned(view, dx, dy) {
  return { scale: view.scale, x: view.x + dx, y: view.y + dy };
}

/** Moved as little as leaves `margin` CSS pixels of the photo in the pane. */
export function keptInSight(view, photo, pane, margin = 60) {
  const width = photo.width * view.scale;
  const height = photo.height * view.scale;
  const x = clamp(view.x, Math.min(margin, width) - width, pane.width - Math.min(margin, width));
  const y = clamp(view.y, Math.min(margin, height) - height, pane.height - Math.min(margin, height));
  return { scale: view.scale, x, y };
}

/** The view of two fingers: what lay under each when they came stays under them. */
export function pinched(view, [a, b], [c, d], least, most = LARGEST_SCALE) {
  const before = Math.max(Math.hypot(b[0] - a[0], b[1] - a[1]), 1);
  const after = Math.hypot(d[0] - c[0], d[1] - c[1]);
  const middle = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  const zoomed = zoomAt(view, middle, after / before, least, most);
  return panned(zoomed, (c[0] + d[0]) / 2 - middle[0], (c[1] + d[1]) / 2 - middle[1]);
}

/** The panes of a stage: one, or two beside each other where there is more width than height, else stacked. */
export function panesOf(size, two) {
  if (!two) return [{ x: 0, y: 0, width: size.width, height: size.height }];
  if (size.width >= size.height) {
    const width = size.width / 2;
    return [{ x: 0, y: 0, width, height: size.height }, { x: width, y: 0, width, height: size.height }];
  }
  const height = size.height / 2;
  return [{ x: 0, y: 0, width: size.width, height }, { x: 0, y: height, width: size.width, height }];
}

/** Which part of the photo a pane shows, as whole pixels {x, y, w, h}; null when it shows none. */
export function visibleBox(view, photo, pane) {
  const left = clamp(Math.floor(-view.x / view.scale), 0, photo.width);
  const top = clamp(Math.floor(-view.y / view.scale), 0, photo.height);
  const right = clamp(Math.ceil((pane.width - view.x) / view.scale), 0, photo.width);
  const bottom = clamp(Math.ceil((pane.height - view.y) / view.scale), 0, photo.height);
  return right > left && bottom > top ? { x: left, y: top, w: right - left, h: bottom - top } : null;
}

/** The part to fetch for a pane, {x, y, w, h, scale}: as fine as the screen shows it, and at most `most` pixels. */
export function regionFor(view, photo, pane, ratio, most = 4e6) {
  const box = visibleBox(view, photo, pane);
  if (!box) return null;
  const fine = Math.min(1, view.scale * ratio);
  const scale = Math.min(fine, 0.99 * Math.sqrt(most / (box.w * box.h)));
  return { ...box, scale: Math.round(Math.min(scale, 1) * 1000) / 1000 };
}

/** Which of `points` (photo pixels, null for none) lies nearest to `at` (CSS pixels) and within reach; -1: none. */
export function nearest(points, at, view, within) {
  let best = -1;
  let least = within;
  points.forEach((point, index) => {
    if (!point) return;
    const [x, y] = toScreen(view, point);
    const distance = Math.hypot(x - at[0], y - at[1]);
    if (distance <= least) {
      best = index;
      least = distance;
    }
  });
  return best;
}

/** The landmark within 20 screen pixels of a place (photo pixels), else that place itself. */
export function snapped(landmarks, place, view, within = LANDMARK_REACH) {
  const index = nearest(landmarks, toScreen(view, place), view, within);
  return index < 0 ? place : [...landmarks[index]];
}

/** The size of the mask: the photo's shape, at most `most` pixels a side. */
export function maskSize(photo, most = 1600) {
  const factor = Math.min(1, most / Math.max(photo.width, photo.height));
  return {
    width: Math.max(1, Math.round(photo.width * factor)),
    height: Math.max(1, Math.round(photo.height * factor)),
  };
}

/** Photo pixels to the mask canvas's own coordinates, which count from its corner. */
export function toMask(photo, size, [x, y]) {
  return [((x + 0.5) * size.width) / photo.width, ((y + 0.5) * size.height) / photo.height];
}

/** Whether a place lies inside a polygon [[x, y], ...]. */
export function insidePolygon(polygon, [x, y]) {
  let inside = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [ax, ay] = polygon[i];
    const [bx, by] = polygon[j];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

/** Whether a wheel event comes from a trackpad's two fingers, which pan, and not from a wheel, which zooms. */
export function isTrackpad({ deltaX, deltaMode, wheelDeltaY, shiftKey }) {
  if (deltaMode !== 0 || shiftKey) return false;
  if (deltaX !== 0) return true;
  return typeof wheelDeltaY === "number" && wheelDeltaY !== 0 && wheelDeltaY % 120 !== 0;
}
