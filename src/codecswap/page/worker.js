/* The codec, beside the page's own thread. It is sent its parts first, then pictures, one at a time.
 *
 * A picture: {id, coded: Uint8Array or null, original: {rgba, width, height} or null, gain}; without `coded`, the original is encoded
 * first, with variable rate at `gain`.
 * Answers: {id, done, total} while it works; then {id, result} or {id, problem: {code, word, text}}. */
let parts;

/* An error with a word of words.toml. */
class Problem extends Error {
  constructor(word, text = "") {
    super(text);
    this.word = word;
  }
}

async function unpack(text) {
  const packed = atob(text.trim()), bytes = new Uint8Array(packed.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function start({ codec, files }) {
  const names = ["runtime", "runtime_wasm", "csw", "entropy", "gaussians", "network", "rates", "decoder", "encoder", "hyper_encoder"];
  const unpacked = await Promise.all(names.map((name) => files[name] && unpack(files[name])));
  const { runtime, runtime_wasm: wasm, csw, ...rest } = Object.fromEntries(names.map((name, index) => [name, unpacked[index]]));
  const ort = await import(URL.createObjectURL(new Blob([runtime], { type: "text/javascript" })));
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1;  // more need headers that a file or a plain server does not send
  const module = await WebAssembly.compile(csw);
  new Csw(module, codec, rest);  // what is wrong with the tables is said now
  // as the file has it: convolutions that it has in float are not rounded
  const extra = { optimization: { disable_specified_optimizers: "WeightBiasQuantization" } };
  const open = async (model) => model && ort.InferenceSession.create(model, { executionProviders: ["wasm"], logSeverityLevel: 3, extra });
  const networks = {};
  for (const part of ["decoder", "encoder", "hyper_encoder"]) networks[part] = await open(rest[part]);
  return { codec, ort, module, files: rest, ...networks };
}

/* Run a network on one tile. */
async function run(part, data, dims, wanted) {
  const { input, output } = parts.codec[part];
  const result = (await parts[part].run({ [input]: new parts.ort.Tensor("float32", data, dims) }))[output];
  if (result?.type !== "float32" || result.dims.join() !== wanted.join()) throw new Problem("bad_network");
  return result.data;
}

/* The tiles of a picture; `unit`: in latents (1), or in hyper-latents. */
function cover(csw, size, unit = 1) {
  const { tile, fixed, factor } = parts.codec, { rows, columns } = csw.sides(size), [tall, wide] = tile.map((side) => side / unit);
  const pixels = `${tile[1] * factor}×${tile[0] * factor}`;
  if (fixed && (rows < tall || columns < wide)) throw new Problem("smaller", pixels);
  const tiles = csw.tiles(size, tall, wide);
  if (!tiles.length) throw new Problem("no_tiles", pixels);
  return tiles;
}

/* Without the alpha channel. */
function toRgb(rgba, rgb) {
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
}

/* Symbols of the hyper-latents of latents (M x rows x columns floats at `latents`). */
async function hyperSymbols(csw, size, latents) {
  const [, , channels, scale] = csw.codecWords(), hyper = csw.hyperSize(size), tiles = cover(csw, hyper, scale);
  const { rows: tall, columns: wide } = csw.sides(hyper), [rows, columns] = csw.window(tiles[0]), made = parts.codec.hyper_channels;
  const inside = channels * rows * columns * scale * scale, outside = made * rows * columns;
  const input = csw.take(4 * inside), output = csw.take(4 * outside), symbols = csw.take(4 * made * tall * wide), window = csw.take(32);
  for (const tile of tiles) {
    csw.c.csw_tile_times(window, tile, scale);
    csw.cut(channels, size, window, latents, input);
    const dims = [1, channels, rows * scale, columns * scale];
    csw.floats(output, outside).set(await run("hyper_encoder", csw.floats(input, inside).slice(), dims, [1, made, rows, columns]));
    csw.check(csw.c.csw_to_symbols(csw.tables, hyper, tile, NCHW, output, symbols));
  }
  return symbols;
}

async function encode(original, gain, progress) {
  const csw = new Csw(parts.module, parts.codec, parts.files), size = csw.size(original.height, original.width);
  if (parts.codec.gains) csw.setGain(gain);
  const tiles = cover(csw, size), { rows: tall, columns: wide } = csw.sides(size), { factor } = parts.codec;
  const [rows, columns] = csw.window(tiles[0]), channels = csw.channels(FORMS.latents);
  const inside = 3 * rows * columns * factor * factor, outside = channels * rows * columns;
  const rgb = csw.take(3 * original.height * original.width), input = csw.take(4 * inside), output = csw.take(4 * outside);
  const whole = csw.take(4 * channels * tall * wide);  // symbols, or with a hyperprior latents
  toRgb(original.rgba, csw.bytes(rgb, 3 * original.height * original.width));
  for (const [index, tile] of tiles.entries()) {
    progress(index, 2 * tiles.length);
    csw.c.csw_from_rgb(size, tile, FLOAT, NCHW, rgb, input);
    const dims = [1, 3, rows * factor, columns * factor];
    csw.floats(output, outside).set(await run("encoder", csw.floats(input, inside).slice(), dims, [1, channels, rows, columns]));
    if (csw.hyper) csw.c.csw_paste(channels, size, NCHW, tile, output, whole);
    else csw.check(csw.c.csw_to_symbols(csw.tables, size, tile, NCHW, output, whole));
  }
  return csw.hyper ? csw.write(size, await hyperSymbols(csw, size, whole), whole) : csw.write(size, whole);
}

async function decode(coded, progress) {
  const csw = new Csw(parts.module, parts.codec, parts.files), { form, constant, factor } = parts.codec;
  const begun = performance.now();
  const file = csw.open(coded), { height, width } = csw.sides(file), tiles = cover(csw, file);
  const whole = csw.read(file, FORMS[form], constant), coder = performance.now() - begun;
  const [rows, columns] = csw.window(tiles[0]), channels = csw.channels(FORMS[form]);
  const inside = channels * rows * columns, outside = 3 * rows * columns * factor * factor;
  const input = csw.take(4 * inside), picture = csw.take(4 * outside), rgb = csw.take(3 * height * width);
  for (const [index, tile] of tiles.entries()) {
    progress(index, tiles.length);
    csw.cut(channels, file, tile, whole, input);
    const wanted = [1, 3, rows * factor, columns * factor];
    csw.floats(picture, outside).set(await run("decoder", csw.floats(input, inside).slice(), [1, channels, rows, columns], wanted));
    csw.check(csw.c.csw_to_rgb(file, tile, FLOAT, NCHW, picture, rgb));
  }
  const rgba = new Uint8ClampedArray(4 * height * width), pixels = csw.bytes(rgb, 3 * height * width);
  for (let from = 0, to = 0; from < pixels.length; from += 3, to += 4) {
    rgba[to] = pixels[from];
    rgba[to + 1] = pixels[from + 1];
    rgba[to + 2] = pixels[from + 2];
    rgba[to + 3] = 255;
  }
  return { height, width, rgba, gain: csw.gain(file), coder, time: performance.now() - begun };
}

/* In dB, over the three channels. */
function psnr(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i += 4) {
    const red = a[i] - b[i], green = a[i + 1] - b[i + 1], blue = a[i + 2] - b[i + 2];
    sum += red * red + green * green + blue * blue;
  }
  return 10 * Math.log10(255 * 255 / (sum / (0.75 * a.length)));
}

async function work({ coded, original, gain }, progress) {
  const begun = performance.now(), bytes = coded ?? await encode(original, gain, progress);
  const encoding = coded ? null : performance.now() - begun;
  const result = await decode(bytes, (done, total) => (coded ? progress(done, total) : progress(total + done, 2 * total)));
  const fits = original && original.width === result.width && original.height === result.height;
  return { ...result, encoding, coded: bytes, fits, psnr: fits ? psnr(original.rgba, result.rgba) : null };
}

onmessage = async ({ data }) => {
  const { id } = data;
  try {
    if (!parts) {
      parts = await start(data);
      postMessage({ id, result: true });
      return;
    }
    const result = await work(data, (done, total) => postMessage({ id, done, total }));
    postMessage({ id, result }, [result.rgba.buffer]);
  } catch (error) {
    const word = error.word ?? (error instanceof RangeError ? "no_memory" : "failed");
    postMessage({ id, problem: { code: error.code ?? 0, word, text: error.message ?? String(error) } });
  }
};
