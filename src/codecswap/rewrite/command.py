"""``codecswap rewrite``: prints what `codecswap.rewrite.rewriting` did."""

import json

from codecswap import console
from codecswap.config import RewriteOptions
from codecswap.errors import UserError
from codecswap.files import atomic_write
from codecswap.rewrite.rewriting import NodeReport, Rewritten, rewrite
from codecswap.rewrite.runs import ROUNDS


def main(options: RewriteOptions) -> None:
    """Rewrite a file and print what was done."""
    assert options.file is not None
    output = options.output or options.file.with_name(f"{options.file.stem}.rewritten.onnx")
    done = rewrite(
        options.file,
        output,
        form=options.form,
        operators=options.operators,
        target=options.target,
        inputs=options.inputs,
        timed=options.time,
    )
    console.show_table(
        f"Transposed convolutions of {options.file.name}",
        ("node", "channels, kernel", "form", "output", "multiply-adds", "parameters", "largest error"),
        [_row(node) for node in done.nodes],
    )
    for node in done.nodes:
        if node.reason:
            console.say(f"{node.name} was left as it is: {node.reason}.")
    _say_verified(done)
    if options.report:
        with atomic_write(options.report) as file:
            file.write_text(json.dumps(done.as_json(), indent=1) + "\n", encoding="utf-8")
    if done.output is None:
        raise UserError("No node was changed, so nothing is written: take another --form, or see the reasons above.")
    console.say(f"Written: {done.output}")


def _row(node: NodeReport) -> tuple[str, ...]:
    name = f"{node.function}: {node.name}" if node.function else node.name
    if node.form is None or not (node.multiply_adds and node.parameters):
        return (name, node.kernel, "-", "", "", "", "")
    before, after = node.multiply_adds
    return (
        name,
        node.kernel,
        node.form,
        "x".join(map(str, node.output_lengths)),
        f"{before / 1e6:,.2f} M -> {after / before:.2f} x",
        f"{node.parameters[0]:,} -> {node.parameters[1]:,}",
        "" if node.error is None else f"{node.error:.0e}",
    )


def _say_verified(done: Rewritten) -> None:
    for note in done.notes:
        console.say(note)
    if done.skipped:
        console.warn(
            f"the whole model could not be run ({done.skipped}): every node was checked alone. Give real inputs with --inputs."
        )
    if done.runs:
        console.say(f"Both files were run on {' and on '.join(done.runs)}.")
        where = f", at {done.place}" if done.place else ""
        console.say(f"Largest relative error of the whole model: {done.error:.1e}{where}.")
    if done.milliseconds:
        before, after = done.milliseconds
        console.say(
            f"ONNX Runtime, one thread, the fastest of {ROUNDS} runs in turns: {before:.2f} ms before, {after:.2f} ms after."
        )
