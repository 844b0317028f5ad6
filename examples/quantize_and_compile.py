"""Quantize a codec's decoder, and compile it for an NPU: dB lost, and what its compiler says where it is installed.

python examples/quantize_and_compile.py tiny ethos-u55
"""

import sys

from codecswap import UserError, compile, load_codec, quantize, swap


def main(teacher: str, target: str, folder: str = ".") -> None:
    """Write the folders ``quantized`` and ``compiled`` into ``folder``."""
    codec, _ = swap(load_codec(teacher), "subpixel")
    _, agreement = quantize(codec, f"{folder}/quantized", precision="w8a8")
    print(f"quantized: ONNX Runtime agrees with the file's meaning to {agreement['decoder']:.1f} dB")
    result = compile(codec, target, f"{folder}/compiled", height=128, width=128)
    if result.quality:
        print(f"compiled: {result.quality.compiled - result.quality.float32:+.3f} dB in the arithmetic of {target}")
    on_cpu = [one.operator for one in result.compiled.operators if not one.on_npu]
    print(f"compiler: {result.compiled.compiler or 'not installed'}; operators on the CPU: {on_cpu or 'none'}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
