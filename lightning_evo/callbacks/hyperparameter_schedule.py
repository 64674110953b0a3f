"""The callback that follows, in one fit, a schedule of hyperparameters found by population-based training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from lightning_evo._compat.lightning import callbacks_of, datamodule_of, init_optimizers, reload_data
from lightning_evo.callbacks.continuation import loaders, schedulers, steps_per_epoch
from lightning_evo.callbacks.rebuilding import NotApplicable, adopt, check_alike, rebuild, with_values
from lightning_evo.callbacks.search import SearchCallback
from lightning_evo.functional.optimizers import OptimizerSettings, adopt_functions, change_settings, optimizer_settings
from lightning_evo.genome import Json
from lightning_evo.utils.config_files import load_yaml_strictly, read_config_file
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = ["HyperparameterSchedule"]

_SECTIONS = ("model", "data", "trainer", "optimizer", "lr_scheduler")
_TRAINER = ("gradient_clip_val", "accumulate_grad_batches")

Values = Mapping[str, Any]
"""Config path -> value."""


class HyperparameterSchedule(Callback):
    """Change hyperparameters at the start of given epochs, such as a schedule found by population-based training.

    Supported paths:

    - ``model.init_args.NAME`` (or ``model.NAME``): a second module is built with the new value, and differences are
      copied to the one in training: attributes (a dropout's ``p``), functions, submodules without parameters. Then
      ``configure_optimizers`` is called again, and its changes are applied to the optimizers (see
      :func:`~lightning_evo.functional.optimizers.change_settings`). The module must store its hyperparameters
      (``save_hyperparameters``), or have an attribute of that name.
    - ``data.init_args.NAME``: an attribute (or hyperparameter) of the data module; its loaders are then recreated.
    - ``optimizer.init_args.NAME`` and ``lr_scheduler.init_args.NAME``: for those created by LightningCLI.
    - ``trainer.gradient_clip_val``, ``trainer.accumulate_grad_batches``.

    Values for epoch 0 are set before optimizers and loaders are created. All values are tried before training starts.
    Weights, moments and the positions of schedules are unchanged, and no random numbers are drawn: the fit equals the
    segments of the search's winner, bit for bit on the CPU.

    Args:
        schedule: Epoch (from 0) -> config path -> value from the start of that epoch; or the path of a YAML file with
            this mapping (``lightning-evo export`` writes ``schedule.yaml``).

    Raises:
        ValueError: For a file that can't be read or says something twice, an epoch below 0 or a path that can't be
            changed; at the start of training (``NotApplicable``) for a value that can't be set in the module, such as one
            that changes the shape of a parameter.

    Example:
        >>> HyperparameterSchedule({0: {"model.init_args.lr": 0.1}, 5: {"model.init_args.lr": 0.01}}).values_at(7)
        {'model.init_args.lr': 0.01}
    """

    fixed_structure = "it rebuilds the module from hyperparameters, which don't describe growth"

    def __init__(self, schedule: dict[int, dict[str, Json]] | str) -> None:
        read = load_yaml_strictly(read_config_file(schedule)) if isinstance(schedule, str) else schedule
        self.schedule = _checked(read, schedule if isinstance(schedule, str) else "schedule")
        self.settings: OptimizerSettings | None = None
        """The optimizers' settings now in force."""
        self._values: dict[str, Any] = {}  # in force
        self._steps = 0  # per epoch, with those

    def values_at(self, epoch: int) -> dict[str, Any]:
        """The values that hold in an epoch, by config path; override it for a schedule that follows from something else."""
        values: dict[str, Any] = {}
        for start in sorted(self.schedule):
            if start <= epoch:
                values |= self.schedule[start]
        return values

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._values = {}
            self._try(trainer, pl_module)
            self._set(trainer, pl_module, self.values_at(0))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # Before optimizers are made, so that they are made as they were.
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if state is not None:
            self._set(trainer, pl_module, state["values"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        made = optimizer_settings(trainer.optimizers, schedulers(trainer))
        for epoch in sorted(self.schedule):
            with _named(epoch):
                _edited(made, self.schedule[epoch])
        self.settings = _edited(made, self._values)
        change_settings(trainer.optimizers, schedulers(trainer), made, self.settings)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps = self._steps or steps_per_epoch(trainer)
        now = {path: v for path, v in self.values_at(trainer.current_epoch).items() if self._differs(path, v)}
        if not now:
            return
        with isolated_random_state():
            self._set(trainer, pl_module, now)
            if any(path.startswith("data.") for path in now):
                _reload(trainer)
            self._change_optimizers(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"values": dict(self._values)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._values = dict(state_dict["values"])

    # -- inside --------------------------------------------------------------------------------------------------------

    def _differs(self, path: str, value: Any) -> bool:
        return path not in self._values or self._values[path] != value

    def _set(self, trainer: Trainer, module: LightningModule, values: Values) -> None:
        """Put values where model, data module and trainer have them."""
        changed = {path: value for path, value in values.items() if self._differs(path, value)}
        self._values |= changed
        _set_model(module, _section(changed, "model"))
        if (datamodule := datamodule_of(trainer)) is not None:
            for (name,), value in _section(changed, "data").items():
                _set_data(datamodule, name, value)
        for (name,), value in _section(changed, "trainer").items():
            setattr(trainer, name, value)

    def _change_optimizers(self, trainer: Trainer, module: LightningModule) -> None:
        assert self.settings is not None
        made, configs = init_optimizers(module)
        fresh = [config.scheduler for config in configs]
        own = self.settings
        if all(one is not other for one, other in zip(made, trainer.optimizers, strict=False)):
            # LightningCLI's own always gives the same optimizers, which know nothing of the module's hyperparameters.
            own = optimizer_settings(made, fresh)
            adopt_functions(schedulers(trainer), fresh)
        now = _edited(own, self._values)
        steps = steps_per_epoch(trainer)
        ratio = steps / self._steps if self._steps else 1.0
        change_settings(
            trainer.optimizers,
            schedulers(trainer),
            self.settings,
            now,
            [ratio if config.interval == "step" else 1.0 for config in trainer.lr_scheduler_configs],
        )
        self.settings, self._steps = now, steps
        for callback in callbacks_of(trainer):
            if isinstance(callback, SearchCallback):
                callback.on_settings_change(now)

    def _try(self, trainer: Trainer, module: LightningModule) -> None:
        """Raise :class:`NotApplicable` if some value of the schedule can't be set in mid-training."""
        hparams: dict[str, Any] = dict(module.hparams)
        before = None
        for epoch in sorted(self.schedule):
            values = self.schedule[epoch]
            for path in values:
                with _named(epoch, path):
                    _check_place(trainer, module, path)
            kept = {keys: value for keys, value in _section(values, "model").items() if keys[0] in hparams}
            if not kept:
                continue
            with _named(epoch, ", ".join(path for path in values if path.startswith("model."))):
                before = before or rebuild(module, hparams)
                hparams = with_values(hparams, kept)
                after = rebuild(module, hparams)
                check_alike(before, after)
            before = after


def _checked(schedule: Any, where: str) -> dict[int, dict[str, Any]]:
    if not isinstance(schedule, Mapping) or not all(isinstance(values, Mapping) for values in schedule.values()):
        raise ValueError(f"{where}: {schedule!r} is not a mapping epoch -> config path -> value")
    checked: dict[int, dict[str, Any]] = {}
    for key, values in schedule.items():
        if isinstance(key, bool) or not str(key).isdigit():
            raise ValueError(f"{where}: {key!r} is not an epoch, counted from 0")
        checked[int(key)] = dict(values)
        for path in values:
            section, _, rest = path.partition(".")
            if section not in _SECTIONS or not rest or (section == "trainer" and rest not in _TRAINER):
                raise ValueError(
                    f"{where}: {path}: can't be changed in mid-training; what can begins with model., data., optimizer. or "
                    f"lr_scheduler., or is {' or '.join(f'trainer.{name}' for name in _TRAINER)}"
                )
    return checked


def _section(values: Values, section: str) -> dict[tuple[str, ...], Any]:
    """The values of one section of a config, by the keys that lead to them within its arguments."""
    found = {}
    for path, value in values.items():
        first, *keys = path.split(".")
        if first == section:
            found[tuple(keys[1:] if keys[0] == "init_args" and len(keys) > 1 else keys)] = value
    return found


class _named:
    """Puts epoch and path before what is not applicable."""

    def __init__(self, epoch: int, path: str = "") -> None:
        self.place = f"schedule, epoch {epoch}{path and f': {path}'}"

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> Literal[False]:
        if isinstance(error, NotApplicable):
            raise NotApplicable(f"{self.place}: {error}") from None
        return False


def _check_place(trainer: Trainer, module: LightningModule, path: str) -> None:
    """Raise :class:`NotApplicable` unless there is something that a value at ``path`` could be set in."""
    ((section, keys),) = [(one, key) for one in _SECTIONS for key in _section({path: None}, one)]
    if section == "model" and keys[0] not in module.hparams and (len(keys) > 1 or keys[0] not in vars(module)):
        raise NotApplicable(
            f"{type(module).__name__} keeps no hyperparameter {keys[0]!r} (save_hyperparameters) from which it could be "
            "built anew, and has no attribute of that name"
        )
    if section == "data":
        data: LightningDataModule | None = datamodule_of(trainer)
        if data is None:
            raise NotApplicable("there is no data module")
        if len(keys) > 1 or not (keys[0] in data.hparams or hasattr(data, keys[0])):
            raise NotApplicable(f"{type(data).__name__} has no attribute {'.'.join(keys)!r}")
    if section in ("optimizer", "lr_scheduler") and len(keys) > 1:
        raise NotApplicable(f"{'.'.join(keys)!r} is not one argument")


def _set_model(module: LightningModule, values: Mapping[tuple[str, ...], Any]) -> None:
    kept = {keys: value for keys, value in values.items() if keys[0] in module.hparams}
    if kept:
        hparams = with_values(module.hparams, kept)
        adopt(module, rebuild(module, module.hparams), rebuild(module, hparams))
        module.hparams.update(hparams)
    for keys, value in values.items():
        if keys not in kept:
            setattr(module, keys[0], value)


def _set_data(data: LightningDataModule, name: str, value: Any) -> None:
    if name in data.hparams:
        data.hparams[name] = value
    if hasattr(data, name):
        setattr(data, name, value)


def _edited(settings: OptimizerSettings, values: Values) -> OptimizerSettings:
    """Settings with the values of the config's ``optimizer`` and ``lr_scheduler`` sections.

    Raises:
        NotApplicable: If an optimizer or scheduler has no such hyperparameter.
    """
    groups = [[dict(group) for group in one] for one in settings.groups]
    schedules = [dict(one) for one in settings.schedules]
    for (name,), value in _section(values, "optimizer").items():
        for group in (group for one in groups for group in one):
            if name not in group:
                raise NotApplicable(f"optimizer.init_args.{name}: the optimizer has {', '.join(group)}")
            if name == "lr":
                _set_rate(group, float(value))
            else:
                group[name] = tuple(value) if isinstance(value, list) else value
        if name == "lr":
            for schedule in schedules:
                if "base_lrs" in schedule:
                    schedule["base_lrs"] = [float(value)] * len(schedule["base_lrs"])
    for (name,), value in _section(values, "lr_scheduler").items():
        if not any(name in schedule for schedule in schedules):
            have = [one for schedule in schedules for one in schedule if not one.startswith("_")]
            raise NotApplicable(
                f"lr_scheduler.init_args.{name}: the scheduler has {', '.join(have) or 'nothing: there is none'}"
            )
        for schedule in schedules:
            schedule.update({name: value} if name in schedule else {})
    return replace(settings, groups=groups, schedules=schedules)


def _set_rate(group: dict[str, Any], value: float) -> None:
    base = group.get("initial_lr", group["lr"])
    # A schedule may begin at a fraction of the rate.
    group["lr"] = value if group["lr"] == base else group["lr"] * (value / base)
    if "initial_lr" in group:
        group["initial_lr"] = value


def _reload(trainer: Trainer) -> None:
    """Have the data module make its loaders anew, as Lightning's own BatchSizeFinder does."""
    reload_data(trainer)
    for loader in loaders(trainer.train_dataloader):
        # Lightning has told the epoch to the loaders that were there before.
        for sampler in (
            getattr(loader, "sampler", None),
            getattr(getattr(loader, "batch_sampler", None), "sampler", None),
        ):
            if callable(set_epoch := getattr(sampler, "set_epoch", None)):
                set_epoch(trainer.current_epoch)
