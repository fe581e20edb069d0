from typing import Any

class ParallelBackendBase:
    nesting_level: int | None
    inner_max_num_threads: int | None
    backend_kwargs: dict[str, Any]
    parallel: Any
    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        **backend_kwargs: Any,
    ) -> None: ...

class AutoBatchingMixin:
    def reset_batch_stats(self) -> None: ...

class SequentialBackend(ParallelBackendBase): ...

class FallbackToBackend(Exception):
    def __init__(self, backend: ParallelBackendBase) -> None: ...
