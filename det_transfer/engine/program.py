"""What the training programs do with their command line, for whatever is trained."""

import argparse
from collections.abc import Callable
from typing import Any

from ..config import Config, load_config
from .dry_run import dry_run
from .setup import setup

__all__ = ["train_or_evaluate"]


def train_or_evaluate(
    args: argparse.Namespace, trainer_class: Any, prepare: Callable[[Config], list[str]]
) -> None:
    """Train, resume, evaluate or try, as the flags of :func:`.setup.argument_parser` say.

    Args:
        trainer_class: a :class:`.trainer.TransferTrainer` with ``evaluate``
        prepare: see :func:`.setup.setup`
    """
    cfg = setup(args, prepare)
    if args.eval_only:
        trainer_class.evaluate(cfg, resume=args.resume)
        return
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=args.resume)
    if args.dry_run:
        dry_run(trainer, load_config(args.config_file, args.opts).cfg.OUTPUT_DIR)
        return
    trainer.train()
