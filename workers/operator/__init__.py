"""Programs that an operator runs once: list GPUs, diagnose, download a model."""

GIB = 2**30


def gib(size_bytes: float) -> str:
    """Format a size for people."""
    return f"{size_bytes / GIB:.1f} GiB" if size_bytes >= GIB else f"{size_bytes / 2**20:.0f} MiB"
