// Keyboard shortcuts: one table, also shown in the help.

const PAN = 120; // CSS pixels per arrow key press

export function keyTable({ stage, list, toggle, opacity, help }) {
  return [
    [["ArrowLeft"], "←", "move left", () => stage.pan(-PAN, 0)],
    [["ArrowRight"], "→", "move right", () => stage.pan(PAN, 0)],
    [["ArrowUp"], "↑", "move up", () => stage.pan(0, -PAN)],
    [["ArrowDown"], "↓", "move down", () => stage.pan(0, PAN)],
    [["+", "="], "+", "zoom in", () => stage.zoom(1.5)],
    [["-", "_"], "−", "zoom out", () => stage.zoom(1 / 1.5)],
    [["0"], "0", "show whole slide", () => stage.home()],
    [["j"], "j", "next slide", () => list.step(1)],
    [["k"], "k", "previous slide", () => list.step(-1)],
    [["h"], "h", "toggle heatmap", () => toggle("heatmap")],
    [["["], "[", "decrease heatmap opacity", () => opacity(-0.1)],
    [["]"], "]", "increase heatmap opacity", () => opacity(0.1)],
    [["r"], "r", "toggle attended regions", () => toggle("regions")],
    [["p"], "p", "toggle polygons", () => toggle("polygons")],
    [["t"], "t", "toggle tissue outline", () => toggle("tissue")],
    [["?"], "?", "this help", help],
  ];
}

export function listenToKeys(table) {
  const actions = new Map(table.flatMap(([keys, , , action]) => keys.map((key) => [key, action])));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const target = event.target;
    const typing = target.matches("input:not([type=checkbox]), select, textarea");
    const action = actions.get(event.key);
    if (!action || typing) return;
    event.preventDefault();
    action();
  });
}

export function fillHelp(table) {
  document.getElementById("keys").replaceChildren(...table.flatMap(([, shown, meaning]) => {
    const key = document.createElement("dt"), words = document.createElement("dd");
    const cap = document.createElement("kbd");
    cap.textContent = shown;
    key.append(cap);
    words.textContent = meaning;
    return [key, words];
  }));
}
