/* Files of codecs with a hyperprior, versions 2 and 3 of the format (docs/bitstream.md): hyper-latents, then all latents in one pass,
 * whose CDF indexes and means follow from the hyper-latents by network.c; at a gain of a variable rate (rates.c). */
#include "internal.h"

csw_error csw_codec_hyperprior(csw_codec *codec, const void *gaussians, size_t gaussians_size, const void *network, size_t network_size)
{
    unsigned char parts[26 + 3 * 32];
    csw_error error = csw_tables_open(&codec->gaussians, gaussians, gaussians_size);
    if (!error) error = csw_network_open(&codec->network, network, network_size);
    if (error) return error;
    if (codec->network.hyper_channels != codec->tables.channels || codec->network.thresholds + 1 != codec->gaussians.channels) return CSW_MIXED;
    if (codec->network.factor == 1) return CSW_MIXED;
    codec->hyper_factor = codec->network.factor;
    codec->channels = codec->network.channels;
    codec->input_bits = codec->network.mean_bits;
    memcpy(parts, "codecswap side information", 26);
    memcpy(parts + 26, csw_tables_digest(&codec->tables), 32);
    memcpy(parts + 58, csw_tables_digest(&codec->gaussians), 32);
    memcpy(parts + 90, codec->network.digest, 32);
    csw_sha256(parts, sizeof parts, codec->digest);
    return CSW_OK;
}

/* ---- memory ---- */

typedef struct {
    size_t count, hyper_count;  /* latents of a channel, and hyper-latents */
    int32_t *hyper_symbols, *symbols;
    float *means;
    uint32_t *starts;           /* of the Gaussians' rows */
    unsigned char *indexes, *network;
    uint64_t fixed;             /* bytes of all but the network's, a multiple of 4 */
} memory;

static memory memory_of(const csw_codec *codec, const csw_size *size, void *work)
{
    memory m;
    uint64_t count = (uint64_t)size->rows * size->columns, all = count * codec->channels;
    uint64_t hyper = count / (codec->hyper_factor * codec->hyper_factor) * codec->tables.channels;
    m.fixed = 4 * hyper + 8 * all + 4 * (uint64_t)codec->gaussians.channels + (all + 3) / 4 * 4;
    m.count = (size_t)count;
    m.hyper_count = m.count / (codec->hyper_factor * codec->hyper_factor);
    if (!work) return m;
    m.hyper_symbols = work;
    m.symbols = m.hyper_symbols + hyper;
    m.means = (float *)(void *)(m.symbols + all);
    m.starts = (uint32_t *)(void *)(m.means + all);
    m.indexes = (unsigned char *)(m.starts + codec->gaussians.channels);
    m.network = (unsigned char *)work + m.fixed;
    return m;
}

uint64_t csw_work_size(const csw_codec *codec, const csw_size *size)
{
    const uint32_t factor = codec->hyper_factor;
    if (factor == 1) return 0;
    return memory_of(codec, size, NULL).fixed + csw_predict_size(&codec->network, size->rows / factor, size->columns / factor);
}

uint64_t csw_least_work(const csw_codec *codec, const csw_size *size)
{
    const uint32_t factor = codec->hyper_factor, least = 2 * codec->network.margin + 1;
    uint32_t rows = size->rows / factor, columns = size->columns / factor;
    if (factor == 1) return 0;
    if (rows > least) rows = least;
    if (columns > least) columns = least;
    return memory_of(codec, size, NULL).fixed + csw_predict_size(&codec->network, rows, columns);
}

/* CDF indexes and means, from the hyper-symbols in the memory. */
static csw_error predict(const csw_codec *codec, const csw_rate *rate, const csw_size *size, const memory *m, size_t capacity)
{
    return csw_predict(&codec->network, rate->gain, rate->step, m->hyper_symbols, size->rows / codec->hyper_factor,
                       size->columns / codec->hyper_factor, m->indexes, m->means, m->network, capacity - (size_t)m->fixed);
}

/* ---- from a file ---- */

/* A latent of a file. */
static float latent_of(const csw_codec *codec, float gain, int32_t symbol, unsigned char index, float mean)
{
    float whole = (float)symbol, latent = mean, rest;
    if (!codec->levels) return whole + mean;
    if (symbol) {
        const double size = symbol < 0 ? -(double)symbol : (double)symbol;
        const float inverse = 1.0f / gain, magnitude = (float)(size + (double)csw_offset(codec, gain, index));
        latent = product(symbol < 0 ? -magnitude : magnitude, inverse) + mean;
    }
    rest = latent - whole; /* Python, too, hands on a symbol and what it lacks */
    return whole + rest;
}

/* A latent as an integer in units of 2^-bits, as split inputs are. */
static int32_t in_units(float latent, uint32_t bits)
{
    float value = latent * (float)(1 << bits);
    return value > -CSW_BOUND && value < CSW_BOUND ? round_even(value) : value < 0.0f ? -(int32_t)CSW_BOUND : (int32_t)CSW_BOUND;
}

csw_error csw_read_hyper(const csw_codec *codec, const csw_file *file, const csw_target *t, void *work, size_t capacity)
{
    memory m = memory_of(codec, &file->size, work);
    size_t all = m.count * codec->channels, index, first = 0;
    uint32_t channel;
    csw_rate rate;
    csw_error error = csw_rate_at(&rate, codec, file->gain);
    if (error) return error;
    if (!work || m.fixed > capacity) return CSW_ROOM;
    error = csw_decode(&rate.tables, file->hyper_string, file->hyper_length, m.hyper_count, m.hyper_symbols);
    if (!error) error = predict(codec, &rate, &file->size, &m, capacity);
    if (error) return error;
    if (csw_crc32(m.indexes, all) != file->indexes_crc) return CSW_OTHER_INDEXES;
    csw_row_starts(&codec->gaussians, m.starts);
    error = csw_decode_rows(&codec->gaussians, m.starts, m.indexes, file->string, file->length, all, m.symbols);
    if (error) return error;
    for (channel = 0; channel < codec->channels; channel++) {
        const uint32_t inputs = codec->inputs ? codec->inputs[channel] : 1;
        for (index = 0; index < m.count; index++) {
            const size_t from = channel * m.count + index;
            const int32_t symbol = m.symbols[from];
            const float latent = latent_of(codec, rate.gain, symbol, m.indexes[from], m.means[from]);
            const size_t at = channel * t->per_channel + index * t->per_index;
            switch (t->form) {
            case CSW_SYMBOLS: ((int32_t *)t->out)[at] = symbol; break;
            case CSW_SYMBOLS_FLOAT: ((float *)t->out)[at] = (float)symbol; break;
            case CSW_LATENTS: ((float *)t->out)[at] = latent; break;
            default:
                csw_put_split(t, first * t->per_channel + index * t->per_index, inputs, in_units(latent, codec->input_bits));
            }
        }
        first += inputs;
    }
    return CSW_OK;
}

/* ---- to a file ---- */

csw_error csw_write_hyper(const csw_codec *codec, const csw_size *size, const int32_t *hyper_symbols, const float *latents, void *out,
                          size_t capacity, size_t *written, void *work, size_t work_capacity)
{
    unsigned char *p = out;
    const size_t header = hyper_header(codec), overhead = header + 4;
    memory m = memory_of(codec, size, work);
    size_t all = m.count * codec->channels, i, first, second, room;
    uint32_t gain;
    csw_rate rate;
    csw_error error = csw_rate_at(&rate, codec, codec->gain);
    if (error) return error;
    if (codec->hyper_factor == 1) return CSW_MIXED;
    if (!work || m.fixed > work_capacity || capacity < overhead) return CSW_ROOM;
    memcpy(m.hyper_symbols, hyper_symbols, 4 * m.hyper_count * codec->tables.channels);
    error = predict(codec, &rate, size, &m, work_capacity);
    if (error) return error;
    for (i = 0; i < all; i++) {
        float centered = product(latents[i], codec->gain) - product(m.means[i], codec->gain);
        if (!(centered > -CSW_BOUND && centered < CSW_BOUND)) return CSW_NOT_FINITE;
        m.symbols[i] = round_even(centered);
    }
    csw_row_starts(&codec->gaussians, m.starts);
    room = capacity - overhead;
    error = csw_encode(&rate.tables, m.hyper_symbols, m.hyper_count, p + header, room, &first);
    if (error) return error;
    memmove(p + header, p + header + (room - first), first);
    room -= first;
    error = csw_encode_rows(&codec->gaussians, m.starts, m.indexes, m.symbols, all, p + header + first, room, &second);
    if (error) return error;
    if (first > UINT32_MAX || second > UINT32_MAX) return CSW_SIZE;
    memmove(p + header + first, p + header + first + (room - second), second);
    csw_write_start(codec, size, p);
    store32(p + 30, size->rows / codec->hyper_factor);
    store32(p + 34, size->columns / codec->hyper_factor);
    store32(p + 38, csw_crc32(m.indexes, all));
    store32(p + 42, (uint32_t)first);
    store32(p + 46, (uint32_t)second);
    if (codec->levels) memcpy(&gain, &codec->gain, 4), store32(p + 50, gain);
    store32(p + header + first + second, csw_crc32(p, header + first + second));
    *written = overhead + first + second;
    return CSW_OK;
}
