"""Every known-bad variant of beanpool is caught by the tests that are named for it."""

from __future__ import annotations

import pytest
from chaos.mutants import MUTANTS, DoesNotFit, Edit, Mutant, apply, copy_of_package, try_out
from chaos.report import Results
from support.toxiproxy import require_toxiproxy


# That its tests pass on the package as it is, the same run shows.
@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught(mutant: Mutant, results: Results) -> None:
    require_toxiproxy()
    verdict = try_out(mutant)
    results.figures(f"known-bad variant: {mutant.name}", verdict.caught_by or "not caught")
    assert verdict.caught_by, verdict.output


def test_every_mutant_fits() -> None:
    for mutant in MUTANTS:
        with copy_of_package() as package:
            apply(mutant, package)


def test_a_mutant_that_does_not_fit_is_an_error() -> None:
    mutant = Mutant("", "", (Edit("policy/rendezvous.py", "no such text", ""),), ())
    with copy_of_package() as package, pytest.raises(DoesNotFit, match="0 times"):
        apply(mutant, package)
