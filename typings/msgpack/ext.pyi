import datetime
from typing import NamedTuple

class ExtType(NamedTuple):
    code: int
    data: bytes

class Timestamp:
    seconds: int
    nanoseconds: int
    def __init__(self, seconds: int, nanoseconds: int = 0) -> None: ...
    def to_unix(self) -> float: ...
    def to_datetime(self) -> datetime.datetime: ...
