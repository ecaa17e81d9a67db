"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const plane = $("plane"), image = $("image");
const line = data.rows === 1;                       // nz = 1: the plane is a line
const BLUE = "#0072b2", VERMILLION = "#d55e00";     // Okabe and Ito's colour-blind palette
const SPEED = 1;                                    // of a walk, in prior stds per second
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const tour = data.tour.length > 1 ? [...data.tour, data.tour[0]] : [];

let z = [0, 0];
let walk = [];                                      // the path that the user drew, points of the plane
let drawing = false;
let playing = null;                                 // {path, began}: began in ms, null until its first frame
let thumbnails = [];
let basis, mean, coefficients, sum, pixels;         // see unpack

// ---- the generated image: mean + sum_k a_k(z) e_k; a_k is interpolated on a grid

async function inflate(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

async function unpack() {
  [basis, mean, coefficients] = await Promise.all([data.basis, data.mean, data.coefficients].map(inflate));
  basis = new Int8Array(basis);                     // (components, 3 * side * side)
  mean = new Uint8Array(mean);                      // (3 * side * side), red, green, blue plane
  coefficients = new Int16Array(coefficients);      // (rows, columns, components), in units of data.scales
  sum = new Float32Array(mean.length);
  image.width = image.height = data.side;
  image.classList.toggle("coarse", data.side <= 32);
  pixels = image.getContext("2d").createImageData(data.side, data.side);
}

/** Catmull-Rom weights of the four neighbours of a point, t in [0, 1] from the second to the third. */
function weights(t) {
  return [((2 - t) * t - 1) * t / 2, ((3 * t - 5) * t * t + 2) / 2,
          ((4 - 3 * t) * t + 1) * t / 2, (t - 1) * t * t / 2];
}

/** The four grid lines around a value of z on an axis of n lines, and their weights. */
function neighbours(value, n) {
  const place = (value + data.reach) / (2 * data.reach) * (n - 1);
  const first = Math.max(0, Math.min(n - 2, Math.floor(place)));
  const lines = [-1, 0, 1, 2].map((k) => Math.max(0, Math.min(n - 1, first + k)));
  return {lines, weights: n === 1 ? [0, 1, 0, 0] : weights(place - first)};
}

function amplitudes([x, y]) {
  const across = neighbours(x, data.columns), up = neighbours(y, data.rows);
  const result = new Float32Array(data.scales.length);
  up.lines.forEach((row, j) => across.lines.forEach((column, i) => {
    const weight = up.weights[j] * across.weights[i];
    const begin = (row * data.columns + column) * result.length;
    for (let k = 0; k < result.length; k++) result[k] += weight * data.scales[k] * coefficients[begin + k];
  }));
  return result;
}

function drawImage() {
  const a = amplitudes(z), n = sum.length, area = n / 3;
  sum.set(mean);
  for (let k = 0; k < a.length; k += 4) {           // four at a time: four times as fast
    const [a0, a1, a2, a3] = a.subarray(k, k + 4);
    const b0 = k * n, b1 = b0 + n, b2 = b1 + n, b3 = b2 + n;
    for (let i = 0; i < n; i++) {
      sum[i] += a0 * basis[b0 + i] + a1 * basis[b1 + i] + a2 * basis[b2 + i] + a3 * basis[b3 + i];
    }
  }
  for (let i = 0; i < area; i++) {                 // a clamped array: rounds and clips
    pixels.data[4 * i] = sum[i];
    pixels.data[4 * i + 1] = sum[area + i];
    pixels.data[4 * i + 2] = sum[2 * area + i];
    pixels.data[4 * i + 3] = 255;
  }
  image.getContext("2d").putImageData(pixels, 0, 0);
}

// ---- the plane: prior, training images, walk, the point z

const toX = (x) => (x / data.reach + 1) / 2 * plane.clientWidth;
const toY = (y) => (line ? .5 : (1 - y / data.reach) / 2) * plane.clientHeight;

function drawPlane() {
  const ratio = devicePixelRatio || 1, pen = plane.getContext("2d");
  const [width, height] = [plane.clientWidth, plane.clientHeight];
  plane.width = Math.round(width * ratio);
  plane.height = Math.round(height * ratio);
  pen.scale(ratio, ratio);
  drawPrior(pen, width, height);
  if ($("thumbnails").checked) drawThumbnails(pen);
  drawAxes(pen, width, height);
  if (playing && playing.path === tour) drawPath(pen, tour, BLUE, [6, 4]);
  if (walk.length) drawPath(pen, walk, VERMILLION, []);
  drawPoint(pen);
}

/** Shading is proportional to the density of the prior; circles (lines where nz is 1) at 1, 2, 3 stds. */
function drawPrior(pen, width, height) {
  const [x, y] = [toX(0), toY(0)], std = toX(data.prior_sigma) - x;
  const shade = line ? pen.createLinearGradient(x - 4 * std, 0, x + 4 * std, 0)
                     : pen.createRadialGradient(x, y, 0, x, y, 4 * std);
  for (let k = 0; k <= 32; k++) {
    const deviations = line ? k / 4 - 4 : k / 8;
    shade.addColorStop(k / 32, `rgba(0, 114, 178, ${.3 * Math.exp(-(deviations ** 2) / 2)})`);
  }
  pen.fillStyle = shade;
  pen.fillRect(0, 0, width, height);
  pen.strokeStyle = "rgba(0, 0, 0, .3)";
  for (const k of [1, 2, 3]) {
    pen.beginPath();
    if (!line) pen.arc(x, y, k * std, 0, 2 * Math.PI);
    for (const side of line ? [-k, k] : []) {
      pen.moveTo(x + side * std, 0);
      pen.lineTo(x + side * std, height);
    }
    pen.stroke();
  }
}

function drawThumbnails(pen) {
  const shrink = Math.min(1, Math.sqrt(30 / thumbnails.length));        // many are drawn smaller
  const size = Math.max(18, Math.min(44, plane.clientWidth / 13) * shrink);
  thumbnails.forEach((picture, k) => {
    const [x, y] = [toX(data.points[k][0]), toY(data.points[k][1]) + (line ? (k % 3 - 1) * size * .9 : 0)];
    pen.fillStyle = "#fff";
    pen.fillRect(x - size / 2 - 1, y - size / 2 - 1, size + 2, size + 2);
    pen.drawImage(picture, x - size / 2, y - size / 2, size, size);
  });
}

function drawAxes(pen, width, height) {
  pen.font = "12px system-ui, sans-serif";
  pen.fillStyle = "#444";
  for (const k of [-2, -1, 0, 1, 2]) {
    const text = String(Number((k * data.prior_sigma).toPrecision(3))).replace("-", "\u2212");
    label(pen, text, toX(k * data.prior_sigma), height - 6, "center");
    if (!line) label(pen, text, 5, toY(k * data.prior_sigma) + 4, "left");
  }
  label(pen, "z\u2081", width - 6, height - 6, "right");
  if (!line) label(pen, "z\u2082", 5, 16, "left");
}

function label(pen, text, x, y, align) {
  pen.textAlign = align;
  pen.lineWidth = 3;
  pen.strokeStyle = "rgba(255, 255, 255, .85)";     // an outline: legible on training images
  pen.strokeText(text, x, y);
  pen.fillText(text, x, y);
}

function drawPath(pen, path, colour, dash) {
  pen.lineJoin = pen.lineCap = "round";
  for (const [style, width] of [["#fff", 5], [colour, 2.5]]) {
    pen.setLineDash(style === colour ? dash : []);
    pen.strokeStyle = style;
    pen.lineWidth = width;
    pen.beginPath();
    path.forEach((point) => pen.lineTo(toX(point[0]), toY(point[1])));
    pen.stroke();
  }
  pen.setLineDash([]);
}

/** A ring: the plane under it stays visible. */
function drawPoint(pen) {
  for (const [style, width] of [["#fff", 5], ["#000", 2]]) {
    pen.strokeStyle = style;
    pen.lineWidth = width;
    pen.beginPath();
    pen.arc(toX(z[0]), toY(z[1]), 8, 0, 2 * Math.PI);
    pen.stroke();
  }
}

// ---- z as text, and drawing

/** A coordinate with at least two decimals of prior_sigma; no minus zero. */
function number(value) {
  const text = value.toFixed(Math.max(0, 2 - Math.floor(Math.log10(data.prior_sigma))));
  return Number(text) === 0 ? text.replace("-", "") : text;
}

const coordinates = () => (line ? [z[0]] : z).map(number);

function zText() {
  const text = coordinates().join(", ");
  return `z = ${line ? text : `(${text})`}`.replaceAll("-", "\u2212");
}

let frame = 0, liveTimer = 0;

function show() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    drawImage();
    drawPlane();
    $("readout").textContent = zText();
    [image.dataset.z1, image.dataset.z2] = z;
    $("play").textContent = playing ? "Stop" : walk.length ? "Play the walk" : "Play the tour";
    $("play").disabled = !playing && !walk.length && !tour.length;
    $("clear").disabled = !walk.length;
  });
  clearTimeout(liveTimer);                            // for screen readers: z after it stopped
  liveTimer = setTimeout(() => { $("live").textContent = zText(); }, 400);
}

function moveTo(x, y) {
  const inside = (value) => Math.max(-data.reach, Math.min(data.reach, value));
  z = [inside(x), line ? 0 : inside(y)];
  show();
}

// ---- walks

/** The point at a distance along a path of points, or null beyond its end. */
function pointAlong(path, distance) {
  for (let k = 1; k < path.length; k++) {
    const [[x0, y0], [x1, y1]] = [path[k - 1], path[k]], length = Math.hypot(x1 - x0, y1 - y0);
    if (distance <= length) {
      const t = length ? distance / length : 0;
      return [x0 + t * (x1 - x0), y0 + t * (y1 - y0)];
    }
    distance -= length;
  }
  return null;
}

function play() {
  const path = walk.length ? walk : tour;
  if (!path.length) return;
  playing = {path, began: null};
  show();
  requestAnimationFrame(stepWalk);
}

function stepWalk(now) {
  if (!playing) return;
  playing.began ??= now;
  let deviations = SPEED * (now - playing.began) / 1000;
  if (reducedMotion.matches) deviations = Math.floor(2 * deviations) / 2;      // two stills per std
  const point = pointAlong(playing.path, deviations * data.prior_sigma);
  if (!point) {
    const [x, y] = playing.path.at(-1);
    stop();
    return moveTo(x, y);
  }
  moveTo(...point);
  requestAnimationFrame(stepWalk);
}

function stop() {
  playing = null;
  show();
}

const toggle = () => playing ? stop() : play();

function clearWalk() {
  walk = [];
  stop();
}

// ---- mouse, finger, pen

function pointOf(event) {
  const box = plane.getBoundingClientRect();
  const across = (event.clientX - box.left - plane.clientLeft) / plane.clientWidth;
  const down = (event.clientY - box.top - plane.clientTop) / plane.clientHeight;
  return [(2 * across - 1) * data.reach, (1 - 2 * down) * data.reach];
}

let sketch = [];                                    // the path while it is being drawn

function press(event) {
  if (event.button) return;                         // the right button opens the browser's menu
  plane.setPointerCapture(event.pointerId);
  stop();
  drawing = true;
  moveTo(...pointOf(event));
  sketch = [z];
}

function hover(event) {
  if (playing) return;                              // a small movement must not end a walk
  moveTo(...pointOf(event));
  if (!drawing) return;
  const [x, y] = sketch.at(-1);
  if (Math.hypot(z[0] - x, z[1] - y) > .01 * data.reach) sketch.push(z);
  if (isWalk(sketch)) walk = sketch;
}

/** A click with a small movement is not a walk. */
const isWalk = (path) => path.some(([x, y]) => Math.hypot(x - path[0][0], y - path[0][1]) > .05 * data.reach);

function release(event) {
  if (!drawing) return;
  drawing = false;
  // a finger drags to move z, so its walk starts with the button
  if (walk === sketch && event.pointerType !== "touch" && !reducedMotion.matches) play();
}

// ---- keys

const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1]};

function pressKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const arrow = ARROWS[event.key];
  if (arrow) moveBy(arrow, event.shiftKey);
  else if (event.key === " " || event.key === "Enter") toggle();
  else if (event.key === "Home") { stop(); moveTo(0, 0); }
  else if (event.key === "Escape") clearWalk();
  else return;
  event.preventDefault();                           // the page must not scroll
}

function moveBy([x, y], draws) {
  stop();
  const step = .05 * data.prior_sigma, before = z;
  moveTo(z[0] + x * step, z[1] + y * step);
  if (!draws) return;
  if (!walk.length || walk.at(-1) !== before) walk = [before];        // a new walk begins here
  walk.push(z);
}

// ---- saving, texts, start

function save() {
  const name = [data.start, "z", ...coordinates()].join("_") + ".png";
  drawImage();
  image.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }, "image/png");
}

/** A canvas for each training image: scaling parts of the sheet would mix neighbours. */
async function cutThumbnails() {
  if (!data.points.length) return;
  const sheet = new Image();
  sheet.src = data.sheet;
  await sheet.decode();
  const side = sheet.naturalHeight;
  thumbnails = data.points.map((_, k) => {
    const picture = document.createElement("canvas");
    picture.width = picture.height = side;
    picture.getContext("2d").drawImage(sheet, -k * side, 0);
    return picture;
  });
}

function writeTexts() {
  const what = line ? "Latent line" : "Latent plane";
  $("title").textContent = document.title = `${what}, ${data.start} start`;
  plane.setAttribute("aria-label", `${what}: arrow keys move z`);
  plane.style.aspectRatio = line ? "4" : "1";
  $("legend").textContent = data.legend;
  if (line) $("help").textContent = $("help").textContent.replace("plane", "line");
  if (data.other) {
    $("other").textContent = `${data.other} start`;
    $("other").href = `../${data.other}/explorer.html`;
    $("other").hidden = false;
  }
}

function listen() {
  plane.addEventListener("pointerdown", press);
  plane.addEventListener("pointermove", hover);
  plane.addEventListener("pointerup", release);
  plane.addEventListener("pointercancel", () => { drawing = false; });
  plane.addEventListener("keydown", pressKey);
  $("play").addEventListener("click", toggle);
  $("clear").addEventListener("click", clearWalk);
  $("save").addEventListener("click", save);
  $("thumbnails").addEventListener("change", show);
  new ResizeObserver(show).observe(plane);
}

async function main() {
  writeTexts();
  await Promise.all([unpack(), cutThumbnails()]);
  $("save").disabled = false;
  listen();
  show();
}

main().catch((error) => {
  $("readout").textContent = typeof DecompressionStream === "undefined"
    ? "This browser cannot unpack the images; use one from 2023 or later."
    : `This page is damaged: ${error.message}`;
});
