"""The record of what was started: ``fleet.json`` in the fleet's folder, with its logs beside it."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from exp.fleet.errors import BusyError, FleetError
from exp.fleet.plan import Part, Plan, part_from
from global_scheduler.provisioning.processes import ProcessId, is_running

FORMAT = 1
DEFAULT_FOLDER = Path(".astrolabe/fleet")


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedPart:
    """A part that was started, and as which process."""

    part: Part
    process: ProcessId
    started_at: float
    """UNIX seconds."""

    @property
    def is_running(self) -> bool:
        """Whether its process still lives."""
        return is_running(self.process)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What was planned and which processes were started for it."""

    plan: Plan
    started: tuple[StartedPart, ...] = ()

    def with_part(self, started: StartedPart) -> Fleet:
        """The fleet with this process in the place of the part's former one."""
        others = (item for item in self.started if item.part.title != started.part.title)
        return dataclasses.replace(self, started=(*others, started))

    @property
    def running(self) -> tuple[StartedPart, ...]:
        """Those whose processes still live."""
        return tuple(item for item in self.started if item.is_running)


class Store:
    """The folder of one fleet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "fleet.json"

    @property
    def logs(self) -> Path:
        """The folder of the parts' logs."""
        return self.folder / "logs"

    def log_path(self, part: Part) -> Path:
        """Where the part's output goes."""
        return self.logs / f"{part.title.replace(' ', '-')}.log"

    def try_load(self) -> Fleet | None:
        """The recorded fleet; None when there is none.

        Raises:
            FleetError: the record cannot be understood.
        """
        try:
            return _decode(self._file.read_text())
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise FleetError(
                f"{self._file} is not a fleet's record ({error}). If you know that nothing of it"
                " runs any more, delete it."
            ) from error

    def save(self, fleet: Fleet) -> None:
        """Write the record; a crash at any moment leaves the old one or the new one."""
        data = {"format": FORMAT, **dataclasses.asdict(fleet)}
        draft = self._file.with_suffix(".new")
        # Commands may hold keys, so nobody else reads the record.
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as output:
            json.dump(data, output, indent=1)
        draft.replace(self._file)

    def forget(self) -> None:
        """Remove the record; the logs stay."""
        self._file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the fleet against other set-ups; the system lets go of it when this process ends.

        Raises:
            BusyError: another process holds it.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(
                    f"Another set-up is at work on the fleet in {self.folder}. Wait for it, or"
                    " stop it with Ctrl-C, and try again."
                ) from error
            yield


def _decode(text: str) -> Fleet:
    data = json.loads(text)
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']}, not {FORMAT}")
    plan = Plan(
        label=data["plan"]["label"], parts=tuple(part_from(item) for item in data["plan"]["parts"])
    )
    started = (
        StartedPart(
            part=part_from(item["part"]),
            process=ProcessId(**item["process"]),
            started_at=item["started_at"],
        )
        for item in data["started"]
    )
    return Fleet(plan=plan, started=tuple(started))
