"""The report of a run: one self-contained HTML page, made from the run's files alone."""

from moe_train.report.page import write_report

__all__ = ["write_report"]
