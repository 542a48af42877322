"""`florence2 plan`: laws that any plan keeps, whatever the rates, and the shipped rates."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence2.cli import main
from florence2.engine.planning.bottlenecks import bottlenecks
from florence2.engine.planning.rates import KINDS, PhaseRates, Rates, read_rates, write_rates
from florence2.engine.planning.simulation import Machines, Prices, simulate

seconds = st.floats(0, 10)
phases = st.builds(
    PhaseRates,
    name=st.sampled_from("abcdef"),
    kind=st.sampled_from(KINDS),
    seconds=seconds,
    decode_s=seconds,
    cpu_s=seconds,
    job_s=seconds,
    load_s=seconds,
    driver_s=seconds,
    batch=st.integers(1, 64),
    rows=st.floats(0, 50),
    row_bytes=st.floats(0, 1000),
    fragments=st.integers(0, 30).map(float),
    fragment_bytes=st.floats(0, 1e4),
    gpus=st.sampled_from([0.0, 0.25, 1.0, 2.0]),
    cpus=st.sampled_from([0.5, 1.0, 4.0]),
)
rates = st.builds(Rates, st.lists(phases, min_size=1, max_size=4).map(tuple), st.lists(phases, max_size=3).map(tuple))
images, units, gpus = st.integers(1, 10**9), st.integers(1, 4096), st.integers(1, 512)
cpus, rounds = st.integers(1, 4096), st.integers(0, 3)


@settings(deadline=None)
@given(rates, images, units, gpus, cpus, rounds, st.integers(1, 64))
def test_more_machines_are_never_slower(of, count, unit, gpus, cpus, rounds, more):
    few = simulate(of, count, unit, Machines(gpus, cpus), rounds)
    assert simulate(of, count, unit, Machines(gpus + more, cpus), rounds).seconds <= few.seconds * (1 + 1e-9)
    assert simulate(of, count, unit, Machines(gpus, cpus + more), rounds).seconds <= few.seconds * (1 + 1e-9)


@settings(deadline=None)
@given(rates, images, units, gpus, cpus, rounds, st.floats(0, 1000))
def test_cost_is_linear_in_prices(of, count, unit, gpus, cpus, rounds, factor):
    def cost(times):
        plan = simulate(of, count, unit, Machines(gpus, cpus), rounds, Prices(2 * times, times, 3 * times, times / 7))
        return plan.cost, plan.storage_cost_month

    once = cost(1.0)
    assert cost(factor) == pytest.approx(tuple(factor * each for each in once), rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(rates, images, images, units, gpus, cpus)
def test_pictures_add_up(of, one, other, unit, gpus, cpus):
    one, other = (math.ceil(count / unit) * unit for count in (one, other))  # whole units
    machines = Machines(gpus, cpus)
    a, b, both = (simulate(of, count, unit, machines) for count in (one, other, one + other))
    assert both.seconds <= (a.seconds + b.seconds) * (1 + 1e-9)
    assert both.fragments == a.fragments + b.fragments
    assert both.fragment_bytes == pytest.approx(a.fragment_bytes + b.fragment_bytes)
    assert both.seconds >= max(a.seconds, b.seconds) * (1 - 1e-9)


@settings(deadline=None)
@given(rates, images, units, gpus, cpus, rounds)
def test_phases_follow_one_another_and_sum_up(of, count, unit, gpus, cpus, rounds):
    plan = simulate(of, count, unit, Machines(gpus, cpus), rounds)
    assert len(plan.phases) == len(of.once) + rounds * len(of.each_round)
    for before, after in zip(plan.phases, plan.phases[1:]):
        assert after.begins_s >= before.begins_s + before.seconds - 1e-6 * after.begins_s
    assert plan.fragments == sum(phase.fragments for phase in plan.phases)
    assert plan.bytes >= plan.snapshot_bytes and plan.snapshots_bytes >= plan.snapshot_bytes
    shares = [each.share for each in bottlenecks(plan, of)]
    assert shares == sorted(shares, reverse=True)


def test_a_worked_example_by_hand():
    phase = PhaseRates("a", seconds=0.1, load_s=5, job_s=1, rows=2, row_bytes=50, fragment_bytes=100)
    of = Rates((phase,), worker_start_s=2, command_s=1, driver_job_s=0, entry_bytes=10, entry_read_s=0)
    plan = simulate(of, 1000, 100, Machines(cpus=4))
    # ten units of ten seconds, each one piece, on four workers; a second for each of them
    assert plan.seconds == 2 + 5 + (10 * 1 + 1000 * 0.1) / 4 + 1
    assert plan.fragments == 10 and plan.bytes == 1000 * 2 * 50 + 10 * 100 + 10 * 10
    assert plan.cpu_hours == pytest.approx((5 + 110 / 4) * 4 / 3600)


def test_shipped_rates_say_of_each_phase_what_it_rests_on(tmp_path):
    shipped = read_rates()
    assert {phase.kind for phase in shipped.phases} == set(KINDS)
    for phase in shipped.phases:
        assert phase.basis.startswith(("measured: ", "assumed: ")), phase.name
        assert phase.is_measured == (phase.gpus == 0), phase.name  # nothing was measured on a GPU
    write_rates(tmp_path / "rates.json", shipped)
    assert read_rates(tmp_path / "rates.json") == shipped
    write_rates(tmp_path / "rates.json", shipped)  # over its like
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(OSError, match="name another file"):
        write_rates(tmp_path / "other.json", shipped)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "wish"}, "kind 'wish'"),
        ({"seconds": -1}, "seconds"),
        ({"batch": 0}, "batch"),
        ({"seconds": "fast"}, "seconds"),
        ({"seconds": math.nan}, "seconds"),
        ({"row_bytes": math.inf}, "row_bytes"),
    ],
)
def test_rates_that_mean_nothing_are_refused(tmp_path, change, message):
    plain = read_rates().to_json()
    plain["once"][0].update(change)
    (tmp_path / "rates.json").write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=message):
        read_rates(tmp_path / "rates.json")


@pytest.mark.parametrize("change", [{"driver_job_s": -1}, {"entry_bytes": math.inf}, {"command_s": math.nan}])
def test_rates_of_the_machine_that_mean_nothing_are_refused(tmp_path, change):
    (tmp_path / "rates.json").write_text(json.dumps({**read_rates().to_json(), **change}))
    with pytest.raises(ValueError, match=f"rates.json: rates: {next(iter(change))}: expected a number"):
        read_rates(tmp_path / "rates.json")


def test_jobs_that_cost_nothing_to_hand_out_are_no_limit():
    of = replace(read_rates(), driver_job_s=0.0)
    found = {each.name: each for each in bottlenecks(simulate(of, 10**6, 512, Machines(8, 64)), of)}
    assert found["jobs handed out"].share < 1e-3


def test_other_json_is_no_file_of_rates(tmp_path):
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(ValueError, match="is no file of rates"):
        read_rates(tmp_path / "x.json")


def test_the_command_plans_the_papers_data_set(capsys):
    assert main(["plan", "--images", "126e6", "--gpus", "64", "--rounds", "1", "--price-per-gpu-hour", "2"]) == 0
    out = capsys.readouterr().out
    assert "126,000,000 pictures in units of 512, on 64 GPUs" in out and "what breaks first" in out
    assert main(["plan", "--json", "--rounds", "1", "--price-per-gpu-hour", "2"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["cost"] == pytest.approx(2 * plain["gpu_hours"]) and plain["bottlenecks"][0]["share"] > 1
    assert main(["plan", "--gpus", "0"]) == 1 and "are those of a GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *(([f"--images={count}"], "--images") for count in ("0", "-3", "0.5", "nan", "inf", "1e300")),
        (["--gpus=-1"], "--gpus"),
        (["--cpus=0"], "--cpus"),
        (["--unit=0"], "--unit"),
        (["--rounds=-1"], "--rounds"),
        (["--rounds=1000000000"], "--rounds"),
        *(([f"--price-per-gpu-hour={price}"], "price_per_gpu_hour") for price in ("-1", "nan", "inf")),
        (["--price-per-cpu-hour=-1"], "price_per_cpu_hour"),
        (["--price-per-gb-month=nan"], "price_per_gb_month"),
        (["--price-per-1000-puts=-0.1"], "price_per_1000_puts"),
    ],
)
def test_numbers_that_mean_nothing_are_refused_in_one_line(words, message, capsys):
    assert main(["plan", *words]) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@pytest.mark.parametrize("images", ["1", "2", "1e12"])
def test_any_number_of_images_is_planned(images, capsys):
    assert main(["plan", "--images", images, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert plain["images"] == float(images) and plain["seconds"] > 0


def test_a_worker_of_more_gpus_than_there_are_is_refused(tmp_path, capsys):
    shipped = read_rates()
    write_rates(tmp_path / "r.json", replace(shipped, once=(replace(shipped.once[0], gpus=2.0),)))
    assert main(["plan", "--gpus", "1", "--rates", str(tmp_path / "r.json")]) == 1
    assert "--gpus 1: a worker of inspect takes 2; name as many at least" in capsys.readouterr().err
    assert main(["plan", "--gpus", "2", "--rates", str(tmp_path / "r.json")]) == 0


def test_units_of_more_pictures_make_fewer_fragments():
    of = read_rates()
    small, large = (simulate(of, 10**6, unit, Machines(8, 64), 1) for unit in (512, 4096))
    assert large.fragments < small.fragments / 7 and large.bytes < small.bytes
    assert replace(of, entry_bytes=0.0).entry_bytes == 0
