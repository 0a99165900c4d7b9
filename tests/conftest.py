"""Fixtures: CPU only, small layers and models."""

import functools
import gc
import os
from importlib.metadata import version

gc.set_threshold(10_000, 10, 10)  # with the default, garbage collection takes a tenth of the CPU time
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's threads would wait for each other on busy cores
# Tests compile many small programs and run each a few times: compile fast, and share the results between processes.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
FLAGS += ["--xla_cpu_parallel_codegen_split_count=1"]
if version("jaxlib").startswith("0.10."):  # later releases have only the new emitters, which take twice as long
    FLAGS += ["--xla_cpu_use_fusion_emitters=false"]
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
CACHE = os.path.join(os.path.dirname(__file__), "..", ".pytest_cache", "jax")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import contextlib
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import jaxtyping
import numpy as np
import pytest
import typechecker
from flax import nnx
from flax.nnx.nn import normalization

typechecker.install(["aire.ssm", "aire.models", "aire.pruning"])

from aire.models import Classifier, ModelConfig
from aire.ssm import S4D, S5, S4DConfig, S5Config, StateSpaceLayer, ssm_config

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def promoting(fn: Callable) -> Callable:
    """The function with JAX's standard promotion."""

    @functools.wraps(fn)
    def call(*args, **options):
        with jax.numpy_dtype_promotion("standard"):
            return fn(*args, **options)

    return call


for name in ("_normalize", "_compute_stats"):  # Flax's norms promote bfloat16 to float32
    setattr(normalization, name, promoting(getattr(normalization, name)))


def pytest_collection_finish() -> None:
    """Let the garbage collector skip the objects of the imports."""
    gc.collect()
    gc.freeze()


@functools.cache
def once(kind: type, *args, seed: int):
    if issubclass(kind, StateSpaceLayer):  # compile a layer's initialisation as one program
        return nnx.jit(lambda: kind(*args, rngs=nnx.Rngs(seed)))()
    return kind(*args, rngs=nnx.Rngs(seed))


def made(kind: type, *args, seed: int):
    """Return a new module. Its initial parameters are drawn once and copied."""
    return nnx.clone(once(kind, *args, seed=seed))


@pytest.fixture(scope="module")
def jax_defaults():
    """JAX's own promotion of ranks and dtypes, as in a user's program."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def unchecked_types(monkeypatch):
    """Switch off the tests' type checks, as in a user's program."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def x64():
    """float64 for oracles that need more digits than float32 has."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def make_layer() -> Callable[..., S5]:
    def make(d_model: int = 3, n_states: int = 6, seed: int = 0, **options) -> S5:
        return made(S5, d_model, n_states, S5Config(**{"blocks": 2, **options}), seed=seed)

    return make


@pytest.fixture
def make_bank() -> Callable[..., S4D]:
    """S4D with channels of different sizes, the second of them empty."""

    def make(counts=(3, 0, 1, 4), seed: int = 0, layer: type[S4D] = S4D, **options) -> S4D:
        N = max(*counts, 1)
        full = made(layer, len(counts), N * len(counts), S4DConfig(**options), seed=seed)
        return full.cut(np.concatenate([np.arange(N) < count for count in counts]))

    return make


@pytest.fixture
def make_model() -> Callable[..., Classifier]:
    def make(state_sizes=(6, 6, 6), seed: int = 0, d_model: int = 8, ssm: dict | None = None, **options) -> Classifier:
        ssm = {"bidirectional": True, **(ssm or {})}
        if ssm.get("kind", "s5") == "s5":
            ssm = {"blocks": 2, **ssm}
        config = ModelConfig(20, d_model, 10, tuple(state_sizes), ssm_config(ssm), **options)
        model = made(Classifier, config, seed=seed)
        model.eval()
        return model

    return make


@pytest.fixture
def serve():
    """Publishes a folder on this machine: `serve(folder)` is its address."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with contextlib.ExitStack() as stack:

        def start(folder: Path) -> str:
            server = ThreadingHTTPServer(("localhost", 0), partial(Handler, directory=folder))
            stack.callback(server.server_close)
            threading.Thread(target=server.serve_forever, args=[0.01]).start()
            stack.callback(server.shutdown)
            return f"http://localhost:{server.server_port}"

        yield start
