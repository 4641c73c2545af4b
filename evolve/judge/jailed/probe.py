"""A task that does nothing, to tell a broken jail from a broken candidate."""

from __future__ import annotations


def alive(payload: object) -> object:
    return payload
