"""Records that cannot be used: counted, listed in a file, and too many of them stop the run."""

from __future__ import annotations

import fcntl
import json
import logging
from pathlib import Path

from learnpruner.utils.errors import UserError

_log = logging.getLogger(__name__)

TOLERATED_SHARE = 0.01  # share of records; one bad record is tolerated in data of any size
_FEWEST = 200  # records of a stream that the share is taken of before so many were read


class SkippedRecords:
    """Lists each record once, whichever worker or process meets it; more than TOLERATED of all records stop the run.

    Args:
        total: records of the data; the count is then that of all processes, by way of the file. None is a stream of
            unknown length: each worker counts its own, against those it has ``seen``, FEWEST at least.
        path: the list, one JSON object a line; None lists nowhere.
    """

    def __init__(self, total: int | None, path: str | Path | None) -> None:
        self.total, self.path = total, Path(path) if path is not None else None
        self.known: set[str] = set()
        self.seen = 0

    @property
    def count(self) -> int:
        return len(self.known)

    def add(self, record: str, name: str, reason: str) -> None:
        """List a record once.

        Args:
            record: tells it from all others.
            name: what the data calls it.
            reason: why it is skipped.

        Raises:
            UserError: where too many are.
        """
        if record in self.known:
            return
        self.known.add(record)
        new = self.path is None or self._list(record, {"record": record, "id": name, "reason": reason})
        of = f"{self.total}" if self.total is not None else f"{self.seen} read"
        if new:
            _log.warning("skipped record %s (%d of %s so far): %s", name, self.count, of, reason)
        if self.count > max(1, TOLERATED_SHARE * (self.total or max(self.seen, _FEWEST))):
            listed = f"; all of them are listed in {self.path}" if self.path is not None else ""
            raise UserError(
                f"{self.count} of {of} records cannot be used, more than {TOLERATED_SHARE:.0%}; the last one is {name}: {reason}{listed}."
            )

    def _list(self, record: str, line: dict[str, str]) -> bool:
        """Adds a line unless another process has, which it returns; where the total is known, learns what others have listed.

        Each line is one write under a lock, so that neither workers nor processes nor a kill can mix or cut lines.
        """
        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # held until the file closes
            file.seek(0)
            listed = {json.loads(old)["record"] for old in file}
            if record not in listed:
                file.write(json.dumps(line) + "\n")
            if self.total is not None:
                self.known |= listed
            return record not in listed
