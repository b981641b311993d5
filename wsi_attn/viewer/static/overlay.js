// Overlays of the slide, drawn on one canvas in level-0 coordinates and redrawn whenever the view moves.
/* global OpenSeadragon */

const SMALLEST = 6; // minimum CSS pixels of a region's frame, so that it stays visible when zoomed out
const HALO = "rgba(12, 20, 32, 0.85)";

export class Overlay {
  constructor(viewer) {
    this.viewer = viewer;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "overlay";
    this.canvas.setAttribute("aria-hidden", "true");
    viewer.canvas.appendChild(this.canvas);
    this.shown = { heatmap: true, regions: true, polygons: true, tissue: false };
    this.opacity = 0.5;
    this.clear();
    for (const event of ["update-viewport", "open", "resize", "close"]) viewer.addHandler(event, () => this.draw());
  }

  clear() {
    this.size = null;
    this.heatmap = null; // {image, width, height} in level-0 pixels
    this.regions = [];
    this.polygons = []; // {path, box, colour}
    this.tissue = null; // Path2D
    this.draw();
  }

  set(name, value) {
    this[name] = value;
    this.draw();
  }

  show(name, on) {
    this.shown[name] = on;
    this.draw();
  }

  draw() {
    const { viewer, canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    const width = viewer.canvas.clientWidth, height = viewer.canvas.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.size || !viewer.isOpen()) return;
    const { viewport } = viewer;
    const zoom = viewport.viewportToImageZoom(viewport.getZoom(true));
    const origin = viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
    context.setTransform(ratio * zoom, 0, 0, ratio * zoom, ratio * origin.x, ratio * origin.y);
    const view = { x0: -origin.x / zoom, y0: -origin.y / zoom, x1: (width - origin.x) / zoom, y1: (height - origin.y) / zoom };
    if (this.shown.heatmap && this.heatmap) this.drawHeatmap(context);
    if (this.shown.tissue && this.tissue) stroke(context, this.tissue, "#7df0d8", 2 / zoom);
    if (this.shown.polygons) this.drawPolygons(context, zoom, view);
    if (this.shown.regions) this.drawRegions(context, zoom);
  }

  drawHeatmap(context) {
    const { image, width, height } = this.heatmap;
    context.save();
    context.beginPath();
    context.rect(0, 0, this.size[0], this.size[1]); // the last cells extend beyond the slide
    context.clip();
    context.globalAlpha = this.opacity;
    context.imageSmoothingEnabled = true;
    context.drawImage(image, 0, 0, width, height);
    context.restore();
  }

  drawPolygons(context, zoom, view) {
    for (const { path, box, colour } of this.polygons) {
      if (box.x1 < view.x0 || box.x0 > view.x1 || box.y1 < view.y0 || box.y0 > view.y1) continue;
      if (Math.max(box.x1 - box.x0, box.y1 - box.y0) * zoom < 1) continue;
      context.fillStyle = `rgba(${colour.join(",")}, 0.18)`;
      context.fill(path, "evenodd");
      context.strokeStyle = `rgb(${colour.join(",")})`;
      context.lineWidth = 1.5 / zoom;
      context.stroke(path);
    }
  }

  drawRegions(context, zoom) {
    const least = SMALLEST / zoom;
    for (let index = this.regions.length - 1; index >= 0; index--) { // the first rank is on top
      const region = this.regions[index];
      const w = Math.max(region.width, least), h = Math.max(region.height, least);
      const frame = new Path2D();
      frame.rect(region.x + (region.width - w) / 2, region.y + (region.height - h) / 2, w, h);
      stroke(context, frame, "#ffffff", 2 / zoom);
      if (w * zoom > 40) {
        context.font = `600 ${13 / zoom}px system-ui, sans-serif`;
        context.textBaseline = "top";
        context.lineWidth = 3 / zoom;
        context.strokeStyle = HALO;
        context.strokeText(String(index + 1), region.x + 4 / zoom, region.y + 4 / zoom);
        context.fillStyle = "#ffffff";
        context.fillText(String(index + 1), region.x + 4 / zoom, region.y + 4 / zoom);
      }
    }
  }
}

// A line with a dark halo: visible on any tissue and any colour.
function stroke(context, path, colour, width) {
  context.lineJoin = "round";
  context.strokeStyle = HALO;
  context.lineWidth = width * 2.2;
  context.stroke(path);
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke(path);
}

export function pathOf(rings) {
  const path = new Path2D();
  for (const ring of rings) {
    ring.forEach(([x, y], index) => (index ? path.lineTo(x, y) : path.moveTo(x, y)));
    path.closePath();
  }
  return path;
}

export function polygonOf({ rings, colour }) {
  const xs = rings[0].map(([x]) => x), ys = rings[0].map(([, y]) => y);
  const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);
  const most = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);
  return { path: pathOf(rings), colour, box: { x0: least(xs), y0: least(ys), x1: most(xs), y1: most(ys) } };
}
