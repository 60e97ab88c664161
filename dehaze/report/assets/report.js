(() => {
  const report = JSON.parse(document.getElementById("report").textContent);
  const entries = report.entries;
  const grid = document.getElementById("grid");

  // A picture's bytes stand further down in this file, and may not have been read yet.
  function source(entry, layer) {
    const holder = document.getElementById(`p${entry}-${layer}`);
    return holder ? `data:image/webp;base64,${holder.textContent}` : null;
  }

  function set(image, address) {
    if (address === null) image.removeAttribute("src");
    else if (image.getAttribute("src") !== address) image.src = address;
  }

  function shown(column, value) {
    return `${(value * column.factor).toFixed(column.digits)}${column.unit}`;
  }

  // One photo: slider, layers, numbers, notes.
  class Card {
    constructor(entry, index) {
      this.entry = entry;
      this.index = index;
      this.layer = 1;
      this.near = false;
      const title = element("button", { type: "button", title: "Show large" }, entry.name);
      const body = element("div", { class: "body" }, element("h2", {}, title));
      this.root = element("article", {}, body);
      if (entry.layers.length > 1) {
        this.compare = new Compare(`Boundary between before and after of ${entry.name}`);
        if (entry.size) this.compare.shape(...entry.size);
        this.root.prepend(this.compare.root);
        this.buttons = layerButtons(entry, (layer) => this.choose(layer));
        if (entry.layers.length > 2) body.append(this.buttons.root);
        title.addEventListener("click", () => large.open(this.index, this.layer));
        this.choose(1);
      } else {
        title.disabled = true;
      }
      const numbers = element("div", { class: "numbers" });
      for (const column of report.columns) {
        const value = entry.values[column.key];
        if (value === undefined) continue;
        numbers.append(element("span", { title: column.explanation },
          `${column.name} `, element("b", {}, shown(column, value))));
      }
      if (entry.size) numbers.append(element("span", {}, `${entry.size[0]} × ${entry.size[1]}`));
      if (entry.status === "kept") numbers.append(element("span", {}, "kept from an earlier run"));
      if (numbers.childElementCount) body.append(numbers);
      if (entry.error) body.append(element("p", { class: "error" }, entry.error));
      for (const note of entry.notes) body.append(element("p", { class: "note" }, note));
    }

    choose(layer) {
      this.layer = layer;
      this.buttons.press(layer);
      this.compare.names(this.entry.layers[0], this.entry.layers[layer]);
      this.paint();
    }

    paint() {
      if (!this.compare) return;
      set(this.compare.left, this.near ? source(this.index, 0) : null);
      set(this.compare.right, this.near ? source(this.index, this.layer) : null);
    }

    look(near) {
      if (near === this.near) return;
      this.near = near;
      this.paint();
    }
  }

  function layerButtons(entry, chosen) {
    const root = element("div", { class: "layers", role: "group", "aria-label": "Right side" });
    entry.layers.slice(1).forEach((name, i) => {
      const button = element("button", { type: "button" }, name);
      button.addEventListener("click", () => chosen(i + 1));
      root.append(button);
    });
    return {
      root,
      press(layer) {
        [...root.children].forEach((button, i) =>
          button.setAttribute("aria-pressed", String(i + 1 === layer)));
      },
    };
  }

  // The large view: the files themselves where they lie beside the report and a browser reads
  // them, the pictures inside this file otherwise.
  const large = {
    dialog: document.getElementById("large"),
    open(index, layer) {
      this.index = index;
      this.show(layer);
      if (!this.dialog.open) this.dialog.showModal();
    },
    show(layer) {
      const entry = entries[this.index];
      this.layer = Math.min(layer, entry.layers.length - 1);
      const at = this.compare ? this.compare.slider.value : 50;
      this.compare = new Compare();
      this.compare.slider.value = at;
      this.compare.place(at);
      this.compare.names(entry.layers[0], entry.layers[this.layer]);
      this.fill(this.compare.left, 0);
      this.fill(this.compare.right, this.layer);
      const buttons = layerButtons(entry, (chosen) => this.show(chosen));
      buttons.press(this.layer);
      const step = (text, label, by) => {
        const button = element("button", { type: "button", title: label, "aria-label": label }, text);
        button.addEventListener("click", () => this.move(by));
        return button;
      };
      const close = element("button", { type: "button" }, "Close");
      close.addEventListener("click", () => this.dialog.close());
      this.dialog.replaceChildren(element("div", { class: "stage" },
        element("div", { class: "top" }, element("b", {}, entry.name), buttons.root,
          step("‹", "Previous photo", -1), step("›", "Next photo", 1), close),
        this.compare.root));
      close.focus();
    },
    fill(image, layer) {
      const entry = entries[this.index];
      const small = source(this.index, layer);
      const file = entry.files[entry.layers[layer]];
      set(image, small);
      if (!file) return;
      const whole = new Image();
      whole.addEventListener("load", () => { image.src = whole.src; });
      whole.src = file;
    },
    move(by) {
      const visible = order.filter((card) => !card.root.hidden && card.compare);
      const here = visible.findIndex((card) => card.index === this.index);
      const next = visible[(here + by + visible.length) % visible.length];
      if (next) {
        this.index = next.index;
        this.show(this.layer);
      }
    },
  };
  large.dialog.addEventListener("keydown", (event) => {
    if (event.target.type === "range") return;
    if (event.key === "ArrowLeft") large.move(-1);
    if (event.key === "ArrowRight") large.move(1);
  });

  const cards = entries.map((entry, index) => new Card(entry, index));
  let order = [];

  // Pictures far out of sight are let go again: a thousand photos need the memory of a screen.
  const observer = new IntersectionObserver((changes) => {
    for (const change of changes) byRoot.get(change.target).look(change.isIntersecting);
  }, { rootMargin: "800px 0px" });
  const byRoot = new Map(cards.map((card) => [card.root, card]));
  cards.forEach((card) => observer.observe(card.root));
  document.addEventListener("DOMContentLoaded", () => cards.forEach((card) => card.paint()));

  const rank = (entry) => (entry.error ? 0 : entry.notes.length ? 1 : 2);
  const byName = (a, b) => a.entry.name.localeCompare(b.entry.name, undefined, { numeric: true });
  const sorts = [
    ["failures first", (a, b) => rank(a.entry) - rank(b.entry) || a.index - b.index],
    ["name", byName],
  ];
  for (const column of report.columns) {
    if (!entries.some((entry) => column.key in entry.values)) continue;
    const value = (card, missing) => card.entry.values[column.key] ?? missing;
    sorts.push([`${column.name}, highest first`,
      (a, b) => value(b, -Infinity) - value(a, -Infinity) || byName(a, b)]);
    sorts.push([`${column.name}, lowest first`,
      (a, b) => value(a, Infinity) - value(b, Infinity) || byName(a, b)]);
  }
  const filters = [
    ["All", () => true],
    ["Failed", (entry) => entry.error !== null],
    ["With notes", (entry) => entry.notes.length > 0],
    ["Kept", (entry) => entry.status === "kept"],
  ].filter(([name, fits], i) => i === 0 || entries.some(fits));

  const search = element("input", { type: "search", placeholder: "Name or note", "aria-label": "Search" });
  const sorting = element("select", { "aria-label": "Sort by" },
    ...sorts.map(([name], i) => element("option", { value: i }, name)));
  const chips = element("div", { class: "chips", role: "group", "aria-label": "Show" });
  const count = element("span", { id: "count", role: "status" });
  let chosen = 0;
  filters.forEach(([name, fits], i) => {
    const chip = element("button", { type: "button" }, `${name} ${entries.filter(fits).length}`);
    chip.addEventListener("click", () => { chosen = i; apply(); });
    chips.append(chip);
  });
  document.getElementById("tools").append(chips, search, sorting, count);

  function apply() {
    const text = search.value.trim().toLowerCase();
    let visible = 0;
    for (const card of cards) {
      const { name, notes, error } = card.entry;
      const words = [name, error || "", ...notes].join("\n").toLowerCase();
      const fits = filters[chosen][1](card.entry) && words.includes(text);
      card.root.hidden = !fits;
      visible += fits;
    }
    [...chips.children].forEach((chip, i) => chip.setAttribute("aria-pressed", String(i === chosen)));
    count.textContent = `${visible} of ${cards.length}`;
    document.getElementById("nothing").hidden = visible > 0;
  }

  function sort() {
    order = [...cards].sort(sorts[sorting.value][1]);
    grid.append(...order.map((card) => card.root));
  }
  search.addEventListener("input", apply);
  sorting.addEventListener("change", sort);

  const head = document.getElementById("head");
  head.append(element("h1", {}, report.title), element("p", { class: "summary" }, report.summary));
  if (report.table.length) {
    const row = (cells, tag) => element("tr", {}, ...cells.map((cell) => element(tag, {}, cell)));
    const [headings, ...rows] = report.table;
    head.append(element("div", { class: "scroll" }, element("table", {},
      element("thead", {}, row(headings, "th")),
      element("tbody", {}, ...rows.map((cells) => row(cells, "td"))))));
  }
  if (report.settings.length) {
    const list = element("dl", { class: "settings" });
    for (const [name, value] of report.settings) {
      list.append(element("dt", {}, name), element("dd", {}, value));
    }
    head.append(element("details", {}, element("summary", {}, "Settings"), list));
  }
  sort();
  apply();
})();
