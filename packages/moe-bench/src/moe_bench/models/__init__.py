"""What answers: transformers models, OpenAI-compatible servers, and outputs that are there already."""

from moe_bench.models.base import Answer, Answering, Request, Sampling, Turn
from moe_bench.models.hf import HFModel
from moe_bench.models.replay import ReplayModel
from moe_bench.models.served import ServedModel

__all__ = ["Answer", "Answering", "HFModel", "ReplayModel", "Request", "Sampling", "ServedModel", "Turn"]
