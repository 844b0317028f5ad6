/* The C library (c/codecswap.h) in WebAssembly. Addresses are numbers; the structs have the layout of wasm32. */
"use strict";

const FORMS = { symbols: 1, latents: 2, split_inputs: 4 };  // csw_form, by what a decoder takes; all as float
const NCHW = 0, FLOAT = 0;
const TABLES = 24;  // bytes before them in a csw_codec

/* An error of the library: `code` is its csw_error, the message its sentence, which goes on from a file's name. */
class CswError extends Error {
  constructor(code, sentence) {
    super(sentence);
    this.code = code;
  }
}

/* The library with one codec's tables, for one picture: its memory grows, and goes with it.
 * `files`: entropy, with a hyperprior gaussians and network, with variable rate rates; `inputs`: how many split inputs each channel of
 * the latents has, or null, in units of 2^-`bits`. */
class Csw {
  constructor(module, { factor, margin, inputs, bits }, files) {
    this.c = new WebAssembly.Instance(module).exports;
    this.top = this.c.__heap_base.value;
    this.codec = this.take(1024);
    this.tables = this.codec + TABLES;
    this.check(this.c.csw_codec_open(this.codec, factor, margin, this.put(files.entropy), files.entropy.length));
    this.hyper = Boolean(files.network);
    if (this.hyper) {
      const { gaussians, network, rates } = files;
      this.check(this.c.csw_codec_hyperprior(this.codec, this.put(gaussians), gaussians.length, this.put(network), network.length));
      if (rates) this.check(this.c.csw_codec_rates(this.codec, this.put(rates), rates.length));
      const counts = inputs && this.put(Uint16Array.from(inputs));
      if (inputs) this.codecWords().set([counts, bits], 4);
    }
  }

  /* factor, margin, M, latents per hyper-latent, where the counts of split inputs stand, and their fractional bits. */
  codecWords() { return new Uint32Array(this.c.memory.buffer, this.codec, 6); }

  check(code) {
    if (!code) return;
    const text = new Uint8Array(this.c.memory.buffer, this.c.csw_error_text(code));
    throw new CswError(code, new TextDecoder().decode(text.subarray(0, text.indexOf(0))));
  }

  /* Memory for `size` bytes. Arrays made before this may have become invalid. */
  take(size) {
    const at = this.top, memory = this.c.memory;
    this.top = at + Math.ceil(size / 16) * 16;
    const missing = this.top - memory.buffer.byteLength;
    if (missing > 0) memory.grow(Math.ceil(missing / 65536));  // RangeError where the browser has no more
    return at;
  }

  put(bytes) {
    const at = this.take(bytes.byteLength);
    this.bytes(at, bytes.byteLength).set(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    return at;
  }

  bytes(at, count) { return new Uint8Array(this.c.memory.buffer, at, count); }
  floats(at, count) { return new Float32Array(this.c.memory.buffer, at, count); }

  /* A csw_size in words. */
  sides(size) {
    const [height, width, rows, columns] = new Uint32Array(this.c.memory.buffer, size, 4);
    return { height, width, rows, columns };
  }

  /* csw_file, which begins with its csw_size. */
  open(coded) {
    const file = this.take(48);
    this.check(this.c.csw_open(file, this.codec, this.put(coded), coded.length));
    return file;
  }

  /* Gain of an opened file; 1 of a codec of one rate. */
  gain(file) { return this.floats(file + 44, 1)[0]; }

  /* What is written from now on has this gain. */
  setGain(gain) { this.check(this.c.csw_codec_gain(this.codec, gain)); }

  size(height, width) {
    const size = this.take(24);
    this.check(this.c.csw_size_of(size, this.codec, height, width));
    return size;
  }

  /* The same in hyper-latents. */
  hyperSize(size) {
    const hyper = this.take(24);
    this.c.csw_hyper_size(hyper, this.codec, size);
    return hyper;
  }

  /* Memory that reading and writing with a hyperprior need: its address and size. */
  work(size) {
    const bytes = Number(this.c.csw_work_size(this.codec, size));
    return [this.take(bytes), bytes];
  }

  read(file, form, constant) {
    const size = Number(this.c.csw_read_size(this.codec, file, form)), values = this.take(size);
    this.check(this.c.csw_read(this.codec, file, form, NCHW, constant, values, size, ...this.work(file)));
    return values;
  }

  channels(form) { return this.c.csw_channels(this.codec, form); }

  /* Addresses of the csw_tile of windows of at most rows x columns latents; none where the windows are too small. */
  tiles(size, rows, columns) {
    const count = this.c.csw_tiles(size, rows, columns), tiles = [];
    for (let index = 0; index < count; index++) {
      tiles.push(this.take(32));
      this.c.csw_tile_at(tiles[index], size, rows, columns, index);
    }
    return tiles;
  }

  /* Rows and columns of a tile, in latents. */
  window(tile) { return new Uint32Array(this.c.memory.buffer, tile + 8, 2); }

  /* A tile's window of `whole` (channels x rows x columns floats), copied to `out`. */
  cut(channels, size, tile, whole, out) { this.c.csw_cut(channels, 4, size, NCHW, tile, whole, out); }

  /* With a hyperprior, `symbols` are those of the hyper-latents, and `latents` the latents before rounding. */
  write(size, symbols, latents) {
    const capacity = Number(this.c.csw_write_size(this.codec, size)), out = this.take(capacity), written = this.take(4);
    this.check(this.hyper
      ? this.c.csw_write_hyper(this.codec, size, symbols, latents, out, capacity, written, ...this.work(size))
      : this.c.csw_write(this.codec, size, symbols, out, capacity, written));
    return this.bytes(out, new Uint32Array(this.c.memory.buffer, written, 1)[0]).slice();
  }
}
