# The part of joblib that is used here; the package brings no types of its own.
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

def cpu_count(only_physical_cores: bool = False) -> int: ...
def delayed(function: Callable[..., Any]) -> Callable[..., Any]: ...
def register_parallel_backend(
    name: str, factory: Callable[..., Any], make_default: bool = False
) -> None: ...

class Parallel:
    n_dispatched_batches: int
    def __init__(
        self,
        n_jobs: int | None = None,
        backend: object = None,
        return_as: str = "list",
        timeout: float | None = None,
        batch_size: int | str = "auto",
        **options: Any,
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def __call__(self, iterable: Iterable[Any]) -> Any: ...

class parallel_config:  # noqa: N801
    def __init__(self, backend: object = None, **options: Any) -> None: ...
    def __enter__(self) -> dict[str, Any]: ...
    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
