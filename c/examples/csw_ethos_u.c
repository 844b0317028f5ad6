/* The glue for an Arm Ethos-U NPU on a Cortex-M, bare metal: no heap; a .csw file in flash to RGB in RAM.
 *
 * UNTESTED ON A BOARD, AND IN A SIMULATOR. It compiles against stubs/ethosu_driver.h, which was written after Arm's documentation,
 * and has never run. To check on yours: the order of the base addresses (here, as Vela's raw output has them: weights, scratch,
 * fast scratch, input, output), and that the output's scale is 1/255 with zero point -128, so that adding 128 gives RGB.
 *
 * The command stream and the weights are Vela's (`--output-format raw`) for an INT8 decoder of a fixed size whose input is
 * `split_inputs`, at scale 1 and zero point 0: NHWC, as TFLite has it. */
#include "codecswap.h"
#include "ethosu_driver.h"

typedef struct {
    struct ethosu_driver *driver;
    csw_codec codec;         /* csw_codec_open(), and csw_codec_hyperprior() where there is one */
    int constant;            /* split_inputs, constant of codec.json */
    uint32_t rows, columns;  /* the network's height and width, divided by `factor` */
    const void *commands, *weights;
    size_t commands_size, weights_size;
    void *scratch, *fast_scratch;
    size_t scratch_size, fast_scratch_size;
} csw_ethos_u;

enum { CSW_ETHOS_U_FAILED = 100 };  /* beside csw_error */

/* One file. Buffers are the caller's: `whole` holds csw_read_size() bytes of the picture, `work` csw_work_size() (0
 * without a hyperprior), `in` and `out` one tile's bytes (split inputs x
 * rows x columns, and 3 x `factor` rows x `factor` columns), `rgb` height x width x 3 bytes. Returns 0, a csw_error or CSW_ETHOS_U_FAILED. */
int csw_ethos_u_decode(const csw_ethos_u *d, const csw_file *file, void *whole, size_t whole_size, void *work,
                       size_t work_size, signed char *in, unsigned char *out, unsigned char *rgb)
{
    const uint32_t count = csw_tiles(&file->size, d->rows, d->columns);
    uint32_t index;
    csw_error error = csw_read(&d->codec, file, CSW_SPLIT_INPUTS, CSW_NHWC, d->constant, whole, whole_size, work, work_size);
    if (error) return error;
    if (!count || file->size.rows < d->rows || file->size.columns < d->columns) return CSW_SIZE;
    for (index = 0; index < count; index++) {
        const csw_tile tile = csw_tile_at(&file->size, d->rows, d->columns, index);
        const size_t area = (size_t)tile.rows * tile.columns;
        uint64_t addresses[5];
        size_t sizes[5], i;
        csw_cut(csw_channels(&d->codec, CSW_SPLIT_INPUTS), 1, &file->size, CSW_NHWC, &tile, whole, in);
        addresses[0] = (uint64_t)(uintptr_t)d->weights;
        addresses[1] = (uint64_t)(uintptr_t)d->scratch;
        addresses[2] = (uint64_t)(uintptr_t)d->fast_scratch;
        addresses[3] = (uint64_t)(uintptr_t)in;
        addresses[4] = (uint64_t)(uintptr_t)out;
        sizes[0] = d->weights_size;
        sizes[1] = d->scratch_size;
        sizes[2] = d->fast_scratch_size;
        sizes[3] = area * csw_channels(&d->codec, CSW_SPLIT_INPUTS);
        sizes[4] = area * 3 * d->codec.factor * d->codec.factor;
        if (ethosu_invoke_v3(d->driver, d->commands, (int)d->commands_size, addresses, sizes, 5, NULL)) return CSW_ETHOS_U_FAILED;
        for (i = 0; i < sizes[4]; i++) out[i] = (unsigned char)(out[i] + 128); /* int8 to uint8 */
        error = csw_to_rgb(&file->size, &tile, CSW_UINT8, CSW_NHWC, out, rgb);
        if (error) return error;
    }
    return 0;
}
