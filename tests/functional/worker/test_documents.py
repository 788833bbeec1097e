"""The file of tasks in docs/workers.md, worked by the command that the page gives."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

from support.servers import BeanstalkdServer

from beanpool import PoolManager

ROOT = Path(__file__).resolve().parents[3]


def block(page: str) -> str:
    (source,) = re.findall(r"^```py\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return str(source)


def test_the_tasks_of_the_page(beanstalkd: BeanstalkdServer, tmp_path: Path) -> None:
    """The mail goes to a server of some lines; the page's command works the tube off."""
    (tmp_path / "tasks.py").write_text(
        block("docs/workers.md").replace('"localhost"', '"127.0.0.1", int(__import__("os").environ["SMTP_PORT"])'),
        encoding="utf-8",
    )
    said: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def receive() -> None:
            connection, _ = listening.accept()
            with connection, connection.makefile("rwb") as dialogue:
                dialogue.write(b"220 here\r\n")
                dialogue.flush()
                within = False
                for line in dialogue:
                    said.append(line)
                    within = line != b".\r\n" if within else line == b"data\r\n"
                    if line == b"data\r\n":
                        answer = b"354 go on\r\n"
                    elif within:
                        continue
                    else:
                        answer = b"221 bye\r\n" if line == b"quit\r\n" else b"250 yes\r\n"
                    dialogue.write(answer)
                    dialogue.flush()

        postman = threading.Thread(target=receive)
        postman.start()
        with PoolManager(beanstalkd.url) as pool:
            pool.put("alice@example.org", tube="emails")
        command = ["-m", "beanpool", "-u", beanstalkd.url, "worker", "tasks:send", "emails", "--stop-when-empty"]
        ended = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            env={"SMTP_PORT": str(listening.getsockname()[1]), "PYTHONPATH": str(tmp_path)},
        )
        postman.join(30)
    assert ended.returncode == 0, ended.stderr
    assert b"rcpt to:<alice@example.org>\r\n" in [line.lower() for line in said]
