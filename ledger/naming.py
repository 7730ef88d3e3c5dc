"""When a tag came to name its digest, and how old an image is. PURE.

A moved tag, a rollback and a new tag are news of an image; the same push again is none, however often a
mirror sends it. So of every tag the sets to the digest that it names are kept, back to what it named
before (`Tag.run` in the fold): the first of them is the moment. What lies before can never matter
again, whatever else is learned: this run, the newest set to another digest and the removals are all
that the rule needs of a tag's history, and each of them is the same in whatever order facts come.
"""

from bisect import bisect_left
from collections.abc import Iterable
from operator import attrgetter
from typing import Final, Literal

import msgspec

from ledger.facts import Stamp

UNKNOWN = -1

Source = Literal["tag", "date", "image", "push"]
"""What an age goes by: a tag that came to name it, a person's date, the image's own word, a push."""


class TagSet(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A set of a tag to the digest that it names."""

    stamp: Stamp
    moment_ns: int
    """When the tag came to name it, if this set did it: a push's time, or what is known of a look; -1."""
    pushed: bool
    """False: somebody looked, and so it was."""

    @property
    def put_back(self) -> bool:
        """Whether what had been deleted was put back by it: the tag named it since its moment."""
        return self.pushed and self.moment_ns < self.stamp[0]

    @property
    def told(self) -> bool:
        """Whether it is a push that a registry told of."""
        return self.pushed and not self.put_back


Run = tuple[TagSet, ...]
"""Sets of a tag to one digest, oldest first, none to another between them."""

_stamp = attrgetter("stamp")


def with_set(run: Run, tag_set: TagSet) -> Run:
    """The run with one more set; one that it has already changes nothing."""
    if not run or tag_set.stamp > run[-1].stamp:
        return (*run, tag_set)
    place = bisect_left(run, tag_set.stamp, key=_stamp)
    if run[place].stamp == tag_set.stamp:
        return run
    return (*run[:place], tag_set, *run[place:])


def behind(run: Run, barrier: Stamp) -> Run:
    """What of a run is newer than a moment at which the tag did not name the digest."""
    if not run or run[0].stamp > barrier:
        return run
    return tuple(tag_set for tag_set in run if tag_set.stamp > barrier)


def heads(run: Run) -> Run:
    """The few sets of a run, however long, from which `named` says the same."""
    if len(run) == 1:
        return run
    chosen = {*run[:1], *[tag_set for tag_set in run if tag_set.put_back][:1]}
    if run and not run[0].pushed:
        looks = [tag_set for tag_set in run if not tag_set.told]
        chosen.add(max(looks, key=lambda look: (look.moment_ns, look.stamp)))
        chosen.update([tag_set for tag_set in run if tag_set.told][:1])
    return tuple(sorted(chosen, key=_stamp))


_SECOND_NS: Final = 1_000_000_000
_UNDER_WAY_NS: Final = 5 * _SECOND_NS
"""A push that follows a look at the tag as closely as this was seen by it; a look has whole seconds.

So does the event of the push with which something was put back, before it or behind it.
"""


class Named(msgspec.Struct, frozen=True, gc=False):
    """When a tag came to name its digest. Nanoseconds; -1: not known."""

    moment_ns: int = UNKNOWN
    first_push_ns: int = UNKNOWN
    """Where that is not known, the first push of the run: the tag named it before already."""
    latest_ns: int = UNKNOWN
    """When it had come to at the latest, where only a look tells of it; -1: no later than known above."""


def named(run: Run, before: Iterable[Stamp]) -> Named:
    """What a run tells. `before`: moments at which the tag named something else, or nothing.

    A run that a push began began with it, also where a look saw that push before its event came; what
    was put back is as old as it was, whatever the registry told of that push. Where a look found it
    first, it began no earlier than that look knew, nor than what was before; where neither is there,
    nobody knows.
    """
    if not run:
        return Named()
    if len(run) == 1 and run[0].told:
        return Named(run[0].moment_ns)  # as nearly every tag, on the consumer's hot path
    back = next((tag_set for tag_set in run if tag_set.put_back), None)
    if back is not None and back.stamp[0] - run[0].stamp[0] < _UNDER_WAY_NS:
        return Named(back.moment_ns)
    if run[0].pushed:
        return Named(run[0].moment_ns)
    push = next((tag_set for tag_set in run if tag_set.told), None)
    if push is not None and push.stamp[0] - run[0].stamp[0] < _UNDER_WAY_NS:
        return Named(push.moment_ns)
    known = [tag_set.moment_ns for tag_set in run if not tag_set.told]
    known += [stamp[0] for stamp in before]
    # A look is stamped in whole seconds, cut off.
    latest = run[0].stamp[0] + _SECOND_NS
    if max(known) >= 0:
        return Named(max(known), latest_ns=latest)
    return Named(UNKNOWN, UNKNOWN if push is None else push.moment_ns, latest)


class Age(msgspec.Struct, frozen=True, gc=False):
    """Since when an image is what it is. Nanoseconds; -1: not known."""

    ns: int = UNKNOWN
    source: Source | None = None
    latest_ns: int = UNKNOWN
    """Where `ns` is only the earliest moment that it can be, the latest; else -1."""


def age_of(tags: Iterable[Named], *, push_ns: int, dated_ns: int, built_ns: int) -> Age:
    """The age that order, `min_age` and "newest" go by.

    The newest moment at which one of its tags came to name it. Where none is known: a person's date,
    else when the image says it was built (but never before the pass that had not found it yet), else
    its first push under a tag that it had. What has no tag is as old as its newest push.

    A tag that a look found may have come to name it as late as that look.
    """
    moments, first_pushes, latest = [UNKNOWN], [UNKNOWN], UNKNOWN
    for tag in tags:
        moments.append(tag.moment_ns)
        first_pushes.append(tag.first_push_ns)
        latest = max(latest, tag.latest_ns)
    untagged = len(moments) == 1
    ages: list[tuple[int, Source]] = [
        (max(moments), "tag"),
        (push_ns if untagged else UNKNOWN, "push"),
        (dated_ns, "date"),
        (built_ns, "image"),
        (max(first_pushes), "push"),
        (push_ns, "push"),
    ]
    ns, source = next((known for known in ages if known[0] >= 0), (UNKNOWN, None))
    # A person's word holds, and at the first installation an image's own.
    if latest > ns and source in ("tag", "push"):
        return Age(ns, source, latest)
    return Age(ns, source)
