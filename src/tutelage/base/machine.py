"""The machine at hand: what it is, how it is set up for training, which arithmetic it does fast."""

from __future__ import annotations

import ctypes
import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import psutil

from tutelage import __version__
from tutelage.base.errors import UserError
from tutelage.base.types import Json

PAGES_KEPT = 1 << 30  # blocks of memory up to this size are kept for reuse when they are freed


@dataclass(frozen=True)
class SetUp:
    """How this process was prepared."""

    threads: int  # that share a product of matrices
    pages_kept: bool  # whether freed memory stays with the process


@cache
def set_up() -> SetUp:
    """Prepare the process for training; safe to call often.

    glibc hands large blocks back to the kernel when they are freed, so that every step maps and zeroes the same pages
    again, which can cost more than its arithmetic. Raising two thresholds keeps the pages.
    """
    import torch
    import transformers

    # Their bars for files that take milliseconds would stand between ours; so would advice about attention masks,
    # which causal models padded on the right do not need.
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.set_flush_denormal(True)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        # Read by cuBLAS when it starts; products that shall repeat to the bit need it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Whoever sets the variable (torchrun does, for each of its processes) knows better.
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), cores()))
    try:
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_threshold = -1, -3
        kept = libc.mallopt(m_mmap_threshold, PAGES_KEPT) and libc.mallopt(m_trim_threshold, PAGES_KEPT)
    except (OSError, AttributeError):
        kept = False  # no glibc: its allocator has no such trouble
    return SetUp(torch.get_num_threads(), bool(kept))


@contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """Take kernels that repeat to the last bit, where that is asked for."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(asked or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@cache
def cores() -> int:
    """Count the cores that this process may use: no hyper-thread twice, no more than its container's share of time.

    Threads beyond either number slow products of matrices down, in a container by far.
    """
    # psutil counts the cores of the machine, not those that are left to this process.
    siblings = {_read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or cpu for cpu in _allowed()}
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    share = int(quota) / int(period) if quota.isdigit() and period.isdigit() else len(siblings)
    return max(1, min(len(siblings), math.ceil(share)))


def _allowed() -> set[int]:
    """Return the logical CPUs that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""  # not Linux, or no such limit


def precision(asked: Literal["auto", "fp32", "bf16"]) -> Literal["fp32", "bf16"]:
    """Resolve `auto`: bf16 where the processor has instructions for it, else fp32."""
    if asked != "auto":
        return asked
    import torch

    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if set(cpu_info("flags").split()) & {"avx512_bf16", "amx_bf16"} else "fp32"


@cache
def environment() -> Json:
    """Describe versions and machine, for run folders and reports."""
    import torch
    import transformers

    return {
        "tutelage": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu": cpu_info("model name") or platform.processor() or platform.machine(),
        "cores": len(_allowed()),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def free_memory(device: str = "cpu") -> float:
    """Return the bytes that this process may still take on a device."""
    if device == "cuda":
        import torch

        return float(torch.cuda.mem_get_info()[0])
    found = [float(psutil.virtual_memory().available)]
    # What a container may have, which psutil does not know; files that the kernel keeps in memory would make room.
    with suppress(OSError, ValueError, IndexError):
        group = Path("/sys/fs/cgroup")
        limit, taken = (float((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        lines = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
        found.append(limit - taken + sum(float(line.split()[1]) for line in lines if line.startswith("inactive_file")))
    return min(found)


def check_memory(size: float, what: str, device: str = "cpu") -> None:
    """Refuse what would take more memory than is free on this machine, or on its device."""
    for place in dict.fromkeys(("cpu", device)):
        free = free_memory(place)
        if size > free:
            there = f"this machine {'' if place == 'cpu' else 'on its GPU '}has {free / 2**30:.1f} GiB free"
            raise UserError(f"{what} would take {size / 2**30:.1f} GiB of memory in float32, {there}: take smaller "
                            "models, end other programs, or keep the teachers' output on disk from a larger machine "
                            "(`cache`)")  # fmt: skip


@cache
def cpu_info(key: str) -> str:
    """Return what Linux knows of the processor under a key such as `vendor_id`; nothing elsewhere."""
    lines = _read("/proc/cpuinfo").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def release_memory() -> None:
    """Give memory that was freed back to the system, or to the GPU's other users; to be called seldom."""
    import gc

    import torch

    gc.collect()  # recorded or compiled models hold on to themselves
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
