// The list of slides: order, filter and selection.

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

const byName = (a, b) => collator.compare(a.name, b.name);
// Unknown values come last in both directions.
const by = (value, direction) => (a, b) => {
  const x = value(a), y = value(b);
  if (x == null || y == null) return (x == null) - (y == null) || byName(a, b);
  return direction * (x - y) || byName(a, b);
};

export class SlideList {
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.slides = [];
    this.visible = [];
    this.current = null;
    for (const id of ["search", "label-filter", "sort"]) {
      document.getElementById(id).addEventListener("input", () => this.draw());
    }
  }

  fill(slides) {
    this.slides = slides;
    const names = [...new Set(slides.flatMap((slide) => Object.keys(slide.uncertainty)))];
    this.orders = {
      "As given": () => 0,
      Name: byName,
      Label: (a, b) => (a.label == null) - (b.label == null) || collator.compare(a.label ?? "", b.label ?? "") || byName(a, b),
      "Most probable first": by((slide) => slide.probability, -1),
      "Least probable first": by((slide) => slide.probability, 1),
    };
    for (const name of names) this.orders[`Uncertainty: ${name}, highest first`] = by((slide) => slide.uncertainty[name], -1);
    this.measure = names[0] ?? null;
    options("sort", Object.keys(this.orders));
    const labels = [...new Set(slides.map((slide) => slide.label).filter((label) => label != null))].sort(collator.compare);
    options("label-filter", ["All", ...labels]);
    this.draw();
  }

  draw() {
    const words = document.getElementById("search").value.trim().toLowerCase();
    const label = document.getElementById("label-filter"), order = document.getElementById("sort").value;
    this.visible = this.slides
      .filter((slide) => slide.name.toLowerCase().includes(words))
      .filter((slide) => label.selectedIndex <= 0 || slide.label === label.value)
      .sort(this.orders[order] ?? (() => 0));
    document.getElementById("slides").replaceChildren(...this.visible.map((slide) => this.line(slide)));
    document.getElementById("count").textContent = `${this.visible.length} of ${this.slides.length} slides`;
    this.mark();
  }

  line(slide) {
    const item = document.createElement("li"), link = document.createElement("a");
    link.href = `#slide=${slide.id}`;
    link.dataset.id = slide.id;
    link.addEventListener("click", (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey) return; // a new tab opens the link itself
      event.preventDefault();
      this.onChoose(slide.id);
    });
    link.append(part("name", slide.name));
    if (slide.label != null) {
      const probability = slide.probability == null ? "" : ` ${slide.probability.toFixed(2)}`;
      link.append(part("label", `${slide.label}${probability}`));
    }
    const uncertainty = this.measure && slide.uncertainty[this.measure];
    if (uncertainty != null) link.append(part("uncertainty", `${this.measure} ${uncertainty.toFixed(2)}`));
    if (!slide.pixels) link.append(part("missing", "slide not found"));
    item.append(link);
    return item;
  }

  mark(current = this.current) {
    this.current = current;
    for (const link of document.querySelectorAll("#slides a")) {
      if (link.dataset.id === current) {
        link.setAttribute("aria-current", "true");
        link.scrollIntoView({ block: "nearest" });
      } else link.removeAttribute("aria-current");
    }
  }

  // Move the selection by `step` rows in the displayed list.
  step(step) {
    const at = this.visible.findIndex((slide) => slide.id === this.current);
    const next = this.visible[at < 0 ? 0 : Math.min(Math.max(at + step, 0), this.visible.length - 1)];
    if (next && next.id !== this.current) this.onChoose(next.id);
  }
}

function part(kind, text) {
  const span = document.createElement("span");
  span.className = kind;
  span.textContent = text;
  return span;
}

function options(id, names) {
  const select = document.getElementById(id);
  select.replaceChildren(...names.map((name) => new Option(name, name)));
}
