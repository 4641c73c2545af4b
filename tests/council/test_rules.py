"""The `rules` member: always an answer, never the same one twice, and it learns from verdicts."""

import asyncio
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

from evolve.council.lines import named, read
from evolve.council.rules import EXPLORES, RulesMember
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
    moves, replayed = read(reply.model)
    assert moves
    assert not replayed
    assert set(moves) <= {rule.name for rule in RULES}
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
    for step in range(100, 108):
        plain.update(read(ask(member(), step).model)[0])
        stranger = replace(parent(SEED + "\n" * step), candidate=replace(parent().candidate, step=step, digest=""))
        learned.update(move for moves in read(ask(who, step, stranger).model) for move in moves)
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
    assert asked.most_common(1)[0][0].startswith("split-K")


def test_a_tuner_leaves_no_numbers_to_rules():
    who = RulesMember(workloads=WORKLOADS, triton="3.7.1", tuned=True)
    asked = {move for step in range(1, 7) for move in read(ask(who, step).model)[0]}
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


# --- Lines and joins ------------------------------------------------------------------------------------------------


TWO = tuple(
    Workload(name=name, params={"M": m, "N": m, "K": k, "dtype": "bfloat16"})
    for name, m, k in (("square", 4096, 4096), ("deep", 512, 16384))
)


def on_both(square: float, deep: float, **deep_numbers: int) -> Evaluation:
    numbers = {"square": {"BLOCK_M": 128, "num_warps": 8}, "deep": {"BLOCK_M": 64, "num_warps": 4, **deep_numbers}}
    rows = tuple(
        Measurement(workload=n, baseline="b", time_us=9, ratio=r, ratio_low=r, ratio_high=r, parameters=numbers[n])
        for n, r in (("square", square), ("deep", deep))
    )
    return Evaluation(verdict=Verdict.PASSED, measurements=rows)


def told(who: RulesMember, step: int, attempt: Attempt, moves: str) -> None:
    who.observe(Replied(step=step, reply=Reply(member=who.name, text="-", model=moves)))
    who.observe(Judged(step=step, candidate=attempt.candidate, evaluation=attempt.evaluation))


def two_lines() -> tuple[RulesMember, Attempt, Attempt]:
    """One line wins the square product, the other the deep one; both come from the seed."""
    who = RulesMember(workloads=TWO, triton="3.7.1", random_seed=3, tuned=True)
    who.observe(Judged(step=0, candidate=parent().candidate, evaluation=on_both(0.8, 0.4)))
    made = []
    for step, (moves, evaluation) in enumerate(
        (("program order", on_both(0.95, 0.5)), ("split-K", on_both(0.7, 0.9, SPLIT_K=16))), start=1
    ):
        rules = [rule for rule in RULES if rule.name == moves]
        alone = RulesMember(workloads=TWO, triton="3.7.1", rules=rules, tuned=True)
        source = edited(ask(alone, step).text, SEED).source
        candidate = Candidate(step=step, source=source, member="rules", kind="rule", parent_id=parent().id)
        made.append(Attempt(candidate=candidate, evaluation=evaluation))
        told(who, step, made[-1], moves)
    return who, made[0], made[1]


def test_names_of_moves_are_read_as_they_were_written():
    for new, old in (
        (("split-K",), ()),
        (("exp2", "scale in the exponent"), ("program order", "split-K by atomics")),
        ((), ("alignment", "split-K")),
    ):
        assert read(named(new, old)) == (new, old)


def test_two_lines_are_joined_in_one_step_whichever_is_the_parent():
    for which in (1, 2):
        found = two_lines()
        who, attempt = found[0], found[which]
        step = next(n for n in range(3, 60) if not _explores(n))
        reply = ask(who, step, attempt)
        assert reply.hypothesis.startswith("Join the lines of ")
        assert read(reply.model)[0] == ()
        source = edited(reply.text, SEED).source
        assert "GROUP_M" in source
        assert "SPLIT_K" in source
        rows = [line for line in source.splitlines() if line.startswith("    ({")]
        square, deep = (next(row for row in rows if size in row) for size in ('"M": 4096', '"M": 512'))
        assert '"BLOCK_M": 128' in square
        assert '"SPLIT_K": 1,' in square.replace("}", ",")
        assert '"BLOCK_M": 64' in deep
        assert '"SPLIT_K": 16' in deep


def test_what_was_joined_is_worked_on_and_not_joined_again():
    who, first, _ = two_lines()
    steps = iter(n for n in range(3, 60) if not _explores(n))
    step = next(steps)
    reply = ask(who, step, first)
    source = edited(reply.text, SEED).source
    candidate = Candidate(step=step, source=source, member="rules", kind="rule", parent_id=first.id)
    joined = Attempt(candidate=candidate, evaluation=on_both(0.95, 0.92, SPLIT_K=16))
    told(who, step, joined, reply.model)
    later = [ask(who, next(steps), attempt) for attempt in (parent(), joined)]
    for reply, replayed in zip(later, ({"program order", "split-K"}, set()), strict=True):
        assert read(reply.model)[0]
        assert set(read(reply.model)[1]) == replayed
        assert "SPLIT_K" in reply.text


def test_a_resumed_member_joins_the_same():
    """A replay brings events without sources: what is joined depends on names and figures alone."""
    who, first, second = two_lines()
    resumed = RulesMember(workloads=TWO, triton="3.7.1", random_seed=3, tuned=True)
    resumed.observe(Judged(step=0, candidate=parent().candidate, evaluation=on_both(0.8, 0.4)))
    for step, (attempt, moves) in enumerate(((first, "program order"), (second, "split-K")), start=1):
        bare = replace(attempt.candidate, source="")
        told(resumed, step, Attempt(candidate=bare, evaluation=attempt.evaluation), moves)
    for step in range(3, 9):
        assert ask(resumed, step, second) == ask(who, step, second)


def _explores(step: int, random_seed: int = 3) -> bool:
    return random.Random(f"{random_seed}:{step}").random() < EXPLORES
