"""Builds an engine of a network with TensorRT on this machine's GPU, for which alone, and for this release alone, it is.

    python build_engine.py [decoder_tensorrt.onnx]

It needs TensorRT (pip install tensorrt) and an NVIDIA GPU, nothing else; it writes decoder_tensorrt.engine beside the network.
To time it: trtexec --loadEngine=decoder_tensorrt.engine
"""

import sys
from pathlib import Path


def main(network):
    """Build; returns an exit code."""
    try:
        import tensorrt
    except ImportError:
        print("TensorRT is not installed: pip install tensorrt")
        return 2
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder, flags = tensorrt.Builder(logger), 0
    for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED"):  # types as the file has them; newer releases know nothing else
        if hasattr(tensorrt.NetworkDefinitionCreationFlag, name):
            flags |= 1 << int(getattr(tensorrt.NetworkDefinitionCreationFlag, name))
    definition = builder.create_network(flags)
    parser = tensorrt.OnnxParser(definition, logger)
    if not parser.parse_from_file(str(network)):
        for index in range(parser.num_errors):
            print(parser.get_error(index))
        return 1
    content = builder.build_serialized_network(definition, builder.create_builder_config())
    if content is None:
        print("TensorRT built no engine: its messages above say why")
        return 1
    network.with_suffix(".engine").write_bytes(bytes(content))
    print(f"Written: {network.with_suffix('.engine')} (TensorRT {tensorrt.__version__})")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if sys.argv[1:] else Path(__file__).with_name("decoder_tensorrt.onnx"))))
