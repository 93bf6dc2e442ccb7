"""Where settings come from, with the names that others have for some of them."""

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource, PydanticBaseSettingsSource

from global_scheduler.settings.policy_names import with_one_name

LIMIT = "worker_concurrency_limit"
"""AdaSplit's variable of this name has no prefix."""


class SourceWithOtherNames(PydanticBaseSettingsSource):
    """A source of settings that reads ``scheduler`` as ``policy``; the environment and files also
    AdaSplit's ``WORKER_CONCURRENCY_LIMIT``, after our own name for it.

    Done source by source, so that the nearer one still comes before the others, whichever names
    each of them uses.
    """

    def __init__(self, source: PydanticBaseSettingsSource) -> None:
        super().__init__(source.settings_cls)
        self._source = source

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """As the source has it."""
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        """All that the source says."""
        given = with_one_name(self._source())
        if isinstance(self._source, EnvSettingsSource) and LIMIT in self._source.env_vars:
            return {LIMIT: self._source.env_vars[LIMIT], **given}
        return given
