/* The library as a process: requests on standard input, answers on standard output, numbers little-endian on any machine.
 * A request is an operation, six arguments, the codec's factor and margin, and the lengths of tables, Gaussians, network, rates and
 * data (14 x 32 bits), then those five. A gain is an argument, the bits of a float.
 * An answer is an error and a length (2 x 32 bits), then bytes. Every buffer has exactly its size, so that AddressSanitizer and
 * valgrind see a step beyond it. Memory that runs out ends the process. */
#include "codecswap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TABLES = 1, READ, WRITE, TILES, CUT, TO_RGB, FROM_RGB, TO_SYMBOLS, SHA256, ENCODE, DECODE, PREDICT, WRITE_HYPER, PASTE };

static void *take(size_t size)
{
    void *memory = malloc(size ? size : 1);
    if (!memory) exit(3);
    return memory;
}

static uint32_t get(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void put(unsigned char *p, uint32_t value)
{
    int i;
    for (i = 0; i < 4; i++) p[i] = (unsigned char)(value >> 8 * i);
}

/* Values of 32 bits, between the file's order and the machine's; in place. */
static void turn(void *values, size_t size)
{
    unsigned char *p = values;
    for (; size >= 4; size -= 4, p += 4) {
        uint32_t value;
        memcpy(&value, p, 4);
        put(p, value);
    }
}

static void turn_back(void *values, size_t size)
{
    unsigned char *p = values;
    for (; size >= 4; size -= 4, p += 4) {
        uint32_t value = get(p);
        memcpy(p, &value, 4);
    }
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static void answer(csw_error error, const void *bytes, size_t size)
{
    unsigned char head[8];
    put(head, (uint32_t)error);
    put(head + 4, error ? 0 : (uint32_t)size);
    fwrite(head, 1, 8, stdout);
    if (!error) fwrite(bytes, 1, size, stdout);
    fflush(stdout);
    if (!csw_error_text(error)[0]) exit(4);
}

/* As much memory as is of use, or as little as is enough. */
static size_t work_of(const csw_codec *codec, const csw_size *size, int least)
{
    return (size_t)(least ? csw_least_work(codec, size) : csw_work_size(codec, size));
}

static void read_file(const csw_codec *codec, const uint32_t *a, const void *data, size_t size, int cut)
{
    csw_form form = (csw_form)a[0];
    csw_layout layout = (csw_layout)a[1];
    csw_file file;
    csw_error error = csw_open(&file, codec, data, size);
    unsigned char *out, *part;
    void *work;
    size_t bytes, room;
    if (error) {
        answer(error, NULL, 0);
        return;
    }
    bytes = (size_t)csw_read_size(codec, &file.size, form);
    out = take(bytes + 8);
    part = take(bytes);
    room = work_of(codec, &file.size, a[4] & 1) - (a[3] == 2);
    work = take(room);
    error = csw_read(codec, &file, form, layout, (int)a[2], part, bytes - (a[3] == 1), work, room);
    free(work);
    put(out, file.size.height);
    put(out + 4, file.size.width);
    if (!error && cut) {
        csw_tile tile = csw_tile_at(&file.size, a[4], a[5], 1);
        unsigned char *whole = part;
        bytes = csw_channels(codec, form) * csw_value_size(form) * tile.rows * tile.columns;
        part = take(bytes);
        csw_cut(csw_channels(codec, form), csw_value_size(form), &file.size, layout, &tile, whole, part);
        free(whole);
    }
    if (!error) {
        if (csw_value_size(form) == 4) turn(part, bytes);
        memcpy(out + 8, part, bytes);
    }
    answer(error, out, bytes + 8);
    free(part);
    free(out);
}

static void write_file(const csw_codec *codec, const uint32_t *a, void *data, size_t size, int hyper)
{
    csw_size picture;
    csw_error error = csw_size_of(&picture, codec, a[0], a[1]);
    size_t capacity = a[2] ? a[2] : (size_t)csw_write_size(codec, &picture), written = 0, room = hyper ? work_of(codec, &picture, a[3] & 1) : 0;
    unsigned char *out = take(capacity);
    void *work = take(room);
    turn_back(data, size);
    if (!error && !hyper) error = csw_write(codec, &picture, data, out, capacity, &written);
    if (!error && hyper) { /* hyper-symbols, then latents */
        const csw_size small = csw_hyper_size(codec, &picture);
        const int32_t *symbols = data;
        const float *latents = (const float *)(const void *)(symbols + (size_t)small.rows * small.columns * codec->tables.channels);
        error = csw_write_hyper(codec, &picture, symbols, latents, out, capacity, &written, work, room);
    }
    answer(error, out, written);
    free(work);
    free(out);
}

static void predict(const csw_network *network, const uint32_t *a, void *data, size_t size)
{
    const uint32_t side = a[2] ? a[2] : UINT32_MAX; /* of the tiles that there is memory for */
    const size_t count = (size_t)a[0] * a[1] * network->factor * network->factor * network->channels;
    const size_t room = (size_t)csw_predict_size(network, a[0] < side ? a[0] : side, a[1] < side ? a[1] : side);
    unsigned char *out = take(5 * count), *indexes = take(count);
    float *means = take(4 * count);
    void *work = take(room);
    csw_error error;
    turn_back(data, size);
    error = csw_predict(network, a[3] ? float_of(a[3]) : 1.0f, a[4], data, a[0], a[1], indexes, means, work, room);
    if (!error) {
        turn(means, 4 * count);
        memcpy(out, indexes, count);
        memcpy(out + count, means, 4 * count);
    }
    answer(error, out, 5 * count);
    free(work);
    free(means);
    free(indexes);
    free(out);
}

static void code(const csw_tables *tables, const uint32_t *a, void *data, size_t size, int encode)
{
    size_t count = a[0], bytes = 4 * count * tables->channels, capacity = encode ? bytes / 4 * 6 + 16 : bytes;
    unsigned char *out = take(capacity);
    csw_error error;
    if (encode) {
        turn_back(data, size);
        error = csw_encode(tables, data, count, out, capacity, &bytes);
        answer(error, out + capacity - bytes, bytes);
    } else {
        error = csw_decode(tables, data, size, count, (int32_t *)(void *)out);
        if (!error) turn(out, bytes);
        answer(error, out, bytes);
    }
    free(out);
}

/* What goes through a network, tile by tile: tiles lie one behind the other in the request or the answer. */
static void tiles(uint32_t operation, const csw_codec *codec, const uint32_t *a, unsigned char *data, size_t size)
{
    csw_pixels pixels = (csw_pixels)a[4];
    csw_layout layout = (csw_layout)a[5];
    csw_size picture;
    csw_error error = csw_size_of(&picture, codec, a[0], a[1]);
    uint32_t count = error ? 0 : csw_tiles(&picture, a[2], a[3]), index;
    const size_t area = (size_t)codec->factor * codec->factor * 3;
    const int latents = operation == TO_SYMBOLS || operation == PASTE;
    size_t value = pixels == CSW_FLOAT ? 4 : 1, bytes = 0, done = 0;
    unsigned char *out;
    if (error) {
        answer(error, NULL, 0);
        return;
    }
    if (operation == TILES) bytes = 32 * (size_t)count;
    if (operation == TO_RGB) bytes = 3 * (size_t)picture.height * picture.width;
    if (latents) bytes = 4 * (size_t)codec->channels * picture.rows * picture.columns;
    if (operation == FROM_RGB && count) {
        csw_tile tile = csw_tile_at(&picture, a[2], a[3], 0);
        bytes = count * area * value * tile.rows * tile.columns;
    }
    out = take(bytes);
    for (index = 0; index < count && !error; index++) {
        csw_tile tile = csw_tile_at(&picture, a[2], a[3], index);
        size_t part = tile.rows * (size_t)tile.columns * (latents ? 4 * codec->channels : area * value);
        unsigned char *own;
        if (operation == TILES) {
            uint32_t fields[8];
            int i;
            memcpy(fields, &tile, sizeof fields);
            for (i = 0; i < 8; i++) put(out + 32 * index + 4 * i, fields[i]);
            continue;
        }
        own = take(part);
        if (operation == FROM_RGB) {
            csw_from_rgb(&picture, &tile, pixels, layout, data, own);
            if (value == 4) turn(own, part);
            memcpy(out + done, own, part);
        } else {
            if (done + part > size) exit(5);
            memcpy(own, data + done, part);
            if (latents || value == 4) turn_back(own, part);
            if (operation == TO_RGB)
                error = csw_to_rgb(&picture, &tile, pixels, layout, own, out);
            else if (operation == PASTE)
                csw_paste(codec->channels, &picture, layout, &tile, (const float *)(void *)own, (float *)(void *)out);
            else
                error = csw_to_symbols(&codec->tables, &picture, &tile, layout, (const float *)(void *)own, (int32_t *)(void *)out);
        }
        done += part;
        free(own);
    }
    if (latents && !error) turn(out, bytes);
    answer(error, out, bytes);
    free(out);
}

static void handle(uint32_t operation, const uint32_t *a, unsigned char *parts[5], const uint32_t sizes[5])
{
    unsigned char digest[60], *data = parts[4];
    const size_t size = sizes[4];
    csw_codec codec;
    csw_network network;
    csw_error error = CSW_OK;
    memset(&codec, 0, sizeof codec);
    codec.factor = a[6];
    codec.margin = a[7];
    codec.hyper_factor = 1;
    if (operation == PREDICT) error = csw_network_open(&network, parts[2], sizes[2]);
    else if (sizes[0] || operation == TABLES) error = csw_codec_open(&codec, a[6], a[7], parts[0], sizes[0]);
    if (!error && operation != PREDICT && (sizes[1] || sizes[2])) error = csw_codec_hyperprior(&codec, parts[1], sizes[1], parts[2], sizes[2]);
    if (!error && sizes[3]) error = csw_codec_rates(&codec, parts[3], sizes[3]);
    if (!error && operation == WRITE_HYPER && a[4]) error = csw_codec_gain(&codec, float_of(a[4]));
    if (error) {
        answer(error, NULL, 0);
    } else if (operation == TABLES) {
        put(digest, codec.tables.channels);
        put(digest + 4, codec.tables.entries);
        put(digest + 8, codec.tables.split_inputs);
        put(digest + 12, (uint32_t)codec.tables.fewest_bits);
        put(digest + 16, (uint32_t)(codec.tables.fewest_bits >> 32));
        memcpy(digest + 20, codec.digest, 32);
        answer(error, digest, 52);
    } else if (operation == READ || operation == CUT) {
        read_file(&codec, a, data, size, operation == CUT);
    } else if (operation == WRITE || operation == WRITE_HYPER) {
        write_file(&codec, a, data, size, operation == WRITE_HYPER);
    } else if (operation == ENCODE || operation == DECODE) {
        code(&codec.tables, a, data, size, operation == ENCODE);
    } else if (operation == PREDICT) {
        predict(&network, a, data, size);
    } else if (operation == SHA256) {
        csw_sha256(data, size, digest);
        answer(error, digest, 32);
    } else {
        tiles(operation, &codec, a, data, size);
    }
}

int main(void)
{
    unsigned char head[56];
    while (fread(head, 1, sizeof head, stdin) == sizeof head) {
        uint32_t a[8], sizes[5];
        unsigned char *parts[5];
        int i;
        for (i = 0; i < 8; i++) a[i] = get(head + 4 + 4 * i);
        for (i = 0; i < 5; i++) {
            sizes[i] = get(head + 36 + 4 * i);
            parts[i] = take(sizes[i]);
            if (fread(parts[i], 1, sizes[i], stdin) != sizes[i]) return 2;
        }
        handle(get(head), a, parts, sizes);
        for (i = 0; i < 5; i++) free(parts[i]);
    }
    return 0;
}
