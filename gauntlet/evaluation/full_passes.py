"""Full passes of the network: calls of an attack that run side by side hand their images in, and each pass is filled.

Samples fall while they are attacked, so the batch of one call empties. What becomes of a sample never depends on its
batch-mates, so images of any calls, at any step, may share a pass. Each call of the attack stays what it is, on the
samples that it would be given alone; it stands still where it asks for a pass (see `gauntlet.evaluation.tasks`). Its
images wait in a queue with those of the same network and kind of pass, from which passes of a whole batch are cut, also
through the middle of a call's images. The queue whose first images came first is next, so that calls keep pace with
each other: whichever falls behind would end alone, in passes that nothing fills. The order is a function of the calls
alone.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from gauntlet.attacks.foreign import Foreign
from gauntlet.errors import UserError
from gauntlet.evaluation.pass_requests import PassRequest, ReadRequest, RequestRows
from gauntlet.evaluation.tasks import Task
from gauntlet.threat_model.merged_rng import merged
from gauntlet.threat_model.passes import HostValues, Passes, Pullback, RowLoss, read_together
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Forward

T = TypeVar("T")

CRASHES = (Exception, SystemExit, GeneratorExit)
"""What an attack or a network may raise without ending the run."""


SLACK = 16
"""A pass may lack one row in so many where it saves a cut: a call that is cut has its images and answers copied."""

OWN = "gauntlet.attacks."
"""Where the attacks are that are known to share nothing between two calls, such as a generator of random numbers."""


def stands_still(attack: object) -> bool:
    """Return whether calls of an attack may run side by side: of our own ones, which keep no state, and of no other
    library behind them.
    """
    return type(attack).__module__.startswith(OWN) and not isinstance(attack, Foreign)


class FullPasses(Passes):
    """Gathers the images of calls that run side by side into passes of a whole batch.

    Args:
        forwards: those whose images may share a pass. Others, such as one that knows the labels of its own samples,
            pass theirs at once.
        batch_size: images of a pass, >= 1.
        most_calls: that may have begun and not ended, >= 1: each holds its images and its state on the device.
    """

    AT_ONCE: ClassVar[int] = 16
    """Calls that begin together, so that they end together: what is left of the last one fills no pass. Further ones
    begin where there is no full pass without them."""

    def __init__(self, forwards: Iterable[Forward], batch_size: int, most_calls: int = AT_ONCE) -> None:
        self._forwards = tuple(forwards)  # kept alive: they are told apart by their identity
        self._shared = {id(forward) for forward in self._forwards}
        self._size, self._most_calls = batch_size, most_calls
        self._queues: dict[tuple[object, ...], deque[PassRequest]] = {}
        self._reads: list[ReadRequest] = []
        self._ready: deque[Task[Any]] = deque()
        self._running: Task[Any] | None = None
        self._made = 0

    def forward(self, forward: Forward, x: Tensor, rng: Rng) -> Tensor:
        found = self._asked(forward, x, rng)
        return super().forward(forward, x, rng) if found is None else found[0]

    def pull(
        self, forward: Forward, x: Tensor, cotangent: Pullback, rng: Rng, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        found = self._asked(forward, x, rng, cotangent, dtype) if isinstance(cotangent, RowLoss) else None
        return super().pull(forward, x, cotangent, rng, dtype) if found is None else (found[0], found[1])

    def read(self, *columns: Tensor) -> tuple[HostValues, ...]:
        """Return columns [B], float or bool, on the host: calls that come from the same pass read together."""
        task = self._running
        if task is None or not (self._ready or self._reads):
            return super().read(*columns)
        request = ReadRequest(task, columns)
        self._reads.append(request)
        task.park()
        return super().read(*columns) if request.answer is None else request.answer

    def side_by_side(self, calls: Sequence[Callable[[], T]]) -> Generator[Task[T], None, None]:
        """Run calls side by side; yield them in their order, each when it and those before it have ended.

        Raises:
            UserError, KeyboardInterrupt: as soon as a call raises it; the others are unwound. Another exception is the
                result of its call.
        """
        tasks = [Task(call) for call in calls]
        coming, begun = deque(tasks), list[Task[T]]()
        try:
            for task in tasks:
                while not task.ended:
                    begun = [each for each in begun if not each.ended]
                    if coming and self._admits(len(begun)):
                        begun.append(coming.popleft())
                        self._ready.append(begun[-1])
                    self._step()
                yield task
        finally:
            self._queues.clear()
            self._reads.clear()
            self._ready.clear()
            for each in begun:
                each.stop()

    def _admits(self, begun: int) -> bool:
        """Return whether one more call is to begin beside so many."""
        if self._ready or self._reads or begun >= self._most_calls:
            return False
        return begun < self.AT_ONCE or max(map(_waiting, self._queues.values())) < self._size

    def _step(self) -> None:
        """Let a call go on that can, else read what calls wait for, else make a pass."""
        if not self._ready:
            if self._reads:
                self._read()
            else:
                self._pass()
            return
        task = self._running = self._ready.popleft()
        try:
            task.resume()
        finally:
            self._running = None
        if isinstance(task.error, UserError) or not isinstance(task.error, (*CRASHES, type(None))):
            raise task.error

    def _asked(
        self,
        forward: Forward,
        x: Tensor,
        rng: Rng,
        loss: RowLoss | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, ...] | None:
        """Return what a pass says of images that a call hands in; None where it is to make a pass of its own."""
        task = self._running
        if task is None or id(forward) not in self._shared or not len(x):
            return None
        request = PassRequest(task, forward, x.detach(), rng, self._made, loss, dtype)
        self._queues.setdefault(request.kind, deque()).append(request)
        task.park()
        return None if request.alone else request.answer()

    def _read(self) -> None:
        """Read the columns of all calls that wait for theirs, at once."""
        requests, self._reads = self._reads, []
        with suppress(*CRASHES):  # then each reads by itself, and fails by itself
            parts = iter(read_together([column for request in requests for column in request.columns]))
            for request in requests:
                request.answer = tuple(next(parts) for _ in request.columns)
        self._ready.extend(request.task for request in requests)

    def _pass(self) -> None:
        """Make one pass, of the queue whose first images came first.

        A fuller queue would make a fuller pass now, and leave calls behind that go on alone at the end.
        """
        kind = min(self._queues, key=lambda kind: self._queues[kind][0].since)
        self._made += 1
        pieces = self._filled(self._queues[kind])
        if not self._queues[kind]:
            del self._queues[kind]
        try:
            self._answer(pieces)
        except CRASHES:
            for piece in pieces:
                self._leave(kind, piece.request)
        self._ready.extend(
            each.request.task for each in pieces if each.request.alone or each.end == len(each.request.x)
        )

    def _filled(self, queue: deque[PassRequest]) -> list[RequestRows]:
        """Take the images of one pass out of a queue: whole requests where they nearly fill it, else a part of one."""
        pieces, room, slack = list[RequestRows](), self._size, self._size // SLACK
        while queue and room:
            request = queue[0]
            if pieces and request.left > room:
                whole = max((each for each in queue if each.left <= room), key=lambda each: each.left, default=None)
                if whole is not None and room - whole.left <= slack:
                    request = whole
                elif room <= slack:
                    break
            count = min(room, request.left)
            pieces.append(RequestRows(request, request.taken, request.taken + count))
            request.taken += count
            room -= count
            if not request.left:
                queue.remove(request)
        return pieces

    def _answer(self, pieces: list[RequestRows]) -> None:
        """Pass the pieces together, and hand each request its rows."""
        first, alone = pieces[0].request, len(pieces) == 1
        x = pieces[0].x if alone else torch.cat([piece.x for piece in pieces])
        rng = pieces[0].rng if alone else merged([(piece.request.rng, piece.rows) for piece in pieces])
        sizes = [piece.end - piece.begin for piece in pieces]
        if first.loss is None:
            found: tuple[Tensor, ...] = (super().forward(first.forward, x, rng),)
        else:
            loss = together([piece.loss for piece in pieces], sizes)
            found = super().pull(first.forward, x, loss, rng, first.dtype)
        for piece, *rows in zip(pieces, *(_split(each, sizes) for each in found), strict=True):
            piece.request.answers.append(tuple(rows))

    def _leave(self, kind: tuple[object, ...], request: PassRequest) -> None:
        """Take a request out: a pass with it failed, and only its call can tell whether by its fault."""
        request.alone = True
        queue = self._queues.get(kind)
        if queue and queue[0] is request:
            queue.popleft()
            if not queue:
                del self._queues[kind]


def together(losses: Sequence[RowLoss], sizes: Sequence[int]) -> Pullback:
    """Return the losses of adjoining rows as that of all; those that join each other are asked at once."""
    runs, counts = list[list[RowLoss]](), list[int]()
    for loss, size in zip(losses, sizes, strict=True):
        if runs and loss.joins(runs[-1][0]):
            runs[-1].append(loss)
            counts[-1] += size
        else:
            runs.append([loss])
            counts.append(size)
    joined = [RowLoss.joined(run) for run in runs]
    if len(joined) == 1:
        return joined[0]
    return lambda logits: torch.cat([loss(rows) for loss, rows in zip(joined, _split(logits, counts), strict=True)])


def _split(rows: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Return rows [B, ...] in pieces of these sizes."""
    parts: tuple[Tensor, ...] = (rows,) if len(sizes) == 1 else rows.split(list(sizes))  # type: ignore[no-untyped-call]
    return parts


def _waiting(queue: Iterable[PassRequest]) -> int:
    """Return how many images wait in a queue."""
    return sum(each.left for each in queue)
