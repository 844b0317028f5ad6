"""``--target cpu``: choose the lowering of a node that runs fastest on this machine."""

from collections.abc import Sequence

import numpy as np

from codecswap.rewrite.alone import standalone
from codecswap.rewrite.model import Outcome, typical
from codecswap.rewrite.plans import Plan, X
from codecswap.rewrite.runs import milliseconds, session

GAIN = 0.97
"""A form must take at most this share of the original's time."""


def fastest(outcome: Outcome, plans: Sequence[Plan]) -> Plan:
    """The plan that ONNX Runtime runs fastest on one thread, in turns; the node itself unless another one is clearly faster."""
    plans = sorted((plan for plan in plans if plan.form != "masked"), key=lambda plan: plan.form != "native")
    layer = plans[0].layer
    random = np.random.default_rng(0)
    weight = random.standard_normal(layer.weight_shape).astype(np.float32)
    bias = random.standard_normal(layer.outputs).astype(np.float32)
    x = random.standard_normal((1, layer.inputs, *typical(layer))).astype(np.float32)
    opened = [session(standalone(plan, weight, bias), optimized=True) for plan in plans]
    times = milliseconds([(one, {X: x}) for one in opened])
    best = min(range(len(plans)), key=lambda index: times[index])
    return plans[best] if times[best] <= GAIN * times[0] else plans[0]
