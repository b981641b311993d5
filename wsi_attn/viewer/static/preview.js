// Preview: shows the coarsest tiles of the first slide before the rest of the page has loaded.
import { readLink } from "./link.js";

export async function fetchJson(address) {
  const answer = await fetch(address);
  const data = await answer.json().catch(() => ({ error: answer.statusText }));
  if (!answer.ok) throw new Error(data.error ?? answer.statusText);
  return data;
}

export const recordOf = (id) => fetchJson(`slides/${encodeURIComponent(id)}.json`);

// Initial data of the page: the list, the requested view, the first slide's id, the promise of its record, its preview.
export const beginning = begin();

// The page contains the list and, if it could be opened, the record of the first slide, so no request is needed.
async function begin() {
  const { slides, problems, record } = JSON.parse(document.getElementById("beginning").textContent);
  const place = readLink(location.hash);
  const first = place.slide ?? slides.find((one) => one.pixels)?.id ?? slides[0].id;
  const answer = record?.id === first ? Promise.resolve(record) : recordOf(first);
  const preview = await answer.then((slide) => (slide.pixels ? show(document.getElementById("stage"), slide, place) : null), () => null);
  return { slides, problems, place, first, answer, preview };
}

function show(element, slide, { x = null, y = null, zoom = null }) {
  const [width, height] = slide.size, level = slide.levels[0];
  const { clientWidth, clientHeight } = element;
  const scale = zoom ?? Math.min(clientWidth / width, clientHeight / height);
  const left = clientWidth / 2 - (x ?? width / 2) * scale, top = clientHeight / 2 - (y ?? height / 2) * scale;
  const preview = document.createElement("div");
  preview.className = "preview";
  preview.setAttribute("aria-hidden", "true");
  place(preview, left, top, width * scale, height * scale);
  const loads = [];
  for (let row = 0; row < level.rows; row++) {
    for (let column = 0; column < level.columns; column++) {
      const tile = new Image();
      tile.alt = "";
      tile.src = `slides/${slide.id}/tiles/0/${column}_${row}.jpg?v=${slide.version}`;
      loads.push(tile.decode().then(() => {
        const fx = level.downsample_x * scale, fy = level.downsample_y * scale;
        place(tile, column * level.tile_width * fx, row * level.tile_height * fy, tile.naturalWidth * fx, tile.naturalHeight * fy);
        preview.append(tile);
      }));
    }
  }
  element.append(preview);
  const painted = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  const shown = Promise.any(loads).then(painted).then(() => performance.mark("first-tile")).catch(() => {});
  return { shown, remove: () => preview.remove() };
}

function place(element, left, top, width, height) {
  Object.assign(element.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
}
