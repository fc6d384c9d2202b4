"use strict";

// Light and dark: the reader's own scheme, until the button is pressed.
const root = document.documentElement;
const theme = document.getElementById("theme");
const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches;
}

function nameTheme() {
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
  theme.setAttribute("aria-pressed", String(isDark()));
}

theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
prefersDark.addEventListener("change", nameTheme);
nameTheme();

// Sample grids: every run shows its newest grid at the position of the slider.
const slider = document.getElementById("time");
if (slider) {
  const now = document.getElementById("now");
  const play = document.getElementById("play");
  const times = slider.dataset.kimg.split(" ");
  const runs = [...document.querySelectorAll(".grids figure")].map((run) => [...run.querySelectorAll("[data-kimg]")]);
  let timer = null;

  const show = () => {
    const time = times[slider.value];
    for (const grids of runs) {
      const newest = grids.filter((grid) => Number(grid.dataset.kimg) <= Number(time)).pop();
      for (const grid of grids) grid.hidden = grid !== newest;
    }
    now.textContent = `${time} thousand images`;
    slider.setAttribute("aria-valuetext", now.textContent);
  };
  const pause = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  };
  slider.addEventListener("input", () => {
    pause();
    show();
  });
  play.addEventListener("click", () => {
    if (timer) return pause();
    if (slider.value === slider.max) slider.value = 0;
    show();
    play.textContent = "Pause";
    timer = setInterval(() => {
      slider.stepUp();
      show();
      if (slider.value === slider.max) pause();
    }, 600);
  });
  show();
}

// Charts: the points nearest to the mouse, or, with the keyboard, to the left and right of the last ones.
const tip = document.getElementById("tip");
let lit = [];

function unlight() {
  for (const dot of lit) dot.classList.remove("lit");
  lit = [];
  tip.hidden = true;
}

function place(dot) {
  return Number(dot.getAttribute("cx"));
}

// Light the point of each series that is nearest to x, in units of the drawing.
function light(chart, x) {
  unlight();
  const distance = (dot) => Math.abs(place(dot) - x);
  for (const series of chart.querySelectorAll(".series")) {
    const dots = [...series.querySelectorAll(".dot")];
    if (dots.length) lit.push(dots.reduce((best, dot) => (distance(dot) < distance(best) ? dot : best)));
  }
  const nearest = Math.min(...lit.map(distance));
  lit = lit.filter((dot) => distance(dot) < nearest + 6); // not those of runs that ended long before
  if (!lit.length) return;
  const texts = lit.map((dot) => dot.querySelector("title").textContent.split("\n"));
  tip.textContent = [texts[0][0], ...texts.map((lines) => lines.slice(1).join(" "))].join("\n");
  for (const dot of lit) dot.classList.add("lit");
  tip.hidden = false;
  const at = lit[0].getBoundingClientRect();
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(8, Math.min(at.left + 14, room))}px`;
  tip.style.top = `${Math.max(8, at.top - tip.offsetHeight - 10)}px`;
}

for (const chart of document.querySelectorAll("svg.chart")) {
  let at = null;
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    light(chart, ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width);
  });
  chart.addEventListener("pointerleave", unlight);
  chart.addEventListener("blur", unlight);
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") return unlight();
    if (!step) return;
    event.preventDefault();
    const places = [...new Set([...chart.querySelectorAll(".dot")].map(place))].sort((a, b) => a - b);
    if (!places.length) return;
    at = at === null ? (step > 0 ? 0 : places.length - 1) : Math.max(0, Math.min(places.length - 1, at + step));
    light(chart, places[at]);
  });
}
addEventListener("scroll", unlight, { passive: true });

// A printed page has everything that is folded up here.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
