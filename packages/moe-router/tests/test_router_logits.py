"""Raw logits of every architecture, from outputs and from the model, against the router's own projection."""

from __future__ import annotations

import pytest
import torch

from moe_router import RouterError, extract_routing_logits, find_moe_layers
from test_router_architectures import HERE, build, inputs
from test_router_compat import FIVE, RELEASE

# Their outputs leave out what they route: a hash layer's scores decide nothing, vision towers see no image here.
PARTIAL = {"deepseek_v4"}
SILENT = {"diffusion_gemma", "openai_privacy_filter"}
"""Their outputs have no field for router logits at all."""


@pytest.mark.parametrize("architecture", HERE if RELEASE >= (5, 20) else FIVE)
@pytest.mark.filterwarnings("ignore:.*one-hot mask:UserWarning")
def test_outputs_and_model_agree(architecture: str, padded_batch) -> None:
    model = build(architecture)
    batch = inputs(model, padded_batch)
    own = extract_routing_logits(model, **batch)
    with torch.no_grad():
        outputs = model(**batch, output_router_logits=True, return_dict=True)
    if architecture in SILENT or (RELEASE < (5, 20) and not getattr(outputs, "router_logits", None)):
        assert len(own) > 1  # from the model they are had all the same
        with pytest.raises(RouterError, match="the outputs hold no router logits"):
            extract_routing_logits(outputs)
        return
    returned = extract_routing_logits(outputs)
    layers = [layer for layer in find_moe_layers(model) if layer.stream != "vision"]
    assert len(own) == len(layers)
    if architecture == "doge":  # logits of keys there: [2, tokens, keys] returned, side by side here
        return
    assert len(returned) == len(own) - (1 if architecture in PARTIAL else 0)
    pairs = {tuple(a.shape) for a in own} & {tuple(b.shape) for b in returned}
    assert pairs
    for logits in returned:
        # Softmax does not see the constant by which logarithms of probabilities differ.
        same = [
            torch.allclose(logits.float().log_softmax(-1), x.float().log_softmax(-1), atol=1e-4)
            for x in own
            if x.shape == logits.shape
        ]
        assert any(same)


def test_what_holds_none_says_so(padded_batch) -> None:
    model = build("mixtral")
    with torch.no_grad():
        outputs = model(**padded_batch)
    with pytest.raises(RouterError, match="output_router_logits=True"):
        extract_routing_logits(outputs)
    with pytest.raises(RouterError, match="no MoE layer"):
        extract_routing_logits(torch.nn.Linear(2, 2))
