"""The folder of prepared crops: file names, settings, and missing crops."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codecswap.config import PrepareOptions
from codecswap.console import bar, warn
from codecswap.data.discovery import ENDINGS, base_name, choose, counted, normal, position, scan, to_train_on
from codecswap.data.prepare.crops import BYTES_PER_PIXEL, crop_all
from codecswap.data.sources import Item, find_files
from codecswap.errors import UserError
from codecswap.files import atomic_write, need_space

MANIFEST = "manifest.json"
SKIPPED = "skipped.txt"
FOLDERS = 256
"""Sub-folders of train/ and val/: about 460 of COCO's pictures in each."""


@dataclass(frozen=True)
class Counts:
    """Numbers of crops in the folder."""

    train: int
    """Crops for training."""
    val: int
    """Crops for validation."""
    skipped: int
    """Pictures that could not be read."""


def crop_folder(source: str | Path, label: str, options: PrepareOptions) -> Counts:
    """Update ``out_dir`` from the pictures of ``source``: only missing crops are made.

    Args:
        source: folder of pictures, or what else `codecswap.data.sources.find_items` takes.
        label: its name in the manifest; another label in the same ``out_dir`` is refused.
        options: the command's.

    Raises:
        UserError: no pictures, an empty split, an ``out_dir`` with other settings, no space, or no readable picture.
    """
    out = Path(options.out_dir or "")
    items = find_pictures(str(source))
    found = to_train_on(sorted(items), Path(source))
    if not found:
        raise UserError(f"There are no pictures in {source}: name a folder with pictures, or remove the empty one.")
    train, val = choose(found, val_ratio=options.val_ratio, max_images=options.max_images)
    for side, name, advice in ((train, "training", "lower"), (val, "validation", "raise")):
        if not side:
            raise UserError(
                f"None of the {len(found)} pictures of {source} falls on the {name} side: "
                f"{advice} --val_ratio ({options.val_ratio})."
            )
    groups = _groups(found)
    # the second picture of a base name is called name~2, the third name~3: hashing leaves that out
    names = {
        path: base_name(path) + (f"~{number}" if number > 1 else "")
        for group in groups.values()
        for number, path in enumerate(group, 1)
    }
    crops = {
        path: out / side / f"{int(position(path) * FOLDERS):02x}" / f"{names[path]}.{options.format}"
        for side, paths in (("train", train), ("val", val))
        for path in paths
    }
    equal = {
        stem: [str(path.relative_to(source)) for path in group] for stem, group in groups.items() if len(group) > 1
    }
    manifest = {
        "settings": {
            "source": label,
            "size": options.size,
            "format": options.format,
            "val_ratio": options.val_ratio,
        },
        "max_images": options.max_images,
        "equal_names": equal,
    }
    before = _read(out)
    _check(out, before, manifest)
    there = set(scan(out / "train")) | set(scan(out / "val"))
    # where pictures of one base name have been added or removed, the crops' names may differ: make them again
    changed = {stem for stem in equal if before and equal[stem] != before.get("equal_names", {}).get(stem)}
    for stem in changed:
        stale = {crops[path] for path in groups[stem] if path in crops} & there
        for crop in stale:
            crop.unlink()
        there -= stale
    missing = {path: crop for path, crop in crops.items() if crop not in there}
    need_space([("crops", out, round(len(missing) * options.size**2 * BYTES_PER_PIXEL[options.format]))])
    _write(out, manifest | {"counts": None})
    for folder in {crop.parent for crop in missing.values()}:
        folder.mkdir(parents=True, exist_ok=True)
    unread: dict[Path, str] = {}
    if missing:
        jobs: dict[Item, dict[str, Path]] = defaultdict(dict)
        for path, crop in missing.items():
            item, name = items[path]
            jobs[item][name] = crop
        with bar("Cropping", len(missing), unit="pictures") as advance:
            reasons = crop_all(
                list(jobs.items()), size=options.size, format=options.format, workers=options.workers, advance=advance
            )
        unread = {path: reasons[crop] for path, crop in missing.items() if crop in reasons}
    for path in unread:
        crops.pop(path)
    if unread:
        with atomic_write(out / SKIPPED) as beside:
            lines = sorted(f"{path.relative_to(source)}: {reason}\n" for path, reason in unread.items())
            beside.write_text("".join(lines), "utf-8", errors="surrogateescape")
    else:
        (out / SKIPPED).unlink(missing_ok=True)
    held = sum(crop.is_relative_to(out / "val") for crop in crops.values())
    counts = Counts(len(crops) - held, held, len(unread))
    if not crops:
        raise UserError(f"None of the pictures of {source} can be read; {out / SKIPPED} says why.")
    _write(out, manifest | {"counts": vars(counts)})
    return counts


def find_pictures(source: str) -> dict[Path, tuple[Item, str]]:
    """All pictures of a source by their path, each with the item that holds it and its name there."""
    left_out: dict[str, list[str]] = defaultdict(list)
    found = {}
    for name, item in find_files(source, ENDINGS, lambda why, what: left_out[why].append(what)):
        found[Path(source, name)] = item, name.removeprefix(f"{item.name}/") if item.is_tar else name
    if found and left_out:
        warn(f"left out of {source}: {counted(left_out)}.")
    return found


def _groups(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Pictures by base name, without ``~2`` and in lower case, since some file systems ignore case, and in
    one Unicode form."""
    groups = defaultdict(list)
    for path in sorted(paths, key=lambda path: (path.name, path)):
        groups[normal(base_name(path)).casefold()].append(path)
    return groups


def _read(out: Path) -> dict[str, Any] | None:
    """The manifest of an earlier run.

    Raises:
        UserError: it is damaged, or there is none but a ``train/`` or ``val/``.
    """
    path = out / MANIFEST
    if not path.exists():
        if any((out / side).exists() and any((out / side).iterdir()) for side in ("train", "val")):
            raise UserError(f"{out} has a train/ or val/ that this command did not make: choose another --out_dir.")
        return None
    try:
        content = json.loads(path.read_bytes())
        most = content["max_images"]
        if not isinstance(content["settings"], dict) or not isinstance(content.get("equal_names", {}), dict):
            raise TypeError(content)
        if most is not None and type(most) is not int:
            raise TypeError(most)
        return content
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} is damaged: choose another --out_dir, or delete {out} to start again.") from None


def _check(out: Path, before: dict[str, Any] | None, now: dict[str, Any]) -> None:
    """Refuse to mix crops of different settings; more pictures than before are allowed."""
    if before is None:
        return
    for key, value in now["settings"].items():
        if before["settings"].get(key) != value:
            raise UserError(
                f"{out} holds crops made with {key} {str(before['settings'].get(key))[:200]}, not {value}: "
                "choose another --out_dir, or delete it to start again."
            )
    had, wanted = before["max_images"], now["max_images"]
    if wanted is not None and (had is None or wanted < had):
        raise UserError(
            f"{out} was made from {'all pictures' if had is None else f'{had} training pictures'}, more than "
            f"--max_images {wanted}: train on it with --max_images {wanted}, or choose another --out_dir."
        )


def _write(out: Path, manifest: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / MANIFEST) as beside:
        beside.write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
