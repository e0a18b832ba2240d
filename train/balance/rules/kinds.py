"""The kinds of the `balance` section: the one place where the rules are named."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from train.balance.rules.linear import LinearRule
from train.balance.rules.none import NoRule
from train.balance.rules.sign import SignRule
from train.balance.rules.smebu import SmebuRule

AnyRule: TypeAlias = SmebuRule | SignRule | LinearRule | NoRule

BalanceConfig = Annotated[AnyRule, Field(discriminator="kind")]
"""Validate with TypeAdapter(BalanceConfig); `kind` chooses the class."""
