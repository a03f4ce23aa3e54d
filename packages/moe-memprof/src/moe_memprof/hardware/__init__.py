"""The table of GPUs, what this machine has, and the settings to start from."""

from moe_memprof.hardware.advise import Advice, Candidate, advise, known_models
from moe_memprof.hardware.detect import Gpu, Hardware, detect
from moe_memprof.hardware.presets import Preset
from moe_memprof.hardware.table import GPUS, TABLE, GpuSpec, identify, lookup

__all__ = [
    "GPUS",
    "TABLE",
    "Advice",
    "Candidate",
    "Gpu",
    "GpuSpec",
    "Hardware",
    "Preset",
    "advise",
    "detect",
    "identify",
    "known_models",
    "lookup",
]
