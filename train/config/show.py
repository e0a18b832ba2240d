"""What --cfg and --info print instead of starting a run."""

from __future__ import annotations

import argparse

from train.config.start import checked_run


def shown(args: argparse.Namespace, overrides: list[str]) -> str:
    """args: with cfg or info, as data_pipelines/base/command.py reads them. Raises ConfigError.

    A configuration is shown in full, defaults included, after all checks.
    """
    from data_pipelines.base.compose import info, to_yaml

    return info(args.info, overrides) if args.info else to_yaml(checked_run(overrides).settings)
