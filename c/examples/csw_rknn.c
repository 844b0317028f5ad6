/* The glue for a Rockchip NPU: a .csw file in memory to RGB in memory, through a decoder compiled for a fixed size.
 *
 * UNTESTED ON A BOARD. It compiles against stubs/rknn_api.h, which was written after Rockchip's documentation, and has never
 * run. To check on yours: that the runtime takes NCHW floats for a model made from ONNX (else pass CSW_NHWC and
 * RKNN_TENSOR_NHWC), and that its output with want_float is NCHW in [0, 1].
 *
 * The model is `rknn.build()` of an exported decoder.onnx with --height and --width; its input says which form it takes. */
#include "codecswap.h"
#include "rknn_api.h"

typedef struct {
    rknn_context context;
    csw_codec codec;
    csw_form form;           /* CSW_LATENTS, CSW_SYMBOLS_FLOAT or CSW_SPLIT_INPUTS_FLOAT, as codec.json has it */
    int constant;            /* split_inputs, constant of codec.json */
    uint32_t rows, columns;  /* the model's height and width, divided by `factor` */
} csw_rknn;

enum { CSW_RKNN_FAILED = 100 };  /* beside csw_error */

/* `factor` and `margin` are codec.json's. With a hyperprior, csw_codec_hyperprior(&d->codec, ...) follows. `tables` and `model` stay the
 * caller's; `tables` must outlive the decoder. Returns 0, a csw_error or CSW_RKNN_FAILED. */
int csw_rknn_open(csw_rknn *d, uint32_t factor, uint32_t margin, const void *tables, size_t tables_size, void *model, uint32_t model_size)
{
    csw_error error = csw_codec_open(&d->codec, factor, margin, tables, tables_size);
    if (error) return error;
    return rknn_init(&d->context, model, model_size, 0, NULL) < 0 ? CSW_RKNN_FAILED : 0;
}

/* One file. Buffers are the caller's: `whole` holds csw_read_size() bytes of the picture, `work` csw_work_size() (0
 * without a hyperprior), `in` and `out` one tile's floats (channels x
 * rows x columns, and 3 x `factor` rows x `factor` columns), `rgb` height x width x 3 bytes. Returns 0, a csw_error or CSW_RKNN_FAILED. */
int csw_rknn_decode(csw_rknn *d, const csw_file *file, void *whole, size_t whole_size, void *work,
                    size_t work_size, float *in, float *out, unsigned char *rgb)
{
    const uint32_t count = csw_tiles(&file->size, d->rows, d->columns);
    uint32_t index;
    csw_error error = csw_read(&d->codec, file, d->form, CSW_NCHW, d->constant, whole, whole_size, work, work_size);
    if (error) return error;
    if (!count || file->size.rows < d->rows || file->size.columns < d->columns) return CSW_SIZE;
    for (index = 0; index < count; index++) {
        const csw_tile tile = csw_tile_at(&file->size, d->rows, d->columns, index);
        const uint32_t area = tile.rows * tile.columns;
        rknn_input input = {0};
        rknn_output output = {0};
        csw_cut(csw_channels(&d->codec, d->form), csw_value_size(d->form), &file->size, CSW_NCHW, &tile, whole, in);
        input.buf = in;
        input.size = area * csw_channels(&d->codec, d->form) * (uint32_t)sizeof *in;
        input.type = RKNN_TENSOR_FLOAT32;
        input.fmt = RKNN_TENSOR_NCHW;
        output.want_float = 1;
        output.is_prealloc = 1;
        output.buf = out;
        output.size = area * 3 * d->codec.factor * d->codec.factor * (uint32_t)sizeof *out;
        if (rknn_inputs_set(d->context, 1, &input) < 0 || rknn_run(d->context, NULL) < 0) return CSW_RKNN_FAILED;
        if (rknn_outputs_get(d->context, 1, &output, NULL) < 0) return CSW_RKNN_FAILED;
        error = csw_to_rgb(&file->size, &tile, CSW_FLOAT, CSW_NCHW, out, rgb);
        rknn_outputs_release(d->context, 1, &output);
        if (error) return error;
    }
    return 0;
}

void csw_rknn_close(csw_rknn *d) { rknn_destroy(d->context); }
