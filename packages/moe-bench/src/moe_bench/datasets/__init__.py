"""Published sets of problems, read from the files in which they are published, and one's own tables."""

from __future__ import annotations

from moe_bench.datasets.registry import DATASETS, Dataset, load_dataset, names_a_dataset

__all__ = ["DATASETS", "Dataset", "load_dataset", "names_a_dataset"]
