"""The regions of highest weight as lines of text."""

from wsi_attn.export.exporter import Entries, Exporter
from wsi_attn.export.job import Job

MOST = 10


def write_lines(job: Job) -> tuple[bytes, Entries]:
    job.require_values()
    regions = job.subject.regions(job.config.top or MOST)
    lines = [f"{each.x} {each.y} {each.width} {each.height} {each.weight:.6g}" for each in regions]
    return "".join(f"{line}\n" for line in lines).encode(), {"rows": len(lines)}


LINES = Exporter((".txt",), ("top",), contents=write_lines)
