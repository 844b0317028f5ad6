"""A run of a command: its options, folder, checkpoints and record around the one loop."""

from pathlib import Path

import lightning.pytorch as L
from torch import Tensor

from codecswap.config import TrainingOptions
from codecswap.console import say, warn
from codecswap.data.discovery import Pictures, find_pictures
from codecswap.data.transforms import first_readable
from codecswap.devices import check_device
from codecswap.errors import RunFailure, UserError
from codecswap.stages import STAGES
from codecswap.training import resume, start
from codecswap.training.callbacks import EpochLog, Reconstructions, wandb_logger
from codecswap.training.loop import fit
from codecswap.training.record import write_record
from codecswap.training.saving import Checkpoints
from codecswap.training.state import TrainingState


def train(options: TrainingOptions) -> None:
    """``codecswap distill``, ``finetune``: train the stage of these options to its last checkpoint.

    Args:
        options: when resuming, those that were not set come from the checkpoint.
    """
    stage = next(stage for stage in STAGES.values() if stage.options is type(options))
    origin = resume.read_origin(stage, options)
    options = origin.options
    start.find_target(options)  # a wrong one is said before anything is written
    pictures = find_pictures(
        options.coco_dir, val_ratio=options.val_ratio, use_prepared=options.use_prepared, max_images=options.max_images
    )
    shown, paths = check_pictures(pictures, options)
    if len(shown) < options.recon_count:
        warn(f"only {len(shown)} validation pictures for --recon_count {options.recon_count}: all of them are shown.")
    data = pictures.identity(str(options.coco_dir))
    forced = resume.check_pictures(origin, data)
    check_device(options.accelerator, options.amp)
    folder = start.make_folder(stage, options, origin.resume)
    L.seed_everything(options.seed, workers=True, verbose=False)
    pair, record, more = start.build(stage, origin, pictures)
    forced += more
    say(
        f"Pictures: {len(pictures.train)} for training, {len(pictures.val)} held out ({pictures.layout} layout of "
        f"{options.coco_dir})."
    )
    exact = record.exact and not stage.trains_exact and not options.unfreeze_all
    if exact:
        start.prove_exact(pair, shown, record.replacement)
    state = TrainingState(epoch=origin.epochs_done - 1)
    facts = {"pictures": data, "forced": origin.forced + forced}
    checkpoints = Checkpoints(folder, stage, record, options, facts, state)
    # pictures first: a run that is killed before its checkpoint draws them again
    callbacks = [
        Reconstructions(folder, stage.recon, options, state, shown),
        EpochLog(folder, stage, state),
        checkpoints,
    ]
    logger = wandb_logger(options, folder, origin.wandb_id)
    state.wandb_id = logger.version if logger else None  # type: ignore[assignment]
    try:
        write_record(folder, stage.name, record, origin, data, paths[: options.recon_count], forced)
        trainer = fit(
            pair,
            options,
            stage,
            state,
            pictures,
            shown,
            callbacks=callbacks,
            epochs=0 if exact else options.epochs,
            start=origin.progress,
            resume=origin.resume,
            directions=origin.directions,
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
    if state.unreadable:
        names = ", ".join(sorted(path.name for path in state.unreadable))
        warn(f"{len(state.unreadable)} pictures could not be read and were skipped: {names}.")
    best = f"{folder / stage.best} (MS-SSIM against the {stage.target} {state.best:.5f})"
    say(f"Done: {folder / stage.last} and the best, {best}.")


def check_pictures(pictures: Pictures, options: TrainingOptions) -> tuple[Tensor, list[Path]]:
    """Refuse what cannot be trained on; returns the validation pictures to look at."""
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
