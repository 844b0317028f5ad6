/* See codecswap.h, and docs/bitstream.md for the formats. Numbers in files are little-endian and are put together byte by byte:
 * the same on every machine, and one load where the processor is little-endian itself. */
#include "internal.h"

enum {
    PRECISION = 16,      /* cumulative frequencies count to 2^16 */
    GROUP = 4,           /* bits in a group of an integer that no table holds */
    MOST_GROUPS = 7,     /* of such an integer */
    TABLES_HEADER = 48,  /* bytes before the lengths in entropy.bin */
    HEADER = 34,         /* bytes before the string in a .csw file of version 1 */
    MOST_CHANNELS = 1 << 14,
    MOST_ENTRIES = 1 << 24,
    MOST_MARGIN = 39,    /* as in a manifest */
    LARGEST = 127,       /* of an 8-bit integer, either sign */
    RUN = 256,           /* symbols that are decoded at once */
    INDEX_BITS = 10      /* of a slot that find the first interval to look at */
};
#define LOW (UINT64_C(1) << 31)  /* the coder's state is never below this between symbols, and starts here */

static const unsigned char FILE_MAGIC[4] = {0x89, 'C', 'S', 'W'};
static const unsigned char TABLES_MAGIC[4] = {0x89, 'C', 'S', 'T'};

const char *csw_error_text(csw_error error)
{
    switch (error) {
    case CSW_OK: return "is good";
    case CSW_TABLES_DAMAGED: return "holds damaged entropy tables: export the codec again";
    case CSW_TABLES_NEWER: return "holds entropy tables of a version that this program does not read: update it";
    case CSW_NO_CSW: return "is no picture that codecswap encoded: name a .csw file";
    case CSW_NEWER: return "has a version of the format that this program does not read: update it";
    case CSW_ALTERED: return "is truncated or altered (its checksum does not match): copy it again";
    case CSW_CONTRADICTS: return "is damaged (its header contradicts itself): encode the picture again";
    case CSW_OTHER_TABLES: return "was written by another codec: decode it with that one, or a student of it";
    case CSW_SIZE: return "has more than 120,000,000 pixels, or none";
    case CSW_TOO_SHORT: return "is too short for the pixels that it declares: encode the picture again";
    case CSW_CORRUPT: return "is damaged (the string does not end where its symbols do): encode the picture again";
    case CSW_ROOM: return "needs a larger buffer";
    case CSW_NOT_FINITE: return "gives values that are not finite: run the network in float32";
    case CSW_RANGE: return "gives a symbol of more than 28 bits";
    case CSW_HYPERPRIOR:
        return "was written by a codec with a hyperprior and one rate, which this one is not: decode it with that one, or a student of it";
    case CSW_NO_HYPERPRIOR:
        return "was written by a codec without a hyperprior, and this one is with one: decode it with that one, or a student of it";
    case CSW_VARIABLE_RATE:
        return "was written by a codec with variable rate, and this one has one rate: decode it with that one, or a student of it";
    case CSW_FLOATING_POINT:
        return "was written in PyTorch, whose floating point an exported folder does not repeat: decode it with `codecswap decode` and "
               "the checkpoint of the codec that wrote it";
    case CSW_OTHER_INDEXES:
        return "is damaged (its latents' tables do not follow from its hyper-latents): encode the picture again";
    case CSW_NETWORK_DAMAGED: return "holds a damaged integer network: export the codec again";
    case CSW_NETWORK_NEWER: return "holds an integer network of a version that this program does not read: update it";
    case CSW_RATES_DAMAGED: return "holds damaged levels of a variable rate: export the codec again";
    case CSW_RATES_NEWER: return "holds levels of a variable rate of a version that this program does not read: update it";
    case CSW_NO_GAIN: return "takes no such gain: choose one between its smallest and its largest";
    case CSW_MIXED: return "holds files or numbers that do not belong together: export the codec again";
    }
    return "gives an error that this program does not know";
}

/* ---- SHA-256 (FIPS 180-4) and CRC-32 ---- */

static const uint32_t SHA_K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t turn(uint32_t x, int by) { return x >> by | x << (32 - by); }

static void sha_block(uint32_t *h, const unsigned char *p)
{
    uint32_t w[64], v[8];
    int i;
    for (i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] + (turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3)
             + (turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, h, sizeof v);
    for (i = 0; i < 64; i++) {
        uint32_t one = v[7] + SHA_K[i] + w[i], two = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
        one += (turn(v[4], 6) ^ turn(v[4], 11) ^ turn(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6]));
        two += turn(v[0], 2) ^ turn(v[0], 13) ^ turn(v[0], 22);
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += one;
        v[0] = one + two;
    }
    for (i = 0; i < 8; i++) h[i] += v[i];
}

void csw_sha_start(sha *s)
{
    static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(s->h, first, sizeof first);
    s->size = 0;
}

void csw_sha_add(sha *s, const unsigned char *p, size_t size)
{
    while (size) {
        size_t held = (size_t)(s->size % 64), taken = 64 - held < size ? 64 - held : size;
        memcpy(s->block + held, p, taken);
        s->size += taken;
        p += taken;
        size -= taken;
        if (held + taken == 64) sha_block(s->h, s->block);
    }
}

void csw_sha_end(sha *s, unsigned char digest[32])
{
    static const unsigned char padding[64] = {0x80};
    unsigned char bits[8];
    uint64_t size = s->size;
    int i;
    for (i = 0; i < 8; i++) bits[i] = (unsigned char)(size * 8 >> (56 - 8 * i));
    csw_sha_add(s, padding, (size_t)(64 - (size + 8) % 64));
    csw_sha_add(s, bits, 8);
    for (i = 0; i < 32; i++) digest[i] = (unsigned char)(s->h[i / 4] >> (24 - 8 * (i % 4)));
}

void csw_sha256(const void *bytes, size_t size, unsigned char digest[32])
{
    sha s;
    csw_sha_start(&s);
    csw_sha_add(&s, bytes, size);
    csw_sha_end(&s, digest);
}

/* Its table is made anew, 1 KiB of stack, in about a microsecond. */
uint32_t csw_crc32(const void *bytes, size_t size)
{
    const unsigned char *p = bytes;
    uint32_t table[256], crc = UINT32_MAX;
    uint32_t i;
    int bit;
    for (i = 0; i < 256; i++) {
        uint32_t value = i;
        for (bit = 0; bit < 8; bit++) value = value >> 1 ^ (UINT32_C(0xedb88320) & (0u - (value & 1)));
        table[i] = value;
    }
    while (size--) crc = crc >> 8 ^ table[(crc ^ *p++) & 255];
    return ~crc;
}

/* ---- entropy tables ---- */

/* One channel: `length - 1` intervals, the last of which stands for every symbol outside the table. */
typedef struct {
    const unsigned char *cdf;  /* `length` cumulative frequencies, 32 bits each */
    uint32_t length;
    int32_t offset;  /* the symbol that the first interval stands for */
    float median;
    int32_t shift;   /* the median, rounded: added to a symbol before it is split */
    uint32_t split_inputs;
    uint32_t first_input;  /* index of the channel's first one; row_at() does not know it */
} row;

static uint32_t frequency(const row *r, uint32_t entry) { return load32(r->cdf + 4 * (size_t)entry); }

/* The channels' rows lie one behind the other, so rows are walked: `cdf` is where this channel's begins. */
static row row_at(const csw_tables *tables, uint32_t channel, const unsigned char *cdf)
{
    const unsigned char *p = tables->bytes + TABLES_HEADER + 4 * (size_t)channel;
    size_t column = 4 * (size_t)tables->channels;
    int32_t first, end;
    row r;
    r.cdf = cdf;
    r.length = load32(p);
    r.offset = load_signed(p + column);
    r.median = load_float(p + 2 * column);
    r.shift = round_even(r.median);
    first = r.offset + r.shift;
    end = first + (int32_t)r.length - 3;
    if (first < 0) first = -first;
    if (end < 0) end = -end;
    if (end > first) first = end;
    r.split_inputs = first > LARGEST ? ((uint32_t)first + LARGEST - 1) / LARGEST : 1;
    r.first_input = 0;
    return r;
}

static const unsigned char *first_row(const csw_tables *tables)
{
    return tables->bytes + TABLES_HEADER + 12 * (size_t)tables->channels;
}

/* 16 - log2(widest), never more than that: in 1/65536 bit. */
static uint64_t fewest_bits(uint32_t widest)
{
    uint64_t mantissa = widest;
    int64_t log = 0;
    int step;
    while (mantissa >> 1 >> log) log++;
    mantissa <<= 31 - log;
    for (step = 0; step < 16; step++) {
        mantissa = mantissa * mantissa >> 31;
        log = 2 * log + (int64_t)(mantissa >> 32);
        mantissa >>= mantissa >> 32;
    }
    log += 4; /* what the shifts have cut off */
    return log < 16 << 16 ? (uint64_t)((16 << 16) - log) : 0;
}

size_t csw_tables_size(const unsigned char *bytes, size_t size)
{
    const uint64_t whole = size < TABLES_HEADER ? UINT64_MAX : TABLES_HEADER + 12 * (uint64_t)load32(bytes + 8) + 4 * (uint64_t)load32(bytes + 12);
    return whole > size ? 0 : (size_t)whole;
}

csw_error csw_tables_open(csw_tables *tables, const void *bytes, size_t size)
{
    static const char before[] = "codecswap factorized prior, ", after[] = " channels";
    const unsigned char *p = bytes, *cdf;
    unsigned char digest[32], digits[8];
    uint32_t channel, number, entries = 0;
    uint64_t split_inputs = 1;
    size_t count = 0;
    sha s;

    if (size < TABLES_HEADER || memcmp(p, TABLES_MAGIC, 4)) return CSW_TABLES_DAMAGED;
    if (p[4] != 1 || p[5] != PRECISION) return CSW_TABLES_NEWER;
    tables->bytes = p;
    tables->channels = load32(p + 8);
    tables->entries = load32(p + 12);
    tables->fewest_bits = 0;
    tables->step = 1.0f;
    if (p[6] || p[7] || !tables->channels || tables->channels > MOST_CHANNELS || tables->entries > MOST_ENTRIES)
        return CSW_TABLES_DAMAGED;
    if (size != TABLES_HEADER + 12 * (size_t)tables->channels + 4 * (size_t)tables->entries) return CSW_TABLES_DAMAGED;

    csw_sha_start(&s);
    csw_sha_add(&s, (const unsigned char *)before, sizeof before - 1);
    for (number = tables->channels; number; number /= 10) digits[7 - count++] = (unsigned char)('0' + number % 10);
    csw_sha_add(&s, digits + 8 - count, count);
    csw_sha_add(&s, (const unsigned char *)after, sizeof after - 1);
    csw_sha_add(&s, p + TABLES_HEADER, size - TABLES_HEADER);
    csw_sha_end(&s, digest);
    if (memcmp(digest, p + 16, 32)) return CSW_TABLES_DAMAGED;

    cdf = first_row(tables);
    for (channel = 0; channel < tables->channels; channel++) {
        const unsigned char *values = p + TABLES_HEADER + 4 * (size_t)channel;
        uint32_t length = load32(values), widest = 0, previous = 0, i;
        int32_t offset = load_signed(values + 4 * (size_t)tables->channels);
        float median = load_float(values + 8 * (size_t)tables->channels);
        row r;
        if (length < 3 || length > tables->entries - entries) return CSW_TABLES_DAMAGED;
        if (offset < -(1 << PRECISION) || offset > 1 << PRECISION) return CSW_TABLES_DAMAGED;
        if (!(median > -CSW_BOUND && median < CSW_BOUND) || load32(cdf)) return CSW_TABLES_DAMAGED;
        for (i = 1; i < length; i++) {
            uint32_t value = load32(cdf + 4 * (size_t)i);
            if (value <= previous || value > 1 << PRECISION) return CSW_TABLES_DAMAGED;
            if (value - previous > widest) widest = value - previous;
            previous = value;
        }
        if (previous != 1 << PRECISION) return CSW_TABLES_DAMAGED;
        r = row_at(tables, channel, cdf);
        split_inputs += r.split_inputs;
        tables->fewest_bits += fewest_bits(widest);
        entries += length;
        cdf += 4 * (size_t)length;
    }
    if (entries != tables->entries || split_inputs > UINT32_MAX) return CSW_TABLES_DAMAGED;
    tables->split_inputs = (uint32_t)split_inputs;
    return CSW_OK;
}

const unsigned char *csw_tables_digest(const csw_tables *tables) { return tables->bytes + 16; }

/* ---- a codec ---- */

csw_error csw_codec_open(csw_codec *codec, uint32_t factor, uint32_t margin, const void *bytes, size_t size)
{
    csw_error error = csw_tables_open(&codec->tables, bytes, size);
    if (error) return error;
    if (!factor || factor > 1 << 10 || !margin || margin > MOST_MARGIN) return CSW_MIXED;
    codec->factor = factor;
    codec->margin = margin;
    codec->channels = codec->tables.channels;
    codec->hyper_factor = 1;
    codec->inputs = NULL;
    codec->input_bits = 0;
    codec->rates = NULL;
    codec->levels = codec->steps = 0;
    codec->gain = 1.0f;
    memcpy(codec->digest, csw_tables_digest(&codec->tables), sizeof codec->digest);
    return CSW_OK;
}

/* ---- sizes and tiles ---- */

csw_error csw_size_of(csw_size *size, const csw_codec *codec, uint32_t height, uint32_t width)
{
    const uint32_t multiple = codec->factor * codec->hyper_factor;
    size->height = height;
    size->width = width;
    size->factor = codec->factor;
    size->margin = codec->margin;
    size->rows = (height / multiple + (height % multiple != 0)) * codec->hyper_factor;
    size->columns = (width / multiple + (width % multiple != 0)) * codec->hyper_factor;
    if (!height || !width) return CSW_SIZE;
    return (uint64_t)size->rows * size->columns > CSW_MOST_PIXELS / (codec->factor * codec->factor) ? CSW_SIZE : CSW_OK;
}

csw_size csw_hyper_size(const csw_codec *codec, const csw_size *size)
{
    csw_size hyper = *size;
    hyper.rows /= codec->hyper_factor;
    hyper.columns /= codec->hyper_factor;
    hyper.factor *= codec->hyper_factor;
    return hyper;
}

/* Windows of `window` latents along an axis of `length`. */
static uint32_t windows(uint32_t length, uint32_t window, uint32_t margin)
{
    if (window >= length) return 1;
    if (window <= 2 * margin) return 0;
    return (length - 2 * margin + window - 2 * margin - 1) / (window - 2 * margin);
}

static uint32_t window_start(uint32_t length, uint32_t window, uint32_t count, uint32_t index)
{
    return count == 1 ? 0 : (uint32_t)((uint64_t)index * (length - window) / (count - 1));
}

static void window_at(uint32_t length, uint32_t window, uint32_t margin, uint32_t index, uint32_t *start, uint32_t *extent,
                      uint32_t *first, uint32_t *end)
{
    uint32_t count = windows(length, window, margin);
    *extent = window < length ? window : length;
    *start = window_start(length, *extent, count, index);
    *first = index ? (window_start(length, *extent, count, index - 1) + *start + *extent) / 2 : 0;
    *end = index + 1 < count ? (*start + window_start(length, *extent, count, index + 1) + *extent) / 2 : length;
}

uint32_t csw_tiles(const csw_size *size, uint32_t rows, uint32_t columns)
{
    return windows(size->rows, rows, size->margin) * windows(size->columns, columns, size->margin);
}

csw_tile csw_tile_at(const csw_size *size, uint32_t rows, uint32_t columns, uint32_t index)
{
    uint32_t across = windows(size->columns, columns, size->margin);
    csw_tile tile;
    window_at(size->rows, rows, size->margin, index / across, &tile.top, &tile.rows, &tile.first_row, &tile.end_row);
    window_at(size->columns, columns, size->margin, index % across, &tile.left, &tile.columns, &tile.first_column, &tile.end_column);
    return tile;
}

csw_tile csw_tile_times(const csw_tile *tile, uint32_t factor)
{
    csw_tile finer;
    finer.top = tile->top * factor;
    finer.left = tile->left * factor;
    finer.rows = tile->rows * factor;
    finer.columns = tile->columns * factor;
    finer.first_row = tile->first_row * factor;
    finer.end_row = tile->end_row * factor;
    finer.first_column = tile->first_column * factor;
    finer.end_column = tile->end_column * factor;
    return finer;
}

/* ---- rANS ---- */

typedef struct {
    uint64_t state;
    const unsigned char *next, *end;
} reader;

static csw_error reader_start(reader *r, const unsigned char *string, size_t length)
{
    if (length < 8 || length % 4) return CSW_CORRUPT;
    r->state = load32(string) | (uint64_t)load32(string + 4) << 32;
    r->next = string + 8;
    r->end = string + length;
    return r->state < LOW || r->state >> 63 ? CSW_CORRUPT : CSW_OK;
}

/* The interval that each 1024th part of the slots begins in, and the one that has most of them, if one has. */
typedef struct {
    uint16_t first[1 << INDEX_BITS];
    uint32_t widest, start, width;
} row_index;

static void index_row(row_index *index, const row *r)
{
    uint32_t entry, slot = 0, begin = 0;
    index->widest = index->start = index->width = 0;
    for (entry = 0; entry + 1 < r->length; entry++) {
        uint32_t end = frequency(r, entry + 1);
        for (; slot < 1 << INDEX_BITS && slot << (PRECISION - INDEX_BITS) < end; slot++) index->first[slot] = (uint16_t)entry;
        if (end - begin > index->width) {
            index->widest = entry;
            index->start = begin;
            index->width = end - begin;
        }
        begin = end;
    }
    if (index->width < 1 << (PRECISION - 1)) index->width = 0; /* too rare to be guessed */
}

#define REFILL                                   \
    if (state < LOW) {                           \
        if (next == end) return CSW_CORRUPT;     \
        state = state << 32 | load32(next);      \
        next += 4;                               \
    }

/* The last interval that begins at or before a slot. */
static uint32_t bisect(const row *r, uint32_t slot)
{
    uint32_t low = 0, high = r->length - 1;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (frequency(r, middle) <= slot) low = middle;
        else high = middle;
    }
    return low;
}

/* `index` may be NULL: for a few symbols it is not worth making. */
static csw_error read_run(reader *coded, const row *r, const row_index *index, int32_t *values, size_t count)
{
    uint64_t state = coded->state;
    const unsigned char *next = coded->next, *const end = coded->end;
    const uint32_t last = r->length - 2, start = index ? index->start : 0, width = index ? index->width : 0;
    size_t i;
    for (i = 0; i < count; i++) {
        uint32_t slot = state & ((1 << PRECISION) - 1), entry, begin, stop;
        int32_t value;
        if (slot - start < width) { /* guessed by the processor, so that it need not wait for the table */
            entry = index->widest;
            state = width * (state >> PRECISION) + slot - start;
        } else {
            entry = index ? index->first[slot >> (PRECISION - INDEX_BITS)] : bisect(r, slot);
            begin = frequency(r, entry);
            while ((stop = frequency(r, entry + 1)) <= slot) {
                begin = stop;
                entry++;
            }
            state = (stop - begin) * (state >> PRECISION) + slot - begin;
        }
        REFILL
        value = (int32_t)entry;
        if (entry == last) { /* outside the table: how many groups of four bits, then the groups, lowest first */
            uint32_t groups = state & ((1 << GROUP) - 1), group, raw = 0;
            state >>= GROUP;
            REFILL
            if (groups > MOST_GROUPS) return CSW_CORRUPT;
            for (group = 0; group < groups; group++) {
                raw |= (uint32_t)(state & ((1 << GROUP) - 1)) << (GROUP * group);
                state >>= GROUP;
                REFILL
            }
            value = raw & 1 ? -(int32_t)(raw >> 1) - 1 : (int32_t)((raw >> 1) + last);
        }
        values[i] = value + r->offset;
    }
    coded->state = state;
    coded->next = next;
    return CSW_OK;
}

/* Takes runs of a channel's symbols: from `index` on, in the order of rows. */
typedef void (*run_taker)(void *to, const row *r, uint32_t channel, size_t index, const int32_t *values, size_t count);

static csw_error read_all(const csw_tables *tables, const unsigned char *string, size_t length, size_t count, run_taker take,
                          void *to)
{
    const unsigned char *cdf = first_row(tables);
    reader coded;
    uint32_t channel, split_inputs = 0;
    csw_error error = reader_start(&coded, string, length);
    for (channel = 0; !error && channel < tables->channels; channel++) {
        row r = row_at(tables, channel, cdf);
        row_index index;
        int32_t values[RUN];
        size_t done, some;
        r.first_input = split_inputs;
        split_inputs += r.split_inputs;
        index_row(&index, &r);
        for (done = 0; !error && done < count; done += some) {
            some = count - done < RUN ? count - done : RUN;
            error = read_run(&coded, &r, &index, values, some);
            if (!error) take(to, &r, channel, done, values, some);
        }
        cdf += 4 * (size_t)r.length;
    }
    if (!error && (coded.next != coded.end || coded.state != LOW)) return CSW_CORRUPT;
    return error;
}

typedef struct {
    uint64_t state;
    unsigned char *begin, *place;  /* filled from the end */
} writer;

/* Make room for a symbol of `width` out of 2^bits, and flush a word where there is none. */
static int make_room(writer *w, uint64_t width, int bits)
{
    if (w->state < width << (63 - bits)) return 1;
    if (w->place - w->begin < 4) return 0;
    w->place -= 4;
    store32(w->place, (uint32_t)w->state);
    w->state >>= 32;
    return 1;
}

static csw_error write_symbol(writer *w, const row *r, int64_t value)
{
    const uint32_t last = r->length - 2;
    uint32_t entry = (uint32_t)value, start, width;
    if (value < 0 || value >= last) {
        uint64_t raw = value < 0 ? (uint64_t)(-2 * value - 1) : (uint64_t)(2 * (value - last));
        int groups = 0, group;
        while (raw >> (GROUP * groups)) groups++;
        if (groups > MOST_GROUPS) return CSW_RANGE;
        for (group = groups; group >= 0; group--) { /* read the other way round */
            uint64_t bits = group ? raw >> (GROUP * (group - 1)) & ((1 << GROUP) - 1) : (uint64_t)groups;
            if (!make_room(w, 1, GROUP)) return CSW_ROOM;
            w->state = w->state << GROUP | bits;
        }
        entry = last;
    }
    start = frequency(r, entry);
    width = frequency(r, entry + 1) - start;
    if (!make_room(w, width, PRECISION)) return CSW_ROOM;
    w->state = (w->state / width << PRECISION) + w->state % width + start;
    return CSW_OK;
}

static csw_error writer_end(writer *w, size_t capacity, size_t *written)
{
    if (w->place - w->begin < 8) return CSW_ROOM;
    w->place -= 8;
    store32(w->place, (uint32_t)w->state);
    store32(w->place + 4, (uint32_t)(w->state >> 32));
    *written = (size_t)(w->begin + capacity - w->place);
    return CSW_OK;
}

csw_error csw_encode(const csw_tables *tables, const int32_t *symbols, size_t count, void *out, size_t capacity, size_t *written)
{
    const unsigned char *cdf = first_row(tables) + 4 * (size_t)tables->entries;
    writer w;
    uint32_t channel = tables->channels;
    w.state = LOW;
    w.begin = out;
    w.place = w.begin + capacity;
    while (channel--) { /* the last symbol first, as a decoder runs forward */
        const int32_t *values = symbols + channel * count;
        row r;
        size_t i = count;
        cdf -= 4 * (size_t)load32(tables->bytes + TABLES_HEADER + 4 * (size_t)channel);
        r = row_at(tables, channel, cdf);
        while (i--) {
            csw_error error = write_symbol(&w, &r, (int64_t)values[i] - r.offset);
            if (error) return error;
        }
    }
    return writer_end(&w, capacity, written);
}

/* ---- a row of its own for each symbol ---- */

void csw_row_starts(const csw_tables *tables, uint32_t *starts)
{
    const unsigned char *lengths = tables->bytes + TABLES_HEADER;
    uint32_t row, start = 0;
    for (row = 0; row < tables->channels; row++) {
        starts[row] = start;
        start += load32(lengths + 4 * (size_t)row);
    }
}

static row row_of(const csw_tables *tables, const uint32_t *starts, unsigned char number)
{
    return row_at(tables, number, first_row(tables) + 4 * (size_t)starts[number]);
}

csw_error csw_decode_rows(const csw_tables *tables, const uint32_t *starts, const unsigned char *rows, const void *string,
                          size_t length, size_t count, int32_t *symbols)
{
    reader coded;
    csw_error error = reader_start(&coded, string, length);
    size_t i;
    for (i = 0; !error && i < count; i++) {
        row r = row_of(tables, starts, rows[i]);
        error = read_run(&coded, &r, NULL, symbols + i, 1);
    }
    if (!error && (coded.next != coded.end || coded.state != LOW)) return CSW_CORRUPT;
    return error;
}

csw_error csw_encode_rows(const csw_tables *tables, const uint32_t *starts, const unsigned char *rows, const int32_t *symbols,
                          size_t count, void *out, size_t capacity, size_t *written)
{
    writer w;
    w.state = LOW;
    w.begin = out;
    w.place = w.begin + capacity;
    while (count--) {
        row r = row_of(tables, starts, rows[count]);
        csw_error error = write_symbol(&w, &r, (int64_t)symbols[count] - r.offset);
        if (error) return error;
    }
    return writer_end(&w, capacity, written);
}

/* ---- from a file ---- */

csw_error csw_open(csw_file *file, const csw_codec *codec, const void *bytes, size_t size)
{
    const unsigned char *p = bytes;
    const int hyper = codec->hyper_factor > 1;
    const unsigned char format = codec->levels ? CSW_GAIN_FORMAT : hyper ? CSW_HYPER_FORMAT : CSW_FORMAT;
    const size_t overhead = hyper ? hyper_header(codec) + 4 : CSW_OVERHEAD;
    const uint64_t first = hyper ? 42 : 30; /* where the length of the first string stands */
    uint64_t places, fewest_bits = codec->tables.fewest_bits;
    csw_error error;
    if (size < 4 || memcmp(p, FILE_MAGIC, 4)) return CSW_NO_CSW;
    if (size > 4 && p[4] != format) {
        if (p[4] == CSW_FORMAT) return CSW_NO_HYPERPRIOR;
        return p[4] == CSW_HYPER_FORMAT ? CSW_HYPERPRIOR : p[4] == CSW_GAIN_FORMAT ? CSW_VARIABLE_RATE : CSW_NEWER;
    }
    if (size < overhead || csw_crc32(p, size - 4) != load32(p + size - 4)) return CSW_ALTERED;
    file->hyper_length = hyper ? load32(p + first) : 0;
    file->length = load32(p + (hyper ? first + 4 : first));
    if ((uint64_t)file->hyper_length + file->length != size - overhead || (!hyper && p[5])) return CSW_CONTRADICTS;
    if (hyper && p[5] != 1) return p[5] ? CSW_NEWER : CSW_FLOATING_POINT;
    if (memcmp(p + 14, codec->digest, 16)) return CSW_OTHER_TABLES;
    file->gain = 1.0f;
    if (codec->levels) {
        csw_rate at;
        file->gain = load_float(p + 50);
        if (csw_rate_at(&at, codec, file->gain)) return CSW_CONTRADICTS;
        fewest_bits = at.tables.fewest_bits;
    }
    error = csw_size_of(&file->size, codec, load32(p + 6), load32(p + 10));
    if (error) return error;
    file->hyper_string = p + overhead - 4;
    file->string = file->hyper_string + file->hyper_length;
    file->indexes_crc = hyper ? load32(p + 38) : 0;
    if (hyper && (load32(p + 30) * codec->hyper_factor != file->size.rows || load32(p + 34) * codec->hyper_factor != file->size.columns))
        return CSW_CONTRADICTS;
    /* before memory is taken for a huge picture */
    places = (uint64_t)file->size.rows * file->size.columns / (codec->hyper_factor * codec->hyper_factor);
    if ((8 * (uint64_t)(hyper ? file->hyper_length : file->length) + 64) << 16 < fewest_bits * places) return CSW_TOO_SHORT;
    return CSW_OK;
}

static int is_split(csw_form form) { return form == CSW_SPLIT_INPUTS || form == CSW_SPLIT_INPUTS_FLOAT; }

uint32_t csw_channels(const csw_codec *codec, csw_form form)
{
    uint32_t channel, sum = 1;
    if (!is_split(form)) return codec->channels;
    if (codec->hyper_factor == 1) return codec->tables.split_inputs;
    for (channel = 0; channel < codec->channels; channel++) sum += codec->inputs ? codec->inputs[channel] : 1;
    return sum;
}

size_t csw_value_size(csw_form form) { return form == CSW_SPLIT_INPUTS ? 1 : 4; }

uint64_t csw_read_size(const csw_codec *codec, const csw_size *size, csw_form form)
{
    return (uint64_t)csw_channels(codec, form) * size->rows * size->columns * csw_value_size(form);
}

static void take_run(void *to, const row *r, uint32_t channel, size_t index, const int32_t *values, size_t count)
{
    csw_target *t = to;
    size_t i, at = channel * t->per_channel + index * t->per_index, step = t->per_index;
    switch (t->form) {
    case CSW_SYMBOLS:
        for (i = 0; i < count; i++, at += step) ((int32_t *)t->out)[at] = values[i];
        return;
    case CSW_SYMBOLS_FLOAT:
        for (i = 0; i < count; i++, at += step) ((float *)t->out)[at] = (float)values[i];
        return;
    case CSW_LATENTS:
        for (i = 0; i < count; i++, at += step) ((float *)t->out)[at] = (float)values[i] + r->median;
        return;
    default: break;
    }
    at = r->first_input * t->per_channel + index * step;
    for (i = 0; i < count; i++, at += step) csw_put_split(t, at, r->split_inputs, values[i] + r->shift);
}

void csw_put_split(const csw_target *t, size_t at, uint32_t inputs, int32_t value)
{
    int32_t rest = value < 0 ? -value : value;
    for (; inputs--; at += t->per_channel, rest -= LARGEST) {
        int32_t part = rest < 0 ? 0 : rest > LARGEST ? LARGEST : rest;
        if (value < 0) part = -part;
        if (t->form == CSW_SPLIT_INPUTS) ((signed char *)t->out)[at] = (signed char)part;
        else ((float *)t->out)[at] = (float)part;
    }
}

csw_target csw_layout_of(const csw_codec *codec, const csw_size *size, csw_form form, csw_layout layout, void *out)
{
    csw_target t;
    t.out = out;
    t.form = form;
    t.per_channel = layout == CSW_NCHW ? (size_t)size->rows * size->columns : 1;
    t.per_index = layout == CSW_NCHW ? 1 : csw_channels(codec, form);
    return t;
}

csw_error csw_read(const csw_codec *codec, const csw_file *file, csw_form form, csw_layout layout, int constant, void *out,
                   size_t capacity, void *work, size_t work_capacity)
{
    size_t count = (size_t)file->size.rows * file->size.columns, i;
    csw_target t = csw_layout_of(codec, &file->size, form, layout, out);
    csw_error error;
    if (csw_read_size(codec, &file->size, form) > capacity) return CSW_ROOM;
    if (codec->hyper_factor > 1) error = csw_read_hyper(codec, file, &t, work, work_capacity);
    else error = read_all(&codec->tables, file->string, file->length, count, take_run, &t);
    if (!error && is_split(form))
        for (i = 0; i < count; i++) csw_put_split(&t, (csw_channels(codec, form) - 1) * t.per_channel + i * t.per_index, 1, constant);
    return error;
}

csw_error csw_decode(const csw_tables *tables, const void *string, size_t length, size_t count, int32_t *symbols)
{
    csw_target t;
    t.out = symbols;
    t.form = CSW_SYMBOLS;
    t.per_channel = count;
    t.per_index = 1;
    return read_all(tables, string, length, count, take_run, &t);
}

void csw_cut(uint32_t channels, size_t value_size, const csw_size *size, csw_layout layout, const csw_tile *tile, const void *whole,
             void *out)
{
    const uint32_t outer = layout == CSW_NCHW ? channels : 1;
    const size_t place = value_size * (layout == CSW_NCHW ? 1 : channels), line = place * tile->columns;
    const unsigned char *from = whole;
    unsigned char *to = out;
    uint32_t channel, y;
    for (channel = 0; channel < outer; channel++)
        for (y = 0; y < tile->rows; y++, to += line)
            memcpy(to, from + (((size_t)channel * size->rows + tile->top + y) * size->columns + tile->left) * place, line);
}

/* ---- to a file ---- */

uint64_t csw_write_size(const csw_codec *codec, const csw_size *size)
{
    /* 16 bits for an interval, 4 for the count of groups, 28 for the groups; and what the states hold */
    uint64_t places = (uint64_t)size->rows * size->columns, symbols = codec->channels * places;
    if (codec->hyper_factor > 1) symbols += codec->tables.channels * (places / (codec->hyper_factor * codec->hyper_factor));
    return symbols * 6 + CSW_GAIN_OVERHEAD + 32;
}

void csw_write_start(const csw_codec *codec, const csw_size *size, unsigned char *p)
{
    memcpy(p, FILE_MAGIC, 4);
    p[4] = codec->levels ? CSW_GAIN_FORMAT : codec->hyper_factor > 1 ? CSW_HYPER_FORMAT : CSW_FORMAT;
    p[5] = codec->hyper_factor > 1; /* integer arithmetic */
    store32(p + 6, size->height);
    store32(p + 10, size->width);
    memcpy(p + 14, codec->digest, 16);
}

csw_error csw_write(const csw_codec *codec, const csw_size *size, const int32_t *symbols, void *out, size_t capacity,
                    size_t *written)
{
    unsigned char *p = out;
    size_t length;
    csw_error error;
    if (codec->hyper_factor > 1) return CSW_MIXED;
    if (capacity < CSW_OVERHEAD) return CSW_ROOM;
    error = csw_encode(&codec->tables, symbols, (size_t)size->rows * size->columns, p + HEADER, capacity - CSW_OVERHEAD, &length);
    if (error) return error;
    if (length > UINT32_MAX) return CSW_SIZE;
    memmove(p + HEADER, p + HEADER + (capacity - CSW_OVERHEAD - length), length);
    csw_write_start(codec, size, p);
    store32(p + 30, (uint32_t)length);
    store32(p + HEADER + length, csw_crc32(p, HEADER + length));
    *written = CSW_OVERHEAD + length;
    return CSW_OK;
}

/* ---- pictures ---- */

/* Of a network's input or output at one end: value (channel, y, x) stands at channel * plane + (y * width + x) * pixel. */
typedef struct {
    size_t plane, pixel, width;
} strides;

static strides strides_of(csw_layout layout, size_t channels, size_t height, size_t width)
{
    strides s;
    s.plane = layout == CSW_NCHW ? height * width : 1;
    s.pixel = layout == CSW_NCHW ? 1 : channels;
    s.width = width;
    return s;
}

csw_error csw_to_rgb(const csw_size *size, const csw_tile *tile, csw_pixels pixels, csw_layout layout, const void *decoded,
                     unsigned char *rgb)
{
    const strides s = strides_of(layout, 3, (size_t)tile->rows * size->factor, (size_t)tile->columns * size->factor);
    const size_t top = (size_t)tile->top * size->factor, left = (size_t)tile->left * size->factor;
    size_t end_y = (size_t)tile->end_row * size->factor, end_x = (size_t)tile->end_column * size->factor, y, x, c;
    if (end_y > size->height) end_y = size->height;
    if (end_x > size->width) end_x = size->width;
    for (y = (size_t)tile->first_row * size->factor; y < end_y; y++)
        for (x = (size_t)tile->first_column * size->factor; x < end_x; x++)
            for (c = 0; c < 3; c++) {
                size_t from = c * s.plane + ((y - top) * s.width + x - left) * s.pixel, to = (y * size->width + x) * 3 + c;
                if (pixels == CSW_UINT8) {
                    rgb[to] = ((const unsigned char *)decoded)[from];
                } else {
                    float value = ((const float *)decoded)[from];
                    if (value - value != 0.0f) return CSW_NOT_FINITE;
                    value = (value < 0.0f ? 0.0f : value > 1.0f ? 1.0f : value) * 255.0f;
                    rgb[to] = (unsigned char)round_even(value);
                }
            }
    return CSW_OK;
}

void csw_from_rgb(const csw_size *size, const csw_tile *tile, csw_pixels pixels, csw_layout layout, const unsigned char *rgb,
                  void *out)
{
    const size_t height = (size_t)tile->rows * size->factor, width = (size_t)tile->columns * size->factor;
    const strides s = strides_of(layout, 3, height, width);
    size_t y, x, c;
    for (y = 0; y < height; y++) {
        size_t row_of = (size_t)tile->top * size->factor + y;
        if (row_of >= size->height) row_of = size->height - 1;
        for (x = 0; x < width; x++) {
            size_t column = (size_t)tile->left * size->factor + x;
            if (column >= size->width) column = size->width - 1;
            for (c = 0; c < 3; c++) {
                size_t to = c * s.plane + (y * s.width + x) * s.pixel;
                unsigned char value = rgb[(row_of * size->width + column) * 3 + c];
                if (pixels == CSW_UINT8)
                    ((unsigned char *)out)[to] = value;
                else
                    ((float *)out)[to] = (float)value / 255.0f;
            }
        }
    }
}

csw_error csw_to_symbols(const csw_tables *tables, const csw_size *size, const csw_tile *tile, csw_layout layout,
                         const float *latents, int32_t *symbols)
{
    const strides s = strides_of(layout, tables->channels, tile->rows, tile->columns);
    uint32_t channel, y, x;
    for (channel = 0; channel < tables->channels; channel++) {
        const float median = load_float(tables->bytes + TABLES_HEADER + 4 * (2 * (size_t)tables->channels + channel));
        for (y = tile->first_row; y < tile->end_row; y++)
            for (x = tile->first_column; x < tile->end_column; x++) {
                size_t from = channel * s.plane + ((size_t)(y - tile->top) * s.width + x - tile->left) * s.pixel;
                float centerd = latents[from] - median; /* (an assignment rounds to float on every machine) */
                centerd = centerd / tables->step;
                if (!(centerd > -CSW_BOUND && centerd < CSW_BOUND)) return CSW_NOT_FINITE;
                symbols[((size_t)channel * size->rows + y) * size->columns + x] = round_even(centerd);
            }
    }
    return CSW_OK;
}

void csw_paste(uint32_t channels, const csw_size *size, csw_layout layout, const csw_tile *tile, const float *values, float *latents)
{
    const strides s = strides_of(layout, channels, tile->rows, tile->columns);
    uint32_t channel, y, x;
    for (channel = 0; channel < channels; channel++)
        for (y = tile->first_row; y < tile->end_row; y++)
            for (x = tile->first_column; x < tile->end_column; x++)
                latents[((size_t)channel * size->rows + y) * size->columns + x] =
                    values[channel * s.plane + ((size_t)(y - tile->top) * s.width + x - tile->left) * s.pixel];
}
