"""How often somebody may try to sign in: wrong passwords and tokens are counted by address, by user, and by both."""

import hashlib
import ipaddress
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

WINDOW = 15 * 60  # seconds
# wrong attempts in a window. An address may not guess at one user for long; many addresses together may guess more
# often, so that nobody keeps a user out from a single one.
LIMITS: Mapping[str, int] = {"address": 30, "address and user": 10, "user": 50}
BUCKETS = 2**16  # counters at most, whatever is sent
LOG_INTERVAL = 60  # seconds between lines in the log about attempts that were not even looked at


@dataclass
class Bucket:
    """One counter of attempts. times: of those that count; refused: since the log was written to, at `last_logged`."""

    times: list[float] = field(default_factory=list)
    refused: int = 0
    last_logged: float = float("-inf")


class LoginRateLimiter:
    """Counts attempts of the last `window` seconds.

    Counters are kept by keyed hash: memory is bounded, no client can evict another's counter, and nobody knows which
    names share one.
    """

    def __init__(
        self, limits: Mapping[str, int] = LIMITS, window: float = WINDOW, clock: Callable[[], float] = time.monotonic
    ):
        self.limits, self.window, self.clock = limits, window, clock
        self.secret, self.buckets = secrets.token_bytes(32), dict[tuple[str, int], Bucket]()

    def bucket(self, limit: str, name: str) -> Bucket:
        """The counter of a name, without the attempts that are too long ago to count."""
        digest = hashlib.blake2b(f"{limit} {name}".encode("utf-8", "surrogatepass"), key=self.secret, digest_size=8)
        number = int.from_bytes(digest.digest(), "big") % (BUCKETS // len(self.limits))
        bucket = self.buckets.setdefault((limit, number), Bucket())
        bucket.times = [one for one in bucket.times if one > self.clock() - self.window]
        return bucket

    def try_acquire(self, names: Mapping[str, str]) -> float:
        """Count an attempt of what is named for each limit; returns the seconds to wait, 0 if it may be made now.

        An attempt that may not be made is not counted: who waits is let in.
        """
        found = {limit: self.bucket(limit, name) for limit, name in names.items()}
        full = [bucket for limit, bucket in found.items() if len(bucket.times) >= self.limits[limit]]
        if full:
            for bucket in full:
                bucket.refused += 1
            return max(1.0, max(bucket.times[0] for bucket in full) + self.window - self.clock())
        for bucket in found.values():
            bucket.times.append(self.clock())
        return 0.0

    def refund(self, names: Mapping[str, str]) -> None:
        """Take back the attempt that was counted last: it was right."""
        for limit, name in names.items():
            bucket = self.bucket(limit, name)
            if bucket.times:
                bucket.times.pop()

    def pop_refused_count(self, names: Mapping[str, str]) -> int:
        """How many refused attempts the log is to be told of now; 0 while it was told a moment ago.

        So nobody fills a disk by attempts that are refused.
        """
        bucket = max((self.bucket(*item) for item in names.items()), key=lambda one: one.refused)
        if not bucket.refused or self.clock() - bucket.last_logged < LOG_INTERVAL:
            return 0
        count, bucket.refused, bucket.last_logged = bucket.refused, 0, self.clock()
        return count


def network_of(address: str) -> str:
    """What counts as one address: of IPv6 the network of 64 bits that a subscriber is given."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address) and not found.ipv4_mapped:
        return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return str(getattr(found, "ipv4_mapped", None) or found)
