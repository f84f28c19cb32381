// Reads the value under the pointer, the finger or the arrow keys out of a figure.
// A figure's data is a list of layers in the pixels of its drawing:
//   {name, x, y, labels, values}               points, in order
//   {name, left, right, top, bottom, rows, columns, cells}   a grid; row 0 is at the top, "" is an empty cell
"use strict";
(() => {
  const tip = document.getElementById("tip");
  const live = document.getElementById("live");
  const within = (low, value, high) => Math.min(Math.max(value, low), high);

  for (const plot of document.querySelectorAll(".plot")) {
    const canvas = plot.querySelector(".canvas");
    const mark = plot.querySelector(".mark");
    const [width, height] = canvas.dataset.size.split(" ").map(Number);
    let layers = null;
    let at = null; // {layer, index} or {layer, row, column}
    let spot = null; // where that is, in the drawing

    const load = () => (layers ??= JSON.parse(plot.querySelector("script").textContent));

    const nearest = (x, y) => {
      let best = null;
      let least = 50 ** 2; // further off than this the pointer means nothing
      load().forEach((layer, number) => {
        if (layer.cells) {
          const rows = layer.rows.length, columns = layer.columns.length;
          const column = Math.floor(((x - layer.left) / (layer.right - layer.left)) * columns);
          const row = Math.floor(((y - layer.top) / (layer.bottom - layer.top)) * rows);
          if (row >= 0 && row < rows && column >= 0 && column < columns && layer.cells[row][column] !== "") {
            best = { layer: number, row, column };
            least = 0;
          }
          return;
        }
        layer.x.forEach((px, index) => {
          const distance = (px - x) ** 2 + (layer.y[index] - y) ** 2;
          if (distance < least) { least = distance; best = { layer: number, index }; }
        });
      });
      return best;
    };

    const read = () => {
      const layer = layers[at.layer];
      if (layer.cells) {
        return [layer.cells[at.row][at.column] || "nothing", [layer.name, layer.rows[at.row], layer.columns[at.column]]];
      }
      return [layer.values[at.index], [layer.name, layer.labels[at.index]]];
    };

    const hide = () => { at = null; mark.style.display = tip.style.display = "none"; };

    const show = (found, aloud) => {
      if (!found) { hide(); return; }
      at = found;
      const layer = layers[at.layer];
      let x, y;
      if (layer.cells) {
        const w = (layer.right - layer.left) / layer.columns.length, h = (layer.bottom - layer.top) / layer.rows.length;
        const left = layer.left + at.column * w, top = layer.top + at.row * h;
        mark.className = "mark cell";
        mark.style.width = `${(100 * w) / width}%`;
        mark.style.height = `${(100 * h) / height}%`;
        mark.style.left = `${(100 * left) / width}%`;
        mark.style.top = `${(100 * top) / height}%`;
        x = left + w / 2; y = top + h / 2;
      } else {
        x = layer.x[at.index]; y = layer.y[at.index];
        mark.className = "mark point";
        mark.style.width = mark.style.height = "";
        mark.style.left = `${(100 * x) / width}%`;
        mark.style.top = `${(100 * y) / height}%`;
      }
      mark.style.display = "block";
      const [value, where] = read();
      tip.replaceChildren(Object.assign(document.createElement("strong"), { textContent: value }),
        Object.assign(document.createElement("span"), { textContent: where.filter(Boolean).join(", ") }));
      tip.style.display = "block";
      spot = [x, y];
      place();
      if (aloud) live.textContent = `${where.filter(Boolean).join(", ")}: ${value}`;
    };

    const place = () => {
      const [x, y] = spot, box = canvas.getBoundingClientRect();
      const px = box.left + (x / width) * box.width, py = box.top + (y / height) * box.height;
      tip.style.left = `${within(8, px - tip.offsetWidth / 2, document.documentElement.clientWidth - tip.offsetWidth - 8)}px`;
      tip.style.top = `${py - tip.offsetHeight - 14 > 4 ? py - tip.offsetHeight - 14 : py + 16}px`;
    };

    const step = (right, down) => {
      if (!at) return first();
      const layer = layers[at.layer];
      if (layer.cells) {
        const column = within(0, at.column + right, layer.columns.length - 1);
        let row = at.row + down, number = at.layer;
        if (row < 0 && number > 0 && layers[number - 1].cells) { number -= 1; row = layers[number].rows.length - 1; }
        if (row >= layer.rows.length && layers[number + 1]?.cells) { number += 1; row = 0; }
        const next = layers[number];
        return { layer: number, row: within(0, row, next.rows.length - 1), column: within(0, column, next.columns.length - 1) };
      }
      if (!down) return { layer: at.layer, index: within(0, at.index + right, layer.x.length - 1) };
      let number = at.layer; // another series, at the point nearest to this one from left to right
      do { number += down; } while (layers[number] && (layers[number].cells || !layers[number].x.length));
      if (!layers[number]) return at;
      const gaps = layers[number].x.map((px) => Math.abs(px - layer.x[at.index]));
      return { layer: number, index: gaps.indexOf(Math.min(...gaps)) };
    };

    const first = () => {
      const number = load().findIndex((layer) => layer.cells ? layer.rows.length : layer.x.length);
      if (number < 0) return null;
      return layers[number].cells ? { layer: number, row: 0, column: 0 } : { layer: number, index: 0 };
    };

    const last = () => {
      const layer = layers[at.layer];
      return layer.cells ? { ...at, column: layer.columns.length - 1 } : { ...at, index: layer.x.length - 1 };
    };

    const follow = (event) => {
      const box = canvas.getBoundingClientRect();
      show(nearest(((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height));
    };
    canvas.addEventListener("pointermove", follow);
    canvas.addEventListener("pointerdown", follow);
    canvas.addEventListener("pointerleave", hide);
    canvas.addEventListener("blur", hide);
    canvas.addEventListener("keydown", (event) => {
      const moves = {
        ArrowRight: () => step(1, 0), ArrowLeft: () => step(-1, 0), ArrowDown: () => step(0, 1), ArrowUp: () => step(0, -1),
        Home: first, End: () => (at ? last() : first()), Escape: () => null,
      };
      if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      load();
      show(moves[event.key](), true);
    });
    document.addEventListener("scroll", () => { if (at) place(); }, { passive: true, capture: true });
  }
})();
