"""Tests of train/, on a machine without an accelerator where there is none."""

from train.engine.cpu import adapt_engine

adapt_engine()
