"""Every known-bad variant of beanpool is caught by the tests that are named for it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from chaos.mutants import MUTANTS, DoesNotFit, Edit, Mutant, apply, check_sound, copy_of_package, table, try_out
from chaos.proxies import require_toxiproxy
from chaos.report import Results


@pytest.mark.timeout(600)
def test_every_mutant_is_caught(results: Results) -> None:
    require_toxiproxy()
    check_sound(MUTANTS)
    # Two at a time: they wait more than they work.
    with ThreadPoolExecutor(2) as executor:
        verdicts = list(executor.map(try_out, MUTANTS))
    caught = [verdict for verdict in verdicts if verdict.caught_by]
    results.figures("known-bad variants of beanpool", f"{len(caught)} of {len(verdicts)} caught")
    results.section(table(verdicts))
    assert not [verdict.mutant.name for verdict in verdicts if not verdict.caught_by]


def test_every_mutant_fits() -> None:
    for mutant in MUTANTS:
        with copy_of_package() as package:
            apply(mutant, package)


def test_a_mutant_that_does_not_fit_is_an_error() -> None:
    mutant = Mutant("", "", (Edit("ring.py", "no such text", ""),), ())
    with copy_of_package() as package, pytest.raises(DoesNotFit, match="0 times"):
        apply(mutant, package)
