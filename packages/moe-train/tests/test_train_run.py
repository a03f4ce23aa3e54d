"""Whole runs: what they leave behind, how they stop and go on."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from moe_router import RoutingTrace
from moe_train import Outcome, RunConfig, Screen, TrainError, load_config, resume, start
from moe_train.config import quickstart_values
from moe_train.console import _by_task
from moe_train.files import read_json, read_jsonl
from moe_train.prepare import prepare
from moe_train.workflow import conclude

SMALL = (
    "data.tasks={change: 60, units: 30}",
    "data.held_out=0.2",
    "evaluation.tasks=[change]",
    "evaluation.retained_tasks=[units]",
    "evaluation.items_per_task=6",
    "training.steps=8",
    "training.checkpoint_every=2",
    "name=small",
)


def screen() -> tuple[Screen, io.StringIO]:
    text = io.StringIO()
    return Screen(Console(file=text, width=120)), text


def small_config(output: Path, *more: str) -> RunConfig:
    values = quickstart_values()
    del values["data"]["tasks"]
    return load_config(None, [*SMALL, f"output={output}", *more], base=values)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, str]:
    """The quickstart in small, and what it showed."""
    shown, text = screen()
    return start(small_config(tmp_path_factory.mktemp("finished")), shown), text.getvalue()


class TestFinished:
    def test_the_folder_holds_what_the_documents_promise(self, finished: tuple[Outcome, str]) -> None:
        run = finished[0].run
        found = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
        promised = {
            "config.yaml", "data.json", "model.json", "environment.json", "plan.json", "proof.json", "receipt.json", "memory.jsonl",
            "metrics.jsonl", "stages.json", "result.json", "report.html", "routing/base.trace", "routing/tuned.trace",
            "eval/losses-base.json", "eval/losses-tuned.json", "eval/base/samples.jsonl", "eval/tuned/samples.jsonl",
            "adapter/adapter_model.safetensors", "adapter/adapter_config.json", "checkpoints/step-8/trainable.safetensors",
        }  # fmt: skip
        assert promised <= found
        assert not [name for name in found if ".tmp" in name]
        for name in found:
            if name.endswith(".json") and not name.startswith(("adapter", "eval/base", "eval/tuned")):
                assert "@" in read_json(run / name)["schema"], name

    def test_it_says_what_it_did(self, finished: tuple[Outcome, str]) -> None:
        outcome, text = finished
        for said in (
            "Memory plan",
            "What trains",
            "step 8/8",
            "measured",
            "What it was trained for",
            "verdict",
            "what the base could do already: ",
            "report.html",
        ):
            assert said in text
        assert outcome.judged_by == "answers"

    def test_numbers_agree_with_the_files_they_come_from(self, finished: tuple[Outcome, str]) -> None:
        outcome, run = finished[0], finished[0].run
        samples = {k: read_jsonl(run / "eval" / k / "samples.jsonl") for k in ("base", "tuned")}
        assert sorted(s["id"] for s in samples["base"]) == sorted(s["id"] for s in samples["tuned"])
        assert outcome.answers is not None
        assert outcome.retained is not None
        for k, shown in (("base", outcome.answers.accuracy_a), ("tuned", outcome.answers.accuracy_b)):
            right = [s["correct"] for s in samples[k] if s["task"] == "change"]
            assert shown == sum(right) / len(right)
        assert outcome.retained.n == outcome.answers.n == 6
        losses = [loss for _, loss, _ in read_json(run / "eval" / "losses-tuned.json")["records"]]
        assert outcome.losses.after == pytest.approx(sum(losses) / len(losses))
        data = read_json(run / "data.json")
        assert data["held_out"]["count"] == outcome.losses.records == len(losses)
        trace = RoutingTrace.load(run / "routing" / "base.trace")
        assert int(trace.tokens_G.sum()) == data["held_out"]["tokens"]
        assert set(trace.groups) == set(data["held_out"]["by_task"])

    def test_the_plan_is_near_the_measurement(self, finished: tuple[Outcome, str]) -> None:
        (phase,) = read_json(finished[0].run / "receipt.json")["phases"]
        assert phase["estimated"] == pytest.approx(phase["measured"], rel=0.15)

    def test_the_adapter_gives_the_tuned_model(self, finished: tuple[Outcome, str]) -> None:
        run = finished[0].run
        loaded, data = prepare(small_config(run.parent))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # PEFT 0.21 on loading
            model = PeftModel.from_pretrained(loaded.model, run / "adapter").eval()
        recorded = {i: v for i, v, _ in read_json(run / "eval" / "losses-tuned.json")["records"]}
        for sample in data.held_out[:5]:
            ids = torch.tensor([sample.ids])
            labels = ids.clone()
            labels[0, : sample.prompt_length] = -100
            with torch.no_grad():
                loss = float(model(input_ids=ids, labels=labels).loss)
            assert loss == pytest.approx(recorded[sample.record.id], rel=1e-3, abs=1e-4)

    def test_concluding_again_changes_nothing(self, finished: tuple[Outcome, str]) -> None:
        run = finished[0].run
        before = (run / "result.json").read_bytes(), (run / "report.html").read_bytes()
        conclude(run, screen()[0])
        assert before == ((run / "result.json").read_bytes(), (run / "report.html").read_bytes())

    def test_resuming_a_finished_run_only_concludes(self, finished: tuple[Outcome, str]) -> None:
        metrics = (finished[0].run / "metrics.jsonl").read_bytes()
        again = resume(finished[0].run, screen()[0])
        assert again.answers == finished[0].answers
        assert (finished[0].run / "metrics.jsonl").read_bytes() == metrics

    def test_the_report_stands_alone(self, finished: tuple[Outcome, str]) -> None:
        text = finished[0].report.read_text()

        class Page(HTMLParser):
            def __init__(self) -> None:
                super().__init__()
                self.tags: list[str] = []
                self.links: list[str] = []

            def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
                self.tags.append(tag)
                self.links += [
                    str(v)
                    for k, v in attrs
                    if k in ("src", "href", "xlink:href") and not str(v).startswith(("#", "data:"))
                ]

        page = Page()
        page.feed(text)
        assert page.links == []
        assert "script" not in page.tags
        assert page.tags.count("svg") == 5, "loss, routing by step, expert load, memory, accuracy"
        assert len(text) < 3 * 2**20
        for said in ("change", "units", "records", "exact", "What was trained"):
            assert said in text


@pytest.mark.parametrize(("busy", "threads", "warned"), [(90, 2, True), (5, 2, False), (90, 1, False)])
def test_a_busy_machine_is_said(finished: tuple[Outcome, str], busy: float, threads: int, warned: bool) -> None:
    run = finished[0].run
    shown, text = screen()
    there = read_json(run / "environment.json") | {"cpu_busy": busy, "threads": threads}
    shown.header(there, read_json(run / "data.json"), run)
    assert ("threads=1 may be" in text.getvalue()) == warned


def test_many_tasks_are_summed_up() -> None:
    few = {f"t{i}": 10 - i for i in range(8)}
    assert _by_task(few).startswith(" (10 t0, 9 t1, ")
    assert _by_task({"": 5}) == ""
    assert _by_task({**few, "most": 1200}) == " (1,200 most, 10 t0, 9 t1, 8 t2, 25 of 5 other tasks)"


class TestOwnData:
    def test_judged_by_loss(self, config_for: Callable[..., RunConfig]) -> None:
        shown, text = screen()
        outcome = start(config_for("training.method=full", "training.steps=12"), shown)
        assert outcome.judged_by == "held-out loss"
        assert outcome.losses.after < outcome.losses.before
        assert outcome.verdict == "better"
        model = AutoModelForCausalLM.from_pretrained(outcome.run / "model")
        assert type(model).__name__ == "MixtralForCausalLM"
        assert "Judged by the loss" in outcome.report.read_text()
        assert "12/12" in text.getvalue()

    def test_a_dense_model_when_asked_to(
        self, config_for: Callable[..., RunConfig], tiny_model: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "dense"
        shutil.copytree(tiny_model, folder)
        vocabulary = read_json(folder / "config.json")["vocab_size"]
        torch.manual_seed(0)
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
            )
        ).save_pretrained(folder)
        outcome = start(
            config_for(f"model={folder}", "allow_standard_training=true", "lora.experts=false"), screen()[0]
        )
        assert not (outcome.run / "routing" / "base.trace").exists()
        proof = {c["component"] for c in read_json(outcome.run / "proof.json")["components"]}
        assert "experts" not in proof
        assert "<h2>Routing</h2>" not in outcome.report.read_text()

    def test_changed_data_is_not_resumed(self, config_for: Callable[..., RunConfig], sums: Path) -> None:
        outcome = start(config_for("training.steps=2"), screen()[0])
        with sums.open("a") as file:
            file.write(json.dumps({"prompt": "new", "completion": "n"}) + "\n")
        with pytest.raises(TrainError, match="has changed since it started"):
            resume(outcome.run, screen()[0])

    def test_a_changed_model_is_not_resumed(
        self, config_for: Callable[..., RunConfig], tiny_model: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "mine"
        shutil.copytree(tiny_model, folder)
        outcome = start(config_for("training.steps=2", f"model={folder}"), screen()[0])
        assert resume(outcome.run, screen()[0]).losses == outcome.losses
        tensors = load_file(folder / "model.safetensors")
        name = next(name for name in tensors if name.endswith("norm.weight"))
        tensors[name][3] += 1e-3
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(TrainError, match=r"the model .*mine.* has changed since it started"):
            resume(outcome.run, screen()[0])

    def test_an_unfinished_run_is_not_concluded(self, config_for: Callable[..., RunConfig]) -> None:
        outcome = start(config_for("training.steps=2"), screen()[0])
        (outcome.run / "eval" / "losses-tuned.json").unlink()
        with pytest.raises(TrainError, match="not finished"):
            conclude(outcome.run, screen()[0])


def begin(folder: Path, *arguments: str, measured: bool = True, **options: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if not measured:  # the coverage file would itself hit the limit
        environment.pop("COVERAGE_PROCESS_CONFIG", None)
    return subprocess.Popen(
        [sys.executable, "-m", "moe_train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
        **options,
    )


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while len(read_jsonl(run / "metrics.jsonl")) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


LONGER = [*SMALL[:-1], "training.steps=40", "training.checkpoint_every=4"]


@pytest.mark.slow
def test_killed_and_interrupted_runs_end_as_the_undisturbed_one(tmp_path: Path) -> None:
    """Ctrl-C, then kill -9, then to the end: the same losses and the same weights, bit for bit on one thread."""
    quickstart = tmp_path / "quick.yaml"
    values = quickstart_values()
    del values["data"]["tasks"]
    quickstart.write_text(yaml.safe_dump(values))
    whole = begin(tmp_path, "run", "quick.yaml", *LONGER, "name=whole")
    out, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, out + err

    run = tmp_path / "runs" / "stopped"
    # What a shell starts in the background ignores Ctrl-C, and so does what that starts.
    first = begin(
        tmp_path,
        "run",
        "quick.yaml",
        *LONGER,
        "name=stopped",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for_step(run, 9, first)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 130, out + err
    assert "moe-train resume runs/stopped" in out
    assert "Traceback" not in out + err

    second = begin(tmp_path, "resume", "runs/stopped")
    wait_for_step(run, 22, second)
    second.kill()
    second.communicate()
    assert not (run / "result.json").exists()

    third = begin(tmp_path, "resume", "runs/stopped")
    out, err = third.communicate(timeout=300)
    assert third.returncode == 0, out + err
    a, b = (read_jsonl(tmp_path / "runs" / n / "metrics.jsonl") for n in ("whole", "stopped"))
    assert [line["step"] for line in b] == list(range(1, 41))
    assert [line["loss"] for line in a] == [line["loss"] for line in b]
    left, right = (
        load_file(tmp_path / "runs" / n / "adapter" / "adapter_model.safetensors") for n in ("whole", "stopped")
    )
    assert all(torch.equal(left[name], right[name]) for name in left)
    results = [read_json(tmp_path / "runs" / n / "result.json") for n in ("whole", "stopped")]
    assert results[0]["held_out_loss"] == results[1]["held_out_loss"]
    assert results[0]["final_training_loss"] == results[1]["final_training_loss"]


@pytest.mark.slow
def test_no_space_left(tmp_path: Path, tiny_model: Path, sums: Path) -> None:
    """No file may grow past 24 KB: a checkpoint does. One line, exit code 2, no half checkpoint; then it goes on."""
    arguments = [
        f"model={tiny_model}",
        f"data.path={sums}",
        "name=r",
        "training.steps=4",
        "training.checkpoint_every=2",
        "training.batch_size=4",
    ]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (24_000, resource.RLIM_INFINITY))

    full = begin(tmp_path, "run", *arguments, preexec_fn=limit, measured=False)
    out, err = full.communicate(timeout=120)
    assert full.returncode == 2, out + err
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert "no space left" in lines[0]
    assert "moe-train resume" in lines[0]
    run = tmp_path / "runs" / "r"
    assert not [p for p in run.rglob("*") if ".tmp" in p.name]
    assert not list((run / "checkpoints").glob("step-*"))
    again = begin(tmp_path, "resume", "runs/r")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, out + err
    assert (run / "report.html").is_file()
