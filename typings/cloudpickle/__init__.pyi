# The part of cloudpickle that is used here; the package brings no types of its own.
from collections.abc import Callable
from pickle import PickleBuffer
from types import ModuleType
from typing import IO, Any

class Pickler:
    def __init__(
        self,
        file: IO[bytes],
        protocol: int | None = None,
        buffer_callback: Callable[[PickleBuffer], Any] | None = None,
    ) -> None: ...
    def dump(self, obj: object) -> None: ...
    def reducer_override(self, obj: Any) -> Any: ...

def list_registry_pickle_by_value() -> set[str]: ...
def register_pickle_by_value(module: ModuleType) -> None: ...
