"""Classes at the top level of a module, as users send them, and the way there and back."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from enum import Enum, Flag, IntEnum, IntFlag, StrEnum
from typing import Any, Generic, NamedTuple, TypeVar

from noex_mp.wire.codec import Encoder
from noex_mp.wire.stream import FrameReader


class Color(Enum):
    RED = "r"
    BLUE = "b"
    AZURE = "b"  # noqa: PIE796 - an alias


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    YES = "yes"


class Rights(Flag):
    READ = 1
    WRITE = 2


@dataclass
class Point:
    x: int
    y: Any = None
    initialised: list[str] = field(default_factory=list[str], compare=False)

    def __post_init__(self) -> None:
        self.initialised.append("once")


@dataclass(frozen=True)
class FrozenPoint:
    x: int
    y: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SlottedPoint:
    x: int
    y: Any = None


@dataclass
class Derived(Point):
    z: int = 0


@dataclass
class Secretive:
    """A dataclass that says itself what is pickled."""

    x: int

    def __reduce__(self) -> tuple[type[Secretive], tuple[int]]:
        return Secretive, (self.x + 1,)


@dataclass
class Forgetting:
    """A dataclass that leaves something at home."""

    x: int
    cache: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"x": self.x, "cache": None}


@dataclass(kw_only=True)
class Careful:
    """Uses all that dataclasses offer."""

    x: int
    twice: int = field(init=False)
    _private: Any = None
    offset: InitVar[int] = 0

    def __post_init__(self, offset: int) -> None:
        self.twice = 2 * self.x + offset


class SlottedBase:
    __slots__ = ("__hidden", "seen")

    def hide(self, value: Any) -> None:
        self.__hidden = value

    def hidden(self) -> Any:
        return self.__hidden


@dataclass(slots=True)
class SlottedBelow(SlottedBase):
    """Slots in two classes, one of them no dataclass, and one without a value."""

    x: int


@dataclass(frozen=True)
class Mixed(SlottedPoint):
    """Slots from above, attributes of its own."""

    z: Any = None


T = TypeVar("T")


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class Made:
    """A dataclass that decides itself how it is made."""

    x: int

    def __new__(cls, x: int = 0) -> Made:  # noqa: PYI034
        made = super().__new__(cls)
        made.__dict__["tags"] = ["new"]
        return made


class Pair(NamedTuple):
    left: Any
    right: Any = None


OldPair: Any = collections.namedtuple("OldPair", "left right")  # noqa: PYI024  # pyright: ignore[reportUntypedNamedTuple]


class LoosePair(Pair):
    """Has attributes too: no `__slots__`."""


class Planet(Enum):
    """Values that are no values of msgpack, and attributes."""

    EARTH = (5.97, frozenset({"moon"}))

    def __init__(self, mass: float, moons: frozenset[str]) -> None:
        self.mass = mass
        self.moons = moons


class Bits(IntFlag):
    ONE = 1
    TWO = 2


class Outer:
    class Inner(Enum):
        A = (1, 2)

    @dataclass
    class Part:
        x: int


class Tagged(str):
    """A string with an attribute."""

    tag: Any


class Row(dict[str, Any]):
    pass


class Rows(list[Any]):
    pass


class Foreign:
    """Registered by another module than its own."""

    def __init__(self, content: Any) -> None:
        self.content = content


class Plain:
    """No dataclass: goes by pickle."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and self.content == other.content

    __hash__ = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class Number(int):
    """A subclass of a type that msgpack knows."""


class WithLock:
    def __init__(self) -> None:
        self.name = "a"
        self.lock = threading.Lock()


class Unloadable:
    """Can be pickled, but not loaded."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return int, ("no number",)


class TwoArguments(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class OwnOSError(OSError):
    def __init__(self, device: str) -> None:
        super().__init__(5, "I/O error", device)
        self.device = device


class Slotted(Exception):
    __slots__ = ("amount",)

    def __init__(self, amount: int) -> None:
        super().__init__("slotted")
        self.amount = amount


class NeedsInit(Exception):
    """Keeps its text where only `__init__` can put it."""

    texts: dict[int, str] = {}  # noqa: RUF012 - that is the point

    def __init__(self, text: str) -> None:
        super().__init__(text)
        NeedsInit.texts[id(self)] = text

    def __str__(self) -> str:
        return NeedsInit.texts[id(self)]


class BrokenText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text today")


@dataclass(frozen=True)
class FrozenError(Exception):
    code: int


class Forgetful(Exception):
    """Cannot be built a second time: its text is in none of its parts."""

    def __init__(self, text: str) -> None:
        self._text = text
        super().__init__()

    def __str__(self) -> str:
        return str(vars(self).get("_text", "lost"))

    @property
    def args(self) -> tuple[Any, ...]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        return ("made up", object())


def sent(value: Any, *, allow_pickle: bool = True) -> Any:
    """Return what a value is after its journey through encoder, stream and decoder."""
    encoder, reader = Encoder(allow_pickle=allow_pickle), FrameReader(peer="worker 1")
    stream = b"".join(encoder.take(encoder.pack([7, value])))
    reader.feed(stream)
    [frame] = reader.frames()
    assert reader.failures == []
    reader.receive_eof()
    return frame[1]


class Talking:
    """Sends something each time that it is sent, as a class does that logs to a server."""

    said: list[Callable[[], object]] = []  # noqa: RUF012 - a test puts in what it says

    def __init__(self, content: Any = None) -> None:
        self.content = content

    def __getstate__(self) -> dict[str, Any]:
        for say in self.said:
            say()
        return {"content": self.content}
