"""Builds one network with rknn-toolkit2 and computes it in its simulator; run by the Python that has the toolkit.

    python rknn_worker.py CHIP decoder.onnx decoder.rknn build.log

All that the toolkit prints goes to the log. On standard output: a line of JSON, ``{"stage": ..., "code": ...}``: the last
step and the toolkit's code, 0 where all were done. Then every line on standard input names a .npy file, float32
``(1, C, h, w)``; the result is written beside it, and its path printed. It ends with its input.
"""

import json
import os
import sys

sys.path[:] = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]  # its rknn.py is ours


def main(chip, model, built, log):
    """Build, then compute what is asked for."""
    answers = os.fdopen(os.dup(1), "w")
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)

    import numpy as np
    from rknn.api import RKNN

    rknn = RKNN(verbose=True)
    steps = {
        "config": lambda: rknn.config(target_platform=chip),
        "load_onnx": lambda: rknn.load_onnx(model),
        "build": lambda: rknn.build(do_quantization=False),  # float16, or the scales that the graph has
        "export_rknn": lambda: rknn.export_rknn(built),
        "init_runtime": lambda: rknn.init_runtime(),  # without a target: its simulator
    }
    stage, code = "", 0
    for name, step in steps.items():
        stage, code = name, step()
        if code:
            break
    answers.write(json.dumps({"stage": stage, "code": code}) + "\n")
    answers.flush()
    for line in sys.stdin if not code else ():
        given = line.rstrip("\n")
        result = rknn.inference([np.load(given)], data_format=["nchw"])[0]
        np.save(given + ".out.npy", np.asarray(result, np.float32))
        answers.write(given + ".out.npy\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
