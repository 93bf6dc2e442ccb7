"""Tokens that a deployment hands to processes on hosts.

They travel over ssh's stdin into the processes' environment; no command line and no file has them.
"""

from __future__ import annotations

import argparse
import json
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from exp.fleet.errors import FleetError
from exp.fleet.plan import Plan, Role

KINDS: tuple[tuple[str, Role, str], ...] = (
    ("HF_TOKEN", "engine", "hf_token_file"),
    ("ASTROLABE_GATEWAY_ADMIN_TOKEN", "gateway", "admin_token_file"),
)
"""The variable that the processes of a role read, and the option that names a file for it."""


@dataclass(frozen=True, slots=True)
class Token:
    """A secret, and whose processes get it."""

    variable: str
    role: Role
    value: str = field(repr=False)
    source: str
    """For people: where it came from."""
    file: Path | None = None
    """The same for programs; None where it came from the environment."""


def read_tokens(options: argparse.Namespace, environ: Mapping[str, str]) -> tuple[Token, ...]:
    """The tokens that the options' files hold, or else the environment.

    Raises:
        FleetError: a file cannot be read, or a token is no single word; does not tell the token.
    """
    tokens = []
    for variable, role, option in KINDS:
        path: Path | None = getattr(options, option)
        if path is not None:
            flag = "--" + option.replace("_", "-")
            tokens.append(Token(variable, role, _from_file(flag, path), f"{flag} {path}", path))
        elif environ.get(variable):
            value = _single_word(variable, environ[variable])
            tokens.append(Token(variable, role, value, f"the environment's {variable}"))
    return tuple(tokens)


def _from_file(flag: str, path: Path) -> str:
    try:
        mode = path.stat().st_mode
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise FleetError(f"{flag} {path}: {getattr(error, 'strerror', 'is no text')}") from error
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        print(f"note: {path} can be read by others: chmod 600 {path}", file=sys.stderr)
    return _single_word(f"{flag} {path}", text)


def _single_word(where: str, text: str) -> str:
    value = text.strip()
    if not value.isascii() or not value.isprintable() or len(value.split()) != 1:
        raise FleetError(f"{where}: must be one line with a token and nothing else")
    return value


def tokens_for(plan: Plan, tokens: Sequence[Token]) -> tuple[Token, ...]:
    """Those that processes of the plan read: a host gets no others."""
    roles = {part.role for part in plan.parts if part.is_ours}
    return tuple(token for token in tokens if token.role in roles)


def to_line(tokens: Sequence[Token]) -> str:
    """One line of JSON: variables and values by role."""
    by_role: dict[str, dict[str, str]] = {}
    for token in tokens:
        by_role.setdefault(token.role, {})[token.variable] = token.value
    return json.dumps(by_role)


def described(tokens: Sequence[Token]) -> str:
    """For people, without the values."""
    shown = [f"{one.variable} for the {one.role}, from {one.source}" for one in tokens]
    return f"tokens, not shown: {'; '.join(shown)}" if shown else "no tokens"


def has_admin_token(tokens: Sequence[Token]) -> bool:
    """Whether the gateway gets the token that opens its admin API."""
    return any(token.role == "gateway" for token in tokens)
