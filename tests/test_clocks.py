"""Promise: machines whose clocks differ by hours, or jump back, are told the truth by `status`."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ledger_tools import open_ledger, rows_of

from batchgen.job.verbs.status import status_of

HOURS = 5 * 3600.0


@pytest.mark.parametrize("shift", [-HOURS, HOURS])
def test_status_tells_how_old_rows_are_on_a_machine_whose_clock_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    """By the clock of the disk that has the rows: a run at work is not taken for one that hangs."""
    real = time.time
    with open_ledger(tmp_path) as ledger:
        ledger.append(rows_of(range(4)))
        ledger.flush()
        monkeypatch.setattr(time, "time", lambda: real() + shift)
        found = status_of(tmp_path / "out.parquet", tmp_path / "out.parquet.ckpt")
    assert found.rows_done == 4
    assert found.last_rows_age_s is not None
    assert 0 <= found.last_rows_age_s < 60
    assert found.owner is not None
    assert found.owner["running_s"] >= 0
    assert 0 <= found.owner["heartbeat_age_s"] < 60


def test_an_output_that_was_written_ahead_of_this_machines_clock_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    with open_ledger(tmp_path) as ledger:
        ledger.append(rows_of(range(4)))
        ledger.finalize(4)
    monkeypatch.setattr(time, "time", lambda: real() - HOURS)
    found = status_of(tmp_path / "out.parquet", tmp_path / "out.parquet.ckpt")
    assert (found.state, found.last_rows_age_s) == ("complete", 0.0)
