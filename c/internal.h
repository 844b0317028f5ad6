/* What the library's files share; not for users. */
#ifndef CSW_INTERNAL_H
#define CSW_INTERNAL_H

#include "codecswap.h"

#include <string.h>

#define CSW_BOUND 16777216.0f /* beyond it a float holds no consecutive integers */

static inline uint32_t load32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline void store32(unsigned char *p, uint32_t value)
{
    p[0] = (unsigned char)value;
    p[1] = (unsigned char)(value >> 8);
    p[2] = (unsigned char)(value >> 16);
    p[3] = (unsigned char)(value >> 24);
}

static inline int32_t load_signed(const unsigned char *p)
{
    uint32_t value = load32(p);
    return value >> 31 ? -(int32_t)~value - 1 : (int32_t)value;
}

/* Halves to even, whatever the rounding mode; |value| < 2^31. */
static inline int32_t round_even(float value)
{
    int32_t whole = (int32_t)value;
    float rest = value - (float)whole;
    if (rest > 0.5f || (rest == 0.5f && whole & 1)) return whole + 1;
    if (rest < -0.5f || (rest == -0.5f && whole & 1)) return whole - 1;
    return whole;
}

static inline float load_float(const unsigned char *p)
{
    uint32_t bits = load32(p);
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* A product that is rounded to float on every machine: compilers may not fuse it with a sum. */
static inline float product(float a, float b)
{
    volatile float rounded = a * b;
    return rounded;
}

/* SHA-256, piece by piece. */
typedef struct {
    uint32_t h[8];
    unsigned char block[64];
    uint64_t size;
} sha;

void csw_sha_start(sha *s);
void csw_sha_add(sha *s, const unsigned char *p, size_t size);
void csw_sha_end(sha *s, unsigned char digest[32]);

/* Bytes of the entropy.bin that begins at `bytes`, of which `size` are there; 0 where that is too few. */
size_t csw_tables_size(const unsigned char *bytes, size_t size);

/* As zlib's. */
uint32_t csw_crc32(const void *bytes, size_t size);

/* Where values go: value (channel, index) stands at channel * per_channel + index * per_index. */
typedef struct {
    void *out;
    csw_form form;
    size_t per_channel, per_index;
} csw_target;

csw_target csw_layout_of(const csw_codec *codec, const csw_size *size, csw_form form, csw_layout layout, void *out);

/* One latent, as so many split inputs, the first at `at`: each takes up to 127 of its magnitude. */
void csw_put_split(const csw_target *t, size_t at, uint32_t inputs, int32_t value);

/* What csw_read() does for a file of version 2 or 3, but for the constant split input. */
csw_error csw_read_hyper(const csw_codec *codec, const csw_file *file, const csw_target *t, void *work, size_t capacity);

/* Bytes before the strings of a file of version 2 or 3. */
static inline size_t hyper_header(const csw_codec *codec)
{
    return (codec->levels ? CSW_GAIN_OVERHEAD : CSW_HYPER_OVERHEAD) - 4;
}

/* What depends on the gain: tables and step of the hyper-latents. */
typedef struct {
    csw_tables tables;
    float gain;
    uint32_t step; /* in units of the network */
} csw_rate;

/* Of a codec of one rate, its own, whatever the gain. Returns CSW_OK or CSW_NO_GAIN. */
csw_error csw_rate_at(csw_rate *rate, const csw_codec *codec, float gain);

/* What is added to the magnitude of a symbol that is not 0, by its CDF index. */
float csw_offset(const csw_codec *codec, float gain, unsigned char index);

/* The first 30 bytes of a file. */
void csw_write_start(const csw_codec *codec, const csw_size *size, unsigned char *p);

#endif
