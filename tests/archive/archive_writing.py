"""A process that records as fast as it can, and says on its standard output what each finished call recorded."""

import sys

from archive_examples import make_candidate, make_result

from lightning_evo.archive import ArchiveWriter

if __name__ == "__main__":
    directory, count = sys.argv[1], int(sys.argv[2])
    with ArchiveWriter(directory) as writer:
        counts = writer.archive().counts()
        start = sum(counts.values())
        if counts["pending"]:
            writer.record_result(start - 1, make_result(start - 1))
        writer.set_meta("objectives", [{"monitor": "val_acc", "mode": "max"}])
        print("open", start, flush=True)
        for id in range(start, start + count):
            writer.record_candidate(make_candidate(id), queued=0.0)
            print("asked", id, flush=True)
            writer.record_result(id, make_result(id))
            print("told", id, flush=True)
