"""Swap exactly and export: a pretrained codec becomes a folder that an NPU's converter and `open_codec` read.

python examples/swap_and_export.py tiny exported
"""

import sys

from codecswap import UserError, export, load_codec, swap


def main(teacher: str, folder: str) -> None:
    """Write ``folder`` from a codec: ``tiny`` (inside the package) or a checkpoint."""
    codec, replaced = swap(load_codec(teacher), "subpixel")  # equals the teacher, needs no training
    for layer in replaced:
        print(f"{layer.name}: {layer.before} -> {layer.after}")
    manifest, differences = export(codec, folder)
    print(f"{folder}: opset {manifest.opset}, largest error against PyTorch {differences.picture:.1e} of 1")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
