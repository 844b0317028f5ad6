"""Any ONNX file in a benchmark: as it is, and with its transposed convolutions rewritten."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from codecswap.benchmarking.contenders import Contender, Feeds, Size
from codecswap.benchmarking.machines import Machine
from codecswap.benchmarking.measure import Sample
from codecswap.benchmarking.runtimes import RUNTIMES, configuration, missing
from codecswap.errors import UserError
from codecswap.identify import no_file
from codecswap.rewrite.model_file import read_model
from codecswap.rewrite.rewriting import rewrite
from codecswap.rewrite.runs import random_feeds, session

PHASES: Final = "phases"
"""A form that only `codecswap rewrite` has."""
FORMS = ("subpixel", "masked", PHASES)
"""Forms of `codecswap rewrite` that change something."""
AS_IT_IS = "native"


class OnnxFile:
    """An ONNX file with one input of four dimensions, or with inputs of fixed shapes.

    A dynamic height and width are those of a picture where the input has three channels; else they are as many times
    smaller as the output is larger.

    Args:
        path: the file.
        scratch: folder for rewritten files.

    Raises:
        UserError: there is no such file, or it cannot be run.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        if not path.is_file():
            raise no_file(path, "ONNX file", "check --onnx")
        self.path, self._scratch, self._model = path, scratch, read_model(path)
        stored = {tensor.name for tensor in self._model.graph.initializer}
        self._inputs = [value for value in self._model.graph.input if value.name not in stored]
        try:
            self._session = session(path, optimized=True)
            self._scale = self._find_scale()
        except Exception as error:  # ONNX Runtime has no narrower one
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} cannot be run ({reason}): check that it is a whole ONNX model.") from None

    def contenders(self, forms: Sequence[str], runtimes: Sequence[str], machine: Machine) -> Iterator[Contender]:
        """The file in each form and in each runtime for ONNX files; ``machine`` is where it will run."""
        for runtime in (name for name in runtimes if RUNTIMES[name].file == "onnx"):
            if reason := missing(runtime, machine):
                yield Contender(str(self.path), "", "", runtime, refused=reason)
                continue
            for form in (AS_IT_IS, *FORMS):
                if form in forms:
                    yield self._contender(form, runtime)

    def _contender(self, form: str, runtime: str) -> Contender:
        config = configuration(runtime, "float32", wide_sums=False)
        config |= {"entries": {}} if "entries" in config else {}
        return Contender(
            str(self.path), form, "as it is", runtime, network=lambda size: self._content(form), config=config
        )

    def _content(self, form: str) -> bytes:
        made = self._scratch / f"{form}.onnx"
        if form == AS_IT_IS:
            made = self.path
        elif not made.exists():
            done = rewrite(self.path, made, form=form)
            if done.output is None:
                raise UserError(f"Nothing was rewritten: {done.nodes[0].reason}.")
        if read_model(made).ByteSize() > made.stat().st_size:
            raise UserError("Its weights are in a second file, which a benchmark does not read: save it as one file.")
        return made.read_bytes()

    def samples(self, size: Size) -> list[Sample]:
        """One random input."""
        feeds = self._feeds(size)
        try:
            result = self._session.run([self._session.get_outputs()[0].name], feeds)[0]
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"It does not take pictures of {size[0]}x{size[1]} ({reason}).") from None
        return [Sample(feeds, result[0], float(np.abs(result).max()) or 1.0)]

    def _feeds(self, size: Size) -> Feeds:
        if self._scale is None:
            return random_feeds(self._inputs, (1, 1), 0)
        kind = self._inputs[0].type.tensor_type
        channels = kind.shape.dim[1].dim_value
        height, width = (side // self._scale for side in size[::-1])
        shape = (1, channels, height, width)
        values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        return {self._inputs[0].name: values}

    def _find_scale(self) -> int | None:
        """Pixels per input of a file of any size; None: all its shapes are fixed."""
        shapes = [value.type.tensor_type.shape.dim for value in self._inputs]
        if all(dim.dim_value for shape in shapes for dim in shape[1:]):
            return None
        if len(shapes) != 1 or len(shapes[0]) != 4 or not shapes[0][1].dim_value:
            raise UserError("its inputs have dynamic dimensions other than one batch, height and width")
        if shapes[0][1].dim_value == 3:
            return 1
        probe = np.zeros((1, shapes[0][1].dim_value, 16, 16), np.float32)
        result = self._session.run([self._session.get_outputs()[0].name], {self._inputs[0].name: probe})[0]
        return max(1, result.shape[-1] // 16)
