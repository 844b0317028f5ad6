"""``codecswap eval``: measure teachers, students, exported folders and anchors, print the table, write the files."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from codecswap import __version__
from codecswap.config import ZOO, EvalOptions
from codecswap.console import bar, say, show_table, warn
from codecswap.data.datasets import ValidationPictures
from codecswap.data.discovery import CROP, find_pictures, list_pictures
from codecswap.data.pictures import UNREADABLE, picture_size
from codecswap.data.transforms import validation_crop, whole_picture
from codecswap.devices import use_cuda
from codecswap.errors import UserError
from codecswap.evaluation import results as results_files
from codecswap.evaluation.anchors import Anchors
from codecswap.evaluation.evaluation_set import EvaluationSet, build_evaluation_set, progress
from codecswap.evaluation.exported import check_sizes
from codecswap.evaluation.measure import CodecResult, MeasuredCodecs, evaluate_all
from codecswap.evaluation.perceptual import load_lpips
from codecswap.evaluation.published import distance, is_kodak, published
from codecswap.evaluation.rate_distortion import Delta, bd_psnr, bd_rate, curves

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in a shell."""


def main(options: EvalOptions) -> int:
    """Measure, show and write; after Ctrl-C, what was measured until then."""
    device = torch.device("cuda" if use_cuda(options.accelerator) else "cpu")
    pictures = EvaluationPictures(options)
    if options.output:
        results_files.prepare_folder(options.output)
    codecs = build_evaluation_set(options, device)
    check_sizes(list(codecs.folders.values()), pictures.expected_sizes())
    lpips = load_lpips(device) if options.lpips else None
    unfinished = [sentence for student in codecs.checkpoints.values() if (sentence := progress(student))]
    for sentence in unfinished:
        warn(sentence)
    measured: list[MeasuredCodecs] = [*codecs.measured]
    if options.anchor_qualities:
        measured.append(Anchors(options.anchor_qualities))
    interrupted = False
    try:
        with closing(iter(pictures)) as iterator:
            evaluate_all(measured, iterator, lpips=lpips)
    except KeyboardInterrupt:
        interrupted = True
    results = [result for each in measured for result in each.results]
    count, found = len(results[0].coded), len(pictures.paths)
    if not count:
        if interrupted:
            raise KeyboardInterrupt
        raise UserError(f"None of the {found} pictures in {pictures.folder} can be read.")
    partial = f"stopped after {count} of {found} pictures" if interrupted else None
    title = f"{codecs.title} against the picture: {codecs.source}, {count}{f' of {found}' if partial else ''} pictures"
    results_files.show_results(title, results, lpips=options.lpips)
    _say_latents(results)
    _say_encoders(codecs)
    deltas = _bjontegaard(results) if codecs.rates > 1 else []
    kodak = is_kodak(zip(pictures.names, pictures.sizes, strict=True))
    against_published = _published(codecs) if kodak and not partial else []
    if options.output:
        summary = {
            "format": results_files.FORMAT,
            "version": 1,
            "codecswap": __version__,
            "teachers": [teacher.name for teacher in codecs.teachers],
            "pictures": {
                "folder": str(Path(pictures.folder).resolve()),
                "measured": count,
                "found": found,
                "unreadable": pictures.unreadable,
                "kodak": kodak,
            },
            "complete": not partial,
            "hardware": {
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                "threads": torch.get_num_threads(),
            },
            "codecs": [_entry(result, codecs) for result in results],
            "bjontegaard": deltas,
            "published": against_published,
            "unfinished": unfinished,
        }
        description = f"{count} pictures of {Path(pictures.folder).name}, measured by codecswap {__version__}"
        description += f", {partial}" if partial else ""
        found_curves = curves(results).items()
        written = [results_files.curve_json(name, points, description) for name, points in found_curves]
        if kodak:
            models = dict.fromkeys([ZOO, *(teacher.model for teacher in codecs.teachers if teacher.path is None)])
            written += [published(model) for model in models]
        results_files.write_results(options.output, summary, results, written)
        names = f"{results_files.SUMMARY}, {results_files.PICTURES} and {results_files.CURVES}/"
        say(f"Written to {options.output}: {names} for compressai.utils.plot.")
    if partial:
        warn(f"{partial}: these figures are of those.")
    return INTERRUPTED if interrupted else 0


class EvaluationPictures:
    """Iterates over the pictures of the options; unreadable ones are skipped with a warning."""

    def __init__(self, options: EvalOptions) -> None:
        if not options.images and not options.coco_dir:
            raise UserError(
                "No pictures given: name a folder with --images (taken whole) or --coco_dir (center crops)."
            )
        self.read: Callable[[Path], Tensor]
        if options.images:
            self.folder, self.read = options.images, whole_picture
            self.paths = list_pictures(options.images, "--images")
        else:
            found = find_pictures(
                options.coco_dir,
                val_ratio=options.val_ratio,
                use_prepared=options.use_prepared,
                max_images=options.max_images,
            )
            self.folder, self.read, self.paths = str(options.coco_dir), validation_crop, found.val
        self.workers = options.num_workers
        self.names: list[str] = []
        """Of those read, relative to the folder."""
        self.sizes: list[tuple[int, int]] = []
        """Height and width of those read."""
        self.unreadable: list[str] = []

    def expected_sizes(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Names, heights and widths of the pictures, from their headers; those that cannot be read are left out."""
        for path in self.paths:
            with suppress(*UNREADABLE):
                width, height = (CROP, CROP) if self.read is validation_crop else picture_size(path)
                yield path.name, (height, width)

    def __iter__(self) -> Generator[tuple[str, Tensor], None, None]:
        loader = DataLoader(ValidationPictures(self.paths, self.read), batch_size=None, num_workers=self.workers)
        with bar("Evaluate", len(self.paths), unit="pictures") as advance:
            for sample in loader:
                name = sample.path.relative_to(self.folder).as_posix()
                if sample.image is None:
                    warn(f"{sample.path} cannot be read and is skipped.")
                    self.unreadable.append(name)
                else:
                    self.names.append(name)
                    self.sizes.append((sample.image.shape[-2], sample.image.shape[-1]))
                    yield name, sample.image
                advance(1)


def _say_latents(results: Sequence[CodecResult]) -> None:
    """Say whether the students decode their teacher's bitstreams."""
    students = [result for result in results if result.kind == "student"]
    for student in students:
        name = "this student" if len(students) == 1 else student.name
        if student.same_latents:
            continue
        if student.same_entropy:
            say(
                f"{name[0].upper()}{name[1:]} has an encoder of its own and the teacher's entropy model, bit for bit: either's "
                "decoder reads the other's files."
            )
        else:
            warn(f"{name}: encoder or entropy model was trained, the teacher's bitstreams do not decode with it.")
    if shared := [student.name for student in students if student.same_latents]:
        of = "" if len(shared) == len(students) else f" of {', '.join(shared)}"
        say(
            f"Encoder and entropy model{of} are the teacher's, bit for bit: every bitstream of the teacher decodes. "
            "So the teacher's bytes are what was decoded, and its encoding time is shown."
        )


def _say_encoders(codecs: EvaluationSet) -> None:
    """Say whose files the folders without an encoder decode."""
    for folder in codecs.folders.values():
        if folder.lender:
            say(
                f"{folder.name} has no encoder: it decodes what {folder.lender} encodes, as real files, with its times."
            )


def _bjontegaard(results: Sequence[CodecResult]) -> list[dict[str, Any]]:
    """BD-rate and BD-PSNR of the curves of students and folders against the teachers', printed and returned.

    Without a teacher: against the first folders' curve.
    """
    found = curves(result for result in results if result.kind != "anchor")
    points = {name: [(m["bpp"], m["psnr"]) for m in (p.mean() for p in curve)] for name, curve in found.items()}
    reference = next(iter(found))
    entries = []
    for name in list(found)[1:]:
        rate, quality = bd_rate(points[reference], points[name]), bd_psnr(points[reference], points[name])
        same = rate.value is None and rate.why == quality.why
        both = [f"no BD-rate and no BD-PSNR, {rate.why}"] if same else []
        both = both or [_sentence("BD-rate", rate, "%"), _sentence("BD-PSNR", quality, "dB")]
        say(f"{name} against {reference}: {'; '.join(both)}.")
        entries.append({"curve": name, "against": reference, "bd_rate": vars(rate), "bd_psnr": vars(quality)})
    return entries


def _sentence(what: str, delta: Delta, unit: str) -> str:
    if delta.value is None or delta.over is None:
        return f"no {what}, {delta.why}"
    axis = "dB" if unit == "%" else "bits per pixel"
    return f"{what} {delta.value:+.2f} {unit} (over {delta.over[0]:.2f} to {delta.over[1]:.2f} {axis})"


def _published(codecs: EvaluationSet) -> list[dict[str, Any]]:
    """Differences of the zoo's codecs from CompressAI's published figures, printed and returned."""
    zoo = [
        (teacher, measured.results[0])
        for teacher, measured in zip(codecs.teachers, codecs.measured, strict=False)
        if teacher.path is None and teacher.metric == "mse"
    ]
    entries, rows = [], []
    for teacher, result in zoo:
        quality = teacher.quality
        difference = distance(result.mean(), quality, teacher.model)
        theirs = {key: values[quality - 1] for key, values in published(teacher.model)["results"].items()}
        rows.append(
            [
                f"quality {quality}",
                *(f"{theirs['psnr-rgb']:.3f}", f"{difference['psnr']:+.3f}"),
                *(f"{theirs['ms-ssim-rgb']:.5f}", f"{difference['ms_ssim']:+.5f}"),
                *(f"{theirs['bpp']:.4f}", f"{difference['bpp']:+.4f}"),
            ]
        )
        entries.append({"quality": quality, "codec": result.name, "published": theirs, "distance": difference})
    if rows:
        columns = ["zoo", "PSNR, dB", "teacher", "MS-SSIM", "teacher", "bits per pixel", "teacher"]
        show_table("What CompressAI publishes for Kodak, and how far the teacher is from it", columns, rows)
    return entries


def _entry(result: CodecResult, codecs: EvaluationSet) -> dict[str, Any]:
    """A codec in the summary."""
    entry: dict[str, Any] = {
        "name": result.name,
        "kind": result.kind,
        "curve": result.curve,
        "same_latents": result.same_latents,
    }
    if result.kind == "student":
        student = codecs.checkpoints[result.name]
        entry |= {"checkpoint": str(student.path), "replacement": student.replacement}
    elif result.kind == "exported":
        folder = codecs.folders[result.name]
        manifest = folder.codec.manifest
        entry |= {"folder": folder.path, "replacement": manifest.replacement, "precision": manifest.precision}
        entry |= {"encoder": folder.lender or result.name, "height": manifest.height, "width": manifest.width}
    return entry | {"mean": result.mean()}
