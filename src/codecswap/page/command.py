"""``codecswap page``: write the page of an exported codec."""

from codecswap.config import PageOptions
from codecswap.console import amount, say
from codecswap.errors import UserError
from codecswap.files import atomic_write
from codecswap.page.document import page


def main(options: PageOptions) -> int:
    """Write the page."""
    if options.codec is None:
        raise UserError("Name the codec with --codec: a folder that `codecswap export` or `codecswap quantize` wrote.")
    output = options.output / "decoder.html" if options.output.is_dir() else options.output
    content = page(options.codec, options.onnxruntime_web)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as path:
        path.write_text(content, encoding="utf-8")
    size = amount(len(content.encode()), "bytes")
    say(f"Written: {output} ({size}). Open it in a browser, or put it on a web server; it contacts no other host.")
    return 0
