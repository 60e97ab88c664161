"use strict";

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") made.className = value;
    else if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// Two pictures in one place, the left one up to the slider, the right one from there on.
class Compare {
  constructor(label) {
    this.left = element("img", { class: "left", alt: "" });
    this.right = element("img", { class: "right", alt: "" });
    this.slider = element("input", {
      type: "range", min: 0, max: 100, step: "any", value: 50,
      "aria-label": label || "Boundary between before and after",
    });
    this.before = element("span", { class: "tag before" });
    this.after = element("span", { class: "tag after" });
    this.root = element("figure", { class: "compare" }, this.left, this.right,
      element("div", { class: "bar" }), this.before, this.after, this.slider);
    this.slider.addEventListener("input", () => this.place(this.slider.value));
    // A click anywhere moves the boundary there, and a drag goes on from it.
    const follow = (event) => {
      const box = this.root.getBoundingClientRect();
      const at = 100 * (event.clientX - box.left) / Math.max(1, box.width);
      this.slider.value = Math.min(100, Math.max(0, at));
      this.place(this.slider.value);
    };
    this.slider.addEventListener("pointerdown", (event) => {
      follow(event);
      event.preventDefault();
      this.slider.focus({ preventScroll: true });
      this.slider.setPointerCapture(event.pointerId);
    });
    this.slider.addEventListener("pointermove", (event) => {
      if (event.buttons) follow(event);
    });
  }

  place(percent) {
    this.root.style.setProperty("--at", `${percent}%`);
  }

  // The box has the pictures' shape before they are there: nothing jumps.
  shape(width, height) {
    this.root.style.aspectRatio = `${width} / ${height}`;
  }

  names(left, right) {
    this.before.textContent = left;
    this.after.textContent = right;
    this.left.alt = left;
    this.right.alt = right;
  }
}
