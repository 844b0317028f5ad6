/* What codecswap.c and hyperprior.c share; not for users. */
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

/* What csw_read() does for a file of version 2, but for the constant split input. */
csw_error csw_read_hyper(const csw_codec *codec, const csw_file *file, const csw_target *t, void *work, size_t capacity);

/* The first 30 bytes of a file. */
void csw_write_start(const csw_codec *codec, const csw_size *size, unsigned char *p);

#endif
