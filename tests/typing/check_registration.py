"""What mypy and pyright must say about `register_type`. Read, never run."""

from __future__ import annotations

from noex_mp import register_type


class Money:
    def __init__(self, amount: int, currency: str) -> None:
        self.amount = amount
        self.currency = currency


def parts(money: Money) -> tuple[int, str]:
    return money.amount, money.currency


def money(parts: tuple[int, str]) -> Money:
    return Money(*parts)


def text(content: str) -> Money:
    return Money(1, content)


def check_register_type() -> None:
    register_type(Money, parts, money)
    register_type(Money, lambda m: (m.amount, m.currency), lambda v: Money(*v))
    register_type(Money, parts, text)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    register_type(Money, money, parts)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    register_type(str, parts, money)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
