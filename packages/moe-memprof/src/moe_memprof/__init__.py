"""Will it fit, why not, and what did it really use? Memory of fine-tuning Mixture-of-Experts models.

Estimating needs no torch. Measuring (`moe_memprof.measure`) does.
"""

from moe_memprof.errors import MemprofError
from moe_memprof.estimate import estimate
from moe_memprof.plan import Estimate, Part, Phase
from moe_memprof.spec import RunSpec

__version__ = "0.1.0"

__all__ = ["Estimate", "MemprofError", "Part", "Phase", "RunSpec", "estimate"]
