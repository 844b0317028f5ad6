/* Just enough of Arm's Ethos-U core driver to compile csw_ethos_u.c without it: names and types after its documentation. Build for a
 * board with the driver's own header instead. */
#include <stddef.h>
#include <stdint.h>

struct ethosu_driver;
int ethosu_invoke_v3(struct ethosu_driver *driver, const void *commands, int commands_size, uint64_t *const addresses,
                     const size_t *sizes, int count, void *user);
