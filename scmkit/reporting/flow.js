"use strict";
// Animates the flow of every figure.flow: points move along the ODE and meet the jumps at its end.
for (const figure of document.querySelectorAll("figure.flow")) {
  const flow = JSON.parse(figure.querySelector("script").textContent);
  const canvas = figure.querySelector("canvas"), pen = canvas.getContext("2d");
  const button = figure.querySelector("button"), slider = figure.querySelector("input");
  const output = figure.querySelector("output"), last = flow.frames.length - 1;
  const SECONDS = 5, TRAIL = 7, dark = matchMedia("(prefers-color-scheme: dark)");
  const color = name => getComputedStyle(figure).getPropertyValue("--" + name).trim();
  let at = last, started = null;

  function dots(points, fill, radius) {
    pen.fillStyle = fill;
    pen.beginPath();
    for (let i = 0; i < points.length; i += 2) {
      pen.moveTo(points[i] + radius, points[i + 1]);
      pen.arc(points[i], points[i + 1], radius, 0, 7);
    }
    pen.fill();
  }

  // Where the points are between two frames.
  function between(frame) {
    const low = Math.floor(frame), rest = frame - low, one = flow.frames[low];
    const two = flow.frames[Math.min(low + 1, last)];
    return one.map((x, i) => x + rest * (two[i] - x));
  }

  function draw() {
    pen.clearRect(0, 0, canvas.width, canvas.height);
    dots(flow.reference, color("gray"), 3);
    Object.values(flow.ends).forEach((ends, i) => {
      pen.globalAlpha = 0.85;
      dots(ends, color("s" + (i + 1)), 4.5);
    });
    pen.globalAlpha = 0.3;
    pen.strokeStyle = color("s0");
    pen.lineWidth = 2;
    pen.beginPath();
    const now = between(at), trail = [now];
    for (let k = 1; k <= TRAIL && at - k >= 0; k++) trail.push(between(at - k));
    for (let i = 0; i < now.length; i += 2)
      trail.forEach((points, k) => pen[k ? "lineTo" : "moveTo"](points[i], points[i + 1]));
    pen.stroke();
    pen.globalAlpha = 1;
    dots(now, color("s0"), 4.5);
    slider.value = Math.round(at);
    output.textContent = "t = " + flow.times[Math.round(at)].toFixed(2);
  }

  function tick(time) {
    if (started === null) return;
    at = Math.min(last, (time - started) / 1000 / SECONDS * last);
    draw();
    if (at < last) requestAnimationFrame(tick);
    else stop();
  }
  function play() {
    const from = at < last ? at : 0;
    button.textContent = "Pause";
    requestAnimationFrame(time => {
      started = time - from / last * SECONDS * 1000;
      tick(time);
    });
  }
  function stop() {
    started = null;
    button.textContent = "Play";
  }
  button.addEventListener("click", () => (started === null ? play() : stop()));
  slider.addEventListener("input", () => { stop(); at = Number(slider.value); draw(); });
  dark.addEventListener("change", draw);
  draw();

  // Plays once when it comes into view, unless its reader wants no motion.
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
    const seen = new IntersectionObserver(([entry]) => {
      if (entry.isIntersecting) { seen.disconnect(); play(); }
    }, { threshold: 0.6 });
    seen.observe(canvas);
  }

  // For tests: that something was drawn, as the sum of the pixels' bytes.
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
  figure.dataset.drawn = pixels.reduce((sum, byte) => sum + byte, 0);
}
document.documentElement.dataset.ready = "true";
