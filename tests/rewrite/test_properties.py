"""Any transposed convolution in every form, against ONNX Runtime's own ConvTranspose.

CODECSWAP_CASES=50000 makes it as many cases; CODECSWAP_COVERAGE=FILE writes the table of what was covered (docs/rewrite.md).
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import ModelProto, checker
from onnx_models import nodes, operators

from codecswap.rewrite.model import Outcome, cheapest, rewrite_model
from codecswap.rewrite.plans import FORMS, Plan
from codecswap.rewrite.runs import difference, session

CASES = int(os.environ.get("CODECSWAP_CASES", 2400))
"""Rewritten nodes, of all forms together, at least."""
COVERED: Counter[tuple[str, str]] = Counter()


@pytest.fixture(scope="module", autouse=True)
def coverage() -> Iterator[None]:
    yield
    if where := os.environ.get("CODECSWAP_COVERAGE"):
        table: dict[str, dict[str, int]] = {}
        for (what, kind), count in sorted(COVERED.items()):
            table.setdefault(what, {})[kind] = count
        Path(where).write_text(json.dumps(table, indent=1) + "\n", "utf-8")


def every_plan(model: ModelProto) -> list[Plan]:
    """All plans that the one node of a model can have."""
    found: list[Plan] = []

    def choose(outcome: Outcome, plans: list[Plan]) -> Plan:
        found.extend(plans)
        return plans[0]

    copy = ModelProto()
    copy.CopyFrom(model)
    rewrite_model(copy, choose)
    return found


@pytest.mark.slow
@settings(max_examples=max(1, CASES // 5), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(nodes())
def test_every_form_gives_what_onnx_runtime_gives(case: tuple[ModelProto, np.ndarray, dict[str, Any]]) -> None:
    model, x, facts = case
    checker.check_model(model)
    wanted = session(model).run(None, {"x": x})
    plans = every_plan(model)
    assert {plan.form for plan in plans} == set(FORMS) - (
        {"masked"} if facts["open size"] and facts["stride"] > 1 else set()
    )
    for place, plan in enumerate(plans):
        copy = ModelProto()
        copy.CopyFrom(model)
        (outcome,) = rewrite_model(copy, lambda _, others, place=place: others[place])
        assert outcome.form == plan.form
        checker.check_model(copy)
        found = difference(["y"], wanted, session(copy).run(None, {"x": x}))
        assert found.error < 2e-6, f"{plan.form}: {found}"
        assert plan.form == "native" or not {"ConvTranspose"} & operators(copy)
        for what, kind in {**facts, "form": plan.form}.items():
            COVERED[what, str(kind)] += 1


@settings(max_examples=60, deadline=None)
@given(nodes())
def test_the_cheapest_form_is_no_dearer_than_any_other(case: tuple[ModelProto, np.ndarray, dict[str, Any]]) -> None:
    model, x, _ = case
    plans = every_plan(model)
    allowed = frozenset({"Conv", "DepthToSpace", "Slice", "Reshape", "Transpose", "Concat", "Split"})
    (outcome,) = rewrite_model(model, cheapest(operators=allowed))
    assert outcome.plan and outcome.plan.operators <= allowed
    fitting = [plan for plan in plans if plan.operators <= allowed]
    least = min(plan.multiply_adds(x.shape[2:]) for plan in fitting)
    assert outcome.plan.multiply_adds(x.shape[2:]) == least or None in outcome.plan.layer.lengths
