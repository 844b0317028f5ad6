/* The library as a process: requests on standard input, answers on standard output, numbers little-endian on any machine.
 * A request is an operation, six arguments and the lengths of tables and data (9 x 32 bits), then tables and data.
 * An answer is an error and a length (2 x 32 bits), then bytes. Every buffer has exactly its size, so that AddressSanitizer and
 * valgrind see a step beyond it. Memory that runs out ends the process. */
#include "codecswap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TABLES = 1, READ, WRITE, TILES, CUT, TO_RGB, FROM_RGB, TO_SYMBOLS, SHA256, ENCODE, DECODE };

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

static void read_file(const csw_tables *tables, const uint32_t *a, const void *data, size_t size, int cut)
{
    csw_form form = (csw_form)a[0];
    csw_layout layout = (csw_layout)a[1];
    csw_file file;
    csw_error error = csw_open(&file, tables, data, size);
    unsigned char *out, *part;
    size_t bytes;
    if (error) {
        answer(error, NULL, 0);
        return;
    }
    bytes = (size_t)csw_read_size(tables, &file.size, form);
    out = take(bytes + 8);
    part = take(bytes);
    error = csw_read(tables, &file, form, layout, (int)a[2], part, bytes - (a[3] ? 1 : 0));
    put(out, file.size.height);
    put(out + 4, file.size.width);
    if (!error && cut) {
        csw_tile tile = csw_tile_at(&file.size, a[4], a[5], 1);
        unsigned char *whole = part;
        bytes = csw_channels(tables, form) * csw_value_size(form) * tile.rows * tile.columns;
        part = take(bytes);
        csw_cut(tables, &file.size, form, layout, &tile, whole, part);
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

static void write_file(const csw_tables *tables, const uint32_t *a, void *data, size_t size)
{
    csw_size picture;
    csw_error error = csw_size_of(&picture, a[0], a[1]);
    size_t capacity = a[2] ? a[2] : (size_t)csw_write_size(tables, &picture), written = 0;
    unsigned char *out = take(capacity);
    turn_back(data, size);
    if (!error) error = csw_write(tables, &picture, data, out, capacity, &written);
    answer(error, out, written);
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
static void tiles(uint32_t operation, const csw_tables *tables, const uint32_t *a, unsigned char *data, size_t size)
{
    csw_pixels pixels = (csw_pixels)a[4];
    csw_layout layout = (csw_layout)a[5];
    csw_size picture;
    csw_error error = csw_size_of(&picture, a[0], a[1]);
    uint32_t count = error ? 0 : csw_tiles(&picture, a[2], a[3]), index;
    size_t value = pixels == CSW_FLOAT ? 4 : 1, bytes = 0, done = 0;
    unsigned char *out;
    if (error) {
        answer(error, NULL, 0);
        return;
    }
    if (operation == TILES) bytes = 32 * (size_t)count;
    if (operation == TO_RGB) bytes = 3 * (size_t)picture.height * picture.width;
    if (operation == TO_SYMBOLS) bytes = 4 * (size_t)tables->channels * picture.rows * picture.columns;
    if (operation == FROM_RGB && count) {
        csw_tile tile = csw_tile_at(&picture, a[2], a[3], 0);
        bytes = count * 768 * value * tile.rows * tile.columns;
    }
    out = take(bytes);
    for (index = 0; index < count && !error; index++) {
        csw_tile tile = csw_tile_at(&picture, a[2], a[3], index);
        size_t part = tile.rows * (size_t)tile.columns * (operation == TO_SYMBOLS ? 4 * tables->channels : 768 * value);
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
            if (operation == TO_SYMBOLS || value == 4) turn_back(own, part);
            if (operation == TO_RGB)
                error = csw_to_rgb(&picture, &tile, pixels, layout, own, out);
            else
                error = csw_to_symbols(tables, &picture, &tile, layout, (const float *)(void *)own, (int32_t *)(void *)out);
        }
        done += part;
        free(own);
    }
    if (operation == TO_SYMBOLS && !error) turn(out, bytes);
    answer(error, out, bytes);
    free(out);
}

int main(void)
{
    unsigned char head[36];
    while (fread(head, 1, sizeof head, stdin) == sizeof head) {
        uint32_t operation = get(head), a[6];
        size_t tables_size = get(head + 28), size = get(head + 32);
        unsigned char *bytes = take(tables_size), *data = take(size), digest[60];
        csw_tables opened;
        csw_error error = CSW_OK;
        int i;
        memset(&opened, 0, sizeof opened);
        for (i = 0; i < 6; i++) a[i] = get(head + 4 + 4 * i);
        if (fread(bytes, 1, tables_size, stdin) != tables_size || fread(data, 1, size, stdin) != size) return 2;
        if (tables_size || operation == TABLES) error = csw_tables_open(&opened, bytes, tables_size);
        if (error) {
            answer(error, NULL, 0);
        } else if (operation == TABLES) {
            put(digest, opened.channels);
            put(digest + 4, opened.entries);
            put(digest + 8, opened.split_inputs);
            put(digest + 12, (uint32_t)opened.fewest_bits);
            put(digest + 16, (uint32_t)(opened.fewest_bits >> 32));
            memcpy(digest + 20, csw_tables_digest(&opened), 32);
            answer(error, digest, 52);
        } else if (operation == READ || operation == CUT) {
            read_file(&opened, a, data, size, operation == CUT);
        } else if (operation == WRITE) {
            write_file(&opened, a, data, size);
        } else if (operation == ENCODE || operation == DECODE) {
            code(&opened, a, data, size, operation == ENCODE);
        } else if (operation == SHA256) {
            csw_sha256(data, size, digest);
            answer(error, digest, 32);
        } else {
            tiles(operation, &opened, a, data, size);
        }
        free(bytes);
        free(data);
    }
    return 0;
}
