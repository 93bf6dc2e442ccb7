"""What the tests of deployment share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.cluster import Cluster, two_hosts
from tests.deploy.sshd import running_sshd


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """An sshd and a cluster file for it; whatever a test leaves running is stopped."""
    with running_sshd(tmp_path) as server:
        made = Cluster(tmp_path, server, two_hosts(tmp_path, server))
        try:
            yield made
        finally:
            made.setup("--stop")
