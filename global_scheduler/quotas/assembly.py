"""Makes the limiter that the settings ask for."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry

from global_scheduler.quotas.base import Store, StoreFailed
from global_scheduler.quotas.keys import parse_quotas
from global_scheduler.quotas.limiter import Limiter
from global_scheduler.quotas.quota_metrics import QuotaMetrics
from global_scheduler.quotas.sqlite_store import SqliteStore
from global_scheduler.settings import GatewaySettings
from wire.model_config import ConfigError


def open_limiter(settings: GatewaySettings, registry: CollectorRegistry) -> Limiter:
    """The limiter with its store.

    Raises:
        BadRequest: a quota cannot be parsed.
        ConfigError: the store cannot be used.
    """
    try:
        store = _store(settings)
    except StoreFailed as error:
        raise ConfigError(f"quotas: {error}") from error
    return Limiter(
        parse_quotas(text.get_secret_value() for text in settings.quota),
        store,
        QuotaMetrics(registry),
        time.monotonic,
        deadline_s=settings.quota_deadline_ms / 1e3,
        when_unknown=settings.quota_when_unknown,
    )


def _store(settings: GatewaySettings) -> Store:
    if settings.redis_url is None:
        # A lock that is not had in half of the time is told as such.
        return SqliteStore(settings.quota_file, time.time, settings.quota_deadline_ms / 2e3)
    try:
        # Not everybody has the package, which nobody else needs.
        from global_scheduler.quotas.redis_store import RedisStore
    except ImportError as error:
        raise ConfigError(
            "--redis-url needs the extra: pip install astrolabe-llm[redis]"
        ) from error
    return RedisStore(settings.redis_url.get_secret_value())
