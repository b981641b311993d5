// The slide: OpenSeadragon with the levels and tile grids of the server, and the scale bar.
/* global OpenSeadragon */

const SCALE_WIDTH = 160; // maximum width of the scale bar in CSS pixels

function tileSource(slide) {
  const [width, height] = slide.size;
  const source = new OpenSeadragon.TileSource({
    width, height, tileSize: 256, tileOverlap: 0, minLevel: 0, maxLevel: slide.levels.length - 1, ready: true,
    getTileUrl: (level, x, y) => `slides/${slide.id}/tiles/${level}/${x}_${y}.jpg?v=${slide.version}`,
  });
  const level = (index) => slide.levels[index];
  source.getTileUrl = (index, x, y) => `slides/${slide.id}/tiles/${index}/${x}_${y}.jpg?v=${slide.version}`;
  source.getLevelScale = (index) => 1 / level(index).downsample_x;
  source.getTileWidth = (index) => level(index).tile_width;
  source.getTileHeight = (index) => level(index).tile_height;
  source.getNumTiles = (index) => new OpenSeadragon.Point(level(index).columns, level(index).rows);
  source.getTileAtPoint = (index, point) => {
    const { downsample_x, downsample_y, tile_width, tile_height, columns, rows } = level(index);
    const column = Math.floor((point.x * width) / downsample_x / tile_width);
    const row = Math.floor((point.y * width) / downsample_y / tile_height);
    const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
    return new OpenSeadragon.Point(within(column, columns), within(row, rows));
  };
  // Stored tiles at the right and bottom are padded: only the part inside the level is drawn.
  source.getTileBounds = (index, column, row, isSource) => {
    const at = level(index);
    const x = column * at.tile_width, y = row * at.tile_height;
    const w = Math.min(at.tile_width, at.width - x), h = Math.min(at.tile_height, at.height - y);
    if (isSource) return new OpenSeadragon.Rect(0, 0, w, h);
    const fx = at.downsample_x / width, fy = at.downsample_y / width;
    return new OpenSeadragon.Rect(x * fx, y * fy, w * fx, h * fy);
  };
  return source;
}

export class Stage {
  constructor(element, onMove) {
    this.slide = null;
    this.viewer = OpenSeadragon({
      element, drawer: "canvas", showNavigationControl: false, showNavigator: true, navigatorPosition: "BOTTOM_RIGHT",
      navigatorSizeRatio: 0.16, navigatorDisplayRegionColor: "#0b57a4",
      navigatorBackground: "#eef1f5", navigatorBorderColor: "#8a94a3", navigatorOpacity: 1, navigatorAutoFade: false,
      immediateRender: true, blendTime: 0,
      animationTime: 0.4, springStiffness: 9, visibilityRatio: 0.25, minZoomImageRatio: 0.6, maxZoomPixelRatio: 16,
      maxImageCacheCount: 300, imageLoaderLimit: 6, gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { pinchRotate: false }, preserveImageSizeOnResize: true, loadTilesWithAjax: false,
    });
    this.viewer.addHandler("canvas-key", (event) => { event.preventDefaultAction = true; }); // keys.js handles all keys
    this.viewer.addHandler("animation-finish", onMove);
    this.viewer.addHandler("update-viewport", () => this.drawScale());
    this.viewer.canvas.setAttribute("role", "application");
    this.viewer.canvas.setAttribute("aria-label", "Slide: arrow keys move, plus and minus zoom, question mark for help");
  }

  // Show a slide at a position, or all of it. Resolves when its tiles can be requested.
  open(slide, place) {
    this.slide = slide;
    return new Promise((resolve) => {
      this.viewer.addOnceHandler("open", () => {
        this.goTo(place);
        resolve();
      });
      this.viewer.open(tileSource(slide));
    });
  }

  clear() {
    this.slide = null;
    this.viewer.close();
  }

  goTo({ x = null, y = null, zoom = null }, immediately = true) {
    const { viewport } = this.viewer;
    if (!this.slide) return;
    if (zoom !== null) viewport.zoomTo(viewport.imageToViewportZoom(zoom), null, immediately);
    if (x !== null && y !== null) viewport.panTo(viewport.imageToViewportCoordinates(x, y), immediately);
  }

  // Show a level-0 rectangle with a margin.
  fit({ x, y, width, height }) {
    const { viewport } = this.viewer;
    const rect = viewport.imageToViewportRectangle(x - width, y - height, 3 * width, 3 * height);
    viewport.fitBounds(rect);
  }

  // The centre of the view in level-0 pixels, and screen pixels per level-0 pixel; null without a slide.
  place() {
    if (!this.slide || !this.viewer.isOpen()) return null;
    const { viewport } = this.viewer;
    const middle = viewport.viewportToImageCoordinates(viewport.getCenter(true));
    return { slide: this.slide.id, x: middle.x, y: middle.y, zoom: viewport.viewportToImageZoom(viewport.getZoom(true)) };
  }

  pan(dx, dy) {
    const { viewport } = this.viewer;
    viewport.panBy(viewport.deltaPointsFromPixels(new OpenSeadragon.Point(dx, dy)));
    viewport.applyConstraints();
  }

  zoom(factor) {
    this.viewer.viewport.zoomBy(factor);
    this.viewer.viewport.applyConstraints();
  }

  home() {
    this.viewer.viewport.goHome();
  }

  drawScale() {
    const place = this.place();
    const box = document.getElementById("scale"), text = document.getElementById("scale-text");
    const bar = document.getElementById("scale-bar");
    box.hidden = !place;
    if (!place) return;
    const mpp = this.slide.mpp ? this.slide.mpp[0] : null;
    const unit = (mpp ?? 1) / place.zoom; // microns, or level-0 pixels, per screen pixel
    const length = roundLength(SCALE_WIDTH * unit);
    bar.style.width = `${length / unit}px`;
    text.textContent = mpp ? lengthWords(length) : `${length} px (pixel size unknown)`;
    box.setAttribute("aria-label", `Scale bar: ${text.textContent}`);
  }
}

// The largest 1, 2 or 5 times a power of ten that is at most `longest`.
export function roundLength(longest) {
  const power = 10 ** Math.floor(Math.log10(longest));
  return Math.max(...[1, 2, 5].map((step) => step * power).filter((value) => value <= longest * (1 + 1e-9)));
}

function lengthWords(microns) {
  if (microns < 1000) return `${Number(microns.toPrecision(3))} µm`;
  return microns < 10000 ? `${microns / 1000} mm` : `${microns / 10000} cm`;
}
