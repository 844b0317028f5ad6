"""Open the codec that encodes and decodes; PyTorch is imported only if it is not an exported one."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from codecswap.entropy import bitstream
from codecswap.errors import UserError, how_to_install
from codecswap.inference.folder import MANIFEST
from codecswap.inference.runtime import OnnxCodec


@dataclass(frozen=True)
class Source:
    """Description of a codec; each process opens its own."""

    path: str | None
    """An exported folder, a teacher or a student; None: the zoo's."""
    model: str
    quality: int
    metric: str
    threads: int
    runtime: str
    """Runtime of an exported folder."""

    def identity(self) -> str:
        """What tells codecs that give other bytes apart: the hash of an exported folder or of a codec's file, or a name."""
        if self.path is None:
            return f"{self.model}, quality {self.quality}, {self.metric}"
        path = Path(self.path)
        if path.is_dir():
            path /= MANIFEST  # it has the hashes of the other files
        if not path.is_file():
            return self.path
        with path.open("rb") as file:
            return f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}, {self.runtime}"

    def open(self) -> bitstream.Codec:
        """Load the codec.

        Raises:
            UserError: it does not exist, or it is damaged.
        """
        if self.path and Path(self.path).is_dir():
            codec = OnnxCodec(Path(self.path), self.threads, runtime=self.runtime)
            _ = codec.entropy  # raises an error once, not for each file
            return codec
        if self.runtime != "onnxruntime":
            raise UserError(
                f"--runtime {self.runtime} is for exported folders: name one with --codec (`codecswap export` makes it)."
            )
        try:
            import torch

            from codecswap.codecs.safe_load import read_state
            from codecswap.codecs.source import Teacher
            from codecswap.codecs.torch_codec import TorchCodec
            from codecswap.students.checkpoint import read_student
        except ModuleNotFoundError as error:
            raise UserError(
                f"--codec {self.path or 'from the zoo'} needs {error.name}, which is not installed: name an exported folder, "
                f"or {how_to_install('train')}."
            ) from None
        torch.set_num_threads(self.threads)
        if self.path and Path(self.path).is_file() and "student_state" in read_state(Path(self.path)):
            return TorchCodec(read_student(self.path).student.requires_grad_(False))
        return TorchCodec(Teacher(self.path, self.quality, self.metric, self.model).load())
