"""What programs ask of supervisors, as `client.supervisors` says it: found by name, path or number.

Every answer is of plain values. Whatever is carried out is `Supervision`'s to do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from noex_mp.core.reasons import Shutdown
from noex_mp.errors import BadChildSpecError, ChildNotFoundError, ConfigError, NoServerError
from noex_mp.node.branches import Branch
from noex_mp.node.children import Child
from noex_mp.node.directory import Directory
from noex_mp.node.members import Member
from noex_mp.node.supervisor import Supervision

__all__ = ["SupervisorRequests"]

# As in OTP, one that waits for its restart is not among them.
_ACTIVE: Final = ("running", "starting", "stopping")


class SupervisorRequests:
    """Finds supervisors and their children, and answers what is asked of them.

    Attributes:
        methods: What may be asked, by name.
    """

    def __init__(
        self,
        directory: Directory,
        supervision: Supervision,
        *,
        prepare_code: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        self._directory = directory
        self._supervision = supervision
        self._prepare_code = prepare_code
        self.methods: dict[str, Callable[..., Any]] = {
            "start_supervisor": self._start_supervisor,
            "supervisor_state": self._supervisor_state,
            "start_child": self._start_child,
            "terminate_child": self._terminate_child,
            "restart_child": self._restart_child,
            "delete_child": self._delete_child,
            "which_children": self._which_children,
            "count_children": self._count_children,
            "get_child": self._get_child,
            "supervisor_of": self._supervisor_of,
            "partition": self._partition,
            "note": self._note,
            "set_note": self._set_note,
        }

    # --- finding -----------------------------------------------------------------------

    def find(self, where: int | str) -> Branch | None:
        """Return a supervisor by its number, its name or its path, or None."""
        if isinstance(where, int):
            found = self._directory.supervisor(where)
        else:
            found = self._directory.named(where)
            if not isinstance(found, Branch):
                # The name of a pool is that of the server which has the address of all.
                found = self.at_path(where)
        return found if isinstance(found, Branch) else None

    def get(self, where: int | str) -> Branch:
        """Return the same.

        Raises:
            NoServerError: There is no such supervisor.
        """
        found = self.find(where)
        if found is None:
            raise NoServerError(f"that is a supervisor and called {where!r}")
        return found

    def at_path(self, path: str) -> Member | None:
        """Return the member to which a path of ids leads, as `/front/web`."""
        member: Member | None = self._supervision.top
        for step in path.strip("/").split("/") if path.strip("/") else []:
            member = member.members.get(step) if isinstance(member, Branch) else None
        return member

    def child_of(self, branch: Branch, key: int | str) -> Member:
        """Return a child of a supervisor by its number, its id or its name.

        Raises:
            ChildNotFoundError: There is no such child.
        """
        found = self._look_up(branch, key)
        if found is None:
            ids = tuple(dict.fromkeys(member.id for member in branch.members.values()))
            raise ChildNotFoundError(branch.title, key, ids)
        return found

    def _look_up(self, branch: Branch, key: int | str) -> Member | None:
        # Dynamic ones are kept by number, all others by id. Of ten thousand, none is searched for.
        if branch.is_dynamic == isinstance(key, int):
            found = branch.members.get(str(key))
        else:
            found = None
        if found is None and isinstance(key, str):
            named = self._directory.named(key)
            found = named if named is not None and named.parent is branch else None
        if found is None and not branch.is_dynamic:
            # One that has ended has its name no more, and a supervisor no number.
            members = branch.members.values()
            found = next((each for each in members if key in _keys_of(each)), None)
        return found

    async def _start_child(
        self, where: int | str, wire: dict[str, Any] | None, extra: bytes
    ) -> list[Any]:
        branch = self.get(where)
        if wire is None:
            if branch.template is None:
                raise BadChildSpecError(
                    f"supervisor {branch.title} has no template\n"
                    f"Write start_child(child(YourServer, ...))."
                )
            wire = {**branch.template, "extra": extra}
        await self._prepare_code(wire)
        return _address(await self._supervision.start_child(branch, wire))

    async def _start_supervisor(self, wire: dict[str, Any]) -> list[Any]:
        await self._prepare_code(wire)
        return _address(await self._supervision.spawn(wire))

    async def _supervisor_state(self, where: int | str) -> str:
        branch = self.find(where)
        return "stopped" if branch is None or branch.is_over else branch.state

    async def _terminate_child(self, where: int | str, key: int | str, asker: int = 0) -> None:
        member = self.child_of(self.get(where), key)
        await self._supervision.stop(member, Shutdown(), member.shutdown, forget=False)

    async def _restart_child(self, where: int | str, key: int | str) -> list[Any]:
        branch = self.get(where)
        member = self.child_of(branch, key)
        await self._supervision.restart_child(branch, member)
        return _address(member)

    async def _delete_child(self, where: int | str, key: int | str) -> None:
        self._supervision.delete_child(self.child_of(self.get(where), key))

    async def _which_children(self, where: int | str) -> list[list[Any]]:
        members = self.get(where).members.values()
        return [[member.id, *_address(member), member.state, member.restart] for member in members]

    async def _count_children(self, where: int | str) -> list[int]:
        members = list(self.get(where).members.values())
        servers = sum(isinstance(member, Child) for member in members)
        active = sum(member.state in _ACTIVE for member in members)
        return [len(members), active, servers, len(members) - servers]

    async def _get_child(self, where: int | str, id: str) -> list[Any] | None:
        found = self._look_up(self.get(where), id)
        return None if found is None else _address(found)

    async def _supervisor_of(self, sid: int) -> list[Any]:
        found = self._directory.known(sid)
        if found is None or found.parent is None:
            raise NoServerError(f"that has the number {sid}")
        return _address(found.parent)

    async def _partition(self, where: int | str, number: int) -> list[Any]:
        branch = self.get(where)
        if branch.kind != "partition":
            raise ConfigError(
                f"supervisor {branch.title} has no partitions\n"
                f"Write PartitionSupervisor(child(YourServer), partitions=4)."
            )
        return _address(self.child_of(branch, str(number % len(branch.wires))))

    async def _note(self, where: int | str) -> Any:
        return self.get(where).note

    async def _set_note(self, where: int | str, note: Any) -> None:
        self.get(where).note = note


def _keys_of(member: Member) -> set[int | str | None]:
    front = member.front if isinstance(member, Branch) else None
    return {member.sid, member.name, *((front.sid, front.name) if front else ())}


def _address(member: Member) -> list[Any]:
    return [member.sid, member.label, member.role]
