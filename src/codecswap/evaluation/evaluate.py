"""Evaluate codecs on pictures, picture by picture: `evaluate` for Python, `measure_all` for codecs that are set up already."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from codecswap.codecs.protocol import Codec
from codecswap.data.transforms import whole_picture
from codecswap.errors import UserError
from codecswap.evaluation.anchors import Anchors
from codecswap.evaluation.exported import pair_folders
from codecswap.evaluation.measure import Decoded, ExportedCodecs, MeasuredCodecs, TeacherAndStudents
from codecswap.evaluation.result import CodecResult, Coded
from codecswap.inference.runtime import OnnxCodec
from codecswap.metrics.table import Metric, choose_metrics, compare
from codecswap.processes import cores


def evaluate(
    pictures: Iterable[str | Path | tuple[str, Tensor]],
    codecs: Mapping[str, Codec | OnnxCodec] | None = None,
    *,
    teacher: Codec | None = None,
    anchors: Sequence[int] = (),
    metrics: Iterable[str] = (),
    progress: Callable[[int], None] = lambda done: None,
) -> list[CodecResult]:
    """Measure codecs on pictures: real bytes, PSNR, MS-SSIM and time, picture by picture. Prints and writes nothing.

    Args:
        pictures: files, used uncropped, or names with pictures ``(3, H, W)``, RGB in [0, 1], of any size.
        codecs: codecs by the names of the results: in PyTorch (in eval mode, tables up to date), or opened folders
            (`codecswap.inference.runtime.OnnxCodec`).
            A folder without an encoder or a decoder takes the teacher's, or another folder's.
        teacher: the codec that the others are compared with, too. Codecs in PyTorch are its students: those with its
            latents decode its bytes, and their encoding time is the teacher's.
        anchors: qualities, 1 to 100, of JPEG, WebP and AVIF (`codecswap.evaluation.anchors.Anchors`).
        metrics: names of metrics on request, e.g. ``lpips``; PSNR and MS-SSIM are always measured.
        progress: called after each picture with the number of pictures done.

    Returns: the teacher's result, then the codecs' in their order, then each format and quality's (``JPEG q30``).

    Raises:
        UserError: there is no codec to measure, a metric does not exist or cannot be loaded, a folder has no decoder or
            no encoder and nothing to pair it with, or a codec cannot take a picture.
        OSError: a picture cannot be read.
    """
    named = dict(codecs or {})
    folders = {name: codec for name, codec in named.items() if isinstance(codec, OnnxCodec)}
    in_torch = {name: codec for name, codec in named.items() if not isinstance(codec, OnnxCodec)}
    if not named and teacher is None and not anchors:
        raise UserError("There is nothing to measure: give codecs, a teacher or anchors.")
    first = next(iter([*([teacher] if teacher is not None else []), *in_torch.values()]), None)
    device = torch.device("cpu") if first is None else next(first.parameters()).device
    chosen = choose_metrics(metrics)
    for metric in chosen:
        if metric.load and not metric.load(device):
            raise UserError(f"{metric.label} cannot be measured here: leave it out.")
    teachers = {"teacher": teacher} if teacher is not None else in_torch
    paired = pair_folders(list(folders.values()), list(folders), teachers)
    exported = [one for each in paired for one in each.measured(each.name).at_gains()]
    measured: list[MeasuredCodecs] = []
    for name, codec in in_torch.items() if teacher is None else [("teacher", teacher)]:
        students = {} if teacher is None else in_torch
        for gain in codec.gains or (None,):
            beside = [one for one in exported if teacher is not None and one.gain in (gain, None)]
            measured.append(TeacherAndStudents(codec, students, name=name, exported=beside, gain=gain))
    if teacher is None and exported:
        measured.append(ExportedCodecs(exported))
    anchored = Anchors(anchors)
    for done, _ in enumerate(measure_all(measured, _read(pictures), anchors=anchored, metrics=chosen), 1):
        progress(done)
    by_curve: dict[str, list[CodecResult]] = {}
    for result in (result for each in measured for result in each.results):
        by_curve.setdefault(result.curve or result.name, []).append(result)
    order = (["teacher"] if teacher is not None else []) + list(named)
    return [result for name in order for result in by_curve[name]] + anchored.results


def _read(pictures: Iterable[str | Path | tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    for picture in pictures:
        yield (Path(picture).name, whole_picture(Path(picture))) if isinstance(picture, str | Path) else picture


def measure_all(
    measured: Sequence[MeasuredCodecs],
    pictures: Iterable[tuple[str, Tensor]],
    *,
    anchors: Anchors | None = None,
    metrics: Sequence[Metric] | None = None,
    device: torch.device | None = None,
) -> Iterator[str]:
    """Measure codecs and anchors on named pictures ``(3, H, W)`` in [0, 1]; yields each picture's name once all have coded it.

    A picture counts once all codecs have coded it, so after an interruption all results are of the same pictures. Codecs are
    timed alone, with PyTorch's threads. Metrics and anchors run afterwards in threads of one core each: with PyTorch's own
    they take several times as long on a machine whose cores are not all free, since each of their many short steps waits for
    every thread.

    Args:
        metrics: those that are always measured by default.
        device: where metrics are computed; by default where each codec is.
    """
    metrics = choose_metrics() if metrics is None else metrics
    before = torch.get_num_threads()
    groups: list[MeasuredCodecs | Anchors] = [*measured, *([anchors] if anchors else [])]
    try:
        with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool, full_float32():
            for index, (name, picture) in enumerate(pictures):
                x = picture[None].to(device)
                if index == 0:  # the first call of each codec is slower
                    for codecs in measured:
                        codecs.decode(name, x)
                decoded = [one for codecs in measured for one in codecs.decode(name, x)]
                coded = list(pool.map(partial(_score, name, x, metrics), decoded))
                if anchors:
                    coded += anchors.measure(name, x, metrics, pool)
                results = [result for codecs in groups for result in codecs.results]
                for result, one in zip(results, coded, strict=True):
                    result.coded.append(one)
                yield name
    finally:  # after an interruption some codecs may have one picture more
        torch.set_num_threads(before)  # new threads would get what the pool's got
        results = [result for codecs in groups for result in codecs.results]
        complete = min((len(result.coded) for result in results), default=0)
        for result in results:
            del result.coded[complete:]


def _score(picture: str, x: Tensor, metrics: Sequence[Metric], decoded: Decoded) -> Coded:
    """Compare a decoded picture with the original ``x: (1, 3, H, W)``, and with its teacher's."""
    always = [metric for metric in metrics if metric.load is None]
    against = None if decoded.by_teacher is None else compare(decoded.y, decoded.by_teacher, always)
    scores = compare(decoded.y, x.to(decoded.y.device), metrics)
    return Coded(picture, decoded.bpp, scores, decoded.encoding_time, decoded.decoding_time, against)


@contextmanager
def full_float32() -> Iterator[None]:
    """Disable TF32 on a GPU: its rounding changes latents, and so bytes."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
