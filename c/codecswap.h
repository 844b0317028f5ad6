/* Reads and writes .csw files (docs/bitstream.md): memory in, memory out.
 *
 * Nothing here allocates, prints, opens a file, keeps a global, or needs more than 4 KiB of stack. Every buffer is the
 * caller's. All functions may run in several threads at once. Quick start: docs/c.md.
 *
 * A picture of height x width pixels is padded to multiples of `factor` (16 for most codecs; with a hyperprior, of 64); its
 * latents are M channels of rows x columns, the padded sides divided by `factor`. Symbols are the integers that are coded,
 * int32_t, always in the order (M, rows, columns). */
#ifndef CODECSWAP_H
#define CODECSWAP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CSW_FORMAT 1               /* the version of the files of codecs without a hyperprior */
#define CSW_HYPER_FORMAT 2         /* with one */
#define CSW_GAIN_FORMAT 3          /* and with variable rate, too */
#define CSW_OVERHEAD 38            /* bytes of a file beside its string */
#define CSW_HYPER_OVERHEAD 54      /* and beside its two */
#define CSW_GAIN_OVERHEAD 58
#define CSW_MOST_LEVELS 64         /* of a variable rate */
#define CSW_MOST_LAYERS 8          /* of a hyper-synthesis */
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
    CSW_HYPERPRIOR,      /* of a codec with a hyperprior and one rate; this one has no hyperprior, or several rates */
    CSW_NO_HYPERPRIOR,   /* of a codec without a hyperprior; this one has one */
    CSW_FLOATING_POINT,  /* its tables were chosen in floating point, by PyTorch */
    CSW_OTHER_INDEXES,   /* its latents' tables do not follow from its hyper-latents */
    CSW_NETWORK_DAMAGED, /* hyper_decoder.bin is not what `codecswap export` wrote */
    CSW_NETWORK_NEWER,   /* hyper_decoder.bin is of a version that this library does not read */
    CSW_MIXED,           /* the files or the numbers of a folder do not belong together */
    CSW_VARIABLE_RATE,   /* of a codec with variable rate; this one has one rate */
    CSW_RATES_DAMAGED,   /* rates.bin is not what `codecswap export` wrote */
    CSW_RATES_NEWER,     /* rates.bin is of a version that this library does not read */
    CSW_NO_GAIN          /* the gain is not between the codec's smallest and largest, or it has one rate */
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
    float step;            /* a latent is symbol * step + median; 1 but for hyper-latents of a variable rate */
} csw_tables;

/* Open entropy.bin, of `size` bytes. Everything in it is checked, its SHA-256 too. Nothing is copied: `bytes` may lie in flash.
 * The manifest's `tables_sha256` is csw_tables_digest(). */
csw_error csw_tables_open(csw_tables *tables, const void *bytes, size_t size);

/* 32 bytes: the SHA-256 of everything that must match between two codecs. */
const unsigned char *csw_tables_digest(const csw_tables *tables);

/* ---- the hyper-synthesis in integers ---- */

typedef struct {
    const unsigned char *weights, *biases, *shifts;
    uint32_t outputs, inputs, kernel, shuffles, slope;
} csw_layer;

/* An opened hyper_decoder.bin, which is the caller's memory and must outlive this. */
typedef struct {
    uint32_t hyper_channels;  /* N */
    uint32_t channels;        /* M */
    uint32_t factor;          /* latents per hyper-latent on either axis */
    uint32_t margin;          /* hyper-latents to each side that a result depends on */
    uint32_t fractional_bits; /* of the hyper-latents */
    uint32_t thresholds;      /* between CDF indexes */
    uint32_t has_means, mean_bits; /* means are multiples of 2^-mean_bits; 0 without means, as symbols are */
    const unsigned char *medians, *limits;
    csw_layer layers[CSW_MOST_LAYERS];
    uint32_t count;           /* of layers */
    unsigned char digest[32]; /* SHA-256; the manifest's `prediction_sha256` */
} csw_network;

/* Open hyper_decoder.bin, of `size` bytes. Everything is checked: no sum can leave 52 bits. Nothing is copied. */
csw_error csw_network_open(csw_network *network, const void *bytes, size_t size);

/* Bytes with which csw_predict() takes the largest tiles that it makes use of, for rows x columns hyper-latents. */
uint64_t csw_predict_size(const csw_network *network, uint32_t rows, uint32_t columns);

/* CDF indexes and means, each (M, factor rows, factor columns), from the symbols (N, rows, columns) of hyper-latents: integer arithmetic,
 * the same on every machine. `work`: memory aligned for int16_t; less of it makes smaller tiles, CSW_ROOM where it is too little.
 * gain, step: of a variable rate, what scales are multiplied by, and the hyper-latents' step in units of 2^-fractional_bits. 1 and 0
 * where there is one rate. */
csw_error csw_predict(const csw_network *network, float gain, uint32_t step, const int32_t *symbols, uint32_t rows, uint32_t columns,
                      unsigned char *indexes, float *means, void *work, size_t capacity);

/* ---- a codec ---- */

/* An exported folder. The fields are for reading; the files' bytes are the caller's memory and must outlive this. */
typedef struct {
    uint32_t factor, margin;    /* of the manifest */
    uint32_t channels;          /* M */
    uint32_t hyper_factor;      /* latents per hyper-latent on either axis; 1 without a hyperprior */
    const uint16_t *inputs;     /* with a hyperprior, set by the caller: how many split inputs each of the M channels has; NULL: one */
    uint32_t input_bits;        /* split inputs are in units of 2^-input_bits; with variable rate set by the caller, too (`fractional_bits`) */
    csw_tables tables;          /* of the latents; with a hyperprior, of the hyper-latents */
    csw_tables gaussians;       /* with a hyperprior: one row for each CDF index */
    csw_network network;
    csw_tables last;            /* of the largest gain's hyper-latents, and the bytes of rates.bin: for csw_codec_gain() */
    const unsigned char *rates;
    uint32_t levels, steps;     /* of a variable rate, 0 where there is one rate; steps: 1, or as many */
    float gain;                 /* that files are written with */
    unsigned char digest[32];   /* of everything that must match between two codecs */
} csw_codec;

/* Open a codec: `factor` and `margin` are the manifest's, `bytes` is entropy.bin. */
csw_error csw_codec_open(csw_codec *codec, uint32_t factor, uint32_t margin, const void *bytes, size_t size);

/* Then, where the manifest has `side`: gaussians.bin and hyper_decoder.bin. Their passes are hyper-latents, then all latents at once. */
csw_error csw_codec_hyperprior(csw_codec *codec, const void *gaussians, size_t gaussians_size, const void *network,
                               size_t network_size);

/* Then, where the manifest has `rates`: rates.bin. The gain is the largest afterwards. */
csw_error csw_codec_rates(csw_codec *codec, const void *bytes, size_t size);

/* Set the gain of the files that are written: from csw_level_gain(codec, 0), the fewest bits, to that of the last level, levels - 1.
 * It changes `tables`: round hyper-latents afterwards. Files are read at their own gain, whatever this one is. */
csw_error csw_codec_gain(csw_codec *codec, float gain);
float csw_level_gain(const csw_codec *codec, uint32_t level);

/* ---- sizes and tiles ---- */

typedef struct {
    uint32_t height, width;  /* of the picture, in pixels, before padding */
    uint32_t rows, columns;  /* of the latents */
    uint32_t factor, margin; /* of the codec */
} csw_size;

/* Returns CSW_OK or CSW_SIZE. */
csw_error csw_size_of(csw_size *size, const csw_codec *codec, uint32_t height, uint32_t width);

/* The same in hyper-latents: for the tiles of a hyper-encoder, whose input is the latents (csw_tile_times() for csw_cut()). */
csw_size csw_hyper_size(const csw_codec *codec, const csw_size *size);

/* A window of the latents that a network computes at once, and the part of it that is used: what lies nearer than `margin` latents
 * to an inner edge of the window comes out wrong. All in latents of the whole picture. */
typedef struct {
    uint32_t top, left, rows, columns;
    uint32_t first_row, end_row, first_column, end_column;
} csw_tile;

/* How many windows of at most rows x columns latents cover a picture; 0 where the window is too small for that (where the
 * picture is larger, more than two margins). UINT32_MAX on both sides: one window. */
uint32_t csw_tiles(const csw_size *size, uint32_t rows, uint32_t columns);

/* The window number `index`, below csw_tiles(). */
csw_tile csw_tile_at(const csw_size *size, uint32_t rows, uint32_t columns, uint32_t index);

/* The same window in a finer grid: of hyper-latents in latents. */
csw_tile csw_tile_times(const csw_tile *tile, uint32_t factor);

/* ---- a file ---- */

/* An opened file. The strings are the caller's memory and must outlive this. */
typedef struct {
    csw_size size;
    const unsigned char *string, *hyper_string;
    uint32_t length, hyper_length;
    uint32_t indexes_crc;
    float gain; /* 1 of a codec of one rate */
} csw_file;

/* Check everything that can be checked without decoding. */
csw_error csw_open(csw_file *file, const csw_codec *codec, const void *bytes, size_t size);

typedef enum {
    CSW_SYMBOLS,           /* int32_t */
    CSW_SYMBOLS_FLOAT,     /* the same as float: a decoder whose input is `symbols` */
    CSW_LATENTS,           /* float, symbol + median or mean, or what a gain makes of them: a decoder whose input is `latents` */
    CSW_SPLIT_INPUTS,      /* int8_t, whole numbers in +-127: a decoder whose input is `split_inputs` */
    CSW_SPLIT_INPUTS_FLOAT /* the same as float */
} csw_form;

typedef enum { CSW_NCHW, CSW_NHWC } csw_layout;

/* Channels and bytes per value of a form. */
uint32_t csw_channels(const csw_codec *codec, csw_form form);
size_t csw_value_size(csw_form form);

/* Bytes that csw_read() fills. More than SIZE_MAX on a small machine: the picture is too large for it. */
uint64_t csw_read_size(const csw_codec *codec, const csw_size *size, csw_form form);

/* Bytes of memory that csw_read() and csw_write_hyper() need beside, with the largest tiles of a hyper-synthesis; 0 without a
 * hyperprior. csw_least_work() says how few are enough, which takes longer for large pictures. */
uint64_t csw_work_size(const csw_codec *codec, const csw_size *size);
uint64_t csw_least_work(const csw_codec *codec, const csw_size *size);

/* Decode a file into `out`, aligned for its values.
 * constant: the value of the last channel of split inputs, from the manifest (`split_inputs`, `constant`); not used for other forms.
 * work: NULL without a hyperprior; else memory aligned for int32_t. */
csw_error csw_read(const csw_codec *codec, const csw_file *file, csw_form form, csw_layout layout, int constant,
                   void *out, size_t capacity, void *work, size_t work_capacity);

/* Copy a tile's window (channels x rows x columns, `value_size` bytes each) from what csw_read() or csw_paste() filled; for networks
 * of a fixed size. */
void csw_cut(uint32_t channels, size_t value_size, const csw_size *size, csw_layout layout, const csw_tile *tile,
             const void *whole, void *out);

/* The part of an encoder's output (M x rows x columns of the tile, float) that is used, into latents (M, rows, columns). */
void csw_paste(uint32_t channels, const csw_size *size, csw_layout layout, const csw_tile *tile, const float *values,
               float *latents);

/* Bytes that csw_write() or csw_write_hyper() needs at most, whatever the symbols; a photograph takes less than a tenth. */
uint64_t csw_write_size(const csw_codec *codec, const csw_size *size);

/* Code symbols (M, rows, columns) as a file of a codec without a hyperprior. Sets `written` to its bytes; CSW_ROOM where
 * `capacity` does not hold it. */
csw_error csw_write(const csw_codec *codec, const csw_size *size, const int32_t *symbols, void *out, size_t capacity,
                    size_t *written);

/* With a hyperprior, at the codec's gain: symbols (N, rows, columns) of the hyper-latents, from csw_to_symbols() of csw_hyper_size(), and latents
 * (M, rows, columns), from csw_paste(). `work` as in csw_read(). */
csw_error csw_write_hyper(const csw_codec *codec, const csw_size *size, const int32_t *hyper_symbols, const float *latents,
                          void *out, size_t capacity, size_t *written, void *work, size_t work_capacity);

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

/* The part of a decoder's output (3 x `factor` rows x `factor` columns of the tile) that is used, into an RGB picture, cropped:
 * `rgb` is height x width x 3 bytes. Floats are clamped and rounded, halves to even. */
csw_error csw_to_rgb(const csw_size *size, const csw_tile *tile, csw_pixels pixels, csw_layout layout, const void *decoded,
                     unsigned char *rgb);

/* A tile's window of an RGB picture, padded by repeating its lower and right edge: an encoder's input. */
void csw_from_rgb(const csw_size *size, const csw_tile *tile, csw_pixels pixels, csw_layout layout, const unsigned char *rgb,
                  void *out);

/* The part of an encoder's output (M x rows x columns of the tile) that is used, rounded, into symbols (M, rows, columns); of a
 * hyper-encoder's with csw_hyper_size(). `tables` are the codec's. */
csw_error csw_to_symbols(const csw_tables *tables, const csw_size *size, const csw_tile *tile, csw_layout layout,
                         const float *latents, int32_t *symbols);

/* SHA-256 of a file of the folder, to compare with the manifest's. */
void csw_sha256(const void *bytes, size_t size, unsigned char digest[32]);

#ifdef __cplusplus
}
#endif
#endif
