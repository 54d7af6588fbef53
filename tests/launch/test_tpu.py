"""tpu.sh against a cloud that is not there: every step, and what is left when one fails.

Whole transcripts are in golden/launch; what must hold of them whatever they look like is said here.
"""

import pytest

BUSY = "UNAVAILABLE: The service is currently unavailable."
QUOTA = "RESOURCE_EXHAUSTED: Quota limit 'TPUV4sPerProjectPerZone' has been exceeded."
FULL = "There is no more capacity in the zone; you can try in another zone."
ONE_READY = {"lives": [["READY"]]}

CREATES = {
    "queued": ({}, [["WAITING_FOR_RESOURCES", "PROVISIONING", "READY"]]),
    "direct": ({"XLSR_HOW": "direct"}, [["CREATING", "READY"]]),
    "spot": ({"XLSR_SPOT": "1", "XLSR_QUEUE_HOURS": "2"}, [["READY"]]),
    "multislice": ({"XLSR_SLICES": "2", "XLSR_ACCELERATOR": "v5litepod-16"}, [["READY"]]),
    "flags": ({"XLSR_CREATE_FLAGS": "--network='my net' --internal-ips"}, [["READY"]]),
}


def test_up_trains_fetches_and_deletes(world):
    assert world.run("launch/tpu.sh", "up", scenario=ONE_READY) == 0
    assert len(world.trained()) == 2  # once on each worker
    assert (world.folder / "runs/xlsr10/worker-0.log").exists()
    assert not world.billed()
    world.agrees_with_golden("up")


@pytest.mark.parametrize("how", CREATES)
def test_create(world, how):
    settings, lives = CREATES[how]
    assert world.run("launch/tpu.sh", "create", scenario={"lives": lives}, **settings) == 0
    assert world.billed()
    world.agrees_with_golden(f"create_{how}")


def test_several_slices_are_one_run(world):
    settings = {"XLSR_SLICES": "2", "XLSR_ACCELERATOR": "v4-16"}
    assert world.run("launch/tpu.sh", "up", scenario=ONE_READY, **settings) == 0
    assert len(world.trained()) == 4
    assert all("--config.mesh.replica=2" in argv for argv in world.trained())
    assert not world.billed()
    world.agrees_with_golden("up_multislice")


def test_a_slice_that_is_there_is_neither_taken_nor_deleted(world):
    assert world.run("launch/tpu.sh", "create", scenario=ONE_READY) == 0
    assert world.run("launch/tpu.sh", "create", scenario=ONE_READY) == 1
    assert world.billed()
    assert "is there already" in world.transcript()


@pytest.mark.parametrize(
    ("name", "settings", "scenario"),
    [
        ("quota", {}, {"errors": {"create": [QUOTA]}}),
        ("no_room", {"XLSR_HOW": "direct"}, {"errors": {"create": [FULL]}}),
        ("waited_in_vain", {}, {"lives": [["WAITING_FOR_RESOURCES", "FAILED"]]}),
        ("interrupted_create", {}, {"errors": {"create": ["INTERRUPT"]}}),
        ("setup_failed", {"XLSR_RETRIES": "2"}, {"checks": [1]}),
        ("interrupted_setup", {}, {"errors": {"ssh": ["INTERRUPT"]}}),
    ],
)
def test_nothing_is_billed_when_a_step_fails(world, name, settings, scenario):
    status = world.run("launch/tpu.sh", "up", scenario=scenario, **settings)
    assert status == (130 if "interrupted" in name else 1)
    assert not world.billed()
    assert not world.trained()
    assert not list((world.folder / "tmp").iterdir())
    world.agrees_with_golden(name)


def test_a_failed_setup_may_be_kept_to_look_at(world):
    settings = {"XLSR_KEEP": "1", "XLSR_RETRIES": "1"}
    assert world.run("launch/tpu.sh", "up", scenario={"checks": [1]}, **settings) == 1
    assert world.billed()
    assert "XLSR_KEEP=1 keeps xlsr10, which is billed until you run" in world.transcript()


def test_what_may_pass_is_tried_again(world):
    # The second try finds what the first one made before its answer was lost.
    errors = {"describe": [BUSY], "create": [BUSY], "scp": ["Connection reset"], "delete": [BUSY]}
    assert world.run("launch/tpu.sh", "up", scenario=ONE_READY | {"errors": errors}) == 0
    assert len(world.trained()) == 2
    assert not world.billed()
    world.agrees_with_golden("busy")


def test_a_create_that_was_answered_twice_is_ours(world):
    # The first try worked, though its answer was lost.
    errors = {"create": ["LATE " + BUSY, "ALREADY_EXISTS: Resource 'xlsr10' already exists"]}
    assert world.run("launch/tpu.sh", "up", scenario=ONE_READY | {"errors": errors}) == 0
    assert len(world.trained()) == 2
    assert not world.billed()


def test_deleting_that_fails_is_said_loudly(world):
    world.run("launch/tpu.sh", "create", scenario=ONE_READY)
    broken = {"errors": {"delete": ["PERMISSION_DENIED"] * 9}}
    assert world.run("launch/tpu.sh", "delete", scenario=broken) == 1
    assert "COULD NOT DELETE xlsr10, it may be billed" in world.transcript()
    assert world.run("launch/tpu.sh", "delete") == 0
    assert not world.billed()


def test_a_training_is_neither_started_twice_nor_overwritten_nor_lost(world):
    running = ONE_READY | {"outcomes": ["running"]}
    for step in ("create", "setup", "train"):
        assert world.run("launch/tpu.sh", step, scenario=running) == 0
    for step in ("setup", "train"):
        assert world.run("launch/tpu.sh", step, scenario=running) == 1
    assert world.billed()
    assert len(world.trained()) == 2
    assert world.run("launch/tpu.sh", "status", scenario=running) == 0
    assert world.run("launch/tpu.sh", "stop", scenario=running) == 0
    assert world.run("launch/tpu.sh", "status", scenario=running) == 0
    world.agrees_with_golden("steps")


def test_train_before_setup_is_refused_and_costs_nothing(world):
    world.run("launch/tpu.sh", "create", scenario=ONE_READY)
    assert world.run("launch/tpu.sh", "train", scenario=ONE_READY) == 1
    assert "launch/tpu.sh setup comes first" in world.transcript()
    assert world.billed()


def test_results_of_a_mounted_folder_are_packed(world):
    workdir = world.folder / "mount"
    (workdir / "checkpoints").mkdir(parents=True)
    (workdir / "log.jsonl").write_text("{}\n")
    (workdir / "checkpoints/big").touch()
    settings = {"XLSR_WORKDIR": str(workdir), "XLSR_RESULTS": "my results"}
    assert world.run("launch/tpu.sh", "up", scenario=ONE_READY, **settings) == 0
    names = {path.name for path in (world.folder / "my results").iterdir()}
    assert names == {"log.jsonl", "worker-0.log"}


def test_dry_run_prints_every_command_and_runs_none(world):
    for command in ("up", "create", "setup", "train", "watch", "status", "logs", "fetch", "delete"):
        assert world.run("launch/tpu.sh", command, DRY_RUN="1") == 0
    said = world.transcript()
    assert "\n$ " not in said  # which is how the fakes note a command that ran
    assert not world.trained()
    world.agrees_with_golden("dry_run")


def test_flags_reach_the_trainer_as_they_were_typed(world):
    wanted = [
        "--config.data.path=gs://bucket/a folder",
        "--config.name=$HOME `id` $(id) \\ * ~ # ; & | < >",
        '--config.quote=it\'s "so"',
        "--config.empty=",
        "",
        "--config.data.languages=é,ß",
    ]
    flags = " ".join("'" + word.replace("'", "'\"'\"'") + "'" for word in wanted)
    settings = {"XLSR_FLAGS": flags, "XLSR_WORKDIR": 'gs://bucket/my $run\'s "folder"'}
    assert world.run("launch/tpu.sh", "up", scenario=ONE_READY, **settings) == 0
    for argv in world.trained():
        assert argv[:3] == ["-m", "xlsr_jax.train", "--distributed"]
        assert argv[4] == '--workdir=gs://bucket/my $run\'s "folder"'
        assert argv[8:] == wanted


def test_a_command_for_all_workers(world):
    world.run("launch/tpu.sh", "create", scenario=ONE_READY)
    assert world.run("launch/tpu.sh", "ssh", "all", "echo '$HOME is' \"$HOME\"") == 0
    homes = [line for line in world.transcript().splitlines() if line.startswith("$HOME is")]
    assert homes == ["$HOME is SANDBOX/workers/0-0", "$HOME is SANDBOX/workers/0-1"]
