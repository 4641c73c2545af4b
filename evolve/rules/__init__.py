"""Rewrite rules for Triton source: what a kernel engineer would try first, one file each.

`apply` is the whole interface. A new rule is a file with a `RULE` and one line in `RULES`.
"""

from __future__ import annotations

from evolve.rules import (
    alignment,
    bounded_scores,
    descriptors,
    epilogue,
    even_k,
    exp2,
    flatten,
    fold_scale,
    fuse,
    heavy_first,
    hoist,
    host_descriptors,
    kept_operand,
    lazy_rescale,
    masks_apart,
    modulo,
    parameters,
    persistent,
    pipelining,
    precision,
    program_order,
    registers,
    rows,
    settled_masks,
    split_atomics,
    split_k,
    split_keys,
    streaming,
    undo,
    warp_specialize,
    whole_rows,
    widen,
)
from evolve.rules.base import Applied, Context, Declined, No, Rule
from evolve.rules.source import parse

RULES: tuple[Rule, ...] = (
    parameters.RULE,
    widen.RULE,
    program_order.RULE,
    descriptors.RULE,
    host_descriptors.RULE,
    alignment.RULE,
    even_k.RULE,
    persistent.RULE,
    flatten.RULE,
    split_k.RULE,
    split_atomics.RULE,
    split_keys.RULE,
    warp_specialize.RULE,
    epilogue.RULE,
    fuse.RULE,
    modulo.RULE,
    pipelining.RULE,
    hoist.RULE,
    rows.RULE,
    whole_rows.RULE,
    streaming.RULE,
    precision.RULE,
    exp2.RULE,
    fold_scale.RULE,
    masks_apart.RULE,
    heavy_first.RULE,
    settled_masks.RULE,
    bounded_scores.RULE,
    lazy_rescale.RULE,
    registers.RULE,
    kept_operand.RULE,
    undo.RULE,
)

__all__ = ["RULES", "Applied", "Context", "Declined", "Rule", "apply"]


def apply(rule: Rule, source: str, context: Context) -> Applied | Declined:
    """The rule's move on a candidate, or the sentence that says why there is none."""
    try:
        return rule.rewrite(parse(source), context)
    except No as no:
        return Declined(reason=str(no))
    except RecursionError:
        return Declined(reason="The file is nested too deeply to be rewritten.")
