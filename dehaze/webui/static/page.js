(() => {
  "use strict";
  const by = (id) => document.getElementById(id);
  const DEFAULTS = { strength: 1, exposure: 0, word: "" };
  const KEPT = 16;
  const RETRY_SECONDS = 2;
  const photos = [];
  let server = null;
  let current = null;
  let layer = "result";
  let exporting = null;

  // --- talking to the server ---------------------------------------------------------------

  class Failure extends Error {
    constructor(cause, cure) {
      super(cure ? `${cause}; ${cure}` : cause);
      this.cause = cause;
      this.cure = cure || "";
    }
  }

  class Unreachable extends Failure {}

  const seconds = (count) => new Promise((done) => setTimeout(done, 1000 * count));

  async function ask(address, options = {}) {
    let answer;
    try {
      answer = await fetch(address, options);
    } catch (error) {
      throw new Unreachable("the server cannot be reached", "see whether it is still running");
    }
    if (answer.status === 503) {
      await seconds(answer.headers.get("Retry-After") || RETRY_SECONDS);
      return ask(address, options);
    }
    if (!answer.ok) {
      const said = await answer.json().catch(() => ({}));
      throw new Failure(said.error || `the server answered ${answer.status}`, said.cure);
    }
    return answer;
  }

  function sendJson(address, content) {
    return ask(address, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content),
    });
  }

  const place = (photo) => `/page/tabs/${server.tab}/photos/${photo.key}`;

  function query(settings) {
    const fields = new URLSearchParams({ strength: settings.strength, exposure: settings.exposure });
    if (settings.word) fields.set("word", settings.word);
    return fields;
  }

  // --- messages and progress ---------------------------------------------------------------

  // A kind is "error", or "note" where nothing went wrong.
  function say(text, kind = "error") {
    const close = element("button", { type: "button", "aria-label": "Dismiss" }, "×");
    const line = element("p", { class: kind }, text, close);
    close.addEventListener("click", () => line.remove());
    by("messages").append(line);
    while (by("messages").childElementCount > 4) by("messages").firstChild.remove();
  }

  function timeLeft(seconds) {
    if (seconds === null || !isFinite(seconds)) return "";
    if (seconds < 90) return `, about ${Math.max(1, Math.round(seconds))} s left`;
    return `, about ${Math.round(seconds / 60)} min left`;
  }

  function progress(text, share) {
    by("progress").hidden = text === null;
    if (text === null) return;
    by("progress").querySelector("span").textContent = text;
    by("progress").querySelector("progress").value = share;
  }

  // --- photos come in ----------------------------------------------------------------------

  class Photo {
    constructor(name, file) {
      this.name = name;
      this.file = file;
      this.key = null;
      this.state = "waiting";
      this.error = null;
      this.settings = { ...DEFAULTS };
      this.pictures = new Map();
      this.numbers = {};
      this.picture = element("span", { class: "picture" }, "…");
      this.root = element("button", { type: "button", title: name }, this.picture,
        element("span", { class: "label" }, name));
      this.root.addEventListener("click", () => select(this));
    }

    fail(error) {
      this.state = "failed";
      this.error = error;
      this.root.classList.add("failed");
      this.root.title = error.message;
      this.picture.textContent = "failed";
    }

    // A small picture for the strip; the large ones are let go.
    async thumb(blob) {
      const bitmap = await createImageBitmap(blob, { resizeWidth: 192, resizeQuality: "medium" });
      const canvas = element("canvas", { width: bitmap.width, height: bitmap.height });
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
      canvas.className = "picture";
      bitmap.close();
      this.picture.replaceWith(canvas);
      this.picture = canvas;
    }

    forget() {
      for (const picture of this.pictures.values()) URL.revokeObjectURL(picture.address);
      this.pictures.clear();
    }
  }

  function add(photo) {
    photos.push(photo);
    by("strip").append(photo.root);
    if (current === null) select(photo);
    buttons();
  }

  function addFiles(files) {
    for (const file of files) {
      const suffix = file.name.toLowerCase().replace(/^.*(\.[^.]*)$/, "$1");
      if (file.name.startsWith(".") || (!file.type.startsWith("image/") && !server.suffixes.includes(suffix))) {
        say(`${file.name}: is no photo that can be read; ${server.suffixes.join(", ")} are`);
      } else if (file.size > server.max_bytes) {
        say(`${file.name}: has more than ${server.max_bytes / 1e6} MB; send a smaller one`);
      } else {
        add(new Photo(file.name, file));
      }
    }
    work();
  }

  async function addFolder(path) {
    try {
      const found = await (await sendJson(`/page/tabs/${server.tab}/folder`, { path })).json();
      for (const { key, name } of found) {
        const photo = new Photo(name, null);
        photo.key = key;
        add(photo);
      }
      work();
    } catch (error) {
      say(error.message);
    }
  }

  // --- each photo is uploaded and looked at, the one in view first --------------------------

  let working = false;
  const paces = [];

  async function work() {
    if (working) return;
    working = true;
    for (;;) {
      if (exporting) break;
      const photo = current && current.state === "waiting" ? current
        : photos.find((one) => one.state === "waiting");
      if (!photo) break;
      report();
      const started = performance.now();
      if (await prepare(photo)) {
        paces.push((performance.now() - started) / 1000);
        if (paces.length > 8) paces.shift();
      } else {
        progress("The server cannot be reached. Trying again …", 0);
        await seconds(RETRY_SECONDS);
      }
    }
    working = false;
    report();
  }

  function report() {
    if (exporting) return;
    const left = photos.filter((photo) => photo.state === "waiting" || photo.state === "working").length;
    if (!left) { progress(null); return; }
    const pace = paces.length ? paces.reduce((sum, pace) => sum + pace, 0) / paces.length : null;
    const ready = photos.length - left;
    progress(`${ready} of ${photos.length} ready${timeLeft(pace === null ? null : pace * left)}`,
      ready / photos.length);
  }

  // Whether the server could be reached.
  async function prepare(photo) {
    photo.state = "working";
    show();
    try {
      if (photo.key === null) {
        const answer = await ask(`/page/tabs/${server.tab}/photos`, {
          method: "POST", headers: { "Photo-Name": encodeURIComponent(photo.name) }, body: photo.file,
        });
        Object.assign(photo, await answer.json());
        photo.file = null;
      }
      const before = await picture(photo, "photo");
      photo.size = [before.width, before.height];
      if (photo === current) show();
      const after = await picture(photo, "result", photo === current);
      await photo.thumb(after.blob);
      photo.state = "ready";
    } catch (error) {
      if (error instanceof Unreachable) {
        photo.state = "waiting";
        return false;
      }
      if (photos.includes(photo)) photo.fail(error);
    }
    if (photo === current) show();
    buttons();
    tidy();
    return true;
  }

  // A picture of a photo under its settings: from memory, or from the server.
  async function picture(photo, which, urgent = false) {
    const wanted = which === "photo" ? "photo" : `${which}?${query(photo.settings)}`;
    const known = photo.pictures.get(wanted);
    if (known) return known;
    const address = which === "photo" ? `${place(photo)}/photo`
      : `${place(photo)}/seen/${which}?${query(photo.settings)}${urgent ? "&urgent=true" : ""}`;
    const answer = await ask(address);
    const blob = await answer.blob();
    const bitmap = await createImageBitmap(blob);
    const found = {
      blob, address: URL.createObjectURL(blob), width: bitmap.width, height: bitmap.height,
      density: number(answer, "Dehaze-Density"), lightness: number(answer, "Dehaze-Lightness"),
      settings: { ...photo.settings },
    };
    bitmap.close();
    photo.pictures.set(wanted, found);
    return found;
  }

  function number(answer, header) {
    const value = answer.headers.get(header);
    return value === null ? null : Number(value);
  }

  let recent = [];
  function tidy() {
    if (current) recent = [current, ...recent.filter((photo) => photo !== current)].slice(0, KEPT);
    for (const photo of photos) if (!recent.includes(photo)) photo.forget();
    // Of the photo in view, the pictures of a long drag along the slider.
    if (current && current.pictures.size > 40) {
      for (const [wanted, found] of [...current.pictures].slice(1, 20)) {
        if (found.address === compare.right.src) continue;
        URL.revokeObjectURL(found.address);
        current.pictures.delete(wanted);
      }
    }
  }

  // --- the photo in view -------------------------------------------------------------------

  const compare = new Compare();
  by("view").append(compare.root);

  function select(photo) {
    if (current) current.root.removeAttribute("aria-current");
    current = photo;
    by("controls").hidden = photo === null;
    // What was said of the photo before.
    by("numbers").textContent = "";
    by("problem").hidden = true;
    if (photo) {
      photo.root.setAttribute("aria-current", "true");
      photo.root.scrollIntoView({ block: "nearest", inline: "nearest" });
      by("name").textContent = photo.name;
      fields();
      tidy();
    }
    show();
    refresh();
  }

  function fields() {
    by("strength").value = current.settings.strength;
    by("exposure").value = current.settings.exposure;
    by("word").value = current.settings.word || server.word;
    outputs();
  }

  function outputs() {
    by("strength-shown").textContent = `${Math.round(by("strength").value * 100)} %`;
    const exposure = Number(by("exposure").value);
    by("exposure-shown").textContent = exposure === 0 ? "as the scene is"
      : exposure === 1 ? "as light as the photo" : `${Math.round(exposure * 100)} %`;
  }

  function show() {
    const photo = current;
    const before = photo && photo.pictures.get("photo");
    by("empty").hidden = photo !== null;
    by("broken").hidden = !(photo && photo.state === "failed");
    by("view").hidden = !before || photo.state === "failed";
    by("busy").hidden = !(photo && (photo.state === "waiting" || photo.state === "working" || refreshing));
    for (const id of ["strength", "exposure", "word", "one", "reset", "same"]) {
      by(id).disabled = !photo || photo.state === "failed";
    }
    for (const button of by("layers").children) {
      button.setAttribute("aria-pressed", String(button.dataset.layer === layer));
      button.disabled = !photo || photo.state === "failed";
    }
    if (!photo) return;
    if (photo.state === "failed") {
      const [big, cause, cure] = by("broken").children;
      big.textContent = photo.name;
      cause.textContent = photo.error.cause || photo.error.message;
      cure.textContent = photo.error.cure || "";
      return;
    }
    if (!before) return;
    compare.left.src = before.address;
    const after = photo.pictures.get(`${layer}?${query(photo.settings)}`);
    const names = { result: "result", attention: "haze attention", transmission: "transmission" };
    compare.names("photo", after || photo.shown ? names[layer] : "…");
    if (after) {
      photo.shown = { picture: after, layer };
      compare.right.src = after.address;
      compare.right.style.opacity = 1;
      numbers(after);
    } else if (photo.shown && photo.shown.layer === layer && layer === "result") {
      // At once: what is there, faded towards the photo. The exact picture follows.
      compare.right.src = photo.shown.picture.address;
      const from = photo.shown.picture.settings.strength;
      compare.right.style.opacity = from > 0 ? Math.min(1, photo.settings.strength / from) : 1;
    } else {
      compare.right.src = before.address;
    }
  }

  function numbers(picture) {
    const parts = [];
    if (picture.density !== null) parts.push(`haze ${Math.round(100 * picture.density)} %`);
    if (picture.lightness !== null) {
      parts.push(`${Math.round(100 * picture.lightness)} % as light as the photo`);
    }
    by("numbers").textContent = parts.join(", ");
  }

  // The latest settings win: one request at a time, and then the next for what is wanted by then.
  let refreshing = false;
  async function refresh() {
    if (refreshing) return;
    refreshing = true;
    for (;;) {
      const photo = current;
      if (!photo || photo.state !== "ready") break;
      const wanted = `${layer}?${query(photo.settings)}`;
      if (photo.pictures.has("photo") && photo.pictures.has(wanted)) break;
      show();
      try {
        await picture(photo, "photo");
        await picture(photo, layer, true);
        by("problem").hidden = true;
      } catch (error) {
        if (photo === current && wanted === `${layer}?${query(photo.settings)}`) {
          by("problem").textContent = error.message;
          by("problem").hidden = false;
          break;
        }
      }
    }
    refreshing = false;
    show();
    tidy();
  }

  function changed() {
    const word = by("word").value.trim();
    current.settings = {
      strength: Number(by("strength").value),
      exposure: Number(by("exposure").value),
      word: word === server.word ? "" : word,
    };
    by("problem").hidden = true;
    outputs();
    show();
    refresh();
  }
  by("strength").addEventListener("input", changed);
  by("exposure").addEventListener("input", changed);
  by("word").addEventListener("change", changed);
  by("reset").addEventListener("click", () => { current.settings = { ...DEFAULTS }; fields(); changed(); });
  by("same").addEventListener("click", () => {
    for (const photo of photos) photo.settings = { ...current.settings };
    say(`All ${photos.length} photos have these settings now.`, "note");
  });
  for (const button of by("layers").children) {
    button.addEventListener("click", () => { layer = button.dataset.layer; show(); refresh(); });
  }
  by("remove").addEventListener("click", async () => {
    const photo = current;
    const at = photos.indexOf(photo);
    photos.splice(at, 1);
    photo.root.remove();
    photo.forget();
    select(photos[Math.min(at, photos.length - 1)] || null);
    buttons();
    report();
    if (photo.key) await ask(`${place(photo)}/remove`, { method: "POST" }).catch((error) => say(error.message));
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, textarea") || document.querySelector("dialog[open]")) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const next = by && photos[photos.indexOf(current) + by];
    if (!next) return;
    const moved = current.root === document.activeElement;
    select(next);
    if (moved) next.root.focus();
  });

  // --- downloads ---------------------------------------------------------------------------

  const hasFailed = (photo) => photo.state === "failed";

  function buttons() {
    const failed = photos.filter(hasFailed).length;
    by("failed").hidden = failed === 0;
    by("failed").textContent = `${failed} failed`;
    const usable = photos.filter((photo) => photo.key && !hasFailed(photo)).length;
    by("all").disabled = exporting !== null || usable === 0;
    by("all").textContent = usable > 1 ? `Download all ${usable}` : "Download all";
  }

  // The next one that failed, after the photo in view.
  by("failed").addEventListener("click", () => {
    const at = photos.indexOf(current) + 1;
    select([...photos.slice(at), ...photos.slice(0, at)].find(hasFailed));
  });

  function save(address, name) {
    const link = element("a", { href: address, download: name });
    document.body.append(link);
    link.click();
    link.remove();
  }

  by("one").addEventListener("click", async () => {
    const photo = current;
    by("one").disabled = true;
    by("one").textContent = "Making it at full size …";
    try {
      const answer = await ask(`${place(photo)}/file?${query(photo.settings)}`);
      const blob = await answer.blob();
      const address = URL.createObjectURL(blob);
      save(address, photo.name);
      setTimeout(() => URL.revokeObjectURL(address), 60000);
      for (const note of JSON.parse(answer.headers.get("Dehaze-Notes") || "[]")) say(`${photo.name}: ${note}`, "note");
    } catch (error) {
      say(`${photo.name}: ${error.message}`);
    }
    by("one").disabled = false;
    by("one").textContent = "Download";
  });

  by("all").addEventListener("click", async () => {
    // Those that failed too: the archive names them, and what was mended since is in it.
    const wanted = photos.filter((photo) => photo.key);
    exporting = wanted;
    buttons();
    progress(`0 of ${wanted.length} done`, 0);
    try {
      const { key } = await (await sendJson(`/page/tabs/${server.tab}/exports`, {
        photos: wanted.map((photo) => ({
          key: photo.key, strength: photo.settings.strength, exposure: photo.settings.exposure,
          word: photo.settings.word || null,
        })),
      })).json();
      const address = `/page/tabs/${server.tab}/exports/${key}`;
      save(`${address}/dehazed.zip`, "dehazed.zip");
      let state;
      do {
        await seconds(0.5);
        state = await (await ask(address)).json();
        const over = state.done + state.failures.length;
        progress(`${over} of ${state.total} done${timeLeft(state.seconds_left)}`, over / state.total);
        if (state.stopped) throw new Failure("the download was broken off", "start it again");
      } while (!state.finished);
      sayOf(state.failures, "photos failed; the archive's NOT DONE.txt names them", "error");
      sayOf(state.notes, "notes on the photos are in the archive's NOTES.txt", "note");
    } catch (error) {
      say(error.message);
    }
    exporting = null;
    buttons();
    report();
    work();
  });

  // One line as it is, several as their number and where they are.
  function sayOf(lines, where, kind) {
    if (lines.length === 1) say(lines[0], kind);
    if (lines.length > 1) say(`${lines.length} ${where}`, kind);
  }

  // --- dropping and choosing ---------------------------------------------------------------

  let over = 0;
  const hasFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  addEventListener("dragenter", (event) => { if (hasFiles(event)) { over += 1; by("drop").hidden = false; } });
  addEventListener("dragleave", (event) => { if (hasFiles(event)) { over -= 1; by("drop").hidden = over <= 0; } });
  addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
  addEventListener("drop", async (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    over = 0;
    by("drop").hidden = true;
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry());
    const loose = [...event.dataTransfer.files];
    if (!entries.some((entry) => entry && entry.isDirectory)) { addFiles(loose); return; }
    for (const entry of entries) if (entry) addFiles(await filesBelow(entry));
  });

  async function filesBelow(entry) {
    if (entry.isFile) return [await new Promise((done, failed) => entry.file(done, failed))];
    const reader = entry.createReader();
    const found = [];
    for (;;) {
      const some = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!some.length) break;
      for (const one of some) found.push(...await filesBelow(one));
    }
    return found.filter((file) => server.suffixes.some((suffix) => file.name.toLowerCase().endsWith(suffix)));
  }

  by("add").addEventListener("click", () => by("files").click());
  by("files").addEventListener("change", () => { addFiles(by("files").files); by("files").value = ""; });
  by("folder").addEventListener("click", () => by("folder-dialog").showModal());
  by("folder-cancel").addEventListener("click", () => by("folder-dialog").close(""));
  by("folder-dialog").addEventListener("close", () => {
    const path = by("folder-path").value.trim();
    if (by("folder-dialog").returnValue === "open" && path) addFolder(path);
    by("folder-dialog").returnValue = "";
  });

  addEventListener("pagehide", () => {
    if (server) navigator.sendBeacon(`/page/tabs/${server.tab}/close`);
  });
  addEventListener("beforeunload", (event) => { if (exporting) event.preventDefault(); });

  async function start() {
    try {
      server = await (await ask("/page/tabs", { method: "POST" })).json();
    } catch (error) {
      say(error.message);
      return;
    }
    by("folder").hidden = !server.may_name_folders;
    by("private").hidden = !server.may_name_folders;
    by("formats").textContent = `Photos: ${server.suffixes.join(" ")}`;
    by("files").accept = server.suffixes.join(",");
    by("word").value = server.word;
  }
  start();
})();
