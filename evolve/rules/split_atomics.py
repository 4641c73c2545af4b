"""R7 by atomics: each part of K adds itself to the output, which starts from zero.

One kernel less than with scratch, and no parts to read again. Sums of floats then come in any order, so that two runs
differ in their last bits: only where the variant's contract tolerates that (`repeat`), and where the output is float32,
because adding up in a narrower type rounds once a part. Sums of integers are exact in any order.
"""

from __future__ import annotations

from evolve.rules.base import Applied, Context, No, Rule
from evolve.rules.source import Source
from evolve.rules.split_k import ATOMIC, split


def rewrite(source: Source, context: Context) -> Applied:
    kinds = {str(w.params.get("out_dtype", w.params.get("dtype"))) for w in context.workloads}
    if not kinds:
        raise No("Nothing is known of the output's type, on which it depends whether parts may be added by atomics.")
    if kinds == {"float32"} and not context.repeat:
        raise No("The contract wants the same bits from every run, and atomics add in any order.")
    if kinds not in ({"float32"}, {"int32"}):
        raise No(f"Atomics in {min(kinds)} would round once for every part.")
    return split(source, context, atomic=True)


RULE = Rule(name="split-K by atomics", reason=ATOMIC, rewrite=rewrite, weight=2.3, helps=frozenset({"few programs"}))
