"""Two hundred malicious files, made to fill the memory, hang, run code or write outside their folder."""

import copy
import gzip
import io
import json
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack

import aire
from aire import convert, zoo
from aire.data.cifar10 import parse_pickle
from aire.data.formats.archives import Archive, Files
from aire.data.formats.idx import unpack
from aire.models import Classifier, ModelConfig
from aire.ssm import LRUConfig, S5Config
from aire.utils import digests
from experiments.evaluations import EvaluationFile
from experiments.paper_table import saved_runs
from tests.campaign.attack import Attack, Outcome, attempt
from tests.io.test_damaged_files import CONFIGS, HEADERS, packed

CASES = 200
SINKS = {
    "lru": ModelConfig(3, 4, 2, (3,), LRUConfig(), activation="full_glu"),
    "s5": ModelConfig(3, 4, 2, (3,), S5Config()),
}
DEEP = 100_000
VALUES = (None, "x", "", -1, 0, 2.5, 1e308, float("nan"), float("inf"), 10**9, 10**30, True, [], [[]], {}, ["x"], [-1])

Case = tuple[str, bytes, Callable[[Path], Any]]  # name, content of the file, how the program reads it


class Bomb:
    """Its pickle creates a file when it is loaded."""

    def __reduce__(self):
        return open, ("exploded", "w")


# Model files ---------------------------------------------------------------------------------------------------------


def model_files() -> Iterator[Case]:
    for name, (header, _) in HEADERS.items():
        yield f"header: {name}", packed(header, bytes(4)), aire.load
    for name, (config, _) in CONFIGS.items():
        for key in ("aire.ModelConfig.1", "aire.model.2"):
            text = config if isinstance(config, str) else json.dumps(config)
            if key == "aire.model.2" and not isinstance(config, str):
                text = json.dumps(digests.seal({"config": config, "arrays": {}}))
            yield f"config: {name}, {key}", packed({"__metadata__": {key: text}}), aire.load


def changed_models(draw: random.Random, n: int) -> Iterator[Case]:
    """Files of the zoo with one value of the header replaced and a valid digest of the record."""
    for i in range(n):
        content = zoo.path(draw.choice(zoo.names())).read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        record = json.loads(header["__metadata__"]["aire.model.2"])
        del record["sha256"]
        where = draw.choice([record["config"], record["config"]["ssm"], record, header[draw.choice(list(header)[1:])]])
        name, value = draw.choice(list(where)), copy.deepcopy(draw.choice(VALUES))
        where[name] = value
        header["__metadata__"]["aire.model.2"] = json.dumps(digests.seal(record))
        yield f"changed {i}: {name}={value}", packed(header, content[end:]), aire.load


# Archives ------------------------------------------------------------------------------------------------------------


def read_archive(path: Path) -> dict:
    archive = Archive("Things", f"http://localhost:9/{path.name}", "0" * 64, 1, root="things", pattern=r".*\.txt")
    return dict(Files(archive, path.parent, path).members())


def tar(*members: tuple[str, int, bytes]) -> bytes:
    """Archives of headers without content. A header is a name, a declared size and a type."""
    blocks = []
    for name, size, kind in members:
        member = tarfile.TarInfo(name)
        member.size, member.type, member.linkname = size, kind, "/etc/passwd"
        blocks.append(member.tobuf(tarfile.GNU_FORMAT))
    return b"".join(blocks)


def archives() -> Iterator[Case]:
    zeros = gzip.compress(bytes(1_000_000))
    end = bytes(10240)
    kinds = {"file": b"0", "link": b"1", "symlink": b"2", "device": b"3", "sparse": b"S", "pax": b"x", "long": b"L"}
    for name, kind in kinds.items():
        for size in (0, 8 * 10**9, 8 * 10**11):
            header = gzip.compress(tar(("things/a.txt", size, kind)))
            yield f"tar {name} of {size}", header + zeros * 200, read_archive
    for name in ("../a.txt", "/a.txt", "things/../../a.txt", "things/" + "9" * 5000 + ".txt", "things/\n.txt"):
        yield f"tar name {name[:20]!r}", tar((name, 0, b"0")) + end, read_archive
    yield "tar twice", tar(*[("things/a.txt", 0, b"0")] * 2) + end, read_archive
    yield "tar members", gzip.compress(tar(("things/a.txt", 0, b"0")) * 300_000), read_archive
    yield "tar negative", tar(("things/a.txt", 0, b"0"))[:124] + b"\xff" * 12 + bytes(376) + end, read_archive
    yield "gzip of gzip", gzip.compress(zeros * 1000), read_archive
    for n in (70, 700, 7000):
        yield f"idx of {n} MB", zeros * n, lambda path: unpack(path.read_bytes(), str(path)).parse((28, 28))
    for n in (2**32 - 1, 10**6):
        content = bytes((0, 0, 8, 3)) + struct.pack(">3I", n, 28, 28)
        yield f"idx of {n} images", content, lambda path: unpack(path.read_bytes(), str(path)).parse((28, 28))


# Checkpoints of other programs ---------------------------------------------------------------------------------------


def npy(header: str) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def npz(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def checkpoints() -> Iterator[Case]:
    def lru(path: Path) -> Classifier:
        return convert.from_file(path.rename(path.with_suffix(".npz")), SINKS["lru"])

    def s5(path: Path) -> Classifier:
        return convert.from_file(path.rename(path.with_suffix(".msgpack")), SINKS["s5"])

    shapes = ("(1000000, 1000000)", "(-1,)", "(10**9,)", "(1e9,)", "((),)", "'x'", "(" * 1000)
    for shape in shapes:
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        yield f"npy shape {shape[:20]}", npz(("blocks/0/lru/B_re.npy", npy(header))), lru
    for descr in ("|O", "<f999999999", "__import__('os').system('touch exploded')", "<U999999999"):
        header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,), }}"
        yield f"npy dtype {descr[:20]}", npz(("a.npy", npy(header))), lru
    yield "npz bomb", npz(("a.npy", bytes(300_000_000))), lru
    yield (
        "npz pickle",
        npz(("a.npy", npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + pickle.dumps(Bomb()))),
        lru,
    )
    for name in ("../a.npy", "/a.npy", "blocks/" + "9" * 5000 + "/lru/nu_log.npy", "blocks/999999/lru/nu_log.npy"):
        yield (
            f"npz name {name[:20]}",
            npz((name, npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }"))),
            lru,
        )
    texts = {
        "nested": b"\x91" * DEEP,
        "nested maps": b"\x81\xa1a" * DEEP,
        "array of 4e9": b"\xdd\xff\xff\xff\xff",
        "map of 4e9": b"\xdf\xff\xff\xff\xff",
        "bytes of 4e9": b"\xc6\xff\xff\xff\xff",
        "pickle": pickle.dumps(Bomb()),
        "int": b"\x01",
        "empty map": b"\x80",
        "params": msgpack.packb({"params": 1}),
        "many keys": msgpack.packb({"params": {str(i): {} for i in range(100_000)}}),
        "array": msgpack.packb({"params": {"a": msgpack.ExtType(1, msgpack.packb(((10**9, 10**9), "float32", b"")))}}),
        "dtype": msgpack.packb({"params": {"a": msgpack.ExtType(1, msgpack.packb(((1,), "object", bytes(8))))}}),
        "chunks": msgpack.packb(
            {"params": {"a": {"__msgpack_chunked_array__": True, "shape": {"0": 10**12}, "chunks": {}}}}
        ),
    }
    for name, content in texts.items():
        yield f"msgpack {name}", content, s5
    pickles = {
        "code": pickle.dumps(Bomb(), 2),
        "protocol 4": pickle.dumps({"data": 1}),
        "text": b"\x80\x02" + b"(" * DEEP + b".",
        "lists": b"\x80\x02]q\x00" + b"]h\x00ah\x00a" * 1000 + b".",
        "itself": b"\x80\x02]q\x00h\x00a.",
        "long": b"\x80\x02L" + b"9" * 5000 + b"L\n.",
        "string": b"\x80\x02T\xff\xff\xff\x7f.",
        "memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
    }
    for name, content in pickles.items():
        yield f"pickle {name}", content, lambda path: parse_pickle(path.read_bytes(), str(path))


# Records -------------------------------------------------------------------------------------------------------------


def records() -> Iterator[Case]:
    def evaluations(path: Path) -> dict:
        return dict(EvaluationFile(path))

    def results(path: Path) -> list:
        (path.parent / "run").mkdir()
        path.rename(path.parent / "run" / "results.json")
        models, damaged = saved_runs.find(path.parent)
        return models if all("\n" not in reason for reason in damaged.values()) else [damaged]

    texts = ("[" * DEEP, "9" * 5000, '{"key": "a", "key": "b"}', "\0", "{}", "[]", "null", '{"sha256": []}', "\ud800")
    texts += (
        '{"key": {}, "loss": 1, "accuracy": 1}',
        '{"key": "a", "loss": "1", "accuracy": 1}',
        '{"config": {"experiment": []}}',
    )
    texts += ('{"config": {"experiment": "prune"}}', '{"config": {"experiment": "compare", "train": 3}}', "{" * DEEP)
    for text in texts:
        content = text.encode(errors="surrogatepass") + b"\n"
        yield f"evaluations {text[:30]!r}", content, evaluations
        yield f"results {text[:30]!r}", content, results


def cases() -> list[Case]:
    fixed = [*model_files(), *archives(), *checkpoints(), *records()]
    return fixed + list(changed_models(random.Random(0), max(60, CASES - len(fixed))))


def run(folder: Path) -> Iterator[Outcome]:
    for number, (name, content, read) in enumerate(cases()):
        path = folder / str(number) / "file"
        path.parent.mkdir()
        path.write_bytes(content)
        yield attempt(name, lambda path=path, read=read: read(path), is_harmless)
        assert not Path("exploded").exists(), name


def is_harmless(value: Any) -> bool:
    """Whether the result is right: a model with valid options, data by name without the hostile entries, or nothing."""
    return not value or isinstance(value, Classifier) or set(map(type, value)) == {str}


ATTACK = Attack("a hostile file", CASES, run)
