"""What a Connection makes of bodies and of documents: text, parsed, or as they came."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.processes import run_python
from support.scripted import answering, with_data
from support.servers import BeanstalkdServer

from beanpool import UnexpectedResponse

if TYPE_CHECKING:
    from conftest import StartScripted
from support.connections import Connect, reserved


class TestYaml:
    def test_true_parses(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd, parse_yaml=True)
        assert connection.tubes() == connection.watching() == ["default"]
        assert connection.stats_tube("default")["current-using"] == 1

    def test_false_leaves_the_text(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd, parse_yaml=False)
        assert connection.tubes() == connection.watching() == "---\n- default\n"
        assert connection.stats_tube("default").startswith("---\nname: ")
        assert connection.stats().startswith("---\ncurrent-jobs-urgent: 0\n")
        connection.put("x")
        job = reserved(connection)
        assert job.stats().startswith("---\nid: 1\n")
        # Keeping its priority does not depend on how the statistics are shown.
        job.release()

    def test_a_callable_gets_the_text(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd, parse_yaml=lambda text: text.split("\n"))
        assert connection.tubes() == connection.watching() == ["---", "- default", ""]
        assert connection.stats_tube("default")[0] == "---"
        connection.put("x")
        assert reserved(connection).stats()[1] == "id: 1"

    def test_a_callable_may_ask_for_the_command(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        def with_command(text: str, command: str = "") -> str:
            return f"{command}: {text[:3]}"

        connection = connect(beanstalkd, parse_yaml=with_command)
        connection.put("x")
        assert [connection.tubes(), connection.watching(), connection.stats(), connection.stats_job(1)] == [
            "list-tubes: ---",
            "list-tubes-watched: ---",
            "stats: ---",
            "stats-job: ---",
        ]
        assert connect(beanstalkd, parse_yaml=lambda text, *, command: command).stats_tube("default") == "stats-tube"
        # One whose only parameter has that name gets the text, as it always did.
        assert connect(beanstalkd, parse_yaml=lambda command: command).tubes().startswith("---")
        assert connect(beanstalkd, parse_yaml=lambda text, **options: (text, options)).tubes()[1] == {}
        assert connect(beanstalkd, parse_yaml=str.split).tubes() == ["---", "-", "default"]

    def test_what_a_callable_raises_reaches_the_caller(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd, parse_yaml=int)
        with pytest.raises(ValueError, match="invalid literal for int"):
            connection.stats()
        assert connection.using() == "default"

    def test_a_document_that_is_none_closes_the_connection(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        server = scripted_server(answering({"stats": with_data(b"OK", b"[" * 10_000)}))
        connection = connect(server)
        with pytest.raises(UnexpectedResponse, match=f"{server.address} answered stats with a document"):
            connection.stats()
        assert "a document that is not the flat YAML" in connection.closed_because

    def test_yaml_is_not_loaded_before_it_is_needed(self, beanstalkd: BeanstalkdServer) -> None:
        source = """
import sys
import beanpool
assert "yaml" not in sys.modules
with beanpool.Connection("127.0.0.1", int(sys.argv[1])) as connection:
    connection.put("x")
    connection.reserve().delete()
    assert connection.using() == "default"
    assert connection.stats()["version"]
    print("yaml" in sys.modules)
"""
        ended = run_python(source, str(beanstalkd.port))
        assert (ended.stdout.split(), ended.stderr) == (["False"], "")


class TestEncodings:
    def test_utf_8_unless_told_otherwise(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.put("smörgåsbord")
        job = reserved(connection)
        assert (job.body, job.data) == ("smörgåsbord", "smörgåsbord".encode())

    def test_another_encoding(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd, encoding="latin-1")
        connection.put("smörgåsbord")
        assert beanstalkd.control.peek(1) == "smörgåsbord".encode("latin-1")
        assert reserved(connection).body == "smörgåsbord"
        with pytest.raises(ValueError, match="body cannot be encoded as latin-1"):
            connection.put("€")

    def test_none_is_bytes_only(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd, encoding=None)
        with pytest.raises(TypeError, match="encoding=None"):
            connection.put("text")
        connection.put(b"\xff\x00")
        job = reserved(connection)
        assert job.body == job.data == b"\xff\x00"

    def test_a_body_that_cannot_be_decoded_stays_in_hand(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        beanstalkd.control.put(b"\xff\xfe not text")
        job = reserved(connection)
        with pytest.raises(UnicodeDecodeError):
            job.body  # noqa: B018
        assert job.data == b"\xff\xfe not text"
        assert job.reserved
        job.bury()
        assert beanstalkd.control.state(1) == "buried"
        buried = connection.peek_buried()
        assert buried is not None
        with pytest.raises(UnicodeDecodeError):
            buried.body  # noqa: B018
        buried.delete()
