"""Read the files of a (possibly unfinished) training run."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from codecswap.errors import UserError
from codecswap.identify import describe, no_folder
from codecswap.stages import STAGES, Stage
from codecswap.swaps import GDN_SWAPS, SWAPS


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    folder: Path
    stage: Stage
    record: dict[str, Any]
    """Contents of ``run.json``; empty if missing."""
    config: dict[str, Any]
    """Contents of ``config.yaml``; empty if missing."""
    rows: list[dict[str, float]]
    """Rows of ``metrics.csv``: the initial student, then one per epoch; NaN for empty cells."""

    @property
    def codec(self) -> dict[str, Any]:
        """Record of the student and its teacher, if there is one."""
        return self.record.get("codec") or {}

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Processes that trained it, in order."""
        return self.record.get("starts") or []

    @cached_property
    def frontier(self) -> dict[str, Any]:
        """Loss against cost of a quantized decoder with a budget; empty if there was none."""
        try:
            content = json.loads((self.folder / "frontier.json").read_text(encoding="utf-8"))
            for point in [*content["points"], content["chosen"]]:
                float(point["cost"]), float(point["predicted"]), float(point["loss"] or 0)
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return content

    @property
    def best(self) -> Path | None:
        """Checkpoint to evaluate: the best, or else the last."""
        for name in (self.stage.best, self.stage.last):
            if (self.folder / name).is_file():
                return self.folder / name
        return None

    @property
    def epochs(self) -> int | None:
        """Number of requested epochs; None if unknown. Exact students are not trained."""
        swap = SWAPS.get(str(self.codec.get("replacement", self.config.get("replacement"))))
        gdn = GDN_SWAPS.get(str(self.codec.get("gdn")))
        if not self.stage.trains_exact and swap and swap.exact and (gdn is None or gdn.exact):
            return self.config.get("epochs") if self.config.get("unfreeze_all") else 0
        return self.config.get("epochs")

    @property
    def done(self) -> int:
        """Number of finished epochs."""
        return int(self.rows[-1]["epoch"]) + 1 if self.rows else 0

    @property
    def complete(self) -> bool:
        """Whether all epochs are done and saved."""
        wanted = self.epochs
        return (
            bool(self.rows) and wanted is not None and self.done >= wanted and (self.folder / self.stage.last).is_file()
        )

    @property
    def seconds(self) -> float:
        """Time of the finished epochs in seconds, including validation."""
        return sum(row["seconds"] for row in self.rows if not math.isnan(row.get("seconds", math.nan)))

    @property
    def began(self) -> str:
        """Time of the first start, ISO 8601; empty if unknown."""
        return str(self.starts[0].get("time", "")) if self.starts else ""

    @property
    def changed(self) -> datetime:
        """Time of the last change of its files."""
        return datetime.fromtimestamp(max((stamp for _, stamp, _ in self.signature), default=0) / 1e9, UTC)

    @cached_property
    def tags(self) -> list[tuple[str, int, list[Path]]]:
        """Reconstructions by time: tag, finished epochs, and the pictures by their number.

        ``pre_e007`` (before epoch 7) comes before ``e007`` (after it).
        """
        folder = self.folder / str(self.config.get("recon_subdir") or self.stage.recon)
        found = []
        for tag in folder.iterdir() if folder.is_dir() else []:
            pictures = sorted(tag.glob("[0-9]*.png"))
            number = tag.name.removeprefix("pre_").removeprefix("e")
            if pictures and number.isdecimal():
                found.append((tag.name, int(number) + (not tag.name.startswith("pre_")), pictures))
        return sorted(found, key=lambda entry: (entry[1], entry[0].startswith("pre_")))

    @property
    def signature(self) -> list[tuple[str, int, int]]:
        """Names, times and sizes of the files that a report depends on, to detect changes."""
        names = ("run.json", "config.yaml", "metrics.csv", self.stage.best, self.stage.last)
        paths = [self.folder / name for name in names] + sorted(self.folder.glob("recon*/*/*.png"))
        stats = []
        for path in paths:
            try:
                status = path.stat()
            except OSError:  # not there yet, or just renamed
                continue
            stats.append((str(path), status.st_mtime_ns, status.st_size))
        return stats


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Read the runs of one student, distillation first.

    Raises:
        UserError: there are no folders, one is not a run or cannot be read, or they are not of one student.
    """
    if not folders:
        raise UserError("No run given: name its folder, e.g. `codecswap report checkpoints checkpoints_ft`.")
    runs = [read_run(Path(folder)) for folder in dict.fromkeys(folders)]
    runs.sort(key=lambda run: (list(STAGES).index(run.stage.name), run.began))
    for key in ("teacher_sha256", "replacement", "kernel_size", "gdn"):
        known = {run.codec[key]: run.folder for run in runs if run.codec.get(key)}
        if len(known) > 1:
            what = "another teacher" if key == "teacher_sha256" else f"another {key}"
            first, second = list(known.values())[:2]
            raise UserError(f"{second} has {what} than {first}: write a report of its own for each student.")
    return runs


def read_run(folder: Path) -> Run:
    """Read one run's folder.

    Raises:
        UserError: there is no such folder, it is not a run, or a file in it is damaged.
    """
    if not folder.is_dir():
        raise no_folder(folder, "name the folder that a run wrote to (its --save_dir)")
    record = _read_json(folder / "run.json")
    config = _read_yaml(folder / "config.yaml")
    rows = _read_rows(folder / "metrics.csv")
    checkpoints = [name for stage in STAGES.values() for name in (stage.best, stage.last) if (folder / name).is_file()]
    if not (record or rows or (checkpoints and config)) and not _looks_like_options(config):
        raise UserError(
            f"{folder} is not a run's folder (no metrics.csv, config.yaml or run.json of one in it) but {describe(folder)}. "
            "Name the --save_dir of `codecswap distill` or `finetune`."
        )
    name = record.get("stage")
    if name not in STAGES:
        name = "finetune" if "resume_student" in config or any(n.startswith("ft_") for n in checkpoints) else "distill"
    return Run(folder, STAGES[name], record, config, rows)


def _looks_like_options(config: dict[str, Any]) -> bool:
    return {"save_dir", "epochs", "recon_subdir"} <= set(config)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict) or content.get("format") != "codecswap run":
        raise UserError(f"{path} is not codecswap's record of a run: name another folder, or take the file away.")
    kinds = {"codec": dict, "origin": dict, "pictures": dict, "shown": list, "starts": list}
    wrong = [key for key, kind in kinds.items() if not isinstance(content.get(key) or kind(), kind)]
    needed: dict[str, set[str]] = {"shown": {"path", "sha256"}, "starts": set()}
    for key, names in needed.items():
        entries = content.get(key) or []
        if key not in wrong and not all(isinstance(entry, dict) and names <= set(entry) for entry in entries):
            wrong.append(key)
    if wrong:
        raise UserError(f"{path} is damaged ({', '.join(wrong)}): copy it again, or take it away.")
    return content


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise _damaged(path, error) from error
    plain = (str, int, float, bool, type(None))
    values = content.values() if isinstance(content, dict) else [{}]
    if not all(isinstance(v, plain) or (isinstance(v, list) and all(isinstance(w, plain) for w in v)) for v in values):
        raise UserError(f"{path} holds no options: copy it again, or take it away.")
    return content


def _read_rows(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                {key: float(value) if value else math.nan for key, value in row.items()} for row in csv.DictReader(file)
            ]
    except (ValueError, TypeError, csv.Error) as error:
        raise _damaged(path, error) from error
    if any(math.isnan(row.get(key, math.nan)) for row in rows for key in ("epoch", "step")):
        raise UserError(f"{path} is no table of epochs (epoch and step are missing): copy it again, or take it away.")
    return rows


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged ({' '.join(str(error).split())[:100]}): copy it again, or take it away.")
