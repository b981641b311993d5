// Main module: connects the list, the stage and the overlays.
import { fillHelp, keyTable, listenToKeys } from "./keys.js";
import { readLink, writeLink } from "./link.js";
import { SlideList } from "./list.js";
import { Overlay, pathOf, polygonOf } from "./overlay.js";
import { showDetails, showLegend, showOpacity } from "./panel.js";
import { beginning, fetchJson, recordOf } from "./preview.js";
import { Stage } from "./stage.js";

const at = (id) => document.getElementById(id);
const checks = { heatmap: "show-heatmap", regions: "show-regions", polygons: "show-polygons", tissue: "show-tissue" };

const list = new SlideList((id) => choose(id, {}));
let stage, overlay; // created once OpenSeadragon has loaded
let slide = null; // record of the current slide
let asked = 0; // counts selections, so that late responses to earlier ones are dropped

function say(text) {
  at("message").textContent = text;
  at("message").hidden = !text;
}

async function choose(id, place, answer = recordOf(id)) {
  const ask = ++asked;
  list.mark(id);
  say("");
  let record;
  try {
    record = await answer;
  } catch (error) {
    if (ask === asked) fail(id, error);
    return;
  }
  if (ask !== asked) return;
  slide = record;
  overlay.clear();
  showDetails(slide, (region) => stage.fit(region));
  document.title = `${slide.name} · wsi-attn`;
  if (!slide.pixels) {
    stage.clear();
    history.replaceState(null, "", writeLink({ slide: id }));
    return;
  }
  await stage.open(slide, place);
  if (ask !== asked) return;
  overlay.size = slide.size;
  overlay.set("regions", slide.regions);
  remember();
  await Promise.all([showLayer(0), loadPolygons(), overlay.shown.tissue && loadTissue()]);
}

function fail(id, error) {
  slide = null;
  overlay.clear();
  stage.clear();
  history.replaceState(null, "", writeLink({ slide: id }));
  const line = list.slides.find((one) => one.id === id);
  const empty = { warnings: [], regions: [], layers: [], provenance: [], uncertainty: {}, label: null };
  showDetails({ ...empty, ...line, pixels: false, name: line?.name ?? "Unknown slide" }, () => {});
  say(`This slide cannot be shown: ${error.message}`);
}

async function showLayer(index) {
  const of = slide, layer = slide.layers[index];
  if (!layer) return;
  showLegend(layer);
  const image = new Image();
  image.src = `slides/${of.id}/layers/${index}.png`;
  await image.decode();
  if (of !== slide) return;
  overlay.set("heatmap", { image, width: layer.columns * layer.cell_width, height: layer.rows * layer.cell_height });
}

async function loadPolygons() {
  const of = slide;
  if (!of.polygons) return;
  const { polygons, problems } = await fetchJson(`slides/${of.id}/polygons.json`);
  if (of !== slide) return;
  if (problems.length) say(problems.join(" "));
  at("polygons-control").hidden = polygons.length === 0;
  overlay.set("polygons", polygons.map(polygonOf));
}

async function loadTissue() {
  const of = slide;
  if (!of?.pixels || overlay.tissue) return;
  try {
    const { rings } = await fetchJson(`slides/${of.id}/tissue.json`);
    if (of === slide) overlay.set("tissue", pathOf(rings));
  } catch (error) {
    say(`No tissue outline: ${error.message}`);
  }
}

function remember() {
  const place = stage.place();
  if (!place) return;
  history.replaceState(null, "", writeLink(place));
  at("position").textContent = `x ${Math.round(place.x)}, y ${Math.round(place.y)} · ${place.zoom.toPrecision(2)}×`;
}

function toggle(name, on = !at(checks[name]).checked) {
  at(checks[name]).checked = on;
  overlay.show(name, on);
  if (name === "tissue" && on) loadTissue();
}

function setOpacity(share) {
  overlay.set("opacity", Math.min(Math.max(share, 0), 1));
  showOpacity(overlay.opacity);
}

function drawer(button, pane) {
  button.addEventListener("click", () => {
    const open = document.body.classList.toggle(pane);
    button.setAttribute("aria-expanded", String(open));
  });
}

function loadLibrary() {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "static/openseadragon.js";
    script.addEventListener("load", resolve);
    script.addEventListener("error", () => reject(new Error("OpenSeadragon did not load")));
    document.head.append(script);
  });
}

function wire() {
  const table = keyTable({
    stage, list, toggle, opacity: (step) => setOpacity(overlay.opacity + step), help: () => at("help").showModal(),
  });
  listenToKeys(table);
  fillHelp(table);
  for (const [name, id] of Object.entries(checks)) {
    at(id).addEventListener("change", (event) => toggle(name, event.target.checked));
  }
  at("opacity").addEventListener("input", (event) => setOpacity(Number(event.target.value) / 100));
  at("layer").addEventListener("change", (event) => showLayer(Number(event.target.value)));
  at("zoom-in").addEventListener("click", () => stage.zoom(1.5));
  at("zoom-out").addEventListener("click", () => stage.zoom(1 / 1.5));
  at("zoom-home").addEventListener("click", () => stage.home());
  at("show-help").addEventListener("click", () => at("help").showModal());
  drawer(at("show-list"), "list-open");
  drawer(at("show-panel"), "panel-open");
  setOpacity(overlay.opacity);
  window.addEventListener("hashchange", () => {
    const place = readLink(location.hash);
    if (place.slide && place.slide !== slide?.id) choose(place.slide, place);
    else stage.goTo(place);
  });
}

// The preview of the first slide is on screen, or will be soon: OpenSeadragon replaces it.
async function start() {
  const { slides, problems, place, first, answer, preview } = await beginning;
  list.fill(slides);
  list.mark(first);
  if (preview) await preview.shown;
  await loadLibrary();
  stage = new Stage(at("stage"), remember);
  overlay = new Overlay(stage.viewer);
  if (preview) stage.viewer.addOnceHandler("tile-drawn", preview.remove);
  window.wsiAttn = { stage, overlay, list }; // for tests and debugging
  wire();
  await choose(first, place, answer);
  if (problems.length) say(problems.join(" "));
}

start().catch((error) => say(`The viewer could not start: ${error.message}`));
