"""Which replacement is fastest on a chip: the compiler's word, and the list of operators where there is no compiler."""

from pathlib import Path

import pytest

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.compile import TOOLCHAINS
from codecswap.compile.compare import compare
from codecswap.compile.toolchain import Compiled, CompiledOperator, Job
from codecswap.config import AdviseOptions
from codecswap.errors import UserError
from codecswap.students.record import describe_swaps
from codecswap.swaps.apply import swap

CYCLES = {"subpixel": 5.3e6, "masked": 2.65e6, "upsample": 1e6}


class Fake:
    """An NPU that takes no ConvTranspose, and the activation of one replacement only on its CPU."""

    install = "fakec: pip install fakec"
    version: str | None = "fakec 1.0"
    on_cpu = ""

    def installed(self, python: Path | None) -> str | None:
        return self.version

    def compile(self, job: Job) -> Compiled:
        assert job.form == "native" and job.samples.symbols[0].any()
        if (replacement := describe_swaps(job.codec)) == "none":
            raise UserError("fakec knows no ConvTranspose.")
        operators = (CompiledOperator("g_s.1", "Sqrt", replacement != self.on_cpu),)
        return Compiled((), self.version, operators, CYCLES[replacement], memory=2048)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    text = 'operators = ["Conv", "Sqrt"]\ntoolchain = "fake"\nprecisions = ["w8a8"]\n[chips]\nfake = "fake-1"\n'
    (tmp_path / "fake.toml").write_text(text)
    monkeypatch.setitem(TOOLCHAINS, "fake", toolchain := Fake())
    return toolchain


def test_the_fastest_exact_choice_that_runs_whole(
    fake: Fake, teacher: FactorizedPrior, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    choices = {"transposed": teacher} | {name: swap(teacher, name)[0] for name in CYCLES}
    exact = ["transposed", "subpixel", "masked"]
    target = str(tmp_path / "fake.toml")
    assert compare(choices, "tiny", target, exact) is None
    said = capsys.readouterr().out
    assert "transposed: fakec knows no ConvTranspose." in said
    assert "On fake-1 masked is the fastest of the exact choices, 2.0 times as fast as subpixel" in said
    rows = {line.split("│")[1].strip(): line.split("│")[2:] for line in said.splitlines() if "│" in line}
    assert [cell.strip() for cell in rows["masked"]] == ["0", "2.65", "", "2", "yes", ""]
    fake.on_cpu = "masked"
    compare(choices, "tiny", target, exact)
    said = capsys.readouterr().out
    assert "On fake-1 subpixel is the fastest" in said and "1 (Sqrt)" in said


def test_without_a_compiler_there_is_the_list(
    fake: Fake, teacher: FactorizedPrior, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fake.version = None
    assert compare({"transposed": teacher}, "tiny", str(tmp_path / "fake.toml"), []) == {"Conv", "Sqrt"}
    assert "pip install fakec" in capsys.readouterr().out
    assert "DepthToSpace" in (compare({}, "tiny", "opset13", []) or ())
    with pytest.raises(UserError, match="one of them"):
        AdviseOptions(operators="Conv", target="rk3588")
