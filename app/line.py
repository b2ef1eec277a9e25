"""The line before the models: one is answered at a time, in the order of arrival, and nobody twice before all who wait once.

    place = line.join("somebody")         # raises LineFull
    while line.ahead(place): ...          # others are first
    line.leave(place)                     # answered, or gone

Everything is called from the server's event loop, so nothing is locked.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from medllama.errors import ResourceError

MOST_WAITING = 60
MOST_OF_ONE = 30  # without a name, all programs of one machine are one person


class LineFull(ResourceError):
    """Nobody else can wait, or this person already waits often enough."""


@dataclass(eq=False)
class Place:
    """Where somebody stands in the line: the lowest rank is next."""

    who: str
    rank: int


@dataclass
class Line:
    """Those who wait, and the one who is being answered.

    Somebody's second question counts as if it had come `most_waiting` questions later: behind all who wait, and not behind all who
    will ever come.
    """

    most_waiting: int = MOST_WAITING
    most_of_one: int = MOST_OF_ONE
    _arrivals: int = 0
    _answered: Place | None = None
    _waiting: list[Place] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._waiting) + (self._answered is not None)

    def join(self, who: str) -> Place:
        """A place at the end. Raises LineFull."""
        if len(self) >= self.most_waiting:
            raise LineFull(f"{len(self)} questions are waiting, and no more can", hint="try again in a minute")
        everybody = [*self._waiting, *([self._answered] if self._answered else [])]
        own = sum(place.who == who for place in everybody)
        if own >= self.most_of_one:
            raise LineFull(f"{own} of your questions are waiting, and no more can", hint="wait for an answer")
        self._arrivals += 1
        place = Place(who, self._arrivals + own * self.most_waiting)
        self._waiting.append(place)
        self._waiting.sort(key=lambda it: it.rank)
        return place

    def ahead(self, place: Place) -> int:
        """How many are answered before this one; at 0 it is its turn, until it leaves."""
        if self._answered is None and self._waiting[0] is place:
            self._waiting.remove(place)
            self._answered = place
        if self._answered is place:
            return 0
        return self._waiting.index(place) + (self._answered is not None)

    def leave(self, place: Place) -> None:
        """Make room for the next one. A place that has been left already stays left."""
        if self._answered is place:
            self._answered = None
        elif place in self._waiting:
            self._waiting.remove(place)
