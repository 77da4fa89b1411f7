"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    streams: int = 100
    is_same_for_peers: bool = False
    """Peers, too, have so many streams, whether they keep up or not."""
    rate: float = 50.0
    rounds: int = 3
    peer_rounds: int = 2
    """Of these those with peers, and with as few streams as they keep up with."""
    warm_up_s: float = 2.5
    """In the first two seconds the peers' compilers take a quarter more."""
    window_s: float = 5.0
    connections: int = 1000
    idle_rounds: int = 1
    counts: tuple[int, ...] = (10, 50, 100, 200, 400)
    """Of streams, for how the cost grows."""
    histories: tuple[int, ...] = (10, 1_000, 10_000)
    """Of messages."""
    branches: int = 10
    """Streams side by side in one conversation with a history."""
    followers: int = 500
    delay_rounds: int = 2
    row_window_s: float = 4.0
    requests: int = 100
    cancels: int = 200
    resumes: int = 20
    capacity_probes: int = 3
    """After the first one. None: capacity is not measured."""

    @classmethod
    def quick(cls) -> Plan:
        return cls(
            rounds=1,
            warm_up_s=2.0,
            window_s=4.0,
            connections=200,
            counts=(),
            histories=(),
            delay_rounds=1,
            row_window_s=3.0,
            requests=20,
            cancels=30,
            resumes=5,
            capacity_probes=0,
        )
