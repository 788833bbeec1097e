"""beanstalkd's write-ahead log, as files on disk.

While beanstalkd compacts its log it is not safe from SIGKILL: it forgets a job's old record, and may remove the file
that held it, before the new record is written, and it writes a record in four pieces into a file of zeros. Killed in
between, it comes back without the job, or with a body of zeros in its place.

It compacts when it has three files or more that are mostly empty, and every start adds a file. So a test that kills a
server again and again, and then asks where each acknowledged job is, has the files put together before every start:
then there is nothing to compact.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

# struct Jobrec and Walver in dat.h of beanstalkd 1.12 and 1.13, as the C compiler lays them out here.
_RECORD = struct.Struct("@QIqqiqqIIIIIB0q")
_INT = struct.Struct("@i")
_VERSION = 7


def merge(folder: Path) -> None:
    """Put the files of a log that no server has open into one that means the same; leave another version's alone."""
    files = sorted(folder.glob("binlog.*"), key=lambda file: int(file.suffix[1:]))
    contents = [file.read_bytes() for file in files]
    # A server that was killed while it made a file leaves one without a version: nothing was written to it.
    contents = [content for content in contents if content[: _INT.size].strip(b"\0")]
    if not contents or any(_INT.unpack_from(content)[0] != _VERSION for content in contents):
        return
    merged = folder / "merged"
    with merged.open("wb") as out:
        out.write(_INT.pack(_VERSION))
        for content in contents:
            out.writelines(_records(content))
    merged.replace(files[-1])
    for file in files[:-1]:
        file.unlink()


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a file, up to the zeros, or the torn record (nobody was told of its job), at its end."""
    start = _INT.size
    while start + _INT.size <= len(content):
        (name_size,) = _INT.unpack_from(content, start)
        end = start + _INT.size + name_size + _RECORD.size
        if end > len(content):
            return
        record = _RECORD.unpack_from(content, end - _RECORD.size)
        job_id, body_size = record[0], record[4]
        # Only a record with the tube's name is followed by the body, which includes its line break.
        end += body_size if name_size else 0
        if not job_id or end > len(content) or (name_size and content[end - 2 : end] != b"\r\n"):
            return
        yield content[start:end]
        start = end
