/* libFuzzer: tables and a file from anybody, as they are and with their hashes put right, so that what lies behind those is reached.
 * What is accepted must read in every form, and what was read must be written and read back as it was.
 * Input: the length of the tables (2 bytes), a byte of choices, the tables, the file. */
/* static functions and all */
#include "codecswap.c"

#include <stdlib.h>

enum { MOST = 1 << 20 };  /* bytes of a picture's symbols that are worth the time */

static void seal_tables(unsigned char *bytes, size_t size)
{
    static const char before[] = "codecswap factorized prior, ", after[] = " channels";
    unsigned char text[64];
    uint32_t channels, digits = 1, place;
    sha s;
    if (size < TABLES_HEADER) return;
    memcpy(bytes, TABLES_MAGIC, 4);
    memcpy(bytes + 4, "\1\20\0\0", 4);
    channels = load32(bytes + 8);
    for (place = channels; place > 9; place /= 10) digits++;
    for (place = digits; place--; channels /= 10) text[place] = (unsigned char)('0' + channels % 10);
    csw_sha_start(&s);
    csw_sha_add(&s, (const unsigned char *)before, sizeof before - 1);
    csw_sha_add(&s, text, digits);
    csw_sha_add(&s, (const unsigned char *)after, sizeof after - 1);
    csw_sha_add(&s, bytes + TABLES_HEADER, size - TABLES_HEADER);
    csw_sha_end(&s, bytes + 16);
}

static void seal_file(const csw_codec *codec, unsigned char *bytes, size_t size)
{
    if (size < CSW_OVERHEAD) return;
    memcpy(bytes, FILE_MAGIC, 4);
    bytes[4] = CSW_FORMAT;
    bytes[5] = 0;
    memset(bytes + 8, 0, 2); /* sides below 65536 */
    memset(bytes + 12, 0, 2);
    memcpy(bytes + 14, codec->digest, 16);
    store32(bytes + 30, (uint32_t)(size - CSW_OVERHEAD));
    store32(bytes + size - 4, csw_crc32(bytes, size - 4));
}

static void *own(size_t size)
{
    void *memory = malloc(size ? size : 1);
    if (!memory) abort();
    return memory;
}

static void read_all_forms(const csw_codec *codec, const csw_file *file, csw_layout layout)
{
    csw_form form;
    int32_t *symbols = NULL, *again;
    size_t bytes, written;
    unsigned char *out;
    csw_file second;
    csw_tile tile;
    uint32_t count, index;
    for (form = CSW_SPLIT_INPUTS_FLOAT;; form--) { /* symbols last, in their order */
        uint64_t size = csw_read_size(codec, &file->size, form);
        csw_error error;
        if (size > MOST) return;
        free(symbols);
        symbols = own((size_t)size);
        error = csw_read(codec, file, form, form ? layout : CSW_NCHW, 1, symbols, (size_t)size, NULL, 0);
        if (error) {
            free(symbols);
            return;
        }
        count = csw_tiles(&file->size, 6, 7);
        for (index = 0; index < count; index++) {
            tile = csw_tile_at(&file->size, 6, 7, index);
            out = own((size_t)tile.rows * tile.columns * csw_channels(codec, form) * csw_value_size(form));
            csw_cut(csw_channels(codec, form), csw_value_size(form), &file->size, form ? layout : CSW_NCHW, &tile, symbols, out);
            free(out);
        }
        if (form == CSW_SYMBOLS) break;
    }
    bytes = (size_t)csw_write_size(codec, &file->size);
    out = own(bytes);
    again = own((size_t)csw_read_size(codec, &file->size, CSW_SYMBOLS));
    if (csw_write(codec, &file->size, symbols, out, bytes, &written)) abort();
    if (csw_open(&second, codec, out, written)) abort();
    if (csw_read(codec, &second, CSW_SYMBOLS, CSW_NCHW, 0, again, (size_t)csw_read_size(codec, &file->size, CSW_SYMBOLS), NULL, 0)) abort();
    if (memcmp(symbols, again, (size_t)csw_read_size(codec, &file->size, CSW_SYMBOLS))) abort();
    free(symbols);
    free(again);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    csw_codec codec;
    csw_file file;
    size_t length;
    unsigned char *first, *second;
    int choices;
    if (size < 3) return 0;
    length = (size_t)(data[0] | data[1] << 8);
    choices = data[2];
    data += 3;
    size -= 3;
    if (length > size) length = size;
    first = own(length);
    second = own(size - length);
    memcpy(first, data, length);
    memcpy(second, data + length, size - length);
    if (choices & 1) seal_tables(first, length);
    if (!csw_codec_open(&codec, 16, 2, first, length)) {
        if (choices & 2) seal_file(&codec, second, size - length);
        if (!csw_open(&file, &codec, second, size - length)) read_all_forms(&codec, &file, choices & 4 ? CSW_NHWC : CSW_NCHW);
    }
    free(first);
    free(second);
    return 0;
}
