"""Exported, quantized and compiled folders in an evaluation, each paired with the half that it does not have."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codecswap.codecs.protocol import Codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.entropy.model import EntropyModel
from codecswap.errors import UserError
from codecswap.evaluation.measure import Exported
from codecswap.inference.runtime import OnnxCodec


@dataclass(frozen=True)
class Folder:
    """A folder to measure."""

    name: str
    """Name in tables."""
    codec: OnnxCodec
    encoder_name: str | None
    """Name of the codec whose encoder it uses; None if it has its own."""
    encoder: Any
    """A `codecswap.entropy.bitstream.Codec`."""
    decoder_name: str | None
    """Name of the codec whose decoder it uses; None if it has its own."""
    decoder: Any
    """As ``encoder``."""
    teacher: int | None
    """Index of the teacher with the same entropy tables, or None."""

    @property
    def path(self) -> str:
        """Path as given by the user."""
        return str(self.codec.folder)

    @property
    def kind(self) -> str:
        """Key that folders of one curve (of several teachers) have in common."""
        manifest = self.codec.manifest
        replaced = "" if manifest.replacement == "none" else f"{manifest.replacement}, "
        return f"{replaced}{manifest.precision}"

    def measured(self, curve: str) -> Exported:
        """Convert for `codecswap.evaluation.measure`."""
        return Exported(self.name, self.decoder, self.encoder, curve)


def pair_folders(
    opened: Sequence[OnnxCodec], names: Sequence[str], teachers: Mapping[str, Codec], *, encode: bool = True
) -> list[Folder]:
    """Find an encoder or a decoder for opened folders that have none: a teacher's, or another folder's.

    Args:
        names: names of the folders in tables.
        teachers: teachers by name.
        encode: whether they encode; False: they decode files that are there.

    Raises:
        UserError: a folder has no encoder or no decoder, and no other codec has its entropy tables; or it has a context model
            of no teacher.
    """
    # digests differ if a teacher predicts in floating point and a folder in integers
    theirs: list[tuple[str, Any]] = [(name, TorchCodec(codec)) for name, codec in teachers.items()]
    every = list(zip(names, opened, strict=True))
    for codec in opened:
        _complete(codec, [each.entropy for _, each in theirs])
    encoders = [*theirs, *((name, codec) for name, codec in every if codec.manifest.encoder)]
    decoders = [*theirs, *((name, codec) for name, codec in every if codec.manifest.decoder)]
    found = []
    for name, codec in every:
        digest, manifest = codec.entropy.digest, codec.manifest
        teacher = next((index for index, (_, each) in enumerate(theirs) if each.entropy.digest == digest), None)
        encoder_name, encoder = (None, codec) if manifest.encoder or not encode else _find(codec, "encoder", encoders)
        decoder_name, decoder = (None, codec) if manifest.decoder else _find(codec, "decoder", decoders)
        found.append(Folder(name, codec, encoder_name, encoder, decoder_name, decoder, teacher))
    return found


def _complete(codec: OnnxCodec, entropies: Sequence[EntropyModel]) -> None:
    """Give a folder with a context model the entropy model of its teacher in PyTorch."""
    side = codec.manifest.side
    if not codec.manifest.has_context or side is None:
        return
    for entropy in entropies:
        if entropy.predictor and entropy.predictor.digest.hex() == side.prediction_sha256:
            codec.with_entropy(entropy)
            return
    raise UserError(
        f"{codec.folder} has the networks of a codec with a context model, which PyTorch alone computes: name the checkpoint "
        f"that it was made from ({codec.manifest.name}) with --teacher."
    )


def _find(codec: OnnxCodec, part: str, others: list[tuple[str, Any]]) -> tuple[str, Any]:
    digest = codec.entropy.digest
    for name, other in others:
        if other.entropy.digest == digest:
            return name, other
    known = [f"{name} ({other.entropy.digest.hex()[:8]})" for name, other in others]
    but = f", and its entropy tables ({digest.hex()[:8]}) are not those of {' or '.join(known)}" if known else ""
    raise UserError(
        f"{codec.folder} holds no {part}{but}: name its teacher with --teacher or --quality, or export it with --part both."
    )


def curve_names(folders: Sequence[Folder], teachers: int) -> list[str]:
    """Curve of each folder: its own if all have the same entropy tables, else one per kind."""
    if teachers <= 1 and len({folder.codec.tables.digest() for folder in folders}) <= 1:
        return [folder.name for folder in folders]
    seen: dict[tuple[bytes, str], int] = {}
    curves = []
    for folder in folders:
        key = (folder.codec.tables.digest(), folder.kind)
        seen[key] = seen.get(key, 0) + 1
        curves.append(folder.kind if seen[key] == 1 else f"{folder.kind} ({seen[key]})")
    return curves


def check_sizes(folders: Sequence[Folder], sizes: Iterable[tuple[str, tuple[int, int]]]) -> None:
    """Refuse pictures that a folder of a fixed size cannot take, before measuring.

    Args:
        sizes: names of pictures, and their heights and widths in pixels.

    Raises:
        UserError: there is such a picture.
    """
    codecs = {each for folder in folders for each in (folder.decoder, folder.encoder) if isinstance(each, OnnxCodec)}
    fixed = [codec for codec in codecs if codec.manifest.height]
    for name, (height, width) in sizes if fixed else ():
        for codec in fixed:
            try:
                codec.check_size(height, width)
            except UserError as error:
                raise UserError(f"{name} has {width}x{height} pixels: {error}") from error
