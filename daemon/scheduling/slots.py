"""Who may send now, of all that were taken up.

A job goes when its destination has room for it (see :mod:`daemon.scheduling.station`) and the
memory budget has. Destinations take turns; at each, small jobs go first as long as large ones get
on; in each lane studies take turns, and within a study its deliveries.

The budget is never overdrawn, but for a job that is alone: where the budget is too small for one,
jobs go one by one. From what is free a little is kept, so that neither small nor large jobs nor a
single destination can take it all. A job that found no memory, and whose destination has none of
its kind under way, claims what becomes free next; no other gets more than one job past that claim.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from daemon.scheduling import costs
from daemon.scheduling.limit import Limit
from daemon.scheduling.station import Station, Ticket
from daemon.settings import Destination
from pipeline.errors import DestinationUnreachableError
from pipeline.messages import DestinationSpec, Pace
from pipeline.pacing import LANES

KEPT: Final = 4
"""Of the budget one in so many parts, at the most, is kept for a large job, and another one for
destinations that have nothing under way,"""
KEPT_SMALL: Final = 8
"""and one in so many for small jobs: enough for most, and the largest can claim more."""
PART_SECONDS: Final = 30.0
"""Seconds that a part should take at the most where a rate is set: fewer at once then."""
REMEMBERED: Final = 64
"""Destinations of the REST API that are remembered while they have nothing to do."""
HERE: Final = ""
"""The station of jobs that go nowhere."""


@dataclass(frozen=True, kw_only=True)
class Errand:
    """Where a job goes, for whom, and what it takes."""

    destination: DestinationSpec | None = None
    """None: it only reads."""
    delivery: str = ""
    """Turns within a study go by this."""
    size: int = 0
    """Bytes to send."""
    memory: int = costs.PART


@dataclass
class Turn:
    """Leave to send."""

    pace: Pace | None = None
    """How fast; None: as fast as it goes."""
    throttled: bool = False
    """To be set where it went well, but the destination asked for less on the way."""


class Slots:
    """Hands out turns. For one event loop."""

    def __init__(
        self,
        count: int,
        *,
        memory: int = 1 << 62,
        part_size: int = 16 * 1024 * 1024,
        destinations: Mapping[str, Destination] | None = None,
    ) -> None:
        """``count`` jobs keep the processors busy: as many are begun with at each destination.

        ``memory`` is the budget of all jobs together, in bytes; ``part_size`` what a part has.
        """
        self._count = count
        self._memory = memory
        self._part_size = part_size
        self._used = 0
        self._stations: OrderedDict[str, Station] = OrderedDict()
        self._stations[HERE] = Station(Limit(count, count))
        self._rates: dict[str, float] = {}
        self._lanes: dict[str, int] = {}
        self._claim: Ticket | None = None
        self._passed: set[str] = set()
        self._stopping = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._alarms: dict[Station, asyncio.TimerHandle] = {}
        self._tell: Callable[[str], None] = lambda _: None
        self.use(destinations or {})

    @property
    def most(self) -> int:
        """How many parts can be under way to one destination."""
        kept = self._memory // KEPT_SMALL
        # No limit ever learns its way up there, but nothing here is without an end.
        return max(1, min(256, (self._memory - kept) // costs.PART))

    def rate_to(self, name: str) -> float | None:
        """Bytes a second that may go to a destination; None: as many as go."""
        return self._rates.get(name)

    def use(self, destinations: Mapping[str, Destination]) -> None:
        """Take over destinations and their rates, from the next part on."""
        self._rates = {name: d.rate for name, d in destinations.items() if d.rate}
        lanes = {name: lane for name, lane in self._lanes.items() if name in self._rates}
        free = sorted(set(range(LANES)) - set(lanes.values()))
        new = [name for name in self._rates if name not in lanes]
        self._lanes = lanes | dict(zip(new, free, strict=False))
        for name in destinations:
            self._station(name).limit.bound(self._most_to(name))

    @asynccontextmanager
    async def take(
        self, study: str, *, small: bool, errand: Errand | None = None
    ) -> AsyncIterator[Turn]:
        """Hold a turn, and send at the pace that it gives; how it ends tells of the destination.

        Once :meth:`stop` was called nobody waits: who holds a turn asks then whether to go on.
        """
        errand = errand or Errand()
        name = name_of(errand.destination)
        station = self._station(name)
        loop = asyncio.get_running_loop()
        ticket = Ticket(
            study, errand.delivery, small, errand.memory, errand.size, loop.create_future()
        )
        await self._acquire(station, ticket)
        size = None if errand.destination is None else errand.size
        try:
            turn = Turn(self._pace(name))
            with self._told(station, ticket.generation, size, turn, errand.delivery):
                yield turn
        finally:
            self._release(station, ticket)

    @asynccontextmanager
    async def reach(self, destination: DestinationSpec, upload: str = "") -> AsyncIterator[None]:
        """Wait for a destination that wants to be left alone, for a request without bytes."""
        station = self._station(name_of(destination))
        station.control(1)
        try:
            await self._pause(station)
            with self._told(station, station.limit.generation, None, Turn(), upload):
                yield
        finally:
            station.control(-1)
            self._hand_out()

    def admits(self, destination: DestinationSpec, upload: str) -> bool:
        """Whether an upload may be tried at a destination now.

        One that may not is held, without a try and without a place, for as long as the destination
        is away or wants to be left alone. It is let go in its turn: see :meth:`listen`.
        """
        station = self._station(name_of(destination))
        admitted = station.admits(asyncio.get_running_loop().time(), upload)
        self._arm(station)
        return admitted

    def listen(self, tell: Callable[[str], None]) -> None:
        """Have ``tell`` called with each upload that was held and may ask again."""
        self._tell = tell

    def stop(self) -> None:
        """Let all who wait go, now and later: they are to see that the service stops."""
        self._stopping.set()
        for alarm in self._alarms.values():
            alarm.cancel()
        for station in self._stations.values():
            self._let_all_go(station)

    def describe(self, name: str) -> dict[str, Any]:
        """How a destination does, for ``status``."""
        station = self._stations.get(name)
        if station is None:
            station = Station(Limit(self._count, self._most_to(name)))
        now = asyncio.get_running_loop().time()
        since = station.throttled_at
        return {
            "in_flight": station.in_flight,
            "waiting": station.waiting,
            "limit": station.limit.value,
            "rate": self._rates.get(name),
            "bytes_per_second": round(station.bytes_per_second(now)),
            "throttled_for_seconds": None if since is None else round(now - since, 3),
            "away": station.away.since is not None,
            "held": len(station.away),
        }

    @contextmanager
    def _told(
        self, station: Station, generation: int, size: int | None, turn: Turn, upload: str
    ) -> Iterator[None]:
        """Tell the station how it ends, as far as that has to do with the destination."""
        clock = asyncio.get_running_loop().time
        try:
            yield
        except DestinationUnreachableError as error:
            station.failed(clock(), generation, error, upload)
            self._arm(station)
            raise
        if turn.throttled:
            station.strained(clock(), generation)
        station.succeeded(clock(), generation, size)
        if len(station.away) and station.resumes_at <= clock():
            self._let_go(station)

    def _arm(self, station: Station) -> None:
        """See to it that those who are held are let go in their time."""
        if len(station.away) and station not in self._alarms:
            loop = asyncio.get_running_loop()
            self._alarms[station] = loop.call_at(station.lets_go_at, self._ring, station)

    def _ring(self, station: Station) -> None:
        del self._alarms[station]
        if station.lets_go_at <= asyncio.get_running_loop().time():
            self._let_go(station)
        self._arm(station)

    def _let_go(self, station: Station) -> None:
        for upload in station.away.let_go(asyncio.get_running_loop().time()):
            self._tell(upload)

    async def _pause(self, station: Station) -> None:
        """Until the destination may be used again, or we stop."""
        clock = asyncio.get_running_loop().time
        while not self._stopping.is_set() and (wait := station.resumes_at - clock()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stopping.wait()

    def _station(self, name: str) -> Station:
        if name not in self._stations:
            self._stations[name] = Station(Limit(self._count, self._most_to(name)))
        return self._stations[name]

    def _most_to(self, name: str) -> int:
        rate = self._rates.get(name)
        if rate is None:
            return self.most
        return max(2, min(self.most, int(rate * PART_SECONDS / self._part_size)))

    def _pace(self, name: str) -> Pace | None:
        rate, lane = self._rates.get(name), self._lanes.get(name)
        return None if rate is None or lane is None else Pace(lane=lane, rate=rate)

    async def _acquire(self, station: Station, ticket: Ticket) -> None:
        station.push(ticket)
        if self._stopping.is_set():
            self._let_all_go(station)
        self._hand_out()
        try:
            await ticket.turn
        except asyncio.CancelledError:
            if ticket.turn.done() and not ticket.turn.cancelled():
                self._release(station, ticket)
            else:
                station.discard(ticket)
                self._hand_out()
            raise

    def _release(self, station: Station, ticket: Ticket) -> None:
        station.end(ticket)
        self._used -= ticket.memory
        self._hand_out()
        self._forget_strangers()

    def _hand_out(self) -> None:
        """Give turns to all who may have one."""
        now = asyncio.get_running_loop().time()
        while self._hand_out_one(now):
            pass
        self._look_again(now)

    def _hand_out_one(self, now: float) -> bool:
        self._check_claim(now)
        for name, station in self._stations.items():
            ticket = station.next(now)
            if ticket is None or not self._fits(name, station, ticket):
                continue
            if ticket is self._claim:
                self._claim = None
            elif self._claim is not None:
                self._passed.add(name)
            self._stations.move_to_end(name)
            self._start(station, ticket, now)
            return True
        return False

    def _start(self, station: Station, ticket: Ticket, now: float) -> None:
        station.start(ticket, now)
        self._used += ticket.memory
        ticket.turn.set_result(None)

    def _let_all_go(self, station: Station) -> None:
        """They hold a turn for as long as it takes to see that we stop; nothing is sent."""
        now = asyncio.get_running_loop().time()
        while (ticket := station.first()) is not None:
            self._start(station, ticket, now)

    def _check_claim(self, now: float) -> None:
        """A claim that can't be used, as its destination is to be left alone, is none."""
        claim = self._claim
        if claim is not None and all(s.next(now) is not claim for s in self._stations.values()):
            self._claim = None

    def _fits(self, name: str, station: Station, ticket: Ticket) -> bool:
        """Whether the budget has room; if not, and nobody else does, the job claims it."""
        if not self._used:
            return True
        claim = self._claim
        if claim is not None and claim is not ticket:
            alone = claim.memory > self._memory - 2 * (self._memory // KEPT)
            if alone or station.memory or name in self._passed:
                return False
        if ticket.memory <= self._memory - self._used - self._kept(station, ticket):
            return True
        # One that has such jobs under way already waits for them: they may hang, and it with them.
        if claim is None and not station.flying[ticket.small]:
            self._claim = ticket
            self._passed.clear()
        return False

    def _kept(self, station: Station, ticket: Ticket) -> int:
        """Bytes that this job must leave to others."""
        most = self._memory // KEPT
        for_idle = 0
        if station.memory:
            idle = [name for name, s in self._stations.items() if not s.memory and name != HERE]
            for_idle = min(most, len(idle) * costs.PART)
        if any(s.flying[not ticket.small] for s in self._stations.values()):
            return for_idle
        if ticket.small:
            return for_idle + min(most, costs.PART)
        return for_idle + self._memory // KEPT_SMALL

    def _look_again(self, now: float) -> None:
        """Come back when the first of the destinations that are left alone may be used again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        paused = [s.resumes_at for s in self._stations.values() if s.waiting and s.resumes_at > now]
        if paused and not self._stopping.is_set():
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(min(paused), self._hand_out)

    def _forget_strangers(self) -> None:
        """Destinations that come with plans are without number."""
        strangers = [
            name for name, station in self._stations.items() if "\n" in name and station.idle
        ]
        for name in strangers[: max(0, len(strangers) - REMEMBERED)]:
            del self._stations[name]


def name_of(destination: DestinationSpec | None) -> str:
    """What a destination goes by: its name; with its place where the REST API described it."""
    if destination is None:
        return HERE
    if not destination.name.startswith("inline-"):
        return destination.name
    return f"{destination.name}\n{destination.endpoint or destination.url}\n{destination.bucket}"
