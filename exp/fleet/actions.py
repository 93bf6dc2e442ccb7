"""Looking at and stopping what was started on this machine."""

from __future__ import annotations

from exp.fleet.state import Store
from exp.fleet.status import fleet_status, status_table
from exp.fleet.supervisor import Supervisor


def show_status(store: Store, starter: str) -> int:
    """Print the table; 0 when all is healthy. ``starter`` is the command that starts a fleet."""
    rows = fleet_status(store)
    if not rows:
        print(f"No fleet was started here ({store.folder}). Start one: {starter}")
        return 1
    print(status_table(rows))
    return 0 if all(row.state == "healthy" for row in rows) else 1


def stop(supervisor: Supervisor) -> int:
    """End what was started, and say what it was."""
    with supervisor.store.locked():
        stopped = supervisor.down()
    for item in stopped:
        print(f"  stopped  {item.part.title:<18} pid {item.process.pid}")
    print("The fleet is stopped." if stopped else "Nothing was running.")
    return 0
