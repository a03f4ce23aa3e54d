"""The analysis as plain numbers, for `moe-router analyze --json`."""

from __future__ import annotations

from typing import Any

import numpy as np

from moe_router.pages.analysis import Analysis
from moe_router.pages.words import findings


def as_json(analysis: Analysis) -> dict[str, Any]:
    """Everything the report shows: sizes with their intervals or rates, whose unit is the sequence. What cannot be told is null."""
    trace, special = analysis.trace, analysis.specialization
    layers = []
    for n, layer in enumerate(analysis.layers):
        row: dict[str, Any] = {
            "layer": layer.name,
            "load": _numbers(layer.share_E),
            "weight_mass": _numbers(layer.mass_E),
            "entropy": layer.entropy,
            "entropy_interval": layer.entropy_interval,
            "gini": layer.gini,
            "gini_interval": layer.gini_interval,
            "coefficient_of_variation": layer.variation,
            "max_violation": layer.max_violation,
            "max_violation_interval": layer.max_violation_interval,
            "dead": layer.dead,
            "dominant": layer.dominant,
            "idle": layer.idle,
        }
        if layer.repeated is not None:
            row["repetition"] = {name: _number(value) for name, value in layer.repeated._asdict().items()}
        if special is not None:
            row["specialization"] = {
                "score": _numbers(special.score_LE[n]),
                "by_chance": _numbers(special.chance_LE[n]),
                "p_adjusted": _numbers(special.p_adjusted_LE[n]),
                "bits": float(special.bits_L[n]),
                "bits_by_chance": float(special.chance_bits_L[n]),
                "q": float(special.q_L[n]),
            }
        if n < len(analysis.information_L):
            row["next_layer"] = {name: _number(value) for name, value in analysis.information_L[n]._asdict().items()}
        layers.append(row)
    return {
        "model": trace.model,
        "tokens": int(trace.tokens_U.sum()),
        "sequences": int(trace.sequences_U.sum()),
        "findings": findings(analysis),
        "layers": layers,
        "groups": [
            {
                "group": c.groups[0],
                "verdict": c.verdict(),
                "js_divergence": _numbers(c.jsd_L),
                "by_chance": _numbers(c.jsd_null_L),
                "q": _numbers(c.jsd_q_L),
                "experts": [
                    {
                        "layer": int(n),
                        "expert": int(e),
                        "difference": float(c.difference_LE[n, e]),
                        "p_adjusted": float(c.p_adjusted_LE[n, e]),
                    }
                    for n, e in np.argwhere(c.p_adjusted_LE <= 0.05)
                ],
            }
            for c in analysis.comparisons
        ],
        "types": _types(analysis),
        "pairs": [{name: _number(value) for name, value in edge._asdict().items()} for edge in analysis.edges],
        "not_told": [*analysis.not_compared, *([analysis.no_affinity] if analysis.no_affinity else [])],
    }


def _types(analysis: Analysis) -> list[dict[str, Any]]:
    """Token types or operations and the experts they go with, or avoid, at 5 % false discoveries."""
    if analysis.affinity_q_LCE is None:
        return []
    return [
        {
            "type": analysis.trace.types[c],
            "layer": int(n),
            "expert": int(e),
            "normalised_pmi": _number(analysis.affinity[n].npmi_CE[c, e]),
            "difference": float(analysis.affinity[n].difference_CE[c, e]),
            "q": float(analysis.affinity_q_LCE[n, c, e]),
        }
        for n, c, e in np.argwhere(analysis.affinity_q_LCE <= 0.05)
    ]


def _numbers(values: Any) -> list[Any]:
    return [_number(round(float(v), 6)) for v in values]


def _number(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, int):
        return value
    return None if np.isnan(value) else float(value)
