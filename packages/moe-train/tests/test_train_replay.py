"""Routing decisions in the recompute of checkpointing: scores are disturbed there, and the choice has to stay."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import tiny_models
from moe_router import find_moe_layers
from moe_router.capture import in_recompute
from moe_train.replay import RoutingReplay
from test_train_loss import NOT_ALONE

ELSEWHERE = {
    "dbrx": "its block chooses",
    "doge": "its block chooses",
    "phimoe": "by maxima, at random",
    "jetmoe": "knows no checkpointing",
}
"""Architectures whose choice is not repeated, and why."""


def disturbed(model: Any, layers: list[Any], *, by: float) -> list[Any]:
    """Noise on what the routers are given, in recomputation alone."""
    modules = dict(model.named_modules())
    generator = torch.Generator().manual_seed(1)

    def noisy(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not in_recompute():
            return None
        name = None if args else next(iter(kwargs))
        given = args[0] if args else kwargs[name]
        new = given + by * torch.randn(given.shape, generator=generator).to(given.dtype)
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, name: new})

    return [modules[layer.router_name].register_forward_pre_hook(noisy, with_kwargs=True) for layer in layers]


def executed(model: Any, layers: list[Any]) -> tuple[list[Any], dict[tuple[int, bool], list[torch.Tensor]]]:
    found: dict[tuple[int, bool], list[torch.Tensor]] = {}

    def reader(number: int) -> Any:
        return lambda routing: found.setdefault((number, in_recompute()), []).append(
            routing.indices_TK.detach().clone()
        )

    return [handle for number, layer in enumerate(layers) for handle in layer.attach(reader(number))], found


def run(
    architecture: str, *, replay: bool, by: float = 1.0, reentrant: bool = False
) -> tuple[Any, dict[tuple[int, bool], list[torch.Tensor]], int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model: Any = tiny_models.build(architecture)
        tiny_models.checkpoint(model, reentrant=reentrant)
    model.train()
    layers = find_moe_layers(model)
    replaying = RoutingReplay(model) if replay else None
    noise = disturbed(model, layers, by=by)
    handles, found = executed(model, layers)
    ids = torch.randint(3, 90, (2, 24), generator=torch.Generator().manual_seed(0))
    try:
        out = model(
            **tiny_models.inputs(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}), use_cache=False
        )
        out.logits.float().pow(2).mean().backward()
    finally:
        for handle in [*noise, *handles]:
            handle.remove()
        if replaying is not None:
            replaying.close()
    return model, found, 0 if replaying is None else replaying.flips


@pytest.mark.parametrize("architecture", sorted(set(tiny_models.SPECIFIC) - NOT_ALONE - set(ELSEWHERE)))
def test_the_recompute_runs_the_experts_of_the_first_run(architecture: str) -> None:
    _, found, flips = run(architecture, replay=True)
    layers = {number for number, again in found if again}
    assert layers, "nothing was recomputed"
    for number in layers:
        (first,), (second,) = found[number, False], found[number, True]
        assert torch.equal(first.sort(-1).values, second.sort(-1).values)
    hashed = architecture == "deepseek_v4"  # its first layers choose by the token, whatever the scores
    assert flips > 0 or hashed


def test_without_it_the_recompute_chooses_others() -> None:
    _, found, _ = run("mixtral", replay=False)
    pairs = [(found[n, False][0], found[n, True][0]) for n, again in found if again]
    assert pairs
    assert any(not torch.equal(first.sort(-1).values, second.sort(-1).values) for first, second in pairs)


def test_both_kinds_of_checkpointing() -> None:
    _, found, flips = run("mixtral", replay=True, reentrant=True)
    again = [number for number, recomputed in found if recomputed]
    assert again
    assert flips > 0
    assert all(torch.equal(found[n, False][0].sort(-1).values, found[n, True][0].sort(-1).values) for n in again)


def test_where_nothing_is_disturbed_nothing_changes() -> None:
    gradients = []
    for replay in (False, True):
        model, _, flips = run("mixtral", replay=replay, by=0.0)
        assert flips == 0
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_it_is_taken_off() -> None:
    model: Any = tiny_models.build("mixtral")
    before = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    RoutingReplay(model).close()
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == before


def test_a_run_with_checkpointing_uses_it(config_for: Any) -> None:
    from moe_train.assembly import adapted, find_layers, planned_targets
    from moe_train.prepare import prepare

    for checkpointing in ("true", "false"):
        config = config_for(f"training.gradient_checkpointing={checkpointing}")
        loaded, _ = prepare(config)
        model: Any = adapted(config, loaded, planned_targets(config, loaded, find_layers(loaded)))
        hooked = [
            name
            for name, m in model.named_modules()
            if any("RoutingReplay" in str(h) for h in m._forward_hooks.values())
        ]
        assert len(hooked) == (2 if checkpointing == "true" else 0)
        assert all("gate" in name for name in hooked)
        assert bool(model._forward_pre_hooks) is (checkpointing == "true"), (
            "the module that is called tells when a pass begins"
        )
