"""``codecswap advise``: compare the replacements, and recommend one."""

from codecswap.advice.advise import Advice, Choice, advise
from codecswap.codecs.source import Teacher
from codecswap.config import AdviseOptions
from codecswap.console import progress, say, show_table
from codecswap.errors import UserError, how_to_install
from codecswap.swaps import UNCHANGED


def main(options: AdviseOptions) -> int:
    """Measure, print the tables, and say what to do; with a target, ask its compiler where it is installed."""
    source = Teacher.of(options)
    operators = [name.strip() for name in options.operators.split(",")] if options.operators else None
    with progress("Compare", unit="choices") as show:
        found = advise(source.load(), options.target, operators=operators, images=options.images, progress=show)
    _show(found, source.name)
    if options.target:
        try:
            from codecswap.compile.compare import compare, frontiers
            from codecswap.export.tables import show_frontier
        except ModuleNotFoundError as error:
            raise UserError(f"--target needs {error.name}, which is not installed: {how_to_install('npu')}.") from None
        exact = [choice.name for choice in found.upsampling if choice.exact]
        answer = compare(found.codecs, source.name, options.target, exact)
        codec = found.codecs[found.replacement or exact[0]]
        for precision, frontier in frontiers(codec, options.target):
            say(f"{options.target}, {precision}:")
            show_frontier(frontier)
        if answer is None:
            return 0
    for sentence in found.sentences():
        say(sentence)
    return 0


def _show(found: Advice, name: str) -> None:
    rows = [
        [
            choice.name,
            _exact(choice, choice is found.upsampling[0]),
            f"{choice.psnr:.2f}",
            _cost(choice),
            ", ".join(choice.operators),
            "none" if choice.exact else "distill + fine-tune",
        ]
        for choice in found.upsampling
    ]
    columns = ["--replacement", "exact?", "start, dB", "10^3 multiply-adds/pixel", "ONNX operators", "training"]
    show_table(f"{name}, measured on {found.pictures} pictures", columns, rows)
    if not found.gdn:
        return
    rows = [
        [
            f"{choice.name}, {choice.pieces} pieces" if choice.pieces else choice.name,
            _exact(choice, choice.name == UNCHANGED),
            f"{choice.lost:.3f}",
            _cost(choice),
            ", ".join(choice.operators),
        ]
        for choice in found.gdn
    ]
    columns = ["--gdn", "exact?", "lost, dB", "10^3 multiply-adds/pixel, decoder", "ONNX operators"]
    show_table("The inverse GDNs between them, without training", columns, rows)


def _exact(choice: Choice, is_teachers: bool) -> str:
    return "the teacher" if is_teachers else f"yes, {choice.error:.0e}" if choice.exact else "no"


def _cost(choice: Choice) -> str:
    folded, unfolded = choice.multiply_adds, choice.unfolded
    return f"{folded / 1e3:.1f}" + (f" ({unfolded / 1e3:.1f} plain)" if unfolded > folded else "")
