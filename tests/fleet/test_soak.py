"""The soak, shortened: a fleet in trouble loses nothing."""

from __future__ import annotations

import json
import os
import random

import pytest

from exp.soak import main
from tests.deploy.ports import free_offset
from tests.fleet.running import PORTS


@pytest.mark.slow
def test_a_fleet_in_trouble_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Killed and hanging units, switches every two seconds, and all is answered and at rest."""
    offset = free_offset(PORTS, random.Random(os.getpid()))
    options = {"--minutes": "0.2", "--units": "3", "--rate": "15"}
    options |= {"--switch-every": "2", "--trouble-every": "1", "--port-offset": str(offset)}
    words = [word for option in options.items() for word in option]
    status = main(words)
    told = capsys.readouterr()
    assert status == 0, told
    findings = json.loads(told.out.splitlines()[-1])
    assert findings["outcomes"]["ok"] > 10
    assert findings["switches"] >= 2
    assert sum(findings["trouble"].values()) >= 2
