"""Code a folder of pictures without PyTorch, with an exported codec (swap_and_export.py makes one).

python examples/code_folder.py exported PICTURES coded
"""

import sys
from pathlib import Path

from codecswap import UserError, open_codec


def main(folder: str, pictures: str, output: str) -> None:
    """Write a ``.csw`` file, and what it decodes to as PNG, for each JPEG and PNG of ``pictures``."""
    codec, target = open_codec(folder), Path(output)
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted([*Path(pictures).glob("*.jpg"), *Path(pictures).glob("*.png")]):
        data = codec.compress(path)
        (target / f"{path.stem}.csw").write_bytes(data)
        picture = codec.decompress(data)
        picture.save(target / f"{path.stem}.png")
        print(
            f"{path.name}: {len(data):,} bytes, {8 * len(data) / (picture.width * picture.height):.3f} bits per pixel"
        )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
