"""How `pytest -n` shares the tests out among its workers: in groups, and some tests with the machine to themselves.

Everything here follows from the paths of the tests. Without `-n`, nothing here has an effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

ALONE = "alone"
# How the path of a test below tests/ begins → its group, which one worker runs from its begin to its end. A file that
# is not listed is a group of its own, so that fixtures of a module are made once.
GROUPS = {
    # One server for all.
    "e2e/": "e2e",
    # Each starts a whole installation, with an image or a proxy of its own.
    "deploy/": "deploy",
    # They look for images and containers that another of them might just be making.
    "contract/": "engine",
    "integration/server/test_doctor": "engine",
    "integration/server/test_images": "engine",
    "integration/server/test_pages": "engine",
    # They measure times or memory, or use up what the machine has.
    "chaos/test_rounds": ALONE,
    "integration/api/ports/test_attacks": ALONE,
    "integration/link/": ALONE,
    "integration/listener/": ALONE,
    "load/": ALONE,
    "security/test_syscalls": "engine",
    "security/": ALONE,
    "unit/controlplane/listener/": ALONE,
    "unit/controlplane/store/": ALONE,
    "unit/controlplane/test_turns": ALONE,
}
# The groups that take longest come first, so that all workers end at about the same time.
FIRST = ("e2e", "engine", "deploy", "tests/integration/execd/test_go_runner.py")


def group_of(nodeid: str) -> str:
    """Return the group of a test."""
    path = nodeid.partition("::")[0]
    below = path.removeprefix("tests/")
    return next((group for beginning, group in GROUPS.items() if below.startswith(beginning)), path)


def order(items: list[pytest.Item]) -> None:
    """Put tests into the order in which their groups are handed out."""
    items.sort(key=lambda item: _place(group_of(item.nodeid)))


def _place(group: str) -> int:
    if group in FIRST:
        return FIRST.index(group)
    return len(FIRST) + (group == ALONE)


def scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Return what hands the groups out: the tests of ALONE when one worker is left."""
    from xdist.scheduler import LoadScopeScheduling
    from xdist.workermanage import WorkerController

    class Schedule(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

        def _assign_work_unit(self, node: WorkerController) -> None:
            if ALONE in self.workqueue:
                self.workqueue.move_to_end(ALONE)  # behind what a worker that crashed has left
            if next(iter(self.workqueue)) != ALONE or len(self.nodes) == 1:
                super()._assign_work_unit(node)

        def _reschedule(self, node: WorkerController) -> None:
            if list(self.workqueue) != [ALONE] or len(self.nodes) == 1:
                super()._reschedule(node)
            elif self._pending_of(self.assigned_work[node]) <= 2 and self._works_beside(node):
                node.shutdown()
            # The last one waits for the end of the others, before its last test: a worker runs a test only when it
            # knows the next one.

        def _works_beside(self, node: WorkerController) -> bool:
            return any(other is not node and not other.shutting_down for other in self.nodes)

        def remove_node(self, node: WorkerController) -> str | None:
            crashed: str | None = super().remove_node(node)
            for other in self.nodes:
                self._reschedule(other)
            return crashed

    config.option.loadscopereorder = False  # by size
    return Schedule(config, log)
