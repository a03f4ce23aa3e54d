"""Recording in two processes, in compiled models, and through an adapter that another package registers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from moe_router import RouterError, RoutingRecorder, RoutingTrace, find_moe_layers
from moe_router.architectures.registry import plugged_in
from moe_router.trace import merge
from tiny_models import build

RANK = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, {tests!r})
from moe_router import RoutingRecorder
from tiny_models import build

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://{folder}/store", rank=rank, world_size=2)
model = DistributedDataParallel(build("mixtral"), find_unused_parameters=True)
rows = torch.load("{folder}/rows.pt")
with RoutingRecorder(model) as recorder:
    for row in rows[rank::2]:
        model(input_ids=row[None], labels=row[None]).loss.backward()
recorder.trace().save(f"{folder}/rank{{rank}}.trace")
dist.destroy_process_group()
"""


def test_two_ranks_merged_equal_one_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = torch.randint(3, 60, (6, 11))
    torch.save(rows, tmp_path / "rows.pt")
    script = tmp_path / "rank.py"
    script.write_text(RANK.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    ranks = [subprocess.Popen([sys.executable, str(script), str(n)]) for n in range(2)]
    assert [process.wait(timeout=240) for process in ranks] == [0, 0]
    both = merge([RoutingTrace.load(tmp_path / f"rank{n}.trace") for n in range(2)])
    model = build("mixtral")
    with RoutingRecorder(model) as recorder, torch.no_grad():
        for row in rows:
            model(input_ids=row[None])
    alone = recorder.trace()
    np.testing.assert_array_equal(both.counts_GLE, alone.counts_GLE)
    np.testing.assert_array_equal(both.coactivation_LEE, alone.coactivation_LEE)
    assert len(both.counts_ULE) == len(alone.counts_ULE) == 6


@pytest.mark.parametrize("architecture", ["mixtral", "deepseek_v3"])
def test_a_compiled_model_is_counted_like_an_eager_one(architecture: str) -> None:
    """Attached before compilation; the graph is cut where a router hands over its routing."""
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    counts = []
    for compiled in (False, True):
        model = build(architecture)
        with RoutingRecorder(model) as recorder, torch.no_grad():
            (torch.compile(model, backend="eager") if compiled else model)(input_ids=ids)
        counts.append(recorder.trace().counts_GLE)
        torch._dynamo.reset()
    np.testing.assert_array_equal(*counts)


def test_passes_that_a_graph_made_before_takes_around_the_hooks_are_an_error() -> None:
    """A second shape is compiled anew, with the hooks in it: part of the text is counted, which must not pass for all of it."""
    model = build("mixtral")
    for layer in model.model.layers:
        layer.compile(backend="eager", dynamic=False)
    short, long = (torch.randint(3, 60, (2, n), generator=torch.Generator().manual_seed(1)) for n in (5, 9))
    with torch.no_grad():
        model(input_ids=short, use_cache=False)
        with RoutingRecorder(model) as recorder:
            model(input_ids=long, use_cache=False)
            model(input_ids=short, use_cache=False)
    with pytest.raises(RouterError, match=r"1 of 2 forward passes went around routers|no token was recorded"):
        recorder.trace()
    torch._dynamo.reset()


ADAPTER = """
import torch
from moe_router import MoELayer, Routing


class TurnTaking:
    name = "turn taking"

    def find(self, model):
        return [
            MoELayer(
                name=name, router_name=name, router=block, experts_name=f"{name}.parts", experts=block.parts, num_experts=3, top_k=1,
                scoring="softmax", adapter=self, block=block,
            )
            for name, block in model.named_modules()
            if type(block).__name__ == "TurnTakingBlock"
        ]

    def attach(self, layer, deliver):
        def hook(block, args, output):
            tokens = args[0].shape[0] * args[0].shape[1]
            turns = torch.arange(tokens)[:, None] % 3
            deliver(Routing(torch.zeros(tokens, 3), torch.ones(tokens, 1), turns))

        return [layer.block.register_forward_hook(hook)]
"""


class TurnTakingBlock(nn.Module):
    """Gives every third token to the same expert; no adapter of ours can read it."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x_BSD: torch.Tensor) -> torch.Tensor:
        outputs = torch.stack([part(x_BSD) for part in self.parts])
        turns = torch.arange(x_BSD.shape[0] * x_BSD.shape[1]).reshape(x_BSD.shape[:2]) % 3
        return outputs.gather(0, turns[None, ..., None].expand(1, *x_BSD.shape))[0]


@pytest.fixture
def package_with_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package that registers an adapter."""
    (tmp_path / "turn_taking.py").write_text(ADAPTER)
    info = tmp_path / "turn_taking-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: turn-taking\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[moe_router.adapters]\nturns = turn_taking:TurnTaking\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugged_in.cache_clear()
    yield tmp_path
    plugged_in.cache_clear()
    sys.modules.pop("turn_taking", None)


def test_another_package_can_register_an_adapter(package_with_adapter: Path) -> None:
    model = nn.Sequential(TurnTakingBlock())
    with RoutingRecorder(model) as recorder:
        model(torch.randn(2, 6, 4))
    trace = recorder.trace()
    assert trace.layers == ("0",)
    assert trace.counts_GLE[0, 0].tolist() == [4, 4, 4]
    # Ours still read what they know.
    assert len(find_moe_layers(build("mixtral"))) > 0


def test_an_adapter_that_cannot_be_loaded_is_named(package_with_adapter: Path) -> None:
    (package_with_adapter / "turn_taking.py").write_text("class TurnTaking:\n    name = 'broken'\n")
    with pytest.raises(RouterError, match=r"adapter turns \(turn_taking:TurnTaking\) lacks find or attach"):
        find_moe_layers(nn.Sequential(TurnTakingBlock()))
