"""Adapted experts over two processes (DDP, FSDP2, ZeRO 2 and 3), compiled, under autocast: the gradients of one process with all data."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import tiny_models
from moe_train.experts import expert_lora_config

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
HERE = Path(__file__).parent
BUILD = f"""
import sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = [{str(HERE)!r}, {str(Path(tiny_models.__file__).parent)!r}]
import torch
from test_train_parallel import adapted_model, batch, loss_of
torch.set_num_threads(1)
"""
WORKER = (
    BUILD
    + """
import torch.distributed as dist
rank, kind, folder, bits = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
model = adapted_model(bits)
mine = batch()[rank * 2 : rank * 2 + 2]
if kind == "ddp":
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    loss_of(wrapped, mine).backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
else:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.get_base_model().model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    loss_of(model, mine).backward()
    grads = {n: p.grad.full_tensor() for n, p in model.named_parameters() if p.requires_grad}
if rank == 0:
    torch.save({n: g.detach().clone() for n, g in grads.items()}, f"{folder}/grads.pt")
dist.barrier()
dist.destroy_process_group()
"""
)
ZERO = (
    BUILD
    + """
import os
rank, kind, folder, bits, port = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
os.environ.update(DS_ACCELERATOR="cpu", RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
import deepspeed
deepspeed.init_distributed("gloo")
model = adapted_model(bits)
trains = {n: p for n, p in model.named_parameters() if p.requires_grad}
frozen = [p for p in model.parameters() if not p.requires_grad]
whole = sum(p.numel() for p in frozen)
stage = {"zero2": 2, "zero3": 3}[kind]
settings = {"stage": stage, "stage3_param_persistence_threshold": 0}
engine, *_ = deepspeed.initialize(
    model=model, optimizer=torch.optim.SGD(trains.values(), lr=1.0),
    config={"train_micro_batch_size_per_gpu": 2, "zero_optimization": settings, "zero_allow_untested_optimizer": True},
)
def values():
    with deepspeed.zero.GatheredParameters(list(trains.values()), enabled=stage == 3):
        return {n: p.detach().clone() for n, p in trains.items()}
before = values()
engine.backward(loss_of(engine, batch()[rank * 2 : rank * 2 + 2]))
engine.step()
after = values()
if stage == 3:  # between steps the frozen base, packed experts too, is divided among the processes
    assert sum(p.numel() for p in frozen) == 0 < whole
    assert sum(p.ds_tensor.numel() for p in frozen) < 0.6 * whole
if rank == 0:
    torch.save({n: before[n] - after[n] for n in before}, f"{folder}/grads.pt")
"""
)
"""At a learning rate of one, a step of plain gradient descent is the gradient."""


def adapted_model(bits: int = 0, *, grouped: bool = True) -> Any:
    """A tiny Mixtral with adapters that are not zero on attention and experts."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16, "num_key_value_heads": 4}
    base = tiny_models.build("mixtral", **sizes)
    if bits:
        from moe_train.experts.forward import is_dispatched, use_grouped_experts
        from moe_train.experts.quantizer import quantise_stack

        for module in base.modules():
            if is_dispatched(module):
                for name in ("gate_up_proj", "down_proj"):
                    for suffix, part in quantise_stack(
                        getattr(module, name).detach(), bits=bits, double_quant=False
                    ).items():
                        if suffix:
                            module.register_buffer(name + suffix, part)
                        else:
                            setattr(module, name, torch.nn.Parameter(part, requires_grad=False))
        use_grouped_experts(base)
    config = LoraConfig(
        r=2, target_modules=["q_proj", "v_proj"], target_parameters=["experts.gate_up_proj", "experts.down_proj"]
    )
    model = get_peft_model(base, expert_lora_config(base, config) if grouped else config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)
    return model.train()


def batch() -> torch.Tensor:
    return torch.randint(3, 90, (4, 24), generator=torch.Generator().manual_seed(2))


def loss_of(model: Any, ids: torch.Tensor) -> Any:
    return model(input_ids=ids, labels=ids, use_cache=False).loss


def gradients(model: Any, loss: Any) -> dict[str, torch.Tensor]:
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "zero2", "zero3"])
@pytest.mark.parametrize("bits", [0, 4])
def test_two_processes_get_the_gradients_of_one(kind: str, bits: int, tmp_path: Path) -> None:
    if bits:
        pytest.importorskip("bitsandbytes")
    zero = kind.startswith("zero")
    if zero:
        pytest.importorskip("deepspeed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", ZERO if zero else WORKER]
    processes = [
        subprocess.Popen(
            [*command, str(rank), kind, str(tmp_path), str(bits), port],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors[0][-1500:]
    found = torch.load(tmp_path / "grads.pt", weights_only=True)
    model = adapted_model(bits)
    wanted = gradients(model, loss_of(model, batch()))  # rows of one length: the mean over ranks is the mean over all
    assert len(found) == len(wanted)
    for name, gradient in wanted.items():
        there = next(g for n, g in found.items() if n.endswith(name) or name.endswith(n))
        # The difference of two values is as exact as these are.
        assert float((there - gradient).norm()) < (1e-4 if zero else 1e-5) * float(gradient.norm()) + 1e-7, name


def test_compiled_it_has_the_same_gradients() -> None:
    model = adapted_model()
    wanted = {n: g.clone() for n, g in gradients(model, loss_of(model, batch())).items()}
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager")
    found = gradients(model, loss_of(compiled, batch()))
    for name, gradient in wanted.items():
        assert float((found[name] - gradient).norm()) < 1e-5 * float(gradient.norm()) + 1e-7, name


def test_autocast_is_as_near_to_float32_as_plain_peft() -> None:
    def error(model: Any) -> float:
        wanted = {n: g.clone() for n, g in gradients(model, loss_of(model, batch())).items()}
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, batch())
        found = gradients(model, loss)
        assert {g.dtype for g in found.values()} == {torch.float32}
        total = sum(float((found[n] - g).square().sum()) for n, g in wanted.items())
        return (total / sum(float(g.square().sum()) for g in wanted.values())) ** 0.5

    ours, plain = error(adapted_model()), error(adapted_model(grouped=False))
    print(f"ours {ours:.3f}, plain PEFT {plain:.3f}")
    assert ours < 1.3 * plain < 0.2
