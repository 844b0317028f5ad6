"""Summary of an evaluation, as data and as sentences: shared bitstreams, BD-rates, and published results."""

from collections.abc import Mapping, Sequence
from typing import Any

from codecswap.evaluation.evaluation_set import EvaluationSet
from codecswap.evaluation.measure import TeacherAndStudents
from codecswap.evaluation.published import distance, published
from codecswap.evaluation.rate_distortion import Delta, bd_psnr, bd_rate, curves
from codecswap.evaluation.result import CodecResult


def latent_sentences(results: Sequence[CodecResult]) -> tuple[list[str], list[str]]:
    """Whether the students decode their teacher's bitstreams: messages, and warnings."""
    said, warned = [], []
    students = [result for result in results if result.kind == "student"]
    for student in students:
        name = "this student" if len(students) == 1 else student.name
        if student.same_latents:
            continue
        if student.same_entropy:
            said.append(
                f"{name[0].upper()}{name[1:]} has an encoder of its own and the teacher's entropy model, bit for bit: either's "
                "decoder reads the other's files."
            )
        else:
            warned.append(
                f"{name}: encoder or entropy model was trained, the teacher's bitstreams do not decode with it."
            )
    if shared := [student.name for student in students if student.same_latents]:
        of = "" if len(shared) == len(students) else f" of {', '.join(shared)}"
        said.append(
            f"Encoder and entropy model{of} are the teacher's, bit for bit: every bitstream of the teacher decodes. "
            "So the teacher's bytes are what was decoded, and its encoding time is shown."
        )
    return said, warned


def bjontegaard(results: Sequence[CodecResult]) -> list[dict[str, Any]]:
    """BD-rate and BD-PSNR of the curves of students and folders against the teachers', as in ``summary.json``.

    Without a teacher: against the first folders' curve.
    """
    found = curves(result for result in results if result.kind != "anchor")
    points = {name: [(m["bpp"], m["psnr"]) for m in (p.mean() for p in curve)] for name, curve in found.items()}
    reference = next(iter(found))
    entries = []
    for name in list(found)[1:]:
        rate, quality = bd_rate(points[reference], points[name]), bd_psnr(points[reference], points[name])
        entries.append({"curve": name, "against": reference, "bd_rate": vars(rate), "bd_psnr": vars(quality)})
    return entries


def describe(entry: dict[str, Any]) -> str:
    """An entry of `bjontegaard` as a sentence."""
    rate, quality = Delta(**entry["bd_rate"]), Delta(**entry["bd_psnr"])
    same = rate.value is None and rate.why == quality.why
    both = [f"no BD-rate and no BD-PSNR, {rate.why}"] if same else []
    both = both or [_sentence("BD-rate", rate, "%"), _sentence("BD-PSNR", quality, "dB")]
    return f"{entry['curve']} against {entry['against']}: {'; '.join(both)}."


def _sentence(what: str, delta: Delta, unit: str) -> str:
    if delta.value is None or delta.over is None:
        return f"no {what}, {delta.why}"
    axis = "dB" if unit == "%" else "bits per pixel"
    return f"{what} {delta.value:+.2f} {unit} (over {delta.over[0]:.2f} to {delta.over[1]:.2f} {axis})"


def against_published(codecs: EvaluationSet) -> list[dict[str, Any]]:
    """Differences of the zoo's codecs (trained for MSE) from CompressAI's results on Kodak, as in ``summary.json``.

    A codec with variable rate has a published curve, at gains other than its levels.
    """
    entries = []
    for teacher, measured in zip(codecs.teachers, codecs.measured, strict=False):
        variable = isinstance(measured, TeacherAndStudents) and measured.codecs[0].gains
        if teacher.path is None and teacher.metric == "mse" and published(teacher.model)["results"] and not variable:
            result, quality = measured.results[0], teacher.quality
            theirs = {key: values[quality - 1] for key, values in published(teacher.model)["results"].items()}
            found = distance(result.mean(), quality, teacher.model)
            entries.append({"quality": quality, "codec": result.name, "published": theirs, "distance": found})
    return entries


def entry_of(result: CodecResult, codecs: EvaluationSet) -> dict[str, Any]:
    """Entry of a codec in ``summary.json``."""
    entry: dict[str, Any] = {
        "name": result.name,
        "kind": result.kind,
        "curve": result.curve,
        "same_latents": result.same_latents,
    }
    if result.kind == "student":
        student = codecs.checkpoints[_without_gain(result.name, codecs.checkpoints)]
        entry |= {"checkpoint": str(student.path), "replacement": student.replacement}
    elif result.kind == "exported":
        folder = codecs.folders[_without_gain(result.name, codecs.folders)]
        manifest = folder.codec.manifest
        entry |= {"folder": folder.path, "replacement": manifest.replacement, "precision": manifest.precision}
        entry |= {"encoder": folder.encoder_name or result.name, "decoder": folder.decoder_name or result.name}
        entry |= {"height": manifest.height, "width": manifest.width}
    return entry | {"mean": result.mean()}


def _without_gain(name: str, names: Mapping[str, Any]) -> str:
    """The name of the codec that was measured at a gain as ``name``."""
    return name if name in names else name.rpartition(", gain ")[0]
