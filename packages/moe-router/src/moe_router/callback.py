"""The recorder as a callback of transformers' Trainer."""

# ruff: noqa: ARG002 - arguments are the Trainer's

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from moe_router.capture import RoutingRecorder
from moe_router.errors import RouterError
from moe_router.metrics.load import max_violation, normalised_entropy
from moe_router.trace import RoutingTrace


class RoutingCallback(TrainerCallback):  # type: ignore[misc]
    """Records the routing of training, writes it at the end, and adds its evenness to the Trainer's logs.

    Every process records what it sees; with several, each writes a file of its own, which `moe_router.trace.merge` puts together.

    Example:
        trainer = Trainer(..., callbacks=[RoutingCallback("run/train.trace")])
    """

    def __init__(self, path: str | Path | None = None) -> None:
        """Make the callback.

        Args:
            path: the trace to write when training ends; None for none.
        """
        self.path = None if path is None else Path(path)
        self.trace: RoutingTrace | None = None
        """Once training has ended."""
        self._recorder: RoutingRecorder | None = None
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Attach to the model."""
        recorder = RoutingRecorder(model)

        def tell_apart(module: Any, _args: Any) -> None:
            recorder.set_group("training" if module.training else "evaluation")

        self._hook = model.register_forward_pre_hook(tell_apart)  # before the recorder's own
        self._recorder = recorder.__enter__()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Add the evenness so far, of the layer where it is worst."""
        if self._recorder is None or logs is None:
            return
        try:
            trace = self._recorder.trace()
        except RouterError:
            return  # nothing has run yet
        loads = [trace.layer_counts(layer) for layer in range(len(trace.layers))]
        evenness = {
            "load_entropy_min": min(map(normalised_entropy, loads)),
            "max_violation_max": max(map(max_violation, loads)),
        }
        logs.update(evenness)
        if state.log_history:  # the Trainer has copied the logs there before
            state.log_history[-1].update(evenness)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the trace and detach.

        Raises:
            RouterError: when no routing was recorded.
        """
        if self._recorder is None:
            return
        recorder, self._recorder = self._recorder, None
        self.trace = recorder.trace()
        recorder.__exit__(None, None, None)
        self._hook.remove()
        if self.path is not None:
            process = int(getattr(state, "process_index", 0) or getattr(args, "process_index", 0))
            target = (
                self.path
                if getattr(args, "world_size", 1) == 1
                else self.path.with_suffix(f".{process}{self.path.suffix}")
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            self.trace.save(target)
