"""Archives: from a server of this machine, from a folder, packed or not; damaged, hostile, missing; never unpacked."""

import dataclasses
import gzip
import hashlib
import io
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aire.data.formats.archives import Archive, Files, download, megabytes
from aire.utils import limits
from aire.utils.errors import UserError
from tests.helpers import refused

TREE = {
    "things/b/1.txt": b"first",
    "things/a/2.txt": bytes(range(256)) * 300,
    "things/notes.md": b"not wanted",
    "elsewhere/3.txt": b"not below the root",
}
WANTED = {"b/1.txt": TREE["things/b/1.txt"], "a/2.txt": TREE["things/a/2.txt"]}


def tar_bytes(tree: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    """A tar file of these members, followed by empty ones."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in tree.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in others:
            tar.addfile(member)
    return file.getvalue()


def publish(folder: Path, content: bytes, url: str = "http://localhost:9") -> Archive:
    """These bytes as an archive in `folder`, which `url` publishes."""
    folder.mkdir(exist_ok=True)
    path = folder / "things.tar.gz"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return Archive("Things", f"{url}/{path.name}", digest, len(content), root="things", pattern=r"./.*\.txt")


@pytest.fixture
def published(tmp_path, serve) -> Archive:
    return publish(tmp_path / "public", gzip.compress(tar_bytes(TREE)), serve(tmp_path / "public"))


def unpack(folder: Path, tree: dict[str, bytes] = TREE) -> Path:
    for name, content in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


# Downloading ---------------------------------------------------------------------------------------------------------


def test_downloaded_once(published, tmp_path, capsys):
    files = Files(published, tmp_path / "data")
    assert dict(files.members()) == WANTED
    assert f"Things: downloading {megabytes(published.size)} from http://" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "data/downloads").iterdir()} == {"things.tar.gz", "lock"}
    (tmp_path / "public/things.tar.gz").unlink()
    assert dict(files.members()) == WANTED
    assert capsys.readouterr().out == ""
    assert files.config_name() == "published"


def test_the_name_needs_no_download(published, tmp_path):
    assert Files(published, tmp_path / "data").config_name() == "published"
    assert not (tmp_path / "data").exists()


def test_a_damaged_download_is_replaced(published, tmp_path, capsys):
    path = download(published, tmp_path / "downloads")
    path.write_bytes(path.read_bytes()[:-1])
    path.with_name("tmpk1ll3d").write_bytes(b"of a killed process")
    assert dict(Files(published, tmp_path).members()) == WANTED
    assert capsys.readouterr().out.count("Things: downloading") == 2
    assert {entry.name for entry in path.parent.iterdir()} == {"things.tar.gz", "lock"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sha256": "0" * 64},
            r"things.tar.gz: not the published file: SHA256 .* expected 0{64} but got .{64};",
        ),
        ({"size": 5}, r"things.tar.gz: not the published file: more than its 5 bytes;"),
        ({"url": "http://localhost:9/things.tar.gz"}, r"cannot download .* \(.*Connection refused"),
    ],
)
def test_downloads_that_fail(published, tmp_path, changes, message):
    archive = dataclasses.replace(published, **changes)
    with pytest.raises(UserError, match=message) as error:
        download(archive, tmp_path / "data/downloads")
    assert "\n" not in str(error.value)
    assert "needed: things.tar.gz, " in str(error.value) and "--config.data.folder=FOLDER" in str(error.value)
    assert [path.name for path in (tmp_path / "data/downloads").iterdir()] == ["lock"]


def test_no_place_to_write(published, tmp_path):
    (tmp_path / "data").write_bytes(b"a file")
    with pytest.raises(UserError, match=r"cannot write .*data/downloads: "):
        download(published, tmp_path / "data/downloads")


def test_several_at_once(published, tmp_path, capsys):
    """Threads in the place of processes: the lock belongs to the open file."""
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(download, [published] * 3, [tmp_path / "downloads"] * 3))
    assert len(set(paths)) == 1
    assert capsys.readouterr().out.count("Things: downloading") == 1
    assert dict(Files(published, tmp_path).members()) == WANTED


# A folder of the user's ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["its folder", "itself"])
def test_the_archive_in_a_folder(published, tmp_path, given):
    folder = tmp_path / "public"
    files = Files(published, tmp_path / "data", folder if given == "its folder" else folder / "things.tar.gz")
    assert dict(files.members()) == WANTED
    assert files.config_name() == "published" and files.is_in_folder()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("packed", [True, False])
def test_another_archive_of_the_format(published, tmp_path, packed):
    content = tar_bytes(TREE | {"things/c/4.txt": b""})
    publish(tmp_path / "public", gzip.compress(content) if packed else content)
    files = Files(published, tmp_path, tmp_path / "public")
    assert dict(files.members()) == WANTED | {"c/4.txt": b""}
    assert files.config_name().startswith("folder_")


@pytest.mark.parametrize("below", ["", "things"])
def test_the_unpacked_tree(published, tmp_path, below):
    files = Files(published, tmp_path / "data", unpack(tmp_path / "tree") / below)
    assert list(files.members()) == sorted(WANTED.items()) and files.is_in_folder()
    before = files.config_name()
    assert before == files.config_name() and before.startswith("folder_")
    (tmp_path / "tree/things/notes.md").write_bytes(b"changed, and not wanted")
    assert files.config_name() == before
    (tmp_path / "tree/things/a/2.txt").write_bytes(b"changed")
    assert files.config_name() != before


@pytest.mark.parametrize(("folder", "message"), [("nowhere", "no such folder"), (".", "no files of Things in it")])
def test_nothing_there(published, tmp_path, folder, message):
    with pytest.raises(UserError, match=rf"{message}; needed: things.tar.gz, .* get it from http://.*=FOLDER$"):
        list(Files(published, tmp_path / "data", tmp_path / folder).members())
    assert not Files(published, tmp_path / "data", tmp_path).is_in_folder()


# Archives that are none ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.999])
def test_truncated(tmp_path, packed, share):
    content = tar_bytes(TREE).rstrip(b"\0")
    content = gzip.compress(content) if packed else content
    archive = publish(tmp_path, content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"things.tar.gz: damaged or not a tar archive .*; needed: things.tar.gz"):
        list(Files(archive, tmp_path / "data", tmp_path).members())


def test_cut_between_two_members(tmp_path):
    archive = publish(tmp_path, tar_bytes({"things/a/1.txt": b"x" * 512}).rstrip(b"\0"))
    with pytest.raises(UserError, match=r"damaged or not a tar archive \(no end of archive"):
        list(Files(archive, tmp_path / "data", tmp_path).members())


@pytest.mark.parametrize("packed", [True, False])
def test_flipped_bytes(tmp_path, packed):
    """A flipped bit gives one clear error if the file cannot be read. No flip that gzip's checksum covers passes."""
    content = bytearray(tar_bytes({"things/a/1.txt": bytes(range(200))}))
    content = bytearray(gzip.compress(content, mtime=0)) if packed else content
    for place in range(10 if packed else 0, len(content) if packed else 700, 5):
        damaged = content.copy()
        damaged[place] ^= 0x55
        archive = publish(tmp_path, bytes(damaged))
        try:
            list(Files(archive, tmp_path / "data", tmp_path).members())
        except UserError:
            continue
        assert not packed, place


@pytest.mark.parametrize("name", ["../outside.txt", "/tmp/outside.txt", "things/a/../../../outside.txt"])
def test_names_that_lead_outside_are_refused(tmp_path, name):
    archive = publish(tmp_path / "public", tar_bytes({name: b"hostile"}))
    with pytest.raises(UserError, match=f"refused, because its member '{name}' leads outside"):
        list(Files(archive, tmp_path / "data", tmp_path / "public").members())


def test_links_and_devices_are_ignored(tmp_path):
    others = []
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
        member = tarfile.TarInfo(f"things/a/{kind.decode()}.txt")
        member.type, member.linkname = kind, "/etc/passwd"
        others.append(member)
    archive = publish(tmp_path / "public", tar_bytes(TREE, *others))
    assert dict(Files(archive, tmp_path / "data", tmp_path / "public").members()) == WANTED


def test_a_member_that_occurs_twice_is_refused(tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("things/a/1.txt"))
    archive = publish(tmp_path / "public", file.getvalue())
    with refused("things.tar.gz: refused, because its member 'a/1.txt' occurs twice"):
        list(Files(archive, tmp_path / "data", tmp_path / "public").members())


def zeros(n: int) -> bytes:
    """A gzip file of n megabytes of zeros, which takes a thousandth of that, as many streams."""
    return gzip.compress(bytes(1_000_000)) * n


def tar_header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


HEADERS = {
    "a member that is not wanted": tar_header("elsewhere/1.txt", 8 * 10**9),
    "a wanted member": tar_header("things/a/1.txt", 8 * 10**9),
    "a long name": tar_header("././@LongLink", 8 * 10**9, tarfile.GNUTYPE_LONGNAME),
    "metadata": tar_header("././@PaxHeader", 8 * 10**9, tarfile.XHDTYPE),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_archives_that_would_fill_the_memory(tmp_path, header):
    """A declared size is refused at once. Otherwise reading stops when the limit is reached."""
    archive = publish(tmp_path / "public", gzip.compress(header) + zeros(150))
    tracemalloc.start()
    with refused(r"things.tar.gz: refused, because it unpacks to more than .* bytes, 10 times its own size"):
        list(Files(archive, tmp_path / "data", tmp_path / "public").members())
    assert tracemalloc.get_traced_memory()[1] < 400e6
    tracemalloc.stop()


def test_the_number_of_members_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MOST_MEMBERS", 3)
    archive = publish(tmp_path / "public", tar_bytes(TREE))
    with refused("things.tar.gz: refused, because it has more than 3 members"):
        list(Files(archive, tmp_path / "data", tmp_path / "public").members())
