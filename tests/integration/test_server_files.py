"""`/v1/files` over HTTP, with OpenAI's client and without: what is stored, and what is refused."""

import gzip
import io
import json
import select
import socket
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from fine_tuning_service import FORM, TALK, Tune, Tuning, lines, make_tune, multipart, soon
from serving import Serving, read_all, read_until, wait_until

from convmodel.server.fine_tuning.file_store import Incoming
from convmodel.server.settings import MAX_BODY, TrainingLimits

pytestmark = pytest.mark.loopback


@pytest.fixture
def tune(tmp_path: Path, gpt2_folder: Path) -> Tune:
    return make_tune(tmp_path, gpt2_folder)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, gpt2_folder: Path) -> Iterator[Tuning]:
    with make_tune(tmp_path_factory.mktemp("shared"), gpt2_folder)() as tuning:
        yield tuning


@pytest.fixture
def tuning(shared: Tuning) -> Iterator[Tuning]:
    """A server without files, which tests share."""
    yield shared
    for file in shared.service.files.all():
        shared.service.delete_file(file.id)


def post(served: Serving, *parts: tuple[str, str | None, bytes], **headers: str) -> Any:
    return served.ask("POST", "/v1/files", multipart(*parts), FORM | headers)


def upload(served: Serving, content: bytes, **headers: str) -> Any:
    return post(served, ("purpose", None, b"fine-tune"), ("file", "talks.jsonl", content), **headers)


def test_it_is_off_by_default(server: Serving) -> None:
    for method, path in (
        ("POST", "/v1/files"), ("GET", "/v1/files"), ("GET", "/v1/files/file-1"), ("DELETE", "/v1/files/file-1"),
        ("GET", "/v1/files/file-1/content"), ("GET", "/v1/fine_tuning/jobs"), ("DELETE", "/v1/models/tiny"),
        ("GET", "/train/preparations"), ("GET", "/train/preparations/prep-1"), ("DELETE", "/train/preparations/prep-1"),
        ("GET", "/train/jobs"), ("GET", "/train/jobs/ftjob-1"),
    ):  # fmt: skip
        body = multipart(("purpose", None, b"fine-tune"), ("file", "f", b"{}")) if method == "POST" else None
        answer = server.ask(method, path, body, FORM if body else {})
        assert (answer.status, answer.error["code"]) == (404, "training_off"), path
        assert "--train FOLDER" in answer.error["message"]
    assert server.post("/v1/fine_tuning/jobs", model="tiny", training_file="f").error["code"] == "training_off"
    assert server.post("/train/preparations", model="tiny", files=["f"]).error["code"] == "training_off"
    assert server.get("/v1/models/tiny").json["convmodel"]["fine_tuning"] is False


def test_the_client_stores_lists_reads_and_deletes_files(tuning: Tuning) -> None:
    client, content = tuning.client, lines(TALK, times=3)
    first = client.files.create(file=("../some/talks.jsonl", content), purpose="fine-tune")
    assert (first.object, first.bytes, first.filename) == ("file", len(content), "talks.jsonl")
    assert (first.purpose, first.status) == ("fine-tune", "processed")
    second = client.files.create(file=io.BytesIO(content), purpose="fine-tune")
    assert client.files.retrieve(first.id) == first
    assert client.files.content(first.id).read() == content
    assert [file.id for file in client.files.list()] == [second.id, first.id]
    assert [file.id for file in client.files.list(order="asc", limit=1)] == [first.id, second.id]  # of two pages
    assert [*client.files.list(purpose="fine-tune-results")] == []
    deleted = client.files.delete(second.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (second.id, True, "file")
    with pytest.raises(openai.NotFoundError, match=f"there is no file {second.id}"):
        client.files.content(second.id)
    paths = [path.name for path in tuning.service.files._folder.iterdir()]
    assert sorted(paths) == [f"{first.id}.json", f"{first.id}.jsonl"]  # no part of a path is the client's


@pytest.mark.slow
def test_a_restarted_server_has_the_files_and_removes_halves(tune: Tune, tmp_path: Path) -> None:
    with tune() as tuning:
        kept = tuning.upload()
    folder = tmp_path / "tuned/files"
    (folder / "0123456789abcdef.part").write_bytes(b"half")
    (folder / f"file-{'0' * 24}.jsonl").write_bytes(b"{}")
    others = ["my talks.jsonl", "file-1.jsonl", "notes.json", "half.part"]  # the folder may have been in use before
    for name in others:
        (folder / name).write_bytes(b"mine")
    with tune() as tuning:
        assert [file.id for file in tuning.client.files.list()] == [kept]
    assert {path.name for path in folder.iterdir()} == {f"{kept}.json", f"{kept}.jsonl", *others}


def test_a_file_that_is_deleted_while_it_is_asked_for_is_not_found(tuning: Tuning) -> None:
    id = tuning.upload()
    content = tuning.service.files.path(id)
    content.rename(content.with_suffix(".away"))
    answer = tuning.served.get(f"/v1/files/{id}/content")
    assert (answer.status, answer.error["code"]) == (404, "file_not_found")
    content.with_suffix(".away").unlink()


@pytest.mark.slow
def test_files_stay_in_order_after_a_restart(tune: Tune) -> None:
    """Several are stored in one second."""
    with tune() as tuning:
        ids = [tuning.upload() for _ in range(5)]
    with tune() as tuning:
        assert [file.id for file in tuning.client.files.list(order="asc")] == ids


def test_nobody_waits_for_a_file_that_is_being_stored(tuning: Tuning) -> None:
    """A slow disk delays other uploads, and not the responses of models."""
    with ThreadPoolExecutor(3) as pool, tuning.service.files._lock:
        for path in ("/v1/files", "/v1/files/file-1"):
            pool.submit(tuning.served.get, path)
        pool.submit(upload, tuning.served, lines(TALK))
        soon()
        assert tuning.served.get("/health").status == 200


def zipped() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("talks.jsonl", b"\0" * 2**20)
    return data.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file has no lines"),
        (b"\n \n", "the file has no lines"),
        (lines(TALK) + b"{oops}\n", "line 2 is not valid JSON (Expecting property name"),
        (json.dumps([TALK]).encode(), "line 1 is a list, not an object: write one JSON object per line"),
        (json.dumps(TALK, indent=2).encode(), "line 1 is not valid JSON"),
        (b'"text"\n', "line 1 is a str, not an object"),
        (lines(TALK) + b"\xff\xfe{}\n", "line 2 is not UTF-8"),
        (b"user,assistant\nHello,Hi\n", "line 1 is not valid JSON"),
        (lines(TALK) + b"\0\0\0\n", "line 2 has bytes that no text has"),
        (b"[" * 100_000 + b"\n", "line 1 is not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", "line 1 is not valid JSON"),
        (b'{"a": "' + b"x" * MAX_BODY + b'"}\n', "line 1 is longer than"),
        (zipped(), "the file is a zip archive: unpack or convert it"),
        (gzip.compress(lines(TALK), mtime=0), "the file is compressed with gzip"),
        ('{"a": 1}\n'.encode("utf-16"), "the file is text in UTF-16"),
    ],
)
def test_what_is_not_json_lines_is_refused_with_its_line(tuning: Tuning, content: bytes, message: str) -> None:
    answer = upload(tuning.served, content)
    assert answer.status == 400
    assert message in answer.error["message"]
    assert (answer.error["param"], answer.error["code"]) == ("file", "invalid_file")
    assert tuning.served.get("/v1/files").json["data"] == []
    assert [*tuning.service.files._folder.iterdir()] == []


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbf" + lines(TALK), lines(TALK).rstrip(), b"\r\n" + lines(TALK) + b"\r\n"]
)
def test_marks_line_ends_and_blank_lines_do_not_matter(tuning: Tuning, content: bytes) -> None:
    answer = upload(tuning.served, content)
    assert answer.status == 200
    assert tuning.served.get(f"/v1/files/{answer.json['id']}/content").body == content


FILE = ("file", "talks.jsonl", lines(TALK))
PURPOSE = ("purpose", None, b"fine-tune")


@pytest.mark.parametrize(
    ("parts", "param", "message"),
    [
        ([FILE], "purpose", "purpose is missing"),
        ([PURPOSE], "file", "file is missing"),
        ([("purpose", None, b"assistants"), FILE], "purpose", "purpose is 'assistants': only fine-tune"),
        ([FILE, ("purpose", None, b"fine-tune-results")], "purpose", "only fine-tune or user_data is supported"),
        ([PURPOSE, FILE, ("expires_after[anchor]", None, b"created_at")], "expires_after[anchor]", "not supported"),
        ([PURPOSE, PURPOSE, FILE], "purpose", "given twice"),
        ([PURPOSE, FILE, FILE], "file", "given twice"),
        ([PURPOSE, ("file", None, b"{}")], "file", "send it as a file"),
        ([("purpose", "purpose.txt", b"fine-tune"), FILE], "purpose", "send it as a text"),
        ([("purpose", None, b"x" * 2000), FILE], "purpose", "longer than 1000 bytes"),
        ([PURPOSE, ("", None, b"")], None, "has no name"),
    ],
)
def test_forms_are_strict(tuning: Tuning, parts: list[Any], param: str | None, message: str) -> None:
    answer = post(tuning.served, *parts)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert message in answer.error["message"]
    assert tuning.served.get("/v1/files").json["data"] == []


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        ({"Content-Type": "multipart/form-data"}, b"--x--", "names no boundary"),
        (FORM, b"", "its end is missing"),
        (FORM, multipart(PURPOSE, FILE)[:-20], "its end is missing"),
        (FORM, b"not a form at all, in no way" * 10, "the form cannot be read"),
        (FORM, b"--boundary\r\n" + b"x: y\r\n" * 1000, "the form cannot be read"),
        ({"Content-Type": f"multipart/form-data; boundary={'b' * 500}"}, b"--x--", "the form cannot be read"),
    ],
)
def test_what_is_no_form_is_refused(tuning: Tuning, headers: dict[str, str], body: bytes, message: str) -> None:
    answer = tuning.served.ask("POST", "/v1/files", body, headers)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert message in answer.error["message"]
    assert tuning.served.ask("POST", "/v1/files", {"purpose": "fine-tune"}).status == 415


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://other.example"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_forms_of_other_sites_are_refused(tuning: Tuning, headers: dict[str, str]) -> None:
    """A browser sends them without asking the server first."""
    answer = upload(tuning.served, lines(TALK), **headers)
    assert (answer.status, answer.error["code"]) == (403, "origin")
    for kind in ("application/x-www-form-urlencoded", "text/plain"):
        assert upload(tuning.served, lines(TALK), **{"Content-Type": kind}).status == 415
    assert tuning.served.get("/v1/files").json["data"] == []


def test_forms_of_the_servers_own_page_are_taken(tuning: Tuning) -> None:
    for headers in (
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://proxy.example"},
        {"Origin": tuning.served.url},
    ):
        assert upload(tuning.served, lines(TALK), **headers).status == 200


@pytest.mark.slow
def test_without_the_key_nothing_is_stored_or_shown(tune: Tune) -> None:
    with tune({"api_keys": ("secret",)}) as tuning:
        id = tuning.upload()
        tuning.served.key = "wrong"
        for method, path in (
            ("GET", "/v1/files"), ("GET", f"/v1/files/{id}"), ("GET", f"/v1/files/{id}/content"),
            ("DELETE", f"/v1/files/{id}"), ("GET", "/v1/fine_tuning/jobs"),
        ):  # fmt: skip
            assert tuning.served.ask(method, path).status == 401
        assert upload(tuning.served, lines(TALK)).status == 401
        assert [file.id for file in tuning.client.files.list()] == [id]


@pytest.mark.slow
def test_a_file_that_is_too_large_is_refused_while_it_arrives(tune: Tune) -> None:
    with tune(limits=TrainingLimits(file_bytes=3 * 2**20)) as tuning:
        assert upload(tuning.served, lines(TALK) * 20_000).status == 200
        answer = upload(tuning.served, lines(TALK) * 40_000)
        assert (answer.status, answer.error["code"]) == (413, "file_too_large")
        assert answer.error["message"] == "the file is larger than 3 MiB: split it"
        assert answer.headers["connection"] == "close"
        assert len([*tuning.service.files._folder.iterdir()]) == 2

        with tuning.served.connect() as connection:  # a client that would send 2 GB
            head = ["POST /v1/files HTTP/1.1", "Host: localhost", f"Content-Length: {2 * 10**9}", "Connection: close"]
            head += [f"{name}: {value}" for name, value in FORM.items()]
            begin = multipart(PURPOSE, FILE).partition(b"\r\n--boundary--")[0]
            connection.sendall("\r\n".join([*head, "", ""]).encode() + begin)
            for _ in range(40):
                connection.sendall(lines(TALK) * 1000)
            assert b"413 " in read_until(connection, b"\r\n\r\n")
        assert len([*tuning.service.files._folder.iterdir()]) == 2


@pytest.mark.slow
def test_a_file_of_unknown_length_is_stored_or_refused_as_it_arrives(tune: Tune) -> None:
    with tune(limits=TrainingLimits(file_bytes=2**20)) as tuning:
        for times, status in ((100, 200), (20_000, 413)):
            body = multipart(PURPOSE, ("file", "talks.jsonl", lines(TALK) * times))
            pieces = iter([body[begin : begin + 30_000] for begin in range(0, len(body), 30_000)])
            assert tuning.served.ask("POST", "/v1/files", pieces, FORM).status == status
        assert len(tuning.served.get("/v1/files").json["data"]) == 1


def test_a_file_is_written_while_it_arrives(tuning: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory holds a mebibyte of it at a time, whatever its size."""
    sizes, write = [], Incoming.write

    def noting(self: Incoming, data: bytes) -> None:
        sizes.append(len(data))
        write(self, data)

    monkeypatch.setattr(Incoming, "write", noting)
    content = lines(TALK) * 100_000
    assert upload(tuning.served, content).status == 200
    assert sum(sizes) == len(content) > 8 * 2**20
    assert max(sizes) < 2 * 2**20


@pytest.mark.slow
def test_quotas_count_what_is_stored(tune: Tune) -> None:
    content = lines(TALK)
    with tune(limits=TrainingLimits(total_bytes=3 * len(content), files=3)) as tuning:
        assert upload(tuning.served, content * 2).status == 200
        answer = upload(tuning.served, content * 2)
        assert (answer.status, answer.error["code"]) == (507, "storage_full")
        assert f"larger than {3 * len(content):,} bytes: delete some" in answer.error["message"]
        assert upload(tuning.served, content).status == 200
    with tune(limits=TrainingLimits(files=3)) as tuning:
        assert upload(tuning.served, content).status == 200
        answer = upload(tuning.served, content)
        assert (answer.status, answer.error["code"]) == (507, "storage_full")
        assert "there are 3 files, which is the limit: delete some" in answer.error["message"]
        tuning.client.files.delete(next(iter(tuning.client.files.list())).id)
        assert upload(tuning.served, content).status == 200


@pytest.mark.slow
def test_only_a_few_files_arrive_at_once(tune: Tune) -> None:
    with tune(limits=TrainingLimits(uploads=1)) as tuning:
        head = ["POST /v1/files HTTP/1.1", "Host: localhost", "Content-Length: 1000", *map(": ".join, FORM.items())]
        with tuning.served.connect() as connection:
            connection.sendall("\r\n".join([*head, "", ""]).encode() + multipart(PURPOSE, FILE)[:50])
            wait_until(lambda: tuning.service.files._incoming)
            answer = upload(tuning.served, lines(TALK))
            assert (answer.status, answer.error["code"]) == (429, "too_many_uploads")
            assert int(answer.headers["retry-after"]) > 0
        wait_until(lambda: not tuning.service.files._incoming)  # the client has gone
        assert [*tuning.service.files._folder.iterdir()] == []
        assert upload(tuning.served, lines(TALK)).status == 200


@pytest.mark.slow
def test_a_client_that_stops_sending_is_not_waited_for(tune: Tune) -> None:
    with tune({"stall_seconds": 0.2}) as tuning, tuning.served.connect() as connection:
        head = ["POST /v1/files HTTP/1.1", "Host: localhost", "Content-Length: 1000", *map(": ".join, FORM.items())]
        connection.sendall("\r\n".join([*head, "", ""]).encode() + multipart(PURPOSE, FILE)[:50])
        assert b"408 " in read_all(connection)
        assert [*tuning.service.files._folder.iterdir()] == []


@pytest.mark.slow
@pytest.mark.parametrize("requests", [1, 400], ids=["one download", "pipelined answers"])
def test_a_client_that_stops_reading_is_not_waited_for(tune: Tune, requests: int) -> None:
    """Every unread response counts, also one that waits behind others on the same connection."""
    with tune({"stall_seconds": 0.3}) as tuning:
        id = upload(tuning.served, lines(TALK, times=100_000 if requests == 1 else 100)).json["id"]
        sock = tuning.served.server.servers[0].sockets[0]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", tuning.served.port))
            head = f"GET /v1/files/{id}/content HTTP/1.1\r\nHost: localhost\r\n\r\n"
            connection.sendall(head.encode() * requests)
            wait_until(lambda: tuning.served.server.server_state.connections)
            wait_until(lambda: not tuning.served.server.server_state.connections)
            wait_until(lambda: not tuning.served.tasks())  # nothing holds the file open
        assert tuning.served.get(f"/v1/files/{id}").status == 200


@pytest.mark.long
def test_a_slow_reader_gets_the_whole_file(tune: Tune) -> None:
    content = lines(TALK, times=20_000)
    with tune({"stall_seconds": 3.0}) as tuning, socket.socket() as connection:
        id = upload(tuning.served, content).json["id"]
        tuning.served.server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", tuning.served.port))
        head = f"GET /v1/files/{id}/content HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        received, pauses = b"", 0
        while part := connection.recv(len(content)):
            received += part
            if len(received) > (pauses + 1) * len(content) // 10:
                pauses += 1
                time.sleep(0.5)  # of which all together are longer than the limit
        assert received.endswith(content)
        assert pauses >= 9


@pytest.mark.slow
def test_a_file_that_arrives_too_slowly_is_refused(tune: Tune) -> None:
    """A few clients that send a byte now and then would keep all others from uploading."""
    with tune({"upload_seconds": 0.5}) as tuning, tuning.served.connect() as connection:
        head = ["POST /v1/files HTTP/1.1", "Host: localhost", "Content-Length: 100000", *map(": ".join, FORM.items())]
        connection.sendall("\r\n".join([*head, "", ""]).encode() + multipart(PURPOSE, FILE)[:50])
        while not select.select([connection], [], [], 0.05)[0]:
            connection.sendall(b"x")
        answer = read_all(connection)
        assert b"408 " in answer
        assert b"did not arrive within 0.5 s" in answer


def test_a_full_disk_stores_nothing(tuning: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("convmodel.server.fine_tuning.file_store.os.fsync", fsync)
        answer = upload(tuning.served, lines(TALK))
    assert (answer.status, answer.error["code"]) == (507, "storage_full")
    assert [*tuning.service.files._folder.iterdir()] == []
    assert upload(tuning.served, lines(TALK)).status == 200


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "order=up", "after=file-none", "colour=red"])
def test_queries_are_checked(tuning: Tuning, query: str) -> None:
    answer = tuning.served.get(f"/v1/files?{query}")
    assert (answer.status, answer.error["param"]) == (400, query.partition("=")[0])


@pytest.mark.parametrize("path", ["..%2F..%2Fetc%2Fpasswd", "file-0", "%00", "..", "file-0/content"])
def test_ids_are_no_paths(tuning: Tuning, path: str) -> None:
    for method in ("GET", "DELETE"):
        answer = tuning.served.ask(method, f"/v1/files/{path}")
        assert answer.status in (404, 405)
        assert answer.error["type"] == "invalid_request_error"
