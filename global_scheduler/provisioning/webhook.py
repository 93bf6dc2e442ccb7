"""Standby units that another service starts and stops."""

from __future__ import annotations

import asyncio

import aiohttp

from global_scheduler.provisioning.base import ProvisionerFailed
from global_scheduler.provisioning.standby import StandbyUnit, WebhookSpec

LONGEST_REASON = 500


class Webhook:
    """Posts ``{"action", "unit", "engine_url"}``; any 2xx answer is a yes."""

    def __init__(
        self, unit: StandbyUnit, spec: WebhookSpec, session: aiohttp.ClientSession
    ) -> None:
        self._unit = unit
        self._spec = spec
        self._session = session

    async def start(self) -> None:
        """Ask for the unit.

        Raises:
            ProvisionerFailed: no connection, another status, or too late.
        """
        await self._post("start")

    async def stop(self) -> None:
        """Ask for its end; raises as ``start`` does."""
        await self._post("stop")

    def try_failure(self) -> str | None:
        """The service tells nothing more."""
        return None

    async def _post(self, action: str) -> None:
        headers = {key: value.get_secret_value() for key, value in self._spec.headers.items()}
        body = {"action": action, "unit": self._unit.name, "engine_url": self._unit.engine_url}
        try:
            async with self._session.post(
                self._spec.url,
                json=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self._spec.timeout_s),
                allow_redirects=False,
            ) as response:
                said = (await response.content.read(LONGEST_REASON)).decode(errors="replace")
        except asyncio.TimeoutError as error:
            raise self._failure(f"no answer within {self._spec.timeout_s:g} s") from error
        except (aiohttp.ClientError, ValueError) as error:  # ValueError: a header's line break
            raise self._failure(str(error) or type(error).__name__) from error
        if not 200 <= response.status < 300:
            raise self._failure(f"status {response.status}: {said.strip()}")

    def _failure(self, reason: str) -> ProvisionerFailed:
        return ProvisionerFailed(f"{self._spec.url}: {reason}")
