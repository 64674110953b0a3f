"""A stack in an ordinary LightningCLI config: built, saved and opened again."""

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from swarms_nets import Net, difference

from lightning_evo import ParticleStack


@pytest.fixture
def config(tmp_path):
    return {
        "seed_everything": 1,
        "model": {
            "class_path": "lightning_evo.ParticleStack",
            "init_args": {
                "particles": {"class_path": "toys.ToyNet", "init_args": {"width": 4}},
                "size": 3,
                "vary": {"lr": [0.1, 0.2, 0.3]},
                "lowering": "stack",
            },
        },
        "data": {"class_path": "toys.ToyData"},
        "trainer": {
            "max_epochs": 2,
            "accelerator": "cpu",
            "default_root_dir": str(tmp_path),
            "enable_progress_bar": False,
            "logger": False,
        },
    }


def run(config, tmp_path, *args):
    path = tmp_path / "given.yaml"
    path.write_text(yaml.safe_dump(config))
    return LightningCLI(args=["fit", f"--config={path}", *args], save_config_kwargs={"overwrite": True})


def test_particles_are_built_from_a_config_with_what_varies(config, tmp_path):
    cli = run(config, tmp_path)
    stack = cli.model
    assert isinstance(stack, ParticleStack)
    assert [particle.hparams.lr for particle in stack.particles] == [0.1, 0.2, 0.3]
    assert [particle.hparams.width for particle in stack.particles] == [4, 4, 4]
    assert stack.lowering == "stack"
    assert "val_acc" in cli.trainer.callback_metrics


def test_after_training_a_stack_a_short_class_name_still_means_one_class(config, tmp_path):
    config["model"]["init_args"]["vary"] = {"lr": [0.1, 0.2, 0.3]}
    stack = run(config, tmp_path).model
    assert stack.lowering == "stack"
    plain = {**config, "model": {"class_path": "ToyNet", "init_args": {"width": 4}}}
    assert type(run(plain, tmp_path).model) is type(stack.particles[0])


def test_the_stacks_checkpoint_opens_again_and_resumes(config, tmp_path):
    cli = run(config, tmp_path)
    (path,) = tmp_path.rglob("*.ckpt")
    opened = ParticleStack.load_from_checkpoint(path, weights_only=False)
    assert difference(opened, cli.model) == 0
    assert [particle.hparams.lr for particle in opened.particles] == [0.1, 0.2, 0.3]
    config["trainer"]["max_epochs"] = 3
    resumed = run(config, tmp_path, f"--ckpt_path={path}")
    assert resumed.trainer.current_epoch == 3


def test_a_particles_checkpoint_from_a_config_opens_alone(config, tmp_path):
    stack = run(config, tmp_path).model
    torch.save(stack.particle_checkpoint(1), tmp_path / "one.ckpt")
    opened = type(stack.particles[1]).load_from_checkpoint(tmp_path / "one.ckpt", weights_only=False)
    assert opened.hparams.lr == 0.2
    assert difference(opened, stack.particle(1)) == 0


def test_an_optimizer_section_holds_for_every_particle(config, tmp_path):
    config["optimizer"] = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "weight_decay": 0.1}}
    config["lr_scheduler"] = {"class_path": "torch.optim.lr_scheduler.ExponentialLR", "init_args": {"gamma": 0.5}}
    del config["model"]["init_args"]["vary"]
    cli = run(config, tmp_path)
    optimizers = cli.trainer.optimizers[0].optimizers
    assert [type(optimizer) for optimizer in optimizers] == [torch.optim.AdamW] * 3
    for optimizer in optimizers:
        assert optimizer.param_groups[0]["weight_decay"] == 0.1
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 / 4)
    assert difference(cli.model.particle(0), cli.model.particle(1)) > 0


def test_a_wrong_swarm_in_a_config_says_what_is_wrong(config, tmp_path):
    config["model"]["init_args"]["size"] = 2
    with pytest.raises(ValueError, match=r"vary\.lr has 3 values for 2 particles"):
        run(config, tmp_path)


def test_from_python_the_hyperparameters_hold_no_modules():
    stack = ParticleStack([Net(), Net()], lowering="loop")
    assert dict(stack.hparams) == {"size": None, "vary": None, "lowering": "loop", "own_batches": False}
