"""The devices of a training: what one or many are set to, what they are, the time and memory they take."""

import platform
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, open_dict

from crescendo.errors import UserError

CPU_FACTS = Path("/proc/cpuinfo")  # Linux alone has it


def check_devices(trainer: DictConfig) -> None:
    """Refuse what the devices cannot do.

    Raises:
        UserError: synchronised batch norm on CPUs.
    """
    on_cpu = trainer.accelerator == "cpu" or (
        trainer.accelerator == "auto" and not torch.accelerator.is_available()
    )
    if trainer.sync_batchnorm and on_cpu:
        raise UserError(
            "trainer.sync_batchnorm=true: torch's SyncBatchNorm has no CPU path. Leave it out on CPUs; each "
            "process then has the statistics of its own share of the batch."
        )


def describe_machine() -> dict[str, str | int | None]:
    """What may change the last bits of a sum: the processor, its instructions, threads, the GPU."""
    models = [line for line in _read(CPU_FACTS).splitlines() if line.startswith("model name")]
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def precision_of(trainer: DictConfig) -> str:
    """What `trainer.precision=null` is on this machine's devices; a precision that is given stays.

    bf16-mixed where a GPU computes in bfloat16 itself: tensor cores, half the memory of activations, and no
    scaled loss, since it has the range of float32. Else 32-true: few CPUs are faster in bfloat16.
    """
    if trainer.precision is not None:
        return str(trainer.precision)
    on_gpu = trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def set_up_kernels(*, tf32: bool) -> None:
    """How GPUs multiply float32, and how many algorithms cuDNN tries for each shape that comes.

    Each stage of a curriculum is a shape. On an H100 the three that cuDNN's heuristics rank first took 2 to
    11 s a shape, all ten 9 to 18 s, and gave steps as fast.
    """
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark_limit = 3


def trainer_settings(trainer: DictConfig) -> DictConfig:
    """What Lightning's Trainer is given; cuDNN tries its algorithms out unless something else is said.

    A stage has one shape, an evaluation two: they are soon tried.
    """
    settings = trainer.copy()
    with open_dict(settings):
        settings.pop("find_batch_size", None)  # ours: crescendo.batch_size
    settings.precision = precision_of(trainer)
    if settings.get("benchmark") is None:
        settings.benchmark = not settings.deterministic
    return settings


def set_up_ddp(trainer: L.Trainer) -> None:
    """Where Lightning chose DDP: gradients live in the buckets that are exchanged, and are not searched for.

    Every net uses all its parameters in every step, in the same order, so the graph is static; but torch's
    static graph counts backward passes, which parts of a batch (gradient accumulation) would confuse.
    Nor does a forward pass send batch norm's statistics around, tensor by tensor: training does not read
    them, and those of rank 0, which are validated and saved, are the same without that. The classifier shares
    them when an epoch or a validation begins, in one message, so that whoever reads them (a validation, a
    frozen layer) reads rank 0's, in a training that goes on from a checkpoint as in one that never ended.
    A strategy that was configured with arguments of its own keeps them.
    """
    if isinstance(trainer.strategy, DDPStrategy):
        chosen = trainer.strategy._ddp_kwargs
        searched = chosen.get("find_unused_parameters", False)
        settings: dict[str, Any] = {
            "gradient_as_bucket_view": True,
            "broadcast_buffers": False,
            "find_unused_parameters": False,
            "static_graph": trainer.accumulate_grad_batches == 1 and not searched,
        }
        trainer.strategy._ddp_kwargs = settings | chosen


def peak_memory_bytes(device: torch.device) -> int:
    """The peak of a GPU's allocator, else of the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # POSIX alone

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def now(device: torch.device) -> float:
    """Seconds, when the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is what is resident now


def peak_since_reset(device: torch.device) -> int:
    """Bytes, since the last reset where the system has one, else since the process began."""
    status = Path("/proc/self/status")
    if device.type == "cuda" or not status.exists():
        return peak_memory_bytes(device)
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(lines["VmHWM"].split()[0]) * 1024
