"""Write what was trained as a checkpoint that others load, and prove by loading it that it is still there.

`source` reads the base one layer at a time, `updates` reads what an adapter adds to each weight, `merge` adds and writes shards,
`plain` runs in a process that knows nothing of moe-train, and `check` compares what it computed with the trained model.
"""

from __future__ import annotations

from moe_train.export.workflow import Exported, export_run

__all__ = ["Exported", "export_run"]
