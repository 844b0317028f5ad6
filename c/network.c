/* The hyper-synthesis in integers (docs/bitstream.md, hyper_decoder.bin): the same results on every machine.
 *
 * Weights and activations have 16 bits, sums fewer than 53. Products are summed in 32 bits as far as the magnitudes of this block of
 * weights and of this layer's activations allow, and those sums in 64 bits: which instructions do it changes nothing. */
#include "internal.h"

#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>
#define X86 1
#endif

enum {
    NETWORK_HEADER = 17,
    LAYER_HEADER = 10,
    MOST_CHANNELS = 1 << 12,
    MOST_THRESHOLDS = 255,
    MOST_FACTOR = 4,
    UNITS = 16,       /* fractional bits of scales, and the most of means */
    SLOPE_ONE = 1 << 16,
    LIMIT = 32767,    /* largest magnitude of an activation */
    OUTPUTS = 4,      /* computed at once */
    STEP = 16,        /* products that the fastest instructions sum at once */
    LARGEST_TILE = 64 /* side in hyper-latents: more would only take memory */
};
static const unsigned char NETWORK_MAGIC[4] = {0x89, 'C', 'S', 'I'};

static int32_t load16(const unsigned char *p) { return (int32_t)((p[0] | (uint32_t)p[1] << 8) ^ 0x8000u) - 0x8000; }

static int64_t load64(const unsigned char *p)
{
    uint64_t value = load32(p) | (uint64_t)load32(p + 4) << 32;
    return value >> 63 ? -(int64_t)~value - 1 : (int64_t)value;
}

static int64_t magnitude(int64_t value) { return value < 0 ? -value : value; }

/* value / 2^shift, rounded, halves upwards; a negative shift multiplies. (C leaves >> of negative numbers to compilers, and all of them
 * shift the sign in.) */
static int64_t scaled(int64_t value, int32_t shift)
{
    return shift > 0 ? (value + ((int64_t)1 << (shift - 1))) >> shift : value * ((int64_t)1 << -shift);
}

/* The largest integer that is not above value / gain, within +-2^62; exact, as a float is an integer times a power of two. */
static int64_t divided(int64_t value, float gain)
{
    const int64_t most = (int64_t)1 << 62;
    uint32_t bits, shift;
    int64_t mantissa, quotient, rest;
    memcpy(&bits, &gain, 4);
    mantissa = (bits & 0x7fffff) | 0x800000;
    shift = 150 - (bits >> 23 & 255); /* from 12 to 35 where the gain is between 2^-12 and 2^12 */
    quotient = value / mantissa;
    rest = value % mantissa;
    if (rest < 0) {
        rest += mantissa;
        quotient--;
    }
    if (quotient > most >> shift) return most;
    if (quotient < -(most >> shift)) return -most;
    quotient = quotient * ((int64_t)1 << shift) + rest * ((int64_t)1 << shift) / mantissa;
    return quotient > most ? most : quotient < -most ? -most : quotient;
}

/* ---- reading ---- */

/* Whether no sum of this output can leave 2^52, or 2^62 once multiplied. */
static int sums_fit(const csw_layer *layer, uint32_t output)
{
    const size_t count = (size_t)layer->inputs * layer->kernel * layer->kernel;
    const unsigned char *weights = layer->weights + 2 * count * output;
    int64_t bias = load64(layer->biases + 8 * (size_t)output), sum = 0;
    int32_t shift = load_signed(layer->shifts + 4 * (size_t)output);
    size_t i;
    if (shift <= -48 || shift >= 48 || bias <= -((int64_t)1 << 52) || bias >= (int64_t)1 << 52) return 0;
    for (i = 0; i < count; i++) sum += magnitude(load16(weights + 2 * i));
    sum = sum * (LIMIT + 1) + magnitude(bias); /* below 2^12 x 25 x 2^30 + 2^52 */
    if (sum >= (int64_t)1 << 52 || (shift < 0 && sum >= (int64_t)1 << (62 + shift))) return 0;
    return layer->slope == SLOPE_ONE || sum < (int64_t)1 << 46; /* it is multiplied by a slope below 2^16 */
}

/* One layer at `p`, of `size` bytes that are left; the bytes that it takes, or 0 where it is damaged. */
static size_t open_layer(csw_layer *layer, const unsigned char *p, size_t size, uint32_t inputs)
{
    size_t weights, whole;
    uint32_t output;
    if (size < LAYER_HEADER) return 0;
    layer->outputs = (uint32_t)load16(p) & 0xffff;
    layer->inputs = (uint32_t)load16(p + 2) & 0xffff;
    layer->kernel = p[4];
    layer->shuffles = p[5];
    layer->slope = load32(p + 6);
    if (!layer->outputs || layer->outputs > MOST_CHANNELS || layer->inputs != inputs || layer->slope > SLOPE_ONE) return 0;
    if ((layer->kernel != 1 && layer->kernel != 3 && layer->kernel != 5) || layer->shuffles > 1) return 0;
    if (layer->shuffles && layer->outputs % 4) return 0;
    weights = 2 * (size_t)layer->outputs * layer->inputs * layer->kernel * layer->kernel; /* below 2^30 */
    whole = LAYER_HEADER + weights + 12 * (size_t)layer->outputs;
    if (size < whole) return 0;
    layer->weights = p + LAYER_HEADER;
    layer->biases = layer->weights + weights;
    layer->shifts = layer->biases + 8 * (size_t)layer->outputs;
    for (output = 0; output < layer->outputs; output++)
        if (!sums_fit(layer, output)) return 0;
    return whole;
}

csw_error csw_network_open(csw_network *network, const void *bytes, size_t size)
{
    const unsigned char *p = bytes, *const end = p + size;
    uint32_t i, channels;
    uint32_t radius = 0; /* of what a result depends on, in quarters of a hyper-latent */
    if (size < NETWORK_HEADER || memcmp(p, NETWORK_MAGIC, 4)) return CSW_NETWORK_DAMAGED;
    if (p[4] != 1) return CSW_NETWORK_NEWER;
    network->fractional_bits = p[5];
    network->count = (uint32_t)load16(p + 6) & 0xffff;
    network->hyper_channels = channels = load32(p + 8);
    network->thresholds = load32(p + 12);
    network->has_means = p[16] != 0;
    network->mean_bits = p[16] ? UNITS + 1 - p[16] : 0;
    if (network->fractional_bits > 16 || !network->count || network->count > CSW_MOST_LAYERS || p[16] > UNITS + 1) return CSW_NETWORK_DAMAGED;
    if (!channels || channels > MOST_CHANNELS || !network->thresholds || network->thresholds > MOST_THRESHOLDS) return CSW_NETWORK_DAMAGED;
    if (size < NETWORK_HEADER + 8 * (size_t)channels + 8 * (size_t)network->thresholds) return CSW_NETWORK_DAMAGED;
    csw_sha256(bytes, size, network->digest);
    network->medians = p + NETWORK_HEADER;
    network->limits = network->medians + 8 * (size_t)channels;
    for (i = 0; i < channels; i++) {
        int64_t median = load64(network->medians + 8 * (size_t)i);
        if (median <= -((int64_t)1 << 40) || median >= (int64_t)1 << 40) return CSW_NETWORK_DAMAGED;
    }
    for (i = 1; i < network->thresholds; i++)
        if (load64(network->limits + 8 * (size_t)i) < load64(network->limits + 8 * (size_t)i - 8)) return CSW_NETWORK_DAMAGED;
    network->factor = 1;
    p = network->limits + 8 * (size_t)network->thresholds;
    for (i = 0; i < network->count; i++) {
        csw_layer *layer = &network->layers[i];
        size_t taken = open_layer(layer, p, (size_t)(end - p), channels);
        if (!taken) return CSW_NETWORK_DAMAGED;
        p += taken;
        radius += layer->kernel / 2 * (MOST_FACTOR / network->factor);
        channels = layer->outputs;
        if (layer->shuffles) {
            channels /= 4;
            network->factor *= 2;
            if (network->factor > MOST_FACTOR) return CSW_NETWORK_DAMAGED;
        }
    }
    if (p != end || radius > 3 * MOST_FACTOR || (network->has_means && channels % 2)) return CSW_NETWORK_DAMAGED;
    network->channels = network->has_means ? channels / 2 : channels;
    network->margin = (radius + MOST_FACTOR - 1) / MOST_FACTOR;
    return CSW_OK;
}

/* ---- memory ---- */

/* Channels of an input in memory: a multiple of what any instruction takes at once, with zeros at the end. */
static uint32_t width_of(const csw_layer *layer) { return (layer->inputs + STEP - 1) / STEP * STEP; }

static size_t padded_count(const csw_layer *layer, size_t rows, size_t columns)
{
    return (rows + layer->kernel - 1) * (columns + layer->kernel - 1) * width_of(layer);
}

/* Bytes of a block of weights, and of the inputs of even and of odd layers, for a tile. */
static void needs(const csw_network *network, size_t rows, size_t columns, uint64_t bytes[3])
{
    uint32_t i;
    bytes[0] = bytes[1] = bytes[2] = 0;
    for (i = 0; i < network->count; i++) {
        const csw_layer *layer = &network->layers[i];
        uint64_t block = 2 * OUTPUTS * (uint64_t)width_of(layer) * layer->kernel * layer->kernel;
        uint64_t input = 2 * (uint64_t)padded_count(layer, rows, columns);
        if (block > bytes[0]) bytes[0] = block;
        if (input > bytes[1 + i % 2]) bytes[1 + i % 2] = input;
        rows <<= layer->shuffles;
        columns <<= layer->shuffles;
    }
}

uint64_t csw_predict_size(const csw_network *network, uint32_t rows, uint32_t columns)
{
    uint64_t bytes[3];
    needs(network, rows < LARGEST_TILE ? rows : LARGEST_TILE, columns < LARGEST_TILE ? columns : LARGEST_TILE, bytes);
    return bytes[0] + bytes[1] + bytes[2];
}

/* ---- sums ---- */

/* What is multiplied: of `lines` rows of the kernel `count` products each; four outputs' weights lie `output` apart, their lines
 * `weight_line`; the values at `a` and at `b` have lines that are `value_line` apart. */
typedef struct {
    size_t lines, count, output, weight_line, value_line;
} extent;

/* Eight sums: of four outputs with the values at `a`, then with those at `b`. */
typedef void (*dots)(const extent *e, const int16_t *weights, const int16_t *a, const int16_t *b, int32_t sums[8]);

/* Add the products from `begin` on. */
static void add_dots(const extent *e, size_t begin, const int16_t *weights, const int16_t *a, const int16_t *b, int32_t sums[8])
{
    size_t line, i;
    int k;
    for (line = 0; line < e->lines; line++, a += e->value_line, b += e->value_line)
        for (k = 0; k < OUTPUTS; k++) {
            const int16_t *w = weights + k * e->output + line * e->weight_line;
            int32_t one = 0, two = 0;
            for (i = begin; i < e->count; i++) {
                one += (int32_t)w[i] * a[i];
                two += (int32_t)w[i] * b[i];
            }
            sums[k] += one;
            sums[4 + k] += two;
        }
}

#ifdef X86
#define MULTIPLY(k, ADD, MADD, LOAD)    \
    w = LOAD(line + (k) * stride + i);  \
    one##k = ADD(one##k, MADD(w, x));   \
    two##k = ADD(two##k, MADD(w, y));

#define SUMS(LANES, VECTOR, LOAD, ADD, MADD)                                                                                 \
    for (row = 0; row < e->lines; row++) {                                                                                   \
        const int16_t *line = weights + row * e->weight_line, *at = a + row * e->value_line, *bt = b + row * e->value_line;   \
        for (i = 0; i < whole; i += (LANES)) {                                                                               \
            VECTOR x = LOAD(at + i), y = LOAD(bt + i), w;                                                                    \
            MULTIPLY(0, ADD, MADD, LOAD) MULTIPLY(1, ADD, MADD, LOAD) MULTIPLY(2, ADD, MADD, LOAD) MULTIPLY(3, ADD, MADD, LOAD) \
        }                                                                                                                    \
    }

#define LOAD_128(p) _mm_loadu_si128((const __m128i *)(const void *)(p))
#define LOAD_256(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))

static void dots_sse2(const extent *e, const int16_t *weights, const int16_t *a, const int16_t *b, int32_t sums[8])
{
    __m128i one0 = _mm_setzero_si128(), one1 = one0, one2 = one0, one3 = one0, two0 = one0, two1 = one0, two2 = one0, two3 = one0;
    const size_t stride = e->output, whole = e->count / 8 * 8;
    int32_t parts[8][4];
    size_t row, i;
    int k;
    SUMS(8, __m128i, LOAD_128, _mm_add_epi32, _mm_madd_epi16)
#define STORE(k, value) _mm_storeu_si128((__m128i *)(void *)parts[k], value);
    STORE(0, one0) STORE(1, one1) STORE(2, one2) STORE(3, one3) STORE(4, two0) STORE(5, two1) STORE(6, two2) STORE(7, two3)
#undef STORE
    for (k = 0; k < 8; k++) sums[k] = parts[k][0] + parts[k][1] + parts[k][2] + parts[k][3];
    if (whole < e->count) add_dots(e, whole, weights, a, b, sums);
}

__attribute__((target("avx2"))) static void dots_avx2(const extent *e, const int16_t *weights, const int16_t *a, const int16_t *b,
                                                      int32_t sums[8])
{
    __m256i one0 = _mm256_setzero_si256(), one1 = one0, one2 = one0, one3 = one0;
    __m256i two0 = one0, two1 = one0, two2 = one0, two3 = one0;
    __m256i lower, upper;
    const size_t stride = e->output, whole = e->count / 16 * 16;
    size_t row, i;
    SUMS(16, __m256i, LOAD_256, _mm256_add_epi32, _mm256_madd_epi16)
    lower = _mm256_hadd_epi32(_mm256_hadd_epi32(one0, one1), _mm256_hadd_epi32(one2, one3));
    upper = _mm256_hadd_epi32(_mm256_hadd_epi32(two0, two1), _mm256_hadd_epi32(two2, two3));
    _mm_storeu_si128((__m128i *)(void *)sums, _mm_add_epi32(_mm256_castsi256_si128(lower), _mm256_extracti128_si256(lower, 1)));
    _mm_storeu_si128((__m128i *)(void *)(sums + 4), _mm_add_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1)));
    if (whole < e->count) add_dots(e, whole, weights, a, b, sums);
}
#else
static void dots_anywhere(const extent *e, const int16_t *weights, const int16_t *a, const int16_t *b, int32_t sums[8])
{
    memset(sums, 0, 8 * sizeof *sums);
    add_dots(e, 0, weights, a, b, sums);
}
#endif

static dots fastest_dots(void)
{
#ifdef X86
    return __builtin_cpu_supports("avx2") ? dots_avx2 : dots_sse2;
#else
    return dots_anywhere;
#endif
}

/* ---- a layer ---- */

/* The input of a layer: (rows + kernel - 1) x (columns + kernel - 1) x channels, with zeros around. */
typedef struct {
    int16_t *values;
    uint32_t rows, columns, channels, edge;
    int32_t largest; /* magnitude of any value */
} plane;

static int16_t *plane_at(const plane *p, size_t row, size_t column)
{
    return p->values + ((row + p->edge) * (p->columns + 2 * (size_t)p->edge) + column + p->edge) * p->channels;
}

static plane plane_of(const csw_layer *layer, void *memory, uint32_t rows, uint32_t columns)
{
    plane p;
    p.values = memory;
    p.rows = rows;
    p.columns = columns;
    p.channels = width_of(layer);
    p.edge = layer->kernel / 2;
    p.largest = 0;
    memset(memory, 0, 2 * padded_count(layer, rows, columns));
    return p;
}

/* Where the last layer's results go: the whole picture's CDF indexes and means, of which a tile fills a part. */
typedef struct {
    unsigned char *indexes;
    float *means;
    size_t rows, columns;  /* of the whole picture, in latents */
    int64_t top, left;     /* of the tile in it */
    uint32_t first_row, end_row, first_column, end_column;  /* the part of the tile that is used, in latents */
    uint32_t channels;
    double unit;           /* of a mean */
    uint32_t step;         /* the first one of a binary search in the limits, a power of two */
    int64_t limits[MOST_THRESHOLDS];
} results;

static void put_result(const results *to, uint32_t channel, uint32_t row, uint32_t column, int64_t value)
{
    const uint32_t one = channel < to->channels ? channel : channel - to->channels;
    const size_t at = (one * to->rows + (size_t)(to->top + row)) * to->columns + (size_t)(to->left + column);
    if (row < to->first_row || row >= to->end_row || column < to->first_column || column >= to->end_column) return;
    if (channel < to->channels) { /* the CDF index: how many limits are below the scale */
        uint32_t index = 0, step;
        for (step = to->step; step; step /= 2) index += to->limits[index + step - 1] < value ? step : 0;
        to->indexes[at] = (unsigned char)index;
    } else {
        to->means[at] = (float)((double)value * to->unit);
    }
}

/* Four outputs' weights, from the order of the file into (output, row, column, input), zeros where there are fewer. */
static void lay_out(const csw_layer *layer, uint32_t first, int16_t *block)
{
    const size_t taps = (size_t)layer->kernel * layer->kernel, width = width_of(layer);
    uint32_t k, input;
    size_t tap;
    memset(block, 0, 2 * OUTPUTS * taps * width);
    for (k = 0; k < OUTPUTS && first + k < layer->outputs; k++, block += taps * width) {
        const unsigned char *from = layer->weights + 2 * taps * layer->inputs * (first + k);
        for (input = 0; input < layer->inputs; input++)
            for (tap = 0; tap < taps; tap++, from += 2) block[tap * width + input] = (int16_t)load16(from);
    }
}

/* How many products of a block's weights and of inputs up to `largest` can be summed in 32 bits, whatever the inputs' signs: all of
 * an output (`lines` rows of the kernel), or of a row, a half of it, a quarter, ... */
static size_t longest(const int16_t *block, size_t lines, size_t line, int32_t largest)
{
    size_t length = lines * line;
    for (;;) {
        const size_t within = length < line ? line : length; /* parts do not go across rows */
        int64_t worst = 0;
        size_t row, begin, i;
        for (row = 0; row < OUTPUTS * lines * line; row += within)
            for (begin = 0; begin < within; begin += length) {
                int64_t sum = 0;
                for (i = begin; i < within && i < begin + length; i++) sum += magnitude(block[row + i]);
                if (sum > worst) worst = sum;
            }
        if (worst * largest <= INT32_MAX || length == 1) return length;
        if (length > line) length = line;
        else length = length > 2 * STEP ? (length / 2 + STEP - 1) / STEP * STEP : (length + 1) / 2;
    }
}

/* What happens to four outputs' sums. */
typedef struct {
    int64_t bias[OUTPUTS], slope;
    int32_t shift[OUTPUTS];
} finish;

static finish finish_of(const csw_layer *layer, uint32_t first)
{
    finish f;
    uint32_t k;
    f.slope = layer->slope;
    for (k = 0; k < OUTPUTS; k++) {
        const size_t output = first + k < layer->outputs ? first + k : first;
        f.bias[k] = load64(layer->biases + 8 * output);
        f.shift[k] = load_signed(layer->shifts + 4 * output);
    }
    return f;
}

static int64_t finished(const finish *f, uint32_t k, int64_t sum)
{
    sum += f->bias[k];
    if (f->slope != SLOPE_ONE) sum = (sum > 0 ? sum : 0) + scaled((sum < 0 ? sum : 0) * f->slope, 16); /* one of them is 0 */
    return scaled(sum, f->shift[k]);
}

/* One layer over a tile; `next` is NULL for the last one, whose results go to `to`. */
static void run_layer(const csw_layer *layer, const plane *from, plane *next, const results *to, int16_t *block, dots sum_products)
{
    const size_t line = (size_t)layer->kernel * from->channels;
    const size_t stride = (from->columns + 2 * (size_t)from->edge) * from->channels;
    const uint32_t more = layer->shuffles;
    uint32_t first_row = 0, end_row = from->rows, first_column = 0, end_column = from->columns, first, y, x, turn;
    extent e;
    e.output = line * layer->kernel;
    e.weight_line = line;
    e.value_line = stride;
    if (!next) { /* what is not used need not be computed */
        first_row = to->first_row >> more;
        end_row = (to->end_row + more) >> more;
        first_column = to->first_column >> more;
        end_column = (to->end_column + more) >> more;
    }
    for (first = 0; first < layer->outputs; first += OUTPUTS) {
        const uint32_t count = layer->outputs - first < OUTPUTS ? layer->outputs - first : OUTPUTS;
        const finish f = finish_of(layer, first);
        size_t length, begin, row;
        lay_out(layer, first, block);
        length = longest(block, layer->kernel, line, from->largest);
        e.lines = length > line ? layer->kernel : 1;
        for (y = first_row; y < end_row; y++)
            for (x = first_column; x < end_column; x += 2) {
                const int16_t *a = plane_at(from, y, x) - from->edge * (stride + from->channels);
                const int16_t *b = x + 1 < end_column ? a + from->channels : a;
                int64_t sums[8] = {0};
                for (row = 0; row < layer->kernel; row += e.lines)
                    for (begin = 0; begin < line; begin += e.count) {
                        const size_t at = row * stride + begin;
                        int32_t some[8];
                        e.count = line - begin < length ? line - begin : length;
                        sum_products(&e, block + row * line + begin, a + at, b + at, some);
                        for (turn = 0; turn < 8; turn++) sums[turn] += some[turn];
                    }
                for (turn = 0; turn < 8; turn++) {
                    const uint32_t k = turn % 4, output = first + k, column = x + turn / 4;
                    int64_t value;
                    uint32_t channel = output, down = y, right = column;
                    if (k >= count || column >= end_column) continue;
                    value = finished(&f, k, sums[turn]);
                    if (more) {
                        channel = output / 4;
                        down = 2 * y + output % 4 / 2;
                        right = 2 * column + output % 2;
                    }
                    if (!next) {
                        put_result(to, channel, down, right, value);
                        continue;
                    }
                    value = value < -LIMIT ? -LIMIT : value > LIMIT ? LIMIT : value;
                    plane_at(next, down, right)[channel] = (int16_t)value;
                    if (magnitude(value) > next->largest) next->largest = (int32_t)magnitude(value);
                }
            }
    }
}

/* ---- a picture ---- */

static void fill_first(const csw_network *network, int64_t step, plane *to, const int32_t *symbols, uint32_t rows, uint32_t columns,
                       uint32_t top, uint32_t left)
{
    uint32_t channel, y, x;
    for (channel = 0; channel < network->hyper_channels; channel++) {
        const int64_t median = load64(network->medians + 8 * (size_t)channel);
        for (y = 0; y < to->rows; y++)
            for (x = 0; x < to->columns; x++) {
                int64_t value = symbols[((size_t)channel * rows + top + y) * columns + left + x];
                value = value * step + median;
                value = value < -LIMIT ? -LIMIT : value > LIMIT ? LIMIT : value;
                plane_at(to, y, x)[channel] = (int16_t)value;
                if (magnitude(value) > to->largest) to->largest = (int32_t)magnitude(value);
            }
    }
}

csw_error csw_predict(const csw_network *network, float gain, uint32_t step, const int32_t *symbols, uint32_t rows, uint32_t columns,
                      unsigned char *indexes, float *means, void *work, size_t capacity)
{
    const dots sum_products = fastest_dots();
    uint32_t side = LARGEST_TILE, index, count;
    csw_size size;
    uint64_t bytes[3];
    results to;
    size.rows = rows;
    size.columns = columns;
    size.margin = network->margin;
    for (;; side--) { /* the largest tile that there is memory for */
        uint32_t high = side < rows ? side : rows, wide = side < columns ? side : columns;
        if (!(count = csw_tiles(&size, side, side))) return CSW_ROOM;
        needs(network, high, wide, bytes);
        if (bytes[0] + bytes[1] + bytes[2] <= capacity) break;
    }
    to.indexes = indexes;
    to.means = means;
    to.channels = network->channels;
    to.unit = 1.0 / (double)(1 << network->mean_bits);
    for (to.step = 1; 2 * to.step - 1 < network->thresholds; to.step *= 2) {}
    for (index = 0; index < MOST_THRESHOLDS; index++)
        to.limits[index] = index < network->thresholds ? divided(load64(network->limits + 8 * (size_t)index), gain) : INT64_MAX;
    to.rows = (size_t)rows * network->factor;
    to.columns = (size_t)columns * network->factor;
    if (!network->has_means && means) memset(means, 0, network->channels * to.rows * to.columns * sizeof *means); /* all bits 0 is 0.0 */
    for (index = 0; index < count; index++) {
        csw_tile tile = csw_tile_at(&size, side, side, index);
        unsigned char *memory = work;
        uint32_t i, high = tile.rows, wide = tile.columns;
        plane from = plane_of(network->layers, memory + bytes[0], high, wide), next;
        to.top = (int64_t)tile.top * network->factor;
        to.left = (int64_t)tile.left * network->factor;
        to.first_row = (tile.first_row - tile.top) * network->factor;
        to.end_row = (tile.end_row - tile.top) * network->factor;
        to.first_column = (tile.first_column - tile.left) * network->factor;
        to.end_column = (tile.end_column - tile.left) * network->factor;
        fill_first(network, step ? step : (int64_t)1 << network->fractional_bits, &from, symbols, rows, columns, tile.top, tile.left);
        for (i = 0; i < network->count; i++) {
            const csw_layer *layer = &network->layers[i];
            const int last = i + 1 == network->count;
            high <<= layer->shuffles;
            wide <<= layer->shuffles;
            if (!last) next = plane_of(layer + 1, memory + bytes[0] + (i % 2 ? 0 : bytes[1]), high, wide);
            run_layer(layer, &from, last ? NULL : &next, &to, work, sum_products);
            if (!last) from = next;
        }
    }
    return CSW_OK;
}
