"""The `rules` member: always an answer, never the same one twice, and it learns from verdicts."""

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

from evolve.council.rules import RulesMember
from evolve.prompts.read import edited
from evolve.rules import RULES
from evolve.types import (
    Attempt,
    Candidate,
    Draw,
    Evaluation,
    Judged,
    Measurement,
    Prompt,
    Replied,
    Reply,
    Verdict,
    Workload,
)

SEED = (Path(__file__).parents[2] / "seeds" / "matmul.py").read_text(encoding="utf-8")
PROMPT = Prompt(system="", user="", kind="rule")
WORKLOADS = (Workload(name="w", params={"M": 4096, "N": 4096, "K": 4096, "dtype": "float16"}),)


def passed(ratio: float, **parameters: int) -> Evaluation:
    measurement = Measurement(
        workload="w",
        baseline="b",
        time_us=10,
        ratio=ratio,
        ratio_low=ratio,
        ratio_high=ratio,
        parameters=parameters,
    )
    return Evaluation(verdict=Verdict.PASSED, measurements=(measurement,))


def parent(source: str = SEED, **parameters: int) -> Attempt:
    candidate = Candidate(step=0, source=source, member="seed", kind="seed")
    return Attempt(candidate=candidate, evaluation=passed(1.0, **parameters))


def member(random_seed: int = 7) -> RulesMember:
    return RulesMember(workloads=WORKLOADS, target="sm_90", triton="3.7.1", random_seed=random_seed)


def ask(who: RulesMember, step: int, attempt: Attempt | None = None) -> Reply:
    return asyncio.run(who.ask(Draw(step=step, island=0, parent=attempt or parent()), PROMPT))


def verdict(who: RulesMember, step: int, reply: Reply, evaluation: Evaluation) -> None:
    source = edited(reply.text, SEED).source
    who.observe(Replied(step=step, reply=reply))
    candidate = Candidate(step=step, source=source, member=who.name, kind="rule", parent_id=parent().id)
    who.observe(Judged(step=step, evaluation=evaluation, candidate=candidate))


def test_a_reply_reads_like_a_models():
    reply = ask(member(), 1)
    assert reply.text.startswith(f"Hypothesis: {reply.hypothesis}\n")
    assert reply.model in {rule.name for rule in RULES}
    assert (reply.cost_usd, reply.tokens_in, reply.tokens_out) == (0.0, 0, 0)
    source = edited(reply.text, SEED).source
    assert source != SEED
    assert source.endswith("# EVOLVE-BLOCK-END\n")
    compile(source, "candidate", "exec")


def test_the_same_seed_and_step_give_the_same_reply():
    assert [ask(member(), s) for s in range(5)] == [ask(member(), s) for s in range(5)]
    assert [ask(member(7), s) for s in range(5)] != [ask(member(8), s) for s in range(5)]


def test_no_source_is_proposed_twice_also_after_a_resume():
    first, texts = member(), []
    for step in range(1, 17):
        reply = ask(first, step)
        texts.append(reply.text)
        if reply.text:
            verdict(first, step, reply, Evaluation(verdict=Verdict.INCORRECT))
    made = [text for text in texts if text]
    assert len(made) == len(set(made)) > 8
    resumed = member()
    for step, text in enumerate(made[:8], start=1):
        assert text
        reply = Reply(member="rules", text=text, model="parameters")
        verdict(resumed, step, reply, Evaluation(verdict=Verdict.INCORRECT))
    assert ask(resumed, 99).text not in made[:8]


def test_two_members_fed_the_same_events_agree():
    one, two = member(), member()
    for step in range(1, 8):
        reply = ask(one, step)
        assert ask(two, step) == reply
        for who in (one, two):
            verdict(who, step, reply, passed(1.0 + step / 10))


def test_what_others_had_judged_is_not_proposed():
    wanted = ask(member(), 3)
    who = member()
    source = edited(wanted.text, SEED).source
    other = Candidate(step=2, source=source, member="gpt", kind="rewrite")
    who.observe(Judged(step=2, evaluation=Evaluation(verdict=Verdict.INCORRECT), candidate=other))
    assert ask(who, 3).text != wanted.text


def test_a_rule_that_wins_is_asked_more_often():
    who = member()
    for step, rule in enumerate([r.name for r in RULES] * 2, start=1):
        text = f"Hypothesis: x.\n\n```python\n{step}\n```\n"
        good = rule == "program order"
        reply = Reply(member="rules", text=text, model=rule)
        who.observe(Replied(step=step, reply=reply))
        candidate = Candidate(step=step, source=f"{step}", member="rules", kind="rule", parent_id=parent().id)
        evaluation = passed(2.0) if good else Evaluation(verdict=Verdict.INCORRECT)
        who.observe(Judged(step=step, evaluation=evaluation, candidate=candidate))
    plain, learned = Counter[str](), Counter[str]()
    for step in range(100, 120):
        plain[ask(member(), step).model] += 1
        learned[ask(who, step, parent(SEED + "\n" * step)).model] += 1
    assert plain.most_common(1)[0][0] == "tensor descriptors"
    assert learned.most_common(1)[0][0] == "program order"
    assert learned["parameters"] < learned["program order"]


def test_what_ails_the_parent_moves_its_remedy_forward():
    few = "16 programs for 132 SMs: smaller tiles, or split the reduction."
    evaluation = replace(passed(1.0), feedback=few)
    ailing = Attempt(candidate=parent().candidate, evaluation=evaluation)
    skinny = (Workload(name="w", params={"M": 512, "N": 512, "K": 16384, "dtype": "float16"}),)
    asked = Counter(
        asyncio.run(
            RulesMember(workloads=skinny, triton="3.7.1", random_seed=n).ask(
                Draw(step=1, island=0, parent=ailing), PROMPT
            )
        ).model
        for n in range(12)
    )
    assert asked.most_common(1)[0][0] == "split-K"


def test_a_tuner_leaves_no_numbers_to_rules():
    who = RulesMember(workloads=WORKLOADS, triton="3.7.1", tuned=True)
    asked = [ask(who, step).model for step in range(1, 25)]
    assert "wider space" in asked
    assert "parameters" not in asked


def test_the_tuners_point_becomes_the_start():
    tuned = parent(BLOCK_M=128, BLOCK_N=128, BLOCK_K=64, num_warps=8, num_stages=4)
    numbers = [rule for rule in RULES if rule.name == "parameters"]
    members = [RulesMember(workloads=WORKLOADS, triton="3.7.1", random_seed=n, rules=numbers) for n in range(12)]
    sources = [edited(ask(who, 1, tuned).text, SEED).source for who in members]
    assert any("BLOCK_M=128, BLOCK_N=128" in s for s in sources)


def test_without_a_parent_or_a_move_it_says_why():
    nothing = asyncio.run(member().ask(Draw(step=1, island=0), PROMPT))
    assert nothing.text == ""
    assert "no parent" in nothing.finish_reason
    stuck = ask(member(), 1, parent("import torch\n"))
    assert stuck.text == ""
    assert "parameters: " in stuck.finish_reason
