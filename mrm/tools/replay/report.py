"""What was found in a log, and what running it again came to: in words, and for programs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from mrm.sizes import format_size

if TYPE_CHECKING:
    from mrm.tools.replay.replay import Found, Replayed


def figures(
    found: Found, replayed: Replayed | None, heap: dict[str, Any], pool_bytes: int, most: int
) -> dict[str, Any]:
    """All of it as plain values; of leaks and mismatches the first ``most``."""
    known = dataclasses.asdict(found)
    known["leaks"] = known["leaks"][:most]
    known["places"] = [
        {"where": where, "nbytes": nbytes, "blocks": blocks} for where, nbytes, blocks in found.places[:most]
    ]
    known["mismatched"] = known["mismatched"][:most]
    again = None if replayed is None else {**dataclasses.asdict(replayed), "calls_per_s": replayed.rate}
    return {"log": known, "heap": heap, "replay": again, "pool_bytes": pool_bytes}


def tell(found: Found, replayed: Replayed, heap: dict[str, Any], pool_bytes: int, most: int) -> list[str]:
    """All of it as lines for people."""
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in found.kinds.items() if n)
    most_at = f"at {found.peak_seconds:.3g} s (line {found.peak_line})"
    rate = f"{replayed.seconds:.3g} s, {_per_call(replayed)} each{_memory(heap)}"
    lines = [
        f"{found.calls:,} calls in {found.seconds:.3g} s by {_count(found.threads, 'thread')}: {kinds}",
        f"peak      {_bytes_in(found.peak_bytes, found.peak_blocks)}, {most_at}",
        f"made      {_bytes_in(found.made_bytes, found.blocks)}, the largest of {format_size(found.largest)}",
        f"pool      {format_size(pool_bytes)} suffice",
        f"{heap['kind']:9} {replayed.calls:,} calls again in {rate}",
    ]
    if replayed.failed:
        lines.append(
            f"SHORT     {_count(replayed.failed, 'call')} got no memory, the first (line {replayed.failed_line}) "
            f"for {format_size(replayed.failed_bytes)}"
        )
    if found.failed:
        lines.append(
            f"failed    {_count(found.failed, 'call')} got no memory in the program, and went without here"
        )
    if found.cut_off:
        lines.append("cut off   the last line has no end: the program was killed, or still writes")
    lines += _leaks(found, most) + _mismatches(found, most)
    if found.sound:
        lines.append("sound     every block was freed, once")
    return lines


def _leaks(found: Found, most: int) -> list[str]:
    if not found.leaked_blocks:
        return []
    lines = [f"LEAKED    {_bytes_in(found.leaked_bytes, found.leaked_blocks)}:"]
    places = found.places
    lines += [f"  {_bytes_in(nbytes, blocks)} from {where}" for where, nbytes, blocks in places[:most]]
    if len(places) > most:
        lines.append(f"  and from {len(places) - most:,} more places")
    unknown = [leak for leak in found.leaks if not leak.where]
    lines += [f"  {_count(leak.blocks, 'block')} of {format_size(leak.nbytes)}" for leak in unknown[:most]]
    if len(unknown) > most:
        lines.append(f"  and of {len(unknown) - most:,} more sizes")
    return lines


def _mismatches(found: Found, most: int) -> list[str]:
    lines = []
    for what, n in found.mismatches.items():
        if n:
            lines.append(f"MISMATCH  {_count(n, 'block')} {what}")
    for mismatch in found.mismatched[:most]:
        where = f"  {mismatch.where}" if mismatch.where else ""
        lines.append(f"  line {mismatch.line:,}: {mismatch.address:#x} {mismatch.what}{where}")
    if found.unseen:
        lines.append(
            f"UNSEEN    {_count(found.unseen, 'block')} ended without a call in the log: others have their addresses"
        )
    return lines


def _memory(heap: dict[str, Any]) -> str:
    return f"; it had {format_size(heap['memory_peak'])} at most" if heap.get("memory_peak") else ""


def _per_call(replayed: Replayed) -> str:
    return f"{replayed.seconds / replayed.calls * 1e9:.0f} ns" if replayed.calls else "0 ns"


def _bytes_in(nbytes: int, blocks: int) -> str:
    return f"{format_size(nbytes)} in {_count(blocks, 'block')}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
