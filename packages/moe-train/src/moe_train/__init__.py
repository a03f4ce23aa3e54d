"""Fine-tune Mixture-of-Experts language models for reasoning, and prove what was trained."""

__version__ = "0.1.0"
