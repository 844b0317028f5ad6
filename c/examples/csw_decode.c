/* csw_decode FOLDER picture.csw picture.png: what `codecswap decode` does, with ONNX Runtime's C API, cJSON and libpng.
 * FOLDER is what `codecswap export` or `codecswap quantize` wrote. On a board, only run_network() changes. */
#include "codecswap.h"

#include <cjson/cJSON.h>
#include <onnxruntime_c_api.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TILE = 80, MOST_BYTES = 1 << 29 };  /* latents of a tile where the network takes any size; bytes of a file */

typedef struct {
    unsigned char *bytes;
    size_t size;
} content;

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "csw_decode: %s %s.\n", what, why);
    exit(2);
}

static void *take(uint64_t size)
{
    void *memory = size <= SIZE_MAX ? malloc(size ? (size_t)size : 1) : NULL;
    if (!memory) fail("this picture", "needs more memory than there is");
    return memory;
}

static content read_file(const char *folder, const char *name)
{
    char path[4096];
    content file;
    FILE *stream;
    long size;
    if (snprintf(path, sizeof path, "%s%s%s", folder, *folder ? "/" : "", name) >= (int)sizeof path) fail(name, "has too long a path");
    stream = fopen(path, "rb");
    if (!stream) fail(path, "cannot be opened: check the path");
    if (fseek(stream, 0, SEEK_END) || (size = ftell(stream)) < 0 || size > MOST_BYTES || fseek(stream, 0, SEEK_SET))
        fail(path, "is too large");
    file.size = (size_t)size;
    file.bytes = take(file.size + 1);
    if (fread(file.bytes, 1, file.size, stream) != file.size) fail(path, "cannot be read");
    file.bytes[file.size] = 0;
    fclose(stream);
    return file;
}

/* ---- the manifest, codec.json ---- */

static const char *text_of(const cJSON *object, const char *name)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
    if (!text) fail("codec.json", "is damaged or of another program: export the codec again");
    return text;
}

static uint32_t number_of(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!cJSON_IsNumber(item) || item->valuedouble < 1 || item->valuedouble > 0x7fffffff)
        fail("codec.json", "is damaged or of another program: export the codec again");
    return (uint32_t)item->valuedouble;
}

static void check_digest(const unsigned char digest[32], const char *wanted, const char *name)
{
    char hex[65];
    int i;
    for (i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    if (strcmp(hex, wanted)) fail(name, "is not the one that codec.json was written with: export the codec again");
}

/* A codec with a hyperprior has two files more, with variable rate three, and may have several split inputs for a channel of the
 * latents. */
static void open_hyperprior(csw_codec *codec, const char *folder, const cJSON *root)
{
    const cJSON *side = cJSON_GetObjectItemCaseSensitive(root, "side"), *item;
    const cJSON *split = cJSON_GetObjectItemCaseSensitive(root, "split_inputs");
    const cJSON *channels = cJSON_GetObjectItemCaseSensitive(split, "channels");
    content gaussians, network, rates;
    csw_error error;
    uint16_t *inputs;
    if (cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(root, "passes")) != 2)
        fail(folder, "codes its latents in passes that this example does not decode: use `codecswap decode`");
    gaussians = read_file(folder, "gaussians.bin");
    network = read_file(folder, "hyper_decoder.bin");
    if ((error = csw_codec_hyperprior(codec, gaussians.bytes, gaussians.size, network.bytes, network.size)))
        fail(folder, csw_error_text(error));
    check_digest(csw_tables_digest(&codec->gaussians), text_of(side, "gaussians_sha256"), "gaussians.bin");
    check_digest(codec->network.digest, text_of(side, "prediction_sha256"), "hyper_decoder.bin");
    if (cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(root, "rates"))) {
        rates = read_file(folder, "rates.bin");
        if ((error = csw_codec_rates(codec, rates.bytes, rates.size))) fail("rates.bin", csw_error_text(error));
    }
    if (!cJSON_IsArray(channels)) return;
    if (codec->levels) codec->input_bits = number_of(split, "fractional_bits");
    inputs = take(codec->channels * sizeof *inputs);
    memset(inputs, 0, codec->channels * sizeof *inputs);
    cJSON_ArrayForEach(item, channels) {
        if (!cJSON_IsNumber(item) || item->valuedouble < 0 || item->valuedouble >= codec->channels)
            fail("codec.json", "is damaged: export the codec again");
        inputs[(uint32_t)item->valuedouble]++;
    }
    codec->inputs = inputs;
}

static csw_form form_of(const char *input)
{
    if (!strcmp(input, "latents")) return CSW_LATENTS;
    if (!strcmp(input, "symbols")) return CSW_SYMBOLS_FLOAT;
    if (!strcmp(input, "split_inputs")) return CSW_SPLIT_INPUTS_FLOAT;
    fail("codec.json", "names an input that this program does not know: update it");
    return CSW_LATENTS;
}

/* ---- the network ---- */

typedef struct {
    const OrtApi *api;
    OrtSession *session;
    OrtMemoryInfo *memory;
    const char *input, *output;
} network;

static void check(const network *n, OrtStatus *status)
{
    if (status) fail("the decoder cannot be run:", n->api->GetErrorMessage(status));
}

static void open_network(network *n, const content *model)
{
    OrtEnv *environment;
    OrtSessionOptions *options;
    n->api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (!n->api) fail("ONNX Runtime", "is older than the headers that this program was built with");
    check(n, n->api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "csw_decode", &environment));
    check(n, n->api->CreateSessionOptions(&options));
    /* as the file has them: 8-bit weights add up in 32 bits, and convolutions in float are not rounded */
    check(n, n->api->AddSessionConfigEntry(options, "session.x64quantprecision", "1"));
    check(n, n->api->AddSessionConfigEntry(options, "optimization.disable_specified_optimizers", "WeightBiasQuantization"));
    check(n, n->api->CreateSessionFromArray(environment, model->bytes, model->size, options, &n->session));
    check(n, n->api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &n->memory));
}

/* One tile through the decoder: (1, channels, rows, columns) floats to (1, 3, factor rows, factor columns) floats. */
static void run_network(const network *n, float *in, uint32_t channels, const csw_tile *tile, uint32_t factor, float *out)
{
    const int64_t shape_in[4] = {1, channels, tile->rows, tile->columns};
    const int64_t shape_out[4] = {1, 3, (int64_t)tile->rows * factor, (int64_t)tile->columns * factor};
    const size_t count = (size_t)tile->rows * tile->columns;
    OrtValue *values[2] = {NULL, NULL};
    check(n, n->api->CreateTensorWithDataAsOrtValue(n->memory, in, count * channels * sizeof *in, shape_in, 4,
                                                    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &values[0]));
    check(n, n->api->CreateTensorWithDataAsOrtValue(n->memory, out, count * 3 * factor * factor * sizeof *out, shape_out, 4,
                                                    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &values[1]));
    check(n, n->api->Run(n->session, NULL, &n->input, (const OrtValue *const *)&values[0], 1, &n->output, 1, &values[1]));
    n->api->ReleaseValue(values[0]);
    n->api->ReleaseValue(values[1]);
}

static void write_png(const char *path, const csw_size *size, const unsigned char *rgb)
{
    char part[4096];
    png_image image;
    memset(&image, 0, sizeof image);
    image.version = PNG_IMAGE_VERSION;
    image.width = size->width;
    image.height = size->height;
    image.format = PNG_FORMAT_RGB;
    if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part) fail(path, "is too long a path");
    if (!png_image_write_to_file(&image, part, 0, rgb, 0, NULL) || rename(part, path)) {
        remove(part);
        fail(path, "cannot be written");
    }
}

int main(int count, char **arguments)
{
    content manifest, binary, coded, model;
    const cJSON *root, *decoder;
    csw_error error;
    csw_codec codec;
    csw_file file;
    csw_form form;
    network n;
    unsigned char digest[32], *whole, *rgb;
    void *work;
    float *in, *out;
    uint32_t rows = TILE, columns = TILE, tiles, index, channels;
    int constant = 0;

    if (count != 4) {
        fprintf(stderr, "usage: csw_decode FOLDER picture.csw picture.png\n");
        return 2;
    }
    manifest = read_file(arguments[1], "codec.json");
    root = cJSON_Parse((const char *)manifest.bytes);
    if (!root || strcmp(text_of(root, "format"), "codecswap exported codec") || number_of(root, "version") != 1)
        fail("codec.json", "is damaged, of another program, or newer than this one: export the codec again");
    decoder = cJSON_GetObjectItemCaseSensitive(root, "decoder");
    if (!cJSON_IsObject(decoder)) fail(arguments[1], "holds no decoder: export it with --part both or --part decoder");
    form = form_of(text_of(decoder, "input"));
    if (form == CSW_SPLIT_INPUTS_FLOAT)
        constant = (int)number_of(cJSON_GetObjectItemCaseSensitive(root, "split_inputs"), "constant");

    binary = read_file(arguments[1], "entropy.bin");
    error = csw_codec_open(&codec, number_of(root, "factor"), number_of(root, "margin"), binary.bytes, binary.size);
    if (error) fail("entropy.bin", csw_error_text(error));
    check_digest(csw_tables_digest(&codec.tables), text_of(root, "tables_sha256"), "entropy.bin");
    if (cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(root, "side"))) open_hyperprior(&codec, arguments[1], root);
    coded = read_file("", arguments[2]);
    if ((error = csw_open(&file, &codec, coded.bytes, coded.size))) fail(arguments[2], csw_error_text(error));
    if (!cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(root, "height"))) {
        rows = number_of(root, "height") / codec.factor;
        columns = number_of(root, "width") / codec.factor;
        if (file.size.rows < rows || file.size.columns < columns)
            fail(arguments[1], "is fixed at a larger size than this picture's: export it without --height and --width");
    }
    if (!(tiles = csw_tiles(&file.size, rows, columns)))
        fail(arguments[1], "is fixed at too small a size for tiles: export it with larger sides");
    if (strpbrk(text_of(decoder, "file"), "/\\:")) fail("codec.json", "names a file outside its folder: export the codec again");
    model = read_file(arguments[1], text_of(decoder, "file"));
    csw_sha256(model.bytes, model.size, digest);
    check_digest(digest, text_of(decoder, "sha256"), text_of(decoder, "file"));
    n.input = text_of(decoder, "input");
    n.output = text_of(decoder, "output");
    open_network(&n, &model);

    whole = take(csw_read_size(&codec, &file.size, form));
    work = take(csw_work_size(&codec, &file.size));
    error = csw_read(&codec, &file, form, CSW_NCHW, constant, whole, (size_t)csw_read_size(&codec, &file.size, form), work,
                     (size_t)csw_work_size(&codec, &file.size));
    free(work);
    if (error) fail(arguments[2], csw_error_text(error));
    rgb = take((uint64_t)file.size.height * file.size.width * 3);
    channels = csw_channels(&codec, form);
    for (index = 0; index < tiles; index++) {
        csw_tile tile = csw_tile_at(&file.size, rows, columns, index);
        uint64_t area = (uint64_t)tile.rows * tile.columns;
        in = take(area * channels * sizeof *in);
        out = take(area * 3 * codec.factor * codec.factor * sizeof *out);
        csw_cut(channels, csw_value_size(form), &file.size, CSW_NCHW, &tile, whole, in);
        run_network(&n, in, channels, &tile, codec.factor, out);
        if ((error = csw_to_rgb(&file.size, &tile, CSW_FLOAT, CSW_NCHW, out, rgb))) fail(arguments[2], csw_error_text(error));
        free(in);
        free(out);
    }
    write_png(arguments[3], &file.size, rgb);
    printf("%s: %ux%u.\n", arguments[3], (unsigned)file.size.width, (unsigned)file.size.height);
    return 0;
}
