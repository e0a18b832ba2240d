"""The one file that adapts torchtitan to a machine without an accelerator.

What is adapted, and why, found by running (torchtitan 0.3.0, torch 2.13.0):
- the engine's device is `cuda` where no accelerator is found, and many modules copy it when they are imported;
- its memory monitor asks the device module for five functions that `torch.cpu` lacks;
- `set_pg_timeouts` names a device in a barrier, which gloo refuses, and calls what torch 2.13 has under another name;
- FSDP scales inside its reduction by an operation that gloo lacks, unless told to sum;
- peak FLOP/s are guessed to be an A100's; NaN makes MFU null instead of a fiction.
"""

from __future__ import annotations

import os
import resource
import sys
import types
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import cache, partial
from typing import Any

import torch
from torchtitan.distributed import fsdp
from torchtitan.distributed import utils as dist_utils
from torchtitan.tools import utils

NOISE = (
    "DTensor random operators may not have complete support",  # no DTensor is drawn from: see train/afmoe/init.py
    r"DTensor manual_seed\(\) may not have complete support",
)
"""Starts of warnings that say nothing about this program."""


class CpuModule(types.ModuleType):
    """`torch.cpu` and what else torchtitan's DeviceMemoryMonitor expects, with the process as the device's memory."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def get_device_name(self, device: object = None) -> str:
        return "CPU"

    def get_device_properties(self, device: object = None) -> types.SimpleNamespace:
        return types.SimpleNamespace(total_memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))

    def memory_stats(self, device: object = None) -> dict[str, int]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"active_bytes.all.peak": peak, "reserved_bytes.all.peak": peak}

    def reset_peak_memory_stats(self, device: object = None) -> None:
        """The peak of a process cannot be reset."""

    def empty_cache(self) -> None:
        """There is no cache."""


@cache
def adapt_engine() -> None:
    """To be called before a mesh, a trainer or a blueprint is made; does nothing with an accelerator, or a second time.

    It does not matter which parts of torchtitan are imported already: modules that copied the device get the new one,
    and the functions are looked up where they are called.
    """
    if torch.accelerator.is_available():
        return
    device = {"device_type": "cpu", "device_module": CpuModule("cpu")}
    loaded = [module for name, module in sys.modules.items() if name.startswith("torchtitan.")]
    for module in {utils, *loaded}:
        vars(module).update({name: value for name, value in device.items() if name in vars(module)})
    utils.get_peak_flops = lambda device_name: float("nan")
    dist_utils.set_pg_timeouts = _set_pg_timeouts
    fsdp.disable_fsdp_gradient_division = partial(_sum_gradients, fsdp.disable_fsdp_gradient_division)
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)


def _sum_gradients(keep_gradient_sums: Callable[[torch.nn.Module], None], model: torch.nn.Module) -> None:
    keep_gradient_sums(model)
    for module in model.modules():
        if isinstance(module, fsdp.FSDPModule):
            module.set_force_sum_reduction_for_comms(True)


def _set_pg_timeouts(timeout: timedelta, parallel_dims: Any) -> None:
    torch.distributed.barrier()
    groups = [mesh.get_group() for mesh in parallel_dims.get_all_one_dimensional_meshes().values()]
    for group in [*groups, None]:
        torch.distributed.distributed_c10d._set_pg_timeout(timeout, group)
