"""tpu.sh watch: what a night brings, and that the slice is given back at its end."""

import pytest


@pytest.fixture
def night(world):
    """A world with slices of one worker, whose training has begun and runs until SIGTERM."""
    world.hosts, world.settings = 1, {"XLSR_ACCELERATOR": "v4-8"}
    return world


def begin(world, *outcomes):
    """Creates the slice and starts the training there, which ends as ``outcomes`` say."""
    for step in ("create", "setup", "train"):
        assert world.run("launch/tpu.sh", step, scenario={"outcomes": outcomes}) == 0
    (world.folder / "transcript").write_text("")


@pytest.mark.parametrize("how", ["queued", "direct"])
def test_a_preempted_slice_is_made_anew_and_the_run_goes_on(night, how):
    lost = "PREEMPTED" if how == "direct" else "SUSPENDED"
    first = ["READY"] * 3 + [lost]
    scenario = {
        "lives": [first, ["CREATING", "READY"]],
        "outcomes": ["running", 0],
        "errors": {"create": [None, "There is no more capacity in the zone"]},
    }
    settings = {"XLSR_HOW": how, "XLSR_SPOT": "1", "XLSR_RETRIES": "1"}
    assert night.run("launch/tpu.sh", "up", scenario=scenario, **settings) == 0
    first, second = night.trained()
    assert first == second  # the same command, which goes on from the newest checkpoint
    assert not night.billed()
    night.agrees_with_golden(f"preempted_{how}")


def test_one_crash_of_two_workers_is_forgiven(world):
    begin(world, [1, "running"])
    assert world.run("launch/tpu.sh", "watch", scenario={"outcomes": [0]}) == 0
    assert len(world.trained()) == 4
    assert not world.billed()
    world.agrees_with_golden("crashed_once")


def test_a_run_that_keeps_crashing_is_given_up_and_deleted(night):
    begin(night, 1)
    settings = {"XLSR_RESTARTS": "2"}
    assert night.run("launch/tpu.sh", "watch", scenario={"outcomes": [1]}, **settings) == 1
    assert len(night.trained()) == 3
    assert not night.billed()
    night.agrees_with_golden("crashed")


def test_a_training_that_was_stopped_is_not_finished(night):
    begin(night, "stopped")
    assert night.run("launch/tpu.sh", "watch", scenario={"outcomes": [0]}) == 0
    assert len(night.trained()) == 2
    assert "xlsr10 is READY, stopped" in night.transcript()


def test_time_is_limited(night):
    begin(night, "running")
    settings = {"XLSR_MAX_HOURS": "1", "XLSR_POLL": "1000"}
    assert night.run("launch/tpu.sh", "watch", **settings) == 1
    assert not night.billed()
    night.agrees_with_golden("out_of_time")


def test_a_slice_that_somebody_deleted_stays_deleted(night):
    assert night.run("launch/tpu.sh", "watch") == 1
    assert not night.billed()
    assert "somebody deleted it" in night.transcript()


def test_a_finished_run_may_keep_its_slice(night):
    begin(night, 0)
    assert night.run("launch/tpu.sh", "watch", XLSR_DELETE_AT_END="0") == 0
    assert night.billed()
    assert "xlsr10 is kept and billed" in night.transcript()


def test_ctrl_c_ends_watching_and_not_the_training(night):
    begin(night, "running")
    scenario = {"errors": {"describe": [None, None, None, None, "INTERRUPT"]}}
    assert night.run("launch/tpu.sh", "watch", scenario=scenario) == 130
    assert night.billed()
    assert "xlsr10 trains on and is billed" in night.transcript()


def test_ctrl_c_while_the_slice_is_made_anew_leaves_nothing(night):
    begin(night, 0)
    scenario = {"lives": [["PREEMPTED"], ["READY"]], "errors": {"create": ["INTERRUPT"]}}
    assert night.run("launch/tpu.sh", "watch", scenario=scenario) == 130
    assert not night.billed()


def test_a_cloud_that_does_not_answer_is_waited_for(night):
    begin(night, 0)
    down = ["UNAVAILABLE"] * 3
    settings = {"XLSR_RETRIES": "1"}
    scenario = {"errors": {"describe": down, "ssh": down}}
    assert night.run("launch/tpu.sh", "watch", scenario=scenario, **settings) == 0
    assert not night.billed()
    night.agrees_with_golden("no_answer")


def test_a_slice_that_never_answers_is_made_anew(night):
    begin(night, 0)
    scenario = {"errors": {"ssh": ["no route to host"] * 10}}
    assert night.run("launch/tpu.sh", "watch", scenario=scenario) == 0
    assert len(night.trained()) == 2
    assert not night.billed()
