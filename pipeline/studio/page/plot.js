/** A small plot of the distance to the target over the steps. */

/** Draws rows [step, distance] into a canvas, as wide as `total` steps, in the colour of its text. */
export function drawPlot(canvas, rows, total, ratio) {
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  if (rows.length < 2 || !width) return;
  const context = canvas.getContext("2d");
  const most = Math.max(...rows.map(([, distance]) => distance), 0.001);
  const last = Math.max(total || 0, rows[rows.length - 1][0], 1);
  const place = ([step, distance]) => [3 + (step / last) * (width - 6), 3 + (1 - distance / most) * (height - 7)];
  context.scale(ratio, ratio);
  context.strokeStyle = getComputedStyle(canvas).color;
  context.globalAlpha = 0.3;
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(3, height - 3.5);
  context.lineTo(width - 3, height - 3.5);
  context.stroke();
  context.globalAlpha = 1;
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  context.beginPath();
  rows.forEach((row, index) => (index ? context.lineTo(...place(row)) : context.moveTo(...place(row))));
  context.stroke();
  const [x, y] = place(rows[rows.length - 1]);
  context.fillStyle = "#ff4b4b";
  context.beginPath();
  context.arc(x, y, 2.5, 0, 2 * Math.PI);
  context.fill();
}
