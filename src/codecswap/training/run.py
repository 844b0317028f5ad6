"""A training run of a command: options, folder, checkpoints and record around the training loop."""

from pathlib import Path

import torch
from torch import Tensor

from codecswap.config import TrainingOptions
from codecswap.console import say, warn
from codecswap.data.discovery import Pictures, find_pictures
from codecswap.data.transforms import first_readable
from codecswap.devices import be_deterministic, check_device
from codecswap.errors import RunFailure, UserError
from codecswap.stages import STAGES
from codecswap.training import resume, start
from codecswap.training.callbacks import EpochLog, Reconstructions, wandb_logger
from codecswap.training.lightning import L
from codecswap.training.loop import fit
from codecswap.training.record import write_record
from codecswap.training.saving import Checkpoints
from codecswap.training.state import TrainingState


def train(options: TrainingOptions) -> None:
    """``codecswap distill``, ``finetune``: train the stage of these options to its last checkpoint.

    Args:
        options: when resuming, options that were not explicitly set come from the checkpoint.
    """
    stage = next(stage for stage in STAGES.values() if stage.options is type(options))
    run_start = resume.read_run_start(stage, options)
    options = run_start.options
    start.find_target(options)  # report a wrong target before anything is written
    pictures = find_pictures(
        options.coco_dir, val_ratio=options.val_ratio, use_prepared=options.use_prepared, max_images=options.max_images
    )
    shown, paths = check_pictures(pictures, options)
    if len(shown) < options.recon_count:
        warn(f"only {len(shown)} validation pictures for --recon_count {options.recon_count}: all of them are shown.")
    data = pictures.identity(str(options.coco_dir))
    forced = resume.check_pictures(run_start, data)
    if options.deterministic:
        be_deterministic()
    check_device(options.accelerator, options.amp)
    folder = start.make_folder(stage, options, run_start.resume)
    L.seed_everything(options.seed, workers=True, verbose=False)
    pair, record, more = start.build(stage, run_start, pictures)
    forced += more
    say(
        f"Pictures: {len(pictures.train)} for training, {len(pictures.val)} held out ({pictures.layout} layout of "
        f"{options.coco_dir})."
    )
    exact = record.exact and not stage.trains_exact and not options.unfreeze_all
    if exact:
        start.report_exactness(pair, shown, record.replacement)
    state = TrainingState(epoch=run_start.epochs_done - 1)
    facts = {"pictures": data, "forced": run_start.forced + forced}
    checkpoints = Checkpoints(folder, stage, record, options, facts, state)
    # reconstructions first: a run killed before its checkpoint writes them again
    callbacks = [
        Reconstructions(folder, stage.recon, options, state, shown),
        EpochLog(folder, stage, state),
        checkpoints,
    ]
    logger = wandb_logger(options, folder, run_start.wandb_id)
    state.wandb_id = logger.version if logger else None  # type: ignore[assignment]
    try:
        write_record(folder, stage.name, record, run_start, data, paths[: options.recon_count], forced)
        trainer = fit(
            pair,
            options,
            stage,
            state,
            pictures,
            shown,
            callbacks=callbacks,
            epochs=0 if exact else options.epochs,
            start=run_start.progress,
            resume=run_start.resume,
            directions=run_start.directions,
            logger=logger,
            folder=folder,
        )
        if exact or not options.epochs:
            checkpoints.save(trainer, stage.last)
    except OSError as error:
        raise RunFailure(
            f"The run stopped because {error.filename or folder} could not be written or read ({error.strerror or error}). The "
            f"newest checkpoint is {state.saved}: put the disk right, and the same command with --{stage.resume} auto "
            "goes on from there."
        ) from error
    except RuntimeError as error:
        if not _is_connection_lost(error):
            raise
        raise RunFailure(
            "Another process of this run is gone: it was killed, or its machine or network is down. The newest checkpoint is "
            f"{state.saved}: the same command with --{stage.resume} auto on all machines goes on from there."
        ) from error
    if state.unreadable:
        names = ", ".join(sorted(path.name for path in state.unreadable))
        warn(f"{len(state.unreadable)} pictures could not be read and were skipped: {names}.")
    best = f"{folder / stage.best} (MS-SSIM against the {stage.target} {state.best:.5f})"
    say(f"Done: {folder / stage.last} and the best, {best}.")


def _is_connection_lost(error: RuntimeError) -> bool:
    """Whether an error says that another process of the run is gone; that of gloo is a plain RuntimeError."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def check_pictures(pictures: Pictures, options: TrainingOptions) -> tuple[Tensor, list[Path]]:
    """Refuse unusable pictures; returns validation pictures for reconstructions, and their paths."""
    if options.batch_size > len(pictures.train):
        raise UserError(
            f"--batch_size {options.batch_size} is larger than the {len(pictures.train)} training pictures of "
            f"{options.coco_dir}: use --batch_size {len(pictures.train)} or less, or more pictures."
        )
    if not len(first_readable(pictures.train, 1)[0]):
        raise UserError(f"None of the {len(pictures.train)} training pictures of {options.coco_dir} can be read.")
    shown = first_readable(pictures.val, max(1, options.recon_count))
    if not len(shown[0]):
        raise UserError(
            f"None of the {len(pictures.val)} validation pictures can be read: raise --val_ratio to hold out others."
        )
    return shown
