"""Watts of a machine, from the sensors that Linux shows in /sys."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

SYS = Path("/sys")
SECONDS = 1.0
"""Shortest measurement: sensors renew their values a thousand times a second to once a second."""
INTERVAL = 0.02
"""Seconds between two readings of a sensor of watts."""
GPUS = ("amdgpu", "i915", "nouveau", "radeon", "xe")
"""Chips of hwmon that measure a graphics card alone."""
INPUT_RAIL = "_IN"
"""End of the label of a rail that feeds a whole board (Jetson's VDD_IN, POM_5V_IN)."""


class Sensor:
    """A sensor.

    Args:
        name: what it is and what it covers.
        watts: reads watts; None: ``joules`` is read in place of it.
        joules: reads a counter.
        wraps: joules after which the counter begins again.
    """

    def __init__(
        self,
        name: str,
        watts: Callable[[], float] | None = None,
        joules: Callable[[], float] | None = None,
        wraps: float = 0.0,
    ) -> None:
        self.name, self._watts, self._joules, self._wraps = name, watts, joules, wraps

    def measure(self, run: Callable[[], object], seconds: float = SECONDS) -> tuple[float, float]:
        """Call ``run`` again and again for some seconds; returns joules and seconds of one call, in the mean."""
        before = self._joules() if self._joules else 0.0
        found: list[float] = []
        ended = threading.Event()
        reader = threading.Thread(target=self._sample, args=(found, ended))
        reader.start()
        began, count = time.perf_counter(), 0
        try:
            while not count or time.perf_counter() - began < seconds:
                run()
                count += 1
            took = time.perf_counter() - began
        finally:
            ended.set()
            reader.join()
        if self._joules:
            used = self._joules() - before
            used += self._wraps if used < 0 else 0.0
        else:
            used = took * sum(found) / len(found)
        return used / count, took / count

    def idle(self, seconds: float = SECONDS) -> float:
        """Watts while nothing is computed here."""
        joules, took = self.measure(lambda: time.sleep(INTERVAL), seconds)
        return joules / took

    def _sample(self, found: list[float], ended: threading.Event) -> None:
        while self._watts:
            found.append(self._watts())
            if ended.wait(INTERVAL):
                return


def find(root: Path = SYS) -> tuple[Sensor | None, str]:
    """The sensor that covers most and is read most exactly: rails of a board, the processor's counters, or a battery.

    Returns: it and its name; or None, and why there is none, as a clause.
    """
    sensor = _rails(root) or _counters(root) or _batteries(root)
    if sensor:
        return sensor, sensor.name
    if any(root.glob("class/powercap/*:*/energy_uj")):
        return None, (
            "only root may read the processor's counters of energy (as root: chmod a+r /sys/class/powercap/*/energy_uj, until "
            "it is started again)"
        )
    return None, "there is no sensor in /sys (rails in hwmon, powercap, or a battery that discharges)"


def _rails(root: Path) -> Sensor | None:
    """Rails of a board: power*_input in microwatts, or in*_input (mV) times curr*_input (mA), as Jetson's ina3221 has them."""
    supplies = {path.name.replace("-", "_") for path in _supplies(root)}
    rails: list[tuple[str, Callable[[], float]]] = []
    for chip in sorted(root.glob("class/hwmon/hwmon*")):
        name = _text(chip / "name")
        if name in GPUS or name in supplies:  # the second: a charger or a battery
            continue
        powers = [path for path in sorted(chip.glob("power[0-9]*_input")) if _number(path) is not None]
        for path in powers:
            label = _text(chip / path.name.replace("input", "label")) or path.name.partition("_")[0]
            rails.append((f"{name} {label}", partial(_watts, path)))
        for index in (
            "123" if name.startswith("ina") and not powers else ""
        ):  # further ones are sums, and voltages of shunts
            pair = chip / f"in{index}_input", chip / f"curr{index}_input"
            if None not in map(_number, pair):
                label = _text(chip / f"in{index}_label") or f"channel {index}"
                rails.append((f"{name} {label}", partial(_watts, *pair)))
    for name, read in rails:
        if name.endswith(INPUT_RAIL):
            return Sensor(f"{name}: the rail that feeds the whole board", watts=read)
    if not rails:
        return None
    what = "one rail" if len(rails) == 1 else f"the sum of {len(rails)} rails"
    names = ", ".join(name for name, _ in rails)
    return Sensor(f"{names}: {what} of the board", watts=lambda: sum(read() for _, read in rails))


def _counters(root: Path) -> Sensor | None:
    """The processor's counters of energy (RAPL): of the platform where it has that, else of all its packages."""
    zones: dict[str, list[Path]] = {}
    for path in sorted(root.glob("class/powercap/*:*")):
        name = _text(path / "name")
        if "mmio" not in path.name and _number(path / "energy_uj") is not None:  # mmio shows the same counters again
            zones.setdefault(name.partition("-")[0], []).append(path / "energy_uj")
    for name, covers in (("psys", "the whole platform"), ("package", "the processor's package, without the rest")):
        if paths := zones.get(name):
            wraps = 1e-6 * (_number(paths[0].with_name("max_energy_range_uj")) or 0.0)
            return Sensor(f"powercap {name}: {covers}", joules=partial(_joules, paths), wraps=wraps)
    return None


def _batteries(root: Path) -> Sensor | None:
    """Batteries that discharge: all that the machine uses; their values are renewed slowly."""
    found = []
    for path in _supplies(root):
        files: tuple[Path, ...] = (path / "power_now",)
        if _number(files[0]) is None:
            files = path / "current_now", path / "voltage_now"
        discharges = _text(path / "type") == "Battery" and _text(path / "status") == "Discharging"
        if discharges and None not in map(_number, files):
            found.append((path.name, partial(_watts, *files)))
    if not found:
        return None
    names = ", ".join(name for name, _ in found)
    return Sensor(f"battery {names}: the whole machine", watts=lambda: sum(read() for _, read in found))


def _joules(paths: list[Path]) -> float:
    """Joules of counters in microjoules, together."""
    return 1e-6 * sum(_number(path) or 0.0 for path in paths)


def _watts(*files: Path) -> float:
    """Watts of a file in microwatts; or of two, in millivolts and milliamperes or in their thousandths."""
    values = [abs(_number(path) or 0.0) for path in files]
    if len(values) == 1:
        return 1e-6 * values[0]
    return values[0] * values[1] * (1e-12 if files[0].name.endswith("_now") else 1e-6)


def _supplies(root: Path) -> list[Path]:
    return sorted(root.glob("class/power_supply/*"))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None
