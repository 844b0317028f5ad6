/* The page: files in, cards out. The codec itself works in worker.js. */
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { codec, words } = data, root = document.documentElement;
  const at = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const word = (key, values = {}) => words[key][root.lang].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const number = (value, digits) => value.toLocaleString(root.lang, { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const stem = (name) => name.replace(/\.[^.]*$/, "").toLowerCase();
  const cards = new Set();

  // ---- variable rate: the gain of pictures that are encoded from now on; even steps of the slider are even ratios
  const rate = at("#gain"), slider = at("input", rate), gains = codec.gains ?? [1];
  const gain = () => gains[0] * (gains.at(-1) / gains[0]) ** (slider.value / 100);
  const gainWord = (value) => word("gain_is", { gain: number(value, 2) });

  function showGain() {
    rate.hidden = !codec.gains || !codec.encoder;
    at("output", rate).textContent = gainWord(gain());
    slider.setAttribute("aria-valuetext", gainWord(gain()));
  }

  slider.addEventListener("input", showGain);

  // ---- language
  let state = { key: "starting" }, warning = null;

  function speak(language) {
    root.lang = language;
    for (const element of all("[data-word]")) element.textContent = word(element.dataset.word);
    for (const element of all("[data-label]")) element.setAttribute("aria-label", word(element.dataset.label));
    for (const button of all("[data-language]")) button.setAttribute("aria-pressed", button.dataset.language === language);
    showGain();
    at("#hint").textContent = word(codec.encoder ? "hint_both" : "hint_decoder");
    list(at("#codec"), [
      ["fact_name", codec.name],
      ["fact_layers", codec.replacement],
      ["fact_channels", `N = ${codec.N}, M = ${codec.M}`],
      ["fact_precision", codec.precision],
      ["fact_tables", codec.tables],
      ["fact_size", codec.fixed && word("fact_size_is", { size: `${codec.factor * codec.tile[1]}×${codec.factor * codec.tile[0]}` })],
      ["fact_runtime", `ONNX Runtime Web ${codec.runtime}`],
    ]);
    tell();
    for (const card of cards) card.render();
    try { localStorage.setItem("codecswap-language", language); } catch { /* a browser that keeps nothing */ }
  }

  function list(into, rows) {
    into.replaceChildren(...rows.filter(([, value]) => value).flatMap(([key, value]) => {
      const term = document.createElement("dt"), description = document.createElement("dd");
      term.textContent = word(key);
      description.textContent = value;
      return [term, description];
    }));
  }

  /* The line that screen readers read out, and the warning. */
  function tell(next = state) {
    state = next;
    at("#state").textContent = typeof state === "function" ? state() : word(state.key, state);
    at("#warning").hidden = !warning;
    at("#warning").textContent = warning ? word(warning.key, warning) : "";
  }

  // ---- the worker: one thing at a time, in order
  const code = URL.createObjectURL(new Blob([data.worker], { type: "text/javascript" }));
  const files = Object.fromEntries(all("[data-file]").map((element) => [element.dataset.file, element.textContent]));
  for (const element of all("[data-file]")) element.remove();
  let worker = null, last = Promise.resolve(), count = 0;

  function ask(message, progress = () => {}) {
    const id = count++;
    return new Promise((resolve, reject) => {
      worker.onerror = (event) => reject({ code: 0, word: "failed", text: event.message ?? "" });
      worker.onmessage = ({ data: answer }) => {
        if (answer.id !== id) return;
        if (answer.result) resolve(answer.result);
        else if (answer.problem) reject(answer.problem);
        else progress(answer.done, answer.total);
      };
      worker.postMessage({ id, ...message });
    });
  }

  /* A worker that has failed, for want of memory for one, is replaced. */
  async function send(message, progress) {
    try {
      if (!worker) {
        worker = new Worker(code);
        await ask({ codec, files });
      }
      return message && await ask(message, progress);
    } catch (problem) {
      if (!problem.code) {
        worker?.terminate();
        worker = null;
      }
      throw problem;
    }
  }

  function enqueue(work) {
    at("#cards").setAttribute("aria-busy", "true");
    const mine = last = last.then(work).then(() => { if (mine === last) at("#cards").setAttribute("aria-busy", "false"); });
  }

  // ---- pictures
  async function pixels(file) {
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    const canvas = document.createElement("canvas");
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    return { width: canvas.width, height: canvas.height, rgba: context.getImageData(0, 0, canvas.width, canvas.height).data };
  }

  function paint(canvas, { rgba, width, height }) {
    canvas.width = width;
    canvas.height = height;
    canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
  }

  /* A file that is decoded, a picture that is encoded and decoded, or both beside each other. */
  class Card {
    constructor(name) {
      Object.assign(this, { name, coded: null, original: null, originalName: "", said: { key: "waiting" }, result: null, bad: false });
      this.element = at("#card").content.firstElementChild.cloneNode(true);
      this.part = (selector) => at(selector, this.element);
      for (const element of all("[data-word]", this.element)) element.textContent = word(element.dataset.word);
      this.part("progress").setAttribute("aria-label", word("progress"));
      this.part(".remove").addEventListener("click", () => this.remove());
      this.part(".actual").addEventListener("click", (event) => {
        const on = this.element.classList.toggle("actual");
        event.currentTarget.setAttribute("aria-pressed", on);
      });
      this.part(".wipe input").addEventListener("input", () => this.render());
      const stack = this.part(".stack");
      stack.addEventListener("pointerdown", (event) => { if (event.button === 0) stack.setPointerCapture(event.pointerId), this.wipe(event); });
      stack.addEventListener("pointermove", (event) => { if (stack.hasPointerCapture(event.pointerId)) this.wipe(event); });
      cards.add(this);
      at("#cards").append(this.element);
      at("#results").hidden = false;
      this.render();
    }

    wipe(event) {
      const box = this.part(".stack").getBoundingClientRect();
      this.part(".wipe input").value = Math.round(100 * (event.clientX - box.left) / box.width);
      this.render();
    }

    remove() {
      const next = this.element.nextElementSibling ?? this.element.previousElementSibling;
      for (const link of all("a[href^=blob]", this.element)) URL.revokeObjectURL(link.href);
      cards.delete(this);
      this.element.remove();
      at("#results").hidden = !cards.size;
      (next ? at(".remove", next) : at("#choose")).focus();
    }

    /* Everything of it that is words. */
    render() {
      const { name, result, said } = this;
      this.part("h3").textContent = name;
      this.part(".remove").setAttribute("aria-label", word("remove_of", { name }));
      this.part(".said").textContent = this.sentence();
      this.element.classList.toggle("bad", this.bad);
      this.part("progress").hidden = !["waiting", "working", "working_at"].includes(said.key);
      this.part(".shown").hidden = this.part(".buttons").hidden = this.part(".facts").hidden = !result;
      if (!result) return;
      const { width, height, fits } = result, wipe = this.part(".wipe input");
      this.element.classList.toggle("paired", Boolean(fits));
      this.element.style.setProperty("--at", `${wipe.value}%`);
      wipe.setAttribute("aria-valuetext", word("wipe_at", { at: wipe.value }));
      this.part(".decoded").setAttribute("aria-label", word("decoded_of", { name, width, height }));
      this.part(".original").setAttribute("aria-label", word("original_of", { name }));
      const scaled = this.part(".decoded").clientWidth < width;
      this.part(".actual").hidden = !scaled && !this.element.classList.contains("actual");
      const bytes = this.bytes.length, seconds = (time) => number(time / 1000, 2);
      const equal = result.psnr === Infinity;
      list(this.part(".facts"), [
        ["size", word("size_is", { width, height })],
        ["rate", word("rate_is", { bytes: number(bytes, 0), bpp: number(8 * bytes / (width * height), 3) })],
        ["gain", codec.gains && number(result.gain, 3)],
        ["psnr", fits && (equal ? word("psnr_equal") : word("psnr_is", { psnr: number(result.psnr, 2) }))],
        ["encoding", result.encoding !== null && word("encoding_is", { time: seconds(result.encoding) })],
        ["time", word("time_is", { time: seconds(result.time), coder: number(result.coder, 1) })],
      ]);
    }

    sentence() {
      const { name, said, original, originalName, result } = this;
      if (this.bad) return word("problem", { name, text: word(said.code ? `csw_${said.code}` : said.word, said) });
      const more = original && result && !result.fits ? word("other_size", { name: originalName, ...original }) : "";
      return [word(said.key, said), more].filter(Boolean).join(root.lang === "ja" ? "" : " ");
    }

    say(said, bad = false) {
      Object.assign(this, { said, bad });
      if (said.key === "waiting" || said.key === "working") this.part("progress").removeAttribute("value");
      this.render();
    }

    fail(problem) {
      this.result = null;
      this.say(problem, true);
      tell(() => this.sentence());
    }

    queue() {
      this.gain = gain();
      this.say({ key: "waiting" });
      enqueue(() => this.run());
    }

    async run() {
      if (!cards.has(this)) return;
      this.say({ key: "working" });
      const bar = this.part("progress");
      try {
        const result = await send({ coded: this.coded, original: this.original, gain: this.gain }, (done, total) => {
          if (total === 1) return;
          Object.assign(bar, { max: total, value: done });
          this.say({ key: "working_at", done: done + 1, total });
        });
        this.bytes = result.coded;
        paint(this.part(".decoded"), result);
        if (result.fits) paint(this.part(".original"), this.original);
        this.result = { ...result, rgba: null };
        this.links();
        const said = { key: this.coded ? "done" : "done_both" };
        this.say(said);
        tell(() => word("announced", { name: this.name, said: word(said.key) }));
      } catch (problem) {
        this.fail(problem.word ? problem : { word: "failed", text: problem.message });
      }
    }

    links() {
      const png = this.part(".png"), csw = this.part(".csw");
      png.download = `${stem(this.name)}.png`;
      this.part(".decoded").toBlob((blob) => { if (blob) png.href = URL.createObjectURL(blob); });
      csw.hidden = Boolean(this.coded);
      csw.download = `${stem(this.name)}.csw`;
      if (!this.coded) csw.href = URL.createObjectURL(new Blob([this.bytes]));
    }
  }

  // ---- files
  /* What a file is: {name, coded} or {name, picture} or {name, word}. */
  async function look(file) {
    const { name } = file;
    let bytes;
    try {
      bytes = new Uint8Array(await file.slice(0, 4).arrayBuffer());
      const coded = /\.csw$/i.test(name) || String.fromCharCode(...bytes) === "\x89CSW";
      if (coded) return { name, coded: new Uint8Array(await file.arrayBuffer()) };
    } catch {
      return { name, word: "unreadable" };
    }
    try {
      return { name, picture: await pixels(file) };
    } catch {
      return { name, word: "no_picture" };
    }
  }

  async function add(chosen) {
    const looking = Promise.all([...chosen].map(look)), fresh = new Set();
    enqueue(() => looking);
    const looked = await looking;
    for (const { name, coded } of looked.filter((one) => one.coded)) {
      const card = new Card(name);
      card.coded = coded;
      fresh.add(card);
    }
    const pictures = looked.filter((one) => one.picture), only = pictures.length === 1 && fresh.size === 1 ? [...fresh][0] : null;
    for (const { name, picture } of pictures) {
      const card = [...cards].reverse().find((one) => one.coded && stem(one.name) === stem(name)) ?? only ?? new Card(name);
      if (!card.coded && !codec.encoder) {
        card.fail({ word: "no_encoder" });
        continue;
      }
      Object.assign(card, { original: picture, originalName: name });
      fresh.add(card);
    }
    for (const { name, word: key } of looked.filter((one) => one.word)) new Card(name).fail({ word: key });
    for (const card of fresh) card.queue();
  }

  /* Of a quantized codec: the small picture that says whether this browser computes it rightly. */
  async function check() {
    const [coded, picture] = data.check.map((text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)));
    const { psnr } = await send({ coded, original: await pixels(new Blob([picture], { type: "image/png" })) });
    if (!(psnr >= data.agreement)) warning = { key: "wrong", psnr: psnr.toFixed(1), least: data.agreement };
  }

  for (const button of all("[data-language]")) button.addEventListener("click", () => speak(button.dataset.language));
  at("#choose").addEventListener("change", async (event) => {
    const chosen = [...event.target.files];
    event.target.value = "";
    await add(chosen);
  });
  addEventListener("resize", () => cards.forEach((card) => card.render()));
  let over = 0;
  const lit = (more) => { over = Math.max(0, over + more); document.body.classList.toggle("over", over > 0); };
  addEventListener("dragenter", () => lit(1));
  addEventListener("dragleave", () => lit(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    lit(-over);
    add(event.dataTransfer.files);
  });

  let kept = null;
  try { kept = localStorage.getItem("codecswap-language"); } catch { /* a browser that keeps nothing */ }
  speak(words.ready[kept] ? kept : navigator.language.startsWith("ja") ? "ja" : "en");
  enqueue(async () => {
    try {
      await send(null);
      if (data.check.length) await check();
      tell({ key: "ready" });
    } catch (problem) {
      tell({ key: "cannot_start", text: problem.text ?? problem.message });
    }
  });
})();
