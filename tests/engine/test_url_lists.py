"""Lists of addresses: fetched once into a folder; a failing one is a failed row, and the rest goes on."""

import http.server
import json
import signal
import subprocess
import sys
import threading
import time

import pytest

import florence2
from florence2 import sources
from florence2.cli import main
from florence2.engine.ingest import url_lists
from florence2.pixels import BadImage, load
from florence2.sources import fetching, hub_datasets
from florence2.sources.fetching import Fetching
from florence2.store import Store
from tests.engine.doubles import Boxes, folder_of, fragments


@pytest.fixture
def host(tmp_path, monkeypatch):
    """http://pictures.test:PORT, which serves a folder of six pictures and counts what it is asked."""
    folder = folder_of(tmp_path / "served", 6)
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = {"pictures.test": ["127.0.0.1"], "inner.test": ["192.168.0.9"]}
    monkeypatch.setattr(fetching, "look_up", lambda host, port: names[host])
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    server.url, server.folder, server.asked = f"http://pictures.test:{server.server_port}", folder, asked
    yield server
    server.shutdown()
    server.server_close()


def test_a_list_becomes_a_store(tmp_path, host, capsys):
    inner = f"http://inner.test:{host.server_port}"
    rows = [f"{host.url}/p000{n}.png,CC0" for n in range(4)]
    rows += [f"{host.url}/none.png,", f"{inner}/p0000.png,", "https://elsewhere.test/a.png,", "rubbish,", rows[0]]
    (tmp_path / "list.csv").write_text("url,licence\n" + "\n".join(rows) + "\n")
    command = ["annotate", str(tmp_path / "list.csv"), "--out", str(tmp_path / "s"), "--workers", "0", "--json"]
    command += ["--with", "composer", "--quiet"]
    assert main(command) == 1
    assert "list of 8 addresses" in (told := capsys.readouterr().err) and "--allow-urls pictures.test" in told
    assert host.asked == [] and not (tmp_path / "s").exists()
    assert main([*command, "--allow-urls", f"{host.url},{inner}"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["images"] == {"total": 8, "ok": 4, "rejected": 0, "failed": 4}
    reasons = {"bad_url": 1, "host_not_allowed": 1, "http_404": 1, "private_address": 1}
    assert said["reasons"]["images"] == said["reasons"]["failures"] == reasons
    store = Store(tmp_path / "s")
    rows = list(store.images())
    assert [row.origin for row in rows[:4]] == [f"{host.url}/p000{n}.png" for n in range(4)]
    assert rows[0].image.licence == "CC0" and rows[4].image.uri == f"{host.url}/none.png"
    for row, sample in zip(rows, store.samples()):
        assert (sources.pixels(sample.image) == load(host.folder / row.origin.rpartition("/")[2])).all()
    # again: what is there is not asked for; what failed is, and comes in when it is there
    before, asked = fragments(store), len(host.asked)
    assert main([*command, "--allow-urls", f"{host.url},{inner}"]) == 0
    assert fragments(store) == before and host.asked[asked:] == ["/none.png"]
    (host.folder / "none.png").write_bytes((host.folder / "p0005.png").read_bytes())
    assert main([*command, "--allow-urls", f"{host.url},{inner}"]) == 0
    assert Store(tmp_path / "s").counts()["images"] == {"total": 9, "ok": 5, "rejected": 0, "failed": 4}


def test_a_store_of_addresses_is_made_again_without_the_network(tmp_path, host):
    (tmp_path / "list.txt").write_text(f"# ours\n\n{host.url}/p0000.png\n{host.url}/none.png\n")
    store = florence2.annotate(
        tmp_path / "list.txt", tmp_path / "s", [Boxes()], workers=0, fetching=Fetching(hosts=(host.url,))
    )
    host.shutdown()
    before = fragments(store)
    next((tmp_path / "s" / "images").iterdir()).write_bytes(b"damaged")
    again = florence2.annotate(tmp_path / "list.txt.pictures", tmp_path / "s", [Boxes()], workers=0)
    assert fragments(again) == before and again.counts()["annotations"]["kept"] == 3


def test_a_passing_problem_is_tried_again(tmp_path):
    tries = []

    def get(url, rules):
        tries.append(url)
        if "busy" in url and tries.count(url) < 3:
            raise BadImage(url, "http_503", "busy")
        if "gone" in url:
            raise BadImage(url, "http_404", "gone")
        if "down" in url:
            raise BadImage(url, "timeout", "down")
        return b"bytes of " + url.encode()

    (tmp_path / "l.jsonl").write_text(
        "".join(f'{{"url": "https://h.test/{n}"}}\n' for n in ("busy", "gone", "down", "a/../ü?x=1"))
    )
    waits = []
    folder = url_lists.fetch_list(tmp_path / "l.jsonl", Fetching(hosts=("h.test",)), get=get, pause=waits.append)
    found, _ = url_lists.fetched_candidates(folder)
    assert [(f.reason, bool(f.bytes)) for f in found] == [
        ("", True),
        ("http_404", False),
        ("timeout", False),
        ("", True),
    ]
    assert [tries.count(f.origin) for f in found] == [3, 1, 3, 1] and sorted(waits) == [1.0, 1.0, 2.0, 2.0]
    assert all((folder / f.uri).is_relative_to(folder) and ".." not in f.uri for f in found if f.bytes)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("l.csv", "address\nhttps://a.test/x\n", "l.csv:2: has no 'url'"),
        ("l.jsonl", "{}\n", "l.jsonl:1: has no 'url'"),
        ("l.jsonl", "x\n", "l.jsonl:1: not JSON"),
        ("l.txt", "# nothing\n", "holds no address"),
    ],
)
def test_a_list_that_is_none_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        florence2.annotate(tmp_path / name, tmp_path / "s", [], fetching=Fetching(hosts=("*",)))


def test_a_data_set_of_the_hub_is_its_files(tmp_path, monkeypatch):
    import huggingface_hub

    folder, asked = folder_of(tmp_path, 2), []

    def snapshot_download(name, **more):
        asked.append((name, more["repo_type"], more["revision"]))
        if name == "no/net":
            raise OSError("cannot reach\nthe hub")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    store = florence2.annotate("hf:owner/set@refs/convert/parquet", tmp_path / "s", [Boxes()], workers=0)
    assert store.counts()["images"]["ok"] == 2 and asked == [("owner/set", "dataset", "refs/convert/parquet")]
    with pytest.raises(OSError, match="no/net: the hub cannot give it .* give their folder"):
        florence2.annotate("hf:no/net", tmp_path / "t", [])
    with pytest.raises(ValueError, match="expected hf:OWNER/NAME"):
        hub_datasets.download("hf:justaname")


def test_an_interrupted_fetch_ends_at_once(tmp_path):
    """Not when the servers that were asked have answered."""
    (tmp_path / "l.txt").write_text("".join(f"https://h.test/{n}\n" for n in range(40)))
    script = (
        "import sys, time; from pathlib import Path; from florence2.engine.ingest import url_lists as u\n"
        "def get(url, rules): print('asked', flush=True); time.sleep(60)\n"
        "u.fetch_list(Path(sys.argv[1]), u.Fetching(hosts=('h.test',)), get=get)"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "l.txt")], stdout=-1, stderr=-1)
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert b"KeyboardInterrupt" in child.communicate(timeout=30)[1] and time.monotonic() - began < 10


@pytest.mark.parametrize(
    "line",
    [
        '{"url": "https://h.test/a", "file": "../../victim.png", "bytes": 3}',
        '{"url": "https://h.test/a", "file": "NAME", "bytes": 1e999}',
        '{"url": "https://h.test/a", "file": "NAME", "bytes": "x"}',
        '{"url": "https://h.test/a"}',
        "[" * 100_000,
        "null",
        "\udcff",
    ],
)
def test_a_hostile_index_is_refused_in_one_line(tmp_path, line):
    index = tmp_path / url_lists.INDEX
    name = url_lists.name_of("https://h.test/a")
    index.write_bytes((line.replace("NAME", name) + "\n").encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match="damaged; delete the file") as error:
        url_lists.fetched_candidates(tmp_path)
    assert str(index) in str(error.value) and "\n" not in str(error.value)


def test_broken_unicode_and_odd_line_breaks_in_a_list(tmp_path):
    rows = [{"url": "https://h.test/\udc80", "licence": "\udc80"}, {"url": "https://h.test/a\u2028b"}]
    (tmp_path / "l.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = url_lists.fetch_list(tmp_path / "l.jsonl", Fetching(hosts=("h.test",)), get=lambda url, rules: b"x")
    found, _ = url_lists.fetched_candidates(folder)
    assert len(found) == 2 and all(f.bytes == 1 for f in found)
