"""Where settings come from, with the names that others have for some of them."""

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import (
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
)

from global_scheduler.settings.policy_names import with_one_name

ADASPLITS = {
    "worker_concurrency_limit": "worker_concurrency_limit",
    "rasp_steal_cooldown": "rasp_tau_cool_s",
}
"""Settings by AdaSplit's names of them, which have no prefix."""


class SourceWithOtherNames(PydanticBaseSettingsSource):
    """A source of settings that reads ``scheduler`` as ``policy``; the environment and files also
    AdaSplit's variables, after our own names for them.

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
        if not isinstance(self._source, EnvSettingsSource):
            return given
        variables = self._source.env_vars
        for name, setting in ADASPLITS.items():
            if name in variables:
                given = {setting: variables[name], **_without(given, name, setting)}
        if isinstance(self._source, DotEnvSettingsSource):
            # pydantic would pass over what lacks the prefix; under no setting's name it is refused.
            bare = self.settings_cls.model_fields.keys() & variables.keys() - ADASPLITS.keys()
            given |= {name.upper(): variables[name] for name in bare}
        return given


def _without(given: dict[str, Any], name: str, setting: str) -> dict[str, Any]:
    """Where a file's variable is no setting's name, it is among what is given."""
    return {key: value for key, value in given.items() if key != name or name == setting}
