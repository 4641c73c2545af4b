"""The last lines of a run: what they say of one in which nothing was promoted."""

from contextlib import closing
from io import StringIO

from rich.console import Console

from evolve.journal import Journal
from evolve.terminal.summary import summary
from evolve.types import Candidate, Evaluation, Judged, Measurement, Verdict


def test_a_run_without_a_promotion_names_who_leads_and_where_to_look(tmp_path):
    figure = Measurement(workload="w", baseline="b", time_us=1.0, ratio=0.66, ratio_low=0.65, ratio_high=0.67)
    found = Evaluation(verdict=Verdict.PASSED, measurements=(figure,), ranking_key="k")
    seed = Candidate(step=0, source="x = 1\n", member="seed", kind="seed")
    out = StringIO()
    with closing(Journal.create(tmp_path / "run", config_text="")) as journal:
        journal.append(Judged(step=0, candidate=seed, evaluation=found))
        summary(Console(file=out, width=200), journal, None, "the budget of 1 steps is used up")
    assert f"{seed.id} leads with 0.660" in out.getvalue()
    assert "No candidate passed" not in out.getvalue()
