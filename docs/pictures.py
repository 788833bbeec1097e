"""Draw the pictures of the documents: ``python docs/pictures.py [--check]``; needs nothing but Python.

``--check`` writes nothing, and fails if a file in ``docs/pictures`` is out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from drawing import Picture

FOLDER = Path(__file__).resolve().parent / "pictures"


def pool() -> Picture:
    """Threads, the jobs that they hold, connections, servers."""
    picture = Picture(860, 400, "Threads of one program share a pool, which has connections to every server")
    for left, heading in ((30, "your threads"), (270, "one PoolManager"), (700, "beanstalkd servers")):
        picture.text((left, 34), heading, bold=True, size=14)
    threads = (("puts", "blue"), ("works on job 7", "good"), ("works on job 3", "good"), ("waits in reserve", "warn"))
    for row, (what, colour) in enumerate(threads):
        picture.box((30, 55 + row * 72), (160, 46), what, colour=colour, fill=f"{colour}-fill")
    picture.box((250, 48), (380, 318), fill="page", dashed=True)
    servers = (60, 170, 280)
    for row, top in enumerate(servers):
        picture.box((700, top), (130, 70), f"q{row + 1}", below=["tubes, jobs"])
    connections = (
        (62, "put: lent for one command", "blue", 0, 0),
        (110, "lease: job 7, until it is finished", "good", 1, 0),
        (158, "idle", "line", None, 0),
        (190, "lease: job 3", "good", 2, 1),
        (238, "waiting reserve", "warn", 3, 1),
        (286, "waiting reserve", "warn", 3, 2),
        (330, "a monitor checks who is up", "line", None, None),
    )
    for top, label, colour, thread, server in connections:
        height = 26
        fill = "plain-fill" if colour == "line" else f"{colour}-fill"
        if server is None:
            picture.text((440, top + 17), label, anchor="middle", size=11.5, colour="faint")
            continue
        picture.box((300, top), (280, height), fill=fill, colour=colour, round_=13)
        picture.text((440, top + 17), label, anchor="middle", size=12)
        picture.arrow([(580, top + 13), (698, servers[server] + 35)], colour=colour)
        if thread is not None:
            picture.arrow([(190, 78 + thread * 72), (298, top + 13)], colour=colour)
    picture.text(
        (30, 388),
        "A job keeps its connection until it is finished. However many threads wait, each server sees one waiting reserve.",
        size=12,
        colour="faint",
    )
    return picture


def states() -> Picture:
    """up, suspect, down; and draining, which is none of them."""
    picture = Picture(860, 330, "The states of a server: up, suspect and down")
    picture.box((60, 110), (160, 66), "up", below=["puts and reserves"], colour="good", fill="good-fill")
    picture.box((350, 110), (160, 66), "suspect", below=["keeps its keys"], colour="warn", fill="warn-fill")
    picture.box((640, 110), (160, 66), "down", below=["nothing but checks"], colour="bad", fill="bad-fill")
    picture.arrow([(220, 134), (348, 134)], label="silent, or broke", label_at=(284, 126))
    picture.arrow([(510, 134), (638, 134)], label="a check fails", label_at=(574, 122))
    picture.arrow([(350, 160), (222, 160)], colour="good", label="an answer", label_at=(286, 178))
    picture.arrow(
        [(720, 178), (430, 290), (150, 178)],
        colour="good",
        label="an answer: its own keys are back",
        label_at=(430, 262),
    )
    picture.arrow(
        [(150, 108), (430, 10), (720, 108)], colour="bad", label="connect refused at every address", label_at=(430, 44)
    )
    picture.arrow([(802, 130), (850, 145), (802, 158)], colour="bad")
    picture.lines((738, 204), ("checked after a", "random, growing", "time"), size=11.5)
    picture.text(
        (30, 314),
        "Beside these: draining. Such a server takes no puts and is reserved from, until another process answers at its address.",
        size=12,
        colour="faint",
    )
    return picture


def job() -> Picture:
    """A job's states at its server, and whose connection may do what."""
    picture = Picture(860, 380, "The life of a job, and the connection that each step belongs to")
    picture.box((40, 60), (130, 56), "delayed")
    picture.box((300, 60), (130, 56), "ready", colour="blue", fill="blue-fill")
    picture.box((600, 60), (200, 56), "reserved", below=["by one connection"], colour="good", fill="good-fill")
    picture.box((300, 230), (130, 56), "buried")
    picture.box((600, 230), (200, 56), "gone", dashed=True, fill="page")
    picture.arrow([(365, 20), (365, 58)], label="put", label_at=(376, 34), anchor="start")
    picture.arrow([(105, 20), (105, 58)], label="put with a delay", label_at=(116, 34), anchor="start")
    picture.arrow([(170, 88), (298, 88)], label="delay is over, or kick", label_at=(234, 80))
    picture.arrow([(430, 76), (598, 76)], colour="good", label="reserve", label_at=(514, 68))
    picture.arrow([(598, 102), (432, 102)], colour="good", label="release", label_at=(514, 120))
    picture.arrow([(640, 118), (540, 175), (420, 118)], colour="bad", dashed=True)
    picture.text((505, 170), "TTR runs out, or the connection ends", size=11.5, colour="bad", anchor="middle")
    picture.arrow([(660, 118), (560, 240), (432, 250)], colour="good", label="bury", label_at=(520, 262))
    picture.arrow([(360, 228), (360, 118)], label="kick", label_at=(350, 190), anchor="end")
    picture.arrow([(730, 118), (730, 228)], colour="good", label="delete", label_at=(740, 178), anchor="start")
    picture.arrow([(800, 76), (852, 88), (802, 102)], colour="good")
    picture.text((806, 68), "touch", size=11.5, colour="good")
    picture.lines(
        (40, 330),
        (
            "Green: only over the connection that reserved the job. beanpool's Job remembers server, process and connection, and",
            "sends such a command nowhere else; once that connection is gone, the job is ready again, and job.lost is true.",
        ),
    )
    return picture


def failover() -> Picture:
    """The sequence of a put whose first server dies before it answers."""
    picture = Picture(860, 420, "A put that fails over, and the duplicate that may come of it")
    lanes = ((110, "your thread"), (330, "pool"), (570, "q1, the key's own"), (770, "q2, next in its order"))
    for x, name in lanes:
        picture.text((x, 32), name, bold=True, anchor="middle")
        picture.arrow([(x, 44), (x, 320)], tip=False, width=1)
    picture.arrow([(110, 70), (328, 70)], colour="blue", label="put(body, key=...)", label_at=(220, 62))
    picture.arrow([(330, 100), (568, 100)], colour="blue", label="put ... all bytes sent", label_at=(450, 92))
    picture.box((490, 112), (160, 34), "stored: job 41", colour="warn", fill="warn-fill")
    picture.arrow([(568, 164), (420, 164)], colour="bad", dashed=True, label="INSERTED 41", label_at=(500, 157))
    picture.text((408, 170), "✕", size=20, colour="bad", anchor="middle", bold=True)
    picture.text((340, 188), "the connection breaks: stored, or not?", size=11.5, colour="bad")
    picture.arrow(
        [(330, 222), (768, 222)], colour="blue", label='on_ambiguous="resend": put the same body', label_at=(460, 214)
    )
    picture.box((690, 232), (160, 34), "stored: job 8", colour="good", fill="good-fill")
    picture.arrow([(768, 274), (332, 274)], colour="good", label="INSERTED 8", label_at=(560, 267))
    picture.arrow([(330, 304), (112, 304)], colour="good", label="JobId 8, maybe_duplicate=True", label_at=(220, 297))
    picture.lines(
        (40, 352),
        (
            "If q1 had stored it, the body runs twice: once from each server, and the result has said that it may. At least once is what",
            'a work queue can promise; so a worker must bear a second run. With on_ambiguous="raise" the pool stops at the red cross',
            "and raises PutAmbiguous. Before all bytes were sent there is no question: the put simply goes to q2, and runs once.",
        ),
    )
    return picture


def keys() -> Picture:
    """Which keys move when a server is lost: its own, and no others."""
    picture = Picture(860, 350, "Six keys on three servers, before and after the loss of one")
    owners = {"alice": 1, "bob": 2, "carol": 3, "dave": 2, "erin": 1, "frank": 2}
    seconds = {"bob": 1, "dave": 3, "frank": 3}
    for left, heading, lost in ((40, "before", False), (470, "q2 is down", True)):
        picture.text((left, 36), heading, bold=True, size=15)
        for number in (1, 2, 3):
            gone = lost and number == 2
            picture.box(
                (left + 200, 50 + (number - 1) * 84),
                (140, 60),
                f"q{number}",
                below=["down"] if gone else [],
                colour="bad" if gone else "good",
                fill="bad-fill" if gone else "good-fill",
                dashed=gone,
            )
        for row, (key, owner) in enumerate(owners.items()):
            moved = lost and owner == 2
            server = seconds[key] if moved else owner
            y = 58 + row * 40
            picture.text((left, y + 5), key, mono=True, bold=moved, colour="warn" if moved else "ink")
            picture.arrow(
                [(left + 60, y), (left + 198, 80 + (server - 1) * 84)],
                colour="warn" if moved else "line",
                dashed=moved,
            )
    picture.lines(
        (40, 318),
        (
            "Every key has all servers in an order of its own (pool.route). Only the lost server's keys move, each to the next in its",
            "order, spread over all that are left; and exactly they go back when it answers again.",
        ),
    )
    return picture


def ttr() -> Picture:
    """A job's time to run: with touches, and without."""
    picture = Picture(860, 370, "The time to run of a job: touched in time, and not")
    left, second = 150, 11.0

    def at(seconds: float) -> float:
        return left + seconds * second

    for y, name, colour in ((95, "kept alive", "good"), (235, "not touched", "bad")):
        picture.text((24, y + 5), name, bold=True, colour=colour)
        picture.arrow([(left, y), (830, y)], width=1)
    for tick in range(0, 61, 10):
        picture.text((at(tick), 330), f"{tick} s", size=11, colour="faint", anchor="middle")
        picture.arrow([(at(tick), 312), (at(tick), 318)], tip=False, width=1)
    picture.arrow([(left, 312), (830, 312)], tip=False, width=1)
    for start in (0, 10, 20, 30, 40):
        picture.dot((at(start), 95), "good")
        if start:
            picture.text((at(start), 80), "touch", size=11, colour="good", anchor="middle")
    picture.text((at(0), 80), "reserve", size=11, colour="good", anchor="middle")
    picture.box((at(0), 104), (50 * second, 14), colour="good", fill="good-fill", round_=4)
    picture.dot((at(50), 95), "blue")
    picture.text((at(50), 80), "delete", size=11, colour="blue", anchor="middle")
    picture.text(
        (at(0), 138),
        "TTR 30 s: a touch every third of it begins the 30 s anew (pool.keep, and every Worker)",
        size=12,
        colour="faint",
    )
    picture.dot((at(0), 235), "good")
    picture.text((at(0), 220), "reserve", size=11, colour="good", anchor="middle")
    picture.box((at(0), 244), (30 * second, 14), colour="good", fill="good-fill", round_=4)
    picture.box((at(30), 244), (20 * second, 14), colour="bad", fill="bad-fill", round_=4, dashed=True)
    picture.dot((at(30), 235), "bad")
    picture.text((at(30), 204), "the server takes it back:", size=11, colour="bad", anchor="middle")
    picture.text((at(30), 219), "another worker may have it", size=11, colour="bad", anchor="middle")
    picture.dot((at(50), 235), "bad")
    picture.text((at(50), 219), "delete: JobLost", size=11, colour="bad", anchor="middle")
    picture.text((at(0), 278), "reserved", size=11, colour="good")
    picture.text((at(30), 278), "still running here, and perhaps there too", size=11, colour="bad")
    picture.text(
        (24, 356),
        "The server counts in whole seconds, on its own clock; job.lost asks without a round trip.",
        size=12,
        colour="faint",
    )
    return picture


PICTURES: tuple[Callable[[], Picture], ...] = (pool, states, job, failover, keys, ttr)


def main() -> int:
    """Write the pictures, or look whether they are up to date."""
    check = "--check" in sys.argv[1:]
    stale = []
    for draw in PICTURES:
        file = FOLDER / f"{draw.__name__}.svg"
        text = draw().svg()
        if not check:
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            stale.append(file.name)
    if stale:
        print(f"out of date: {', '.join(stale)}; run python docs/pictures.py", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
