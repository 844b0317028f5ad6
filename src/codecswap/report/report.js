"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const data = JSON.parse(byId("data").textContent);
  const root = document.documentElement;
  const viewer = byId("viewer");

  // What a reload keeps. Storage may be refused (private windows): then a reload starts afresh.
  const KEY = "codecswap-report";
  const state = { language: null, picture: 0, time: null, mode: "wipe", reference: "original", zoom: 0, x: 0.5, y: 0.5, wipe: 50, refresh: true };
  try { Object.assign(state, JSON.parse(sessionStorage.getItem(KEY) || "{}")); } catch { /* afresh */ }
  const save = () => { try { sessionStorage.setItem(KEY, JSON.stringify({ ...state, scroll: scrollY })); } catch { /* afresh */ } };

  const translate = (key, values = {}) => data.texts[state.language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);

  // ---- language
  function speak(language) {
    state.language = root.lang = language;
    for (const element of all("[data-into]")) {
      const said = element.dataset[language];
      if (element.dataset.into === "text") element.textContent = said;
      else element.setAttribute(element.dataset.into, said);
    }
    for (const button of all("[data-language]")) button.setAttribute("aria-pressed", button.dataset.language === language);
    if (viewer) render();
  }
  for (const button of all("[data-language]")) button.addEventListener("click", () => { speak(button.dataset.language); save(); });
  for (const image of all("img[data-store]")) image.src = data.uris[image.dataset.store];

  // ---- a watched run: read the file again, but not under someone's hands
  let touched = 0;
  for (const kind of ["pointerdown", "pointermove", "keydown", "wheel"]) addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
  const refresh = byId("refresh");
  if (refresh) {
    refresh.checked = state.refresh;
    refresh.addEventListener("change", () => { state.refresh = refresh.checked; save(); });
    const seconds = Number(document.body.dataset.refresh);
    const opened = Date.now();
    setInterval(() => {
      const now = Date.now();
      if (refresh.checked && now - opened > seconds * 1000 && now - touched > 3000 && !document.hidden) { save(); location.reload(); }
    }, 1000);
  }
  addEventListener("pagehide", save);

  if (!viewer) { start(); return; }

  // ---- what is shown
  const windows = all(".window", viewer);
  const time = byId("time"), wipe = byId("wipe"), map = byId("map");
  const picture = () => data.pictures[state.picture];
  const frame = () => picture().frames[state.time];
  const first = () => picture().frames[0];
  const sources = () => ({ original: picture().original, teacher: picture().teacher, start: picture().frames.length > 1 ? first().picture : null, student: frame().picture });
  const decibels = (value) => (value === null || value === undefined ? "" : " " + translate("decibels", { value: value.toFixed(2) }));

  function moment(shown) {
    if (shown.run === null) return translate("best");
    const values = { tag: shown.tag, stage: translate(data.stages[shown.run]), epochs: shown.epochs };
    return translate(shown.tag.startsWith("pre_") ? (shown.epochs ? "resumed" : "before") : "after", values);
  }

  function choose(index) {
    const last = picture() && state.time === picture().frames.length - 1;
    state.picture = index;
    state.time = last ? picture().frames.length - 1 : Math.min(state.time, picture().frames.length - 1);
    state.x = state.y = 0.5;
    render();
  }

  function caption(role) {
    if (role === "student") return `${translate("student")}${decibels(frame().psnr)}`;
    if (role === "teacher") return `${translate("teacher")}${decibels(picture().teacher_psnr)}`;
    if (role === "start") return `${translate("start")}${decibels(first().psnr)}`;
    return translate("original");
  }

  function render() {
    const there = sources();
    if (there[state.reference] === null) state.reference = ["original", "teacher", "start"].find((role) => there[role] !== null) || "student";
    const shown = { ...there, reference: there[state.reference] };
    for (const image of all("img[data-role]", viewer)) {
      const place = shown[image.dataset.role];
      image.hidden = place === null;
      if (place !== null && image.dataset.place !== String(place)) { image.src = data.uris[place]; image.dataset.place = place; }
      image.alt = `${picture().name}: ${caption(image.dataset.role === "reference" ? state.reference : image.dataset.role)}`;
    }
    for (const label of all("[data-caption]", viewer)) {
      const role = label.dataset.caption;
      const names = { student: translate("student"), reference: translate(state.reference) };
      label.textContent = role === "difference" ? translate("difference", names) : caption(role === "reference" ? state.reference : role);
    }
    for (const pane of all("[data-pane]", viewer)) {
      pane.hidden = there[pane.dataset.pane] === null;
      pane.classList.toggle("unused", pane.dataset.pane !== "student" && pane.dataset.pane !== state.reference);
    }
    for (const radio of all("input[type=radio]", viewer)) {
      radio.checked = state[radio.name] === radio.value;
      if (radio.name === "reference") radio.disabled = there[radio.value] === null;
    }
    for (const [index, button] of [...byId("thumbs").children].entries()) {
      button.setAttribute("aria-pressed", index === state.picture);
      button.setAttribute("aria-label", translate("picture", { number: index + 1, name: data.pictures[index].name }) + (data.pictures[index].worst ? ` (${translate("worst")})` : ""));
      const mark = button.querySelector("small");
      if (mark) mark.textContent = translate("worst");
    }
    viewer.dataset.mode = state.mode;
    time.max = picture().frames.length - 1;
    time.disabled = picture().frames.length < 2;
    time.value = state.time;
    const said = moment(frame()) + (frame().psnr === null ? "" : ` ·${decibels(frame().psnr)}`);
    byId("now").textContent = said;
    time.setAttribute("aria-valuetext", said);
    wipe.setAttribute("aria-valuenow", Math.round(state.wipe));
    wipe.setAttribute("aria-valuetext", translate("wipe", { value: Math.round(state.wipe), left: translate(state.reference), right: translate("student") }));
    viewer.style.setProperty("--at", `${state.wipe}%`);
    place();
    if (state.mode === "difference") difference(shown.reference, shown.student);
    save();
  }

  // ---- zoom and pan: one center and one scale for all windows. zoom 0 fits, else it is CSS pixels for a picture's pixel
  const open = () => windows.find((element) => element.offsetWidth) || windows[0];
  const fitted = () => open().clientWidth / picture().size[0];
  const scale = () => state.zoom || fitted();

  function place() {
    const [width, height] = picture().size;
    const half = Math.min(0.5, fitted() / scale() / 2);
    state.x = Math.min(1 - half, Math.max(half, state.x));
    state.y = Math.min(1 - half, Math.max(half, state.y));
    const s = scale();
    for (const element of windows) {
      element.style.aspectRatio = `${width} / ${height}`;
      element.classList.toggle("zoomed", state.zoom > 0);
      const left = element.clientWidth / 2 - state.x * width * s, top = element.clientHeight / 2 - state.y * height * s;
      for (const layer of all("img, canvas", element)) {
        layer.style.width = `${width * s}px`;
        layer.style.height = `${height * s}px`;
        layer.style.transform = `translate(${left}px, ${top}px)`;
      }
    }
    byId("scale").textContent = `${Number(s.toFixed(1))}×`;
    byId("out").disabled = byId("fit").disabled = !state.zoom;
    byId("in").disabled = s >= 32;
  }

  /** Zoom, keeping the picture's point under (x, y), given as shares of the window, where it is. */
  function zoomTo(value, x = 0.5, y = 0.5) {
    const before = scale(), fit = fitted();
    state.zoom = value <= fit ? 0 : Math.min(32, value);
    const change = fit / before - fit / scale();
    state.x += (x - 0.5) * change;
    state.y += (y - 0.5) * change;
    place();
    save();
  }
  const closer = (x, y) => zoomTo(2 ** (Math.floor(Math.log2(scale()) + 1e-6) + 1), x, y);
  const further = (x, y) => zoomTo(2 ** (Math.ceil(Math.log2(scale()) - 1e-6) - 1), x, y);

  function pan(dx, dy) {  // CSS pixels
    state.x -= dx / (scale() * picture().size[0]);
    state.y -= dy / (scale() * picture().size[1]);
    place();
  }

  function setWipe(percent) {
    state.wipe = Math.min(100, Math.max(0, percent));
    viewer.style.setProperty("--at", `${state.wipe}%`);
    wipe.setAttribute("aria-valuenow", Math.round(state.wipe));
    wipe.setAttribute("aria-valuetext", translate("wipe", { value: Math.round(state.wipe), left: translate(state.reference), right: translate("student") }));
  }

  const at = (event, element) => {
    const box = element.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };

  for (const element of windows) {
    const fingers = new Map();
    let wiping = false;
    element.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      fingers.set(event.pointerId, event);
      wiping = event.target === wipe || (!state.zoom && state.mode === "wipe");
      element.setPointerCapture(event.pointerId);
      if (wiping && event.target !== wipe) setWipe(100 * at(event, element)[0]);
    });
    element.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      if (fingers.size === 2) {
        const other = [...fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
        const apart = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
        zoomTo(scale() * apart(event) / Math.max(1, apart(before)), ...at(event, element));
      } else if (wiping) setWipe(100 * at(event, element)[0]);
      else pan(event.clientX - before.clientX, event.clientY - before.clientY);
      fingers.set(event.pointerId, event);
    });
    for (const kind of ["pointerup", "pointercancel"]) element.addEventListener(kind, (event) => { fingers.delete(event.pointerId); save(); });
    element.addEventListener("dblclick", (event) => { if (event.target !== wipe) closer(...at(event, element)); });
    element.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      (event.deltaY < 0 ? closer : further)(...at(event, element));
    }, { passive: false });
    element.addEventListener("keydown", (event) => {
      if (event.target !== element) return;
      const step = element.clientWidth / 10;
      const keys = {
        ArrowLeft: () => pan(step, 0), ArrowRight: () => pan(-step, 0), ArrowUp: () => pan(0, step), ArrowDown: () => pan(0, -step),
        "+": () => closer(), "=": () => closer(), "-": () => further(), 0: () => zoomTo(0),
      };
      const arrow = event.key.startsWith("Arrow");
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey || (arrow && !state.zoom)) return;
      event.preventDefault();
      keys[event.key]();
      save();
    });
  }
  wipe.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 10 : 1;
    const to = {
      ArrowLeft: state.wipe - step, ArrowDown: state.wipe - step, ArrowRight: state.wipe + step, ArrowUp: state.wipe + step,
      PageDown: state.wipe - 10, PageUp: state.wipe + 10, Home: 0, End: 100,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    setWipe(to);
    save();
  });

  // ---- the difference, from the lossless pictures themselves
  const decoded = new Map();
  async function pixels(place) {
    if (!decoded.has(place)) {
      const image = new Image();
      image.src = data.uris[place];
      await image.decode();
      const canvas = Object.assign(document.createElement("canvas"), { width: image.naturalWidth, height: image.naturalHeight });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      if (decoded.size > 8) decoded.clear();
      decoded.set(place, context.getImageData(0, 0, canvas.width, canvas.height));
    }
    return decoded.get(place);
  }

  let wanted = 0;
  async function difference(reference, student) {
    const mine = ++wanted;
    const [a, b] = await Promise.all([pixels(reference), pixels(student)]);
    if (mine !== wanted) return;
    const result = new ImageData(a.width, a.height);
    let sum = 0, largest = 0;
    for (let i = 0; i < a.data.length; i++) {
      const apart = Math.abs(a.data[i] - b.data[i]);
      result.data[i] = i % 4 === 3 ? 255 : 10 * apart;  // clamped to 255
      sum += apart;
      largest = Math.max(largest, apart);
    }
    map.width = a.width;
    map.height = a.height;
    map.getContext("2d").putImageData(result, 0, 0);
    map.dataset.of = `${reference}-${student}`;
    byId("spread").textContent = translate("spread", { mean: (sum / (a.width * a.height * 3)).toFixed(2), largest });
  }

  // ---- controls
  for (const [index, entry] of data.pictures.entries()) {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    const place = entry.original ?? entry.teacher ?? entry.frames.at(-1).picture;
    button.append(Object.assign(new Image(), { src: data.uris[place], alt: "" }));
    if (entry.worst) button.append(document.createElement("small"));
    button.addEventListener("click", () => choose(index));
    byId("thumbs").append(button);
  }
  for (const radio of all("input[type=radio]", viewer)) radio.addEventListener("change", () => { state[radio.name] = radio.value; render(); });
  time.addEventListener("input", () => { state.time = Number(time.value); render(); });
  byId("in").addEventListener("click", () => closer());
  byId("out").addEventListener("click", () => further());
  byId("fit").addEventListener("click", () => zoomTo(0));
  for (const button of all("[data-open]")) {
    button.addEventListener("click", () => {
      choose(Number(button.dataset.open));
      viewer.scrollIntoView({ block: "start" });
      byId("thumbs").children[state.picture].focus({ preventScroll: true });
    });
  }
  new ResizeObserver(place).observe(viewer);

  // ---- begin; a picture or a time that is no longer there gives way to the nearest
  state.picture = Math.min(state.picture, data.pictures.length - 1);
  const end = picture().frames.length - 1;
  state.time = state.time === null ? end : Math.min(state.time, end);
  viewer.hidden = false;
  start();

  function start() {
    speak(state.language || (navigator.language.startsWith("ja") ? "ja" : "en"));
    if (state.scroll) scrollTo(0, state.scroll);
  }
})();
