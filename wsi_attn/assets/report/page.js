"use strict";
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const make = (tag, text, parent) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.appendChild(node);
    return node;
  };

  // World coordinates: the slide image has width 1. All positions are level-0 pixels times this factor.
  const unit = 1 / (data.slide.columns * data.slide.downsample_x);
  const aspect = data.slide.downsample_x / data.slide.downsample_y; // unequal factors would stretch the image
  const rectOf = (region) =>
    new OpenSeadragon.Rect(region.x * unit, region.y * unit * aspect, region.width * unit, region.height * unit * aspect);

  const viewer = OpenSeadragon({
    element: byId("viewer"),
    drawer: "canvas",
    showNavigationControl: false,
    showNavigator: true,
    navigatorPosition: "TOP_RIGHT",
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    maxZoomPixelRatio: 8,
    visibilityRatio: 0.3,
    animationTime: 0.4,
    tileSources: { type: "image", url: data.slide.image },
  });
  window.wsiAttn = { viewer: viewer, data: data };

  let layers = [];
  const opacity = () => Number(byId("opacity").value) / 100;
  function show() {
    const chosen = Number(byId("layer").value);
    layers.forEach((item, index) => item && item.setOpacity(index === chosen ? opacity() : 0));
    byId("opacity-value").textContent = byId("opacity").value + " %";
    const layer = data.layers[chosen];
    byId("bar").hidden = !layer;
    if (!layer) return;
    byId("bar-image").src = layer.bar;
    byId("bar-image").alt = "Colour bar of " + layer.title + ", from " + layer.ticks[0] + " to " + layer.ticks[layer.ticks.length - 1];
    byId("bar-ticks").replaceChildren(...layer.ticks.map((tick) => make("span", tick)));
    byId("bar-words").textContent = layer.title + ": " + layer.subtitle;
  }
  data.layers.forEach((layer, index) => {
    const option = make("option", layer.title, byId("layer"));
    option.value = index;
  });
  make("option", "None (slide only)", byId("layer")).value = -1;
  byId("layer").addEventListener("change", show);
  byId("opacity").addEventListener("input", show);

  const frames = [];
  let opened = false;
  viewer.addHandler("open", () => {
    if (opened) return;
    opened = true;
    data.layers.forEach((layer, index) => {
      viewer.addTiledImage({
        tileSource: { type: "image", url: layer.image },
        x: 0,
        y: 0,
        width: layer.columns * layer.downsample_x * unit,
        opacity: 0,
        success: (event) => {
          layers[index] = event.item;
          show();
          if (layers.filter(Boolean).length === data.layers.length) document.body.dataset.ready = "yes";
        },
      });
    });
    if (!data.layers.length) document.body.dataset.ready = "yes";
    data.regions.forEach((region) => {
      const frame = make("div");
      frame.className = "region";
      frames.push(frame);
      viewer.addOverlay({ element: frame, location: rectOf(region) });
    });
    show();
  });

  byId("frames").addEventListener("change", (event) => frames.forEach((frame) => (frame.hidden = !event.target.checked)));
  byId("zoom-in").addEventListener("click", () => viewer.viewport.zoomBy(1.5));
  byId("zoom-out").addEventListener("click", () => viewer.viewport.zoomBy(1 / 1.5));
  byId("zoom-home").addEventListener("click", () => viewer.viewport.goHome());

  const answer = byId("answer");
  const names = Object.keys(data.probabilities);
  if (names.length) {
    const table = make("table", undefined, answer);
    names.sort((a, b) => data.probabilities[b] - data.probabilities[a]);
    names.forEach((name) => {
      const row = make("tr", undefined, table);
      if (name === data.label) row.className = "label";
      make("th", name, row).scope = "row";
      make("td", data.probabilities[name].toFixed(3), row).className = "number";
    });
  }
  Object.entries(data.uncertainty).forEach(([name, value]) => make("p", "Uncertainty, " + name + ": " + value.toFixed(3), answer));
  data.lines.forEach((line) => make("p", line, answer));

  data.regions.forEach((region, index) => {
    const button = make("button", undefined, make("li", undefined, byId("patches")));
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    const image = make("img", undefined, button);
    image.src = region.image;
    image.alt = "Patch of rank " + (index + 1);
    make("span", index + 1 + " · " + region.weight.toPrecision(3), button);
    make("small", "x " + region.x + ", y " + region.y, button);
    button.addEventListener("click", () => {
      document.querySelectorAll("#patches button").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      frames.forEach((frame, other) => frame.classList.toggle("chosen", other === index));
      const rect = rectOf(region);
      const margin = Math.max(rect.width, rect.height);
      viewer.viewport.fitBounds(new OpenSeadragon.Rect(rect.x - margin, rect.y - margin, rect.width + 2 * margin, rect.height + 2 * margin));
    });
  });
  byId("origin").textContent = JSON.stringify(data.origin, null, 1);

  new OpenSeadragon.MouseTracker({
    element: viewer.container,
    moveHandler: (event) => {
      const point = viewer.viewport.pointFromPixel(event.position);
      const x = Math.floor(point.x / unit), y = Math.floor(point.y / unit / aspect);
      const inside = x >= 0 && y >= 0 && x < data.slide.width && y < data.slide.height;
      const microns = data.mpp ? "  (" + (x * data.mpp[0]).toFixed(0) + ", " + (y * data.mpp[1]).toFixed(0) + " µm)" : "";
      byId("position").textContent = inside ? "x " + x + ", y " + y + " px" + microns : "";
    },
  });
})();
