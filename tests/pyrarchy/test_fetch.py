"""Downloads against a server on this machine: only checked bytes arrive, and nothing is left of the rest."""

import gzip
import hashlib
import http.server
import os
import socket
import threading

import numpy as np
import pytest

from pyrarchy.fetch import REMOTES, Remote, fetch, find, places, read_idx
from pyrarchy.files import DataError

FILES = {"train": np.random.default_rng(0).bytes(300_000), "test": b"ten bytes!"}
# GNU gzip writes the file's name and time into the file, so mirrors of the same data differ: here by their level.
GOOD = {f"/{level}/{name}.gz": gzip.compress(data, level) for level in (1, 9) for name, data in FILES.items()}


class Mirror(http.server.BaseHTTPRequestHandler):
    """/good/, /corrupt/ (one byte differs), /plain/ (no gzip), /truncated/, /dropped/ (no length), /slow/, or 404."""

    protocol_version = "HTTP/1.0"

    def do_GET(self):
        self.server.asked.append(self.path)
        _, kind, file = self.path.split("/")
        body = GOOD.get(f"/9/{file}", b"")
        if kind == "good2":
            body = GOOD[f"/1/{file}"]
        elif kind == "corrupt":
            body = gzip.compress(b"X" + gzip.decompress(body)[1:])
        elif kind == "plain":
            body = b"<html>moved</html>"
        elif kind == "slow":
            self.server.hold.wait(5)
            return
        elif kind not in ("good", "truncated", "dropped"):
            self.send_error(404)
            return
        self.send_response(200)
        if kind != "dropped":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if kind in ("truncated", "dropped") else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as running:
        running.asked, running.hold = [], threading.Event()
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.hold.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def mirrors(server, monkeypatch):
    """Register data set ``toy_set`` with the named kinds of mirrors."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def register(*kinds):
        sums = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setitem(REMOTES, "toy_set", Remote(sums, tuple(f"{address}/{kind}/" for kind in kinds)))

    return register


def arrived(folder):
    """Every file under ``folder`` is a good one; their names."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert gzip.decompress(path.read_bytes()) == FILES[path.name.removesuffix(".gz")]
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_good_mirror(tmp_path, mirrors, server):
    mirrors("good")
    seen = []
    assert fetch("toy-set", tmp_path, lambda *row: seen.append(row)) == tmp_path / "toy_set"
    assert arrived(tmp_path) == ["test.gz", "train.gz"]
    size = len(GOOD["/9/train.gz"])
    steps = [row for row in seen if row[0] == "train.gz"]
    assert steps[-1] == ("train.gz", size, size) and len(steps) >= size // 65536
    assert find("toy_set", tmp_path) == tmp_path / "toy_set"
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "toy_set" / "test.gz").stat().st_mode & 0o777 == 0o666 & ~umask


def test_good_files_are_kept_and_bad_ones_replaced(tmp_path, mirrors, server):
    mirrors("good")
    folder = fetch("toy_set", tmp_path)
    # Another mirror's gzip of the same bytes is as good.
    (folder / "test.gz").write_bytes(GOOD["/1/test.gz"])
    (folder / "train.gz").write_bytes(GOOD["/9/train.gz"][:-9])
    server.asked.clear()
    fetch("toy_set", tmp_path)
    assert server.asked == ["/good/train.gz"]
    assert (folder / "test.gz").read_bytes() == GOOD["/1/test.gz"]
    assert arrived(tmp_path) == ["test.gz", "train.gz"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("corrupt", "sha256 differs"),
        ("plain", "18 bytes are not the file's"),
        ("truncated", f"ended after {len(GOOD['/9/train.gz']) // 2} of {len(GOOD['/9/train.gz'])} bytes"),
        ("dropped", "sha256 differs"),
        ("absent", "HTTP 404"),
        ("slow", "timed out"),
    ],
)
def test_a_bad_mirror_leaves_nothing_and_the_next_one_serves(tmp_path, mirrors, kind, reason, server):
    mirrors(kind)
    with pytest.raises(DataError, match=rf"no mirror gave train.gz \(http.*/{kind}/train.gz: .*{reason}.*put the file"):
        fetch("toy_set", tmp_path, timeout=0.2)
    assert arrived(tmp_path) == [] and find("toy_set", tmp_path) is None
    mirrors(kind, "good2", "good")
    fetch("toy_set", tmp_path, timeout=1.0)
    assert arrived(tmp_path) == ["test.gz", "train.gz"]
    assert "/good/train.gz" not in server.asked


def test_a_broken_download_does_not_touch_the_file_that_is_there(tmp_path, mirrors):
    mirrors("corrupt")
    (tmp_path / "toy_set").mkdir()
    path = tmp_path / "toy_set" / "train.gz"
    path.write_bytes(b"the user's own")
    with pytest.raises(DataError):
        fetch("toy_set", tmp_path)
    assert path.read_bytes() == b"the user's own" and list(path.parent.iterdir()) == [path]


def test_an_interrupted_download_leaves_nothing_and_goes_on_later(tmp_path, mirrors, server):
    mirrors("good")
    during = []

    def interrupt(file, done, total):
        if file == "test.gz":
            during.extend(path.name for path in (tmp_path / "toy_set").iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("toy_set", tmp_path, interrupt)
    # It was in the same folder under a name that nothing looks for, and it is gone.
    assert sorted(name.rsplit(".", 1)[-1] for name in during) == ["gz", "part"]
    assert arrived(tmp_path) == ["train.gz"]
    server.asked.clear()
    fetch("toy_set", tmp_path)
    assert server.asked == ["/good/test.gz"]


def test_nobody_listens(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(REMOTES, "toy_set", Remote({"train": "0" * 64}, (address,)))
    with pytest.raises(DataError, match="refused"):
        fetch("toy_set", tmp_path, timeout=2)
    assert arrived(tmp_path) == []


def test_names_and_folders_that_cannot_be(tmp_path, mirrors):
    mirrors("good")
    with pytest.raises(DataError, match=r"nothing to download under the name 'digits'.*mnist, fashion_mnist"):
        fetch("digits", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file/toy_set: cannot make this folder"):
        fetch("toy_set", tmp_path / "file")


def test_the_mirrors_and_sums_are_complete():
    for remote in (REMOTES["mnist"], REMOTES["fashion_mnist"]):
        assert len(set(remote.files.values())) == 4 and all(len(digest) == 64 for digest in remote.files.values())
        assert len(remote.mirrors) >= 2 and all(mirror.endswith("/") for mirror in remote.mirrors)


def test_the_order_of_the_places(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRARCHY_DATA", str(tmp_path / "mine"))
    order = [str(place) for place in places("fashion_mnist", tmp_path / "given")]
    assert order[:2] == [str(tmp_path / "given" / name) for name in ("fashion_mnist", "fashion-mnist")]
    assert order[2:4] == [str(tmp_path / "mine" / name) for name in ("fashion_mnist", "fashion-mnist")]
    assert order[5] == os.path.join("/usr/share/datasets", "fashion-mnist")
    assert order[6] == os.path.join("data", "FashionMNIST", "raw") and "pyrarchy" in order[-1]


IDX = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4]) + bytes(range(24))


def test_an_idx_file_gzipped_and_not(tmp_path):
    (tmp_path / "a").write_bytes(IDX)
    (tmp_path / "a.gz").write_bytes(gzip.compress(IDX))
    for name in ("a", "a.gz"):
        values = read_idx(tmp_path / name, hashlib.sha256(IDX).hexdigest())
        np.testing.assert_array_equal(values, np.arange(24).reshape(2, 3, 4))
        assert values.dtype == np.uint8
    with pytest.raises(DataError, match="sha256 differs"):
        read_idx(tmp_path / "a.gz", "0" * 64)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (IDX[:-1], "has 23 bytes of data but its header says \\(2, 3, 4\\)"),
        (IDX + b"x", "has 25 bytes"),
        (IDX[:3] + b"\x02" + IDX[4:], "has 28 bytes"),
        (IDX[:2] + b"\x0d" + IDX[3:], "begins with 00 00 0d 03"),
        (IDX[:3] + b"\x00" + IDX[4:], "begins with 00 00 08 00"),
        (IDX[:11], "ends within its header"),
        (IDX[:2], "begins with 00 00,"),
        (b"", "begins with"),
        # 2^31 * 2^31 * 4 is 2^64, which is 0 in 64 bits: the length of this file's data.
        (IDX[:4] + b"\x80\0\0\0\x80\0\0\0\0\0\0\x04", "has 0 bytes"),
    ],
)
def test_damaged_idx_files(tmp_path, content, reason):
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    for name in ("a", "a.gz"):
        with pytest.raises(DataError, match=reason):
            read_idx(tmp_path / name)


def test_damaged_gzip(tmp_path):
    whole = gzip.compress(IDX)
    for content in (whole[:-4], IDX, whole[:12] + b"\xff\xff" + whole[14:], b""):
        (tmp_path / "a.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"a.gz: .*(cannot be read|begins with)"):
            read_idx(tmp_path / "a.gz")
    with pytest.raises(DataError, match=r"cannot be read.*No such file"):
        read_idx(tmp_path / "absent.gz")
