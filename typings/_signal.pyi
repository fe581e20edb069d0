# What the module signal is made of, without its enums; the standard library's types leave it out.
from collections.abc import Callable, Iterable
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | int | None

def signal(signalnum: int, handler: Handler, /) -> Handler: ...
def pthread_sigmask(how: int, mask: Iterable[int], /) -> set[int]: ...
