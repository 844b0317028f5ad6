/* Levels of a codec with variable rate, rates.bin (docs/bitstream.md): gains, steps and tables of the hyper-latents, offsets of symbols. */
#include "internal.h"

enum { RATES_HEADER = 52 };
static const unsigned char RATES_MAGIC[4] = {0x89, 'C', 'S', 'R'};

/* Numbers behind the header: gains, steps, then offsets, for each level as many as there are CDFs. */
static float number_at(const csw_codec *codec, size_t index) { return load_float(codec->rates + RATES_HEADER + 4 * index); }

float csw_level_gain(const csw_codec *codec, uint32_t level) { return codec->levels ? number_at(codec, level) : 1.0f; }

static float offset_at(const csw_codec *codec, size_t level, size_t index)
{
    return number_at(codec, codec->levels + codec->steps + level * codec->gaussians.channels + index);
}

csw_error csw_codec_rates(csw_codec *codec, const void *bytes, size_t size)
{
    static const char text[] = "codecswap side information";
    const unsigned char *p = bytes;
    const uint32_t levels = size < RATES_HEADER ? 0 : load32(p + 8), steps = size < RATES_HEADER ? 0 : load32(p + 12);
    size_t numbers, place, i;
    unsigned char digest[32];
    csw_tables tables;
    sha s;
    if (codec->hyper_factor == 1 || codec->levels) return CSW_MIXED;
    if (size < RATES_HEADER || memcmp(p, RATES_MAGIC, 4)) return CSW_RATES_DAMAGED;
    if (p[4] != 1) return CSW_RATES_NEWER;
    if (p[5] || p[6] || p[7] || !levels || levels > CSW_MOST_LEVELS || (steps != 1 && steps != levels)) return CSW_RATES_DAMAGED;
    csw_sha256(p + RATES_HEADER, size - RATES_HEADER, digest);
    if (memcmp(digest, p + 20, 32)) return CSW_RATES_DAMAGED;
    if (load32(p + 16) != codec->gaussians.channels) return CSW_MIXED;
    numbers = levels + steps + (size_t)levels * codec->gaussians.channels;
    place = RATES_HEADER + 4 * numbers;
    if (size < place) return CSW_RATES_DAMAGED;
    for (i = 0; i < numbers; i++) {
        const float value = load_float(p + RATES_HEADER + 4 * i);
        const int offset = i >= levels + steps;
        if (offset ? !(value >= -1.0f && value <= 1.0f) : !(value > 1.0f / 4096.0f && value < 4096.0f)) return CSW_RATES_DAMAGED;
        if (i && i < levels && value <= load_float(p + RATES_HEADER + 4 * i - 4)) return CSW_RATES_DAMAGED;
    }
    csw_sha_start(&s);
    csw_sha_add(&s, (const unsigned char *)text, sizeof text - 1);
    for (i = 1; i < steps; i++) { /* the tables of all steps but the last, which are entropy.bin */
        const size_t taken = csw_tables_size(p + place, size - place);
        if (!taken || csw_tables_open(&tables, p + place, taken) || tables.channels != codec->tables.channels) return CSW_RATES_DAMAGED;
        csw_sha_add(&s, csw_tables_digest(&tables), 32);
        place += taken;
    }
    if (place != size) return CSW_RATES_DAMAGED;
    csw_sha_add(&s, csw_tables_digest(&codec->tables), 32);
    csw_sha_add(&s, csw_tables_digest(&codec->gaussians), 32);
    csw_sha_add(&s, codec->network.digest, 32);
    csw_sha_add(&s, p + RATES_HEADER, 4 * (size_t)(levels + steps));
    csw_sha_end(&s, codec->digest);
    codec->rates = p;
    codec->levels = levels;
    codec->steps = steps;
    codec->last = codec->tables;
    return csw_codec_gain(codec, csw_level_gain(codec, levels - 1));
}

csw_error csw_codec_gain(csw_codec *codec, float gain)
{
    csw_rate rate;
    csw_error error = codec->levels ? csw_rate_at(&rate, codec, gain) : CSW_NO_GAIN;
    if (error) return error;
    codec->tables = rate.tables;
    codec->gain = gain;
    return CSW_OK;
}

csw_error csw_rate_at(csw_rate *rate, const csw_codec *codec, float gain)
{
    const unsigned char *p = codec->rates;
    uint32_t step = 0, i;
    csw_error error;
    rate->tables = codec->tables;
    rate->gain = 1.0f;
    rate->step = 0;
    if (!codec->levels) return CSW_OK;
    if (!(gain >= csw_level_gain(codec, 0) && gain <= csw_level_gain(codec, codec->levels - 1))) return CSW_NO_GAIN;
    /* the level that is closest by ratio: products of two floats are exact */
    while (step + 1 < codec->steps && (double)gain * gain > (double)number_at(codec, step) * number_at(codec, step + 1)) step++;
    rate->tables = codec->last;
    if (step + 1 < codec->steps) {
        p += RATES_HEADER + 4 * (codec->levels + codec->steps + (size_t)codec->levels * codec->gaussians.channels);
        for (i = 0; i < step; i++) p += csw_tables_size(p, SIZE_MAX);
        error = csw_tables_open(&rate->tables, p, csw_tables_size(p, SIZE_MAX));
        if (error) return error;
    }
    rate->tables.step = number_at(codec, codec->levels + step);
    rate->gain = gain;
    rate->step = (uint32_t)round_even(rate->tables.step * (float)(1 << codec->network.fractional_bits));
    if (!rate->step) rate->step = 1;
    return CSW_OK;
}

float csw_offset(const csw_codec *codec, float gain, unsigned char index)
{
    uint32_t level = codec->levels - 1;
    float lower, share, offset;
    while (csw_level_gain(codec, level) > gain) level--;
    offset = offset_at(codec, level, index);
    if (level + 1 == codec->levels) return offset;
    lower = csw_level_gain(codec, level);
    share = (gain - lower) / (csw_level_gain(codec, level + 1) - lower);
    return offset + product(share, offset_at(codec, level + 1, index) - offset);
}
