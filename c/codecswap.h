/* Reads and writes .csw files (docs/bitstream.md): memory in, memory out.
 *
 * Nothing here allocates, prints, opens a file, keeps a global, or needs more than 4 KiB of stack. Every buffer is the
 * caller's. All functions may run in several threads at once. Quick start: docs/c.md.
 *
 * A picture of height x width pixels is padded to multiples of 16; its latents are M channels of rows x columns, a
 * sixteenth of the padded sides. Symbols are the integers that are coded, int32_t, always in the order (M, rows, columns). */
#ifndef CODECSWAP_H
#define CODECSWAP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CSW_FORMAT 1               /* the version of the format that is read and written */
#define CSW_FACTOR 16              /* pixels per latent on either axis */
#define CSW_OVERHEAD 38            /* bytes of a file beside its string */
#define CSW_MOST_PIXELS 120000000  /* of a picture, padding included */

typedef enum {
    CSW_OK = 0,
    CSW_TABLES_DAMAGED,  /* not what `codecswap export` wrote */
    CSW_TABLES_NEWER,    /* of a version that this library does not read */
    CSW_NO_CSW,          /* not a .csw file at all */
    CSW_NEWER,           /* a .csw file of a version that this library does not read */
    CSW_ALTERED,         /* truncated or altered: its checksum does not match */
    CSW_CONTRADICTS,     /* its header does not fit its length */
    CSW_OTHER_TABLES,    /* written with other tables */
    CSW_SIZE,            /* no pixels, or more than CSW_MOST_PIXELS */
    CSW_TOO_SHORT,       /* its string cannot fill its size */
    CSW_CORRUPT,         /* its string does not end where its symbols do */
    CSW_ROOM,            /* the caller's buffer is too small */
    CSW_NOT_FINITE,      /* a network gave values that are no numbers, or latents beyond 2^24 */
    CSW_RANGE,           /* a symbol of more than 28 bits */
    CSW_HYPERPRIOR       /* a .csw file of version 2, of a codec with a hyperprior, which this library does not read */
} csw_error;

/* A sentence in English that goes on from the name of the file, without a full stop. Never NULL. */
const char *csw_error_text(csw_error error);

/* ---- entropy tables ---- */

/* Opened tables. The fields are for reading; `bytes` is the caller's memory and must outlive this. */
typedef struct {
    const unsigned char *bytes;
    uint32_t channels;     /* M */
    uint32_t entries;      /* of all channels' cumulative frequencies together */
    uint32_t split_inputs; /* channels of a decoder's 8-bit split inputs, the constant one included */
    uint64_t fewest_bits;  /* of one place of the latents, all channels together, in 1/65536 bit */
} csw_tables;

/* Open entropy.bin, of `size` bytes. Everything in it is checked, its SHA-256 too. Nothing is copied: `bytes` may lie in flash.
 * The manifest's `tables_sha256` is csw_tables_digest(). */
csw_error csw_tables_open(csw_tables *tables, const void *bytes, size_t size);

/* 32 bytes: the SHA-256 of everything that must match between two codecs. */
const unsigned char *csw_tables_digest(const csw_tables *tables);

/* ---- sizes and tiles ---- */

typedef struct {
    uint32_t height, width;  /* of the picture, in pixels, before padding */
    uint32_t rows, columns;  /* of the latents */
} csw_size;

/* Returns CSW_OK or CSW_SIZE. */
csw_error csw_size_of(csw_size *size, uint32_t height, uint32_t width);

/* A window of the latents that a network computes at once, and the part of it that is used: what lies nearer than two latents to
 * an inner edge of the window comes out wrong. All in latents of the whole picture. */
typedef struct {
    uint32_t top, left, rows, columns;
    uint32_t first_row, end_row, first_column, end_column;
} csw_tile;

/* How many windows of at most rows x columns latents cover a picture; 0 where the window is too small for that (5 at least, where
 * the picture is larger). UINT32_MAX on both sides: one window. */
uint32_t csw_tiles(const csw_size *size, uint32_t rows, uint32_t columns);

/* The window number `index`, below csw_tiles(). */
csw_tile csw_tile_at(const csw_size *size, uint32_t rows, uint32_t columns, uint32_t index);

/* ---- a file ---- */

/* An opened file. `string` is the caller's memory and must outlive this. */
typedef struct {
    csw_size size;
    const unsigned char *string;
    uint32_t length;
} csw_file;

/* Check everything that can be checked without decoding. */
csw_error csw_open(csw_file *file, const csw_tables *tables, const void *bytes, size_t size);

typedef enum {
    CSW_SYMBOLS,           /* int32_t */
    CSW_SYMBOLS_FLOAT,     /* the same as float: a decoder whose input is `symbols` */
    CSW_LATENTS,           /* float, symbol + median: a decoder whose input is `latents` */
    CSW_SPLIT_INPUTS,      /* int8_t, whole numbers in +-127: a decoder whose input is `split_inputs` */
    CSW_SPLIT_INPUTS_FLOAT /* the same as float */
} csw_form;

typedef enum { CSW_NCHW, CSW_NHWC } csw_layout;

/* Channels and bytes per value of a form. */
uint32_t csw_channels(const csw_tables *tables, csw_form form);
size_t csw_value_size(csw_form form);

/* Bytes that csw_read() fills. More than SIZE_MAX on a small machine: the picture is too large for it. */
uint64_t csw_read_size(const csw_tables *tables, const csw_size *size, csw_form form);

/* Decode a file into `out`, aligned for its values.
 * constant: the value of the last channel of split inputs, from the manifest (`split_inputs`, `constant`); not used for other forms. */
csw_error csw_read(const csw_tables *tables, const csw_file *file, csw_form form, csw_layout layout, int constant,
                   void *out, size_t capacity);

/* Copy a tile's window (channels x rows x columns) from what csw_read() filled; for networks of a fixed size. */
void csw_cut(const csw_tables *tables, const csw_size *size, csw_form form, csw_layout layout, const csw_tile *tile,
             const void *whole, void *out);

/* Bytes that csw_write() needs at most, whatever the symbols; a photograph takes less than a tenth. */
uint64_t csw_write_size(const csw_tables *tables, const csw_size *size);

/* Code symbols (M, rows, columns) as a file. Sets `written` to its bytes; CSW_ROOM where `capacity` does not hold it. */
csw_error csw_write(const csw_tables *tables, const csw_size *size, const int32_t *symbols, void *out, size_t capacity,
                    size_t *written);

/* The string alone, `count` symbols per channel; as CompressAI's coder has it. csw_encode() fills `out` from its end, where
 * `written` bytes then stand. */
csw_error csw_decode(const csw_tables *tables, const void *string, size_t length, size_t count, int32_t *symbols);
csw_error csw_encode(const csw_tables *tables, const int32_t *symbols, size_t count, void *out, size_t capacity,
                     size_t *written);

/* The same where every symbol has a row of its own, as those of a hyperprior's Gaussians have: symbol i is coded with the table of
 * the row rows[i], each below tables->channels. `starts`, of tables->channels values, is filled by csw_row_starts(). */
void csw_row_starts(const csw_tables *tables, uint32_t *starts);
csw_error csw_decode_rows(const csw_tables *tables, const uint32_t *starts, const unsigned char *rows, const void *string,
                          size_t length, size_t count, int32_t *symbols);
csw_error csw_encode_rows(const csw_tables *tables, const uint32_t *starts, const unsigned char *rows, const int32_t *symbols,
                          size_t count, void *out, size_t capacity, size_t *written);

/* ---- pictures ---- */

typedef enum {
    CSW_FLOAT,  /* RGB in [0, 1] */
    CSW_UINT8   /* RGB in 0..255 */
} csw_pixels;

/* The part of a decoder's output (3 x 16 rows x 16 columns of the tile) that is used, into an RGB picture, cropped:
 * `rgb` is height x width x 3 bytes. Floats are clamped and rounded, halves to even. */
csw_error csw_to_rgb(const csw_size *size, const csw_tile *tile, csw_pixels pixels, csw_layout layout, const void *decoded,
                     unsigned char *rgb);

/* A tile's window of an RGB picture, padded by repeating its lower and right edge: an encoder's input. */
void csw_from_rgb(const csw_size *size, const csw_tile *tile, csw_pixels pixels, csw_layout layout, const unsigned char *rgb,
                  void *out);

/* The part of an encoder's output (M x rows x columns of the tile) that is used, rounded, into symbols (M, rows, columns). */
csw_error csw_to_symbols(const csw_tables *tables, const csw_size *size, const csw_tile *tile, csw_layout layout,
                         const float *latents, int32_t *symbols);

/* SHA-256 of a file of the folder, to compare with the manifest's. */
void csw_sha256(const void *bytes, size_t size, unsigned char digest[32]);

#ifdef __cplusplus
}
#endif
#endif
