"""Take the pictures of ``beanpool demo`` and ``top``: ``python docs/screens.py``, with beanstalkd, tmux and rich.

For the latter it starts three servers and some that work on them, runs the command in a terminal of tmux, resizes
that, kills a server and starts it again, and writes what is on the screen to ``docs/pictures``.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from beanpool import PoolManager
from beanpool.testing.beanstalkd import BeanstalkdServer

FOLDER = Path(__file__).resolve().parent / "pictures"
# The fonts of the reader's machine: a picture loads nothing.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.S).replace(
    "font-family: Fira Code, monospace", "font-family: monospace"
)
WAIT = 20.0


class Terminal:
    """A terminal of tmux, on a server of its own."""

    def __init__(self, columns: int, lines: int, command: list[str], folder: str) -> None:
        self._tmux = ["tmux", "-S", f"{folder}/tmux", "-f", "/dev/null"]
        environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        size = ["-x", str(columns), "-y", str(lines)]
        settings = ["set", "-g", "status", "off", ";", "set", "-g", "default-terminal", "tmux-256color", ";"]
        subprocess.run([*self._tmux, *settings, "new-session", "-d", *size, *command], check=True, env=environment)

    def screen(self, *, styled: bool = False) -> str:
        """What is on it."""
        options = ["-e"] if styled else []
        done = subprocess.run([*self._tmux, "capture-pane", "-p", *options], check=True, capture_output=True, text=True)
        return done.stdout

    def resize(self, columns: int, lines: int) -> None:
        """Change the size of its window."""
        subprocess.run([*self._tmux, "resize-window", "-x", str(columns), "-y", str(lines)], check=True)

    def press(self, key: str) -> None:
        """Press a key."""
        subprocess.run([*self._tmux, "send-keys", key], check=True)

    def wait_for(self, seen: Callable[[str], bool]) -> None:
        """Wait until the screen shows something."""
        end = time.monotonic() + WAIT
        while not seen(self.screen()):
            if time.monotonic() > end:
                raise SystemExit(f"the screen never showed it:\n{self.screen()}")
            time.sleep(0.1)

    def close(self) -> None:
        """End it."""
        subprocess.run([*self._tmux, "kill-server"], check=False)

    def picture(self, name: str, columns: int, title: str = "beanpool top") -> None:
        """Write what is on it to a file."""
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            console = Console(width=columns, record=True, file=nowhere, force_terminal=True)
            console.print(Text.from_ansi(self.screen(styled=True).rstrip("\n"), no_wrap=True))
        FOLDER.mkdir(exist_ok=True)
        svg = console.export_svg(title=title, theme=DIMMED_MONOKAI, code_format=FORMAT, unique_id=name)
        (FOLDER / f"{name}.svg").write_text(svg, encoding="utf-8")


@contextlib.contextmanager
def workload(url: str) -> Iterator[None]:
    """Some that put jobs, and some that work them off: too slowly for one tube, and not at all for another."""
    ended = threading.Event()
    with PoolManager(url) as pool:
        pool.put_many(["x"] * 412, tube="webhooks")
        pool.put_many(["x"] * 3, tube="mail-bounces")
        for job in pool.reserve_many(3, 0, tubes="mail-bounces"):
            job.bury()

        def produce() -> None:
            while not ended.wait(0.01):
                pool.put_many(["x"] * 4, tube="mail", timeout=1)
                pool.put_many(["x"] * 2, tube="thumbnails", timeout=1)
                pool.put("x", delay=600, tube="invoices", timeout=1)

        def work(tube: str, pause: float) -> None:
            while not ended.is_set():
                job = pool.reserve(0.1, tubes=tube)
                if job is not None:
                    with contextlib.suppress(Exception):
                        job.delete()
                    ended.wait(pause)

        threads = [threading.Thread(target=produce)]
        threads += [threading.Thread(target=work, args=("mail", 0)) for _ in range(3)]
        threads += [threading.Thread(target=work, args=("thumbnails", 0.05)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()


def take_demo() -> None:
    """A demo some seconds after the kill."""
    with tempfile.TemporaryDirectory(prefix="beanpool-") as folder:
        terminal = Terminal(118, 14, [sys.executable, "-m", "beanpool", "demo"], folder)
        try:
            terminal.wait_for(lambda screen: "DOWN" in screen and re.search(r"^ +8\.\d s", screen, re.M) is not None)
            terminal.picture("demo", 118, "beanpool demo")
        finally:
            terminal.close()


def take_top() -> None:
    """``top`` in windows of several sizes, and with a server that is down."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(BeanstalkdServer(wal=True)) for _ in range(3)]
        url = "beanstalk://" + ",".join(server.address for server in servers)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="beanpool-"))
        stack.enter_context(workload(url))
        command = [sys.executable, "-m", "beanpool", "-u", url, "top", "--interval", "0.5"]
        terminal = Terminal(80, 24, command, folder)
        stack.callback(terminal.close)
        terminal.wait_for(lambda screen: "!webhooks" in screen and "!mail-bounces" in screen)
        time.sleep(2)
        terminal.picture("top-80x24", 80)
        servers[1].kill()
        terminal.wait_for(lambda screen: "2 of 3 servers" in screen)
        time.sleep(1)
        terminal.picture("top-server-down", 80)
        servers[1].start()
        terminal.wait_for(lambda screen: "3 of 3 servers" in screen)
        with PoolManager(url) as pool:
            for number in range(500):
                pool.put("x", tube=f"customer-{number:03}")
        terminal.resize(200, 60)
        terminal.wait_for(lambda screen: "more tubes" in screen and "trouble" in screen)
        time.sleep(2)
        terminal.picture("top-200x60", 200)
        terminal.resize(60, 20)
        terminal.wait_for(lambda screen: max(map(len, screen.splitlines())) <= 60 and "3 of 3 servers" in screen)
        time.sleep(1)
        terminal.picture("top-60x20", 60)
        terminal.press("q")


if __name__ == "__main__":
    take_demo()
    take_top()
