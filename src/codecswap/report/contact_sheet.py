"""Contact sheets: pictures side by side, for visual comparison."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from codecswap.files import atomic_write

GAP, CAPTION = 8, 22
"""Gap between pictures, and height of the caption above each, in pixels."""


def contact_sheet(path: Path, titles: Sequence[str], rows: Sequence[Sequence[tuple[Image.Image, str]]]) -> None:
    """Write a PNG with one row per picture and one column per title.

    Args:
        path: the file; its folder must exist.
        titles: one per column.
        rows: for each picture a cell per column: the picture (one size throughout) and its caption.
    """
    width, height = rows[0][0][0].size
    sheet = Image.new(
        "RGB", (GAP + len(titles) * (width + GAP), CAPTION + len(rows) * (height + CAPTION + GAP)), "white"
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for column, title in enumerate(titles):
        draw.text((GAP + column * (width + GAP), 3), title, fill="black", font=font)
    for line, cells in enumerate(rows):
        top = CAPTION + line * (height + CAPTION + GAP)
        for column, (picture, caption) in enumerate(cells):
            left = GAP + column * (width + GAP)
            draw.text((left, top + 2), caption, fill="#555555", font=font)
            sheet.paste(picture, (left, top + CAPTION))
    with atomic_write(path) as beside:
        sheet.save(beside, format="PNG")
