"""Quotas of disk: what the sandboxes of an owner took when they were last measured, and whose are too large."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from controlplane.access.key import Key
from controlplane.access.scopes import Needs, caller_of_key


class DiskQuotas:
    """The quotas of all keys, by owner.

    Args:
        keys: Return all keys.
        owner_of: Return the owner of a sandbox; "" if it has ended, or has no owner yet.
    """

    def __init__(self, keys: Callable[[], Iterable[Key]], owner_of: Callable[[str], str]) -> None:
        self._keys = keys
        self._owner_of = owner_of
        self._taken: dict[str, int] = {}  # sandbox → bytes, at the last measurement

    @property
    def least_bytes(self) -> int:
        """The smallest quota; 0 if there is none."""
        return min(self._quotas().values(), default=0)

    def learn(self, taken: Mapping[str, int]) -> None:
        """Take over a measurement: sandbox → bytes."""
        self._taken = dict(taken)

    def taken_by(self, owner: str) -> int:
        """Return what the sandboxes of an owner took at the last measurement, in bytes."""
        return sum(taken for sandbox_id, taken in self._taken.items() if self._owner_of(sandbox_id) == owner)

    def exceeded(self) -> Iterator[tuple[str, str]]:
        """Yield of each owner whose quota is exceeded the largest sandbox, and why it has to end."""
        for owner, most in self._quotas().items():
            mine = {one: taken for one, taken in self._taken.items() if self._owner_of(one) == owner}
            if sum(mine.values()) > most:
                size = f"{most / 2**30:.3g} GiB"
                yield (
                    max(mine, key=mine.__getitem__),
                    f"the sandboxes of its key took more disk together than the key's quota, {size}, and it took most",
                )

    def _quotas(self) -> dict[str, int]:
        """Return how many bytes each owner may take: the largest quota of the keys that make its sandboxes."""
        quotas: dict[str, int] = {}
        unbounded: set[str] = set()
        for key in self._keys():
            caller = caller_of_key(key)
            if not caller.may(Needs.CREATE):
                continue
            if key.quotas.disk_bytes is None:
                unbounded.add(caller.owner)
            else:
                quotas[caller.owner] = max(quotas.get(caller.owner, 0), key.quotas.disk_bytes)
        return {owner: most for owner, most in quotas.items() if owner not in unbounded}
