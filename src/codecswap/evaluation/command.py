"""``codecswap eval``: measure teachers, students, exported folders and anchors, print the table, write the files."""

from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from codecswap import __version__
from codecswap.config import ZOO, EvalOptions
from codecswap.console import say, show_table, warn
from codecswap.data.sources import is_address
from codecswap.devices import use_cuda
from codecswap.errors import UserError
from codecswap.evaluation import results as files
from codecswap.evaluation import summary
from codecswap.evaluation.anchors import Anchors
from codecswap.evaluation.evaluate import measure_all
from codecswap.evaluation.evaluation_set import EvaluationSet, build_evaluation_set, progress
from codecswap.evaluation.exported import check_sizes
from codecswap.evaluation.pictures import EvaluationPictures
from codecswap.evaluation.published import is_kodak, published
from codecswap.evaluation.rate_distortion import curves
from codecswap.evaluation.result import CodecResult
from codecswap.metrics.table import choose_metrics
from codecswap.processes import cores

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in a shell."""


def main(options: EvalOptions) -> int:
    """Measure, print and write; after Ctrl-C, the results so far."""
    device = torch.device("cuda" if use_cuda(options.accelerator) else "cpu")
    torch.set_num_threads(min(torch.get_num_threads(), cores()))  # PyTorch ignores the CPU limits of a container
    asked = choose_metrics(options.metrics)
    pictures = EvaluationPictures(options)
    if options.output:
        files.prepare_folder(options.output)
    codecs = build_evaluation_set(options, device, pictures.coded if pictures.archive else None)
    check_sizes(list(codecs.folders.values()), pictures.expected_sizes())
    metrics = [metric for metric in asked if metric.load is None or metric.load(device)]
    unfinished = [sentence for student in codecs.checkpoints.values() if (sentence := progress(student))]
    for sentence in unfinished:
        warn(sentence)
    anchors, interrupted = Anchors(options.anchor_qualities), False
    try:
        with closing(iter(pictures)) as iterator:
            for _ in measure_all(codecs.measured, iterator, anchors=anchors, metrics=metrics, device=device):
                pass
    except KeyboardInterrupt:
        interrupted = True
    results = [result for each in codecs.measured for result in each.results] + anchors.results
    count, found = len(results[0].coded), pictures.found
    if not count:
        if interrupted:
            raise KeyboardInterrupt
        raise UserError(
            f"None of the {found} pictures in {pictures.folder} can be read."
            if found
            else f"There are no pictures in {pictures.folder}: check --images."
        )
    of = f" of {found}" if pictures.paths else ""
    partial = f"stopped after {count}{of} pictures" if interrupted else None
    title = f"{codecs.title} against the picture: {codecs.source}, {count}{of if partial else ''} pictures"
    files.show_results(title, results, asked)
    _say_whose_bytes(codecs, results)
    if options.archive:
        say(f"The files of {options.archive} were decoded; the encoding times are those of its making.")
    deltas = summary.bjontegaard(results) if codecs.rates > 1 else []
    for delta in deltas:
        say(summary.describe(delta))
    kodak = is_kodak(zip(pictures.names, pictures.sizes, strict=True))
    against_published = summary.against_published(codecs) if kodak and not partial else []
    _show_published(against_published)
    if options.output:
        content = {
            "format": files.FORMAT,
            "version": 1,
            "codecswap": __version__,
            "teachers": [teacher.name for teacher in codecs.teachers],
            "pictures": {
                "folder": pictures.folder if is_address(pictures.folder) else str(Path(pictures.folder).resolve()),
                "archive": str(options.archive.resolve()) if options.archive else None,
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
            "codecs": [summary.entry_of(result, codecs) for result in results],
            "bjontegaard": deltas,
            "published": against_published,
            "unfinished": unfinished,
        }
        description = f"{count} pictures of {Path(pictures.folder).name}, measured by codecswap {__version__}"
        description += f", {partial}" if partial else ""
        written = [files.curve_json(name, points, description) for name, points in curves(results).items()]
        if kodak:
            models = dict.fromkeys([ZOO, *(teacher.model for teacher in codecs.teachers if teacher.path is None)])
            written += [known for model in models if (known := published(model))["results"]]
        files.write_results(options.output, content, results, written)
        names = f"{files.SUMMARY}, {files.PICTURES} and {files.CURVES}/"
        say(f"Written to {options.output}: {names} for compressai.utils.plot.")
    if partial:
        warn(f"{partial}: these figures are of those.")
    return INTERRUPTED if interrupted else 0


def _say_whose_bytes(codecs: EvaluationSet, results: list[CodecResult]) -> None:
    """Print whose bytes students and folders decode."""
    said, warned = summary.latent_sentences(results)
    for sentence in warned:
        warn(sentence)
    for folder in codecs.folders.values():
        if folder.encoder_name:
            said.append(
                f"{folder.name} has no encoder: it decodes what {folder.encoder_name} encodes, as real files, with its times."
            )
        if folder.decoder_name:
            said.append(f"{folder.name} has no decoder: {folder.decoder_name} decodes its files, with its times.")
    for sentence in said:
        say(sentence)


def _show_published(entries: list[dict[str, Any]]) -> None:
    """Print the table of `codecswap.evaluation.summary.against_published`."""
    rows = []
    for entry in entries:
        theirs, difference = entry["published"], entry["distance"]
        rows.append(
            [
                f"quality {entry['quality']}",
                *(f"{theirs['psnr-rgb']:.3f}", f"{difference['psnr']:+.3f}"),
                *(f"{theirs['ms-ssim-rgb']:.5f}", f"{difference['ms_ssim']:+.5f}"),
                *(f"{theirs['bpp']:.4f}", f"{difference['bpp']:+.4f}"),
            ]
        )
    if rows:
        columns = ["zoo", "PSNR, dB", "teacher", "MS-SSIM", "teacher", "bits per pixel", "teacher"]
        show_table("What CompressAI publishes for Kodak, and how far the teacher is from it", columns, rows)
