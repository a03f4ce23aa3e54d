"""The whole fine-tune: plan, prove, evaluate, train, trace, evaluate again, compare, report.

Each stage leaves its result in the run's folder and is skipped when it is there, so `resume` is `run` on a folder that
exists.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_train.adapters import Targets, write_model
from moe_train.assembly import adapted, find_layers, make_balancer, planned_targets, prove_on_batch
from moe_train.config import RunConfig, dump_config, load_config
from moe_train.data import Sample
from moe_train.errors import TrainError
from moe_train.evaluate import LOSS_SCHEMA, LossComparison, answer_items, compare_losses, load_losses, ready_to_generate
from moe_train.experts.kernels import CHOICES
from moe_train.files import disk_errors, keep_lines, read_json, read_jsonl, write_folder, write_json, write_text
from moe_train.loss import loss_of
from moe_train.memory import MemoryPlan, check_fits, plan_memory, write_receipt
from moe_train.prepare import Data, check_unchanged, environment, model_account, prepare
from moe_train.trainer import StepResult, Trainer, record_losses

if TYPE_CHECKING:
    from torch import nn

    from moe_bench.compare import Comparison
    from moe_memprof.measure import MemoryTracker
    from moe_router import MoELayer
    from moe_train.console import Screen
    from moe_train.model import LoadedModel

RESULT_SCHEMA = "moe-train/result@1"
MEASURED_STEP = 1
"""The step whose live tensor bytes are measured, counted from 0: the first one after the optimizer has its state."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to."""

    run: Path
    report: Path
    verdict: str
    """better, worse, equivalent or not enough data."""
    judged_by: str
    """answers or held-out loss."""
    losses: LossComparison
    answers: Comparison | None
    """On the tasks the fine-tune is about; None where it is judged by loss alone."""
    retained: Comparison | None
    """On the tasks the base had already."""


class _Run:
    """One run in progress."""

    def __init__(self, config: RunConfig, run: Path, loaded: LoadedModel, data: Data, screen: Screen) -> None:
        self.config, self.run, self.loaded, self.data, self.screen = config, run, loaded, data, screen
        self.stages: dict[str, float] = {"prepare": 0.0}
        timings = run / "stages.json"
        if timings.is_file():
            self.stages = read_json(timings)["seconds"]

    @contextmanager
    def stage(self, name: str, tracker: MemoryTracker) -> Iterator[None]:
        """Label the memory samples and add up the time of a stage."""
        started = time.perf_counter()
        with tracker.phase(name):
            yield
        self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - started
        write_json(self.run / "stages.json", {"schema": "moe-train/stages@1", "seconds": self.stages})


def run_name(config: RunConfig) -> str:
    """The run's name: the one given, or the model's and the time."""
    return config.name or f"{Path(config.model).name}-{time.strftime('%Y%m%d-%H%M%S')}"


def start(config: RunConfig, screen: Screen) -> Outcome:
    """Run a configuration from the beginning.

    Raises:
        TrainError: for whatever cannot work; before the first stage nothing has been written.
    """
    folder = Path(config.output) / run_name(config)
    if folder.exists():
        raise TrainError(
            f"run {folder}: exists already; `moe-train resume {folder}` goes on with it, name=OTHER starts another"
        )
    started = time.perf_counter()
    loaded, data = prepare(config)
    layers = find_layers(loaded)
    targets = planned_targets(config, loaded, layers)
    plan = plan_memory(config, loaded, data)
    check_fits(plan)
    with disk_errors(folder):
        folder.mkdir(parents=True)
    try:
        write_text(folder / "config.yaml", dump_config(config.model_copy(update={"name": folder.name})))
    except TrainError as error:
        folder.rmdir()  # nothing half-written: a run without its configuration could not be resumed
        raise TrainError(f"{str(error).partition('; ')[0]}; nothing was begun") from None
    r = _Run(config, folder, loaded, data, screen)
    r.stages["prepare"] += time.perf_counter() - started
    with _stoppable(folder, screen):
        return _execute(r, layers, targets, plan)


def resume(folder: Path, screen: Screen) -> Outcome:
    """Go on with a run that was stopped, from its last finished stage or checkpoint.

    Raises:
        TrainError: for a folder that is no run, or whose data or model have changed since.
    """
    config = load_config(_config_of(folder))
    started = time.perf_counter()
    loaded, data = prepare(config)
    check_unchanged(folder, config, loaded, data)
    layers = find_layers(loaded)
    targets = planned_targets(config, loaded, layers)
    plan = plan_memory(config, loaded, data)
    r = _Run(config, folder, loaded, data, screen)
    r.stages["prepare"] += time.perf_counter() - started
    with _stoppable(folder, screen):
        return _execute(r, layers, targets, plan)


def _config_of(folder: Path) -> Path:
    path = folder / "config.yaml"
    if not path.is_file():
        raise TrainError(f"run {folder}: no config.yaml in it, so it is not a run of moe-train")
    return path


@contextmanager
def _stoppable(folder: Path, screen: Screen) -> Iterator[None]:
    """Say how to go on after Ctrl-C, and turn a full disk into one line."""
    try:
        with disk_errors(folder):
            yield
    except KeyboardInterrupt:
        screen.stopped(folder)
        raise


def _execute(r: _Run, layers: list[MoELayer], targets: Targets | None, plan: MemoryPlan) -> Outcome:
    import torch

    from moe_memprof.measure import MemoryTracker
    from moe_memprof.receipts import Receipt

    run, config, data, screen = r.run, r.config, r.data, r.screen
    torch.manual_seed(config.seed)
    device = str(r.loaded.model.device.type)
    write_json(run / "environment.json", environment(device, run))
    write_json(run / "data.json", data.to_dict())
    write_json(run / "model.json", model_account(r.loaded))
    write_json(run / "plan.json", plan.to_dict())
    screen.header(read_json(run / "environment.json"), read_json(run / "data.json"), run, converted=r.loaded.converted)
    screen.plan(plan)
    keep_lines(run / "memory.jsonl", lambda _: True)  # a kill may have torn the last
    with MemoryTracker(run / "memory.jsonl") as tracker:
        model = adapted(config, r.loaded, targets)
        with r.stage("prove", tracker):
            proof = prove_on_batch(config, r.loaded, data, model, layers, targets)
            write_json(run / "proof.json", proof.to_dict())
        screen.proof(proof)
        proof.require()
        _judge(r, model, "base", tracker)
        _train(r, model, tracker)
        with r.stage("save", tracker):
            _save_model(run, model, targets)
        _judge(r, model, "tuned", tracker)
        peaks = tracker.peaks()
    screen.memory(Receipt.load(run / "receipt.json") if (run / "receipt.json").is_file() else None, peaks)
    return conclude(run, screen)


def _judge(r: _Run, model: nn.Module, label: str, tracker: MemoryTracker) -> None:
    """Held-out losses, the routing trace, and answers to the test items: `label` is base or tuned."""
    losses = r.run / "eval" / f"losses-{label}.json"
    trace = r.run / "routing" / f"{label}.trace"
    answers = r.run / "eval" / label
    answered = answers / "done.json"
    if losses.is_file() and (trace.is_file() or not r.loaded.moe_layers) and (answered.is_file() or not r.data.items):
        return
    with r.stage(f"evaluate {label}", tracker), ready_to_generate(model, adapted=label == "tuned") as judged:
        for path in (losses, trace):
            path.parent.mkdir(parents=True, exist_ok=True)
        if not losses.is_file():
            found = record_losses(
                judged, r.data.held_out, pad_id=r.loaded.pad_id, micro_batch_tokens=r.config.training.micro_batch_tokens,
                after=loss_of(r.config, r.loaded),
            )  # fmt: skip
            write_json(losses, {"schema": LOSS_SCHEMA, "records": found})
        if r.loaded.moe_layers and not trace.is_file():
            _trace(r, judged, trace)
        if r.data.items and not answered.is_file():
            with r.screen.progress(f"evaluating the {label} model", total=len(r.data.items), unit="items") as advance:
                answer_items(
                    r.loaded, judged, r.data.items, answers, config=r.config.evaluation, label=label, progress=advance
                )
            write_json(answered, {"schema": "moe-train/done@1", "items": len(r.data.items)})


def _trace(r: _Run, model: nn.Module, path: Path) -> None:
    """Record where the held-out records are routed, by task."""
    import torch

    from moe_router import RoutingRecorder
    from moe_train.data import collate, micro_batches

    by_task: dict[str, list[Sample]] = {}
    for sample in r.data.held_out:
        by_task.setdefault(sample.record.task or "all", []).append(sample)
    model.eval()
    with RoutingRecorder(model) as recorder, torch.no_grad():
        for task, samples in sorted(by_task.items()):
            with recorder.group(task):
                for group in micro_batches(samples, max_tokens=r.config.training.micro_batch_tokens):
                    batch = collate(group, pad_id=r.loaded.pad_id)
                    model(
                        input_ids=batch.input_ids_BS.to(r.loaded.model.device),
                        attention_mask=batch.attention_mask_BS.to(r.loaded.model.device),
                    )
    with disk_errors(path):
        recorder.trace(model=r.loaded.name).save(path)


def _train(r: _Run, model: nn.Module, tracker: MemoryTracker) -> None:
    """Train to the last step; the memory of one step on the way is measured and put beside its plan."""
    from moe_memprof.measure import measure_step

    balancer = make_balancer(r.config, model) if r.loaded.moe_layers else None
    after = loss_of(r.config, r.loaded)
    trainer = Trainer(model, r.data.train, r.config, r.run, balancer=balancer, pad_id=r.loaded.pad_id, after=after)
    record = r.run / "kernels.json"
    if record.is_file():
        CHOICES.take(read_json(record))
    try:
        done = trainer.restore()
        steps = r.config.training.steps
        if done >= steps:
            return

        def around(step: int, do: Callable[[], StepResult]) -> StepResult:
            if step != MEASURED_STEP:
                return do()
            results: list[StepResult] = []
            measured = measure_step(lambda: results.append(do()))
            write_receipt(r.run / "receipt.json", r.config, r.loaded, r.data, step=step, measured=measured)
            return results[0]

        with r.stage("train", tracker), r.screen.training(steps=steps, done=done) as on_step:
            trainer.train(on_step=on_step, around_step=around)
    finally:
        if CHOICES.measured:
            write_json(record, CHOICES.to_dict())
        if balancer is not None:
            balancer.close()


def _save_model(run: Path, model: Any, targets: Targets | None) -> None:
    """The adapter in PEFT's format, or the whole model in transformers'."""
    folder = run / ("model" if targets is None else "adapter")
    if not folder.is_dir():
        write_folder(folder, lambda path: write_model(path, model))


def conclude(run: Path, screen: Screen) -> Outcome:
    """Compare before and after from the run's files, and write the verdict and the report.

    Raises:
        TrainError: when it is no run, or one that is not finished.
    """
    from moe_train.report import write_report

    _config_of(run)
    if not (run / "eval" / "losses-tuned.json").is_file():
        raise TrainError(f"run {run}: not finished; `moe-train resume {run}` goes on with it")
    before, after = load_losses(run / "eval" / "losses-base.json"), load_losses(run / "eval" / "losses-tuned.json")
    losses = compare_losses([before[i] for i in before], [after[i] for i in before])
    answers, retained = _compare_answers(run)
    verdict = answers.verdict if answers is not None else losses.verdict
    judged_by = "answers" if answers is not None else "held-out loss"
    write_json(
        run / "result.json",
        {
            "schema": RESULT_SCHEMA,
            "verdict": verdict,
            "judged_by": judged_by,
            "held_out_loss": losses.to_dict(),
            "answers": None if answers is None else answers.to_dict(),
            "retained": None if retained is None else retained.to_dict(),
            "final_training_loss": read_jsonl(run / "metrics.jsonl")[-1]["loss"],
        },
    )
    report = write_report(run)
    outcome = Outcome(
        run=run, report=report, verdict=verdict, judged_by=judged_by, losses=losses, answers=answers, retained=retained
    )
    screen.verdict(outcome)
    return outcome


def _compare_answers(run: Path) -> tuple[Comparison | None, Comparison | None]:
    """The comparison on what the fine-tune is about, and on what it was to keep."""
    from moe_bench import BenchError, compare_runs

    if not (run / "eval" / "tuned").is_dir():
        return None, None
    kept = list(load_config(run / "config.yaml").evaluation.retained_tasks)
    tasks = read_json(run / "data.json")["test_items"]["by_task"]
    about = [task for task in tasks if task not in kept]
    try:
        both = [
            compare_runs(run / "eval" / "base", run / "eval" / "tuned", tasks=names) if names else None
            for names in (about, kept)
        ]
    except BenchError as error:
        raise TrainError(str(error)) from None
    return both[0], both[1]
