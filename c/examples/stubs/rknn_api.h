/* Just enough of Rockchip's RKNPU2 runtime to compile csw_rknn.c without its SDK: names and types after its documentation. Build for
 * a board with the SDK's own rknn_api.h instead: values, structures and their sizes differ. */
#include <stdint.h>

typedef uint64_t rknn_context;
typedef enum { RKNN_TENSOR_FLOAT32, RKNN_TENSOR_INT8 } rknn_tensor_type;
typedef enum { RKNN_TENSOR_NCHW, RKNN_TENSOR_NHWC } rknn_tensor_format;
typedef struct {
    uint32_t index, size;
    void *buf;
    uint8_t pass_through;
    rknn_tensor_type type;
    rknn_tensor_format fmt;
} rknn_input;
typedef struct {
    uint8_t want_float, is_prealloc;
    uint32_t index, size;
    void *buf;
} rknn_output;
int rknn_init(rknn_context *context, void *model, uint32_t size, uint32_t flag, void *extend);
int rknn_inputs_set(rknn_context context, uint32_t count, rknn_input *inputs);
int rknn_run(rknn_context context, void *extend);
int rknn_outputs_get(rknn_context context, uint32_t count, rknn_output *outputs, void *extend);
int rknn_outputs_release(rknn_context context, uint32_t count, rknn_output *outputs);
int rknn_destroy(rknn_context context);
