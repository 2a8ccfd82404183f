"""``--fixed-batch``: one batch size on one thread, and half of it when the GPU's memory runs out.

There is no GPU here: the runner of the GPU providers is bound to host memory of a CPU session, as in
``test_nvidia``, and claims to run out of memory above a batch size.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from glomedge.cli import app
from glomedge.engine import engine, loading, providers
from glomedge.engine.backends import onnxrt
from glomedge.engine.backends.gpu_memory import DeviceRunner
from glomedge.engine.options import EngineOptions
from glomedge.engine.runner import Opened, OutOfMemoryError, RawOutput, Runner, SessionRequest
from glomedge.errors import EngineError, SelfTestError, UsageError
from glomedge.model.spec import BatchProfile
from glomedge.runs.folder import Options, infer_folder
from helpers import builders
from helpers.run_kit import write_crops


@dataclass
class Card:
    """A GPU with little memory, and what was done with it.

    Attributes:
        room: largest batch it runs; ``room_to_open``: largest it opens a session for.
        dies_after: it is lost after so many runs.
        wrong_below: sessions for a smaller batch than this answer wrongly.
        events: ``open N``, ``run N``, ``freed N``, ``freed buffers of N``, ``forget N``; N the batch of the session.
        threads: that opened, ran or closed a session.
    """

    room: int = 1024
    room_to_open: int = 1024
    dies_after: int = 1 << 30
    wrong_below: int = 0
    events: list[str] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    profiles: list[BatchProfile] = field(default_factory=list)

    def open(self, request: SessionRequest) -> Runner:
        batch = request.profile.max
        self.profiles.append(request.profile)
        self.note(f"open {batch}")
        if batch > self.room_to_open:
            raise OutOfMemoryError("There is not enough memory to load it.")
        session = onnxrt.create_session(request, [(onnxrt.CPU, {})], onnxrt.session_options(request))
        weakref.finalize(session, self.note, f"freed {batch}")
        sizes = tuple(sorted({request.profile.min, request.profile.opt, request.profile.max}))

        def forget() -> bool:
            self.note(f"forget {batch}")
            return True

        return CardRunner(self, session, Opened("fp32", {}, {}), sizes, device="cpu", forget=forget)

    def note(self, event: str) -> None:
        self.threads.add(threading.get_ident())
        self.events.append(event)


class CardRunner(DeviceRunner):
    """The GPU providers' own runner on that card."""

    def __init__(
        self, card: Card, session: object, opened: Opened, sizes: tuple[int, ...], device: str,
        forget: Callable[[], bool],
    ) -> None:  # fmt: skip
        super().__init__(session, opened, sizes, device, forget)
        self._card = card

    def run(self, images_nhwc: npt.NDArray[np.uint8]) -> RawOutput:
        batch = len(images_nhwc)
        self._card.note(f"run {batch}")
        if batch > self._card.room:
            slot = self._make_slot(batch)  # held by the error's traceback
            weakref.finalize(slot, self._card.note, f"freed buffers of {batch}")
            raise OutOfMemoryError(f"Out of memory at a batch of {len(slot.staging)}.")
        if len(runs(self._card)) > self._card.dies_after:
            raise EngineError("The device is lost.")
        probability, activation = super().run(images_nhwc)
        return (1 - probability if batch < self._card.wrong_below else probability), activation


Insert = Callable[[Card], None]


@pytest.fixture
def insert(monkeypatch: pytest.MonkeyPatch) -> Insert:
    """Puts the card into the table of providers, as ``card``."""

    def do(card: Card) -> None:
        cpu = providers.named("cpu")
        entry = providers.Provider("card", cpu.install, cpu.unusable, card.open, gpu=True)
        monkeypatch.setitem(providers.PROVIDERS, "card", entry)

    return do


def crops(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    base = rng.integers(40, 216, (count, 1, 1, 3))
    return (base + rng.integers(-40, 40, (count, 224, 224, 3))).astype(np.uint8)


def check(images: npt.NDArray[np.uint8], output: engine.Output) -> None:
    logit = builders.tiny_logit(images)
    np.testing.assert_allclose(output.probability, 1 / (1 + np.exp(-logit)), atol=1e-5)
    assert output.activation is not None
    np.testing.assert_allclose(output.activation.mean(axis=(1, 2)), logit, atol=1e-4)


def runs(card: Card) -> list[str]:
    return [event for event in card.events if event.startswith("run")]


def test_every_call_has_the_one_shape_and_the_one_thread(tiny_model: Path, insert: Insert) -> None:
    card = Card()
    insert(card)
    batches = [crops(count, seed) for seed, count in enumerate([1, 8, 5, 19] * 4)]
    with loading.load(tiny_model, "card", fixed_batch=True, max_batch=8) as model, ThreadPoolExecutor(4) as pool:
        for images, output in zip(batches, pool.map(model.infer, batches), strict=True):
            check(images, output)
    assert card.profiles == [BatchProfile(min=8, opt=8, max=8)]
    assert set(runs(card)) == {"run 8"}
    assert len(card.threads) == 1
    assert threading.get_ident() not in card.threads
    assert card.events[-1] == "freed 8"


def test_without_the_option_nothing_has_a_thread_of_its_own(tiny_model: Path, insert: Insert) -> None:
    card = Card()
    insert(card)
    with loading.load(tiny_model, "card", batch_size=4, max_batch=8) as model:
        check(crops(3), model.infer(crops(3)))
    assert card.profiles == [BatchProfile(min=1, opt=4, max=8)]
    assert card.threads == {threading.get_ident()}


def test_out_of_memory_opens_a_session_for_half_the_batch_once_the_old_one_is_gone(
    tiny_model: Path, insert: Insert
) -> None:
    card = Card()
    insert(card)
    with loading.load(tiny_model, "card", fixed_batch=True, batch_size=16) as model:
        card.room = 5  # another program took the rest
        card.events.clear()
        gc.disable()  # it must all go by itself, not when the collector happens to come
        try:
            check(crops(10), model.infer(crops(10)))
        finally:
            gc.enable()
        notes = model.runtime.notes
    golden = "run 4"
    assert card.events == [
        "run 16", "freed 16", "freed buffers of 16",
        "open 8", "run 8", "freed 8", "freed buffers of 8",
        "open 4", golden, "run 4", "run 4", "run 4", "freed 4",
    ]  # fmt: skip
    assert notes[-2:] == (
        "out of memory at a fixed batch of 16: reopened for 8",
        "out of memory at a fixed batch of 8: reopened for 4",
    )
    assert model.runtime.notes == notes


def test_callers_that_wait_are_answered_by_the_smaller_session(tiny_model: Path, insert: Insert) -> None:
    card = Card()
    insert(card)
    batches = [crops(count, seed) for seed, count in enumerate([8, 3, 8, 17] * 4)]
    with loading.load(tiny_model, "card", fixed_batch=True, max_batch=8) as model, ThreadPoolExecutor(4) as pool:
        card.room = 3
        for images, output in zip(batches, pool.map(model.infer, batches), strict=True):
            check(images, output)
    assert [profile.max for profile in card.profiles] == [8, 4, 2]
    assert len(card.threads) == 1


def test_a_session_that_does_not_fit_is_opened_for_half(tiny_model: Path, insert: Insert) -> None:
    card = Card(room_to_open=3)
    insert(card)
    with loading.load(tiny_model, "card", fixed_batch=True, max_batch=8) as model:
        check(crops(5), model.infer(crops(5)))
        assert "out of memory at a fixed batch of 4: reopened for 2" in model.runtime.notes
    assert [profile.max for profile in card.profiles] == [8, 4, 2]


def test_no_room_for_one_crop_is_an_engine_error(tiny_model: Path, insert: Insert) -> None:
    card = Card()
    insert(card)
    with loading.load(tiny_model, "card", fixed_batch=True, max_batch=5) as model:
        card.room = 0
        with pytest.raises(EngineError, match=r"batch of 1\. A smaller batch is not possible.*--provider cpu"):
            model.infer(crops(4))
        assert [profile.max for profile in card.profiles] == [5, 2, 1]
        assert "freed 1" in card.events
        card.room = 1  # the other program ended
        check(crops(3), model.infer(crops(3)))
    insert(Card(room_to_open=0))
    with pytest.raises(EngineError, match="A smaller batch is not possible"):
        loading.load(tiny_model, "card", fixed_batch=True, max_batch=4)


def test_the_smaller_session_must_pass_the_self_test_too(tiny_model: Path, insert: Insert) -> None:
    card = Card(wrong_below=8)
    insert(card)
    with loading.load(tiny_model, "card", fixed_batch=True, max_batch=8) as model:
        card.room = 4
        card.events.clear()
        with pytest.raises(SelfTestError, match=r"on provider card at a fixed batch of 4.*removed from it"):
            model.infer(crops(8))
    assert card.events[-4:] == ["open 4", "run 4", "forget 4", "freed 4"]


def test_a_closed_engine_says_so(tiny_model: Path, insert: Insert) -> None:
    insert(Card())
    model = loading.load(tiny_model, "card", fixed_batch=True, max_batch=2)
    runner = model._runner
    assert runner is not None
    model.close()
    model.close()
    with pytest.raises(EngineError, match="closed"):
        model.infer(crops(1))
    with pytest.raises(EngineError, match="closed"):  # a caller that was under way when another closed it
        runner.run(crops(1))


def test_a_cpu_says_that_it_changes_nothing(tiny_model: Path) -> None:
    with loading.load(tiny_model, "cpu", fixed_batch=True, max_batch=4) as model:
        assert model.runtime.notes == ("--fixed-batch is for GPUs and changes nothing on cpu",)
        check(crops(6), model.infer(crops(6)))


@pytest.mark.parametrize(
    ("sizes", "batch"),
    [
        ([], 32),
        (["--batch-size", "6"], 6),
        (["--max-batch", "6"], 6),
        (["--batch-size", "6", "--max-batch", "6"], 6),
    ],
)
def test_warm_builds_what_infer_will_open(
    tiny_model: Path, tmp_path: Path, insert: Insert, sizes: list[str], batch: int
) -> None:
    card = Card()
    insert(card)
    write_crops(tmp_path / "crops", 3, broken=0)
    common = ["--provider", "card", "--fixed-batch", *sizes]
    for arguments in (
        ["warm", str(tiny_model), *common],
        ["infer", str(tmp_path / "crops"), "-m", str(tiny_model), "-o", str(tmp_path / "o"), *common],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    assert card.profiles == [BatchProfile(min=batch, opt=batch, max=batch)] * 2


def test_two_sizes_that_differ_are_refused(tiny_model: Path, tmp_path: Path, insert: Insert) -> None:
    insert(Card())
    options = Options(tmp_path, tiny_model, engine=EngineOptions("card", fixed_batch=True, batch_size=4, max_batch=8))
    with pytest.raises(UsageError, match=r"--fixed-batch runs one batch size.*--batch-size 4 is not --max-batch 8"):
        options.check()
    replace(options, engine=replace(options.engine, fixed_batch=False)).check()
    sizes = ["--batch-size", "4", "--max-batch", "8"]
    result = CliRunner().invoke(app, ["warm", str(tiny_model), "--provider", "card", "--fixed-batch", *sizes])
    assert isinstance(result.exception, UsageError)
    assert "--fixed-batch runs one batch size" in str(result.exception)


def test_a_run_on_a_card_that_shrinks_gives_the_same_rows_and_can_be_resumed(
    tiny_model: Path, tmp_path: Path, insert: Insert
) -> None:
    write_crops(tmp_path / "crops", 40)
    options = Options(
        tmp_path / "crops", tiny_model, tmp_path / "usual", report=False, engine=EngineOptions("card", batch_size=8)
    )
    insert(Card())
    usual = infer_folder(options)
    fixed = replace(options, output=tmp_path / "fixed", engine=replace(options.engine, fixed_batch=True))
    insert(Card(dies_after=3))
    with pytest.raises(EngineError, match="lost"):
        infer_folder(fixed)
    card = Card(room=5)
    insert(card)
    resumed = infer_folder(replace(fixed, resume=True))
    assert resumed.complete
    assert 0 < resumed.predicted < usual.answered
    assert (tmp_path / "usual" / "predictions.csv").read_text() == (tmp_path / "fixed" / "predictions.csv").read_text()
    assert any("reopened for 4" in note for note in resumed.notes)
    assert usual.counts == resumed.counts
