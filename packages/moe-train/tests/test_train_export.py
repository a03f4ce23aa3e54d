"""Exports: merging against PEFT's on every architecture, whole runs written and loaded again, and what must fail."""

from __future__ import annotations

import io
import json
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import tiny_models
from moe_router import find_moe_layers
from moe_train import RunConfig, Screen, TrainError, start
from moe_train.adapters import _suffixes, find_targets
from moe_train.cli import main
from moe_train.config import LoraSection
from moe_train.errors import GateFailed
from moe_train.export import export_run, plain
from moe_train.export.check import Agreement, Check
from moe_train.export.merge import copy_surroundings, merge
from moe_train.export.source import Checkpoint, empty_model
from moe_train.export.updates import read_updates
from moe_train.files import read_json

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(is_gradient_checkpointing|gradient_checkpointing_enable).*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*inputs will be cast from.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:bitsandbytes"),
]
IDS = torch.arange(3, 35).view(2, 16)


OTHER = {
    **dict.fromkeys(
        ["deepseek_ocr2", "diffusion_gemma", "ernie4_5_vl_moe", "glm4v_moe", "glm5_next", "mistral4", "mistral_large4", "muse_spark",
         "qwen3_omni_moe", "qwen3_vl_moe", "step3p7", "unlimited_ocr"], "read with images"),
    **dict.fromkeys(["nllb_moe", "switch_transformers"], "encoder and decoder"),
    "dbrx": "in test_train_dbrx.py", "doge": "no fused weights of experts", "openai_privacy_filter": "a classifier",
    "nemotron_h": "no attention in so few layers",
}  # fmt: skip
"""Architectures that are no causal language model with LoRA in attention and experts, and why."""


def adapted_checkpoint(architecture: str, folder: Path, **sizes: Any) -> tuple[Path, Path, torch.Tensor, torch.Tensor]:
    """Folders of a tiny base and of plain PEFT's adapter on it, and the logits with and without the adapter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        tiny_models.build(architecture, **sizes).save_pretrained(folder / "base")
        base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()
        targets = find_targets(base, find_moe_layers(base), LoraSection())
        config = LoraConfig(
            r=2, lora_alpha=4, target_modules=_suffixes(targets.attention), target_parameters=_suffixes(targets.experts)
        )
        model = get_peft_model(base, config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(0, 0.2)
            model.save_pretrained(folder / "adapter")
            with model.disable_adapter():
                plain_logits = model(input_ids=IDS).logits
            return folder / "base", folder / "adapter", model(input_ids=IDS).logits, plain_logits


@pytest.mark.parametrize("architecture", sorted(set(tiny_models.SPECIFIC) - set(OTHER)))
def test_merged_and_read_again_it_is_what_peft_computes(architecture: str, tmp_path: Path) -> None:
    base, adapter, wanted, before = adapted_checkpoint(architecture, tmp_path)
    assert float((wanted - before).abs().max()) > 0.01
    for names in ("checkpoint", "transformers-5"):
        out = tmp_path / names
        out.mkdir()
        updates = read_updates(empty_model(base, torch.float32), adapter)
        done = merge(Checkpoint(base, torch.float32), updates, out, names=names, shard_bytes=100_000)
        copy_surroundings(base, out, dtype=torch.float32)
        assert set(done.added) == set(updates)
        assert done.rounding_error == 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        with torch.no_grad():
            assert float((again.eval()(input_ids=IDS).logits - wanted).abs().max()) < 5e-5
    index = json.loads((tmp_path / "checkpoint" / "model.safetensors.index.json").read_text())["weight_map"]
    original, merged = load_file(base / "model.safetensors"), {}
    for file in set(index.values()):
        merged |= load_file(tmp_path / "checkpoint" / file)
    assert set(merged) == set(index) == set(original), "names and pieces are the checkpoint's"
    changed = {name for name in original if not torch.equal(original[name], merged[name])}
    kept = [name for name in original if "norm" in name or "embed" in name or "lm_head" in name]
    assert changed
    assert not changed.intersection(kept), "what was not adapted is the same to the bit"


def test_a_merge_holds_a_layer_and_a_shard_not_the_model(tmp_path: Path) -> None:
    """Anonymous memory in a process of its own: 16 layers of 8 experts, a stack of 12 MiB, 320 MiB of weights in bfloat16."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=512, hidden_size=512, intermediate_size=768, num_hidden_layers=16, num_attention_heads=4, num_key_value_heads=4,
        num_local_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    model = MixtralForCausalLM(config).bfloat16()
    stack = model.model.layers[0].mlp.experts.gate_up_proj
    largest, total = stack.numel() * 2, sum(p.numel() * 2 for p in model.parameters())
    model.save_pretrained(tmp_path / "base", max_shard_size="50MB")
    adapted = get_peft_model(
        model,
        LoraConfig(r=4, target_modules=["q_proj"], target_parameters=["experts.gate_up_proj", "experts.down_proj"]),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    (tmp_path / "out").mkdir()
    code = f"""
import resource, sys, threading, time, torch
from pathlib import Path
from moe_train.export.source import Checkpoint, empty_model
from moe_train.export.updates import read_updates
from moe_train.export.merge import merge
torch.set_num_threads(1)
def anonymous():
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith("RssAnon"))
base, adapter, out = (Path({str(tmp_path)!r}) / n for n in ("base", "adapter", "out"))
updates = read_updates(empty_model(base, torch.bfloat16), adapter)
source = Checkpoint(base, torch.bfloat16)
before, peak, going = anonymous(), [0], [True]
def watch():
    while going[0]:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.001)
thread = threading.Thread(target=watch); thread.start()
merge(source, updates, out, names="checkpoint", shard_bytes={largest})
going[0] = False; thread.join()
print(peak[0] - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.splitlines()[-1])
    print(f"largest {largest / 2**20:.0f} MiB, model {total / 2**20:.0f} MiB, peak {peak / 2**20:.0f} MiB")
    assert peak < 10 * largest < 0.4 * total


@pytest.fixture(scope="module")
def finished(tiny_model: Path, blocks_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains a small run once for each set of overrides, and gives its folder."""
    made: dict[tuple[str, ...], Path] = {}
    folder = tmp_path_factory.mktemp("export-runs")
    data = folder / "sums.jsonl"
    lines = [{"prompt": f"What is {a} + {b}?", "completion": f"{a}+{b}={a + b}"} for a in range(12) for b in range(10)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def get(*overrides: str) -> Path:
        if overrides not in made:
            from moe_train import load_config

            values = [
                f"model={blocks_model}", f"data.path={data}", f"output={folder / 'runs'}", f"name=run{len(made)}", "training.steps=8",
                "training.batch_size=8", "training.learning_rate=0.02", "training.checkpoint_every=8", "device=cpu", *overrides,
            ]  # fmt: skip
            made[overrides] = start(load_config(None, values), Screen(Console(file=io.StringIO()))).run
        return made[overrides]

    return get


def test_an_adapter_is_exported_and_plain_peft_computes_the_same(finished: Callable[..., Path], tmp_path: Path) -> None:
    done = export_run(finished(), tmp_path / "out")
    assert done.check.exported.largest_logit_difference < 1e-4
    assert done.check.exported.same_experts == done.check.exported.same_choice == 1
    assert done.check.kept > 0.999
    assert done.check.base.kl > 1e-3
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert Path(settings["base_model_name_or_path"]).name == "blocks"
    assert read_json(tmp_path / "out" / "export.json") == done.to_dict()


@pytest.mark.parametrize("names", ["checkpoint", "transformers-5"])
def test_a_merged_model_is_the_trained_one(names: str, finished: Callable[..., Path], tmp_path: Path) -> None:
    done = export_run(finished(), tmp_path / "out", form="merged", names=names)
    assert done.check.exported.largest_logit_difference < 1e-4
    stored = load_file(tmp_path / "out" / "model.safetensors")
    fused = "model.layers.0.mlp.experts.gate_up_proj" in stored
    assert fused is (names == "transformers-5")
    assert ("model.layers.0.block_sparse_moe.experts.0.w1.weight" in stored) is not fused
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


def test_a_merge_in_bfloat16_says_what_rounding_took(finished: Callable[..., Path], tmp_path: Path) -> None:
    done = export_run(finished(), tmp_path / "out", form="merged", dtype="bfloat16")
    assert done.dtype == "bfloat16"
    assert done.rounding_error is not None
    assert 1e-3 < done.rounding_error < 0.5
    assert 0.9 < done.check.kept < 1
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}


@pytest.mark.parametrize("double", ["true", "false"])
def test_a_run_on_a_4_bit_base_merges_into_the_very_weights_it_was_trained_on(
    double: str, finished: Callable[..., Path], tmp_path: Path
) -> None:
    run = finished("quantisation.weights=nf4", f"quantisation.double={double}")
    exact = export_run(run, tmp_path / "trained", form="merged", dtype="float32")
    assert exact.onto == "trained"
    assert exact.check.exported.largest_logit_difference < 2e-4
    drifting = export_run(run, tmp_path / "original", form="merged", onto="original", dtype="float32")
    assert drifting.onto == "original"
    assert drifting.check.exported.kl > 10 * exact.check.exported.kl, "the base before it was quantised is another one"
    assert set(load_file(tmp_path / "trained" / "model.safetensors")) == set(
        load_file(tmp_path / "original" / "model.safetensors")
    )


@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_a_model_quantised_anew_keeps_the_fine_tune(form: str, finished: Callable[..., Path], tmp_path: Path) -> None:
    done = export_run(finished(), tmp_path / "out", form=form)
    assert done.check.kept > 0.5
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored["model.layers.0.mlp.experts.gate_up_proj"].dtype == {"nf4": torch.uint8, "int8": torch.int8}[form]
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")) == []


def test_what_was_quantised_anew_is_trained_on_again(
    finished: Callable[..., Path], config_for: Callable[..., RunConfig], tmp_path: Path
) -> None:
    export_run(finished(), tmp_path / "nf4", form="nf4")
    with pytest.raises(TrainError, match=r"set quantisation\.weights=nf4"):
        start(config_for(f"model={tmp_path / 'nf4'}"), Screen(Console(file=io.StringIO())))
    run = start(
        config_for(f"model={tmp_path / 'nf4'}", "quantisation.weights=nf4", "training.steps=3"),
        Screen(Console(file=io.StringIO())),
    ).run
    rows = {row["component"]: row for row in read_json(run / "proof.json")["components"]}
    assert rows["experts"]["quantised"] == rows["experts"]["tensors"] == rows["experts"]["gradient_nonzero"]


def test_a_run_that_trained_every_weight_is_written_whole(finished: Callable[..., Path], tmp_path: Path) -> None:
    run = finished("training.method=full", "training.learning_rate=0.002")
    done = export_run(run, tmp_path / "out", form="merged")
    assert done.check.exported.largest_logit_difference < 1e-5
    assert done.check.base.kl > 1e-4
    assert done.rounding_error is None
    with pytest.raises(TrainError, match="no adapter; add --merge"):
        export_run(run, tmp_path / "other")


def scaled(run: Path, tmp_path: Path, by: float) -> Path:
    """The run with its adapter's B multiplied."""
    import shutil

    copy = tmp_path / "scaled"
    shutil.copytree(run, copy)
    path = copy / "adapter" / "adapter_model.safetensors"
    save_file({k: v * by if "lora_B" in k else v for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    return copy


def test_a_fine_tune_that_rounding_swallows_fails_and_leaves_nothing(
    finished: Callable[..., Path], tmp_path: Path
) -> None:
    run = scaled(finished(), tmp_path, 3e-4)
    assert export_run(run, tmp_path / "adapter").check.kept > 0.99
    with pytest.raises(GateFailed, match="vanished"):
        export_run(run, tmp_path / "out", form="merged", dtype="bfloat16")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_an_adapter_that_does_nothing_is_no_fine_tune(finished: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(GateFailed, match="nothing to export"):
        export_run(scaled(finished(), tmp_path, 0.0), tmp_path / "out")


def test_half_kept_is_the_border() -> None:
    def at(kl: float) -> Agreement:
        return Agreement(largest_logit_difference=1.0, kl=kl, same_choice=1.0, same_experts=None)

    Check(tokens=1, exported=at(0.5), base=at(1.0), dtype="float32").require()
    for lost in (0.51, 2.0, float("nan")):
        with pytest.raises(GateFailed, match="vanished"):
            Check(tokens=1, exported=at(lost), base=at(1.0), dtype="float32").require()


def test_the_process_that_reads_an_export_knows_nothing_of_moe_train() -> None:
    code = f"import runpy, sys; runpy.run_path({plain.__file__!r}, run_name='read'); print([m for m in sys.modules if 'moe_train' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "compute" in runpy.run_path(plain.__file__)


def test_mistakes_are_one_line(
    finished: Callable[..., Path], config_for: Callable[..., RunConfig], tmp_path: Path
) -> None:
    run = finished()
    command = CliRunner().invoke(main, ["export", str(tmp_path / "none"), "--to", str(tmp_path / "out")])
    assert command.exit_code == 2
    assert "not a run of moe-train" in command.output
    (tmp_path / "there").mkdir()
    with pytest.raises(TrainError, match="exists already"):
        export_run(run, tmp_path / "there")
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.yaml").write_text((run / "config.yaml").read_text())
    with pytest.raises(TrainError, match="not finished"):
        export_run(half, tmp_path / "out")
    command = CliRunner().invoke(
        main, ["export", str(scaled(run, tmp_path, 0.0)), "--to", str(tmp_path / "out"), "--json"]
    )
    assert command.exit_code == 1


def test_an_adapter_of_another_kind_or_base_is_refused(tmp_path: Path) -> None:
    base, adapter, _, _ = adapted_checkpoint("mixtral", tmp_path)
    other, _, _, _ = adapted_checkpoint("mixtral", tmp_path / "other", num_hidden_layers=2)
    with pytest.raises(TrainError, match="has no place in this base"):
        read_updates(empty_model(other, torch.float32), adapter)
    wider, _, _, _ = adapted_checkpoint("mixtral", tmp_path / "wider", intermediate_size=64)
    with pytest.raises(TrainError, match="not the adapter's base"):
        read_updates(empty_model(wider, torch.float32), adapter)
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_dora": True}))
    with pytest.raises(TrainError, match="use_dora cannot be merged here"):
        read_updates(empty_model(base, torch.float32), adapter)


def test_the_command_shows_what_was_kept(finished: Callable[..., Path], tmp_path: Path) -> None:
    shown = CliRunner().invoke(main, ["export", str(finished()), "--to", str(tmp_path / "out"), "--merge"])
    assert shown.exit_code == 0, shown.output
    assert "of the fine-tune kept" in shown.output
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not isinstance(base, PeftModel)
