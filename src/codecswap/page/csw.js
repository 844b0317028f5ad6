/* The C library (c/codecswap.h) in WebAssembly. Addresses are numbers; the structs have the layout of wasm32. */
"use strict";

const FORMS = { symbols: 1, latents: 2, split_inputs: 4 };  // csw_form, by what a decoder takes; all as float
const NCHW = 0, FLOAT = 0;
const FACTOR = 16;

/* An error of the library: `code` is its csw_error, the message its sentence, which goes on from a file's name. */
class CswError extends Error {
  constructor(code, sentence) {
    super(sentence);
    this.code = code;
  }
}

/* The library with one codec's tables, for one picture: its memory grows, and goes with it. */
class Csw {
  constructor(module, entropy) {
    this.c = new WebAssembly.Instance(module).exports;
    this.top = this.c.__heap_base.value;
    this.tables = this.take(24);
    this.check(this.c.csw_tables_open(this.tables, this.put(entropy), entropy.length));
  }

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
    this.bytes(at, bytes.byteLength).set(bytes);
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
    const file = this.take(24);
    this.check(this.c.csw_open(file, this.tables, this.put(coded), coded.length));
    return file;
  }

  size(height, width) {
    const size = this.take(16);
    this.check(this.c.csw_size_of(size, height, width));
    return size;
  }

  read(file, form, constant) {
    const size = Number(this.c.csw_read_size(this.tables, file, form)), values = this.take(size);
    this.check(this.c.csw_read(this.tables, file, form, NCHW, constant, values, size));
    return values;
  }

  channels(form) { return this.c.csw_channels(this.tables, form); }

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

  write(size, symbols) {
    const capacity = Number(this.c.csw_write_size(this.tables, size)), out = this.take(capacity), written = this.take(4);
    this.check(this.c.csw_write(this.tables, size, symbols, out, capacity, written));
    return this.bytes(out, new Uint32Array(this.c.memory.buffer, written, 1)[0]).slice();
  }
}
