"""Finished runs of a study that goes on: a file each, so that nothing is run twice."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow as pa

from exp.study.case import Case
from exp.study.code_version import CodeVersion
from exp.study.errors import ResultError
from exp.study.execution import Execution
from exp.study.tables import read_table, write_table


class Notes(msgspec.Struct, kw_only=True, frozen=True):
    """What a run's file says beside its rows."""

    case: Case
    wall_s: float
    measured: dict[str, float]
    """Figures that the rows do not tell, such as ``cpu.gateway``."""
    code: str
    """The digest of the code's version."""
    code_text: str


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """The folder ``cases`` of a study's; it is there."""

    folder: Path
    code: CodeVersion
    takes_other_code: bool = False
    """Runs of another version of the code count as finished, too."""

    def save(self, case: Case, execution: Execution) -> None:
        """Keep a finished run."""
        notes = Notes(
            case=case,
            wall_s=execution.wall_s,
            measured=execution.measured,
            code=self.code.digest,
            code_text=self.code.text,
        )
        text = msgspec.json.encode(notes).decode()
        write_table(execution.table, self._file(case), {"astrolabe": text})

    def try_load(self, case: Case) -> tuple[pa.Table, Notes] | None:
        """A run that need not be run again; a damaged file counts as none."""
        if not self._file(case).exists():
            return None
        with contextlib.suppress(ResultError, KeyError, msgspec.MsgspecError):
            table, metadata = read_table(self._file(case))
            notes = msgspec.json.decode(metadata["astrolabe"], type=Notes)
            if self.takes_other_code or notes.code == self.code.digest:
                return table, notes
        return None

    def remove(self) -> None:
        """They are all in ``requests.parquet`` by now."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, case: Case) -> Path:
        return self.folder / f"{case.key}.parquet"
