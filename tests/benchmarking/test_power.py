"""Joules of a picture from the sensors of a folder like /sys. No test asserts how long something takes."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from codecswap.benchmarking import measure
from codecswap.benchmarking.contenders import Contender
from codecswap.benchmarking.measure import Sample
from codecswap.runner import messages, respond
from codecswap.runner.power import Sensor, find

JETSON = {
    "class/hwmon/hwmon3/name": "ina3221",
    "class/hwmon/hwmon3/in1_label": "VDD_IN",
    "class/hwmon/hwmon3/in1_input": "5000",
    "class/hwmon/hwmon3/curr1_input": "1200",
    "class/hwmon/hwmon3/in2_label": "VDD_CPU",
    "class/hwmon/hwmon3/in2_input": "5000",
    "class/hwmon/hwmon3/curr2_input": "300",
    "class/hwmon/hwmon3/in4_input": "12",  # of a shunt
    "class/hwmon/hwmon3/curr4_input": "9000",
}
RAILS = {
    "class/hwmon/hwmon0/name": "ina226",
    "class/hwmon/hwmon0/power1_input": "2500000",
    "class/hwmon/hwmon0/in1_input": "5000",
    "class/hwmon/hwmon0/curr1_input": "500",
    "class/hwmon/hwmon1/name": "ina226",
    "class/hwmon/hwmon1/power1_input": "1500000",
    "class/hwmon/hwmon2/name": "amdgpu",
    "class/hwmon/hwmon2/power1_input": "90000000",
}
BATTERY = {
    "class/power_supply/BAT0/type": "Battery",
    "class/power_supply/BAT0/status": "Discharging",
    "class/power_supply/BAT0/power_now": "7000000",
    "class/hwmon/hwmon0/name": "BAT0",  # what the kernel shows of it again
    "class/hwmon/hwmon0/power1_input": "7000000",
}
OTHER_BATTERY = {
    "class/power_supply/battery/type": "Battery",
    "class/power_supply/battery/status": "Discharging",
    "class/power_supply/battery/current_now": "-500000",
    "class/power_supply/battery/voltage_now": "4000000",
}
PACKAGES = {
    "class/powercap/intel-rapl:0/name": "package-0",
    "class/powercap/intel-rapl:0/energy_uj": "1000",
    "class/powercap/intel-rapl:0/max_energy_range_uj": "10000000",
    "class/powercap/intel-rapl:0:0/name": "core",
    "class/powercap/intel-rapl:0:0/energy_uj": "500",
    "class/powercap/intel-rapl-mmio:0/name": "package-0",
    "class/powercap/intel-rapl-mmio:0/energy_uj": "1000",
}


def system(root: Path, content: Mapping[str, str]) -> Path:
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("content", "watts", "said"),
    [
        (JETSON, 6.0, "ina3221 VDD_IN: the rail that feeds the whole board"),
        (RAILS, 4.0, "ina226 power1, ina226 power1: the sum of 2 rails of the board"),
        (BATTERY, 7.0, "battery BAT0: the whole machine"),
        (OTHER_BATTERY, 2.0, "battery battery: the whole machine"),
        (PACKAGES | BATTERY | JETSON, 6.0, "VDD_IN"),
    ],
)
def test_watts(content: Mapping[str, str], watts: float, said: str, tmp_path: Path) -> None:
    sensor, name = find(system(tmp_path, content))
    assert sensor and said in name
    assert sensor.idle(seconds=0) == pytest.approx(watts)
    calls: list[float] = []
    joules, seconds = sensor.measure(lambda: calls.append(time.perf_counter()), seconds=0.05)
    assert joules == pytest.approx(watts * seconds) and len(calls) > 1


def test_watts_are_the_mean_over_the_whole_time() -> None:
    turns, done = iter([1.0] * 5 + [3.0] * 5), threading.Event()
    sensor = Sensor("a rail", watts=lambda: next(turns, None) or done.set() or 2.0)
    joules, seconds = sensor.measure(lambda: done.wait(60), seconds=0)
    assert joules / seconds == pytest.approx(2.0)


@pytest.mark.parametrize(("before", "after"), [(1_000_000, 3_500_000), (9_000_000, 1_500_000)])
def test_joules_of_a_counter_which_begins_again(before: int, after: int, tmp_path: Path) -> None:
    counter = "class/powercap/intel-rapl:0/energy_uj"
    sensor, name = find(system(tmp_path, PACKAGES | {counter: str(before)}))
    assert sensor and name == "powercap package: the processor's package, without the rest"
    joules, _ = sensor.measure(lambda: system(tmp_path, {counter: str(after)}), seconds=0)
    assert joules == pytest.approx(2.5)


def test_the_platform_goes_before_its_packages(tmp_path: Path) -> None:
    zones = {"class/powercap/intel-rapl:1/name": "psys", "class/powercap/intel-rapl:1/energy_uj": "7"}
    assert "psys" in find(system(tmp_path, PACKAGES | zones))[1]


def test_without_a_sensor_it_says_why(tmp_path: Path) -> None:
    assert find(tmp_path) == (
        None,
        "there is no sensor in /sys (rails in hwmon, powercap, or a battery that discharges)",
    )
    charging = BATTERY | {"class/power_supply/BAT0/status": "Charging"}
    assert find(system(tmp_path, charging))[0] is None
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").mkdir(parents=True)  # cannot be read, by root either
    sensor, why = find(tmp_path)
    assert sensor is None and "only root may read" in why


def test_a_row_has_the_joules_of_its_pictures(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, "h", "w")) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Sigmoid", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    root = system(tmp_path, JETSON)
    asked: list[bool] = []

    def ask(request: bytes, threads: int, python: Path | None) -> tuple[bytes, str]:
        asked.append(messages.unpack(request)[0]["power"])
        return respond.respond(request, root), ""

    class Zeros:
        def samples(self, size: tuple[int, int]) -> list[Sample]:
            return [Sample({"x": np.zeros((1, 3, 4, 4), np.float32)}, np.full((3, 4, 4), 0.5, np.float32))]

    config = {"provider": "CPUExecutionProvider", "entries": {}}
    contender = Contender("s", "f", "p", "onnxruntime", network=lambda size: model, config=config)
    (row,) = measure.measure([contender], [(4, 4)], Zeros(), ask, rounds=2, power=True)
    assert row.status == measure.OK and asked == [True, False]
    energy = row.energy["4x4"]
    assert 0 < energy.joules < 6.0 and energy.above_idle == pytest.approx(0, abs=1e-6)
