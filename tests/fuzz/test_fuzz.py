"""Damaged inputs of every format, each tested in a separate process; `benchmarks/fuzz.py` tries many more."""

import os
import signal
import socket
import subprocess
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from fuzz_judge import FORMATS, LIMIT_BYTES, Worker, damaged, judge, judge_one, watch
from fuzz_mutations import read_seeds

from codecswap.errors import UserError


@pytest.mark.slow
def test_damaged_inputs_are_refused_in_a_sentence_or_read() -> None:
    counts = judge(dict.fromkeys(FORMATS, 40), seed=8)
    assert [line for count in counts.values() for line in count.violations] == []
    assert sum(count.inputs for count in counts.values()) == 40 * len(FORMATS)
    for format, count in counts.items():  # else the mutations are too weak, or so strong that they prove nothing
        assert count.refused > 5, format
        assert count.peak < LIMIT_BYTES


def test_inputs_depend_on_seed_format_and_number_alone(tmp_path: Path) -> None:
    from fuzz_seeds import make_seeds

    for root in (tmp_path / "a", tmp_path / "b"):
        make_seeds(root)
    for format in FORMATS:
        inputs = [[damaged(root, format, 1, index) for index in range(20)] for root in (tmp_path / "a", tmp_path / "b")]
        assert inputs[0] == inputs[1]
        others = {damaged(tmp_path / "a", format, 2, index) for index in range(20)}
        assert len(others | set(inputs[0])) > 20
        assert len({data for _, data in inputs[0]} - set(read_seeds(tmp_path / "a", format).values())) > 10


class Misbehaving:
    """Stands for a reader that does what none may."""

    def __init__(self, room: Path) -> None:
        self.room = room

    def of(self, format: str):
        return getattr(self, format)

    def write(self, name: str, path: Path) -> None:
        Path(self.room.parent.parent, "elsewhere").write_text("x")

    def leave(self, name: str, path: Path) -> None:
        Path(self.room, "left").write_text("x")
        raise UserError("Refused.")

    def start(self, name: str, path: Path) -> None:
        subprocess.run(["true"], check=True)

    def connect(self, name: str, path: Path) -> None:
        with socket.socket() as line:
            line.connect_ex(("127.0.0.1", 9))

    def swell(self, name: str, path: Path) -> None:
        b"1" * (LIMIT_BYTES + (1 << 26))

    def fail(self, name: str, path: Path) -> None:
        raise KeyError("x")

    def ramble(self, name: str, path: Path) -> None:
        raise UserError("One line\nand another.")

    def refuse(self, name: str, path: Path) -> None:
        raise UserError("Refused.")

    def accept(self, name: str, path: Path) -> None: ...


def run_inputs(room: Path, pipe: Connection) -> None:
    cwd = room / "cwd"
    cwd.mkdir(parents=True)
    os.chdir(cwd)
    seen = watch(room)
    kinds = ("write", "leave", "start", "connect", "swell", "fail", "ramble", "refuse", "accept")
    pipe.send({kind: judge_one(Misbehaving(cwd), kind, "", room / "x", seen)[0] for kind in kinds})


def test_the_judge_sees_what_it_is_there_to_see(tmp_path: Path) -> None:
    mine, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=run_inputs, args=(tmp_path / "room", theirs))
    process.start()
    assert mine.poll(60)
    outcomes = mine.recv()
    process.join()
    expected = {"write": "not allowed", "leave": "left files", "start": "not allowed", "connect": "not allowed"}
    expected |= {"swell": "memory", "fail": "exception", "ramble": "not one sentence"}
    assert outcomes == expected | {"refuse": "refused", "accept": "accepted"}


def misbehave(pipe: Connection, seeds: Path, room: Path) -> None:
    pipe.send("ready")
    while True:
        how, _ = pipe.recv()
        if how == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if how == "hang":
            time.sleep(600)
        pipe.send(("accepted", "", 0))


def test_a_dead_or_sleeping_process_is_found_out_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz_judge.LIMIT_S", 1.0)
    with Worker(tmp_path / "seeds", misbehave) as worker:
        assert worker.ask("crash", "x")[:2] == ("crash", f"exit code {-signal.SIGSEGV}")
        assert worker.ask("fine", "x")[0] == "accepted"
        assert worker.ask("hang", "x")[0] == "hang"
        assert worker.ask("fine", "x")[0] == "accepted"
