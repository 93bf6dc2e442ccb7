"""Health checks: a unit that fails them leaves the candidates and comes back by itself."""

from __future__ import annotations

import asyncio

import aiohttp
import anyio
import msgspec

from global_scheduler.cache_sizes import try_cache_size
from global_scheduler.units import ModelCard, Unit, UnitRegistry


class _ModelList(msgspec.Struct):
    data: list[ModelCard]


class HealthChecker:
    """Asks every engine's ``/health`` at a fixed interval, and what it is when it comes back."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        units: UnitRegistry,
        *,
        interval_s: float,
        timeout_s: float,
        engine_api_key: str | None,
    ) -> None:
        self._session = session
        self._units = units
        self._interval_s = interval_s
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._headers = {"authorization": f"Bearer {engine_api_key}"} if engine_api_key else {}

    async def run(self) -> None:
        """Check for ever."""
        while True:
            await self.check_all()
            await anyio.sleep(self._interval_s)

    async def check_all(self) -> None:
        """Check every unit once, side by side, so that a hung one does not delay the others."""
        await asyncio.gather(*map(self.check, self._units.all()))

    async def check(self, unit: Unit) -> None:
        """Check one unit."""
        try:
            models = await self._models(unit)
            if not unit.healthy:
                await self._size_cache(unit)
            unit.check_passed(models)
        except asyncio.TimeoutError:
            unit.check_failed("no answer to the health check in time")
        except Exception as error:  # whatever one engine says, the others are checked
            unit.check_failed(str(error) or type(error).__name__)

    async def _size_cache(self, unit: Unit) -> None:
        """An engine that comes back may have another configuration; one may also say nothing."""
        try:
            async with self._session.get(
                f"{unit.engine_url}/metrics",
                timeout=self._timeout,
                headers=self._headers,
                allow_redirects=False,
                raise_for_status=_check_status,
            ) as response:
                size = try_cache_size(await response.text())
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError, LookupError):
            return  # LookupError: of a page in what is no text encoding
        if size is not None:
            unit.prefixes.resize(size)

    async def _models(self, unit: Unit) -> dict[str, ModelCard]:
        async with self._session.get(
            f"{unit.engine_url}/health",
            timeout=self._timeout,
            allow_redirects=False,
            raise_for_status=_check_status,
        ):
            pass
        # A known engine's models do not change while it stays healthy.
        if unit.healthy and unit.models:
            return unit.models
        async with self._session.get(
            f"{unit.engine_url}/v1/models",
            timeout=self._timeout,
            headers=self._headers,
            allow_redirects=False,
            raise_for_status=_check_status,
        ) as response:
            cards = msgspec.json.decode(await response.read(), type=_ModelList).data
        return {card["id"]: card for card in cards if isinstance(card.get("id"), str)}


async def _check_status(response: aiohttp.ClientResponse) -> None:
    """A redirect is a failure, too: requests for the unit would not follow it."""
    if response.status < 300:
        return
    response.release()
    raise aiohttp.ClientResponseError(
        response.request_info,
        response.history,
        status=response.status,
        message=response.reason or "",
    )
