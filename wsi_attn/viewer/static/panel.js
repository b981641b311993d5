// Details of the current slide: its prediction, overlay controls and provenance.

const LISTED = 10; // number of attended regions with a button

const at = (id) => document.getElementById(id);

function element(tag, text, kind) {
  const made = document.createElement(tag);
  if (text != null) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function bars(id, values) {
  at(id).replaceChildren(...Object.entries(values).map(([name, value]) => {
    const row = element("tr"), name_ = element("th", name), number = element("td", value.toFixed(3), "number");
    name_.scope = "row";
    const cell = element("td", null, "bar-cell"), bar = element("span", null, "share");
    bar.style.width = `${Math.min(Math.max(value, 0), 1) * 100}%`;
    cell.append(bar);
    row.append(name_, number, cell);
    return row;
  }));
}

export function showDetails(slide, onRegion) {
  at("slide-name").textContent = slide.name;
  at("warnings").replaceChildren(...slide.warnings.map((text) => element("li", text)));
  at("answer").hidden = slide.label == null;
  if (slide.label != null) {
    const probability = slide.probability == null ? "" : `, probability ${slide.probability.toFixed(2)}`;
    at("answer-label").textContent = `${slide.label}${probability}`;
    bars("probabilities", slide.probabilities);
    bars("uncertainty", slide.uncertainty);
  }
  at("heatmap-controls").hidden = slide.layers.length === 0;
  at("regions-control").hidden = slide.regions.length === 0;
  at("polygons-control").hidden = !slide.polygons;
  at("tissue-control").hidden = !slide.pixels;
  at("layer-choice").hidden = slide.layers.length < 2;
  at("layer").replaceChildren(...slide.layers.map((layer, index) => new Option(layer.title, String(index))));
  at("attended").hidden = slide.regions.length === 0;
  at("regions").replaceChildren(...slide.regions.slice(0, LISTED).map((region, index) => {
    const item = element("li"), button = element("button", `${index + 1} · weight ${region.weight.toFixed(3)}`);
    button.type = "button";
    button.addEventListener("click", () => onRegion(region));
    item.append(button);
    return item;
  }));
  at("provenance").replaceChildren(...slide.provenance.flatMap(([key, value]) => [element("dt", key), element("dd", value)]));
}

export function showLegend(layer) {
  at("legend-title").textContent = layer.title;
  at("legend-subtitle").textContent = layer.subtitle;
  const bar = at("legend-bar"), context = bar.getContext("2d");
  context.clearRect(0, 0, bar.width, bar.height);
  const step = bar.width / layer.bar.length;
  layer.bar.forEach(([red, green, blue, alpha], index) => {
    context.fillStyle = `rgba(${red}, ${green}, ${blue}, ${alpha / 255})`;
    context.fillRect(Math.floor(index * step), 0, Math.ceil(step), bar.height);
  });
  at("legend-ticks").replaceChildren(...layer.ticks.map((text) => element("span", text)));
}

export function showOpacity(share) {
  at("opacity").value = String(Math.round(share * 100));
  at("opacity-value").textContent = `${Math.round(share * 100)} %`;
}
