"""Every fast path computes what the plain reference computes, and resumes from a checkpoint as exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from services.trainer.data.sampler import Sampler
from services.trainer.networks import strided
from services.trainer.runs.checkpoint import pack, unpack
from services.trainer.training.compiler import check_compiler
from services.trainer.training.cuda_graph import WARM_UP, make_iteration
from services.trainer.training.errors import CaptureFailed
from services.trainer.training.runtime import PLAIN, Runtime, choose_runtime, fastest
from services.trainer.training.state import TrainState
from services.trainer.training.steps import train_iteration
from services.trainer.training.stopwatch import OFF
from shared.configs.train import TrainConfig
from shared.errors import InvalidInput
from shared.settings import FAST_PATHS, Settings, read_settings
from tests.trainer.small import CPU, random_images, small_config, small_keras, small_projected, small_resnet
from tests.trainer.training.reference import reference_iteration

DATASET = random_images(40)
WIDE: dict[str, Any] = {"g_channels": [32, 16, 16], "d_channels": [16, 16, 32], "total_nimg": 10**6}
FAST_BUT_PLAIN_PRODUCTS = replace(fastest(CPU), winograd=False, resample=False)

CASES: dict[str, TrainConfig] = {
    "wgan-gp": small_config("wgan-gp", n_critic=2, **WIDE),
    "wgan-gp-conditional": small_config("wgan-gp-conditional", n_critic=2, **WIDE),
    "tiny": small_config("tiny", **WIDE),
    "dcgan, bce, spectral norm": small_config("tiny", loss="bce", spectral_norm=True, **WIDE),
    "keras-dcgan, batch norm, dropout": small_keras("bndrhl"),
    "resnet, hinge": small_resnet("tiny", spectral_norm=True, total_nimg=10**6),
    "dcgan, class loss": small_config("tiny", class_weight=2.0, n_critic=2, **WIDE),
    "best": small_resnet("best", d_channels=[8, 8, 8, 8], n_critic=2, total_nimg=10**6),
    "cpu-hours": small_resnet("cpu-hours", d_channels=[8, 8, 8], total_nimg=10**6),
    "wgan-gp, bf16": small_config("wgan-gp", n_critic=2, precision="bf16", **WIDE),
    "resnet, penalty": small_resnet("wgan-gp", n_critic=2, total_nimg=10**6),
    "projected": small_projected(
        feature_px=32,
        g_batch="shared",
        diffaugment=["translation", "cutout"],
        diffaugment_p=0.7,
        total_nimg=10**6,
    ),
}


@pytest.fixture(autouse=True)
def winograd_for_narrow_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks in these tests have fewer channels than Winograd's products need on some processors."""
    monkeypatch.setattr(strided, "MIN_WINOGRAD_CHANNELS", 16)


def trained(
    config: TrainConfig, runtime: Runtime, iterations: int, device: torch.device = CPU, state: TrainState | None = None
) -> TrainState:
    """Trains as the loop does, without messages."""
    dataset = DATASET.to(device)
    state = state or TrainState(config, len(dataset.classes), device, runtime)
    iterate = make_iteration(state, dataset)
    train(state, iterations, lambda chosen: iterate(chosen, OFF))
    return state


def train(state: TrainState, iterations: int, iterate: Callable[[Tensor], None]) -> None:
    sampler, nimg = Sampler(len(DATASET), state.config.seed), state.config.n_critic * state.config.real_batch_size
    for _ in range(iterations):
        state.set_learning_rates()
        iterate(sampler.batch(state.cur_nimg, nimg))
        state.cur_nimg += nimg
        state.update_ema(nimg)


def _nothing(*_: Any, **__: Any) -> None:
    """An optimizer's step that changes no weight, so that a test can read the gradients."""


def tensors_of(state: TrainState) -> dict[str, Tensor]:
    networks = {f"{n}.{key}": v for n, net in state.networks().items() for key, v in net.state_dict().items()}
    return networks | {"sums": state.sums}


@pytest.mark.parametrize("case", CASES)
def test_an_iteration_equals_the_reference_to_the_bit(case: str) -> None:
    # Given one iteration of each with the same arithmetic (no Winograd products); the sums add up in another order
    reference = TrainState(CASES[case], 10, CPU, FAST_BUT_PLAIN_PRODUCTS)
    train(reference, 1, lambda chosen: reference_iteration(reference, DATASET, chosen))
    drawn = torch.get_rng_state()
    state = trained(CASES[case], FAST_BUT_PLAIN_PRODUCTS, 1)
    # Then they drew the same random numbers, and all weights are equal
    assert torch.equal(torch.get_rng_state(), drawn)
    torch.testing.assert_close(state.sums, reference.sums, rtol=1e-6, atol=1e-6)
    expected = tensors_of(reference) | {"sums": state.sums}
    assert [name for name, value in tensors_of(state).items() if not torch.equal(value, expected[name])] == []


@pytest.mark.parametrize(
    ("words", "case", "product"),
    [
        ("none,+winograd", "tiny", "conv4x4"),
        ("none,+winograd", "tiny", "conv_transpose4x4"),
        ("none,+resample", "resnet, hinge", "double_filters"),
        ("none,+resample", "resnet, hinge", "halve_filters"),
    ],
)
def test_a_fast_product_is_used_when_it_is_the_only_path_that_is_on(
    monkeypatch: pytest.MonkeyPatch, words: str, case: str, product: str
) -> None:
    calls: list[tuple[Any, ...]] = []
    original = getattr(strided, product)

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(strided, product, counted)
    trained(CASES[case], choose_runtime(CPU, Settings(fast_paths="none")), 1)
    assert calls == []
    trained(CASES[case], choose_runtime(CPU, Settings(fast_paths=words)), 1)
    assert calls


@pytest.mark.parametrize(
    ("case", "path"),
    [
        *((case, path) for case in ("wgan-gp-conditional", "tiny") for path in ("channels_last", "winograd")),
        *((case, "resample") for case in ("resnet, hinge", "resnet, penalty", "best")),
    ],
)
def test_each_path_alone_agrees_with_the_plain_reference(case: str, path: str) -> None:
    # Given one iteration with every path off, and one with a single path on; in fp32, where rounding is small
    config = CASES[case].model_copy(update={"precision": "fp32"})
    reference = trained(config, PLAIN, 1)
    drawn = torch.get_rng_state()
    fast = trained(config, replace(PLAIN, **{path: True}), 1)
    # Then weights and losses agree to rounding. Adam's first step moves each weight by lr, however small its gradient,
    # so where a gradient is zero but for rounding the two may move apart by twice that
    assert torch.equal(torch.get_rng_state(), drawn)
    torch.testing.assert_close(fast.sums, reference.sums, rtol=1e-4, atol=1e-4)
    moved = tensors_of(reference)
    for name, value in tensors_of(fast).items():
        difference = (value.double() - moved[name].double()).abs()
        if not is_cancelled_by_batch_norm(name):
            assert (difference > 3e-5 * (1 + moved[name].abs())).double().mean() < 0.01, name
        if "running" not in name and name != "sums":
            assert difference.max() < 2.1 * config.lr * config.n_critic, name


def is_cancelled_by_batch_norm(parameter: str) -> bool:
    """Whether its gradient is zero but for rounding: a residual generator's norms subtract what these biases add."""
    in_generator = parameter.startswith(("generator.blocks", "ema.blocks"))
    return in_generator and parameter.endswith(("conv1.bias", "conv2.bias", "shortcut.bias"))


def gradients_of(config: TrainConfig, runtime: Runtime) -> dict[str, Tensor | None]:
    """The gradients of one iteration, as the optimizers receive them."""
    state = TrainState(config, 10, CPU, runtime)
    for optimizer in (state.opt_d, state.opt_g):
        optimizer.step = _nothing  # type: ignore[method-assign]
    train_iteration(state, DATASET, torch.arange(config.n_critic * config.real_batch_size))
    networks = {"discriminator": state.discriminator, "generator": state.generator}
    return {f"{n}.{k}": p.grad for n, net in networks.items() for k, p in net.named_parameters()}


@pytest.mark.parametrize("case", ["wgan-gp", "wgan-gp-conditional", "tiny", "dcgan, class loss", "resnet, hinge"])
def test_fast_networks_have_the_gradients_of_plain_ones(case: str) -> None:
    """Sharper than comparing weights, because no optimizer step follows."""
    gradients = [gradients_of(CASES[case], runtime) for runtime in (PLAIN, fastest(CPU))]
    for name, expected in gradients[0].items():
        assert expected is not None
        got = gradients[1][name]
        assert got is not None
        if is_cancelled_by_batch_norm(name):
            assert max(got.norm(), expected.norm()) < 1e-5, name
        else:
            assert (got - expected).norm() <= 1e-4 * expected.norm() + 1e-9, name


def test_winograd_products_in_bf16_round_about_as_much_as_plain_products() -> None:
    # Given the gradients of one iteration, second derivatives among them: exact ones, and two ways in bf16
    exact = gradients_of(CASES["wgan-gp"], PLAIN)
    plain = gradients_of(CASES["wgan-gp, bf16"], PLAIN)
    fast = gradients_of(CASES["wgan-gp, bf16"], replace(PLAIN, winograd=True))
    # Then each layer's error is that of a few additional roundings; a missing derivative would be off by 100 %
    for name, expected in exact.items():
        assert expected is not None
        ways = plain[name], fast[name]
        one, other = (((way if way is not None else 0) - expected).norm() / expected.norm() for way in ways)
        assert 0 < other < 3 * one < 0.5, name


@pytest.mark.parametrize("runtime", [PLAIN, fastest(CPU)], ids=["all off", "all on"])
@pytest.mark.parametrize("case", ["wgan-gp-conditional", "tiny", "cpu-hours", "wgan-gp, bf16"])
def test_a_resumed_run_is_exact_with_every_path_and_with_none(case: str, runtime: Runtime) -> None:
    # Given a run of four iterations, and one that was saved after two and loaded elsewhere
    undisturbed = trained(CASES[case], runtime, 4)
    drawn = torch.get_rng_state()
    saved = pack(trained(CASES[case], runtime, 2).state_dict())
    torch.manual_seed(99)
    resumed = TrainState(CASES[case], 10, CPU, runtime)
    torch.manual_seed(99)
    resumed.load_state_dict(unpack(saved))
    trained(CASES[case], runtime, 2, state=resumed)
    # Then both end with the same bits
    assert torch.equal(torch.get_rng_state(), drawn)
    for name, value in tensors_of(resumed).items():
        assert torch.equal(value, tensors_of(undisturbed)[name]), name
    for one, other in ((undisturbed.opt_d, resumed.opt_d), (undisturbed.opt_g, resumed.opt_g)):
        for left, right in zip(one.state.values(), other.state.values(), strict=True):
            assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_run_can_resume_with_other_paths() -> None:
    # Given a checkpoint of the plain reference, whose weights and moments have another memory layout
    config = CASES["wgan-gp"]
    saved = unpack(pack(trained(config, PLAIN, 2).state_dict()))
    # When it resumes, once with the same paths and once with every fast path
    ends = []
    for runtime in (PLAIN, fastest(CPU)):
        state = TrainState(config, 10, CPU, runtime)
        state.load_state_dict(saved)
        ends.append(trained(config, runtime, 1, state=state))
    # Then both results agree up to rounding, and moments have the layout of their weights
    torch.testing.assert_close(ends[1].sums, ends[0].sums, rtol=1e-3, atol=1e-3)
    assert [group["fused"] for group in ends[1].opt_d.param_groups] == [True]
    for parameter, moments in ends[1].opt_d.state.items():
        assert moments["exp_avg"].stride() == moments["exp_avg_sq"].stride() == parameter.stride()
    slow = dict(ends[0].discriminator.named_parameters())
    for name, value in ends[1].discriminator.named_parameters():
        assert (value - slow[name]).abs().max() < 2.1 * config.lr * config.n_critic


def test_the_setting_turns_paths_on_and_off_by_name() -> None:
    assert {f.name for f in fields(Runtime)} == set(FAST_PATHS)
    chosen = {
        words: choose_runtime(CPU, Settings(fast_paths=words))
        for words in ("auto", "none", "auto,-winograd", "none,+resample", "+capture", "auto,+compile")
    }
    assert chosen["auto"] == chosen["+capture"] == fastest(CPU)  # there is nothing to record on a CPU
    assert chosen["none"] == PLAIN
    assert chosen["auto,+compile"] == replace(fastest(CPU), compile=True, winograd=False)
    assert chosen["auto,-winograd"] == replace(fastest(CPU), winograd=False)
    assert chosen["none,+resample"] == replace(PLAIN, resample=True)


@pytest.mark.parametrize("word", ["-winogrand", "-lean", "+fused", "foreach"])
def test_an_unknown_path_is_refused_with_the_names_that_exist(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("KILN_FAST_PATHS", f"auto,{word}")
    with pytest.raises(InvalidInput) as refused:
        read_settings()
    (problem,) = refused.value.problems
    assert (problem.field, problem.value) == ("KILN_FAST_PATHS", f"auto,{word}")
    assert f"'{word}' is not a fast path" in problem.message
    assert all(name in problem.message for name in FAST_PATHS)


@pytest.mark.slow_drill
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
@pytest.mark.parametrize("case", ["wgan-gp", "cpu-hours"])
def test_a_compiled_run_agrees_with_the_eager_one_and_resumes_exactly(case: str) -> None:
    """The first time, the C++ compiler takes about 40 s. The penalty is differentiated twice and not compiled."""
    compiled = choose_runtime(CPU, Settings(fast_paths="auto,+compile"))
    eager = replace(compiled, compile=False)
    # Given one iteration of each, Then they drew the same numbers and differ by rounding
    reference = trained(CASES[case], eager, 1)
    drawn = torch.get_rng_state()
    # Compiled code keeps in fp32 between its steps what eager code rounds to the 8 bits of bf16
    step = 2**-7 if CASES[case].precision == "bf16" else 1e-4
    torch.testing.assert_close(trained(CASES[case], compiled, 1).sums, reference.sums, rtol=step, atol=step)
    assert torch.equal(torch.get_rng_state(), drawn)
    # And given a run of three iterations, and one that resumed after the first, Then both end with the same bits
    undisturbed = trained(CASES[case], compiled, 3)
    resumed = TrainState(CASES[case], 10, CPU, compiled)
    resumed.load_state_dict(unpack(pack(trained(CASES[case], compiled, 1).state_dict())))
    trained(CASES[case], compiled, 2, state=resumed)
    assert [n for n, v in lasting_tensors(resumed).items() if not torch.equal(v, lasting_tensors(undisturbed)[n])] == []
    assert all(parameter.requires_grad for parameter in resumed.discriminator.parameters())


def test_without_a_compiler_the_check_returns_the_reason_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a machine without a compiler
    monkeypatch.setenv("CXX", "/nowhere/g++")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/nowhere/g++",))
    state = TrainState(small_config("tiny", latent_dim=5), 10, CPU, replace(PLAIN, compile=True))
    before, drawn = {n: v.clone() for n, v in tensors_of(state).items()}, torch.get_rng_state()
    # When the check runs, Then the reason is a line of text, and the state is unchanged
    reason = check_compiler(state, 10)
    assert reason
    assert "\n" not in reason
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in tensors_of(state).items())


class NoDeviceReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails when an iteration reads a number or a shape from the device, which a CUDA graph cannot record.

    On the CPU such a read costs nothing, so no other test would notice it.
    """

    READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique", "bincount")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert not name.startswith(self.READS), f"a CUDA graph cannot record {name}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", CASES)
def test_an_iteration_never_waits_for_the_device_and_keeps_every_tensor_in_place(case: str) -> None:
    """A CUDA graph requires both: a replay reads and writes the memory that the recorded iteration used."""
    # Given a run with the fast paths of CUDA, after the step in which the optimizers allocate their moments
    state = TrainState(CASES[case], 10, CPU, FAST_BUT_PLAIN_PRODUCTS)
    chosen = torch.arange(CASES[case].n_critic * CASES[case].real_batch_size)
    train_iteration(state, DATASET, chosen)
    before, places = (
        {n: v.clone() for n, v in lasting_tensors(state).items()},
        {n: v.data_ptr() for n, v in lasting_tensors(state).items()},
    )
    # When it takes another step
    with NoDeviceReads():  # type: ignore[no-untyped-call]
        train_iteration(state, DATASET, chosen)
    # Then it read nothing from the device, and all lasting tensors have new values at the same addresses
    assert {n: v.data_ptr() for n, v in lasting_tensors(state).items()} == places
    moved = {n for n, v in lasting_tensors(state).items() if not torch.equal(v, before[n])}
    alive = {
        n
        for n, v in lasting_tensors(state).items()
        if not n.startswith(("ema.", "discriminator.mixing.")) and v.numel() > 1  # a lone u is 1 or -1
    }
    assert {"sums", "opt_d.0.exp_avg", "opt_g.0.exp_avg_sq"} <= alive
    assert alive - moved == set()


def lasting_tensors(state: TrainState) -> dict[str, Tensor]:
    """All tensors that one iteration leaves to the next."""
    optimizers = {"opt_d": state.opt_d, "opt_g": state.opt_g}
    moments = {
        f"{n}.{i}.{key}": v
        for n, o in optimizers.items()
        for i, m in enumerate(o.state.values())
        for key, v in m.items()
    }
    return tensors_of(state) | moments


# --- on a GPU -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine on which a capture raises")
def test_an_iteration_that_cannot_be_recorded_raises_capture_failed() -> None:
    state = TrainState(CASES["tiny"], 10, CPU, replace(PLAIN, capture=True))
    with pytest.raises(CaptureFailed, match=r"\w+"):
        make_iteration(state, DATASET)


@pytest.mark.cuda
@pytest.mark.parametrize("case", CASES)
def test_a_recorded_iteration_equals_the_eager_one(case: str) -> None:
    # Given the same run as eager steps and as a graph that is replayed several times
    cuda = torch.device("cuda")
    eager = trained(CASES[case], replace(fastest(cuda), capture=False), WARM_UP + 4, cuda)
    drawn = torch.cuda.get_rng_state()
    recorded = trained(CASES[case], fastest(cuda), WARM_UP + 4, cuda)
    # Then both drew the same random numbers and have the same losses
    assert torch.equal(torch.cuda.get_rng_state(), drawn)
    torch.testing.assert_close(recorded.sums, eager.sums, rtol=1e-2, atol=1e-2)


@pytest.mark.cuda
def test_the_learning_rate_of_a_recorded_step_can_be_changed() -> None:
    # Given a recorded run whose rate falls to zero
    cuda = torch.device("cuda")
    config = CASES["tiny"].model_copy(update={"lr_step_nimg": 8 * (WARM_UP + 2), "lr_step_factor": 1e-30})
    before = trained(config, fastest(cuda), WARM_UP + 2, cuda)
    weights = [parameter.clone() for parameter in before.generator.parameters()]
    after = trained(config, fastest(cuda), WARM_UP + 4, cuda)
    # Then the weights stop changing
    moved = [(a - b).abs().max().item() for a, b in zip(after.generator.parameters(), weights, strict=True)]
    assert max(moved) < 1e-4


@pytest.mark.cuda
@pytest.mark.parametrize("case", ["wgan-gp", "tiny"])
def test_bf16_trains_with_finite_losses(case: str) -> None:
    cuda = torch.device("cuda")
    state = trained(CASES[case].model_copy(update={"precision": "bf16"}), fastest(cuda), WARM_UP + 3, cuda)
    assert torch.isfinite(state.sums).all()
    assert all(parameter.dtype == torch.float32 for parameter in state.generator.parameters())


def test_bf16_keeps_weights_losses_and_penalty_in_fp32() -> None:
    config = CASES["wgan-gp"].model_copy(update={"precision": "bf16"})
    in_bf16, in_fp32 = trained(config, fastest(CPU), 1), trained(CASES["wgan-gp"], fastest(CPU), 1)
    torch.testing.assert_close(in_bf16.sums, in_fp32.sums, rtol=0.05, atol=0.1)
    assert not torch.equal(in_bf16.sums, in_fp32.sums)
    assert all(parameter.dtype == torch.float32 for parameter in in_bf16.discriminator.parameters())
