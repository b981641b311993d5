// Links to views: #slide=ID&x=X&y=Y&zoom=Z. X and Y are level-0 pixels of the centre of the view, Z is screen
// (CSS) pixels per level-0 pixel. Every part is optional.

export function readLink(hash) {
  const parts = new URLSearchParams(hash.replace(/^#/, ""));
  const number = (name) => {
    const value = parts.has(name) ? Number(parts.get(name)) : NaN;
    return Number.isFinite(value) ? value : null;
  };
  const place = { slide: parts.get("slide"), x: number("x"), y: number("y"), zoom: number("zoom") };
  if (place.zoom !== null && place.zoom <= 0) place.zoom = null;
  return place;
}

export function writeLink({ slide, x, y, zoom }) {
  const parts = new URLSearchParams();
  parts.set("slide", slide);
  if (zoom) {
    parts.set("x", x.toFixed(1));
    parts.set("y", y.toFixed(1));
    parts.set("zoom", String(Number(zoom.toPrecision(6))));
  }
  return `#${parts}`;
}
