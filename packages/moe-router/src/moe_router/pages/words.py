"""The findings of an analysis in words, each with its size and how sure it is."""

from __future__ import annotations

import re

import numpy as np

from moe_router.operations.steps import OUTSIDE
from moe_router.pages.analysis import Analysis


def short(names: tuple[str, ...]) -> list[str]:
    """Layer names by what sets them apart, numbers mostly."""
    numbers = [re.findall(r"\d+", name) for name in names]
    if all(numbers) and len({tuple(n) for n in numbers}) == len(names):
        return [".".join(n) for n in numbers]
    return list(names)


def labels(names: tuple[str, ...]) -> list[str]:
    """The same, to stand in a sentence."""
    return [f"layer {name}" if name[0].isdigit() else name for name in short(names)]


def findings(analysis: Analysis) -> list[str]:
    """What is worth knowing first, a sentence or two each."""
    return [*_load(analysis), *_groups(analysis), *_types(analysis), *_order(analysis), *_together(analysis)]


def _load(analysis: Analysis) -> list[str]:
    layers, names = analysis.layers, labels(analysis.trace.layers)
    worst = min(range(len(layers)), key=lambda n: layers[n].entropy)
    busiest = max(range(len(layers)), key=lambda n: layers[n].max_violation)
    interval = ""
    if layers[busiest].max_violation_interval is not None:
        low, high = layers[busiest].max_violation_interval or (0, 0)
        interval = f" (95 % interval over sequences {1 + low:.2f} to {1 + high:.2f})"
    said = [
        f"Load is least even in {names[worst]}: normalised entropy {layers[worst].entropy:.3f}. The busiest expert of all is expert "
        f"{int(np.argmax(layers[busiest].share_E))} of {names[busiest]}, with {1 + layers[busiest].max_violation:.2f} times the mean "
        f"load{interval}."
    ]
    dead = [(name, layer.dead) for name, layer in zip(names, layers, strict=True) if layer.dead]
    if dead:
        number = sum(len(experts) for _, experts in dead)
        where = ", ".join(f"{name} ({len(experts)})" for name, experts in dead[:4])
        more = " and further layers" if len(dead) > 4 else ""
        said.append(f"{number} {'expert' if number == 1 else 'experts'} received no token of this text: {where}{more}.")
    else:
        said.append("Every expert of every layer received tokens.")
    idle = [n for n in range(len(layers)) if layers[n].idle > 0]
    if idle:
        most = max(idle, key=lambda n: layers[n].idle)
        said.append(
            f"In {len(idle)} layers some tokens had no expert (dropped or skipped), most in {names[most]}: {layers[most].idle:.1%} of the "
            "slots."
        )
    return said


def _groups(analysis: Analysis) -> list[str]:
    found, names = analysis.comparisons, labels(analysis.trace.layers)
    if not found:
        return []
    sure = sorted((c for c in found if (c.jsd_q_L <= 0.05).any()), key=lambda c: -float(c.jsd_L.max()))
    few = [c.groups[0] for c in found if len(c.jsd_p_L) > 0.05 * c.exchanges]
    said = []
    if few:
        said.append(f"Not enough sequences to tell whether these groups differ from the rest: {', '.join(few)}.")
    if len(sure) < len(found) - len(few):
        said.append(
            f"{len(sure)} of {len(found)} groups are routed differently from the rest in at least one layer; no difference was found for "
            f"{', '.join(c.groups[0] for c in found if c not in sure and c.groups[0] not in few)}."
        )
    elif sure:
        said.append(f"{'All' if not few else 'The other'} {len(sure)} groups are routed differently from the rest.")
    for c in sure[:3]:
        top = int(np.argmax(c.jsd_L))
        text = (
            f"{c.groups[0]} most in {names[top]}: {c.jsd_L[top]:.3f} bits from the rest, where chance alone gives {c.jsd_null_L[top]:.3f}; "
            f"{int((c.jsd_q_L <= 0.05).sum())} of {len(c.jsd_L)} layers and {int((c.p_adjusted_LE <= 0.05).sum())} experts differ."
        )
        certain = np.where(c.p_adjusted_LE <= 0.05, np.abs(c.difference_LE), -1)
        layer, expert = np.unravel_index(np.argmax(certain), certain.shape)
        if certain[layer, expert] > 0:
            text += (
                f" Expert {expert} of {names[layer]} takes {c.share_LE[0][layer, expert]:.1%} of its assignments against "
                f"{c.share_LE[1][layer, expert]:.1%} (p = {c.p_adjusted_LE[layer, expert]:.2g}, adjusted for all experts)."
            )
        said.append(text)
    special = analysis.specialization
    if special is not None:
        number = int((special.p_adjusted_LE <= 0.05).sum())
        most = int(np.argmax(special.bits_L - special.chance_bits_L))
        said.append(
            f"{number} of {int((~np.isnan(special.score_LE)).sum())} experts serve some groups more than others beyond chance (max-T). "
            f"The group tells most of the expert in {names[most]}: {special.bits_L[most]:.3f} bits, {special.chance_bits_L[most]:.3f} by "
            "chance."
        )
    return said


def _types(analysis: Analysis) -> list[str]:
    if analysis.affinity_q_LCE is None:
        return [f"Token types: {analysis.no_affinity}."] if analysis.trace.types else []
    q_LCE, names = analysis.affinity_q_LCE, labels(analysis.trace.layers)
    kind_of = "operation" if OUTSIDE in analysis.trace.types else "token type"
    number = int((q_LCE <= 0.05).sum())
    if number == 0:
        return [f"No {kind_of} goes with an expert beyond what sequences alone explain (false discovery rate 5 %)."]
    best = []
    for layer, affinity in enumerate(analysis.affinity):
        sure = q_LCE[layer, :, : affinity.p_CE.shape[1]] <= 0.05
        gain = np.where(sure, affinity.difference_CE, -np.inf)
        kind, expert = np.unravel_index(np.argmax(gain), gain.shape)
        if gain[kind, expert] > 0:
            best.append(
                (float(gain[kind, expert]), f"{analysis.trace.types[kind]} to expert {expert} of {names[layer]}")
            )
    best.sort(reverse=True)
    strongest = "; ".join(f"{text} (+{100 * gain:.0f} points of their assignments)" for gain, text in best[:3])
    return [
        f"{number} of {q_LCE.size} pairs of {kind_of} and expert go together or avoid each other beyond chance (false discovery rate 5 %)."
        + (f" The strongest: {strongest}." if best else "")
    ]


def _order(analysis: Analysis) -> list[str]:
    names = labels(analysis.trace.layers)
    repeated = [
        (name, layer.repeated) for name, layer in zip(names, analysis.layers, strict=True) if layer.repeated is not None
    ]
    said = []
    if repeated:
        name, most = max(repeated, key=lambda pair: pair[1].share - pair[1].expected)
        sure = "" if np.isnan(most.low) else f" (difference {100 * most.low:.1f} to {100 * most.high:.1f} points, 95 %)"
        said.append(
            f"A token's first choice is its predecessor's most often in {name}: {most.share:.1%}, where independent choices with the same "
            f"load would give {most.expected:.1%}{sure}."
        )
    if analysis.information_L:
        step = int(np.argmax([found.bits for found in analysis.information_L]))
        found = analysis.information_L[step]
        sure = (
            "; too few sequences for an interval"
            if np.isnan(found.low)
            else f" (95 % {found.low:.2f} to {found.high:.2f})"
        )
        said.append(
            f"The first choice in {names[step]} tells {found.bits:.2f} bits of the one in {names[step + 1]}, the most of any two "
            f"consecutive layers{sure}."
        )
    return said


def _together(analysis: Analysis) -> list[str]:
    if not analysis.edges:
        return []
    edge, names = analysis.edges[0], labels(analysis.trace.layers)
    sure = ", untested for want of sequences" if np.isnan(edge.q) else ", at 5 % false discoveries over sequences"
    interval = "" if np.isnan(edge.low) else f" (95 % {edge.low:.1f} to {edge.high:.1f})"
    count = "no other pair does so" if len(analysis.edges) == 1 else f"{len(analysis.edges)} pairs do so"
    return [
        f"Experts {edge.first} and {edge.second} of {names[edge.layer]} share tokens {edge.lift:.1f} times as often as their numbers of "
        f"pairs make likely{interval}, {edge.tokens:,} tokens; {count} 1.5 times or more{sure}."
    ]
